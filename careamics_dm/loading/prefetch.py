"""Read windows, loaded ahead within a byte budget."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from careamics_dm.images.region import Blocks, Region
from careamics_dm.loading.read_schedule import Key, Need
from careamics_dm.sampling.allowed_origins import OriginBits
from careamics_dm.sampling.keyed_random import Numbers

READERS = 4
"""Threads that read, at most; all loader processes together have no more than there are cores."""
AHEAD = 1024
"""Windows to load ahead, at most: they may be tiny."""


Marks = Sequence[OriginBits]
"""Of each sample of a region, the origins that pass a filter, or may."""


class Loaded(NamedTuple):
    """A region in memory: image and, where there is one, target."""

    blocks: Blocks
    passing: Marks = ()


class Reader:
    """Loads windows ahead of need, in threads, and holds each for as long as somebody needs it.

    ``find`` says the region of a window, and its decoded bytes. What is held stays within
    ``budget`` bytes, as long as those that are needed together fit it; a single window may exceed
    it. ``needs`` come in the order of need and are pulled as the budget allows. With 0 threads,
    windows are loaded when they are asked for.
    """

    def __init__(
        self,
        load: Callable[[Region], Loaded],
        find: Callable[[int], tuple[Region, int]],
        needs: Iterator[Need],
        budget: int,
        n_threads: int,
    ) -> None:
        self._load, self._find, self.budget = load, find, budget
        self._live: dict[int, Loaded | Future[Loaded]] = {}
        self._found: dict[int, tuple[Region, int]] = {}
        self._users: Counter[int] = Counter()
        self._needs: dict[Key, list[int]] = {}
        self._ended: set[Key] = set()  # needs that ended before all their windows were pulled
        every = ((need.key, window) for need in needs for window in need.windows)
        ended = self._ended  # a generator that held the reader would keep its windows in memory
        self._reads = (read for read in every if read[0] not in ended)
        self._next, self._held = next(self._reads, None), 0
        self._pool = ThreadPoolExecutor(n_threads, "reader") if n_threads else None
        self.is_new = n_threads > 0  # threads have nothing to do yet

    def origins(self, windows: Numbers) -> Numbers:
        """Return image, sample and first pixel of the region of each window, ``(N, 2 + D)``."""
        unique, inverse = np.unique(windows, return_inverse=True)
        regions = [self.find(window)[0] for window in unique.tolist()]
        found = np.array([(r.image, r.sample, *r.start) for r in regions], np.int64)
        return found[inverse]

    def find(self, window: int) -> tuple[Region, int]:
        """Return the region of a window, and its decoded bytes."""
        if window not in self._found:
            self._found[window] = self._find(window)
        return self._found[window]

    def get(self, window: int) -> Loaded:
        """Return a window, waiting for it where need be."""
        while not (window in self._live or self._users[window] or self._next is None):
            self._pull()
        if window not in self._live:
            self._live[window] = self._load(self.find(window)[0])
        content = self._live[window]
        if isinstance(content, Future):
            content = self._live[window] = content.result()
        return content

    def in_threads(self, read: Callable[[Region], Blocks], of: Iterable[Region]) -> list[Blocks]:
        """Read something else in the threads."""
        return list((map if self._pool is None else self._pool.map)(read, of))

    def take(self, window: int) -> Loaded:
        """Return a window, and hold it until it is released, whether it is needed or not."""
        self._hold(window)
        return self.get(window)

    def release(self, windows: Iterable[int]) -> None:
        """Drop one hold on each window, and a window with the last."""
        for window in windows:
            self._users[window] -= 1
            if not self._users[window]:
                del self._users[window]
                self._held -= self._found.pop(window)[1]
                self._live.pop(window, None)

    def end(self, key: Key) -> None:
        """Release what a need listed; it may end again."""
        windows = self._needs.pop(key, None)
        if self._next is not None and (windows is None or self._next[0] == key):
            self._ended.add(key)
            if self._next[0] == key:
                if not self._users[window := self._next[1]]:
                    self._found.pop(window, None)
                self._next = next(self._reads, None)
        self.release(windows or ())

    def add(self, window: int, region: Region, content: Loaded) -> None:
        """Hold something that is loaded already, to the end of the pass."""
        self._found[window], self._live[window] = (region, 0), content

    def close(self) -> None:
        """Stop loading ahead; wait for threads that are reading."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
            self._live = {k: v for k, v in self._live.items() if not isinstance(v, Future)}

    def load_ahead(self) -> None:
        """Begin to load what comes next, as far as the budget allows."""
        self.is_new = False
        while self._pool is not None and self._next is not None and len(self._live) < AHEAD:
            window = self._next[1]
            if window not in self._live and self._held + self.find(window)[1] > self.budget:
                return
            self._pull()
        if self._next is None and self._pool is not None:
            # Nothing is left to ask for: threads end by themselves, and closing waits for none.
            self._pool.shutdown(wait=False)

    def _pull(self) -> None:
        """Begin to load what is needed next."""
        assert self._next is not None
        key, window = self._next
        self._needs.setdefault(key, []).append(window)
        self._hold(window)
        self._next = next(self._reads, None)

    def _hold(self, window: int) -> None:
        """Add a hold on a window, and begin to load it, if it is the first."""
        region, n_bytes = self.find(window)
        self._held += 0 if self._users[window] else n_bytes
        self._users[window] += 1
        if window not in self._live and self._next is not None and self._pool is not None:
            self._live[window] = self._pool.submit(self._load, region)


def threads_for(workers: int) -> int:
    """Threads to load with, in one of so many processes."""
    return max(min(READERS, (os.cpu_count() or 1) // workers), 1)
