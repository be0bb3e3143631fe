"""When an image in a folder last changed: its metadata, and how many chunks are there."""

from __future__ import annotations

import os
from pathlib import Path

from careamics_dm.formats._zarr_files import METADATA, files_of


def image_stamp(root: str, path: str) -> list[list[str | int]] | None:
    """Stamp the metadata of a node: its own, its parent's, and those of the nodes just below.

    In few system calls, as a plate has thousands of images. Files are counted too: an image that
    was whole may have lost a chunk since, which would be read as the fill value.

    Parameters
    ----------
    root, path : str
        The store, and the node in it.

    Returns
    -------
    list of [str, int, int], or None
        Name, time of the last change (ns) and size of each file of metadata, and how many files
        there are; ``None`` for stores that are no folder.
    """
    if not Path(root).is_dir():
        return None
    folder = Path(root).absolute() / path
    with os.scandir(folder) as entries:
        names = {entry.name: entry for entry in entries if entry.name in METADATA or entry.is_dir()}
    own = [name for name in METADATA if name in names]
    # Nodes of a store are of one format: what this one has, the others have, or it is not there.
    arrays = ("zarr.json",) if "zarr.json" in own else (".zarray", ".zattrs")
    inner = [
        f"{entry.path}/{name}"
        for n, entry in sorted(names.items())
        if n not in METADATA
        for name in arrays
    ]
    outer = [f"{folder.parent}/{name}" for name in own]
    stamps: list[list[str | int]] = []
    for file in (*outer, *(f"{folder}/{name}" for name in own), *inner):
        try:
            known = Path(file).stat()
        except OSError:
            continue
        stamps.append([file, known.st_mtime_ns, known.st_size])
    count = sum(1 for _ in files_of(root, {}).below(path) or ())
    return [*stamps, [str(folder), count, 0]]
