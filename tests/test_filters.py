"""Which patches a filter passes: what plain NumPy says, patch by patch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from careamics_dm.axes import DataError
from careamics_dm.filters import EntropyFilter, MaxFilter, MeanStdFilter


def entropy_of(pixels):
    """Shannon's definition, of every second pixel along Y and X."""
    pixels = pixels[..., ::2, ::2]
    if pixels.dtype.kind == "f":
        pixels = pixels.astype(np.float32)
        low, span = pixels.min(), pixels.max() - pixels.min()
        scaled = (pixels - low) * np.float32(256 / (span or 1))
        pixels = np.minimum(scaled, 255).astype(int)
    share = np.unique(pixels, return_counts=True)[1] / pixels.size
    return -(share * np.log2(share)).sum()


def noise(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    level = rng.uniform(1, 60, (*shape[:2], *[1] * (len(shape) - 2)))
    return (100 + rng.normal(0, 1, shape) * level).clip(0, 255).astype(dtype)


DTYPES = ["u1", "i2", "u2", "f2", "f4"]
SHAPES = [(30, 1, 16, 16), (30, 2, 17, 9), (20, 2, 3, 8, 8)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channel", [None, 0])
def test_passes_is_what_numpy_says(dtype, shape, channel):
    patches = noise(shape, dtype)
    looked_at = patches if channel is None else patches[:, [channel]]
    wide = [[c.astype(np.float64) for c in patch] for patch in looked_at]
    high = np.array([[c.max() for c in patch] for patch in wide])
    mean = np.array([[c.mean() for c in patch] for patch in wide])
    std = np.array([[c.std() for c in patch] for patch in wide])
    bits = np.array([[entropy_of(c) for c in patch] for patch in looked_at])
    cases = [
        (MaxFilter(np.median(high), channel=channel), high >= np.median(high)),
        (MeanStdFilter(mean=99.9, channel=channel), mean >= 99.9),
        (MeanStdFilter(std=30, channel=channel), std >= 30),
        (MeanStdFilter(99.9, 20, channel=channel), (mean >= 99.9) & (std >= 20)),
    ]
    for least in np.unique(bits.round(2))[::3] + 0.005:
        if abs(bits - least).min() > 1e-3:
            cases.append((EntropyFilter(least, channel=channel), bits >= least))
    for criterion, expected in cases:
        assert criterion.passes(patches).tolist() == expected.any(axis=1).tolist(), criterion
        assert 0 < expected.any(axis=1).mean() < 1 or isinstance(criterion, EntropyFilter)


def test_entropy_in_bits():
    even = np.zeros((1, 1, 16, 16), np.uint16)
    every = np.repeat(np.repeat(np.arange(64).reshape(8, 8), 2, 0), 2, 1)[None, None]
    measure = EntropyFilter(0).measure
    assert measure(even).tolist() == [[[0]]]
    assert measure(every.astype(np.uint16)).tolist() == [[[6]]]
    assert measure((every * 1000).astype(np.float32)).tolist() == [[[6]]]


def test_the_spread_around_a_large_offset_is_not_lost():
    patches = np.full((1, 1, 64, 64), 1e7, np.float32)
    patches[..., ::2] += 4
    assert MeanStdFilter(std=0).measure(patches).tolist() == [[[1e7 + 2, 2]]]


def test_a_constant_patch_has_its_mean_and_no_spread():
    patches = np.full((2, 1, 33, 31), 65535, np.uint16)
    assert MeanStdFilter(std=0).measure(patches).tolist() == [[[65535, 0]]] * 2


SIZES = [(8, 8), (5, 12), (64, 3), (3, 9, 8), (1, 1)]


def boxes_of(pixels, size):
    """Patches at all origins, ``N C (Z) Y X``, and how many origins there are along each axis."""
    axes = tuple(range(1, pixels.ndim))
    views = np.lib.stride_tricks.sliding_window_view(pixels, size, axis=axes)
    n_origins = views.shape[1 : pixels.ndim]
    return np.moveaxis(views.reshape(len(pixels), -1, *size), 0, 1), n_origins


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(DTYPES), st.sampled_from(SIZES), st.sampled_from([None, 1]))
def test_all_origins_at_once_are_what_patches_are_one_by_one(data, dtype, size, channel):
    shape = tuple(p + data.draw(st.integers(0, 12)) for p in size)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    pixels = rng.normal(100, data.draw(st.sampled_from([0, 2, 40, 10000])), (2, *shape))
    pixels[..., : shape[-1] // 2] = 100  # even, and exactly as bright as asked for
    low, high = (-6e4, 6e4) if dtype[0] == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    pixels = pixels.clip(low, high).astype(dtype)
    patches, n_origins = boxes_of(pixels, size)
    std = float(np.median(patches.std(axis=tuple(range(2, patches.ndim)), dtype=np.float64)))
    filters = [
        MaxFilter(100, channel=channel),
        MaxFilter(100.1, channel=channel),
        MeanStdFilter(mean=100, channel=channel),
        MeanStdFilter(std=std, channel=channel),
        MeanStdFilter(99.5, 2, channel=channel),
    ]
    for criterion in filters:
        found = criterion.passing(pixels, size)
        assert np.array_equal(found, criterion.passes(patches).reshape(n_origins)), criterion
    assert EntropyFilter(3).passing(pixels, size) is None


def test_too_many_that_rounding_decides_are_left_to_one_by_one():
    rng = np.random.default_rng(0)
    even = 1e4 + rng.choice([-1, 1], (1, 300, 300)).astype(np.float32) / 256
    assert MeanStdFilter(mean=1e4).passing(even, (2, 2)) is None


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays("u2", st.tuples(st.integers(1, 4), st.just(2), st.integers(1, 9), st.integers(1, 9)))
)
def test_any_integers(patches):
    high = patches.reshape(len(patches), 2, -1).max(axis=2)
    assert MaxFilter(300).passes(patches).tolist() == (high >= 300).any(axis=1).tolist()
    bits = np.array([[entropy_of(c) for c in patch] for patch in patches])
    assert np.allclose(EntropyFilter(0).measure(patches)[:, :, 0], bits)
    mean, std = np.moveaxis(MeanStdFilter(std=0).measure(patches), 2, 0)
    assert np.allclose(mean, patches.mean(axis=(2, 3)))
    assert np.allclose(std, patches.std(axis=(2, 3)), atol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaxFilter(None), "patch_filter: threshold is not given"),
        (lambda: MaxFilter("5"), "threshold='5': give a number"),
        (lambda: MaxFilter(float("nan")), "threshold=nan: give a number"),
        (lambda: MaxFilter(5, keep=1), "keep=1: give the probability"),
        (lambda: MaxFilter(5, keep=-0.1), r"keep=-0\.1: give the probability"),
        (lambda: MaxFilter(5, channel=-1), "channel=-1: give the index"),
        (lambda: MaxFilter(5, channel=True), "channel=True: give the index"),
        (lambda: MeanStdFilter(), "neither mean nor std is given"),
        (lambda: MeanStdFilter(std=-1), "std=-1 is below 0"),
        (lambda: MeanStdFilter(mean=True), "mean=True: give a number"),
        (lambda: EntropyFilter(None), "bits is not given. Give the least entropy, in bits"),
    ],
)
def test_values_that_make_no_sense_are_refused(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_a_channel_that_is_not_selected_is_refused():
    with pytest.raises(DataError, match=r"channel=2, but 2 channel\(s\) are selected.*0 to 1"):
        MaxFilter(5, channel=2).passes(np.zeros((1, 2, 4, 4), np.uint8))
