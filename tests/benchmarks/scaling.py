"""Data of any size start alike: ``python tests/benchmarks/scaling.py``.

Stacks only declare a shape; reading one gives zeros at once, so that what is measured is ours: the
time from the end of set-up to the first batch, the time of the next 100 batches, and the most
memory over what the imports took. Default settings: 2-D patches of 64 × 64, batches of 64, a pool
of 512 MiB, 8 held-out patches. Each row runs in a process of its own.

With ``--ranks``, 64 ranks of 4 loader processes each go through the plan of an epoch over 340 GB,
without reading: every place is drawn once, shares are equal, and the table says what windows are
read by more than one rank. With ``--images``, the cost of 100,000 small arrays that are open.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
from side import peak_mib, resident_mib

SMALL, LARGE = 2**15, 2**20
SIZES = {
    "10 GB": (5, SMALL),
    "340 GB": (158, SMALL),
    "3.4 TB": (1_583, SMALL),
    "34 TB": (15_832, SMALL),
    "1 PB": (455, LARGE),
}
"""Images, and their height and width, pixels of 16 bit."""
BLOCK = 256
RANKS, WORKERS = 64, 4


class Declared:
    """An image stack of zeros that are nowhere."""

    data_dtype = np.dtype(np.uint16)
    original_axes = "SCYX"
    block_shape = (BLOCK, BLOCK)

    def __init__(self, number: int, shape: tuple[int, ...]) -> None:
        self.source = f"image {number}"
        self.data_shape = self.original_data_shape = shape

    def extract_patch(self, sample_idx, channels, coords, patch_size):  # type: ignore[no-untyped-def]
        """See `ImageStack`."""
        return np.zeros((self.data_shape[1], *patch_size), self.data_dtype)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", action="store_true")
    parser.add_argument("--images", action="store_true")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(measure(*SIZES[options.row])))
    elif options.ranks:
        simulate_ranks()
    elif options.images:
        many_images()
    else:
        print("| data | patches | set-up, s | first batch, s | 100 batches, s | memory, MiB |")
        print("|---|---|---|---|---|---|")
        for name in SIZES:
            command = [sys.executable, str(Path(__file__)), "--row", name]
            found = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
            print(
                f"| {name} | {found['patches']:,} | {found['set_up']:.2f} | {found['first']:.2f} | "
                f"{found['next']:.2f} | {found['memory']:.0f} |",
                flush=True,
            )


def data_module(n: int, side: int):  # type: ignore[no-untyped-def]
    """Make a data module over declared stacks."""
    from careamics_dm.datamodule.patch_datamodule import PatchDataModule
    from careamics_dm.sources.listing import Listing

    class DeclaredDataModule(PatchDataModule):
        def list_sources(self, data, what):  # type: ignore[no-untyped-def]
            return Listing(data)

        def open_source(self, source, axes):  # type: ignore[no-untyped-def]
            return [Declared(source, (1, 1, side, side))]

    return DeclaredDataModule(train_data=list(range(n)), normalization="none")


def measure(n: int, side: int) -> dict[str, float]:
    """Time the first batches over so many images."""
    import torch

    torch.zeros(1).share_memory_()
    data_module(1, BLOCK).setup("fit")  # imports
    imported = resident_mib()
    start = time.perf_counter()
    data = data_module(n, side)
    data.setup("fit")
    set_up = time.perf_counter()
    batches = iter(data.train_dataloader())
    next(batches)
    first = time.perf_counter()
    for _ in range(100):
        next(batches)
    last = time.perf_counter()
    found = {"set_up": set_up - start, "first": first - set_up, "next": last - first}
    return found | {"memory": peak_mib() - imported, "patches": data.n_train_patches}


def simulate_ranks() -> None:
    """Draw an epoch by 64 ranks of 4 processes each, without pixels."""
    from careamics_dm.sampling.epoch_streams import Share, Stream, count_streams
    from careamics_dm.sampling.keyed_random import key_of

    data = data_module(*SIZES["340 GB"])
    plan = data.train_dataloader().patches.plan
    epoch, n_streams = plan.epoch(0), count_streams(Share(0, RANKS), 0, 1)
    seen = np.zeros(len(plan), np.uint8)
    readers: Counter[int] = Counter()
    shares = []
    for rank in range(RANKS):
        share, windows = 0, set()
        for number in range(rank, n_streams, RANKS):
            stream = Stream(epoch, number, n_streams, key_of(0, 0, 1), plan.window_bytes, 2)
            for block in stream.blocks(0):
                seen[stream.marks(block, np.arange(block.first, block.stop))] += 1
                windows.update(stream.windows(block))
            share += stream.n
        shares.append(share)
        readers.update(windows)
    regions = {w: epoch.region(w) for w, n in readers.items() if n > 1}
    twice = sum(2 * prod(np.subtract(r.stop, r.start).tolist()) for r in regions.values())
    print(f"{len(plan):,} places: drawn {seen.min()} to {seen.max()} times")
    print(f"patches per rank: {min(shares):,} to {max(shares):,}")
    print(f"windows: {len(readers):,}, by two ranks {len(regions)}, {twice / 2**20:.0f} MiB again")


def many_images(n: int = 100_000) -> None:
    """Time what is done with many small images in memory, once they are open, in CPU time."""
    from careamics_dm.datamodule.patch_datamodule import PatchDataModule
    from careamics_dm.images.array_stack import ArrayStack
    from careamics_dm.sources.listing import Listing

    class OpenDataModule(PatchDataModule):
        def list_sources(self, data, what):  # type: ignore[no-untyped-def]
            return Listing(data)

        def open_source(self, source, axes):  # type: ignore[no-untyped-def]
            return [source]

    rng = np.random.default_rng(0)

    def run(n: int, show: Callable[..., object]) -> None:
        pixels = (rng.integers(0, 9, (64, 64), np.uint8) for _ in range(n))
        data = OpenDataModule(
            train_data=[ArrayStack(image, "YX", f"image {i}") for i, image in enumerate(pixels)]
        )
        for name, task in {
            "set-up": lambda: data.setup("fit"),
            "statistics": data.measure_statistics,
            "first batch": lambda: next(iter(data.train_dataloader())),
        }.items():
            gc.collect()
            before, start = resident_mib(), time.process_time()
            task()
            took = time.process_time() - start
            gc.collect()
            memory = (resident_mib() - before) / n * 2**20
            show(f"{name}: {took / n * 1e6:.1f} µs, {memory:.0f} bytes per image")

    run(20, str)  # imports
    run(n, print)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
