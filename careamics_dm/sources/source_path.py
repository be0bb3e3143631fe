"""Names of images: which file or container an image is in."""

import os
import re
from pathlib import Path

TIFF = (".tif", ".tiff", ".btf", ".tf8")
TIFF_OF_MICROSCOPES = (".lsm", ".stk")
CONTAINERS = (".czi", ".zarr", ".zip", ".ozx", *TIFF, *TIFF_OF_MICROSCOPES)
"""Suffixes of files and folders that hold several images."""


def bare(part: str) -> str:
    """Leave out the suffixes of a container."""
    stem, suffix = os.path.splitext(part)  # noqa: PTH122 (called often; a Path is slow)
    while suffix.lower() in CONTAINERS:
        part = stem
        stem, suffix = os.path.splitext(part)  # noqa: PTH122
    return part


def is_url(path: str | Path) -> bool:
    """Whether a path is a URL; as a `Path`, it has one slash after its scheme."""
    return bool(re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/", Path(path).as_posix()))


def as_text(path: Path) -> str:
    """Return a path, or the URL that a `Path` was made of."""
    return path.as_posix().replace(":/", "://", 1) if is_url(path) else str(path)


def absolute(source: str) -> Path:
    """Return the source of an image as an absolute path; of a URL, its scheme is the first folder.

    Sources are ``a.tif``, ``scan.czi/scene_1``, ``s3://bucket/plate.zarr/A/1/0``,
    ``train_data_0003``.
    """
    return Path(os.path.abspath(source.replace("://", "/")))  # noqa: PTH100 (links stay)


def file_of(source: str) -> Path:
    """Return the path up to the first part with the suffix of a container, or all of it."""
    path = absolute(source)
    for i, part in enumerate(path.parts[:-1]):
        if bare(part) != part:
            return Path(*path.parts[: i + 1])
    return path
