"""The loader of each stage: which patches, from which pool of decoded blocks."""

from collections.abc import Callable, Sequence
from math import lcm, prod
from typing import Any, Literal, Protocol

import numpy as np
import torch.distributed as dist
from lightning.pytorch import Trainer

from careamics_dm.datamodule.settings import Settings
from careamics_dm.datamodule.tile_overlap import needs, tile_overlap
from careamics_dm.datamodule.validation_split import Split
from careamics_dm.errors import DataError
from careamics_dm.images.image_set import ImageSet
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.loading.dataset import PatchDataset, Plan, fits
from careamics_dm.loading.loader import PatchLoader
from careamics_dm.prediction.block_tiles import BlockTiles
from careamics_dm.prediction.fingerprint import Fingerprints
from careamics_dm.prediction.result_blocks import ImageBlocks, image_blocks, images_of_shard
from careamics_dm.prediction.shared_blocks import SharedBlocks
from careamics_dm.prediction.tile_ranges import fitting_tile
from careamics_dm.sampling.epoch_streams import Share
from careamics_dm.sampling.image_origins import gap_origins, origin_masks
from careamics_dm.sampling.patch_grid import PatchGrid
from careamics_dm.sampling.random_patches import RandomPatches
from careamics_dm.sampling.read_windows import WINDOWS

Role = Literal["train", "val", "test", "predict"]

VAL_SHARE = 8
"""Validation data take one part in so many of the pool, on top: training goes on with its own."""


class Results(Protocol):
    """What predictions are written to."""

    @property
    def by_image(self) -> bool:
        """Whether one process is to predict all blocks of an image."""

    def block_shape(self, stack: ImageStack) -> Sequence[int]:
        """Return what is to be written at once, ``([Z], Y, X)``, or a part of it."""

    def begin(self, prints: Fingerprints, blocks: Sequence[ImageBlocks]) -> list[set[int]]:
        """Return which blocks of each image need not be predicted; called in all processes."""
        ...


def epoch_of(trainer: Any) -> int | None:
    """Return the epoch that a trainer, if any, is in; always 0 where it is to overfit batches.

    It is asked for when a pass begins: a trainer that resumes does not know it before.
    """
    if trainer is None or trainer.state.fn != "fit" or trainer.state.status != "running":
        return None
    return 0 if trainer.overfit_batches else trainer.current_epoch


