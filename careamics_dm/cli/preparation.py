"""What training and preview begin with: a model, and settings of the data that suit it."""

from typing import Any

import lightning as L

from careamics_dm.cli.application import build, overridden
from careamics_dm.cli.secrets import check_given
from careamics_dm.models.trainer_data import lack_of_targets
from careamics_dm.sources.data_warnings import say

_NOISY = "careamics_dm.samples.noisy"
_CLEAN = {"_target_": "careamics_dm.samples.clean"}
_TARGETS: dict[str, dict[str, Any]] = {
    "clean targets": _CLEAN,
    "noisy targets": {"_target_": _NOISY, "recording": 1},
}
"""Where the targets of a sample come from, by what a model learns from."""


def prepare_model(config: dict[str, Any]) -> Any:
    """Make the model; in the configuration, fill in the data that the user left open."""
    check_given(config["data"])
    L.seed_everything(config["seed"], workers=True, verbose=False)
    model = build(config, "model")
    data = config["data"]
    if data["train_data"] is None and data["_target_"].endswith(".ArrayDataModule"):
        _use_sample(config, getattr(model, "learns_from", ""))
    _suit_augmentation(data, model)
    clip = "gradient_clip_val"
    trainer, asked = config.get("trainer", {}), f"trainer.{clip}" in overridden()
    if not (model.automatic_optimization or asked) and trainer.pop(clip, None):
        say(f"trainer.{clip} is left out: {type(model).__name__} optimizes manually.")
    return model


def check_targets(model: Any, data: Any, role: str) -> None:
    """Check that data of a role, "train" or "test", have the targets that a model learns from."""
    learns_from = getattr(model, "learns_from", "noisy images")
    if learns_from != "noisy images" and not data.has_target(role):
        raise lack_of_targets(type(model).__name__, learns_from, role)


def _suit_augmentation(data: dict[str, Any], model: Any) -> None:
    """Leave out quarter turns where a model does not allow them, unless the user chose them."""
    chosen = any(key.split(".")[:2] == ["data", "augmentation"] for key in overridden())
    if not chosen and data["augmentation"] is True and not getattr(model, "quarter_turns", True):
        target = {"_target_": "careamics_dm.Augmentation", "_convert_": "all"}
        data["augmentation"] = target | {"flip": "YX", "quarter_turns": False}


def _use_sample(config: dict[str, Any], learns_from: str) -> None:
    """Train on a simulated sample: "filaments" for 3-D patches, "nuclei" for 2-D patches.

    A model that learns from clean or noisy targets gets the ground truth, or a second recording of
    the same scene.
    """
    data = config["data"]
    volume = isinstance(data["patch_size"], list) and len(data["patch_size"]) == 3
    name, axes = ("filaments", "ZYX") if volume else ("nuclei", "YX")
    say(f"data.train_data is not given: using the simulated sample ({name}, {axes}).")
    sample: dict[str, Any] = {"_target_": _NOISY, "name": name}
    data |= {"train_data": sample, "axes": axes}
    if learns_from in _TARGETS and data["train_target"] is None:
        data["train_target"] = sample | _TARGETS[learns_from]
    if data["predict_data"] is None:
        data["predict_data"] = sample
        if "truth" in config and config["truth"] is None:
            config["truth"] = sample | _CLEAN
