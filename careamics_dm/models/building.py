"""Building a network for the data it is to see, and checking that both suit each other."""

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
    """Call what builds a network with what it takes of the data's numbers.

    Parameters
    ----------
    build : callable
        A class or function. It gets those of ``in_channels``, ``out_channels`` and ``dims`` that
        its signature names (all, if it takes any keyword), ``spatial_dims`` instead of ``dims``
        where it names that (MONAI), and none that a ``functools.partial`` has set.
    data : object
        The data module, with ``n_channels`` and ``patch_size``; or None.
    out_channels : int or None
        Channels to restore; None if unknown.

    Returns
    -------
    nn.Module
        The network.

    Raises
    ------
    ValueError
        If a number that ``build`` takes is unknown.
    """
    patch_size = getattr(data, "patch_size", None)
    dims = None if patch_size is None else len(patch_size)
    known = {
        "in_channels": getattr(data, "n_channels", None),
        "out_channels": out_channels,
        "dims": dims,
        "spatial_dims": dims,
    }
    numbers = {name: known[name] for name in _wanted(build)}
    if None in numbers.values():
        found = f"{type(data).__name__} lacks one of them"
        raise ValueError(
            "The network is to be built from n_channels and patch_size of the trainer's "
            f"data module, but {'there is no data module' if data is None else found}; pass a "
            "built network, such as UNet(1, dims=2)."
        )
    return build(**numbers)


def check_channels(network: nn.Module, n_channels: int | None, out_channels: int | None) -> None:
    """Compare channels of a network with those of the data, each as far as known.

    Parameters
    ----------
    network : nn.Module
        Its ``in_channels`` and ``out_channels`` count, where it has them.
    n_channels : int or None
        Channels of the images.
    out_channels : int or None
        Channels to restore.

    Raises
    ------
    ValueError
        If they differ.
    """
    takes, makes = (getattr(network, name, None) for name in ("in_channels", "out_channels"))
    if None not in (takes, n_channels) and takes != n_channels:
        raise ValueError(
            f"The network takes in_channels={takes}, but the data have n_channels={n_channels}; "
            "select other channels or build the network for these."
        )
    if None not in (makes, out_channels) and makes != out_channels:
        raise ValueError(
            f"The network makes out_channels={makes}, but {out_channels} are to be restored from "
            "these data; select other channels or build the network for these."
        )


def check_patch_size(patch_size: tuple[int, ...], size_divisor: int) -> None:
    """Raise a ValueError where training patches, ``(Z) Y X``, do not suit the network."""
    problem = misfit(patch_size, size_divisor)
    if problem:
        raise ValueError(f"patch_size={tuple(patch_size)} does not suit the network: {problem}")


def lack_of_targets(module: str, learns_from: str, role: str) -> ValueError:
    """Say that the data of a role, such as "train", lack the targets that a module needs."""
    other = "; Noise2Void (model=n2v) learns without targets" if role == "train" else ""
    return ValueError(
        f"{module} learns from {learns_from}, but {role}_data has no targets. Give {role}_target, "
        "or target_channels for channels of the same images, or repeats for repeated frames of "
        f"one file{other}."
    )


def _wanted(build: Callable[..., nn.Module]) -> list[str]:
    parameters = inspect.signature(build).parameters
    given = build.keywords if isinstance(build, functools.partial) else {}
    any_keyword = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    dims = "spatial_dims" if "spatial_dims" in parameters else "dims"
    names = ("in_channels", "out_channels", dims)
    return [n for n in names if (n in parameters or any_keyword) and n not in given]
