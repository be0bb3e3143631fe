"""Checkpoints that carry what prediction needs, and nothing that runs code."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import lightning as L
import torch

from careamics_dm.cli.secrets import hide
from careamics_dm.cli.trust import check_plain
from careamics_dm.errors import DataError

KEY = "careamics_dm"
_LIGHTNINGS = {"epoch", "global_step", "pytorch-lightning_version"}
_NEEDS_CODE = re.compile(r"Unsupported (global|class)|reduce|GLOBAL|TorchScript")
"""How torch says that a file holds more than tensors and plain containers."""


class SaveConfig(L.Callback):
    """Put the configuration of a run, as plain values, into each checkpoint.

    Parameters
    ----------
    config : dict
        Nested plain containers; values of ``storage_options`` are left out.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = hide(config)

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
        No such file, not a checkpoint, one with pickled code, or not one of ours; a configuration
        of other than plain values; weights or statistics that are no finite numbers.
    """
    path = Path(path).expanduser()
    content = _read(path)
    if type(content) is not dict or type(content.get(KEY)) is not dict:
        raise DataError(
            f"checkpoint: {path} was not written by careamics-train: it has no configuration of "
            "model and data. Name a model.ckpt of a run, or load it in Python."
        )
    config, weights = content[KEY], content.get("state_dict")
    data = [
        value
        for value in content.values()
        if isinstance(value, dict) and {"statistics", "n_channels"} <= value.keys()
    ]
    parts = [type(config.get(part)) is dict for part in ("model", "data")]
    if weights is None or len(data) != 1 or not all(parts) or not content.keys() >= _LIGHTNINGS:
        raise DataError(
            f"checkpoint: {path} is incomplete: it lacks the weights, or what is stored about the "
            "data or the training. Name a model.ckpt of a run."
        )
    check_plain(config, path)
    check_plain(data[0], path)
    _check_weights(weights, path)
    _check_data(data[0], path)
    return {"config": config, "weights": weights, "data": data[0]}


def unsuitable(error: RuntimeError, path: str | Path, advice: str) -> DataError | None:
    """Say in one message that weights are missing, surplus or of another shape.

    Parameters
    ----------
    error : RuntimeError
        As raised where weights are loaded.
    path : path
        Of the checkpoint.
    advice : str
        What to do.

    Returns
    -------
    DataError or None
        None if the error is another one.
    """
    lines = [line.strip() for line in str(error).splitlines()]
    if not lines or not lines[0].startswith("Error(s) in loading state_dict"):
        return None
    return DataError(
        f"checkpoint: the weights in {path} are not those of this network ({lines[1][:200]}). "
        f"{advice}"
    )


def _read(path: Path) -> Any:
    if not path.is_file():
        raise DataError(
            f"checkpoint: {path} does not exist (seen from {Path.cwd()}). Name the "
            "model.ckpt of a run."
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
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


def _check_weights(weights: Any, path: Path) -> None:
    if not isinstance(weights, dict) or not all(type(name) is str for name in weights):
        raise _damaged(path, "its weights have no names")
    for name, weight in weights.items():
        if type(weight) not in (torch.Tensor, torch.nn.Parameter):
            raise _damaged(path, f"its weight {name[:80]} is no tensor but {type(weight).__name__}")
        if weight.layout != torch.strided or weight.device.type != "cpu" or weight.is_quantized:
            raise _damaged(path, f"its weight {name[:80]} is no plain tensor")
        # One value can be stretched to any size, and take all memory when it is copied.
        if weight.numel() * weight.element_size() > weight.untyped_storage().nbytes():
            raise _damaged(path, f"its weight {name[:80]} has fewer values than its shape")
        if not torch.isfinite(weight).all():
            raise _damaged(path, f"its weight {name[:80]} contains NaN or infinity")


def _check_data(data: dict[str, Any], path: Path) -> None:
    statistics, counts = data["statistics"], (data["n_channels"], data.get("n_target_channels"))
    if any(type(n) is not int or n < 1 for n in counts if n is not None):
        raise _damaged(path, f"its numbers of channels are {counts}")
    if type(statistics) is not dict or not statistics.keys() <= {"image", "target"}:
        raise _damaged(path, "its statistics are not of images and targets")
    for side, numbers in statistics.items():
        if type(numbers) is not dict or numbers.keys() != {"offset", "scale"}:
            raise _damaged(path, f"its statistics of the {side}s are no offset and scale")
        offset, scale = numbers["offset"], numbers["scale"]
        columns = type(offset) is type(scale) is list and len(offset) == len(scale) > 0
        if not columns or not all(type(x) in (int, float) for x in [*offset, *scale]):
            raise _damaged(path, f"its statistics of the {side}s are no numbers per channel")
        if not all(math.isfinite(x) for x in [*offset, *scale]) or min(scale) <= 0:
            raise _damaged(
                path,
                f"its statistics of the {side}s are offset={offset}, scale={scale}; they "
                "must be finite, and the scale above 0",
            )


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"checkpoint: {path} is damaged: {why}. Name another model.ckpt of a run.")
