"""What all restoration models share: building the network, steps, prediction, optimiser."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from careamics_dm.models.unet import misfit

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler

Batch: TypeAlias = Mapping[str, Any] | Sequence[Tensor] | Tensor
"""``{"image": N C (Z) Y X}`` with "target" and "region" where there are such; or a tuple; or the
image tensor alone."""


class RestorationModule(L.LightningModule, ABC):
    """A network that restores images; subclasses say by which loss it learns.

    Works with any loader that yields a `Batch`, and with any network that maps
    ``(N, C, (Z), Y, X)`` to the same spatial shape. Of the data module it uses public members only,
    each only if there: ``n_channels``, ``n_target_channels``, ``patch_size`` and ``denormalize``.

    Parameters
    ----------
    network : nn.Module or callable
        The network, or a function (or class) that builds it when the data are known, called as
        ``network(in_channels=..., out_channels=..., dims=...)``. The numbers come from the
        trainer's data module.
    optimizer : callable or None
        Makes the optimiser from the parameters; None: Adam (Kingma & Ba, ICLR 2015), rate 1e-3.
    scheduler : callable or None
        Makes the learning-rate scheduler, stepped once an epoch, from the optimiser.
        ``ReduceLROnPlateau`` follows ``val_loss`` where there are validation data, else
        ``train_loss``. A ``functools.partial`` with ``T_max=None``, as of ``CosineAnnealingLR``,
        gets the number of epochs of the run.
    """

    network: nn.Module

    def __init__(
        self,
        network: nn.Module | Callable[..., nn.Module],
        *,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
        scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
    ) -> None:
        super().__init__()
        # No save_hyperparameters: checkpoints hold tensors only and load with weights_only=True.
        self._build: Callable[..., nn.Module] | None = None
        if isinstance(network, nn.Module):
            self.network = network
        else:
            self._build = network
        self._make_optimizer = optimizer or functools.partial(torch.optim.Adam, lr=1e-3)
        self._make_scheduler = scheduler

    def configure_model(self) -> None:
        """Build the network if that waited for the data, and check that the data suit it.

        Lightning calls it before a stage begins and before a checkpoint is loaded; once built, the
        network stays.

        Raises
        ------
        ValueError
            If the network is to be built and there is no data module to ask, or if its channels
            or the training patch size do not suit the network.
        """
        data = self._data()
        if self._build is not None and not self._is_built:
            numbers = [getattr(data, name, None) for name in ("n_channels", "patch_size")]
            if None in numbers:
                raise ValueError(
                    "The network is to be built from n_channels and patch_size of the trainer's "
                    f"data module, but {_found(data)}; pass a built network, such as "
                    "UNet(1, dims=2)."
                )
            self.network = self._build(
                in_channels=data.n_channels,
                out_channels=getattr(data, "n_target_channels", data.n_channels),
                dims=len(data.patch_size),
            )
        self._check_data(data)

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of a batch as a scalar."""

    def unpack(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return image and target of a batch, in whichever layout it comes.

        Parameters
        ----------
        batch : Batch
            A dict with "image" and perhaps "target", a tuple or list, or a tensor.

        Returns
        -------
        image : Tensor
            ``(N, C, (Z), Y, X)``.
        target : Tensor or None
            The same spatial shape; None where there is none.

        Raises
        ------
        ValueError
            If there is no image in the batch.
        """
        if isinstance(batch, Tensor):
            return batch, None
        if isinstance(batch, Mapping):
            if "image" in batch:
                return batch["image"], batch.get("target")
            found = f"a dict with the keys {', '.join(map(repr, batch)) or '(none)'}"
        else:
            if len(batch) > 0:
                return batch[0], batch[1] if len(batch) > 1 else None
            found = "an empty sequence"
        raise ValueError(
            f"A batch must hold an image, but it is {found}; let the loader yield "
            "{'image': ...}, a tuple (image, target), or the image tensor."
        )

    def forward(self, x: Tensor) -> Tensor:
        """Restore ``(N, C, (Z), Y, X)`` as the network does, in normalised intensities."""
        if not self._is_built:
            raise ValueError(
                "The network is built when a trainer meets a data module, but neither was there "
                "yet; pass a built network to use the model alone."
            )
        restored: Tensor = self.network(x)
        return restored

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a training batch; logs ``train_loss`` once an epoch."""
        return self._step(batch, "train_loss")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log ``val_loss``."""
        self._step(batch, "val_loss")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log ``test_loss``."""
        self._step(batch, "test_loss")

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> dict[str, Any]:
        """Restore a batch of any spatial size.

        Parameters
        ----------
        batch : Batch
            Normalised images. They are mirrored at the far side of each axis up to the next size
            the network takes, and the result is cut back.
        batch_idx : int
            Not used.

        Returns
        -------
        dict
            "prediction": ``(N, C, (Z), Y, X)`` float32, in the units of the data where the data
            module can denormalise; "region": the batch's own, where it has one.
        """
        image = self.unpack(batch)[0]
        restored = self(_mirror_up(image, getattr(self.network, "multiple_of", 1)))
        inner = (..., *(slice(size) for size in image.shape[2:]))
        # Half precision would round the intensities once more.
        restored = restored[inner].float()
        denormalize = getattr(self._data(), "denormalize", None)
        result = {"prediction": restored if denormalize is None else denormalize(restored)}
        if isinstance(batch, Mapping) and "region" in batch:
            result["region"] = batch["region"]
        return result

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
        make = self._make_scheduler
        if isinstance(make, functools.partial) and make.keywords.get("T_max", 0) is None:
            make = functools.partial(make, T_max=self._epochs())
        scheduler = make(optimizer)
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

    def _epochs(self) -> int:
        """Count the epochs of the run, for a schedule that spans it."""
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 1:
            raise ValueError(
                "the learning-rate scheduler has no T_max, which is then the run's length, but "
                f"max_epochs={epochs}; set trainer.max_epochs or the scheduler's T_max."
            )
        return epochs

    def _step(self, batch: Batch, name: str) -> Tensor:
        loss = self.loss(batch)
        count = len(self.unpack(batch)[0])
        self.log(
            name,
            loss,
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            sync_dist=True,
            batch_size=count,
        )
        return loss

    @property
    def _is_built(self) -> bool:
        return "network" in self._modules

    def _data(self) -> Any:
        """Return the trainer's data module, None where there is none."""
        try:
            return getattr(self.trainer, "datamodule", None)
        except RuntimeError:  # Lightning's answer when there is no trainer
            return None

    def _validates(self) -> bool:
        if not self.trainer.enable_validation:
            return False
        # A data module always has the method; without validation data it gives no loader.
        data = self._data()
        loaders = True if data is None else data.val_dataloader()
        return loaders is not None and loaders != []

    def _check_data(self, data: Any) -> None:
        found, takes = getattr(data, "n_channels", None), getattr(self.network, "in_channels", None)
        if found is not None and takes is not None and found != takes:
            raise ValueError(
                f"The network takes in_channels={takes}, but the data have n_channels={found}; "
                "select other channels or build the network for these."
            )
        patch_size = getattr(data, "patch_size", None)
        if patch_size is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        problem = misfit(patch_size, getattr(self.network, "multiple_of", 1))
        if problem:
            raise ValueError(f"patch_size={tuple(patch_size)} does not suit the network: {problem}")


def _found(data: Any) -> str:
    if data is None:
        return "there is no data module"
    return f"{type(data).__name__} lacks one of them"


def _mirror_up(x: Tensor, multiple_of: int) -> Tensor:
    """Extend each spatial axis by reflection at its far side to the next multiple."""
    for axis in range(2, x.ndim):
        size = x.shape[axis]
        missing = -size % multiple_of
        if missing:
            # Back and forth as often as needed: F.pad would refuse to reflect by more than size.
            period = max(2 * size - 2, 1)
            place = torch.arange(size + missing, device=x.device) % period
            x = x.index_select(axis, torch.minimum(place, period - place))
    return x
