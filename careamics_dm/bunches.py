"""Bunches: neighbouring origins, told apart by pixels that their patches have in common.

Where no patch of a bunch can pass a filter, none needs to be cut. What bounds all patches of a
bunch follows from the tiles of pixels that any of them touches, for about a nanosecond per pixel:
a twentieth of what it takes to tell for every origin.
"""

from __future__ import annotations

from functools import reduce
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from careamics_dm.sliding import sliding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Values = NDArray[np.float64]

WORK = 2**17
"""Pixels to reduce at once, so that their float64 copies (1 MiB) stay in the cache."""

ROUNDING = 1e-12
"""What rounding of fractions may make of a sum of squares, relatively, and more."""


def bunch_shape(size: Sequence[int]) -> tuple[int, ...]:
    """Origins in a bunch: about an eighth of a patch along each axis.

    Parameters
    ----------
    size : sequence of int
        Of a patch, ``(Z) Y X``, pixels.

    Returns
    -------
    tuple of int
        ``(Z) Y X``; even along Y and X, so that each bunch has as many even as odd origins.
    """
    return (*(max(p // 8, 1) for p in size[:-2]), *(max(p // 16 * 2, 2) for p in size[-2:]))


def n_bunches(shape: Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
    """Bunches along each axis of an image.

    Parameters
    ----------
    shape, size : sequence of int
        Of the image, and of a patch, ``(Z) Y X``, pixels.

    Returns
    -------
    tuple of int
        ``(Z) Y X``.
    """
    axes = zip(shape, size, bunch_shape(size), strict=True)
    return tuple(-(-(n - p + 1) // t) for n, p, t in axes)


def most_near(pixels: NDArray[Any], size: Sequence[int]) -> NDArray[np.float64]:
    """Largest pixel that the patches of each bunch touch.

    Parameters
    ----------
    pixels : ndarray
        ``(Z) Y X``, at least as large as a patch.
    size : sequence of int
        Of a patch, ``(Z) Y X``, pixels.

    Returns
    -------
    ndarray of float64
        By bunch, ``(Z) Y X``; NaN where a pixel is.
    """
    least = -np.inf if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).min
    step = bunch_shape(size)
    tiles = np.full(_n_tiles(pixels.shape, size), least, pixels.dtype)
    for plane, into in _planes(pixels, tiles, step):
        for here, band in _bands(plane, step, plane.dtype, least):
            most = band.max(axis=1)
            out = into[here, : most.shape[1] // step[-1]]
            for x in range(step[-1]):
                np.maximum(out, most[:, x :: step[-1]], out=out)
    return sliding(tiles, n_near(size), np.maximum).astype(np.float64)


def moments_near(
    pixels: NDArray[Any], size: Sequence[int], every: int = 1
) -> Iterator[tuple[Values, Values, Values]]:
    """Moments of the pixels that the patches of each bunch touch.

    Parameters
    ----------
    pixels : ndarray
        ``(Z) Y X``, at least as large as a patch.
    size : sequence of int
        Of a patch, ``(Z) Y X``, pixels.
    every : {1, 2}
        Look at every second pixel along Y and X only, from the origin of a patch on. Then there
        are four answers, for origins of even and odd Y and X.

    Yields
    ------
    n, mean, squares : ndarray of float64
        By bunch, ``(Z) Y X``: how many pixels are touched, their mean, and the sum of squared
        differences from it, nowhere too low; NaN where a pixel is NaN or infinite. Of integers of
        at most 16 bits, sums are exact, and so a function of these pixels alone.
    """
    step = bunch_shape(size)
    *nz, ny, nx = _n_tiles(pixels.shape, size)
    sums = np.zeros((2, every, every, *nz, ny, nx))
    phase = np.resize(np.eye(every), (step[-1], every))
    for plane, into in _planes(pixels, np.moveaxis(sums, (0, 1, 2), (-5, -3, -1)), step):
        for here, band in _bands(plane, step, np.dtype(np.float64), 0):
            n, rows, width = band.shape
            thin = band.reshape(n, rows // every, every, width)
            for power in range(2):
                if power:
                    np.square(band, out=band)
                # Of columns, by a matrix product, which is much faster than sums of so few.
                columns = thin.sum(axis=1).reshape(n, every, width // step[-1], step[-1])
                into[power, here, :, : width // step[-1]] += columns @ phase
    totals, squares = sliding(sums, n_near(size), np.add)
    for y, x in product(range(every), repeat=2):
        n = _n_touched(pixels.shape, size, (*(0 for _ in size[:-2]), y, x), every)
        mean = totals[y, x] / n
        around = squares[y, x] * (1 + ROUNDING)
        around -= totals[y, x] * mean
        yield n, mean, around


def n_near(size: Sequence[int]) -> tuple[int, ...]:
    """Count the tiles, as large as bunches, that the patches of a bunch touch along each axis.

    Parameters
    ----------
    size : sequence of int
        Of a patch, ``(Z) Y X``, pixels.

    Returns
    -------
    tuple of int
        ``(Z) Y X``.
    """
    return tuple(1 + (t + p - 2) // t for p, t in zip(size, bunch_shape(size), strict=True))


def _n_tiles(shape: Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
    """Tiles along each axis, with those beyond the image that the last bunch would touch."""
    axes = zip(n_bunches(shape, size), n_near(size), strict=True)
    return tuple(n + near - 1 for n, near in axes)


def _planes(
    pixels: NDArray[Any], tiles: NDArray[Any], step: Sequence[int]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Planes of pixels, and the tiles that each belongs to."""
    if pixels.ndim == 2:
        yield pixels, tiles
    else:
        for z, plane in enumerate(pixels):
            yield plane, tiles[z // step[0]]


def _bands(
    plane: NDArray[Any], step: Sequence[int], dtype: np.dtype[Any], fill: float
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Bands of rows, ``(tiles, rows, X)``, filled up to whole tiles; and which tiles these are."""
    rows, columns = step[-2:]
    ny, width = -(-plane.shape[0] // rows), -(-plane.shape[1] // columns) * columns
    at_once = min(max(WORK // (rows * width), 1), ny)
    work = np.empty((at_once, rows, width), dtype)
    for first in range(0, ny, at_once):
        band = plane[first * rows : (first + at_once) * rows]
        n = -(-len(band) // rows)
        flat = work[:n].reshape(-1, width)
        flat[: len(band), : plane.shape[1]] = band
        flat[len(band) :] = fill
        flat[:, plane.shape[1] :] = fill
        yield slice(first, first + n), work[:n]


def _n_touched(
    shape: Sequence[int], size: Sequence[int], phase: Sequence[int], every: int
) -> Values:
    """How many pixels of a phase the patches of each bunch touch."""
    along = []
    axes = zip(shape, n_bunches(shape, size), n_near(size), bunch_shape(size), phase, strict=True)
    for axis, (n, bunches, near, t, begin) in enumerate(axes):
        first = np.arange(bunches) * t
        length = np.minimum(first + near * t, n) - first
        thin = every if axis >= len(size) - 2 else 1
        along.append(-(-(length - begin) // thin))
    return np.asarray(reduce(np.multiply.outer, along), np.float64)
