"""Warnings about data that are usable but not complete; printing on one process."""

from math import prod
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from careamics_dm.images.frame_pairs import AlternateFrames, AlternatePlanes
from careamics_dm.images.image_set import ImageSet

say = rank_zero_only(print)  # print, but only on the first of the processes of a run


def warn_of_gaps(what: str, images: ImageSet) -> None:
    """Warn of parts that were not acquired, whose prediction means nothing."""
    missing = images.n_not_acquired()
    if not missing:
        return
    first = next(iter(missing))
    shape = images.stacks[first].data_shape
    share = missing[first] / (shape[0] * prod(shape[2:]))
    rank_zero_warn(
        f"{what}: {len(missing)} image(s) have parts that were not acquired, of "
        f"{images.stacks[first].source} {missing[first]} pixels ({share:.1%}). They are read as 0; "
        "ignore what is predicted there"
        f"{', although scores include it' * (what == 'test_data')}."
    )


def warn_of_dtypes(what: str, images: ImageSet) -> None:
    """Warn of images of several dtypes, as some of them may be masks."""
    of_dtype: dict[np.dtype[Any], list[str]] = {}
    for stack in images.stacks:
        of_dtype.setdefault(np.dtype(stack.data_dtype), []).append(stack.source)
    if len(of_dtype) > 1:
        found = (f"{len(names)} {dtype} ({names[0]})" for dtype, names in of_dtype.items())
        rank_zero_warn(
            f"{what}: its images have several dtypes: {', '.join(found)}. Are there masks or "
            "labels among them? Name the images alone if so."
        )


def warn_of_odd_frames(images: ImageSet) -> None:
    """Warn of frames without a partner."""
    pairs = [
        stack for stack in images.stacks if isinstance(stack, AlternateFrames | AlternatePlanes)
    ]
    if odd := [stack.source for stack in pairs if stack.n_frames % 2]:
        rank_zero_warn(
            f"repeats: {len(odd)} image(s) have an odd number of frames, the last of which is left "
            f"out: {', '.join(odd[:5])}{', ...' * (len(odd) > 5)}."
        )
