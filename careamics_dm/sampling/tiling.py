"""Grids of patches, and tiles whose kept parts cover every pixel exactly once.

Number ``k`` is found by arithmetic: first the run of samples, then along each axis the read window
and the tile in it. Only what is left out, or chosen, is listed.
"""

from collections.abc import Sequence
from copy import copy
from math import ceil, prod
from typing import ClassVar, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from careamics_dm.images.extent import Extent, Extents
from careamics_dm.images.region import Region
from careamics_dm.sampling.allowed_origins import Masks
from careamics_dm.sampling.chunk_grid import SeparableOrder, window_shape
from careamics_dm.sampling.keyed_random import Numbers
from careamics_dm.sampling.read_windows import Places, Runs, WindowTable, reach, sample_runs

PORTION = 2**16
"""Tiles to check together for masks and gaps."""


class BlockGrid(Protocol):
    """The blocks of an image that are predicted one by one, on a regular grid."""

    @property
    def together(self) -> int:
        """Samples of a block."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of a block, ``(Z) Y X``, pixels."""


class TileGrid:
    """Tiles that overlap, whose kept parts cover every pixel exactly once; or patches side by side.

    Tiles begin at multiples of ``divisor``, and the last of an axis ends at the first one that
    covers the image, as a whole image does that is extended for the network. A tile larger than the
    image reaches outside it at the far side, too. Neighbours share ``overlap`` pixels or a few more
    (fewer only where no multiple is left to begin at), and keep half of them each. With ``blocks``,
    each of these is covered by tiles of its own, which reach over its border by half the overlap.

    ``tile_size`` is rounded up to multiples of ``divisor``; without one, images are tiles. Read
    windows have ``window_bytes``, or are ``blocks``, whose tiles are no larger than each image.
    Only ``chosen`` samples, image by image, are covered, and patches left out that are not
    ``allowed``, by image and sample. With a ``seed``, samples are in another order in every epoch,
    and patches are drawn in random order.
    """

    def __init__(
        self,
        extents: Sequence[Extent],
        tile_size: Sequence[int] | None,
        overlap: Sequence[int] = (0, 0, 0),
        *,
        divisor: Sequence[int] = (1, 1, 1),
        window_bytes: int | None = None,
        blocks: Sequence[BlockGrid] | None = None,
        chosen: NDArray[np.bool_] | None = None,
        allowed: Masks | None = None,
        seed: int | None = None,
    ) -> None:
        self._seed, self.is_random = seed, seed is not None
        self._listed: Numbers | None = None
        self._excluded = np.zeros(0, np.int64)
        self.overlap, self.divisor = tuple(overlap), tuple(divisor)
        both = zip(tile_size or (), self.divisor, strict=False)
        self.tile_size = tuple(ceil(t / d) * d for t, d in both)
        together = None if blocks is None else np.array([of.together for of in blocks])
        images = Extents(extents)
        runs = sample_runs(images, chosen, together)
        alike = images.changed(lambda e: e._replace(samples=e.together))
        number: dict[tuple[int, int, tuple[int, ...] | None], int] = {}
        shapes = [blocks[i].shape if blocks else None for i in runs.image.tolist()]
        columns = zip(alike.kind[runs.image].tolist(), runs.n.tolist(), shapes, strict=True)
        kind = np.array([number.setdefault(key, len(number)) for key in columns], np.int64)
        how = self.tile_size, self.overlap, self.divisor, window_bytes
        self._layouts = [_Layout(alike.kinds[k], n, *how, block) for k, n, block in number]
        self._order(runs, kind)
        if allowed:
            self._exclude(allowed)

    def __len__(self) -> int:
        if self._listed is not None:
            return len(self._listed)
        return int(self._until[-1]) - len(self._excluded)

    def epoch(self, number: int) -> Self:
        """Return itself or, if it has a seed, the same tiles with the samples in random order."""
        if self._seed is None:
            return self
        turn = np.random.default_rng([self._seed, number]).permutation(len(self._runs.n))
        other = copy(self)
        other._order(Runs(*(column[turn] for column in self._runs)), self._kind[turn])
        run = np.searchsorted(self._until, self._excluded, side="right") - 1
        moved = other._until[:-1][np.argsort(turn)[run]] - self._until[run]
        other._excluded = np.sort(self._excluded + moved)
        return other

    def some(self, n: int | None, rng: np.random.Generator) -> Self:
        """Return ``n`` of the tiles, chosen at random, in their order; of fewer, all."""
        if n is None or n >= len(self):
            return self
        other = copy(self)
        other._listed = self._ranks(np.sort(rng.choice(len(self), n, replace=False)))
        return other

    def windows(self, numbers: Numbers) -> Numbers:
        """Return the read window of each tile."""
        return self.places(numbers).window

    def places(self, numbers: Numbers) -> Places:
        """Return where tiles lie."""
        return self._places(self._ranks(numbers))

    def first(self, window: int) -> int:
        """Return the first tile in a window, or after it."""
        run = self.table.run_of(window)
        if run == len(self._kind):
            return len(self)
        layout = self._layouts[self._kind[run]]
        rank = self._until[run] + layout.before(window - self.table.first[run])
        if self._listed is not None:
            return int(np.searchsorted(self._listed, rank))
        return int(rank - np.searchsorted(self._excluded, rank))

    def region(self, window: int) -> Region:
        """Return what to read of a window: as far as its tiles reach."""
        return reach(self.places(np.arange(self.first(window), self.first(window + 1))))

    def _order(self, runs: Runs, kind: Numbers) -> None:
        """Put the runs in an order, and count."""
        self._runs, self._kind = runs, kind
        counts = [(of.n_tiles, of.n_windows, of.window_bytes) for of in self._layouts]
        n_tiles, n_windows, window_bytes = np.array(counts, np.int64).reshape(-1, 3)[kind].T
        self._until = np.concatenate([[0], np.cumsum(n_tiles)])
        self.table = WindowTable(n_windows, window_bytes)
        self.largest_window = int(window_bytes.max(initial=0))

    def _exclude(self, allowed: Masks) -> None:
        """Leave out tiles whose origins are not allowed."""
        lost = [self._excluded]
        for run, here in self._runs.having(allowed).items():
            begin, end = self._until[run : run + 2].tolist()
            for low in range(begin, end, PORTION):
                ranks = np.arange(low, min(low + PORTION, end))
                places = self._places(ranks)
                for sample, origins in here:
                    mine = np.flatnonzero(places.sample == self._runs.first[run] + sample)
                    lost.append(ranks[mine[~origins.allows(places.start[mine])]])
        self._excluded = np.sort(np.concatenate(lost))

    def _ranks(self, numbers: Numbers) -> Numbers:
        """Return the places among all tiles, those that are left out included."""
        if self._listed is not None:
            return self._listed[numbers]
        before = self._excluded - np.arange(len(self._excluded))
        return np.asarray(numbers + np.searchsorted(before, numbers, side="right"))

    def _places(self, ranks: Numbers) -> Places:
        run = np.searchsorted(self._until, ranks, side="right") - 1
        kind, inside = self._kind[run], ranks - self._until[run]
        n_dims = len(self._layouts[0].tile) if self._layouts else 2
        corners, tile = (np.empty((len(ranks), n * n_dims), np.int64) for n in (3, 1))
        sample, window = self._runs.first[run], self.table.first[run]
        for k in np.unique(kind).tolist():
            mine, layout = np.flatnonzero(kind == k), self._layouts[k]
            corners[mine], more, number = layout.at(inside[mine])
            sample[mine] += more
            window[mine] += number
            tile[mine] = layout.tile
        start, crop = corners[:, :n_dims], corners[:, n_dims:]
        return Places(self._runs.image[run], sample, start, tile, window, crop)


