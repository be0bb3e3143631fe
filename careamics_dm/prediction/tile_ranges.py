"""Where tiles lie along an axis, block by block."""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np

from careamics_dm.sampling.keyed_random import Numbers


def fitting_tile(
    tile: Sequence[int] | None, size: Sequence[int], divisor: Sequence[int]
) -> tuple[int, ...]:
    """Return the tile of an image; beyond a shorter axis, it would only have more reflection.

    ``None``: the image itself.
    """
    columns = zip(tile or (), size, divisor, strict=False)
    return tuple(ceil(min(t, n) / d) * d for t, n, d in columns) or tuple(size)


class TileRanges(NamedTuple):
    """The tiles of each block along an axis."""

    first: Numbers  # where the first begins
    last: Numbers
    step: int
    counts: Numbers


def tile_ranges(size: int, tile: int, overlap: int, divisor: int, block: int) -> TileRanges:
    """Say where the tiles of each block of an axis lie."""
    if block < size:
        overlap = _in_blocks(overlap, tile, divisor)
    last = ceil(size / divisor) * divisor - tile if size > tile else 0
    step = _step(tile, overlap, divisor)
    margin = max(min(overlap, tile - step), 0) // 2
    first = np.arange(0, size, block)
    low = np.clip((first - margin) // divisor * divisor, 0, last)
    high = -((tile - margin - first - block) // divisor) * divisor
    high[-1] = last
    high = np.minimum(np.maximum(high, low), last)
    return TileRanges(low, high, step, -((low - high) // step) + 1)


def _step(tile: int, overlap: int, divisor: int) -> int:
    """Return how far tiles are from each other."""
    return max((tile - overlap) // divisor, 1) * divisor


def _in_blocks(overlap: int, tile: int, divisor: int) -> int:
    """Return the overlap with which a block of whole steps needs no tile more than steps."""
    return min(2 * ceil(overlap / 2 / divisor) * divisor, tile - divisor)
