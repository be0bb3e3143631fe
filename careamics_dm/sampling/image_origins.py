"""Where the masks and gaps of images allow patches."""

from collections.abc import Sequence
from copy import copy
from typing import Any

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
    found: dict[tuple[int, int], OriginMask | ValidOrigins] = {}
    shared: dict[Any, ValidOrigins] = {}
    held = _by_sample(held_out)
    every = [(i, sample) for i, samples in enumerate(images.samples(chosen)) for sample in samples]
    for i, sample in every:
        valid, size = images.valid_region(i, sample), images.stacks[i].data_shape[2:]
        if images.masks:
            pixels = images.masks[i].extract_patch(sample, None, [0] * len(size), size)[0]
            allowed: OriginMask | ValidOrigins = OriginMask(pixels, patch_size)
            allowed.exclude([] if valid is None else gaps(valid, size))
        elif valid is not None:
            allowed = _between_gaps(images, i, sample, patch_size, shared)
        elif (i, sample) in held:
            allowed = ValidOrigins([((0,) * len(size), tuple(size))], size, patch_size)
        else:
            continue
        if (i, sample) in held:
            starts = held[i, sample]
            allowed = copy(allowed)
            allowed.exclude(zip(starts.tolist(), (starts + patch_size).tolist(), strict=True))
        found[i, sample] = allowed
    if not held and len(found) == len(every) and not any(mask.n_allowed for mask in found.values()):
        raise DataError(
            f"train_mask: no patch of {tuple(patch_size)} has its centre inside the mask. "
            "Non-zero is where patches may be drawn: check that the mask is not inverted."
            if images.masks
            else f"no patch of {tuple(patch_size)} lies in what was acquired of "
            f"{images.stacks[0].source}: its gaps are too close. Use a smaller patch_size."
        )
    return found


def gap_origins(images: ImageSet, patch_size: Sequence[int]) -> dict[tuple[int, int], ValidOrigins]:
    """Find where gaps allow patches, by image and sample, of those with gaps."""
    shared: dict[Any, ValidOrigins] = {}
    return {
        (i, s): _between_gaps(images, i, s, patch_size, shared)
        for i, stack in enumerate(images.stacks)
        for s in range(stack.data_shape[0])
        if images.valid_region(i, s) is not None
    }


def _by_sample(held_out: PatchList | None) -> dict[tuple[int, int], NDArray[np.int64]]:
    """Return the origins of held-out patches, by image and sample."""
    if held_out is None or not len(held_out):
        return {}
    keys = np.stack([held_out.image, held_out.sample], axis=1)
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    found, first = np.unique(keys[order], axis=0, return_index=True)
    parts = np.split(held_out.start[order], first[1:])
    return dict(zip(map(tuple, found.tolist()), parts, strict=True))


def warn_of_images_without_patch(images: ImageSet, patch_size: Sequence[int]) -> None:
    """Warn of images, of several, whose gaps leave no place for a patch."""
    if images.masks:  # what they leave out is meant
        return
    lost, shared = [], dict[Any, ValidOrigins]()
    for i, stack in enumerate(images.stacks):
        samples = range(stack.data_shape[0])
        if all(images.valid_region(i, s) is not None for s in samples) and not any(
            _between_gaps(images, i, s, patch_size, shared).n_allowed for s in samples
        ):
            lost.append(stack.source)
    if 0 < len(lost) < len(images.stacks):  # if all are, `origin_masks` says so
        rank_zero_warn(
            f"train_data: {len(lost)} image(s) give no patch of {tuple(patch_size)}, as so much "
            f"in one piece was not acquired: {', '.join(lost[:5])}{', ...' * (len(lost) > 5)}. "
            "Use a smaller patch_size, or channels that were acquired together."
        )


def _between_gaps(
    images: ImageSet,
    image: int,
    sample: int,
    patch_size: Sequence[int],
    shared: dict[Any, ValidOrigins],
) -> ValidOrigins:
    """Return the origins that gaps allow; samples with the same gaps share them."""
    valid, size = images.valid_region(image, sample), tuple(images.stacks[image].data_shape[2:])
    assert valid is not None
    key = (size, *patch_size, id(valid))  # boxes live as long as the images
    if key not in shared:
        shared[key] = ValidOrigins(valid, size, tuple(patch_size))
    return shared[key]
