"""Where the pages of an image lie in their files, which of them are there, and which are used."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from math import ceil, prod
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from careamics_dm.errors import DataError

LAST_OF_ALL = "ZC"
"""A recording that stopped lacks frames; planes or channels only where it has one frame."""


@dataclass(frozen=True, eq=False)
class PageRows:
    """A row per page; what it says of a page that is missing means nothing."""

    files: list[str]
    offsets: NDArray[np.int64]  # a column per strip or tile, or one for a raw page
    counts: NDArray[np.int64]
    jpeg_tables: list[bytes | None]
    there: NDArray[np.bool_]
    is_raw: bool  # each page is one uncompressed array

    def __len__(self) -> int:
        return len(self.files)

    def take(self, numbers: NDArray[np.int64]) -> "PageRows":
        """Choose pages; the number -1 is a page that is missing."""
        return replace(
            self,
            files=[self.files[i] for i in numbers],
            offsets=self.offsets[numbers],
            counts=self.counts[numbers],
            jpeg_tables=[self.jpeg_tables[i] for i in numbers],
            there=self.there[numbers] & (numbers >= 0),
        )


def grid_of(page_shape: Sequence[int], segment_shape: Sequence[int]) -> list[int]:
    """Segments per dimension of a page."""
    return [ceil(n / b) for n, b in zip(page_shape, segment_shape, strict=True)]


def segment_shape_of(keyframe: tifffile.TiffPage) -> tuple[int, ...]:
    """Return the shape of a strip or tile; like that of a page, it has 5 dimensions."""
    if keyframe.is_tiled:
        return (1, keyframe.tiledepth, keyframe.tilelength, keyframe.tilewidth, keyframe.shaped[4])
    return (1, 1, keyframe.rowsperstrip, keyframe.imagewidth, keyframe.shaped[4])


def find_rows(file: tifffile.TiffFile, series: tifffile.TiffPageSeries, n_pages: int) -> PageRows:
    """Find the first pages of a series; those that are beyond the end of a file are not there."""
    keyframe = series.keyframe
    path, dtype = keyframe.parent.filehandle.path, keyframe.dtype
    if dtype is None:
        raise DataError(
            f"{path}: pixels of {keyframe.bitspersample} bits in sample format "
            f"{keyframe.sampleformat} have no NumPy dtype. Convert the file."
        )
    n_bytes = prod(keyframe.shaped) * dtype.itemsize
    start = _start_of_array(file, series)
    if start is None:
        rows = _rows_of(_pages(file, series)[:n_pages], n_pages, series)
    else:
        offsets = start + n_bytes * np.arange(n_pages, dtype=np.int64)[:, None]
        there, counts = np.ones(n_pages, bool), np.full_like(offsets, n_bytes)
        rows = PageRows([path] * n_pages, offsets, counts, [None] * n_pages, there, True)
    ends = (rows.offsets + rows.counts).max(axis=1)
    if rows.is_raw:  # counts of such pages are not reliable
        ends = np.where(rows.offsets[:, 0], rows.offsets[:, 0] + n_bytes, np.inf)  # 0: nowhere
    sizes = {name: Path(name).stat().st_size for name in {*compress(rows.files, rows.there)}}
    inside = ends <= np.array([sizes.get(name, 0) for name in rows.files])
    return replace(rows, there=rows.there & inside)


def part_of(rows: PageRows, shape: list[int]) -> tuple[PageRows, list[int]]:
    """Leave out what a file has no page of: the frames, planes or channels in other files."""
    there = _grid(rows, shape)
    every = range(there.ndim)
    return _choose(rows, shape, [np.flatnonzero(there.any(axis=_but(d, every))) for d in every])


def whole_frames(rows: PageRows, axes: str, shape: list[int]) -> tuple[PageRows, list[int]]:
    """Choose the frames, of a single one the planes, of which every page is there."""
    there = _grid(rows, shape)
    long = [d for d in range(there.ndim) if there.shape[d] > 1]
    if not long:
        return rows.take(np.zeros(0, np.int64)), shape
    along = min(long, key=lambda d: LAST_OF_ALL.find(axes[d]))
    chosen = [np.arange(n) for n in there.shape]
    chosen[along] = np.flatnonzero(there.all(axis=_but(along, range(there.ndim))))
    return _choose(rows, shape, chosen)


def _grid(rows: PageRows, shape: list[int]) -> NDArray[np.bool_]:
    """Arrange the pages by the leading dimensions, which number them."""
    n = next((d for d in range(len(shape)) if prod(shape[:d]) == len(rows)), 0)
    return rows.there.reshape(shape[:n])


def _choose(
    rows: PageRows, shape: list[int], chosen: list[NDArray[np.int64]]
) -> tuple[PageRows, list[int]]:
    numbers = np.arange(len(rows)).reshape(shape[: len(chosen)])[np.ix_(*chosen)]
    return rows.take(numbers.ravel()), [*numbers.shape, *shape[len(chosen) :]]


def _but(d: int, dimensions: range) -> tuple[int, ...]:
    return tuple(i for i in dimensions if i != d)


def _start_of_array(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> int | None:
    """Return where a series that is one uncompressed array begins; None for others."""
    page = series.keyframe
    if series.is_multifile:
        return None
    # ImageJ writes one directory, then all planes: tifffile doubts it where some are missing.
    if (
        file.is_imagej
        and len(file.pages) == 1
        and page.is_final
        and page.offset < page.dataoffsets[0]
    ):
        return int(page.dataoffsets[0])
    return series.dataoffset


def _pages(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> list[Any]:
    """Return the pages of a series as far as there are any; None for those that are missing."""
    try:
        found = list(series)
    except IndexError:  # fewer than declared
        found = []
    if len(found) < 2 and series.kind == "shaped":
        return list(file.pages)[series.keyframe.index :]
    return found


def _rows_of(pages: list[Any], n_pages: int, series: tifffile.TiffPageSeries) -> PageRows:
    keyframe = series.keyframe
    path = keyframe.parent.filehandle.path
    n = prod(grid_of(keyframe.shaped, segment_shape_of(keyframe)))
    for i, page in enumerate(pages):
        if page and min(len(page.dataoffsets), len(page.databytecounts)) < n:
            raise DataError(
                f"{path}: page {i} lists {len(page.dataoffsets)} strips or tiles where {n} are "
                "needed. The file is damaged: copy or save it again."
            )
    pages = pages + [None] * (n_pages - len(pages))
    offsets, counts = np.zeros((2, n_pages, n), np.int64)
    for i, page in enumerate(pages):
        if page:
            offsets[i], counts[i] = page.dataoffsets[:n], page.databytecounts[:n]
    there = np.array([page is not None for page in pages], bool)
    if series.kind == "mmstack":  # frames that are only in the index
        there &= offsets[:, 0] > 0
    follows = (offsets[:, :-1] + counts[:, :-1] == offsets[:, 1:]).all(axis=1)
    is_raw = bool(keyframe.is_final and (follows & (offsets > 0).all(axis=1))[there].all())
    files = [intern(page.parent.filehandle.path) if page else path for page in pages]
    tables = [page.jpegtables if page else None for page in pages]
    return PageRows(files, offsets, counts, tables, there, is_raw)
