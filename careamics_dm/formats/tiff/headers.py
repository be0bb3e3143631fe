"""What a TIFF file holds: its images are found, and checked to be complete, from headers alone.

A *page* is what one directory (IFD) of the file describes. A *series* is pages of one kind: an
image. tifffile reads much of what is missing as zeros, or leaves it out; here it is an error.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import unescape
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile

from careamics_dm.errors import DataError, blame_others
from careamics_dm.formats.tiff.declared import declared, n_undeclared, shaped_metadata
from careamics_dm.formats.tiff.page_rows import PageRows, find_rows, part_of, whole_frames
from careamics_dm.formats.tiff.sets import (
    RECORDINGS,
    Files,
    by_position,
    check_number,
    dimensions,
    next_page,
    open_set,
)
from careamics_dm.sources.file_kind import other_kind

BESIDE_IMAGES = re.compile(r"(label|macro|thumbnail|map|overview)( image)?", re.IGNORECASE)
"""Names of what slide scanners save beside an image."""
COMPLETE_IT = (
    "Copy or save it again, complete its set of files, or set incomplete=trim to read the whole "
    "frames that are there."
)


class Key(NamedTuple):
    """Names an image: the file, what of it, and how it is read."""

    path: str
    series: int = 0
    level: int = 0  # of the pyramid
    position: int | None = None  # of a recording of Micro-Manager
    alone: bool = False  # without the rest of its set
    trim: bool = False  # to the frames that are there
    pages: bool = False  # every page is one of a stack to which they were appended


@dataclass(frozen=True, eq=False)
class FoundSeries:
    """An image in an open file."""

    key: Key
    file: tifffile.TiffFile
    base: tifffile.TiffPageSeries  # full resolution
    pages: tifffile.TiffPageSeries  # the level asked for
    axes: str
    shape: tuple[int, ...]  # with every dimension that tifffile knows, also those of length 1
    rows: PageRows
    problem: str  # what is missing, where that is left out


class Images(NamedTuple):
    """The images of a file that are read."""

    keys: dict[str, Key]
    """By what their names add to that of the file."""
    left: list[str]
    """The series that are left out."""


@contextmanager
def open_file(key: Key) -> Iterator[tuple[tifffile.TiffFile, Files]]:
    """Open a file and its set; whatever goes wrong is a `DataError`. Only headers are read."""
    path = Path(key.path)
    try:
        with open_set(path, key.alone, key.pages) as (file, files):
            if (problem := _end_of_pages(file, key)) and not key.trim:
                raise DataError(f"{problem} {COMPLETE_IT}")
            yield file, files
    except DataError:
        raise
    except Exception as error:  # a damaged file makes tifffile raise all sorts
        blame_others(error, path)
        size = path.stat().st_size if path.is_file() else None
        found = "it is empty (0 bytes)" if size == 0 else str(error)
        advice = other_kind(key.path, "tiff") or " Save it again or take it off the list."
        raise DataError(f"{path}: not a readable TIFF file: {found}.{advice}") from error


def images_in(file: tifffile.TiffFile, files: Files, key: Key, series: int | None) -> Images:
    """Find the images of a file, or the one of a series; they are read as ``key`` says."""
    every = list(file.series)
    own = [n for n, one in enumerate(every) if _has_page_in(one, files)]
    if not own:
        raise DataError(f"{key.path}: holds no image. Save it again or take it off the list.")
    if series is not None and series >= len(own):
        there = ", ".join(f"{i}: {every[n].shape}" for i, n in enumerate(own))
        raise DataError(f"{key.path}: series={series} does not exist. There are {there}.")
    chosen = [n for n in own if not _is_beside_images(every[n])] or own
    chosen = chosen if series is None else [own[series]]
    several = len(chosen) > 1
    keys = {f"/series_{own.index(n)}" * several: key._replace(series=n) for n in chosen}
    if every[0].kind in RECORDINGS:
        keys = _positions(file, files, key)
    left = [f"{own.index(n)} ({every[n].name or every[n].shape})" for n in own if n not in chosen]
    return Images(keys, left)


def were_appended(file: tifffile.TiffFile, key: Key) -> bool:
    """Whether tifffile wrote the pages of a file one by one, and all are alike."""
    page = file.pages.first if len(file.pages) > 1 else None
    if not page or not page.is_shaped or page.subifds:
        return False
    if prod(shaped_metadata(page).get("shape", ())) != prod(page.shaped):
        return False
    try:
        with open_file(key._replace(pages=True)) as (again, _):
            return len(again.series) == 1 and len(again.series[0]) == len(again.pages)
    except DataError:  # tifffile compares pages of some files only when it lists them
        return False


def find_series(file: tifffile.TiffFile, files: Files, key: Key) -> FoundSeries:
    """Find an image and the places of its pages, and check that all of them are there."""
    base = file.series[key.series]
    if 0 in base.keyframe.shaped:
        shape = base.keyframe.shape
        raise DataError(f"{key.path}: shape {shape} holds no pixel. Take it off the list.")
    if not 0 <= key.level < len(base.levels):
        there = ", ".join(f"{n}: {one.shape}" for n, one in enumerate(base.levels))
        raise DataError(
            f"{key.path}: level={key.level} does not exist in series {key.series}. There are "
            f"{there}. Choose one of these numbers; 0 is full resolution."
        )
    axes, sizes, rows, n_pages = _all_rows(file, files, key)
    problem = _end_of_pages(file, key)
    if key.alone:
        rows, sizes = part_of(rows, sizes)
    if not rows.there.all():
        problem = _missing(file, key, rows, n_pages)
        rows, sizes = whole_frames(rows, axes, sizes)
        if not len(rows):
            raise DataError(f"{problem} Copy or save it again.")
        if not key.trim:
            raise DataError(f"{problem} {COMPLETE_IT}")
    if problem:
        problem += f" The whole frames that are there are read, {len(rows)} page(s)."
    return FoundSeries(key, file, base, base.levels[key.level], axes, tuple(sizes), rows, problem)


def surplus(file: tifffile.TiffFile, files: Files, key: Key) -> str:
    """Say that a file has more pages than its metadata declare; nothing if it has not."""
    n = n_undeclared(file) if Path(file.filehandle.path) in files else 0
    return (
        f"{key.path}: has {len(file.pages)} pages, {n} more than it declares. It is read as far as "
        "it declares."
    ) * (n > 0)


def _all_rows(
    file: tifffile.TiffFile, files: Files, key: Key
) -> tuple[str, list[int], PageRows, int]:
    """Return axes, shape, pages, and how many are declared; those of files not read are missing."""
    pages = file.series[key.series].levels[key.level]
    axes, sizes, numbers, stated = declared(file, pages, *dimensions(file, key.series, key.level))
    n_pages = prod(sizes) // prod(pages.keyframe.shaped)
    check_number(n_pages, key.path, files)
    rows = find_rows(file, pages, n_pages if numbers is None else len(pages))
    if numbers is not None:
        rows = rows.take(numbers)
    if key.position is not None:
        rows = rows.take(np.array(by_position(axes, sizes, len(rows))[key.position]))
        sizes = [1 if axis == "R" else n for axis, n in zip(axes, sizes, strict=True)]
    read = np.array([Path(name) in files for name in rows.files])
    return axes, sizes, replace(rows, there=rows.there & read), max(stated, len(rows))


def _missing(file: tifffile.TiffFile, key: Key, rows: PageRows, n_pages: int) -> str:
    names = map(unescape, set(re.findall(r'FileName="([^"]+)"', file.ome_metadata or "")))
    path = Path(file.filehandle.path)
    gone = sorted(name for name in names if not (path.parent / name).is_file())
    where = f"there is no {', '.join(gone)}" if gone else f"it has {path.stat().st_size} bytes"
    what = f"it declares {n_pages} pages, but {rows.there.sum()} are found"
    what = what if n_pages > 1 else "its page goes on beyond its end"
    return f"{key.path}: truncated: {what}; {where}."


def _positions(file: tifffile.TiffFile, files: Files, key: Key) -> dict[str, Key]:
    """Name the positions of a recording of which there are pages in ``files``."""
    pages = list(file.series[0])
    positions = by_position(*dimensions(file, 0), len(pages))
    own = [i for i, numbers in enumerate(positions) if _any_in([pages[n] for n in numbers], files)]
    several = len(own) > 1
    return {f"/position_{i}" * several: key._replace(position=i) for i in own}


def _has_page_in(series: tifffile.TiffPageSeries, files: Files) -> bool:
    return _any_in(series if series.is_multifile else [series.keyframe], files)


def _any_in(pages: Iterable[Any], files: Files) -> bool:
    return any(page and Path(page.parent.filehandle.path) in files for page in pages)


def _is_beside_images(series: tifffile.TiffPageSeries) -> bool:
    page = series.keyframe
    return bool(page.is_reduced or page.is_mask or BESIDE_IMAGES.fullmatch(series.name.strip()))


def _end_of_pages(file: tifffile.TiffFile, key: Key) -> str:
    """Say that the last page found is not the last one; tifffile ends quietly where a file does."""
    path = Path(file.filehandle.path)
    if path != Path(key.path).resolve():
        return ""
    offset, n_pages = 0, len(file.pages)
    if n_pages:
        offset = file.pages[n_pages - 1].offset
    end, following = next_page(file, offset)
    if end <= file.filehandle.size:
        end = following
    # Some writers let the last page link back to an earlier one: that loses nothing.
    if end <= offset or (n_pages and offset == 0):  # 0: pages that tifffile makes up
        return ""
    size = path.stat().st_size
    return (
        f"{key.path}: truncated: its pages go on at byte {max(end, size + 1)}, but it has {size} "
        f"bytes; {n_pages} page(s) are found."
    )
