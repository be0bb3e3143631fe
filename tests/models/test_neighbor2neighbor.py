"""Neighbor2Neighbor: which pixels make a pair, and the loss of the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from modules import trainer
from torch import nn
from torch.nn import functional as F

from careamics_dm import ArrayDataModule, Neighbor2NeighborModule, UNet
from careamics_dm.models.neighbor2neighbor import draw_pairs, take_pairs


@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (1, 2, 4, 6, 8), (1, 1, 7, 9)])
def test_pairs_are_neighbours_in_a_square_the_same_in_all_channels(shape):
    *lead, height, width = shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = (100 * y + x).expand(shape)
    first, second = take_pairs(places, draw_pairs(places))
    assert first.shape == second.shape == (*lead, height // 2, width // 2)
    square = 100 * torch.arange(height // 2)[:, None] + torch.arange(width // 2)
    for found in (first, second):
        assert torch.equal(found // 200 * 100 + found % 100 // 2, square.expand_as(found))
        assert torch.equal(found, found[:, :1].expand_as(found))
    assert set((first - second).abs().unique().tolist()) <= {1, 100}


def test_all_pairs_are_drawn_alike_often():
    image = torch.zeros(1, 1, 200, 200)
    pairs = draw_pairs(image, torch.Generator().manual_seed(0)).reshape(-1, 2)
    found, counts = pairs.unique(dim=0, return_counts=True)
    assert found.tolist() == [[0, 1], [0, 2], [1, 0], [1, 3], [2, 0], [2, 3], [3, 1], [3, 2]]
    assert counts.min() > 0.9 * 10_000 / 8


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.weight * x


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_the_loss_is_that_of_the_paper(gamma):
    image = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    model = Neighbor2NeighborModule(Twice(), gamma=gamma).eval()
    first, second = take_pairs(image, draw_pairs(image, torch.Generator().manual_seed(42)))
    error = 2 * first - second
    expected = (
        F.mse_loss(2 * first, second) + gamma * (error - 2 * (first - second)).square().mean()
    )
    found = model.loss({"image": image})
    torch.testing.assert_close(found, expected)
    # No gradient flows through the image in full size.
    (slope,) = torch.autograd.grad(found, model.network.weight)
    torch.testing.assert_close(
        slope, (2 * first * (error + gamma * (error - 2 * (first - second)))).mean()
    )


def test_patches_are_halved_and_a_run_that_is_repeated_is_the_same(tmp_path):
    image = np.random.default_rng(0).poisson(100, (32, 32)).astype(np.float32)
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        model = Neighbor2NeighborModule(UNet(1, dims=2, depth=1, first_filters=2))
        data = ArrayDataModule(
            train_data=image, axes="YX", patch_size=(8, 8), patches_per_epoch=8, n_val_patches=2
        )
        run = trainer(tmp_path, max_epochs=1)
        run.fit(model, datamodule=data)
        assert run.callback_metrics["val_loss"] > 0
        torch.manual_seed(len(weights))
        weights.append(torch.cat([w.detach().flatten() for w in model.parameters()]))
    assert torch.equal(*weights)
    with pytest.raises(ValueError, match="must be even"):
        model.check_patch_size((8, 7))
    with pytest.raises(ValueError, match=r"patch_size=\(4, 5\) does not suit the network"):
        model.check_patch_size((8, 10))
    with pytest.raises(ValueError, match="gamma=-1 weights no loss"):
        Neighbor2NeighborModule(nn.Identity(), gamma=-1)
