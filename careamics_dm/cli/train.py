"""``careamics-train``: train a model, then show what it does."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import OmegaConf

from careamics_dm.callbacks.interruption import StopOnRequest
from careamics_dm.callbacks.scores_report import TestReport
from careamics_dm.callbacks.training import SaveModel
from careamics_dm.cli.application import application, build, in_sweep, suit_augmentation, targets
from careamics_dm.cli.checkpoints import SaveConfig, load_checkpoint, unsuitable
from careamics_dm.cli.default_data import use_sample
from careamics_dm.cli.results import (
    draw_denoised,
    read_prediction,
    restore_first_image,
    save_planes,
)
from careamics_dm.cli.secrets import check_given, hide
from careamics_dm.cli.sweep_table import SCORES, VIEW, write_scores
from careamics_dm.cli.trust import check_config
from careamics_dm.errors import DataError
from careamics_dm.evaluation.ground_truth import read_truth
from careamics_dm.evaluation.plots import plot_losses
from careamics_dm.evaluation.text_table import write_csv
from careamics_dm.models.base import RestorationModule
from careamics_dm.prediction.output_paths import check_writable
from careamics_dm.sampling.validation_split import COLUMNS
from careamics_dm.sources.data_warnings import say

if TYPE_CHECKING:
    from pathlib import Path

    from careamics_dm.datamodule.patch_datamodule import PatchDataModule
    from careamics_dm.images.image_stack import ImageStack
    from careamics_dm.prediction.tiff_writer import TiffWriter

METRICS = ("train_", "val_", "test_")
"""How the names of what is logged begin, of which there are scores."""

KEPT = (
    *("_target_", "_convert_", "accelerator", "devices", "num_nodes", "strategy", "precision"),
    "enable_progress_bar",
)
"""Settings of the trainer that hold for the prediction after training, too."""


class Prediction(NamedTuple):
    """What the images of ``predict_data`` become after training."""

    writer: TiffWriter
    truth: ImageStack | None


@application("train")
def main(config: dict[str, Any], folder: Path) -> float | None:
    """Train, save and show; return the validation (else training) loss for a sweeper."""
    began = time.monotonic()
    check_given(config["data"])
    use_sample(config)
    check_writable(folder)
    L.seed_everything(config["seed"], workers=True, verbose=False)
    model: L.LightningModule = build(config, "model")
    suit_augmentation(config, model)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(hide(config)), encoding="utf-8")
    if config["checkpoint"]:
        check_resumed(config)  # refused before data are read
    data: PatchDataModule = build(config, "data")
    try:
        scores = train(config, folder, data, model)
    finally:
        data.teardown("fit")
    scores["seconds"] = round(time.monotonic() - began, 1)
    rank_zero_only(write_scores)(folder / SCORES, scores)
    return scores.get("val_loss", scores.get("train_loss"))


def check_resumed(config: dict[str, Any]) -> None:
    """Check the checkpoint to resume from; what this run itself names is trusted."""
    resumed = load_checkpoint(config["checkpoint"])
    own = [*config["trusted"], *targets(config["model"])]
    check_config(resumed["config"]["model"], own, config["checkpoint"])
    if note := check_given(config["data"], resumed["config"]["data"]):
        say(note)


def train(
    config: dict[str, Any], folder: Path, data: PatchDataModule, model: L.LightningModule
) -> dict[str, float]:
    """Train on data that are not opened yet, show the result, and return the scores."""
    # Whatever test and prediction will need is tried now, not after hours of training.
    data.setup("fit")
    rank_zero_only(write_csv)(folder / "split.csv", COLUMNS, data.split_table())
    report = prepare_test(config, folder, data, model)
    prediction = prepare_prediction(config, folder, data, model)
    trainer = make_trainer(config, folder, [] if report is None else [report])
    fit(trainer, model, data, config["checkpoint"])
    scores = use_kept(trainer, model)
    say()
    if (folder / "model.ckpt").exists():
        say(f"model            {folder / 'model.ckpt'}")
    metrics = folder / "logs" / "metrics.csv"
    if metrics.exists() and {"train_loss", "val_loss"} & scores.keys():
        rank_zero_only(plot_losses)(metrics, folder / "losses.png")
        say(f"losses           {folder / 'losses.png'}")
    if report is not None:
        scores |= test(trainer, model, data, report)
    return scores | show(config, folder, data, model, prediction)


def fit(
    trainer: L.Trainer, model: L.LightningModule, data: PatchDataModule, checkpoint: str | None
) -> None:
    """Train, from a checkpoint if there is one; say what does not suit."""
    try:
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except RuntimeError as error:
        if str(error).startswith("Early stopping conditioned on"):  # such as val_loss without data
            raise DataError(f"callbacks: EarlyStopping has nothing to watch. {error}") from error
        advice = (
            "It is of another network than this run's. Give the settings of model, and the "
            "channels, that it was trained with: config.yaml beside it has them."
        )
        refusal = unsuitable(error, str(checkpoint), advice)
        if refusal is None:
            raise
        raise refusal from error


def make_trainer(config: dict[str, Any], folder: Path, more: list[L.Callback]) -> L.Trainer:
    """Make the trainer with its logger and callbacks, which write into the run's folder."""
    logger, callbacks = config.get("logger"), config.get("callbacks") or {}
    trainer: L.Trainer = build(
        config,
        "trainer",
        default_root_dir=folder,
        logger=logger is not None and build(config, "logger", **into(folder, logger)),
        callbacks=[
            *(build(callbacks, name, **into(folder, callbacks[name])) for name in callbacks),
            SaveConfig(config),
            StopOnRequest(),
            *more,
        ],
    )
    return trainer


