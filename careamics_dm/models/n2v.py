"""Noise2Void: denoising learned from the noisy images alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.trainer.states import TrainerFn

from careamics_dm.models.base import Batch, RestorationModule
from careamics_dm.models.masking import Masking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor, nn
    from torch.optim.lr_scheduler import LRScheduler

_SEED = 42


class N2VModule(RestorationModule):
    """Noise2Void (Krull et al., 2019) and its kin, N2V2 and structN2V.

    The network sees images whose blind spots are replaced and learns to give the original value
    there. Noise that is independent between pixels cannot be predicted from the surroundings, so
    what it gives is the signal. The masking decides which kin it is: ``strategy="median"`` with a
    network ``UNet(..., n2v2=True)`` is N2V2 (Höck et al., 2022), ``struct_axis`` is structN2V
    (Broaddus et al., 2020).

    In training, blind spots are drawn from torch's global generator of the device. In validation
    and test they are the same in each epoch, so that losses compare.

    Parameters
    ----------
    network : nn.Module or callable
        The network or what builds it; see `RestorationModule`. As many channels out as in.
    masking : Masking or None
        Which pixels to hide and how; None: ``Masking()``.
    optimizer : callable or None
        Makes the optimiser; see `RestorationModule`.
    scheduler : callable or None
        Makes the scheduler; see `RestorationModule`.

    References
    ----------
    Krull et al., "Noise2Void: learning denoising from single noisy images", CVPR 2019.
    Höck et al., "N2V2: fixing Noise2Void checkerboard artifacts with modified sampling strategies
    and a tweaked network architecture", ECCV Workshops 2022. Broaddus et al., "Removing structured
    noise with self-supervised blind-spot networks", ISBI 2020.
    """

    def __init__(
        self,
        network: nn.Module | Callable[..., nn.Module],
        *,
        masking: Masking | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
        scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
    ) -> None:
        super().__init__(network, optimizer=optimizer, scheduler=scheduler)
        self.masking = masking or Masking()
        self._fixed: torch.Generator | None = None

    def _check_data(self, data: Any) -> None:
        super()._check_data(data)
        line = self.masking.struct_axis
        turns = getattr(getattr(data, "augmentation", None), "quarter_turns", False)
        if turns and line in ("Y", "X") and self.trainer.state.fn == TrainerFn.FITTING:
            raise ValueError(
                f"masking.struct_axis={line} is the axis of the noise, but quarter turns of the "
                "patches would turn it off that axis. Switch them off: data.augmentation=false, or "
                'Augmentation(flip="YX", quarter_turns=False).'
            )

    def mask(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Hide blind spots, as the loss does; for looking at.

        Parameters
        ----------
        batch : Batch
            Normalised images, ``(N, C, (Z), Y, X)``; a target is ignored.

        Returns
        -------
        masked : Tensor
            What the network sees.
        mask : Tensor
            bool, the same shape: True at blind spots.
        """
        image = self.unpack(batch)[0]
        if self.training:
            return self.masking(image)
        if self._fixed is None or self._fixed.device != image.device:
            self._fixed = torch.Generator(image.device).manual_seed(_SEED)
        return self.masking(image, self._fixed)

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error at the blind spots.

        Parameters
        ----------
        batch : Batch
            Normalised images, ``(N, C, (Z), Y, X)``; a target is ignored.

        Returns
        -------
        Tensor
            Scalar; 0 if a small batch happens to have no blind spot.

        Raises
        ------
        ValueError
            If the network changes the shape.
        """
        image = self.unpack(batch)[0]
        masked, mask = self.mask(batch)
        restored = self(masked)
        if restored.shape != image.shape:
            raise ValueError(
                f"Noise2Void compares output and input, but the network made "
                f"{tuple(restored.shape)} of {tuple(image.shape)}; give it as many channels out "
                "as in."
            )
        # Weighted by the mask, not indexed: indexing would make the host wait for the device.
        error = torch.where(mask, restored.float() - image, 0.0)
        return error.square().sum() / mask.sum().clamp(min=1)

    def on_validation_epoch_start(self) -> None:
        """Start the fixed sequence of blind spots anew."""
        self._fixed = None

    def on_test_epoch_start(self) -> None:
        """Start the fixed sequence of blind spots anew."""
        self._fixed = None
