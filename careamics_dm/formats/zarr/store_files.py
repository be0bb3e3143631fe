"""The files of a Zarr store: metadata are read, and chunks listed, without opening arrays.

A store is a folder, a zip file or a URL. Opening arrays through zarr costs milliseconds each; a
plate of thousands of fields is found from its JSON files alone.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zipfile import BadZipFile

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.zip import ZipFileSystem

from careamics_dm.errors import DataError
from careamics_dm.sources.file_kind import other_kind

Options = dict[str, Any]
"""What a remote file system is opened with: ``endpoint_url``, ``key``, ``anon`` and so on."""

METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


class Place(NamedTuple):
    """A node of a store."""

    root: str  # a folder, a zip file or a URL
    path: str = ""  # of the node, below the root, with slashes

    def __str__(self) -> str:
        return join(self.root, self.path)

    def below(self, path: str) -> "Place":
        """Return the place of a node further down."""
        return Place(self.root, join(self.path, path))


class Node(NamedTuple):
    """A group or an array."""

    kind: Literal["group", "array"]
    zarr_format: Literal[2, 3]
    attributes: dict[str, Any]
    consolidated: dict[str, Any]
    """Metadata of what is below, by path, where the store repeats them here."""
    may_be_image: bool = True
    """Whether an array has two dimensions or more, of numbers."""


def join(*parts: str) -> str:
    """Join parts of a key, or of a URL; empty parts are left out."""
    return "/".join(part.rstrip("/") for part in parts if part)


def scheme_of(text: str) -> str:
    """Return ``s3`` of ``s3://...``; nothing for paths, also those with a drive letter."""
    match = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+)://", text)
    return match[1].lower() if match else ""


def is_remote(root: str) -> bool:
    """Whether a root is a URL."""
    return bool(scheme_of(root))


class Files:
    """The files of a store (a folder, a zip file or a URL) by their keys, through fsspec."""

    def __init__(self, root: str, options: Options) -> None:
        self.root = root
        # A web server does not say what a folder holds; at best, it has a page for people.
        self.can_list = not scheme_of(root).startswith("http")
        if is_remote(root):
            self._system, self._path = _open_url(root, options)
        elif Path(root).is_dir():
            self._system, self._path = LocalFileSystem(), root
        else:
            self._system, self._path = _open_zip_at(root), ""

    def read(self, key: str) -> bytes | None:
        """Return the content of a file; ``None`` if there is none."""
        content: bytes | None = self._ask(self._system.cat_file, key)
        return content

    def has(self, key: str) -> bool:
        """Whether there is such a file or folder."""
        return bool(self._ask(self._system.exists, key)) or (
            is_remote(self.root) and any(self.read(join(key, n)) is not None for n in METADATA)
        )

    def children(self, folder: str) -> list[str]:
        """Names of what is in a folder, sorted; nothing where that cannot be listed."""
        names = self._ask(self._system.ls, folder, detail=False) if self.can_list else None
        return sorted({name.rstrip("/").rsplit("/", 1)[-1] for name in names or ()})

    def below(self, folder: str) -> Iterable[str] | None:
        """Keys of all files below a folder, relative to it; ``None`` if they can't be listed."""
        path = join(self._path, folder)
        if isinstance(self._system, LocalFileSystem):  # seven times as fast as `find`
            return _files_below(path)
        found: Any = self._ask(self._system.find, folder, denied=False) if self.can_list else False
        if found is False:
            return None
        return [key.split(f"{path}/", 1)[-1] if path else key for key in found or ()]

    def _ask(self, question: Any, key: str, denied: Any = None, **options: Any) -> Any:
        try:
            return question(join(self._path, key), **options)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except Exception as error:  # drivers raise their own: network, rights, time
            if isinstance(self._system, ZipFileSystem) and isinstance(error, KeyError):
                return None  # it is not there, said fsspec before 2026
            remote = is_remote(self.root)
            if remote and isinstance(error, PermissionError):
                return denied  # of what is not there, in a private bucket
            advice = "Check the URL, the network and storage_options." if remote else "Check it."
            raise DataError(f"{self.root}: cannot be read ({_short(error)}). {advice}") from error


