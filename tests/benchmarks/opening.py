"""Time to open a plate: ``python tests/benchmarks/opening.py [--fields 3000]``.

An OME-Zarr plate of many small fields is opened several times, each in a process of its own:
seconds of ``setup`` and, after it, to the first batch (no statistics). The files were just written,
so the disk is not waited for.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from side import Side
from storing import write_ome_plate
from workloads import Images

ROWS, COLUMNS = 6, 10
RUNS = 3


def main() -> None:
    """Write the plate, open it, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fields", type=int, default=3000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plate = Path(folder) / "plate.zarr"
        each = max(options.fields // (ROWS * COLUMNS), 1)
        n = write_ome_plate(plate, ROWS, COLUMNS, each, Images().draw)
        print(f"a plate of {n} fields\n\n| run | set-up, s | first batch, s | images |")
        print("|---|---|---|---|")
        for run in range(RUNS):
            side = Side("ours_side.py")
            found = side.ask("opening", kind="zarr", train_data=str(plate), patch_size=[64, 64])
            side.close()
            print(f"| {run} | {found['set_up']:.2f} | {found['first']:.2f} | {found['images']} |")


if __name__ == "__main__":
    main()
