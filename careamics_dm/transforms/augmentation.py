"""Flips and quarter turns of whole batches, the same for input and target.

The patches of a batch are in random order. So giving the first ``counts[0]`` of them orientation 0,
the next ``counts[1]`` orientation 1 and so on is as random as drawing an orientation for each, and
takes one strided copy per orientation instead of one per patch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from careamics_dm.errors import DataError


class Orientation(NamedTuple):
    """A way to turn a patch: exchange Y and X or not, then reverse some axes."""

    transpose: bool
    """Exchange ``Y`` and ``X``."""
    reverse: tuple[int, ...]
    """Axes to reverse afterwards, counted from the end: -1 is ``X``, -2 ``Y``, -3 ``Z``."""


Orientations = Sequence[Orientation]


@dataclass
class Augmentation:
    """The flips and turns of images that are as plausible as the recorded images.

    Parameters
    ----------
    flip : str
        Axes that may be flipped, among ``ZYX``; empty for none.
    quarter_turns : bool
        Turn by 90, 180 or 270 degrees in ``YX``; needs square patches.

    Raises
    ------
    DataError
        If there is an axis other than ``Z``, ``Y`` or ``X``.
    """

    flip: str = "YX"
    quarter_turns: bool = True

    def __post_init__(self) -> None:
        """Check the axes."""
        if not isinstance(self.flip, str) or set(self.flip.upper()) - set("ZYX"):
            raise DataError(f'augmentation: flip="{self.flip}"; give axes among Z, Y and X.')
        if not isinstance(self.quarter_turns, bool):
            raise DataError(
                f"augmentation: quarter_turns={self.quarter_turns!r}; give true or false."
            )
        self.flip = self.flip.upper()

    def orientations(self, patch_size: Sequence[int]) -> list[Orientation]:
        """List the orientations for patches ``(Z) Y X``, all equally likely, the identity first.

        Raises a DataError if patches are not square for quarter turns, or have no ``Z`` to flip.
        """
        *depth, y, x = patch_size
        if self.quarter_turns and y != x:
            raise DataError(
                f"augmentation: quarter turns need square patches, but patch_size is "
                f"{tuple(patch_size)}. Set augmentation.quarter_turns=false or make Y and X equal."
            )
        if "Z" in self.flip and not depth:
            raise DataError(
                f"augmentation: flip={self.flip}, but patch_size {patch_size} has no Z."
            )
        found = []
        for t, z, i, j in product((False, True), (0, 1), (0, 1), (0, 1)):
            flips = {"Z": z, "Y": i, "X": j}
            if z and "Z" not in self.flip:
                continue
            turned = self.quarter_turns and (t + i + j) % 2 == 0  # a turn, without a mirror
            mirrored = self.quarter_turns and set(self.flip) & set("YX")
            flipped = not t and all(axis in self.flip for axis in "YX" if flips[axis])
            if turned or mirrored or flipped:
                found.append(Orientation(t, tuple(d for d, f in ((-3, z), (-2, i), (-1, j)) if f)))
        return found


def orient(x: Tensor, orientations: Sequence[Orientation], counts: Sequence[int]) -> Tensor:
    """Copy a batch as float32; turn the first ``counts[0]`` patches to orientation 0, and so on."""
    if len(counts) != len(orientations) or sum(counts) != len(x):
        raise ValueError(
            f"{len(x)} patches cannot get {len(orientations)} orientations {tuple(counts)} times: "
            "transform whole batches, as the loader yields them."
        )
    if x.device.type == "cpu":
        # NumPy has negative strides, so one pass converts and turns. torch.flip copies once more,
        # and has no uint16 (measured: NumPy is a third faster).
        stored, out = x.numpy(), np.empty(x.shape, np.float32)
        for orientation, run in _runs(orientations, counts):
            patches = stored[run].swapaxes(-1, -2) if orientation.transpose else stored[run]
            steps = (-1 if axis in orientation.reverse else None for axis in (-3, -2, -1))
            out[run] = patches[(..., *(slice(None, None, step) for step in steps))]
        return torch.from_numpy(out)
    return _turn_on_device(x.to(torch.float32), orientations, counts)


def turn(x: Tensor, orientation: Orientation) -> Tensor:
    """Turn a tensor ``(..., Y, X)`` to an orientation; always a copy."""
    x = x.transpose(-1, -2) if orientation.transpose else x
    return x.flip(orientation.reverse)


def turn_back(x: Tensor, orientation: Orientation) -> Tensor:
    """Undo `turn`."""
    x = x.flip(orientation.reverse)
    return x.transpose(-1, -2) if orientation.transpose else x


def _turn_on_device(x: Tensor, orientations: Orientations, counts: Sequence[int]) -> Tensor:
    turned = torch.empty_like(x)
    for orientation, run in _runs(orientations, counts):
        turned[run] = turn(x[run], orientation)
    return turned


def _runs(orientations: Orientations, counts: Sequence[int]) -> Iterator[tuple[Orientation, slice]]:
    """Yield each orientation with the patches of a batch that get it."""
    ends = accumulate(counts)
    for orientation, count, end in zip(orientations, counts, ends, strict=True):
        yield orientation, slice(end - count, end)
