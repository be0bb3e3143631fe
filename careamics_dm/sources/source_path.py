"""Names of images: which file or container an image is in."""

import os
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
