"""Smaller versions of an image: means over 2 pixels along each axis, chunk by chunk."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from careamics_dm.prediction.result_file import to_dtype

SMALL = 512
"""Pixels; an image that is no longer along any axis needs no smaller version."""


def plan_levels(axes: str, shape: Sequence[int], lengths: Sequence[float]) -> list[tuple[int, ...]]:
    """Return the factors per axis by which each level is smaller than the image; ones first.

    Z is halved, too, unless its pixels are longer than those of a plane; ``lengths`` are those of
    a pixel.
    """
    planar = [axes.index("Y"), axes.index("X")]
    levels, sizes = [np.ones(len(axes), int)], np.array(shape)
    while True:
        now = np.array(lengths) * levels[-1]
        finer = [axis == "Z" and now[i] <= now[planar].min() * 1.01 for i, axis in enumerate(axes)]
        halve = (np.isin(range(len(axes)), planar) | finer) & (sizes > 1)
        if not (sizes[halve] > SMALL).any():
            return [tuple(level.tolist()) for level in levels]
        levels.append(levels[-1] * np.where(halve, 2, 1))
        sizes = np.where(halve, -(-sizes // 2), sizes)


def shrink(source: Any, target: Any, block: Sequence[int]) -> None:
    """Fill an array with the means of a larger one, whose axes are as long or twice as long."""
    steps = [1 if n == m else 2 for n, m in zip(source.shape, target.shape, strict=True)]
    for start in product(*(range(0, n, b) for n, b in zip(target.shape, block, strict=True))):
        stop = [min(a + b, n) for a, b, n in zip(start, block, target.shape, strict=True)]
        wanted = tuple(map(slice, start, stop))
        larger = tuple(slice(w.start * s, w.stop * s) for w, s in zip(wanted, steps, strict=True))
        target[wanted] = to_dtype(halve(np.asarray(source[larger]), steps), target.dtype)


def halve(pixels: NDArray[Any], steps: Sequence[int]) -> NDArray[Any]:
    """Return the means over ``steps`` (1 or 2) pixels per axis; at odd ends, of what is there."""
    exact = pixels.dtype.itemsize <= 2 or pixels.dtype == np.float32
    means, dtype = pixels, np.dtype(np.float32 if exact else np.float64)
    for axis, step in enumerate(steps):
        if step == 2:
            every = np.moveaxis(means, axis, 0)
            first, second = every[::2], every[1::2]
            mean: NDArray[Any] = first.astype(dtype)
            mean[: len(second)] += second
            mean[: len(second)] /= 2
            means = np.moveaxis(mean, 0, axis)
    return means.astype(dtype, copy=False)
