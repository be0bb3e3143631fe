"""Wall time to a good image: ``time_to_quality.py [--careamics PYTHON] [--bsd FOLDER]``.

Launches careamics-train with its default settings and several lengths of the run, and CAREamics
0.3.5 with its own, alternating, seed by seed, and takes the time from the launch of a command until
it has ended with the denoised image. Prints, for each set of images, ratios first:

- how many times as long CAREamics took as the shortest of our runs that is at least as good;
- how much better (peak signal-to-noise ratio, dB) the best of our runs is that took no longer;
- and then the runs. All numbers are medians over the seeds.

The sets are the simulated samples and, with ``--bsd``, images of BSD68 (see `bsd68`). Noise2Void
learns from the image that it denoises, CARE is judged by a scene that it has not seen. CAREamics
has no default for batches and patches: it gets 16 (in 3-D 4) and the size of ours; ``--epochs`` is
80 for it by default, where its own default of 30 would be worse.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from careamics_dm import samples
from careamics_dm.evaluation.metrics import psnr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SIGMA, N_TRAIN, N_TEST, EDGE = 25.0, 64, 8, 320
"""Of BSD68: standard deviation of the noise, number of images, and pixels of those to denoise."""


@dataclass(frozen=True)
class Case:
    """Images, and what learns from them."""

    images: str  # a sample, or "bsd"
    algorithm: str = "n2v"
    options: tuple[str, ...] = ()
    axes: str = "YX"
    divide: int = 1  # the epochs, where one has many more pixels
    peer: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.images}, {self.algorithm}"


FLAT = {"patch_size": [64, 64], "batch_size": 16}
DEEP = {"patch_size": [16, 64, 64], "batch_size": 4}
CASES = [
    Case("nuclei", peer=FLAT),
    Case("nuclei", "n2v2", peer=FLAT),
    Case("nuclei", "care", peer=FLAT),
    Case("rows", "structn2v", peer=FLAT),
    Case("filaments", axes="ZYX", options=("experiment=n2v_3d",), divide=4, peer=DEEP),
]
BSD = [
    Case("bsd", algorithm, axes="SYX", divide=4, peer=FLAT) for algorithm in ("n2v", "n2v2", "care")
]
Runs = dict[str, list[tuple[float, float]]]
"""Per command, for each seed: seconds and PSNR."""


def write_images(case: Case, seed: int, folder: Path, bsd: Path | None) -> None:
    """Write what a case trains on, denoises and compares with."""
    if case.images == "bsd":
        assert bsd is not None
        clean = tifffile.imread(bsd / "train400.tif")[:N_TRAIN].astype(np.float32)
        paths = sorted((bsd / "test68").glob("*.tif"))[::N_TEST]
        truth = np.stack([tifffile.imread(path)[:EDGE, :EDGE] for path in paths]).astype(np.float32)
        rng = np.random.default_rng(seed)
        train, test = ((x + rng.normal(0, SIGMA, x.shape)).astype("f4") for x in (clean, truth))
    else:
        first = samples.load(case.images, seed)
        other = samples.load(case.images, seed + 1) if case.algorithm == "care" else first
        train, clean, test, truth = first.noisy, first.clean, other.noisy, other.clean
    for name, pixels in {"train": train, "target": clean, "test": test, "truth": truth}.items():
        np.save(folder / f"{name}.npy", pixels)


def ours(case: Case, epochs: int, seed: int, folder: Path) -> tuple[list[str], str]:
    """Return our command, and where it writes its result."""
    run = folder / f"ours_{epochs}"
    command = [
        *(str(Path(sys.executable).with_name("careamics-train")), f"model={case.algorithm}"),
        *("data=array", f"data.train_data={folder / 'train.npy'}", f"data.axes={case.axes}"),
        *(f"data.predict_data={folder / 'test.npy'}", f"trainer.max_epochs={epochs}"),
        *(f"seed={seed}", f"data.seed={seed}", f"hydra.run.dir={run}", *case.options),
    ]
    if case.algorithm == "care":
        command.append(f"data.train_target={folder / 'target.npy'}")
    return command, f"{run.name}/denoised/*.tif"


def theirs(case: Case, epochs: int, seed: int, folder: Path, python: str) -> tuple[list[str], str]:
    """Return the command of CAREamics, and where it writes its result."""
    settings = {
        **case.peer,
        **{name: str(folder / f"{name}.npy") for name in ("train", "target", "test", "result")},
        **{"algorithm": case.algorithm, "axes": case.axes, "num_epochs": epochs, "seed": seed},
        "folder": str(folder / "careamics"),
    }
    script = str(Path(__file__).with_name("careamics_command.py"))
    return [python, "-W", "ignore", script, json.dumps(settings)], "result.npy"


def timed(command: Sequence[str], result: str, folder: Path) -> tuple[float, float]:
    """Run a command and return its seconds and the PSNR of what it wrote."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    (path,) = folder.glob(result)
    image: NDArray[Any] = np.load(path) if path.suffix == ".npy" else tifffile.imread(path)
    truth = np.load(folder / "truth.npy")
    wide = 255.0 if truth.ndim == 3 and truth.shape[1:] == (EDGE, EDGE) else None
    return seconds, psnr(truth, image.reshape(truth.shape), wide)


