"""What was learnt about where patches may pass a filter, for all epochs."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from careamics_dm.bunches import bunch_shape, most_near, n_bunches, n_near
from careamics_dm.cutting import groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from careamics_dm.patch_filter import PatchFilter
    from careamics_dm.plan import Extent, Plan
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
        self.near = n_near(size)
        self.sizes = [[max(n, p) for n, p in zip(e.size, size, strict=True)] for e in extents]
        self.shapes = [
            (e.samples, *n_bunches(of, size)) for e, of in zip(extents, self.sizes, strict=True)
        ]
        # Sums of fractions depend on how they are cut, if only by rounding.
        whole = all(e.in_memory for e in extents)
        self.remembers = (whole or dtype.kind != "f") and sum(map(prod, self.shapes)) <= MOST
        self.states: dict[int, NDArray[np.uint8]] = {}

    def grid(self, regions: Sequence[Region]) -> NDArray[np.int64]:
        """Tell how regions are divided.

        Parameters
        ----------
        regions : sequence of Region
            ``N`` of them.

        Returns
        -------
        ndarray of int64
            ``(3, N, 1 + D)``, by sample and ``(Z) Y X``: how many origins, and how many bunches, a
            region has, and at which origin of it the first bunch begins.
        """
        found = np.zeros((3, len(regions), 1 + len(self.size)), np.int64)
        for i, region in enumerate(regions):
            box, sides = self.box(region), zip(region.start, region.stop, self.size, strict=True)
            found[0, i] = region.n_samples, *(b - a - p + 1 for a, b, p in sides)
            found[1, i] = [of.stop - of.start for of in box]
            begins = zip(region.start, box[1:], self.step, strict=True)
            found[2, i, 1:] = [of.start * t - a for a, of, t in begins]
        return found

    def box(self, region: Region) -> tuple[slice, ...]:
        """Bunches, by sample, that a region has origins of."""
        samples = slice(region.sample, region.sample + region.n_samples)
        axes = zip(region.start, region.stop, self.size, self.step, strict=True)
        return samples, *(slice(a // t, -(-(b - p + 1) // t)) for a, b, p, t in axes)

    def may_pass(self, plan: Plan) -> NDArray[np.bool_]:
        """Say which patches of a plan may pass, ``(N,)``, as far as that is remembered."""
        may, bunch = np.ones(len(plan), bool), plan.start // self.step
        for image, mine in groups(plan.image):
            if image in self.states:
                at = (plan.sample[mine], *bunch[mine].T)
                may[mine] = self.states[image][at] != CANNOT
        return may

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
        # Those of which all tiles that they touch lie inside, so that what is found depends on
        # these pixels, not on where the region ends.
        whole, inside = [slice(None)], [slice(None)]
        if prod(pixels.shape[2:]) < LEAST * prod(self.size):
            whole = [slice(0)]
        else:
            axes = (self.step, self.near, self.sizes[region.image], box[1:])
            for a, b, t, near, n, of in zip(region.start, region.stop, *axes, strict=True):
                first = -(-a // t)
                last = of.stop if b == n else max(b // t - near + 1, first)
                whole.append(slice(first - of.start, last - of.start))
                inside.append(slice(first * t - a, min((last - 1 + near) * t, n) - a))
        unknown = state[tuple(whole)]
        if unknown.size and unknown.min() == UNKNOWN:
            for sample, found in zip(pixels, unknown, strict=True):
                with np.errstate(all="ignore"):
                    thin = sample[tuple(inside)].astype(self.dtype, copy=False)
                    may = self.criterion.may_pass(thin, self.size)
                if may is None:
                    found[...] = MAY
                    continue
                if thin.dtype.kind == "f" and not (finite := np.isfinite(thin)).all():
                    # To be told, or mended, when patches are cut.
                    bad = np.logical_not(finite.all(axis=0)).view(np.uint8)
                    may = may | (most_near(bad, self.size) > 0)
                may = may[tuple(map(slice, found.shape))]
                found[...] = np.where(may, MAY, CANNOT)
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
