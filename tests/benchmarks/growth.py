"""What grows with the data, and what does not: ``python tests/benchmarks/growth.py [PICTURE]``.

One factor at a time is changed: the number of files (real ones, and ones that take 2 ms to open),
the size of images, channels, the size of patches, the number of ranks. All but the files are stacks
that only declare a shape, see `scaling`, so that what is measured is ours. Prints, for each value,
the seconds of set-up, the seconds from there to the first batch, the mebipixels per second (of one
rank) into the training loop, and the peak memory beyond the imports; and draws them. Each row runs
in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from scaling import Declared
from side import peak_mib, resident_mib

if TYPE_CHECKING:
    from careamics_dm import PatchDataModule

FACTORS = {
    "files": (1, 10, 100, 1_000, 10_000),
    "files that take 2 ms to open": (1, 10, 100, 1_000, 10_000),
    "pixels along Y and X": (256, 1_024, 4_096, 32_768),
    "channels": (1, 2, 4, 8),
    "patch size along Y and X": (16, 32, 64, 128, 256),
    "ranks": (1, 2, 4, 8),
}
COLUMNS = {
    "set_up": "set-up, s",
    "first": "first batch, s",
    "rate": "mebipixels/s",
    "memory": "memory, MiB",
}
EDGE, SECONDS = 64, 1.0
"""Height and width of the images in files, pixels; and how long batches are counted."""


def slow_load(path: Path) -> Any:
    """Read a file of a disk that is far away."""
    time.sleep(0.002)
    return np.load(path)


def data_module(factor: str, value: int, folder: Path) -> PatchDataModule:
    """Make a data module in which one factor has a value."""
    from careamics_dm import CustomDataModule, PatchDataModule
    from careamics_dm.sources.listing import Listing

    if factor.startswith("files"):
        image = np.random.default_rng(0).integers(0, 999, (EDGE, EDGE), np.uint16)
        for i in range(value):
            np.save(folder / f"{i:05}.npy", image)
        read = np.load if factor == "files" else slow_load
        shared: dict[str, Any] = {"patch_size": (32, 32), "n_val_patches": 0}
        return CustomDataModule(
            train_data=folder, axes="YX", read_func=read, extension=".npy",
            normalization="none", **shared,
        )  # fmt: skip

    class DeclaredDataModule(PatchDataModule):
        def list_sources(self, data: Any, what: str) -> Listing:
            return Listing(data)

        def open_source(self, source: Any, axes: str) -> list[Any]:
            n_channels = value if factor == "channels" else 1
            edge = value if factor.startswith("pixels") else 8_192
            return [Declared(source, (1, n_channels, edge, edge))]

    edge = value if factor.startswith("patch") else EDGE
    return DeclaredDataModule(
        train_data=list(range(4)), patch_size=(edge, edge), normalization="none"
    )


def measure(factor: str, value: int, folder: Path) -> dict[str, float]:
    """Time set-up, the first batch and those after it."""
    from careamics_dm.sampling.epoch_streams import Share

    data_module("channels", 1, folder).setup("fit")  # imports
    data = data_module(factor, value, folder)
    imported = resident_mib()
    start = time.perf_counter()
    data.setup("fit")
    set_up = time.perf_counter()
    loader: Any = data.train_dataloader()
    if factor == "ranks":
        loader.patches.share = Share(0, value)
    batches = iter(loader)
    n = prod(next(batches)["image"].shape)
    first = last = time.perf_counter()
    n_pixels = 0
    while last < first + SECONDS:
        for batch in batches:
            n_pixels += prod(batch["image"].shape)
            if (last := time.perf_counter()) > first + SECONDS:
                break
        else:
            batches = iter(loader)  # the next epoch
            last = time.perf_counter()
    found = {"set_up": set_up - start, "first": first - set_up}
    rate = max(n_pixels, n) / (last - first) / 2**20
    return found | {"rate": rate, "memory": peak_mib() - imported}


def short(value: int) -> str:
    """Write a number as 10k, of thousands of either kind."""
    return f"{value // 1000}k" if value >= 1000 else str(value)


def draw(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Draw each number against each factor."""
    figure, axes = plt.subplots(
        len(COLUMNS), len(FACTORS), figsize=(15, 8), sharex="col", sharey="row", squeeze=False
    )
    for column, (factor, rows) in enumerate(found.items()):
        for line, (key, label) in enumerate(COLUMNS.items()):
            of_one = axes[line, column]
            of_one.plot(FACTORS[factor], [max(row[key], 1e-3) for row in rows], "o-")
            of_one.set(xscale="log", yscale="log")
            of_one.set_xticks(FACTORS[factor], [short(value) for value in FACTORS[factor]])
            of_one.xaxis.minorticks_off()
            of_one.grid(alpha=0.3)
            if column == 0:
                of_one.set_ylabel(label)
        axes[-1, column].set_xlabel(factor)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Measure, print a Markdown table and draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path, nargs="?", help="PNG or SVG to write")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if options.row:
            factor, value = options.row
            print(json.dumps(measure(factor, int(value), Path(scratch))))
            return
    print(f"| factor | value | {' | '.join(COLUMNS.values())} |\n|{'---|' * (2 + len(COLUMNS))}")
    found: dict[str, list[dict[str, float]]] = {}
    for factor, values in FACTORS.items():
        for value in values:
            command = [sys.executable, __file__, "--row", factor, str(value)]
            row = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
            found.setdefault(factor, []).append(row)
            cells = f"{row['set_up']:.2f} | {row['first']:.2f} | {row['rate']:.0f} | "
            print(f"| {factor} | {value:,} | {cells}{row['memory']:.0f} |", flush=True)
    if options.picture:
        draw(found, options.picture)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
