"""Real processes that train together: they draw and learn what one process does."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import TYPE_CHECKING

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from careamics_dm import ArrayDataModule, CAREModule

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

STEPS, BATCH = 20, 16

pytestmark = pytest.mark.filterwarnings("ignore:Total length of")  # of no validation patches


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
        name = f"{trainer.world_size}-{trainer.global_step:02d}-{trainer.global_rank}.npy"
        np.save(self.folder / name, sums.numpy())


class Die(L.Callback):
    """Saves a checkpoint after a step, goes on for two more, and kills each process."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
        elif trainer.global_step == self.step + 2:
            os.kill(os.getpid(), signal.SIGKILL)


def train(
    ranks: int, folder: Path, callbacks: Sequence[L.Callback] = (), checkpoint: Path | None = None
) -> torch.Tensor:
    """Train for an epoch, or the rest of it; return the weights."""
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
        callbacks=[Record(folder), *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return torch.cat([weight.detach().flatten() for weight in model.network.parameters()])


def drawn_in(folder: Path, step: int, ranks: int) -> np.ndarray:
    """Return what all ranks drew for a step."""
    files = sorted(folder.glob(f"{ranks}-{step:02d}-*.npy"))
    assert len(files) == ranks
    return np.sort(np.concatenate([np.load(file) for file in files]))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return where one process has recorded what it drew, and its weights."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, train(1, folder)


def test_two_and_four_processes_draw_and_learn_what_one_does(alone, tmp_path):
    folder, weights = alone
    for ranks in (2, 4):
        torch.testing.assert_close(train(ranks, tmp_path), weights, rtol=1e-4, atol=1e-5)
        for step in range(STEPS):
            expected = drawn_in(folder, step, 1)
            assert len(expected) == BATCH
            np.testing.assert_allclose(drawn_in(tmp_path, step, ranks), expected, rtol=1e-6)


def test_a_killed_run_goes_on_with_other_ranks_and_draws_every_patch_once(alone, tmp_path):
    folder, weights = alone
    begin, checkpoint = 0, None
    for ranks, end in ((1, 3), (2, 9), (4, 14)):
        part, saved = tmp_path / f"{end}", tmp_path / f"{end}.ckpt"
        part.mkdir()
        run = multiprocessing.get_context("forkserver").Process(
            target=train, args=(ranks, part, [Die(end, saved)], checkpoint)
        )
        run.start()
        run.join()
        assert run.exitcode != 0
        for step in range(begin, end):
            expected = drawn_in(folder, step, 1)
            np.testing.assert_allclose(drawn_in(part, step, ranks), expected, rtol=1e-6)
        begin, checkpoint = end, saved
    resumed = train(1, tmp_path, checkpoint=checkpoint)
    assert sorted(path.name for path in tmp_path.glob("1-*"))[0] == f"1-{begin}-0.npy"
    for step in range(begin, STEPS):
        expected = drawn_in(folder, step, 1)
        np.testing.assert_allclose(drawn_in(tmp_path, step, 1), expected, rtol=1e-6)
    torch.testing.assert_close(resumed, weights, rtol=1e-4, atol=1e-5)
