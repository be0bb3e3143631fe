"""Building a network for the data that it is to see, and checking that the two suit each other."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from careamics_dm.models.unet import misfit

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


def build_network(
    build: Callable[..., nn.Module], data: Any, out_channels: int | None
) -> nn.Module:
    """Build a network with those of in_channels, out_channels and dims that it accepts.

    ``spatial_dims`` works instead of ``dims`` (MONAI); what a ``functools.partial`` has set stays.
    Raises a ValueError if a number that ``build`` accepts is unknown.
    """
    patch_size = getattr(data, "patch_size", None)
    dims = None if patch_size is None else len(patch_size)
    numbers = {
        "in_channels": getattr(data, "n_channels", None),
        "out_channels": out_channels,
        "dims": dims,
        "spatial_dims": dims,
    }
    accepted = {name: numbers[name] for name in _accepted(build)}
    if None in accepted.values():
        found = f"{type(data).__name__} lacks one of them"
        raise ValueError(
            "The network is to be built from n_channels and patch_size of the trainer's "
            f"data module, but {'there is no data module' if data is None else found}; pass a "
            "built network, such as UNet(1, dims=2)."
        )
    return build(**accepted)


def check_channels(network: nn.Module, n_channels: int | None, out_channels: int | None) -> None:
    """Raise a ValueError where the channels of a network, if known, are not those of the data."""
    takes, makes = (getattr(network, name, None) for name in ("in_channels", "out_channels"))
    advice = "select other channels or build the network for these."
    if None not in (takes, n_channels) and takes != n_channels:
        raise ValueError(
            f"The network takes in_channels={takes}, but the data have n_channels={n_channels}; "
            f"{advice}"
        )
    if None not in (makes, out_channels) and makes != out_channels:
        raise ValueError(
            f"The network makes out_channels={makes}, but {out_channels} are to be restored from "
            f"these data; {advice}"
        )


def check_patch_size(patch_size: tuple[int, ...], size_divisor: int) -> None:
    """Raise a ValueError where training patches, ``(Z) Y X``, do not suit the network."""
    if problem := misfit(patch_size, size_divisor):
        raise ValueError(f"patch_size={tuple(patch_size)} does not suit the network: {problem}")


def _accepted(build: Callable[..., nn.Module]) -> list[str]:
    parameters = inspect.signature(build).parameters
    given = build.keywords if isinstance(build, functools.partial) else {}
    any_keyword = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    dims = "spatial_dims" if "spatial_dims" in parameters else "dims"
    names = ("in_channels", "out_channels", dims)
    return [n for n in names if (n in parameters or any_keyword) and n not in given]
