"""A plan: where the patches of an epoch lie, a row each, as compact arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from careamics_dm.images.extent import Extent


@dataclass(frozen=True)
class Share:
    """Who I am among ranks and, on this rank, among loader workers."""

    rank: int = 0
    world_size: int = 1
    worker: int = 0
    workers: int = 1


@dataclass(frozen=True)
class Plan:
    """Patches, a row each, grouped by the cell of the image that is read to serve them."""

    image: NDArray[np.int64]
    """``(N,)`` index of the stack."""
    sample: NDArray[np.int64]
    """``(N,)`` index along ``S``."""
    start: NDArray[np.int64]
    """``(N, D)`` origin, pixels, ``(Z) Y X``."""
    size: NDArray[np.int64]
    """``(N, D)`` size, pixels."""
    cell: NDArray[np.int64]
    """``(N,)``; equal numbers stand together and are read together."""
    crop: NDArray[np.int64]
    """``(N, 2 D)`` start and stop of the part of a tile to keep, in image pixels."""
    split: Literal["random", "fixed", "by image"] = "fixed"
    """How ranks and workers share it; see `share`."""

    def __len__(self) -> int:
        """Count patches."""
        return len(self.image)

    def at(self, epoch: int) -> Plan:
        """Return itself: a plan that is laid out once is the same in every epoch."""
        del epoch
        return self

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Plan:
        """Keep some rows, in that order."""
        columns = (self.image, self.sample, self.start, self.size, self.cell, self.crop)
        if isinstance(rows, slice) or rows.dtype == bool:
            image, sample, start, size, cell, crop = (column[rows] for column in columns)
        else:  # for columns of several numbers, much faster than column[rows]
            image, sample, start, size, cell, crop = (c.take(rows, axis=0) for c in columns)
        return Plan(image, sample, start, size, cell, crop, self.split)


def concatenate(parts: Sequence[Plan]) -> Plan:
    """Plans one after another; cells stay apart."""
    offset = np.cumsum([0] + [int(part.cell.max(initial=-1)) + 1 for part in parts])
    cell = [part.cell + o for part, o in zip(parts, offset, strict=False)]
    return Plan(
        np.concatenate([part.image for part in parts]),
        np.concatenate([part.sample for part in parts]),
        np.concatenate([part.start for part in parts]),
        np.concatenate([part.size for part in parts]),
        np.concatenate(cell),
        np.concatenate([part.crop for part in parts]),
    )


def rows_of(plan: Plan, extents: Sequence[Extent]) -> NDArray[np.int64]:
    """Return the sample of each patch, ``(N,)``, counted through all images."""
    first = np.cumsum([0] + [extent.samples for extent in extents])
    rows: NDArray[np.int64] = first[plan.image] + plan.sample
    return rows
