"""Random patches, uniform over the data, from shapes alone.

A plan is a pure function of shapes, patch size, seed and epoch; no pixel is read to make it, and
there is no Python object per patch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from careamics_dm.errors import DataError
from careamics_dm.sampling.allowed_origins import fill
from careamics_dm.sampling.chunk_grid import Geometries
from careamics_dm.sampling.held_out import HeldOut
from careamics_dm.sampling.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from careamics_dm.images.extent import Extent
    from careamics_dm.sampling.allowed_origins import OriginMask, ValidOrigins


@dataclass(frozen=True)
class RandomPatches:
    """New random patches in every epoch; the parameters are those of `random_plan`."""

    extents: tuple[Extent, ...]
    patch_size: tuple[int, ...]
    n_patches: int
    seed: int
    cell_bytes: int
    held_out: Plan | None = None
    masks: Mapping[tuple[int, int], OriginMask | ValidOrigins] | None = None
    trained: NDArray[np.bool_] | None = None
    split: ClassVar[Literal["random"]] = "random"

    def __len__(self) -> int:
        """Count patches of an epoch."""
        return self.n_patches

    def at(self, epoch: int) -> Plan:
        """Return the plan of an epoch, a pure function of seed and epoch."""
        return random_plan(
            self.extents,
            self.patch_size,
            self.n_patches,
            np.random.default_rng([self.seed, epoch]),
            cell_bytes=self.cell_bytes,
            held_out=self.held_out,
            masks=self.masks,
            trained=self.trained,
        )

    def allowed(
        self, image: int, sample: int, start: Sequence[int], stop: Sequence[int]
    ) -> NDArray[np.bool_]:
        """Whether each origin of a box may be drawn, ``(Z) Y X``; any epoch may draw these."""
        row = sum(extent.samples for extent in self.extents[:image]) + sample
        is_trained = self.trained is None or bool(self.trained[row])
        allowed = np.full([b - a for a, b in zip(start, stop, strict=True)], is_trained)
        mask = (self.masks or {}).get((image, sample))
        if mask is not None:  # it respects held-out patches already
            return allowed & mask.within(start, stop)
        if self.held_out is not None:
            mine = (self.held_out.image == image) & (self.held_out.sample == sample)
            held, size = self.held_out.start[mine] - np.array(start), np.array(self.patch_size)
            fill(allowed, np.stack([held - size + 1, held + size], axis=1), False)
        return allowed


@dataclass(frozen=True)
class GridPatches:
    """The patches of a grid, in another order in every epoch."""

    plan: Plan
    seed: int
    split: ClassVar[Literal["random"]] = "random"

    def __len__(self) -> int:
        """Count patches of an epoch."""
        return len(self.plan)

    def at(self, epoch: int) -> Plan:
        """Return the plan of an epoch: the cells in an order of seed and epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        cell = rng.permutation(int(self.plan.cell.max()) + 1)[self.plan.cell]
        shuffled = replace(self.plan, cell=cell, split="random")
        return shuffled.take(np.argsort(cell, kind="stable"))


def random_plan(
    extents: Sequence[Extent],
    patch_size: Sequence[int],
    n_patches: int,
    rng: np.random.Generator,
    *,
    cell_bytes: int,
    held_out: Plan | None = None,
    masks: Mapping[tuple[int, int], OriginMask | ValidOrigins] | None = None,
    trained: NDArray[np.bool_] | None = None,
) -> Plan:
    """Draw patches uniformly, cells in random order.

    An image gets patches in proportion to its area; within it every origin is equally likely,
    over the epochs, also where a patch crosses the border of a stored block. Patches that
    overlap a held-out one are drawn again, in the same grid of cells: near many held-out ones
    the origins that are left are only approximately equally likely. ``masks`` respect
    ``held_out`` already; ``trained`` says, image by image, which samples may be drawn from.
    `DataError` if masks and held-out patches leave no place.
    """
    masks = masks or {}
    patch = np.asarray(patch_size, np.int64)
    image = np.repeat(np.arange(len(extents)), [e.samples for e in extents])
    first = np.cumsum([0] + [e.samples for e in extents])  # row of each image's first sample
    sample = np.arange(len(image)) - first[image]
    held = HeldOut(held_out, extents, patch_size)
    area = [float(prod(np.maximum(e.size, patch))) for e in extents]
    weight = np.array(area)[image]
    for i, s in held.starts:
        weight[first[i] + s] *= held.free_fraction(i, s)
    for (i, s), mask in masks.items():
        weight[first[i] + s] = area[i] * mask.n_allowed / mask.n_origins
    if trained is not None:
        weight[~trained] = 0
    if not weight.any():
        raise DataError(
            "masks and validation patches leave no place for a training patch. Use fewer or "
            "smaller validation patches, or a larger mask."
        )
    # Systematic: every sample gets its expected count, rounded up or down at random.
    share = np.cumsum(weight)
    share /= share[-1]  # exactly 1 also at samples of no weight that come last
    ladder = np.floor(share * n_patches + rng.random()).clip(0, n_patches).astype(np.int64)
    counts = np.diff(ladder, prepend=0)
    row = np.repeat(np.arange(len(image)), counts)
    of_row = [slice(a, b) for a, b in zip((ladder - counts).tolist(), ladder.tolist(), strict=True)]

    start = np.zeros((len(row), len(patch)), np.int64)
    within = np.zeros(len(row), np.int64)  # number of a cell within its sample
    geometry = Geometries(extents, patch_size, cell_bytes, rng)
    parts = _split(geometry.of_image[image[row]], len(geometry.axes))
    for axes, mine in zip(geometry.axes, parts, strict=True):
        for d, axis in enumerate(axes):
            start[mine, d] = axis.draw(len(row[mine]), rng)
    for i, s in held.starts:
        if (i, s) not in masks:
            axes = geometry.axes[geometry.of_image[i]]
            held.redraw(start[of_row[first[i] + s]], i, s, axes, rng)
    for (i, s), mask in masks.items():
        rows = of_row[first[i] + s]
        start[rows] = mask.draw(rows.stop - rows.start, rng)
    for axes, mine in zip(geometry.axes, parts, strict=True):
        # Masked patches too: a cell is read as far as its patches reach.
        for d, axis in enumerate(axes):
            within[mine] = within[mine] * axis.n_cells + axis.cell_of(start[mine, d])

    # Samples that are stored together share their cells.
    begins = sample % np.array([e.together for e in extents])[image] == 0
    group = np.cumsum(begins) - 1
    order, cell = _shuffle_groups(group[row] * (within.max(initial=0) + 1) + within, rng)
    start, row = start.take(order, axis=0), row[order]
    size = np.broadcast_to(patch, start.shape)
    return Plan(
        image[row], sample[row], start, size, cell, np.hstack([start, start + size]), "random"
    )


def _shuffle_groups(
    key: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Order that puts equal keys together, the groups at random; and each group's number."""
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    length = np.diff(first, append=len(key))
    turn = rng.permutation(len(first))
    first, length = first[turn], length[turn]
    moved = np.repeat(first - (np.cumsum(length) - length), length)
    return order[moved + np.arange(len(key))], np.repeat(np.arange(len(first)), length)


def _split(kind: NDArray[np.int64], n: int) -> list[NDArray[np.int64] | slice]:
    """Positions of 0, of 1, ... of ``n - 1``."""
    if n == 1:
        return [slice(None)]  # no copies of millions of rows where all images are alike
    order = np.argsort(kind, kind="stable")
    return [*np.split(order, np.searchsorted(kind[order], np.arange(1, n)))]
