"""Checkpoints of CAREamics: ``python tests/benchmarks/careamics_checkpoints.py PYTHON``.

PYTHON is an interpreter of an environment that has CAREamics 0.3.5. It trains small models, each of
which is loaded here and predicts the same image. Prints the largest difference of the predictions,
of the whole image and in tiles, relative to their range; that of whole images must be below 1e-4.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from careamics_dm import from_careamics, predict

AXES = {
    "n2v_3d": "ZYX",
    "n2v2": "SYX",
    "n2v_channels": "CYX",
    "care": "CYX",
    "care_channels": "SCYX",
}
LIMIT = 1e-4


def main() -> None:
    """Train there, predict here, and print a Markdown table."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(__file__).with_name("careamics_training.py")
        subprocess.run([sys.argv[1], "-W", "ignore", str(script), folder], check=True)
        sys.exit(0 if compare(Path(folder)) < LIMIT else 1)


def compare(folder: Path) -> float:
    """Compare all predictions in a folder; return the largest difference of whole images."""
    print("| model | shape | difference | in tiles |\n|---|---|---|---|")
    largest = 0.0
    for checkpoint in sorted(folder.glob("*.ckpt")):
        name = checkpoint.stem
        image, theirs = (np.load(folder / f"{name}{end}.npy") for end in ("", "_careamics"))
        model, axes = from_careamics(checkpoint), AXES.get(name, "YX")
        tile = (16, 32, 32) if "Z" in axes else (48, 40)
        ours = [predict(model, image, axes=axes, tile_size=size) for size in (None, tile)]
        wide = float(np.ptp(theirs))
        whole, tiled = (np.abs(one.reshape(theirs.shape) - theirs).max() / wide for one in ours)
        largest = max(largest, float(whole))
        print(f"| {name} | {image.shape} | {whole:.1e} | {tiled:.1e} |", flush=True)
    return largest


if __name__ == "__main__":
    main()
