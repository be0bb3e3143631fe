"""Memory of streaming: ``python tests/benchmarks/memory.py``.

A folder of raw, tiled and page-wise compressed TIFFs with ten times the pixels that the pool may
hold trains for five epochs, once with a plain loop over the batches and once with a Lightning
trainer. The process may have at most the pool plus 300 MiB resident above what its imports took
(mapped files count, and so does the pass for the statistics). Exits with 1 where it has more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import tifffile
from side import Side
from workloads import Images

ALLOWANCE_MIB = 300
EPOCHS = 5
PAGES, PAGE_MIB = 4, 8  # a file has 4 pages of 2048² uint16
KINDS: list[dict[str, Any]] = [
    {},
    {"tile": (256, 256), "compression": "zlib"},
    {"compression": "zlib", "rowsperstrip": 2048},
]


class Peak(threading.Thread):
    """The most memory that a process has resident, sampled every 5 ms."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process = psutil.Process(pid)
        self.start_mib = self.resident()
        self.mib = self.start_mib
        self.stopped = threading.Event()

    def resident(self) -> float:
        """MiB, now."""
        return float(self.process.memory_info().rss) / 2**20

    def run(self) -> None:
        """Sample until stopped."""
        while not self.stopped.wait(0.005):
            self.mib = max(self.mib, self.resident())


def write(folder: Path, mib: int) -> int:
    """Write files of alternating kinds with so many MiB of pixels; return their bytes on disk."""
    images = Images()
    for i in range(-(-mib // (PAGES * PAGE_MIB))):
        with tifffile.TiffWriter(folder / f"{i:02d}.tif") as file:
            kind = KINDS[i % len(KINDS)]
            file.write(images.draw((PAGES, 2048, 2048)), photometric="minisblack", **kind)
    return sum(path.stat().st_size for path in folder.iterdir())


def main() -> int:
    """Measure both ways to train, print a Markdown table and say whether they keep the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool-mib", type=int, default=64)
    options = parser.parse_args()
    limit = options.pool_mib + ALLOWANCE_MIB
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        on_disk = write(Path(folder), 10 * options.pool_mib)
        print(
            f"{10 * options.pool_mib} MiB of pixels ({on_disk / 2**20:.0f} MiB on disk), pool "
            f"{options.pool_mib} MiB, {EPOCHS} epochs; at most {limit} MiB over the imports\n"
        )
        print(
            "| trained by | imports, MiB | peak over imports, MiB | patches/s |\n|---|---|---|---|"
        )
        for how in ("loop", "trainer"):
            side = Side("ours_side.py")
            side.ask("memory")  # answers once its imports are done
            peak = Peak(side.process.pid)
            peak.start()
            start = time.perf_counter()
            patches = side.ask(
                "epochs", folder=folder, how=how, epochs=EPOCHS, pool_mib=options.pool_mib
            )
            seconds = time.perf_counter() - start
            peak.stopped.set()
            peak.join()
            side.close()
            over = peak.mib - peak.start_mib
            worst = max(worst, over)
            print(f"| {how} | {peak.start_mib:.0f} | {over:.0f} | {patches / seconds:,.0f} |")
    print(f"\n{'kept' if worst <= limit else 'NOT KEPT'}: {worst:.0f} of {limit} MiB")
    return int(worst > limit)


if __name__ == "__main__":
    sys.exit(main())
