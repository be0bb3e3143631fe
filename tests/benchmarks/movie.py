"""Noise2Noise on the even and odd frames of a calcium movie, and Noise2Void on all of them.

Run: python tests/benchmarks/movie.py [STEPS]

Cells whose brightness jumps and decays over tens of frames, with photon and read-out noise. Both
models see time as depth, with the same network, steps and patches, and restore the whole movie.
Prints the peak signal-to-noise ratio of each. (After DeepCAD: Li et al., Nature Methods 18, 2021.)
"""

from __future__ import annotations

import sys
from functools import partial

import lightning as L
import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from careamics_dm import ArrayDataModule, N2NModule, N2VModule, UNet
from careamics_dm.evaluation.metrics import psnr

FRAMES, SIZE, CELLS, DECAY = 96, 64, 25, 20.0


def simulate(seed=0):
    """Return a noisy movie and its ground truth, ``T Y X``."""
    rng = np.random.default_rng(seed)
    clean = np.full((FRAMES, SIZE, SIZE), 2.0)
    t, place = np.arange(FRAMES), np.indices((SIZE, SIZE))
    for _ in range(CELLS):
        centre, radius = rng.uniform(4, SIZE - 4, 2), rng.uniform(2, 4)
        cell = np.exp(-((np.square(place - centre[:, None, None]).sum(0) / radius**2) ** 2))
        since = t[:, None] - rng.uniform(-DECAY, FRAMES, rng.integers(1, 4))
        spikes = np.where(since >= 0, np.exp(-np.maximum(since, 0) / DECAY), 0).sum(1)
        clean += (2 + 12 * spikes)[:, None, None] * cell
    clean = gaussian_filter(clean, (0, 0.8, 0.8))
    noisy = rng.poisson(clean) + rng.normal(0, 1.0, clean.shape)
    return noisy.astype(np.float32), clean.astype(np.float32)


def restore(kind, noisy, steps, **settings):
    """Train on a movie, and restore it."""
    L.seed_everything(0, verbose=False)
    data = ArrayDataModule(
        train_data=noisy,
        predict_data=noisy,
        axes="ZYX",
        patch_size=(16, 32, 32),
        batch_size=4,
        patches_per_epoch=4 * steps // 10,
        n_val_patches=0,
        **settings,
    )
    module = kind(
        partial(UNet, depth=1, first_filters=8, independent_channels=False),
        optimizer=partial(torch.optim.Adam, lr=2e-3),
        scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=None),
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_epochs=10, enable_model_summary=False, **quiet)
    trainer.fit(module, datamodule=data)
    (found,) = trainer.predict(module, datamodule=data)
    return found["prediction"][0, 0].numpy()


if __name__ == "__main__":
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    noisy, clean = simulate()
    print(f"noisy {psnr(clean, noisy):.2f} dB")
    print(f"Noise2Void {psnr(clean, restore(N2VModule, noisy, steps)):.2f} dB", flush=True)
    print(f"Noise2Noise {psnr(clean, restore(N2NModule, noisy, steps, repeats='Z')):.2f} dB")
