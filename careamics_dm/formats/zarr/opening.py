"""Opening one image of a Zarr store: its axes, its level, its chunks.

zarr reads a missing chunk as the fill value, whether a writer left it out because it holds
nothing else, or a copy lost it. Nobody can say which, so it is an error unless the user decides.
"""

import pickle
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from math import ceil, prod
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from careamics_dm.errors import DataError
from careamics_dm.formats.zarr.array import (
    Key,
    ZarrArray,
    missing_message,
    open_array,
    outer_chunks,
)
from careamics_dm.formats.zarr.discovery import ZarrSource
from careamics_dm.formats.zarr.ome_metadata import Description, ome_metadata, read_pyramid
from careamics_dm.formats.zarr.store_files import Files, Options, Place, is_remote, join, read_node
from careamics_dm.images.array_stack import ArrayStack, scaled_down
from careamics_dm.images.axes import (
    AXES,
    check_axes,
    contradicted_axes,
    same_roles,
    shared_layout,
    unstated_axes,
)
from careamics_dm.sources.free_memory import available_bytes
from careamics_dm.sources.source_path import bare


class Remarks(NamedTuple):
    """What is to be said of an image."""

    n_filled: int  # chunks that are missing
    odd_scale: bool  # whether its pixel size can't be read


def open_zarr(
    source: ZarrSource,
    axes: str = "auto",
    *,
    level: int = 0,
    trust_axes: bool = False,
    fill: bool = False,
    storage_options: Options | None = None,
    engine: str = "auto",
) -> tuple[ArrayStack, Remarks]:
    """Open an array; for the arguments see `ZarrDataModule`."""
    options = storage_options or {}
    files = Files(source.place.root, options)
    place, found, zarr_format = _describe(files, options, source, axes, level)
    given = pickle.dumps(options) if is_remote(place.root) else b""
    key = Key(place, zarr_format, given, engine)
    array = open_array(key)
    if (n := array.ndim) < 2:
        raise DataError(f"{source}: shape {array.shape} has {n} dimension(s), so it is no image.")
    _check_chunks(array, str(source))
    found = found or _from_array(array)
    if found.axes and len(found.axes) != array.ndim:
        if axes == "auto" or not trust_axes:
            raise DataError(
                f"{source}: its metadata name {len(found.axes)} axes ({found.axes}), but the array "
                f"has shape {array.shape}. Save it again, or give axes and set trust_axes=true."
            )
        found = Description("", {}, level=found.level)
    axes = _axes(found.axes, axes, array.shape, trust_axes, str(source))
    folder = Path(place.root) if Path(place.root).is_dir() else None
    missing = find_missing(array, files, place.path, folder)
    if missing is None:
        key = key._replace(missing="fill" if fill else "unlisted")
    elif not missing.n:
        key = key._replace(missing="gone")
    elif not fill:
        setting = f"missing_chunks={{{source.argument}: fill}}"
        raise DataError(
            missing_message(str(place), missing.first, missing.n, missing.total, setting)
        )
    letters = zip(found.axes, axes, strict=False)
    names = {theirs: letter for theirs, letter in letters if letter in "TZYX"}
    pixels = ZarrArray(key, tuple(array.shape), array.dtype)
    stack = ArrayStack(
        pixels,
        axes,
        str(source),
        block_shape=block_shape(array),
        scale={names[axis]: size for axis, size in found.scale.items() if axis in names},
        channel_names=found.channel_names,
        channel_colors=found.channel_colors,
        origin={names[axis]: place for axis, place in found.origin.items() if axis in names},
        image_name=source.name,
    )
    chunk, shard = (shared_layout(axes, n) for n in (tuple(array.chunks), outer_chunks(array)))
    spatial = chunk.spatial_axes
    stack.chunks_and_shards = tuple(map(chunk.size, spatial)), tuple(map(shard.size, spatial))
    stack.codec = pixels.codec
    stack.ome_groups = partial(groups_around, source.place, options)
    stack.correlated_noise = scaled_down(found.level)
    return stack, Remarks(missing.n if missing else 0, found.odd_scale)


