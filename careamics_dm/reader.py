"""Regions of a schedule, read ahead within a byte budget and dropped after their last patch."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from careamics_dm.regions import Region
    from careamics_dm.schedule import Schedule

Blocks = tuple["NDArray[Any]", ...]
"""What is read of a region: image and, where there is one, target, ``S C (Z) Y X``."""
Kept = dict[tuple[int, int], "Blocks | Future[Blocks]"]
"""Whole samples kept for all epochs, by image and (first) sample."""

READERS = 4
"""Threads that read, at most; all loader processes together have no more than there are cores."""


class Reader:
    """Reads the regions of a schedule, each once, ahead of need, in threads.

    Regions are asked for in ascending order, the order of their first use. What is held stays
    within the budget, as long as the patches of a window of regions (see `schedule`) fit it; a
    single region may exceed it.

    Parameters
    ----------
    read : callable
        Reads a region; called in threads.
    agenda : Schedule
        What is to be read.
    budget : int
        Decoded bytes to hold at most.
    kept : dict, optional
        Where whole samples are kept for other epochs, and looked for first.
    first_row : int
        Patches before this row of the schedule are not asked for (after a resume).
    workers : int
        Processes like this one.
    """

    def __init__(
        self,
        read: Callable[[Region], Blocks],
        agenda: Schedule,
        budget: int,
        kept: Kept | None,
        first_row: int = 0,
        workers: int = 1,
    ) -> None:
        self.regions, self.sizes = agenda.regions, agenda.region_bytes
        self.origins = np.array([(r.sample, *r.start) for r in agenda.regions], np.int64)
        last = np.zeros(len(agenda.regions), np.int64)
        np.maximum.at(last, agenda.region, np.arange(len(agenda.region)))
        self.last: list[int] = last.tolist()
        self.read, self.budget, self.kept = read, budget, kept
        self.first_row = first_row
        self.asked = self.held = 0
        self.live: dict[int, Blocks | Future[Blocks]] = {}
        threads = max(min(READERS, (os.cpu_count() or 1) // workers), 1)
        self.pool = ThreadPoolExecutor(threads, "reader") if any(self.sizes) else None

    def block(self, r: int) -> Blocks:
        """Return a region, waiting for it where need be."""
        self._ask(r)
        block = self.live.get(r) or self._late(r)
        if isinstance(block, Future):
            block = self.live[r] = block.result()
        return block

    def _ask(self, needed: int) -> None:
        """Start reading: what is needed now in any case, what comes later within the budget."""
        while self.asked < len(self.sizes):
            r = self.asked
            if self.last[r] < self.first_row:
                self.asked += 1
                continue
            if r > needed and (self.held + self.sizes[r] > self.budget or self.pool is None):
                return
            self.live[r] = self._start(r)
            self.held += self.sizes[r]
            self.asked += 1
        if self.pool is not None:
            # Nothing is left to ask for: threads end by themselves, and closing waits for none.
            self.pool.shutdown(wait=False)

    def _start(self, r: int) -> Blocks | Future[Blocks]:
        region = self.regions[r]
        if self.pool is None or not self.sizes[r]:
            return self.read(region)
        if self.kept is None:
            return self.pool.submit(self.read, region)
        # Several regions of a sample that is kept are one: it is read whole, once.
        key = (region.image, region.sample)
        if key not in self.kept:
            self.kept[key] = self.pool.submit(self.read, region)
        return self.kept[key]

    def _late(self, r: int) -> Blocks | Future[Blocks]:
        """Return what was not asked for: after a resume, or once this is closed."""
        region = self.regions[r]
        self.held += self.sizes[r]
        if self.kept is None or not self.sizes[r]:
            self.live[r] = self.read(region)
        else:
            key = (region.image, region.sample)
            if key not in self.kept:
                self.kept[key] = self.read(region)
            self.live[r] = self.kept[key]
        return self.live[r]

    def drop(self, r: int, row: int) -> None:
        """Forget a region if no patch from ``row`` of the schedule on needs it."""
        if self.last[r] < row and r in self.live:
            del self.live[r]
            self.held -= self.sizes[r]

    def close(self) -> None:
        """Stop reading ahead; wait for threads that are reading."""
        if self.pool is None:
            return
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.pool = None
        self.live.clear()
        for key, block in list((self.kept or {}).items()):
            # Another reader may have failed or still wait: only what is there stays.
            if self.kept is not None and isinstance(block, Future) and block.done():
                if block.cancelled() or block.exception():
                    del self.kept[key]
                else:
                    self.kept[key] = block.result()
