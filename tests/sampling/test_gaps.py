"""Images of which parts were never acquired, as mosaics have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stacks import RecordingStack

from careamics_dm.datamodule.patch_datamodule import PatchDataModule
from careamics_dm.errors import DataError
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.image_set import ImageSet
from careamics_dm.sampling.filters.criteria import MaxFilter
from careamics_dm.sampling.image_origins import origin_masks
from careamics_dm.sampling.read_windows import PatchList
from careamics_dm.sources.listing import Listing
from careamics_dm.testing.datamodule_checks import check_image_stack
from careamics_dm.transforms.statistics import pixel_blocks

TILES = [((0, 0), (40, 48)), ((36, 40), (80, 100))]
"""Two tiles that overlap, of an image of 80 × 100; the second sample has only one of them."""


class Mosaic:
    """An array of two samples with gaps, which read as 0; what was acquired is not 0."""

    shape, dtype = (2, 80, 100), np.dtype(np.uint16)

    def __getitem__(self, box):
        pixels = np.zeros(self.shape, np.uint16)
        for sample in range(2):
            for start, stop in self.valid_region(sample, None):
                pixels[(sample, *(slice(a, b) for a, b in zip(start, stop, strict=True)))] = 7
        return pixels[box]

    def valid_region(self, sample, channels):
        return TILES[: 2 - sample]


@pytest.mark.parametrize("load", [False, True])
def test_channels_may_have_gaps_of_their_own(load):
    class TwoChannels(Mosaic):
        def valid_region(self, sample, channels):
            tiles = [TILES[c] for c in (range(2) if channels is None else channels)]
            if len(tiles) == 1:
                return tiles
            corners = zip(*tiles, strict=True)
            return [
                tuple(tuple(map(f, a, b)) for f, (a, b) in zip((max, min), corners, strict=True))
            ]

    stack = ArrayStack(TwoChannels(), "CYX", "mosaic")
    stack = stack.load() if load else stack
    assert stack.valid_region(0, [0]) == TILES[:1]
    assert stack.valid_region(0, [1]) == TILES[1:]
    for channels in (None, [0, 1], [1, 0]):
        assert stack.valid_region(0, channels) == [((36, 40), (40, 48))]


class Module(PatchDataModule):
    def __init__(self, **shared):
        names = ("train_data", "val_data", "test_data", "predict_data")
        given = {"patch_size": (16, 16), "normalization": "none", "axes": "SYX"}
        super().__init__(**dict.fromkeys(names, "mosaic") | given | shared)

    def list_sources(self, data, what):
        return Listing([data])

    def open_source(self, source, axes):
        if source == "mask":
            return [ArrayStack(np.indices((2, 80, 100))[2] < 60, "SYX", source)]
        return [ArrayStack(Mosaic(), "SYX", source, block_shape=(1, 20, 20))]


def patches(loader):
    return np.concatenate([batch["image"].numpy() for batch in loader])


@pytest.fixture(params=[True, False], ids=["in memory", "streamed"])
def in_memory(request):
    return request.param


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_training_sees_only_what_was_acquired(in_memory, sampling):
    data = Module(in_memory=in_memory, sampling=sampling, augmentation=False)
    for _ in range(3):
        drawn = patches(data.train_dataloader())
        assert len(drawn) == data.n_train_patches
        assert (drawn == 7).all()
    data.teardown("fit")


@pytest.mark.parametrize("options", [{}, {"train_mask": "mask"}], ids=["", "and a mask"])
def test_so_it_does_with_a_filter(in_memory, options):
    class PartlyBright(Mosaic):
        def __getitem__(self, box):
            pixels = super().__getitem__((slice(None),) * 3)
            pixels[:, :30, :50] = np.where(pixels[:, :30, :50], 9, 0)
            return pixels[box]

    class Bright(Module):
        def open_source(self, source, axes):
            if source == "mask":
                return super().open_source(source, axes)
            return [ArrayStack(PartlyBright(), "SYX", source, block_shape=(1, 20, 20))]

    given = {"patch_filter": MaxFilter(9), "patches_per_epoch": 200} | options
    found = patches(Bright(in_memory=in_memory, **given).train_dataloader())
    assert len(found) == 200
    assert found.min() == 7 and (found.max(axis=(1, 2, 3)) == 9).all()


def test_so_does_validation(in_memory):
    data = Module(in_memory=in_memory)
    assert (patches(data.val_dataloader()) == 7).all()
    split = Module(in_memory=in_memory, val_data=None, n_val_patches=4)
    assert (patches(split.val_dataloader()) == 7).all()
    assert (patches(split.train_dataloader()) == 7).all()


def test_statistics_count_only_what_was_acquired(in_memory):
    data = Module(in_memory=in_memory, normalization="mean_std")
    data.measure_statistics()
    assert data.denormalize(torch.zeros(1, 1, 2, 2)).unique().tolist() == [7]  # the mean


def test_an_epoch_covers_what_was_acquired(in_memory):
    data = Module(in_memory=in_memory, n_val_patches=0)
    area = 2 * 40 * 48 + 44 * 60 - 4 * 8
    covering = 2 * 5 * 7
    assert data.n_train_patches == round(covering * area / (2 * 80 * 100))


def test_masks_and_gaps_work_together(in_memory):
    data = Module(in_memory=in_memory, train_mask="mask", augmentation=False)
    batches = patches(data.train_dataloader())
    assert (batches == 7).all()


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_prediction_and_test_cover_gaps_and_tell_how_many_pixels_they_are(stage):
    data = Module(tile_size=(32, 32), tile_overlap=(8, 8))
    lacking = 2 * 80 * 100 - (2 * 40 * 48 + 44 * 60 - 4 * 8)
    with pytest.warns(UserWarning, match=rf"{stage}_data: 1 image.* {lacking} pixels .*read as 0"):
        data.setup(stage)
    check_image_stack(data.images_of(stage).stacks[0])
    assert len(patches(getattr(data, f"{stage}_dataloader")())) == 2 * 3 * 4


def test_gaps_that_leave_no_place_are_an_error(in_memory):
    data = Module(in_memory=in_memory, patch_size=(64, 64), val_data=None, n_val_patches=0)
    with pytest.raises(DataError, match=r"no patch of \(64, 64\) lies in what was acquired of mos"):
        data.train_dataloader()


def test_only_the_channels_that_are_used_count(in_memory):
    class TwoChannels(Mosaic):
        """The second channel was acquired everywhere."""

        shape = (2, 2, 80, 100)

        def __getitem__(self, box):
            pixels = np.full(self.shape, 7, np.uint16)
            pixels[:, 0] = Mosaic()[(slice(0, 2), slice(0, 80), slice(0, 100))]
            return pixels[box]

        def valid_region(self, sample, channels):
            return None if channels == [1] else TILES[: 2 - sample]

    class Module2(Module):
        def open_source(self, source, axes):
            return [ArrayStack(TwoChannels(), "SCYX", source)]

    for channels, n in ((None, 28), ([0], 28), ([1], 70)):
        data = Module2(axes="SCYX", channels=channels, in_memory=in_memory, n_val_patches=0)
        assert data.n_train_patches == n
        assert (patches(data.train_dataloader()) == 7).all()


def test_few_acquired_patches_mean_few_for_validation():
    class OneCorner(Mosaic):
        def valid_region(self, sample, channels):
            return [((0, 0), (40, 48))] if sample == 0 else []

    class Module1(Module):
        def open_source(self, source, axes):
            return [ArrayStack(OneCorner(), "SYX", source)]

    data = Module1(val_data=None)
    assert len(patches(data.val_dataloader())) == 6 // 4
    assert (patches(data.train_dataloader()) == 7).all()


def test_any_stack_may_have_gaps():
    class Gappy(RecordingStack):
        def valid_region(self, sample_idx, channels):
            return TILES

    class Others(Module):
        def open_source(self, source, axes):
            pixels = np.zeros((1, 1, 80, 100), np.uint16)
            for start, stop in TILES:
                pixels[0, 0, start[0] : stop[0], start[1] : stop[1]] = 7
            return [Gappy(pixels)]

    assert (patches(Others().train_dataloader()) == 7).all()


def test_images_that_give_no_patch_are_told():
    class Two(Module):
        def list_sources(self, data, what):
            return Listing(["whole", "mosaic"])

        def open_source(self, source, axes):
            if source == "mosaic":
                return super().open_source(source, axes)
            return [ArrayStack(np.full((1, 80, 100), 7, np.uint16), "SYX", source)]

    data = Two(patch_size=(64, 64), val_data=None)
    with pytest.warns(UserWarning, match=r"1 image.* give no patch of \(64, 64\).*: mosaic\. Use"):
        data.setup("fit")
    assert (patches(data.train_dataloader()) == 7).all()


def test_gaps_that_leave_nothing_to_validate_are_an_error():
    class Whole(Module):
        def open_source(self, source, axes):
            if source == "whole":
                return [ArrayStack(np.full((1, 80, 100), 7, np.uint16), "SYX", source)]
            return super().open_source(source, axes)

    data = Whole(train_data="whole", patch_size=(64, 64))
    with pytest.raises(DataError, match=r"no patch of \(64, 64\), side by side, lies in what"):
        data.val_dataloader()


def test_samples_alike_share_what_is_known_of_them():
    class Many(RecordingStack):
        def valid_region(self, sample_idx, channels):
            return [((0, 0), (40, 48))] if sample_idx < 3 else list(TILES)

    images = ImageSet([Many(np.zeros((6, 1, 80, 100), np.uint16))], channels=[None])
    assert len({id(images.acquired()[0, s]) for s in range(6)}) == 2
    masks = origin_masks(images, (16, 16))
    assert len({id(mask) for mask in masks.values()}) == 2
    before = [masks[0, s].n_allowed for s in range(6)]
    held = PatchList(np.zeros((1, 4), np.int64), (16, 16))
    after = origin_masks(images, (16, 16), held)
    assert after[0, 0].n_allowed < before[0]
    assert [after[0, s].n_allowed for s in range(1, 6)] == before[1:]
    assert origin_masks(images, (16, 16))[0, 0].n_allowed == before[0]
    one, other = 80 * 100 - 40 * 48, 80 * 100 - (40 * 48 + 44 * 60 - 4 * 8)
    assert images.n_not_acquired() == {0: 3 * (one + other)}


def test_statistics_pass_over_what_is_gaps():
    class Sparse(Mosaic):
        """Of 40 samples, one was acquired."""

        shape = (40, 80, 100)

        def __getitem__(self, box):
            pixels = np.zeros(self.shape, np.uint16)
            pixels[17] = 7
            return pixels[box]

        def valid_region(self, sample, channels):
            return None if sample == 17 else []

    images = ImageSet([ArrayStack(Sparse(), "SYX", "sparse")], channels=[None])
    (block,) = pixel_blocks(images, 0, 1, seed=0, allow_nan=False)
    assert (block == 7).all()
    assert block.size == 80 * 100


def test_what_was_loaded_keeps_equal_boxes_once():
    class Long(Mosaic):
        shape = (50, 80, 100)

        def valid_region(self, sample, channels):
            return list(TILES)

        def __getitem__(self, box):
            return np.zeros(self.shape, np.uint16)[box]

    loaded = ArrayStack(Long(), "SYX", "long").load()
    assert len({id(loaded.valid_region(s)) for s in range(50)}) == 1
    assert loaded.valid_region(3) == TILES
