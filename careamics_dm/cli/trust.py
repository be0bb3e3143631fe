"""What a checkpoint may name: classes by kind, plain values, and nothing that runs code."""

import pydoc
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from careamics_dm.errors import DataError

OURS = {
    *("UNet", "N2VModule", "CAREModule", "N2NModule", "Neighbor2NeighborModule"),
    *("Masking", "Augmentation"),
    *("MeanStd", "MinMax", "Quantile", "NoNormalization"),
    *("MaxFilter", "MeanStdFilter", "EntropyFilter"),
    *(f"{name}DataModule" for name in ("Array", "Tiff", "Czi", "Zarr", "Custom")),
}
"""Public classes of careamics_dm that a checkpoint may name. Files move, so any module path of
careamics_dm before one of these names stands for the public class."""
TORCHS: dict[str, type] = {
    "torch.optim.lr_scheduler": torch.optim.lr_scheduler.LRScheduler,
    "torch.optim": torch.optim.Optimizer,
    "torch.nn": torch.nn.Module,
}
"""Modules of torch of which the public classes of a kind may be named: schedulers, optimisers,
and layers with losses."""
OF_RUNS = (
    *("careamics_dm.samples.noisy", "careamics_dm.samples.clean"),
    "lightning.pytorch.callbacks.EarlyStopping",
    *(f"lightning.pytorch.loggers.{name}Logger" for name in ("CSV", "TensorBoard", "Wandb")),
)
"""What runs of ours name besides, which a run that goes on may take from its checkpoint."""
_OF_ALL_RUNS = {
    "lightning.Trainer",
    *(f"careamics_dm.{name}" for name in ("SaveModel", "LearningRate", "Pictures")),
    *(f"careamics_dm.{kind}Writer" for kind in ("Auto", "Tiff", "Zarr")),
}
FUNCTIONS = ("read_func", "image_stack_loader")
"""Arguments that are import paths of functions."""
_PLAIN = (str, int, float, bool, type(None))
_KEYS: dict[str, tuple[Any, ...]] = {
    "_partial_": (True, False),
    "_convert_": ("none", "partial", "object", "all"),
}
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_DEEPEST, _MOST = 50, 100_000


def to_trust(config: Any) -> set[str]:
    """Return the packages that ``trusted`` has to list to go on with a run so configured."""
    found = set()
    for key, value in config.items() if isinstance(config, dict) else enumerate(config):
        if isinstance(value, dict | list):
            found |= to_trust(value)
        elif key in FUNCTIONS and value is not None:
            found.add(str(value).replace(":", ".").split(".")[0])
        elif key == "_target_" and value not in OF_RUNS and value not in _OF_ALL_RUNS:
            found |= set() if _public_name(value) else {value.split(".")[0]}
    return found


def check_plain(config: Any, path: str | Path) -> None:
    """Check that a configuration holds dicts, lists and plain values only, and no interpolation.

    Raises a DataError, too, if there is more in it than a configuration would hold.
    """
    left, count = [(config, 0)], 0
    while left:
        value, depth = left.pop()
        count += 1
        if depth > _DEEPEST or count > _MOST:
            raise _refused(path, "is nested too deeply or too large for the settings of a run")
        if type(value) is dict:
            # Keys are values, too; nothing may hide in them.
            left += [(key, _DEEPEST) for key in value]
        if type(value) in (dict, list):
            inner = value.values() if type(value) is dict else value
            left += [(item, depth + 1) for item in inner]
        elif type(value) not in _PLAIN:
            raise _refused(path, f"contains a {type(value).__name__}, which is no plain value")
        elif type(value) is str and "${" in value:
            raise _refused(path, f"contains the interpolation {value[:80]!r}")


