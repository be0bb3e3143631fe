"""The loader of each stage: which patches, from which pool of decoded blocks."""

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

import numpy as np
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from careamics_dm.datamodule.settings import Settings
from careamics_dm.errors import DataError
from careamics_dm.images.extent import Extent
from careamics_dm.images.image_set import ImageSet
from careamics_dm.loading.dataset import PatchDataset, Plan, fits
from careamics_dm.loading.loader import PatchLoader
from careamics_dm.sampling.image_origins import gap_origins
from careamics_dm.sampling.random_patches import RandomPatches
from careamics_dm.sampling.read_windows import WINDOWS
from careamics_dm.sampling.streams import Share
from careamics_dm.sampling.tiling import GridPatches, TileGrid
from careamics_dm.sampling.training_plan import n_by_default, training_plan
from careamics_dm.sampling.validation_split import Split

VAL_SHARE = 8
"""Validation data take one part in so many of the pool, on top: training goes on with its own."""


def epoch_of(trainer: Any) -> int | None:
    """Return the epoch that a trainer, if any, is in; always 0 where it is to overfit batches.

    It is asked for when a pass begins: a trainer that resumes does not know it before.
    """
    if trainer is None or trainer.state.fn != "fit" or trainer.state.status != "running":
        return None
    return 0 if trainer.overfit_batches else trainer.current_epoch


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
        self,
        images: ImageSet,
        split: Split | None,
        trainer: Trainer | None,
        epoch: Callable[[], int | None],
    ) -> PatchLoader:
        """Load new patches in every pass, of the ``epoch`` that it then is; see `PatchLoader`."""
        settings = self.settings
        return self._loader(
            images,
            self._train_plan(images, split),
            share_of(trainer),
            epoch,
            n_orientations=len(settings.orientations),
            patch_filter=settings.patch_filter,
        )

    def held_out(self, images: ImageSet, split: Split, trainer: Trainer | None) -> PatchLoader:
        """Load the patches that are held out of the training data."""
        pool_bytes = self.settings.pool_bytes
        keep = fits(images.extents(), pool_bytes)
        if self.settings.num_workers or not keep:  # processes share no pool
            pool_bytes //= VAL_SHARE
        return self._loader(
            images, split.patches, share_of(trainer), keep=keep, pool_bytes=pool_bytes
        )

    def grid(self, images: ImageSet, trainer: Trainer | None) -> PatchLoader:
        """Load patches side by side, or some of them, of validation images."""
        settings, pool_bytes = self.settings, self.settings.pool_bytes // VAL_SHARE
        plan = TileGrid(
            images.extents(),
            settings.patch_size,
            window_bytes=pool_bytes // WINDOWS,
            allowed=gap_origins(images, settings.patch_size),
        )
        if not len(plan):
            raise DataError(
                f"no patch of {settings.patch_size}, side by side, lies in what was acquired of "
                f"{images.stacks[0].source}: its gaps are too close. Use a smaller patch_size."
            )
        if settings.n_val_patches is not None and settings.n_val_patches < len(plan):
            plan = plan.some(settings.n_val_patches, np.random.default_rng([settings.seed, 4]))
        return self._loader(images, plan, share_of(trainer), pool_bytes=pool_bytes)

    def tiles(
        self, images: ImageSet, selected: list[int] | None, trainer: Trainer | None
    ) -> PatchLoader:
        """Load the tiles, or the whole, of all or of the ``selected`` images, in order.

        Ranks take whole images, so that no two touch the same output. The trainer's model may say
        what its network needs: ``size_divisor`` and ``reach``.
        """
        share, model = share_of(trainer), trainer.lightning_module if trainer else None
        settings, extents = self.settings, images.extents()
        mine = range(len(extents)) if selected is None else sorted(selected)
        samples = np.array([extent.samples for extent in extents])
        chosen = np.repeat(
            np.isin(np.arange(len(extents)), mine[share.rank :: share.world_size]), samples
        )
        plan = TileGrid(
            extents,
            settings.tile_size,
            self._overlap(extents, model),
            divisor=getattr(model, "size_divisor", 1),
            window_bytes=settings.pool_bytes // WINDOWS,
            chosen=chosen,
        )
        # Whole images may differ in size, so they go one by one.
        n = (settings.batch_size or 1) if settings.tile_size else 1
        return self._loader(images, plan, Share(), with_region=True, batch_size=n, keep=False)

    def _overlap(self, extents: Sequence[Extent], model: Any) -> tuple[int, ...]:
        """Return the overlap of tiles; warn if it is less than it should be."""
        reach, divisor = getattr(model, "reach", None), getattr(model, "size_divisor", 1)
        tile, wanted = self.settings.tile_size, self.settings.overlap(reach)
        if tile is None:
            return wanted
        # Tiles begin where the network's grid allows.
        possible = [
            min(o, ceil(t / divisor - 1) * divisor) for o, t in zip(wanted, tile, strict=True)
        ]
        needed = self.settings.tile_overlap or (2 * (reach or 0),) * len(tile)
        largest = np.max([extent.size for extent in extents], axis=0)
        if any((largest > tile) & (np.array(possible) < needed)):
            rank_zero_warn(
                f"tile_size={tile} is small for this network: tiles overlap by {tuple(possible)} "
                f"pixels, but should by {needed}. Near their borders, results may differ a little "
                f"from those of whole images. Use tiles of {max(needed) * 4 // 3 + divisor} pixels "
                "or more along long axes; they also take less time."
            )
        return wanted

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
            window_bytes=None
            if fits(images.extents(), settings.pool_bytes)
            else settings.pool_bytes // WINDOWS,
        )

    def _loader(
        self,
        images: ImageSet,
        plan: Plan,
        share: Share,
        epoch: Callable[[], int | None] = lambda: None,
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


def share_of(trainer: Trainer | None) -> Share:
    """Return which process this is among those of a trainer or else of the process group."""
    if trainer is not None:
        return Share(trainer.global_rank, trainer.world_size)
    if dist.is_available() and dist.is_initialized():
        return Share(dist.get_rank(), dist.get_world_size())
    return Share()
