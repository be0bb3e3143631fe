"""Pixels of a scene of a CZI, read plane by plane through libCZI.

An open file (`OpenCzi`) is used by one thread at a time: pylibCZIrw holds the interpreter's lock
while it reads and decodes, so that several readers of a file would gain nothing.
"""

import os
from collections.abc import Sequence
from itertools import product
from math import prod
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pylibCZIrw.czi import CacheOptions, CacheType, CziReader

from careamics_dm.errors import DataError
from careamics_dm.formats.czi.directory import SubBlocks, read_directory
from careamics_dm.formats.czi.layout import PIXEL_TYPES, Coverage, SceneLayout
from careamics_dm.images.boxes import Boxes
from careamics_dm.images.file_handles import HandleCache
from careamics_dm.images.file_stamp import FileStamp

DType = np.dtype[Any]
BLOCK_BYTES = 2**26  # planes up to this size (64 MiB, of all channels) are read whole
REGION_BYTES = 2**24
"""Larger ones in regions of about this size (16 MiB) that are some sub-blocks wide and high."""


class Key(NamedTuple):
    """Names an open file."""

    path: str
    budget: int  # bytes for decoded sub-blocks, of all open files together


class CziArray:
    """A scene of a CZI as an array ``S C (Z) Y X``, with a cache of bytes; see `StoredArray`."""

    def __init__(self, layout: SceneLayout, blocks: SubBlocks, dtype: DType, cache: int) -> None:
        self.layout, self.dtype, self.cache_bytes = layout, dtype, cache
        self._stamp = FileStamp.of(layout.path)
        n_samples, n_depth, _ = layout.lengths
        depth = [n_depth] * len(layout.depth)
        self.shape = (n_samples, len(layout.components), *depth, *layout.size)
        pixel_bytes = dtype.itemsize * self.shape[1]
        self.block_shape = (1, 1, *[1] * len(depth), *_block(layout, blocks, pixel_bytes))
        coverage = Coverage(blocks, layout)
        self.may_have_gaps = not coverage.is_simple
        self.close()  # what is open may be of a file that was replaced
        if self.may_have_gaps:
            with _COVERAGES.use(layout, lambda key: coverage):
                pass

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """Read a box; pixels that were not acquired are 0."""
        self._stamp.check()
        samples, channels, *depth, rows, columns = (range(s.start, s.stop) for s in box)
        planes = depth[0] if depth else range(1)
        out = np.empty([len(r) for r in (samples, channels, planes, rows, columns)], self.dtype)
        asked = [(i, *self.layout.components[c]) for i, c in enumerate(channels)]
        top, left = self.layout.origin
        roi = (left + columns.start, top + rows.start, len(columns), len(rows))
        with _READERS.use(self._key) as reader:
            for (s, sample), (z, plane) in product(enumerate(samples), enumerate(planes)):
                for channel in dict.fromkeys(c for _, c, _ in asked):
                    pixels = reader.read(self.layout, (sample, plane, channel), roi)
                    for i, c, component in asked:
                        if c == channel:
                            out[s, i, z] = pixels[..., component]
        return out.reshape([s.stop - s.start for s in box])

    def valid_region(self, sample: int, channels: Sequence[int] | None = None) -> Boxes | None:
        """Boxes that were acquired in all of some channels; see `ImageStack`. They may overlap."""
        if not self.may_have_gaps:
            return None
        components = self.layout.components
        chosen = components if channels is None else [components[c] for c in channels]
        with _COVERAGES.use(self.layout) as coverage:
            boxes = coverage.region(sample, sorted({c for c, _ in chosen}))
        if boxes is None or self.layout.depth:
            return boxes
        return [(start[1:], stop[1:]) for start, stop in boxes]

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        _READERS.close(self._key)
        _COVERAGES.close(self.layout)

    @property
    def _key(self) -> Key:
        return Key(self.layout.path, self.cache_bytes)


class OpenCzi:
    """A file that is open, with a cache of decoded sub-blocks (of compressed ones only).

    Each file that is opened gets half of what others have left of the budget: so one file alone
    has much of it, and many together never exceed it.
    """

    def __init__(self, key: Key) -> None:
        self._path, self._process, self._lock = key.path, os.getpid(), Lock()
        taken = sum(other.cache_bytes for other in list(_OPEN) if other._process == os.getpid())
        self.cache_bytes: int = max(key.budget - taken, 0) // 2
        cache = CacheOptions(CacheType.Standard, max_memory_usage=self.cache_bytes)
        try:
            self._reader = CziReader(key.path, cache_options=cache if self.cache_bytes else None)
        except RuntimeError as error:  # whatever libCZI finds wrong
            raise DataError(f"{key.path}: not a readable CZI ({error}). Save it again.") from error
        _OPEN.add(self)

    def read(
        self, layout: SceneLayout, place: tuple[int, int, int], roi: tuple[int, int, int, int]
    ) -> NDArray[Any]:
        """Read a box of a plane: ``Y X`` and components of pixels.

        ``place`` is sample, depth and channel of the file; ``roi`` is left, top, width and height
        in the coordinates of the file.
        """
        plane = layout.plane(*place)
        pixel_type = PIXEL_TYPES[layout.pixel_types[place[2]]].name
        try:
            with self._lock:
                pixels: NDArray[Any] = self._reader.read(
                    roi=roi, plane=plane, scene=layout.scene, pixel_type=pixel_type
                )
        except RuntimeError as error:  # whatever libCZI finds wrong
            where = " ".join(f"{letter}={index}" for letter, index in plane.items())
            raise DataError(
                f"{layout.path}: plane {where} cannot be read ({error}). The file is damaged or "
                "has changed: copy or save it again."
            ) from error
        return pixels

    def metadata(self) -> str:
        """Return the metadata of the file, XML."""
        try:
            return str(self._reader.raw_metadata)
        except (RuntimeError, UnicodeDecodeError) as error:
            raise DataError(
                f"{self._path}: its metadata cannot be read ({error}). Copy or save it again."
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._reader.close()
        _OPEN.discard(self)


def _block(layout: SceneLayout, blocks: SubBlocks, pixel_bytes: int) -> tuple[int, int]:
    """Rows and columns that are read in one go: a plane, or whole sub-blocks of a huge one."""
    if prod(layout.size) * pixel_bytes <= BLOCK_BYTES:
        return layout.size
    rows, columns = np.median(blocks.stop - blocks.start, axis=0).astype(int).tolist()
    times = max(int((REGION_BYTES / (rows * columns * pixel_bytes)) ** 0.5), 1)
    return min(rows * times, layout.size[0]), min(columns * times, layout.size[1])


def _read_coverage(layout: SceneLayout) -> Coverage:
    blocks = read_directory(layout.path, check=False)
    return Coverage(blocks.of_scene(layout.scene), layout)


_OPEN: set[OpenCzi] = set()
_READERS = HandleCache(OpenCzi, OpenCzi.close, most=32)
_COVERAGES = HandleCache(_read_coverage, lambda _: None, most=256)
