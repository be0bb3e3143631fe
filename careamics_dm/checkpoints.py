"""Checkpoints that carry what prediction needs, and nothing that runs code."""

from __future__ import annotations

import pydoc
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch

from careamics_dm.axes import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

KEY = "careamics_dm"
LAST = "last.ckpt"
"""To resume from, beside a model.ckpt that holds the best weights."""
OURS = ("careamics_dm.", "torch.nn.", "torch.optim.")
_NEEDS_CODE = re.compile(r"Unsupported (global|class)|reduce|GLOBAL|TorchScript")
"""How torch says that a file holds more than tensors and plain containers."""


class SaveConfig(L.Callback):
    """Put the configuration of a run, as plain values, into each checkpoint.

    Parameters
    ----------
    config : dict
        Nested plain containers.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the configuration; called by Lightning."""
        del trainer, pl_module
        checkpoint[KEY] = self.config


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint without running any code in it.

    Parameters
    ----------
    path : path
        A file written by Lightning with `SaveConfig` among the callbacks.

    Returns
    -------
    dict
        The configuration under ``"config"``, the network's weights under ``"weights"``, the
        state of the data module under ``"data"``.

    Raises
    ------
    DataError
        No such file, not a checkpoint, one with pickled code, or not one of ours.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(
            f"checkpoint: {path} does not exist (seen from {Path.cwd()}). Name the "
            "model.ckpt of a run."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make it fail in any way
        if _NEEDS_CODE.search(str(error)):
            raise DataError(
                f"checkpoint: {path} contains pickled objects, which could run code when loaded; "
                "it was refused and nothing of it was executed. Train with careamics-train, or "
                "save plain tensors."
            ) from error
        raise DataError(
            f"checkpoint: {path} is not a readable checkpoint: no checkpoint at all, or damaged. "
            "Name a model.ckpt of a run."
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get(KEY), dict):
        raise DataError(
            f"checkpoint: {path} was not written by careamics-train: it has no configuration of "
            "model and data. Name a model.ckpt of a run, or load it in Python."
        )
    data = [
        value
        for value in content.values()
        if isinstance(value, dict) and {"statistics", "n_channels"} <= value.keys()
    ]
    if "state_dict" not in content or not data or not {"model", "data"} <= content[KEY].keys():
        raise DataError(
            f"checkpoint: {path} is incomplete: it lacks the weights, or what is known of the "
            "data. Name a model.ckpt of a run."
        )
    return {"config": content[KEY], "weights": content["state_dict"], "data": data[0]}


def check_targets(config: Any, trusted: Sequence[str], path: str | Path) -> None:
    """Refuse what a checkpoint names besides classes of the trusted packages.

    A configuration names what to call, so one from an unknown source could call anything. Of
    careamics_dm and torch, classes are allowed that are defined there; ``torch.nn.os.system``,
    say, is found by way of torch but is not of torch.

    Parameters
    ----------
    config : nested containers
        From the checkpoint.
    trusted : sequence of str
        Import prefixes besides careamics_dm and torch, of which everything is allowed.
    path : path
        Of the checkpoint, for the message.

    Raises
    ------
    DataError
        A ``_target_`` outside, or an interpolation.
    """
    if isinstance(config, str) and "${" in config:
        raise DataError(
            f"checkpoint: {path} has the interpolation {config} in its configuration, where "
            "careamics-train writes plain values. It was refused."
        )
    if isinstance(config, dict):
        target = config.get("_target_")
        if target is not None and not _is_trusted(str(target), trusted):
            raise DataError(
                f"checkpoint: {path} asks for {target}, which is not a class of careamics_dm or "
                f"torch. If you trust it, allow its package: trusted=[{str(target).split('.')[0]}]"
            )
    if isinstance(config, dict | list):
        for value in config.values() if isinstance(config, dict) else config:
            check_targets(value, trusted, path)


def _is_trusted(target: str, trusted: Sequence[str]) -> bool:
    if target.startswith(tuple(prefix.rstrip(".") + "." for prefix in trusted)):
        return True
    if not target.startswith(OURS):
        return False
    try:
        # Imports modules of ours and of torch only, and calls nothing.
        found = pydoc.locate(target)
    except Exception:  # no such thing; said as any other target that is not allowed
        return False
    return isinstance(found, type) and f"{found.__module__}.".startswith(OURS)
