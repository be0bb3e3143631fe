"""CARE: restoration learned from pairs of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from torch.nn import functional as F

from careamics_dm.models.base import RestorationModule
from careamics_dm.models.batch import Batch, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch
    from torch import Tensor, nn
    from torch.optim.lr_scheduler import LRScheduler

    Loss: TypeAlias = Literal["mae", "mse"] | Callable[[Tensor, Tensor], Tensor]

_LOSSES = {"mae": F.l1_loss, "mse": F.mse_loss}


class CAREModule(RestorationModule):
    """Content-aware image restoration (Weigert et al., 2018): supervised, from pairs.

    The network sees an image and learns to give its target, such as a clean recording of the same
    sample. Targets may have other channels than the images.

    Of a run, the weights with the lowest ``val_loss`` are worth keeping: it is measured against
    clean images, so that lower is better, and once it rises the network learns the training
    images by heart.

    Parameters
    ----------
    network : nn.Module or callable
        The network or what builds it; see `RestorationModule`.
    loss : {"mae", "mse"} or callable
        Mean absolute error, as in the paper, mean squared error, or a function (or ``nn.Module``)
        that makes a scalar of prediction and target, both ``(N, C, (Z), Y, X)`` float32.
    size_divisor : int or None
        What sizes must be a multiple of; see `RestorationModule`.
    optimizer : callable or None
        Makes the optimiser; see `RestorationModule`.
    scheduler : callable or None
        Makes the scheduler; see `RestorationModule`.

    Raises
    ------
    ValueError
        If ``loss`` is a name that is not known.

    References
    ----------
    Weigert et al., "Content-aware image restoration: pushing the limits of fluorescence
    microscopy", Nature Methods 15, 2018.
    """

    learns_from: ClassVar[Literal["clean targets", "noisy targets"]] = "clean targets"
    keeps: ClassVar[Literal["best", "last"]] = "best"

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
        if isinstance(loss, str) and loss not in _LOSSES:
            raise ValueError(
                f"loss={loss!r} is not known; use 'mae', 'mse' or a function of prediction and "
                "target."
            )
        self.criterion = _LOSSES[loss] if isinstance(loss, str) else loss

    def loss(self, batch: Batch) -> Tensor:
        """Compare what the network makes of images with their targets.

        Parameters
        ----------
        batch : Batch
            Normalised images and targets, ``(N, C, (Z), Y, X)``.

        Returns
        -------
        Tensor
            Scalar.

        Raises
        ------
        ValueError
            If the batch has no target, or the network makes another shape than the target's.
        """
        image, target = unpack(batch)
        if target is None:
            raise ValueError(
                f"{type(self).__name__} learns from {self.learns_from}, but the batch has no "
                "target; let the loader yield {'image': ..., 'target': ...} or a tuple (image, "
                "target)."
            )
        return self.target_loss(self(image), target)

    def target_loss(self, restored: Tensor, target: Tensor) -> Tensor:
        """Return the loss of restored images; see `RestorationModule.target_loss`.

        Raises
        ------
        ValueError
            If their shape is not that of the targets.
        """
        if restored.shape != target.shape:
            raise ValueError(
                f"{type(self).__name__} compares output and target, but the network made "
                f"{tuple(restored.shape)} and the target is {tuple(target.shape)}; build it with "
                f"out_channels={target.shape[1]}, or select other target channels."
            )
        # Half precision would round the sum over many pixels.
        loss: Tensor = self.criterion(restored.float(), target)
        return loss
