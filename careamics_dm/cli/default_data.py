"""A simulated sample as data, where a configuration names none."""

from __future__ import annotations

import pydoc
from typing import Any

from careamics_dm.sources.data_warnings import say

_NOISY = "careamics_dm.samples.noisy"
_CLEAN = {"_target_": "careamics_dm.samples.clean"}
_TARGETS: dict[str, dict[str, Any]] = {
    "clean targets": _CLEAN,
    "noisy targets": {"_target_": _NOISY, "recording": 1},
}
"""Where the targets come from, by what a model learns from."""


def use_sample(config: dict[str, Any]) -> None:
    """Fill in a simulated sample where no training data are given.

    3-D patches get the sample "filaments", 2-D patches "nuclei". Where the model learns from clean
    or noisy targets (attribute ``learns_from`` of its class), the ground truth or a second
    recording of the same scene becomes the target.

    Parameters
    ----------
    config : dict
        Configuration of an application as plain containers; changed in place.
    """
    data = config["data"]
    if data["train_data"] is not None or not data["_target_"].endswith(".ArrayDataModule"):
        return
    volume = isinstance(data["patch_size"], list) and len(data["patch_size"]) == 3
    name, axes = ("filaments", "ZYX") if volume else ("nuclei", "YX")
    say(f"No data.train_data given: using the simulated sample ({name}, {axes}).")
    sample: dict[str, Any] = {"_target_": _NOISY, "name": name}
    data |= {"train_data": sample, "axes": axes}
    learns_from = _learns_from(config["model"])
    if learns_from in _TARGETS and data["train_target"] is None:
        data["train_target"] = sample | _TARGETS[learns_from]
    if data["predict_data"] is None:
        data["predict_data"] = sample
        if "truth" in config and config["truth"] is None:
            config["truth"] = sample | _CLEAN


def _learns_from(model: dict[str, Any]) -> str:
    """Return what a model learns from, according to its class; empty if the class does not say."""
    try:
        found = pydoc.locate(str(model.get("_target_")))
    except pydoc.ErrorDuringImport:  # reported when the model is built
        return ""
    return str(getattr(found, "learns_from", ""))
