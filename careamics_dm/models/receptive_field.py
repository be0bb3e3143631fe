"""How far a network sees: measured, where it does not say it."""

import copy
from collections.abc import Sequence
from math import ceil, inf
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from careamics_dm.models.unet import per_axis

_MEASURED: WeakKeyDictionary[nn.Module, tuple[float, ...] | None] = WeakKeyDictionary()

LONGEST = {2: 1024, 3: 256}
"""Pixels of the longest input to try, by dimensions: what sees farther sees whole images."""
PLACES = 8
"""Output pixels to try: a network that halves treats each second one differently."""


def reach_of(
    network: nn.Module, data: Any, size_divisor: int | Sequence[int]
) -> int | tuple[float, ...] | None:
    """Return the ``reach`` of a network or, for the patches of a data module, measure it once."""
    said: int | tuple[int, ...] | None = getattr(network, "reach", None)
    dims, n_channels = len(getattr(data, "patch_size", ())), getattr(data, "n_channels", None)
    if said is not None or not dims:
        return said
    if network not in _MEASURED:
        divisor = per_axis(size_divisor, dims)
        _MEASURED[network] = measured_reach(network, n_channels or 1, divisor)
    return _MEASURED[network]


def measured_reach(
    network: nn.Module, in_channels: int, size_divisor: Sequence[int]
) -> tuple[float, ...] | None:
    """Measure how many pixels to each side an output pixel depends on, along each axis.

    That is as far as its gradient is not zero, for random images, in which maxima lie anywhere.
    Infinite where it depends on the whole image; None for a network that can't be tried.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            plain: nn.Module = copy.deepcopy(getattr(network, "_orig_mod", network))
            plain = plain.cpu().float().eval().requires_grad_(False)
            axes = range(len(size_divisor))
            return tuple(_along(axis, plain, in_channels, size_divisor) for axis in axes)
        except Exception:  # networks are anybody's, and raise what they like
            return None


def _along(axis: int, network: nn.Module, in_channels: int, divisor: Sequence[int]) -> float:
    """Measure along one axis; the others are short. Only what a larger input confirms counts."""
    longest, d, former = LONGEST[len(divisor)], divisor[axis], inf
    for length in (longest // 8, longest // 4, longest // 2, longest):
        size = [ceil(4 / n) * n * 2 for n in divisor]
        size[axis] = ceil(length / d) * d
        first, step = size[axis] // 2 // d * d, ceil(d / PLACES)
        places = range(first, first + (d if d > 1 else PLACES), step)
        seen = _seen(network, torch.randn(len(places), in_channels, *size), axis, places)
        ends = [(place, row.nonzero()) for place, row in zip(places, seen, strict=True)]
        far = [max(p - int(e[0]), int(e[-1]) - p) for p, e in ends if len(e)]
        found = inf if seen[:, [0, -1]].any() else float(max(far, default=0) + step - 1)
        if found == former < inf:
            return found
        former = found
    return former


def _seen(network: nn.Module, x: Tensor, axis: int, places: Sequence[int]) -> Tensor:
    """Return on which pixels along an axis those at ``places`` depend, one of each image."""
    y = network(x.requires_grad_())
    # Far pixels weigh little: by so large a factor, that is never rounded to zero.
    found = [
        one.select(axis + 1, place).sum() * 2.0**60 for one, place in zip(y, places, strict=True)
    ]
    (slope,) = torch.autograd.grad(torch.stack(found).sum(), x)
    return (slope != 0).movedim(axis + 2, 1).flatten(2).any(2)
