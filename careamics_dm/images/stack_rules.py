"""The rules of an image stack: what its members, and the patches that it gives, must be."""

import re
from collections.abc import Sequence
from math import isfinite, prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError


class Members(NamedTuple):
    """The members of an image stack, as plain values; see `ImageStack`."""

    source: str
    data_shape: tuple[int, ...]
    data_dtype: np.dtype[Any]
    original_axes: str
    original_data_shape: tuple[int, ...]


COLOR = re.compile("[0-9A-Fa-f]{6}")
NEEDED = (*Members._fields, "extract_patch")


def read_members(stack: Any, label: str) -> Members:
    """Return the members of a stack, checked; ``label`` names it until its source is."""
    if missing := [member for member in NEEDED if not hasattr(stack, member)]:
        raise DataError(f"{label}, has no {', '.join(missing)}. See help(careamics_dm.ImageStack).")
    if not isinstance(stack.source, str | Path) or not str(stack.source):
        raise DataError(f"{label}: source={stack.source!r}. Name the image with a text.")
    source = str(stack.source)
    members = Members(
        source,
        _shape(stack.data_shape, source),
        _dtype(stack.data_dtype, source),
        str(stack.original_axes).upper(),
        tuple(map(int, stack.original_data_shape)),
    )
    _check_original(members)
    _check_optional(stack, members)
    return members


def read_patch(
    stack: Any,
    members: Members,
    box: tuple[int, Sequence[int] | None, Sequence[int], Sequence[int]],
    or_float32: bool = False,
) -> NDArray[Any]:
    """Read a patch, ``C (Z) Y X``, and check it.

    ``box`` has the arguments of ``extract_patch``: sample, channels, origin and size in pixels.
    With ``or_float32``, patches may be float32 whatever the ``data_dtype``, as CAREamics' are.
    """
    sample, channels, start, size = box[0], box[1], list(box[2]), list(box[3])
    call = f"{members.source}: extract_patch({sample}, {channels}, {start}, {size})"
    try:
        patch: Any = stack.extract_patch(sample, channels, start, size)
    except Exception as error:  # it is the user's
        raise DataError(
            f"{call} failed: {type(error).__name__}: {error}. data_shape is {members.data_shape}: "
            "correct either."
        ) from error
    n_channels = members.data_shape[1] if channels is None else len(channels)
    if not or_float32 or getattr(patch, "dtype", None) != np.float32:
        check_patch(patch, call, (n_channels, *size), members.data_dtype)
    else:
        check_patch(patch, call, (n_channels, *size), patch.dtype)
    return np.asarray(patch)


def check_patch(patch: Any, call: str, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
    """Check what a stack gave when it was asked by ``call``; the byte order does not matter."""
    if not isinstance(patch, np.ndarray):
        raise DataError(f"{call} gave a {type(patch).__name__}. Let it give a NumPy array.")
    if patch.shape != tuple(shape):
        raise DataError(
            f"{call} gave shape {patch.shape} instead of {tuple(shape)}. Correct data_shape or "
            "extract_patch; if the file has changed, set up anew."
        )
    if patch.dtype.newbyteorder("=") != dtype.newbyteorder("="):
        raise DataError(f"{call} gave {patch.dtype}, but data_dtype is {dtype}. Correct one.")


def _shape(shape: Any, source: str) -> tuple[int, ...]:
    sizes = tuple(shape)
    whole = all(isinstance(n, int | np.integer) and n > 0 for n in sizes)
    if len(sizes) not in (4, 5) or not whole:
        raise DataError(f"{source}: data_shape={sizes}. Give the sizes of S C Y X or S C Z Y X.")
    return tuple(map(int, sizes))


def _dtype(dtype: Any, source: str) -> np.dtype[Any]:
    try:
        found: np.dtype[Any] = np.dtype(dtype)
    except TypeError as error:
        raise DataError(f"{source}: data_dtype={dtype!r} is not a NumPy dtype.") from error
    if found.kind not in "biuf":
        raise DataError(f"{source}: data_dtype {found} is not a real number. Convert the patches.")
    return found


def _check_original(members: Members) -> None:
    axes, shape = members.original_axes, members.original_data_shape
    if not len(axes) == len(shape) == len(set(axes)) or not {"Y", "X"} <= set(axes):
        raise DataError(
            f"{members.source}: original_axes={axes!r} and original_data_shape={shape}. Give a "
            "letter per dimension on disk, each once, Y and X among them."
        )
    here = [shape[axes.index(axis)] for axis in "YX"]
    if prod(shape) != prod(members.data_shape) or here != list(members.data_shape[-2:]):
        raise DataError(
            f"{members.source}: original_data_shape {shape} ({axes}) holds other pixels than "
            f"data_shape {members.data_shape} (S C (Z) Y X). Correct one of them."
        )


def _check_optional(stack: Any, members: Members) -> None:
    source, shape = members.source, members.data_shape
    block = tuple(getattr(stack, "block_shape", None) or shape[2:])
    if len(block) != len(shape) - 2 or min(block) < 1:
        raise DataError(f"{source}: block_shape={block}. Give the sizes of (Z) Y X, in pixels.")
    for axis, entry in (getattr(stack, "scale", None) or {}).items():
        if axis not in "TZYX" or len(entry) != 2 or not entry[0] > 0:
            raise DataError(f"{source}: scale {axis}={entry}. Give (size, unit) for T, Z, Y and X.")
    names = getattr(stack, "channel_names", None)
    if names and len(names) != shape[1]:
        raise DataError(f"{source}: {shape[1]} channel(s), but channel_names={names}.")
    colors = getattr(stack, "channel_colors", None)
    if colors and (len(colors) != shape[1] or not all(map(COLOR.fullmatch, colors))):
        raise DataError(
            f"{source}: {shape[1]} channel(s), but channel_colors={colors}. Give one each, as "
            "RRGGBB in hexadecimal."
        )
    for axis, place in (getattr(stack, "origin", None) or {}).items():
        if axis not in (getattr(stack, "scale", None) or {}) or not isfinite(place):
            raise DataError(f"{source}: origin {axis}={place}. Give a number, of axes of scale.")
    sizes = dict(zip(members.original_axes, members.original_data_shape, strict=True))
    n_planes = prod(sizes.values()) // prod(shape[-2:])
    n_planes //= sizes.get("C", 1) if getattr(stack, "is_rgb", False) else 1
    labels = getattr(stack, "labels", None)
    if labels and len(labels) != n_planes:
        raise DataError(f"{source}: {len(labels)} labels for {n_planes} plane(s). Give one each.")
    samples = getattr(stack, "samples_per_block", 1)
    if samples < 1 or (samples > 1 and not hasattr(stack, "extract_samples")):
        raise DataError(f"{source}: samples_per_block={samples}. Give 1, or extract_samples too.")
