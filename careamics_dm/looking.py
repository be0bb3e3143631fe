"""Which patches of decoded pixels pass a filter, found out for all origins at once."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from careamics_dm.sliding import sliding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from careamics_dm.patch_filter import PatchFilter
    from careamics_dm.reader import Blocks
    from careamics_dm.sides import Sides

PIECE = {2: (256, 512), 3: (16, 128, 128)}
"""Origins to judge together, ``(Z) Y X``, or twice as many as patches are large: memory of so few
is used again and again. Multiples of 8, so that slabs begin at whole bytes of masks."""


class CannotTell(Exception):
    """Pixels do not let a filter tell for all origins at once."""


class Look:
    """Asks a filter about all origins of blocks of pixels, piece by piece.

    Parameters
    ----------
    criterion : PatchFilter
        What patches must meet.
    sides : Sides
        Say what batches are like, and what becomes of NaN.
    size : sequence of int
        Of a patch, ``(Z) Y X``, pixels.
    """

    def __init__(self, criterion: PatchFilter, sides: Sides, size: Sequence[int]) -> None:
        self.criterion, self.sides, self.size = criterion, sides, tuple(size)
        self.steps = [
            max(n, 2 * p + -2 * p % 8) for n, p in zip(PIECE[len(size)], size, strict=True)
        ]

    def slabs(
        self, blocks: Blocks, sample: int
    ) -> Iterator[tuple[int, NDArray[np.bool_], NDArray[np.bool_]]]:
        """Look at a sample, slab by slab along its first axis.

        Parameters
        ----------
        blocks : tuple of ndarray
            Image and, where there is one, target, ``S C (Z) Y X``.
        sample : int
            Which.

        Yields
        ------
        first : int
            Where the slab begins, a multiple of 8.
        good : ndarray of bool
            Which patches pass, by origin ``(Z) Y X``.
        usable : ndarray of bool
            Which have no NaN that ``nan_policy`` does not allow.

        Raises
        ------
        CannotTell
            These pixels do not let the filter tell.
        """
        shape = [n - p + 1 for n, p in zip(blocks[0].shape[2:], self.size, strict=True)]
        for first in range(0, shape[0], self.steps[0]):
            slab = (min(self.steps[0], shape[0] - first), *shape[1:])
            good, usable = np.empty(slab, bool), np.ones(slab, bool)
            corners = [range(0, n, step) for n, step in zip(shape[1:], self.steps[1:], strict=True)]
            for corner in product(*corners):
                ends = map(int.__add__, corner, self.steps[1:])
                inside: tuple[slice, ...] = (slice(None), *map(slice, corner, ends))
                origins = zip((first, *corner), good[inside].shape, self.size, strict=True)
                box = tuple(slice(a, a + n + p - 1) for a, n, p in origins)
                pieces = [
                    self._finite(block[sample][(slice(None), *box)], side, usable[inside])
                    for side, block in enumerate(blocks)
                ]
                found = self.criterion.passing(pieces[0], self.size)
                if found is None:
                    raise CannotTell
                good[inside] = found
            yield first, good, usable

    def _finite(self, pixels: NDArray[Any], side: int, usable: NDArray[np.bool_]) -> NDArray[Any]:
        """Return pixels as batches have them; note, in place, which origins are of use."""
        with np.errstate(over="ignore"):  # as when patches are cut
            pixels = pixels.astype(self.sides.dtypes[side], copy=False)
        if pixels.dtype.kind != "f" or not (bad := ~np.isfinite(pixels)).any():
            return pixels
        if self.sides.nan_policy == "skip":
            usable &= ~sliding(bad.any(axis=0), self.size, np.logical_or)
        return np.where(bad, pixels.dtype.type(0), pixels)
