"""Augmentation by functions, torch modules and MONAI: seeded, alike for images and targets."""

from __future__ import annotations

import random

import hydra
import monai.transforms as monai
import numpy as np
import pytest
import torch
from apps import write_tiffs
from hydra.utils import instantiate
from torch import nn

from careamics_dm import ArrayDataModule, MaxFilter, MinMax
from careamics_dm.errors import DataError

PIXELS = np.random.default_rng(0).poisson(200, (64, 64)).astype(np.uint16)
SHARED = {"axes": "YX", "patch_size": (16, 16), "batch_size": 4, "patches_per_epoch": 8}


class RandomFlip(nn.Module):
    """Like those of Kornia: of tensors, by torch's global generator, for each patch."""

    def forward(self, x):
        chosen = torch.rand(len(x)) < 0.5
        return torch.where(chosen[:, None, None, None], x.flip(-1), x)


class HalfMinMax(MinMax):
    """A normalisation of somebody's own."""

    def measure(self, blocks):
        found = super().measure(blocks)
        return found._replace(scale=[scale / 2 for scale in found.scale])


class BrightFilter(MaxFilter):
    """A filter of somebody's own."""


def flip_by_numpy(batch):
    return {k: x.flip(-1) if np.random.rand() < 2 else x for k, x in batch.items()}  # noqa: NPY002


def noise_on_images(batch):
    generators = torch.rand(1).item() + np.random.rand() + random.random()  # noqa: NPY002
    return batch | {"image": batch["image"] + generators}


OWN = {
    "torch": RandomFlip(),
    "MONAI": monai.RandFlipd(["image", "target"], 0.5, 1),
    "several of MONAI": monai.Compose(
        [monai.RandRotate90d(["image", "target"], 0.5), monai.RandFlipd(["image", "target"], 0.5)]
    ),
    "function": flip_by_numpy,
}


def make(own, **options):
    return ArrayDataModule(
        train_data=PIXELS, train_target=PIXELS, augmentation=own, **(SHARED | options)
    )


def two_epochs(own, **options):
    data = make(own, **options)
    return [batch for _ in range(2) for batch in data.batches("train")]


@pytest.mark.parametrize("name", OWN)
def test_image_and_target_turn_alike_and_as_the_seed_says(name):
    torch.manual_seed(1)
    found = two_epochs(OWN[name])
    torch.manual_seed(2)
    again, other = two_epochs(OWN[name]), two_epochs(OWN[name], seed=1)
    for batch, same in zip(found, again, strict=True):
        assert torch.equal(batch["image"], batch["target"])
        assert torch.equal(batch["image"], same["image"])
        assert type(batch["image"]) is torch.Tensor and batch["image"].dtype == torch.float32
    assert not torch.equal(found[0]["image"], other[0]["image"])
    plain = two_epochs(False)
    assert not any(torch.equal(a["image"], b["image"]) for a, b in zip(found, plain, strict=True))


def test_random_numbers_differ_from_batch_to_batch_and_are_given_back():
    torch.manual_seed(3)
    added = [(b["image"] - b["target"]).mean().item() for b in two_epochs(noise_on_images)]
    assert len({round(number, 3) for number in added}) == 4
    data = make(noise_on_images)
    batch = next(iter(data.train_dataloader()))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    data.transform(batch)
    assert torch.equal(torch.rand(1), expected)


def test_validation_prediction_and_single_patches_are_not_augmented():
    data = make(noise_on_images, predict_data=PIXELS)
    val = next(data.batches("val"))
    assert torch.equal(val["image"], val["target"])
    assert abs(next(data.batches("predict"))["image"].mean()) < 1e-3
    single = next(make(noise_on_images, batch_size=None).batches("train"))
    assert torch.equal(single["image"], single["target"])
    data.teardown("")


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (lambda b: b["image"], "must return a dictionary with image and target.*returned Tensor"),
        (lambda b: {"image": b["image"]}, r"must return .* returned \['image'\]"),
        (
            lambda b: {k: x[..., :8] for k, x in b.items()},
            r"makes \(4, 1, 16, 8\) of image patches \(4, 1, 16, 16\)",
        ),
    ],
)
def test_what_is_no_batch_is_refused(own, message):
    with pytest.raises(DataError, match=message):
        next(make(own).batches("train"))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (RandomFlip, "augmentation=RandomFlip: give an object of this class"),
        ("flips", "augmentation='flips': give true or false"),
    ],
)
def test_what_cannot_be_called_is_refused_when_it_is_given(own, message):
    with pytest.raises(DataError, match=message):
        make(own)


def test_each_is_named_by_its_import_path_in_yaml(tmp_path):
    write_tiffs(tmp_path / "images", "YX", [(40, 50)])
    here = "transforms.test_own_augmentation" if "." in __name__ else __name__
    with hydra.initialize_config_module("careamics_dm.conf", version_base="1.3"):
        config = hydra.compose(
            "data/tiff",
            [
                f"data.train_data={tmp_path / 'images'}",
                "data.patch_size=[16,16]",
                f"data.augmentation={{_target_: {here}.RandomFlip}}",
                f"data.normalization={{_target_: {here}.HalfMinMax}}",
                f"data.patch_filter={{_target_: {here}.BrightFilter, threshold: 1}}",
            ],
        )
    data = instantiate(config.data)
    batch = next(data.batches("train"))
    assert 1 < batch["image"].max() <= 2
    settings = data.settings
    for given, name in (
        (settings.augmentation, "RandomFlip"),
        (settings.normalization, "HalfMinMax"),
        (settings.patch_filter, "BrightFilter"),
    ):
        assert type(given).__name__ == name
    data.teardown("fit")
