"""Open handles, few at a time: files stay open between reads, but not thousands of them."""

import atexit
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K")  # what names a handle, hashable
H = TypeVar("H")


class _Entry(Generic[H]):
    def __init__(self) -> None:
        self.handles: list[H] = []  # one, once it is open
        self.lock, self.users, self.cost, self.closing = Lock(), 0, 0, False


class _State(Generic[K, H]):
    def __init__(self) -> None:
        self.process, self.lock, self.large = os.getpid(), Lock(), Lock()
        self.entries: OrderedDict[K, _Entry[H]] = OrderedDict()
        self.held = 0  # what their handles cost

    def pop(self, key: K) -> _Entry[H]:
        """Take an entry out, or make one."""
        entry = self.entries.pop(key, None) or _Entry()
        self.held -= entry.cost
        return entry


class HandleCache(Generic[K, H]):
    """A least-recently-used cache of open handles; a forked process starts empty.

    A handle in use by any thread is never closed: closing waits for its last user. ``open`` is
    called once for a key, however many threads ask; other keys need not wait. Together, handles
    ``cost`` (1 each by default) at most ``most``, or more while that much is in use at once; the
    one that was used last stays open, whatever it costs.
    """

    def __init__(
        self,
        open: Callable[[K], H],
        close: Callable[[H], object],
        most: int = 64,
        cost: Callable[[H], int] = lambda _: 1,
    ) -> None:
        self._open, self._close, self.most, self._cost = open, close, most, cost
        self._state = _State[K, H]()
        self._inherited: list[_State[K, H]] = []
        atexit.register(self.close_all)

    def __len__(self) -> int:
        """How many handles are open in this process."""
        return len(self._current().entries)

    @contextmanager
    def use(self, key: K, open: Callable[[K], H] | None = None, room: int = 0) -> Iterator[H]:
        """Hold a handle open, opening it, with ``open`` if given, if it is not.

        ``room`` is what it will cost, approximately, if that is more than 1: others are closed
        before it is opened, and of handles that need a quarter of ``most`` one is opened at a time.
        """
        state = self._current()
        with state.lock:
            entry = state.entries.setdefault(key, _Entry())
            state.entries.move_to_end(key)
            entry.users += 1
        try:
            with entry.lock:
                if not entry.handles:
                    with state.large if room > self.most // 4 else nullcontext():
                        self._evict(room)
                        entry.handles.append((open or self._open)(key))
                    with state.lock:
                        if state.entries.get(key) is entry:
                            entry.cost = self._cost(entry.handles[0])
                            state.held += entry.cost
            yield entry.handles[0]
        finally:
            with state.lock:
                entry.users -= 1
                if not entry.handles and not entry.users and state.entries.get(key) is entry:
                    del state.entries[key]  # it could not be opened
            if entry.closing:
                self._close_idle([entry])
            self._evict(keep=entry)

    @contextmanager
    def roomy(self, most: int) -> Iterator[None]:
        """Keep more handles open for a while."""
        usual, self.most = self.most, max(most, self.most)
        try:
            yield
        finally:
            self.most = usual
            self._evict()

    def close(self, key: K) -> None:
        """Close the handle of a key, now or when its last user is done."""
        state = self._current()
        with state.lock:
            entry = state.pop(key)
            entry.closing = True
        self._close_idle([entry])

    def close_all(self) -> None:
        """Close all handles of this process, now or when their last users are done."""
        for key in list(self._current().entries):
            self.close(key)

    def _evict(self, room: int = 0, keep: _Entry[H] | None = None) -> None:
        """Close idle handles, the least recently used first, until the others and ``room`` fit."""
        state = self._current()
        with state.lock:
            surplus, keys = state.held + room - self.most, []
            oldest = iter(state.entries.items())
            while surplus > 0 and (item := next(oldest, None)):
                key, entry = item
                if not entry.users and entry is not keep:
                    keys.append(key)
                    surplus -= entry.cost
            done = [state.pop(key) for key in keys]
        self._close_idle(done)

    def _close_idle(self, entries: list[_Entry[H]]) -> None:
        for entry in entries:
            with entry.lock:  # its last user and `close` may get here at once
                while entry.handles and not entry.users:
                    self._close(entry.handles.pop())

    def _current(self) -> _State[K, H]:
        if self._state.process != os.getpid():
            # Forked. The parent's handles share its file positions, its locks may be held by
            # threads that are not here. Not deleted: destructors could harm the parent too.
            self._inherited.append(self._state)
            self._state = _State()
        return self._state
