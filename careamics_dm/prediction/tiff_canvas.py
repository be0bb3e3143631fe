"""A TIFF that is written tile by tile."""

import errno
import os
import uuid
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.prediction.stitching import Placement

DType = np.dtype[Any]
NOT_IN_OME = (np.int64, np.uint64, np.float16)
PER_CENTIMETER = {"nm": 1e7, "µm": 1e4, "mm": 10.0, "cm": 1.0}
"""Units that a plain TIFF can express."""


class TiffCanvas:
    """A result that is being written: a memory-mapped ``.part`` file of its own."""

    def __init__(self, path: Path, stack: ImageStack, n_channels: int, dtype: DType) -> None:
        self.path, self.dtype = path, dtype
        stored = np.dtype(np.uint8) if dtype.kind == "b" else dtype  # bits cannot be mapped
        # Another prediction may be writing the same result.
        self.part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
        self.placement = Placement(stack, n_channels)
        layout = self.placement.layout
        options = tiff_options(layout.axes, layout.shape, stored, stack, path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.pixels = tifffile.memmap(self.part, shape=layout.shape, dtype=stored, **options)
            reserve(self.part, self.pixels)
        except OSError as error:
            self.part.unlink(missing_ok=True)
            size = prod(layout.shape) * stored.itemsize / 2**20
            raise DataError(
                f"writer: {path}, of {size:.1f} MiB, can't be written ({error.strerror}). Free "
                "space or write to another folder; with writer.existing=skip, the same command "
                "goes on with this image."
            ) from error

    def put(self, tile: NDArray[Any], region: Sequence[int]) -> bool:
        """Put a tile; return whether the image is complete."""
        self.placement.put(self.pixels, to_dtype(tile, self.dtype), region)
        return self.placement.complete

    def finish(self, existing: str) -> None:
        """Give the file its final name; not if another prediction was first, unless it replaces."""
        self.pixels.flush()
        del self.pixels
        if existing == "replace" or not self.path.exists():
            self.part.replace(self.path)
            return
        self.part.unlink()
        if existing == "error":
            raise DataError(f"writer: another prediction has meanwhile written {self.path}.")

    def discard(self) -> None:
        """Remove the unfinished file."""
        del self.pixels
        self.part.unlink(missing_ok=True)


def to_dtype(pixels: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert a prediction; to integers by rounding and clipping, to bool by a threshold of 0.5."""
    if dtype.kind == "b":
        over: NDArray[Any] = pixels >= 0.5
        return over
    if dtype.kind in "iu":
        if np.isnan(pixels).any():
            raise DataError(
                f"writer: the prediction contains NaN, which {dtype} cannot store. Check the "
                "model, or set writer.dtype to float32."
            )
        limits = np.iinfo(dtype)
        # float64, because float32 lacks the largest 32-bit integers. It lacks the largest 64-bit
        # integer, too, and what rounds up to it would overflow.
        high = float(limits.max)
        high = np.nextafter(high, 0) if int(high) > limits.max else high
        whole = np.rint(pixels, dtype=np.float64)
        return np.asarray(np.clip(whole, limits.min, high).astype(dtype))
    converted: NDArray[Any] = pixels.astype(dtype)
    return converted


def tiff_options(
    axes: str, shape: Sequence[int], dtype: DType, stack: ImageStack, path: Path
) -> dict[str, Any]:
    """Return how ``tifffile.imwrite`` describes axes and pixel size; read with ``axes: auto``.

    OME-TIFF where the name says so; ImageJ (which Fiji opens as a hyperstack) where that can store
    the data; OME-TIFF for a pixel size in Z; and otherwise tifffile's own description.
    """
    scale = getattr(stack, "scale", None) or {}
    names = getattr(stack, "channel_names", None)
    metadata: dict[str, Any] = {"axes": axes}
    options: dict[str, Any] = {"metadata": metadata, "photometric": "minisblack"}
    n_bytes = prod(shape) * dtype.itemsize
    imagej = (
        dtype in (np.uint8, np.uint16, np.float32)
        and axes == "".join(axis for axis in "TZCYX" if axis in axes)
        and min(shape) > 1  # ImageJ would drop axes of size 1
        and n_bytes < 2**32 - 2**20
    )
    named = path.name.lower().endswith((".ome.tif", ".ome.tiff", ".ome.btf"))
    possible = axes.endswith("YX") and set(axes) <= set("TZCYX") and dtype not in NOT_IN_OME
    if possible and (named or ("Z" in scale and not imagej)):
        for axis, (size, unit) in scale.items():
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
        if names and "C" in axes and len(names) == shape[axes.index("C")]:
            metadata["Channel"] = {"Name": list(names)}
        return options | {"ome": True, "imagej": False}
    options |= {"ome": False, "imagej": imagej}
    units = {unit for axis, (_, unit) in scale.items() if axis in "YX"}
    if not ({"Y", "X"} <= scale.keys() and len(units) == 1):
        return options | {"bigtiff": n_bytes > 2**32 - 2**25}
    unit = units.pop()
    if not imagej and unit in PER_CENTIMETER:
        factor = PER_CENTIMETER[unit]
        options["resolution"] = (factor / scale["X"][0], factor / scale["Y"][0])
        options["resolutionunit"] = "CENTIMETER"
    elif imagej:
        options["resolution"] = (1 / scale["X"][0], 1 / scale["Y"][0])
        metadata["unit"] = "um" if unit == "µm" else unit
        if "Z" in scale:
            metadata["spacing"] = scale["Z"][0]
    return options | {"bigtiff": n_bytes > 2**32 - 2**25}


def reserve(path: Path, pixels: np.memmap[Any, DType]) -> None:
    """Take the disk space of a new file: to write to its map without any ends the process."""
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), pixels.offset, pixels.nbytes)
    except (AttributeError, OSError) as error:
        unable = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
        if isinstance(error, OSError) and error.errno not in unable:
            raise
        with path.open("r+b") as file:  # on systems that can't reserve
            file.seek(pixels.offset)
            for first in range(0, pixels.nbytes, 2**24):
                file.write(bytes(min(2**24, pixels.nbytes - first)))
