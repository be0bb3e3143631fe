"""Opening one image of a Zarr store: its axes, its level, its chunks."""

import pickle
from pathlib import Path
from typing import Any, Literal, NamedTuple

from careamics_dm.errors import DataError
from careamics_dm.formats.zarr.array import Key, ZarrArray, missing_message, open_array
from careamics_dm.formats.zarr.chunks import block_shape, find_missing
from careamics_dm.formats.zarr.discovery import ZarrSource
from careamics_dm.formats.zarr.ome_metadata import Pyramid, Scale, ome_metadata, read_pyramid
from careamics_dm.formats.zarr.store_files import (
    Files,
    Options,
    Place,
    is_remote,
    read_node,
)
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.axes import AXES, check_axes, contradicted_axes, same_roles, unstated_axes


def open_zarr(
    source: ZarrSource,
    axes: str = "auto",
    *,
    level: int = 0,
    trust_axes: bool = False,
    missing_chunks: Literal["error", "fill"] = "error",
    storage_options: Options | None = None,
    engine: str = "auto",
) -> tuple[ArrayStack, int]:
    """Open one image array from its metadata; returns it, and how many of its chunks are missing.

    For the arguments see `ZarrDataModule`.
    """
    options = storage_options or {}
    files = Files(source.place.root, options)
    place, found, zarr_format = _describe(files, options, source, axes, level)
    given = pickle.dumps(options) if is_remote(place.root) else b""
    key = Key(place, zarr_format, given, engine)
    array = open_array(key)
    if array.ndim < 2:
        raise DataError(
            f"{source}: shape {array.shape} has {array.ndim} dimension(s), so it is no image. "
            "Name the arrays that are images."
        )
    found = found or _from_array(array)
    if found.axes and len(found.axes) != array.ndim:
        if axes == "auto" or not trust_axes:
            raise DataError(
                f"{source}: its metadata name {len(found.axes)} axes ({found.axes}), but the array "
                f"has shape {array.shape}. Save it again, or give axes and set trust_axes=true."
            )
        found = _Description("", {}, ())
    axes = _axes(found, axes, array.shape, trust_axes, source.name)
    folder = Path(place.root) if Path(place.root).is_dir() else None
    missing = find_missing(array, files, place.path, folder)
    if missing is None:
        key = key._replace(strict=missing_chunks == "error")
    elif missing.n and missing_chunks == "error":
        raise DataError(missing_message(str(place), missing.first, missing.n, missing.total))
    stack = ArrayStack(
        ZarrArray(key, tuple(array.shape), array.dtype),
        axes,
        source.name,
        block_shape=block_shape(array),
        scale={
            letter: found.scale[theirs]
            for letter, theirs in zip(axes, found.axes, strict=False)
            if letter in "ZYX" and theirs in found.scale
        },
        channel_names=found.channel_names,
    )
    return stack, missing.n if missing else 0


class _Description(NamedTuple):
    """What metadata say of the dimensions of an array."""

    axes: str  # empty if they say nothing
    scale: Scale
    channel_names: tuple[str, ...]


def _describe(
    files: Files, options: Options, source: ZarrSource, axes: str, level: int
) -> tuple[Place, _Description | None, Literal[2, 3]]:
    """Find the array of an image, and what its group says of it."""
    place = source.place
    node = read_node(files, place)
    if node is None:
        raise DataError(f"{source}: there are no metadata (zarr.json or .zattrs). Copy it again.")
    if source.kind == "array":
        return place, _from_parent(files, options, place, axes), node.zarr_format
    if "multiscales" not in ome_metadata(node.attributes):
        raise DataError(f"{source}: has no OME metadata of an image. Save it again.")
    pyramid = read_pyramid(node.attributes, source.name)
    if not 0 <= level < len(pyramid.paths):
        there = ", ".join(f"{n}: {path}" for n, path in enumerate(pyramid.paths))
        raise DataError(
            f"{source}: level={level} does not exist. There are {there}. Choose one of these "
            "numbers; 0 is full resolution."
        )
    below = place.below(pyramid.paths[level])
    return below, _of_level(pyramid, level), node.zarr_format


def _from_parent(files: Files, options: Options, place: Place, axes: str) -> _Description | None:
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
        pyramid = read_pyramid(node.attributes, str(parent))
    except DataError:
        if axes == "auto":
            raise
        return None  # the way out, where metadata are wrong
    return _of_level(pyramid, pyramid.paths.index(name)) if name in pyramid.paths else None


def _of_level(pyramid: Pyramid, level: int) -> _Description:
    return _Description(pyramid.axes, pyramid.scales[level], pyramid.channel_names)


def _from_array(array: Any) -> _Description:
    """Take the names that an array gives its dimensions, if they are those of axes."""
    names = getattr(array.metadata, "dimension_names", None)
    names = names or array.attrs.get("_ARRAY_DIMENSIONS") or ()
    words = {"SAMPLE": "S", "TIME": "T", "CHANNEL": "C", "DEPTH": "Z"}
    letters = [words.get(str(name).upper(), str(name).upper()) for name in names]
    good = {"Y", "X"} <= set(letters) <= set(AXES)
    good = good and len(set(letters)) == len(letters) == array.ndim
    return _Description("".join(letters) if good else "", {}, ())


def _axes(
    found: _Description, axes: str, shape: tuple[int, ...], trust_axes: bool, source: str
) -> str:
    """Take the axes of the metadata, or check a user's against them."""
    if axes == "auto":
        if {"Y", "X"} <= set(found.axes) and len(set(found.axes)) == len(found.axes):
            return found.axes
        why = "neither OME metadata nor names of dimensions say what they are"
        raise unstated_axes(source, why, shape)
    axes = check_axes(axes, shape, source)
    if found.axes and not trust_axes and not same_roles(axes, found.axes):
        raise contradicted_axes(source, axes, found.axes, shape)
    return axes
