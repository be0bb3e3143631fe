"""Where the masks and gaps of images allow patches."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from careamics_dm.errors import DataError
from careamics_dm.images.boxes import gaps
from careamics_dm.sampling.allowed_origins import OriginMask, ValidOrigins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from careamics_dm.images.image_set import ImageSet
    from careamics_dm.sampling.plan import Plan


def origin_masks(
    images: ImageSet,
    patch_size: Sequence[int],
    held_out: Plan | None = None,
    chosen: NDArray[np.bool_] | None = None,
) -> dict[tuple[int, int], OriginMask | ValidOrigins]:
    """Find where masks and gaps allow patches that overlap no held-out one, by image and sample.

    Samples without mask and gap, where all is allowed, are left out; and those that are not
    ``chosen``, where each sample, image by image, is or is not.
    """
    found: dict[tuple[int, int], OriginMask | ValidOrigins] = {}
    shared: dict[Any, ValidOrigins] = {}
    every = [(i, sample) for i, samples in enumerate(images.samples(chosen)) for sample in samples]
    for i, sample in every:
        valid, size = images.valid_region(i, sample), images.stacks[i].data_shape[2:]
        if images.masks:
            pixels = images.masks[i].extract_patch(sample, None, [0] * len(size), size)[0]
            allowed: OriginMask | ValidOrigins = OriginMask(pixels, patch_size)
            allowed.exclude([] if valid is None else gaps(valid, size))
        elif valid is not None:
            allowed = _between_gaps(images, i, sample, patch_size, shared)
        else:
            continue
        here = held_out is not None and (held_out.image == i) & (held_out.sample == sample)
        if held_out is not None and np.any(here):
            starts = held_out.start[here]
            allowed = copy(allowed)
            allowed.exclude(zip(starts.tolist(), (starts + patch_size).tolist(), strict=True))
        found[i, sample] = allowed
    if len(found) == len(every) and not any(mask.n_allowed for mask in found.values()):
        raise DataError(
            f"train_mask: no patch of {tuple(patch_size)} has its centre inside the mask. "
            "Non-zero is where patches may be drawn: check that the mask is not inverted."
            if images.masks
            else f"no patch of {tuple(patch_size)} lies in what was acquired of "
            f"{images.stacks[0].source}: its gaps are too close. Use a smaller patch_size."
        )
    return found


def without_gaps(images: ImageSet, plan: Plan) -> Plan:
    """Keep the patches of a plan that lie in what was acquired."""
    keep, shared = np.ones(len(plan), bool), dict[Any, ValidOrigins]()
    for i, sample in np.unique(np.stack([plan.image, plan.sample], axis=1), axis=0).tolist():
        if images.valid_region(i, sample) is not None:
            mine = np.flatnonzero((plan.image == i) & (plan.sample == sample))
            allowed = _between_gaps(images, i, sample, plan.size[mine[0]].tolist(), shared)
            keep[mine] = allowed.allows(plan.start[mine])
    if len(plan) and not keep.any():
        raise DataError(
            f"no patch of {tuple(plan.size[0].tolist())}, side by side, lies in what was "
            f"acquired of {images.stacks[0].source}: its gaps are too close. Use a smaller "
            "patch_size."
        )
    return plan.take(np.flatnonzero(keep))


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
