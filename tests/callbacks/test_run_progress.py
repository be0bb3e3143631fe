"""The bar of a training: what it counts, and what it says."""

from __future__ import annotations

import re

import numpy as np
import pytest
from modules import Identity, trainer

from careamics_dm import ArrayDataModule, RunProgress, TiffWriter

IMAGE = np.random.default_rng(0).integers(0, 255, (40, 50)).astype(np.uint8)


def data():
    options = {"patches_per_epoch": 20, "n_val_patches": 1, "batch_size": 4}
    return ArrayDataModule(train_data=IMAGE, axes="YX", patch_size=(8, 8), **options)


def last_line(capfd):
    return re.split(r"[\r\n]+", capfd.readouterr().err.strip())[-1]


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        ({"max_epochs": 3}, r"training: 100%.* 15/15 .*batch/s, epoch=3/3"),
        ({"max_steps": 7}, r"training: 100%.* 7/7 .*batch/s"),
        ({"max_epochs": 9, "max_steps": 4, "accumulate_grad_batches": 2}, r"100%.* 7/7 "),
    ],
)
def test_it_counts_the_batches_of_all_epochs(tmp_path, capfd, limits, found):
    run = trainer(tmp_path, callbacks=[RunProgress()], enable_progress_bar=True, **limits)
    run.fit(Identity(), datamodule=data())
    assert re.search(found, last_line(capfd))


def test_a_resumed_run_goes_on_where_it_was(tmp_path, capfd):
    run = trainer(tmp_path, max_epochs=2)
    run.fit(Identity(), datamodule=data())
    run.save_checkpoint(tmp_path / "a.ckpt")
    capfd.readouterr()
    run = trainer(tmp_path, callbacks=[RunProgress()], enable_progress_bar=True, max_epochs=3)
    run.fit(Identity(), datamodule=data(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    text = capfd.readouterr().err
    assert "10/15" in text and "15/15" in text and " 5/15" not in text


def test_a_prediction_counts_the_blocks_of_all_results_or_else_batches(tmp_path, capfd):
    options = {"tile_size": (8, 8), "tile_overlap": (2, 2), "normalization": "none"}
    given = {"predict_data": [IMAGE, IMAGE], "axes": "YX", "patch_size": (8, 8), "batch_size": 2}
    found = []
    for writers in ([], [TiffWriter(tmp_path / "out")]):
        callbacks = [*writers, RunProgress()]
        run = trainer(tmp_path, callbacks=callbacks, enable_progress_bar=True)
        run.predict(Identity(), datamodule=ArrayDataModule(**given, **options))
        found.append(re.search(r"prediction: 100%.* (\d+)/\1 .*(batch|block)", last_line(capfd)))
    assert [match[2] for match in found] == ["batch", "block"]
    assert int(found[0][1]) >= int(found[1][1]) == writers[0].progress.n > 2


def test_a_fault_ends_it(tmp_path, capfd):
    class Faulty(Identity):
        def training_step(self, batch, batch_idx):
            if batch_idx == 2:
                raise RuntimeError("out of luck")
            return super().training_step(batch, batch_idx)

    progress = RunProgress()
    run = trainer(tmp_path, callbacks=[progress], enable_progress_bar=True, max_epochs=1)
    with pytest.raises(RuntimeError, match="out of luck"):
        run.fit(Faulty(), datamodule=data())
    assert re.search(r"training:  40%.* 2/5 ", last_line(capfd))
