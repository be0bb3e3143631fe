"""Blocks: the parts of a result that are predicted, written and recorded as one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, prod

import numpy as np

from careamics_dm.images.extent import Extent
from careamics_dm.images.region import Region
from careamics_dm.prediction.tile_ranges import tile_ranges
from careamics_dm.sampling.chunk_grid import outer, window_shape
from careamics_dm.sampling.keyed_random import Numbers

BLOCK_BYTES = 2**25
"""Of a block in memory, as float32, where that is not less than a unit of the file or a tile; of
whole rows, up to twice as much."""
PARTS = 16
"""About how many blocks an image is divided into, where each has a batch of tiles: ranks share
them."""


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
        first, n_samples, place = self.places(np.array(number))
        start = tuple(int(i) * b for i, b in zip(place, self.shape, strict=True))
        stop = tuple(min(a + b, n) for a, b, n in zip(start, self.shape, self.size, strict=True))
        return Region(0, int(first), start, stop, int(n_samples))

    def places(self, numbers: Numbers) -> tuple[Numbers, Numbers, list[Numbers]]:
        """Return of blocks the first sample, how many samples, and the place along each axis."""
        group, *place = np.unravel_index(numbers, self._grid)
        first = group * self.together
        return first, np.minimum(self.together, self.samples - first), place


def images_of_shard(shard: str | None, n: int) -> range:
    """Return which of ``n`` images one of several jobs predicts: "3/16" is the third of 16 jobs.

    Neighbours, which are mostly alike, go to different jobs.
    """
    job, n_jobs = map(int, (shard or "1/1").split("/"))
    return range(job - 1, n, n_jobs)


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

    They are no smaller than a chunk of the source, and of several samples where whole ones are
    small. Of the sizes near the wanted one, that with the fewest tiles is taken; in files without
    chunks, whole rows win ties, as they are written fastest. The result depends on nothing that
    differs from run to run.
    """
    steps = [
        n if t >= n else min(tile_ranges(n, t, o, d, t).step, n)
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
    shape = _fewest_tiles(plain, tile, overlap, divisor, stored, unit, n_bytes)
    together = plain.together
    if shape == plain.size:
        together *= max(n_bytes // plain.sample_bytes // together, 1)
    return ImageBlocks(extent.samples, extent.size, min(together, extent.samples), shape)


def _fewest_tiles(
    extent: Extent,
    tile: Sequence[int],
    overlap: Sequence[int],
    divisor: Sequence[int],
    stored: Sequence[int],
    unit: Sequence[int],
    n_bytes: int,
) -> tuple[int, ...]:
    """Return the size of blocks of about so many bytes that takes the fewest tiles.

    The tiles of a block reach over its borders, so where these lie decides how many there are.
    """
    about = window_shape(extent, tile, n_bytes)
    pixel_bytes = extent.pixel_bytes * extent.together
    most = max(min(2 * n_bytes, BLOCK_BYTES), prod(about) * pixel_bytes)
    in_rows = unit[-1] == 1
    most_rows = min(2 * BLOCK_BYTES, extent.samples * extent.sample_bytes // PARTS)
    sizes: list[list[int]] = []
    counts = []
    for n, near, t, o, d, b, u, step in zip(
        extent.size, about, tile, overlap, divisor, stored, unit, extent.block, strict=False
    ):
        whole = ceil(max(b, u) / u) * u  # units of the file, no smaller than a chunk of the source
        k = ceil(n / near)
        even = [ceil(n / k) for k in range(max(k // 2, 1), 2 * k + 1)]
        if in_rows and len(sizes) == len(unit) - 1:
            even.append(n)
        sizes.append(sorted({min(ceil(e / s) * s, n) for e in even for s in (whole, step)}))
        counts.append(np.array([tile_ranges(n, t, o, d, b).counts.sum() for b in sizes[-1]], float))
    n_tiles = outer(counts)
    block_bytes = outer(np.array(of, float) for of in sizes) * pixel_bytes
    rows = in_rows & (np.array(sizes[-1]) == extent.size[-1]) & (block_bytes <= most_rows)
    n_tiles[(block_bytes > most) & ~rows] = np.inf
    off = np.maximum(block_bytes / n_bytes, n_bytes / block_bytes)  # the same on all machines
    best = np.lexsort([off.ravel(), ~rows.ravel(), n_tiles.ravel()])[0]
    return tuple(of[i] for of, i in zip(sizes, np.unravel_index(best, off.shape), strict=True))
