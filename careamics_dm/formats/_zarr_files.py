"""The files of a Zarr store: metadata are read, and chunks listed, without opening arrays.

A store is a folder, a zip file or a URL. Opening arrays through zarr costs milliseconds each; a
plate of thousands of fields is found from its JSON files alone.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from careamics_dm.axes import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

Options = dict[str, Any]
"""What a remote file system is opened with: ``endpoint_url``, ``key``, ``anon`` and so on."""

METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
_DRIVERS = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "webhdfs": "requests",
}


class Place(NamedTuple):
    """A node of a store."""

    root: str
    """A folder, a zip file or a URL."""
    path: str = ""
    """Of the node, below the root, with slashes."""

    def __str__(self) -> str:
        return join(self.root, self.path)

    def below(self, path: str) -> Place:
        """Return the place of a node further down."""
        return Place(self.root, join(self.path, path))


class Files(Protocol):
    """The files of a store, by their keys."""

    @property
    def can_list(self) -> bool:
        """Whether it says what it holds; a web server does not."""

    def read(self, key: str) -> bytes | None:
        """Return the content of a file; ``None`` if there is none."""

    def has(self, key: str) -> bool:
        """Whether there is such a file or folder."""

    def children(self, folder: str) -> list[str]:
        """Names in a folder, sorted; nothing where that cannot be listed."""

    def below(self, folder: str) -> Iterable[str] | None:
        """Keys of all files below a folder, relative to it; ``None`` if they can't be listed."""


class Node(NamedTuple):
    """A group or an array."""

    kind: Literal["group", "array"]
    zarr_format: Literal[2, 3]
    attributes: dict[str, Any]
    consolidated: dict[str, Any]
    """Metadata of what is below, by path, where the store repeats them here."""


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


def files_of(root: str, options: Options) -> Files:
    """Return the files of a store.

    Raises
    ------
    DataError
        No driver for the scheme of a URL is installed.
    """
    if is_remote(root):
        return _Remote(root, options)
    return _Folder(Path(root)) if Path(root).is_dir() else _Zip(root)


def read_node(files: Files, place: Place) -> Node | None:
    """Read the metadata of a group or array; ``None`` where there are none.

    Raises
    ------
    DataError
        A file of metadata is no JSON, or of an unknown Zarr format.
    """
    found = _read_json(files, place, "zarr.json")
    if found is not None:
        kind, number = found.get("node_type"), found.get("zarr_format")
        if kind not in ("group", "array") or number != 3:
            raise DataError(
                f"{place}: zarr.json has node_type={kind!r} and zarr_format={number!r}. Expected "
                "is a group or an array of format 3: save it again."
            )
        told = _mapping(found, "consolidated_metadata", place)
        inner = _mapping(told, "metadata", place)
        return Node(kind, 3, _mapping(found, "attributes", place), inner)
    attributes = _read_json(files, place, ".zattrs")
    if _read_json(files, place, ".zarray") is not None:
        return Node("array", 2, attributes or {}, {})
    # Groups of plates are found without a .zgroup, if they have attributes.
    if attributes is None and _read_json(files, place, ".zgroup") is None:
        return None
    inner = {}
    if not files.can_list:
        inner = _mapping(_read_json(files, place, ".zmetadata") or {}, "metadata", place)
    return Node("group", 2, attributes or {}, inner)


def child_names(files: Files, place: Place, node: Node) -> list[str]:
    """Return the names of what may be groups and arrays in a group, sorted.

    Raises
    ------
    DataError
        The store can neither be listed nor says what it holds.
    """
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


