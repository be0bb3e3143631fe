"""``careamics-predict``: apply a trained model to images and write the results."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from careamics_dm.callbacks.interruption import StopOnRequest
from careamics_dm.cli.application import application, build, overridden
from careamics_dm.cli.checkpoints import load_checkpoint, unsuitable
from careamics_dm.cli.help import FROM_CHECKPOINT
from careamics_dm.cli.secrets import check_given, hide
from careamics_dm.cli.trust import check_config
from careamics_dm.errors import DataError
from careamics_dm.sources.data_warnings import say

if TYPE_CHECKING:
    import lightning as L

    from careamics_dm.datamodule.patch_datamodule import PatchDataModule

OPTIONAL = ("test_time_augmentation", "uncertainty")
"""What a model may do besides, if asked."""


@application("predict")
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
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(hide(config)), encoding="utf-8")
    data: PatchDataModule = build(config, "data")
    data.setup("predict")
    if "normalization" in given:
        checkpoint["data"]["statistics"] = {}
    data.load_state_dict(checkpoint["data"])
    say(data.summary())
    model: L.LightningModule = build(wanted, "model")
    choose_outputs(config, model)
    writers = make_writers(config, folder)
    for writer in writers:  # refused before all else
        writer.setup(SimpleNamespace(datamodule=data, callbacks=writers), model, "predict")
    if len(data.predict_dataloader()) == 0:
        say(f"\nnothing to predict: all results are there already, in {writers[0].folder}")
        return
    callbacks = [*writers, StopOnRequest()]
    trainer: L.Trainer = build(config, "trainer", default_root_dir=folder, callbacks=callbacks)
    predict(trainer, model, data, config["checkpoint"])
    say(f"\ndenoised images  {writers[0].folder}")
    for writer in writers[1:]:
        say(f"{writer.output:<16} {writer.folder}")


def predict(
    trainer: L.Trainer, model: L.LightningModule, data: PatchDataModule, checkpoint: str
) -> None:
    """Predict with the weights of a checkpoint; say if they do not suit."""
    try:
        trainer.predict(
            model,
            datamodule=data,
            return_predictions=False,
            ckpt_path=checkpoint,
            weights_only=True,
        )
    except RuntimeError as error:
        advice = "It was changed or damaged: name another model.ckpt of a run."
        refusal = unsuitable(error, checkpoint, advice)
        if refusal is None:
            raise
        raise refusal from error


def choose_outputs(config: dict[str, Any], model: L.LightningModule) -> None:
    """Tell the model what to predict; uncertainty comes with test-time augmentation.

    Raises
    ------
    DataError
        The model can't, or a choice is neither true nor false.
    """
    chosen = {name: config[name] for name in OPTIONAL}
    for name, value in chosen.items():
        if not isinstance(value, bool):
            raise DataError(f"{name}={value!r}: give true or false.")
        if value and not hasattr(model, name):
            raise DataError(
                f"{name}: {type(model).__name__} does not know how. Models of careamics_dm do; "
                f"leave {name}=true out for others."
            )
    chosen["test_time_augmentation"] |= chosen["uncertainty"]
    for name, value in chosen.items():
        if value:
            setattr(model, name, True)


def make_writers(config: dict[str, Any], folder: Path) -> list[Any]:
    """Make the writer of predictions and, if wanted, one of their uncertainty beside."""
    given = config["writer"]["folder"]
    writers = [build(config, "writer", folder=given or folder / "denoised")]
    if config["uncertainty"]:
        place = Path(f"{given}_uncertainty") if given else folder / "uncertainty"
        # Rounded to integers, most of it would be 0.
        settings = {"folder": place, "output": "uncertainty", "dtype": "float32"}
        writers.append(build(config, "writer", **settings))
    return writers


if __name__ == "__main__":
    main()
