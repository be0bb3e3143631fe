"""The directory of a CZI file: which sub-blocks it holds, read from its bytes.

A *sub-block* is a rectangle of one plane, stored as a unit; a plane may have many (a mosaic). The
directory is read here, not through libCZI, because only its bytes say where in the file
sub-blocks lie: so a truncated file is found when it is opened, without reading pixels.
"""

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError, truncated
from careamics_dm.sources.file_kind import other_kind

NONE = -(2**31)  # the index of a sub-block along a dimension that it does not have
DIMENSIONS = "XYMSTZCRIHVB"
SCHEMA = b"DV"  # what each entry of a directory begins with
SEGMENT = struct.Struct("<16sqq")
"""What each segment starts with: name, bytes reserved and used for what follows."""
FILE, DIRECTORY, SUB_BLOCK = b"ZISRAWFILE", b"ZISRAWDIRECTORY", b"ZISRAWSUBBLOCK"
AT_DIRECTORY = SEGMENT.size + 52  # where the file header has the position of the directory
BEFORE_ENTRIES = 128  # bytes of a directory before its entries; their number comes first
OWN_SIZES = struct.Struct("<iiq")
"""What a sub-block says first: bytes of its metadata, attachment and pixels; its entry follows."""
LEAST_HEAD = 256  # bytes of these together
BYTES_PER_PIXEL = {0: 1, 1: 2, 2: 4, 3: 3, 4: 6}  # of the pixel types that can be read
LARGE, LARGEST_RATIO = 2**28, 2**16
"""Bytes of a sub-block from which its compression is doubted, and what is possible."""
ENTRY = np.dtype(
    [
        ("schema", "S2"),
        ("pixel_type", "<i4"),
        ("position", "<i8"),
        ("file_part", "<i4"),
        ("compression", "<i4"),
        ("pyramid", "V6"),
        ("n_dims", "<i4"),
    ]
)
DIMENSION = np.dtype(
    [("name", "S4"), ("start", "<i4"), ("size", "<i4"), ("place", "<f4"), ("stored", "<i4")]
)


@dataclass(frozen=True, eq=False)
class SubBlocks:
    """Sub-blocks of full resolution; a row each."""

    start: NDArray[np.int64]  # first pixel, Y X, in the coordinates of the file
    stop: NDArray[np.int64]  # one after the last pixel, Y X
    index: dict[str, NDArray[np.int64]]  # per dimension other than Y and X that any of them has
    pixel_type: NDArray[np.int32]
    compression: NDArray[np.int32]
    position: NDArray[np.int64]  # in the file

    def __len__(self) -> int:
        return len(self.start)

    def where(self, chosen: NDArray[np.bool_]) -> "SubBlocks":
        """Return some of them."""
        return SubBlocks(
            self.start[chosen],
            self.stop[chosen],
            {letter: index[chosen] for letter, index in self.index.items()},
            self.pixel_type[chosen],
            self.compression[chosen],
            self.position[chosen],
        )

    def of_scene(self, scene: int | None) -> "SubBlocks":
        """Return those of a scene; all of them in a file without scenes (None)."""
        return self if scene is None else self.where(self.index["S"] == scene)


def read_directory(path: str, check: bool = True) -> SubBlocks:
    """Read which sub-blocks of full resolution a file holds, in the order of its directory.

    What can't be read as a whole is an error: no CZI, truncated, damaged, without pixels, spread
    over several files, or with sub-blocks that do not say where they belong. With ``check``, what
    each sub-block says of itself is compared with the directory.
    """
    try:
        with Path(path).open("rb") as file:
            data, starts = _entries(file, path)
            entries, dims = _parse(data, starts)
            last = int(entries["position"].max())
            end = last + SEGMENT.size + _segment(file, path, last, SUB_BLOCK)[0]
            if end > (size := file.seek(0, 2)):
                raise truncated(path, end, size)
            if check:
                _check_each(file, path, data, starts)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}). Check the file.") from error
    if (entries["file_part"] != 0).any():
        raise DataError(f"{path}: is one file of several parts. Save it as one file in ZEN.")
    return _sub_blocks(path, entries, dims)


def first_bytes(path: str, position: int, n: int) -> bytes:
    """Return what the pixels of a sub-block begin with, as they are stored."""
    with Path(path).open("rb") as file:
        file.seek(position + SEGMENT.size)
        head = file.read(OWN_SIZES.size + ENTRY.itemsize)
        n_dims = int(np.frombuffer(head, ENTRY, offset=OWN_SIZES.size)["n_dims"][0])
        before = max(LEAST_HEAD, len(head) + n_dims * DIMENSION.itemsize)
        file.seek(position + SEGMENT.size + before + OWN_SIZES.unpack_from(head)[0])
        return file.read(n)


