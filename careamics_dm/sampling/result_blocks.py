"""Blocks: the parts of a result that are predicted, written and recorded as one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import ceil, prod

import numpy as np

from careamics_dm.images.extent import Extent
from careamics_dm.images.region import Region
from careamics_dm.sampling.chunk_grid import window_shape
from careamics_dm.sampling.keyed_random import Numbers

BLOCK_BYTES = 2**25
"""Of a block in memory, as float32, where that is not less than a unit of the file or a tile."""
PARTS = 16
"""Blocks of an image at least, where each has a batch of tiles: ranks share them."""


@dataclass(frozen=True)
class ImageBlocks:
    """The blocks of an image: of some samples each, and in these on a regular grid."""

    samples: int  # length of S
    size: tuple[int, ...]  # (Z) Y X, pixels
    together: int  # samples of a block; the last ones may have fewer
    shape: tuple[int, ...]  # of a block, (Z) Y X, pixels; at the far end of an axis less

    @property
    def _grid(self) -> tuple[int, ...]:
        lengths = zip((self.samples, *self.size), (self.together, *self.shape), strict=True)
        return tuple(ceil(n / b) for n, b in lengths)

    def __len__(self) -> int:
        return prod(self._grid)

    def number(self, sample: int, pixel: Sequence[int]) -> int:
        """Return the block that has a pixel, ``(Z) Y X``."""
        steps = zip((sample, *pixel), (self.together, *self.shape), strict=True)
        return int(np.ravel_multi_index([place // step for place, step in steps], self._grid))

    def region(self, number: int) -> Region:
        """Return the samples and the box of a block; its ``image`` is 0."""
        group, *place = (int(i) for i in np.unravel_index(number, self._grid))
        start = tuple(i * b for i, b in zip(place, self.shape, strict=True))
        stop = tuple(min(a + b, n) for a, b, n in zip(start, self.shape, self.size, strict=True))
        first = group * self.together
        return Region(0, first, start, stop, min(self.together, self.samples - first))


@lru_cache(maxsize=4096)
def image_blocks(
    extent: Extent,
    n_channels: int,
    unit: tuple[int, ...],
    tile: tuple[int, ...],
    overlap: tuple[int, ...],
    divisor: tuple[int, ...],
    batch_size: int,
) -> ImageBlocks:
    """Divide an image into blocks of whole units of the file, of about `BLOCK_BYTES`.

    They are also made of whole chunks of the source, or steps of tiles, where these are larger than
    a unit, and of several samples where whole ones are small. The result depends on
    nothing that differs from run to run.
    """
    steps = [
        n if t >= n else min(_step(t, _in_blocks(o, t, d), d), n)
        for t, o, d, n in zip(tile, overlap, divisor, extent.size, strict=False)
    ]
    stored = (1,) * len(unit) if extent.in_memory else extent.block
    units = [ceil(max(b, s) / u) * u for b, s, u in zip(stored, steps, unit, strict=True)]
    plain = Extent(
        extent.samples, extent.size, tuple(units), 4 * n_channels, False, extent.samples_per_block
    )
    a_batch = batch_size * prod(steps) * plain.pixel_bytes
    whole = plain.samples * plain.sample_bytes
    n_bytes = min(max(whole // PARTS, a_batch), BLOCK_BYTES)
    shape = tuple(  # all about as large
        min(ceil(n / ceil(n / b) / u) * u, n)
        for n, b, u in zip(extent.size, window_shape(plain, tile, n_bytes), units, strict=True)
    )
    together = plain.together
    if shape == plain.size:
        together *= max(n_bytes // plain.sample_bytes // together, 1)
    return ImageBlocks(extent.samples, extent.size, min(together, extent.samples), shape)


def fitting_tile(
    tile: Sequence[int] | None, size: Sequence[int], divisor: Sequence[int]
) -> tuple[int, ...]:
    """Return the tile of an image; beyond a shorter axis, it would only have more reflection.

    ``None``: the image itself.
    """
    columns = zip(tile or (), size, divisor, strict=False)
    return tuple(ceil(min(t, n) / d) * d for t, n, d in columns) or tuple(size)


def tile_axis(
    size: int, tile: int, overlap: int, divisor: int, block: int
) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Place tiles along an axis, block by block.

    Returns their starts, start and stop of what each keeps, and the block of each.
    """
    if block < size:
        overlap = _in_blocks(overlap, tile, divisor)
    last = ceil(size / divisor) * divisor - tile if size > tile else 0
    step = _step(tile, overlap, divisor)
    margin, found = max(min(overlap, tile - step), 0) // 2, []
    for number, (a, b) in enumerate(pairwise([*range(0, size, block), size])):
        low = min(max((a - margin) // divisor * divisor, 0), last)
        high = last if b == size else ceil((b + margin - tile) / divisor) * divisor
        high = min(max(high, low), last)
        start = np.minimum(low + np.arange(ceil((high - low) / step) + 1) * step, high)
        border = (start[1:] + start[:-1] + tile) // 2
        ends = np.concatenate([[a], border]), np.concatenate([border, [b]])
        found.append((start, *ends, np.full_like(start, number)))
    starts, firsts, stops, numbers = map(np.concatenate, zip(*found, strict=True))
    return starts, firsts, stops, numbers


def _step(tile: int, overlap: int, divisor: int) -> int:
    """Return how far tiles are from each other."""
    return max((tile - overlap) // divisor, 1) * divisor


def _in_blocks(overlap: int, tile: int, divisor: int) -> int:
    """Return the overlap with which a block of whole steps needs no tile more than steps."""
    return min(2 * ceil(overlap / 2 / divisor) * divisor, tile - divisor)
