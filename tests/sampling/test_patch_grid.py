"""Grids of patches side by side."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from careamics_dm.images.extent import Extent
from careamics_dm.sampling.allowed_origins import OriginMask
from careamics_dm.sampling.patch_grid import PatchGrid

if TYPE_CHECKING:
    from careamics_dm.sampling.read_windows import Places

# No deadlines: they tell how busy the machine is.
PROPERTY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


EXTENT_LISTS = st.integers(2, 3).flatmap(
    lambda n_axes: st.lists(
        st.builds(
            Extent,
            st.integers(1, 3),
            st.tuples(*[st.integers(1, 22)] * n_axes),
            st.tuples(*[st.integers(1, 22)] * n_axes),
            st.integers(1, 4),
            st.booleans(),
        ),
        min_size=1,
        max_size=3,
    )
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Extent], tuple[int, ...], int]:
    """Images, a patch (often about as large as the first image), a budget."""
    extents = draw(EXTENT_LISTS)
    patch = tuple(
        draw(st.integers(1, 12) | st.integers(max(n - 1, 1), n + 1)) for n in extents[0].size
    )
    return extents, patch, draw(st.integers(1, 2000))


def places(grid: PatchGrid) -> Places:
    return grid.places(np.arange(len(grid)))


def cover(grid: PatchGrid, extents: list[Extent]) -> list[np.ndarray]:
    """How many patches each pixel is in."""
    found = [np.zeros((e.samples, *e.size), int) for e in extents]
    for i, s, *ends in zip(*places(grid)[:4], strict=True):
        found[i][(s, *map(slice, ends[0], np.add(*ends)))] += 1
    return found


@PROPERTY
@given(cases())
def test_patches_lie_side_by_side_and_the_last_ends_with_the_image(
    case: tuple[list[Extent], tuple[int, ...], int],
) -> None:
    extents, patch, budget = case
    grid = PatchGrid(extents, patch, window_bytes=budget)
    for extent, counts in zip(extents, cover(grid, extents), strict=True):
        twice = [
            1
            + (np.arange(n) // p * p < n // p * p) * (np.arange(n) >= n - p) * (n % p > 0) * (n > p)
            for n, p in zip(extent.size, patch, strict=True)
        ]
        for sample in counts:
            np.testing.assert_array_equal(sample, reduce(np.multiply.outer, twice))
    found = places(grid)
    size = np.array([extents[i].size for i in found.image])
    assert (found.size == patch).all() and not found.crop.size
    np.testing.assert_array_equal(found.start + patch > size, (size < patch) & (found.start == 0))


@PROPERTY
@given(cases())
def test_patches_are_in_the_order_of_images_and_of_what_is_read_together(
    case: tuple[list[Extent], tuple[int, ...], int],
) -> None:
    extents, patch, budget = case
    grid = PatchGrid(extents, patch, window_bytes=budget)
    tiles = places(grid)
    # Samples that are stored together go together.
    group = tiles.sample // np.array([e.together for e in extents])[tiles.image]
    assert (np.diff(tiles.image * 10 + group) >= 0).all()
    assert (np.diff(tiles.window) >= 0).all()
    for window in np.unique(tiles.window).tolist():
        mine = np.flatnonzero(tiles.window == window)
        assert grid.first(window) == mine[0]
        assert len({*zip(tiles.image[mine].tolist(), group[mine].tolist(), strict=True)}) == 1
        region = grid.region(window)
        assert (tiles.start[mine] >= region.start).all()
        assert (tiles.start[mine] + tiles.size[mine] <= region.stop).all()
        assert (tiles.start[mine].min(axis=0) == region.start).all()


@PROPERTY
@given(cases(), st.data())
def test_samples_can_be_chosen(
    case: tuple[list[Extent], tuple[int, ...], int], data: st.DataObject
) -> None:
    extents, patch, budget = case
    n = sum(extent.samples for extent in extents)
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    grid = PatchGrid(extents, patch, window_bytes=budget, chosen=chosen)
    counts = [pixels for image in cover(grid, extents) for pixels in image]
    for pixels, is_chosen in zip(counts, chosen, strict=True):
        assert ((pixels > 0) == is_chosen).all()


@PROPERTY
@given(cases(), st.integers(0, 99))
def test_patches_that_are_not_allowed_are_left_out_and_some_or_all_come_in_other_orders(
    case: tuple[list[Extent], tuple[int, ...], int], seed: int
) -> None:
    extents, patch, budget = case
    rng = np.random.default_rng(seed)
    masks = {
        (i, s): OriginMask(rng.random(extent.size) < 0.5, patch)
        for i, extent in enumerate(extents)
        for s in range(extent.samples)
        if rng.random() < 0.5
    }
    every = places(PatchGrid(extents, patch, window_bytes=budget))
    keep = [
        (i, s) not in masks or bool(masks[i, s].allows(start[None])[0])
        for i, s, start in zip(every.image, every.sample, every.start, strict=True)
    ]
    grid = PatchGrid(extents, patch, window_bytes=budget, allowed=masks, seed=budget)
    for column, wanted in zip(places(grid), every, strict=True):
        np.testing.assert_array_equal(column, wanted[keep])
    others = [grid.epoch(3), grid.some(len(grid) // 2, rng)]
    rows = [np.column_stack([p.image, p.sample, p.start]).tolist() for p in map(places, others)]
    expected = np.column_stack([every.image, every.sample, every.start])[keep].tolist()
    assert sorted(rows[0]) == sorted(expected)
    assert len(rows[1]) == len(grid) // 2
    assert [row for row in expected if row in rows[1]] == rows[1]
    for other in others:
        tiles = places(other)
        for window in np.unique(tiles.window).tolist():
            mine = np.flatnonzero(tiles.window == window)
            assert other.first(window) == mine[0]
            region = other.region(window)
            assert (tiles.start[mine] >= region.start).all()
            assert (tiles.start[mine] + tiles.size[mine] <= region.stop).all()


def test_a_huge_slide_needs_no_table_of_patches() -> None:
    grid = PatchGrid(
        [Extent(1, (200_000, 200_000), (256, 256), 2, False)], (256, 256), window_bytes=2**24
    )
    assert len(grid) == 782**2
    window = int(grid.windows(np.array([500_000]))[0])
    region = grid.region(window)
    assert np.prod(np.subtract(region.stop, region.start)) * 2 < 1.2 * 2**24
    assert grid.first(window) <= 500_000 < grid.first(window + 1)


def test_the_patches_of_a_grid_come_in_another_order_in_every_epoch() -> None:
    extents = [Extent(30, (16, 16), (8, 8), 2, False)]

    def order(seed: int, epoch: int) -> list[list[int]]:
        tiles = places(PatchGrid(extents, (8, 8), window_bytes=2000, seed=seed).epoch(epoch))
        rows: list[list[int]] = np.column_stack([tiles.sample, tiles.start]).tolist()
        return rows

    first, tiles = order(0, 0), places(PatchGrid(extents, (8, 8)))
    assert sorted(first) == sorted(np.column_stack([tiles.sample, tiles.start]).tolist())
    assert first == order(0, 0)
    assert first != order(0, 1) != order(0, 2) != first
    assert first != order(1, 0)
