"""Memory of streaming: ``python tests/benchmarks/memory.py``.

A folder of raw, tiled and page-wise compressed TIFFs with ten times the pixels that the pool may
hold trains for five epochs, once with a plain loop over the batches and once with a Lightning
trainer; then so does a volume in OME-Zarr, in patches of 16×64×64. The process may have at most the
pool plus 300 MiB resident above what its imports took (mapped files count, and so does the pass for
the statistics). Exits with 1 where it has more.
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
from storing import write_ome_volume
from workloads import CUBE, Images

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


def write_tiffs(folder: Path, mib: int) -> dict[str, Any]:
    """Write files of alternating kinds with so many MiB of pixels; return how to train on them."""
    images = Images()
    for i in range(-(-mib // (PAGES * PAGE_MIB))):
        with tifffile.TiffWriter(folder / f"{i:02d}.tif") as file:
            kind = KINDS[i % len(KINDS)]
            file.write(images.draw((PAGES, 2048, 2048)), photometric="minisblack", **kind)
    return {"kind": "tiff", "train_data": str(folder), "axes": "SYX", "batch_size": 64}


def write_zarr(folder: Path, mib: int) -> dict[str, Any]:
    """Write a volume with so many MiB of pixels; return how to train on it."""
    shape = (-(-mib // PAGE_MIB), 2048, 2048)
    write_ome_volume(folder / "volume.zarr", shape, (32, 128, 128), Images().draw)
    path = str(folder / "volume.zarr")
    return {"kind": "zarr", "train_data": path, "batch_size": 8, "patch_size": CUBE}


def measure(how: str, settings: dict[str, Any]) -> tuple[float, float, float]:
    """Train in a process of its own; MiB of its imports, peak over them, patches per second."""
    side = Side("ours_side.py")
    side.ask("memory")  # answers once its imports are done
    peak = Peak(side.process.pid)
    peak.start()
    start = time.perf_counter()
    patches = side.ask("epochs", how=how, epochs=EPOCHS, **settings)
    seconds = time.perf_counter() - start
    peak.stopped.set()
    peak.join()
    side.close()
    return peak.start_mib, peak.mib - peak.start_mib, patches / seconds


def main() -> int:
    """Measure both ways to train, print a Markdown table and say whether they keep the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool-mib", type=int, default=64)
    parser.add_argument("--only", choices=WRITERS, help="one of the formats")
    options = parser.parse_args()
    limit = options.pool_mib + ALLOWANCE_MIB
    worst = 0.0
    print(
        f"{10 * options.pool_mib} MiB of pixels, pool {options.pool_mib} MiB, {EPOCHS} epochs; at "
        f"most {limit} MiB over the imports\n"
    )
    print("| data | trained by | imports, MiB | peak over imports, MiB | patches/s |")
    print("|---|---|---|---|---|")
    for name in [options.only] if options.only else WRITERS:
        with tempfile.TemporaryDirectory() as folder:
            settings = WRITERS[name](Path(folder), 10 * options.pool_mib)
            settings["pool_mib"] = options.pool_mib
            for how in ("loop", "trainer"):
                imports, over, rate = measure(how, settings)
                worst = max(worst, over)
                print(f"| {name} | {how} | {imports:.0f} | {over:.0f} | {rate:,.0f} |", flush=True)
    print(f"\n{'kept' if worst <= limit else 'NOT KEPT'}: {worst:.0f} of {limit} MiB")
    return int(worst > limit)


WRITERS = {"tiff": write_tiffs, "zarr": write_zarr}

if __name__ == "__main__":
    sys.exit(main())
