"""Programs that are timed in processes of their own and answer in JSON, a line per request.

Only the standard library and psutil: either side may run in another environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HERE = Path(__file__).parent


class Side:
    """A running side; its calls are requests.

    Parameters
    ----------
    script : str
        Name of a file in this folder that calls `serve`.
    python : str
        The interpreter to run it with.
    threads : int, optional
        Of torch's own operations; as torch chooses if not given.
    """

    def __init__(
        self, script: str, python: str = sys.executable, *, threads: int | None = None
    ) -> None:
        self.script = script
        self.process = subprocess.Popen(
            [python, str(HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {}),
        )

    def ask(self, do: str, **arguments: Any) -> Any:
        """Run a request there and return its answer."""
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError(f"{self.script}: no pipes")
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.script} ended with {self.process.wait()} during {do}")
        return json.loads(answer)

    def close(self) -> None:
        """Let it end."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()


def serve(handlers: dict[str, Callable[..., Any]]) -> None:
    """Answer requests until standard input ends; what else is printed goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        answers.write(json.dumps(handlers[request.pop("do")](**request)) + "\n")


def resident_mib() -> float:
    """Memory that this process has resident, MiB."""
    return float(psutil.Process().memory_info().rss) / 2**20


def peak_mib() -> float:
    """Most memory that this process had resident, MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # the other number counts what the parent had before the exec
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def timed_passes(
    batches: Callable[[], Iterable[Any]], count: Callable[[Any], int], seconds: float
) -> dict[str, float]:
    """Go through the batches, pass after pass, for so many seconds.

    Returns
    -------
    dict
        ``patches`` in ``seconds``, the starts of passes included; ``first``, the seconds to the
        first batch.
    """
    start = time.perf_counter()
    patches, first, now = 0, 0.0, start
    while now - start < seconds:
        for batch in batches():
            patches += count(batch)
            now = time.perf_counter()
            first = first or now - start
            if now - start > seconds:
                break
    return {"patches": patches, "seconds": now - start, "first": first}
