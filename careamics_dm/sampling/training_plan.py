"""The plan of a training run: random patches, or a grid in random order."""

from collections.abc import Sequence
from math import prod
from typing import Literal

import numpy as np

from careamics_dm.errors import DataError
from careamics_dm.images.image_set import ImageSet
from careamics_dm.sampling.image_origins import origin_masks
from careamics_dm.sampling.random_patches import RandomPatches
from careamics_dm.sampling.tiling import GridPatches, TileGrid, n_covering
from careamics_dm.sampling.validation_split import Split


def training_plan(
    images: ImageSet,
    sampling: Literal["random", "grid"],
    patch_size: tuple[int, ...],
    n_patches: int | None,
    split: Split | None,
    *,
    seed: int,
    window_bytes: int | None,
) -> RandomPatches | GridPatches:
    """Lay out training patches that overlap no held-out one and respect masks and gaps.

    By default random patches are as many as cover the data side by side. `DataError` if nothing is
    left.
    """
    extents = images.extents()
    held_out, trained = (None, None) if split is None else (split.avoided, split.trained)
    allowed = origin_masks(images, patch_size, held_out, trained)
    if sampling == "random":
        n = n_patches or n_by_default(images, patch_size, split)
        return RandomPatches(extents, patch_size, n, seed, window_bytes, allowed, trained)
    grid = TileGrid(extents, patch_size, window_bytes=window_bytes, chosen=trained, allowed=allowed)
    if not len(grid):
        raise DataError(
            f"sampling=grid: what validates and the mask leave no patch of {patch_size} side by "
            "side. Use smaller patches, fewer n_val_patches, or sampling=random."
        )
    return GridPatches(grid, seed)


def n_by_default(images: ImageSet, patch_size: Sequence[int], split: Split | None) -> int:
    """Count random patches per epoch: as many as cover the data, but for the held-out ones."""
    extents = images.extents()
    held = 0 if split is None or split.avoided is None else len(split.avoided)
    trained = None if split is None else split.trained
    if trained is not None:
        first = np.cumsum([0] + [extent.samples for extent in extents])[:-1]
        counts = np.add.reduceat(trained, first, dtype=np.int64).tolist()
        extents = tuple(e._replace(samples=n) for e, n in zip(extents, counts, strict=True))
    missing = images.n_not_acquired(trained)
    covering = sum(
        n_covering([extent], patch_size)
        * (1 - missing.get(i, 0) / (extent.samples * prod(extent.size)))
        for i, extent in enumerate(extents)
        if extent.samples
    )
    return max(round(covering) - held, 1)
