"""From patches as stored to what modules get: statistics, normalisation, augmentation, state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from careamics_dm.augmentation import orient
from careamics_dm.axes import DataError
from careamics_dm.normalization import Affine
from careamics_dm.split import make_split
from careamics_dm.stages import Stages
from careamics_dm.statistics import measure

if TYPE_CHECKING:
    from careamics_dm.dataset import Batch
    from careamics_dm.images import Images
    from careamics_dm.normalization import Side

STATISTICS_BYTES = 2**28
"""Of the training data, at most so many bytes (256 MiB) make the statistics."""
SIDES: tuple[Side, ...] = ("image", "target")


class Batches(Stages):
    """A DataModule that knows statistics and batches; see `PatchDataModule`."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.statistics: dict[str, Affine] = {}

    def _ready(self, role: str, stage: str) -> Images:
        if role not in self._images or (role == "train" and self._split_is_missing):
            self.setup(stage)
        return self._images[role]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalise and turn a batch on its device; called by Lightning."""
        del dataloader_idx
        return self.transform(batch) if isinstance(batch, dict) and "image" in batch else batch

    def transform(self, batch: Batch) -> Any:
        """Turn a batch of a loader into what modules get.

        Lightning calls it for every batch; loops of your own call it themselves.

        Parameters
        ----------
        batch : dict
            As yielded by a loader of this module, on any device.

        Returns
        -------
        dict, tuple or Tensor
            As ``batch_format`` says; images and targets are float32, normalised and, in
            training, augmented. Single patches (``batch_size=None``) are not augmented.
        """
        counts, statistics = batch.get("orientation"), self.measure_statistics()
        one = batch["image"].ndim == len(self.patch_size) + 1
        done: dict[str, torch.Tensor] = {}
        for key in [side for side in SIDES if side in batch]:
            if counts is None:
                x = batch[key].to(torch.float32, copy=True)
            else:
                x = orient(batch[key], self.orientations, counts)
            # Targets that training data lack are in the units of the images.
            affine = statistics.get(key, statistics["image"])
            done[key] = affine.apply_(x[None])[0] if one else affine.apply_(x)
        if "region" in batch:
            done["region"] = batch["region"]
        if self.batch_format == "tensor":
            return done["image"]
        return done if self.batch_format == "dict" else tuple(done.values())

    def denormalize(self, y: torch.Tensor, side: Side = "target") -> torch.Tensor:
        """Return a batch in the units of the data.

        Parameters
        ----------
        y : Tensor
            ``(N, C, (Z), Y, X)``, normalised.
        side : {"target", "image"}
            What it is like: predictions are like targets (like images where training data have
            no targets).

        Returns
        -------
        Tensor
            The same shape.
        """
        return self.statistics.get(side, self.statistics["image"]).undo(y)

    def measure_statistics(self) -> dict[str, Affine]:
        """Compute the statistics of the training data, unless they are known.

        Returns
        -------
        dict of str to Affine
            Of ``image`` and, where there are targets, ``target``.

        Raises
        ------
        DataError
            Neither given, nor restored from a checkpoint, nor training data to compute from.
        """
        if not self.statistics:
            given = {side: self.normalization.given(side) for side in SIDES}
            if self.data["train"] is not None:
                images = self._ready("train", "fit")
                limit = None if self.exact_statistics else STATISTICS_BYTES
                allow_nan = self.nan_policy != "error"
                self.statistics = measure(
                    images,
                    self.normalization,
                    limit,
                    self.seed,
                    allow_nan=allow_nan,
                    normalize_target=self.normalize_target,
                    trained=None if self._split is None else self._split.trained,
                )
            elif given["image"] is not None:
                if not self.normalize_target:
                    given["target"] = Affine([0.0], [1.0])
                self.statistics = {side: a for side, a in given.items() if a is not None}
            else:
                raise DataError(
                    "the statistics for normalisation are unknown: restore a checkpoint, give "
                    "train_data to compute them from, or give them to normalization."
                )
        return self.statistics

    def state_dict(self) -> dict[str, Any]:
        """Return statistics, split and channels as plain values, for a checkpoint."""
        known = self._images or self._restored.get("n_channels") is not None
        # Rows of a checkpoint that were not used lie on the grid of its own patches.
        kept = self._restored.get("patch_size") if self._split is None else None
        return {
            "statistics": {key: value._asdict() for key, value in self.statistics.items()},
            "n_channels": self.n_channels if known else None,
            "n_target_channels": self.n_target_channels if known else None,
            "patch_size": kept or list(self.patch_size),
            "held_out": self._held_out_rows,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; statistics are not computed again.

        Raises
        ------
        DataError
            The checkpoint's number of channels differs, or its validation images are missing.
        """
        self.statistics = {k: Affine(**v) for k, v in state_dict["statistics"].items()}
        self._restored = state_dict
        self._check_channels()
        if "train" in self._images and self.data["val"] is None:
            self._split = make_split(self, self._images["train"], self._restored)

    @property
    def _held_out_rows(self) -> list[list[Any]]:
        if self._split is None:
            rows: list[list[Any]] = self._restored.get("held_out", [])
            return rows
        return self._split.to_rows(self._images["train"].stacks)

    @property
    def n_channels(self) -> int:
        """Channels of the images; known after `setup`.

        Raises
        ------
        DataError
            Before that.
        """
        for images in self._images.values():
            return images.n_channels
        if self._restored.get("n_channels") is None:
            raise DataError("the number of channels is known after setup: call setup first.")
        return int(self._restored["n_channels"])

    def has_target(self, role: str) -> bool:
        """Whether the images of ``train``, ``val`` or ``test`` have targets; known after `setup`.

        Validation patches that are held out of the training data have what these have.
        """
        of = "train" if role == "val" and self.data["val"] is None else role
        return of in self._images and bool(self._images[of].targets)

    @property
    def n_target_channels(self) -> int:
        """Channels of the targets, or of the images where there are no targets."""
        for images in self._images.values():
            if images.targets:
                return images.n_target_channels
        return int(self._restored.get("n_target_channels") or self.n_channels)
