"""Chunks of an array: which there should be, which are missing.

zarr reads a missing chunk as the fill value, whether a writer left it out because it holds
nothing else, or a copy lost it. Nobody can say which, so it is an error unless the user decides.
"""

from collections.abc import Iterator
from itertools import islice, product
from math import ceil, prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from careamics_dm.formats.zarr.store_files import Files, join

FEW = 32  # chunks up to which each is looked for, instead of listing the folder
LARGEST_BLOCK = 2**26  # decoded bytes up to which a shard is read as a whole (64 MiB)
_ABSENT = 2**64 - 1


class Missing(NamedTuple):
    """Chunks that are not there."""

    n: int
    first: list[str]  # names of the first few
    total: int


def outer_chunks(array: Any) -> tuple[int, ...]:
    """Return the shape of what is one object of the store: a shard, or a chunk."""
    return tuple(array.shards or array.chunks)


def block_shape(array: Any) -> tuple[int, ...]:
    """Return what is best read as a unit: the shard, unless it is huge; else the chunk."""
    whole = outer_chunks(array)
    small = prod(whole) * array.dtype.itemsize <= LARGEST_BLOCK
    chosen = whole if small else tuple(array.chunks)
    return tuple(max(min(c, n), 1) for c, n in zip(chosen, array.shape, strict=True))


def chunks_in(array: Any, box: tuple[slice, ...]) -> Iterator[tuple[str, tuple[slice, ...]]]:
    """Names of the chunks that a box meets, each with the part of the box inside it."""
    whole = outer_chunks(array)
    met = [range(s.start // c, ceil(s.stop / c)) for s, c in zip(box, whole, strict=True)]
    for place in product(*met):
        part = tuple(
            slice(max(s.start, i * c), min(s.stop, (i + 1) * c))
            for s, i, c in zip(box, place, whole, strict=True)
        )
        yield array.metadata.encode_chunk_key(place), part


def find_missing(array: Any, files: Files, path: str, root: Path | None) -> Missing | None:
    """Look for chunks that are not there; ``None`` if the store can't be listed.

    ``path`` is that of the array in the store. Of a store that is a folder, ``root``, the indices
    of shards are looked at too.
    """
    grid = [ceil(n / c) for n, c in zip(array.shape, outer_chunks(array), strict=True)]
    total, encode = prod(grid), array.metadata.encode_chunk_key
    keys = ((place, encode(place)) for place in np.ndindex(*grid))
    if total <= FEW:
        lost = [(place, key) for place, key in keys if not files.has(join(path, key))]
    else:
        listed = files.below(path)
        if listed is None:
            return None
        there = set(listed)
        lost = [(place, key) for place, key in keys if key not in there]
    count, first = len(lost), [key for _, key in islice(lost, 3)]
    codec = _shard_codec(array)
    if codec is not None and root is not None:
        gone = {place for place, _ in lost}
        per_shard = prod(s // c for s, c in zip(array.shards, array.chunks, strict=True))
        total, count = total * per_shard, count * per_shard
        for place in np.ndindex(*grid):
            if place not in gone:
                holes = _holes(array, codec, root / path / encode(place), place)
                count += len(holes)
                first += [f"{encode(place)}, chunk {hole} in it" for hole in holes[:3]]
    return Missing(count, first[:3], total)


def _shard_codec(array: Any) -> Any:
    """Return the sharding codec of an array whose shards have the usual index, else ``None``."""
    if array.shards is None:
        return None
    for codec in array.metadata.codecs:
        names = [type(part).__name__ for part in getattr(codec, "index_codecs", ())]
        if names == ["BytesCodec", "Crc32cCodec"]:
            return codec
    return None


def _holes(array: Any, codec: Any, file: Path, place: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Chunks inside the array that the index of a shard says are missing."""
    inner = tuple(s // c for s, c in zip(array.shards, array.chunks, strict=True))
    size = prod(inner) * 16
    at_end = str(getattr(codec.index_location, "value", codec.index_location)) == "end"
    with file.open("rb") as opened:
        if at_end:
            opened.seek(max(file.stat().st_size - size - 4, 0))  # 4: the checksum
        content = opened.read(size)
    if len(content) < size:
        return []  # damaged: said when it is read
    index = np.frombuffer(content, "<u8").reshape(*inner, 2)
    absent = np.argwhere((index == _ABSENT).all(axis=-1)).tolist()
    return [
        tuple(hole)
        for hole in absent
        if all(
            i * s + j * c < n
            for i, s, j, c, n in zip(
                place, array.shards, hole, array.chunks, array.shape, strict=True
            )
        )
    ]
