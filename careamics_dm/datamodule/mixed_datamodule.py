"""Training on several data modules at once, such as TIFFs of one microscope and Zarr of another."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import numpy as np
import torch

from careamics_dm.datamodule.loaders import epoch_of
from careamics_dm.datamodule.patch_datamodule import PatchDataModule
from careamics_dm.errors import DataError
from careamics_dm.images import argument_checks as check
from careamics_dm.loading.device_transfer import RawBatch
from careamics_dm.loading.loader import PatchLoader
from careamics_dm.transforms.normalization import Side

_PART = "part"
"""Key of a batch: the name of the data module that it comes from."""


class MixedDataModule(L.LightningDataModule):
    """Batches of several data modules, each normalised and augmented as its own.

    A batch is of one data module. Training draws from them in random order, by ``weights``;
    validation goes through the validation data of each. For scores of each alone, for test and for
    prediction, give the trainer one of `parts`, which then has the statistics of the training.

    A run resumes exactly with the same number of ranks and the same batch sizes, else from the next
    epoch on.

    Parameters
    ----------
    parts : dict of str to PatchDataModule
        The data modules, by names of your choice. With the same patch size, numbers of channels and
        ``batch_format``.
    weights : dict of str to float, optional
        How often a batch is drawn from each, relative to the others. By default, as often as each
        has batches in an epoch of its own. An epoch has as many batches as theirs together.
    seed : int
        Of the order.

    Raises
    ------
    DataError
        No data modules, weights that are not positive or do not name them, or (in `setup`) data
        modules that do not go together.

    Examples
    --------
    >>> parts = {"confocal": TiffDataModule(...), "light_sheet": ZarrDataModule(...)}
    >>> data = MixedDataModule(parts, weights={"confocal": 3, "light_sheet": 1})  # doctest: +SKIP
    """

    def __init__(
        self,
        parts: Mapping[str, PatchDataModule],
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not parts or not all(isinstance(part, PatchDataModule) for part in parts.values()):
            raise DataError(f"parts={parts}: give data modules of this package by name.")
        if weights is not None and weights.keys() != parts.keys():
            raise DataError(f"weights: give one for each of {', '.join(parts)}, and no others.")
        numbers = [w for w in (weights or {}).values() if isinstance(w, int | float)]
        if len(numbers) != len(weights or ()) or not all(0 < w < math.inf for w in numbers):
            raise DataError(f"weights={weights}: give positive numbers.")
        self.parts, self.weights = dict(parts), weights
        self.seed = check.number("seed", seed, 0)
        self._same("patch_size", {n: p.patch_size for n, p in parts.items()})
        self._same("batch_format", {n: p.settings.batch_format for n, p in parts.items()})
        self._current = next(iter(parts))

    def __repr__(self) -> str:
        return f"MixedDataModule({self.parts}, weights={self.weights})"

    __str__ = __repr__  # Lightning's makes every loader, which would read the data

    @property
    def patch_size(self) -> tuple[int, ...]:
        """``(Z) Y X``, pixels."""
        return self._first.patch_size

    @property
    def n_channels(self) -> int:
        """Number of channels of the images; a `DataError` before `setup`."""
        return self._first.n_channels

    @property
    def n_target_channels(self) -> int:
        """Number of channels of the targets, or of the images where there are no targets."""
        return self._first.n_target_channels

    def has_target(self, role: str) -> bool:
        """Whether the images of ``train`` or ``val`` have targets in all data modules."""
        return all(part.has_target(role) for part in self.parts.values())

    def setup(self, stage: str) -> None:
        """Open and check the sources of all data modules, and that these go together."""
        if stage in ("test", "predict"):
            raise self._part_by_part(stage)
        for part in self.parts.values():
            part.setup(stage)
        self._same("channels", {n: p.n_channels for n, p in self.parts.items()})
        self._same("target channels", {n: p.n_target_channels for n, p in self.parts.items()})

    def train_dataloader(self) -> "MixedLoader":
        """Batches of all data modules in a new random order in every pass."""
        loaders = {name: part.train_dataloader() for name, part in self.parts.items()}
        return MixedLoader(loaders, self.weights, self.seed, self)

    def val_dataloader(self) -> "MixedLoader | list[Any]":
        """Load the validation batches of one data module after the other."""
        found = {name: part.val_dataloader() for name, part in self.parts.items()}
        loaders = {name: one for name, one in found.items() if isinstance(one, PatchLoader)}
        return MixedLoader(loaders, None, None, self) if loaders else []

    def test_dataloader(self) -> Any:
        """Raise a DataError: test goes data module by data module."""
        raise self._part_by_part("test")

    def predict_dataloader(self) -> Any:
        """Raise a DataError: prediction goes data module by data module."""
        raise self._part_by_part("predict")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalise and augment a batch on its device; called by Lightning."""
        return self.transform(batch) if isinstance(batch, dict) and _PART in batch else batch

    def transform(self, batch: dict[str, Any]) -> Any:
        """Let the data module that a batch comes from turn it into what modules get.

        Parameters
        ----------
        batch : dict
            As yielded by a loader of this module, on any device.

        Returns
        -------
        dict, tuple or Tensor
            See `PatchDataModule.transform`.
        """
        self._current = batch[_PART]
        return self.parts[self._current].transform(batch)

    def denormalize(self, y: torch.Tensor, side: Side = "target") -> torch.Tensor:
        """Return a result of the batch that was transformed last in the units of its data.

        Parameters
        ----------
        y : Tensor
            ``(N, C, (Z), Y, X)``, normalised; the result has the same shape.
        side : {"target", "image"}
            See `PatchDataModule.denormalize`.
        """
        return self.parts[self._current].denormalize(y, side)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each data module, for a checkpoint."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; a `DataError` if it is of other data modules."""
        self._same("names", {"of the checkpoint": {*state_dict}, "here": {*self.parts}})
        for name, part in self.parts.items():
            part.trainer = self.trainer  # it says whether a training is resumed
            part.load_state_dict(state_dict[name])
            part.trainer = None

    def teardown(self, stage: str) -> None:
        """End worker processes and close every file; both start again when needed."""
        for part in self.parts.values():
            part.teardown(stage)

    def on_exception(self, exception: BaseException) -> None:
        """End what a run that failed has left running; called by Lightning."""
        self.teardown("")

    @property
    def _first(self) -> PatchDataModule:
        return next(iter(self.parts.values()))

    def _same(self, what: str, values: Mapping[str, Any]) -> None:
        first = next(iter(values.values()))
        if any(value != first for value in values.values()):
            found = "; ".join(f"{name}: {value}" for name, value in values.items())
            raise DataError(
                f"the {what} of the data modules of a mix must be the same, but {found}."
            )

    def _part_by_part(self, stage: str) -> DataError:
        return DataError(
            f"a mix has no data to {stage} on: give trainer.{stage} one of its data modules, such "
            f'as parts["{next(iter(self.parts))}"], whose images know their own units.'
        )


