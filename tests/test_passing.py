"""Pixels in memory: the plan itself draws only what a filter passes, all of it equally likely."""

from __future__ import annotations

import numpy as np
import pytest

from careamics_dm.axes import DataError
from careamics_dm.filters import EntropyFilter, MaxFilter, MeanStdFilter
from careamics_dm.formats.array import ArrayDataModule
from careamics_dm.origin_mask import KeptOrigins, OriginMask

SIZE = (8, 8)


def scene(shape=(2, 50, 60), dtype=np.uint16, seed=0):
    """Noise, and a bright corner."""
    pixels = np.random.default_rng(seed).normal(100, 1, shape)
    pixels[:, :20, :30] += np.random.default_rng(seed).normal(60, 20, pixels[:, :20, :30].shape)
    return pixels.astype(dtype)


def module(pixels, criterion, **options):
    given = {"axes": "SYX", "patch_size": SIZE, "n_val_patches": 0, "normalization": "none"}
    return ArrayDataModule(
        train_data=pixels, patch_filter=criterion, augmentation=False, **given | options
    )


def patches_of(pixels):
    """All patches, by sample and origin."""
    return np.lib.stride_tricks.sliding_window_view(pixels, SIZE, axis=(1, 2))


def passing(criterion, pixels):
    """Whether each patch passes, asked one by one."""
    every = patches_of(pixels)
    return criterion.passes(every.reshape(-1, 1, *SIZE)).reshape(every.shape[:3])


def drawn(plan, epochs=1):
    """How often each origin is drawn, by sample and origin."""
    times = np.zeros((2, 43, 53), int)
    for epoch in range(epochs):
        rows = plan.at(epoch)
        np.add.at(times, (rows.sample, *rows.start.T), 1)
    return times


def images_of(loader):
    return np.concatenate([batch["image"].numpy() for batch in loader])[:, 0]


FILTERS = [MaxFilter(160), MeanStdFilter(mean=130), MeanStdFilter(std=12), MeanStdFilter(110, 10)]


@pytest.mark.parametrize("criterion", FILTERS, ids=repr)
@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
def test_the_plan_draws_what_passes_and_nothing_else(criterion, dtype):
    pixels = scene(dtype=dtype)
    loader = module(pixels, criterion, patches_per_epoch=20_000).train_dataloader()
    expected = passing(criterion, pixels.astype(np.float32) if dtype == np.float64 else pixels)
    assert 0.05 < expected.mean() < 0.6
    times = drawn(loader.patches.plan, 10)
    assert np.array_equal(times > 0, expected)
    # Chi-square, which has as many degrees of freedom as there are origins, but one.
    mean, n = times[expected].mean(), expected.sum()
    chi_square = ((times[expected] - mean) ** 2 / mean).sum()
    assert abs(chi_square - n) < 5 * np.sqrt(2 * n)


def test_nothing_is_left_to_reject_unless_the_filter_cannot_tell():
    for criterion, left in ((MaxFilter(160), None), (EntropyFilter(3.5), EntropyFilter(3.5))):
        loader = module(scene(), criterion, patches_per_epoch=500).train_dataloader()
        assert loader.patches.patch_filter == left
        found = images_of(loader)
        assert len(found) == 500 and criterion.passes(found[:, None]).all()


def test_rejected_patches_are_kept_as_often_as_asked():
    pixels, criterion = scene(), MaxFilter(160, keep=0.1)
    plan = module(pixels, criterion, patches_per_epoch=20_000).train_dataloader().patches.plan
    times, expected = drawn(plan, 5), passing(criterion, pixels)
    assert times[~expected].mean() / times[expected].mean() == pytest.approx(0.1, rel=0.05)


