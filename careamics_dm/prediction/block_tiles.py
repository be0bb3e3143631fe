"""Tiles that overlap, whose kept parts cover every pixel of some blocks exactly once."""

from collections.abc import Sequence
from copy import copy
from math import ceil, prod
from typing import NamedTuple, Self

import numpy as np

from careamics_dm.images.region import Region
from careamics_dm.prediction.result_blocks import ImageBlocks
from careamics_dm.prediction.tile_ranges import fitting_tile, tile_ranges
from careamics_dm.sampling.keyed_random import Numbers
from careamics_dm.sampling.read_windows import PlacePlan, Places


class BlockTiles(PlacePlan):
    """The tiles of blocks, each of which is read at once; at first of all ``blocks``, by image.

    Tiles begin at multiples of ``divisor``, and the last of an axis ends at the first one that
    covers the image, as a whole image does that is extended for the network. Neighbours share
    ``overlap`` pixels or a few more (fewer only where no multiple is left to begin at), and keep
    half of them each. Each block is covered by tiles of its own, which reach over its border by
    half the overlap.

    ``tile_size`` is rounded up to multiples of ``divisor``, and is no larger than each image;
    without one, images are tiles. ``numbers`` are those of the blocks, through all images; ``ends``
    are the first tile of each of these and, at last, how many there are.
    """

    def __init__(
        self,
        blocks: Sequence[ImageBlocks],
        tile_size: Sequence[int] | None,
        overlap: Sequence[int],
        divisor: Sequence[int],
    ) -> None:
        self.overlap, self.divisor = tuple(overlap), tuple(divisor)
        both = zip(tile_size or (), self.divisor, strict=False)
        self.tile_size = tuple(ceil(t / d) * d for t, d in both)
        how = self.tile_size, self.overlap, self.divisor
        kinds = {of: i for i, of in enumerate(dict.fromkeys(blocks))}
        self._layouts = [_Layout(of, *how) for of in kinds]
        self._kind = np.array([kinds[of] for of in blocks], np.int64)
        self._first = np.cumsum([0, *map(len, blocks)])
        self._choose(np.arange(self._first[-1]))

    def __len__(self) -> int:
        return int(self.ends[-1])

    def of_blocks(self, numbers: Numbers) -> Self:
        """Return the tiles of these blocks only, in the order of these."""
        other = copy(self)
        other._choose(numbers)
        return other

    def part(self, share: tuple[int, int]) -> Self:
        """Return a rank's blocks, by rank and number of ranks; all have about as many tiles.

        Where there are fewer blocks than ranks, the first rank has one.
        """
        rank = self.ends[:-1] * share[1] // max(len(self), 1)
        return self.of_blocks(self.numbers[rank == share[0]])

    def places(self, numbers: Numbers) -> Places:
        """Return where tiles lie."""
        nth = np.searchsorted(self.ends, numbers, side="right") - 1
        image, inside = self._image[nth], numbers - self.ends[nth]
        n_dims, kind = len(self.overlap), self._kind[image]
        corners, tile = (np.empty((len(nth), n * n_dims), np.int64) for n in (3, 1))
        sample = np.empty(len(nth), np.int64)
        for k in np.unique(kind).tolist():
            mine, layout = np.flatnonzero(kind == k), self._layouts[k]
            block = self.numbers[nth[mine]] - self._first[image[mine]]
            sample[mine], corners[mine] = layout.at(block, inside[mine])
            tile[mine] = layout.tile
        return Places(image, sample, corners[:, :n_dims], tile, nth, corners[:, n_dims:])

    def region(self, window: int) -> Region:
        """Return what to read of a block: as far as its tiles reach."""
        return self.places(np.arange(*self.ends[window : window + 2])).reach()

    def _choose(self, numbers: Numbers) -> None:
        self.numbers = numbers
        self._image = np.searchsorted(self._first, numbers, side="right") - 1
        block, kind = numbers - self._first[self._image], self._kind[self._image]
        n_tiles = np.empty(len(numbers), np.int64)
        for k in np.unique(kind).tolist():
            n_tiles[kind == k] = self._layouts[k].n_tiles(block[kind == k])
        self.ends = np.concatenate([[0], np.cumsum(n_tiles)])


class _Layout:
    """The tiles of an image that is divided into blocks."""

    def __init__(
        self,
        blocks: ImageBlocks,
        tile: Sequence[int],
        overlap: Sequence[int],
        divisor: Sequence[int],
    ) -> None:
        self.tile = fitting_tile(tile, blocks.size, divisor)
        self._blocks = blocks
        columns = zip(blocks.size, self.tile, overlap, divisor, blocks.shape, strict=True)
        self._axes = [tile_axis(*of) for of in columns]

    def n_tiles(self, block: Numbers) -> Numbers:
        """Count the tiles of each block."""
        _, n_samples, place = self._blocks.places(block)
        counts = [axis.counts[i] for axis, i in zip(self._axes, place, strict=True)]
        return np.asarray(n_samples * prod(counts))

    def at(self, block: Numbers, number: Numbers) -> tuple[Numbers, Numbers]:
        """Return, of tiles of blocks, sample; and start, crop start and crop stop, ``(N, 3 D)``."""
        first, _, place = self._blocks.places(block)
        found: list[Numbers] = []
        for axis, i in zip(self._axes[::-1], place[::-1], strict=True):
            number, nth = np.divmod(number, axis.counts[i])
            found.insert(0, axis.corners[:, axis.first[i] + nth])
        return first + number, np.stack(found).transpose(2, 1, 0).reshape(len(number), -1)


class TileAxis(NamedTuple):
    """The tiles along an axis, block by block."""

    corners: Numbers  # (3, N) start of each; start and stop of what it keeps
    first: Numbers  # of each block, the first tile
    counts: Numbers


def tile_axis(size: int, tile: int, overlap: int, divisor: int, block: int) -> TileAxis:
    """Place tiles along an axis."""
    low, high, step, counts = tile_ranges(size, tile, overlap, divisor, block)
    number, first = np.repeat(np.arange(len(counts)), counts), np.cumsum(counts) - counts
    start = np.minimum(low[number] + (np.arange(len(number)) - first[number]) * step, high[number])
    border = np.append((start[1:] + start[:-1] + tile) // 2, size)
    stop = np.where(np.append(np.diff(number), 1), np.minimum((number + 1) * block, size), border)
    return TileAxis(np.stack([start, np.insert(stop[:-1], 0, 0), stop]), first, counts)
