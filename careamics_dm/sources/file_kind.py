"""What a file is, by its first bytes, where the format that was chosen can't read it."""

from os import PathLike
from pathlib import Path

KINDS = {
    b"version https://git-lfs": ("", "a pointer of Git LFS, not the file itself: run git lfs pull"),
    b"ZISRAWFILE": ("czi", "a CZI file"),
    b"II*\0": ("tiff", "a TIFF file"),
    b"MM\0*": ("tiff", "a TIFF file"),
    b"II+\0": ("tiff", "a TIFF file"),
    b"MM\0+": ("tiff", "a TIFF file"),
    b"\x93NUMPY": ("array", "a NumPy file"),
    b"PK\3\4": ("zarr", "a zip file, perhaps of a Zarr store"),
    b"\x89HDF": ("custom", "an HDF5 file"),
    b"\x89PNG": ("custom", "a PNG image"),
    b"\xff\xd8\xff": ("custom", "a JPEG image"),
}
"""The format that reads what starts so, and what it is."""
SUFFIXES = {".czi": "czi", ".tif": "tiff", ".tiff": "tiff", ".zarr": "zarr", ".npy": "array"}
METADATA = ("zarr.json", ".zgroup", ".zattrs", ".zarray")


def other_kind(path: str | PathLike[str], own: str) -> str:
    """Say, in a sentence with a space before it, which format would read a file or folder.

    Nothing where that is the format at hand, ``own``, or unclear.
    """
    path = Path(path)
    found = ("zarr", "a Zarr store") if any((path / n).is_file() for n in METADATA) else None
    if path.is_dir() and found is None:
        suffixes = {SUFFIXES.get(entry.suffix.lower(), "") for entry in path.iterdir()} - {""}
        if len(suffixes) == 1 and own not in suffixes:
            return f" For these files use data={suffixes.pop()}."
    elif path.is_file():
        with path.open("rb") as file:
            start = file.read(32)
        found = next((kind for magic, kind in KINDS.items() if start.startswith(magic)), None)
    if found is None or found[0] == own:
        return ""
    name, what = found
    return f" It is {what}{f': use data={name}' * bool(name)}."