@dataclass(frozen=True)
class _Folder:
    root: Path
    can_list = True

    def read(self, key: str) -> bytes | None:
        try:
            return (self.root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def has(self, key: str) -> bool:
        return (self.root / key).exists()

    def children(self, folder: str) -> list[str]:
        with os.scandir(self.root / folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())

    def below(self, folder: str) -> Iterable[str]:
        waiting = [(str(self.root / folder), "")]
        while waiting:
            path, prefix = waiting.pop()
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir():
                        waiting.append((entry.path, f"{prefix}{entry.name}/"))
                    else:
                        yield prefix + entry.name


class _Zip:
    """A zip file, which is read once and not kept open."""

    can_list = True

    def __init__(self, root: str) -> None:
        try:
            found = Path(root).stat()
            self._content = _read_zip(root, found.st_mtime_ns, found.st_size)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(
                f"{root}: not a Zarr store: neither a folder nor a readable zip file ({error}). "
                "Check the path and the format."
            ) from error

    def read(self, key: str) -> bytes | None:
        return self._content.metadata.get(key)

    def has(self, key: str) -> bool:
        return key in self._content.keys or key in self._content.folders

    def children(self, folder: str) -> list[str]:
        return self._content.folders.get(folder, [])

    def below(self, folder: str) -> list[str]:
        prefix = f"{folder}/" if folder else ""
        keys = self._content.keys
        return [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]


class _ZipContent(NamedTuple):
    keys: set[str]
    folders: dict[str, list[str]]
    """Folders in each folder, sorted."""
    metadata: dict[str, bytes]


@lru_cache(maxsize=8)
def _read_zip(root: str, mtime_ns: int, size: int) -> _ZipContent:
    """Read what a zip file holds, and all metadata; time and size tell it from a replaced one."""
    del mtime_ns, size
    with zipfile.ZipFile(root) as file:
        keys = {name for name in file.namelist() if not name.endswith("/")}
        metadata = {key: file.read(key) for key in keys if key.rpartition("/")[2] in METADATA}
    inside: dict[str, set[str]] = {"": set()}
    for key in keys:
        parts = key.split("/")
        for n in range(1, len(parts)):
            inside.setdefault("/".join(parts[:n]), set())
            inside["/".join(parts[: n - 1])].add(parts[n - 1])
    return _ZipContent(keys, {name: sorted(names) for name, names in inside.items()}, metadata)


class _Remote:
    """Files behind a URL, through fsspec."""

    def __init__(self, url: str, options: Options) -> None:
        from fsspec.core import url_to_fs  # local stores do without

        self.url, self.scheme = url, scheme_of(url)
        # At best, a web server has a page for people.
        self.can_list = not self.scheme.startswith("http")
        try:
            self.system, self.path = url_to_fs(url, **options)
        except ImportError as error:
            package = _DRIVERS.get(self.scheme)
            how = f"pip install {package}" if package else str(error)
            raise DataError(
                f"{url}: no driver for {self.scheme}:// is installed. Install it: {how}."
            ) from error
        except Exception as error:  # drivers refuse options in their own ways
            raise DataError(
                f"{url}: cannot be opened ({_short(error)}). Check the URL and storage_options."
            ) from error

    def read(self, key: str) -> bytes | None:
        content: bytes | None = self._ask(lambda: self.system.cat_file(join(self.path, key)))
        return content

    def has(self, key: str) -> bool:
        return bool(self._ask(lambda: self.system.exists(join(self.path, key)))) or any(
            self.read(join(key, name)) is not None for name in METADATA
        )

    def children(self, folder: str) -> list[str]:
        if not self.can_list:
            return []
        names = self._ask(lambda: self.system.ls(join(self.path, folder), detail=False)) or []
        return sorted({name.rstrip("/").rsplit("/", 1)[-1] for name in names})

    def below(self, folder: str) -> list[str] | None:
        if not self.can_list:
            return None
        prefix = join(self.path, folder) + "/"
        keys = self._ask(lambda: self.system.find(prefix), denied=False)
        if keys is False:
            return None
        return [key.split(prefix, 1)[-1] for key in keys or []]

    def _ask(self, question: Any, denied: Any = None) -> Any:
        try:
            return question()
        except FileNotFoundError:
            return None
        except PermissionError:  # so buckets that may not be listed say that something is not there
            return denied
        except Exception as error:  # drivers raise their own: network, rights, time
            raise DataError(
                f"{self.url}: cannot be read ({_short(error)}). Check the URL, the network and "
                "storage_options."
            ) from error


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
