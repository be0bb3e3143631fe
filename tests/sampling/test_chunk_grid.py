from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from careamics_dm.images.extent import Extent
from careamics_dm.sampling.allowed_origins import OriginMask, ValidOrigins
from careamics_dm.sampling.chunk_grid import Axis, SeparableOrder, WindowGrid, window_shape

# No deadlines: they tell how busy the machine is.
PROPERTY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def extents(draw: st.DrawFn) -> tuple[Extent, tuple[int, ...], int]:
    """An image, a patch size and a budget, from generous to much too small."""
    n_axes = draw(st.integers(2, 3))
    size = tuple(draw(st.integers(1, 300)) for _ in range(n_axes))
    block = tuple(draw(st.integers(1, n)) for n in size)
    patch = tuple(draw(st.integers(1, 80)) for _ in range(n_axes))
    extent = Extent(1, size, block, draw(st.integers(1, 8)), draw(st.booleans()))
    return extent, patch, draw(st.integers(1, 2**20))


def axes_of(case: tuple[Extent, tuple[int, ...], int]) -> list[tuple[int, int, Axis]]:
    """Size, patch and windows along each axis."""
    extent, patch, _ = case
    columns = zip(extent.size, patch, extent.block, window_shape(*case), strict=True)
    return [(n, p, Axis(n, p, b, w)) for n, p, b, w in columns]


@PROPERTY
@given(extents())
def test_a_window_has_room_for_every_patch_at_some_shift(
    case: tuple[Extent, tuple[int, ...], int],
) -> None:
    for n, p, axis in axes_of(case):
        if axis.unit > n:  # all of it
            continue
        assert axis.m * axis.unit < n
        # Wherever a patch lies, it crosses fewer unit borders than a window has units.
        origin = np.arange(n - p + 1)
        crossed = (origin + p - 1) // axis.unit - origin // axis.unit
        assert crossed.max() < axis.m
        assert axis.totals().sum() > 0


@PROPERTY
@given(extents())
def test_a_window_keeps_to_its_budget_unless_a_few_blocks_exceed_it(
    case: tuple[Extent, tuple[int, ...], int],
) -> None:
    extent, patch, budget = case
    window = window_shape(extent, patch, budget)
    least = window_shape(extent, patch, 1)
    if extent.in_memory:
        assert window == extent.size
    else:
        assert prod(window) * extent.pixel_bytes <= budget or window == least
        # "A few": no more than the patch itself, and two blocks, need.
        most = [p + 2 * max(b, p) for p, b in zip(patch, extent.block, strict=True)]
        assert all(c <= m for c, m in zip(least, most, strict=True))


def test_a_window_uses_most_of_its_budget() -> None:
    for block in ((1, 1), (512, 512), (1, 100_000)):
        extent = Extent(1, (100_000, 100_000), block, 2, False)
        assert 2**24 < prod(window_shape(extent, (64, 64), 2**25)) * 2 <= 2**25


def test_windows_of_raw_pixels_are_wide_as_long_pieces_are_read_fast() -> None:
    raw, chunks = ((n, n) for n in (1, 64))
    size, budget = (2048, 2048), 2**21
    assert window_shape(Extent(9, size, raw, 2, False), (64, 64), budget) == (480, 2048)
    assert window_shape(Extent(9, size, chunks, 2, False), (64, 64), budget) == (1024, 1024)
    height, width = window_shape(Extent(9, (10**5, 10**5), raw, 2, False), (64, 64), 2**24)
    assert 3 < width / height < 5


def test_what_fits_is_read_whole() -> None:
    assert window_shape(Extent(9, (100, 100), (7, 7), 2, False), (8, 8), 20_000) == (100, 100)
    assert window_shape(Extent(9, (10**5, 10**5), (7, 7), 2, True), (8, 8), 1) == (10**5, 10**5)


SIZES = [
    (50, 8, 4, 50),  # whole: one window
    (50, 8, 8, 16),  # the least: two blocks
    (50, 8, 7, 21),  # blocks that do not divide the image
    (50, 8, 1, 12),  # blocks of a pixel, four to a patch
    (47, 1, 1, 1),  # patches of a pixel
    (47, 1, 5, 10),
    (60, 20, 3, 30),  # a patch larger than a block
    (30, 8, 9, 27),  # nearly whole
    (40, 9, 16, 32),
    (14, 5, 3, 9),
    (5, 8, 2, 5),  # an image smaller than a patch
]


@pytest.mark.parametrize(("size", "patch", "block", "window"), SIZES)
def test_windows_are_whole_blocks_that_do_not_overlap_and_cover_the_axis(
    size: int, patch: int, block: int, window: int
) -> None:
    axis = Axis(size, patch, block, window)
    for shift in range(axis.m):
        first, stop = axis.box(shift, np.arange(axis.n_windows(shift)))
        np.testing.assert_array_equal(first[1:], stop[:-1])
        assert (first[0], stop[-1]) == (0, size)
        assert not (first[1:] % block).any()
        assert (stop - first).max() <= max(window, block)


@pytest.mark.parametrize(("size", "patch", "block", "window"), SIZES)
def test_shift_and_weight_together_make_origins_exactly_equally_likely(
    size: int, patch: int, block: int, window: int
) -> None:
    """The claim of `random_patches`: shifts are as likely as the weight that they leave."""
    axis = Axis(size, patch, block, window)
    totals, likely = axis.totals(), np.zeros(axis.n_origins)
    for shift in range(axis.m):
        every = np.arange(axis.n_windows(shift))
        np.testing.assert_allclose(axis.weights(shift, every).sum(), totals[shift])
        for origin in range(axis.n_origins):
            weight = axis.weights(shift, every, origin, origin + 1).sum()
            likely[origin] += weight / totals.sum()  # P(shift) * weight / total
    np.testing.assert_allclose(likely, 1 / axis.n_origins, rtol=1e-9)


