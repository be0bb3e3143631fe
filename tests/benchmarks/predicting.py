"""Prediction of large images: ``python tests/benchmarks/predicting.py [--gib 8] [--only WHAT]``.

- ``memory``: a volume of so many GiB, as OME-Zarr and as TIFF, is predicted to OME-Zarr and to TIFF
  by a network that changes nothing; the process may have at most 1 GiB of its own above what the
  imports took (pages of mapped files, which the system takes back at need, are printed, too).
- ``throughput``: the same with a small volume, against reading its blocks once and writing those of
  the result once, with zarr and tifffile alone, in turns (goal: 70 %); and the default U-Net
  against the network alone on as many tiles (goal: 95 %).
- ``ranks``: one volume by the U-Net on one and on two processes of one thread each (goal: 1.7
  times as fast), whose results are compared.
- ``careamics``, with ``--careamics PYTHON`` of an environment that has CAREamics 0.3.5: planes by
  the default U-Net of each side, one thread, same tiles and overlap, to the kind of file they come
  from; the sides take turns.

Each prediction runs in a process of its own. Exits with 1 if memory or results are not as promised.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import numpy as np
import psutil
import tifffile
import torch
import zarr
from side import Side
from storing import ZSTD, write_ome_volume

import careamics_dm
from careamics_dm import N2VModule, UNet

LIMIT_MIB = 1024
CHUNKS = (32, 256, 256)
KINDS = ("zarr", "tiff")
TILE, OVERLAP = (256, 256), (48, 48)
"""Of planes; CAREamics overlaps so much unless told otherwise."""


class Peak(threading.Thread):
    """The most memory that a process has, sampled every 5 ms, with and without mapped files."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process = psutil.Process(pid)
        self.start_mib = self.mib = self.now()
        self.stopped = threading.Event()

    def now(self) -> tuple[float, float]:
        """Return what is resident, and of it what is not of files."""
        found = self.process.memory_info()
        return found.rss / 2**20, (found.rss - found.shared) / 2**20

    def run(self) -> None:
        """Sample until stopped."""
        while not self.stopped.wait(0.005):
            try:
                rss, own = self.now()
            except psutil.NoSuchProcess:
                return
            self.mib = max(self.mib[0], rss), max(self.mib[1], own)

    def over(self) -> tuple[float, float]:
        """Return the peak over the beginning."""
        return self.mib[0] - self.start_mib[0], self.mib[1] - self.start_mib[1]


