"""Origins of decoded regions whose patches pass a filter, a bit each."""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from careamics_dm.images.region import Blocks, Region
from careamics_dm.loading.patch_extraction import PairedImages
from careamics_dm.sampling.allowed_origins import OriginMask
from careamics_dm.sampling.filters.base import PatchFilter
from careamics_dm.sampling.filters.window_statistics import reduce_windows
from careamics_dm.sampling.random_patches import RandomPatches

PIECE = {2: (256, 1024), 3: (16, 128, 128)}
"""Origins to judge together, ``(Z) Y X``, or twice as many as patches are large: memory of so few
is used again and again. Multiples of 8, so that slabs begin at whole bytes of masks."""


class Marks(NamedTuple):
    """Origins of a region that may be drawn, a mask for each of its samples."""

    passing: list[OriginMask]
    """Where patches pass; where only patches can be judged, all that may be drawn."""
    rejected: list[OriginMask]
    """Where they do not; empty where none of these is ever drawn."""


class Loaded(NamedTuple):
    """A region in memory."""

    blocks: Blocks
    """Image and, where there is one, target, ``S C (Z) Y X``."""
    marks: Marks | None = None
    """Only with a filter."""


class Marker:
    """Marks the origins of decoded regions whose patches pass.

    If the criterion judges only patches, all origins count as passing here.
    """

    def __init__(self, criterion: PatchFilter, plan: RandomPatches, images: PairedImages) -> None:
        self.criterion, self.plan, self.images = criterion, plan, images
        self.size = tuple(plan.patch_size)
        self._steps = [
            max(n, 2 * p + -2 * p % 8)
            for n, p in zip(PIECE[len(self.size)], self.size, strict=True)
        ]

    def mark(self, region: Region, blocks: Blocks) -> Marks:
        """Mark a region, ``S C (Z) Y X``, a bit or two for each origin; called in threads."""
        shape = tuple(n - p + 1 for n, p in zip(blocks[0].shape[2:], self.size, strict=True))
        marks = Marks([], [])
        for s, sample in enumerate(zip(*blocks, strict=True)):
            masks = [OriginMask.none(shape, self.size) for _ in range(2)]
            for first in range(0, shape[0], self._steps[0]):
                slab = slice(first, min(first + self._steps[0], shape[0]))
                usable = self._allowed(region, s, slab, shape)
                good = self._judge(sample, slab, usable)
                masks[0].allow(first, usable & good)
                masks[1].allow(first, usable & ~good)
            marks.passing.append(masks[0])
            if self.criterion.keep and self.criterion.marks_suffice:
                marks.rejected.append(masks[1])
        return marks

    def _allowed(
        self, region: Region, sample: int, slab: slice, shape: Sequence[int]
    ) -> NDArray[np.bool_]:
        start = [slab.start + region.start[0], *region.start[1:]]
        ends = zip(region.start[1:], shape[1:], strict=True)
        stop = [slab.stop + region.start[0], *(a + n for a, n in ends)]
        return self.plan.allows(region.image, region.sample + sample, start, stop)

    def _judge(
        self, sample: Sequence[NDArray[Any]], slab: slice, usable: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Judge a slab of origins, piece by piece; and forbid those near NaN, in place."""
        good = np.ones(usable.shape, bool)
        axes = zip(usable.shape[1:], self._steps[1:], strict=True)
        for corner in product(*(range(0, n, step) for n, step in axes)):
            ends = map(int.__add__, corner, self._steps[1:])
            piece: tuple[slice, ...] = (slice(None), *map(slice, corner, ends))
            if not usable[piece].any():
                continue
            origins = zip((slab.start, *corner), good[piece].shape, self.size, strict=True)
            box = (slice(None), *(slice(a, a + n + p - 1) for a, n, p in origins))
            image, *_ = (
                self._finite(side, pixels[box], usable[piece]) for side, pixels in enumerate(sample)
            )
            found = self.criterion.passing_origins(image, self.size)
            if found is not None:
                good[piece] = found
        return good

    def _finite(self, side: int, pixels: NDArray[Any], usable: NDArray[np.bool_]) -> NDArray[Any]:
        """Return pixels as batches have them, NaN as 0; forbid origins near it, in place."""
        pixels = self.images.as_in_batches(side, pixels)
        if pixels.dtype.kind != "f" or not (bad := ~np.isfinite(pixels)).any():
            return pixels
        if self.images.nan_policy == "skip":
            usable &= ~reduce_windows(bad.any(axis=0), self.size, np.logical_or)
        return np.where(bad, pixels.dtype.type(0), pixels)