def _describe(
    files: Files, options: Options, source: ZarrSource, axes: str, level: int
) -> tuple[Place, Description | None, Literal[2, 3]]:
    """Find the array of an image, and what its group says of it."""
    place = source.place
    node = read_node(files, place)
    if node is None:
        raise DataError(f"{source}: there are no metadata (zarr.json or .zattrs). Copy it again.")
    if source.kind == "array":
        return place, _from_parent(files, options, place, axes), node.zarr_format
    if "multiscales" not in ome_metadata(node.attributes):
        raise DataError(f"{source}: has no OME metadata of an image. Save it again.")
    pyramid = read_pyramid(node.attributes, str(source))
    if not 0 <= level < len(pyramid):
        there = ", ".join(f"{n}: {path}" for n, path in enumerate(pyramid))
        raise DataError(
            f"{source}: level={level} does not exist. There are {there}. 0 is full resolution."
        )
    path, description = list(pyramid.items())[level]
    return place.below(path), description, node.zarr_format


def groups_around(place: Place, options: Options) -> dict[str, dict[str, Any]]:
    """Return the OME metadata of an image's group and of those around it, by path in the store.

    What can't be read is left out: the image does not depend on it.
    """
    parts = str(place).replace("\\", "/").split("/")
    n = next((i for i, part in enumerate(parts, 1) if bare(part) != part), len(parts))
    root, inner = "/".join(parts[:n]), parts[n:]
    found: dict[str, dict[str, Any]] = {}
    for path in dict.fromkeys(["", "OME", *("/".join(inner[:i]) for i in range(len(inner) + 1))]):
        try:
            node = read_node(Files(root, options), Place(root, path))
        except DataError:
            continue
        if node is not None:
            found[path] = ome_metadata(node.attributes)
    return found


def _from_parent(files: Files, options: Options, place: Place, axes: str) -> Description | None:
    """Look for OME metadata of an array that is named itself, in the group around it."""
    if place.path:
        path, _, name = place.path.rpartition("/")
        parent = Place(place.root, path)
    else:
        root, _, name = place.root.replace("\\", "/").rpartition("/")
        if not root or root.endswith(":/") or name.lower().endswith(".zarr"):
            return None
        parent, files = Place(root), Files(root, options)
    node = read_node(files, parent)
    if node is None or "multiscales" not in ome_metadata(node.attributes):
        return None
    try:
        return read_pyramid(node.attributes, str(parent)).get(name)
    except DataError:
        if axes == "auto":
            raise
        return None  # the way out, where metadata are wrong


def _from_array(array: Any) -> Description:
    """Take the names that an array gives its dimensions, if they are those of axes."""
    names = getattr(array.metadata, "dimension_names", None)
    names = names or array.attrs.get("_ARRAY_DIMENSIONS") or ()
    words = {"SAMPLE": "S", "TIME": "T", "CHANNEL": "C", "DEPTH": "Z"}
    letters = [words.get(str(name).upper(), str(name).upper()) for name in names]
    good = {"Y", "X"} <= set(letters) <= set(AXES)
    good = good and len(set(letters)) == len(letters) == array.ndim
    return Description("".join(letters) if good else "", {})


def _axes(found: str, axes: str, shape: tuple[int, ...], trust_axes: bool, source: str) -> str:
    """Take the axes of the metadata, or check a user's against them."""
    if axes == "auto":
        if {"Y", "X"} <= set(found) and len(set(found)) == len(found):
            return found
        why = "neither OME metadata nor names of dimensions say what they are"
        raise unstated_axes(source, why, shape)
    axes = check_axes(axes, shape, source)
    if found and not trust_axes and not same_roles(axes, found, shape):
        raise contradicted_axes(source, axes, found, shape)
    return axes


