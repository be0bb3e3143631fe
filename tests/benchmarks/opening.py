"""Time to open a plate: ``python tests/benchmarks/opening.py [--fields 3000]``.

An OME-Zarr plate of many small fields is opened four times, each in a process of its own: without
an index, with one that is made, and twice with that one. Seconds of ``setup`` and, after it, to the
first batch (no statistics). The files were just written, so the disk is not waited for.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from side import Side
from storing import write_ome_plate
from workloads import Images

ROWS, COLUMNS = 6, 10


def main() -> None:
    """Write the plate, open it, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fields", type=int, default=3000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plate, index = Path(folder) / "plate.zarr", Path(folder) / "index"
        each = max(options.fields // (ROWS * COLUMNS), 1)
        n = write_ome_plate(plate, ROWS, COLUMNS, each, Images().draw)
        print(f"a plate of {n} fields\n\n| opened | set-up, s | first batch, s | images |")
        print("|---|---|---|---|")
        runs = {"without index": None, "index made": index, "again": index, "and again": index}
        for name, file in runs.items():
            side = Side("ours_side.py")
            settings = {"index": None if file is None else str(file), "patch_size": [64, 64]}
            found = side.ask("opening", kind="zarr", train_data=str(plate), **settings)
            side.close()
            print(f"| {name} | {found['set_up']:.2f} | {found['first']:.2f} | {found['images']} |")
        print(f"\nthe index has {index.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
