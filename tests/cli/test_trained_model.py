"""A trained model in Python: what `load_model` gives, and arrays from `predict`."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
import zarr
from apps import SMALL, succeed, write_tiffs

import careamics_dm
from careamics_dm import ArrayDataModule, DataError, TiffDataModule
from careamics_dm.cli import trained_model
from careamics_dm.transforms.normalization import Affine


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, and the images it was trained on."""
    folder = tmp_path_factory.mktemp("trained")
    write_tiffs(folder / "images", "YX", [(40, 50), (40, 50)])
    data = ("data=tiff", "data.train_data=images", "data.predict_data=images")
    succeed("train", folder, *SMALL, *data, "data/normalization=min_max", folder="first")
    return folder


@pytest.fixture(scope="module")
def model(trained):
    return careamics_dm.load_model(trained / "first/model.ckpt")


@pytest.fixture
def image(trained):
    return tifffile.imread(trained / "images/image_0.tif")


@pytest.fixture
def written(trained):
    return tifffile.imread(trained / "first/denoised/image_0.tif")


def test_a_model_has_weights_statistics_and_settings(trained, model):
    content = torch.load(trained / "first/model.ckpt", weights_only=True)
    weights = content["state_dict"]
    assert all(torch.equal(model.module.state_dict()[name], w) for name, w in weights.items())
    assert not model.module.training and model.config["data"]["patch_size"] == [16, 16]
    images = [tifffile.imread(path) for path in (trained / "images").iterdir()]
    low, high = float(np.min(images)), float(np.max(images))
    assert model.statistics == {"image": Affine([low], [high - low])}
    assert model.module(torch.zeros(1, 1, 16, 16)).shape == (1, 1, 16, 16)
    with pytest.raises(DataError, match="does not exist"):
        careamics_dm.load_model(trained / "nothing.ckpt")


class TestPredict:
    def test_an_array_gives_an_array_as_the_command_writes_it(self, trained, image, written):
        found = careamics_dm.predict(trained / "first/model.ckpt", image, axes="YX")
        assert found.dtype == np.float32
        assert np.array_equal(found, written)

    def test_axes_and_shape_are_those_of_the_input(self, model, image, written):
        stack = np.stack([image, image], axis=-1)
        found = careamics_dm.predict(model, [stack, image[..., None]], axes="YXT")
        assert [one.shape for one in found] == [(40, 50, 2), (40, 50, 1)]
        assert np.array_equal(found[0][..., 1], written)

    def test_tiles_of_a_size_that_is_asked_for(self, model, image, written):
        found = careamics_dm.predict(model, image, axes="YX", tile_size=(32, 32))
        assert found == pytest.approx(written, rel=1e-3)

    @pytest.mark.parametrize("what", ["a file", "a folder", "a glob", "a list", "zarr", "npy"])
    def test_files_are_read_by_their_suffix(self, trained, model, image, written, what, tmp_path):
        zarr.save_array(tmp_path / "image.zarr", image)
        np.save(tmp_path / "image.npy", image)
        images, axes = trained / "images", {}
        data = {
            "a file": images / "image_0.tif",
            "a folder": str(images),
            "a glob": str(images / "*.tif"),
            "a list": [images / "image_0.tif", images / "image_1.tif"],
            "zarr": tmp_path / "image.zarr",
            "npy": tmp_path / "image.npy",
        }[what]
        if what in ("zarr", "npy"):
            axes = {"axes": "YX"}
        found = careamics_dm.predict(model, data, **axes)
        assert len(found) == (2 if what in ("a folder", "a glob", "a list") else 1)
        assert np.array_equal(found[0], written)

    def test_a_data_module_of_the_users(self, trained, model, written):
        data = TiffDataModule(predict_data=trained / "images", patch_size=(16, 16))
        first, _ = careamics_dm.predict(model, data)
        assert np.array_equal(first, written)
        with pytest.raises(DataError, match="tile_size: give settings to the data module instead"):
            careamics_dm.predict(model, data, tile_size=(16, 16))

    @pytest.mark.parametrize("name", ["a.xyz", "folder"])
    def test_a_format_that_is_not_clear_is_an_error(self, model, tmp_path, name):
        (tmp_path / "folder").mkdir()
        with pytest.raises(DataError, match=f"{name}: its suffix does not say the format"):
            careamics_dm.predict(model, tmp_path / name)

    def test_other_channels_than_those_of_the_training_are_an_error(self, model, image):
        with pytest.raises((DataError, ValueError), match="channel"):
            careamics_dm.predict(model, np.stack([image, image]), axes="CYX")

    def test_results_that_do_not_fit_are_refused_before(self, model, tmp_path, monkeypatch):
        monkeypatch.setattr(trained_model, "available_bytes", lambda: 2**30)
        large = np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.uint8, (3, 2**14, 2**14))
        data = ArrayDataModule(predict_data=large, axes="TYX", patch_size=(16, 16))
        with pytest.raises(DataError, match=r"results take 3\.0 GiB, but 1\.0 GiB of memory"):
            careamics_dm.predict(model, data)
