"""Checkpoints that carry what prediction needs, and nothing that runs code."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from careamics_dm.cli.foreign_checkpoint import as_ours, is_careamics
from careamics_dm.cli.given_paths import checkpoint_file, unusable
from careamics_dm.cli.secrets import hide
from careamics_dm.cli.trust import check_plain, is_finite
from careamics_dm.errors import DataError, blame_others
from careamics_dm.transforms.normalization import Affine

KEY = "careamics_dm"
_LIGHTNINGS = {"epoch", "global_step", "pytorch-lightning_version"}
_NEEDS_CODE = re.compile(r"Unsupported (global|class)|reduce|GLOBAL|TorchScript")
"""How torch says that a file holds more than tensors and plain containers."""


class SaveConfig(L.Callback):
    """Put the configuration of a run, plain values without secrets, into each checkpoint."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = hide(config)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the configuration; called by Lightning."""
        checkpoint[KEY] = self.config


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it: a kill leaves the one before whole."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a file; called by Lightning."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        part = Path(f"{path}.part")
        super().save_checkpoint(checkpoint, part, storage_options)
        part.replace(path)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint that was written with `SaveConfig`, without running any code in it.

    One of CAREamics, too. Returns the "config" of the run, the "weights" of the model, the state of
    the "data" module, how many "epochs" and "steps" have been trained, and whether the training is
    "resumable".
    Raises a DataError if there is no such file, or it is no such checkpoint, has pickled code, a
    configuration of other than plain values, or weights or statistics that are no finite numbers.
    """
    content = read_checkpoint(path)
    if is_careamics(content):
        content = as_ours(content, path)
    if type(content) is not dict or type(content.get(KEY)) is not dict:
        raise unusable(path, "was not written by careamics-train: it has no configuration")
    config, weights = content[KEY], content.get("state_dict")
    data = [
        value
        for value in content.values()
        if isinstance(value, dict) and {"statistics", "n_channels"} <= value.keys()
    ]
    parts = all(type(config.get(part)) is dict for part in ("model", "data"))
    if weights is None or len(data) != 1 or not parts or not content.keys() >= _LIGHTNINGS:
        raise unusable(path, "is incomplete: it lacks weights, or the state of data or training")
    check_plain(config, path)
    check_plain(data[0], path)
    _check_weights(weights, path)
    _check_data(data[0], path)
    done = {"epochs": _epochs(content), "steps": content["global_step"]}
    done["resumable"] = "optimizer_states" in content
    return {"config": config, "weights": weights, "data": data[0]} | done


@contextmanager
def explaining_weights(path: str | None, advice: str) -> Iterator[None]:
    """Say in one message that the weights in a checkpoint are missing, surplus or misshapen."""
    try:
        yield
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        if not lines or not lines[0].startswith("Error(s) in loading state_dict"):
            raise
        raise DataError(
            f"checkpoint: the weights in {path} are not those of this network "
            f"({lines[1][:200]}). {advice}"
        ) from error


def _epochs(content: dict[str, Any]) -> int:
    """Count the epochs that were finished; at the end of one, "epoch" has not counted it yet."""
    found: Any = content
    for name in ("loops", "fit_loop", "epoch_progress", "current", "processed"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, int) else 0


def read_checkpoint(path: str | Path) -> Any:
    """Read what is in a checkpoint, without running any code in it."""
    path = checkpoint_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make it fail in any way
        blame_others(error, f"checkpoint: {path}")
        if _NEEDS_CODE.search(str(error)):
            raise DataError(
                f"checkpoint: {path} contains pickled objects, which could run code when loaded; "
                "it was refused and nothing of it was executed. Train with careamics-train, or "
                "save plain tensors."
            ) from error
        why = "is not a readable checkpoint: no checkpoint at all, or damaged"
        raise unusable(path, why) from error


def _check_weights(weights: Any, path: str | Path) -> None:
    if not isinstance(weights, dict) or not all(type(name) is str for name in weights):
        raise unusable(path, "is damaged: its weights have no names")
    for name, weight in weights.items():
        if fault := _fault_of_weight(weight):
            raise unusable(path, f"is damaged: its weight {name[:80]} {fault}")


def _fault_of_weight(weight: Any) -> str:
    """Say what is wrong with a weight; empty if nothing."""
    if type(weight) not in (torch.Tensor, torch.nn.Parameter):
        return f"is not a tensor but of type {type(weight).__name__}"
    if weight.layout != torch.strided or weight.device.type != "cpu" or weight.is_quantized:
        return "is not a plain tensor"
    # One value can be stretched to any size, and take all memory when it is copied.
    if weight.numel() * weight.element_size() > weight.untyped_storage().nbytes():
        return "has fewer values than its shape"
    return "" if torch.isfinite(weight).all() else "contains NaN or infinity"


def _check_data(data: dict[str, Any], path: str | Path) -> None:
    statistics, counts = data["statistics"], (data["n_channels"], data.get("n_target_channels"))
    if any(type(n) is not int or n < 1 for n in counts if n is not None):
        raise unusable(path, f"is damaged: its numbers of channels are {counts}")
    if type(statistics) is not dict or not statistics.keys() <= {"image", "target"}:
        raise unusable(path, "is damaged: its statistics are not of images and targets")
    for kind, numbers in statistics.items():
        if fault := _fault_of_statistics(numbers):
            raise unusable(path, f"is damaged: its statistics of the {kind}s {fault}")


def _fault_of_statistics(numbers: Any) -> str:
    """Say what is wrong with statistics; empty if nothing."""
    if type(numbers) is not dict or not {"offset", "scale"} <= numbers.keys() <= set(
        Affine._fields
    ):
        return "are not an offset and a scale"
    columns = [column for column in numbers.values() if column is not None]
    same = all(type(c) is list and len(c) == len(columns[0]) > 0 for c in columns)
    if not same or not all(type(x) in (int, float) for column in columns for x in column):
        return "are not numbers per channel"
    affine = Affine(**numbers)
    if (affine.low is None) != (affine.high is None):
        return "have only one of the limits low and high"
    if not all(map(is_finite, chain(*columns))) or min(affine.scale) <= 0:
        return f"are {numbers}; they must be finite, and the scale above 0"
    return ""
