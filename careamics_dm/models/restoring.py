"""Applying a network to images of any size, in one orientation or in all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from careamics_dm.augmentation import Augmentation, turn, turn_back

if TYPE_CHECKING:
    from collections.abc import Callable


def restore(network: Callable[[Tensor], Tensor], image: Tensor, size_divisor: int) -> Tensor:
    """Restore images of any size.

    Parameters
    ----------
    network : callable
        Keeps the spatial shape.
    image : Tensor
        ``(N, C, (Z), Y, X)``, mirrored at the far side of each axis up to the next multiple; the
        result is cut back.
    size_divisor : int
        What each spatial size must be a multiple of for the network.

    Returns
    -------
    Tensor
        float32, of the same spatial shape.
    """
    restored = network(mirror_up(image, size_divisor))
    # Half precision would round once more what is computed from it.
    inner = tuple(slice(size) for size in image.shape[2:])
    return restored[:, :, *inner].float()


def restore_in_all_orientations(
    restore_one: Callable[[Tensor], Tensor], image: Tensor, *, quarter_turns: bool
) -> tuple[Tensor, Tensor]:
    """Restore images flipped and turned in their YX plane, each turned back afterwards.

    Parameters
    ----------
    restore_one : callable
        Restores ``(N, C, (Z), Y, X)`` of any spatial size.
    image : Tensor
        ``(N, C, (Z), Y, X)``.
    quarter_turns : bool
        All eight flips and quarter turns; else the four flips.

    Returns
    -------
    mean : Tensor
        Of the results, pixel by pixel.
    deviation : Tensor
        Their standard deviation: the root of the mean squared deviation from ``mean``.
    """
    # Any square patch size gives the list; images themselves need not be square.
    orientations = Augmentation("YX", quarter_turns).orientations((1, 1))
    mean = squares = torch.zeros(())
    # Welford (Technometrics 4, 1962): stable, and however many, three images are held.
    for n, orientation in enumerate(orientations, start=1):
        one = turn_back(restore_one(turn(image, orientation)), orientation)
        if n == 1:
            mean, squares = one, torch.zeros_like(one)
            continue
        difference = one - mean
        mean = mean + difference / n
        squares = squares + difference * (one - mean)
    return mean, (squares / len(orientations)).sqrt()


def mirror_up(x: Tensor, size_divisor: int) -> Tensor:
    """Extend each spatial axis by reflection at its far side to the next multiple."""
    for axis in range(2, x.ndim):
        size = x.shape[axis]
        missing = -size % size_divisor
        if missing:
            # Back and forth as often as needed: F.pad would refuse to reflect by more than size.
            period = max(2 * size - 2, 1)
            place = torch.arange(size + missing, device=x.device) % period
            x = x.index_select(axis, torch.minimum(place, period - place))
    return x
