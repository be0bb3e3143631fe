"""Pixels of a scene of a CZI, read plane by plane through libCZI.

An open file (`OpenCzi`) is used by one thread at a time: pylibCZIrw holds the interpreter's lock
while it reads and decodes, so that several readers of a file would gain nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import product
from math import prod
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pylibCZIrw.czi import CacheOptions, CacheType, CziReader

from careamics_dm.axes import DataError
from careamics_dm.formats._czi_coverage import Coverage
from careamics_dm.formats._czi_directory import SubBlocks, read_directory
from careamics_dm.handles import HandleCache

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from numpy.typing import NDArray

    from careamics_dm.formats._czi_coverage import Box

MOST_OPEN = 32
"""Files open at once."""
BLOCK_BYTES = 2**26
"""Planes up to this size (64 MiB, of all channels) are read whole."""
REGION_BYTES = 2**24
"""Larger ones in regions of about this size (16 MiB) that are some sub-blocks wide and high."""


class PixelType(NamedTuple):
    """A pixel type of CZI, as pylibCZIrw names it."""

    name: str
    dtype: str
    n_samples: int
    """3 for colours, which are stored in the order B, G, R."""


PIXEL_TYPES = {
    0: PixelType("Gray8", "uint8", 1),
    1: PixelType("Gray16", "uint16", 1),
    2: PixelType("Gray32Float", "float32", 1),
    3: PixelType("Bgr24", "uint8", 3),
    4: PixelType("Bgr48", "uint16", 3),
}
"""What can be read, by its number in the file."""


@dataclass(frozen=True)
class Indices:
    """Indices that a dimension has in the file, ascending; they need not start at 0."""

    first: int
    step: int
    count: int
    uneven: tuple[int, ...] = ()
    """All of them, where they are not evenly spaced."""

    @classmethod
    def of(cls, values: NDArray[np.int64]) -> Indices:
        """Collect the different values."""
        found = np.unique(values)
        step = int(found[1] - found[0]) if len(found) > 1 else 1
        even = bool((np.diff(found) == step).all())
        return cls(int(found[0]), step, len(found), () if even else tuple(found.tolist()))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> int:
        return self.uneven[place] if self.uneven else self.first + self.step * place

    def __iter__(self) -> Iterator[int]:
        return (self[place] for place in range(self.count))

    def places(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where values, which are among the indices, stand."""
        if self.uneven:
            return np.searchsorted(np.array(self.uneven), values).astype(np.int64)
        return (values - self.first) // self.step


@dataclass(frozen=True)
class SceneLayout:
    """Which planes a scene has, and where it lies."""

    path: str
    scene: int | None
    """None in files without scenes."""
    origin: tuple[int, int]
    """``Y X`` of the top left pixel in the coordinates of the file, which may be negative."""
    size: tuple[int, int]
    """``Y X``, pixels."""
    samples: tuple[tuple[str, Indices], ...]
    """Dimensions that fold into samples; the last one runs fastest."""
    depth: tuple[tuple[str, Indices], ...]
    """The dimension that is depth; empty for planes."""
    channels: Indices
    """Along C."""
    pixel_types: tuple[int, ...]
    """Of each channel; see `PIXEL_TYPES`."""

    @property
    def dimensions(self) -> tuple[tuple[str, Indices], ...]:
        """All that number the planes; the last one, C, runs fastest."""
        return (*self.samples, *self.depth, ("C", self.channels))

    @property
    def lengths(self) -> tuple[int, int, int]:
        """Samples, depth and channels of the file."""
        n_samples, n_depth = (prod(len(i) for _, i in d) for d in (self.samples, self.depth))
        return n_samples, n_depth, len(self.channels)

    @property
    def components(self) -> list[tuple[int, int]]:
        """Per channel of the image: the channel of the file, and the component of its pixels."""
        return [
            (c, component)
            for c, number in enumerate(self.pixel_types)
            for component in ((2, 1, 0) if PIXEL_TYPES[number].n_samples == 3 else (0,))
        ]

    def plane(self, sample: int, z: int, channel: int) -> dict[str, int]:
        """Return what libCZI calls a plane: an index per dimension."""
        places = np.unravel_index(sample, [len(i) for _, i in self.samples] or [1])
        plane = {d: i[int(p)] for (d, i), p in zip(self.samples, places, strict=False)}
        plane |= {letter: indices[z] for letter, indices in self.depth}
        return plane | {"C": self.channels[channel]}


class CziArray:
    """A scene of a CZI as an array ``S C (Z) Y X`` that is read by boxes; see `StoredArray`.

    Parameters
    ----------
    layout : SceneLayout
        The scene.
    blocks : SubBlocks
        Its sub-blocks.
    dtype : dtype
        What pixels are returned as.
    cache_bytes : int
        For decoded sub-blocks, of all open files together.
    """

    def __init__(
        self, layout: SceneLayout, blocks: SubBlocks, dtype: np.dtype[Any], cache_bytes: int
    ) -> None:
        self.layout, self.dtype, self.cache_bytes = layout, dtype, cache_bytes
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

    def valid_region(self, sample: int, channels: Sequence[int] | None = None) -> list[Box] | None:
        """Return where a sample was acquired, in all of its channels or in some.

        Parameters
        ----------
        sample : int
            Index along ``S``.
        channels : sequence of int, optional
            Indices along ``C``.

        Returns
        -------
        list of (start, stop), or None
            Boxes, ``(Z) Y X``, which may overlap. None: all of the sample was acquired.
        """
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


class Key(NamedTuple):
    """Names an open file."""

    path: str
    budget: int
    """Bytes for decoded sub-blocks, of all open files together."""


class OpenCzi:
    """A file that is open, with a cache of decoded sub-blocks (of compressed ones only).

    Each file that is opened gets half of what others have left of the budget: so one file alone
    has much of it, and many together never exceed it.
    """

    def __init__(self, key: Hashable) -> None:
        assert isinstance(key, Key)
        self._path, self._process, self._lock = key.path, os.getpid(), Lock()
        taken = sum(other.cache_bytes for other in list(_OPEN) if other._process == os.getpid())
        self.cache_bytes: int = max(key.budget - taken, 0) // 2
        cache = CacheOptions(CacheType.Standard, max_memory_usage=self.cache_bytes)
        try:
            self._reader = CziReader(key.path, cache_options=cache if self.cache_bytes else None)
        except RuntimeError as error:  # whatever libCZI finds wrong
            raise DataError(
                f"{key.path}: not a readable CZI file ({error}). Copy or save it again."
            ) from error
        _OPEN.add(self)

    def read(
        self, layout: SceneLayout, place: tuple[int, int, int], roi: tuple[int, int, int, int]
    ) -> NDArray[Any]:
        """Read a box of a plane: ``Y X`` and components of pixels.

        Parameters
        ----------
        layout : SceneLayout
            The scene.
        place : tuple of int
            Of the plane: sample, depth and channel of the file.
        roi : tuple of int
            Left, top, width and height in the coordinates of the file.
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
                f"{self._path}: its metadata cannot be read ({error}). The file is damaged: copy "
                "or save it again."
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


def _load_coverage(key: Hashable) -> Coverage:
    assert isinstance(key, SceneLayout)
    return Coverage(read_directory(key.path).of_scene(key.scene), key)


_OPEN: set[OpenCzi] = set()


_READERS: HandleCache[OpenCzi] = HandleCache(OpenCzi, OpenCzi.close, most=MOST_OPEN)
_COVERAGES: HandleCache[Coverage] = HandleCache(_load_coverage, lambda coverage: None, most=256)
