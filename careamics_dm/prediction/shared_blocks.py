"""Stored blocks that regions have in common, as those of neighbouring tiles do."""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from math import prod
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from careamics_dm.images.boxes import blocks_in, seen_from
from careamics_dm.images.extent import Extent
from careamics_dm.images.region import Blocks, Region, read_padded
from careamics_dm.loading.patch_extraction import PairedImages
from careamics_dm.sampling.read_windows import WINDOWS

LEAST = 2**18
"""Bytes to read at once, at least: small stored blocks are read several together."""
Key = tuple[int, int, tuple[int, ...]]


class SharedBlocks:
    """Reads regions out of stored blocks, each of which is decoded once while it is held.

    Those used last are held, within ``budget`` decoded bytes. What is raw on disk or lies in
    memory is read directly, and so are whole images.
    """

    def __init__(self, images: PairedImages, extents: Sequence[Extent], budget: int) -> None:
        self._images, self._extents, self._budget = images, extents, budget
        self._held: OrderedDict[Key, Future[Blocks]] = OrderedDict()
        self._bytes, self._lock = 0, Lock()

    def __call__(self, region: Region) -> Blocks:
        """Read a region; called in threads."""
        extent = self._extents[region.image]
        box = region.start, region.stop, extent.size
        is_whole = all(a <= 0 and b >= n for a, b, n in zip(*box, strict=True))
        if extent.in_memory or prod(extent.block) == 1 or is_whole:
            return self._images.read(region)
        sides = (partial(self._join, region, side) for side in range(len(self._images.dtypes)))
        return tuple(read_padded(read, *box) for read in sides)

    def _join(
        self, region: Region, side: int, start: Sequence[int], size: Sequence[int]
    ) -> NDArray[Any]:
        """Put a box inside the image together, of images (0) or targets (1)."""
        box = [slice(a, a + n) for a, n in zip(start, size, strict=True)]
        unit, joined = self._unit(self._extents[region.image]), None
        for place, part in blocks_in(box, unit):
            pixels = self._read(region, unit, place)[side]
            if joined is None:
                joined = np.empty((*pixels.shape[:2], *size), pixels.dtype)
            origin = [i * n for i, n in zip(place, unit, strict=True)]
            joined[:, :, *seen_from(start, part)] = pixels[:, :, *seen_from(origin, part)]
        assert joined is not None
        return joined

    def _read(self, region: Region, unit: Sequence[int], place: tuple[int, ...]) -> Blocks:
        """Return a unit, decoded by whichever thread asks first."""
        key = region.image, region.sample, place
        with self._lock:
            is_first = key not in self._held
            found = self._held.setdefault(key, Future())
            self._held.move_to_end(key)
        if is_first:
            size = self._extents[region.image].size
            start = tuple(i * n for i, n in zip(place, unit, strict=True))
            stop = tuple(min(a + n, s) for a, n, s in zip(start, unit, size, strict=True))
            try:
                blocks = self._images.read(region._replace(start=start, stop=stop))
            except BaseException as error:
                with self._lock:
                    del self._held[key]
                found.set_exception(error)
                raise
            found.set_result(blocks)
            self._make_room(sum(block.nbytes for block in blocks))
        return found.result()

    def _make_room(self, n_bytes: int) -> None:
        """Count bytes, and let go of what was not used for longest."""
        with self._lock:
            self._bytes += n_bytes
            for key in list(self._held):
                if self._bytes <= self._budget:
                    return
                if self._held[key].done():
                    self._bytes -= sum(block.nbytes for block in self._held.pop(key).result())

    def _unit(self, extent: Extent) -> tuple[int, ...]:
        """Return what to read at once: whole stored blocks."""
        unit, least = extent.block, min(LEAST, self._budget // WINDOWS)
        while prod(unit) * extent.pixel_bytes * extent.together < least and unit != extent.size:
            unit = tuple(min(2 * u, n) for u, n in zip(unit, extent.size, strict=True))
        return unit
