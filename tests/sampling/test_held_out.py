from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from careamics_dm.errors import DataError
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.extent import Extent
from careamics_dm.sampling.allowed_origins import OriginMask
from careamics_dm.sampling.held_out import HeldOut, from_rows, hold_out, to_rows, without_overlap
from careamics_dm.sampling.random_patches import random_plan
from careamics_dm.sampling.tiling import grid_plan

if TYPE_CHECKING:
    from careamics_dm.sampling.plan import Plan

# No deadlines: they tell how busy the machine is.
PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def on_disk(*sizes: tuple[int, ...], samples: int = 1, block: int = 8) -> list[Extent]:
    return [Extent(samples, s, tuple(min(block, n) for n in s), 2, False) for s in sizes]


def whole_patches(extents: list[Extent], patch: tuple[int, ...]) -> Plan:
    """The grid without the last patches of axes that patches do not divide."""
    plan = grid_plan(extents, patch)
    inside = plan.start + plan.size <= np.array([e.size for e in extents])[plan.image]
    return plan.take((inside & (plan.start % plan.size == 0)).all(axis=1))


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Extent], tuple[int, ...], int]:
    """Images, some smaller than a patch; a patch size; how many to hold out, up to all but one."""
    n_axes = draw(st.integers(2, 3))
    sizes = draw(st.lists(st.tuples(*[st.integers(2, 20)] * n_axes), min_size=1, max_size=3))
    patch = tuple(draw(st.integers(1, 6)) for _ in range(n_axes))
    extents = on_disk(*sizes, samples=draw(st.integers(1, 2)), block=draw(st.integers(1, 9)))
    n_cells = len(whole_patches(extents, patch))
    assume(n_cells > 1)
    return extents, patch, draw(st.sampled_from([1, n_cells // 2, n_cells - 1]))


def overlaps(plan: Plan, held: Plan) -> np.ndarray:
    """Whether each patch overlaps a held-out one, by brute force."""
    same = (plan.image[:, None] == held.image) & (plan.sample[:, None] == held.sample)
    apart = np.abs(plan.start[:, None] - held.start)
    return (same & (apart < plan.size[:, None]).all(axis=-1)).any(axis=1)


@PROPERTY
@given(cases(), st.integers(0, 2**32))
def test_held_out_patches_are_distinct_cells_of_a_grid_of_patches(
    case: tuple[list[Extent], tuple[int, ...], int], seed: int
) -> None:
    extents, patch, n = case
    held = hold_out(extents, patch, n, np.random.default_rng(seed))
    assert len(held) == n
    places = np.column_stack([held.image, held.sample, held.start])
    assert len(np.unique(places, axis=0)) == n
    assert (held.start % patch == 0).all()
    size = np.array([extents[i].size for i in held.image]).reshape(n, -1)
    assert (held.start + patch <= size).all()
    assert (np.diff(held.image) >= 0).all()
    assert np.count_nonzero(np.diff(held.cell)) + 1 == len(np.unique(held.cell))


@PROPERTY
@given(cases(), st.integers(0, 2**32), st.integers(1, 3000))
def test_no_training_patch_ever_overlaps_a_held_out_one(
    case: tuple[list[Extent], tuple[int, ...], int], seed: int, budget: int
) -> None:
    extents, patch, n = case
    rng = np.random.default_rng(seed)
    held = hold_out(extents, patch, n, rng)
    plan = random_plan(extents, patch, 40, rng, cell_bytes=budget, held_out=held)
    assert len(plan) == 40
    assert not overlaps(plan, held).any()
    inside = plan.start + plan.size <= np.array([extents[i].size for i in plan.image])
    assert (inside | (plan.start == 0)).all()


@PROPERTY
@given(cases(), st.integers(0, 2**32))
def test_overlap_is_found_as_by_comparing_all_pairs(
    case: tuple[list[Extent], tuple[int, ...], int], seed: int
) -> None:
    extents, patch, _ = case
    rng = np.random.default_rng(seed)
    start, held = (rng.integers(0, 30, (n, len(patch))) for n in (50, 5))  # not on the grid
    expected = (np.abs(start[:, None] - held) < patch).all(axis=-1).any(axis=1)
    found = HeldOut(None, extents, patch).overlaps(start, held)
    np.testing.assert_array_equal(found, expected)


def test_the_same_generator_holds_out_the_same() -> None:
    extents = on_disk((100, 100), (50, 80))
    one, two, other = (hold_out(extents, (8, 8), 9, np.random.default_rng(s)) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.start, two.start)
    assert not np.array_equal(one.start, other.start)


def test_every_cell_is_equally_likely_to_be_held_out() -> None:
    extents = on_disk((16, 24), (8, 16), samples=2)
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(400):
        held = hold_out(extents, (8, 8), 4, np.random.default_rng(seed))
        for place in np.column_stack([held.image, held.sample, held.start]).tolist():
            counts[tuple(place)] = counts.get(tuple(place), 0) + 1
    assert len(counts) == 16
    assert all(abs(count - 100) < 45 for count in counts.values())


def test_where_one_cell_is_left_all_patches_are_drawn_there() -> None:
    extents = on_disk((40, 40))
    held = hold_out(extents, (8, 8), 24, np.random.default_rng(0))
    plan = random_plan(extents, (8, 8), 50, np.random.default_rng(1), cell_bytes=500, held_out=held)
    grid = grid_plan(extents, (8, 8))
    left = grid.take(~overlaps(grid, held))
    np.testing.assert_array_equal(np.unique(plan.start, axis=0), left.start)


def test_an_image_whose_every_cell_is_held_out_gets_nothing() -> None:
    extents = on_disk((16, 16), (19, 23), (30, 30), (16, 16))
    full = whole_patches(extents, (8, 8))
    held = full.take(full.image != 2)
    for seed in range(20):
        plan = random_plan(
            extents, (8, 8), 25, np.random.default_rng(seed), cell_bytes=500, held_out=held
        )
        assert len(plan) == 25
        assert set(plan.image.tolist()) == {2}


def test_images_get_patches_in_proportion_to_what_is_left() -> None:
    extents = on_disk((40, 40), (40, 40))
    grid = grid_plan(extents, (8, 8))
    held = grid.take((grid.image == 0) & (np.arange(len(grid)) < 15))
    plan = random_plan(
        extents, (8, 8), 350, np.random.default_rng(0), cell_bytes=10**6, held_out=held
    )
    np.testing.assert_array_equal(np.bincount(plan.image), [100, 250])


def test_if_nothing_is_left_it_is_an_error() -> None:
    extents = on_disk((16, 16))
    held = grid_plan(extents, (8, 8))
    with pytest.raises(DataError, match="masks and validation patches leave no place"):
        random_plan(extents, (8, 8), 4, np.random.default_rng(0), cell_bytes=1, held_out=held)


@pytest.mark.parametrize("n", [6, 7])
def test_holding_out_everything_is_an_error(n: int) -> None:
    with pytest.raises(DataError) as error:
        hold_out(on_disk((16, 24)), (8, 8), n, np.random.default_rng(0))
    assert f"n_val_patches={n}, but the training data hold only 6 patches of (8, 8)" in str(
        error.value
    )


def test_only_cells_whose_centre_is_in_the_mask_are_held_out() -> None:
    rng = np.random.default_rng(0)
    extents = on_disk((40, 40), (24, 40), (5, 5))
    pixels = [rng.random(e.size) < 0.5 for e in extents]
    masks = {(i, 0): OriginMask(m, (8, 8)) for i, m in enumerate(pixels) if i != 1}
    grid = whole_patches(extents, (8, 8))
    inside = [
        i == 1 or pixels[i][y + 4, x + 4]
        for i, (y, x) in zip(grid.image.tolist(), grid.start.tolist(), strict=True)
    ]
    held = hold_out(extents, (8, 8), sum(inside) - 1, rng, masks)
    allowed = grid.take(np.array(inside))
    assert overlaps(allowed, held).sum() == sum(inside) - 1
    assert overlaps(held, allowed).all()
    with pytest.raises(DataError, match=f"hold only {sum(inside)} patches"):
        hold_out(extents, (8, 8), sum(inside), rng, masks)


def test_what_is_read_together_for_validation_is_bounded_also_in_huge_images() -> None:
    held = hold_out(on_disk((30_000, 30_000)), (64, 64), 500, np.random.default_rng(0))
    first = np.flatnonzero(np.diff(held.cell, prepend=-1))
    low = np.minimum.reduceat(held.start, first)
    high = np.maximum.reduceat(held.start + held.size, first)
    assert ((high - low).prod(axis=1) * 2).max() < 1.2 * 2**25


@PROPERTY
@given(cases(), st.integers(0, 2**32))
def test_a_plan_without_overlap_keeps_exactly_what_does_not_overlap(
    case: tuple[list[Extent], tuple[int, ...], int], seed: int
) -> None:
    extents, patch, n = case
    held = hold_out(extents, patch, n, np.random.default_rng(seed))
    plan = grid_plan(extents, patch)
    kept = without_overlap(plan, held)
    np.testing.assert_array_equal(kept.start, plan.start[~overlaps(plan, held)])


@pytest.fixture
def stacks() -> list[ArrayStack]:
    return [
        ArrayStack(np.zeros((2, 24, 32), np.uint8), "TYX", "a.tif"),
        ArrayStack(np.zeros((40, 16), np.uint8), "YX", "b.tif"),
    ]


@pytest.fixture
def held(stacks: list[ArrayStack]) -> Plan:
    extents = [Extent(s.data_shape[0], s.data_shape[2:], s.data_shape[2:], 1, True) for s in stacks]
    return hold_out(extents, (8, 8), 12, np.random.default_rng(0))


def test_held_out_patches_are_written_as_plain_values_and_read_back(
    stacks: list[ArrayStack], held: Plan
) -> None:
    rows = to_rows(held, stacks)
    assert all(type(value) in (str, int) for row in rows for value in row)
    again = from_rows(rows, stacks, (8, 8))
    for name in ("image", "sample", "start", "size", "cell", "crop"):
        np.testing.assert_array_equal(getattr(again, name), getattr(held, name), strict=True)


def test_held_out_patches_are_found_again_when_images_come_in_another_order(
    stacks: list[ArrayStack], held: Plan
) -> None:
    again = from_rows(to_rows(held, stacks), stacks[::-1], (8, 8))
    assert sorted(to_rows(again, stacks[::-1])) == sorted(to_rows(held, stacks))


def test_a_validation_image_that_is_missing_is_named(stacks: list[ArrayStack], held: Plan) -> None:
    with pytest.raises(DataError, match=r"holds out validation patches of a\.tif, which is not"):
        from_rows(to_rows(held, stacks), stacks[1:], (8, 8))


@pytest.mark.parametrize(
    ("row", "patch"),
    [
        (["b.tif", 0, 40, 0], (8, 8)),
        (["b.tif", 1, 0, 0], (8, 8)),
        (["b.tif", 0, 0, 8], (8, 16)),
        (["b.tif", 0, 0, 0, 0], (8, 8)),
        (["b.tif", 0, 0, 0], (8, 8, 8)),
    ],
)
def test_a_validation_patch_that_lies_outside_now_is_an_error(
    stacks: list[ArrayStack], row: list[object], patch: tuple[int, ...]
) -> None:
    with pytest.raises(DataError, match=r"validation patch of b\.tif.*image has 1 sample\(s\)"):
        from_rows([row], stacks, patch)


def test_no_rows_make_an_empty_plan(stacks: list[ArrayStack]) -> None:
    assert len(from_rows([], stacks, (8, 8))) == 0
