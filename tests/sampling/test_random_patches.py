from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from careamics_dm.errors import DataError
from careamics_dm.images.extent import Extent
from careamics_dm.sampling.allowed_origins import OriginMask
from careamics_dm.sampling.held_out import hold_out
from careamics_dm.sampling.random_patches import RandomPatches, random_plan

if TYPE_CHECKING:
    from careamics_dm.sampling.plan import Plan

# No deadlines: they tell how busy the machine is.
PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


FIELDS = ("image", "sample", "start", "size", "cell", "crop")


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[Extent, ...], tuple[int, ...], int]:
    """Images of all kinds, a patch size, a budget."""
    n_axes = draw(st.integers(2, 3))
    extents = draw(
        st.lists(
            st.builds(
                Extent,
                st.integers(1, 3),
                st.tuples(*[st.integers(1, 40)] * n_axes),
                st.tuples(*[st.integers(1, 12)] * n_axes),
                st.integers(1, 4),
                st.booleans(),
            ),
            min_size=1,
            max_size=4,
        )
    )
    patch = tuple(draw(st.integers(1, 12)) for _ in range(n_axes))
    return tuple(extents), patch, draw(st.integers(1, 10_000))


def on_disk(*sizes: tuple[int, ...], block: tuple[int, ...], samples: int = 1) -> list[Extent]:
    return [Extent(samples, size, block, 1, False) for size in sizes]


def chi_square_is_plausible(counts: np.ndarray, expected: np.ndarray | float) -> bool:
    chi2, df = ((counts - expected) ** 2 / expected).sum(), counts.size - 1
    return bool(abs(chi2 - df) < 4.5 * (2 * df) ** 0.5)


@PROPERTY
@given(cases(), st.integers(0, 200), st.integers(0, 2**32), st.integers(0, 5))
def test_a_plan_is_a_pure_function_of_seed_and_epoch(
    case: tuple[tuple[Extent, ...], tuple[int, ...], int], n: int, seed: int, epoch: int
) -> None:
    extents, patch, budget = case
    one = RandomPatches(extents, patch, n, seed, budget)
    two = RandomPatches(tuple(e._replace() for e in extents), patch, n, seed, budget)
    two.at(epoch + 1)
    for field in FIELDS:
        np.testing.assert_array_equal(
            getattr(one.at(epoch), field), getattr(two.at(epoch), field), strict=True
        )


@PROPERTY
@given(cases(), st.integers(0, 200), st.integers(0, 2**32))
def test_exactly_as_many_patches_as_asked_for_lie_inside_their_images(
    case: tuple[tuple[Extent, ...], tuple[int, ...], int], n: int, seed: int
) -> None:
    extents, patch, budget = case
    plan = RandomPatches(extents, patch, n, seed, budget).at(0)
    assert len(plan) == n == len(RandomPatches(extents, patch, n, seed, budget))
    assert plan.split == "random"
    assert (plan.size == patch).all()
    size = np.array([e.size for e in extents])[plan.image]
    # In an axis that is shorter than the patch, it begins at 0.
    assert ((plan.start >= 0) & (plan.start <= np.maximum(size - patch, 0))).all()
    assert (plan.sample < np.array([e.samples for e in extents])[plan.image]).all()


@PROPERTY
@given(cases(), st.integers(1, 200), st.integers(0, 2**32))
def test_patches_of_a_cell_stand_together_and_are_of_samples_that_are_stored_together(
    case: tuple[tuple[Extent, ...], tuple[int, ...], int], n: int, seed: int
) -> None:
    extents, patch, budget = case
    plan = RandomPatches(extents, patch, n, seed, budget).at(0)
    assert np.count_nonzero(np.diff(plan.cell)) + 1 == len(set(plan.cell.tolist()))
    group = plan.sample // np.array([e.together for e in extents])[plan.image]
    places = np.column_stack([plan.cell, plan.image, group])
    assert len(np.unique(places, axis=0)) == len(set(plan.cell.tolist()))