def _entries(file: BinaryIO, path: str) -> tuple[bytes, NDArray[np.int64]]:
    """Return the entries of the directory, and where each starts."""
    _segment(file, path, 0, FILE)
    position = int.from_bytes(_read_at(file, path, AT_DIRECTORY, 8), "little")
    if position == 0:
        raise DataError(
            f"{path}: has no directory, as its acquisition was not finished. Open it in ZEN and "
            "save it again, or take it off the list."
        )
    _, used = _segment(file, path, position, DIRECTORY)
    content = _read_at(file, path, position + SEGMENT.size, used)
    count, data = int.from_bytes(content[:4], "little"), content[BEFORE_ENTRIES:]
    starts, at = [], 0
    for _ in range(count):
        starts.append(at)
        at += ENTRY.itemsize
        at += DIMENSION.itemsize * int.from_bytes(data[at - 4 : at], "little", signed=True)
        if not starts[-1] < at <= len(data):
            raise truncated(path, file.tell() - len(data) + at, file.seek(0, 2))
    if not count:
        raise DataError(f"{path}: holds no pixels. Take it off the list.")
    return data[:at], np.array(starts)


def _check_each(file: BinaryIO, path: str, data: bytes, starts: NDArray[np.int64]) -> None:
    """Compare each entry of the directory with the one at its sub-block, and sizes with pixels."""
    file_size, ends = file.seek(0, 2), [*starts[1:].tolist(), len(data)]
    for number, (start, end) in enumerate(zip(starts.tolist(), ends, strict=True)):
        entry = data[start:end]
        position = struct.unpack_from("<q", entry, 6)[0]
        reserved, _ = _segment(file, path, position, SUB_BLOCK)
        head = file.read(OWN_SIZES.size + len(entry))
        if len(head) < OWN_SIZES.size + len(entry):
            raise truncated(path, position + SEGMENT.size + len(entry), file_size)
        n_metadata, n_attached, n_data = OWN_SIZES.unpack_from(head)
        before = max(LEAST_HEAD, len(head)) + n_metadata + n_attached
        fault = ""
        if entry[:2] != SCHEMA or _essence(head[OWN_SIZES.size :]) != _essence(entry):
            fault = "says other sizes, places or types than the directory of the file"
        elif min(n_metadata, n_attached, n_data) < 0 or before + n_data > reserved:
            fault = f"has {n_data} bytes of pixels, which is more than there is room for"
        elif fault_of_size := _fault_of_size(entry, n_data):
            fault = fault_of_size
        if fault:
            raise DataError(
                f"{path}: sub-block {number} (at byte {position}) {fault}. The file is damaged: "
                "copy or save it again."
            )


def _essence(entry: bytes) -> tuple[Any, ...]:
    """Return what matters of an entry: pixel type, compression and dimensions."""
    head = np.frombuffer(entry[: ENTRY.itemsize], ENTRY)[0]
    dims = np.frombuffer(entry[ENTRY.itemsize :], DIMENSION)
    fields = [dims[name].tolist() for name in ("name", "start", "size", "stored")]
    return int(head["pixel_type"]), int(head["compression"]), int(head["n_dims"]), fields


def _fault_of_size(entry: bytes, n_data: int) -> str:
    """Say what is wrong with a number of bytes for the pixels that an entry declares."""
    pixel_type, compression, _, (names, _, sizes, stored) = _essence(entry)
    pixels = [
        s if s > 0 else n
        for name, n, s in zip(names, sizes, stored, strict=True)
        if name in (b"X", b"Y")
    ]
    needed = prod(pixels) * BYTES_PER_PIXEL.get(pixel_type, 0)
    if compression == 0 and n_data < needed:
        return f"has {n_data} bytes of pixels, but declares {needed}"
    if needed > LARGE and needed > n_data * LARGEST_RATIO:
        return f"declares {needed / 2**30:.1f} GiB of pixels in {n_data} bytes"
    return ""


