"""The picture of a prediction: which places, of which images, with what beside them."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from matplotlib.image import imread
from modules import Identity, trainer
from PIL import Image

from careamics_dm import ArrayDataModule, PredictionPicture, TiffDataModule
from careamics_dm.callbacks import prediction_picture

RNG = np.random.default_rng(0)


class Brighter(Identity):
    def predict_step(self, batch, batch_idx):
        result = super().predict_step(batch, batch_idx)
        return result | {"prediction": result["prediction"] + 1000}


@pytest.fixture
def drawn(monkeypatch):
    """What was to be drawn: rows of places, by name."""
    found = {}
    draw = prediction_picture.plot_places

    def keep(rows, path):
        found.update(rows)
        return draw(rows, path)

    monkeypatch.setattr(prediction_picture, "plot_places", keep)
    return found


def predict(data, folder):
    picture = PredictionPicture(folder / "run")
    run = trainer(folder, callbacks=[picture])
    run.predict(Brighter(), datamodule=data, return_predictions=False)
    assert picture.path == folder / "run" / "prediction.png"
    pixels = imread(picture.path)
    assert min(pixels.shape[:2]) > 100 and len(np.unique(pixels[..., 0])) > 20
    return pixels


def arrays(data, axes, patch_size=(8, 8), **options):
    options = {"normalization": "none"} | options
    return ArrayDataModule(predict_data=data, axes=axes, patch_size=patch_size, **options)


@pytest.mark.parametrize("tile_size", [None, (128, 128)])
def test_three_places_of_a_large_image(tmp_path, drawn, tile_size):
    image = RNG.integers(0, 255, (600, 900)).astype(np.uint8)
    predict(arrays(image, "YX", tile_size=tile_size), tmp_path)
    (places,) = drawn.values()
    assert len(places) == 3
    for place, (y, x) in zip(places, [(0, 22), (172, 322), (344, 622)], strict=True):
        assert np.array_equal(place.noisy, image[y : y + 256, x : x + 256])
        assert np.array_equal(place.denoised, place.noisy + 1000.0)
        assert (place.label, place.pixel_size) == ("", None)


def test_places_are_in_three_samples_depths_and_channels(tmp_path, drawn):
    image = RNG.integers(0, 255, (6, 2, 9, 20, 30)).astype(np.uint16)
    predict(arrays(image, "TCZYX", (8, 8, 8), tile_size=(8, 16, 16)), tmp_path)
    (places,) = drawn.values()
    assert [place.label for place in places] == ["C 0, T 1, Z 1", "C 1, T 3, Z 4", "C 0, T 5, Z 7"]
    for place, at in zip(places, [(1, 0, 1), (3, 1, 4), (5, 0, 7)], strict=True):
        assert np.array_equal(place.noisy, image[at])
        assert np.array_equal(place.denoised, image[at] + 1000.0)


def test_an_image_that_is_small_has_one_place(tmp_path, drawn):
    image = RNG.integers(0, 255, (20, 30)).astype(np.uint8)
    predict(arrays([image] * 5, "YX"), tmp_path)
    assert [len(places) for places in drawn.values()] == [1, 1, 1]
    assert list(drawn) == ["predict_data_0000", "predict_data_0002", "predict_data_0004"]


@pytest.mark.parametrize(
    ("shard", "selected", "expected"), [("2/2", None, [1, 5, 9]), (None, [6, 7], [6, 7])]
)
def test_images_are_those_that_this_job_predicts(tmp_path, drawn, shard, selected, expected):
    image = RNG.integers(0, 255, (20, 30)).astype(np.uint8)
    data = arrays([image] * 10, "YX", shard=shard)
    data.setup("predict")
    data.select_predict(selected)
    picture = PredictionPicture(tmp_path)
    run = trainer(tmp_path, callbacks=[picture])
    run.predict(Brighter(), datamodule=data, return_predictions=False)
    assert list(drawn) == [f"predict_data_{i:04}" for i in expected]
    folder = tmp_path / "shard_2_of_2" if shard else tmp_path
    assert picture.path == folder / "prediction.png" and picture.path.exists()


def test_names_of_channels_and_a_scale_bar(tmp_path, drawn):
    image = RNG.integers(0, 255, (2, 40, 50)).astype(np.uint16)
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    metadata |= {"PhysicalSizeX": 0.2, "PhysicalSizeXUnit": "µm"}
    metadata |= {"PhysicalSizeY": 0.2, "PhysicalSizeYUnit": "µm"}
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/cells.ome.tif", image, metadata=metadata)
    data = TiffDataModule(predict_data=tmp_path / "in", patch_size=(8, 8), normalization="none")
    predict(data, tmp_path)
    ((name, places),) = drawn.items()
    assert name == "cells.ome.tif"
    assert [(p.label, p.pixel_size) for p in places] == [
        ("DAPI", (0.2, "µm")),
        ("GFP", (0.2, "µm")),
    ]
    for place, channel in zip(places, image, strict=True):
        assert np.array_equal(place.noisy, channel)
        assert np.array_equal(place.denoised, channel + 1000.0)


@pytest.mark.parametrize("channels", [None, [2]])
def test_rgb_is_drawn_in_colour_and_a_selected_channel_in_grey(tmp_path, drawn, channels):
    image = RNG.integers(0, 255, (40, 50, 3)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in/slide.tif")
    how = {"patch_size": (8, 8), "normalization": "none", "channels": channels}
    pixels = predict(TiffDataModule(predict_data=tmp_path / "in", **how), tmp_path)
    ((place,),) = drawn.values()
    expected = image if channels is None else image[..., 2]
    assert np.array_equal(place.noisy, expected)
    assert np.array_equal(place.denoised, expected + 1000.0)
    assert place.label == ""
    in_colour = (pixels[..., 0] != pixels[..., 2]).any()
    assert in_colour == (channels is None)


def test_modules_without_places_have_no_picture(tmp_path):
    class Plain(Identity):
        def predict_step(self, batch, batch_idx):
            return batch["image"]

    picture = PredictionPicture(tmp_path)
    run = trainer(tmp_path, callbacks=[picture])
    image = np.zeros((20, 30), np.uint8)
    run.predict(Plain(), datamodule=arrays(image, "YX"), return_predictions=False)
    assert picture.path is None
    assert not list(tmp_path.glob("*.png"))
