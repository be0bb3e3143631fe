"""Which patches a filter passes: what plain NumPy says, patch by patch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from careamics_dm.axes import DataError
from careamics_dm.coarse import Coarse, tile_of
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


@settings(max_examples=60, deadline=None)
@given(
    st.data(),
    st.sampled_from(["u1", "u2", "f4"]),
    st.sampled_from([(8, 8), (5, 12), (64, 3), (3, 9, 8)]),
)
def test_what_a_coarse_look_excludes_never_passes(data, dtype, size):
    shape = tuple(p + data.draw(st.integers(0, 40)) for p in size)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    block = rng.normal(100, 2, (2, *shape)) + 60 * (rng.random((2, *shape)) > 0.999)
    corner = tuple(slice(0, int(rng.integers(0, n + 1))) for n in shape)
    block[(slice(None), *corner)] *= rng.uniform(1, 2)
    block = block.clip(0, 255).astype(dtype)
    tile = tile_of(size)
    filters = [MaxFilter(130), MeanStdFilter(mean=110), MeanStdFilter(std=5), EntropyFilter(4)]
    starts = rng.integers(0, np.array(shape) - size + 1, (100, len(size)))
    boxes = [tuple(slice(a, a + p) for a, p in zip(at, size, strict=True)) for at in starts]
    patches = np.stack([block[(slice(None), *box)] for box in boxes])
    for criterion in filters:
        possible = criterion.possible(Coarse(block, size, tile), block.dtype)
        passed = criterion.passes(patches)
        assert possible[tuple((starts // tile).T)][passed].all()


def test_a_coarse_look_excludes_even_background():
    block = np.random.default_rng(0).normal(100, 4, (1, 256, 256)).astype(np.uint16)
    block[:, :64, :64] += np.arange(64, dtype=np.uint16)
    for criterion in (
        MaxFilter(150),
        MeanStdFilter(mean=120),
        MeanStdFilter(std=8),
        EntropyFilter(5),
    ):
        possible = criterion.possible(Coarse(block, (64, 64), (16, 16)), block.dtype)
        assert possible[0, 0] and not possible[5:, 5:].any()


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
