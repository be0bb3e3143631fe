"""Speed of loading with a filter: ``python tests/benchmarks/filtering.py [--rounds 5]``.

Patches per second into the training loop, normalised, flipped and turned, and the ratio to loading
without a filter, at several shares of patches that pass. Background is camera noise around 100;
structure (photon noise, 200 brighter) fills one corner of each image. Filters take turns, round by
round, so that a noisy moment hits all of them: trust the ratios. Medians; the goal is 0.8 in memory
and 0.3 streamed. The first round marks what is in memory; what is streamed is marked in each pass.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from math import prod
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from storing import write_tiff, write_zarr

from careamics_dm.formats.array import ArrayDataModule
from careamics_dm.formats.tiff.datamodule import TiffDataModule
from careamics_dm.formats.zarr.datamodule import ZarrDataModule
from careamics_dm.sampling.filters.criteria import EntropyFilter, MaxFilter, MeanStdFilter
from careamics_dm.transforms.normalization import MeanStd

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from careamics_dm.datamodule.patch_datamodule import PatchDataModule

FILTERS: dict[str, Any] = {
    "none": None,
    "max": MaxFilter(200),
    "mean and std": MeanStdFilter(120, 7),
    "entropy": EntropyFilter(5.2),
}
SHARES = (1.0, 0.47, 0.16)
"""Parts of an image that have structure; a few more patches touch it."""
FILES, SIZE = 8, 2048


def main() -> None:
    """Time all cases and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    options = parser.parse_args()
    print("| data | filter | pass | patches/s | ratio |\n|" + "---|" * 5)
    for share in SHARES:
        images = [scene(share, seed) for seed in range(FILES)]
        with tempfile.TemporaryDirectory() as folder:
            for name, how in stored(images, Path(folder)).items():
                compare(name, how, options.rounds, options.seconds)


def scene(share: float, seed: int) -> NDArray[np.uint16]:
    """Draw an image of which a part has structure."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(100, 4, (SIZE, SIZE))
    edge = round(SIZE * share**0.5)
    pixels[:edge, :edge] += 1.2 * rng.poisson(160, (edge, edge))
    return pixels.clip(0).astype(np.uint16)


def stored(images: list[NDArray[np.uint16]], folder: Path) -> dict[str, Any]:
    """Store images; return how each data module is made: in memory, and streamed, pool half."""
    turn = iter(images * 2)

    def draw(asked: tuple[int, ...]) -> NDArray[np.uint16]:
        return np.stack([next(turn) for _ in range(prod(asked[:-2]))]).reshape(asked)

    shape, tiff, zarr = (SIZE, SIZE), [], folder / "0.zarr"
    for i in range(len(images)):
        tiff.append(str(folder / f"{i}.tif"))
        write_tiff(Path(tiff[-1]), shape, draw)
    every = (len(images), *shape)
    write_zarr(zarr, every, draw, chunks=(1, 256, 256))
    pool = {"in_memory": False, "pool_mib": FILES * SIZE * SIZE * 2 // 2**21}
    return {
        "in memory": (ArrayDataModule, {"train_data": images, "axes": "YX"}),
        "TIFF": (TiffDataModule, {"train_data": tiff, "axes": "YX", **pool}),
        "Zarr": (ZarrDataModule, {"train_data": str(zarr), "axes": "SYX", **pool}),
    }


def compare(name: str, how: tuple[Any, dict[str, Any]], rounds: int, seconds: float) -> None:
    """Time each filter in turn and print rows."""
    kind, given = how
    modules = {
        key: kind(
            **given,
            batch_size=64,
            n_val_patches=0,
            normalization=MeanStd(mean=200, std=60),
            patch_filter=criterion,
        )
        for key, criterion in FILTERS.items()
    }
    loaders = {key: module.train_dataloader() for key, module in modules.items()}
    shares = dict.fromkeys(FILTERS, 0.0)
    for batch in loaders["none"]:
        for key, criterion in FILTERS.items():
            passed = (
                len(batch["image"])
                if key == "none"
                else criterion.passes(batch["image"].numpy()).sum()
            )
            shares[key] += passed / modules["none"].n_train_patches
    rates: dict[str, list[float]] = {key: [] for key in FILTERS}
    for _ in range(rounds):
        for key, module in modules.items():
            rates[key].append(rate(module, loaders[key], seconds))
    for key, module in modules.items():
        ratio = median(a / b for a, b in zip(rates[key], rates["none"], strict=True))
        row = f"| {name} | {key} | {shares[key]:.0%} | {median(rates[key]):,.0f} | {ratio:.2f} |"
        print(row, flush=True)
        module.teardown("fit")


def rate(module: PatchDataModule, loader: Any, seconds: float) -> float:
    """Patches per second, over whole passes."""
    start, patches = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        patches += sum(len(module.transform(batch)["image"]) for batch in loader)
    return patches / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
