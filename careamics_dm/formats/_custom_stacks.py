"""Image stacks that a user's function returns: checked by their members and by two patches."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path
from reprlib import repr as short
from typing import TYPE_CHECKING, Any

import numpy as np

from careamics_dm.axes import DataError
from careamics_dm.formats._custom_function import name_of
from careamics_dm.image_stack import ArrayStack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from careamics_dm.image_stack import ImageStack

MEMBERS = (
    "source",
    "data_shape",
    "data_dtype",
    "original_axes",
    "original_data_shape",
    "extract_patch",
)
PROBE = 8
"""Pixels per axis of the patches that are read to try a stack."""


def load_stacks(load: Callable[..., Any], source: Any, axes: str) -> list[ImageStack]:
    """Call an image stack loader, and check what it returns.

    Of each stack, the first corner of the first sample and the last corner of the last one are
    read; then it is closed, if it has a ``close``.

    Parameters
    ----------
    load : callable
        ``(source, axes) -> list of stacks``.
    source
        What the user gave as data.
    axes : str
        What the user gave as axes.

    Returns
    -------
    list of ImageStack
        With plain values as members.

    Raises
    ------
    DataError
        The loader fails, returns anything but a list of stacks, or a stack is not what its
        members say; all faults of all stacks in one message.
    """
    name = name_of(load)
    try:
        stacks = load(source, axes)
    except DataError:
        raise
    except Exception as error:  # it is the user's
        raise DataError(
            f"{name}({short(source)}, {axes!r}) failed: {type(error).__name__}: {error}. Does it "
            "work when you call it yourself?"
        ) from error
    if not isinstance(stacks, list | tuple):
        raise DataError(
            f"{name} returned a {type(stacks).__name__}. Let it return a list of image stacks, "
            "also if there is one."
        )
    if not stacks:
        raise DataError(f"{name}({short(source)}, {axes!r}) returned no image stack.")
    found: list[ImageStack] = []
    faults: list[str] = []
    for number, stack in enumerate(stacks):
        try:
            found.append(stack if isinstance(stack, ArrayStack) else GivenStack(stack, number))
        except DataError as error:
            faults.append(str(error))
    names = Counter(stack.source for stack in found)
    if twice := [source for source, count in names.items() if count > 1]:
        faults.append(
            f"{', '.join(twice[:5])}: several image stacks have this source. Results are named "
            "by it: let each have its own."
        )
    if faults:
        raise DataError("\n".join(faults))
    return found


class GivenStack:
    """A user's image stack, with plain values for its members; see `ImageStack`.

    Optional members are those of the user's stack. Patches may be float32 whatever the
    ``data_dtype``, as CAREamics' are: then that is the dtype.

    Parameters
    ----------
    stack : ImageStack
        The user's.
    number : int
        Its place in the list, for messages.

    Raises
    ------
    DataError
        A missing member, one that makes no sense, or a patch that can't be read or is not what
        the members say.
    """

    def __init__(self, stack: Any, number: int) -> None:
        kind = type(stack).__name__
        label = f"image stack {number}, a {kind}"
        if missing := [member for member in MEMBERS if not hasattr(stack, member)]:
            raise DataError(
                f"{label}, has no {', '.join(missing)}. Needed are {', '.join(MEMBERS)}: see "
                "help(careamics_dm.ImageStack)."
            )
        if not isinstance(stack.source, str | Path) or not str(stack.source):
            raise DataError(f"{label}: source={stack.source!r}. Name the image with a text.")
        self.stack = stack
        self.source = str(stack.source)
        self.data_shape = _shape(stack.data_shape, self.source)
        self.data_dtype = _real(stack.data_dtype, self.source)
        self.original_axes = str(stack.original_axes).upper()
        self.original_data_shape = tuple(map(int, stack.original_data_shape))
        self._check_original()
        size = self.data_shape[2:]
        edge = [min(PROBE, n) for n in size]
        self.data_dtype = self._probe(0, None, [0] * len(size), edge).dtype
        far = [n - e for n, e in zip(size, edge, strict=True)]
        self._probe(self.data_shape[0] - 1, [self.data_shape[1] - 1], far, edge)
        if close := getattr(stack, "close", None):
            close()

    def extract_patch(
        self,
        sample_idx: int,
        channels: Sequence[int] | None,
        coords: Sequence[int],
        patch_size: Sequence[int],
    ) -> NDArray[Any]:
        """Read a patch; see `ImageStack.extract_patch`."""
        patch: NDArray[Any] = self.stack.extract_patch(sample_idx, channels, coords, patch_size)
        if patch.dtype != self.data_dtype:  # it would be cast in silence
            raise DataError(f"this patch is {patch.dtype}, others are {self.data_dtype}.")
        return patch

    def __getattr__(self, name: str) -> Any:
        """Find optional members."""
        if name.startswith("__") or name == "stack":  # asked for before there is a stack
            raise AttributeError(name)
        return getattr(self.stack, name)

    def _check_original(self) -> None:
        axes, shape = self.original_axes, self.original_data_shape
        if not len(axes) == len(shape) == len(set(axes)) or not {"Y", "X"} <= set(axes):
            raise DataError(
                f"{self.source}: original_axes={axes!r} and original_data_shape={shape}. Give a "
                "letter per dimension on disk, each once, Y and X among them."
            )
        here = [shape[axes.index(axis)] for axis in "YX"]
        if prod(shape) != prod(self.data_shape) or here != list(self.data_shape[-2:]):
            raise DataError(
                f"{self.source}: original_data_shape {shape} ({axes}) holds other pixels than "
                f"data_shape {self.data_shape} (S C (Z) Y X). Correct one of them."
            )

    def _probe(
        self, sample: int, channels: list[int] | None, start: list[int], size: list[int]
    ) -> NDArray[Any]:
        call = f"{self.source}: extract_patch({sample}, {channels}, {start}, {size})"
        try:
            patch: Any = self.stack.extract_patch(sample, channels, start, size)
        except Exception as error:  # it is the user's
            raise DataError(
                f"{call} failed: {type(error).__name__}: {error}. data_shape {self.data_shape} "
                "says that this is inside: correct either."
            ) from error
        if not isinstance(patch, np.ndarray):
            raise DataError(f"{call} gave a {type(patch).__name__}. Let it give a NumPy array.")
        asked = (self.data_shape[1] if channels is None else len(channels), *size)
        if patch.shape != asked:
            raise DataError(
                f"{call} gave shape {patch.shape} instead of {asked} (C (Z) Y X), with data_shape "
                f"{self.data_shape}. Correct either."
            )
        same = patch.dtype.newbyteorder("=") == self.data_dtype.newbyteorder("=")
        if not same and patch.dtype != np.float32:
            raise DataError(
                f"{call} gave {patch.dtype}, but data_dtype is {self.data_dtype}. Correct either."
            )
        return patch


def _shape(shape: Any, source: str) -> tuple[int, ...]:
    sizes = tuple(shape)
    whole = all(isinstance(n, int | np.integer) and n > 0 for n in sizes)
    if len(sizes) not in (4, 5) or not whole:
        raise DataError(f"{source}: data_shape={sizes}. Give the sizes of S C Y X or S C Z Y X.")
    return tuple(map(int, sizes))


def _real(dtype: Any, source: str) -> np.dtype[Any]:
    try:
        found: np.dtype[Any] = np.dtype(dtype)
    except TypeError as error:
        raise DataError(f"{source}: data_dtype={dtype!r} is not a NumPy dtype.") from error
    if found.kind not in "biuf":
        raise DataError(
            f"{source}: data_dtype {found} is not a real number. Let extract_patch convert it."
        )
    return found
