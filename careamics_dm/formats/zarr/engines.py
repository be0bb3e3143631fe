"""What reads and decodes chunks: zarr-python, or the faster tensorstore.

Measured on two cores (zstd, MiB/s decoded; zarr-python, tensorstore): chunks of 64² pixels 26,
513; of 256² 358, 1380; the same in shards of 2048² 351, 1190; volumes in chunks of 1 MiB 756, 990.

tensorstore holds threads that a forked process lacks: there, after the parent has used it,
zarr-python reads.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError

Engine = Literal["auto", "zarr", "tensorstore"]
ENGINES = ("auto", "zarr", "tensorstore")

_used_in: int | None = None
"""The process that first used tensorstore; a forked one inherits its number."""
_context: Any = None  # tensorstore's threads, shared by all arrays of the process


def check_engine(engine: str) -> None:
    """Check that an engine exists and is installed."""
    if engine not in ENGINES:
        raise DataError(f"engine={engine!r} is unknown. Choose among {', '.join(ENGINES)}.")
    if engine == "tensorstore" and find_spec(engine) is None:
        raise DataError(
            "engine=tensorstore: tensorstore is not installed. Install it (pip install "
            '"careamics-dm[fast]"), or leave engine at auto.'
        )


def open_fast(array: Any, folder: Path) -> "TensorStoreArray | None":
    """Open an array in a folder with tensorstore.

    ``None`` where it is not installed, cannot read the array, or was used by the process that this
    one was forked from.
    """
    global _used_in
    if find_spec("tensorstore") is None or _used_in not in (None, os.getpid()):
        return None
    _used_in = os.getpid()  # first, so that no process is forked in between
    try:
        return TensorStoreArray(array, folder)
    except Exception:  # codecs and dtypes that it lacks raise all sorts
        return None


def threads() -> int:
    """Threads for decoding in this process, so that all workers together have one per core."""
    from torch.utils.data import get_worker_info

    worker = get_worker_info()
    return max((os.cpu_count() or 1) // (worker.num_workers if worker else 1), 1)


class TensorStoreArray:
    """An array that tensorstore reads; see `open_fast`."""

    def __init__(self, array: Any, folder: Path) -> None:
        global _context
        import tensorstore

        if _context is None:
            kinds = ("data_copy_concurrency", "file_io_concurrency")
            _context = tensorstore.Context({kind: {"limit": threads()} for kind in kinds})
        spec = {
            "driver": "zarr3" if array.metadata.zarr_format == 3 else "zarr",
            "kvstore": {"driver": "file", "path": f"{folder.resolve()}/"},
            "recheck_cached_data": False,
        }
        self._store = tensorstore.open(spec, context=_context, read=True, open=True).result()
        if self._store.dtype.numpy_dtype != array.dtype.newbyteorder("="):
            raise TypeError("tensorstore takes it for another dtype.")

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """Read a box."""
        return np.asarray(self._store[box].read().result())
