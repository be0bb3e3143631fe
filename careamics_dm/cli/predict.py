"""``careamics-predict``: apply a trained model to images and write the results."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from omegaconf import OmegaConf

from careamics_dm.callbacks.interruption import StopOnRequest
from careamics_dm.cli.application import build, overridden
from careamics_dm.cli.checkpoints import explaining_weights, load_checkpoint
from careamics_dm.cli.help import FROM_CHECKPOINT
from careamics_dm.cli.secrets import check_given, hide
from careamics_dm.cli.trust import check_config
from careamics_dm.errors import DataError
from careamics_dm.sources.data_warnings import say


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
    data = build(config, "data")
    data.setup("predict")
    if "normalization" in given:
        checkpoint["data"]["statistics"] = {}
    data.load_state_dict(checkpoint["data"])
    say(data.summary())
    model = build(wanted, "model")
    choose_outputs(config, model)
    writers = make_writers(config, folder, data, model)
    if not any(writer.wanted for writer in writers):
        say(f"\nnothing to predict: all results are there already, in {writers[0].folder}")
        return
    callbacks = [*writers, StopOnRequest()]
    trainer = build(config, "trainer", default_root_dir=folder, callbacks=callbacks)
    path = config["checkpoint"]
    with explaining_weights(path, "It was changed or damaged: name another model.ckpt of a run."):
        options = {"ckpt_path": path, "weights_only": True, "return_predictions": False}
        trainer.predict(model, datamodule=data, **options)
    say(f"\ndenoised images  {writers[0].folder}")
    for writer in writers[1:]:
        say(f"{writer.output:<16} {writer.folder}")


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


def make_writers(config: dict[str, Any], folder: Path, data: Any, model: Any) -> list[Any]:
    """Make the writer of predictions and, if wanted, of their uncertainty; try if they can write.

    ``data`` are set up for prediction.
    """
    given = config["writer"]["folder"]
    writers = [build(config, "writer", folder=given or folder / "denoised")]
    if config.get("uncertainty"):
        place = Path(f"{given}_uncertainty") if given else folder / "uncertainty"
        # Rounded to integers, most of it would be 0.
        settings = {"folder": place, "output": "uncertainty", "dtype": "float32"}
        writers.append(build(config, "writer", **settings))
    for writer in writers:
        writer.setup(SimpleNamespace(datamodule=data, callbacks=writers), model, "predict")
    return writers