def test_kept_origins_count_in_part():
    mask = OriginMask(np.arange(12).reshape(1, 12) < 4, (1, 1))
    rest = OriginMask(np.arange(12).reshape(1, 12) >= 8, (1, 1))
    both = KeptOrigins(mask, rest, 0.5)
    assert (both.n_origins, both.n_allowed) == (12, 6)
    starts = both.draw(6000, np.random.default_rng(0))
    count = np.bincount(starts[:, 1], minlength=12)
    assert not count[4:8].any() and both.allows(starts).all()
    assert np.allclose(count[:4], 1000, atol=150) and np.allclose(count[8:], 500, atol=110)


def test_masks_validation_patches_and_samples_held_out_are_respected():
    pixels, criterion = scene(), MaxFilter(160)
    mask = np.zeros(pixels.shape, np.uint8)
    mask[:, 10:, :25] = 1
    for options in ({}, {"train_mask": mask}, {"hold_out": "samples"}):
        data = module(pixels, criterion, n_val_patches=None, patches_per_epoch=9000, **options)
        times = drawn(data.train_dataloader().patches.plan)
        assert times.sum() == 9000
        expected = passing(criterion, pixels)
        if "train_mask" in options:
            expected &= mask[:, 4:-3, 4:-3] != 0
        for row in data.split_table():
            if row["split"] == "val" and row["start"]:
                y, x = map(int, row["start"].split())
                expected[row["sample"], max(y - 7, 0) : y + 8, max(x - 7, 0) : x + 8] = False
            elif row["split"] == "val":
                expected[row["sample"]] = False
        assert not times[~expected].any() and (times[expected] > 0).mean() > 0.9


def test_nan_of_images_and_targets_is_not_drawn_under_skip():
    pixels, target = scene(dtype=np.float32), scene(dtype=np.float32)
    pixels[:, 5, 5], target[:, 12, 20] = np.nan, np.inf
    options = {"train_target": target, "patches_per_epoch": 20_000}
    plan = module(pixels, MaxFilter(160), nan_policy="skip", **options).train_dataloader()
    expected = passing(MaxFilter(160), np.nan_to_num(pixels))
    expected[:, :6, :6] = expected[:, 5:13, 13:21] = False
    assert np.array_equal(drawn(plan.patches.plan, 3) > 0, expected)
    plan = module(pixels, MaxFilter(160), nan_policy="zero", **options).train_dataloader()
    expected = passing(MaxFilter(160), np.nan_to_num(pixels))
    assert np.array_equal(drawn(plan.patches.plan, 3) > 0, expected)


def test_images_smaller_than_patches_are_filtered_as_padded():
    pixels = scene((3, 50, 5))
    pixels[0] = 100
    data = module(pixels, MaxFilter(160), small_images="pad", patches_per_epoch=50)
    assert (images_of(data.train_dataloader()).max(axis=(1, 2)) >= 160).all()


def test_pieces_of_large_images_fit_together():
    pixels = scene((1, 700, 1200))
    pixels[:, ::97, ::89] = 500
    mask = module(pixels, MaxFilter(400)).train_dataloader().patches.plan.masks[0, 0]
    expected = passing(MaxFilter(400), pixels)[0]
    starts = np.stack(np.indices(expected.shape), axis=-1).reshape(-1, 2)
    assert np.array_equal(mask.allows(starts), expected.reshape(-1))


def test_nothing_passes_is_told_with_what_was_measured():
    expected = r"none of \d+ patches, .* max: at least 9000 is asked for; measured were .* 0% of"
    with pytest.raises(DataError, match=expected):
        module(scene(), MaxFilter(9000)).train_dataloader()
    with pytest.raises(DataError, match=r"channel=1, but 1 channel\(s\) are selected"):
        module(scene(), MaxFilter(9000, channel=1)).train_dataloader()


def test_origins_are_looked_at_once(monkeypatch):
    looks = []
    look = MaxFilter.passing
    monkeypatch.setattr(MaxFilter, "passing", lambda *a: looks.append(1) or look(*a))
    data = module(scene(), MaxFilter(160))
    plans = [data.train_dataloader().patches.plan for _ in range(3)]
    assert len(looks) == 2  # samples
    assert plans[0].masks is plans[2].masks