class Nothing(L.LightningModule):
    """Predicts what it gets."""

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Return the batch."""
        return {"prediction": batch["image"], "region": batch["region"]}


def predict(
    source: str,
    folder: str,
    *,
    to: str,
    unet: bool,
    ranks: int,
    overlap: list[int] | None = None,
) -> None:
    """Predict in this process, and say when imports are done and how long it took."""
    torch.set_num_threads(1 if unet else torch.get_num_threads())
    print("ready", flush=True)
    sys.stdin.readline()
    kind = careamics_dm.ZarrDataModule if ".zarr" in source else careamics_dm.TiffDataModule
    tile = TILE if unet else (32, 256, 256)
    data = kind(
        predict_data=source,
        axes="ZYX",
        patch_size=tile,
        tile_size=tile,
        tile_overlap=overlap if unet else (0, 0, 0),
        batch_size=4 if unet else 1,
        normalization="none",
        z_as_samples=unet,
    )
    writer = careamics_dm.ZarrWriter if to == "zarr" else careamics_dm.TiffWriter
    torch.manual_seed(0)  # one network, however many processes
    model = N2VModule(UNet(1, dims=2, independent_channels=False)) if unet else Nothing()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp_fork" if ranks > 1 else "auto",
        callbacks=[writer(folder, dtype="float32" if unet else "source")],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    start = time.perf_counter()
    trainer.predict(model, datamodule=data, return_predictions=False)
    if trainer.is_global_zero:
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


def run(source: Path, folder: Path, **how: Any) -> tuple[float, tuple[float, float]]:
    """Predict in a process of its own; return seconds, and MiB over the imports; see `Peak`."""
    command = [sys.executable, __file__, "--child", json.dumps([str(source), str(folder), how])]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        peak = Peak(process.pid)
        peak.start()
        print("go", file=process.stdin, flush=True)
        lines = process.stdout.readlines()
        peak.stopped.set()
        peak.join()
    if process.returncode:
        raise SystemExit(f"failed: {source} to {how}")
    answer = next(json.loads(line) for line in lines if line.startswith('{"seconds"'))
    return answer["seconds"], peak.over()


def write(folder: Path, kind: str, planes: int) -> Path:
    """Write a volume of so many planes of 8 MiB, of repeated noise."""
    rng = np.random.default_rng(0)
    noise = rng.poisson(200, (32, 2048, 2048)).astype(np.uint16)
    if kind == "zarr":
        path = folder / "volume.zarr"

        def draw(shape: tuple[int, ...]) -> Any:
            return np.resize(noise, shape)

        write_ome_volume(path, (planes, 2048, 2048), CHUNKS, draw)
    else:
        path = folder / "volume.tif"
        with tifffile.TiffWriter(path, bigtiff=True) as file:
            pages = (noise[i % len(noise)] for i in range(planes))
            shape = (planes, 2048, 2048)
            file.write(pages, shape=shape, dtype="uint16", photometric="minisblack", metadata=None)
    return path


def read(path: Path) -> Any:
    """Open pixels of a source or result with zarr or tifffile alone."""
    if path.suffix == ".zarr":
        return zarr.open_group(path, mode="r")["0"]
    return tifffile.memmap(path, mode="r")


def result(folder: Path) -> Path:
    """Return the one result in a folder."""
    (path,) = folder.iterdir()
    return path


def copy(source: Path, target: Path, like: Path) -> float:
    """Copy pixels once, stored as a result is; return the seconds.

    Smaller levels of a result are blocks of it, too, and are copied from there.
    """
    start, pixels = time.perf_counter(), read(source)
    if like.suffix == ".zarr":
        copied = zarr.open_group(target, mode="w")
        for name, level in sorted(zarr.open_group(like, mode="r").arrays()):
            how = {"chunks": level.chunks, "shards": level.shards, "compressors": ZSTD}
            into: Any = copied.create_array(name, shape=level.shape, dtype=level.dtype, **how)
            _copy_blocks(pixels if name == "0" else level, into, (level.shards or level.chunks)[-3])
    else:
        into = tifffile.memmap(target, shape=pixels.shape, dtype=pixels.dtype, bigtiff=True)
        _copy_blocks(pixels, into, 32)
        into.flush()
    return time.perf_counter() - start


def _copy_blocks(pixels: Any, into: Any, planes: int) -> None:
    """Copy so many planes at a time."""
    for z in range(0, pixels.shape[-3], planes):
        part = slice(z, z + planes)
        into[(*(0,) * (into.ndim - 3), part)] = pixels[(*(0,) * (pixels.ndim - 3), part)]


def memory(gib: float) -> bool:
    """Print the table of memory; return whether all is within the limit."""
    print(f"\n{gib:g} GiB of pixels; MiB over imports, with and without pages of mapped files\n")
    print("| from | to | seconds | with | without |\n|-|-|-|-|-|")
    worst = 0.0
    for kind in KINDS:
        for to in KINDS:
            with tempfile.TemporaryDirectory() as name:
                source = write(Path(name), kind, int(gib * 128))
                seconds, mib = run(source, Path(name) / "out", to=to, unet=False, ranks=1)
            worst = max(worst, mib[1])
            print(f"| {kind} | {to} | {seconds:.0f} | {mib[0]:.0f} | {mib[1]:.0f} |", flush=True)
    return worst <= LIMIT_MIB


def throughput(gib: float, rounds: int) -> None:
    """Print what prediction takes beside reading and writing, and beside the network."""
    print(f"\n{gib:g} GiB of pixels, no network; medians of {rounds} rounds\n")
    print("| from | to | seconds | copying | of it |\n|-|-|-|-|-|")
    for kind in KINDS:
        for to in KINDS:
            took, alone = [], []
            with tempfile.TemporaryDirectory() as name:
                source = write(Path(name), kind, int(gib * 128))
                for n in range(rounds + 1):  # the first one finds no memory at hand
                    out, target = Path(name) / f"out{n}", Path(name) / f"copy{n}"
                    took.append(run(source, out, to=to, unet=False, ranks=1)[0])
                    target = target.with_suffix(result(out).suffix)
                    alone.append(copy(source, target, result(out)))
                    shutil.rmtree(out)
                    target.unlink() if target.is_file() else shutil.rmtree(target)
            seconds, copying = median(took[1:]), median(alone[1:])
            row = f"| {kind} | {to} | {seconds:.1f} | {copying:.1f} | {copying / seconds:.0%} |"
            print(row, flush=True)
    with tempfile.TemporaryDirectory() as name:
        source = write(Path(name), "tiff", 2)
        seconds, _ = run(source, Path(name) / "out", to="tiff", unet=True, ranks=1)
    torch.set_num_threads(1)
    network, n = UNet(1, dims=2, independent_channels=False).eval(), 2 * 10 * 10
    with torch.inference_mode():
        batch = torch.rand(4, 1, 256, 256)
        network(batch)
        start = time.perf_counter()
        for _ in range(n // 4):
            network(batch)
    alone = time.perf_counter() - start
    print(f"\nU-Net, 2 planes of 2048², one thread: {seconds:.1f} s; network {alone:.1f} s alone")


def ranks() -> bool:
    """Compare one and two processes; return whether results are equal."""
    with tempfile.TemporaryDirectory() as name:
        folder, took, pixels = Path(name), {}, {}
        source = write(folder, "tiff", 4)
        for n in (1, 2):
            took[n], _ = run(source, folder / str(n), to="zarr", unet=True, ranks=n)
            pixels[n] = np.asarray(read(result(folder / str(n)))[...])
    error = np.abs(pixels[1] - pixels[2]).max() / np.abs(pixels[1]).max()
    print(
        f"\n4 planes of 2048² to OME-Zarr: {took[1]:.1f} s on one process, {took[2]:.1f} s on two "
        f"({took[1] / took[2]:.2f} times as fast), largest difference {error:.1e} of the largest"
    )
    return bool(error < 1e-6)


def careamics(python: str, planes: int, rounds: int) -> None:
    """Print the seconds of both sides, in turns."""
    print(
        f"\n{planes} planes of 2048² by the U-Net, one thread; medians of {rounds} rounds, seconds"
    )
    print("\n| from and to | here | CAREamics | times as fast |\n|-|-|-|-|")
    with tempfile.TemporaryDirectory() as name:
        other = Side("careamics_prediction.py", python, threads=1)
        other.ask("train", folder=name)
        for kind in KINDS:
            source, ours, theirs = write(Path(name), kind, planes), [], []
            url = f"file://{source}/0" if kind == "zarr" else str(source)
            for n in range(rounds):
                how: dict[str, Any] = {"to": kind, "unet": True, "ranks": 1, "overlap": OVERLAP}
                ours.append(run(source, Path(name) / f"here_{kind}_{n}", **how)[0])
                out = str(Path(name) / f"there_{kind}_{n}")
                how = {"kind": kind, "tile": TILE, "overlap": OVERLAP}
                theirs.append(other.ask("predict", source=url, folder=out, **how))
            ratio = median(b / a for a, b in zip(ours, theirs, strict=True))
            print(
                f"| {kind} | {median(ours):.1f} | {median(theirs):.1f} | {ratio:.2f} |", flush=True
            )
        other.close()


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=8, help="at most 1 for throughput")
    parser.add_argument("--only", choices=["memory", "throughput", "ranks", "careamics"])
    parser.add_argument("--careamics", help="Python of an environment that has CAREamics 0.3.5")
    parser.add_argument("--planes", type=int, default=4, help="for the comparison with it")
    parser.add_argument("--rounds", type=int, default=3, help="of all but memory and ranks")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        source, folder, how = json.loads(given.child)
        predict(source, folder, **how)
        return 0
    good = True
    if given.only in (None, "throughput"):
        throughput(min(given.gib, 1), given.rounds)
    if given.only in (None, "ranks"):
        good &= ranks()
    if given.careamics and given.only in (None, "careamics"):
        careamics(given.careamics, given.planes, given.rounds)
    if given.only in (None, "memory"):
        good &= memory(given.gib)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
