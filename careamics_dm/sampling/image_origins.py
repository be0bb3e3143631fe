"""Where the masks and gaps of images allow patches."""

from collections.abc import Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.boxes import gaps
from careamics_dm.images.image_set import ImageSet
from careamics_dm.sampling.allowed_origins import Allowed, OriginMask, ValidOrigins
from careamics_dm.sampling.read_windows import PatchList


def origin_masks(
    images: ImageSet,
    patch_size: Sequence[int],
    held_out: PatchList | None = None,
    chosen: NDArray[np.bool_] | None = None,
) -> dict[tuple[int, int], Allowed]:
    """Find where masks and gaps allow patches that overlap no held-out one, by image and sample.

    Samples where all is allowed are left out; and those that are not ``chosen``, where each
    sample, image by image, is or is not.
    """
    found: dict[tuple[int, int], Allowed] = {}
    every = images.extents().samples(chosen).T
    if images.masks:
        acquired = images.acquired(chosen)
        for i, sample in every.tolist():
            size = images.stacks[i].data_shape[2:]
            pixels = images.masks[i].extract_patch(sample, None, [0] * len(size), size)[0]
            found[i, sample] = OriginMask(pixels, patch_size)
            if (i, sample) in acquired:
                found[i, sample].exclude(gaps(acquired[i, sample], size))
    else:
        found |= gap_origins(images, patch_size, chosen)
    if held_out is not None and len(held_out):
        each, first = np.unique(held_out.rows[:, :2], axis=0, return_index=True)
        starts = np.split(held_out.rows[:, 2:], first[1:])
        for (i, sample), start in zip(each.tolist(), starts, strict=True):
            size = tuple(images.stacks[i].data_shape[2:])
            mask = copy(found.get((i, sample)))  # others share it
            mask = mask or ValidOrigins([((0,) * len(size), size)], size, patch_size)
            mask.exclude(zip(start.tolist(), (start + patch_size).tolist(), strict=True))
            found[i, sample] = mask
    elif len(found) == len(every) and not any(mask.n_allowed for mask in found.values()):
        raise DataError(
            f"train_mask: no patch of {tuple(patch_size)} has its centre inside the mask. "
            "Non-zero is where patches may be drawn: check that the mask is not inverted."
            if images.masks
            else f"no patch of {tuple(patch_size)} lies in what was acquired of "
            f"{images.stacks[0].source}: its gaps are too close. Use a smaller patch_size."
        )
    return found


def gap_origins(
    images: ImageSet, patch_size: Sequence[int], chosen: NDArray[np.bool_] | None = None
) -> dict[tuple[int, int], ValidOrigins]:
    """Find where gaps allow patches, by image and sample, of those with gaps."""
    found: dict[tuple[int, int], ValidOrigins] = {}
    shared: dict[tuple[tuple[int, ...], int], ValidOrigins] = {}
    for (i, sample), valid in images.acquired(chosen).items():
        size = tuple(images.stacks[i].data_shape[2:])
        key = size, id(valid)  # boxes live as long as the images
        if key not in shared:
            shared[key] = ValidOrigins(valid, size, patch_size)
        found[i, sample] = shared[key]
    return found
