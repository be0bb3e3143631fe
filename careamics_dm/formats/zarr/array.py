"""Pixels of a Zarr array, opened in the process that reads them.

Imports nothing of lightning, so that worker processes start fast.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import zarr
import zarr.storage
from torch.utils.data import get_worker_info

from careamics_dm.errors import DataError
from careamics_dm.formats.zarr.chunks import chunks_in
from careamics_dm.formats.zarr.engines import open_fast, threads
from careamics_dm.formats.zarr.store_files import METADATA, Place, close_zips, is_remote
from careamics_dm.images.file_handles import HandleCache

if TYPE_CHECKING:
    from collections.abc import Hashable

    from numpy.typing import NDArray
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

# True, but nothing that a reader of the file could change.
warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3")


class Key(NamedTuple):
    """All that is needed to open an array, small and plain."""

    place: Place
    zarr_format: Literal[2, 3]
    options: bytes = b""  # of a remote file system, pickled: their values need not be hashable
    engine: str = "zarr"
    strict: bool = False
    """Whether reading a missing chunk fails: for stores that can't be listed beforehand."""


class ZarrArray:
    """A Zarr array that is read by boxes, in the byte order of this machine; see `StoredArray`."""

    def __init__(self, key: Key, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.key = key
        self.shape = shape
        # Text of any length has no byte order; it is refused as an image.
        self.dtype = dtype if dtype.kind == "T" else dtype.newbyteorder("=")

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """Read a box; if a chunk of it can't be read, the error names it."""
        with _ARRAYS.use(self.key) as handle:
            try:
                pixels = handle.opened[box]
            except Exception:  # codecs, stores and engines raise what they like
                array = open_array(self.key)
                pixels = self._read_chunks(array, box)
                # No chunk is damaged, so the engine is not up to this array.
                handle.engine, handle.opened = "zarr", array
        return np.asarray(pixels, self.dtype)

    @property
    def engine(self) -> str:
        """What reads it in this process: zarr or tensorstore."""
        with _ARRAYS.use(self.key) as handle:
            return handle.engine

    def close(self) -> None:
        """Close the array; the next read opens it again."""
        _ARRAYS.close(self.key)
        _STORES.close((self.key.place.root, self.key.options))

    def _read_chunks(self, array: Any, box: tuple[slice, ...]) -> NDArray[Any]:
        """Read a box with zarr-python chunk by chunk, to name the one that fails."""
        place = self.key.place
        pixels = np.empty([s.stop - s.start for s in box], self.dtype)
        for name, part in chunks_in(array, box):
            to = tuple(
                slice(p.start - s.start, p.stop - s.start) for p, s in zip(part, box, strict=True)
            )
            try:
                pixels[to] = array[part]
            except MissingChunk as error:
                raise DataError(missing_message(str(place), [name], 1)) from error
            except Exception as error:  # as above
                raise DataError(
                    f"{place}: chunk {name} cannot be read ({type(error).__name__}: {error}). It "
                    "is damaged or cut off, or its store does not answer: copy or save it again."
                ) from error
        return pixels


class MissingChunk(Exception):
    """A chunk that should be there is not."""


def missing_message(name: str, first: list[str], count: int, total: int | None = None) -> str:
    """Say which chunks are missing and what that may mean."""
    of = f" of {total}" if total else ""
    return (
        f"{name}: {count}{of} chunk(s) are missing: {', '.join(first)}"
        f"{', ...' if count > len(first) else ''}. Either the writer left out chunks that hold "
        "nothing but the fill value: then set missing_chunks=fill. Or the store is incomplete: "
        "then copy or write it again."
    )


def open_array(key: Key) -> Any:
    """Open an array with zarr-python; whatever is wrong with it is a `DataError`."""
    try:
        with _STORES.use((key.place.root, key.options)) as store:
            return zarr.open_array(
                store=_Strict(store) if key.strict else store,
                path=key.place.path,
                mode="r",
                zarr_format=key.zarr_format,
            )
    except DataError:
        raise
    except Exception as error:  # damaged metadata make zarr raise all sorts
        text = " ".join(str(error).split())
        advice = "If a codec is unknown, install its package; else save the array again."
        if isinstance(error, FileNotFoundError):
            advice = "The copy is incomplete, or the metadata are wrong: copy or save it again."
        raise DataError(
            f"{key.place}: cannot be opened ({type(error).__name__}: {text}). {advice}"
        ) from error


def forget_stores() -> None:
    """Let go of all stores; arrays that are open keep theirs, others open them anew."""
    _STORES.close_all()
    close_zips()


class _Handle:
    def __init__(self, key: Hashable) -> None:
        assert isinstance(key, Key)
        if get_worker_info() is not None:  # a process of our own: limit zarr's threads in it
            zarr.config.set({"threading.max_workers": threads()})
        array = open_array(key)
        fast, root = None, Path(key.place.root)
        if key.engine != "zarr" and not key.strict and root.is_dir():
            fast = open_fast(array, root / key.place.path)
        self.engine = "zarr" if fast is None else "tensorstore"
        self.opened: Any = array if fast is None else fast


class _Strict(zarr.storage.WrapperStore[Any]):
    """A store whose missing chunks are errors."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        found = await super().get(key, prototype, byte_range)
        if found is None and key.rsplit("/", 1)[-1] not in METADATA:
            raise MissingChunk(key)
        return found


def _open_store(key: Hashable) -> Any:
    assert isinstance(key, tuple)
    root, options = key
    if is_remote(root):
        given = pickle.loads(options)
        return zarr.storage.FsspecStore.from_url(root, storage_options=given, read_only=True)
    if Path(root).is_dir():
        return zarr.storage.LocalStore(root, read_only=True)
    return zarr.storage.ZipStore(root, mode="r", read_only=True)


# Nothing to call: what arrays still read from must stay open, and a zip file closes itself when
# the last of them is gone.
_STORES: HandleCache[Any] = HandleCache(_open_store, lambda store: None)
_ARRAYS: HandleCache[_Handle] = HandleCache(_Handle, lambda handle: None, most=256)
