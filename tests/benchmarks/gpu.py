"""Does the device wait for data? ``python tests/benchmarks/gpu.py [--seconds 4] [--only W1 W3f]``.

For each kind of data, steps per second of a training by Lightning from the loader, against the same
training fed one batch again and again that is on the device already (it is normalised, augmented
and masked anew each time): at least 0.95. Both take turns, and each begins with a few steps that do
not count. *Waiting* is the share of the time that the host spends in the loader; a device that has
steps queued does not wait meanwhile. Prediction is measured likewise, in tiles.

Under six minutes on a GPU. Without one it runs, small, on the CPU, where loader and network share
the cores: the ratio then says how much of them the loader takes.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import platform
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.profilers import SimpleProfiler
from ours_side import FORMATS, make
from workloads import MEAN, STD, WORKLOADS, Images, Workload

from careamics_dm import MaxFilter, N2VModule, UNet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from careamics_dm.datamodule.patch_datamodule import PatchDataModule

NAMES = ("W1", "W1b", "W2", "W2b", "W3f", "W3cf", "W4")
ON_GPU = torch.cuda.is_available()
WARM_UP = 10 if ON_GPU else 1
LOADER = "[_TrainingEpochLoop].train_dataloader_next"


class Resident:
    """The first batch of a loader, on the device, again and again."""

    def __init__(self, loader: Any, n: int) -> None:
        self.loader, self.n = loader, n
        self.batch: Any = None

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[Any]:
        if self.batch is None:
            device = torch.device("cuda" if ON_GPU else "cpu")
            self.batch = next(iter(self.loader)).to(device)
        for _ in range(self.n):
            yield self.batch


class Enough(Exception):
    """Ends a run, in the middle of an epoch."""


class Clock(L.Callback):
    """Times the steps after the first few, until so many seconds have passed."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.start = self.took = 0.0
        self.steps = 0

    def step(self) -> None:
        """Count a step; wait for the device only where the time begins and ends."""
        self.steps += 1
        over = self.start and time.perf_counter() - self.start > self.seconds
        if self.steps != WARM_UP and not over:
            return
        if ON_GPU:
            torch.cuda.synchronize()
        now = time.perf_counter()
        if over:
            self.took = now - self.start
            raise Enough
        self.start = now

    def on_train_batch_end(self, *rest: Any) -> None:
        """Count it; called by Lightning."""
        self.step()

    def on_predict_batch_end(self, *rest: Any) -> None:
        """Count it; called by Lightning."""
        self.step()

    @property
    def rate(self) -> float:
        """Steps per second."""
        return (self.steps - WARM_UP) / self.took


@dataclass
class Case:
    """Data, and what is done with them."""

    workload: Workload
    paths: list[str]
    precision: Any
    what: str = "fit"
    patch_filter: Any = None

    def data(self, n: int) -> PatchDataModule:
        """Make a data module with at least ``n`` batches."""
        work = self.workload
        batch_size = (128 if ON_GPU else 16) if len(work.patch_size) == 2 else 8
        if self.what == "predict":
            return FORMATS[work.kind](  # type: ignore[no-any-return]
                predict_data=self.paths,
                axes=work.axes,
                patch_size=work.patch_size,
                tile_size=(256, 256) if len(work.patch_size) == 2 else (32, 128, 128),
                batch_size=8 if ON_GPU else 1,
                normalization="none",
            )
        return make(
            work.kind,
            self.paths,
            work.axes,
            list(work.patch_size),
            batch_size,
            MEAN,
            STD,
            work.pool_mib,
            work.options | {"patches_per_epoch": n * batch_size, "patch_filter": self.patch_filter},
        )

    def run(self, seconds: float, *, resident: bool) -> tuple[float, float]:
        """Return steps per second, and the share of the time in the loader."""
        n = 100_000
        data, clock, profiler = self.data(n), Clock(seconds), SimpleProfiler()
        dims = len(self.workload.patch_size)
        model = N2VModule(UNet(1, dims=dims, first_filters=32 if ON_GPU else 8))
        trainer = L.Trainer(
            accelerator="auto",
            devices=1,
            precision=self.precision,
            max_epochs=1,
            callbacks=[clock],
            profiler=profiler,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        name = "train_dataloader" if self.what == "fit" else "predict_dataloader"
        if resident:
            loader = getattr(data, name)
            setattr(data, name, lambda: Resident(loader(), n))
        with contextlib.suppress(Enough):
            getattr(trainer, self.what)(model, datamodule=data)
        waits = profiler.recorded_durations.get(LOADER, [])[WARM_UP:]
        return clock.rate, sum(waits) / clock.took


def main() -> None:
    """Measure all cases and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a turn")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", metavar="NAME", nargs="+", default=NAMES, help="workloads")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    device = torch.cuda.get_device_name() if ON_GPU else f"CPU ({platform.machine()})"
    print(f"{device}, torch {torch.__version__}\n")
    print("| data | what | precision | ratio | waiting | steps/s | resident |\n|" + "---|" * 7)
    if not ON_GPU:
        torch.set_num_threads(1)
    images = Images()
    for workload in WORKLOADS:
        if workload.name in options.only:
            with tempfile.TemporaryDirectory() as folder:
                paths = workload.write(Path(folder), images)
                for case in cases(workload, paths):
                    print(row(case, options.seconds, options.rounds), flush=True)


def cases(workload: Workload, paths: list[str]) -> Iterator[Case]:
    """Yield what is measured of a kind of data."""
    yield Case(workload, paths, "32-true")
    if ON_GPU:
        yield Case(workload, paths, "bf16-mixed")
    if workload.name in ("W1", "W3f"):
        yield Case(workload, paths, "32-true", patch_filter=MaxFilter(MEAN))
    yield Case(workload, paths, "bf16-mixed" if ON_GPU else "32-true", "predict")


def row(case: Case, seconds: float, rounds: int) -> str:
    """Measure a case and format its row."""
    pairs = []
    for _ in range(rounds):
        loaded, waiting = case.run(seconds, resident=False)
        pairs.append((loaded, case.run(seconds, resident=True)[0], waiting))
    ratio = median(loaded / resident for loaded, resident, _ in pairs)
    loaded, resident, waiting = (median(column) for column in zip(*pairs, strict=True))
    what = f"{case.what}, filtered" if case.patch_filter else case.what
    shown = "-" if case.what == "predict" else f"{waiting:.0%}"
    return (
        f"| {case.workload.title} | {what} | {case.precision} | {ratio:.2f} | {shown} "
        f"| {loaded:.1f} | {resident:.1f} |"
    )


if __name__ == "__main__":
    main()
