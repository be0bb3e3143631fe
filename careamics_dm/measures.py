"""Mean, variance and entropy of many patches at once."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Values = NDArray[np.float64]

LEVELS = 256
"""Of the histogram of floating-point pixels."""
CHUNK = 2**16
"""Pixels that are worked on at once, so that their float64 copies (256 KiB) stay in the cache."""


def _step(n: int) -> int:
    """How many rows of so many pixels make a chunk."""
    return max(CHUNK // n, 1)


def _chunks(rows: NDArray[Any]) -> Iterator[slice]:
    """Slices of rows, few enough for the cache."""
    step = _step(rows.shape[1])
    return (slice(i, i + step) for i in range(0, len(rows), step))


def moments(rows: NDArray[Any]) -> tuple[Values, Values]:
    """Mean and variance of each row of ``(M, pixels)``."""
    n = rows.shape[1]
    total, squares = np.empty((2, len(rows)))
    # Of integers the sums are exact as they are; others lose no digits to an offset either.
    shift = rows[:, 0].astype(np.float64) if rows.dtype.kind == "f" else np.zeros(len(rows))
    one = np.ones(n)
    work = np.empty((min(_step(n), len(rows)), n))
    for chunk in _chunks(rows):
        pixels = work[: len(rows[chunk])]
        np.copyto(pixels, rows[chunk])
        if rows.dtype.kind == "f":
            pixels -= shift[chunk, None]
        total[chunk] = _dot(pixels, one)
        squares[chunk] = _dot(pixels, pixels)
    mean = total / n
    return mean + shift, np.maximum(squares / n - mean * mean, 0)


def _dot(a: Values, b: Values) -> Values:
    """Sum products along the last axis, in pieces.

    Of larger ones BLAS would share the work among threads, which wait for each other where the
    cores are busy.
    """
    step = 2**13
    total: Values = np.vecdot(a[..., :step], b[..., :step])
    for i in range(step, a.shape[-1], step):
        total += np.vecdot(a[..., i : i + step], b[..., i : i + step])
    return total


def levels(rows: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers to count: integers themselves, of others 256 levels from least to most."""
    if rows.dtype.kind != "f":
        return rows
    levels = np.empty(rows.shape, np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):  # where they span all that float32 can
        for chunk in _chunks(rows):
            pixels = rows[chunk].astype(np.float32)
            low = pixels.min(axis=1, keepdims=True)
            pixels -= low
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
            found[chunk] = _by_sorting(rows[chunk], bits)
            continue
        # A run of bins for each row, so that all are counted at once.
        begin = np.arange(0, len(low) * width, width) - low
        bins = rows[chunk].astype(np.int32)  # half the memory of what bincount makes of it
        bins += begin.astype(np.int32)[:, None]
        count = np.bincount(bins.reshape(-1), minlength=len(low) * width)
        found[chunk] = bits[count].reshape(-1, width).sum(axis=1)
    return found


def _by_sorting(rows: NDArray[Any], bits: Values) -> Values:
    """Entropy of each row; by radix, so that it is as fast however far values spread."""
    n = rows.shape[1]
    values = np.sort(rows, axis=1, kind="stable")
    new = np.ones(values.shape, bool)
    np.not_equal(values[:, 1:], values[:, :-1], out=new[:, 1:])
    first = np.flatnonzero(new)
    count = np.empty_like(first)
    np.subtract(first[1:], first[:-1], out=count[:-1])
    count[-1] = values.size - first[-1]
    begins = np.searchsorted(first, np.arange(0, values.size, n))
    return np.asarray(np.add.reduceat(bits[count], begins))


@lru_cache(maxsize=4)
def _bits(n: int) -> Values:
    """Entropy, in bits, that a value adds which 0, 1, ... ``n`` of ``n`` pixels have."""
    share = np.arange(n + 1) / n
    share[0] = 1
    bits: Values = -np.log2(share) * share
    return bits
