from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from careamics_dm.images.extent import Extent
from careamics_dm.sampling.random_patches import GridPatches
from careamics_dm.sampling.tiling import grid_plan, n_covering, tile_plan

if TYPE_CHECKING:
    from careamics_dm.sampling.plan import Plan

# No deadlines: they tell how busy the machine is.
PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


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
def cases(draw: st.DrawFn) -> tuple[list[Extent], tuple[int, ...], tuple[int, ...], int]:
    """Images, a tile (often about as large as the first image), an overlap, a budget."""
    extents = draw(EXTENT_LISTS)
    tile = tuple(
        draw(st.integers(1, 12) | st.integers(max(n - 1, 1), n + 1)) for n in extents[0].size
    )
    overlap = tuple(draw(st.integers(0, t - 1)) for t in tile)
    return extents, tile, overlap, draw(st.integers(1, 2000))


def cover(plan: Plan, extents: list[Extent]) -> list[np.ndarray]:
    """How often each pixel is in the kept part of a tile."""
    found = [np.zeros((e.samples, *e.size), int) for e in extents]
    n_axes = plan.start.shape[1]
    for i, s, box in zip(plan.image, plan.sample, plan.crop, strict=True):
        found[i][(s, *map(slice, box[:n_axes], box[n_axes:]))] += 1
    return found


def cells_stand_together(plan: Plan) -> bool:
    n_changes = np.count_nonzero(np.diff(plan.cell))
    return n_changes + 1 == len(set(plan.cell.tolist()))


@PROPERTY
@given(cases())
def test_the_kept_parts_of_tiles_cover_every_pixel_exactly_once(
    case: tuple[list[Extent], tuple[int, ...], tuple[int, ...], int],
) -> None:
    extents, tile, overlap, budget = case
    plan = tile_plan(extents, tile, overlap, cell_bytes=budget)
    assert all((counts == 1).all() for counts in cover(plan, extents))


@PROPERTY
@given(cases())
def test_tiles_lie_inside_an_image_that_is_larger_and_contain_what_they_keep(
    case: tuple[list[Extent], tuple[int, ...], tuple[int, ...], int],
) -> None:
    extents, tile, overlap, budget = case
    plan = tile_plan(extents, tile, overlap, cell_bytes=budget)
    size = np.array([extents[i].size for i in plan.image])
    stop, n_axes = plan.start + plan.size, len(tile)
    assert (plan.size == tile).all()
    assert (plan.start >= 0).all()
    np.testing.assert_array_equal(stop > size, (size < tile) & (plan.start == 0))
    first, last = plan.crop[:, :n_axes], plan.crop[:, n_axes:]
    assert (plan.start <= first).all()
    assert (first < last).all()
    assert (last <= np.minimum(stop, size)).all()


@PROPERTY
@given(cases())
def test_a_kept_part_is_half_the_overlap_away_from_the_edge_of_its_tile(
    case: tuple[list[Extent], tuple[int, ...], tuple[int, ...], int],
) -> None:
    extents, tile, overlap, budget = case
    plan = tile_plan(extents, tile, overlap, cell_bytes=budget)
    size, n_axes = np.array([extents[i].size for i in plan.image]), len(tile)
    margin = np.array(overlap) // 2
    first, last = plan.crop[:, :n_axes], plan.crop[:, n_axes:]
    assert ((first - plan.start >= margin) | (first == 0)).all()
    assert ((plan.start + plan.size - last >= margin) | (last == size)).all()


@PROPERTY
@given(cases())
def test_tiles_are_in_the_order_of_images_and_samples_and_cells_stand_together(
    case: tuple[list[Extent], tuple[int, ...], tuple[int, ...], int],
) -> None:
    extents, tile, overlap, budget = case
    plan = tile_plan(extents, tile, overlap, cell_bytes=budget)
    # Samples that are stored together go together.
    group = plan.sample // np.array([e.together for e in extents])[plan.image]
    assert (np.diff(plan.image * 10 + group) >= 0).all()
    assert cells_stand_together(plan)
    assert plan.split == "by image"
    for cell in np.unique(plan.cell):
        places = plan.take(plan.cell == cell)
        assert (
            len({*zip(places.image.tolist(), group[plan.cell == cell].tolist(), strict=True)}) == 1
        )


def test_the_last_two_tiles_which_overlap_more_meet_in_the_middle_too() -> None:
    plan = tile_plan([Extent(1, (11, 6), (6, 6), 2, False)], (6, 6), (2, 0))
    assert plan.start[:, 0].tolist() == [0, 4, 5]
    assert plan.crop[:, [0, 2]].tolist() == [[0, 5], [5, 7], [7, 11]]


def test_without_a_tile_size_images_are_tiles() -> None:
    extents = [Extent(2, (5, 6), (1, 1), 2, False), Extent(1, (300, 4), (1, 1), 2, False)]
    plan = tile_plan(extents, None, (0, 0), cell_bytes=1)
    np.testing.assert_array_equal(plan.size, [[5, 6], [5, 6], [300, 4]])
    np.testing.assert_array_equal(plan.crop[:, 2:], plan.size)


@PROPERTY
@given(cases())
def test_a_grid_covers_the_data(
    case: tuple[list[Extent], tuple[int, ...], tuple[int, ...], int],
) -> None:
    extents, patch, _, budget = case
    plan = grid_plan(extents, patch, cell_bytes=budget)
    assert all((counts == 1).all() for counts in cover(plan, extents))
    assert plan.split == "fixed"


@PROPERTY
@given(cases())
def test_the_count_of_patches_that_cover_is_the_length_of_the_grid(
    case: tuple[list[Extent], tuple[int, ...], tuple[int, ...], int],
) -> None:
    extents, patch, _, _ = case
    assert n_covering(extents, patch) == len(grid_plan(extents, patch))


def test_what_is_read_together_is_bounded_also_for_huge_images() -> None:
    extent = Extent(1, (20_000, 20_000), (256, 256), 2, False)
    plan = grid_plan([extent], (100, 100))
    first = np.flatnonzero(np.diff(plan.cell, prepend=-1))
    low = np.minimum.reduceat(plan.start, first)
    high = np.maximum.reduceat(plan.start + plan.size, first)
    assert ((high - low).prod(axis=1) * 2).max() < 1.2 * 2**25


def test_the_patches_of_a_grid_come_in_another_order_in_every_epoch() -> None:
    extents = [Extent(1, (64, 64), (8, 8), 2, False)]
    plan = grid_plan(extents, (8, 8), cell_bytes=2000)

    def order(seed: int, epoch: int) -> list[list[int]]:
        places: list[list[int]] = GridPatches(plan, seed).at(epoch).start.tolist()
        return places

    first = order(0, 0)
    assert sorted(first) == sorted(plan.start.tolist())
    assert first == order(0, 0)
    assert first != order(0, 1) != order(0, 2) != first
    assert first != order(1, 0)
