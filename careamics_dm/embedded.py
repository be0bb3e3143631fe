"""The embedded sample, where a configuration names no data."""

from __future__ import annotations

import pydoc
from typing import Any

from careamics_dm.notices import say

NEEDS: dict[str, dict[str, Any]] = {
    "clean targets": {"_target_": "careamics_dm.samples.clean"},
    "noisy targets": {"_target_": "careamics_dm.samples.noisy", "recording": 1},
}
"""What makes the targets, by what a model learns from."""


def use_sample(config: dict[str, Any]) -> None:
    """Fill in the embedded sample where no training data are given.

    Patches with depth get "filaments", others "nuclei". With a model that learns from clean or
    noisy targets (attribute ``learns_from`` of its class), the truth or another recording of the
    same scene are the targets.

    Parameters
    ----------
    config : dict
        Of an application, as plain containers; changed in place.
    """
    data = config["data"]
    if data["train_data"] is not None or not data["_target_"].endswith(".ArrayDataModule"):
        return
    volume = isinstance(data["patch_size"], list) and len(data["patch_size"]) == 3
    name, axes = ("filaments", "ZYX") if volume else ("nuclei", "YX")
    say(f"No data.train_data given: using the embedded sample ({name}, {axes}).")
    sample: dict[str, Any] = {"_target_": "careamics_dm.samples.noisy", "name": name}
    data |= {"train_data": sample, "axes": axes}
    needs = NEEDS.get(_learns_from(config["model"]))
    if needs is not None and data["train_target"] is None:
        data["train_target"] = sample | needs
    if data["predict_data"] is None:
        data["predict_data"] = sample
        if "truth" in config and config["truth"] is None:
            config["truth"] = sample | NEEDS["clean targets"]


def _learns_from(model: dict[str, Any]) -> str:
    """Ask a model's class what it learns from; nothing where it does not say."""
    try:
        found = pydoc.locate(str(model.get("_target_")))
    except pydoc.ErrorDuringImport:  # said when the model is built
        return ""
    return str(getattr(found, "learns_from", ""))
