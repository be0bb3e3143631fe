"""``careamics-train``: train a model, then draw and score what it does."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.model_helpers import is_overridden

from careamics_dm.callbacks.interruption import StopOnRequest
from careamics_dm.callbacks.run_progress import RunProgress
from careamics_dm.callbacks.scores_report import TestReport
from careamics_dm.callbacks.training import SaveModel
from careamics_dm.cli.application import build
from careamics_dm.cli.checkpoints import (
    SaveConfig,
    WholeFiles,
    explaining_weights,
    load_checkpoint,
)
from careamics_dm.cli.distributed_run import connect
from careamics_dm.cli.objective import check_objective, objective_of
from careamics_dm.cli.predict import make_writers, prepare_writers, write_config
from careamics_dm.cli.preparation import check_targets, prepare_model
from careamics_dm.cli.results import Prediction, draw_result, read_truth
from careamics_dm.cli.resumption import (
    StartFrom,
    claim,
    find_checkpoint,
    give_back,
    nothing_left,
    resume,
    start_from,
    use_statistics,
)
from careamics_dm.cli.secrets import check_given
from careamics_dm.cli.sweep import SCORES, read_scores
from careamics_dm.datamodule.held_out_rows import COLUMNS
from careamics_dm.datamodule.patch_datamodule import PatchDataModule
from careamics_dm.errors import DataError
from careamics_dm.evaluation.plots import plot_losses
from careamics_dm.evaluation.text_table import write_csv
from careamics_dm.prediction.auto_writer import AutoWriter
from careamics_dm.prediction.result_paths import check_writable
from careamics_dm.prediction.result_writer import ResultWriter
from careamics_dm.prediction.tiff_writer import TiffWriter
from careamics_dm.prediction.zarr_writer import ZarrWriter
from careamics_dm.sources.data_warnings import say
from careamics_dm.sources.ranks import agreed, are_connected, by_first
from careamics_dm.sources.source_path import as_text

METRICS = ("train_", "val_", "test_")
"""How the names of what is logged begin, of which there are scores."""

FOR_PREDICTION = (
    *("_target_", "_convert_", "accelerator", "devices", "num_nodes", "strategy", "precision"),
    "enable_progress_bar",
)
"""Settings of the trainer that hold for the prediction after training, too."""


def main(config: dict[str, Any], folder: Path) -> float | None:
    """Train, save, draw and score; return the objective of a sweeper, if there is one."""
    began = time.monotonic()
    goes_on = find_checkpoint(config, folder)
    config, content = use_checkpoint(config, same_command=goes_on)
    note = nothing_left(config, content) if config["checkpoint"] else None
    if note and (not goes_on or (folder / SCORES).exists()):
        say(note)
        return objective_of(config, read_scores(Path(config["checkpoint"]).expanduser().parent))
    if goes_on and config["writer"].get("existing") == "error":  # it may have been predicting
        config["writer"]["existing"] = "skip" if note else "replace"
    check_objective(config)
    model = prepare_model(config)
    report = None if config["data"]["test_data"] is None else TestReport(folder)
    start = StartFrom(content["weights"]) if config["weights"] else None
    trainer = make_trainer(config, folder, [one for one in (start, report) if one is not None])
    connect(trainer)
    by_first(lambda: begin(config, folder))
    try:
        data: PatchDataModule = build(config, "data")
        if config["statistics"] == "weights":
            use_statistics(data, content)
        try:
            scores = train(config, folder, data, model, trainer, report)
        finally:
            data.teardown("fit")
    except BaseException:
        rank_zero_only(give_back)(folder)
        raise
    scores["seconds"] = round(time.monotonic() - began, 1)
    rank_zero_only(write_csv)(folder / SCORES, list(scores), [scores])
    return rank_zero_only(objective_of)(config, scores)


def use_checkpoint(
    config: dict[str, Any], *, same_command: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configuration with what a checkpoint gives, if there is one, and its content."""
    if config["checkpoint"] and config["weights"]:
        raise DataError("checkpoint goes on with a run, weights starts a new one. Leave one out.")
    if config["statistics"] == "weights" and not config["weights"]:
        raise DataError("statistics=weights needs weights=FILE, whose statistics to use.")
    if not (path := config["checkpoint"] or config["weights"]):
        return config, {}
    content = load_checkpoint(path)
    if config["checkpoint"]:
        config = resume(config, content, same_command=same_command)
    else:
        config = start_from(config, content)
    if note := check_given(config["data"], content["config"]["data"]):
        say(note)
    return config, content


