"""Pixels that processes share without a copy each: files mapped into memory, shared memory."""

import mmap
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from careamics_dm.images.file_stamp import FileStamp

AT_ONCE = 2**24
"""Bytes of a file from which a box is copied before they are left: pages count as memory."""


class MappedArray:
    """An uncompressed array in a file, of which boxes are read through a memory map.

    Each read maps the file anew (about 50 µs) and copies its box, so that no descriptor stays
    open however many boxes are in use (a map holds one), and the object pickles to a few bytes.
    ``offset`` is in bytes, ``order`` is ``"C"`` or ``"F"``. A file that is written
    again meanwhile is an error, unless it ``may_change``.
    """

    def __init__(
        self,
        path: Path,
        dtype: Any,
        shape: Sequence[int],
        offset: int = 0,
        order: str = "C",
        may_change: bool = False,
    ) -> None:
        self.path = Path(path)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.shape, self.offset, self.order = tuple(shape), offset, order
        self._stamp = None if may_change else FileStamp.of(path)

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """Read a box of the file."""
        if self._stamp is not None:
            self._stamp.check()
        order: Any = self.order
        mapped = np.memmap(self.path, self.dtype, "r", self.offset, self.shape, order)
        found = mapped[box]
        pixels = np.empty_like(found, subok=False)
        here, there = (pixels, found) if order == "C" else (pixels.T, found.T)
        within = (d for d, n_bytes in enumerate(there.strides) if n_bytes <= AT_ONCE)
        axis = next(within, there.ndim - 1)
        step = max(AT_ONCE // there.strides[axis], 1)
        for outer in np.ndindex(here.shape[:axis]):
            for first in range(0, here.shape[axis], step):
                part = *outer, slice(first, first + step)
                here[part] = there[part]
                leave_pages(mapped)
        return pixels


def leave_pages(mapped: NDArray[Any]) -> None:
    """Leave the pages of a map to the system, which brings what was written to disk in its time.

    Until then, they count as memory of this process.
    """
    root: Any = mapped
    while isinstance(root, np.ndarray):
        root = root.base
    if isinstance(root, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        root.madvise(mmap.MADV_DONTNEED)


def file_of(array: np.memmap[Any, Any]) -> MappedArray | None:
    """Find the place of a memory map, or of a view of one, in its file; None if it has none."""
    root: Any = array
    while isinstance(root.base, np.memmap):
        root = root.base
    # Changes to a copy-on-write map are not in the file.
    if root.filename is None or root.mode == "c" or not array.flags.forc:
        return None
    offset = root.offset + array.ctypes.data - root.ctypes.data
    order = "C" if array.flags.c_contiguous else "F"
    return MappedArray(root.filename, array.dtype, array.shape, offset, order, may_change=True)


_segments: list[tuple[Any, int, int]] = []
"""The shared segment that is being filled, bytes used in it, and bytes shared in all."""


def share(array: NDArray[Any]) -> tuple[Any, int]:
    """Copy pixels to shared memory; returns a segment (uint8 tensor) and where in it.

    Many arrays share a segment: each segment is an open descriptor, and thousands of images
    would be more than a process may have.
    """
    import torch  # late: stacks are used without torch too

    segment, used, total = _segments.pop() if _segments else (None, 0, 0)
    if segment is None or used + array.nbytes > len(segment):
        n = max(array.nbytes, 2**24, min(total // 8, 2**28))
        segment, used = torch.empty(n, dtype=torch.uint8).share_memory_(), 0
    shared_pixels((segment, used), array.dtype, array.shape)[...] = array
    end = -(-(used + array.nbytes) // 64) * 64
    _segments.append((segment, end, total + array.nbytes))
    return segment, used


def shared_pixels(shared: tuple[Any, int], dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Pixels in a shared segment, as an array."""
    segment, offset = shared
    flat = segment.numpy()[offset : offset + prod(shape) * dtype.itemsize]
    pixels: NDArray[Any] = flat.view(dtype).reshape(shape)
    return pixels
