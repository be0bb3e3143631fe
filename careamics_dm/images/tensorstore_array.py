"""Zarr arrays in folders, read and written by tensorstore, which is faster than zarr-python.

It holds threads that a forked process lacks: there, after the parent has used it, it is not used.
Imports nothing of lightning, so that worker processes start fast.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

SHUFFLES = ("noshuffle", "shuffle", "bitshuffle")
"""Of Blosc, by number."""
UNFINISHED = ".__lock"
"""How the names of files end that are being written."""
_used_in: int | None = None
"""The process that first used tensorstore; a forked one inherits its number."""
_context: Any = None  # tensorstore's threads, shared by all arrays of the process


def open_fast(array: Any, folder: Path, fill: bool = True) -> "TensorStoreArray | None":
    """Open an array in a folder with tensorstore; ``None`` where it cannot do that here."""
    global _used_in
    if find_spec("tensorstore") is None or _used_in not in (None, os.getpid()):
        return None
    _used_in = os.getpid()  # first, so that no process is forked in between
    try:
        return TensorStoreArray(array, folder, fill)
    except Exception:  # codecs and dtypes that it lacks raise all sorts
        return None


def threads() -> int:
    """Threads for decoding in this process, so that all workers together have one per core."""
    worker = get_worker_info()
    return max((os.cpu_count() or 1) // (worker.num_workers if worker else 1), 1)


class TensorStoreArray:
    """An array by tensorstore; missing chunks are read as the fill value, or else are errors.

    What is written is in the system's memory when writing returns. Chunks of nothing but the fill
    value are stored, too. A process that is killed leaves files that end in `UNFINISHED`.
    """

    def __init__(self, array: Any, folder: Path, fill: bool) -> None:
        global _context
        import tensorstore

        if _context is None:
            limits = dict.fromkeys(("data_copy_concurrency", "file_io_concurrency"), threads())
            how = {kind: {"limit": limit} for kind, limit in limits.items()}
            # Some file systems have no locks; no chunk is written by two processes.
            files = {"file_io_sync": False, "file_io_locking": {"mode": "none"}}
            _context = tensorstore.Context({**how, **files})
        spec = {
            "driver": "zarr3" if array.metadata.zarr_format == 3 else "zarr",
            "kvstore": {"driver": "file", "path": f"{folder.resolve()}/"},
            "recheck_cached_data": False,
            "fill_missing_data_reads": fill,
            "store_data_equal_to_fill_value": True,
        }
        self._store = tensorstore.open(spec, context=_context, open=True).result()
        self.shape = tuple(array.shape)
        self.dtype: np.dtype[Any] = self._store.dtype.numpy_dtype
        if self.dtype != array.dtype.newbyteorder("="):
            raise TypeError("tensorstore takes it for another dtype.")

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """Read a box."""
        return np.asarray(self._store[box].read().result())

    def __setitem__(self, box: tuple[slice, ...], pixels: NDArray[Any]) -> None:
        """Write a box."""
        self._store[box].write(pixels).result()
