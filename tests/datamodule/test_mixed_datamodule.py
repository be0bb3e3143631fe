"""A mix of data modules: whose batches come how often, normalised by whom, and resumed where."""

from __future__ import annotations

import functools
from collections import Counter

import hydra
import numpy as np
import pytest
import tifffile
import zarr
from hydra.utils import instantiate
from modules import Identity, SaveAt, trainer

from careamics_dm import Masking, MixedDataModule, N2VModule, TiffDataModule, UNet, ZarrDataModule
from careamics_dm.errors import DataError

pytestmark = pytest.mark.usefixtures("files_close")
SHARED = {"patch_size": (16, 16), "batch_size": 4, "patches_per_epoch": 16, "n_val_patches": 4}
WEIGHTS = {"tiff": 3, "zarr": 1}


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    tifffile.imwrite(tmp_path / "a.tif", rng.poisson(200, (64, 64)).astype(np.uint16))
    array = zarr.create_array(tmp_path / "b.zarr", shape=(96, 96), chunks=(32, 32), dtype="f4")
    array[:] = rng.normal(5, 1, (96, 96))
    return tmp_path


def mixed(folder, weights=WEIGHTS, **of_zarr):
    tiff = TiffDataModule(train_data=folder / "a.tif", **SHARED)
    of_zarr = SHARED | {"train_data": folder / "b.zarr", "axes": "YX"} | of_zarr
    return MixedDataModule({"tiff": tiff, "zarr": ZarrDataModule(**of_zarr)}, weights)


class Seen(Identity):
    def validation_step(self, batch, batch_idx):
        back = self.trainer.datamodule.denormalize(batch["image"], "image")
        self.validated.append(round(back.mean().item()))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (WEIGHTS, {"tiff": 6, "zarr": 2}),  # more batches than a pass over the TIFF has
        ({"tiff": 0.1, "zarr": 0.1}, {"tiff": 4, "zarr": 4}),
        ({"tiff": 1, "zarr": 1000}, {"tiff": 1, "zarr": 8}),  # none is left out
        (None, {"tiff": 4, "zarr": 4}),
    ],
)
def test_batches_come_by_weight_in_a_new_order_each_epoch(images, weights, expected):
    data = mixed(images, weights)
    loader = data.train_dataloader()
    epochs = [[batch["part"] for batch in loader] for _ in range(4)]
    assert all(Counter(epoch) == expected for epoch in epochs)
    assert len(loader) == sum(expected.values())
    assert len({tuple(epoch) for epoch in epochs}) > 1
    data.teardown("fit")


def test_each_is_normalised_by_its_own_statistics(images):
    data = mixed(images)
    loader = data.train_dataloader()
    means = {}
    for batch in loader:
        raw, name = batch["image"].numpy().mean(), batch["part"]
        x = data.transform(batch)["image"]
        assert abs(x.mean()) < 0.3 and 0.8 < x.std() < 1.2
        means[name] = (raw, data.denormalize(x, "image").mean().item())
    assert means["tiff"][0] == pytest.approx(means["tiff"][1], rel=1e-4) == pytest.approx(200, 0.1)
    assert means["zarr"][0] == pytest.approx(means["zarr"][1], rel=1e-4) == pytest.approx(5, 0.1)
    data.teardown("fit")


@pytest.mark.parametrize("step", [5, 8, 11])  # within the first epoch, at its end, in the second
def test_a_resumed_run_goes_on_with_the_next_batch(images, step):
    whole, first, rest = Seen(), Seen(), Seen()
    options = {"max_epochs": 2, "num_sanity_val_steps": 0}
    path = images / "run.ckpt"
    trainer(images, **options).fit(whole, datamodule=mixed(images))
    assert len(set(whole.seen)) == 16
    assert whole.validated == [200, 5, 200, 5]
    run = trainer(images, callbacks=[SaveAt(step, path)], **options)
    run.fit(first, datamodule=mixed(images))
    run = trainer(images, **options)
    run.fit(rest, datamodule=mixed(images), ckpt_path=path, weights_only=True)
    assert (first.seen, rest.seen) == (whole.seen, whole.seen[step:])


