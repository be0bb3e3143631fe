"""What reads and decodes chunks: zarr-python, or the faster tensorstore and zarrs.

Measured on two cores (zstd, MiB/s decoded; zarr-python, zarrs, tensorstore): chunks of 64² pixels
26, 281, 513; of 256² 358, 1020, 1380; the same in shards of 2048² 351, 1100, 1190; volumes in
chunks of 1 MiB 756, 1270, 990. So tensorstore reads small chunks, zarrs shards and large chunks;
either beats zarr-python everywhere.

Both hold threads that a forked process lacks: there, after the parent has used one, zarr-python
reads. Nothing of this changes zarr for others in the process.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from math import prod
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from careamics_dm.axes import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

Engine = Literal["auto", "zarr", "tensorstore", "zarrs"]
ENGINES = ("auto", "zarr", "tensorstore", "zarrs")
LARGE = 2**20
"""Bytes of a decoded chunk from which zarrs is ahead of tensorstore."""

_LOCK = Lock()
_used_in: int | None = None
"""The process that first used tensorstore or zarrs; a forked one inherits its number."""
_context: Any = None
"""tensorstore's threads, shared by all arrays of the process."""


def _renew_lock() -> None:
    global _LOCK
    _LOCK = Lock()  # a thread that is not here may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class Opened(Protocol):
    """An array that reads boxes."""

    def __getitem__(self, box: tuple[slice, ...], /) -> Any:
        """Read a box."""


def check_engine(engine: str) -> None:
    """Check that an engine is known and installed.

    Raises
    ------
    DataError
        It is not.
    """
    if engine not in ENGINES:
        raise DataError(f"engine={engine!r} is unknown. Choose among {', '.join(ENGINES)}.")
    if engine not in ("auto", "zarr") and find_spec(engine) is None:
        raise DataError(
            f"engine={engine}: {engine} is not installed. Install it (pip install "
            '"careamics-dm[fast]"), or leave engine at auto.'
        )


def open_fast(array: Any, root: Path, path: str, engine: str) -> tuple[str, Opened] | None:
    """Open an array of a folder with tensorstore or zarrs.

    Parameters
    ----------
    array : zarr.Array
        The array, opened for this call alone.
    root : Path
        The store.
    path : str
        Of the array in it.
    engine : str
        ``"auto"`` tries what suits the chunks best first.

    Returns
    -------
    tuple of str and Opened, or None
        ``None`` where none is installed, can read it, or may be used.
    """
    global _used_in
    order = [engine] if engine != "auto" else _by_speed(array)
    with _LOCK:
        if _used_in not in (None, os.getpid()):
            return None
        for name in order:
            if name not in _OPEN or find_spec(name) is None:
                continue
            try:
                opened = _OPEN[name](array, root / path)
            except Exception:  # each refuses codecs and dtypes it lacks in its own way
                continue
            _used_in = os.getpid()
            return name, opened
    return None


def threads() -> int:
    """Threads for decoding in this process, so that all workers together have one per core."""
    from torch.utils.data import get_worker_info

    worker = get_worker_info()
    return max((os.cpu_count() or 1) // (worker.num_workers if worker else 1), 1)


def _by_speed(array: Any) -> list[str]:
    large = prod(array.chunks) * array.dtype.itemsize >= LARGE
    return ["zarrs", "tensorstore"] if array.shards or large else ["tensorstore", "zarrs"]


def _open_zarrs(array: Any, folder: Path) -> Opened:
    del folder
    import zarr
    import zarrs

    if not array.dtype.isnative or array.order != "C":
        raise TypeError("zarrs fills arrays of this machine's byte order, by rows.")
    inner = array.async_array
    # The settings are read while the pipeline is made; strict: raise, do not warn.
    with zarr.config.set({"threading.max_workers": threads(), "codec_pipeline.strict": True}):
        pipeline = zarrs.ZarrsCodecPipeline.from_array_metadata_and_store(
            inner.metadata, inner.store_path.store
        )
    if not hasattr(inner, "codec_pipeline"):
        raise TypeError("this zarr keeps its codecs elsewhere.")
    # The array is frozen. zarr.config would choose the codecs of all arrays of the process.
    object.__setattr__(inner, "codec_pipeline", pipeline)
    opened: Opened = array
    return opened


class _TensorStore:
    def __init__(self, array: Any, folder: Path) -> None:
        global _context
        import tensorstore

        if _context is None:
            limit = {"limit": threads()}
            _context = tensorstore.Context(
                {"data_copy_concurrency": limit, "file_io_concurrency": limit}
            )
        spec = {
            "driver": "zarr3" if array.metadata.zarr_format == 3 else "zarr",
            "kvstore": {"driver": "file", "path": f"{folder.resolve()}/"},
            "recheck_cached_data": False,
        }
        self._store = tensorstore.open(spec, context=_context, read=True, open=True).result()
        if self._store.dtype.numpy_dtype != array.dtype.newbyteorder("="):
            raise TypeError("tensorstore takes it for another dtype.")

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        return np.asarray(self._store[box].read().result())


_OPEN: dict[str, Callable[[Any, Path], Opened]] = {
    "tensorstore": _TensorStore,
    "zarrs": _open_zarrs,
}
