"""An OME-Zarr image that is written box by box."""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from math import ceil
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec
from zarr.errors import ContainsGroupError

from careamics_dm.images.axes import Box
from careamics_dm.images.tensorstore_array import SHUFFLES, UNFINISHED, open_fast
from careamics_dm.prediction.pyramid import plan_levels, shrink
from careamics_dm.prediction.result_file import ResultImage
from careamics_dm.prediction.result_paths import explained
from careamics_dm.prediction.zarr_layout import ZarrLayout
from careamics_dm.prediction.zarr_metadata import (
    attributes,
    image_metadata,
    pixel_lengths,
    scale_of,
)
from careamics_dm.prediction.zarr_store import Codec, Target
from careamics_dm.sources.source_path import is_url

PLANES = 16
"""Along Z, from which the display range is taken."""


class ZarrFile:
    """An OME-Zarr image that is being written; the metadata that make it one come last.

    In a folder it has another name until then. What is behind a URL can't be renamed: there, an
    image that is replaced goes first, and one prediction at a time writes it.
    """

    def __init__(
        self, image: ResultImage, target: Target, display_of_source: bool, *, begin: bool
    ) -> None:
        self.image, self.target, path = image, target, image.path
        self.display_of_source, self.is_continued = display_of_source, not begin
        self.layout = ZarrLayout(image.layout, len(image.stack.data_shape) == 5)
        self.part = path if is_url(path) else image.part
        with explained(path):
            if not begin:
                there = zarr.open_array(target.open(self.part / "0"), mode="r+")
                self.base = self._fast(0, there.with_config({"write_empty_chunks": True}))
                return
            if self.part != path or image.replace:
                target.remove(self.part)
            self.base = self._create(0, self.layout.shape)

    def put(self, box: Box, pixels: NDArray[Any]) -> None:
        """Write pixels to a box."""
        place, ordered = self.layout.place(box, pixels)
        with explained(self.image.path):
            self.base[place] = ordered

    def flush(self) -> None:
        """Bring chunks to disk, where they may still be in the system's memory."""
        if hasattr(os, "sync") and not is_url(self.image.path):
            os.sync()

    def finish(self) -> None:
        """Add smaller levels and metadata, and give the image its final name; see `ResultFile`."""
        with explained(self.image.path):
            if self.is_continued and not is_url(self.image.path):
                for rest in self.part.rglob(f"*{UNFINISHED}"):  # of a process that was killed
                    rest.unlink()
            axes, shape, smallest = self.layout.axes, self.layout.shape, self.base
            levels = plan_levels(axes, shape, pixel_lengths(axes, scale_of(self.image)))
            for number, factors in enumerate(levels[1:], 1):
                smaller = [ceil(n / f) for n, f in zip(shape, factors, strict=True)]
                larger, smallest = smallest, self._create(number, smaller)
                shrink(larger, smallest, self._parts(smaller).block)
            ranges = display_ranges(smallest, axes)
            content = image_metadata(self.image, axes, levels, ranges, self.display_of_source)
            self._describe(attributes("Image", content, self.target.version))
            if not is_url(self.image.path):
                self._publish()

    def close(self) -> None:
        """Leave the image unfinished."""

    def discard(self) -> None:
        """Remove the unfinished image; should some of it stay, nothing takes it for an image."""
        with suppress(Exception):
            self.target.remove(self.part)

    def _parts(self, shape: Sequence[int]) -> Any:
        return self.layout.parts(shape, self.target.zarr_format, self.target.choice)

    def _create(self, level: int, shape: Sequence[int]) -> Any:
        """Create the array of a level, in which chunks of zeros are stored, too."""
        chunk, block = self._parts(shape)
        new = self.target.zarr_format == 3
        how: dict[str, Any] = {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
        if new:
            how = {"dimension_names": list(self.layout.axes.lower())}
        array = zarr.create_array(
            # A store of its own, as zarr would describe a group around the array at once.
            self.target.open(self.part / str(level)),
            shape=tuple(shape),
            dtype=self.image.dtype,
            chunks=chunk,
            shards=block if new and block != chunk else None,
            compressors=compressor(self.target.codec, self.target.zarr_format),
            zarr_format=self.target.zarr_format,
            config={"write_empty_chunks": True},
            overwrite=True,
            **how,
        )
        return self._fast(level, array)

    def _fast(self, level: int, array: Any) -> Any:
        """Return what writes and reads the array of a level: tensorstore where it can."""
        if is_url(self.image.path) or not self.target.fast:
            return array
        return open_fast(array, self.part / str(level)) or array

    def _describe(self, given: dict[str, Any]) -> None:
        """Make the group an image, at once."""
        store, number = self.target.open(self.part), self.target.zarr_format
        try:
            zarr.create_group(store, attributes=given, zarr_format=number)
        except ContainsGroupError as error:
            if is_url(self.image.path):
                raise FileExistsError(self.image.path) from error
            zarr.open_group(store, mode="r+", zarr_format=number).attrs.put(given)  # finished again

    def _publish(self) -> None:
        """Give a folder its final name."""
        path, replaced = self.image.path, self.part.with_suffix(".old")
        if self.image.replace and path.exists():
            shutil.rmtree(replaced, ignore_errors=True)  # of a process that was killed
            path.rename(replaced)
        try:
            self.part.rename(path)
        except OSError as error:
            if path.exists():
                self.discard()
                raise FileExistsError(path) from error
            if replaced.exists():
                replaced.rename(path)
            raise
        shutil.rmtree(replaced, ignore_errors=True)


def compressor(codec: Codec, zarr_format: int) -> Any:
    """Return what compresses chunks, as zarr takes it; KeyError or ValueError where it can't."""
    name, settings = codec
    if name == "none":
        return None
    kind = {"blosc": BloscCodec, "zstd": ZstdCodec, "gzip": GzipCodec}[name]
    if zarr_format == 3:
        return kind(**settings)
    if "shuffle" in settings:
        settings = settings | {"shuffle": SHUFFLES.index(settings["shuffle"])}
    return {"id": name, **settings}


def display_ranges(array: Any, axes: str) -> list[tuple[float, float]]:
    """Return the darkest and brightest value per channel, of planes in the middle of time."""
    box = {axis: slice(0, n) for axis, n in zip(axes, array.shape, strict=True)}
    if "T" in axes:
        box["T"] = slice(box["T"].stop // 2, box["T"].stop // 2 + 1)
    if "Z" in axes:
        box["Z"] = slice(0, None, ceil(box["Z"].stop / PLANES))
    ranges = []
    for channel in range(box["C"].stop if "C" in axes else 1):
        if "C" in axes:
            box["C"] = slice(channel, channel + 1)
        values = np.asarray(array[tuple(box[axis] for axis in axes)])
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        ranges.append((low, high if high > low else low + 1))
    return ranges
