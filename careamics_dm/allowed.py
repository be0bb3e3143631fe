"""Where training patches may be drawn, asked of single origins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from careamics_dm.held_out import HeldOut

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from careamics_dm.regions import Region
    from careamics_dm.sampling import RandomPatches


class Allowed:
    """Where a plan may draw: masks, gaps and validation patches.

    Parameters
    ----------
    plan : RandomPatches
        The plan.
    """

    def __init__(self, plan: RandomPatches) -> None:
        self.masks = plan.masks or {}
        self.held = HeldOut(plan.held_out, plan.extents, plan.patch_size)
        self.trained = plan.trained
        self.first = np.cumsum([0] + [extent.samples for extent in plan.extents])
        self.limited = {*self.masks, *self.held.starts}

    def limits(self, region: Region) -> bool:
        """Whether something may be forbidden in a region."""
        samples = range(region.sample, region.sample + region.n_samples)
        if self.limited and any((region.image, s) in self.limited for s in samples):
            return True
        # Samples that are stored together are read together, also where only some are trained on.
        row = int(self.first[region.image]) + region.sample
        return self.trained is not None and not self.trained[row : row + len(samples)].all()

    def allows(self, image: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether patches may be drawn at ``(N, 1 + D)`` samples and origins."""
        allowed = np.ones(len(places), bool)
        if self.trained is not None:
            allowed = self.trained[self.first[image] + places[:, 0]]
        key = image << 32 | places[:, 0]
        for k in np.unique(key).tolist():
            i, s = k >> 32, k & 0xFFFFFFFF
            mine = np.flatnonzero(key == k)
            starts = places[mine, 1:]
            if (i, s) in self.masks:  # they respect held-out patches already
                allowed[mine] &= self.masks[i, s].allows(starts)
            elif (i, s) in self.held.starts:
                allowed[mine] &= ~self.held.overlaps(starts, self.held.starts[i, s])
        return allowed