def into(folder: Path, config: dict[str, Any]) -> dict[str, Path]:
    """Return the arguments of a logger or callback that say where to write, where left open."""
    keys = ("save_dir", "dirpath", "folder")
    return {key: folder for key in keys if key in config and config[key] is None}


def prepare_test(
    config: dict[str, Any], folder: Path, data: PatchDataModule, model: L.LightningModule
) -> TestReport | None:
    """Open the test data, if there are any, and check that the model can be tested on them."""
    if config["data"]["test_data"] is None:
        return None
    if data.settings.batch_format != "dict":
        raise DataError("test_data: needs data.batch_format=dict, to know where tiles belong.")
    check_step(model, "test")
    data.setup("test")
    learns_from = getattr(model, "learns_from", "noisy images")
    if learns_from != "noisy images" and not data.has_target("test"):
        raise DataError(
            f"test_data: {type(model).__name__} learns from {learns_from}, but the test images "
            "have no targets. Give data.test_target."
        )
    return TestReport(folder)


def check_step(model: L.LightningModule, role: str) -> None:
    """Check that a model has the step that data of a role, "test" or "predict", are for."""
    if not is_overridden(f"{role}_step", model, L.LightningModule):
        raise DataError(
            f"{role}_data: {type(model).__name__} has no {role}_step. Leave {role}_data out, or "
            "write one (RestorationModule shows what it returns)."
        )


def prepare_prediction(
    config: dict[str, Any], folder: Path, data: PatchDataModule, model: L.LightningModule
) -> Prediction | None:
    """Open the images to predict, if there are any, and try whether results can be written."""
    if config["data"]["predict_data"] is None:
        return None
    if data.settings.batch_format != "dict":
        raise DataError("predict_data: needs data.batch_format=dict, to know where tiles belong.")
    check_step(model, "predict")
    data.setup("predict")
    writer = build(config, "writer", folder=config["writer"]["folder"] or folder / "denoised")
    writer.setup(SimpleNamespace(datamodule=data, callbacks=[writer]), model, "predict")
    if config["truth"] is None:
        return Prediction(writer, None)
    if data.n_target_channels != data.n_channels:
        raise DataError(
            f"truth: images have {data.n_channels} channel(s), but what the model makes of them "
            f"has {data.n_target_channels}, as the targets. Leave truth out."
        )
    images = data.images_of("train")
    if images.targets and images.targets[0] is images.stacks[0]:
        raise DataError(
            "truth: is compared with the channels that the model sees, but it restores others, "
            "data.target_channels. Leave truth out; data.test_data scores them."
        )
    truth = build(config, "truth") if isinstance(config["truth"], dict) else config["truth"]
    return Prediction(writer, read_truth(truth, data.predict_stacks[0]))


def use_kept(trainer: L.Trainer, model: L.LightningModule) -> dict[str, float]:
    """Give the model the weights that were kept; return what had been logged for them."""
    saved = trainer.checkpoint_callback
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if isinstance(saved, SaveModel) and saved.best_model_path and saved.kept_scores:
        content = torch.load(saved.best_model_path, map_location="cpu", weights_only=True)
        model.load_state_dict(content["state_dict"])
        logged = saved.kept_scores
    return {n: value for n, value in logged.items() if n.startswith(METRICS) or n == "epoch"}


def test(
    trainer: L.Trainer, model: L.LightningModule, data: PatchDataModule, report: TestReport
) -> dict[str, float]:
    """Test, print the table, and return what was logged."""
    (logged,) = trainer.test(model, datamodule=data, verbose=False)
    values = {name: value for name, value in logged.items() if name.startswith("test_")}
    if report.table:
        say(f"test             {report.folder / 'test.csv'}\n{report}")
        return values
    why = "" if data.has_target("test") else " (no data.test_target to compare with)"
    for name, value in values.items():
        say(f"{name:<16} {value:.6g}{why}")
    return values


def show(
    config: dict[str, Any],
    folder: Path,
    data: PatchDataModule,
    model: L.LightningModule,
    prediction: Prediction | None,
) -> dict[str, float]:
    """Predict and draw, or draw at least a training image; return scores against the truth."""
    scores: dict[str, float] = {}
    if prediction is not None:
        writer, truth = prediction
        settings = {key: config["trainer"][key] for key in KEPT if key in config["trainer"]}
        trainer: L.Trainer = build(
            {"trainer": settings},
            "trainer",
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[writer, StopOnRequest()],
            default_root_dir=folder,
        )
        if len(data.predict_dataloader()) > 0:  # else all results are there already, and kept
            trainer.predict(model, datamodule=data, return_predictions=False)
        say(f"denoised images  {writer.folder}")
    if model.global_rank != 0:
        return scores
    if prediction is not None:
        planes, scores = read_prediction(data, writer, truth)
        source = data.predict_stacks[0].source
    elif isinstance(model, RestorationModule):
        planes, source = restore_first_image(model, data), data.images_of("train").stacks[0].source
    else:
        return scores
    draw_denoised(planes, folder / "denoised.png", source)
    if scores:
        print(f"PSNR             {scores['psnr_noisy']:.2f} dB -> {scores['psnr']:.2f} dB")
    if in_sweep():
        save_planes(planes, folder / VIEW)
    return scores


if __name__ == "__main__":
    main()
