"""Pixels of a TIFF series: which strips or tiles hold a box, each read and decoded once.

This module knows dimensions, no axes: the leading ones of a series number its pages, the
trailing ones lie inside them. A page is ``(planar samples, depth, rows, columns, samples)``; a
*segment* is a strip or a tile of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from careamics_dm.errors import DataError, blame_others, truncated
from careamics_dm.formats.tiff.headers import FoundSeries, Key, find_series, open_file
from careamics_dm.formats.tiff.page_rows import PageRows, grid_of, segment_shape_of
from careamics_dm.images.boxes import blocks_in, seen_from
from careamics_dm.images.file_handles import HandleCache
from careamics_dm.images.file_stamp import FileStamp
from careamics_dm.images.raw_array import RawArray


def find_raw(found: FoundSeries, shape: tuple[int, ...]) -> RawArray | None:
    """Find a series that is one uncompressed array in one file; other series give None."""
    rows, keyframe = found.rows, found.pages.keyframe
    dtype = np.dtype(keyframe.dtype).newbyteorder(keyframe.parent.byteorder)
    steps = np.diff(rows.offsets[:, 0]) == prod(keyframe.shaped) * dtype.itemsize
    if not rows.is_raw or not steps.all() or len(set(rows.files)) > 1:
        return None
    return RawArray(Path(rows.files[0]), dtype, shape, int(rows.offsets[0, 0]))


class TiffArray:
    """A series of a TIFF file, with or without dimensions of length 1; see `StoredArray`."""

    def __init__(self, found: FoundSeries, shape: tuple[int, ...]) -> None:
        table = page_table(found)
        self.key = found.key
        self.shape = shape
        self._stamps = {path: FileStamp.of(path) for path in sorted(set(table.rows.files))}
        self.dtype: np.dtype[Any] = table.stored_dtype.newbyteorder("=")
        dims = _dims_of_page(shape, table, self.key.path)
        self.block_shape: tuple[int, ...] = (1,) * len(shape)
        if not table.rows.is_raw:
            block = {d: table.segment_shape[i] for i, d in enumerate(dims) if d is not None}
            self.block_shape = tuple(min(block.get(d, 1), n) for d, n in enumerate(shape))
        _TABLES.close(self.key)  # it may be of a file that was replaced
        _close_files(table)
        with _TABLES.use(self.key, lambda key: table):
            pass

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """Read a box: only the strips and tiles that it meets, each once."""
        with _TABLES.use(self.key) as table:
            dims = _dims_of_page(self.shape, table, self.key.path)
            inner = [slice(0, 1) if dim is None else box[dim] for dim in dims]
            leading = [d for d in range(len(box)) if d not in dims]
            numbers = np.arange(len(table.rows)).reshape([self.shape[d] for d in leading])
            pages = numbers[tuple(box[d] for d in leading)].ravel()
            out = np.empty((len(pages), *(s.stop - s.start for s in inner)), self.dtype)
            for path in {table.rows.files[page] for page in pages}:
                self._stamps[path].check()
            for page, into in zip(pages.tolist(), out, strict=True):
                table.read(page, inner, into)
        return out.reshape([s.stop - s.start for s in box])

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        _TABLES.close(self.key)


class OpenFile:
    """A file that several threads read at once."""

    def __init__(self, path: str) -> None:
        self._file = Path(path).open("rb", buffering=0)
        self._lock = Lock()
        self.close = self._file.close

    def read(self, offset: int, count: int) -> bytes:
        """Read bytes at a position; fewer at the end of the file."""
        with self._lock:  # the position is shared
            self._file.seek(offset)
            return self._file.read(count)


@dataclass(frozen=True, eq=False)
class PageTable:
    """Where the pages of a series lie and how they are decoded; holds no open file."""

    page_shape: tuple[int, ...]
    segment_shape: tuple[int, ...]  # both (planar samples, depth, rows, columns, samples)
    stored_dtype: np.dtype[Any]  # with the byte order of the file
    rows: PageRows
    decode: Callable[..., Any]
    jpeg_header: bytes | None
    nodata: float

    def read(self, page: int, box: Sequence[slice], out: NDArray[Any]) -> None:
        """Read a box of a page into an array."""
        path = self.rows.files[page]
        if self.rows.is_raw:
            offset = int(self.rows.offsets[page, 0])
            how = self.stored_dtype, self.page_shape, offset
            array = RawArray(Path(path), *how, may_change=True)  # made for this read alone
            out[...] = array[tuple(box)]
            return
        grid, corner = grid_of(self.page_shape, self.segment_shape), [s.start for s in box]
        with _FILES.use(path) as file:
            for place, part in blocks_in(box, self.segment_shape):
                index = int(np.ravel_multi_index(place, grid))
                segment, origin, _ = self._decoded(file, page, index)
                # A segment lacks the planar sample, which `origin` has.
                within = seen_from(origin, part)[1:]
                out[seen_from(corner, part)] = self.nodata if segment is None else segment[within]

    def _decoded(self, file: OpenFile, page: int, index: int) -> Any:
        offset, count = int(self.rows.offsets[page, index]), int(self.rows.counts[page, index])
        data = None
        if offset > 0 and count > 0:  # else it is sparse: never written
            data = file.read(offset, count)
            if len(data) < count:
                raise truncated(self.rows.files[page], offset + count, offset + len(data))
        path = self.rows.files[page]
        try:
            jpeg = {"jpegtables": self.rows.jpeg_tables[page], "jpegheader": self.jpeg_header}
            return self.decode(data, index, **jpeg, _fullsize=False)
        except Exception as error:  # codecs raise what they like
            blame_others(error, path)
            raise DataError(
                f"{path}: segment {index} of page {page} at byte {offset} cannot be "
                f"decoded ({error}). The file is damaged: copy or save it again."
            ) from error


def page_table(found: FoundSeries) -> PageTable:
    """Collect where the pages of a series lie and how they are decoded."""
    keyframe = found.pages.keyframe
    decode, stored_dtype = _decoder(keyframe, found.key.path)
    return PageTable(
        keyframe.shaped,
        segment_shape_of(keyframe),
        stored_dtype,
        found.rows,
        decode,
        keyframe.jpegheader,
        keyframe.nodata,
    )


def _decoder(keyframe: tifffile.TiffPage, path: str) -> tuple[Callable[..., Any], np.dtype[Any]]:
    """Find the function that decodes a strip or tile, and the dtype with the file's byte order."""
    try:
        if keyframe.compression != 1:
            _try_codec(keyframe.compression)
        # A page of its own: the one at hand would keep all pages of the file in memory.
        with tifffile.TiffFile(keyframe.parent.filehandle.path) as file:
            file.filehandle.seek(keyframe.offset)
            decode = tifffile.TiffPage(file, keyframe.index).decode
        decode(None, 0)
    except (ImportError, KeyError, ValueError, NotImplementedError) as error:
        name = getattr(keyframe.compression, "name", keyframe.compression)
        lacking = isinstance(error, ImportError) or "imagecodecs" in str(error)
        advice = (
            "Install its codec: pip install imagecodecs; or save the file with another compression."
            if lacking
            else "No Python package decodes it: convert the file to an uncompressed TIFF with "
            "another program, such as Fiji or tiffcp."
        )
        kind = f"compression {name}, {getattr(keyframe.photometric, 'name', '')} pixels,"
        raise DataError(f"{path}: {kind} cannot be decoded here ({error}). {advice}") from error
    return decode, np.dtype(keyframe.dtype).newbyteorder(keyframe.parent.byteorder)


