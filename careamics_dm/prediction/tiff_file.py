"""A TIFF whose pixels are mapped while it is written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from careamics_dm.prediction.mapped_file import Mapped
from careamics_dm.prediction.result_file import ResultImage
from careamics_dm.prediction.tiff_description import TiffDescription


def map_tiff(path: Path, image: ResultImage, *, begin: bool, tiled: bool = False) -> Mapped:
    """Map the pixels of an uncompressed TIFF, in the axes of the result."""
    file = TiffDescription(image, tiled)
    if begin:
        tifffile.memmap(path, shape=file.shape, dtype=file.dtype, **file.best().options)
    pixels: Any = tifffile.memmap(path, mode="r+")
    mapped: Mapped = pixels.reshape(file.shape)  # it drops axes of length 1
    return mapped.transpose(np.argsort(file.order))


def write_again(
    pixels: NDArray[Any],
    path: Path,
    image: ResultImage,
    compression: str | None,
    tile: Sequence[int] | None,
) -> None:
    """Write the pixels of a complete result compressed or in tiles, some of them at a time."""
    file = TiffDescription(image, tiled=tile is not None)
    options = file.best().options | {"compression": compression, "tile": tile}
    tifffile.imwrite(path, pixels.transpose(file.order), **options)