def is_finite(value: Any) -> bool:
    """Whether a value is a number that a float can hold."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def check_config(config: Any, trusted: Sequence[str], path: str | Path) -> Any:
    """Check what a configuration from a checkpoint asks to call; return it with public names.

    ``trusted`` are import prefixes of which everything is allowed, besides `OURS` and `TORCHS`.
    Raises a DataError for any other ``_target_`` or function, for keys for Hydra except
    ``_target_``, ``_partial_`` and ``_convert_``, and for what `check_plain` refuses.
    """
    check_plain(config, path)
    prefixes = [trusted] if isinstance(trusted, str) else [str(prefix) for prefix in trusted or ()]
    return _check(config, prefixes, path)


def _check(config: Any, trusted: Sequence[str], path: str | Path) -> Any:
    if isinstance(config, list):
        return [_check(value, trusted, path) for value in config]
    if not isinstance(config, dict):
        return config
    checked = {}
    for key, value in config.items():
        name = str(key)
        if name == "_target_":
            checked[key] = _check_target(value, trusted, path)
            continue
        if name in FUNCTIONS and value is not None:
            _check_trusted(str(value).replace(":", "."), trusted, path)
        elif name.startswith("_") and not _is_hydras(name, value):
            raise _refused(path, f"contains {name}: {str(value)[:80]}, which no run writes")
        checked[key] = _check(value, trusted, path)
    return checked


def _is_hydras(key: str, value: Any) -> bool:
    """Whether a key for Hydra is allowed and has a value of the right type."""
    return any(type(value) is type(one) and value == one for one in _KEYS.get(key, ()))


def _check_target(target: Any, trusted: Sequence[str], path: str | Path) -> str:
    if not isinstance(target, str) or not _PATH.fullmatch(target):
        raise _refused(path, f"contains _target_: {str(target)[:80]!r}, which is no import path")
    name = _public_name(target)
    if name is None:
        _check_trusted(target, trusted, path)
    return name or target


def _public_name(target: str) -> str | None:
    """Return the public name of an allowed class of careamics_dm or torch; None for all else.

    ``careamics_dm.UNet`` for ``careamics_dm.models.unet.UNet``, or wherever the class was in an
    earlier version. Names are compared; nothing that a checkpoint names is imported.
    """
    home, _, name = target.rpartition(".")
    if home.split(".")[0] == "careamics_dm":
        return f"careamics_dm.{name}" if name in OURS else None
    for module, kind in TORCHS.items():
        found = vars(pydoc.locate(module)).get(name)
        is_one = isinstance(found, type) and issubclass(found, kind)
        if is_one and home in (module, found.__module__) and found.__module__.startswith(module):
            return f"{module}.{name}"
    return None


def _check_trusted(target: str, trusted: Sequence[str], path: str | Path) -> None:
    """Refuse what is not of a trusted package; what leads out of it, as ``mine.os.system``, too."""
    if target in trusted:
        return
    top, asks = target.split(".")[0], f"checkpoint: {path} asks for {target}"
    if not target.startswith(tuple(f"{prefix.rstrip('.')}." for prefix in trusted)):
        raise DataError(
            f"{asks}, which is no network, model, normalisation, augmentation or filter of "
            "careamics_dm, and no optimizer, scheduler or module of torch. It was refused. If you "
            f"trust it, allow its package: trusted=[{top}]"
        )
    try:
        found = pydoc.locate(target)
    except pydoc.ErrorDuringImport as error:
        raise DataError(f"{asks}: {error}") from error
    if found is None:
        raise DataError(f"{asks}, but there is no such thing here. Is its package up to date?")
    home = str(getattr(found, "__module__", None)).split(".")[0]
    if home not in {prefix.split(".")[0] for prefix in trusted}:
        raise DataError(
            f"{asks}, which leads out of the trusted package, to {home}. It was refused. If you "
            f"trust it: trusted=[{top},{home}]"
        )


def _refused(path: str | Path, why: str) -> DataError:
    return DataError(
        f"checkpoint: {path} was refused: its configuration {why}. careamics-train writes nothing "
        "of the kind. Name a model.ckpt of a run."
    )