class MixedLoader:
    """Batches of several loaders, in a random order or, without a seed, one after the other.

    An epoch follows from its number and the seed. Where a loader ends sooner than the epoch, its
    next epoch begins.
    """

    def __init__(
        self,
        loaders: Mapping[str, PatchLoader],
        weights: Mapping[str, float] | None,
        seed: int | None,
        datamodule: L.LightningDataModule,
    ) -> None:
        self._loaders, self._seed, self._datamodule = dict(loaders), seed, datamodule
        self.epoch, self.batch, self._begun = self._epoch_now() or 0, 0, False
        sizes = np.array([len(loader) for loader in loaders.values()])
        if not sizes.all():
            raise DataError(
                "a data module of the mix has fewer patches than there are processes: it needs "
                "more patches_per_epoch."
            )
        shares = sizes if weights is None else np.array([weights[name] for name in loaders])
        ends = np.round(np.cumsum([0, *shares]) / shares.sum() * sizes.sum())
        self._counts = np.maximum(np.diff(ends).astype(int), 1)
        self._passes = -(-self._counts // sizes)

    def __len__(self) -> int:
        """Count the batches of an epoch, on this rank."""
        return int(self._counts.sum())

    def __iter__(self) -> Iterator[RawBatch]:
        """Yield the batches of the next epoch, or the rest of a resumed one."""
        now = self._epoch_now()
        epoch = self.epoch + self._begun if now is None else now
        if self._begun or epoch != self.epoch or not self.batch:
            self.epoch, self.batch = epoch, 0
            for loader, n in zip(self._loaders.values(), self._passes.tolist(), strict=True):
                loader.load_state_dict({"epoch": epoch * n, "batch": 0})
        self._begun = True
        batches = {name: _endless(loader) for name, loader in self._loaders.items()}
        for name in self._order()[self.batch :]:
            self.batch += 1
            yield RawBatch(next(batches[name]) | {_PART: name})

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, how many of its batches were handed out, and of which loaders."""
        states = {name: loader.state_dict() for name, loader in self._loaders.items()}
        return {"epoch": self.epoch, "batch": self.batch, "loaders": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batch that was handed out last."""
        self.epoch, self.batch, self._begun = state["epoch"], state["batch"], False
        if self.batch >= len(self):
            self.epoch, self.batch = self.epoch + 1, 0
        for name, loader in self._loaders.items():
            loader.load_state_dict(state["loaders"][name])

    def _epoch_now(self) -> int | None:
        return epoch_of(self._datamodule.trainer)

    def _order(self) -> list[str]:
        names = np.repeat([*self._loaders], self._counts)
        if self._seed is not None:
            np.random.default_rng([self._seed, self.epoch, 8]).shuffle(names)
        found: list[str] = names.tolist()
        return found


def _endless(loader: PatchLoader) -> Iterator[dict[str, Any]]:
    while True:
        yield from loader
