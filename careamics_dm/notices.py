"""What to know, told once: no fault, but no surprise either."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from careamics_dm.pairs import EveryOther

if TYPE_CHECKING:
    from collections.abc import Sequence

    from careamics_dm.images import Images


say = rank_zero_only(print)
"""Print, of all processes that work together, from the first only."""


def tell_gaps(what: str, images: Images) -> None:
    """Warn of what was not acquired: its prediction means nothing."""
    missing = images.n_not_acquired()
    if not missing:
        return
    first = next(iter(missing))
    shape = images.stacks[first].data_shape
    share = missing[first] / (shape[0] * prod(shape[2:]))
    rank_zero_warn(
        f"{what}: {len(missing)} image(s) have parts that were not acquired, of "
        f"{images.stacks[first].source} {missing[first]} pixels ({share:.1%}). They are read as 0; "
        "what is predicted there"
        f"{', and scored with the rest,' * (what == 'test_data')} means nothing."
    )


def tell_odd(images: Images) -> None:
    """Warn of frames that have no partner."""
    pairs = [stack for stack in images.stacks if isinstance(stack, EveryOther)]
    if odd := [stack.source for stack in pairs if stack.n_frames % 2]:
        rank_zero_warn(
            f"repeats: {len(odd)} image(s) have an odd number of frames; the last one has no "
            f"partner and is left out: {', '.join(odd[:5])}{', ...' * (len(odd) > 5)}."
        )


def tell_without_place(images: Images, patch_size: Sequence[int]) -> None:
    """Warn of images that no patch is drawn from, because of their gaps."""
    lost = images.without_place(patch_size)
    if 0 < len(lost) < len(images.stacks):  # without any place, drawing says so
        names = [images.stacks[i].source for i in lost]
        rank_zero_warn(
            f"train_data: {len(names)} image(s) give no patch of {tuple(patch_size)}, as so much "
            f"in one piece was not acquired: {', '.join(names[:5])}{', ...' * (len(names) > 5)}. "
            "Use a smaller patch_size, or channels that were acquired together."
        )
