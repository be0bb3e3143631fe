"""The learning rate of a resumed run."""

import functools
import math

import lightning as L
import numpy as np
import pytest
import torch
from modules import SaveAll, trainer

from careamics_dm import ArrayDataModule, N2VModule, UNet

PIXELS = np.random.default_rng(0).normal(200, 20, (48, 48)).astype(np.float32)
cosine = functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=None)
steps = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)


class Rates(L.Callback):
    """Notes the learning rate of each epoch."""

    def __init__(self):
        self.seen = []

    def on_train_epoch_start(self, trainer, module):
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def rates(folder, epochs, checkpoint=None, lr=1e-2, scheduler=cosine, save=None, decay=0.0):
    data = ArrayDataModule(
        train_data=PIXELS,
        axes="YX",
        patch_size=(16, 16),
        batch_size=4,
        patches_per_epoch=4,
        n_val_patches=0,
    )
    optimizer = functools.partial(torch.optim.Adam, lr=lr, weight_decay=decay)
    network = UNet(1, dims=2, depth=1, first_filters=2)
    model, seen = N2VModule(network, optimizer=optimizer, scheduler=scheduler), Rates()
    run = trainer(folder, max_epochs=epochs, callbacks=[seen, *([save] if save else [])])
    with pytest.warns(UserWarning):  # without validation
        run.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    assert run.optimizers[0].param_groups[0]["weight_decay"] == decay
    return seen.seen


def annealed(lr, n):
    return [lr * (1 + math.cos(math.pi * epoch / n)) / 2 for epoch in range(n)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run of 4 epochs, with a checkpoint after each step and at the end of each epoch."""
    folder = tmp_path_factory.mktemp("saved")
    save = SaveAll(folder)
    assert rates(folder, 4, save=save) == pytest.approx(annealed(1e-2, 4))
    return save.paths[1::2]


@pytest.mark.parametrize("done", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, annealed(1e-2, 8)),  # more epochs: no rise to the top after the fourth
        ({"lr": 3e-3}, annealed(3e-3, 8)),
        ({"decay": 0.1}, annealed(1e-2, 8)),
        ({"scheduler": functools.partial(cosine, T_max=16)}, annealed(1e-2, 16)[:8]),
        ({"scheduler": steps}, [1e-2 * 0.5 ** (epoch // 2) for epoch in range(8)]),
        ({"scheduler": None, "lr": 1e-3}, [1e-3] * 8),
    ],
    ids=str,
)
def test_other_settings_hold_from_where_it_goes_on(tmp_path, saved, done, settings, expected):
    found = rates(tmp_path, 8, saved[done - 1], **settings)
    assert found == pytest.approx(expected[done:])


@pytest.mark.parametrize("done", [1, 3])
def test_the_same_settings_change_nothing(tmp_path, saved, done):
    assert rates(tmp_path, 4, saved[done - 1]) == rates(tmp_path, 4)[done:]


def test_a_checkpoint_of_before_goes_on_as_it_did(tmp_path, saved):
    content = torch.load(saved[1], weights_only=True)
    del content["learning_plan"]
    torch.save(content, tmp_path / "old.ckpt")
    assert rates(tmp_path, 4, tmp_path / "old.ckpt") == pytest.approx(annealed(1e-2, 4)[2:])
