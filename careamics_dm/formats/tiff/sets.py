"""Sets of TIFF files that hold images together: OME-TIFF, Micro-Manager, NDTiff.

A set is named wholly (all of its files, or the one that describes it) and is one source then, or in
part: then each file that is named is a source of its own, with its own pages.
"""

import logging
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from threading import get_ident
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from lightning.pytorch.utilities import rank_zero_warn

from careamics_dm.errors import DataError
from careamics_dm.sources.listing import Listing

COMPANION = ".companion.ome"
RECORDINGS = ("mmstack", "ndtiff")
"""Kinds of series of Micro-Manager, which finds the files of a recording by their names."""
MANY = 100_000
"""Pages that need no check of whether files can hold them."""
Files = frozenset[Path]


@dataclass(frozen=True)
class SetPart:
    """A file of a set that is read alone."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def relative_to(self, folder: Path) -> Path:
        """Return the path below a folder, by which files pair."""
        return self.path.relative_to(folder)


@dataclass(frozen=True)
class _Description:
    """What a file says of its set: the files of each image, and the file that says so."""

    main: Path
    root: ElementTree.Element  # the OME-XML; empty for other files
    images: list[Files]

    def files_with(self, path: Path) -> Files:
        """Return the files that have images in common with a file, directly or by way of others."""
        files = frozenset([path])
        if path == self.main and not any(path in image for image in self.images):
            return files.union(*self.images)
        while more := files.union(*(image for image in self.images if image & files)) - files:
            files |= more
        return files


@contextmanager
def open_set(path: Path, alone: bool, pages: bool) -> Iterator[tuple[tifffile.TiffFile, Files]]:
    """Open a file with the rest of its set, unless ``alone``; also gives the files to read.

    With ``pages``, what tifffile wrote of its series does not count.
    """
    path = path.resolve()  # as tifffile does
    with ExitStack() as opened:
        if _is_companion(path):
            said = _read(path)
            files = said.files_with(path)
            yield opened.enter_context(_open_described(said, files)), files
            return
        file = opened.enter_context(_open(path, is_shaped=False if pages else None))
        said = _follow(_said_in(file, path), path)
        files = frozenset([path]) if alone else said.files_with(path)
        if len(said.root) and set[Path]().union(*said.images) != {path}:
            file = opened.enter_context(_open_described(said, files))
        yield file, files


def _open_described(said: _Description, files: Files) -> AbstractContextManager[tifffile.TiffFile]:
    """Open some files of a set; tifffile would open the others too, and take them for zeros."""
    for pixels in said.root.iterfind("{*}Image/{*}Pixels"):
        for data in pixels.findall("{*}TiffData"):
            if _file_of(data, said.main, said.root) not in files:
                pixels.remove(data)
    main = said.main
    if _is_companion(main):
        there = sorted(file for file in files - {main} if file.is_file())
        if not there:
            raise DataError(f"{main}: none of the files that it names is there. Complete the set.")
        main = there[0]
    return _open(main, omexml=ElementTree.tostring(said.root, "unicode"))


@contextmanager
def _open(path: Path, **how: Any) -> Iterator[tifffile.TiffFile]:
    """Open a file for tifffile to read without logging what it passes over: that is said here."""
    outer = get_ident() not in _QUIET
    _QUIET.add(get_ident())
    try:
        # Of a classic file of ScanImage, tifffile takes pages to be as far apart as the first few.
        # That loses or shifts some, and is needed only where 32 bits cannot link to them.
        linked = path.stat().st_size <= 2**32
        how["is_scanimage"] = False if linked else None
        with ExitStack() as opened:
            file = opened.enter_context(tifffile.TiffFile(path, **how))
            if end := _cut_directory(file):
                file = opened.enter_context(tifffile.TiffFile(path, size=end, **how))
            if linked:
                del file.is_scanimage  # from here on, the first page says
            _bound_recording(file, path)
            yield file
    finally:
        if outer:
            _QUIET.discard(get_ident())


def _cut_directory(file: tifffile.TiffFile) -> int:
    """Return where a directory begins that the end of the file cuts off, else 0.

    tifffile takes what is there of it for a page, and may take its last bytes for a link.
    """
    n_pages, size, offset = len(file.pages), file.filehandle.size, 0
    if n_pages == 0:
        return 0
    with suppress(tifffile.TiffFileError):
        end, link = next_page(file, file.pages[n_pages - 1].offset)
        if end <= size and link == 0:
            return 0
    # From the header through all pages to the one that is cut; tifffile may have dropped the one
    # before. There is an end, as some writers let the last page link back to an earlier one.
    for _ in range(n_pages + 3):
        end, link = next_page(file, offset)
        if end - file.tiff.offsetsize > size:
            return offset
        if end > size or link == 0:
            break
        offset = link
    return 0


def next_page(file: tifffile.TiffFile, offset: int) -> tuple[int, int]:
    """Return where a directory ends with its link to the next page, and the link.

    At ``offset`` 0, it is the header, which links to the first page. What lies beyond the file
    counts as 0.
    """
    handle, form = file.filehandle, file.tiff

    def number(place: int, size: int, layout: str) -> int:
        handle.seek(min(place, handle.size))
        data = handle.read(size)
        return int(struct.unpack(layout, data)[0]) if len(data) == size else 0

    link = 8 if form.version == 43 else 4
    if offset:
        n_tags = number(offset, form.tagnosize, form.tagnoformat)
        link = offset + form.tagnosize + n_tags * form.tagsize
    return link + form.offsetsize, number(link, form.offsetsize, form.offsetformat)


def _bound_recording(file: tifffile.TiffFile, path: Path) -> None:
    """Bound what a recording of Micro-Manager declares, before tifffile makes room for it."""
    if file.is_ndtiff and (name := path.parent / "NDTiff.index").is_file():
        found = [row[0] for row in tifffile.read_ndtiff_index(name)]
        numbers = [[n for n in axes.values() if not isinstance(n, str)] for axes in found]
        if numbers and len({len(row) for row in numbers}) == 1:
            sizes = np.ptp(np.array(numbers, object), axis=0) + 1
            check_number(prod(sizes), path, path.parent.glob("*.tif"))
    said = (file.micromanager_metadata if file.is_mmstack else None) or {}
    if not {"Summary", "IndexMap"} <= said.keys():
        return
    names, summary = ("Channels", "Slices", "Frames", "Positions"), said["Summary"]
    last = zip(names, said["IndexMap"].max(axis=0), strict=False)
    there = {name: int(n) + 1 for name, n in last}
    if prod(max(n, int(summary.get(name, 1))) for name, n in there.items()) > MANY:
        files = {path, *path.parent.glob("*_MMStack*.tif")}
        # Of a recording without end, as many frames as there is room for.
        most = sum(f.stat().st_size for f in files) // max(file.pages.first.nbytes, 1)
        summary["Frames"] = max(min(int(summary.get("Frames", 1)), most), there["Frames"])
        sizes = (max(n, int(summary.get(name, 1))) for name, n in there.items())
        check_number(prod(sizes), path, files)


_QUIET: set[int] = set()
"""Threads that have a file open here."""
logging.getLogger("tifffile").addFilter(lambda record: record.thread not in _QUIET)


def group_sets(listing: Listing, what: str, elsewhere: Collection[Path] = ()) -> Listing:
    """Let one file stand for each set that is named wholly; those of others are read alone.

    The file that describes a set does not stand for it where others are named, here or
    ``elsewhere``.
    """
    paths = [Path(path).resolve() for path in listing.inputs]
    rows = listing.keys or [{}] * len(paths)
    sets, wholes, parts = dict[Path, Files](), dict[Any, int](), list[int]()
    # Companions first: each stands for all that it describes.
    for i in sorted(range(len(paths)), key=lambda i: not _is_companion(paths[i])):
        files = _find_set(paths[i], sets)
        source = (files, *sorted(rows[i].items()))
        if len(files) == 1:
            wholes[i] = i
        elif source in wholes or _is_whole(paths[i], files, {*paths}, {*elsewhere}):
            wholes.setdefault(source, i)
        else:
            parts.append(i)
    if parts:
        some = ", ".join(paths[i].name for i in parts[:5]) + ", ..." * (len(parts) > 5)
        rank_zero_warn(
            f"{what}: {len(parts)} file(s) belong to sets of files that are named in part: {some}. "
            "Each is an image of its own pages. To read a set as one image, name all of its files, "
            "or only the file that describes the others."
        )
    for column in filter(None, (listing.inputs, listing.targets, listing.masks)):
        for i in parts:
            column[i] = SetPart(column[i])
    return listing.take(sorted([*wholes.values(), *parts]))


def dimensions(file: tifffile.TiffFile, number: int, level: int = 0) -> tuple[str, list[int]]:
    """Return axes and shape of a series, with the dimensions of length 1 too."""
    if callable(file.series):  # tifffile 2026.5 and later
        full = file.series(squeeze=False)[number].levels[level]
        return full.axes, [*full.shape]
    pages = file.series[number].levels[level]
    return pages.get_axes(squeeze=False), [*pages.get_shape(squeeze=False)]


def check_number(n_pages: int, path: Path | str, files: Iterable[Path]) -> None:
    """Refuse a number of pages that no file can hold, before room is made for them."""
    if n_pages > MANY:
        n_bytes = sum(file.stat().st_size for file in files if file.is_file())
        if n_pages > n_bytes:
            raise DataError(
                f"{path}: declares {n_pages} pages, but has {n_bytes} bytes. Copy it again."
            )


def by_position(axes: str, shape: Sequence[int], n_pages: int) -> list[list[int]]:
    """Return the numbers of the pages of each position of a recording, the dimension ``R``."""
    numbers = np.arange(n_pages)
    if "R" not in axes:
        return [numbers.tolist()]
    at = axes.index("R")
    n = next(d for d in range(at + 1, len(shape) + 1) if prod(shape[:d]) == n_pages)
    numbers = np.moveaxis(numbers.reshape(shape[:n]), at, 0)
    return [of_one.ravel().tolist() for of_one in numbers]


def _read(path: Path) -> _Description:
    """Read what a file says of its set."""
    try:
        if _is_companion(path):
            return _said_in_xml(path.read_bytes(), path)
        with _open(path) as file:
            return _said_in(file, path)
    except Exception:  # not a TIFF, or damaged: said when it is opened
        return _said_in_xml("", path)


def _said_in(file: tifffile.TiffFile, path: Path) -> _Description:
    if images := _of_recording(file):
        main = min(set[Path]().union(*images), key=lambda path: (len(path.name), path))
        return replace(_said_in_xml("", main), images=images)
    return _said_in_xml(file.ome_metadata or "", path)


def _said_in_xml(text: str | bytes, path: Path) -> _Description:
    root = ElementTree.Element("OME")
    with suppress(ElementTree.ParseError):  # tifffile does not read it either
        root = ElementTree.fromstring(text)
    images = []
    for pixels in root.iterfind("{*}Image/{*}Pixels"):
        data = pixels.iterfind("{*}TiffData")
        images.append(frozenset(_file_of(element, path, root) for element in data))
        n_planes = prod(int(pixels.get(f"Size{axis}", "1")) for axis in "ZCT")
        check_number(n_planes, path, images[-1])
    return _Description(path, root, images)


def _follow(said: _Description, path: Path) -> _Description:
    """Return what the file says to which another one refers, if it does."""
    pointer = said.root.find("{*}BinaryOnly")
    if pointer is None:
        return said
    main = path.parent / pointer.get("MetadataFile", "")
    of_set = _read(main) if main != path and main.is_file() else said
    if any(path in image for image in of_set.images):
        return of_set
    return _said_in_xml("", path)  # a file of its own


def _of_recording(file: tifffile.TiffFile) -> list[Files]:
    """Return the files of each position of a recording of Micro-Manager; none of other files."""
    if not (file.is_mmstack or file.is_ndtiff) or file.series[0].kind not in RECORDINGS:
        return []
    pages = list(file.series[0])
    positions = by_position(*dimensions(file, 0), len(pages))
    return [
        frozenset(Path(page.parent.filehandle.path) for i in numbers if (page := pages[i]))
        for numbers in positions
    ]


def _file_of(data: ElementTree.Element, main: Path, root: ElementTree.Element) -> Path:
    """Return the file that a ``TiffData`` element of a description refers to."""
    uuid = data.find("{*}UUID")
    if uuid is None or uuid.text == root.get("UUID"):
        return main
    return main.parent / uuid.get("FileName", main.name)


def _is_companion(path: Path) -> bool:
    return path.name.lower().endswith(COMPANION)


def _find_set(path: Path, sets: dict[Path, Files]) -> Files:
    """Return the files of a set; it is read once, for all of them."""
    if path not in sets:
        files = _follow(_read(path), path).files_with(path)
        sets |= dict.fromkeys(files, files)
    return sets[path]


def _is_whole(path: Path, files: Files, named: set[Path], elsewhere: set[Path]) -> bool:
    """Whether all files of a set are named, or only the one that describes it."""
    if _is_companion(path) or all(file in named for file in files if file.is_file()):
        return True
    others = files - {path}
    if others & (named | elsewhere):
        return False
    # Some writers describe the set in each of its files: then none of them stands for the others.
    said = [_follow(_read(file), file) for file in files if file.is_file()]
    return all(one.main == path or not one.images for one in said)