def begin(config: dict[str, Any], folder: Path) -> None:
    """Make a folder that of this run."""
    check_writable(folder)
    claim(folder, config)
    write_config(config, folder)


def train(
    config: dict[str, Any],
    folder: Path,
    data: PatchDataModule,
    model: L.LightningModule,
    trainer: L.Trainer,
    report: TestReport | None,
) -> dict[str, float]:
    """Train on data that are not opened yet, draw the result, and return the scores."""
    # Whatever test and prediction will need is tried now, not after hours of training.
    data.setup("fit")
    by_first(lambda: write_csv(folder / "split.csv", COLUMNS, data.split_table()))
    open_images("test", config, data, model)
    prediction = None
    if open_images("predict", config, data, model):
        prediction = prepare_prediction(config, folder, data, model)
    fit(trainer, model, data, config)
    scores = use_saved(trainer, model)
    say()
    if (folder / "model.ckpt").exists():
        say(f"model            {folder / 'model.ckpt'}")
    by_first(lambda: draw_losses(folder, scores))
    if report is not None:
        scores |= test(trainer, model, data, report)
    if prediction is not None:
        predict(config, folder, data, model, prediction.writer)
    return scores | (draw_result(folder, data, model, prediction) if trainer.is_global_zero else {})


def draw_losses(folder: Path, scores: dict[str, float]) -> None:
    """Draw the losses of all epochs, where there are any."""
    metrics = folder / "logs" / "metrics.csv"
    if metrics.exists() and {"train_loss", "val_loss"} & scores.keys():
        plot_losses(metrics, folder / "losses.png")
        say(f"losses           {folder / 'losses.png'}")


def open_images(
    role: str, config: dict[str, Any], data: PatchDataModule, model: L.LightningModule
) -> bool:
    """Open the images of "test" or "predict", for which the model needs a step; False if none."""
    name = f"{role}_data"
    if config["data"][name] is None:
        return False
    if data.settings.batch_format != "dict":
        raise DataError(f"{name}: needs data.batch_format=dict, to know where tiles belong.")
    if not is_overridden(f"{role}_step", model, L.LightningModule):
        raise DataError(
            f"{name}: {type(model).__name__} has no {role}_step. Leave {name} out, or write the "
            "method (that of RestorationModule is an example)."
        )
    data.setup(role)
    if role == "test":
        check_targets(model, data, role)
    return True


def prepare_prediction(
    config: dict[str, Any], folder: Path, data: PatchDataModule, model: L.LightningModule
) -> Prediction:
    """Try whether results can be written, and read the ground truth if there is one."""
    (writer,) = make_writers(config, folder)
    if are_connected():
        prepare_writers([writer], data)
    else:  # ranks that Lightning has started may still see results that the first one has removed
        rank_zero_only(prepare_writers)([writer], data)
    if data.settings.shard is not None:
        raise DataError("data.shard is for careamics-predict: training predicts all images.")
    if not isinstance(writer, AutoWriter | TiffWriter | ZarrWriter):
        raise DataError(
            f"writer: careamics-train reads a result again for its picture and can't do so with "
            f"{type(writer).__name__}. Leave writer=... out, and give it to careamics-predict."
        )
    if config["truth"] is None:
        return Prediction(writer, None)
    if data.n_target_channels != data.n_channels:
        raise DataError(
            f"truth: the images have {data.n_channels} channel(s), but the denoised image has "
            f"{data.n_target_channels}, as the targets have. Leave truth out."
        )
    images = data.images_of("train")
    if images.targets and images.targets[0] is images.stacks[0]:
        raise DataError(
            "truth: it would be compared with data.channels, but the model predicts others, those "
            "of data.target_channels. Leave truth out; data.test_data scores them."
        )
    truth = build(config, "truth") if isinstance(config["truth"], dict) else config["truth"]
    return Prediction(writer, read_truth(truth, data.predict_stacks[0]))


