"""Noise2Void or CARE on the embedded sample: ``quality.py [--care] [--careamics PYTHON]``.

The same image, network, steps, batches, learning rate and normalisation for both sides;
whole-image predictions are compared with the truth. Prints the peak signal-to-noise ratio before
and after, for each number of steps the median over the seeds, and the seconds of training. Goal:
within 0.3 dB of CAREamics 0.3.5, or better.

With a constant learning rate and batch normalisation, runs of the same side differ by more than
1 dB, and so does one run from step to step; ``--no-batch-norm --final-lr 0.01 --masked 1.5`` lets
runs settle, so that a few seeds tell 0.3 dB. The number in brackets is the scale-invariant one: far
above the other, it says that the network is right but for an offset or a factor, as batch
normalisation leaves it after few small batches.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from side import Side

from careamics_dm import samples
from careamics_dm.evaluation.metrics import psnr, scale_invariant_psnr

Found = dict[int, list[tuple[float, float, float]]]
"""Per number of steps, for each seed: PSNR, scale-invariant PSNR, and seconds of training."""
SIZE, PATCH = 512, 64


def measure(side: Side, options: argparse.Namespace, seed: int, folder: Path, found: Found) -> None:
    """Train once and judge the images."""
    sample = samples.load("nuclei")
    folder.mkdir()
    epochs = max(options.steps) * options.batch / (SIZE / PATCH) ** 2
    np.save(folder / "noisy.npy", sample.noisy)
    np.save(folder / "clean.npy", sample.clean)
    answer = side.ask(
        "train",
        algorithm="care" if options.care else "n2v",
        noisy=str(folder / "noisy.npy"),
        clean=str(folder / "clean.npy"),
        folder=str(folder),
        mean=float(sample.noisy.mean()),
        std=float(sample.noisy.std()),
        patch_size=[PATCH, PATCH],
        batch_size=options.batch,
        depth=options.depth,
        filters=options.filters,
        lr=options.lr,
        masked=options.masked,
        batch_norm=options.batch_norm,
        decay=options.final_lr ** (1 / epochs),
        steps=options.steps,
        seed=seed,
    )
    for steps, path, seconds in zip(options.steps, answer["saved"], answer["seconds"], strict=True):
        image = np.load(path)
        values = psnr(sample.clean, image), scale_invariant_psnr(sample.clean, image)
        found.setdefault(steps, []).append((*values, seconds))


def main() -> None:
    """Alternate between the sides, seed by seed, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--careamics", metavar="PYTHON", help="an interpreter that has it")
    parser.add_argument("--care", action="store_true", help="learn from the clean image")
    parser.add_argument("--steps", type=int, nargs="+", default=[24, 120, 240])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--filters", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--masked", type=float, default=0.2, help="percent of the pixels")
    parser.add_argument("--batch-norm", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--final-lr", type=float, default=1.0, help="share that is left at the end")
    parser.add_argument("--threads", type=int, help="of torch, on both sides")
    options = parser.parse_args()
    sides = {"ours": Side("ours_side.py", threads=options.threads)}
    if options.careamics:
        python = options.careamics
        sides["CAREamics"] = Side("careamics_side.py", python, threads=options.threads)
    found: dict[str, Found] = {name: {} for name in sides}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(options.seeds):
            for name, side in sides.items():
                measure(side, options, seed, Path(scratch) / f"{name}_{seed}", found[name])
    for side in sides.values():
        side.close()
    report(found, options)


def report(found: dict[str, Found], options: argparse.Namespace) -> None:
    """Print a Markdown table."""
    sample = samples.load("nuclei")
    before = psnr(sample.clean, sample.noisy)
    print(
        f"{'CARE' if options.care else 'Noise2Void'}, "
        f"batch {options.batch}, depth {options.depth}, filters {options.filters}, batch norm "
        f"{options.batch_norm}, learning rate {options.lr:g} to {options.lr * options.final_lr:g}, "
        f"{options.masked:g} % masked, {options.seeds} seeds, noisy {before:.2f} dB"
        "\n"
    )
    print("| steps | side | dB after (each seed) | gain, median | gain, worst | seconds |")
    print("|---|---|---|---|---|---|")
    for steps in options.steps:
        for name in found:
            rows = found[name][steps]
            values = [value for value, *_ in rows]
            each = ", ".join(f"{value:.2f} ({affine:.2f})" for value, affine, _ in rows)
            print(
                f"| {steps} | {name} | {each} | {median(values) - before:+.2f} | "
                f"{min(values) - before:+.2f} | {median(row[-1] for row in rows):.0f} |"
            )
    if "CAREamics" in found:
        for steps in options.steps:
            ours, theirs = (
                median(row[0] for row in found[n][steps]) for n in ("ours", "CAREamics")
            )
            print(f"\nours - CAREamics after {steps} steps: {ours - theirs:+.2f} dB", end="")
        print()


if __name__ == "__main__":
    main()
