from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, zip_longest
from math import ceil, prod

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from careamics_dm.images.extent import Extent
from careamics_dm.loading.schedule import Schedule, rank_slice, schedule, worker_slice
from careamics_dm.sampling.plan import Plan, Share
from careamics_dm.sampling.random_patches import random_plan
from careamics_dm.sampling.tiling import grid_plan, tile_plan

# No deadlines: they tell how busy the machine is.
PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


COUNTS = st.sampled_from([0, 1, 2, 3, 5, 6, 7, 11, 12, 13, 31, 32, 33, 100, 127])
RANKS = st.integers(1, 3)
WORKERS = st.integers(0, 5)  # 0: none, the process itself reads
BATCH = st.sampled_from([1, 2, 4, 5, 32])

EXTENTS = [
    Extent(2, (40, 50), (8, 8), 2, False),
    Extent(1, (90, 30), (30, 30), 1, True),
    Extent(1, (20, 20), (20, 20), 4, False),
    Extent(3, (6, 64), (6, 6), 2, False),  # lower than a patch
]


def drawn(n: int, seed: int = 0, cell_bytes: int = 2000) -> Plan:
    rng = np.random.default_rng(seed)
    return random_plan(EXTENTS, (8, 8), n, rng, cell_bytes=cell_bytes)


def fixed(n: int) -> Plan:
    grid = grid_plan(EXTENTS, (8, 8), cell_bytes=2000)
    return grid.take(np.arange(n) % len(grid))


def batches(plan: Plan, rank: int, world_size: int, workers: int, size: int) -> list[list[int]]:
    """Rows of the plan, batch by batch, in the order in which a loader delivers them.

    Workers deliver in turn; none is done before its turn comes, so that batch ``b`` is always
    the one of worker ``b % workers``, from where a resumed run goes on.
    """
    processes = max(workers, 1)
    mine = rank_slice(plan, Share(rank, world_size))
    of_worker = []
    for worker in range(processes):
        share = Share(rank, world_size, worker, processes)
        rows = mine[worker_slice(plan.take(mine), len(mine), size, share)].tolist()
        of_worker.append([rows[i : i + size] for i in range(0, len(rows), size)])
    turns = [batch for turn in zip_longest(*of_worker) for batch in turn]
    delivered = [batch for batch in turns if batch is not None]
    assert turns[: len(delivered)] == delivered
    return delivered


@PROPERTY
@given(COUNTS, RANKS, WORKERS, BATCH)
def test_random_patches_are_drawn_once_by_somebody_and_by_nobody_twice(
    n: int, ranks: int, workers: int, size: int
) -> None:
    plan = drawn(n)
    rows = [
        r for rank in range(ranks) for b in batches(plan, rank, ranks, workers, size) for r in b
    ]
    assert len(rows) == len(set(rows))
    assert n - len(rows) < ranks
    assert set(rows) <= set(range(n))


