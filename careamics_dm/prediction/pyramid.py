"""Smaller versions of an image: means over 2 pixels along each axis, chunk by chunk."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from careamics_dm.images.axes import Box
from careamics_dm.prediction.result_file import to_dtype

SMALL = 512
"""Pixels; an image that is no longer along any axis needs no smaller version."""
STRIP = 2**17
"""Pixels computed at a time: few enough to stay in the cache."""
THREADS = 2
"""Blocks to make at a time: the pixels of each are in memory."""
LARGE = 2**24
"""Pixels of a block, beyond which blocks are made one by one."""


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

    def fill(start: Sequence[int]) -> None:
        stop = [min(a + b, n) for a, b, n in zip(start, block, target.shape, strict=True)]
        wanted = tuple(map(slice, start, stop))
        pixels = np.asarray(source[_larger(wanted, steps, source.shape)])
        means = np.empty([b - a for a, b in zip(start, stop, strict=True)], target.dtype)
        for strip in _strips(means.shape):
            larger = pixels[_larger(strip, steps, pixels.shape)]
            means[strip] = to_dtype(halve(larger, steps), target.dtype)
        target[wanted] = means

    starts = product(*(range(0, n, b) for n, b in zip(target.shape, block, strict=True)))
    with ThreadPoolExecutor(THREADS if prod(block) <= LARGE else 1) as pool:
        deque(pool.map(fill, starts), maxlen=0)


def _larger(box: Box, steps: Sequence[int], shape: Sequence[int]) -> Box:
    """Return the box of the larger array, of this shape, that halves to a box."""
    columns = zip(box, steps, shape, strict=True)
    return tuple(slice(of.start * s, min(of.stop * s, n)) for of, s, n in columns)


def _strips(shape: Sequence[int]) -> Iterator[Box]:
    """Divide a box along its first axis that is longer than 1."""
    axis = next((i for i, n in enumerate(shape) if n > 1), 0)
    step = max(STRIP * shape[axis] // prod(shape), 1)
    for first in range(0, shape[axis], step):
        box = [slice(0, n) for n in shape]
        box[axis] = slice(first, min(first + step, shape[axis]))
        yield tuple(box)


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
