"""Files that are replaced, changed or deleted after set-up are errors, never other pixels."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from czi_files import Tile, write_czi
from tiff_files import ome_set

import careamics_dm
from careamics_dm.errors import DataError
from careamics_dm.images.raw_array import file_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("files_close")
PIXELS = np.arange(1, 32 * 40 + 1, dtype=np.uint16).reshape(32, 40)


def write(kind: str, path: Path, pixels: Any) -> None:
    if kind == "Array":
        np.save(path, pixels)
    elif kind == "Tiff":
        tifffile.imwrite(path, pixels)
    else:
        write_czi(path, [Tile(pixels, {"C": 0})])


@pytest.mark.parametrize("kind", ["Array", "Tiff", "Czi"])
@pytest.mark.parametrize("read_before", [True, False])
@pytest.mark.parametrize("change", ["deleted", "other dtype", "other pixels", "shortened"])
def test_a_file_that_changes_is_noticed(
    tmp_path: Path, kind: str, change: str, read_before: bool
) -> None:
    path = tmp_path / {"Array": "a.npy", "Tiff": "a.tif", "Czi": "a.czi"}[kind]
    write(kind, path, PIXELS)
    options: dict[str, Any] = {"in_memory": False, "patch_size": (8, 8), "n_val_patches": 0}
    options |= {"axes": "auto" if kind == "Czi" else "YX"}
    data = getattr(careamics_dm, f"{kind}DataModule")(train_data=path, **options)
    data.setup("fit")
    (stack,) = data.images_of("train").stacks
    if read_before:
        np.testing.assert_array_equal(stack.extract_patch(0, None, (0, 0), (32, 40))[0], PIXELS)
    content = path.read_bytes()
    path.unlink()
    if change == "shortened":
        path.write_bytes(content[:-300])
    elif change != "deleted":
        other = {"other dtype": PIXELS.astype(np.float32), "other pixels": PIXELS[::-1]}[change]
        write(kind, path, np.ascontiguousarray(other))
    found = "is gone" if change == "deleted" else "has changed"
    with pytest.raises(DataError, match=rf"{path.name}: {found} since set-up"):
        stack.extract_patch(0, None, (0, 0), (8, 8))
    data.setup("fit")  # which is open already
    data.teardown("fit")


def test_a_memory_map_of_ones_own_may_change(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    array = np.load(tmp_path / "a.npy", mmap_mode="r+")
    mapped = pickle.loads(pickle.dumps(file_of(array)))
    array[0, 0] = 77
    array.flush()
    assert mapped[0:1, 0:1] == 77


@pytest.mark.parametrize("how", ["raw pages", "tiles", "a set"])
@pytest.mark.parametrize("change", ["replaced", "written in place", "deleted"])
def test_pages_that_are_written_again_are_noticed(tmp_path: Path, how: str, change: str) -> None:
    """As long as before, and at the same places."""
    stack = np.random.default_rng(0).integers(0, 999, (3, 2, 32, 40)).astype(np.uint16)

    def write_all(stack: Any) -> Path:
        if how == "a set":
            return ome_set(tmp_path, stack, "first")[1]
        options = {"compression": "zlib", "tile": (16, 16)} if how == "tiles" else {}
        with tifffile.TiffWriter(tmp_path / "f0.ome.tif", ome=False) as file:
            for page in stack.reshape(-1, 32, 40):
                file.write(page, contiguous=False, photometric="minisblack", **options)
        return tmp_path / "f0.ome.tif"

    path = write_all(stack)
    data = careamics_dm.TiffDataModule(
        train_data=tmp_path, patch_size=(16, 16), in_memory=False, z_as_samples=True
    )
    (image,) = data.images_of("train").stacks
    size = image.data_shape[0]
    before = [image.extract_patch(i, None, (0, 0), (32, 40))[0] for i in range(size)]
    np.testing.assert_array_equal(before, stack.reshape(-1, 32, 40))
    if change == "written in place":
        content, other = path.read_bytes(), path.stat().st_mtime_ns + 10**9
        path.write_bytes(content[:-1] + b"7")
        os.utime(path, ns=(other, other))
    else:
        path.unlink()
    if change == "replaced":
        write_all(stack[::-1])
    found = "is gone" if change == "deleted" else "has changed"
    with pytest.raises(DataError, match=rf"f[01]\.ome\.tif: {found} since set-up"):
        for i in range(size):
            image.extract_patch(i, None, (0, 0), (16, 16))
    data.teardown("fit")
