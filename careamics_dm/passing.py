"""Where patches pass a filter, found out once for all origins of pixels that are in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from careamics_dm.axes import DataError
from careamics_dm.held_out import HeldOut
from careamics_dm.images import PROGRESS_AFTER
from careamics_dm.looking import CannotTell, Look
from careamics_dm.origin_mask import KeptOrigins, OriginMask
from careamics_dm.patch_filter import nothing_passes
from careamics_dm.regions import Region
from careamics_dm.sides import Sides
from careamics_dm.valid_origins import ValidOrigins, origins_near

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from careamics_dm.image_stack import Boxes
    from careamics_dm.images import Images
    from careamics_dm.patch_filter import PatchFilter
    from careamics_dm.sampling import RandomPatches
    from careamics_dm.sides import NanPolicy

    Origins = OriginMask | ValidOrigins | KeptOrigins
    Found = tuple[OriginMask, OriginMask]


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
        Draws exactly uniformly from what passes; as it was where pixels are not in memory, or the
        filter can't tell for all origins at once.
    criterion : PatchFilter or None
        The filter, if this plan does not obey it.

    Raises
    ------
    DataError
        Nothing passes.
    """
    if not all(extent.in_memory for extent in plan.extents):
        return plan, criterion
    which = None if plan.trained is None else plan.trained.tobytes()
    asked = (repr(criterion), plan.patch_size, nan_policy, which, id(plan.held_out))
    if asked not in images.passing:
        try:
            found = _Search(plan, criterion, Sides(images.sides, nan_policy, plan.seed)).masks()
        except CannotTell:
            return plan, criterion
        images.passing.clear()
        images.passing[asked] = (*found, plan.held_out)  # which must live as long as its id counts
    masks, trained, _ = images.passing[asked]
    return replace(plan, masks=masks, trained=trained), None


class _Search:
    """Looks at all origins of all samples."""

    def __init__(self, plan: RandomPatches, criterion: PatchFilter, sides: Sides) -> None:
        self.plan, self.criterion, self.sides = plan, criterion, sides
        self.size = plan.patch_size
        self.look = Look(criterion, sides, self.size)
        self.held = HeldOut(plan.held_out, plan.extents, self.size)

    def masks(self) -> tuple[dict[tuple[int, int], Origins], NDArray[np.bool_]]:
        """Where to draw: masks of samples that need one, and which samples have any place."""
        given = dict(self.plan.masks or {})
        every = [(i, s) for i, e in enumerate(self.plan.extents) for s in range(e.samples)]
        trained = np.ones(len(every), bool) if self.plan.trained is None else self.plan.trained
        rows = np.flatnonzero(trained).tolist()
        trained = trained.copy()
        found: dict[tuple[int, int], Origins] = {}
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
        raise DataError(nothing_passes(self.criterion, patches))

    def _sample(self, image: int, sample: int, given: Origins | None) -> Found:
        """Origins of a sample that may be drawn: those that pass, and those that do not."""
        whole = np.maximum(self.plan.extents[image].size, self.size).tolist()
        blocks = self.sides.read(Region(image, sample, (0,) * len(whole), tuple(whole)))
        shape = tuple(n - p + 1 for n, p in zip(whole, self.size, strict=True))
        passing, rejected = (OriginMask.none(shape, self.size) for _ in range(2))
        forbidden = self._forbidden(image, sample, given, shape)
        for first, good, usable in self.look.slabs(blocks, 0):
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
        given: Origins | None,
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
