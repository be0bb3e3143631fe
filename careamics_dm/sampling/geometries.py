"""Samples whose read windows are alike."""

from collections import defaultdict
from collections.abc import Container, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from careamics_dm.images.extent import Extent
from careamics_dm.sampling.allowed_origins import OriginMask, ValidOrigins
from careamics_dm.sampling.chunk_grid import Axis, axis_of, window_shape
from careamics_dm.sampling.read_windows import Runs


class Geometry(NamedTuple):
    """Runs of samples whose windows are alike."""

    runs: NDArray[np.int64]
    n: int
    """Samples of each run."""
    axes: list[Axis]
    window_bytes: int


def find_geometries(
    extents: Sequence[Extent],
    runs: Runs,
    patch_size: Sequence[int],
    window_bytes: int | None,
    restricted: Container[int],
) -> list[Geometry]:
    """Group the runs that are read window by window, or whose samples have masks of their own.

    All other runs, mostly small, are one window each, whose origins need no grid.
    """
    shapes: dict[Extent, tuple[int, ...]] = {}
    on_grid = np.zeros(len(extents), bool)
    keys = [extent._replace(samples=extent.together) for extent in extents]
    for i, key in enumerate(keys):
        if key not in shapes:
            shapes[key] = window_shape(key, patch_size, window_bytes)
        on_grid[i] = shapes[key] != key.size
    apart = [run for run in np.flatnonzero(runs.n > 1).tolist() if run in restricted]
    found: dict[tuple[Extent, int], list[int]] = defaultdict(list)
    for run in sorted({*np.flatnonzero(on_grid[runs.image]).tolist(), *apart}):
        found[keys[runs.image[run]], int(runs.n[run])].append(run)
    return [
        Geometry(
            np.array(mine),
            n,
            [axis_of(*c) for c in zip(e.size, patch_size, e.block, shapes[e], strict=True)],
            prod(shapes[e]) * e.pixel_bytes * n * (not e.in_memory),
        )
        for (e, n), mine in found.items()
    ]


def draw_shifts(
    geometry: Geometry, masks: Sequence[OriginMask | ValidOrigins], rng: np.random.Generator
) -> list[int]:
    """Draw the shift of the chunk grid along each axis; `random_patches` says how likely each is.

    ``masks`` are those of the samples that have one.
    """
    free: NDArray[np.float64] = np.ones(())
    for axis in geometry.axes:
        free = np.multiply.outer(free, axis.totals())
    total = (geometry.n * len(geometry.runs) - len(masks)) * free
    of_mask: dict[int, NDArray[np.float64]] = {}  # several samples may have the same
    for mask in masks:
        if id(mask) not in of_mask:
            of_mask[id(mask)] = mask.totals(geometry.axes)
        total = total + of_mask[id(mask)]
    chance = np.maximum(total, 0).reshape(-1)
    if not chance.any():  # no patch fits, so the runs have no weight
        chance = np.ones(len(chance))
    number = rng.choice(len(chance), p=chance / chance.sum())
    return [int(k) for k in np.unravel_index(number, free.shape)]
