"""Grids of patches, and tiles whose kept parts cover every pixel exactly once."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, prod
from typing import TYPE_CHECKING

import numpy as np

from careamics_dm.sampling.chunk_grid import CELL_BYTES, cell_shape
from careamics_dm.sampling.plan import Plan, concatenate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from careamics_dm.images.extent import Extent


def grid_plan(
    extents: Sequence[Extent],
    patch_size: Sequence[int],
    *,
    cell_bytes: int = CELL_BYTES,
) -> Plan:
    """Patches side by side that cover the data, by image, sample and cell.

    The last patch of an axis is moved inside the image.
    """
    return _lay_out(extents, patch_size, [0] * len(patch_size), cell_bytes)


def tile_plan(
    extents: Sequence[Extent],
    tile_size: Sequence[int] | None,
    overlap: Sequence[int],
    *,
    cell_bytes: int = CELL_BYTES,
) -> Plan:
    """Tiles that overlap, whose ``crop`` parts cover every pixel exactly once.

    The last tile of an axis is moved inside the image; a tile larger than the image reaches outside
    it at the far side. Without ``tile_size`` images are tiles. Neighbours share ``overlap`` pixels
    and keep half of them each.
    """
    return replace(_lay_out(extents, tile_size, overlap, cell_bytes), split="by image")


def _lay_out(
    extents: Sequence[Extent],
    tile_size: Sequence[int] | None,
    overlap: Sequence[int],
    cell_bytes: int,
) -> Plan:
    """Lay tiles over every sample; see `grid_plan` and `tile_plan`."""
    parts = []
    for i, extent in enumerate(extents):
        tile = tuple(tile_size or extent.size)
        size, n_axes = extent.size, len(tile)
        columns = [_tile_axis(n, t, o) for n, t, o in zip(size, tile, overlap, strict=True)]
        at = np.indices([len(starts) for starts, _, _ in columns]).reshape(n_axes, -1)
        start, first, stop = (
            np.stack([columns[d][part][at[d]] for d in range(n_axes)], axis=1) for part in range(3)
        )
        read = cell_shape(extent, tile, cell_bytes)
        columns_of_cells = [starts // r for (starts, _, _), r in zip(columns, read, strict=True)]
        cell = np.zeros(len(start), np.int64)
        for d, number in enumerate(columns_of_cells):
            cell = cell * (number[-1] + 1) + number[at[d]]
        order = np.argsort(cell, kind="stable")
        tiles = Plan(
            np.full(len(start), i),
            np.zeros(len(start), np.int64),
            start,
            np.broadcast_to(np.asarray(tile), start.shape),
            cell,
            np.hstack([first, stop]),
        ).take(order)
        n, n_cells = len(tiles), int(tiles.cell.max()) + 1
        again = tiles.take(np.tile(np.arange(n), extent.samples))
        sample = np.repeat(np.arange(extent.samples), n)
        # Samples that are stored together share their cells.
        shared = replace(
            again, sample=sample, cell=again.cell + sample // extent.together * n_cells
        )
        parts.append(shared.take(np.argsort(shared.cell, kind="stable")))
    return concatenate(parts)


def _tile_axis(
    size: int, tile: int, overlap: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Place tiles along an axis: their starts, and start and stop of what each keeps."""
    if size <= tile:
        return np.array([0]), np.array([0]), np.array([size])
    n = ceil((size - overlap) / (tile - overlap))
    start = np.minimum(np.arange(n) * (tile - overlap), size - tile)
    border = (start[1:] + start[:-1] + tile) // 2
    return start, np.concatenate([[0], border]), np.concatenate([border, [size]])


def n_covering(extents: Sequence[Extent], patch_size: Sequence[int]) -> int:
    """How many patches cover the images side by side."""
    return sum(
        e.samples * prod(ceil(n / p) for n, p in zip(e.size, patch_size, strict=True))
        for e in extents
    )
