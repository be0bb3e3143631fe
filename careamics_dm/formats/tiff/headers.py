"""What a TIFF file holds: a series is found, and checked to be complete, from headers alone.

A *page* is what one directory (IFD) of the file describes. A *series* is pages of one kind: an
image. tifffile reads much of what is missing as zeros, or leaves it out; here it is an error.
"""

import json
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile

from careamics_dm.errors import DataError, truncated
from careamics_dm.sources.file_kind import other_kind


class Key(NamedTuple):
    """Names a series: the file, the series in it, and the level of its pyramid."""

    path: str
    series: int
    level: int


@dataclass(frozen=True, eq=False)
class FoundSeries:
    """A series in an open file."""

    key: Key
    file: tifffile.TiffFile
    number: int  # among all series of file.series
    base: tifffile.TiffPageSeries  # full resolution
    pages: tifffile.TiffPageSeries  # the level asked for
    axes: str
    shape: tuple[int, ...]  # with every dimension that tifffile knows, also those of length 1


@contextmanager
def open_series(key: Key) -> Iterator[FoundSeries]:
    """Open a file and find a series in it; whatever goes wrong is a `DataError`.

    Only headers are read. In a set of OME-TIFF files that hold several images, a file's series
    are those with a page in this very file.
    """
    try:
        with tifffile.TiffFile(key.path) as file:
            _check_page_chain(file, key.path)
            yield _find(file, key)
    except DataError:
        raise
    except Exception as error:  # a damaged file makes tifffile raise all sorts
        size = Path(key.path).stat().st_size if Path(key.path).is_file() else None
        found = "it is empty (0 bytes)" if size == 0 else str(error)
        advice = other_kind(key.path, "tiff") or " Save it again or take it off the list."
        raise DataError(f"{key.path}: not a readable TIFF file: {found}.{advice}") from error


def all_pages(found: FoundSeries) -> list[Any]:
    """Return every page of a series, none of them missing."""
    path = Path(found.key.path)
    needed = prod(found.shape) // prod(found.pages.keyframe.shaped)
    try:
        pages = list(found.pages)
    except IndexError:
        pages = list(found.file.pages)
    n_found = sum(page is not None for page in pages)
    if not n_found == len(pages) == needed:
        names = set(re.findall(r'FileName="([^"]+)"', found.file.ome_metadata or ""))
        gone = sorted(name for name in map(unescape, names) if not (path.parent / name).is_file())
        where = f" (there is no {', '.join(gone)})" if gone else ""
        raise DataError(
            f"{path}: shape {found.shape} needs {needed} pages, but {n_found} are found{where}. "
            "Complete the file or the set of files."
        )
    return pages


def decoder(found: FoundSeries) -> tuple[Callable[..., Any], np.dtype[Any]]:
    """Find the function that decodes a strip or tile, and the dtype with the file's byte order."""
    keyframe = found.pages.keyframe
    if keyframe.dtype is None:
        raise DataError(
            f"{found.key.path}: pixels of {keyframe.bitspersample} bits in sample format "
            f"{keyframe.sampleformat} have no NumPy dtype. Convert the file."
        )
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
        raise DataError(
            f"{found.key.path}: compression {name} cannot be decoded here ({error}). Install its "
            "codec: pip install imagecodecs; or save the file with another compression."
        ) from error
    return decode, np.dtype(keyframe.dtype).newbyteorder(keyframe.parent.byteorder)


def shaped_metadata(page: tifffile.TiffPage) -> dict[str, Any]:
    """Return what tifffile wrote about the series that starts here; nothing in other files."""
    text = page.shaped_description or ""
    return dict(json.loads(text)) if text.startswith("{") else {}


def _find(file: tifffile.TiffFile, key: Key) -> FoundSeries:
    series = list(file.series)
    own = [i for i, one in enumerate(series) if _has_page_in(one, file)]
    if not own:
        raise DataError(f"{key.path}: holds no image. Save it again or take it off the list.")
    if not 0 <= key.series < len(own):
        there = ", ".join(f"{n}: {series[i].shape}" for n, i in enumerate(own))
        raise DataError(f"{key.path}: series={key.series} does not exist. There are {there}.")
    number = own[key.series]
    base = series[number]
    _check_stated(file, base, key.path)
    if not 0 <= key.level < len(base.levels):
        there = ", ".join(f"{n}: {one.shape}" for n, one in enumerate(base.levels))
        raise DataError(
            f"{key.path}: level={key.level} does not exist in series {key.series}. There are "
            f"{there}. Choose one of these numbers; 0 is full resolution."
        )
    pages = base.levels[key.level]
    if callable(file.series):  # tifffile 2026.5 and later
        full = file.series(squeeze=False)[number].levels[key.level]
        axes, shape = full.axes, full.shape
    else:
        axes, shape = pages.get_axes(squeeze=False), pages.get_shape(squeeze=False)
    return FoundSeries(key, file, number, base, pages, axes, tuple(shape))


def _has_page_in(series: tifffile.TiffPageSeries, file: tifffile.TiffFile) -> bool:
    if not series.is_multifile:
        return bool(series.keyframe.parent is file)
    return any(page is not None and page.parent is file for page in series)


def _check_page_chain(file: tifffile.TiffFile, path: str) -> None:
    """Check that the last page found is the last one; tifffile ends quietly where a file does."""
    handle, form = file.filehandle, file.tiff

    def number(place: int, size: int, layout: str) -> int:
        handle.seek(place)
        return int(struct.unpack(layout, handle.read(size))[0])

    offset, link = 0, form.offsetsize  # the header links to the first page
    if n_pages := len(file.pages):
        offset = file.pages[n_pages - 1].offset
        n_tags = number(offset, form.tagnosize, form.tagnoformat)
        link = offset + form.tagnosize + n_tags * form.tagsize
    end = link + form.offsetsize
    if end <= handle.size:
        end = number(link, form.offsetsize, form.offsetformat)
    # Some writers let the last page link back to an earlier one: that loses nothing.
    if end > offset and not (n_pages and offset == 0):  # 0: pages that tifffile makes up
        raise truncated(path, max(end, handle.size + 1), handle.size)


def _check_stated(file: tifffile.TiffFile, base: tifffile.TiffPageSeries, path: str) -> None:
    """Compare with the size the metadata declare; tifffile quietly falls back to fewer pages."""
    page = base.keyframe
    if 0 in page.shaped:
        raise DataError(f"{path}: shape {page.shape} holds no pixel. Take it off the list.")
    stated = found = 0
    if base.kind == "shaped":
        stated = prod(shaped_metadata(page).get("shape", ())) // prod(page.shaped)
        found = prod(base.shape) // prod(page.shaped)
    elif file.is_imagej and base.kind in ("generic", "uniform"):
        metadata = file.imagej_metadata or {}
        stated = prod(metadata.get(name, 1) for name in ("channels", "slices", "frames"))
        found = len(base) * page.samplesperpixel
    if stated > found:
        raise DataError(
            f"{path}: truncated: it declares {stated} pages, but {found} are found. Copy it again."
        )


def _try_codec(compression: int) -> None:
    """Raise KeyError for an unknown codec, ImportError for one that imagecodecs lacks."""
    codec = tifffile.TIFF.DECOMPRESSORS[compression]
    try:
        codec(b"")
    except ImportError:
        raise
    except Exception:
        pass  # it is there; no data are no image