MOST_BEYOND = 64
"""How many times larger than an array its chunks may be, where they are large at all."""
FEW = 32  # chunks up to which each is looked for, instead of listing the folder
LARGEST_BLOCK = 2**26  # decoded bytes up to which a shard is read as a whole (64 MiB)
_ABSENT = 2**64 - 1


class Missing(NamedTuple):
    """Chunks that are not there."""

    n: int
    first: list[str]  # names of the first few
    total: int


def block_shape(array: Any) -> tuple[int, ...]:
    """Return what is best read as a unit: the shard, unless it is huge; else the chunk."""
    whole = outer_chunks(array)
    small = prod(whole) * array.dtype.itemsize <= LARGEST_BLOCK
    chosen = whole if small else tuple(array.chunks)
    return tuple(max(min(c, n), 1) for c, n in zip(chosen, array.shape, strict=True))


def find_missing(array: Any, files: Files, path: str, root: Path | None) -> Missing | None:
    """Look for chunks that are not there; ``None`` if the store can't be listed.

    ``path`` is that of the array in the store. Of a store that is a folder, ``root``, the indices
    of shards are looked at too.
    """
    grid = [ceil(n / c) for n, c in zip(array.shape, outer_chunks(array), strict=True)]
    total, encode = prod(grid), array.metadata.encode_chunk_key
    if total <= FEW:
        there = {place for place in _places(grid) if files.has(join(path, encode(place)))}
    else:
        listed = files.below(path)
        if listed is None:
            return None
        # In proportion to what is there: metadata may declare more chunks than can be counted.
        found = ((tuple(map(int, re.findall(r"\d+", key))), key) for key in listed)
        inside = ((p, key) for p, key in found if _is_inside(p, grid))
        there = {place for place, key in inside if encode(place) == key}
    count = total - len(there)
    lost = (place for place in _places(grid) if place not in there)
    first = [encode(place) for place in islice(lost, min(count, 3))]
    codec = _shard_codec(array)
    if codec is not None and root is not None:
        per_shard = prod(s // c for s, c in zip(array.shards, array.chunks, strict=True))
        total, count = total * per_shard, count * per_shard
        for place in sorted(there):
            holes = _holes(array, codec, root / path / encode(place), place)
            count += len(holes)
            first += [f"{encode(place)}, chunk {hole} in it" for hole in holes[:3]]
    return Missing(count, first[:3], total)


def _places(grid: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the places of a grid one by one, however many there are."""
    for number in range(prod(grid)):
        place: tuple[int, ...] = ()
        for n in reversed(grid):
            number, i = divmod(number, n)
            place = (i, *place)
        yield place


def _is_inside(place: tuple[int, ...], grid: Sequence[int]) -> bool:
    return len(place) == len(grid) and all(i < n for i, n in zip(place, grid, strict=True))


def _check_chunks(array: Any, source: str) -> None:
    """Refuse chunks that can't be decoded in memory, or are not of this array."""
    n_bytes = prod(array.chunks) * array.dtype.itemsize
    inside = prod(min(c, n) for c, n in zip(array.chunks, array.shape, strict=True))
    if n_bytes > LARGEST_BLOCK and prod(array.chunks) > MOST_BEYOND * inside:
        raise DataError(
            f"{source}: its metadata declare chunks of {tuple(array.chunks)} pixels, but the array "
            f"has {tuple(array.shape)}. They are damaged: copy or save it again."
        )
    if n_bytes > (free := available_bytes()):
        raise DataError(
            f"{source}: a chunk of {tuple(array.chunks)} pixels takes {n_bytes / 2**30:.1f} GiB of "
            f"memory, but {free / 2**30:.1f} GiB are free. Save it with smaller chunks."
        )


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
    holes = np.argwhere((index == _ABSENT).all(axis=-1))
    starts = np.multiply(place, array.shards) + holes * array.chunks
    return [tuple(hole) for hole in holes[(starts < array.shape).all(axis=1)].tolist()]
