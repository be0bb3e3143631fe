"""LightningModules of someone else's, and how tests train them."""

from __future__ import annotations

import hashlib

import lightning as L
import torch
from torch import nn


class Autoencoder(L.LightningModule):
    """A plain autoencoder that knows nothing of this package."""

    def __init__(self, key="image", channels=1):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(channels, 4, 3, 2, 1),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(4, channels, 3, 1, 1),
        )
        self.key = key

    def training_step(self, batch, batch_idx):
        x = batch if self.key is None else batch[self.key]
        return nn.functional.mse_loss(self.net(x), x)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-3)


class Identity(L.LightningModule):
    """Gives back what comes in, and remembers the batches it was trained on."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen = []
        self.validated = []

    def training_step(self, batch, batch_idx):
        self.seen.append(digest(batch["image"]))
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.validated.append(digest(batch["image"]))

    def test_step(self, batch, batch_idx):
        self.seen.append(digest(batch["image"]))

    def predict_step(self, batch, batch_idx):
        prediction = self.trainer.datamodule.denormalize(batch["image"])
        return {"prediction": prediction, "region": batch["region"]}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class SaveAt(L.Callback):
    """Save a checkpoint after so many steps, also in the middle of an epoch."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


class SaveAll(L.Callback):
    """Save a checkpoint wherever a run is whole: after each batch, validation and epoch."""

    def __init__(self, folder):
        self.folder = folder
        self.paths = []

    def _save(self, trainer, *_):
        if not trainer.sanity_checking:
            self.paths.append(self.folder / f"{len(self.paths)}.ckpt")
            trainer.save_checkpoint(self.paths[-1])

    on_train_batch_end = on_validation_end = on_train_epoch_end = _save


def digest(x):
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()[:12]


def trainer(folder, **options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "default_root_dir": folder}
    return L.Trainer(**(quiet | options))
