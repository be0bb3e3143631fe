from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from careamics_dm.images.extent import Extent
from careamics_dm.sampling.chunk_grid import Axis, Geometries, cell_shape

# No deadlines: they tell how busy the machine is.
PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def extents(draw: st.DrawFn) -> tuple[Extent, tuple[int, ...], int]:
    """An image, a patch size and a budget, from generous to much too small."""
    n_axes = draw(st.integers(2, 3))
    size = tuple(draw(st.integers(1, 300)) for _ in range(n_axes))
    block = tuple(draw(st.integers(1, n)) for n in size)
    patch = tuple(draw(st.integers(1, 80)) for _ in range(n_axes))
    extent = Extent(1, size, block, draw(st.integers(1, 8)), draw(st.booleans()))
    return extent, patch, draw(st.integers(1, 2**20))


@PROPERTY
@given(extents(), st.integers(0, 2**32))
def test_a_cell_has_room_for_every_patch_at_some_shift(
    case: tuple[Extent, tuple[int, ...], int], seed: int
) -> None:
    extent, patch, budget = case
    cell = cell_shape(extent, patch, budget)
    rng = np.random.default_rng(seed)
    for n, p, b, c in zip(extent.size, patch, extent.block, cell, strict=True):
        if c >= n:
            continue
        axis = Axis(n, p, b, c, rng)
        assert axis.unit % b == 0
        assert c % axis.unit == 0
        # Wherever a patch lies, it crosses fewer unit borders than a cell has units.
        origin = np.arange(n - p + 1)
        crossed = (origin + p - 1) // axis.unit - origin // axis.unit
        assert crossed.max() < c // axis.unit
        assert np.isfinite(axis.cumulative).all()
        assert axis.cumulative[-1] > 0


@PROPERTY
@given(extents())
def test_a_cell_keeps_to_its_budget_unless_a_few_blocks_exceed_it(
    case: tuple[Extent, tuple[int, ...], int],
) -> None:
    extent, patch, budget = case
    cell = cell_shape(extent, patch, budget)
    least = cell_shape(extent, patch, 1)
    if extent.in_memory:
        assert cell == extent.size
    else:
        assert prod(cell) * extent.pixel_bytes <= budget or cell == least
        # "A few": no more than the patch itself, and two blocks, need.
        most = [p + 2 * max(b, p) for p, b in zip(patch, extent.block, strict=True)]
        assert all(c <= m for c, m in zip(least, most, strict=True))


def test_a_cell_uses_most_of_its_budget() -> None:
    for block in ((1, 1), (512, 512), (1, 100_000)):
        extent = Extent(1, (100_000, 100_000), block, 2, False)
        assert 2**24 < prod(cell_shape(extent, (64, 64), 2**25)) * 2 <= 2**25


def test_what_fits_is_read_whole() -> None:
    assert cell_shape(Extent(9, (100, 100), (7, 7), 2, False), (8, 8), 20_000) == (100, 100)
    assert cell_shape(Extent(9, (10**5, 10**5), (7, 7), 2, True), (8, 8), 1) == (10**5, 10**5)


@PROPERTY
@given(extents(), st.integers(0, 2**32))
def test_an_origin_drawn_lies_inside_the_image_and_its_patch_in_one_cell(
    case: tuple[Extent, tuple[int, ...], int], seed: int
) -> None:
    extent, patch, budget = case
    cell = cell_shape(extent, patch, budget)
    rng = np.random.default_rng(seed)
    for n, p, b, c in zip(extent.size, patch, extent.block, cell, strict=True):
        axis = Axis(n, p, b, c, rng)
        start = axis.draw(30, rng)
        assert start.min() >= 0
        assert (start <= max(n - p, 0)).all()
        number = axis.cell_of(start)
        assert number.min() >= 0
        assert number.max() < axis.n_cells
        if n >= p:
            np.testing.assert_array_equal(number, axis.cell_of(start + p - 1))


