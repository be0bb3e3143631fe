"""A file for another format names that format; what is no file of an image is said to be none."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import careamics_dm
from careamics_dm.errors import DataError
from careamics_dm.samples.formats import write
from careamics_dm.sources.file_kind import other_kind

if TYPE_CHECKING:
    from pathlib import Path

MODULES = {"array": "Array", "tiff": "Tiff", "czi": "Czi", "zarr": "Zarr"}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {path.parent.name: path for path in write(tmp_path_factory.mktemp("formats"))}


def set_up(name: str, data: Any) -> None:
    module = getattr(careamics_dm, f"{MODULES[name]}DataModule")
    axes = "YX" if name == "array" else "auto"
    module(train_data=data, patch_size=(8, 8), axes=axes).setup("fit")


@pytest.mark.parametrize("own", MODULES)
@pytest.mark.parametrize("other", MODULES)
@pytest.mark.parametrize("listed", [True, False])
def test_every_pair_of_formats(
    own: str, other: str, listed: bool, copies: dict[str, Path], tmp_path: Path
) -> None:
    if own == other:
        assert other_kind(copies[own], own) == ""
        return
    with pytest.raises(DataError, match=rf"use data={other}\."):
        set_up(own, [copies[other]] if listed else copies[other])


@pytest.mark.parametrize(("own", "other"), [("tiff", "czi"), ("array", "tiff"), ("zarr", "tiff")])
def test_a_folder_of_another_format(
    own: str, other: str, copies: dict[str, Path], tmp_path: Path
) -> None:
    os.link(copies[other], tmp_path / copies[other].name)
    with pytest.raises(DataError, match=rf"For these files use data={other}\."):
        set_up(own, tmp_path)


@pytest.mark.parametrize("own", MODULES)
def test_pointers_of_git_lfs_are_named(own: str, tmp_path: Path) -> None:
    path = tmp_path / {"array": "a.npy", "tiff": "a.tif", "czi": "a.czi", "zarr": "a.zarr"}[own]
    path.write_bytes(POINTER)
    with pytest.raises(DataError, match=r"pointer of Git LFS.* run git lfs pull\."):
        set_up(own, path)


@pytest.mark.parametrize(
    ("start", "name"), [(b"\x89HDF\r\n", "custom"), (b"\x89PNG\r\n", "custom"), (b"abc", "")]
)
def test_other_files(start: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(start * 20)
    found = other_kind(tmp_path / "a.tif", "tiff")
    assert found.endswith(f"use data={name}.") if name else found == ""


@pytest.mark.parametrize("own", ["array", "tiff", "czi"])
@pytest.mark.parametrize("listed", [True, False])
def test_pipes_and_devices_keep_nobody_waiting(own: str, listed: bool, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tif")
    for path in (tmp_path / "pipe.tif", "/dev/zero"):
        with pytest.raises(DataError, match=f"{path} is a pipe or a device. Name a file"):
            set_up(own, [path] if listed else path)


def test_a_real_image_is_no_other(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((16, 16), np.uint8))
    set_up("array", tmp_path)
