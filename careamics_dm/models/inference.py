"""Restoring images of any size, in one orientation or in all."""

from collections.abc import Callable

import torch
from torch import Tensor

from careamics_dm.transforms.augmentation import Augmentation, turn, turn_back


def restore(network: Callable[[Tensor], Tensor], image: Tensor, size_divisor: int) -> Tensor:
    """Restore images of any size as float32: mirror up to a multiple of ``size_divisor``, cut."""
    restored = network(mirror_up(image, size_divisor))
    # Half precision would round again whatever is computed from it.
    inner = tuple(slice(size) for size in image.shape[2:])
    return restored[:, :, *inner].float()


def restore_in_all_orientations(
    restore_one: Callable[[Tensor], Tensor], image: Tensor, *, quarter_turns: bool
) -> tuple[Tensor, Tensor]:
    """Restore images flipped and turned in YX; returns mean and standard deviation per pixel."""
    # Any square patch size gives the list; the images need not be square.
    orientations = Augmentation("YX", quarter_turns).orientations((1, 1))
    mean = squares = torch.zeros(())
    # Welford (Technometrics 4, 1962): stable, and never holds more than three images.
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
    """Extend each spatial axis to the next multiple by reflection at its far end."""
    for axis in range(2, x.ndim):
        size = x.shape[axis]
        missing = -size % size_divisor
        if missing:
            # Back and forth as often as needed: F.pad would refuse to reflect by more than size.
            period = max(2 * size - 2, 1)
            place = torch.arange(size + missing, device=x.device) % period
            x = x.index_select(axis, torch.minimum(place, period - place))
    return x
