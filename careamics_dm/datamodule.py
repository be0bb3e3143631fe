"""What the DataModules of all formats share: one loader for each stage."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from careamics_dm.axes import select_channels
from careamics_dm.batches import Batches
from careamics_dm.cells import CELLS, VAL_SHARE
from careamics_dm.dataset import PatchDataset, fits
from careamics_dm.images import Images, describe
from careamics_dm.loader import PatchLoader
from careamics_dm.passing import plan_passing
from careamics_dm.regions import Region
from careamics_dm.sampling import RandomPatches
from careamics_dm.split import some_of, table_of
from careamics_dm.tiling import grid_plan, tile_plan
from careamics_dm.training_plan import n_by_default, training_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from careamics_dm.image_stack import ImageStack
    from careamics_dm.plan import Plan
    from careamics_dm.sampling import GridPatches

    AnyPlan = Plan | RandomPatches | GridPatches


class PatchDataModule(Batches):
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
        plan, pool, criterion = self._train_plan(images), self._pool(images), self.patch_filter
        if criterion is not None and isinstance(plan, RandomPatches):
            plan, criterion = plan_passing(plan, images, criterion, self.nan_policy)
        pool |= {"n_orientations": len(self.orientations), "patch_filter": criterion}
        return self._loader(images, plan, epoch or 0, **pool)

    def val_dataloader(self) -> PatchLoader | list[Any]:
        """Batches of the same validation patches in every pass; no loader without any."""
        if self.n_val_patches == 0:
            return []
        if self.data["val"] is None:
            images = self._ready("train", "validate")
            if self._split is None:
                return []
            settings = self._pool(images)
            if settings["kept"] is None:
                settings["pool_bytes"] //= VAL_SHARE
            plan = self._split.patches
            if self._split.avoided is not None:
                # Each read alone: together they may span a huge image.
                plan = replace(plan, cell=np.arange(len(plan)))
            return self._loader(images, plan, **settings)
        images, pool_bytes = self._ready("val", "validate"), self.pool_bytes // VAL_SHARE
        plan = grid_plan(images.extents(), self.patch_size, cell_bytes=pool_bytes // CELLS)
        plan = images.without_gaps(plan)
        if self.n_val_patches is not None and self.n_val_patches < len(plan):
            plan = some_of(plan, self.n_val_patches, self.seed)
        return self._loader(images, plan, pool_bytes=pool_bytes)

    def test_dataloader(self) -> PatchLoader:
        """Test images as in prediction, tile by tile or whole, with their targets."""
        return self._tiles(self._ready("test", "test"), None)

    def predict_dataloader(self) -> PatchLoader:
        """Tiles, or whole images, with the place where each belongs."""
        return self._tiles(self._ready("predict", "predict"), self._selected)

    def _tiles(self, images: Images, selected: list[int] | None) -> PatchLoader:
        cell_bytes = self.pool_bytes // CELLS
        plan = tile_plan(images.extents(), self.tile_size, self.tile_overlap, cell_bytes=cell_bytes)
        if selected is not None:
            plan = plan.take(np.flatnonzero(np.isin(plan.image, selected)))
        # Whole images may differ in size, so they go one by one.
        n = (self.batch_size or 1) if self.tile_size else 1
        return self._loader(images, plan, with_region=True, batch_size=n, keep=False)

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

    @property
    def n_train_patches(self) -> int:
        """Training patches per epoch, over all ranks; known after ``setup("fit")``."""
        images = self._ready("train", "fit")
        if self.sampling == "grid":
            return len(self._train_plan(images))
        by_default = n_by_default(images, self.patch_size, self._split)
        return self.patches_per_epoch or by_default

    def _train_plan(self, images: Images) -> AnyPlan:
        return training_plan(
            images,
            self.sampling,
            self.patch_size,
            self.patches_per_epoch,
            self._split,
            seed=self.seed,
            # Whatever the number of workers: the same seed draws the same patches.
            cell_bytes=self.pool_bytes // CELLS,
        )

    @property
    def train_stacks(self) -> list[ImageStack]:
        """The images of ``train_data``."""
        return self._ready("train", "fit").stacks

    def images_of(self, role: str) -> Images:
        """Return the images of train, val, test or predict, with targets and channels."""
        return self._ready(role, {"train": "fit", "val": "validate"}.get(role, role))

    def first_validation_patch(self) -> Region | None:
        """Return the place of the first held-out patch; ``None`` where none is held out.

        Its image is one of ``images_of("train")``.
        """
        if self._split is None or not len(self._split.patches):
            return None
        plan = self._split.patches
        start, stop = plan.start[0], plan.start[0] + plan.size[0]
        place = int(plan.image[0]), int(plan.sample[0])
        return Region(*place, tuple(start.tolist()), tuple(stop.tolist()))

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

    def split_table(self) -> list[dict[str, Any]]:
        """List which samples train and which validate, and the patches that are held out.

        Returns
        -------
        list of dict
            A row for each sample of training and validation data, and one for each held-out
            patch: ``split`` (``"train"`` or ``"val"``), ``image`` (its source), ``sample`` (index
            along ``S``), ``start`` (of a patch, ``(Z) Y X`` in pixels, with spaces between; empty
            for a sample as a whole) and ``size`` (likewise).

        Raises
        ------
        DataError
            Neither ``train_data`` nor ``val_data``, or what `setup` raises.
        """
        rows = []
        if self.data["train"] is not None:
            rows += table_of(self._ready("train", "fit"), self._split, "train")
        if self.data["val"] is not None or not rows:
            rows += table_of(self._ready("val", "validate"), None, "val")
        return rows

    def summary(self) -> str:
        """Describe sources, shapes, blocks, patches and bytes, a few lines per role."""
        if not self._images:
            return "nothing is open yet: call setup."
        lines = [describe(role, images) for role, images in self._images.items()]
        if "train" in self._images:
            split, size = self._split, "×".join(map(str, self.patch_size))
            batches = f"batches of {self.batch_size}"
            if split is None or split.avoided is not None:
                batches += f", {len(split.patches) if split else 0} held out for validation"
            lines.append(f"{'patches':<8} {self.n_train_patches} of {size} per epoch, {batches}")
            if split is not None and split.words:
                lines.append(f"{'split':<8} {split.words}")
        return "\n".join(lines)