class Loaders:
    """Makes loaders, and ends their threads and processes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._selected: list[int] | None = None
        self._results: tuple[Results, ...] = ()
        self._loaders: list[PatchLoader] = []

    def select(self, images: Sequence[int] | None, results: Sequence[Results]) -> None:
        """Let `tiles` load only these images (``None``: all), and what ``results`` lack of them."""
        self._selected, self._results = None if images is None else sorted(images), tuple(results)

    def predicted(self, n: int) -> Sequence[int]:
        """Return which of ``n`` images are predicted."""
        mine = images_of_shard(self.settings.shard, n)
        return mine if self._selected is None else self._selected

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
            with_seed=settings.own_augmentation is not None,
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
        plan = PatchGrid(
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
        plan = plan.some(settings.n_val_patches, np.random.default_rng([settings.seed, 4]))
        return self._loader(images, plan, share_of(trainer), pool_bytes=pool_bytes)

    def whole(self, images: ImageSet, trainer: Trainer | None) -> PatchLoader:
        """Load the tiles, or the whole, of all images; each rank takes some images."""
        tiles, blocks = self._tiles(images, (), trainer)
        share, of_image = share_of(trainer), np.repeat(np.arange(len(blocks)), [*map(len, blocks)])
        mine = np.flatnonzero(of_image % share.world_size == share.rank)
        return self._blocks(images, tiles.of_blocks(mine))

    def tiles(self, images: ImageSet, trainer: Trainer | None) -> PatchLoader:
        """Load the tiles of images, in order; see `select`.

        Ranks share blocks, so that no two touch the same part of an output.
        """
        results = self._results
        tiles, blocks = self._tiles(images, results, trainer)
        settings, batch = self.settings, self._tiles_per_batch
        how = f"{tiles.tile_size} {tiles.overlap} {tiles.divisor} {batch} {settings.nan_policy}"
        there = []
        if results and trainer:
            prints = Fingerprints(trainer, images, how)
            there = [of.begin(prints, blocks) for of in results]
        first, left = np.cumsum([0, *map(len, blocks)]), []
        for i in self.predicted(len(blocks)):
            done = set.intersection(*(of[i] for of in there)) if there else set()
            left += [first[i] + n for n in range(len(blocks[i])) if n not in done]
        numbers, share = np.array(left, int), share_of(trainer)
        if any(of.by_image for of in results):
            image = np.searchsorted(first, numbers, side="right") - 1
            nth = np.unique(image, return_inverse=True)[1]
            numbers = numbers[nth % share.world_size == share.rank]
            share = Share()
        return self._blocks(images, tiles.of_blocks(numbers).part(share))

    @property
    def _tiles_per_batch(self) -> int:
        # Whole images may take much memory, so they go one by one.
        return (self.settings.batch_size or 1) if self.settings.tile_size else 1

    def _tiles(
        self, images: ImageSet, results: Sequence[Results], trainer: Trainer | None
    ) -> tuple[BlockTiles, list[ImageBlocks]]:
        """Lay tiles, and divide each image into blocks that suit all ``results``.

        The trainer's model may say what its network needs: ``size_divisor`` and ``reach``.
        """
        model = trainer.lightning_module if trainer else None
        dims, extents = len(self.settings.patch_size), images.extents()
        divisor = needs(model, "size_divisor", dims) or (1,) * dims
        tile, blocks = self.settings.tile_size, []
        overlap = tile_overlap(self.settings, extents, model, divisor)
        for extent, stack in zip(extents, images.stacks, strict=True):
            wanted = [of.block_shape(stack) for of in results]
            unit = tuple(lcm(*of) for of in zip(*wanted, strict=True)) or (1,) * len(extent.size)
            of_image = fitting_tile(tile, extent.size, divisor)
            how = (of_image, overlap, divisor, self._tiles_per_batch)
            blocks.append(image_blocks(extent, images.n_channels, unit, *how))
        return BlockTiles(blocks, tile, overlap, divisor), blocks

    def _blocks(self, images: ImageSet, tiles: BlockTiles) -> PatchLoader:
        """Load the tiles of some blocks."""
        how: dict[str, Any] = {"batch_size": self._tiles_per_batch, "keep": False}
        return self._loader(images, tiles, Share(), block_cache=SharedBlocks, **how)

    def n_train_patches(self, images: ImageSet, split: Split | None) -> int:
        """Count the training patches of an epoch, over all ranks."""
        settings = self.settings
        if settings.sampling == "grid":
            return len(self._train_plan(images, split))
        return settings.patches_per_epoch or _n_by_default(images, settings.patch_size, split)

    def close(self) -> None:
        """End worker processes; the next pass starts them again."""
        for loader in self._loaders:
            loader.close()
        self._loaders.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without loaders, which hold threads and processes."""
        return self.__dict__ | {"_loaders": []}

    def _train_plan(self, images: ImageSet, split: Split | None) -> RandomPatches | PatchGrid:
        """Lay out training patches that overlap no held-out one and respect masks and gaps."""
        settings, extents = self.settings, images.extents()
        size, seed = settings.patch_size, settings.seed
        held_out, trained = (None, None) if split is None else (split.avoided, split.trained)
        allowed = origin_masks(images, size, held_out, trained)
        # Whatever the number of workers: the same seed draws the same patches.
        whole = fits(extents, settings.pool_bytes)
        window_bytes = None if whole else settings.pool_bytes // WINDOWS
        if settings.sampling == "random":
            n = settings.patches_per_epoch or _n_by_default(images, size, split)
            return RandomPatches(extents, size, n, seed, window_bytes, allowed, trained)
        how: dict[str, Any] = {"window_bytes": window_bytes, "chosen": trained, "allowed": allowed}
        grid = PatchGrid(extents, size, **how, seed=seed)
        if not len(grid):
            raise DataError(
                f"sampling=grid: what validates and the mask leave no patch of {size} side by "
                "side. Use smaller patches, fewer n_val_patches, or sampling=random."
            )
        return grid

    def _loader(
        self,
        images: ImageSet,
        plan: Plan,
        share: Share,
        epoch: Callable[[], int | None] = lambda: None,
        with_seed: bool = False,
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
            with_seed=with_seed,
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


def _n_by_default(images: ImageSet, patch_size: Sequence[int], split: Split | None) -> int:
    """Count random patches per epoch: as many as cover the data, but for the held-out ones."""
    held = 0 if split is None or split.avoided is None else len(split.avoided)
    trained = None if split is None else split.trained
    extents = images.extents()
    n = np.bincount(extents.samples(trained)[0], minlength=len(extents))
    covering = n * extents.each(
        lambda e: prod(-(-s // p) for s, p in zip(e.size, patch_size, strict=True))
    )
    lacking = sum(
        covering[i] * pixels / (n[i] * prod(extents[i].size))
        for i, pixels in images.n_not_acquired(trained).items()
    )
    return max(round(float(covering.sum() - lacking)) - held, 1)
