"""The embedded sample in every format, to try them on the same image.

``python -m careamics_dm.sample_formats FOLDER`` writes it; then, beside that folder called
``formats``, ``careamics-train -m data=tiff,zarr,czi,custom,array experiment=formats`` trains on
each.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from careamics_dm.samples import load

if TYPE_CHECKING:
    from numpy.typing import NDArray

AXES = "SCYX"
"""Of each copy; what a CZI has in any case."""


def write(folder: str | Path) -> list[Path]:
    """Write the noisy nuclei, axes ``SCYX``, as ``FORMAT/image.*`` for each format.

    Parameters
    ----------
    folder : path
        Made if missing.

    Returns
    -------
    list of Path
        The copies; ``custom`` is an ``.npy`` file, to be read by ``numpy.load``.
    """
    sample = load("nuclei")
    pixels = sample.noisy[None, None]
    metres = {axis: size * 1e-6 for axis, size in sample.pixel_size.items()}
    paths = []
    for name, suffix, write_one in _WRITERS:
        path = Path(folder) / name / f"image{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_one(path, pixels, metres)
        paths.append(path)
    return paths


def _npy(path: Path, pixels: NDArray[Any], metres: dict[str, float]) -> None:
    del metres  # .npy files have no place for it
    np.save(path, pixels)


def _tiff(path: Path, pixels: NDArray[Any], metres: dict[str, float]) -> None:
    import tifffile

    resolution = (0.01 / metres["X"], 0.01 / metres["Y"])
    tifffile.imwrite(
        path,
        pixels,
        metadata={"axes": AXES},
        photometric="minisblack",
        resolution=resolution,
        resolutionunit="CENTIMETER",
    )


def _zarr(path: Path, pixels: NDArray[Any], metres: dict[str, float]) -> None:
    import zarr

    del metres  # a plain array, as most Zarr stores are
    group = zarr.open_group(path, mode="w")
    array = group.create_array(
        "nuclei", shape=pixels.shape, chunks=(1, 1, 128, 128), dtype=pixels.dtype
    )
    array[:] = pixels


def _czi(path: Path, pixels: NDArray[Any], metres: dict[str, float]) -> None:
    from pylibCZIrw import czi

    path.unlink(missing_ok=True)
    with czi.create_czi(str(path)) as file:
        file.write(pixels[0, 0], plane={"C": 0, "Z": 0, "T": 0})
        file.write_metadata("nuclei", scale_x=metres["X"], scale_y=metres["Y"])


_WRITERS: list[tuple[str, str, Any]] = [
    ("array", ".npy", _npy),
    ("tiff", ".tif", _tiff),
    ("czi", ".czi", _czi),
    ("zarr", ".zarr", _zarr),
    ("custom", ".npy", _npy),
]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m careamics_dm.sample_formats FOLDER")
    print(*write(sys.argv[1]), sep="\n")
