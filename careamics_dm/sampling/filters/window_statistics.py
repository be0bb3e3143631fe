"""Statistics of patches: of all windows of an image at once, and of many patches at once."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import ceil, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

LEVELS = 256
"""Of the histogram of floating-point pixels."""
CHUNK = 2**16
"""Pixels that are worked on at once, so that their copies stay in the cache."""


def reduce_windows(pixels: NDArray[Any], size: Sequence[int], join: np.ufunc) -> NDArray[Any]:
    """Reduce the window that begins at each pixel, ``(Z) Y X``; one for each that lies inside.

    Runs of 1, 2, 4, ... pixels are joined, so the work grows with the logarithm of the size; and
    unlike differences of running sums, sums of floating-point numbers keep their digits. ``join``
    is associative and keeps the dtype.
    """
    for axis, p in enumerate(size):
        pixels = _reduce_runs(pixels, axis, p, join)
    return pixels


def window_sums(pixels: NDArray[Any], size: Sequence[int]) -> NDArray[Any]:
    """Add up the window that begins at each pixel, ``(Z) Y X``; one for each that lies inside.

    Pixels are integers from 0 on, whose sums are exact, or floating-point numbers, which are added
    in float64.
    """
    if pixels.dtype.kind == "f":
        return reduce_windows(pixels.astype(np.float64), size, np.add)
    peak = int(pixels.max())
    for axis, p in enumerate(size):
        peak *= p
        dtype = np.min_scalar_type(peak)  # narrow ones are much faster
        if dtype.itemsize <= 4 and axis < len(size) - 1:
            pixels = _reduce_runs(pixels.astype(dtype, copy=False), axis, p, np.add)
        else:
            pixels = _difference_runs(pixels, axis, p, dtype)
    return pixels


def reaching_windows(
    pixels: NDArray[Any],
    size: Sequence[int],
    *,
    mean: float | None = None,
    variance: float | None = None,
) -> NDArray[np.bool_]:
    """Mark the pixels, ``(Z) Y X``, at which a window begins that reaches a mean and a variance.

    ``None`` asks for nothing. Sums are compared, as dividing each of them would take long.
    """
    n, floats = prod(size), pixels.dtype.kind == "f"
    low = float(np.float32(pixels.mean(dtype=np.float64)) if floats else pixels.min())
    # Small numbers: a large offset would take the digits, and sums of integers mostly fit 32 bits.
    # In float64, differences of numbers of float32, and their sums, are mostly exact.
    above = pixels - np.float64(low) if floats else np.subtract(pixels, int(low), dtype=np.int32)
    above = above if floats else above.view(np.uint32)
    total = window_sums(above, size)
    reached = np.ones(total.shape, bool)
    if mean is not None:
        least = n * (mean - low)
        if not floats:  # the least sum whose mean, as divided and rounded, is not below
            least = ceil(least)
            least -= (least - 1 + n * low) / n >= mean
        reached = total >= least
    if variance is not None and variance > 0 and reached.any():
        # The difference of larger ones may not fit 64 bits.
        dtype = np.uint64 if not floats and n <= 2**16 else np.float64
        spread = np.multiply(window_sums(np.square(above), size), n, dtype=dtype)
        spread -= np.square(total, dtype=dtype)
        least = n * n * variance
        reached &= spread >= (least if floats else ceil(least))
    return reached


def to_levels(rows: NDArray[Any]) -> NDArray[Any]:
    """Integers to count: as they are, or of fractions 256 levels from least to most of a row."""
    if rows.dtype.kind != "f":
        return rows
    levels = np.empty(rows.shape, np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):  # where they span all that float32 can
        for chunk in _chunks(rows):
            pixels = rows[chunk].astype(np.float32)
            pixels -= pixels.min(axis=1, keepdims=True)
            span = pixels.max(axis=1, keepdims=True)
            pixels *= LEVELS / np.where(span > 0, span, 1)
            np.minimum(pixels, LEVELS - 1, out=pixels)
            np.copyto(levels[chunk], pixels, casting="unsafe")
    return levels


def entropy(rows: NDArray[Any]) -> Values:
    """Shannon entropy of the values of each row of ``(M, pixels)`` integers, bits."""
    n = rows.shape[1]
    found = np.empty(len(rows))
    bits = _bits(n)
    for chunk in _chunks(rows):
        low = rows[chunk].min(axis=1).astype(np.intp)
        width = int((rows[chunk].max(axis=1) - low).max()) + 1
        if width > n:
            found[chunk] = _entropy_by_sorting(rows[chunk], bits)
            continue
        # A run of bins for each row, so that all are counted at once.
        begin = np.arange(0, len(low) * width, width) - low
        bins = rows[chunk].astype(np.int32)  # half the memory of what bincount makes of it
        bins += begin.astype(np.int32)[:, None]
        count = np.bincount(bins.reshape(-1), minlength=len(low) * width)
        found[chunk] = bits[count].reshape(-1, width).sum(axis=1)
    return found


def _reduce_runs(pixels: NDArray[Any], axis: int, p: int, join: np.ufunc) -> NDArray[Any]:
    """Reduce runs of ``p`` along an axis: one run of a power of two for each bit of ``p``."""
    before, n = (slice(None),) * axis, pixels.shape[axis] - p + 1
    found, done, width = None, 0, 1
    while True:
        if p & width:
            part = pixels[(*before, slice(done, done + n))]
            found = part if found is None else join(found, part)
            done += width
        if done == p:
            assert found is not None
            return found
        pixels = join(pixels[(*before, slice(None, -width))], pixels[(*before, slice(width, None))])
        width *= 2


def _difference_runs(pixels: NDArray[Any], axis: int, p: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Add up runs of ``p`` integers: differences of sums, exact though these may overflow."""
    until = np.cumsum(pixels, axis=axis, dtype=dtype)
    before = (slice(None),) * axis
    sums = until[(*before, slice(p - 1, None))].copy()
    sums[(*before, slice(1, None))] -= until[(*before, slice(None, -p))]
    return sums


def _chunks(rows: NDArray[Any]) -> Iterator[slice]:
    """Slices of rows, few enough for the cache."""
    step = max(CHUNK // rows.shape[1], 1)
    return (slice(i, i + step) for i in range(0, len(rows), step))


def _entropy_by_sorting(rows: NDArray[Any], bits: Values) -> Values:
    """Entropy of each row; by radix, so that it is as fast however far values spread."""
    n = rows.shape[1]
    values = np.sort(rows, axis=1, kind="stable")
    new = np.ones(values.shape, bool)
    np.not_equal(values[:, 1:], values[:, :-1], out=new[:, 1:])
    first = np.flatnonzero(new)
    count = np.diff(first, append=values.size)
    begins = np.searchsorted(first, np.arange(0, values.size, n))
    return np.asarray(np.add.reduceat(bits[count], begins))


@lru_cache(maxsize=4)
def _bits(n: int) -> Values:
    """Entropy, in bits, that a value adds which 0, 1, ... ``n`` of ``n`` pixels have."""
    share = np.arange(n + 1) / n
    share[0] = 1
    return np.asarray(-np.log2(share) * share)
