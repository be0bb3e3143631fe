"""Open handles, few at a time: files stay open between reads, but not thousands of them."""

from __future__ import annotations

import atexit
import os
from collections import OrderedDict
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    Open = Callable[[Hashable], "H"]

H = TypeVar("H")


class HandleCache(Generic[H]):
    """A least-recently-used cache of open handles; a forked process starts empty.

    A handle in use by any thread is never closed: closing waits for its last user.

    Parameters
    ----------
    open : callable
        Opens the handle of a key, once however many threads ask; other keys need not wait.
    close : callable
        Closes a handle.
    most : int
        Handles kept open; more are open only while that many are in use at once.
    """

    def __init__(self, open: Open[H], close: Callable[[H], object], most: int = 64) -> None:
        self._open, self._close, self._most = open, close, most
        self._state = _State[H]()
        self._inherited: list[_State[H]] = []
        atexit.register(self.close_all)

    @contextmanager
    def use(self, key: Hashable, open: Open[H] | None = None) -> Iterator[H]:
        """Hold a handle open, opening it if it is not: with ``open``, if that is given."""
        state = self._current()
        with state.lock:
            entry = state.entries.setdefault(key, _Entry())
            state.entries.move_to_end(key)
            entry.users += 1
        try:
            with entry.lock:
                if not entry.handles:
                    entry.handles.append((open or self._open)(key))
            yield entry.handles[0]
        finally:
            with state.lock:
                entry.users -= 1
                if not entry.handles and not entry.users and state.entries.get(key) is entry:
                    del state.entries[key]  # it could not be opened
                idle = [k for k, e in state.entries.items() if not e.users]
                surplus = idle[: max(0, len(state.entries) - self._most)]
                done = [entry] if entry.closing else []
                done += [state.entries.pop(k) for k in surplus]
            self._close_idle(done)

    def close(self, key: Hashable) -> None:
        """Close the handle of a key, now or when its last user is done."""
        state = self._current()
        with state.lock:
            entry = state.entries.pop(key, None) or _Entry()
            entry.closing = True
        self._close_idle([entry])

    def close_all(self) -> None:
        """Close all handles of this process, now or when their last users are done."""
        for key in list(self._current().entries):
            self.close(key)

    def _close_idle(self, entries: list[_Entry[H]]) -> None:
        for entry in entries:
            with entry.lock:  # its last user and `close` may get here at once
                while entry.handles and not entry.users:
                    self._close(entry.handles.pop())

    def _current(self) -> _State[H]:
        if self._state.process != os.getpid():
            # Forked. The parent's handles share its file positions, its locks may be held by
            # threads that are not here. Kept, unused: destructors could harm the parent too.
            self._inherited.append(self._state)
            self._state = _State()
        return self._state


class _Entry(Generic[H]):
    def __init__(self) -> None:
        self.handles: list[H] = []  # one, once it is open
        self.lock, self.users, self.closing = Lock(), 0, False


class _State(Generic[H]):
    def __init__(self) -> None:
        self.process, self.lock = os.getpid(), Lock()
        self.entries: OrderedDict[Hashable, _Entry[H]] = OrderedDict()