def _parse(data: bytes, starts: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return entries, and the dimensions of each, padded with nameless."""
    raw = np.frombuffer(data, np.uint8)

    def gather(places: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[Any]:
        rows: NDArray[Any] = raw[places[:, None] + np.arange(dtype.itemsize)].view(dtype)
        return rows[:, 0]

    entries = gather(starts, ENTRY)
    dims = np.zeros((len(starts), int(entries["n_dims"].max())), DIMENSION)
    for d in range(dims.shape[1]):
        has = entries["n_dims"] > d
        dims[has, d] = gather(starts[has] + ENTRY.itemsize + d * DIMENSION.itemsize, DIMENSION)
    return entries, dims


def _sub_blocks(path: str, entries: NDArray[Any], dims: NDArray[Any]) -> SubBlocks:
    letters = {bytes(name).decode("latin-1") for name in np.unique(dims["name"])}
    if unknown := letters - {"", *DIMENSIONS}:
        raise DataError(
            f"{path}: has the dimension {', '.join(sorted(unknown))}, which is none of "
            f"{DIMENSIONS}. Save it again in ZEN, or take it off the list."
        )
    start, size, stored = {}, {}, {}
    for letter in DIMENSIONS:
        at = dims["name"] == letter.encode()
        row = at.any(axis=1)
        if row.any():
            start[letter], size[letter], stored[letter] = (
                np.where(row, np.where(at, dims[field], NONE).max(axis=1), NONE).astype(np.int64)
                for field in ("start", "size", "stored")
            )
    if not {"X", "Y"} <= start.keys() or min(size["X"].min(), size["Y"].min()) < 1:
        raise DataError(f"{path}: has sub-blocks without pixels. It is damaged: save it again.")
    full = np.ones(len(entries), bool)
    for letter in "XY":  # levels of a pyramid are stored smaller than they are
        full &= (stored[letter] == size[letter]) | (stored[letter] <= 0)
    blocks = SubBlocks(
        np.stack([start["Y"], start["X"]], axis=1),
        np.stack([start["Y"] + size["Y"], start["X"] + size["X"]], axis=1),
        {letter: index for letter, index in start.items() if letter not in "XY"},
        entries["pixel_type"],
        entries["compression"],
        entries["position"],
    ).where(full)
    if not len(blocks):
        raise DataError(f"{path}: has no full resolution, only smaller copies. Save it again.")
    _check_planes(path, blocks, {a: n[full] for a, n in size.items() if a not in "XYM"})
    return blocks


def _check_planes(path: str, blocks: SubBlocks, size: dict[str, NDArray[np.int64]]) -> None:
    """Check that each sub-block names the one plane it belongs to, and complete the names."""
    for letter, sizes in size.items():
        if (sizes > 1).any():
            raise DataError(
                f"{path}: sub-blocks of several planes along {letter}. Save it again in ZEN."
            )
        index = blocks.index[letter]
        lacking = index == NONE
        found = np.unique(index[~lacking])
        if lacking.any() and len(found) > 1:
            raise DataError(
                f"{path}: {lacking.sum()} of {len(blocks)} sub-blocks do not say where they lie "
                f"along {letter}, as the others do. Save it again in ZEN."
            )
        if lacking.all():  # only levels of a pyramid have it
            del blocks.index[letter]
        elif lacking.any():
            index[lacking] = found[0]  # the only place there is
    rows = np.column_stack([blocks.start, blocks.stop, *blocks.index.values()])
    ordered = rows[np.lexsort(rows.T)]
    if twice := int((ordered[1:] == ordered[:-1]).all(axis=1).sum()):
        raise DataError(
            f"{path}: {twice} of {len(rows)} sub-blocks are at the very place of another (same "
            f"{', '.join(blocks.index)} and position). Save it again in ZEN."
        )


def _read_at(file: BinaryIO, path: str, position: int, n_bytes: int) -> bytes:
    if (end := position + n_bytes) > (size := file.seek(0, 2)):
        raise truncated(path, end, size)
    file.seek(position)
    return file.read(max(n_bytes, 0))


def _segment(file: BinaryIO, path: str, position: int, name: bytes) -> tuple[int, int]:
    """Read what a segment starts with: how many bytes are reserved and used."""
    size = file.seek(0, 2)
    if not 0 <= position <= size:
        raise truncated(path, position, size)
    file.seek(position)
    head = file.read(SEGMENT.size)
    if not name.startswith(head[: len(name)]) or not size:
        if name is FILE:
            what = f"starts with {head[:10]!r}, as no CZI does" if size else "is empty (0 bytes)"
            advice = other_kind(path, "czi") or " Take it off the list."
            raise DataError(f"{path}: not a CZI file: it {what}.{advice}")
        raise DataError(
            f"{path}: there is no {name.decode()} at byte {position}, where one should be. The "
            "file is damaged: copy or save it again."
        )
    if len(head) < SEGMENT.size:
        raise truncated(path, position + SEGMENT.size, size)
    _, reserved, used = SEGMENT.unpack(head)
    return int(reserved), int(used or reserved)
