"""Kill predictions with SIGKILL at random times, go on, and compare with one that was left alone.

``python tests/benchmarks/kill_prediction.py --kills 20 --ranks 1 2 --writer TiffWriter``
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import lightning as L
import numpy as np
import tifffile
import torch

import careamics_dm

SECONDS = 0.01
"""What a batch takes at least."""


class Slow(L.LightningModule):
    """Predicts what the neighbours of a pixel say too, and takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 1, 5, padding=2)
        torch.nn.init.constant_(self.conv.weight, 0.1)
        torch.nn.init.zeros_(self.conv.bias)

    def predict_step(
        self, batch: dict[str, torch.Tensor], batch_idx: int
    ) -> dict[str, torch.Tensor]:
        """Predict a batch."""
        time.sleep(SECONDS)
        return {"prediction": self.conv(batch["image"]), "region": batch["region"]}


def predict(source: Path, folder: Path, writer: str, ranks: int) -> None:
    """Predict with so many processes, in a session of their own."""
    os.setsid()
    with (folder.parent / "log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    data = careamics_dm.TiffDataModule(
        predict_data=source,
        patch_size=(8, 8),
        tile_size=(32, 32),
        tile_overlap=(8, 8),
        batch_size=4,
        normalization="none",
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp_fork" if ranks > 1 else "auto",
        callbacks=[getattr(careamics_dm, writer)(folder, existing="skip")],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder.parent,
    )
    trainer.predict(Slow(), datamodule=data, return_predictions=False)


def run(source: Path, folder: Path, writer: str, ranks: int, seconds: float | None) -> bool:
    """Predict, and kill it after some seconds; whether it ended by itself before."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=predict, args=(source, folder, writer, ranks))
    process.start()
    process.join(seconds)
    ended = process.exitcode is not None
    if not ended:
        if random.random() < 0.3:  # the first one alone; the others go on for a moment
            os.kill(process.pid or 0, signal.SIGKILL)
            time.sleep(random.uniform(0, 0.3))
        try:
            os.killpg(process.pid or 0, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.join()
    elif process.exitcode != 0:
        raise SystemExit(f"failed: {(folder.parent / 'log').read_text()[-3000:]}")
    return ended


def content(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def chain(root: Path, writer: str, ranks: int, kills: int, expected: dict[str, bytes]) -> None:
    """Kill so many times, each time going on where results are unfinished."""
    source, folder = root / "in", root / f"out_{ranks}"
    began = time.monotonic()
    run(source, root / f"alone_{ranks}", writer, ranks, None)
    whole, n, finished, went_on = time.monotonic() - began, 0, 0, 0
    while n < kills or folder.exists():
        left = any(b"1" in record.read_bytes()[98:] for record in folder.glob("*.blocks"))
        went_on += left
        ended = run(source, folder, writer, ranks, random.uniform(0, whole) if n < kills else None)
        n += not ended
        if ended:
            if content(folder) != expected:
                raise SystemExit(f"FAULT: {folder} differs from what was left alone")
            finished += 1
            shutil.rmtree(folder)
    print(
        f"{writer}, {ranks} rank(s), {whole:.1f} s if left alone: {n} kills, {went_on} times gone "
        f"on with blocks that were there, {finished} whole results, all bit-equal"
    )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--writer", default="TiffWriter")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random.seed(given.seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "in").mkdir()
        for i, shape in enumerate([(12, 150, 140), (400, 410)]):
            image = np.random.default_rng(i).poisson(200, shape).astype(np.uint16)
            axes = "TYX"[-image.ndim :]
            tifffile.imwrite(root / "in" / f"{i}.tif", image, metadata={"axes": axes})
        run(root / "in", root / "expected", given.writer, 1, None)
        for ranks in given.ranks:
            chain(root, given.writer, ranks, given.kills, content(root / "expected"))


if __name__ == "__main__":
    main()
