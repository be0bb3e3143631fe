"""Images that functions of a user give: whole files as arrays, or image stacks, both checked."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError, parsed
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.file_handles import HandleCache
from careamics_dm.images.image_stack import Channels, ImageStack
from careamics_dm.images.stack_rules import read_members, read_patch
from careamics_dm.sources.import_path import name_of


class FileArray:
    """A file as an array that is read by boxes; see `StoredArray`.

    Constructing it reads the file: a function that gives whole arrays gives shape and dtype only
    so. The pixels stay in `FILES` while its budget allows. ``read_func`` takes the path (or URL)
    and is called in several threads at once.
    """

    def __init__(self, path: Path | str, read_func: Callable[[Any], NDArray[Any]]) -> None:
        self.path = path
        self.read_func = read_func
        # Decoded it may be larger, but this is the best guess.
        n_bytes = Path(path).stat().st_size if Path(path).exists() else 0
        with FILES.use(self, room=n_bytes) as pixels:
            self.shape: tuple[int, ...] = pixels.shape
            self.dtype: np.dtype[Any] = pixels.dtype

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """Read a box, and with it the whole file if that is not in memory."""
        with FILES.use(self, room=prod(self.shape) * self.dtype.itemsize) as pixels:
            if pixels.shape != self.shape or pixels.dtype != self.dtype:
                self.close()
                raise DataError(
                    f"{self.path}: {name_of(self.read_func)} now returns shape {pixels.shape}, "
                    f"{pixels.dtype}, at set-up it was {self.shape}, {self.dtype}. Set up anew."
                )
            part = pixels[box]
            # A view would keep the whole file in memory, which nobody counts.
            return pixels if part.shape == self.shape else part.copy()

    def close(self) -> None:
        """Give up the pixels; the next read reads the file again."""
        FILES.close(self)

    def read(self) -> NDArray[Any]:
        """Call the function, and return an array that keeps no other alive."""
        name = name_of(self.read_func)
        try:
            pixels: Any = parsed(lambda: self.read_func(self.path))
        except Exception as error:  # it is the user's
            raise DataError(
                f"{self.path}: {name} failed: {type(error).__name__}: {error}. Does it read this "
                "file when you call it yourself?"
            ) from error
        if isinstance(pixels, np.ma.MaskedArray):
            raise DataError(
                f"{self.path}: {name} returned a masked array. Let it return array.filled(0)."
            )
        if not isinstance(pixels, np.ndarray):
            raise DataError(
                f"{self.path}: {name} returned a {type(pixels).__name__}, not a NumPy array. "
                "Let it return numpy.asarray(...) of the pixels."
            )
        base = pixels.base
        is_part = isinstance(base, np.ndarray) and base.nbytes > pixels.nbytes
        if isinstance(pixels, np.memmap) or is_part:
            return np.array(pixels, subok=False)
        return np.asarray(pixels)


FILES = HandleCache(FileArray.read, lambda _: None, most=2**28, cost=lambda pixels: pixels.nbytes)
"""Decoded files, of all data modules of a process, up to 256 MiB."""


PROBE = 8  # pixels per axis of the patches that are read to try a stack


def load_stacks(load: Callable[..., Any], source: Any, axes: str) -> list[ImageStack]:
    """Call an image stack loader and check what it returns; all faults come in one message.

    Of each stack, the first corner of the first sample and the last corner of the last one are
    read; then it is closed, if it has a ``close``.
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
            f"{name} returned a {type(stacks).__name__}. Let it return a list of image stacks."
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
    counts = Counter(stack.source for stack in found)
    if twice := [source for source, count in counts.items() if count > 1]:
        names = ", ".join(twice[:5])
        faults.append(f"{names}: several image stacks have this source. Give each its own.")
    if faults:
        raise DataError("\n".join(faults))
    return found


class GivenStack:
    """A user's image stack with plain members; patches may be float32, whatever it states.

    One with ``load``, ``is_loaded`` and ``close``, as CAREamics reads files, is loaded while it is
    read. ``"array"``, the source of all arrays of CAREamics, is numbered.
    """

    def __init__(self, stack: Any, number: int) -> None:
        self.stack = stack
        members = read_members(stack, f"image stack {number}, a {type(stack).__name__}")
        self.source, self.data_shape = members.source, members.data_shape
        if self.source == "array":
            self.source = f"array_{number:04d}"
        self.original_axes = members.original_axes
        self.original_data_shape = members.original_data_shape
        self.data_dtype = members.data_dtype
        size = self.data_shape[2:]
        edge = [min(PROBE, n) for n in size]
        far = [n - e for n, e in zip(size, edge, strict=True)]
        first = (0, None, [0] * len(size), edge)
        last = (self.data_shape[0] - 1, [self.data_shape[1] - 1], far, edge)
        with self._loaded():
            self.data_dtype = read_patch(stack, members, first, or_float32=True).dtype
            read_patch(stack, members, last, or_float32=True)
        self.close()

    def extract_patch(
        self, sample_idx: int, channels: Channels, coords: Sequence[int], patch_size: Sequence[int]
    ) -> NDArray[Any]:
        """Read a patch; see `ImageStack.extract_patch`."""
        with self._loaded():
            patch: NDArray[Any] = self.stack.extract_patch(sample_idx, channels, coords, patch_size)
        if patch.dtype != self.data_dtype:  # it would be cast in silence
            raise DataError(f"this patch is {patch.dtype}, others are {self.data_dtype}.")
        return patch

    def close(self) -> None:
        """Let it close what it has open."""
        LOADED.close(self)
        if close := getattr(self.stack, "close", None):
            close()

    def _loaded(self) -> AbstractContextManager[object]:
        """Load the stack, if it has to be, and hold it so."""
        if not (hasattr(self.stack, "load") and hasattr(self.stack, "is_loaded")):
            return nullcontext()
        return LOADED.use(self, room=_bytes(self))

    def __getattr__(self, name: str) -> Any:
        """Find optional members."""
        if name.startswith("__") or name == "stack":  # asked for before there is a stack
            raise AttributeError(name)
        return getattr(self.stack, name)


def _load(given: GivenStack) -> GivenStack:
    given.stack.load()
    return given


def _bytes(given: GivenStack) -> int:
    """Say what loaded pixels take: CAREamics makes float32 of them."""
    return prod(given.data_shape) * max(given.data_dtype.itemsize, 4)


LOADED = HandleCache(_load, lambda given: given.stack.close(), most=2**28, cost=_bytes)
"""Loaded stacks, of all data modules of a process, up to 256 MiB."""
