"""Kornia, torchvision and segmentation-models-pytorch, which are too large for the test extra.

Run: pip install kornia torchvision segmentation-models-pytorch; python tests/projects/by_hand.py
"""

from __future__ import annotations

import functools

import kornia.augmentation as kornia
import lightning as L
import numpy as np
import segmentation_models_pytorch as smp
import torch
from torchvision.transforms import v2

from careamics_dm import ArrayDataModule, CAREModule, N2VModule

PIXELS = np.random.default_rng(0).poisson(200, (64, 64)).astype(np.uint16)
AUGMENTATIONS = {
    "Kornia": kornia.RandomHorizontalFlip(p=0.5),
    "several of Kornia": kornia.ImageSequential(
        kornia.RandomAffine(degrees=30, translate=(0.1, 0.1)), kornia.RandomVerticalFlip()
    ),
    "torchvision": v2.RandomHorizontalFlip(p=0.5),
    "several of torchvision": v2.Compose([v2.RandomRotation(20), v2.RandomVerticalFlip()]),
}


def make(**options):
    return ArrayDataModule(
        train_data=PIXELS,
        train_target=PIXELS,
        test_data=PIXELS,
        test_target=PIXELS,
        predict_data=PIXELS,
        axes="YX",
        patch_size=(32, 32),
        batch_size=4,
        patches_per_epoch=8,
        n_val_patches=1,
        **options,
    )


def check_augmentation(name, own):
    def epochs(seed=0):
        data = make(augmentation=own, seed=seed)
        return [batch for _ in range(2) for batch in data.batches("train")]

    torch.manual_seed(np.random.default_rng().integers(99))
    for batch, same in zip(epochs(), epochs(), strict=True):
        assert torch.equal(batch["image"], batch["target"])
        assert torch.equal(batch["image"], same["image"])
        assert batch["image"].shape == (4, 1, 32, 32)
    assert not torch.equal(epochs()[0]["image"], epochs(seed=1)[0]["image"])
    print(f"{name}: the same batches for a seed, image and target alike")


def check_networks():
    options = {"encoder_weights": None, "encoder_depth": 3, "decoder_channels": (16, 8, 4)}
    build = functools.partial(smp.Unet, "resnet18", **options)

    def network(in_channels, out_channels):
        return build(in_channels=in_channels, classes=out_channels)

    for module in (N2VModule, CAREModule):
        model, data = module(network, size_divisor=8), make()
        quiet = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
        trainer = L.Trainer(max_epochs=1, enable_progress_bar=False, **quiet)
        trainer.fit(model, datamodule=data)
        [val], [test] = trainer.validate(model, data), trainer.test(model, data)
        [result] = trainer.predict(model, datamodule=data)
        assert result["prediction"].shape == (1, 1, 64, 64)
        print(f"smp.Unet, {module.__name__}: {trainer.global_step} steps, {val}, {test}")


if __name__ == "__main__":
    for name, own in AUGMENTATIONS.items():
        check_augmentation(name, own)
    check_networks()
