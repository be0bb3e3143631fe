"""Pixels of a Zarr array, opened in the process that reads them.

Chunks are decoded by zarr-python or by tensorstore, which is faster: measured on two cores (zstd,
MiB/s decoded; zarr-python, tensorstore), chunks of 64² pixels 26, 513; of 256² 358, 1380; the same
in shards of 2048² 351, 1190; volumes in chunks of 1 MiB 756, 990.

Imports nothing of lightning, so that worker processes start fast.
"""

import pickle
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import zarr
import zarr.storage
from numpy.typing import NDArray
from torch.utils.data import get_worker_info
from zarr.abc.store import ByteRequest
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import Buffer, BufferPrototype

from careamics_dm.errors import DataError, blame_others
from careamics_dm.formats.zarr.store_files import METADATA, Place, close_zips, is_remote
from careamics_dm.images import argument_checks as check
from careamics_dm.images.boxes import blocks_in, seen_from
from careamics_dm.images.file_handles import HandleCache
from careamics_dm.images.tensorstore_array import SHUFFLES, open_fast, threads

# True, but nothing that a reader of the file could change.
warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3")


Engine = Literal["auto", "zarr", "tensorstore"]


class Key(NamedTuple):
    """All that is needed to open an array, small and plain."""

    place: Place
    zarr_format: Literal[2, 3]
    options: bytes = b""  # of a remote file system, pickled: their values need not be hashable
    engine: str = "zarr"
    missing: Literal["fill", "unlisted", "gone"] = "fill"
    """What a missing chunk is when it is read: the fill value, or an error, as its store can't be
    listed beforehand, or as no chunk was missing at set-up."""


