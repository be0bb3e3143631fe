"""The picture of a denoised image that a training ends with."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from matplotlib.image import imread
from modules import Identity, trainer
from PIL import Image

from careamics_dm import TiffDataModule, TiffWriter, ZarrWriter
from careamics_dm.cli import results

RNG = np.random.default_rng(0)


@pytest.fixture
def drawn(monkeypatch):
    """What was to be drawn: the noisy and the denoised plane, and what is said of them."""
    found = {}
    plot = results.plot_denoised

    def keep(noisy, denoised, *rest, **said):
        found.update(said, noisy=noisy, denoised=denoised)
        return plot(noisy, denoised, *rest, **said)

    monkeypatch.setattr(results, "plot_denoised", keep)
    monkeypatch.setattr(results, "in_sweep", lambda: False)  # Hydra knows, in a command
    return found


def draw(folder, patch_size=(8, 8), writer=None, **options):
    how = {"patch_size": patch_size, "normalization": "none"} | options
    data, model = TiffDataModule(predict_data=folder / "in", **how), Identity()
    writer = writer or TiffWriter(folder / "out")
    trainer(folder, callbacks=[writer]).predict(model, datamodule=data, return_predictions=False)
    assert results.draw_result(folder, data, model, results.Prediction(writer, None)) == {}
    return imread(folder / "denoised.png")


def test_it_says_which_plane_of_which_channel_and_how_large(tmp_path, drawn):
    image = RNG.integers(0, 255, (3, 5, 2, 20, 30)).astype(np.uint16)
    (tmp_path / "in").mkdir()
    metadata = {"axes": "TZCYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    metadata |= {"PhysicalSizeX": 0.2, "PhysicalSizeY": 0.2}
    tifffile.imwrite(tmp_path / "in/cells.ome.tif", image, metadata=metadata)
    draw(tmp_path, (4, 8, 8), channels=[1])
    assert (drawn["title"], drawn["pixel_size"]) == ("cells.ome.tif, T 0, Z 2", (0.2, "µm"))
    assert np.array_equal(drawn["noisy"], image[0, 2, 1])
    assert np.array_equal(drawn["denoised"], image[0, 2, 1])
    (tmp_path / "out/cells.ome.tif").unlink()
    draw(tmp_path, (4, 8, 8))
    assert drawn["title"] == "cells.ome.tif, DAPI, T 0, Z 2"
    assert np.array_equal(drawn["denoised"], image[0, 2, 0])


def test_a_zipped_result_is_read_again(tmp_path, drawn):
    image = RNG.integers(0, 255, (20, 30)).astype(np.uint16)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/a.tif", image)
    draw(tmp_path, writer=ZarrWriter(tmp_path / "out", zip=True))
    assert np.array_equal(drawn["denoised"], image)


def test_rgb_is_in_colour(tmp_path, drawn):
    image = RNG.integers(0, 255, (20, 30, 3)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in/slide.tif")
    pixels = draw(tmp_path)
    assert (drawn["title"], drawn["pixel_size"]) == ("slide.tif", None)
    assert np.array_equal(drawn["noisy"], image)
    assert np.array_equal(drawn["denoised"], image)
    assert (abs(pixels[..., 0] - pixels[..., 2]) > 0.5).mean() > 0.1
