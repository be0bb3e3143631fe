from __future__ import annotations

import numpy as np

from careamics_dm.images.extent import Extent
from careamics_dm.sampling.plan import Plan, concatenate
from careamics_dm.sampling.tiling import grid_plan


def plan_of(*sizes: tuple[int, int]) -> Plan:
    return grid_plan([Extent(1, size, size, 2, False) for size in sizes], (4, 4))


def test_a_sample_in_memory_takes_no_bytes_to_read() -> None:
    on_disk = Extent(3, (10, 20), (5, 5), 4, False)
    assert on_disk.sample_bytes == 800
    assert on_disk._replace(in_memory=True).sample_bytes == 0


def test_a_plan_that_is_laid_out_once_is_the_same_in_every_epoch() -> None:
    plan = plan_of((8, 8))
    assert plan.at(0) is plan.at(7) is plan


def test_take_keeps_the_rows_asked_for_in_their_order() -> None:
    plan = plan_of((8, 8), (4, 12))
    rows = np.array([5, 0, 2, 2])
    taken = plan.take(rows)
    assert len(taken) == 4
    for name in ("image", "sample", "start", "size", "cell", "crop"):
        np.testing.assert_array_equal(getattr(taken, name), getattr(plan, name)[rows])
        np.testing.assert_array_equal(
            getattr(plan.take(slice(1, 4)), name), getattr(plan, name)[1:4]
        )
    assert taken.split == plan.split
    np.testing.assert_array_equal(plan.take(plan.image == 1).start, plan.start[4:])


def test_plans_are_put_one_after_another_with_their_cells_apart() -> None:
    parts = [plan_of((8, 8)), plan_of((8, 8)).take(slice(0, 0)), plan_of((4, 8))]
    both = concatenate(parts)
    assert len(both) == 6
    assert not set(both.cell[:4]) & set(both.cell[4:])
    np.testing.assert_array_equal(both.start[4:], parts[2].start)
