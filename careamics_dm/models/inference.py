"""Images of any size for a network, and restoring them in all orientations."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from careamics_dm.errors import DataError
from careamics_dm.models.unet import per_axis
from careamics_dm.sources.data_warnings import say
from careamics_dm.transforms.augmentation import Augmentation, turn, turn_back


class Restoring:
    """Restores batches, in parts if the GPU has too little memory for all at once."""

    def __init__(self) -> None:
        self._most: dict[torch.Size, int] = {}
        """How many images of a shape to restore at once, where memory has run out before."""

    def __call__(
        self,
        network: Callable[[Tensor], Tensor],
        image: Tensor,
        size_divisor: int | Sequence[int],
        quarter_turns: bool | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Restore images of any size, ``(N, C, (Z), Y, X)``, as float32.

        With ``quarter_turns``, or ``False`` for flips alone, restore them in all orientations, and
        return their standard deviation, too. `DataError` if a single image does not fit into
        memory.
        """
        shape = image.shape[1:]
        while True:
            most = max(min(self._most.get(shape, len(image)), len(image)), 1)
            try:
                parts = image.split(most)
                if quarter_turns is None:
                    return _join([restore(network, part, size_divisor) for part in parts]), None
                how = size_divisor, quarter_turns
                turned = [restore_in_all_orientations(network, part, *how) for part in parts]
                mean, deviation = map(_join, zip(*turned, strict=True))
                return mean, deviation
            except RuntimeError as error:  # on Apple's GPUs, not a torch.OutOfMemoryError
                if "out of memory" not in str(error):
                    raise
                if most == 1:
                    raise DataError(
                        f"the GPU has too little memory for a single tile or image of "
                        f"{tuple(shape[1:])} pixels. Use a smaller data.tile_size."
                    ) from error
            # Outside ``except``: until it ends, the error keeps the network's results alive.
            torch.cuda.empty_cache()
            self._most[shape] = most // 2
            say(
                f"the GPU has too little memory for {most} tiles or images at once: continuing "
                f"with {most // 2}"
            )


def _join(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


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