def boxes(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Start and stop of what is read of each cell."""
    first = np.flatnonzero(np.diff(plan.cell, prepend=-1))
    return (
        np.minimum.reduceat(plan.start, first),
        np.maximum.reduceat(plan.start + plan.size, first),
    )


def test_what_is_read_at_once_stays_within_the_budget() -> None:
    extents = on_disk((999, 1001), (2000, 300), block=(32, 50))
    plan = RandomPatches(tuple(extents), (20, 20), 5000, 0, 40_000).at(0)
    start, stop = boxes(plan)
    assert (stop - start).prod(axis=1).max() <= 40_000
    assert len(start) > 20


def test_cells_do_not_overlap_and_are_whole_blocks() -> None:
    extents = on_disk((200, 200), block=(16, 16))
    plan = RandomPatches(tuple(extents), (10, 10), 3000, 0, 64 * 64).at(0)
    start, stop = boxes(plan)
    blocks: set[tuple[int, int]] = set()
    for a, b in zip(start // 16, (stop - 1) // 16 + 1, strict=True):
        mine = {(y, x) for y in range(a[0], b[0]) for x in range(a[1], b[1])}
        assert not mine & blocks, "a block is read twice"
        blocks |= mine
    # A shift may leave a cell at the border that is too narrow for a patch, for this epoch.
    assert len(blocks) >= 12 * 12


def test_epochs_and_seeds_differ_in_patches_and_in_the_order_of_cells() -> None:
    extents = tuple(on_disk((300, 300), (200, 400), block=(16, 16)))
    plans = [
        RandomPatches(extents, (16, 16), 200, s, 5000).at(e) for s, e in ((0, 0), (0, 1), (1, 0))
    ]
    for i, one in enumerate(plans):
        for other in plans[:i]:
            shared = {*map(tuple, one.start.tolist())} & {*map(tuple, other.start.tolist())}
            assert len(shared) < 10
            assert not np.array_equal(one.image, other.image)


def test_images_get_patches_in_proportion_to_their_area() -> None:
    extents = on_disk((10, 10), (30, 10), (2, 20), (50, 20), block=(5, 5), samples=2)
    plan = random_plan(extents, (4, 4), 2960, np.random.default_rng(0), cell_bytes=50)
    # An image smaller than the patch counts as large as the patch that pads it.
    areas = np.repeat([100, 300, 80, 1000], 2)
    counts = np.bincount(plan.image * 2 + plan.sample)
    assert np.abs(counts - areas).max() <= 1


def test_an_image_that_gets_less_than_a_patch_per_epoch_gets_it_every_so_often() -> None:
    extents = tuple(on_disk((10, 10), (30, 30), block=(30, 30)))
    patches = RandomPatches(extents, (4, 4), 2, 0, 10**6)
    got = [int((patches.at(epoch).image == 0).sum()) for epoch in range(500)]
    assert set(got) == {0, 1}
    assert abs(sum(got) - 100) < 40


@pytest.mark.parametrize(
    ("size", "patch", "block", "budget"),
    [
        ((9, 11), (4, 3), (9, 11), 10**6),  # in one piece
        ((9, 11), (4, 3), (1, 1), 30),
        ((12, 13), (3, 4), (4, 4), 64),  # blocks that do not divide the image
        ((12, 13), (5, 4), (2, 3), 64),  # patches larger than blocks
        ((1, 60), (1, 7), (1, 5), 20),  # a line
        ((17, 3), (4, 4), (5, 3), 30),  # narrower than the patch
        ((7, 8, 6), (3, 2, 3), (3, 3, 2), 80),
    ],
)
def test_over_the_epochs_every_origin_is_equally_likely(
    size: tuple[int, ...], patch: tuple[int, ...], block: tuple[int, ...], budget: int
) -> None:
    # One patch per epoch: those of an epoch share their grid of cells.
    patches = RandomPatches(tuple(on_disk(size, block=block)), patch, 1, 0, budget)
    counts = np.zeros(np.maximum(np.subtract(size, patch), 0) + 1)
    n_epochs = 2000
    for epoch in range(n_epochs):
        counts[tuple(patches.at(epoch).start[0])] += 1
    assert chi_square_is_plausible(counts, n_epochs / counts.size)


def test_over_the_epochs_origins_are_equally_likely_in_each_of_unequal_images() -> None:
    sizes = [(8, 20), (13, 6), (10, 10)]
    extents = on_disk(*sizes, block=(4, 4))
    extents[2] = extents[2]._replace(in_memory=True)
    patches = RandomPatches(tuple(extents), (3, 3), 1, 0, 40)
    counts = [np.zeros(np.subtract(size, 2)) for size in sizes]
    n_epochs = 2000
    for epoch in range(n_epochs):
        plan = patches.at(epoch)
        counts[plan.image[0]][tuple(plan.start[0])] += 1
    area = np.array([np.prod(size) for size in sizes])
    expected = [
        np.full(c.shape, n_epochs * a / area.sum() / c.size)
        for c, a in zip(counts, area, strict=True)
    ]
    assert chi_square_is_plausible(
        *(np.concatenate([x.ravel() for x in xs]) for xs in (counts, expected))
    )


def test_away_from_the_border_every_pixel_is_equally_likely_to_be_covered() -> None:
    patches = RandomPatches(tuple(on_disk((60, 60), block=(8, 8))), (6, 6), 20, 0, 500)
    covered = np.zeros((60, 60))
    n_epochs = 1000
    for epoch in range(n_epochs):
        for y, x in patches.at(epoch).start:
            covered[y : y + 6, x : x + 6] += 1
    inner = covered[6:-6, 6:-6]
    expected = n_epochs * 20 * 36 / 55**2
    assert abs(inner.mean() / expected - 1) < 0.02
    # Rows and columns beside block borders are covered as often as others.
    for axis in (0, 1):
        assert np.abs(inner.mean(axis=axis) / expected - 1).max() < 0.1


def masked(extents: list[Extent], patch: tuple[int, ...]) -> dict[tuple[int, int], OriginMask]:
    rng = np.random.default_rng(0)
    return {
        (i, s): OriginMask(rng.random(extent.size) < 0.4, patch)
        for i, extent in enumerate(extents)
        for s in range(extent.samples)
    }


def test_with_masks_all_allowed_origins_and_no_others_are_equally_likely() -> None:
    extents = on_disk((9, 12), block=(4, 4), samples=2)
    masks = masked(extents, (3, 3))
    patches = RandomPatches(tuple(extents), (3, 3), 500, 0, 40, masks=masks)
    counts = np.zeros((2, 7, 10))
    for epoch in range(20):
        plan = patches.at(epoch)
        np.add.at(counts, (plan.sample, *plan.start.T), 1)
    origins = np.array(list(np.ndindex(7, 10)))
    allowed = np.stack([masks[0, s].allows(origins).reshape(7, 10) for s in range(2)])
    np.testing.assert_array_equal(counts > 0, allowed)
    assert chi_square_is_plausible(counts[allowed], 10_000 / allowed.sum())


def test_an_image_that_its_mask_leaves_out_gets_nothing() -> None:
    extents = on_disk((9, 12), (9, 12), (9, 12), block=(4, 4))
    masks = {(i, 0): OriginMask(np.full((9, 12), i == 1), (3, 3)) for i in range(3)}
    plan = RandomPatches(tuple(extents), (3, 3), 50, 0, 40, masks=masks).at(0)
    assert set(plan.image.tolist()) == {1}
    assert len(plan) == 50


def test_a_mask_that_leaves_no_place_is_an_error() -> None:
    masks = {(0, 0): OriginMask(np.zeros((9, 12)), (3, 3))}
    with pytest.raises(DataError, match="leave no place for a training patch"):
        RandomPatches(tuple(on_disk((9, 12), block=(4, 4))), (3, 3), 5, 0, 40, masks=masks).at(0)


def test_masks_and_held_out_patches_work_together() -> None:
    extents = on_disk((24, 24), (24, 30), block=(8, 8), samples=2)
    held = hold_out(extents, (4, 4), 20, np.random.default_rng(0))
    masks = {key: m for key, m in masked(extents, (4, 4)).items() if key[0] == 0}
    for (i, s), mask in masks.items():
        starts = held.start[(held.image == i) & (held.sample == s)]
        mask.exclude(zip(starts, starts + 4, strict=True))
    plan = RandomPatches(tuple(extents), (4, 4), 2000, 0, 300, held, masks).at(0)
    for key, mask in masks.items():
        mine = (plan.image == key[0]) & (plan.sample == key[1])
        assert mine.any()
        assert mask.allows(plan.start[mine]).all()
    same = (plan.image[:, None] == held.image) & (plan.sample[:, None] == held.sample)
    assert not (same & (np.abs(plan.start[:, None] - held.start) < 4).all(axis=-1)).any()