class ZarrArray:
    """A Zarr array that is read by boxes, in the byte order of this machine; see `StoredArray`."""

    def __init__(self, key: Key, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.key = key
        self.shape = shape
        self.dtype = native(dtype)
        self._codec: tuple[str, dict[str, Any]] | None = None

    def codec(self) -> tuple[str, dict[str, Any]]:
        """Return the `codec_of` the array, which is opened once for it."""
        self._codec = self._codec or codec_of(open_array(self.key))
        return self._codec

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """Read a box; if a chunk of it can't be read, the error names it."""
        with _ARRAYS.use(self.key) as handle:
            if not handle.changed():
                return self._read(handle, box)
        _ARRAYS.close(self.key)
        with _ARRAYS.use(self.key) as handle:
            return self._read(handle, box)

    def _read(self, handle: "_Handle", box: tuple[slice, ...]) -> NDArray[Any]:
        if (handle.shape, handle.dtype) != (self.shape, self.dtype):
            raise DataError(
                f"{self.key.place}: has changed: it now has shape {handle.shape}, {handle.dtype}, "
                f"at set-up it was {self.shape}, {self.dtype}. Set up anew."
            )
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
        pixels = np.empty([s.stop - s.start for s in box], self.dtype)
        for place, part in blocks_in(box, outer_chunks(array)):
            name = array.metadata.encode_chunk_key(place)
            try:
                pixels[seen_from([s.start for s in box], part)] = array[part]
            except MissingChunk as error:
                if self.key.missing == "unlisted":
                    raise DataError(missing_message(str(self.key.place), [name], 1)) from error
                raise DataError(
                    f"{self.key.place}: chunk {name} is missing, but was there at set-up. Copy or "
                    "write the store again."
                ) from error
            except Exception as error:  # as above
                blame_others(error, f"{self.key.place}: chunk {name}")
                fault = f"chunk {name} cannot be read ({type(error).__name__}: {error})"
                raise DataError(
                    f"{self.key.place}: {fault}. It is damaged or cut off: copy or save it again."
                ) from error
        return pixels


class MissingChunk(Exception):
    """A chunk that should be there is not."""


def missing_message(
    name: str,
    first: list[str],
    count: int,
    total: int | None = None,
    setting: str = "missing_chunks=fill",
) -> str:
    """Say which chunks are missing, what that may mean, and which setting allows it."""
    of = f" of {total}" if total else ""
    return (
        f"{name}: {count}{of} chunk(s) are missing: {', '.join(first)}{', ...' * (count > 3)}. "
        f"If the writer left out chunks of nothing but the fill value, set {setting}. If "
        "the store is incomplete, copy or write it again."
    )


def outer_chunks(array: Any) -> tuple[int, ...]:
    """Return the shape of what is one object of the store: a shard, or a chunk."""
    return tuple(array.shards or array.chunks)


def codec_of(array: Any) -> tuple[str, dict[str, Any]]:
    """Return what compresses the chunks of an array, "none" if nothing does, and its settings."""
    codecs = [codec for codec in array.compressors if not isinstance(codec, Crc32cCodec)]
    if len(codecs) != 1:
        return "+".join(type(codec).__name__ for codec in codecs) or "none", {}
    (codec,) = codecs
    if array.metadata.zarr_format == 3:
        found = codec.to_dict()
        name, settings = found["name"], dict(found.get("configuration", {}))
    else:
        settings = codec.get_config()
        name = settings.pop("id")
        if name == "blosc":
            number = settings["shuffle"]
            if number == -1:  # as Blosc likes
                number = 2 if array.dtype.itemsize == 1 else 1
            settings["shuffle"] = SHUFFLES[number]
    names = {"cname", "clevel", "shuffle", "level"} & settings.keys()
    return name, {key: settings[key] for key in sorted(names)}


def open_array(key: Key) -> Any:
    """Open an array with zarr-python; whatever is wrong with it is a `DataError`."""
    try:
        with _STORES.use((key.place.root, key.options)) as store:
            store, path = store if key.missing == "fill" else _Strict(store), key.place.path
            return zarr.open_array(store=store, path=path, mode="r", zarr_format=key.zarr_format)
    except DataError:
        raise
    except Exception as error:  # damaged metadata make zarr raise all sorts
        blame_others(error, key.place)
        text = " ".join(str(error).split())
        advice = "If a codec is unknown, install its package; else save the array again."
        if isinstance(error, FileNotFoundError):
            advice = "The copy is incomplete, or the metadata are wrong: copy or save it again."
        found = f"{type(error).__name__}: {text}"
        raise DataError(f"{key.place}: cannot be opened ({found}). {advice}") from error


def forget_stores() -> None:
    """Let go of all stores; arrays that are open keep theirs, others open them anew."""
    _STORES.close_all()
    close_zips()


class _Handle:
    def __init__(self, key: Key) -> None:
        if get_worker_info() is not None:  # a process of our own: limit zarr's threads in it
            zarr.config.set({"threading.max_workers": threads()})
        array = open_array(key)
        fast, root = None, Path(key.place.root)
        if key.engine != "zarr" and root.is_dir():
            fast = open_fast(array, root / key.place.path, fill=key.missing == "fill")
        self.shape, self.dtype = tuple(array.shape), native(array.dtype)
        name = "zarr.json" if key.zarr_format == 3 else ".zarray"
        self._metadata = root / key.place.path / name
        self._stamp = self._look()
        self.engine = "zarr" if fast is None else "tensorstore"
        self.opened: Any = array if fast is None else fast

    def changed(self) -> bool:
        """Whether the metadata of an array in a folder were written again."""
        return self._look() != self._stamp

    def _look(self) -> tuple[int, int] | None:
        try:
            found = self._metadata.stat()
        except OSError:  # in a zip file or remote
            return None
        return found.st_mtime_ns, found.st_size


def native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a dtype in the byte order of this machine; text of any length has none."""
    return dtype if dtype.kind == "T" else dtype.newbyteorder("=")


class _Strict(zarr.storage.WrapperStore[Any]):
    """A store whose missing chunks are errors."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        found = await super().get(key, prototype, byte_range)
        if found is None and key.rsplit("/", 1)[-1] not in METADATA:
            raise MissingChunk(key)
        return found


def _open_store(key: tuple[str, bytes]) -> Any:
    root, options = key
    if is_remote(root):
        given = pickle.loads(options)
        return zarr.storage.FsspecStore.from_url(root, storage_options=given, read_only=True)
    if Path(root).is_dir():
        return zarr.storage.LocalStore(root, read_only=True)
    return zarr.storage.ZipStore(root, mode="r", read_only=True)


def check_engine(engine: str) -> None:
    """Check that an engine exists and is installed."""
    check.one_of("engine", engine, ("auto", "zarr", "tensorstore"))
    if engine == "tensorstore" and find_spec(engine) is None:
        raise DataError(
            "engine=tensorstore: tensorstore is not installed. Install it (pip install "
            '"careamics-dm[fast]"), or leave engine at auto.'
        )


# Nothing to call: what arrays still read from must stay open, and a zip file closes itself when
# the last of them is gone.
_STORES = HandleCache(_open_store, lambda _: None)
_ARRAYS = HandleCache(_Handle, lambda _: None, most=256)
