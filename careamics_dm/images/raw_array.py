"""Uncompressed arrays in files, of which boxes are read."""

from collections.abc import Sequence
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from careamics_dm.images.file_stamp import FileStamp

GAP = 2**14
"""Bytes that are read in the time that one more call to read takes; measured, from the cache."""
STRIP = 2**22
"""Bytes to read in one call, at most, where only a part of them is needed. Calls are few, as each
waits for the interpreter when it ends."""


class RawArray:
    """An uncompressed array in a file, of which boxes are read.

    Each read opens the file anew (about 20 µs), so that no descriptor stays open, and the object
    pickles to a few bytes. Reading takes half of the time that copying from a map of the file
    takes, whose pages would also count as memory of this process.
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
        """Read a box of the file; a DataError if the file has changed, EOFError if it ends."""
        if self._stamp is not None:
            self._stamp.check()
        forward = slice(None, None, 1 if self.order == "C" else -1)
        shape, ranges = self.shape[forward], box[forward]
        ends = [s.indices(n)[:2] for s, n in zip(ranges, shape, strict=True)]
        size = [b - a for a, b in ends]
        pixels = np.empty(size, self.dtype)
        # From one index to the next, in bytes of the file.
        strides = [prod(shape[d + 1 :]) * self.dtype.itemsize for d in range(len(shape))]
        # Along one axis whole rows are read, with what lies between the boxes of two rows.
        costs = {
            d: prod(size[:d]) * (GAP + n * strides[d])
            for d, n in enumerate(size)
            if strides[d] <= STRIP or tuple(size[d + 1 :]) == shape[d + 1 :]
        }
        axis = min(costs, key=costs.__getitem__)
        with FileIO(self.path) as file:
            for outer in np.ndindex(*size[:axis]):
                at = zip((*outer, 0), ends, strides, strict=False)
                begin = self.offset + sum((i + a) * stride for i, (a, _), stride in at)
                _read_rows(file, begin, shape[axis + 1 :], ranges[axis + 1 :], pixels[outer])
        return pixels if self.order == "C" else pixels.T


def _read_rows(
    file: FileIO, begin: int, shape: Sequence[int], box: tuple[slice, ...], out: NDArray[Any]
) -> None:
    """Read successive rows, each of ``shape``, from a byte on, and copy a box of each."""
    file.seek(begin)
    if out.shape[1:] == tuple(shape):
        _fill(file, out)
        return
    step = max(STRIP // (prod(shape) * out.itemsize), 1)
    rows = np.empty((min(step, len(out)), *shape), out.dtype)
    for first in range(0, len(out), step):
        into = out[first : first + step]
        _fill(file, rows[: len(into)])
        into[...] = rows[: len(into), *box]


def _fill(file: FileIO, out: NDArray[Any]) -> None:
    """Read what fills an array, in as many calls as the system needs."""
    left = out.reshape(-1).view(np.uint8).data
    while len(left):
        n = file.readinto(left)
        if not n:
            raise EOFError(f"{file.name}: ends at byte {file.tell()}, {len(left)} too early")
        left = left[n:]


def file_of(array: np.memmap[Any, Any]) -> RawArray | None:
    """Find the place of a memory map, or of a view of one, in its file; None if it has none."""
    root: Any = array
    while isinstance(root.base, np.memmap):
        root = root.base
    # Changes to a copy-on-write map are not in the file.
    if root.filename is None or root.mode == "c" or not array.flags.forc:
        return None
    offset = root.offset + array.ctypes.data - root.ctypes.data
    order = "C" if array.flags.c_contiguous else "F"
    return RawArray(root.filename, array.dtype, array.shape, offset, order, may_change=True)
