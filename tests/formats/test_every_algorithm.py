"""Every algorithm trains, validates, tests and predicts on every format, 2-D and 3-D, 1 and 2 C."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from apps import SMALL, succeed
from formats.written import CONF, FORMATS, axes_of, module, part, write
from hydra.utils import get_class, instantiate
from modules import trainer
from omegaconf import OmegaConf

from careamics_dm.prediction.tiff_writer import TiffWriter

MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
TINY = {"depth": 1, "first_filters": 2}
SHAPES = {
    "2-D": (2, 1, 32, 36),
    "2-D, 2 channels": (2, 2, 32, 36),
    "3-D": (1, 1, 6, 32, 36),
    "3-D, 2 channels": (1, 2, 6, 32, 36),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two noisy recordings of a scene, and the scene, in every format and shape."""
    folder, found = tmp_path_factory.mktemp("pairs"), {}
    for label, shape in SHAPES.items():
        rng = np.random.default_rng(0)
        y, x = np.mgrid[: shape[-2], : shape[-1]]
        clean = np.broadcast_to(200 + 50 * np.sin(y / 5) * np.cos(x / 4), shape)
        kinds = {"noisy": rng.poisson(clean), "again": rng.poisson(clean), "clean": clean}
        for name in FORMATS:
            for kind, pixels in kinds.items():
                path = folder / name / label.replace(", ", "_") / kind
                found[name, label, kind] = write(name, path, pixels.astype(np.uint16))
    return found


@pytest.mark.parametrize("label", SHAPES)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", FORMATS)
def test_it_trains_validates_tests_and_predicts(name, model, label, files, tmp_path):
    config = OmegaConf.merge(part("model", model), {"network": TINY})
    kind = {"clean targets": "clean", "noisy targets": "again"}
    kind = kind.get(get_class(config["_target_"]).learns_from)
    noisy, clean = files[name, label, "noisy"], files[name, label, "clean"]
    shape = SHAPES[label]
    data = module(
        name,
        train_data=noisy,
        train_target=kind and files[name, label, kind],
        test_data=noisy,
        test_target=clean,
        predict_data=noisy,
        axes=axes_of(np.empty(shape)),
        patch_size=[2, 16, 16] if len(shape) == 5 else [16, 16],
        tile_size=[4, 24, 24] if len(shape) == 5 else [24, 24],
        tile_overlap=[2, 8, 8] if len(shape) == 5 else [8, 8],
        patches_per_epoch=8,
        n_val_patches=2,
        batch_size=4,
        augmentation=model != "structn2v",
    )
    network = instantiate(config)
    run = trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0, callbacks=[TiffWriter(tmp_path)])
    run.fit(network, datamodule=data)
    assert np.isfinite(float(run.callback_metrics["train_loss"]))
    (validated,) = run.validate(network, datamodule=data, verbose=False)
    assert np.isfinite(validated["val_loss"])
    (tested,) = run.test(network, datamodule=data, verbose=False)
    assert all(np.isfinite(tested[key]) for key in ("test_psnr", "test_si_psnr", "test_ssim"))
    run.predict(network, datamodule=data, return_predictions=False)
    (written,) = tmp_path.rglob("*.tif")
    assert tifffile.imread(written).size == np.prod(shape)
    data.teardown("predict")


def test_targets_may_have_fewer_channels_than_images(tmp_path):
    """Two channels of a file make its third; prediction from the checkpoint gives that one."""
    pixels = np.random.default_rng(0).poisson(200, (4, 3, 32, 36)).astype(np.uint16)
    path = write("tiff", tmp_path / "image", pixels)
    train = ("model=care", "data=tiff", f"data.train_data={path}", "data.channels=[0,1]")
    done = succeed("train", tmp_path, *SMALL, *train, "data.target_channels=[2]")
    predict = (f"checkpoint={done.folder}/model.ckpt", f"data.predict_data={path}")
    succeed("predict", tmp_path, "data=tiff", *predict, "writer.folder=restored", folder="second")
    assert tifffile.imread(tmp_path / "restored" / "image.tif").shape == (4, 32, 36)


def test_the_table_has_every_model_and_format():
    assert {"n2v", "n2v2", "structn2v", "care", "n2n"} <= set(MODELS)
    assert {"array", "tiff", "czi", "zarr", "custom"} <= set(FORMATS)
