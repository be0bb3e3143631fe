"""All algorithms on the embedded samples: ``python tests/benchmarks/algorithms.py [FOLDER]``.

Runs careamics-train with the configurations as they are: the same small U-Net, the same steps of 16
patches, several seeds. Prints

- the peak signal-to-noise ratio (PSNR) of the image that was trained on, and of another recording
  of the same scene that nothing was trained on, in dB: medians over the seeds;
- the same of Noise2Void and structN2V on the sample with noise along rows;
- the checkerboard: the power of the residual (denoised - clean) at the Nyquist corners of its
  spectrum, where both frequencies are above 7/16 per pixel, over its mean power. White noise has 1.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tifffile

from careamics_dm import samples

MODELS = ("n2v", "n2v2", "n2n", "care")
BATCH, STEPS_PER_EPOCH = 16, 40
UNSEEN = (
    "data.test_data={_target_: careamics_dm.samples.noisy, name: nuclei, recording: 2}",
    "data.test_target={_target_: careamics_dm.samples.clean, name: nuclei}",
)
Row = dict[str, str]


def sweep(folder: Path, models: tuple[str, ...], options: argparse.Namespace, *more: str) -> None:
    """Train every model with every seed, unless that is done already."""
    if (folder / "comparison.csv").exists():
        return
    command = [
        *(Path(sys.executable).parent / "careamics-train", "-m", f"model={','.join(models)}"),
        f"seed={','.join(map(str, range(options.seeds)))}",
        f"trainer.max_epochs={options.steps // STEPS_PER_EPOCH}",
        f"data.patches_per_epoch={STEPS_PER_EPOCH * BATCH}",
        f"model.network.first_filters={options.filters}",
        "+trainer.enable_progress_bar=false",
        f"hydra.sweep.dir={folder}",
        *more,
    ]
    subprocess.run(command, check=True, stdout=sys.stderr)


def read(folder: Path) -> dict[str, list[Row]]:
    """Read the jobs of a sweep, by model."""
    found: dict[str, list[Row]] = defaultdict(list)
    with (folder / "comparison.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["model"]].append(row)
    return found


def checkerboard(row: Row, clean: np.ndarray[Any, Any]) -> float:
    """Measure what a job left of the pattern that alternates from pixel to pixel."""
    (path,) = Path(row["folder"]).glob("denoised/*.tif")
    residual = tifffile.imread(path).astype(np.float64) - clean
    power = np.abs(np.fft.fft2(residual - residual.mean())) ** 2
    high = [np.abs(np.fft.fftfreq(n)) > 7 / 16 for n in clean.shape]
    return float(power[np.ix_(*high)].mean() / power.mean())


def table(jobs: dict[str, list[Row]], columns: dict[str, str]) -> None:
    """Print medians over the seeds, and each value of the first column."""
    first = next(iter(columns))
    print(f"| model | {' | '.join(columns.values())} | {columns[first]}, each |")
    print("|---" * (len(columns) + 2) + "|")
    for model, rows in jobs.items():
        values = {name: [float(row[name]) for row in rows] for name in columns}
        each = ", ".join(f"{value:.2f}" for value in values[first])
        medians = [f"{median(of_seeds):.4g}" for of_seeds in values.values()]
        print(f"| {model} | {' | '.join(medians)} | {each} |")
    print()


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="keeps the runs; done ones stay")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--filters", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)).absolute()
        sweep(folder / "nuclei", MODELS, options, *UNSEEN)
        sweep(folder / "rows", ("n2v", "structn2v"), options, "experiment=rows")
        jobs, rows = read(folder / "nuclei"), read(folder / "rows")
        clean = samples.clean("nuclei")
        for row in [row for of_model in jobs.values() for row in of_model]:
            row["corners"] = str(checkerboard(row, clean))
    print(f"\n{options.steps} steps of {BATCH}, {options.filters} filters, {options.seeds} seeds")
    print(f"\nNuclei, noisy {float(jobs['n2v'][0]['psnr_noisy']):.2f} dB\n")
    names = {"psnr": "dB", "test_psnr": "dB, unseen recording", "seconds": "s"}
    table(jobs, names | {"corners": "power at the Nyquist corners"})
    print(f"Noise along rows, noisy {float(rows['n2v'][0]['psnr_noisy']):.2f} dB\n")
    table(rows, {"psnr": "dB", "seconds": "s"})


if __name__ == "__main__":
    main()
