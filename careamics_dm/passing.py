"""Where patches pass a filter, found out once for all origins of pixels that are in memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from careamics_dm.axes import DataError
from careamics_dm.held_out import HeldOut
from careamics_dm.images import PROGRESS_AFTER
from careamics_dm.origin_mask import KeptOrigins, OriginMask
from careamics_dm.regions import Region
from careamics_dm.rejection import nothing_passes
from careamics_dm.sides import Sides
from careamics_dm.sliding import sliding
from careamics_dm.valid_origins import ValidOrigins, origins_near

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from careamics_dm.filters import PatchFilter
    from careamics_dm.image_stack import Boxes
    from careamics_dm.images import Images
    from careamics_dm.reader import Blocks
    from careamics_dm.sampling import RandomPatches
    from careamics_dm.sides import NanPolicy

    Found = tuple[OriginMask, OriginMask]

PIECE = {2: (256, 512), 3: (16, 128, 128)}
"""Origins to judge together, ``(Z) Y X``, or twice as many as patches are large: memory of so few
is used again and again. Multiples of 8, so that slabs begin at whole bytes of masks."""


class CannotTell(Exception):
    """Pixels do not let a filter tell for all origins at once."""


def plan_passing(
    plan: RandomPatches, images: Images, criterion: PatchFilter, nan_policy: NanPolicy
) -> tuple[RandomPatches, PatchFilter | None]:
    """Restrict a plan to origins that pass a filter, where pixels are in memory.

    Takes some nanoseconds per pixel, and a bit per origin (two with ``keep``) and a quarter; a
    loader has nothing to reject then.

    Parameters
    ----------
    plan : RandomPatches
        Where patches may be drawn otherwise.
    images : Images
        The training data.
    criterion : PatchFilter
        What patches must meet.
    nan_policy : {"error", "zero", "skip"}
        NaN and infinity count as 0; with ``"skip"``, no patch that has any passes.

    Returns
    -------
    plan : RandomPatches
        Draws exactly uniformly from what passes, or, of a filter that can tell only roughly, from
        what may pass; as it was where pixels are not in memory.
    criterion : PatchFilter or None
        What patches of this plan must still be asked for.

    Raises
    ------
    DataError
        Nothing passes.
    """
    rough = not criterion.exact
    if not all(extent.in_memory for extent in plan.extents) or (rough and criterion.keep):
        return plan, criterion
    known = images.passing.get(id(plan.held_out))
    asked = (repr(criterion), criterion, plan.patch_size, nan_policy)
    if known is None or known[0] != asked:
        sides = Sides(images.sides, nan_policy, plan.seed)
        try:
            found = _Search(plan, criterion, sides).masks()
        except CannotTell:
            return plan, criterion
        known = images.passing[id(plan.held_out)] = (asked, *found, plan.held_out)
    _, masks, trained, _ = known
    return replace(plan, masks=masks, trained=trained), criterion if rough else None


class _Search:
    """Looks at all origins of all samples."""

    def __init__(self, plan: RandomPatches, criterion: PatchFilter, sides: Sides) -> None:
        self.plan, self.criterion, self.sides = plan, criterion, sides
        self.size = plan.patch_size
        self.held = HeldOut(plan.held_out, plan.extents, self.size)
        self.skip = sides.nan_policy == "skip"

    def masks(self) -> tuple[dict[tuple[int, int], OriginMask | ValidOrigins | KeptOrigins], Any]:
        """Where to draw: masks of samples that need one, and which samples have any place."""
        given = dict(self.plan.masks or {})
        every = [(i, s) for i, e in enumerate(self.plan.extents) for s in range(e.samples)]
        trained = np.ones(len(every), bool) if self.plan.trained is None else self.plan.trained
        rows = np.flatnonzero(trained).tolist()
        trained = trained.copy()
        found: dict[tuple[int, int], OriginMask | ValidOrigins | KeptOrigins] = {}
        bar = tqdm(rows, "filtering", unit="sample", delay=PROGRESS_AFTER, leave=False)
        n_passing = 0
        for row in bar:
            key = every[row]
            passing, rejected = self._sample(*key, given.get(key))
            n_passing += passing.n_allowed
            if self.criterion.keep:
                found[key] = KeptOrigins(passing, rejected, self.criterion.keep)
            elif not passing.n_allowed:
                trained[row] = False
            elif rejected.n_allowed or passing.n_allowed < passing.n_origins:
                found[key] = passing
        if not n_passing:
            self._complain()
        return found, trained

    def _complain(self) -> None:
        """Say what patches of the plan have instead."""
        patches = self.sides.elsewhere(self.plan.at(0), 0, 0)
        values = [self.criterion.measure(cuts[0]) for cuts in patches]
        if not values:
            raise DataError(
                "nan_policy=skip: each of the patches that were looked at has NaN or infinity in "
                "it. Mend the files, or set nan_policy to zero."
            )
        raise DataError(nothing_passes(self.criterion, np.concatenate(values)))

    def _sample(
        self, image: int, sample: int, given: OriginMask | ValidOrigins | KeptOrigins | None
    ) -> Found:
        """Origins of a sample that may be drawn: those that pass, and those that do not."""
        whole = np.maximum(self.plan.extents[image].size, self.size).tolist()
        blocks = self.sides.read(Region(image, sample, (0,) * len(whole), tuple(whole)))
        shape = tuple(n - p + 1 for n, p in zip(whole, self.size, strict=True))
        passing, rejected = (OriginMask.none(shape, self.size) for _ in range(2))
        forbidden = self._forbidden(image, sample, given, shape)
        for first, good, usable in self._slabs(blocks, shape):
            for start, stop in forbidden:
                box = (slice(max(start[0] - first, 0), max(stop[0] - first, 0)),)
                usable[box + tuple(map(slice, start[1:], stop[1:]))] = False
            passing.allow(first, usable & good)
            rejected.allow(first, usable & ~good)
        for mask in (passing, rejected):
            if isinstance(given, OriginMask):
                mask.intersect(given)
            mask.count()
        return passing, rejected

    def _forbidden(
        self,
        image: int,
        sample: int,
        given: OriginMask | ValidOrigins | KeptOrigins | None,
        shape: tuple[int, ...],
    ) -> Boxes:
        """Boxes of origins that gaps and validation patches forbid; masks know the latter."""
        if isinstance(given, ValidOrigins):
            return given.forbidden
        if given is not None or (image, sample) not in self.held.starts:
            return []
        starts = self.held.starts[image, sample]
        boxes = zip(starts.tolist(), (starts + self.size).tolist(), strict=True)
        return [origins_near(box, self.size, shape) for box in boxes]

    def _slabs(
        self, blocks: Blocks, shape: tuple[int, ...]
    ) -> Iterator[tuple[int, NDArray[np.bool_], NDArray[np.bool_]]]:
        """Yield a slab of origins: where it begins, which pass, and which may be used at all."""
        steps = [
            max(n, 2 * p + -2 * p % 8) for n, p in zip(PIECE[len(shape)], self.size, strict=True)
        ]
        for first in range(0, shape[0], steps[0]):
            slab = (min(steps[0], shape[0] - first), *shape[1:])
            good, usable = np.empty(slab, bool), np.ones(slab, bool)
            corners = [range(0, n, step) for n, step in zip(shape[1:], steps[1:], strict=True)]
            for corner in product(*corners):
                inside = (slice(None), *map(slice, corner, map(int.__add__, corner, steps[1:])))
                begin = (first, *corner)
                n = good[inside].shape
                box = tuple(
                    slice(a, a + k + p - 1) for a, k, p in zip(begin, n, self.size, strict=True)
                )
                pieces = [
                    self._finite(block[(0, slice(None), *box)], side, usable[inside])
                    for side, block in enumerate(blocks)
                ]
                found = self.criterion.may_pass(pieces[0], self.size)
                if found is None:
                    raise CannotTell
                good[inside] = found
            yield first, good, usable

    def _finite(self, pixels: NDArray[Any], side: int, usable: NDArray[np.bool_]) -> NDArray[Any]:
        """Pixels as batches have them; note, in place, which origins are of use."""
        if pixels.dtype.kind != "f" and self.sides.dtypes[side].kind != "f":
            return pixels.astype(self.sides.dtypes[side], copy=False)
        with np.errstate(over="ignore"):  # as when patches are cut
            pixels = pixels.astype(self.sides.dtypes[side], copy=False)
        bad = ~np.isfinite(pixels)
        if not bad.any():
            return pixels
        if self.skip:
            usable &= ~sliding(bad.any(axis=0), self.size, np.logical_or)
        return np.where(bad, pixels.dtype.type(0), pixels)
