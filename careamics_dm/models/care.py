"""CARE: restoration learned from pairs of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from careamics_dm.models.base import RestorationModule
from careamics_dm.models.supervised import make_criterion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch
    from torch import nn
    from torch.optim.lr_scheduler import LRScheduler

    from careamics_dm.models.supervised import Loss


class CAREModule(RestorationModule):
    """Content-aware image restoration (Weigert et al., 2018): supervised, from pairs.

    The network sees an image and learns to predict its target, such as a clean recording of the
    same sample. Targets may have other channels than the images. The paper's loss is the mean
    absolute error.

    The weights with the lowest ``val_loss`` are saved: it is measured against clean images, and
    once it rises the network memorises the training images.

    Parameters
    ----------
    network : nn.Module or callable
        The network or its builder; see `RestorationModule`.
    loss : {"mae", "mse"} or callable
        Mean absolute or squared error, or a function of your own. It (or an ``nn.Module``) computes
        a scalar from prediction and target, both ``(N, C, (Z), Y, X)`` float32.
    size_divisor, optimizer, scheduler
        See `RestorationModule`.

    Raises
    ------
    ValueError
        If there is no loss of that name.

    References
    ----------
    Weigert et al., "Content-aware image restoration: pushing the limits of fluorescence
    microscopy", Nature Methods 15, 2018.
    """

    learns_from = "clean targets"
    keeps = "best"

    def __init__(
        self,
        network: nn.Module | Callable[..., nn.Module],
        *,
        loss: Loss = "mae",
        size_divisor: int | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
        scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
    ) -> None:
        super().__init__(
            network, size_divisor=size_divisor, optimizer=optimizer, scheduler=scheduler
        )
        self.criterion = make_criterion(loss)
