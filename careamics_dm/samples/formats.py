"""The sample "nuclei" in every format, to try the formats on the same image.

``python -m careamics_dm.samples.formats formats`` writes the copies into the folder ``formats``.
In the folder that contains it, ``careamics-train -m data=tiff,zarr,czi,custom,array
experiment=formats`` then trains on each.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray
from pylibCZIrw import czi

from careamics_dm.samples.simulation import load

AXES = "SCYX"
"""Axes of each copy, which are those of every 2-D CZI."""


def write(folder: str | Path) -> list[Path]:
    """Write the noisy nuclei, axes ``SCYX``, as ``FORMAT/image.*`` for each format."""
    sample = load("nuclei")
    metres = {axis: size * 1e-6 for axis, size in sample.pixel_size.items()}
    paths = []
    for name, (suffix, write_one) in _WRITERS.items():
        path = Path(folder) / name / f"image{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_one(path, sample.noisy[None, None], metres)
        paths.append(path)
    return paths


def _npy(path: Path, pixels: NDArray[Any], metres: dict[str, float]) -> None:
    np.save(path, pixels)  # .npy files can't store a pixel size


def _tiff(path: Path, pixels: NDArray[Any], metres: dict[str, float]) -> None:
    tifffile.imwrite(
        path,
        pixels,
        metadata={"axes": AXES},
        photometric="minisblack",
        resolution=(0.01 / metres["X"], 0.01 / metres["Y"]),
        resolutionunit="CENTIMETER",
    )


def _zarr(path: Path, pixels: NDArray[Any], metres: dict[str, float]) -> None:
    group = zarr.open_group(path, mode="w")  # without OME metadata, as most Zarr stores
    chunks = (1, 1, 128, 128)
    array = group.create_array("nuclei", shape=pixels.shape, chunks=chunks, dtype=pixels.dtype)
    array[:] = pixels


def _czi(path: Path, pixels: NDArray[Any], metres: dict[str, float]) -> None:
    path.unlink(missing_ok=True)
    with czi.create_czi(str(path)) as file:
        file.write(pixels[0, 0], plane={"C": 0, "Z": 0, "T": 0})
        file.write_metadata("nuclei", scale_x=metres["X"], scale_y=metres["Y"])


_WRITERS: dict[str, tuple[str, Any]] = {
    "array": (".npy", _npy),
    "tiff": (".tif", _tiff),
    "czi": (".czi", _czi),
    "zarr": (".zarr", _zarr),
    "custom": (".npy", _npy),
}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m careamics_dm.samples.formats FOLDER")
    print(*write(sys.argv[1]), sep="\n")