def make_trainer(config: dict[str, Any], folder: Path, more: Sequence[L.Callback]) -> L.Trainer:
    """Make the trainer with its logger and callbacks, which write into the run's folder."""
    logger, given = config.get("logger"), config.get("callbacks") or {}
    logger = logger is not None and build(config, "logger", **into(folder, logger))
    callbacks = [build(given, name, **into(folder, given[name])) for name in given]
    callbacks += [SaveConfig(config), Describe(), StopOnRequest(folder), *more]
    if config["trainer"].get("enable_progress_bar", True):
        callbacks.append(RunProgress())
    settings = {"default_root_dir": folder, "logger": logger, "callbacks": callbacks}
    summary = config["trainer"].get("enable_model_summary", False)  # Describe says what matters
    trainer: L.Trainer = build(config, "trainer", enable_model_summary=summary, **settings)
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeFiles()
    return trainer


class Describe(L.Callback):
    """Say, in a line, what is trained on which device."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say it; called by Lightning."""
        network = type(getattr(pl_module, "network", pl_module)).__name__
        n = sum(weights.numel() for weights in pl_module.parameters())
        device = pl_module.device if trainer.world_size == 1 else f"{trainer.world_size} devices"
        how = f"on {device}, precision {trainer.precision}"
        say(f"network  {network} with {n:,} weights in {type(pl_module).__name__}, {how}")


def into(folder: Path, config: dict[str, Any]) -> dict[str, Path]:
    """Return the arguments of a logger or callback that say where to write, where left open."""
    keys = ("save_dir", "dirpath", "folder")
    return {key: folder for key in keys if key in config and config[key] is None}


def fit(
    trainer: L.Trainer, model: L.LightningModule, data: PatchDataModule, config: dict[str, Any]
) -> None:
    """Train, from a checkpoint if there is one; explain what does not suit."""
    advice = (
        "The checkpoint is of another network than this run's: give the settings of model, and the "
        "channels, that it was trained with; config.yaml beside it has them."
    )
    with explaining_weights(config["checkpoint"] or config["weights"], advice):
        trainer.fit(model, datamodule=data, ckpt_path=config["checkpoint"], weights_only=True)


def use_saved(trainer: L.Trainer, model: L.LightningModule) -> dict[str, float]:
    """Give the model the weights of ``model.ckpt``; return what was logged for them."""
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
    tested = trainer.test(model, datamodule=data, verbose=False)  # empty on a rank without an image
    values = {k: v for logged in tested for k, v in logged.items() if k.startswith("test_")}
    if report.table:
        say(f"test             {report.folder / 'test.csv'}\n{report}")
        return values
    why = "" if data.has_target("test") else " (no data.test_target to compare with)"
    for name, value in values.items():
        say(f"{name:<16} {value:.6g}{why}")
    return values


def predict(
    config: dict[str, Any],
    folder: Path,
    data: PatchDataModule,
    model: L.LightningModule,
    writer: ResultWriter,
) -> None:
    """Predict and write, unless all results exist already."""
    given = config["trainer"]
    if agreed(lambda: bool(writer.wanted)):  # a process may still have no image of its own
        trainer: L.Trainer = build(
            {"trainer": {name: given[name] for name in FOR_PREDICTION if name in given}},
            "trainer",
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[writer, StopOnRequest()],
            default_root_dir=folder,
        )
        trainer.predict(model, datamodule=data, return_predictions=False)
    say(f"denoised images  {as_text(writer.folder)}")
