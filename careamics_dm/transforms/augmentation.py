"""Flips and quarter turns of whole batches, the same for input and target.

The patches of a batch are in random order. So giving the first ``counts[0]`` of them orientation 0,
the next ``counts[1]`` orientation 1 and so on is as random as drawing an orientation for each, and
takes one strided copy per orientation instead of one per patch.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from careamics_dm.errors import DataError

Images: TypeAlias = dict[str, Tensor]
"""``image`` and, where there is one, ``target``, each ``(N, C, (Z), Y, X)``."""
OwnAugmentation: TypeAlias = Callable[..., Any]
"""A function or object of somebody else's; `augment` says how it is called."""


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


def augment(own: OwnAugmentation, images: Images, seed: int) -> Images:
    """Augment normalised images by a user's function, or by a transform of another library.

    A ``torch.nn.Module`` (Kornia, torchvision) gets image and target as channels of one tensor, so
    that both change alike; what has ``set_random_state`` (MONAI) gets each patch as a dictionary;
    any other function gets ``images``. All global random numbers follow from the seed meanwhile.
    """
    seed %= 2**32
    with isolate_rng():
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        if isinstance(own, nn.Module):
            parts = own(torch.cat([*images.values()], 1))
            done = dict(
                zip(images, parts.split([x.shape[1] for x in images.values()], 1), strict=True)
            )
        elif hasattr(own, "set_random_state"):
            own.set_random_state(seed)
            patches = [
                own({k: x[i] for k, x in images.items()}) for i in range(len(images["image"]))
            ]
            done = {k: torch.stack([_plain(patch[k]) for patch in patches]) for k in images}
        else:
            done = own(dict(images))
    return _checked(own, done, images)


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


def _plain(x: Tensor) -> Tensor:
    return x.as_subclass(Tensor)  # MONAI's own have metadata


def _checked(own: OwnAugmentation, done: Any, images: Images) -> Images:
    """Refuse what cannot be a batch, in place of an error somewhere in the network."""
    if not isinstance(done, dict) or done.keys() != images.keys():
        raise DataError(
            f"augmentation={own}: it must return a dictionary with {' and '.join(images)}, but "
            f"returned {sorted(done) if isinstance(done, dict) else type(done).__name__}."
        )
    for key, before in images.items():
        if done[key].shape != before.shape:
            raise DataError(
                f"augmentation={own}: it makes {tuple(done[key].shape)} of {key} patches "
                f"{tuple(before.shape)}. It must not change their shape."
            )
    return {key: _plain(x).to(images[key].dtype) for key, x in done.items()}


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
