"""Prediction comes back as it went in: every pixel once, at its place, in its units."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modules import Identity, trainer

from careamics_dm import ArrayDataModule, Quantile, stitch
from careamics_dm.errors import DataError
from careamics_dm.prediction.stitching import crop_in_tile

rng = np.random.default_rng(0)


def predicted(data, n_channels=None):
    """What an identity network predicts, through the loaders and back."""
    outputs = []
    for batch in data.predict_dataloader():
        done = data.transform(batch)
        y = data.denormalize(done["image"])
        y = y if n_channels is None else y[:, :1].repeat_interleave(n_channels, 1)
        outputs.append({"prediction": y, "region": done["region"]})
    return outputs


@st.composite
def images(draw):
    """Axes in any order, with sizes around that of a tile, and settings to predict with."""
    dims = draw(st.sampled_from([2, 3]))
    spatial = "ZYX"[-dims:]
    letters = [*spatial, *draw(st.lists(st.sampled_from("STC"), unique=True))]
    axes = "".join(draw(st.permutations(letters)))
    tile = tuple(draw(st.integers(2, 9)) for _ in range(dims))
    near = {
        a: draw(st.sampled_from([max(t - 1, 1), t, t + 1, 2 * t + 3]))
        for a, t in zip(spatial, tile, strict=True)
    }
    shape = tuple(near.get(axis) or draw(st.integers(1, 3)) for axis in axes)
    overlap = tuple(draw(st.integers(0, t - 1)) for t in tile)
    return axes, shape, tile, overlap


def module(array, axes, tile, overlap, **options):
    whole = options.pop("whole", False)
    return ArrayDataModule(
        train_data=array,
        predict_data=array,
        axes=axes,
        patch_size=(1,) * (3 if "Z" in axes else 2),
        n_val_patches=0,
        tile_size=None if whole else tile,
        tile_overlap=None if whole else overlap,
        augmentation=False,
        batch_size=3,
        **options,
    )


@settings(max_examples=120, deadline=None)
@given(image=images(), whole=st.booleans(), shuffled=st.randoms())
def test_without_normalisation_every_bit_comes_back(image, whole, shuffled):
    axes, shape, tile, overlap = image
    array = rng.normal(size=shape).astype(np.float32) * 1e10
    data = module(array, axes, tile, overlap, whole=whole, normalization="none")
    outputs = predicted(data)
    shuffled.shuffle(outputs)
    (result,) = stitch(outputs, data.predict_stacks)
    assert result.dtype == np.float32
    assert result.shape == shape
    assert result.tobytes() == array.tobytes()


@pytest.mark.filterwarnings("ignore:the images have the same value everywhere")
@settings(max_examples=120, deadline=None)
@given(
    image=images(),
    whole=st.booleans(),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int16]),
    normalization=st.sampled_from(["mean_std", "min_max", Quantile(clip=0)]),
)
def test_with_it_integers_come_back_once_rounded(image, whole, dtype, normalization):
    axes, shape, tile, overlap = image
    info = np.iinfo(dtype)
    array = rng.integers(info.min, info.max, shape, endpoint=True).astype(dtype)
    data = module(array, axes, tile, overlap, whole=whole, normalization=normalization)
    (result,) = stitch(predicted(data), data.predict_stacks)
    assert np.array_equal(np.rint(result), array)


@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_a_trainer_gives_images_of_mixed_sizes_back(tmp_path, tile):
    arrays = [rng.integers(0, 9999, shape).astype(np.uint16) for shape in ((2, 40, 50), (1, 16, 9))]
    data = ArrayDataModule(
        train_data=arrays[0], predict_data=arrays, axes="SYX", patch_size=(8, 8), tile_size=tile
    )
    outputs = trainer(tmp_path).predict(Identity(), datamodule=data)
    for result, array in zip(stitch(outputs, data.predict_stacks), arrays, strict=True):
        assert np.array_equal(np.rint(result), array)


class TestChannels:
    @pytest.mark.parametrize(
        ("axes", "shape", "n", "expected"),
        [
            ("YX", (9, 8), 1, (9, 8)),
            ("YX", (9, 8), 3, (3, 9, 8)),
            ("YXC", (9, 8, 2), 3, (9, 8, 3)),
            ("CYX", (2, 9, 8), 1, (1, 9, 8)),
            ("TYX", (4, 9, 8), 2, (2, 4, 9, 8)),
        ],
    )
    def test_a_prediction_may_have_others_than_the_image(self, axes, shape, n, expected):
        array = rng.normal(size=shape).astype(np.float32)
        data = module(array, axes, (4, 4), (1, 1), normalization="none")
        (result,) = stitch(predicted(data, n), data.predict_stacks)
        assert result.shape == expected
        first = np.take(array, 0, axes.index("C")) if "C" in axes else array
        channels = np.moveaxis(result, (axes if "C" in axes else "C" + axes).index("C"), 0)
        for channel in channels if result.ndim > array.ndim or "C" in axes else [result]:
            assert np.array_equal(channel, first)

    def test_selected_channels_come_alone(self):
        array = rng.normal(size=(3, 9, 8)).astype(np.float32)
        data = module(array, "CYX", (4, 4), (1, 1), normalization="none", channels=[2, 0])
        (result,) = stitch(predicted(data), data.predict_stacks)
        assert np.array_equal(result, array[[2, 0]])


def test_the_crop_of_a_tile_is_in_pixels_of_the_tile():
    assert crop_in_tile([3, 0, 10, 20, 12, 20, 26, 29]) == (slice(2, 16), slice(0, 9))
    volume = [0, 1, 1, 2, 3, 1, 2, 4, 5, 6, 7]
    assert crop_in_tile(volume) == (slice(0, 4), slice(0, 4), slice(1, 4))


class TestFaults:
    def outputs(self):
        array = rng.normal(size=(2, 30, 30)).astype(np.float32)
        data = module([array, array], "SYX", (8, 8), (2, 2))
        return predicted(data), data.predict_stacks

    def test_missing_tiles_are_told(self):
        outputs, stacks = self.outputs()
        del outputs[random.Random(0).randrange(len(outputs) // 2)]
        with pytest.raises(DataError, match=r"tiles are missing.* of predict_data_0000\. Stitch"):
            stitch(outputs, stacks)

    def test_missing_images_are_told(self):
        outputs, stacks = self.outputs()
        with pytest.raises(DataError, match=r"of .*predict_data_0001\."):
            stitch([o for o in outputs if (o["region"][:, 0] == 0).all()], stacks)

    def test_tiles_that_come_twice_are_told(self):
        outputs, stacks = self.outputs()
        with pytest.raises(DataError, match="come twice"):
            stitch([*outputs, outputs[0]], stacks)


def test_predictions_of_other_precision_and_with_gradients_are_taken():
    array = rng.integers(0, 100, (9, 8)).astype(np.float32)
    data = module(array, "YX", (4, 4), (1, 1), normalization="none")
    outputs = predicted(data)
    for output in outputs:
        output["prediction"] = output["prediction"].to(torch.bfloat16).requires_grad_()
    (result,) = stitch(outputs, data.predict_stacks)
    assert np.array_equal(result, array)
