"""What all restoration models share: network, steps, scores, prediction and optimiser."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from careamics_dm.evaluation.metrics import Scores
from careamics_dm.images import argument_checks as check
from careamics_dm.models.batch import Batch, Criterion, Loss, compare, make_criterion, unpack
from careamics_dm.models.distributed_scores import (
    ImageScores,
    log_gathered,
    mean_over_channels,
    merged,
)
from careamics_dm.models.inference import Restoring, mirror_up
from careamics_dm.models.learning_plan import LearningPlan, MakeOptimizer, MakeScheduler
from careamics_dm.models.receptive_field import reach_of
from careamics_dm.models.trainer_data import (
    NO_NETWORK,
    Build,
    build_network,
    check_data,
    compile_for_training,
    data_of,
    in_data_units,
    out_channels,
)
from careamics_dm.models.unet import misfit
from careamics_dm.sources.ranks import gather

Needs = Literal["noisy images", "clean targets", "noisy targets"]


class RestorationModule(L.LightningModule):
    """A network that restores images; subclasses define how it learns.

    They say what to compare restored images with targets by (``usual_loss``), or override the
    method ``loss``. Works with any loader that yields a `Batch`, and with any network that maps
    ``(N, C, (Z), Y, X)`` to the same spatial shape. Of the data module it uses, where they are
    there, ``n_channels``, ``n_target_channels``, ``patch_size``, ``has_target``, ``denormalize``.

    Where batches of validation and test have targets, restored images are compared with them in
    the units of the data (see `Scores`). PSNR, scale-invariant PSNR and SSIM are logged as
    ``val_psnr``, ``val_si_psnr`` and ``val_ssim``, means over channels (of several channels also
    each, as ``val_psnr_0``), and as ``test_psnr`` and so on, means over images.

    Parameters
    ----------
    network : nn.Module or callable
        The network, or a function (or class) that builds it once there are data. It is called with
        those of ``in_channels``, ``out_channels`` and ``dims`` (or ``spatial_dims``, as in MONAI)
        that it accepts. The numbers come from the trainer's data module.
    loss : {"mae", "mse"} or callable, optional
        Mean absolute or squared error, or a function (or ``nn.Module``) that computes a scalar from
        prediction and target, both ``(N, C, (Z), Y, X)`` float32. By default that of the class.
    size_divisor : int or None
        Divisor of image sizes; None: that of the network. Each spatial size of the network's input
        must be a multiple of it. A network says its own as ``size_divisor``; 1 where it has none.
    optimizer : callable or None
        Makes the optimiser from the parameters; None: Adam (Kingma & Ba, ICLR 2015), rate 1e-3.
    scheduler : callable or None
        Makes the learning-rate scheduler, stepped once an epoch; see `configure_scheduler`.
    compile : bool or dict
        Compile the network for training: True, or arguments for it. See ``torch.compile``.

    Attributes
    ----------
    learns_from : {"noisy images", "clean targets", "noisy targets"}
        Class attribute: what training needs. If that is targets, data without any are refused.
    usual_loss : {"mae", "mse"} or None
        Class attribute: the loss where none is given; None where there is no usual one.
    restores_to : {"image", "target"}
        Class attribute: whose units predictions have. Without targets in the training data, those
        of images in either case.
    keeps : {"best", "last"}
        Class attribute: which weights of a run to save: those with the lowest ``val_loss`` or,
        where that is a loss against noise, the last. Such a loss is at least the variance of the
        noise and fluctuates with it (Lehtinen et al., ICML 2018).
    test_time_augmentation : bool
        Whether prediction and test average over flips and quarter turns: eight times as long.
    uncertainty : bool
        Whether prediction also returns how much these differ; needs ``test_time_augmentation``.
    lr : float or None
        A learning rate instead of the optimiser's own; Lightning's search for one sets it.
    """

    network: nn.Module
    learns_from: ClassVar[Needs] = "noisy images"
    usual_loss: ClassVar[Literal["mae", "mse"] | None] = None
    restores_to: ClassVar[Literal["image", "target"]] = "target"
    keeps: ClassVar[Literal["best", "last"]] = "last"

    def __init__(
        self,
        network: Build | nn.Module,
        *,
        loss: Loss | None = None,
        size_divisor: int | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
        compile: bool | dict[str, Any] = False,
    ) -> None:
        super().__init__()
        check.number("size_divisor", size_divisor, 1, optional=True)
        # No save_hyperparameters: checkpoints contain only tensors and load with weights_only=True.
        self._build = None if isinstance(network, nn.Module) else network
        if isinstance(network, nn.Module):
            self.network = network
        loss = self.usual_loss if loss is None else loss
        self.criterion: Criterion | None = None if loss is None else make_criterion(loss)
        self._size_divisor = size_divisor
        self._plan = LearningPlan(optimizer, scheduler)
        self._compile = compile
        self.lr: float | None = None
        self.test_time_augmentation = False
        self.uncertainty = False
        self._val_scores: dict[int, Scores] = {}
        self._test = ImageScores()
        self._restoring = Restoring()

    @property
    def size_divisor(self) -> int | tuple[int, ...]:
        """What each spatial size of the network's input must be a multiple of."""
        by_itself: int | tuple[int, ...] = getattr(self.network, "size_divisor", 1)
        return self._size_divisor or by_itself

    @property
    def reach(self) -> int | tuple[float, ...] | None:
        """How many pixels to each side a restored pixel depends on, as said or measured."""
        return reach_of(self.network, data_of(self), self.size_divisor)

    @property
    def quarter_turns(self) -> bool:
        """Whether images turned by 90 degrees are as plausible to the model as the images."""
        return True

    @property
    def test_scores(self) -> dict[int, Scores]:
        """Scores of restored images of the last test, by the image's place in the test data."""
        return self._test.after

    @property
    def test_scores_before(self) -> dict[int, Scores]:
        """Scores of the input of the last test, where it has as many channels as the targets."""
        return self._test.before

    def configure_callbacks(self) -> list[L.Callback]:
        """Return what resumes the learning rate; called by Lightning.

        Also builds the network: `configure_model` comes after callbacks have copied the model.
        """
        data = data_of(self)
        if self._build is not None and hasattr(type(data), "n_channels"):
            stage: Any = self.trainer.state.fn
            data.setup(stage.value)  # it has no channels yet
            self.configure_model()
        return [] if self._plan in getattr(self.trainer, "callbacks", []) else [self._plan]

    def configure_model(self) -> None:
        """Build the network if it had to wait for the data, and check that the data suit it.

        Raises a ValueError where there are no data to build for, or channels, patch size or targets
        do not suit the model.
        """
        data = data_of(self)
        self.build(data)
        check_data(self, data, out_channels(self, data))
        compile_for_training(self, self._compile)

    def build(self, data: Any) -> None:
        """Build the network for data with channels and a patch size, unless it is there."""
        if self._build is not None and "network" not in self._modules:
            self.network = build_network(self._build, data, out_channels(self, data))

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights; warns where they find no network, as after ``ddp_spawn``."""
        if state_dict and not strict and "network" not in self._modules:
            rank_zero_warn(NO_NETWORK)
        return super().load_state_dict(state_dict, strict, assign)

    def check_patch_size(self, patch_size: tuple[int, ...]) -> None:
        """Raise a ValueError where training patches, ``(Z) Y X``, do not suit the model."""
        if problem := misfit(patch_size, self.size_divisor):
            raise ValueError(f"patch_size={patch_size} does not suit the network: {problem}")

    def forward(self, x: Tensor) -> Tensor:
        """Restore ``(N, C, (Z), Y, X)`` as the network does, in normalised intensities."""
        if "network" not in self._modules:
            raise ValueError(
                "The network is built when a trainer meets a data module, but neither was there "
                "yet; pass a built network to use the model alone."
            )
        weight = next(self.network.parameters(), x)
        restored: Tensor = self.network(x.to(weight.dtype))
        return restored

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of a batch as a scalar: that of restored images, unless overridden."""
        image, target = unpack(batch)
        if target is None:
            raise ValueError(
                f"{type(self).__name__} learns from {self.learns_from}, but the batch has no "
                "target; let the loader yield {'image': ..., 'target': ...} or a tuple (image, "
                "target)."
            )
        return compare(type(self).__name__, self.criterion, self(image), target)

    def target_loss(self, restored: Tensor, target: Tensor) -> Tensor | None:
        """Compare restored images with targets, both normalised; None without a criterion."""
        if self.criterion is None:
            return None
        return compare(type(self).__name__, self.criterion, restored, target)

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
                scores = self._val_scores.setdefault(0, Scores(target.shape[1]))
                prediction = in_data_units(self, restored.float(), self.restores_to)
                scores.add(in_data_units(self, target), prediction)
        self._log_loss("val_loss", self.loss(batch) if loss is None else loss, len(image))

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Restore test images, as `predict_step` does, and score them where there are targets.

        Returns what `predict_step` does, and "image" and "target" in the units of the data. Of a
        tile with a "region", only the part inside the crop counts.
        """
        image, target = unpack(batch)
        restored, _ = self._restore(image)
        if target is None:
            loss: Tensor | None = self.loss(mirror_up(image, self.size_divisor))
        else:
            loss = self.target_loss(restored, target)
        if loss is not None:
            self._test.add_loss(loss, len(image))
        result = self._result(batch, restored)
        result["image"] = in_data_units(self, image, side="image")
        if target is not None:
            result["target"] = in_data_units(self, target)
            self._test.add(result, self.global_rank, self.trainer.world_size)
        return result

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> dict[str, Any]:
        """Restore a batch of any spatial size.

        Parameters
        ----------
        batch : Batch
            Normalised images. They are mirrored at the far end of each axis up to the next size
            that the network accepts, and the result is cut back.

        Returns
        -------
        dict
            "prediction": ``(N, C, (Z), Y, X)`` float32, in the units of the data where the data
            module can denormalise. With ``test_time_augmentation`` it is the mean over restored
            flips and quarter turns in the YX plane (only flips, where ``quarter_turns`` is false).
            "uncertainty", if set: their standard deviation, same shape and units. It is large where
            the network contradicts itself; it is not a calibrated error and misses what all
            orientations get wrong. "region": that of the batch, if any.

        Raises
        ------
        ValueError
            If ``uncertainty`` is set without ``test_time_augmentation``.
        """
        if self.uncertainty and not self.test_time_augmentation:
            raise ValueError(
                "uncertainty is how restored turns differ; set test_time_augmentation=True, too."
            )
        restored, deviation = self._restore(unpack(batch)[0])
        result = self._result(batch, restored)
        if self.uncertainty and deviation is not None:
            zero = in_data_units(self, torch.zeros_like(deviation), self.restores_to)
            spread = in_data_units(self, deviation, self.restores_to)
            result["uncertainty"] = (spread - zero).abs()
        return result

    def setup(self, stage: str) -> None:
        """Forget an earlier test, and let a process have no image to test."""
        self.allow_zero_length_dataloader_with_multiple_devices = stage == "test"
        if stage == "test":
            self._test = ImageScores()

    def teardown(self, stage: str) -> None:
        """Join the gathering where there was no image: Lightning then skips the epoch's end."""
        if stage == "test" and not self._test.gathered:
            self._test.gather()

    def on_validation_epoch_start(self) -> None:
        """Forget the scores of the epoch before."""
        self._val_scores = {}

    def on_validation_epoch_end(self) -> None:
        """Log the scores of all processes together."""
        for scores in merged(gather(self._val_scores)).values():
            log_gathered(self, "val", mean_over_channels(scores))

    def on_test_epoch_end(self) -> None:
        """Log loss and scores of all processes together."""
        log_gathered(self, "test", self._test.gather())

    def on_train_epoch_end(self) -> None:
        """Raise a FloatingPointError if the epoch's mean training loss is not finite."""
        # Once an epoch: checking each step would make the host wait for the device.
        loss = self.trainer.callback_metrics.get("train_loss")
        if loss is not None and not math.isfinite(loss):
            raise FloatingPointError(
                f"train_loss is {loss.item()} after epoch {self.current_epoch}; check the images "
                "for NaN and infinite values and their normalisation, or lower the learning rate."
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimiser and, where there is to be one, the scheduler."""
        return self._plan.configure(self, self.lr)

    def _log_loss(self, name: str, loss: Tensor, count: int) -> None:
        how: dict[str, Any] = {"on_step": False, "on_epoch": True, "prog_bar": True}
        self.log(name, loss, sync_dist=True, batch_size=count, **how)

    def _restore(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Restore images of any size; with their standard deviation if over all orientations."""
        turns = self.quarter_turns if self.test_time_augmentation else None
        return self._restoring(self, image, self.size_divisor, turns)

    def _result(self, batch: Batch, restored: Tensor) -> dict[str, Any]:
        result: dict[str, Any] = {"prediction": in_data_units(self, restored, self.restores_to)}
        if isinstance(batch, Mapping) and "region" in batch:
            result["region"] = batch["region"]
        return result
