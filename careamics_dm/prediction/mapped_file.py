"""A result that is written box by box into a file, through a map of it where rows are short."""

import errno
import mmap
import os
import shutil
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.axes import Box
from careamics_dm.prediction.result_file import ResultImage

Mapped = np.memmap[Any, np.dtype[Any]]
MAPPED = 2**27
"""Most bytes that are written through the map before its pages are left, plus one block."""
RUN = 2**16
"""Runs of at least this many contiguous bytes are written with ``os.pwrite``, not through the map:
mapping a page takes up to six times as long as filling it."""
MOST_AT_ONCE = 2**30
"""Bytes to write in one call, at most: macOS refuses 2 GiB and more."""


class Create(Protocol):
    """Maps the pixels of a file, in the axes of a result; with ``begin``, makes it before."""

    def __call__(self, path: Path, image: ResultImage, *, begin: bool) -> Mapped:
        """Map a file."""
        ...


def map_npy(path: Path, image: ResultImage, *, begin: bool) -> Mapped:
    """Map a ``.npy`` file."""
    if begin:
        return np.lib.format.open_memmap(path, "w+", image.dtype, image.layout.shape)
    return np.lib.format.open_memmap(path, "r+")


class MappedFile:
    """A result that is being written: pixels in a ``.part`` file; see `ResultFile`.

    ``create`` maps that file. With ``convert(pixels, path)``, the result is another file, which
    this makes of all pixels: they take space on the disk until it is complete.
    """

    def __init__(
        self,
        image: ResultImage,
        create: Create = map_npy,
        convert: Callable[[NDArray[Any], Path], None] | None = None,
        *,
        begin: bool,
    ) -> None:
        self.image, self.convert, self.part = image, convert, image.part
        self._row: Box = ()
        self._mapped = 0
        self.converted = self.part.with_suffix(".parts") / image.path.name
        try:
            if begin:
                self.part.unlink(missing_ok=True)
            self.pixels = create(self.part, image, begin=begin)
            if begin:
                reserve(self.part, self.pixels)
            self._file = self.part.open("r+b", buffering=0)
        except OSError as error:
            if begin:
                self.part.unlink(missing_ok=True)
            raise self._no_space(error) from error

    def put(self, box: Box, pixels: NDArray[Any]) -> None:
        """Write pixels to a box."""
        view = self.pixels[box]
        order = sorted(range(view.ndim), key=lambda d: -view.strides[d])  # slowest first
        view, pixels = view.transpose(order), pixels.transpose(order)
        n_axes, run = view.ndim, view.itemsize
        # After the first n_axes, so many bytes (run) are contiguous.
        while n_axes and (view.shape[n_axes - 1] == 1 or view.strides[n_axes - 1] == run):
            n_axes -= 1
            run *= view.shape[n_axes]
        if run >= RUN and hasattr(os, "pwrite"):  # not on Windows
            self._write_runs(view, pixels, n_axes)
            return
        # Boxes side by side share pages, so these are left only when a new row of boxes begins.
        if box[:-1] != self._row or self._mapped + pixels.nbytes > MAPPED:
            leave_pages(self.pixels)
            self._row, self._mapped = box[:-1], 0
        view[...] = pixels
        self._mapped += pixels.nbytes

    def _write_runs(self, view: NDArray[Any], pixels: NDArray[Any], n_axes: int) -> None:
        """Write a box that is contiguous in the file after its first ``n_axes`` axes."""
        for index in np.ndindex(view.shape[:n_axes]):
            place = self.pixels.offset + address(view[index]) - address(self.pixels)
            run = np.ascontiguousarray(pixels[index], view.dtype).reshape(-1).view(np.uint8).data
            try:
                while run:
                    n = os.pwrite(self._file.fileno(), run[:MOST_AT_ONCE], place)
                    place, run = place + n, run[n:]
            except OSError as error:
                raise self._no_space(error) from error

    def flush(self) -> None:
        """Bring pixels to disk."""
        try:
            self.pixels.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._no_space(error) from error

    def finish(self) -> None:
        """Give the file its final name; see `ResultFile`."""
        path = self.image.path
        try:
            self.flush()
            complete = self._convert() if self.convert else self.part
        finally:
            self.close()  # Windows renames no open file
        if path.exists() and not self.image.replace:
            self._remove()
            raise FileExistsError(path)
        if path.is_dir():
            shutil.rmtree(path)
        complete.replace(path)
        self._remove()

    def close(self) -> None:
        """Leave the file unfinished."""
        self._file.close()
        if hasattr(self, "pixels"):
            del self.pixels

    def discard(self) -> None:
        """Remove the unfinished file."""
        self.close()
        self._remove()

    def _remove(self) -> None:
        self.part.unlink(missing_ok=True)
        shutil.rmtree(self.converted.parent, ignore_errors=True)

    def _convert(self) -> Path:
        """Make the file of all pixels, under its final name but in a folder of its own."""
        assert self.convert is not None
        shutil.rmtree(self.converted.parent, ignore_errors=True)  # of an earlier try
        self.converted.parent.mkdir()
        try:
            self.convert(self.pixels, self.converted)
        except BaseException as error:
            shutil.rmtree(self.converted.parent, ignore_errors=True)
            if isinstance(error, OSError):
                raise self._no_space(error) from error
            raise
        return self.converted

    def _no_space(self, error: OSError) -> DataError:
        size = prod(self.image.layout.shape) * self.image.dtype.itemsize / 2**20
        return DataError(
            f"writer: {self.image.path}, of {size:.1f} MiB, can't be written "
            f"({error.strerror or error}). Free space or write to another folder; with "
            "writer.existing=skip, the same command goes on with this image."
        )


def address(array: NDArray[Any]) -> int:
    """Return where in memory the first element of an array is."""
    place: int = array.__array_interface__["data"][0]
    return place


def leave_pages(mapped: NDArray[Any]) -> None:
    """Leave the pages of a map to the system, which brings what was written to disk in its time.

    Until then, they count as memory of this process.
    """
    root: Any = mapped
    while isinstance(root, np.ndarray):
        root = root.base
    if isinstance(root, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        root.madvise(mmap.MADV_DONTNEED)


def reserve(path: Path, pixels: Mapped) -> None:
    """Take the disk space of a new file: to write to its map without any ends the process."""
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), pixels.offset, pixels.nbytes)
    except (AttributeError, OSError) as error:
        unable = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
        if isinstance(error, OSError) and error.errno not in unable:
            raise
        with path.open("r+b") as file:  # on systems that can't reserve
            file.seek(pixels.offset)
            for first in range(0, pixels.nbytes, 2**24):
                file.write(bytes(min(2**24, pixels.nbytes - first)))
