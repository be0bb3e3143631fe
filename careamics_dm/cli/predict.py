"""``careamics-predict``: apply a trained model to images and write the results."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from careamics_dm.callbacks.interruption import StopOnRequest
from careamics_dm.callbacks.prediction_picture import PredictionPicture
from careamics_dm.callbacks.run_progress import RunProgress
from careamics_dm.cli.application import build, overridden
from careamics_dm.cli.checkpoints import explaining_weights, load_checkpoint
from careamics_dm.cli.help import FROM_CHECKPOINT
from careamics_dm.cli.prediction_data import opened
from careamics_dm.cli.processes import check_processes, is_restarted
from careamics_dm.cli.resumption import StartFrom
from careamics_dm.cli.secrets import check_given, hide
from careamics_dm.cli.trust import check_config
from careamics_dm.datamodule.patch_datamodule import PatchDataModule
from careamics_dm.errors import DataError
from careamics_dm.sources.data_warnings import say
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
    own = folder  # jobs that share the images may share the folder, too
    if (shard := config["data"].get("shard")) is not None:
        own = folder / f"shard_{str(shard).replace('/', '_of_')}"
        own.mkdir(exist_ok=True)

    def make(settings: dict[str, Any]) -> PatchDataModule:
        config["data"] = settings
        (own / "config.yaml").write_text(OmegaConf.to_yaml(hide(config)), encoding="utf-8")
        data: PatchDataModule = build(config, "data")
        return data

    data = opened(make, config["data"], fixed="axes" in given)
    if "normalization" in given:
        checkpoint["data"]["statistics"] = {}
    data.load_state_dict(checkpoint["data"])
    say(data.summary())
    model = build(wanted, "model")
    choose_outputs(config, model)
    if is_restarted() and config["writer"]["existing"] == "error":
        config["writer"]["existing"] = "skip"
    writers = make_writers(config, folder)
    prepare_writers(writers, data)
    place = as_text(writers[0].folder)
    if not any(writer.wanted for writer in writers):
        of = f" of shard {shard} of {len(data.predict_stacks)} image(s)" if shard else ""
        say(f"\nnothing to predict: all results{of} are there already, in {place}")
        return
    picture = PredictionPicture(own)
    # The picture first: processes without a block join its gathering before they wait for writers.
    callbacks = [picture, *writers, StopOnRequest()]
    if config["trainer"].get("enable_progress_bar", True):
        callbacks.append(RunProgress())
    path = config["checkpoint"]
    options = {"ckpt_path": path, "weights_only": True}
    if not checkpoint["resumable"]:  # Lightning finds no run of ours in it
        callbacks.append(StartFrom(checkpoint["weights"]))
        options = {}
    settings = {"enable_model_summary": False, "callbacks": callbacks}
    trainer = build(config, "trainer", default_root_dir=folder, **settings)
    check_processes(trainer)
    with explaining_weights(path, "It was changed or damaged: name another model.ckpt of a run."):
        trainer.predict(model, datamodule=data, return_predictions=False, **options)
    say(f"\ndenoised images  {place}")
    for writer in writers[1:]:
        say(f"{writer.output:<16} {as_text(writer.folder)}")
    if picture.path is not None:
        say(f"picture          {picture.path}")


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
