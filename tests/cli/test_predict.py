"""`careamics-predict`: a checkpoint and a folder are enough."""

import re
import shutil

import numpy as np
import pytest
import tifffile
import torch
import yaml
from apps import SMALL, SMALL_3D, noise, refuse, succeed, write_tiffs

SHAPES = [(16 + 7 * i, 90 - 3 * i) for i in range(20)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model trained on arrays, of axes XY, which files do not know."""
    folder = tmp_path_factory.mktemp("trained")
    np.save(folder / "noisy.npy", 3 * noise((60, 70)) + 1000)
    succeed("train", folder, *SMALL, "data.train_data=noisy.npy", "data.axes=YX")
    return f"checkpoint={folder / 'run' / 'model.ckpt'}"


@pytest.fixture
def images(tmp_path):
    write_tiffs(tmp_path / "images", "YX", [(40, 50), (33, 64)])
    return "data.predict_data=images"


def test_the_acceptance_of_the_issue_twenty_streamed_files_of_mixed_shapes(tmp_path):
    write_tiffs(tmp_path / "images" / "sub", "YX", SHAPES[:10], "a_{}.tif")
    write_tiffs(tmp_path / "images", "YX", SHAPES[10:], "b_{}.tiff")
    inputs = sorted(path for path in (tmp_path / "images").rglob("*.tif*"))
    data = ("data=tiff", "data.train_data=images", "data.in_memory=false")
    succeed("train", tmp_path, *SMALL, *data, folder="trained")
    place = ("checkpoint=trained/model.ckpt", "data=tiff", "data.predict_data=images")
    done = succeed("predict", tmp_path, *place, "data.tile_size=[128,128]")
    assert len(inputs) == 20
    assert done.files == {"config.yaml", "prediction.png"} | {
        f"denoised/{path.relative_to(tmp_path / 'images')}" for path in inputs
    }
    assert str(done.folder / "denoised") in done.out
    for path in inputs:
        result = done.folder / "denoised" / path.relative_to(tmp_path / "images")
        with tifffile.TiffFile(path) as before, tifffile.TiffFile(result) as after:
            assert after.series[0].shape == before.series[0].shape
            assert after.series[0].axes == before.series[0].axes
            assert after.series[0].dtype == np.float32
            assert np.isfinite(after.asarray()).all()


@pytest.mark.parametrize(
    ("axes", "shape", "patch"),
    [("ZYX", (9, 20, 34), SMALL_3D), ("CYX", (3, 40, 50), SMALL), ("XYC", (50, 40, 2), SMALL)],
)
def test_axes_of_the_training_are_remembered(tmp_path, axes, shape, patch):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(2):
        # Files that do not say their axes.
        pixels = noise(tuple(n + i * (n > 10) for n in shape), i)
        tifffile.imwrite(folder / f"{i}.tif", pixels, metadata=None, photometric="minisblack")
    few = ("data.batch_size=4", "data.patches_per_epoch=8", f"data.axes={axes}")
    data = ("data=tiff", "data.train_data=images", *few)
    succeed("train", tmp_path, *patch, *data, folder="trained")
    size, overlap = ("8,16,16", "4,8,8") if "Z" in axes else ("16,16", "8,8")
    tiles = (f"data.tile_size=[{size}]", f"data.tile_overlap=[{overlap}]")
    place = ("checkpoint=trained/model.ckpt", "data.predict_data=images")
    done = succeed("predict", tmp_path, *place, *tiles)
    for i in range(2):
        result = tifffile.imread(done.folder / f"denoised/{i}.tif")
        assert result.shape == tifffile.imread(folder / f"{i}.tif").shape


def test_a_model_of_one_format_predicts_another_with_its_own_statistics(tmp_path, trained, images):
    """The files are darker than what was trained on: nothing is measured on them."""
    done = succeed("predict", tmp_path, trained, images)
    config = yaml.safe_load((done.folder / "config.yaml").read_text())
    assert config["data"]["_target_"].endswith("TiffDataModule")
    assert config["data"]["patch_size"] == [16, 16] and config["data"]["axes"] == "YX"
    content = torch.load(trained.split("=")[1], weights_only=True)
    statistics = content["ArrayDataModule"]["statistics"]["image"]
    assert statistics["offset"][0] == pytest.approx(1600, 0.01)
    alone = succeed(
        "predict",
        tmp_path,
        trained,
        images,
        "data/normalization=mean_std",
        f"data.normalization.mean={statistics['offset']}".replace(" ", ""),
        f"data.normalization.std={statistics['scale']}".replace(" ", ""),
        folder="alone",
    )
    other = succeed(
        "predict",
        tmp_path,
        trained,
        images,
        "data/normalization=mean_std",
        "data.normalization.mean=[200]",
        "data.normalization.std=[14]",
        folder="other",
    )
    first, second, third = (
        tifffile.imread(run.folder / "denoised/image_0.tif") for run in (done, alone, other)
    )
    np.testing.assert_allclose(first, second, rtol=1e-5)
    assert not np.allclose(first, third, rtol=1e-2)


def test_what_is_given_overrides_the_checkpoint(tmp_path, trained):
    tifffile.imwrite(tmp_path / "stack.tif", noise((6, 30, 40)), metadata={"axes": "TYX"})
    place = (trained, "data.predict_data=stack.tif")
    assert 'axes="YX"' in refuse("predict", tmp_path, *place, "data.axes=YX")
    done = succeed("predict", tmp_path, *place, "data.axes=TYX", folder="given")
    done = succeed("predict", tmp_path, *place, folder="said")  # by the file
    assert yaml.safe_load((done.folder / "config.yaml").read_text())["data"]["axes"] == "auto"
    assert tifffile.imread(done.folder / "denoised/stack.tif").shape == (6, 30, 40)


def test_the_axes_of_the_checkpoint_are_noted_where_those_of_the_file_do_not_fit_either(
    tmp_path, trained
):
    tifffile.imwrite(tmp_path / "odd.tif", noise((2, 30, 40)), metadata={"axes": "QYX"})
    refuse("predict", tmp_path, trained, "data.predict_data=odd.tif")
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["data"]["axes"] == "YX"


def test_tiles_and_whole_images_agree(tmp_path, trained, images):
    whole = succeed("predict", tmp_path, trained, images, folder="whole")
    tiles = ("data.tile_size=[32,32]", "data.tile_overlap=[16,16]", "data.batch_size=3")
    tiled = succeed("predict", tmp_path, trained, images, *tiles, folder="tiled")
    # Of a size that keeps tiles on the grid of the network's pooling.
    a, b = (tifffile.imread(run.folder / "denoised/image_0.tif") for run in (whole, tiled))
    np.testing.assert_allclose(a, b, rtol=1e-4)


def test_results_can_have_the_dtype_of_the_source(tmp_path, trained, images):
    done = succeed("predict", tmp_path, trained, images, "writer.dtype=source")
    plain = succeed("predict", tmp_path, trained, images, folder="plain")
    result = tifffile.imread(done.folder / "denoised/image_0.tif")
    exact = tifffile.imread(plain.folder / "denoised/image_0.tif")
    assert result.dtype == np.uint16
    np.testing.assert_array_equal(result, np.clip(np.rint(exact), 0, 65535))


def test_existing_results_are_refused_kept_or_replaced(tmp_path, trained, images):
    place = (trained, images, "writer.folder=results")
    succeed("predict", tmp_path, *place)
    one, two = tmp_path / "results/image_0.tif", tmp_path / "results/image_1.tif"
    expected = one.read_bytes(), two.read_bytes()
    message = refuse("predict", tmp_path, *place)
    assert "2 result(s) exist already" in message and "writer.existing" in message
    one.write_bytes(b"mine")
    two.unlink()
    succeed("predict", tmp_path, *place, "writer.existing=skip")
    assert (one.read_bytes(), two.read_bytes()) == (b"mine", expected[1])
    done = succeed("predict", tmp_path, *place, "writer.existing=skip")
    assert "nothing to predict" in done.out
    succeed("predict", tmp_path, *place, "writer.existing=replace")
    assert (one.read_bytes(), two.read_bytes()) == expected


def test_the_same_command_goes_on_with_the_blocks_that_are_missing(tmp_path, trained, images):
    tiles = ("data.tile_size=[16,16]", "data.tile_overlap=[8,8]", "data.batch_size=2")
    whole = succeed("predict", tmp_path, trained, images, *tiles, folder="whole")
    stopped = (trained, images, *tiles, "+trainer.limit_predict_batches=9")
    assert succeed("predict", tmp_path, *stopped).files > {"denoised/image_0.tif.part"}
    done = succeed("predict", tmp_path, trained, images, *tiles)
    assert re.search(r"continuing in .*denoised: \d+ of \d+ blocks are there", done.out)
    assert not [name for name in done.files if name.endswith((".part", ".blocks"))]
    for name in ("image_0.tif", "image_1.tif"):
        one, other = (run.folder / "denoised" / name for run in (whole, done))
        assert one.read_bytes() == other.read_bytes()


def test_array_files_are_predicted_too(tmp_path, trained):
    np.save(tmp_path / "noisy.npy", noise((40, 50)))
    done = succeed("predict", tmp_path, trained, "data=array", "data.predict_data=noisy.npy")
    assert tifffile.imread(done.folder / "denoised/noisy.tif").shape == (40, 50)


def test_results_can_be_other_files(tmp_path, trained, images):
    lines = ("def write(path, array, **info):", "    path.write_text(str(array.dtype))")
    (tmp_path / "mywriter.py").write_text("\n".join(lines))
    function = ("writer=function", "writer.write_func=mywriter:write", "writer.extension=.txt")
    zipped = ("writer=zarr", "writer.zip=true", "writer.chunks=[16,16]", "writer.compression=null")
    for given, suffix in ((function, "txt"), (("writer=czi",), "czi"), (zipped, "ozx")):
        done = succeed("predict", tmp_path, trained, images, *given, folder=suffix)
        names = {name for name in done.files if name.startswith("denoised/")}
        assert names == {f"denoised/image_{i}.{suffix}" for i in range(2)}
    assert (tmp_path / "txt/denoised/image_0.txt").read_text() == "float32"
    message = refuse("predict", tmp_path, trained, images, "writer=function")
    assert "writer.write_func: a NoneType can't be called" in message


def test_what_is_missing_or_does_not_fit_is_said(tmp_path, trained, images):
    write_tiffs(tmp_path / "volumes", "ZYX", [(8, 20, 24)])
    write_tiffs(tmp_path / "channels", "CYX", [(2, 20, 24)])
    volumes = ("data.predict_data=volumes", "data.axes=ZYX")
    cases = {
        (images,): "checkpoint is needed: give checkpoint=... on the command line",
        (trained,): "predict_data is not given",
        (trained, "data.predict_data=nowhere"): "predict_data: nowhere does not exist",
        (trained, *volumes, "data.z_as_samples=false"): "needs 3 numbers",
        (trained, "data.predict_data=channels", "data.axes=CYX"): "the number of channels differs",
        (trained, images, "writer.folder=images"): "would replace inputs",
        (trained, images, "data.tile_size=[32]"): "tile_size",
        (trained, images, "data.tilesize=[32,32]"): "Did you mean data.tile_size",
        (trained, images, "uncertainty=maybe"): "uncertainty='maybe': give true or false",
    }
    for arguments, expected in cases.items():
        assert expected in refuse("predict", tmp_path, *arguments)


def test_a_broken_image_among_good_ones_is_found_before_anything_is_predicted(
    tmp_path, trained, images
):
    (tmp_path / "images/bad.tif").write_text("no TIFF")
    shutil.copy(tmp_path / "images/image_0.tif", tmp_path / "images/short.tif")
    with (tmp_path / "images/short.tif").open("r+b") as file:
        file.truncate(1000)
    message = refuse("predict", tmp_path, trained, images)
    assert "bad.tif" in message and "short.tif" in message
    assert not list((tmp_path / "run").rglob("*.tif"))


def test_uncertainty_is_written_beside_and_brings_augmentation(tmp_path, trained, images):
    plain = succeed("predict", tmp_path, trained, images, folder="plain")
    turned = succeed(
        "predict", tmp_path, trained, images, "test_time_augmentation=true", folder="turned"
    )
    done = succeed("predict", tmp_path, trained, images, "uncertainty=true")
    names = {"image_0.tif", "image_1.tif"}
    assert done.files == {"config.yaml", "prediction.png"} | {
        f"{folder}/{name}" for folder in ("denoised", "uncertainty") for name in names
    }
    assert turned.files == plain.files
    assert str(done.folder / "uncertainty") in done.out
    for name in names:
        one, mean, again, deviation = (
            tifffile.imread(path / name)
            for path in (
                plain.folder / "denoised",
                turned.folder / "denoised",
                done.folder / "denoised",
                done.folder / "uncertainty",
            )
        )
        np.testing.assert_array_equal(mean, again)
        assert not np.array_equal(one, mean)
        assert deviation.shape == one.shape and deviation.dtype == np.float32
        assert deviation.min() >= 0 and deviation.max() > 0
        # One of those that make the mean: no further away than their number allows.
        assert np.all(np.abs(one - mean) <= deviation * 7**0.5 + 1e-2)


def test_existing_results_and_their_uncertainty_are_treated_alike(tmp_path, trained, images):
    place = (trained, images, "writer.folder=results", "uncertainty=true")
    succeed("predict", tmp_path, *place, "writer.dtype=source")
    results, beside = tmp_path / "results", tmp_path / "results_uncertainty"
    assert tifffile.imread(results / "image_0.tif").dtype == np.uint16
    assert tifffile.imread(beside / "image_0.tif").dtype == np.float32
    expected = (beside / "image_1.tif").read_bytes()
    (results / "image_1.tif").write_bytes(b"mine")
    (results / "image_0.tif").unlink()
    (beside / "image_1.tif").unlink()
    assert "1 result(s) exist already" in refuse("predict", tmp_path, *place)
    done = succeed("predict", tmp_path, *place, "writer.existing=skip")
    assert (results / "image_0.tif").exists()
    assert (results / "image_1.tif").read_bytes() == b"mine"
    assert (beside / "image_1.tif").read_bytes() == expected
    done = succeed("predict", tmp_path, *place, "writer.existing=skip")
    assert "nothing to predict" in done.out
    succeed("predict", tmp_path, *place, "writer.existing=replace")
    assert (results / "image_1.tif").read_bytes() != b"mine"


def test_models_that_cannot_are_refused(tmp_path, images):
    (tmp_path / "theirs.py").write_text(
        "import torch, lightning as L\n"
        "class Model(L.LightningModule):\n"
        "    def __init__(self, **settings):\n"
        "        super().__init__()\n"
        "        self.net = torch.nn.Conv2d(1, 1, 1)\n"
        "    def training_step(self, batch, _):\n"
        "        return self.net(batch['image']).square().mean()\n"
        "    def configure_optimizers(self):\n"
        "        return torch.optim.Adam(self.parameters())\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        data = ("data=tiff", "data.train_data=images", "model._target_=theirs.Model")
        with pytest.warns(UserWarning, match="validation"):
            succeed("train", tmp_path, *SMALL, *data, "data.n_val_patches=2", folder="theirs")
        place = ("checkpoint=theirs/model.ckpt", images, "trusted=[theirs]")
        message = refuse("predict", tmp_path, *place, "uncertainty=true")
        assert "uncertainty: Model does not know how" in message


@pytest.mark.parametrize("name", ["a" * 237 + ".tif", "ü" * 119 + ".ome.tif"])
def test_names_too_long_for_results_are_refused_before_prediction(trained, tmp_path, name):
    (image,) = write_tiffs(tmp_path / "images", "YX", [(40, 50)])
    image.rename(image.with_name(name))
    message = refuse("predict", tmp_path, trained, "data=tiff", "data.predict_data=images")
    assert "the name of a result would be too long for a file" in message
    assert f"{name[:60]}... ({len(name.encode())} bytes, at most 240). Rename" in message
