"""Neighbor2Neighbor: denoising learned from pairs of neighbouring pixels of noisy images."""

from typing import Any

import torch
from torch import Tensor, nn

from careamics_dm.images import argument_checks as check
from careamics_dm.models.base import RestorationModule
from careamics_dm.models.batch import Batch, unpack
from careamics_dm.models.inference import restore
from careamics_dm.models.learning_plan import MakeOptimizer, MakeScheduler
from careamics_dm.models.trainer_data import Build, generator_of_step, warn_of_correlated_noise

_SEED = 42
_PAIRS = ((0, 1), (1, 0), (2, 3), (3, 2), (0, 2), (2, 0), (1, 3), (3, 1))
"""Neighbours along X or Y in a square of 2 × 2 pixels, which are numbered along X, then Y."""


class Neighbor2NeighborModule(RestorationModule):
    """Neighbor2Neighbor (Huang et al., 2021): from noisy images alone.

    Of each square of 2 × 2 pixels in YX, two neighbours are drawn at random; they make two images
    of half the size, from one of which the network learns to predict the other. Noise that is
    independent between pixels can't be predicted. The signal of neighbours may differ; a second
    term of the loss corrects for that by what the network makes of the image in full size.

    ``val_loss`` compares with noisy pixels, as that of Noise2Void does; see `N2VModule`.

    Parameters
    ----------
    network : nn.Module or callable
        The network or its builder; see `RestorationModule`. As many channels out as in.
    gamma : float
        Weight of the second term: with more, less noise is left, and fewer details.
    size_divisor, optimizer, scheduler, compile
        See `RestorationModule`.

    References
    ----------
    Huang et al., "Neighbor2Neighbor: self-supervised denoising from single noisy images", 2021.
    """

    learns_from = "noisy images"
    keeps = "last"
    restores_to = "image"

    def __init__(
        self,
        network: Build | nn.Module,
        *,
        gamma: float = 2.0,
        size_divisor: int | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
        compile: bool | dict[str, Any] = False,
    ) -> None:
        shared: dict[str, Any] = {"optimizer": optimizer, "scheduler": scheduler}
        super().__init__(network, size_divisor=size_divisor, compile=compile, **shared)
        if not check.is_number(gamma) or gamma < 0:
            raise ValueError(f"gamma={gamma!r} weights no loss; give a number, at least 0.")
        self.gamma = gamma
        self._drawn: torch.Generator | None = None

    def check_patch_size(self, patch_size: tuple[int, ...]) -> None:
        """Raise a ValueError where half of a training patch does not suit the network."""
        if any(n % 2 for n in patch_size[-2:]):
            raise ValueError(f"patch_size={patch_size}: Y and X are halved, so they must be even.")
        super().check_patch_size((*patch_size[:-2], *(n // 2 for n in patch_size[-2:])))

    def configure_model(self) -> None:
        """Check what `RestorationModule.configure_model` does, and the noise of the images."""
        super().configure_model()
        warn_of_correlated_noise(self)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """See `RestorationModule.training_step`; pairs follow from the place in the run."""
        self._drawn = generator_of_step(self, _SEED, batch, batch_idx)
        loss = super().training_step(batch, batch_idx)
        self._drawn = None
        return loss

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of both terms; a target is ignored."""
        image = unpack(batch)[0]
        fixed = None if self.training else torch.Generator(image.device).manual_seed(_SEED)
        pairs = draw_pairs(image, self._drawn or fixed)
        first, second = take_pairs(image, pairs)
        with torch.no_grad():
            whole = take_pairs(restore(self, image, self.size_divisor), pairs)
        error = restore(self, first, self.size_divisor) - second
        correction = error - (whole[0] - whole[1])
        return error.square().mean() + self.gamma * correction.square().mean()


def draw_pairs(image: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw two neighbours of each square of an image, the same in all channels: ``(..., 2)``."""
    *rest, height, width = image.shape
    shape = (rest[0], 1, *rest[2:], height // 2, width // 2)
    number = torch.randint(len(_PAIRS), shape, generator=generator, device=image.device)
    return torch.tensor(_PAIRS, device=image.device)[number]


def take_pairs(image: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the second of each pair, as images of half the size along Y and X."""
    height, width = pairs.shape[-3:-1]
    inner = image[..., : 2 * height, : 2 * width].unflatten(-1, (width, 2))
    squares = inner.unflatten(-3, (height, 2)).transpose(-3, -2).flatten(-2)
    first, second = squares.gather(-1, pairs.expand(*squares.shape[:-1], 2)).unbind(-1)
    return first, second