@pytest.mark.parametrize(
    ("size", "patch", "block", "cell"),
    [
        (50, 8, 4, 50),  # whole: one cell
        (50, 8, 8, 16),  # the least: two blocks
        (50, 8, 7, 21),  # blocks that do not divide the image
        (50, 8, 1, 12),  # blocks of a pixel, four to a patch
        (47, 1, 1, 1),  # patches of a pixel
        (47, 1, 5, 10),
        (60, 20, 3, 30),  # a patch larger than a block
        (30, 8, 9, 27),  # nearly whole
        (40, 9, 16, 32),
    ],
)
def test_over_the_epochs_every_origin_is_equally_likely(
    size: int, patch: int, block: int, cell: int
) -> None:
    n_origins, n_epochs = size - patch + 1, 3000
    rng = np.random.default_rng([size, patch, block, cell])
    # One per epoch: patches of an epoch share their shift, so they are not independent.
    drawn = [Axis(size, patch, block, cell, rng).draw(1, rng)[0] for _ in range(n_epochs)]
    counts = np.bincount(drawn, minlength=n_origins)
    assert len(counts) == n_origins
    expected = n_epochs / n_origins
    chi2, df = ((counts - expected) ** 2 / expected).sum(), n_origins - 1
    assert chi2 < df + 4.5 * (2 * df) ** 0.5


@PROPERTY
@given(extents(), st.data())
def test_shift_and_weight_together_make_origins_exactly_equally_likely(
    case: tuple[Extent, tuple[int, ...], int], data: st.DataObject
) -> None:
    """The claim in the documentation of `Axis`, by brute force."""
    extent, patch, budget = case
    cell = cell_shape(extent, patch, budget)
    d = data.draw(st.integers(0, len(patch) - 1))
    n, p, b, c = extent.size[d], patch[d], extent.block[d], cell[d]
    if c >= n:
        return
    axis = Axis(n, p, b, c, np.random.default_rng(0))
    first, last = np.arange(n - p + 1) // axis.unit, np.arange(p - 1, n) // axis.unit
    weight = 1 / (axis.m - (last - first))
    inside = np.stack([(first + k) // axis.m == (last + k) // axis.m for k in range(axis.m)])
    total = (weight * inside).sum(axis=1)
    given_shift = np.divide(
        weight * inside, total[:, None], where=total[:, None] > 0, out=0 * inside.astype(float)
    )
    likely = (total / total.sum()) @ given_shift
    np.testing.assert_allclose(likely, 1 / len(first), rtol=1e-9)
    # And this is how the axis draws, given its shift.
    own = np.repeat(np.diff(axis.cumulative, prepend=0) / axis.run_length, axis.run_length)
    np.testing.assert_allclose(own / axis.cumulative[-1], given_shift[axis.k], atol=1e-12)


@pytest.mark.parametrize(
    ("size", "patch", "block", "cell", "expected"),
    [
        # Origins 0 and 4 are inside a cell at both shifts and weigh 1/2; 1 to 3 at shift 0 only
        # and 5 at shift 1 only, and weigh 1.
        (9, 4, 4, 8, [4 / 6, 2 / 6]),
        # Patches of 5 cross one border or two of blocks of 3.
        (14, 5, 3, 9, None),
    ],
)
def test_shifts_are_drawn_in_proportion_to_the_weight_they_leave(
    size: int, patch: int, block: int, cell: int, expected: list[float] | None
) -> None:
    axis = Axis(size, patch, block, cell, np.random.default_rng(0))
    first, last = (np.arange(a, size - patch + 1 + a) // axis.unit for a in (0, patch - 1))
    total = [
        sum(
            1 / (axis.m - (b - a))
            for a, b in zip(first.tolist(), last.tolist(), strict=True)
            if (a + k) // axis.m == (b + k) // axis.m
        )
        for k in range(axis.m)
    ]
    found = axis.shift_probabilities
    np.testing.assert_allclose(found, np.array(total) / sum(total), rtol=1e-12)
    if expected is not None:
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_images_that_agree_share_their_axes() -> None:
    small, large = Extent(1, (9, 9), (9, 9), 2, False), Extent(1, (90, 90), (9, 9), 2, False)
    geometry = Geometries(
        [small, large, small._replace(samples=4), large], (4, 4), 900, np.random.default_rng(0)
    )
    np.testing.assert_array_equal(geometry.of_image, [0, 1, 0, 1])
    assert len(geometry.axes) == 2
