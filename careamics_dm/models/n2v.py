"""Noise2Void: denoising learned from the noisy images alone."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from careamics_dm.models.base import RestorationModule
from careamics_dm.models.batch import Batch, unpack
from careamics_dm.models.masking import Masking
from careamics_dm.models.trainer_data import (
    Build,
    data_of,
    generator_of_step,
    parts_of,
    warn_of_correlated_noise,
)

_SEED = 42
_KEY = "mask_seed"
"""Name of the seed in a checkpoint."""


class N2VModule(RestorationModule):
    """Noise2Void (Krull et al., 2019) and its variants, N2V2 and structN2V.

    The network sees images whose blind spots are replaced and learns to predict the original values
    there. Noise that is independent between pixels cannot be predicted from the surroundings, so
    the prediction is the signal. The masking decides the variant: ``strategy="median"`` with a
    network ``UNet(..., n2v2=True)`` is N2V2 (Höck et al., 2022), ``struct_mask`` is structN2V
    (Broaddus et al., 2020).

    In training, blind spots follow from torch's seed when the model is made, which checkpoints
    carry, and from epoch, batch and rank: a resumed run draws the same. In validation and test they
    are the same in each epoch, so that losses can be compared.

    ``val_loss`` shows whether training fails, but is a poor criterion for choosing weights, models
    or settings in a sweep. It compares predictions with noisy pixels: even a perfect prediction has
    a loss of the noise's variance (Krull et al., 2019; Lehtinen et al., 2018), beside which
    differences in image quality are small, and only the few blind spots count, so chance weighs
    heavily. It also changes with the masking, and is lower where noise is correlated and the
    network learns to predict it. So the last weights are saved; where there are clean images for
    validation, ``val_psnr`` and the other scores compare with these.

    Parameters
    ----------
    network : nn.Module or callable
        The network or its builder; see `RestorationModule`. As many channels out as in.
    masking : Masking or None
        Which pixels to hide and how; None: ``Masking()``.
    size_divisor, optimizer, scheduler, compile
        See `RestorationModule`.

    References
    ----------
    Krull et al., CVPR 2019. Höck et al., ECCV Workshops 2022. Broaddus et al., ISBI 2020; for the
    titles see `Masking`. Lehtinen et al., ICML 2018; see `N2NModule`.
    """

    learns_from = "noisy images"
    keeps = "last"
    restores_to = "image"

    def __init__(
        self,
        network: Build | nn.Module,
        *,
        masking: Masking | None = None,
        size_divisor: int | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
        scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
        compile: bool | dict[str, Any] = False,
    ) -> None:
        shared: dict[str, Any] = {"optimizer": optimizer, "scheduler": scheduler}
        super().__init__(network, size_divisor=size_divisor, compile=compile, **shared)
        self.masking = masking or Masking()
        self._seed = torch.initial_seed()
        self._drawn: torch.Generator | None = None
        self._fixed: torch.Generator | None = None

    @property
    def quarter_turns(self) -> bool:
        """False where noise is hidden along X or Y, which a quarter turn would exchange."""
        return self.masking.struct_mask not in ("horizontal", "vertical")

    def configure_model(self) -> None:
        """Check what `RestorationModule.configure_model` does, noise and turns of patches, too."""
        super().configure_model()
        warn_of_correlated_noise(self)
        # Others' data have no settings.
        settings = [getattr(part, "settings", None) for part in parts_of(data_of(self))]
        turns = any(o.transpose for s in settings for o in getattr(s, "orientations", ()))
        if turns and not self.quarter_turns and self.trainer.state.fn == TrainerFn.FITTING:
            raise ValueError(
                f"masking.struct_mask={self.masking.struct_mask} is along the axis of the noise, "
                "and quarter turns of the patches would rotate it away. Switch them off: "
                'data.augmentation=false, or Augmentation(flip="YX", quarter_turns=False).'
            )

    def check_patch_size(self, patch_size: tuple[int, ...]) -> None:
        """Raise a ValueError where training patches suit neither the network nor the masking."""
        super().check_patch_size(patch_size)
        self.masking.check_patch_size(patch_size)

    def mask(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Hide blind spots as the loss does, for example for a picture.

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
        image = unpack(batch)[0]
        if self.training:
            return self.masking(image, self._drawn)
        if self._fixed is None or self._fixed.device != image.device:
            self._fixed = torch.Generator(image.device).manual_seed(_SEED)
        return self.masking(image, self._fixed)

    def setup(self, stage: str) -> None:
        """Let all processes have the same seed."""
        super().setup(stage)
        self._seed = self.trainer.strategy.broadcast(self._seed)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the seed of the blind spots, too; called by Lightning."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[_KEY] = self._seed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the seed of the blind spots, too; called by Lightning."""
        super().on_load_checkpoint(checkpoint)
        self._seed = int(checkpoint.get(_KEY, self._seed))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """See `RestorationModule.training_step`; blind spots follow from the place in the run."""
        self._drawn = generator_of_step(self, self._seed, batch, batch_idx)
        loss = super().training_step(batch, batch_idx)
        self._drawn = None
        return loss

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean squared error at the blind spots; 0 if a small batch has none.

        A target is ignored. Raises a ValueError if the network changes the shape.
        """
        image = unpack(batch)[0]
        masked, mask = self.mask(batch)
        restored = self(masked)
        if restored.shape != image.shape:
            raise ValueError(
                f"Noise2Void compares output and input, but the network made "
                f"{tuple(restored.shape)} of {tuple(image.shape)}; give it as many channels."
            )
        # Weighted by the mask, not indexed: indexing would make the host wait for the device.
        error = torch.where(mask, restored.float() - image, 0.0)
        return error.square().sum() / mask.sum().clamp(min=1)

    def on_validation_epoch_start(self) -> None:
        """Restart the scores and the fixed sequence of blind spots."""
        super().on_validation_epoch_start()
        self._fixed = None

    def on_test_epoch_start(self) -> None:
        """Restart the fixed sequence of blind spots."""
        self._fixed = None
