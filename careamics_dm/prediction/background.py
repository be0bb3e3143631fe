"""Work in a thread of its own, while the network goes on."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

WAITING = 2
"""Tasks to wait at most: each holds a batch of tiles."""


class Background:
    """Does tasks one after another in a thread; what they raise is raised with the next task."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "writer")
        self._waiting: deque[Future[Any]] = deque()

    def do(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Add a task, after waiting where many do."""
        self._wait(WAITING)
        self._waiting.append(self._pool.submit(task, *arguments))

    def finish(self) -> None:
        """Wait for all tasks."""
        self._wait(0)

    def close(self) -> None:
        """End the thread after its tasks, whatever they raise."""
        self._pool.shutdown(wait=True)
        self._waiting.clear()

    def _wait(self, n: int) -> None:
        while len(self._waiting) > n or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()
