"""What the DataModules of all formats share: loaders, batches, statistics, state."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from careamics_dm.augmentation import orient
from careamics_dm.axes import DataError, select_channels
from careamics_dm.dataset import PatchDataset, fits
from careamics_dm.held_out import to_rows
from careamics_dm.images import Images, describe
from careamics_dm.loader import PatchLoader
from careamics_dm.normalization import Affine
from careamics_dm.stages import Stages
from careamics_dm.statistics import measure
from careamics_dm.tiling import grid_plan, tile_plan
from careamics_dm.training_plan import n_by_default, training_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from careamics_dm.dataset import Batch
    from careamics_dm.image_stack import ImageStack
    from careamics_dm.normalization import Side
    from careamics_dm.plan import Plan
    from careamics_dm.sampling import GridPatches, RandomPatches

    AnyPlan = Plan | RandomPatches | GridPatches

STATISTICS_BYTES = 2**28
"""Of the training data, at most so many bytes (256 MiB) make the statistics."""
SIDES: tuple[Side, ...] = ("image", "target")
CELLS = 16
"""Parts of the pool that are read in one go: so many mix."""
VAL_SHARE = 8
"""Validation data take one part in so many of the pool, on top: training goes on with its own."""


class PatchDataModule(Stages):
    """Patches of images for training, validation, test and prediction.

    A format derives from it and says how its sources are found (`list_sources`) and opened
    (`open_source`); everything else is here. Constructing it reads nothing; `setup` opens and
    checks every source. Its parameters are those of `Arguments`.

    Attributes
    ----------
    statistics : dict of str to Affine
        Of ``image`` and ``target``; empty until measured or restored.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.statistics: dict[str, Affine] = {}
        self._selected: list[int] | None = None
        self._loaders: list[PatchLoader] = []
        self._told = False

    def train_dataloader(self) -> PatchLoader:
        """Batches of new patches in every pass; the first call computes the statistics."""
        images = self._ready("train", "fit")
        self.measure_statistics()
        epoch = self._current_epoch()
        if epoch is not None and not self._told:
            rank_zero_info(self.summary())
            self._told = True
        plan, pool = self._train_plan(images), self._pool(images)
        n = len(self.orientations)
        return self._loader(images, plan, epoch or 0, n_orientations=n, **pool)

    def val_dataloader(self) -> PatchLoader | list[Any]:
        """Batches of the same validation patches in every pass; no loader without any."""
        if self.n_val_patches == 0:
            return []
        if self.data["val"] is None:
            images = self._ready("train", "validate")
            if self._held_out is None:
                return []
            settings = self._pool(images)
            if settings["kept"] is None:
                settings["pool_bytes"] //= VAL_SHARE
            # Each read alone: together they may span a huge image.
            plan = replace(self._held_out, cell=np.arange(len(self._held_out)))
            return self._loader(images, plan, **settings)
        images, pool_bytes = self._ready("val", "validate"), self.pool_bytes // VAL_SHARE
        plan = grid_plan(images.extents(), self.patch_size, cell_bytes=pool_bytes // CELLS)
        plan = images.without_gaps(plan)
        if self.n_val_patches is not None and self.n_val_patches < len(plan):
            rng = np.random.default_rng([self.seed, 4])
            plan = plan.take(np.sort(rng.choice(len(plan), self.n_val_patches, replace=False)))
        return self._loader(images, plan, pool_bytes=pool_bytes)

    def test_dataloader(self) -> PatchLoader:
        """Patches side by side that cover the test data."""
        images = self._ready("test", "test")
        plan = grid_plan(images.extents(), self.patch_size, cell_bytes=self.pool_bytes // CELLS)
        return self._loader(images, images.without_gaps(plan), keep=False)

    def predict_dataloader(self) -> PatchLoader:
        """Tiles, or whole images, with the place where each belongs."""
        images = self._ready("predict", "predict")
        cell_bytes = self.pool_bytes // CELLS
        plan = tile_plan(images.extents(), self.tile_size, self.tile_overlap, cell_bytes=cell_bytes)
        if self._selected is not None:
            plan = plan.take(np.flatnonzero(np.isin(plan.image, self._selected)))
        # Whole images may differ in size, so they go one by one.
        n = (self.batch_size or 1) if self.tile_size else 1
        return self._loader(images, plan, with_region=True, batch_size=n, keep=False)

    def _ready(self, role: str, stage: str) -> Images:
        if role not in self._images or (role == "train" and self._split_is_missing):
            self.setup(stage)
        return self._images[role]

    def _pool(self, images: Images) -> dict[str, Any]:
        """Where training patches come from: the pool; kept for all epochs if all images fit it."""
        keep = fits(images.extents(), self.pool_bytes)
        # Processes each have a pool of their own, so they share none.
        kept = images.kept if keep and not self.num_workers else None
        return {"pool_bytes": self.pool_bytes, "keep": keep, "kept": kept}

    def _current_epoch(self) -> int | None:
        """Epoch of a running fit; loaders that are made anew go on from it."""
        if self.trainer is None or self.trainer.state.fn != "fit":
            return None
        return self.trainer.current_epoch if self.trainer.state.status == "running" else None

    def _loader(
        self, images: Images, plan: AnyPlan, epoch: int = 0, **settings: Any
    ) -> PatchLoader:
        """Make the loader of any stage."""
        self.measure_statistics()
        trainer = self.trainer
        settings = {"batch_size": self.batch_size, "pool_bytes": self.pool_bytes} | settings
        dataset = PatchDataset(
            images.stacks,
            plan,
            images.extents(),
            targets=images.targets or None,
            channels=images.channels,
            target_channels=images.target_channels,
            seed=self.seed,
            nan_policy=self.nan_policy,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            **settings,
        )
        loader = PatchLoader(
            dataset, num_workers=self.num_workers, start_method=self.start_method, epoch=epoch
        )
        self._loaders.append(loader)
        return loader

    def teardown(self, stage: str) -> None:
        """End worker processes and close every file; both start again when needed."""
        for loader in self._loaders:
            loader.close()
        self._loaders.clear()
        self._told = False
        super().teardown(stage)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without loaders, which hold threads and processes, and without the trainer."""
        return self.__dict__ | {"_loaders": [], "trainer": None}

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

    def denormalize(self, y: torch.Tensor) -> torch.Tensor:
        """Return a prediction ``(N, C, (Z), Y, X)`` in the units of targets (else of images)."""
        return self.statistics.get("target", self.statistics["image"]).undo(y)

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
                    images, self.normalization, limit, self.seed, allow_nan=allow_nan
                )
            elif given["image"] is not None:
                self.statistics = {side: a for side, a in given.items() if a is not None}
            else:
                raise DataError(
                    "the statistics for normalisation are unknown: restore a checkpoint, give "
                    "train_data to compute them from, or give them to normalization."
                )
        return self.statistics

    def state_dict(self) -> dict[str, Any]:
        """Return statistics, split and channels as plain values, for a checkpoint."""
        return {
            "statistics": {key: value._asdict() for key, value in self.statistics.items()},
            "n_channels": self.n_channels if self._images or self._restored else None,
            "patch_size": list(self.patch_size),
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
            self._held_out = self._hold_out()

    @property
    def _held_out_rows(self) -> list[list[Any]]:
        if self._held_out is None:
            rows: list[list[Any]] = self._restored.get("held_out", [])
            return rows
        return to_rows(self._held_out, self._images["train"].stacks)

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

    @property
    def n_target_channels(self) -> int:
        """Channels of the targets, or of the images where there are no targets."""
        for images in self._images.values():
            if images.targets:
                return images.n_target_channels
        return self.n_channels

    @property
    def n_train_patches(self) -> int:
        """Training patches per epoch, over all ranks; known after ``setup("fit")``."""
        images = self._ready("train", "fit")
        if self.sampling == "grid":
            return len(self._train_plan(images))
        by_default = n_by_default(images, self.patch_size, self._held_out)
        return self.patches_per_epoch or by_default

    def _train_plan(self, images: Images) -> AnyPlan:
        return training_plan(
            images,
            self.sampling,
            self.patch_size,
            self.patches_per_epoch,
            self._held_out,
            seed=self.seed,
            # Whatever the number of workers: the same seed draws the same patches.
            cell_bytes=self.pool_bytes // CELLS,
        )

    @property
    def train_stacks(self) -> list[ImageStack]:
        """The images of ``train_data``."""
        return self._ready("train", "fit").stacks

    def channel_indices(self, stack: ImageStack) -> list[int] | None:
        """Return the indices of the selected channels of an image; ``None`` for all."""
        names = getattr(stack, "channel_names", None)
        return select_channels(self.channels, stack.data_shape[1], names, stack.source)

    @property
    def predict_stacks(self) -> list[ImageStack]:
        """The images of ``predict_data``, in the order that ``region`` numbers them."""
        return self._ready("predict", "predict").stacks

    def select_predict(self, images: Sequence[int] | None) -> None:
        """Predict only these of `predict_stacks`, say, those not written yet; ``None``: all."""
        self._selected = None if images is None else list(images)

    def summary(self) -> str:
        """Describe sources, shapes, blocks, patches and bytes, a few lines per role."""
        if not self._images:
            return "nothing is open yet: call setup."
        lines = [describe(role, images) for role, images in self._images.items()]
        if "train" in self._images:
            held = 0 if self._held_out is None else len(self._held_out)
            size = "×".join(map(str, self.patch_size))
            batches = f"batches of {self.batch_size}, {held} held out for validation"
            lines.append(f"{'patches':<8} {self.n_train_patches} of {size} per epoch, {batches}")
        return "\n".join(lines)
