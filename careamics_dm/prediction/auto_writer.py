"""Predictions in the file that suits each image."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal

from careamics_dm.errors import DataError
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.prediction.result_file import ResultFile, ResultImage
from careamics_dm.prediction.result_paths import ZARR
from careamics_dm.prediction.result_writer import ResultWriter
from careamics_dm.prediction.tiff_writer import TiffWriter
from careamics_dm.prediction.zarr_writer import ZarrWriter
from careamics_dm.sources.source_path import is_url


class AutoWriter(ResultWriter):
    """Write OME-Zarr where the input is Zarr, where a TIFF would be large, and to URLs; else TIFF.

    Parameters
    ----------
    folder : path or URL
        Where to write: see `ZarrWriter`.
    max_tiff_gib : float
        Largest result, in GiB, that becomes a TIFF. Few programs open larger ones.
    storage_options : dict, optional
        See `ZarrWriter`.
    dtype, existing, output
        See `ResultWriter`.
    """

    to_urls = True

    def __init__(
        self,
        folder: str | Path,
        *,
        max_tiff_gib: float = 4.0,
        storage_options: Mapping[str, Any] | None = None,
        dtype: Literal["float32", "source"] = "float32",
        existing: Literal["error", "skip", "replace"] = "error",
        output: str = "prediction",
    ) -> None:
        super().__init__(folder, dtype=dtype, existing=existing, output=output)
        if not isinstance(max_tiff_gib, int | float) or not max_tiff_gib >= 0:
            raise DataError(f"writer.max_tiff_gib={max_tiff_gib!r}: give a number of GiB.")
        self.max_tiff_gib = max_tiff_gib
        options: dict[str, Any] = {"dtype": dtype, "existing": existing, "output": output}
        self.zarr = ZarrWriter(folder, storage_options=storage_options, **options)
        self.storage_options = self.zarr.storage_options
        self.tiff: ResultWriter = self.zarr
        if not is_url(self.folder):
            self.tiff = TiffWriter(folder, **options)

    def suffixes(self, stack: ImageStack) -> Sequence[str]:
        """Return those of the file that suits an image."""
        return self._writer_of(stack).suffixes(stack)

    def open(self, image: ResultImage, *, begin: bool) -> ResultFile:
        """Open the file that suits an image; see `ResultWriter`."""
        return self._writer_of(image.stack).open(image, begin=begin)

    def check(self, image: ResultImage) -> Iterable[str]:
        """Check what the file that suits an image can hold."""
        return self._writer_of(image.stack).check(image)

    def block_shape(self, stack: ImageStack) -> Sequence[int]:
        """Return the chunk of the file that suits an image, ``([Z], Y, X)``."""
        return self._writer_of(stack).block_shape(stack)

    def compresses(self, stack: ImageStack) -> bool:
        """Whether a result may take less space than its pixels."""
        return self._writer_of(stack).compresses(stack)

    def exists(self, path: Path) -> bool:
        """Whether there is a result."""
        return (self.zarr if self._is_zarr(path) else self.tiff).exists(path)

    def check_writable(self) -> None:
        """Refuse a folder or URL that can't be written to."""
        self.zarr.paths = [path for path in self.paths if self._is_zarr(path)]
        self.zarr.check_writable()

    def complete(self, stacks: Sequence[ImageStack]) -> None:
        """Describe the stores that have several images."""
        pairs = zip(self.paths, stacks, strict=True)
        self.zarr.complete([stack for path, stack in pairs if self._is_zarr(path)])

    def _writer_of(self, stack: ImageStack) -> ResultWriter:
        size = prod(stack.original_data_shape) * self._dtype_of(stack).itemsize
        is_large = size > self.max_tiff_gib * 2**30
        from_zarr = getattr(stack, "ome_groups", None) is not None
        return self.zarr if from_zarr or is_large else self.tiff

    def _is_zarr(self, path: Path) -> bool:
        """Whether a path is in a store."""
        parts = path.relative_to(self.folder).parts
        return any(part.lower().endswith(ZARR) for part in parts)
