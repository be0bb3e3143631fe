"""``careamics-predict``: apply a trained model to images and write the results."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import OmegaConf

from careamics_dm.callbacks.interruption import StopOnRequest
from careamics_dm.callbacks.prediction_picture import PredictionPicture, folder_of_shard
from careamics_dm.callbacks.run_progress import RunProgress
from careamics_dm.cli.application import build, overridden
from careamics_dm.cli.checkpoints import explaining_weights, load_checkpoint
from careamics_dm.cli.distributed_run import connect, is_restarted
from careamics_dm.cli.help import FROM_CHECKPOINT
from careamics_dm.cli.prediction_data import opened
from careamics_dm.cli.resumption import StartFrom
from careamics_dm.cli.secrets import check_given, hide
from careamics_dm.cli.trust import check_config
from careamics_dm.errors import DataError
from careamics_dm.sources.data_warnings import say
from careamics_dm.sources.ranks import by_first
from careamics_dm.sources.source_path import as_text

LONGEST_NAME = 240
"""Bytes: most file systems take 255, and files have longer names while they are written."""


def main(config: dict[str, Any], folder: Path) -> None:
    """Predict and write."""
    checkpoint = load_checkpoint(config["checkpoint"])
    trained = checkpoint["config"]
    if note := check_given(config["data"], trained["data"]):
        say(note)
    given = {key.removeprefix("data.").split(".")[0] for key in overridden()}
    restored = {k: trained["data"][k] for k in FROM_CHECKPOINT - given if k in trained["data"]}
    wanted = {"model": trained["model"], "data": restored}
    wanted = check_config(wanted, config["trusted"], config["checkpoint"])
    config["data"] |= wanted["data"] | {"batch_format": "dict"}
    shard = config["data"].get("shard")
    own = folder_of_shard(folder, shard and str(shard))
    model = build(wanted, "model")
    choose_outputs(config, model)
    if is_restarted() and config["writer"]["existing"] == "error":
        config["writer"]["existing"] = "skip"
    writers, picture = make_writers(config, folder), PredictionPicture(folder)
    trainer, options = make_trainer(config, folder, checkpoint, [picture, *writers])
    connect(trainer)
    by_first(lambda: write_config(config, own))
    settings = config["data"]
    data, config["data"] = opened(lambda by: build({"data": by}, "data"), settings, given)
    if config["data"] is not settings:
        by_first(lambda: write_config(config, own))
    if "normalization" in given:
        checkpoint["data"]["statistics"] = {}
    data.load_state_dict(checkpoint["data"])
    say(data.summary())
    prepare_writers(writers, data)
    place = as_text(writers[0].folder)
    if not any(writer.wanted for writer in writers):
        of = f" of shard {shard} of {len(data.predict_stacks)} image(s)" if shard else ""
        say(f"\nnothing to predict: all results{of} are there already, in {place}")
        return
    advice = "It was changed or damaged: name another model.ckpt of a run."
    with explaining_weights(config["checkpoint"], advice):
        trainer.predict(model, datamodule=data, return_predictions=False, **options)
    say(f"\ndenoised images  {place}")
    for writer in writers[1:]:
        say(f"{writer.output:<16} {as_text(writer.folder)}")
    if picture.path is not None:
        say(f"picture          {picture.path}")


def make_trainer(
    config: dict[str, Any], folder: Path, checkpoint: dict[str, Any], callbacks: Sequence[Any]
) -> tuple[L.Trainer, dict[str, Any]]:
    """Make the trainer, and the options by which its ``predict`` loads a checkpoint.

    The picture comes first: ranks without a block join its gathering before they wait for writers.
    """
    more: list[L.Callback] = [StopOnRequest()]
    if config["trainer"].get("enable_progress_bar", True):
        more.append(RunProgress())
    options = {"ckpt_path": config["checkpoint"], "weights_only": True}
    if not checkpoint["resumable"]:  # Lightning finds no run of ours in it
        more.append(StartFrom(checkpoint["weights"]))
        options = {}
    settings = {"enable_model_summary": False, "callbacks": [*callbacks, *more]}
    return build(config, "trainer", default_root_dir=folder, **settings), options


def write_config(config: dict[str, Any], folder: Path) -> None:
    """Write ``config.yaml``: every setting of a run."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(hide(config)), encoding="utf-8")


def choose_outputs(config: dict[str, Any], model: Any) -> None:
    """Set what the model predicts besides images; uncertainty comes with test-time augmentation."""
    for name in ("test_time_augmentation", "uncertainty"):
        if not isinstance(config[name], bool):
            raise DataError(f"{name}={config[name]!r}: give true or false.")
        if config[name] and not hasattr(model, name):
            raise DataError(
                f"{name}: {type(model).__name__} does not know how to do it; models of "
                f"careamics_dm do. Leave {name}=true out."
            )
        if config[name]:
            setattr(model, name, True)
    if config["uncertainty"]:
        model.test_time_augmentation = True


def make_writers(config: dict[str, Any], folder: Path) -> list[Any]:
    """Make the writer of predictions and, if wanted, of their uncertainty."""
    check_given(config["writer"], part="writer")
    given = config["writer"]["folder"]
    writers = [build(config, "writer", folder=given or folder / "denoised")]
    if config.get("uncertainty"):
        place = f"{given}_uncertainty" if given else folder / "uncertainty"
        # Rounded to integers, most of it would be 0.
        settings = {"folder": place, "output": "uncertainty", "dtype": "float32"}
        writers.append(build(config, "writer", **settings))
    return writers


def prepare_writers(writers: Sequence[Any], data: Any) -> None:
    """Try if writers can write what is predicted of data, which are set up for it."""
    for writer in writers:
        writer.prepare(data, writers)
        check_lengths(writer.paths)


def check_lengths(paths: Sequence[Path]) -> None:
    """Refuse names of results that file systems do not take, before hours of work."""
    if long := [path.name for path in paths if len(os.fsencode(path.name)) > LONGEST_NAME]:
        raise DataError(
            f"writer: the name of a result would be too long for a file, {long[0][:60]}... "
            f"({len(os.fsencode(long[0]))} bytes, at most {LONGEST_NAME}). Rename its image, or "
            "link to it by a shorter name."
        )
