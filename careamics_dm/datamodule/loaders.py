"""The loader of each stage: which patches, from which pool of decoded blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from careamics_dm.loading.dataset import PatchDataset, fits
from careamics_dm.loading.loader import PatchLoader
from careamics_dm.sampling.chunk_grid import CELLS, VAL_SHARE
from careamics_dm.sampling.image_origins import without_gaps
from careamics_dm.sampling.tiling import grid_plan, tile_plan
from careamics_dm.sampling.training_plan import n_by_default, training_plan
from careamics_dm.sampling.validation_split import some_of

if TYPE_CHECKING:
    from careamics_dm.datamodule.settings import Settings
    from careamics_dm.images.image_set import ImageSet
    from careamics_dm.sampling.plan import Plan, Share
    from careamics_dm.sampling.random_patches import GridPatches, RandomPatches
    from careamics_dm.sampling.validation_split import Split


class Loaders:
    """Makes loaders, and ends their threads and processes.

    Parameters
    ----------
    settings : Settings
        Sizes of patches, tiles and batches, sampling, the pool, worker processes.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._loaders: list[PatchLoader] = []

    def train(
        self, images: ImageSet, split: Split | None, share: Share, epoch: int = 0
    ) -> PatchLoader:
        """Load new patches in every pass, from ``epoch`` on."""
        settings = self.settings
        return self._loader(
            images,
            self._train_plan(images, split),
            share,
            epoch,
            keep=fits(images.extents(), settings.pool_bytes),
            n_orientations=len(settings.orientations),
            patch_filter=settings.patch_filter,
        )

    def held_out(self, images: ImageSet, split: Split, share: Share) -> PatchLoader:
        """Load the patches that are held out of the training data."""
        pool_bytes = self.settings.pool_bytes
        keep = fits(images.extents(), pool_bytes)
        if self.settings.num_workers or not keep:  # processes share no pool
            pool_bytes //= VAL_SHARE
        plan = split.patches
        if split.avoided is not None:
            # Each read alone: together they may span a huge image.
            plan = replace(plan, cell=np.arange(len(plan)))
        return self._loader(images, plan, share, keep=keep, pool_bytes=pool_bytes)

    def grid(self, images: ImageSet, share: Share) -> PatchLoader:
        """Load patches side by side, or some of them, of validation images."""
        settings, pool_bytes = self.settings, self.settings.pool_bytes // VAL_SHARE
        plan = grid_plan(images.extents(), settings.patch_size, cell_bytes=pool_bytes // CELLS)
        plan = without_gaps(images, plan)
        if settings.n_val_patches is not None and settings.n_val_patches < len(plan):
            plan = some_of(plan, settings.n_val_patches, settings.seed)
        return self._loader(images, plan, share, pool_bytes=pool_bytes)

    def tiles(self, images: ImageSet, selected: list[int] | None, share: Share) -> PatchLoader:
        """Load the tiles, or the whole, of all or of the ``selected`` images, in order."""
        settings = self.settings
        plan = tile_plan(
            images.extents(),
            settings.tile_size,
            settings.overlap,
            cell_bytes=settings.pool_bytes // CELLS,
        )
        if selected is not None:
            plan = plan.take(np.flatnonzero(np.isin(plan.image, selected)))
        # Whole images may differ in size, so they go one by one.
        n = (settings.batch_size or 1) if settings.tile_size else 1
        return self._loader(images, plan, share, with_region=True, batch_size=n, keep=False)

    def n_train_patches(self, images: ImageSet, split: Split | None) -> int:
        """Count the training patches of an epoch, over all ranks."""
        settings = self.settings
        if settings.sampling == "grid":
            return len(self._train_plan(images, split))
        return settings.patches_per_epoch or n_by_default(images, settings.patch_size, split)

    def close(self) -> None:
        """End worker processes; the next pass starts them again."""
        for loader in self._loaders:
            loader.close()
        self._loaders.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without loaders, which hold threads and processes."""
        return self.__dict__ | {"_loaders": []}

    def _train_plan(self, images: ImageSet, split: Split | None) -> RandomPatches | GridPatches:
        settings = self.settings
        return training_plan(
            images,
            settings.sampling,
            settings.patch_size,
            settings.patches_per_epoch,
            split,
            seed=settings.seed,
            # Whatever the number of workers: the same seed draws the same patches.
            cell_bytes=settings.pool_bytes // CELLS,
        )

    def _loader(
        self,
        images: ImageSet,
        plan: Plan | RandomPatches | GridPatches,
        share: Share,
        epoch: int = 0,
        **options: Any,
    ) -> PatchLoader:
        settings = self.settings
        options = {"batch_size": settings.batch_size, "pool_bytes": settings.pool_bytes} | options
        dataset = PatchDataset(
            images,
            plan,
            seed=settings.seed,
            nan_policy=settings.nan_policy,
            share=share,
            **options,
        )
        loader = PatchLoader(
            dataset,
            num_workers=settings.num_workers,
            start_method=settings.start_method,
            epoch=epoch,
        )
        self._loaders.append(loader)
        return loader
