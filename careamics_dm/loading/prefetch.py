"""Regions of a schedule, loaded ahead within a byte budget."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from careamics_dm.images.region import Region

READERS = 4
"""Threads that read, at most; all loader processes together have no more than there are cores."""

Block = TypeVar("Block")


class Reader(Generic[Block]):
    """Loads regions, each once, ahead of need, in threads.

    Regions are asked for in ascending order. What is held stays within ``budget`` decoded bytes, as
    long as those that are needed together fit it; a single region may exceed it. Those not
    ``needed`` (after a resume) are not loaded ahead; without threads all are loaded when they are
    asked for.
    """

    def __init__(
        self,
        load: Callable[[Region], Block],
        regions: Sequence[Region],
        region_bytes: Sequence[int],
        budget: int,
        needed: Sequence[bool],
        *,
        n_threads: int = 0,
    ) -> None:
        self.regions = list(regions)
        self._load, self._sizes, self._budget = load, list(region_bytes), budget
        self._ahead = [r for r, is_needed in enumerate(needed) if is_needed]
        self._next, self._held = 0, 0
        self._live: dict[int, Block | Future[Block]] = {}
        self._pool = ThreadPoolExecutor(n_threads, "reader") if n_threads else None

    def block(self, r: int) -> Block:
        """Return a region, waiting for it where need be."""
        self._load_ahead(r)
        if r not in self._live:  # not asked for yet, after a resume or once this is closed
            self._live[r] = self._load(self.regions[r])
            self._held += self._sizes[r]
        block = self._live[r]
        if isinstance(block, Future):
            block = self._live[r] = block.result()
        return block

    def drop(self, r: int) -> None:
        """Forget a region."""
        if r in self._live:
            del self._live[r]
            self._held -= self._sizes[r]

    def add(self, region: Region, block: Block) -> int:
        """Hold a further region, loaded already; return its number."""
        self.regions.append(region)
        self._sizes.append(0)
        self._live[len(self.regions) - 1] = block
        return len(self.regions) - 1

    def close(self) -> None:
        """Stop loading ahead; wait for threads that are reading."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
            self._live.clear()

    def _load_ahead(self, needed: int) -> None:
        """Start loading: what is needed now in any case, what comes later within the budget."""
        if self._pool is None:
            return
        while self._next < len(self._ahead):
            r = self._ahead[self._next]
            if r > needed and self._held + self._sizes[r] > self._budget:
                return
            if r not in self._live:
                self._live[r] = self._pool.submit(self._load, self.regions[r])
                self._held += self._sizes[r]
            self._next += 1
        # Nothing is left to ask for: threads end by themselves, and closing waits for none.
        self._pool.shutdown(wait=False)


def threads_for(workers: int) -> int:
    """Threads to load with, in one of so many processes."""
    return max(min(READERS, (os.cpu_count() or 1) // workers), 1)
