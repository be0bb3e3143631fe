"""Sums and the like over the box of every origin of an image, box by box at hardly any cost."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def sliding(pixels: NDArray[Any], size: Sequence[int], join: np.ufunc) -> NDArray[Any]:
    """Reduce the box that begins at each place.

    Runs of 1, 2, 4, ... pixels are joined, so the work grows with the logarithm of the size; and
    unlike differences of running sums, sums of floating-point numbers keep their digits.

    Parameters
    ----------
    pixels : ndarray
        ``... (Z) Y X``.
    size : sequence of int
        Of a box, ``(Z) Y X``, pixels.
    join : numpy.ufunc
        An associative function of two arguments, such as `numpy.add`, that keeps the dtype.

    Returns
    -------
    ndarray
        ``... (Z) Y X``, one for each box that lies inside.
    """
    for d, p in enumerate(size):
        pixels = _along(pixels, pixels.ndim - len(size) + d, p, join)
    return pixels


def _along(pixels: NDArray[Any], axis: int, p: int, join: np.ufunc) -> NDArray[Any]:
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


def sliding_moments(
    pixels: NDArray[Any], size: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Mean and mean square, around a shift, of the box that begins at each place.

    Of integers there is no shift, and sums are exact, as long as they are below 2^53.

    Parameters
    ----------
    pixels : ndarray
        ``(Z) Y X``, integers of at most 16 bits, or floating-point numbers.
    size : sequence of int
        Of a box, ``(Z) Y X``, pixels.

    Returns
    -------
    mean, square : ndarray
        Of pixels less the shift, ``(Z) Y X``.
    shift : float
        What was subtracted.
    """
    n = prod(size)
    if pixels.dtype.kind == "f":
        shift = float(pixels.flat[0])
        wide = pixels.astype(np.float64) - shift
        return sliding(wide, size, np.add) / n, sliding(wide * wide, size, np.add) / n, shift
    # Less the least of them, sums are smaller, and mostly fit 32 bits, which is much faster.
    low = int(pixels.min())
    above = np.subtract(pixels, low, dtype=np.int32)
    peak = int(above.max())
    total = _sums(above, peak, size)
    # The square of 65535 does not fit.
    squares = np.square(above, dtype=np.int32 if peak < 2**15 else np.int64)
    square = total * (2.0 * low)
    square += _sums(squares, peak**2, size)
    square += float(n * low**2)
    square /= n
    mean = np.add(total, n * low, dtype=np.float64)
    mean /= n
    return mean, square, 0.0


def _sums(pixels: NDArray[Any], peak: int, size: Sequence[int]) -> NDArray[Any]:
    """Add up whole numbers from 0 to ``peak``, in 32 bits as long as these suffice."""
    for axis, p in reversed(list(enumerate(size))):
        peak *= p
        if peak >= 2**31:
            pixels = pixels.astype(np.int64, copy=False)
        pixels = _along(pixels, axis, p, np.add)
    return pixels
