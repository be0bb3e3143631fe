"""Grids of patches, and tiles whose kept parts cover every pixel exactly once.

Number ``k`` is found by arithmetic: first the run of samples, then along each axis the read window
and the tile in it. Only what is left out, or chosen, is listed.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from math import ceil, prod
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from careamics_dm.images.extent import Extent
from careamics_dm.images.region import Region
from careamics_dm.sampling.allowed_origins import OriginMask, ValidOrigins
from careamics_dm.sampling.blocks import ImageBlocks, tile_axis
from careamics_dm.sampling.chunk_grid import SeparableOrder, window_shape
from careamics_dm.sampling.read_windows import (
    Places,
    Runs,
    WindowTable,
    reach,
    sample_runs,
)

Numbers = NDArray[np.int64]

PORTION = 2**16
"""Tiles to check together for masks and gaps."""


class TileGrid:
    """Tiles that overlap, whose kept parts cover every pixel exactly once; or patches side by side.

    Tiles begin at multiples of ``divisor``, and the last of an axis ends at the first one that
    covers the image, as a whole image does that is extended for the network. A tile larger than the
    image reaches outside it at the far side, too. Neighbours share ``overlap`` pixels or a few more
    (fewer only where no multiple is left to begin at), and keep half of them each. With ``blocks``,
    each of these is covered by tiles of its own, which reach over its border by half the overlap.

    Parameters
    ----------
    extents : sequence of Extent
        The images.
    tile_size : sequence of int or None
        ``(Z) Y X``, pixels; ``None``: images are tiles.
    overlap : sequence of int, optional
        Pixels along each axis; none by default.
    divisor : int or sequence of int
        What each size of a network's input, or that along each axis, must be a multiple of; tile
        sizes are rounded up to one.
    window_bytes : int or None
        Decoded bytes to read in one go; ``None``: whole samples.
    blocks : sequence of ImageBlocks, optional
        Of each image; then they are the read windows, whatever ``window_bytes``.
    chosen : ndarray of bool, optional
        Which samples, image by image, to cover.
    allowed : mapping, optional
        By image and sample, where patches may lie; others are left out.

    Attributes
    ----------
    table : WindowTable
        Read windows, in order.
    tile_size : tuple of int
        Empty if images are tiles.
    overlap, divisor : tuple of int
    """

    is_random: ClassVar[bool] = False

    def __init__(
        self,
        extents: Sequence[Extent],
        tile_size: Sequence[int] | None,
        overlap: Sequence[int] | None = None,
        *,
        divisor: int | Sequence[int] = 1,
        window_bytes: int | None = None,
        blocks: Sequence[ImageBlocks] | None = None,
        chosen: NDArray[np.bool_] | None = None,
        allowed: Mapping[tuple[int, int], OriginMask | ValidOrigins] | None = None,
    ) -> None:
        self._listed: Numbers | None = None
        self._excluded = np.zeros(0, np.int64)
        kinds: dict[tuple[Extent, int, tuple[int, ...] | None], int] = {}
        together = None if blocks is None else [of.together for of in blocks]
        runs = sample_runs(extents, chosen, together)
        shapes = [None if blocks is None else blocks[i].shape for i in range(len(extents))]
        keys = [
            (extents[i]._replace(samples=extents[i].together), n, shapes[i])
            for i, n in zip(runs.image.tolist(), runs.n.tolist(), strict=True)
        ]
        self._kind = np.array([kinds.setdefault(key, len(kinds)) for key in keys], np.int64)
        self.overlap = tuple(overlap or [0] * 3)
        self.divisor = (divisor,) * 3 if isinstance(divisor, int) else tuple(divisor)
        columns = zip(tile_size or (), self.divisor, strict=False)
        self.tile_size = tuple(ceil(t / d) * d for t, d in columns)
        how = self.overlap, self.divisor, window_bytes
        self._layouts = [
            _Layout(extent, n, self.tile_size or extent.size, *how, block)
            for extent, n, block in kinds
        ]
        self._order(runs, self._kind)
        if allowed:
            self._exclude(allowed)

    def __len__(self) -> int:
        """Count tiles."""
        if self._listed is not None:
            return len(self._listed)
        return int(self._until[-1]) - len(self._excluded)

    def epoch(self, number: int) -> Self:
        """Return itself: these are the same in every epoch."""
        del number
        return self

    def shuffled(self, rng: np.random.Generator) -> Self:
        """Return the same tiles, with the samples in random order."""
        other, turn = copy(self), rng.permutation(len(self._runs.n))
        other._order(Runs(*(column[turn] for column in self._runs)), self._kind[turn])
        run = np.searchsorted(self._until, self._excluded, side="right") - 1
        moved = other._until[:-1][np.argsort(turn)[run]] - self._until[run]
        other._excluded = np.sort(self._excluded + moved)
        return other

    def some(self, n: int, rng: np.random.Generator) -> Self:
        """Return ``n`` of the tiles, chosen at random, in their order."""
        other = copy(self)
        other._listed = self._ranks(np.sort(rng.choice(len(self), n, replace=False)))
        return other

    def windows(self, numbers: Numbers) -> Numbers:
        """Return the read window of each tile."""
        return self.places(numbers).window

    def places(self, numbers: Numbers) -> Places:
        """Return where tiles lie."""
        return self._places(self._ranks(numbers))[0]

    def crops(self, numbers: Numbers) -> Numbers:
        """Return what of each tile to keep: ``(N, 2 D)`` start and stop, in image pixels."""
        return self._places(self._ranks(numbers))[1]

    def first(self, window: int) -> int:
        """Return the first tile in a window, or after it."""
        run = int(self.table.run_of(np.array([window]))[0])
        if run == len(self._kind):
            return len(self)
        layout = self._layouts[self._kind[run]]
        rank = self._until[run] + layout.before(window - self.table.first[run])
        if self._listed is not None:
            return int(np.searchsorted(self._listed, rank))
        return int(rank - np.searchsorted(self._excluded, rank))

    def region(self, window: int, *, whole: bool = False) -> Region:
        """Return what to read of a window: as far as its tiles reach."""
        del whole
        return reach(self.places(np.arange(self.first(window), self.first(window + 1))))

    def _order(self, runs: Runs, kind: Numbers) -> None:
        """Put the runs in an order, and count."""
        self._runs, self._kind = runs, kind
        counts = [
            (layout.n_tiles, layout.n_windows, layout.window_bytes) for layout in self._layouts
        ]
        n_tiles, n_windows, window_bytes = np.array(counts, np.int64).reshape(-1, 3)[kind].T
        self._until = np.concatenate([[0], np.cumsum(n_tiles)])
        self.table = WindowTable(n_windows, window_bytes)
        self.largest_window = int(window_bytes.max(initial=0))

    def _exclude(self, allowed: Mapping[tuple[int, int], OriginMask | ValidOrigins]) -> None:
        """Leave out tiles whose origins are not allowed."""
        lost = [self._excluded]
        for run, (image, first, n) in enumerate(zip(*self._runs, strict=True)):
            here = {s: allowed[image, s] for s in range(first, first + n) if (image, s) in allowed}
            for begin in range(int(self._until[run]), int(self._until[run + 1]), PORTION):
                if not here:
                    break
                ranks = np.arange(begin, min(begin + PORTION, int(self._until[run + 1])))
                places = self._places(ranks)[0]
                for sample, origins in here.items():
                    mine = np.flatnonzero(places.sample == sample)
                    lost.append(ranks[mine[~origins.allows(places.start[mine])]])
        self._excluded = np.sort(np.concatenate(lost))

    def _ranks(self, numbers: Numbers) -> Numbers:
        """Return the places among all tiles, those that are left out included."""
        if self._listed is not None:
            return self._listed[numbers]
        before = self._excluded - np.arange(len(self._excluded))
        ranks: Numbers = numbers + np.searchsorted(before, numbers, side="right")
        return ranks

    def _places(self, ranks: Numbers) -> tuple[Places, Numbers]:
        run = np.searchsorted(self._until, ranks, side="right") - 1
        kind, inside = self._kind[run], ranks - self._until[run]
        n_dims = len(self._layouts[0].tile) if self._layouts else 2
        corners, tile = np.empty((len(ranks), 3 * n_dims), np.int64), np.empty((len(ranks), n_dims))
        sample, window = self._runs.first[run], self.table.first[run]
        for k in np.unique(kind).tolist():
            mine, layout = np.flatnonzero(kind == k), self._layouts[k]
            corners[mine], more, number = layout.at(inside[mine])
            sample[mine] += more
            window[mine] += number
            tile[mine] = layout.tile
        start, crop = corners[:, :n_dims], corners[:, n_dims:]
        return Places(self._runs.image[run], sample, start, tile.astype(np.int64), window), crop


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
        self.tile, self.n_samples = tuple(tile), n_samples
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


@dataclass(frozen=True)
class GridPatches:
    """The patches of a grid, in another order in every epoch."""

    grid: TileGrid
    seed: int
    is_random: ClassVar[bool] = True

    def __len__(self) -> int:
        """Count patches of an epoch."""
        return len(self.grid)

    @property
    def largest_window(self) -> int:
        """Decoded bytes of the largest read window."""
        return self.grid.largest_window

    @property
    def patch_size(self) -> tuple[int, ...]:
        """``(Z) Y X``, pixels."""
        return self.grid.tile_size

    def epoch(self, number: int) -> TileGrid:
        """Return the places of an epoch: samples in an order of seed and epoch."""
        return self.grid.shuffled(np.random.default_rng([self.seed, number]))


def n_covering(extents: Sequence[Extent], patch_size: Sequence[int]) -> int:
    """How many patches cover the images side by side."""
    return sum(
        e.samples * prod(ceil(n / p) for n, p in zip(e.size, patch_size, strict=True))
        for e in extents
    )