def _files_below(folder: str, prefix: str = "") -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files_below(entry.path, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name


def _open_url(url: str, options: Options) -> tuple[AbstractFileSystem, str]:
    try:
        system, path = url_to_fs(url, **options)
    except ImportError as error:
        scheme = scheme_of(url)
        raise DataError(f"{url}: no driver for {scheme}:// is installed ({error}).") from error
    except Exception as error:  # drivers refuse options in their own ways
        text = f"{url}: cannot be opened ({_short(error)}). Check the URL and storage_options."
        raise DataError(text) from error
    return system, path


def _open_zip_at(root: str) -> ZipFileSystem:
    try:
        found = Path(root).stat()
        return _open_zip(root, found.st_mtime_ns, found.st_size)
    except (BadZipFile, OSError) as error:
        raise DataError(
            f"{root}: not a Zarr store: neither a folder nor a readable zip file ({error})."
            f"{other_kind(root, 'zarr') or ' Check the path and the format.'}"
        ) from error


@lru_cache(maxsize=8)
def _open_zip(root: str, mtime_ns: int, size: int) -> ZipFileSystem:
    """Open a zip file, of which images may be many; by time and size a replaced one is noticed."""
    system = ZipFileSystem(root)
    system.find("")  # lists it while one thread has it: later ones find the list complete
    return system


close_zips = _open_zip.cache_clear  # close the zip files whose metadata were read


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def read_node(files: Files, place: Place) -> Node | None:
    """Read the metadata of a group or array; ``None`` where there are none."""
    found = _read_json(files, place, "zarr.json")
    if found is not None:
        kind, number = found.get("node_type"), found.get("zarr_format")
        if kind not in ("group", "array") or number != 3:
            raise DataError(
                f"{place}: zarr.json has node_type={kind!r} and zarr_format={number!r}, but should "
                "describe a group or an array of format 3. Save it again."
            )
        consolidated = _mapping(found, "consolidated_metadata", place)
        inner = _mapping(consolidated, "metadata", place)
        good = kind == "group" or _may_be_image(found.get("shape"), found.get("data_type"))
        return Node(kind, 3, _mapping(found, "attributes", place), inner, good)
    attributes = _read_json(files, place, ".zattrs")
    if (array := _read_json(files, place, ".zarray")) is not None:
        good = _may_be_image(array.get("shape"), array.get("dtype"))
        return Node("array", 2, attributes or {}, {}, good)
    # Groups of plates are found without a .zgroup, if they have attributes.
    if attributes is None and _read_json(files, place, ".zgroup") is None:
        return None
    inner = {}
    if not files.can_list:
        inner = _mapping(_read_json(files, place, ".zmetadata") or {}, "metadata", place)
    return Node("group", 2, attributes or {}, inner)


def _may_be_image(shape: Any, dtype: Any) -> bool:
    """Whether an array is no table, list or text; what its metadata do not say speaks for it."""
    few = isinstance(shape, list) and len(shape) < 2
    return not few and (dtype is None or bool(re.match(_NUMBERS, str(dtype))))


_NUMBERS = r"[<>|=]?[biufc]\d+$|bool|u?int\d|b?float\d|complex"
"""Dtypes of numbers: of format 2, as NumPy writes them, and of format 3."""


def child_names(files: Files, place: Place, node: Node) -> list[str]:
    """Return the names of what may be groups and arrays in a group, sorted."""
    names = files.children(place.path)
    if not names:
        names = sorted({key.split("/")[0] for key in node.consolidated})
        if not names and not files.can_list:
            raise DataError(
                f"{place}: what it holds cannot be listed over this protocol. Name its arrays or "
                "images, or consolidate its metadata (zarr.consolidate_metadata)."
            )
    return [name for name in names if not name.startswith(".") and name != "zarr.json"]


def _read_json(files: Files, place: Place, name: str) -> dict[str, Any] | None:
    content = files.read(join(place.path, name))
    if content is None:
        return None
    try:
        value = json.loads(content)
    except ValueError as error:
        raise DataError(f"{place}: {name} is damaged ({error}). Copy or save it again.") from error
    if not isinstance(value, dict):
        raise DataError(f"{place}: {name} holds no metadata. Copy or save it again.")
    return value


def _mapping(metadata: dict[str, Any], key: str, place: Place) -> dict[str, Any]:
    """Return a part of the metadata; empty where it is not given."""
    value = metadata.get(key) or {}
    if not isinstance(value, dict):
        raise DataError(
            f"{place}: its metadata have {key}={str(value)[:40]!r}, which should be a mapping of "
            "names to values. Copy or save it again."
        )
    return value
