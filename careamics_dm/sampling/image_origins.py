"""Where the masks and gaps of images allow patches."""

from collections.abc import Sequence
from copy import copy

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.boxes import gaps
from careamics_dm.images.image_set import ImageSet
from careamics_dm.sampling.allowed_origins import OriginMask, ValidOrigins
from careamics_dm.sampling.read_windows import PatchList


def origin_masks(
    images: ImageSet,
    patch_size: Sequence[int],
    held_out: PatchList | None = None,
    chosen: NDArray[np.bool_] | None = None,
) -> dict[tuple[int, int], OriginMask | ValidOrigins]:
    """Find where masks and gaps allow patches that overlap no held-out one, by image and sample.

    Samples where all is allowed are left out; and those that are not ``chosen``, where each
    sample, image by image, is or is not.
    """
    held: dict[tuple[int, int], NDArray[np.int64]] = {}
    if held_out is not None and len(held_out):
        keys = np.stack([held_out.image, held_out.sample], axis=1)
        each, first = np.unique(keys, axis=0, return_index=True)
        starts = np.split(held_out.start, first[1:])
        held = dict(zip(map(tuple, each.tolist()), starts, strict=True))
    between = {} if images.masks else gap_origins(images, patch_size, chosen)
    found: dict[tuple[int, int], OriginMask | ValidOrigins] = {}
    every = [(i, sample) for i, samples in enumerate(images.samples(chosen)) for sample in samples]
    for i, sample in every:
        size, allowed = images.stacks[i].data_shape[2:], between.get((i, sample))
        if images.masks:
            pixels = images.masks[i].extract_patch(sample, None, [0] * len(size), size)[0]
            found[i, sample] = OriginMask(pixels, patch_size)
            if (valid := images.valid_region(i, sample)) is not None:
                found[i, sample].exclude(gaps(valid, size))
        elif allowed is not None:
            found[i, sample] = copy(allowed) if (i, sample) in held else allowed  # others share it
        elif (i, sample) in held:
            found[i, sample] = ValidOrigins([((0,) * len(size), tuple(size))], size, patch_size)
        if (i, sample) in held:
            ends = held[i, sample].tolist(), (held[i, sample] + patch_size).tolist()
            found[i, sample].exclude(zip(*ends, strict=True))
    if not held and len(found) == len(every) and not any(mask.n_allowed for mask in found.values()):
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
    for i, samples in enumerate(images.samples(chosen)):
        size = tuple(images.stacks[i].data_shape[2:])
        for sample in samples:
            if (valid := images.valid_region(i, sample)) is None:
                continue
            key = size, id(valid)  # boxes live as long as the images
            if key not in shared:
                shared[key] = ValidOrigins(valid, size, patch_size)
            found[i, sample] = shared[key]
    return found


def warn_of_images_without_patch(images: ImageSet, patch_size: Sequence[int]) -> None:
    """Warn of images, of several, whose gaps leave no place for a patch."""
    if images.masks:  # what they leave out is meant
        return
    allowed = gap_origins(images, patch_size)
    lost = [
        stack.source
        for i, stack in enumerate(images.stacks)
        if not any(
            (i, s) not in allowed or allowed[i, s].n_allowed for s in range(stack.data_shape[0])
        )
    ]
    if 0 < len(lost) < len(images.stacks):  # if all are, `origin_masks` says so
        rank_zero_warn(
            f"train_data: {len(lost)} image(s) give no patch of {tuple(patch_size)}, as so much "
            f"in one piece was not acquired: {', '.join(lost[:5])}{', ...' * (len(lost) > 5)}. "
            "Use a smaller patch_size, or channels that were acquired together."
        )
