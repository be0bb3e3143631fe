"""What patches of a region can have at most, from a coarse look at it.

A rejected candidate costs more than its share of the region, as it is gathered from all over the
memory; one pass over the region in order tells where candidates need not be cut at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Values = NDArray[np.float64]
    Reduction = Callable[[NDArray[Any]], NDArray[Any]]

PER_PATCH = 4
"""Tiles along each axis of a patch."""
SLACK = 1e-6
"""Bounds are wider by this part, for what rounding of pixels and sums may add."""


class Coarse:
    """Upper bounds of what patches in a block have, by the tile that their origin lies in.

    A patch lies inside the tiles that it touches. So its maximum is at most theirs; its sum is
    at most theirs less what the other pixels must have; and its sum of squared deviations is at
    most theirs, since a part of a set deviates less from its own mean than from any other.

    Parameters
    ----------
    block : ndarray
        ``C (Z) Y X``.
    size : sequence of int
        Of a patch, ``(Z) Y X``, pixels.
    tile : sequence of int
        Of a tile, ``(Z) Y X``, pixels.
    """

    def __init__(self, block: NDArray[Any], size: Sequence[int], tile: Sequence[int]) -> None:
        self.block, self.size, self.tile = block, tuple(size), tuple(tile)
        self.shape = tuple(-(-n // t) for n, t in zip(block.shape[1:], self.tile, strict=True))

    def high(self) -> Values:
        """Bound of the maximum, ``(C, tiles)``."""
        found = self._around(np.maximum, -np.inf, lambda rows: rows.max(axis=0))
        return found + SLACK * abs(found)

    def mean(self) -> Values:
        """Bound of the mean, ``(C, tiles)``."""
        low = self._around(np.minimum, np.inf, lambda rows: rows.min(axis=0))
        total, n = self._total(), np.prod(self.size)
        bound = (total - (self._count() - n) * low) / n
        return np.asarray(bound + SLACK * (abs(total) + abs(low) * self._count()) / n)

    def variance(self) -> Values:
        """Bound of the variance, ``(C, tiles)``."""
        squares = self._around(np.add, 0, lambda rows: np.einsum("ij,ij->j", rows, rows), wide=True)
        total = self._total()
        bound = squares - total * total / self._count() + 1e-9 * squares
        return np.asarray(np.maximum(bound, 0) / np.prod(self.size) * (1 + SLACK))

    def thinned(self, step: int) -> Iterator[Coarse]:
        """Yield a look at every ``step``-th pixel along Y and X, for each way to begin.

        ``step`` divides the size of tiles, so that these tiles are the same, but at the far end
        there may be fewer.
        """
        size = (*self.size[:-2], *(-(-p // step) for p in self.size[-2:]))
        tile = (*self.tile[:-2], *(t // step for t in self.tile[-2:]))
        for y, x in np.ndindex(step, step):
            block = self.block[..., y::step, x::step]
            if block.size:
                yield Coarse(block, size, tile)

    def _total(self) -> Values:
        return self._around(np.add, 0, lambda rows: rows.sum(axis=0), wide=True)

    def _count(self) -> Values:
        """Pixels of the tiles around each, ``(1, tiles)``."""
        count = np.ones((1, *self.shape))
        for d, (n, t) in enumerate(zip(self.block.shape[1:], self.tile, strict=True)):
            along = np.minimum(t, n - np.arange(0, n, t))
            count *= along.reshape([-1 if i == d + 1 else 1 for i in range(count.ndim)])
        return self._gather(count, np.add, 0)

    def _around(
        self, join: np.ufunc, nothing: float, reduce: Reduction, *, wide: bool = False
    ) -> Values:
        """Reduce each tile, and then all tiles that a patch from there may touch."""
        found = np.empty((len(self.block), *self.shape))
        *slow, fast = self.tile
        begins = np.arange(0, self.block.shape[-1], fast)
        for place in np.ndindex(found.shape[:-1]):
            strip = tuple(slice(i * t, (i + 1) * t) for i, t in zip(place[1:], slow, strict=True))
            rows = self.block[(place[0], *strip)].reshape(-1, self.block.shape[-1])
            rows = rows.astype(np.float64) if wide else rows
            found[place] = join.reduceat(reduce(rows), begins)
        return self._gather(found, join, nothing)

    def _gather(self, tiles: Values, join: np.ufunc, nothing: float) -> Values:
        for d, (p, t) in enumerate(zip(self.size, self.tile, strict=True)):
            reach = (p + t - 2) // t  # from any origin in a tile, so many more are touched at most
            width = [(0, reach if axis == d + 1 else 0) for axis in range(tiles.ndim)]
            padded = np.pad(tiles, width, constant_values=nothing)
            windows = np.lib.stride_tricks.sliding_window_view(padded, reach + 1, axis=d + 1)
            tiles = join.reduce(windows, axis=-1)
        return tiles


def tile_of(size: Sequence[int]) -> tuple[int, ...]:
    """Size of a tile for patches of this size; even, as every second pixel may count."""
    return tuple(max(p // PER_PATCH // 2 * 2, 2) for p in size)
