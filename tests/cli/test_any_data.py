"""Any checkpoint restores any data: of other formats, axes, channels and levels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from torch import nn

import careamics_dm
from careamics_dm import CAREModule, DataError, TiffDataModule
from careamics_dm.cli.trained_model import TrainedModel
from careamics_dm.transforms.normalization import Affine

sys.path.append(str(Path(__file__).parents[1] / "formats"))
from czi_files import write_czi
from zarr_files import numbers, write_image, write_plate

PLATE = "p.zarr"
AXES = {2: "YX", 3: "ZYX"}


def model(dims: int, axes: str) -> TrainedModel:
    """Give back planes as they are; of volumes, the sum of each plane and its neighbours."""
    kernel = {2: nn.Conv2d(1, 1, 1), 3: nn.Conv3d(1, 1, (3, 1, 1), padding=(1, 0, 0))}[dims]
    for weight, value in ((kernel.weight, 1.0), (kernel.bias, 0.0)):
        nn.init.constant_(weight, value)
    plain = {"image": Affine([0.0], [1.0])}
    data = {"axes": axes, "channels": None, "patch_size": [4, 16, 16][-dims:]}
    return TrainedModel(CAREModule(kernel).eval(), plain, {"data": data})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("any")
    for axes, shape in (("ZYX", (6, 40, 50)), ("TYX", (6, 40, 50)), ("TZYX", (2, 6, 40, 50))):
        tifffile.imwrite(root / f"{axes}.tif", numbers(shape), imagej=True, metadata={"axes": axes})
    write_plate(root / PLATE, "0.5", "ome-zarr", fields=1)
    write_image(root / "v.ome.zarr", numbers((2, 2, 3, 40, 50)), "tczyx", "0.5", "ome-zarr")
    tiles = [
        (numbers((40, 50), seed=10 * t + z), {"T": t, "Z": z}, (0, 0))
        for t in range(2)
        for z in range(3)
    ]
    write_czi(root / "v.czi", tiles)
    return root


def summed(pixels: np.ndarray, axis: int) -> np.ndarray:
    """Sum of each plane and its neighbours."""
    ends = [(int(d == axis),) * 2 for d in range(pixels.ndim)]
    larger = np.pad(pixels.astype(np.float32), ends)
    return sum(np.take(larger, range(i, i + pixels.shape[axis]), axis) for i in range(3))


def plate(folder: Path, level: int) -> np.ndarray:
    wells = ("A/1", "A/2", "B/2")
    return np.stack([zarr.open_array(folder / PLATE / w / f"0/s{level}")[:] for w in wells])


def czi() -> np.ndarray:
    return np.stack([[numbers((40, 50), seed=10 * t + z) for z in range(3)] for t in range(2)])


VOLUME = numbers((2, 2, 3, 40, 50))
CASES: dict[str, tuple[int, str, dict[str, Any], Any]] = {
    "a plate": (2, PLATE, {"channels": [1]}, lambda f: plate(f, 0)[:, 1:]),
    "a level": (2, PLATE, {"channels": [0], "level": 1}, lambda f: plate(f, 1)[:, :1]),
    "frames": (2, "TYX.tif", {}, lambda f: numbers((6, 40, 50))),
    "planes": (2, "TZYX.tif", {}, lambda f: numbers((2, 6, 40, 50))),
    "planes of OME-Zarr": (2, "v.ome.zarr", {"channels": [1]}, lambda f: VOLUME[:, 1:]),
    "volumes in time": (3, "TZYX.tif", {}, lambda f: summed(numbers((2, 6, 40, 50)), 1)),
    "OME-Zarr in time": (3, "v.ome.zarr", {"channels": [0]}, lambda f: summed(VOLUME, 2)[:, :1]),
    "T as depth": (
        3,
        "TYX.tif",
        {"axes": "ZYX", "trust_axes": True},
        lambda f: summed(numbers((6, 40, 50)), 0),
    ),
    "T as depth of OME-Zarr": (
        3,
        "v.ome.zarr",
        {"axes": "ZCTYX", "trust_axes": True, "channels": [0]},
        lambda f: summed(VOLUME, 0)[:, :1],
    ),
    "planes of CZI": (2, "v.czi", {}, lambda f: czi()),
    "volumes of CZI": (3, "v.czi", {}, lambda f: summed(czi(), 1)),
    "T as depth of CZI": (3, "v.czi", {"axes": "SCTYX"}, lambda f: summed(czi(), 0).swapaxes(0, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_of_other_axes_restores_it(folder: Path, name: str) -> None:
    dims, source, settings, expected = CASES[name]
    found = careamics_dm.predict(model(dims, AXES[dims]), folder / source, **settings)
    wanted = expected(folder)
    np.testing.assert_array_equal(np.squeeze(found), np.squeeze(wanted))


def test_axes_that_are_given_are_never_replaced(folder: Path) -> None:
    with pytest.raises(DataError, match=r"axes=\"YX\", shape \(6, 40, 50\)"):
        careamics_dm.predict(model(2, "TYX"), folder / "TYX.tif", axes="YX")


def test_planes_can_be_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="patch_size needs 3 numbers"):
        careamics_dm.predict(model(2, "YX"), folder / "ZYX.tif", axes="ZYX", z_as_samples=False)


def test_the_summary_says_that_volumes_are_taken_plane_by_plane(folder: Path) -> None:
    for axes, said in (("ZYX", True), ("TYX", False)):
        data = TiffDataModule(
            predict_data=folder / f"{axes}.tif", patch_size=(16, 16), z_as_samples=True
        )
        data.setup("predict")
        assert f"6 sample(s) of 40×50{' (Z plane by plane)' * said}, 1 channel" in data.summary()
        data.teardown("predict")
