"""What was learnt about where patches may pass a filter, for all epochs."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from careamics_dm.bunches import bunch_shape, n_bunches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from careamics_dm.patch_filter import PatchFilter
    from careamics_dm.plan import Extent
    from careamics_dm.regions import Region

UNKNOWN, MAY, CANNOT = range(3)
LEAST = 4
"""Size of a region, in patches, below which looking at it as a whole saves nothing."""
MOST = 2**26
"""Bunches to remember, a byte each: 4 gigapixels in patches of 64 × 64. Of more than these, each
epoch learns anew."""


class Known:
    """Remembers which bunches of origins have patches that may pass, see `bunches`.

    Parameters
    ----------
    criterion : PatchFilter
        What patches must meet.
    size : sequence of int
        Of a patch, ``(Z) Y X``, pixels.
    extents : sequence of Extent
        The images.
    dtype : dtype
        Of batches.
    """

    def __init__(
        self,
        criterion: PatchFilter,
        size: Sequence[int],
        extents: Sequence[Extent],
        dtype: np.dtype[Any],
    ) -> None:
        self.criterion, self.size, self.dtype = criterion, tuple(size), dtype
        self.step = bunch_shape(size)
        sizes = [[max(n, p) for n, p in zip(e.size, size, strict=True)] for e in extents]
        self.origins = [[n - p + 1 for n, p in zip(of, size, strict=True)] for of in sizes]
        self.shapes = [
            (e.samples, *n_bunches(of, size)) for e, of in zip(extents, sizes, strict=True)
        ]
        self.remembers = sum(map(prod, self.shapes)) <= MOST
        self.states: dict[int, NDArray[np.uint8]] = {}

    def origins_of(self, region: Region) -> tuple[int, ...]:
        """How many origins a region has, ``(Z) Y X``."""
        axes = zip(region.start, region.stop, self.size, strict=True)
        return tuple(b - a - p + 1 for a, b, p in axes)

    def box(self, region: Region) -> tuple[slice, ...]:
        """Bunches, by sample, that a region has origins of."""
        samples = slice(region.sample, region.sample + region.n_samples)
        axes = zip(region.start, region.stop, self.size, self.step, strict=True)
        return samples, *(slice(a // t, -(-(b - p + 1) // t)) for a, b, p, t in axes)

    def look(self, region: Region, pixels: NDArray[Any]) -> Looked:
        """Find out what is not known yet of a region.

        Parameters
        ----------
        region : Region
            Where.
        pixels : ndarray
            Images there, ``S C (Z) Y X``.

        Returns
        -------
        Looked
            What is known.
        """
        box = self.box(region)
        if not self.remembers:
            state = np.zeros([of.stop - of.start for of in box], np.uint8)
        else:
            if region.image not in self.states:
                self.states[region.image] = np.zeros(self.shapes[region.image], np.uint8)
            state = self.states[region.image][box]
        # Whole bunches: the parts of others that lie outside the region are not known from here.
        whole, inside = [slice(None)], [slice(None)]
        if prod(pixels.shape[2:]) < LEAST * prod(self.size):
            whole = [slice(0)]
        else:
            begins = (of.start for of in box[1:])
            axes = (self.size, self.step, self.origins[region.image], begins)
            for a, b, p, t, n, begin in zip(region.start, region.stop, *axes, strict=True):
                first, until = -(-a // t), b - p + 1
                last = max(-(-until // t) if until == n else until // t, first)
                whole.append(slice(first - begin, last - begin))
                inside.append(slice(first * t - a, min(last * t, until) - a + p - 1))
        unknown = state[tuple(whole)]
        if unknown.size and unknown.min() == UNKNOWN:
            for sample, found in zip(pixels, unknown, strict=True):
                with np.errstate(all="ignore"):  # NaN is told when patches are cut
                    thin = sample[tuple(inside)].astype(self.dtype, copy=False)
                    may = self.criterion.may_pass(thin, self.size)
                found[...] = MAY if may is None else np.where(may, MAY, CANNOT)
        return Looked(state, tuple(whole))


class Looked:
    """What is known of a region.

    Parameters
    ----------
    state : ndarray of uint8
        By sample and bunch, ``S (Z) Y X``: whether patches `MAY` pass, `CANNOT`, or `UNKNOWN`.
    whole : tuple of slice
        Bunches that were looked at. Others are known, or not, from other regions: what is drawn
        must not depend on them, so that a resumed run draws the same.

    Attributes
    ----------
    numbers : ndarray of int32
        Where to draw from: bunches, counted through, that are not known to be of no use.
    in_part : bool
        Whether there are bunches that were not looked at.
    """

    def __init__(self, state: NDArray[np.uint8], whole: tuple[slice, ...]) -> None:
        self.state = state
        draw = np.ones(state.shape, bool)
        draw[whole] = state[whole] != CANNOT
        self.in_part = state[whole].size < state.size
        self.numbers = np.flatnonzero(draw).astype(np.int32)
