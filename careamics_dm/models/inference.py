"""Images of any size for a network, and restoring them in all orientations."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from careamics_dm.models.unet import per_axis
from careamics_dm.transforms.augmentation import Augmentation, turn, turn_back


def restore_in_all_orientations(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    size_divisor: int | Sequence[int],
    quarter_turns: bool,
) -> tuple[Tensor, Tensor]:
    """Restore images flipped and turned in YX; returns mean and standard deviation per pixel."""
    # Before it is turned, so that pixels have one place on the network's grid.
    image, inner = mirror_up(image, size_divisor), [slice(n) for n in image.shape[2:]]
    # Any square patch size gives the list; the images need not be square.
    orientations = Augmentation("YX", quarter_turns).orientations((1, 1))
    mean = squares = torch.zeros(())
    # Welford (Technometrics 4, 1962): stable, and never holds more than three images.
    for n, orientation in enumerate(orientations, start=1):
        one = turn_back(network(turn(image, orientation)).float(), orientation)
        if n == 1:
            mean, squares = one, torch.zeros_like(one)
            continue
        difference = one - mean
        mean = mean + difference / n
        squares = squares + difference * (one - mean)
    return mean[:, :, *inner], (squares / len(orientations)).sqrt()[:, :, *inner]


def restore(
    network: Callable[[Tensor], Tensor], image: Tensor, size_divisor: int | Sequence[int]
) -> Tensor:
    """Restore an image of any size, ``(N, C, (Z), Y, X)``, as float32."""
    inner = [slice(n) for n in image.shape[2:]]
    return network(mirror_up(image, size_divisor))[:, :, *inner].float()


def mirror_up(x: Tensor, size_divisor: int | Sequence[int]) -> Tensor:
    """Extend each spatial axis to the next multiple by reflection at its far end."""
    for axis, divisor in enumerate(per_axis(size_divisor, x.ndim - 2), start=2):
        size = x.shape[axis]
        missing = -size % divisor
        if missing:
            # Back and forth as often as needed: F.pad would refuse to reflect by more than size.
            period = max(2 * size - 2, 1)
            place = torch.arange(size + missing, device=x.device) % period
            x = x.index_select(axis, torch.minimum(place, period - place))
    return x