def test_epochs_are_the_same_where_loaders_are_made_anew(images):
    once, anew = Seen(), Seen()
    trainer(images, max_epochs=2).fit(once, datamodule=mixed(images))
    run = trainer(images, max_epochs=2, reload_dataloaders_every_n_epochs=1)
    run.fit(anew, datamodule=mixed(images))
    assert anew.seen == once.seen


def test_our_models_train_on_it_and_each_data_module_validates_and_predicts(images):
    model, data = N2VModule(functools.partial(UNet, depth=1, first_filters=2)), mixed(images)
    run = trainer(images, max_epochs=1)
    run.fit(model, datamodule=data)
    assert run.callback_metrics["val_loss"].isfinite()
    for stage in (run.test, run.predict):
        with pytest.raises(DataError, match=r'on: give trainer\.\w+ one of .*parts\["tiff"\]'):
            stage(model, datamodule=data)
    found = [run.validate(model, datamodule=part, verbose=False) for part in data.parts.values()]
    assert found[0] != found[1]
    again = mixed(images, predict_data=images / "b.zarr")
    again.load_state_dict(data.state_dict())
    [result] = run.predict(model, datamodule=again.parts["zarr"])
    assert result["prediction"].shape == (1, 1, 96, 96)


def test_quarter_turns_of_one_are_refused_where_noise_has_a_direction(images):
    network = functools.partial(UNet, depth=1, first_filters=2)
    model = N2VModule(network, masking=Masking(struct_mask="horizontal"))
    data = mixed(images)
    data.parts["tiff"] = TiffDataModule(train_data=images / "a.tif", augmentation=False, **SHARED)
    with pytest.raises(ValueError, match="quarter turns of the patches would rotate it away"):
        trainer(images, max_epochs=1).fit(model, datamodule=data)
    data.teardown("fit")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: MixedDataModule({}), "parts={}: give data modules of this package by name"),
        (lambda _: MixedDataModule({"a": 3}), "parts={'a': 3}: give data modules"),
        (lambda f: mixed(f, {"tiff": 1}), "weights: give one for each of tiff, zarr, and no"),
        (lambda f: mixed(f, {"tiff": 1, "zarr": 0}), "weights=.*: give positive numbers"),
        (lambda f: mixed(f, {"tiff": 1, "zarr": "2"}), "weights=.*: give positive numbers"),
        (lambda f: mixed(f, patch_size=(8, 8)), r"patch_size .* tiff: \(16, 16\); zarr: \(8, 8\)"),
        (lambda f: mixed(f, batch_format="tuple"), "batch_format .* tiff: dict; zarr: tuple"),
    ],
)
def test_what_does_not_go_together_is_refused(images, make, message):
    with pytest.raises(DataError, match=message):
        make(images)


def test_a_different_number_of_channels_is_refused(images):
    zarr.create_array(images / "c.zarr", data=np.ones((2, 96, 96), np.float32))
    data = mixed(images, train_data=images / "c.zarr", axes="CYX")
    with pytest.raises(DataError, match=r"the channels .* tiff: 1; zarr: 2"):
        data.setup("fit")
    data.teardown("fit")


def test_a_hydra_configuration_mixes_our_groups(images, tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "mix.yaml").write_text(
        """
        hydra: {searchpath: ["pkg://careamics_dm.conf"]}
        defaults:
          - data@data.parts.confocal: tiff
          - data@data.parts.light_sheet: zarr
          - _self_
        data:
          _target_: careamics_dm.MixedDataModule
          weights: {confocal: 3, light_sheet: 1}
          parts:
            confocal: {train_data: a.tif}
            light_sheet: {train_data: b.zarr, axes: YX}
        """
    )
    with hydra.initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        config = hydra.compose("mix", ["data.parts.confocal.batch_size=2"])
    data = instantiate(config.data)
    assert [type(part) for part in data.parts.values()] == [TiffDataModule, ZarrDataModule]
    assert data.parts["confocal"].batch_size == 2
    assert data.weights == {"confocal": 3, "light_sheet": 1}
