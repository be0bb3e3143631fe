"""How far networks see, by measure, and the overlap that follows from it."""

from __future__ import annotations

import warnings
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from modules import trainer
from torch import nn
from torch.nn import functional as F

from careamics_dm.formats.array import ArrayDataModule
from careamics_dm.models.receptive_field import measured_reach
from careamics_dm.models.supervised import CAREModule
from careamics_dm.models.unet import UNet
from careamics_dm.prediction.stitching import stitch

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "options",
    [
        {"dims": 2, "depth": 1},
        {"dims": 2, "depth": 2, "batch_norm": True},
        {"dims": 2, "depth": 1, "n2v2": True},
        {"dims": 3, "depth": 1, "pool": [1, 2, 2]},
    ],
)
def test_a_unet_sees_as_far_as_it_says(options: dict[str, Any]) -> None:
    network = UNet(2, first_filters=4, **options)
    weights = [weight.clone() for weight in network.parameters()]
    assert measured_reach(network, 2, network.size_divisor) == network.reach
    assert network.training and all(map(torch.equal, weights, network.parameters()))


def conv(kernel: Any = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(1, 1, kernel, padding="same", **options)


class FarAway(nn.Module):
    """Takes a little of a pixel that is 100 rows above."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        above = F.pad(x, (0, 0, 100, 0))[:, :, : x.shape[2]]
        return x + 1e-30 * above


class Excited(nn.Module):
    """Weighs channels by their mean, as squeeze-and-excitation does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.mean((2, 3), keepdim=True).sigmoid()


NETWORKS = {
    "identity": (nn.Identity(), 1, (0, 0)),
    "oblong": (conv((5, 3)), 1, (2, 1)),
    "dilated": (nn.Sequential(conv(dilation=4), nn.ReLU(), conv()), 1, (5, 5)),
    "strided": (nn.Sequential(nn.AvgPool2d(2), conv(), nn.Upsample(scale_factor=2)), 2, (3, 3)),
    "by 16": (nn.Sequential(nn.AvgPool2d(16), nn.Upsample(scale_factor=16)), 16, (16, 16)),
    "transformed": (nn.Sequential(conv(), nn.BatchNorm2d(1), conv(), nn.Tanh()), 1, (2, 2)),
    "far": (FarAway(), 1, (100, 0)),
    "instance": (nn.Sequential(conv(), nn.InstanceNorm2d(1)), 1, (inf, inf)),
    "group": (nn.GroupNorm(1, 1), 1, (inf, inf)),
    "batch": (nn.BatchNorm2d(1, track_running_stats=False), 1, (inf, inf)),
    "excited": (Excited(), 1, (inf, inf)),
    "other": (nn.Linear(3, 3), 1, None),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_is_measured(name: str) -> None:
    network, divisor, reach = NETWORKS[name]
    assert measured_reach(network, 1, (divisor, divisor)) == reach


def predict(network: nn.Module, folder: Path, **options: Any) -> tuple[np.ndarray, list[str]]:
    """Restore an image of 60 x 60, and return what was warned of tiles."""
    image = np.random.default_rng(0).normal(size=(60, 60)).astype(np.float32)
    data = ArrayDataModule(
        predict_data=image, axes="YX", patch_size=(8, 8), normalization="none", **options
    )
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        outputs = trainer(folder).predict(CAREModule(network), datamodule=data)
    (result,) = stitch(outputs, data.predict_stacks)
    said = [str(w.message) for w in raised if "tile" in str(w.message)]
    return result, said


@pytest.mark.parametrize(
    ("network", "options", "warning"),
    [
        ("dilated", {}, ""),
        ("dilated", {"tile_overlap": (10, 10)}, ""),
        ("dilated", {"tile_overlap": (10, 4)}, "tile_overlap=(10, 4) is small for this network, w"),
        ("instance", {}, "each pixel that this network restores depends on the whole image"),
        ("far", {}, "tile_size=(24, 24) is small for this network: tiles overlap by (18, 0) pix"),
    ],
)
def test_overlap_follows_from_it_and_less_is_warned_of(
    tmp_path: Path, network: str, options: dict[str, Any], warning: str
) -> None:
    torch.manual_seed(0)
    chosen = NETWORKS[network][0]
    tiled, said = predict(chosen, tmp_path, tile_size=(24, 24), **options)
    whole, _ = predict(chosen, tmp_path, tile_size=None)
    assert [text[: len(warning)] for text in said] == [warning] * bool(warning)
    if not warning:
        assert np.abs(tiled - whole).max() < 1e-5


def test_where_no_image_is_cut_nothing_is_measured(tmp_path: Path) -> None:
    assert predict(NETWORKS["instance"][0], tmp_path, tile_size=(64, 64))[1] == []
