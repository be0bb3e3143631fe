"""Batches on their way to a device."""

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device

from careamics_dm.loading.device_transfer import RawBatch, storable


@pytest.mark.parametrize(
    ("dtype", "on_mps"),
    [
        (torch.uint8, torch.uint8),
        (torch.uint16, torch.int32),
        (torch.uint32, torch.int64),
        (torch.uint64, torch.float32),
        (torch.int16, torch.int16),
        (torch.float32, torch.float32),
        (torch.float64, torch.float32),
    ],
)
def test_pixels_go_over_in_a_dtype_that_the_device_has(
    dtype: torch.dtype, on_mps: torch.dtype
) -> None:
    pixels = torch.tensor([0, 7, 200]).to(dtype)
    cast = storable(pixels, torch.device("mps"))
    assert (cast.dtype, cast.tolist()) == (on_mps, [0, 7, 200])
    for device in ("cuda", "cpu"):
        assert storable(pixels, torch.device(device)).dtype == dtype


def test_lightning_moves_the_pixels_and_leaves_the_places() -> None:
    batch = RawBatch(image=torch.zeros(2, 1, 4, 4), region=torch.ones(2, 3), seed=5)
    moved = move_data_to_device(batch, torch.device("meta"))
    assert isinstance(moved, RawBatch)
    assert (moved["image"].device.type, moved["region"].device.type) == ("meta", "cpu")
    assert moved["seed"] == 5
    assert batch["image"].device.type == "cpu"
