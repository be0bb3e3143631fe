"""Predictions as TIFF files."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from careamics_dm.errors import DataError
from careamics_dm.images import argument_checks as check
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.prediction.mapped_file import MappedFile
from careamics_dm.prediction.result_file import ResultFile, ResultImage
from careamics_dm.prediction.result_writer import ResultWriter
from careamics_dm.prediction.tiff_description import TiffDescription
from careamics_dm.sources.source_path import TIFF

COMPRESSIONS = ("zlib", "zstd", "lzw")


class TiffWriter(ResultWriter):
    """Write predictions as TIFF files with the names, axes and shapes of the inputs.

    They are ImageJ hyperstacks where nothing is lost, else OME-TIFF with channel names, Z step and
    frame interval, else plain TIFF. Integer results of RGB images are RGB. Samples (``S``) are
    written as time (``T``) where there is none, and channels after ``X`` before ``Y``.

    Parameters
    ----------
    folder, dtype, existing, output
        See `ResultWriter`.
    compression : {"zlib", "zstd", "lzw"}, optional
        Compress finished files, without loss. Each is then written twice and, for a while, takes
        its full size on the disk as well. ImageJ itself does not read zstd, and of compressed
        stacks no labels.
    tile : sequence of int, optional
        Write finished files in tiles of so many rows and columns, multiples of 16; as with
        compression, twice. ImageJ itself does not read tiles.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        dtype: Literal["float32", "source"] = "float32",
        existing: Literal["error", "skip", "replace"] = "error",
        output: str = "prediction",
        compression: Literal["zlib", "zstd", "lzw"] | None = None,
        tile: Sequence[int] | None = None,
    ) -> None:
        super().__init__(folder, dtype=dtype, existing=existing, output=output)
        check.one_of("writer.compression", compression, (None, *COMPRESSIONS))
        sizes = tile if isinstance(tile, list | tuple) else [tile]
        whole = [type(n) is int and n > 0 and n % 16 == 0 for n in sizes]
        if tile is not None and whole != [True, True]:
            raise DataError(
                f"writer.tile={tile!r}: give rows and columns, multiples of 16, such as [256,256]."
            )
        self.compression = compression
        self.tile = None if tile is None else tuple(tile)

    def suffixes(self, stack: ImageStack) -> Sequence[str]:
        """Return those of TIFF."""
        del stack
        return TIFF

    def check(self, image: ResultImage) -> Iterable[str]:
        """Return what of the metadata the description of the TIFF lacks."""
        return TiffDescription(image, self.tile is not None).best().lost

    def open(self, image: ResultImage, *, begin: bool) -> ResultFile:
        """Open a TIFF; see `ResultWriter`."""
        from careamics_dm.prediction.tiff_file import map_tiff, write_again  # late: tifffile

        if self.compression is None and self.tile is None:
            return MappedFile(image, map_tiff, begin=begin)
        again = partial(write_again, image=image, compression=self.compression, tile=self.tile)
        create = partial(map_tiff, tiled=self.tile is not None)
        return MappedFile(image, create, again, begin=begin)
