"""Files that a function reads as a whole: decoded once, kept while a byte budget allows."""

from collections.abc import Callable, Hashable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.formats.custom.import_path import name_of
from careamics_dm.images.file_handles import HandleCache


class FileArray:
    """A file as an array that is read by boxes; see `StoredArray`.

    Constructing it reads the file, as a function that gives whole arrays can't tell shape and dtype
    otherwise; the pixels are kept while the budget of `FILES` allows. ``read_func`` takes the path
    (or URL) and is called in several threads at once.
    """

    def __init__(self, path: Path | str, read_func: Callable[[Any], NDArray[Any]]) -> None:
        self.path = path
        self.read_func = read_func
        # Decoded it may be larger, but nothing better is known yet.
        n_bytes = Path(path).stat().st_size if Path(path).exists() else 0
        with FILES.use(self, room=n_bytes) as pixels:
            self.shape: tuple[int, ...] = pixels.shape
            self.dtype: np.dtype[Any] = pixels.dtype

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """Read a box, and with it the whole file if it is not kept."""
        with FILES.use(self, room=prod(self.shape) * self.dtype.itemsize) as pixels:
            if pixels.shape != self.shape or pixels.dtype != self.dtype:
                self.close()
                raise DataError(
                    f"{self.path}: {name_of(self.read_func)} now returns shape {pixels.shape}, "
                    f"{pixels.dtype}, at set-up it was {self.shape}, {self.dtype}. Set up anew if "
                    "the file has changed."
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
        base = pixels.base
        is_part = isinstance(base, np.ndarray) and base.nbytes > pixels.nbytes
        if isinstance(pixels, np.memmap) or is_part:
            return np.array(pixels, subok=False)
        return np.asarray(pixels)


def _read(key: Hashable) -> NDArray[Any]:
    assert isinstance(key, FileArray)
    return key.read()


FILES: HandleCache[NDArray[Any]] = HandleCache(
    _read, lambda pixels: None, most=2**28, cost=lambda pixels: pixels.nbytes
)
"""Decoded files, of all data modules of a process: up to 256 MiB are kept."""
