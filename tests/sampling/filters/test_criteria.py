"""Which patches a filter passes: what plain NumPy says, patch by patch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import careamics_dm
from careamics_dm.errors import DataError
from careamics_dm.sampling.filters.criteria import EntropyFilter, MaxFilter, MeanStdFilter
from careamics_dm.sampling.filters.window_statistics import reaching_windows


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


def measure(criterion, patches):
    return [measured.values.tolist() for measured in criterion.measured(patches)]


def test_entropy_in_bits():
    even = np.zeros((1, 1, 16, 16), np.uint16)
    every = np.repeat(np.repeat(np.arange(64).reshape(8, 8), 2, 0), 2, 1)[None, None]
    assert measure(EntropyFilter(0), even) == [[[0]]]
    assert measure(EntropyFilter(0), every.astype(np.uint16)) == [[[6]]]
    assert measure(EntropyFilter(0), (every * 1000).astype(np.float32)) == [[[6]]]


def test_the_spread_around_a_large_offset_is_not_lost():
    patches = np.full((1, 1, 64, 64), 1e7, np.float32)
    patches[..., ::2] += 4
    assert measure(MeanStdFilter(0, 0), patches) == [[[1e7 + 2]], [[2]]]
    assert MeanStdFilter(std=2).passing_origins(patches[0], (64, 64)).all()
    assert not MeanStdFilter(std=2.0001).passing_origins(patches[0], (64, 64)).any()


def test_a_constant_patch_has_its_mean_and_no_spread():
    patches = np.full((2, 1, 33, 31), 65535, np.uint16)
    assert measure(MeanStdFilter(0, 0), patches) == [[[65535]] * 2, [[0]] * 2]


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2"])
def test_sums_of_integers_are_exact_however_large(dtype):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    pixels = np.where(np.random.default_rng(0).random((1, 70, 300)) < 0.5, low, high).astype(dtype)
    patches, n_origins = boxes_of(pixels, (64, 128))
    total = patches.sum(axis=(1, 2, 3), dtype=np.int64).reshape(n_origins)
    squares = np.square(patches, dtype=np.int64).sum(axis=(1, 2, 3)).reshape(n_origins)
    n = 64 * 128
    spread = n * squares - total**2  # below 2**63: at most n² times a quarter of 65535²
    for value in np.sort(total, axis=None)[::1000]:
        found = reaching_windows(pixels[0], (64, 128), mean=(value - 0.5) / n)
        assert (found == (total >= value)).all()
    between = np.unique(spread)[::1000].astype(np.float64)
    for least in (between[1:] + between[:-1]) / 2:
        found = reaching_windows(pixels[0], (64, 128), variance=least / n**2)
        assert (found == (spread >= least)).all()


@pytest.mark.parametrize("mean", [0.07, 0.14, 0.28, 0.55, 2.5])
def test_a_mean_that_is_just_reached_passes(mean):
    patch = np.zeros((1, 1, 10, 10), np.uint8)
    patch.reshape(-1)[: round(mean * 100) % 100] = 1
    patch += np.uint8(mean)
    criterion = MeanStdFilter(mean=mean)
    assert criterion.passes(patch).all()
    assert criterion.passing_origins(patch[0], (10, 10)).all()


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
    spread = patches.std(axis=tuple(range(2, patches.ndim)), dtype=np.float64)
    std = float(np.median(spread)) + 1e-3  # near none: rounding need not decide
    assume(abs(spread - std).min() > 1e-6)
    filters = [
        MaxFilter(100, channel=channel),
        MaxFilter(100.1, channel=channel),
        MeanStdFilter(mean=100, channel=channel),
        MeanStdFilter(std=std, channel=channel),
        MeanStdFilter(99.5, 2, channel=channel),
    ]
    for criterion in filters:
        found = criterion.passing_origins(pixels, size)
        assert np.array_equal(found, criterion.passes(patches).reshape(n_origins)), criterion
    for bits in (1, 3, 5):
        may = EntropyFilter(bits, channel=channel).passing_origins(pixels, size)
        passes = EntropyFilter(bits, channel=channel).passes(patches).reshape(n_origins)
        assert may is None if dtype[0] == "f" else may[passes].all()


@pytest.mark.parametrize("dtype", ["f2", "f4"])
def test_an_even_patch_reaches_its_own_mean_beside_noise(dtype):
    for seed in range(100):
        pixels = np.random.default_rng(seed).normal(100, 10_000, (1, 5, 24))
        pixels[..., :12] = 100
        pixels = pixels.clip(-6e4, 6e4).astype(dtype)
        assert MeanStdFilter(mean=100).passing_origins(pixels, (5, 12))[0, 0]


def test_most_of_even_background_is_ruled_out_for_the_entropy_too():
    pixels = np.random.default_rng(0).normal(100, 4, (1, 200, 200)).astype(np.uint16)
    assert EntropyFilter(5).passing_origins(pixels, (64, 64)).mean() < 0.01


def test_a_criterion_of_ones_own_needs_one_method():
    class NotSaturated(careamics_dm.PatchFilter):
        def passes(self, patches):
            return patches.max(axis=(1, 2, 3)) < 255

    criterion = NotSaturated()
    assert (criterion.keep, criterion.channel, criterion.marks_suffice) == (0, None, False)
    assert criterion.passing_origins(np.zeros((1, 9, 9)), (4, 4)) is None


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays("u2", st.tuples(st.integers(1, 4), st.just(2), st.integers(1, 9), st.integers(1, 9)))
)
def test_any_integers(patches):
    high = patches.reshape(len(patches), 2, -1).max(axis=2)
    assert MaxFilter(300).passes(patches).tolist() == (high >= 300).any(axis=1).tolist()
    bits = np.array([[entropy_of(c) for c in patch] for patch in patches])
    assert np.allclose(EntropyFilter(0).measured(patches)[0].values, bits)
    mean, std = (m.values for m in MeanStdFilter(0, 0).measured(patches))
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
        (lambda: MaxFilter(5, channel=-1), "channel=-1 is too small: give at least 0"),
        (lambda: MaxFilter(5, channel=True), "channel=True: give a whole number or null"),
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
