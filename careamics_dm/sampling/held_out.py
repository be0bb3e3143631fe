"""Validation patches held out of the training data, and how training avoids them."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from careamics_dm.errors import DataError
from careamics_dm.images.extent import Extent
from careamics_dm.images.region import block_shape_of
from careamics_dm.sampling.chunk_grid import CELL_BYTES, cell_shape
from careamics_dm.sampling.plan import Plan, rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from careamics_dm.images.image_stack import ImageStack
    from careamics_dm.sampling.allowed_origins import OriginMask, ValidOrigins
    from careamics_dm.sampling.chunk_grid import Axis

    Masks = Mapping[tuple[int, int], OriginMask | ValidOrigins]


def hold_out(
    extents: Sequence[Extent],
    patch_size: Sequence[int],
    n_patches: int,
    rng: np.random.Generator,
    masks: Masks | None = None,
) -> Plan:
    """Choose validation patches of a grid at random, sorted by image and position.

    ``rng`` is of the seed alone, so that they stay the same in every epoch. `DataError` if nothing
    would be left to train on.
    """
    counts = [_n_cells(extent.size, patch_size) for extent in extents]
    image, sample, available, allowed = _available(extents, patch_size, masks)
    until = np.cumsum(available)
    if n_patches >= until[-1]:
        raise DataError(
            f"n_val_patches={n_patches}, but the training data hold only {until[-1]} patches of "
            f"{tuple(patch_size)} side by side, and some must be left to train on. Use fewer or "
            "smaller patches, or give val_data."
        )
    pick = rng.choice(until[-1], n_patches, replace=False)
    chosen = np.searchsorted(until, pick, side="right")
    number = pick - (until - available)[chosen]
    start = np.empty((n_patches, len(patch_size)), np.int64)
    for row in np.unique(chosen).tolist():
        mine = np.flatnonzero(chosen == row)
        cells = allowed[row][number[mine]] if row in allowed else number[mine]
        start[mine] = _origins(cells, counts[image[row]], patch_size)
    return _to_plan(extents, patch_size, image[chosen], sample[chosen], start)


def n_available(extents: Sequence[Extent], patch_size: Sequence[int], masks: Masks | None) -> int:
    """Count the patches that lie side by side where masks and gaps allow them."""
    return int(_available(extents, patch_size, masks)[2].sum())


def _available(
    extents: Sequence[Extent], patch_size: Sequence[int], masks: Masks | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], dict[int, NDArray[np.int64]]]:
    """Image, sample and count of cells of each sample; of masked ones, the cells by number."""
    counts = [_n_cells(extent.size, patch_size) for extent in extents]
    image = np.repeat(np.arange(len(extents)), [extent.samples for extent in extents])
    sample = np.concatenate([np.arange(extent.samples) for extent in extents])
    available = np.array([prod(count) for count in counts])[image]
    allowed: dict[int, NDArray[np.int64]] = {}
    known: dict[tuple[tuple[int, ...], int], NDArray[np.int64]] = {}
    for row, (i, s) in enumerate(zip(image.tolist(), sample.tolist(), strict=True)):
        if masks and (i, s) in masks and available[row]:
            key = (counts[i], id(masks[i, s]))  # samples with the same gaps share theirs
            if key not in known:
                starts = _origins(np.arange(available[row]), counts[i], patch_size)
                known[key] = np.flatnonzero(masks[i, s].allows(starts))
            allowed[row] = known[key]
            available[row] = len(allowed[row])
    return image, sample, available, allowed


def _n_cells(size: Sequence[int], patch_size: Sequence[int]) -> tuple[int, ...]:
    """How many whole patches lie side by side along each axis."""
    return tuple(n // p for n, p in zip(size, patch_size, strict=True))


def _origins(
    number: NDArray[np.int64], counts: Sequence[int], patch_size: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.int64]:
    """Origins of numbered cells of a grid of patches."""
    index = np.stack(np.unravel_index(number, tuple(counts)), axis=1).astype(np.int64)
    return index * np.asarray(patch_size, np.int64)


def _to_plan(
    extents: Sequence[Extent],
    patch_size: Sequence[int],
    image: NDArray[np.int64],
    sample: NDArray[np.int64],
    start: NDArray[np.int64],
) -> Plan:
    """Sort patches by place, and group those near each other, to be read together."""
    read = np.ones_like(start)
    for i in np.unique(image).tolist():
        read[image == i] = cell_shape(extents[i], patch_size, CELL_BYTES)
    places = np.column_stack([image, sample, start // read])
    cell = np.unique(places, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.lexsort((*start.T[::-1], cell))
    size = np.broadcast_to(np.asarray(patch_size, np.int64), start.shape)
    return Plan(image, sample, start, size, cell, np.hstack([start, start + size])).take(order)


class HeldOut:
    """Held-out patches, and how drawing avoids them."""

    def __init__(
        self, held_out: Plan | None, extents: Sequence[Extent], patch_size: Sequence[int]
    ) -> None:
        self.patch = np.asarray(patch_size, np.int64)
        self.extents = extents
        self.starts: dict[tuple[int, int], NDArray[np.int64]] = {}
        if held_out is not None:
            keys = np.stack([held_out.image, held_out.sample], axis=1)
            order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable
            found, first = np.unique(keys[order], axis=0, return_index=True)
            parts = np.split(held_out.start[order], first[1:])
            self.starts = dict(zip(map(tuple, found.tolist()), parts, strict=True))

    def free_fraction(self, image: int, sample: int) -> float:
        """Fraction of a sample's grid cells that no held-out patch overlaps."""
        free = self._free(image, sample)
        return float(free.mean()) if free.size else 0.0

    def redraw(
        self,
        start: NDArray[np.int64],
        image: int,
        sample: int,
        axes: Sequence[Axis],
        rng: np.random.Generator,
    ) -> None:
        """Draw again, in place, those origins of a sample that overlap a held-out patch."""
        held = self.starts[image, sample]
        mine = np.arange(len(start))
        for _ in range(20):
            mine = mine[self.overlaps(start[mine], held)]
            if not len(mine):
                return
            start[mine] = np.stack([axis.draw(len(mine), rng) for axis in axes], axis=1)
        mine = mine[self.overlaps(start[mine], held)]
        # Hardly any origin is free. A cell of the grid that is not held out always is.
        free = np.flatnonzero(self._free(image, sample))
        counts = _n_cells(self.extents[image].size, self.patch.tolist())
        start[mine] = _origins(free[rng.integers(len(free), size=len(mine))], counts, self.patch)

    def overlaps(self, start: NDArray[np.int64], held: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of ``(N, D)`` origins overlaps any of ``(M, D)`` held-out ones."""
        touching = np.zeros(len(start), bool)
        if not len(start) or not len(held):
            return touching
        # Of N x M pairs few are near each other: those in the same or adjacent cells of a grid.
        cell, held_cell = start // self.patch, held // self.patch
        near = np.zeros(np.maximum(cell.max(axis=0), held_cell.max(axis=0)) + 3, bool)
        for step in np.ndindex(*(3,) * len(self.patch)):
            near[tuple((held_cell + step).T)] = True
        candidates = np.flatnonzero(near[tuple((cell + 1).T)])
        for rows in np.array_split(candidates, len(candidates) * len(held) // 2**20 + 1):
            apart = np.abs(start[rows, None] - held[None])
            touching[rows] = (apart < self.patch).all(axis=-1).any(axis=-1)
        return touching

    def _free(self, image: int, sample: int) -> NDArray[np.bool_]:
        """Whether each grid cell of a sample overlaps no held-out patch."""
        counts = np.array(_n_cells(self.extents[image].size, self.patch.tolist()))
        free = np.ones(counts, bool)
        held = self.starts[image, sample]
        ends = np.stack([held // self.patch, (held + self.patch - 1) // self.patch])
        for corner in np.ndindex(*(2,) * len(counts)):
            cell = np.stack([ends[side, :, d] for d, side in enumerate(corner)], axis=1)
            free[tuple(cell[(cell < counts).all(axis=1)].T)] = False
        flat: NDArray[np.bool_] = free.reshape(-1)
        return flat


def without_overlap(plan: Plan, held_out: Plan) -> Plan:
    """Keep the patches of a plan that overlap no held-out one."""
    held = HeldOut(held_out, (), held_out.size[0])
    keep = np.ones(len(plan), bool)
    for (i, s), starts in held.starts.items():
        mine = np.flatnonzero((plan.image == i) & (plan.sample == s))
        keep[mine] = ~held.overlaps(plan.start[mine], starts)
    return plan.take(np.flatnonzero(keep))


def within(plan: Plan, masks: Masks, extents: Sequence[Extent]) -> Plan:
    """Keep the patches of a plan that masks and gaps allow."""
    if not masks:
        return plan
    keep = np.ones(len(plan), bool)
    rows = rows_of(plan, extents)
    order = np.argsort(rows, kind="stable")
    first = np.flatnonzero(np.diff(rows[order], prepend=-1))
    for mine in np.split(order, first[1:]) if len(plan) else []:
        mask = masks.get((int(plan.image[mine[0]]), int(plan.sample[mine[0]])))
        if mask is not None:
            keep[mine] = mask.allows(plan.start[mine])
    return plan.take(keep)


def to_rows(held_out: Plan, stacks: Sequence[ImageStack]) -> list[list[Any]]:
    """Write held-out patches as plain values, ``[source, sample, *origin]`` each."""
    columns = (held_out.image.tolist(), held_out.sample.tolist(), held_out.start.tolist())
    names = image_names(stacks)
    return [[names[i], s, *start] for i, s, start in zip(*columns, strict=True)]


def image_names(stacks: Sequence[ImageStack]) -> list[str]:
    """Name images by source; further channels of one file, which are images too, by number."""
    sources = [stack.source for stack in stacks]
    seen: dict[str, int] = {}
    for i, source in enumerate(sources):
        seen[source] = seen.get(source, 0) + 1
        sources[i] = source if seen[source] == 1 else f"{source} ({seen[source]})"
    return sources


def image_numbers(
    rows: Sequence[Sequence[Any]], stacks: Sequence[ImageStack], what: str, advice: str
) -> dict[str, int]:
    """Find images by name; all that rows of a checkpoint name must be there."""
    number = {name: i for i, name in enumerate(image_names(stacks))}
    if missing := sorted({row[0] for row in rows} - set(number)):
        raise DataError(
            f"train_data: the checkpoint holds out validation {what} of {', '.join(missing)}, "
            f"which is not among the training data. {advice}"
        )
    return number


def from_rows(
    rows: Sequence[Sequence[Any]], stacks: Sequence[ImageStack], patch_size: Sequence[int]
) -> Plan:
    """Read what `to_rows` wrote; `DataError` where an image is missing, or is smaller now."""
    advice = "Train on the same data with the same patch_size, or give val_data."
    number = image_numbers(rows, stacks, "patches", advice)
    for source, s, *origin in rows:
        samples, _, *size = stacks[number[source]].data_shape
        fits = len(origin) == len(size) == len(patch_size) and s < samples
        if not fits or any(a + p > n for a, p, n in zip(origin, patch_size, size, strict=True)):
            raise DataError(
                f"train_data: the checkpoint holds out a validation patch of {source}, sample "
                f"{s}, at {tuple(origin)}, but the image has {samples} sample(s) of "
                f"{tuple(size)} and patch_size is {tuple(patch_size)}. {advice}"
            )
    extents = [
        Extent(
            stack.data_shape[0],
            tuple(stack.data_shape[2:]),
            block_shape_of(stack),
            stack.data_shape[1] * np.dtype(stack.data_dtype).itemsize,
            getattr(stack, "in_memory", False),
        )
        for stack in stacks
    ]
    image = np.array([number[row[0]] for row in rows], np.int64)
    sample = np.array([row[1] for row in rows], np.int64)
    start = np.array([row[2:] for row in rows], np.int64).reshape(len(rows), len(patch_size))
    return _to_plan(extents, patch_size, image, sample, start)