class _Layout:
    """The tiles of samples of one geometry that are read together."""

    def __init__(
        self,
        extent: Extent,
        n_samples: int,
        tile: Sequence[int],
        overlap: Sequence[int],
        divisor: Sequence[int],
        window_bytes: int | None,
        block: Sequence[int] | None,
    ) -> None:
        if block:
            tile = fitting_tile(tile, extent.size, divisor)
        self.tile = tile = tuple(tile) or extent.size
        self.n_samples = n_samples
        read = block or window_shape(extent, tile, window_bytes)
        axes = [
            tile_axis(*of)
            for of in zip(extent.size, tile, overlap, divisor, block or extent.size, strict=False)
        ]
        self._columns = [columns[:3] for columns in axes]
        windows = [
            of if block else starts // r for (starts, _, _, of), r in zip(axes, read, strict=True)
        ]
        self._first = [np.flatnonzero(np.diff(of, prepend=-1)) for of in windows]
        counts = [
            np.diff(first, append=len(of)) for first, of in zip(self._first, windows, strict=True)
        ]
        self._order = SeparableOrder(counts)
        self.n_tiles = int(self._order.total) * n_samples
        self.n_windows = prod(self._order.shape)
        box = [min(r + t, n) for r, t, n in zip(read, tile, extent.size, strict=True)]
        self.window_bytes = prod(box) * extent.pixel_bytes * n_samples * (not extent.in_memory)

    def before(self, window: int) -> int:
        """Count the tiles of windows before one."""
        index = [np.array(i) for i in np.unravel_index(window, self._order.shape)]
        return int(self._order.before(index)) * self.n_samples

    def at(self, number: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Return tile start, crop start and crop stop, ``(N, 3 D)``; sample; and window."""
        index, _ = self._order.at(number // self.n_samples)
        left = number - np.asarray(self._order.before(index)) * self.n_samples
        sizes = [of[i] for of, i in zip(self._order.lengths, index, strict=True)]
        sample, left = np.divmod(left, np.prod(np.stack(sizes), axis=0))
        axes: list[NDArray[np.int64]] = []
        for d in range(len(sizes) - 1, -1, -1):
            left, place = np.divmod(left, sizes[d])
            tile = self._first[d][index[d]] + place
            axes.insert(0, np.stack([column[tile] for column in self._columns[d]]))
        corners = np.stack(axes).transpose(2, 1, 0).reshape(len(number), -1)
        return corners, sample, np.ravel_multi_index(index, self._order.shape)


class BlockTiles:
    """The tiles of some blocks of a grid, each of which is read at once, in the order of these.

    ``ends`` are the first tile of each of the ``blocks`` and, at last, how many there are.
    """

    is_random: ClassVar[bool] = False

    def __init__(self, grid: TileGrid, blocks: Numbers) -> None:
        self.grid, self.blocks = grid, blocks
        first = {b: grid.first(b) for b in {*blocks.tolist(), *(blocks + 1).tolist()}}
        self._first = np.array([first[b] for b in blocks.tolist()], np.int64)
        until = np.array([first[b + 1] for b in blocks.tolist()], np.int64)
        self.ends = np.concatenate([[0], np.cumsum(until - self._first)])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def part(self, share: tuple[int, int]) -> "BlockTiles":
        """Return a rank's blocks, by rank and number of ranks; all have about as many tiles.

        Where there are fewer blocks than ranks, the first rank has one.
        """
        rank = self.ends[:-1] * share[1] // max(len(self), 1)
        return BlockTiles(self.grid, self.blocks[rank == share[0]])

    def epoch(self, number: int) -> Self:
        """Return itself."""
        del number
        return self

    def places(self, numbers: Numbers) -> Places:
        """Return where tiles lie."""
        block = np.searchsorted(self.ends, numbers, side="right") - 1
        return self.grid.places(self._first[block] + numbers - self.ends[block])

    def region(self, window: int) -> Region:
        """Return what to read of a block: as far as its tiles reach."""
        return self.grid.region(window)


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
    low, high, step, counts = tile_ranges(size, tile, overlap, divisor, block)
    number = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(number)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = np.minimum(low[number] + place * step, high[number])
    border = np.append((start[1:] + start[:-1] + tile) // 2, size)
    stop = np.where(np.append(np.diff(number), 1), np.minimum((number + 1) * block, size), border)
    return start, np.insert(stop[:-1], 0, 0), stop, number


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