def measure(case: Case, options: argparse.Namespace, scratch: Path) -> Runs:
    """Run all commands of a case for all seeds."""
    found: Runs = {}
    for seed in range(options.seeds):
        folder = scratch / f"{case.images}_{case.algorithm}_{seed}"
        folder.mkdir()
        write_images(case, seed, folder, options.bsd)
        lengths = [-(-n // case.divide) for n in (options.epochs, *options.ours)]
        commands = {f"ours, {n} epochs": ours(case, n, seed, folder) for n in lengths[1:]}
        if options.careamics:
            peer = theirs(case, lengths[0], seed, folder, options.careamics)
            commands = {f"CAREamics, {lengths[0]} epochs": peer} | commands
        for name, (command, result) in commands.items():
            found.setdefault(name, []).append(timed(command, result, folder))
            print(f"{case.name}, seed {seed}: {name} {found[name][-1]}", file=sys.stderr)
    return found


def compared(runs: Runs) -> tuple[str, str]:
    """Say how much sooner the quality of CAREamics is reached, and what its time gives."""
    peer, *own = runs.values()
    sooner, better = [], []
    for seed, (seconds, quality) in enumerate(peer):
        mine = [run[seed] for run in own]
        as_good = [s for s, value in mine if value >= quality]
        in_time = [value for s, value in mine if s <= seconds]
        sooner.append(seconds / min(as_good) if as_good else 0.0)
        better.append(max(in_time) - quality if in_time else float("-inf"))
    return f"{median(sooner):.1f}", f"{median(better):+.2f}"


def report(found: dict[str, Runs], options: argparse.Namespace) -> None:
    """Print two Markdown tables, ratios first."""
    if options.careamics:
        print("| images | time of CAREamics / ours to its quality | dB more in its time |")
        print("|---|---|---|")
        for case, runs in found.items():
            print(f"| {case} | {' | '.join(compared(runs))} |")
        print("\n0.0: no run of ours was as good\n")
    print("| images | run | seconds | dB | dB, lowest to highest |\n|---|---|---|---|---|")
    for case, runs in found.items():
        for name, values in runs.items():
            seconds, quality = zip(*values, strict=True)
            spread = f"{min(quality):.2f} to {max(quality):.2f}"
            print(f"| {case} | {name} | {median(seconds):.1f} | {median(quality):.2f} | {spread} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--careamics", metavar="PYTHON", help="an interpreter that has it")
    parser.add_argument("--bsd", type=Path, help="folder with train400.tif and test68/")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ours", type=int, nargs="+", default=[10, 20, 40, 80], metavar="EPOCHS")
    parser.add_argument("--epochs", type=int, default=80, help="of CAREamics")
    parser.add_argument("--only", help="cases whose name contains this, such as care")
    parser.add_argument("--quick", action="store_true", help="try the script: one case, 2 epochs")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.ours, options.epochs, options.only = 1, [1, 2], 2, "nuclei, n2v2"
    cases = [case for case in CASES + BSD * bool(options.bsd) if (options.only or "") in case.name]
    with tempfile.TemporaryDirectory() as scratch:
        found = {case.name: measure(case, options, Path(scratch)) for case in cases}
    report(found, options)


if __name__ == "__main__":
    main()