@pytest.mark.parametrize(("size", "patch", "block", "window"), SIZES)
def test_in_a_window_origins_are_drawn_in_proportion_to_their_weights(
    size: int, patch: int, block: int, window: int
) -> None:
    axis, n = Axis(size, patch, block, window), 5000
    fraction = (np.arange(n) + 0.5) / n
    for shift in range(axis.m):
        for number in range(axis.n_windows(shift)):
            here = np.array([number])
            if not (total := axis.weights(shift, here)[0]):
                continue
            drawn = axis.draw(shift, np.full(n, number), fraction)
            first, stop = (int(end[0]) for end in axis.box(shift, here))
            assert first <= drawn.min()
            assert drawn.max() <= max(stop - patch, 0)
            share = np.bincount(drawn, minlength=axis.n_origins) / n
            expected = [
                axis.weights(shift, here, o, o + 1)[0] / total for o in range(axis.n_origins)
            ]
            np.testing.assert_allclose(share, expected, atol=2 / n)


@PROPERTY
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=3))
def test_boxes_of_a_grid_stand_one_after_another(lengths: list[list[int]]) -> None:
    order = SeparableOrder([np.array(of) for of in lengths])
    every = np.array([prod(x) for x in product(*lengths)])
    place = np.arange(order.total)
    index, inside = order.at(place)
    number = np.ravel_multi_index(index, order.shape)
    np.testing.assert_array_equal(number, np.repeat(np.arange(len(every)), every))
    np.testing.assert_array_equal(order.before(index) + inside, place)
    as_floats = SeparableOrder([np.array(of, float) for of in lengths])
    again, _ = as_floats.at(place + 0.5)
    np.testing.assert_array_equal(np.ravel_multi_index(again, order.shape), number)


@st.composite
def grids(draw: st.DrawFn) -> tuple[list[Axis], list[int], int]:
    """Small images, a shift along each axis, and samples that are read together."""
    axes = []
    for _ in range(draw(st.integers(2, 3))):
        n, p, b = (draw(st.integers(1, most)) for most in (16, 5, 6))
        width = window_shape(Extent(1, (n,), (b,), 1, False), (p,), draw(st.integers(1, 20)))
        axes.append(Axis(n, p, b, *width))
    return axes, [draw(st.integers(0, axis.m - 1)) for axis in axes], draw(st.integers(1, 3))


def weights_of_windows(axes: list[Axis], shifts: list[int], allowed: np.ndarray) -> np.ndarray:
    """What windows weigh, origin by origin."""
    found = allowed.astype(float)
    for axis, shift in zip(axes, shifts, strict=True):
        origin, window = np.arange(axis.n_origins), np.arange(axis.n_windows(shift))
        matrix = np.stack(
            [[float(axis.weights(shift, window[[w]], o, o + 1)[0]) for o in origin] for w in window]
        )
        found = np.tensordot(found, matrix, (0, 1))
    return found


@settings(PROPERTY, max_examples=25)
@given(grids(), st.data())
def test_masks_and_gaps_take_the_weight_of_what_they_forbid(
    case: tuple[list[Axis], list[int], int], data: st.DataObject
) -> None:
    axes, shifts, n = case
    size, rng = [axis.size for axis in axes], np.random.default_rng(data.draw(st.integers(0, 99)))
    patch = [axis.size - axis.n_origins + 1 if axis.n_origins > 1 else axis.size for axis in axes]
    corner = rng.integers(0, size)
    held_out = (tuple(corner.tolist()), tuple((corner + 2).tolist()))
    restricted: OriginMask | ValidOrigins = OriginMask(rng.random(size) < 0.5, patch)
    if data.draw(st.booleans()):
        restricted = ValidOrigins([((0,) * len(size), tuple(size))], size, patch)
        restricted.exclude([held_out])
    allowed = restricted.within([0] * len(size), [axis.n_origins for axis in axes])
    expected = weights_of_windows(axes, shifts, allowed)
    free = weights_of_windows(axes, shifts, np.ones_like(allowed))
    np.testing.assert_allclose(restricted.totals(axes)[tuple(shifts)], expected.sum(), atol=1e-9)
    grid = WindowGrid(axes, shifts, n, rng)
    if not grid.n_windows or (n == 1 and not expected.sum()):
        return
    grid = grid.without(*restricted.lost(grid, 0))  # the first of the samples
    ranks = np.arange(grid.n_windows * n)
    begin = np.array([grid.before(rank) for rank in ranks.tolist()])
    of = tuple(grid.numbers(ranks))
    wanted = np.where(ranks % n == 0, expected[of], free[of])
    np.testing.assert_allclose(np.diff(begin, append=grid.total), wanted, atol=1e-9)
    place = (np.arange(200) + 0.5) / 200 * grid.total
    found = grid.at(place)
    assert (wanted[found] > 0).all()
    assert ((begin[found] <= place + 1e-9) & (place < begin[found] + wanted[found] + 1e-9)).all()


def test_a_mask_that_forbids_nothing_changes_no_place() -> None:
    grid = WindowGrid([Axis(40, 8, 8, 16)], [0], 1, np.random.default_rng(0))
    other = grid.without(np.zeros(0, int), np.zeros(0))
    place = (np.arange(50) + 0.5) / 50 * grid.total
    np.testing.assert_array_equal(other.at(place), grid.at(place))
