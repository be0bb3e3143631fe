"""Work in a thread of its own, while the network goes on."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Background:
    """Does tasks one after another in a thread; what one raises is raised with a later task.

    After that nothing more is done. At most ``most`` tasks wait, as each holds pixels.
    """

    def __init__(self, most: int) -> None:
        self._pool, self._most = ThreadPoolExecutor(1, "writer"), most
        self._waiting: deque[Future[Any]] = deque()
        self._failed = False

    def do(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Add a task, after waiting where many do."""
        self._wait(self._most)
        self._waiting.append(self._pool.submit(self._try, task, *arguments))

    def finish(self) -> None:
        """Wait for all tasks."""
        self._wait(0)

    def close(self) -> None:
        """End the thread after its tasks, whatever they raise."""
        self._pool.shutdown(wait=True)
        self._waiting.clear()

    def _try(self, task: Callable[..., Any], *arguments: Any) -> None:
        if self._failed:
            return
        try:
            task(*arguments)
        except BaseException:
            self._failed = True
            raise

    def _wait(self, n: int) -> None:
        while len(self._waiting) > n or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()