def _try_codec(compression: int) -> None:
    """Raise KeyError for an unknown codec, ImportError for one that imagecodecs lacks."""
    codec = tifffile.TIFF.DECOMPRESSORS[compression]
    try:
        codec(b"")
    except ImportError:
        raise
    except Exception:
        pass  # it is there; no data are no image


def _dims_of_page(shape: Sequence[int], table: PageTable, path: str) -> list[int | None]:
    """Which dimension of a series is which of the five of a page; None: it has length 1."""
    dims: list[int | None] = [None] * 5
    rest = [d for d, n in enumerate(shape) if n > 1]
    for i in reversed([i for i, n in enumerate(table.page_shape) if n > 1]):
        if not rest or shape[rest[-1]] != table.page_shape[i]:
            raise DataError(
                f"{path}: shape {tuple(shape)} does not end in the shape of its pages, "
                f"{table.page_shape}. Save it with one plane per page."
            )
        dims[i] = rest.pop()
    if prod(shape[d] for d in rest) != len(table.rows):
        raise DataError(f"{path}: has changed since it was opened. Set up anew.")
    return dims


def _read_table(key: Key) -> PageTable:
    with open_file(key) as (file, files):
        return page_table(find_series(file, files, key))


def _close_files(table: PageTable) -> None:
    for path in set(table.rows.files):
        _FILES.close(path)


_FILES = HandleCache(OpenFile, lambda file: file.close())
_TABLES = HandleCache(_read_table, _close_files, most=256)
