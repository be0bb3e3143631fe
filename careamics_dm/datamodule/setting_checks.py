"""What each shared setting must be, by name."""

import multiprocessing
import re
from collections.abc import Callable
from typing import Any

from careamics_dm.errors import DataError
from careamics_dm.images import argument_checks as check
from careamics_dm.sampling.filters.base import PatchFilter
from careamics_dm.transforms import normalization as methods
from careamics_dm.transforms.augmentation import Augmentation, OwnAugmentation
from careamics_dm.transforms.normalization import Normalization

HOLD_OUT = ("patches", "samples", "images", "files")
METHODS: dict[str, type[Normalization]] = {
    "mean_std": methods.MeanStd,
    "min_max": methods.MinMax,
    "quantile": methods.Quantile,
    "none": methods.NoNormalization,
}


def _optional(check_value: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check_value(name, value)


def _whole(least: int, most: int = check.MOST) -> Callable[[str, Any], int]:
    return lambda name, value: check.number(name, value, least, most)


def _whole_or_none(least: int, most: int = check.MOST) -> Callable[[str, Any], int | None]:
    return lambda name, value: check.number(name, value, least, most, optional=True)


def _one_of(*choices: Any) -> Callable[[str, Any], Any]:
    return lambda name, value: check.one_of(name, value, choices)


def _method(name: str, value: Any) -> Normalization | str:
    if isinstance(value, Normalization):
        return value
    found: str = check.one_of(name, value, tuple(METHODS))
    return found


def _filter(name: str, value: Any) -> PatchFilter:
    if not isinstance(value, PatchFilter):
        raise DataError(
            f"{check.written(name, value)}: give an object, such as MaxFilter(threshold=500), or "
            "null."
        )
    return value


def _augmentation(name: str, value: Any) -> Augmentation | bool | OwnAugmentation:
    if isinstance(value, type):
        raise DataError(f"{name}={value.__name__}: give an object of this class, not the class.")
    found: Augmentation | bool | OwnAugmentation = value
    return (
        found if isinstance(value, Augmentation) or callable(value) else check.boolean(name, value)
    )


def _shard(name: str, value: Any) -> str:
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", str(value))
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise DataError(
            f"{check.written(name, value)}: give the number of this job and of all jobs, such as "
            "3/16."
        )
    return found[0]


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "axes": check.axes,
    "target_axes": _optional(check.axes),
    "trust_axes": check.boolean,
    "channels": check.channels,
    "target_channels": check.channels,
    "repeats": _one_of(None, "T", "S", "Z"),
    "patch_size": check.sizes,
    "z_as_samples": check.boolean,
    "batch_size": _whole_or_none(1),
    "sampling": _one_of("random", "grid"),
    "patches_per_epoch": _whole_or_none(1, 2**48),
    "patch_filter": _optional(_filter),
    "n_val_patches": _whole_or_none(0),
    "hold_out": _one_of(None, *HOLD_OUT),
    "n_folds": _whole_or_none(2),
    "fold": _whole(0),
    "small_images": _one_of("error", "pad", "skip"),
    "nan_policy": _one_of("error", "zero", "skip"),
    "in_memory": _one_of("auto", True, False),
    "pool_mib": _whole(1),
    "normalization": _method,
    "normalize_target": check.boolean,
    "exact_statistics": check.boolean,
    "augmentation": _augmentation,
    "tile_size": _optional(check.sizes),
    "tile_overlap": _optional(lambda name, value: check.sizes(name, value, least=0)),
    "shard": _optional(_shard),
    "batch_format": _one_of("dict", "tuple", "tensor"),
    "num_workers": _whole(0),
    "start_method": _one_of(None, *multiprocessing.get_all_start_methods()),
    "seed": _whole(0, 2**63 - 1),
}
"""What each value must be; data, targets and masks are judged when they are opened."""
