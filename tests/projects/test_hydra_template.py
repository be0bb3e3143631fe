"""A project built as the lightning-hydra-template is: its groups and ours, its model and ours.

Its groups `data`, `model`, `callbacks`, `trainer` and `logger` have the names of ours; each file of
the project comes before ours of the same name, and whatever it lacks is found in ours.
"""

from __future__ import annotations

import hydra
import pytest
from apps import write_tiffs
from hydra.utils import instantiate
from modules import Autoencoder

from careamics_dm import N2VModule, TiffDataModule

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own, of a run so small
PROJECT = {
    "train.yaml": """
        # @package _global_
        defaults:
          - _self_
          - data: digits
          - model: autoencoder
          - callbacks: default
          - logger: null
          - trainer: default
          - paths: default
          - experiment: null
        hydra: {searchpath: ["pkg://careamics_dm.conf"]}
        ckpt_path: null
    """,
    "data/digits.yaml": "_target_: project.NoSuchDataModule",
    "model/autoencoder.yaml": "{_target_: modules.Autoencoder, key: image}",
    "callbacks/default.yaml": """
        defaults: [model_checkpoint, _self_]
        model_checkpoint: {dirpath: "${paths.output_dir}/checkpoints", monitor: train_loss}
    """,
    "callbacks/model_checkpoint.yaml": """
        model_checkpoint:
          _target_: lightning.pytorch.callbacks.ModelCheckpoint
          dirpath: null
          monitor: null
    """,
    "trainer/default.yaml": """
        _target_: lightning.pytorch.trainer.Trainer
        default_root_dir: ${paths.output_dir}
        max_epochs: 10
        accelerator: cpu
        devices: 1
    """,
    "trainer/quick.yaml": """
        defaults: [default]
        max_epochs: 1
        logger: false
        enable_progress_bar: false
        enable_model_summary: false
    """,
    "paths/default.yaml": "output_dir: ???",
    "experiment/denoise.yaml": """
        # @package _global_
        defaults:
          - override /data: tiff
          - override /data/normalization@data.normalization: quantile
          - override /trainer: quick
        data:
          patch_size: [16, 16]
          patches_per_epoch: 16
          n_val_patches: 2
    """,
}
OURS = ("model=n2v", "model.network.depth=1", "model.network.first_filters=2")


@pytest.fixture
def project(tmp_path):
    for name, text in PROJECT.items():
        path = tmp_path / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    write_tiffs(tmp_path / "images", "YX", [(40, 50)])
    return tmp_path


def compose(project, *overrides):
    with hydra.initialize_config_dir(str(project / "configs"), version_base="1.3"):
        return hydra.compose("train", [f"paths.output_dir={project}", *overrides])


def train(project, *overrides):
    """Do what the template's ``train.py`` does."""
    images = project / "images"
    data = (f"data.train_data={images}", f"data.test_data={images}")
    config = compose(project, "experiment=denoise", *data, *overrides)
    datamodule, model = instantiate(config.data), instantiate(config.model)
    callbacks = [instantiate(one) for one in config.callbacks.values()]
    trainer = instantiate(config.trainer, callbacks=callbacks)
    trainer.fit(model=model, datamodule=datamodule, ckpt_path=config.ckpt_path)
    return trainer, model, datamodule


def test_our_model_is_trained_and_tested_there_and_goes_on(project):
    trainer, model, datamodule = train(project, *OURS)
    assert type(model) is N2VModule and type(datamodule) is TiffDataModule
    assert (trainer.global_step, datamodule.settings.method.high) == (1, 0.99)
    best = trainer.checkpoint_callback.best_model_path
    assert best.startswith(str(project / "checkpoints"))
    [scores] = trainer.test(model, datamodule, ckpt_path=best, verbose=False)
    assert scores.keys() == {"test_loss"}
    again, *_ = train(project, *OURS, "trainer.max_epochs=2", f"ckpt_path='{best}'")
    assert again.global_step == 2


def test_a_model_of_the_project_trains_on_our_data(project):
    trainer, model, datamodule = train(project, "callbacks.model_checkpoint.monitor=null")
    assert type(model) is Autoencoder and type(datamodule) is TiffDataModule
    assert trainer.global_step == 1


def test_theirs_come_first(project):
    config = compose(project)
    assert config.data._target_ == "project.NoSuchDataModule"
    assert list(config.callbacks) == ["model_checkpoint"]
