"""Bunches of origins: none that has a passing patch is ruled out, and most of the others are."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from careamics_dm.bunches import bunch_shape, moments_near, most_near, n_bunches
from careamics_dm.filters import EntropyFilter, MaxFilter, MeanStdFilter

SIZES = [(8, 8), (5, 12), (33, 32), (3, 9, 8), (16, 8, 20), (1, 1), (1, 40)]
DTYPES = ["u1", "i2", "u2", "f2", "f4"]


def patches_of(pixels, size):
    """All patches of ``C (Z) Y X``, by origin, then ``C (Z) Y X``."""
    axes = tuple(range(1, pixels.ndim))
    views = np.lib.stride_tricks.sliding_window_view(pixels, size, axis=axes)
    return np.moveaxis(views, 0, len(size))


def by_bunch(by_origin, size):
    """Whether any origin of each bunch has it, in plain NumPy."""
    step = bunch_shape(size)
    found = np.zeros([-(-n // t) for n, t in zip(by_origin.shape, step, strict=True)], bool)
    for origin in np.argwhere(by_origin):
        found[tuple(origin // step)] = True
    return found


@st.composite
def scenes(draw):
    """Two channels of noise, even and bright parts, and a patch size."""
    size = draw(st.sampled_from(SIZES))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = tuple(p + draw(st.integers(0, 25 if len(size) == 2 else 9)) for p in size)
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    level = draw(st.sampled_from([0, 100, 30_000]))
    pixels = level + rng.normal(0, draw(st.sampled_from([0, 2, 40, 10_000])), (2, *shape))
    pixels[..., : shape[-1] // 2] = level
    spot = tuple(rng.integers(n) for n in shape)
    pixels[(slice(None), *spot)] = draw(st.sampled_from([0, 120, 60_000]))
    low, high = (-6e4, 6e4) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return pixels.clip(low, high).astype(dtype), size


@settings(max_examples=150, deadline=None)
@given(scenes(), st.sampled_from([None, 1]))
def test_no_patch_that_passes_is_ruled_out(scene, channel):
    pixels, size = scene
    every = patches_of(pixels, size)
    flat = every.reshape(-1, *every.shape[len(size) :])
    for kind, quantity in (
        (lambda least: MaxFilter(least, channel=channel), MaxFilter(0).measure),
        (lambda least: MeanStdFilter(mean=least, channel=channel), MeanStdFilter(mean=0).measure),
        (lambda least: MeanStdFilter(std=least, channel=channel), MeanStdFilter(std=0).measure),
        (lambda least: EntropyFilter(least, channel=channel), EntropyFilter(0).measure),
    ):
        measured = quantity(flat)[..., -1 if "std" in repr(kind(1)) else 0]
        for share in (0, 0.5, 0.9, 1):  # what some patches have exactly
            criterion = kind(float(np.quantile(measured, share, method="nearest")))
            with np.errstate(invalid="ignore"):
                may = criterion.may_pass(pixels, size)
            if may is None:
                assert isinstance(criterion, EntropyFilter) and pixels.dtype.kind == "f"
                continue
            passes = criterion.passes(flat).reshape(every.shape[: len(size)])
            assert may.shape == n_bunches(pixels.shape[1:], size)
            assert not (by_bunch(passes, size) & ~may).any(), criterion


@settings(max_examples=50, deadline=None)
@given(scenes())
def test_the_largest_pixel_and_the_moments_of_what_is_touched(scene):
    (pixels, _), size = scene
    most = most_near(pixels, size)
    ((n, mean, squares),) = moments_near(pixels, size)
    wide, step = pixels.astype(np.float64), bunch_shape(size)
    for at in np.ndindex(*most.shape):
        begin = [i * t for i, t in zip(at, step, strict=True)]
        near = zip(begin, size, step, strict=True)
        # Up to the end of the tile in which the last patch ends.
        box = tuple(slice(a, a + -(-(t - 1 + p) // t) * t) for a, p, t in near)
        assert most[at] == wide[box].max()
        assert n[at] == wide[box].size
        assert mean[at] == pytest.approx(wide[box].mean(), rel=1e-9, abs=1e-9)
        exact = ((wide[box] - wide[box].mean()) ** 2).sum()
        assert exact * (1 - 1e-12) <= squares[at] <= exact + 1e-9 * (wide[box] ** 2).sum()


@pytest.mark.parametrize("level", [100, 30_000])
@pytest.mark.parametrize(
    "criterion", [MaxFilter(130), MeanStdFilter(mean=106), MeanStdFilter(std=7), EntropyFilter(5.2)]
)
def test_most_of_even_background_is_ruled_out(criterion, level):
    rng = np.random.default_rng(0)
    pixels = rng.normal(level, 4, (1, 400, 400))
    pixels[:, :150, :150] += 1.2 * rng.poisson(160, (150, 150))
    if isinstance(criterion, MaxFilter):
        criterion = MaxFilter(criterion.threshold - 100 + level)
    elif criterion.__dict__.get("mean"):
        criterion = MeanStdFilter(mean=criterion.mean - 100 + level)
    may = criterion.may_pass(pixels.astype(np.uint16), (64, 64))
    assert may[:18, :18].all() and not may[21:, :].any() and not may[:, 21:].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_near_nan_and_infinity_everything_may_pass(bad):
    pixels = np.zeros((1, 60, 60), np.float32)
    pixels[0, 30, 30] = bad
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("error")
        for criterion in (MeanStdFilter(mean=1), MeanStdFilter(std=1)):
            may = criterion.may_pass(pixels, (16, 16))
            assert may[7:15, 7:15].all() and not may[:6].any() and not may[16:].any()
        may = MaxFilter(1).may_pass(pixels, (16, 16))
        assert may[7:15, 7:15].all() == (not np.isneginf(bad))
