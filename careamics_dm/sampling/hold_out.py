"""Patches that are held out of images, to validate."""

from collections.abc import Sequence

import numpy as np

from careamics_dm.errors import DataError
from careamics_dm.images.extent import Extent, Extents
from careamics_dm.sampling.allowed_origins import Masks
from careamics_dm.sampling.patch_grid import PatchGrid
from careamics_dm.sampling.read_windows import PatchList


def hold_out(
    extents: Sequence[Extent],
    patch_size: Sequence[int],
    n_patches: int,
    rng: np.random.Generator,
    masks: Masks | None = None,
) -> PatchList:
    """Choose validation patches of a grid at random.

    ``rng`` is of the seed alone, so that they stay the same in every epoch. `DataError` if nothing
    would be left to train on.
    """
    grid = side_by_side(extents, patch_size, masks)
    if n_patches >= len(grid):
        raise DataError(
            f"n_val_patches={n_patches}, but the training data hold only {len(grid)} patches of "
            f"{tuple(patch_size)} side by side, and some must be left to train on. Use fewer or "
            "smaller patches, or give val_data."
        )
    chosen = grid.places(rng.choice(len(grid), n_patches, replace=False))
    return PatchList(np.column_stack(chosen[:3]), patch_size)


def side_by_side(
    extents: Sequence[Extent], patch_size: Sequence[int], masks: Masks | None
) -> PatchGrid:
    """Lay patches side by side inside images, where masks and gaps allow them."""

    def inside(extent: Extent) -> Extent:
        size = tuple(n // p * p for n, p in zip(extent.size, patch_size, strict=True))
        return extent._replace(size=size, samples=extent.samples if all(size) else 0)

    return PatchGrid(Extents(extents).changed(inside), patch_size, allowed=masks)
