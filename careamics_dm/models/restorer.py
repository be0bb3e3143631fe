"""A network that restores images of any size, in the units of the data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from careamics_dm.models.batch import Batch, unpack
from careamics_dm.models.building import build_network, check_channels, check_patch_size
from careamics_dm.models.restoring import restore, restore_in_all_orientations


class Restorer(L.LightningModule):
    """A LightningModule that knows its network and predicts; see `RestorationModule`."""

    network: nn.Module
    restores_to: ClassVar[Literal["image", "target"]] = "target"
    """In whose units, normalised, the network's output is."""

    def __init__(
        self, network: nn.Module | Callable[..., nn.Module], size_divisor: int | None
    ) -> None:
        super().__init__()
        if size_divisor is not None and (not isinstance(size_divisor, int) or size_divisor < 1):
            raise ValueError(
                f"size_divisor={size_divisor!r} divides no size; use a whole number of at least 1, "
                "or None to ask the network."
            )
        # No save_hyperparameters: checkpoints hold tensors only and load with weights_only=True.
        self._build: Callable[..., nn.Module] | None = None
        if isinstance(network, nn.Module):
            self.network = network
        else:
            self._build = network
        self._size_divisor = size_divisor
        self.test_time_augmentation = False
        self.uncertainty = False

    def configure_model(self) -> None:
        """Build the network if that waited for the data, and check that the data suit it.

        Lightning calls it before a stage begins and before a checkpoint is loaded; once built, the
        network stays.

        Raises
        ------
        ValueError
            If the network is to be built and there is no data module to ask, if its channels
            or the training patch size do not suit the network, or if targets are needed and the
            data have none.
        """
        data = self._data()
        if self._build is not None and not self._is_built:
            self.network = build_network(self._build, data, self._out_channels(data))
        self._check_data(data)

    @property
    def size_divisor(self) -> int:
        """What each spatial size of the network's input must be a multiple of."""
        if self._size_divisor is not None:
            return self._size_divisor
        return int(getattr(self.network, "size_divisor", 1))

    @property
    def quarter_turns(self) -> bool:
        """Whether the model takes images turned by 90 degrees for as likely as the images."""
        return True

    def forward(self, x: Tensor) -> Tensor:
        """Restore ``(N, C, (Z), Y, X)`` as the network does, in normalised intensities."""
        if not self._is_built:
            raise ValueError(
                "The network is built when a trainer meets a data module, but neither was there "
                "yet; pass a built network to use the model alone."
            )
        restored: Tensor = self.network(x)
        return restored

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
            module can denormalise. With ``test_time_augmentation`` it is the mean of the restored
            flips and quarter turns in the YX plane (flips only, where the model's
            ``quarter_turns`` is false); with ``uncertainty``, too, there is "uncertainty" of the
            same shape and units: their standard deviation. That tells where the network
            contradicts itself; it is no calibrated error and cannot see what all turns get wrong.
            "region": the batch's own, where it has one.

        Raises
        ------
        ValueError
            If ``uncertainty`` is asked for without ``test_time_augmentation``.
        """
        if self.uncertainty and not self.test_time_augmentation:
            raise ValueError(
                "uncertainty is how much flips and turns of an image differ once restored; set "
                "test_time_augmentation=True, too."
            )
        restored, deviation = self._restore(unpack(batch)[0])
        result = self._result(batch, restored)
        if self.uncertainty and deviation is not None:
            zero = self._restored_in_data_units(torch.zeros_like(deviation))
            result["uncertainty"] = (self._restored_in_data_units(deviation) - zero).abs()
        return result

    def _restore(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Restore images of any size; with their deviation if over all orientations."""
        one = functools.partial(restore, self, size_divisor=self.size_divisor)
        if not self.test_time_augmentation:
            return one(image), None
        return restore_in_all_orientations(one, image, quarter_turns=self.quarter_turns)

    def _in_data_units(self, x: Tensor, **side: str) -> Tensor:
        denormalize = getattr(self._data(), "denormalize", None)
        units: Tensor = x if denormalize is None else denormalize(x, **side)
        return units

    def _restored_in_data_units(self, restored: Tensor) -> Tensor:
        side = {} if self.restores_to == "target" else {"side": self.restores_to}
        return self._in_data_units(restored, **side)

    def _result(self, batch: Batch, restored: Tensor) -> dict[str, Any]:
        result: dict[str, Any] = {"prediction": self._restored_in_data_units(restored)}
        if isinstance(batch, Mapping) and "region" in batch:
            result["region"] = batch["region"]
        return result

    @property
    def _is_built(self) -> bool:
        return "network" in self._modules

    def _data(self) -> Any:
        """Return the trainer's data module, None where there is none."""
        try:
            return getattr(self.trainer, "datamodule", None)
        except RuntimeError:  # Lightning's answer when there is no trainer
            return None

    def _out_channels(self, data: Any) -> int | None:
        """Count the channels to restore, as far as the data module tells."""
        n_channels: int | None = getattr(data, "n_channels", None)
        n_target_channels: int | None = getattr(data, "n_target_channels", n_channels)
        return n_target_channels

    def _check_data(self, data: Any) -> None:
        stage = None if data is None else self.trainer.state.fn
        # Images to predict have no targets that could be counted.
        out_channels = None if stage == TrainerFn.PREDICTING else self._out_channels(data)
        check_channels(self.network, getattr(data, "n_channels", None), out_channels)
        patch_size = getattr(data, "patch_size", None)
        if patch_size is not None and stage == TrainerFn.FITTING:
            check_patch_size(patch_size, self.size_divisor)
