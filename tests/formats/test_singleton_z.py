"""A Z of length 1 is no depth, and planes of Z stacks are samples on request, in every format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from czi_files import Tile, write_czi
from modules import Identity, trainer
from zarr_files import write_array

import careamics_dm
from careamics_dm.errors import DataError
from careamics_dm.formats.tiff.sets import dimensions
from careamics_dm.prediction.tiff_writer import TiffWriter

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SINGLE = np.arange(1, 2 * 2 * 20 * 24 + 1, dtype=np.uint16).reshape(2, 2, 1, 20, 24)  # T C Z Y X
STACK = SINGLE.reshape(1, 2, 2, 20, 24)
FORMATS = ["array", "tiff", "ome.tif", "zarr", "czi", "custom"]


def write(name: str, folder: Path, pixels: NDArray[Any]) -> dict[str, Any]:
    """Write ``TCZYX``; return the arguments that read it."""
    folder.mkdir(exist_ok=True)
    path = folder / f"a.{name}"
    if name in ("array", "custom"):
        path = folder / "a.npy"
        np.save(path, pixels)
    elif name == "zarr":
        write_array(path, pixels)
    elif name == "czi":
        indices = np.ndindex(*pixels.shape[:3])
        write_czi(path, [Tile(pixels[i], dict(zip("TCZ", i, strict=True))) for i in indices])
        return {"predict_data": path}
    else:
        tifffile.imwrite(path, pixels, ome=name == "ome.tif", metadata={"axes": "TCZYX"})
    options = {"read_func": np.load, "extension": ".npy"} if name == "custom" else {}
    return {"predict_data": path, "axes": "TCZYX"} | options


def module(name: str, folder: Path, pixels: NDArray[Any], **options: Any) -> Any:
    kind = {"tiff": "Tiff", "ome.tif": "Tiff"}.get(name, name.capitalize())
    given = write(name, folder, pixels) | {"patch_size": (8, 8), "normalization": "none"}
    return getattr(careamics_dm, f"{kind}DataModule")(**given | options)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("options", [{}, {"tile_size": (12, 12), "tile_overlap": (4, 4)}])
@pytest.mark.parametrize("name", FORMATS)
def test_images_of_one_plane_are_restored_in_two_dimensions_and_keep_their_axes(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    data = module(name, tmp_path, SINGLE, **options)
    data.setup("predict")
    (stack,) = data.predict_stacks
    assert tuple(stack.data_shape) == (2, 2, 20, 24)
    writer = TiffWriter(tmp_path / "out")
    trainer(tmp_path, callbacks=[writer]).predict(Identity(), data, return_predictions=False)
    with tifffile.TiffFile(writer.paths[0]) as file:
        _, pages = dimensions(file, 0)  # with samples of a pixel, at times
        # A TIFF may leave out dimensions of length 1 or add them.
        assert [n for n in pages if n > 1] == [n for n in stack.original_data_shape if n > 1]
        np.testing.assert_array_equal(file.asarray().squeeze(), SINGLE.squeeze())


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("name", FORMATS)
def test_planes_of_a_stack_are_samples_on_request_and_results_are_stacks(
    name: str, tmp_path: Path
) -> None:
    data = module(name, tmp_path, STACK, z_as_samples=True)
    data.setup("predict")
    (stack,) = data.predict_stacks
    assert tuple(stack.data_shape) == (2, 2, 20, 24)
    plane = stack.extract_patch(1, None, (0, 0), (20, 24))
    np.testing.assert_array_equal(plane, STACK[0, :, 1])
    writer = TiffWriter(tmp_path / "out")
    trainer(tmp_path, callbacks=[writer]).predict(Identity(), data, return_predictions=False)
    np.testing.assert_array_equal(tifffile.imread(writer.paths[0]).squeeze(), STACK[0])


@pytest.mark.parametrize("name", FORMATS)
def test_a_stack_for_two_numbers_names_both_ways_out(name: str, tmp_path: Path) -> None:
    data = module(name, tmp_path, STACK)
    with pytest.raises(DataError, match=r"Z, of 2 planes.* 3 numbers .* z_as_samples=true"):
        data.setup("predict")


@pytest.mark.parametrize("name", FORMATS[:4])
def test_training_draws_from_planes(name: str, tmp_path: Path) -> None:
    options = {"patch_size": (20, 24), "augmentation": False, "n_val_patches": 0}
    options |= {"batch_size": 2, "sampling": "grid", "z_as_samples": True}
    read = module(name, tmp_path, STACK).settings
    data = module(name, tmp_path / "again", STACK, train_data=read.predict_data, **options)
    (batch,) = data.train_dataloader()
    np.testing.assert_array_equal(batch["image"].numpy(), STACK[0].swapaxes(0, 1))
    data.teardown("fit")


@pytest.mark.parametrize("axes", ["SCZYX", "SCTYX"])
def test_a_czi_with_one_plane_along_its_depth_is_planes(axes: str, tmp_path: Path) -> None:
    data = module("czi", tmp_path, SINGLE[:1], axes=axes)
    data.setup("predict")
    (stack,) = data.predict_stacks
    assert tuple(stack.data_shape) == (1, 2, 20, 24)
    assert (stack.original_axes, stack.original_data_shape[2]) == ("SCZYX", 1)


def test_a_patch_with_depth_for_images_of_one_plane_is_explained(tmp_path: Path) -> None:
    data = module("array", tmp_path, SINGLE)
    data = type(data)(train_data=data.settings.predict_data, axes="TCZYX", patch_size=(4, 8, 8))
    with pytest.raises(DataError, match=r"A Z of length 1 is no depth: give patch_size 2 numbers"):
        data.setup("fit")


def test_planes_as_samples_have_no_depth() -> None:
    with pytest.raises(DataError, match=r"z_as_samples=true .* 2 numbers, not 3"):
        careamics_dm.ArrayDataModule(z_as_samples=True, patch_size=(4, 8, 8))
