"""Results as single files: an OME-Zarr store in a zip file (RFC-9 of OME-NGFF), made at the end."""

import json
import os
import shutil
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from careamics_dm.errors import DataError
from careamics_dm.prediction.result_file import part_of

OZX = ".ozx"
COMMENT = {"ome": {"version": "0.5", "zipFile": {"centralDirectory": {"jsonFirst": True}}}}
"""Tells readers that they find all metadata at the beginning of the list of files."""


def zip_of(store: Path) -> Path:
    """Return the file that a store becomes."""
    return store.with_suffix(OZX)


def zip_holds(store: Path, inner: str) -> bool:
    """Whether a store is zipped with an image in it."""
    file = zip_of(store)
    try:
        with ZipFile(file) as opened:
            return f"{inner}/zarr.json".lstrip("/") in opened.NameToInfo
    except FileNotFoundError:
        return False
    except BadZipFile as error:
        raise DataError(
            f"writer: {file} is there already and is no zip file. Write to another folder."
        ) from error


def zip_store(store: Path) -> None:
    """Zip a complete store, and remove the folder once the whole file has its name.

    Chunks are compressed already. Files that are hidden, of unfinished images, are left out.
    """
    found = (path.relative_to(store) for path in store.rglob("*") if path.is_file())
    files = [path for path in found if not any(part.startswith(".") for part in path.parts)]
    # The metadata come first, those of the store before those of what is in it.
    files.sort(key=lambda path: (path.name != "zarr.json", len(path.parts), path))
    file, part = zip_of(store), part_of(zip_of(store))
    with part.open("wb") as raw:
        with ZipFile(raw, "w", strict_timestamps=False) as opened:
            for path in files:
                opened.write(store / path, path.as_posix())
            opened.comment = json.dumps(COMMENT).encode()
        raw.flush()
        os.fsync(raw.fileno())
    part.replace(file)
    remove_rest(store)
    store.rename(_old(store))  # at once: half of a store would be taken for one
    remove_rest(store)


def remove_rest(store: Path) -> None:
    """Remove what an interrupted `zip_store` may have left of the folder."""
    if _old(store).exists():
        shutil.rmtree(_old(store))


def _old(store: Path) -> Path:
    return store.with_name(f".{store.name}.old")
