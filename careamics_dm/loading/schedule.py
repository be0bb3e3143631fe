"""Who draws what, and in which order: shares of a plan, and patches mixed over regions."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from careamics_dm.images.region import Region

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from careamics_dm.images.extent import Extent
    from careamics_dm.sampling.plan import Plan, Share


def rank_slice(plan: Plan, share: Share) -> NDArray[np.int64]:
    """Rows of a plan that belong to a rank.

    Random patches: equally many for each rank, next to each other in the plan, so that few
    cells are read twice; up to ``world_size - 1`` patches of the plan are left out. Fixed
    patches: equally many, the first ones again where they do not divide. Tiles: whole images,
    so that no two ranks touch the same output.
    """
    n, ranks = len(plan), share.world_size
    if plan.split == "by image":
        # Of the images that the plan has: it may have been reduced to some.
        number = np.unique(plan.image, return_inverse=True)[1].reshape(-1)
        return np.flatnonzero(number % ranks == share.rank)
    each = n // ranks if plan.split == "random" else ceil(n / ranks)
    rows: NDArray[np.int64] = (np.arange(each) + share.rank * each) % max(n, 1)
    return rows


def worker_slice(plan: Plan, n: int, batch_size: int, share: Share) -> NDArray[np.int64]:
    """Positions, among a rank's ``n`` patches, of those that a worker makes batches of.

    Workers deliver whole batches in turn. Of random patches, each worker takes a run, so that
    few cells are read twice; of others, every ``workers``-th batch, so that the order does not
    depend on the number of workers. Only the very last batch may be smaller.
    """
    batches, workers = ceil(n / batch_size), share.workers
    if plan.split != "random":
        mine = np.arange(share.worker, batches, workers)
    else:
        # The worker whose turn the last batch is takes the last run.
        turn = (share.worker - batches) % workers
        each = [len(range(w, batches, workers)) for w in np.roll(np.arange(workers), -batches)]
        first = sum(each[:turn])
        mine = np.arange(first, first + each[turn])
    rows = (mine[:, None] * batch_size + np.arange(batch_size)).reshape(-1)
    return rows[rows < n]


@dataclass(frozen=True)
class Schedule:
    """Patches in drawing order, and the regions to read, numbered by first use."""

    plan: Plan
    region: NDArray[np.int64]
    """``(N,)`` index of the region that serves each patch."""
    regions: list[Region]
    region_bytes: list[int]
    """Decoded; 0 for what is in memory already."""
    window: NDArray[np.int64]
    """Ascending numbers of the windows over which patches are mixed, by region."""

    @property
    def origins(self) -> NDArray[np.int64]:
        """Sample and first pixel of each region, ``(R, 1 + D)``."""
        return np.array([(r.sample, *r.start) for r in self.regions], np.int64)

    @property
    def last_row(self) -> NDArray[np.int64]:
        """``(R,)`` row of the last patch that each region serves."""
        last = np.zeros(len(self.regions), np.int64)
        np.maximum.at(last, self.region, np.arange(len(self.region)))
        return last


def schedule(
    plan: Plan,
    extents: Sequence[Extent],
    window_bytes: int,
    rng: np.random.Generator | None,
    *,
    whole_samples: bool = False,
    ramp: bool = True,
) -> Schedule:
    """Decide the regions to read, and mix patches over as many of them as memory allows.

    Patches of a share, grouped by cell, are shuffled over windows of ``window_bytes`` decoded bytes
    (without ``rng`` their order stays). ``whole_samples`` reads these, not only as far as patches
    reach, to keep them for other epochs; ``ramp`` lets windows grow from a single region, so that
    the first batch comes soon.
    """
    n = len(plan)
    groups = plan.sample // np.array([e.together for e in extents], np.int64)[plan.image]
    together = np.column_stack([plan.image, groups]) if whole_samples else plan.cell[:, None]
    # Regions are numbered in the plan's order for now.
    first, region = _number(together)
    image, sample = plan.image[first], plan.sample[first].copy()
    np.minimum.at(sample, region, plan.sample)
    last = sample.copy()
    np.maximum.at(last, region, plan.sample)
    start = np.full((len(first), plan.start.shape[1]), np.iinfo(np.int64).max)
    stop = np.zeros_like(start)
    np.minimum.at(start, region, plan.start)
    np.maximum.at(stop, region, plan.start + plan.size)
    if whole_samples and n:
        start = np.zeros_like(start)
        stop = np.maximum(stop, np.array([extent.size for extent in extents])[image])
        sizes = np.array([(e.together, e.samples) for e in extents], np.int64)[image]
        sample = sample // sizes[:, 0] * sizes[:, 0]
        last = np.minimum(sample + sizes[:, 0], sizes[:, 1]) - 1
    pixel_bytes = np.array([0 if e.in_memory else e.pixel_bytes for e in extents])
    n_samples = last - sample + 1
    n_bytes = (stop - start).prod(axis=1) * n_samples * pixel_bytes[image]

    order, window = np.arange(n), np.zeros(len(first), np.int64)
    if rng is not None:
        window = _windows(n_bytes, window_bytes, ramp)
        order = np.lexsort((rng.random(n), window[region]))
    # Renumber regions by first use, so that they are read in the order they are needed.
    at, number = _number(region[order, None])
    by_use = region[order][at]
    rows = zip(
        image[by_use].tolist(),
        sample[by_use].tolist(),
        start[by_use].tolist(),
        stop[by_use].tolist(),
        n_samples[by_use].tolist(),
        strict=True,
    )
    regions = [Region(i, s, tuple(a), tuple(b), n) for i, s, a, b, n in rows]
    region_bytes = n_bytes[by_use].tolist()
    return Schedule(plan.take(order), number, regions, region_bytes, window[by_use])


def _number(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tell distinct rows apart: where each appears first, and numbers in that order."""
    columns = rows.T[::-1]
    order = np.lexsort(columns)
    new = np.ones(len(rows), bool)
    new[1:] = (rows[order[1:]] != rows[order[:-1]]).any(axis=1)
    first = order[new]  # lexsort is stable: the first of equal rows comes first
    by_use = np.argsort(first)
    rank = np.empty(len(first), np.int64)
    rank[by_use] = np.arange(len(first))
    number = np.empty(len(rows), np.int64)
    number[order] = rank[np.cumsum(new) - 1]
    return first[by_use], number


def _windows(n_bytes: NDArray[np.int64], window_bytes: int, ramp: bool) -> NDArray[np.int64]:
    """Window of each region: runs that fit the budget, growing 1, 2, 4, ... regions at first."""
    window = np.empty(len(n_bytes), np.int64)
    current, total, count = 0, 0, 0
    for i, size in enumerate(n_bytes.tolist()):
        full = total + size > window_bytes or (ramp and count >= 2**current)
        if count and full:
            current, total, count = current + 1, 0, 0
        window[i] = current
        total, count = total + size, count + 1
    return window
