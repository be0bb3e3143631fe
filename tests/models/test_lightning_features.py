"""Each callback and each flag of the installed Lightning: it works, or a message says why not."""

import functools
import inspect

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch import callbacks as c
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from modules import trainer

from careamics_dm import ArrayDataModule, N2VModule, UNet

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own, of settings so small
PIXELS = np.random.default_rng(0).normal(200, 20, (64, 64)).astype(np.float32)


def make(**options):
    settings = {"axes": "YX", "patch_size": (16, 16), "batch_size": 4, "patches_per_epoch": 8}
    data = ArrayDataModule(train_data=PIXELS, predict_data=PIXELS, n_val_patches=2, **settings)
    network = functools.partial(UNet, depth=1, first_filters=2)
    return data, N2VModule(network, **options)


def fit(folder, **options):
    (data, model), run = make(), trainer(folder, **({"max_epochs": 3} | options))
    run.fit(model, datamodule=data)
    for output in run.predict(model, datamodule=data) or ():
        assert output["prediction"].isfinite().all()
        assert output["prediction"].shape == (1, 1, 64, 64)
    return model


class Freeze(c.BaseFinetuning):
    """Freezes the way down, which must exist by then."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.network.down)

    def finetune_function(self, pl_module, epoch, optimizer):
        pass


CALLBACKS = {
    "BackboneFinetuning": (lambda _: c.BackboneFinetuning(1), "no attribute 'backbone'"),
    "BaseFinetuning": (lambda _: Freeze(), ""),
    "BatchSizeFinder": (lambda _: c.BatchSizeFinder(max_trials=1, steps_per_trial=1), ""),
    "DeviceStatsMonitor": (lambda _: c.DeviceStatsMonitor(), ""),
    "EMAWeightAveraging": (lambda _: c.EMAWeightAveraging(), ""),
    "EarlyStopping": (lambda _: c.EarlyStopping("train_loss"), ""),
    "GradientAccumulationScheduler": (lambda _: c.GradientAccumulationScheduler({1: 2}), ""),
    "LambdaCallback": (lambda _: c.LambdaCallback(), ""),
    "LearningRateFinder": (lambda _: c.LearningRateFinder(num_training_steps=12), ""),
    "LearningRateMonitor": (lambda _: c.LearningRateMonitor(), ""),
    "ModelCheckpoint": (lambda folder: c.ModelCheckpoint(folder), ""),
    "ModelPruning": (lambda _: c.ModelPruning("l1_unstructured", amount=0.5), ""),
    "ModelSummary": (lambda _: c.ModelSummary(), ""),
    "OnExceptionCheckpoint": (lambda folder: c.OnExceptionCheckpoint(folder), ""),
    "RichModelSummary": (lambda _: c.RichModelSummary(), ""),
    "RichProgressBar": (lambda _: c.RichProgressBar(), ""),
    "StochasticWeightAveraging": (lambda _: c.StochasticWeightAveraging(0.01), ""),
    "TQDMProgressBar": (lambda _: c.TQDMProgressBar(), ""),
    "ThroughputMonitor": (lambda _: c.ThroughputMonitor(lambda batch: len(batch["image"])), ""),
    "Timer": (lambda _: c.Timer("00:01:00:00"), ""),
    "WeightAveraging": (lambda _: c.WeightAveraging(), ""),
}
BASES = {"BasePredictionWriter", "Callback", "Checkpoint", "ProgressBar", "SpikeDetection"}
FLAGS = [
    ({"precision": "64-true"}, ""),
    ({"precision": "bf16-mixed"}, ""),
    ({"precision": "bf16-true"}, "Use bf16-mixed"),
    ({"precision": "16-true"}, "Use 16-mixed"),
    ({"overfit_batches": 1}, ""),
    ({"fast_dev_run": True}, ""),
    ({"limit_train_batches": 0.5}, ""),
    ({"limit_val_batches": 0}, ""),
    ({"limit_predict_batches": 1, "limit_test_batches": 1}, ""),
    ({"check_val_every_n_epoch": 2}, ""),
    ({"val_check_interval": 0.5, "log_every_n_steps": 1}, ""),
    ({"num_sanity_val_steps": -1}, ""),
    ({"accumulate_grad_batches": 2}, ""),
    ({"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}, ""),
    ({"deterministic": True, "benchmark": False}, ""),
    ({"inference_mode": False, "use_distributed_sampler": False}, ""),
    ({"detect_anomaly": True}, ""),
    ({"barebones": True}, ""),
    ({"profiler": "simple"}, ""),
    ({"sync_batchnorm": True, "strategy": "auto", "num_nodes": 1}, ""),
    ({"reload_dataloaders_every_n_epochs": 1}, ""),
    ({"max_steps": 3, "max_epochs": -1, "min_steps": 1, "min_epochs": 1}, ""),
    ({"max_time": "00:01:00:00"}, ""),
    ({"enable_autolog_hparams": False, "model_registry": None, "plugins": None}, ""),
]
SET_BY_ALL = {
    *("accelerator", "devices", "logger", "callbacks", "default_root_dir"),
    *("enable_checkpointing", "enable_progress_bar", "enable_model_summary"),
}


def test_none_is_left_out():
    assert CALLBACKS.keys() | BASES == set(c.__all__)
    flags = {name for options, _ in FLAGS for name in options} | SET_BY_ALL
    assert flags == set(inspect.signature(L.Trainer).parameters)


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks(tmp_path, name):
    (build, message), options = CALLBACKS[name], {}
    for word, option in (("Progress", "progress_bar"), ("Summary", "model_summary")):
        options[f"enable_{option}"] = word in name
    options["enable_checkpointing"] = "Checkpoint" in name
    if "Monitor" in name:
        options["logger"] = CSVLogger(tmp_path)
    options |= {"callbacks": [build(tmp_path)], "log_every_n_steps": 1}
    if message:
        with pytest.raises(Exception, match=message):
            fit(tmp_path, **options)
    else:
        fit(tmp_path, **options)


@pytest.mark.parametrize(("flags", "message"), FLAGS, ids=str)
def test_flags(tmp_path, flags, message):
    if message:
        with pytest.raises(ValueError, match=message):
            fit(tmp_path, **flags)
    else:
        fit(tmp_path, **flags)


def test_weight_averaging_averages(tmp_path):
    """The mean of the weights before each epoch from the second on."""
    before = []

    class Note(L.Callback):
        def on_train_epoch_start(self, trainer, module):
            before.append(torch.cat([p.detach().flatten().clone() for p in module.parameters()]))

    average = c.StochasticWeightAveraging(0.01, swa_epoch_start=2, annealing_epochs=1)
    model = fit(tmp_path, callbacks=[Note(), average])
    found = torch.cat([p.flatten() for p in model.parameters()])
    torch.testing.assert_close(found, torch.stack(before[1:3]).mean(0))
    assert not torch.equal(found, before[2])


def test_double_precision_computes_in_double(tmp_path):
    model = fit(tmp_path, precision="64-true")
    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_the_search_for_a_learning_rate_sets_it(tmp_path):
    data, model = make()
    steps = {"num_training": 25, "early_stop_threshold": None}
    found = Tuner(trainer(tmp_path, max_epochs=20)).lr_find(model, datamodule=data, **steps)
    assert found is not None and model.lr == found.suggestion() is not None
    run = trainer(tmp_path, max_epochs=1)
    run.fit(model, datamodule=data)
    assert run.optimizers[0].param_groups[0]["lr"] == model.lr
