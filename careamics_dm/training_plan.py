"""The plan of a training run: random patches, or a grid in random order."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np

from careamics_dm.axes import DataError
from careamics_dm.held_out import without_overlap
from careamics_dm.sampling import GridPatches, RandomPatches
from careamics_dm.tiling import grid_plan, n_covering

if TYPE_CHECKING:
    from collections.abc import Sequence

    from careamics_dm.images import Images
    from careamics_dm.plan import Plan


def training_plan(
    images: Images,
    sampling: Literal["random", "grid"],
    patch_size: tuple[int, ...],
    n_patches: int | None,
    held_out: Plan | None,
    *,
    seed: int,
    cell_bytes: int,
) -> RandomPatches | GridPatches:
    """Lay out training patches that overlap no held-out one and respect the masks.

    Parameters
    ----------
    images : Images
        The training data.
    sampling : {"random", "grid"}
        New patches in each epoch, or side by side.
    patch_size : tuple of int
        ``(Z) Y X``, pixels.
    n_patches : int or None
        Random patches per epoch; as many as cover the data side by side by default.
    held_out : Plan or None
        Validation patches.
    seed, cell_bytes : int
        As for `random_plan`.

    Returns
    -------
    RandomPatches or GridPatches
        Shared and shuffled like random patches in either case.

    Raises
    ------
    DataError
        Nothing is left of a grid.
    """
    extents = images.extents()
    if sampling == "random":
        n = n_patches or n_by_default(images, patch_size, held_out)
        masks = images.origin_masks(patch_size, held_out)
        return RandomPatches(extents, patch_size, n, seed, cell_bytes, held_out, masks)
    plan = grid_plan(extents, patch_size, cell_bytes=cell_bytes)
    if held_out is not None:
        plan = without_overlap(plan, held_out)
    for (image, sample), mask in images.origin_masks(patch_size).items():
        mine = np.flatnonzero((plan.image == image) & (plan.sample == sample))
        plan = plan.take(np.delete(np.arange(len(plan)), mine[~mask.allows(plan.start[mine])]))
    if not len(plan):
        raise DataError(
            f"sampling=grid: validation patches and mask leave no patch of {patch_size} side by "
            "side. Use smaller patches, fewer n_val_patches, or sampling=random."
        )
    return GridPatches(plan, seed)


def n_by_default(images: Images, patch_size: Sequence[int], held_out: Plan | None) -> int:
    """Count random patches per epoch: as many as cover the data, but for the held-out ones."""
    held = 0 if held_out is None else len(held_out)
    missing = images.n_not_acquired()
    covering = sum(
        n_covering([extent], patch_size)
        * (1 - missing.get(i, 0) / (extent.samples * prod(extent.size)))
        for i, extent in enumerate(images.extents())
    )
    return max(round(covering) - held, 1)
