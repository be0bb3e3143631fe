"""Read windows, loaded ahead within a byte budget."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from careamics_dm.images.region import Region
from careamics_dm.loading.schedule import Need

READERS = 4
"""Threads that read, at most; all loader processes together have no more than there are cores."""
AHEAD = 1024
"""Windows to load ahead, at most: they may be tiny."""

Content = TypeVar("Content")
Key = tuple[int, int]


class Reader(Generic[Content]):
    """Loads windows ahead of need, in threads, and holds each for as long as somebody needs it.

    What is held stays within ``budget`` decoded bytes, as long as those that are needed together
    fit it; a single window may exceed it.

    Parameters
    ----------
    load : callable
        Loads a region; called in threads.
    find : callable
        The region of a window, and its decoded bytes.
    needs : iterator of Need
        What is needed, in that order; pulled as the budget allows.
    budget : int
        Decoded bytes.
    n_threads : int
        0: windows are loaded when they are asked for.
    """

    def __init__(
        self,
        load: Callable[[Region], Content],
        find: Callable[[int], tuple[Region, int]],
        needs: Iterator[Need],
        budget: int,
        n_threads: int,
    ) -> None:
        self._load, self._find, self._budget = load, find, budget
        self._reads = (
            (need.key, window, window == need.windows[-1])
            for need in needs
            for window in need.windows
        )
        self._next, self._held = next(self._reads, None), 0
        self._live: dict[int, Content | Future[Content]] = {}
        self._found: dict[int, tuple[Region, int]] = {}
        self._users: dict[int, int] = {}
        self._needs: dict[Key, list[int]] = {}
        self._early: set[Key] = set()  # needs that ended, and will be ended again
        self._listed: set[Key] = set()  # needs whose windows are all held
        self._ended: set[Key] = set()  # needs that ended before that
        self._pool = ThreadPoolExecutor(n_threads, "reader") if n_threads else None

    def region(self, window: int) -> Region:
        """Return the region of a window."""
        return self._look_up(window)[0]

    def get(self, window: int) -> Content:
        """Return a window, waiting for it where need be."""
        while not (window in self._live or window in self._users or self._next is None):
            self._pull()
        if window not in self._live:
            self._live[window] = self._load(self.region(window))
        content = self._live[window]
        if isinstance(content, Future):
            content = self._live[window] = content.result()
        return content

    def take(self, window: int) -> Content:
        """Return a window, and hold it until it is released, whether it is needed or not."""
        self._hold(window)
        return self.get(window)

    def release(self, window: int) -> None:
        """Drop one hold on a window, and the window with the last."""
        left = self._users.get(window, 1) - 1
        if left:
            self._users[window] = left
            return
        if self._users.pop(window, 0):
            self._held -= self._look_up(window)[1]
        self._live.pop(window, None)
        self._found.pop(window, None)

    def end(self, key: Key, *, early: bool = False) -> None:
        """Release what a need listed; ``early``, before the batch that ends it."""
        if key in self._early:
            self._early.remove(key)
            return
        if early:
            self._early.add(key)
        if key in self._listed:
            self._listed.remove(key)
        elif self._next is not None:
            self._ended.add(key)
        for window in self._needs.pop(key, ()):
            self.release(window)

    def add(self, window: int, region: Region, content: Content) -> None:
        """Hold something that is loaded already, to the end of the pass."""
        self._found[window], self._live[window] = (region, 0), content

    def close(self) -> None:
        """Stop loading ahead; wait for threads that are reading."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
            self._live = {k: v for k, v in self._live.items() if not isinstance(v, Future)}

    def _look_up(self, window: int) -> tuple[Region, int]:
        if window not in self._found:
            self._found[window] = self._find(window)
        return self._found[window]

    def load_ahead(self) -> None:
        """Begin to load what comes next, as far as the budget allows."""
        while self._pool is not None and self._next is not None and len(self._live) < AHEAD:
            _, window, _ = self._next
            if window not in self._live and self._held + self._look_up(window)[1] > self._budget:
                return
            self._pull()
        if self._next is None and self._pool is not None:
            # Nothing is left to ask for: threads end by themselves, and closing waits for none.
            self._pool.shutdown(wait=False)

    def _pull(self) -> None:
        """Begin to load what is needed next."""
        assert self._next is not None
        key, window, is_last = self._next
        self._next = next(self._reads, None)
        if key not in self._ended:
            self._needs.setdefault(key, []).append(window)
            self._hold(window)
            if is_last:
                self._listed.add(key)
        else:
            if window not in self._users and window not in self._live:
                self._found.pop(window, None)
            if is_last:
                self._ended.remove(key)

    def _hold(self, window: int) -> None:
        """Add a hold on a window, and begin to load it if it is the first."""
        region, n_bytes = self._look_up(window)
        if window not in self._users:
            self._held += n_bytes
        self._users[window] = self._users.get(window, 0) + 1
        if window not in self._live and self._next is not None and self._pool is not None:
            self._live[window] = self._pool.submit(self._load, region)
        elif window not in self._live:
            self._live[window] = self._load(region)


def threads_for(workers: int) -> int:
    """Threads to load with, in one of so many processes."""
    return max(min(READERS, (os.cpu_count() or 1) // workers), 1)