@PROPERTY
@given(COUNTS, RANKS, WORKERS, BATCH, st.booleans())
def test_all_ranks_yield_equally_many_batches_and_only_the_very_last_may_be_smaller(
    n: int, ranks: int, workers: int, size: int, is_random: bool
) -> None:
    plan = drawn(n) if is_random else fixed(n)
    lengths = [[len(b) for b in batches(plan, r, ranks, workers, size)] for r in range(ranks)]
    each = n // ranks if is_random else ceil(n / ranks)
    expected = [size] * (each // size) + [each % size] * (each % size > 0)
    assert lengths == [expected] * ranks


@PROPERTY
@given(COUNTS, RANKS, WORKERS, BATCH)
def test_random_patches_of_a_worker_are_neighbours_in_the_plan(
    n: int, ranks: int, workers: int, size: int
) -> None:
    plan = drawn(n)
    processes = max(workers, 1)
    for rank in range(ranks):
        mine = rank_slice(plan, Share(rank, ranks))
        assert (np.diff(mine) == 1).all()
        for worker in range(processes):
            share = Share(rank, ranks, worker, processes)
            assert (np.diff(worker_slice(plan, len(mine), size, share)) == 1).all()


@PROPERTY
@given(COUNTS, RANKS, WORKERS, BATCH)
def test_of_a_fixed_plan_nothing_is_left_out_and_only_the_first_patches_come_again(
    n: int, ranks: int, workers: int, size: int
) -> None:
    plan = fixed(n)
    rows = [
        r for rank in range(ranks) for b in batches(plan, rank, ranks, workers, size) for r in b
    ]
    again = ceil(n / ranks) * ranks - n
    assert sorted(rows) == sorted([*range(n), *(i % n for i in range(again))])


@PROPERTY
@given(COUNTS, RANKS, WORKERS, BATCH)
def test_the_order_of_fixed_patches_does_not_depend_on_workers(
    n: int, ranks: int, workers: int, size: int
) -> None:
    plan = fixed(n)
    for rank in range(ranks):
        assert batches(plan, rank, ranks, workers, size) == batches(plan, rank, ranks, 0, size)
    if ranks == 1:
        assert [r for b in batches(plan, 0, 1, workers, size) for r in b] == list(range(n))


@PROPERTY
@given(RANKS, WORKERS, BATCH, st.sets(st.integers(0, 3), min_size=1))
def test_the_tiles_of_an_image_are_all_on_one_rank(
    ranks: int, workers: int, size: int, images: set[int]
) -> None:
    plan = tile_plan(EXTENTS, (16, 16), (4, 4))
    plan = plan.take(np.isin(plan.image, [*images]))
    of_rank = [
        [r for b in batches(plan, rank, ranks, workers, size) for r in b] for rank in range(ranks)
    ]
    assert sorted(r for rows in of_rank for r in rows) == list(range(len(plan)))
    on = [set(plan.image[rows].tolist()) for rows in of_rank]
    assert sum(len(s) for s in on) == len(set().union(*on)) == len(images)
    # Also of some of the images, each rank gets its part.
    assert max(map(len, on)) - min(map(len, on)) <= 1


PLANS = st.one_of(
    st.builds(drawn, COUNTS, st.integers(0, 9), st.sampled_from([1, 500, 10**6])),
    st.builds(fixed, COUNTS),
)


def check_regions(planned: Schedule) -> None:
    regions = planned.regions
    for i, s, a, size, r in zip(
        planned.plan.image,
        planned.plan.sample,
        planned.plan.start,
        planned.plan.size,
        planned.region,
        strict=True,
    ):
        region = regions[r]
        assert (region.image, region.sample) == (i, s)
        assert (a >= region.start).all()
        assert (a + size <= region.stop).all()
    assert list(dict.fromkeys(planned.region.tolist())) == list(range(len(regions)))
    assert len(planned.region_bytes) == len(planned.window) == len(regions)
    assert np.all(np.diff(planned.window) >= 0)
    assert np.all(np.diff(planned.window[planned.region]) >= 0)
    last = [np.flatnonzero(planned.region == r)[-1] for r in range(len(regions))]
    assert planned.last_row.tolist() == last
    assert planned.origins.tolist() == [[region.sample, *region.start] for region in regions]


def rows_of(plan: Plan) -> list[tuple[int, ...]]:
    return [*map(tuple, np.column_stack([plan.image, plan.sample, plan.start]).tolist())]


@PROPERTY
@given(PLANS, st.integers(1, 10**5), st.booleans(), st.booleans(), st.integers(0, 99))
def test_a_schedule_is_the_same_patches_in_regions_that_contain_them_numbered_by_first_use(
    plan: Plan, window_bytes: int, whole: bool, ramp: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    planned = schedule(plan, EXTENTS, window_bytes, rng, whole_samples=whole, ramp=ramp)
    assert sorted(rows_of(planned.plan)) == sorted(rows_of(plan))
    check_regions(planned)


@PROPERTY
@given(PLANS, st.integers(1, 10**5), st.booleans())
def test_without_a_generator_the_order_stays(plan: Plan, window_bytes: int, whole: bool) -> None:
    planned = schedule(plan, EXTENTS, window_bytes, None, whole_samples=whole)
    assert rows_of(planned.plan) == rows_of(plan)
    check_regions(planned)


@PROPERTY
@given(PLANS)
def test_a_region_reaches_as_far_as_its_patches_and_costs_its_bytes(plan: Plan) -> None:
    planned = schedule(plan, EXTENTS, 10**9, None)
    for r, region in enumerate(planned.regions):
        mine = planned.plan.take(planned.region == r)
        assert region.start == tuple(mine.start.min(axis=0))
        assert region.stop == tuple((mine.start + mine.size).max(axis=0))
        extent = EXTENTS[region.image]
        pixels = prod(b - a for a, b in zip(region.start, region.stop, strict=True))
        n_bytes = 0 if extent.in_memory else pixels * extent.pixel_bytes
        assert planned.region_bytes[r] == n_bytes


@PROPERTY
@given(PLANS, st.integers(0, 99))
def test_whole_samples_are_one_region_each_however_the_plan_is_cut_into_cells(
    plan: Plan, seed: int
) -> None:
    planned = schedule(plan, EXTENTS, 10**9, np.random.default_rng(seed), whole_samples=True)
    places = [(region.image, region.sample) for region in planned.regions]
    assert len(places) == len(set(places))
    for region in planned.regions:
        assert region.start == (0, 0)
        assert region.stop == tuple(np.maximum(EXTENTS[region.image].size, 8))


@PROPERTY
@given(COUNTS, st.integers(500, 10**4), st.booleans(), st.integers(0, 99))
def test_patches_are_mixed_over_windows_that_keep_to_their_bytes(
    n: int, window_bytes: int, ramp: bool, seed: int
) -> None:
    plan = drawn(n, seed, cell_bytes=500)
    planned = schedule(plan, EXTENTS, window_bytes, np.random.default_rng(seed), ramp=ramp)
    # What is live at any time lies in one window: from first to last use of its regions.
    uses = [np.flatnonzero(planned.region == r) for r in range(len(planned.regions))]
    sizes = np.array(planned.region_bytes)
    for position in range(n):
        live = [r for r, rows in enumerate(uses) if rows[0] <= position <= rows[-1]]
        assert sizes[live].sum() <= window_bytes or np.count_nonzero(sizes[live]) == 1


def n_mixed(planned: Schedule, first: int, last: int) -> int:
    return len(set(planned.region[first:last].tolist()))


def test_windows_grow_from_a_single_region_so_that_the_first_batch_comes_soon() -> None:
    extents = [Extent(1, (16, 16), (16, 16), 1, False)] * 31
    plan = grid_plan(extents, (8, 8))  # 4 patches of each
    rng = np.random.default_rng(0)
    planned = schedule(plan, extents, 10**9, rng)
    edges = np.cumsum([0, 4, 8, 16, 32, 64])
    for k, (first, last) in enumerate(pairwise(edges)):
        assert n_mixed(planned, first, last) == 2**k
    assert n_mixed(schedule(plan, extents, 10**9, rng, ramp=False), 0, 20) > 10


def test_images_in_memory_are_mixed_however_many() -> None:
    extents = [Extent(1, (16, 16), (16, 16), 1, True)] * 31
    plan = grid_plan(extents, (8, 8))
    planned = schedule(plan, extents, 1, np.random.default_rng(0), ramp=False)
    assert n_mixed(planned, 0, 20) > 10
    assert set(planned.region_bytes) == {0}


def test_a_window_may_be_filled_to_the_last_byte() -> None:
    extents = [Extent(1, (16, 16), (16, 16), 1, False)] * 4
    plan, rng = grid_plan(extents, (8, 8)), np.random.default_rng(0)
    for window_bytes, n_windows in ((2 * 256, 2), (2 * 256 - 1, 4)):
        planned = schedule(plan, extents, window_bytes, rng, ramp=False)
        assert planned.window.tolist() == np.repeat(np.arange(n_windows), 4 // n_windows).tolist()


def test_the_generator_decides_the_order() -> None:
    plan = drawn(100)
    orders = [
        rows_of(schedule(plan, EXTENTS, 10**9, np.random.default_rng(s)).plan) for s in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("whole", [False, True])
def test_nothing_to_do_is_a_schedule_too(whole: bool) -> None:
    empty = drawn(0)
    planned = schedule(empty, EXTENTS, 100, np.random.default_rng(0), whole_samples=whole)
    assert (len(planned.plan), planned.regions, planned.region_bytes) == (0, [], [])


def test_a_plan_split_by_image_keeps_its_split_when_reduced() -> None:
    plan = replace(drawn(9), split="by image")
    assert plan.take(slice(0, 3)).split == "by image"
