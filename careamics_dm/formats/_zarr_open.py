"""Opening one image of a Zarr store: its axes, its level, its chunks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from careamics_dm.axes import AXES, DataError, check_axes, same_roles
from careamics_dm.formats._ome_zarr import Pyramid, Scale, ome_metadata, read_pyramid
from careamics_dm.formats._zarr_array import Given, Key, ZarrArray, missing_message, open_array
from careamics_dm.formats._zarr_chunks import block_shape, find_missing
from careamics_dm.formats._zarr_files import Files, Options, Place, files_of, is_remote, read_node
from careamics_dm.image_stack import ArrayStack

if TYPE_CHECKING:
    from careamics_dm.formats._zarr_find import ZarrSource


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
    """Open one image array; only metadata are read.

    Parameters
    ----------
    source : ZarrSource
        The array, or the OME image.
    axes : str
        ``"auto"``, or letters of ``STCZYX`` in the order on disk.
    level : int
        Of the pyramid of an OME image.
    trust_axes : bool
        Whether ``axes`` counts where it contradicts the metadata.
    missing_chunks : {"error", "fill"}
        What to do about chunks that are not there.
    storage_options : dict, optional
        Of the file system of a URL.
    engine : str
        What decodes.

    Returns
    -------
    ArrayStack
        The image.
    int
        How many of its chunks are missing.

    Raises
    ------
    DataError
        No image, no such level, metadata or chunks that are missing or damaged, axes that are
        not known, do not fit, or contradict the metadata.
    """
    options = storage_options or {}
    files = files_of(source.place.root, options)
    place, known, zarr_format = _describe(files, options, source, axes, level)
    given = Given(options if is_remote(place.root) else {})
    key = Key(place, zarr_format, given, engine)
    array = open_array(key)
    if array.ndim < 2:
        raise DataError(
            f"{source}: shape {array.shape} has {array.ndim} dimension(s), so it is no image. "
            "Name the arrays that are images."
        )
    known = known or _from_array(array)
    if known.axes and len(known.axes) != array.ndim:
        if axes == "auto" or not trust_axes:
            raise DataError(
                f"{source}: its metadata name {len(known.axes)} axes ({known.axes}), but the array "
                f"has shape {array.shape}. Save it again, or give axes and set trust_axes=true."
            )
        known = _Known("", {}, ())
    axes = _axes(known, axes, array.shape, trust_axes, source.name)
    folder = Path(place.root) if Path(place.root).is_dir() else None
    missing = find_missing(array, files, place.path, folder)
    if missing is None:
        key = key._replace(strict=missing_chunks == "error")
    elif missing.n and missing_chunks == "error":
        raise DataError(missing_message(str(place), missing.first, missing.n, missing.total))
    names = known.channel_names if "C" in axes else ()
    fits = len(names) == (array.shape[axes.index("C")] if names else 0)
    stack = ArrayStack(
        ZarrArray(key, tuple(array.shape), array.dtype),
        axes,
        source.name,
        block_shape=block_shape(array),
        scale={
            letter: known.scale[told]
            for letter, told in zip(axes, known.axes, strict=False)
            if letter in "ZYX" and told in known.scale
        },
        channel_names=names if fits else None,
    )
    return stack, missing.n if missing else 0


class _Known(NamedTuple):
    """What metadata say of the dimensions of an array."""

    axes: str
    """Empty if they say nothing."""
    scale: Scale
    channel_names: tuple[str, ...]


def _describe(
    files: Files, options: Options, source: ZarrSource, axes: str, level: int
) -> tuple[Place, _Known | None, Literal[2, 3]]:
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


def _from_parent(files: Files, options: Options, place: Place, axes: str) -> _Known | None:
    """Look for OME metadata of an array that is named itself, in the group around it."""
    if place.path:
        path, _, name = place.path.rpartition("/")
        parent = Place(place.root, path)
    else:
        root, _, name = place.root.replace("\\", "/").rpartition("/")
        if not root or root.endswith(":/") or name.lower().endswith(".zarr"):
            return None
        parent, files = Place(root), files_of(root, options)
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


def _of_level(pyramid: Pyramid, level: int) -> _Known:
    return _Known(pyramid.axes, pyramid.scales[level], pyramid.channel_names)


def _from_array(array: Any) -> _Known:
    """Take the names that an array gives its dimensions, if they are those of axes."""
    names = getattr(array.metadata, "dimension_names", None)
    names = names or array.attrs.get("_ARRAY_DIMENSIONS") or ()
    letters = [_NAMES.get(str(name).lower(), "?") for name in names]
    good = "?" not in letters and len(set(letters)) == len(letters) == array.ndim
    return _Known("".join(letters) if good and {"Y", "X"} <= set(letters) else "", {}, ())


_NAMES = {letter.lower(): letter for letter in AXES} | {
    "sample": "S",
    "time": "T",
    "channel": "C",
    "depth": "Z",
}


def _axes(known: _Known, axes: str, shape: tuple[int, ...], trust_axes: bool, source: str) -> str:
    """Take the axes of the metadata, or check a user's against them."""
    if axes == "auto":
        if {"Y", "X"} <= set(known.axes) and len(set(known.axes)) == len(known.axes):
            return known.axes
        examples = ["TCZYX"[-len(shape) :] if len(shape) < 6 else AXES]
        if len(shape) == 3:
            examples = ["TYX", "ZYX"]
        if len(shape) == 4:
            examples = ["TZYX", "ZCYX"]
        raise DataError(
            f'{source}: axes="auto", but neither OME metadata nor names of dimensions say what '
            f"they are (shape {shape}). Give {len(shape)} letters of {AXES}, for instance axes="
            f"{' or '.join(f'{chr(34)}{e}{chr(34)}' for e in examples)}."
        )
    axes = check_axes(axes, shape, source)
    if known.axes and not trust_axes and not same_roles(axes, known.axes):
        raise DataError(
            f'{source}: axes="{axes}" contradicts its metadata, which say {known.axes} (shape '
            f'{shape}). Correct axes, leave it at "auto", or set trust_axes=true to override them.'
        )
    return axes
