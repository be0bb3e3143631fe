"""Real processes that train together: they draw and learn what one process does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from careamics_dm import ArrayDataModule, CAREModule

if TYPE_CHECKING:
    from pathlib import Path

STEPS, BATCH = 20, 16
RANKS = [1, 2, 4]


class Record(L.Callback):
    """Writes what each rank draws: the sum of each patch, which no turn changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def setup(self, trainer, module, stage):
        """Train weights of one's own: Lightning separates those it shares for "spawn" alone."""
        for weight in module.parameters():
            weight.data = weight.data.clone()

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        sums = batch["image"].double().sum(dim=(1, 2, 3))
        name = f"{trainer.world_size}-{batch_idx:02d}-{trainer.global_rank}.npy"
        np.save(self.folder / name, sums.numpy())


def train(ranks: int, folder: Path) -> torch.Tensor:
    """Train for some steps; return the weights."""
    rng = np.random.default_rng(0)
    clean = [rng.poisson(50, (96, 80)).astype(np.float32) for _ in range(6)]
    noisy = [image + rng.normal(0, 5, image.shape).astype(np.float32) for image in clean]
    data = ArrayDataModule(
        train_data=noisy,
        train_target=clean,
        axes="YX",
        patch_size=(16, 16),
        batch_size=BATCH // ranks,
        patches_per_epoch=STEPS * BATCH,
        n_val_patches=0,
    )
    L.seed_everything(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Conv2d(4, 1, 1))
    model = CAREModule(network, loss="mse")
    trainer = L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=DDPStrategy(start_method="forkserver") if ranks > 1 else "auto",
        max_epochs=1,
        callbacks=[Record(folder)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    trainer.fit(model, datamodule=data)
    return torch.cat([weight.detach().flatten() for weight in model.network.parameters()])


@pytest.mark.filterwarnings("ignore:Total length of")  # of no validation patches
def test_one_two_and_four_processes_draw_and_learn_the_same(tmp_path):
    weights = {ranks: train(ranks, tmp_path) for ranks in RANKS}
    for step in range(STEPS):
        drawn = []
        for ranks in RANKS:
            files = sorted(tmp_path.glob(f"{ranks}-{step:02d}-*.npy"))
            assert len(files) == ranks
            drawn.append(np.sort(np.concatenate([np.load(file) for file in files])))
        assert len(drawn[0]) == BATCH
        for other in drawn[1:]:
            np.testing.assert_allclose(other, drawn[0], rtol=1e-6)
    for ranks in RANKS[1:]:
        torch.testing.assert_close(weights[ranks], weights[1], rtol=1e-4, atol=1e-5)
