"""Files that a function reads as a whole: decoded once, kept while a byte budget allows."""

from __future__ import annotations

import os
from collections import OrderedDict
from contextlib import contextmanager, nullcontext
from math import prod
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from careamics_dm.axes import DataError
from careamics_dm.formats._custom_function import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from numpy.typing import NDArray


class DecodedFiles:
    """Decoded files of this process, of which the least recently used are given up.

    A file is read once however many threads ask for it. Large files are read one after the
    other, each after others have made room.

    Parameters
    ----------
    budget : int
        Bytes to keep; the file used last is kept though it alone exceeds them.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._state = _State()

    def get(self, key: Hashable, n_bytes: int, read: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return the pixels of a file, reading it if they are not there.

        Parameters
        ----------
        key : hashable
            Of the file.
        n_bytes : int
            About what they take.
        read : callable
            Reads them.

        Returns
        -------
        ndarray
            Not to be changed.
        """
        state = self._current()
        with state.lock:
            entry = state.entries.setdefault(key, _Entry())
            state.entries.move_to_end(key)
        with entry.lock:
            if entry.pixels is None:
                with state.large if n_bytes > self.budget // 4 else nullcontext():
                    self._shrink(n_bytes)
                    try:
                        entry.pixels = read()
                    except BaseException:
                        self.forget(key)
                        raise
            pixels = entry.pixels
        self._shrink(0, key)
        return pixels

    def forget(self, key: Hashable) -> None:
        """Give a file up."""
        state = self._current()
        with state.lock:
            state.entries.pop(key, None)

    @contextmanager
    def roomy(self, budget: int) -> Iterator[None]:
        """Keep so much for a while, if it is more than usual."""
        usual, self.budget = self.budget, max(budget, self.budget)
        try:
            yield
        finally:
            self.budget = usual
            self._shrink(0)

    def _shrink(self, room: int, keep: Hashable = None) -> None:
        """Give up files, the least recently used first, until the others and ``room`` fit."""
        state = self._current()
        with state.lock:
            there = {k: e.pixels.nbytes for k, e in state.entries.items() if e.pixels is not None}
            total = sum(there.values()) + room
            for key, n_bytes in there.items():
                if total <= self.budget:
                    break
                if key is not keep:
                    del state.entries[key]
                    total -= n_bytes

    def _current(self) -> _State:
        if self._state.process != os.getpid():
            # Forked: locks may be held by threads that are not here.
            self._state = _State()
        return self._state


class _Entry:
    def __init__(self) -> None:
        self.lock = Lock()
        self.pixels: NDArray[Any] | None = None


class _State:
    def __init__(self) -> None:
        self.process, self.lock, self.large = os.getpid(), Lock(), Lock()
        self.entries: OrderedDict[Hashable, _Entry] = OrderedDict()


FILES = DecodedFiles(2**28)
"""Shared by all data modules of a process (256 MiB)."""


class FileArray:
    """A file as an array that is read by boxes; see `StoredArray`.

    Constructing it reads the file, as a function that gives whole arrays can't tell shape and
    dtype otherwise; the pixels are kept while the budget of `FILES` allows.

    Parameters
    ----------
    path : Path or str
        The file, or a URL.
    read_func : callable
        Takes it and returns an array; called in several threads at once.

    Raises
    ------
    DataError
        The function raises, or returns something else than an array.
    """

    def __init__(self, path: Path | str, read_func: Callable[[Any], NDArray[Any]]) -> None:
        self.path = path
        self.read_func = read_func
        # Decoded it may be larger, but nothing better is known yet.
        n_bytes = Path(path).stat().st_size if Path(path).exists() else 0
        pixels = FILES.get(self, n_bytes, self._read)
        self.shape: tuple[int, ...] = pixels.shape
        self.dtype: np.dtype[Any] = pixels.dtype

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """Read a box, and with it the whole file if it is not kept."""
        pixels = FILES.get(self, prod(self.shape) * self.dtype.itemsize, self._read)
        if pixels.shape != self.shape or pixels.dtype != self.dtype:
            FILES.forget(self)
            raise DataError(
                f"{self.path}: {name_of(self.read_func)} now returns shape {pixels.shape}, "
                f"{pixels.dtype}, at set-up it was {self.shape}, {self.dtype}. Set up anew if the "
                "file has changed."
            )
        part = pixels[box]
        # A view would hold the whole file, which nobody counts.
        return pixels if part.shape == self.shape else part.copy()

    def close(self) -> None:
        """Give up the pixels; the next read reads the file again."""
        FILES.forget(self)

    def _read(self) -> NDArray[Any]:
        name = name_of(self.read_func)
        try:
            pixels: Any = self.read_func(self.path)
        except Exception as error:  # it is the user's
            raise DataError(
                f"{self.path}: {name} failed: {type(error).__name__}: {error}. Does it read this "
                "file when you call it yourself?"
            ) from error
        if isinstance(pixels, np.ma.MaskedArray):
            raise DataError(
                f"{self.path}: {name} returned a masked array. Let it return array.filled(0), "
                "for instance."
            )
        if not isinstance(pixels, np.ndarray):
            raise DataError(
                f"{self.path}: {name} returned a {type(pixels).__name__}, not a NumPy array. "
                "Let it return numpy.asarray(...) of the pixels."
            )
        if isinstance(pixels, np.memmap) or _holds_more(pixels):
            return np.array(pixels, subok=False)
        return np.asarray(pixels)


def _holds_more(pixels: NDArray[Any]) -> bool:
    """Whether an array is a view that keeps a larger one alive."""
    return isinstance(pixels.base, np.ndarray) and pixels.base.nbytes > pixels.nbytes
