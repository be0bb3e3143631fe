"""`careamics-export` as far as it goes without the library of bioimage.io.

What needs the library is in `tests/projects/bioimage_io.py`, which is run by hand.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from apps import SMALL, refuse, succeed
from matplotlib.image import imread

from careamics_dm import DataError, export_model, load_model
from careamics_dm.cli import exported_model
from careamics_dm.transforms.normalization import Affine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("export")
    succeed("train", place, *SMALL, "data.predict_data=null", "data.n_val_patches=0")
    return place


@pytest.fixture
def checkpoint(folder):
    return folder / "run/model.ckpt"


def test_faults_of_arguments_are_one_message_before_any_work(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "bioimageio.core", None)
    message = refuse("export", tmp_path, f"checkpoint={checkpoint}")
    assert "pip install 'careamics-dm[export]'" in message
    assert "checkpoint is needed: give checkpoint=" in refuse("export", tmp_path)
    message = refuse("export", tmp_path, f"checkpoint={checkpoint}", "licence=MIT")
    assert "there is no licence. Did you mean license?" in message
    with pytest.raises(DataError, match=r"exists already\. Name a new folder"):
        export_model(checkpoint, tmp_path)


def test_a_sample_has_the_intensities_of_the_training():
    statistics = Affine([1000.0, 5.0], [300.0, 0.5])
    image = exported_model._sample("mean_std", statistics, (64, 48))
    assert image.shape == (2, 64, 48) and image.dtype == np.float32
    assert np.allclose(image.mean(axis=(1, 2)), [1000, 5], rtol=1e-4)
    assert np.allclose(image.std(axis=(1, 2)), [300, 0.5], rtol=1e-4)


def test_an_image_gives_its_middle_and_must_be_large_enough(checkpoint):
    trained = load_model(checkpoint)
    image = np.arange(40 * 40, dtype=np.uint16).reshape(40, 40)
    found, names = exported_model._middle_of(trained, image, "YX", (20, 24))
    assert np.array_equal(found[0], image[10:30, 8:32]) and names is None
    with pytest.raises(DataError, match=r"has \(40, 40\) pixels, but tests need at least \(64, 48"):
        exported_model._middle_of(trained, image, "YX", (64, 48))


@pytest.mark.parametrize(
    ("chosen", "otherwise", "names"),
    [
        (["DAPI", "GFP"], ["a", "b"], ["DAPI", "GFP"]),
        ([0, 3], ["a", "b"], ["a", "b"]),
        (None, None, ["channel0", "channel1"]),
        (None, ["one"], ["channel0", "channel1"]),
    ],
)
def test_channels_are_named_as_in_training_or_in_the_image(chosen, otherwise, names):
    assert exported_model._channel_names(chosen, 2, otherwise) == names


def test_the_cover_is_twice_as_wide_as_high(tmp_path):
    image = np.random.default_rng(0).normal(size=(1, 64, 80)).astype(np.float32)
    exported_model._draw_cover(image, image / 2, tmp_path / "cover.png")
    assert imread(tmp_path / "cover.png").shape[:2] == (256, 512)
