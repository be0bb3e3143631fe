"""What all restoration models share: building the network, steps, prediction, optimiser."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from careamics_dm.metrics import Scores
from careamics_dm.models.batch import Batch, unpack
from careamics_dm.models.building import lack_of_targets
from careamics_dm.models.optimising import make_scheduler
from careamics_dm.models.restorer import Restorer
from careamics_dm.models.restoring import mirror_up
from careamics_dm.models.scoring import add_tiles, gather, mean_over_images, merged, places_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lightning.pytorch.utilities.types import OptimizerLRScheduler

    from careamics_dm.models.scoring import Place


_ROLES: dict[Any, tuple[str, ...]] = {
    TrainerFn.FITTING: ("train", "val"),
    TrainerFn.VALIDATING: ("val",),
    TrainerFn.TESTING: ("test",),
}


class RestorationModule(Restorer, ABC):
    """A network that restores images; subclasses say by which loss it learns.

    Works with any loader that yields a `Batch`, and with any network that maps
    ``(N, C, (Z), Y, X)`` to the same spatial shape. Of the data module it uses public members only,
    each only if there: ``n_channels``, ``n_target_channels``, ``patch_size``, ``has_target`` and
    ``denormalize``.

    Where batches of validation and test have targets, whatever the model learns from, restored
    images are compared with them in the units of the data (see `Scores`): PSNR, scale-invariant
    PSNR and SSIM are logged as ``val_psnr``, ``val_si_psnr`` and ``val_ssim``, means over channels
    (those of channel 0 as ``val_psnr_0``, if there are several), and ``test_psnr`` and so on,
    means over images.

    Parameters
    ----------
    network : nn.Module or callable
        The network, or a function (or class) that builds it when the data are known, called with
        those of ``in_channels``, ``out_channels`` and ``dims`` that it takes; ``spatial_dims`` will
        do for ``dims``, as in MONAI. The numbers come from the trainer's data module.
    size_divisor : int or None
        What each spatial size of the network's input must be a multiple of; None: as
        ``network.size_divisor`` says, and any size where it says nothing.
    optimizer : callable or None
        Makes the optimiser from the parameters; None: Adam (Kingma & Ba, ICLR 2015), rate 1e-3.
    scheduler : callable or None
        Makes the learning-rate scheduler, stepped once an epoch, from the optimiser.
        ``ReduceLROnPlateau`` follows ``val_loss`` where there are validation data, else
        ``train_loss``. A ``functools.partial`` with ``T_max=None``, as of ``CosineAnnealingLR``,
        gets the number of epochs of the run.

    Attributes
    ----------
    learns_from : {"noisy images", "clean targets", "noisy targets"}
        Of the class: what training needs. Where that is targets, data without any are refused.
    restores_to : {"image", "target"}
        Of the class: whose units predictions have. Those of targets (of the images where training
        data have none); those of the images, whatever the targets, where nothing else was learned.
    keeps : {"best", "last"}
        Of the class: the weights of a run that are worth keeping. Those of the lowest ``val_loss``
        where that is measured against the truth; the last where it is measured against noise. A
        loss against noise is at least the noise's variance (Lehtinen et al., 2018; Krull et al.,
        2019) and fluctuates with it, so that its minimum is not where images are best.
    test_time_augmentation : bool
        Whether prediction and test average over flips and quarter turns of the image; set it
        before they begin. They take eight times as long then.
    uncertainty : bool
        Whether prediction also tells how much these differ; needs ``test_time_augmentation``.
    test_scores : dict of int to Scores
        Of the last test: those of the restored images, by the image's number (the first column of
        ``region``; without that, each image of a batch is one, in the order of the loader).
        Complete on every process once the test is over. Where images come in tiles, SSIM is
        approximate, see `Scores`.
    test_scores_before : dict of int to Scores
        Likewise of the images as they came, where they have as many channels as the targets.

    Raises
    ------
    ValueError
        If ``size_divisor`` is not a whole number of at least 1.

    References
    ----------
    Lehtinen et al., "Noise2Noise: learning image restoration without clean data", ICML 2018. Krull
    et al., "Noise2Void: learning denoising from single noisy images", CVPR 2019.
    """

    learns_from: ClassVar[Literal["noisy images", "clean targets", "noisy targets"]] = (
        "noisy images"
    )
    keeps: ClassVar[Literal["best", "last"]] = "last"

    def __init__(
        self,
        network: nn.Module | Callable[..., nn.Module],
        *,
        size_divisor: int | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
        scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
    ) -> None:
        super().__init__(network, size_divisor)
        self._make_optimizer = optimizer or functools.partial(torch.optim.Adam, lr=1e-3)
        self._make_scheduler = scheduler
        self._val_scores: Scores | None = None
        self.test_scores: dict[int, Scores] = {}
        self.test_scores_before: dict[int, Scores] = {}
        self._test_losses: list[tuple[Tensor, int]] = []
        self._n_tested = 0
        self._test_is_gathered = False

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of a batch as a scalar."""

    def target_loss(self, restored: Tensor, target: Tensor) -> Tensor | None:
        """Return the loss of restored images, for models whose loss compares these with targets.

        Parameters
        ----------
        restored : Tensor
            What the network makes of images, ``(N, C, (Z), Y, X)``, normalised.
        target : Tensor
            Normalised targets.

        Returns
        -------
        Tensor or None
            A scalar; None if the model's loss is another.
        """
        return None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a training batch; logs ``train_loss`` once an epoch."""
        loss = self.loss(batch)
        self._log_loss("train_loss", loss, len(unpack(batch)[0]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log ``val_loss``, and score the restored patches where there are targets."""
        image, target = unpack(batch)
        loss = None
        if target is not None:
            restored = self(image)
            loss = self.target_loss(restored, target)
            if restored.shape == target.shape:
                scores = self._val_scores or Scores(target.shape[1])
                prediction = self._restored_in_data_units(restored.float())
                scores.add(self._in_data_units(target), prediction)
                self._val_scores = scores
        self._log_loss("val_loss", self.loss(batch) if loss is None else loss, len(image))

    def on_validation_epoch_start(self) -> None:
        """Forget the scores of the epoch before."""
        self._val_scores = None

    def on_validation_epoch_end(self) -> None:
        """Log the scores of all processes together."""
        mine = {} if self._val_scores is None else {0: self._val_scores}
        for scores in merged(gather(mine)).values():
            for name, values in scores.as_dict().items():
                self._log_gathered(f"val_{name}", sum(values) / len(values))
                for channel, value in enumerate(values if len(values) > 1 else []):
                    self._log_gathered(f"val_{name}_{channel}", value)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Restore test images and score them where there are targets.

        Parameters
        ----------
        batch : Batch
            As `predict_step` takes it. Of a tile that has a "region", what it keeps is scored.
        batch_idx : int
            Not used.

        Returns
        -------
        dict
            "prediction" and "region" as of `predict_step`; "image" and, where there is one,
            "target": ``(N, C, (Z), Y, X)``, in the units of the data likewise.
        """
        image, target = unpack(batch)
        restored, _ = self._restore(image)
        if target is None:
            loss: Tensor | None = self.loss(mirror_up(image, self.size_divisor))
        else:
            loss = self.target_loss(restored, target)
        if loss is not None:
            self._test_losses.append((loss.detach(), len(image)))
        result = self._result(batch, restored)
        result["image"] = self._in_data_units(image, side="image")
        if target is not None:
            result["target"] = self._in_data_units(target)
            self._score_test(result)
        return result

    def on_test_epoch_end(self) -> None:
        """Log loss and scores of all processes together."""
        loss = self._gather_test()
        values = {} if loss is None else {"loss": loss}
        for name, value in (values | mean_over_images(self.test_scores)).items():
            self._log_gathered(f"test_{name}", value)

    def setup(self, stage: str) -> None:
        """Forget an earlier test, and let a process have no image to test."""
        self.allow_zero_length_dataloader_with_multiple_devices = stage == "test"
        if stage == "test":
            self.test_scores, self.test_scores_before = {}, {}
            self._test_losses, self._n_tested, self._test_is_gathered = [], 0, False

    def teardown(self, stage: str) -> None:
        """Take part in gathering where there was no image: Lightning skips the epoch's end then."""
        if stage == "test" and not self._test_is_gathered:
            self._gather_test()

    def on_train_epoch_end(self) -> None:
        """Stop when the loss is no longer finite, which no later epoch would mend.

        Raises
        ------
        FloatingPointError
            If the epoch's mean training loss is NaN or infinite.
        """
        # Once an epoch: asking each step would make the host wait for the device.
        loss = self.trainer.callback_metrics.get("train_loss")
        if loss is not None and not math.isfinite(loss):
            raise FloatingPointError(
                f"train_loss is {loss.item()} after epoch {self.current_epoch}; check the images "
                "for NaN and infinite values and their normalisation, or lower the learning rate."
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimiser and, where one is asked for, the scheduler."""
        optimizer = self._make_optimizer(self.parameters())
        if self._make_scheduler is None:
            return optimizer
        scheduler = make_scheduler(self._make_scheduler, optimizer, self.trainer.max_epochs)
        if not isinstance(scheduler, ReduceLROnPlateau):
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}}
        validates = self._validates()
        # Between validations there is no new val_loss to look at.
        every = (self.trainer.check_val_every_n_epoch or 1) if validates else 1
        monitor = "val_loss" if validates else "train_loss"
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": monitor, "frequency": every},
        }

    def _log_loss(self, name: str, loss: Tensor, count: int) -> None:
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "prog_bar": True}
        self.log(name, loss, sync_dist=True, batch_size=count, **options)

    def _log_gathered(self, name: str, value: float) -> None:
        # The same on all processes: rank_zero_only keeps Lightning from averaging, which would hang
        # where one has no image to test, and sync_dist from warning of that.
        self.log(name, value, sync_dist=True, rank_zero_only=True)

    def _gather_test(self) -> float | None:
        """Bring together what the processes have; return the mean loss, if there is any."""
        losses = [(float(loss) * n, n) for loss, n in self._test_losses]
        parts = gather((losses, self.test_scores, self.test_scores_before))
        self._test_is_gathered = True
        self.test_scores = merged(part[1] for part in parts)
        self.test_scores_before = merged(part[2] for part in parts)
        losses = [loss for part in parts for loss in part[0]]
        return sum(total for total, _ in losses) / sum(n for _, n in losses) if losses else None

    def _score_test(self, result: dict[str, Any]) -> None:
        target = result["target"]
        places = places_of(result["region"]) if "region" in result else self._next_images(target)
        if result["prediction"].shape == target.shape:
            add_tiles(self.test_scores, target, result["prediction"], places)
        if result["image"].shape == target.shape:
            add_tiles(self.test_scores_before, target, result["image"], places)

    def _next_images(self, batch: Tensor) -> list[Place]:
        """Count the images of a batch on, as samplers deal them out to processes."""
        first = self._n_tested
        self._n_tested += len(batch)
        processes = self.trainer.world_size
        return [(self.global_rank + processes * n, ()) for n in range(first, self._n_tested)]

    def _validates(self) -> bool:
        if not self.trainer.enable_validation:
            return False
        # A data module always has the method; without validation data it gives no loader.
        data = self._data()
        loaders = True if data is None else data.val_dataloader()
        return loaders is not None and loaders != []

    def _check_data(self, data: Any) -> None:
        super()._check_data(data)
        if self.learns_from == "noisy images" or not hasattr(data, "has_target"):
            return
        roles = _ROLES.get(self.trainer.state.fn, ())
        lacking = [role for role in roles if not data.has_target(role)]
        if "train" in roles and "val" in lacking and not self._validates():
            lacking.remove("val")
        if lacking:
            raise lack_of_targets(type(self).__name__, self.learns_from, lacking[0])
