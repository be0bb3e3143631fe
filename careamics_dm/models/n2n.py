"""Noise2Noise: restoration learned from pairs of noisy images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from careamics_dm.models.care import CAREModule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch
    from torch import nn
    from torch.optim.lr_scheduler import LRScheduler

    from careamics_dm.models.care import Loss


class N2NModule(CAREModule):
    """Noise2Noise (Lehtinen et al., 2018): CARE whose targets are noisy, too.

    Image and target are two recordings of the same sample whose noise is independent. The network
    cannot predict the noise of the target, so the least squared error is reached by the target's
    mean: the signal, if the noise has zero mean. Hence the squared error, where CARE has the
    absolute one: its minimiser is the median, which differs from the signal where noise is skewed.

    Of a run, the last weights are worth keeping. ``val_loss`` is measured against noise: it is at
    least the noise's variance, beside which differences of image quality are small, and its
    minimum is where the noise of a few validation patches happened to suit.

    Parameters
    ----------
    network : nn.Module or callable
        The network or what builds it; see `RestorationModule`.
    loss : {"mae", "mse"} or callable
        See `CAREModule`.
    size_divisor : int or None
        What sizes must be a multiple of; see `RestorationModule`.
    optimizer : callable or None
        Makes the optimiser; see `RestorationModule`.
    scheduler : callable or None
        Makes the scheduler; see `RestorationModule`.

    References
    ----------
    Lehtinen et al., "Noise2Noise: learning image restoration without clean data", ICML 2018.
    """

    learns_from = "noisy targets"
    keeps = "last"

    def __init__(
        self,
        network: nn.Module | Callable[..., nn.Module],
        *,
        loss: Loss = "mse",
        size_divisor: int | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
        scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
    ) -> None:
        super().__init__(
            network,
            loss=loss,
            size_divisor=size_divisor,
            optimizer=optimizer,
            scheduler=scheduler,
        )
