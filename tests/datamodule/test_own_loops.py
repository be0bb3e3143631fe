"""Loops without a Trainer: plain PyTorch, Fabric, and Lightning's CombinedLoader."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from lightning.pytorch.utilities import CombinedLoader
from torch import nn

from careamics_dm import ArrayDataModule
from careamics_dm.errors import DataError

PIXELS = np.random.default_rng(0).poisson(200, (40, 48)).astype(np.uint16)
SHARED = {"axes": "YX", "patch_size": (16, 16), "batch_size": 4, "patches_per_epoch": 8}


def make(**options):
    every = {f"{role}_data": PIXELS for role in ("train", "test", "predict")}
    return ArrayDataModule(**(every | SHARED | options))


def images(data, role="train"):
    return torch.cat([batch["image"] for batch in data.batches(role)])


def test_every_pass_draws_new_patches_the_same_for_a_seed():
    data = make()
    first, second = images(data), images(data)
    assert first.shape == (8, 1, 16, 16) and first.dtype == torch.float32
    assert not torch.equal(first, second)
    assert abs(first.mean()) < 0.2 and 0.8 < first.std() < 1.2
    again = make()
    assert torch.equal(torch.cat([images(again), images(again)]), torch.cat([first, second]))
    data.teardown("fit")
    assert torch.equal(images(data), first)  # all begins again


def test_a_loop_goes_on_with_the_very_next_patch():
    data = make()
    loader = data.train_dataloader()
    passes = iter(loader)
    next(passes)
    state = loader.state_dict(), data.state_dict()
    rest = [data.transform(batch)["image"] for batch in passes]
    other = make()
    loader = other.train_dataloader()
    loader.load_state_dict(state[0])
    other.load_state_dict(state[1])
    assert torch.equal(torch.cat([other.transform(b)["image"] for b in loader]), torch.cat(rest))
    data.teardown("fit")
    other.teardown("fit")


@pytest.mark.parametrize(
    ("role", "keys", "size"),
    [
        ("val", {"image"}, (16, 16)),
        ("test", {"image", "region"}, (40, 48)),
        ("predict", {"image", "region"}, (40, 48)),
    ],
)
def test_other_roles_are_the_same_in_every_pass(role, keys, size):
    data = make()
    [batch] = data.batches(role) if role != "val" else [next(data.batches(role))]
    assert batch.keys() == keys and batch["image"].shape[2:] == size
    assert torch.equal(images(data, role), images(data, role))
    data.teardown("")


def test_a_changed_batch_size_holds_from_the_next_pass_on():
    data = make()
    next(data.batches("train"))
    data.batch_size = 8
    assert [len(batch["image"]) for batch in data.batches("train")] == [8]


def test_batches_are_moved_before_they_are_transformed():
    batch = next(make().batches("train", device="meta"))
    assert (batch["image"].device.type, batch["image"].dtype) == ("meta", torch.float32)


def test_a_role_that_does_not_exist_is_refused_at_once():
    with pytest.raises(DataError, match="role='tests': choose among train, val, test, predict"):
        make().batches("tests")


def test_fabric_trains_on_them():
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    network = nn.Conv2d(1, 1, 3, padding="same")
    network, optimizer = fabric.setup(network, torch.optim.SGD(network.parameters(), 0.1))
    losses = []
    data = make()
    for _ in range(3):
        for batch in data.batches("train", fabric.device):
            loss = (network(batch["image"]) - batch["image"]).square().mean()
            fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert len(losses) == 6 and losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("mode", "expected"), [("min_size", 2), ("max_size", 4), ("max_size_cycle", 4)]
)
def test_combined_loaders_yield_batches_of_each(mode, expected):
    parts = {"few": make(), "many": make(patches_per_epoch=16, normalization="min_max")}
    loaders = {name: part.train_dataloader() for name, part in parts.items()}
    found = [both for both, _, _ in CombinedLoader(loaders, mode)]
    assert len(found) == expected
    for name, part in parts.items():
        x = part.transform(found[0][name])["image"]
        assert x.dtype == torch.float32 and (x.min() >= 0) == (name == "many")
    assert (found[-1]["few"] is None) == (mode == "max_size")
