"""Noise2Noise: restoration learned from pairs of noisy images."""

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


class N2NModule(RestorationModule):
    """Noise2Noise (Lehtinen et al., 2018): supervised like CARE, but with noisy targets.

    Image and target are two recordings of the same sample whose noise is independent. The network
    cannot predict the noise of the target, so the least squared error is reached by the target's
    mean: the signal, if the noise has zero mean. The absolute error of CARE is minimised by the
    median, which differs from the signal where noise is skewed.

    The last weights are saved. ``val_loss`` is measured against noise: it is at least the noise's
    variance, beside which differences in image quality are small, so its minimum is where the
    noise of a few validation patches happened to suit.

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
            network, size_divisor=size_divisor, optimizer=optimizer, scheduler=scheduler
        )
        self.criterion = make_criterion(loss)
