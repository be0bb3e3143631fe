"""Stops on the way of a training: what the network makes of the image after some steps."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch


class Stops(L.Callback):
    """Save the denoised image after given numbers of steps, and time the steps between.

    Parameters
    ----------
    image : ndarray
        Noisy, ``YX``.
    mean, std : float
        Its normalisation.
    steps : list of int
        When to stop.
    folder : str
        Where to save.
    """

    def __init__(
        self, image: np.ndarray[Any, Any], mean: float, std: float, steps: list[int], folder: str
    ) -> None:
        self.image = torch.from_numpy(image.astype(np.float32))[None, None]
        self.mean, self.std = mean, std
        self.steps, self.folder = steps, Path(folder)
        self.trained, self.since = 0.0, 0.0
        self.saved: list[str] = []
        self.seconds: list[float] = []

    def trainer(self, max_steps: int, max_epochs: int = -1) -> L.Trainer:
        """Make a quiet trainer of so many steps or epochs, on the CPU, without validation."""
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        return L.Trainer(
            max_epochs=max_epochs,
            max_steps=max_steps,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[self],
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Save, with the clock stopped."""
        if trainer.global_step not in self.steps:
            return
        self.trained += time.perf_counter() - self.since
        pl_module.eval()
        with torch.inference_mode():
            restored = pl_module((self.image - self.mean) / self.std) * self.std + self.mean
        pl_module.train()
        path = self.folder / f"{trainer.global_step}.npy"
        np.save(path, restored[0, 0].numpy())
        self.saved.append(str(path))
        self.seconds.append(self.trained)
        self.since = time.perf_counter()

    def answer(self) -> dict[str, Any]:
        """Say where the images are and how many seconds of training each took."""
        return {"saved": self.saved, "seconds": self.seconds}
