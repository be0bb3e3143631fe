"""Cells: parts of an image that are read in one go, and origins drawn inside them."""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from careamics_dm.images.extent import Extent

CELL_BYTES = 2**25
"""Bytes read in one go, decoded, where nothing else is said (32 MiB)."""
CELLS = 16
"""Parts of the pool that are read in one go: so many mix."""
VAL_SHARE = 8
"""Validation data take one part in so many of the pool, on top: training goes on with its own."""


def cell_shape(extent: Extent, patch_size: Sequence[int], cell_bytes: int) -> tuple[int, ...]:
    """Size of what is read in one go, ``(Z) Y X`` pixels: the whole sample, if it fits.

    Else whole blocks, several per axis, within a budget of decoded bytes, which is exceeded only
    when a few blocks per axis already do.
    """
    if extent.sample_bytes * extent.together <= cell_bytes:
        return extent.size
    unit = [_unit(b, p) for b, p in zip(extent.block, patch_size, strict=True)]
    # A patch crosses so many borders at most; one more block, and it fits at some shift.
    cell = [u * (2 + (p - 2) // u if p > 1 else 1) for u, p in zip(unit, patch_size, strict=True)]
    cell = [min(c, n) for c, n in zip(cell, extent.size, strict=True)]
    while True:
        open_axes = [d for d in range(len(cell)) if cell[d] < extent.size[d]]
        if not open_axes:
            return tuple(cell)
        # Widen where a cell is narrowest in patches: that is where most patches are cut.
        axis = min(open_axes, key=lambda d: cell[d] / patch_size[d])
        wider = cell.copy()
        more = max(cell[axis] // unit[axis] // 8, 1)  # in few steps, however small the blocks
        wider[axis] = min(cell[axis] + more * unit[axis], extent.size[axis])
        if prod(wider) * extent.pixel_bytes * extent.together > cell_bytes:
            return tuple(cell)
        cell = wider


def _unit(block: int, patch: int) -> int:
    """Block borders a cell may end at: every border, but at most about four per patch."""
    return block * ceil(patch / (4 * block))


class Axis:
    """Origins and cells along one axis of one geometry, for one epoch.

    Cells are ``m`` blocks wide, on a grid that is shifted by a whole number ``k`` of blocks. A
    patch is drawn only where it lies inside one cell. An origin whose patch crosses ``c`` block
    borders is inside a cell at ``m - c`` of the ``m`` shifts, so it weighs ``1 / (m - c)``; and
    ``k`` is drawn in proportion to the total weight that it leaves. Together, every origin is
    equally likely over the epochs.
    """

    def __init__(
        self, size: int, patch: int, block: int, cell: int, rng: np.random.Generator
    ) -> None:
        self.n_origins = max(size - patch, 0) + 1
        self.n_cells, self.unit, self.m, self.k = 1, 1, size + patch, 0
        # Runs of equally likely origins: where they start, their lengths, their weights summed.
        self.run_start, self.run_length = np.array([0]), np.array([self.n_origins])
        self.cumulative = np.ones(1)
        if cell >= size:
            return
        self.unit = _unit(block, patch)
        self.m = cell // self.unit
        origin = np.arange(self.n_origins)
        first = origin // self.unit
        crossed = (origin + patch - 1) // self.unit - first
        total = np.zeros(self.m)
        for c in np.unique(crossed):  # two values at most
            # How many origins have their first block at each place in an unshifted cell. A shift
            # of k keeps m - c places in a row, from -k on.
            count = np.bincount(first[crossed == c] % self.m, minlength=self.m)
            until = np.concatenate([[0], np.cumsum(np.tile(count, 2))])
            begin = -np.arange(self.m) % self.m
            total += (until[begin + self.m - c] - until[begin]) / (self.m - c)
        self.shift_probabilities = total / total.sum()
        self.k = int(rng.choice(self.m, p=self.shift_probabilities))
        self.n_cells = (size - 1) // self.unit // self.m + 2
        inside = (first + self.k) % self.m < self.m - crossed
        weight = inside / (self.m - crossed)
        self.run_start = np.flatnonzero(np.diff(weight, prepend=-1))
        self.run_length = np.diff(self.run_start, append=self.n_origins)
        self.cumulative = np.cumsum(weight[self.run_start] * self.run_length)

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw ``n`` origins."""
        u = rng.random(n) * self.cumulative[-1]
        run = np.searchsorted(self.cumulative, u, side="right")
        origin: NDArray[np.int64] = self.run_start[run] + rng.integers(self.run_length[run])
        return origin

    def cell_of(self, start: NDArray[np.int64]) -> NDArray[np.int64]:
        """Cell that an origin lies in."""
        return (start // self.unit + self.k) // self.m


class Geometries:
    """Images that agree in size and blocks share one set of axes."""

    def __init__(
        self,
        extents: Sequence[Extent],
        patch_size: Sequence[int],
        cell_bytes: int,
        rng: np.random.Generator,
    ) -> None:
        index: dict[Extent, int] = {}
        self.axes: list[list[Axis]] = []
        self.of_image = np.zeros(len(extents), np.int64)
        for i, extent in enumerate(extents):
            key = extent._replace(samples=1)
            if key not in index:
                index[key] = len(self.axes)
                cell = cell_shape(extent, patch_size, cell_bytes)
                columns = zip(extent.size, patch_size, extent.block, cell, strict=True)
                self.axes.append([Axis(*column, rng) for column in columns])
            self.of_image[i] = index[key]
