"""Patches that pass a filter: marked in decoded regions, and drawn from what is decoded."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice, product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.region import Blocks, Region
from careamics_dm.loading.patch_extraction import PairedImages
from careamics_dm.loading.prefetch import Loaded, Marks, Reader
from careamics_dm.loading.read_schedule import Key
from careamics_dm.sampling.allowed_origins import OriginBits, OriginMasks
from careamics_dm.sampling.epoch_streams import Block, Stream
from careamics_dm.sampling.filters.base import PatchFilter, nothing_passes
from careamics_dm.sampling.filters.window_statistics import reduce_windows
from careamics_dm.sampling.keyed_random import Numbers, fractions, key_of
from careamics_dm.sampling.random_patches import RandomPatches
from careamics_dm.sampling.read_windows import Places

JUDGED_BYTES = 2**20
"""Bytes of patches to judge in one go, so that they stay in the cache."""
TRIES = 1000
"""Patches to judge, where only patches can be judged, before a block counts as background; and
patches to read from all over the data before none is said to pass."""
ROUND = 40
"""Of these, patches of a block to judge in one go."""
PER_PATCH = 100
"""Candidates to judge, at most, for each patch that is wanted."""
SEARCHED = 64
"""Blocks to search for patches that pass."""
MEASURED = 100
"""Patches to measure for the message if there are none."""
ELSEWHERE = 64
"""Patches from elsewhere that are enough."""
PIECE = {2: (256, 1024), 3: (16, 128, 128)}
"""Origins to judge together, ``(Z) Y X``, or twice as many as patches are large: memory of so few
is used again and again. Multiples of 8, so that slabs begin at whole bytes of masks."""
FAR = 2**32
"""An epoch that no training reaches: from there on plans say which patches to read elsewhere."""


class Marker:
    """Marks the origins of decoded regions whose patches pass.

    If the criterion judges only patches, all origins count as passing here.
    """

    def __init__(self, criterion: PatchFilter, plan: RandomPatches, images: PairedImages) -> None:
        self.criterion, self.plan, self.images = criterion, plan, images
        self.size = plan.patch_size
        self._steps = [
            max(n, 2 * p + -2 * p % 8)
            for n, p in zip(PIECE[len(self.size)], self.size, strict=True)
        ]

    def mark(self, region: Region, blocks: Blocks) -> Marks:
        """Mark each sample of a region, ``S C (Z) Y X``; called in threads."""
        shape = tuple(n - p + 1 for n, p in zip(blocks[0].shape[2:], self.size, strict=True))
        marks = [OriginBits(shape) for _ in blocks[0]]
        for s, sample in enumerate(zip(*blocks, strict=True)):
            for first in range(0, shape[0], self._steps[0]):
                slab = slice(first, min(first + self._steps[0], shape[0]))
                start = [first + region.start[0], *region.start[1:]]
                stop = np.add(start, [slab.stop - first, *shape[1:]]).tolist()
                usable = self.plan.allows(region.image, region.sample + s, start, stop)
                self._judge(sample, slab, usable)
                marks[s].allow(first, usable)
        return marks

    def _judge(
        self, sample: Sequence[NDArray[Any]], slab: slice, usable: NDArray[np.bool_]
    ) -> None:
        """Forbid, piece by piece and in place, origins of a slab that fail or are near NaN."""
        axes = zip(usable.shape[1:], self._steps[1:], strict=True)
        for corner in product(*(range(0, n, step) for n, step in axes)):
            ends = map(int.__add__, corner, self._steps[1:])
            piece: tuple[slice, ...] = (slice(None), *map(slice, corner, ends))
            if not usable[piece].any():
                continue
            origins = zip((slab.start, *corner), usable[piece].shape, self.size, strict=True)
            box = (slice(None), *(slice(a, a + n + p - 1) for a, n, p in origins))
            image, *_ = (
                self._finite(side, pixels[box], usable[piece]) for side, pixels in enumerate(sample)
            )
            found = self.criterion.passing_origins(image, self.size)
            if found is not None:
                usable[piece] &= found

    def _finite(self, side: int, pixels: NDArray[Any], usable: NDArray[np.bool_]) -> NDArray[Any]:
        """Return pixels as batches have them, NaN as 0; forbid origins near it, in place."""
        pixels = self.images.as_in_batches(side, pixels)
        if pixels.dtype.kind != "f" or not (bad := ~np.isfinite(pixels)).any():
            return pixels
        if self.images.nan_policy == "skip":
            usable &= ~reduce_windows(bad.any(axis=0), self.size, np.logical_or)
        return np.where(bad, pixels.dtype.type(0), pixels)


Draw = Callable[[np.uint64, Numbers], Numbers]
"""Draws patches that pass, by a key and the positions in their stream; see `OriginMasks.draw`."""


class FilteredPatches:
    """Draws the patches of the blocks of streams from what passes a filter.

    The patches of a block (see `epoch_streams`) are drawn once its windows are decoded, all that
    pass equally likely; where all images are ``in_memory``, from all of them. Where nothing passes,
    from the next block in which something does. With ``keep``, some are drawn there as if there
    were no filter. What is drawn follows from the seed (of the data, and the epoch) and the place
    in the epoch alone, so a resumed run, and one with other ranks, draws the same.
    """

    def __init__(
        self, marker: Marker, reader: Reader, seed: tuple[int, int], *, in_memory: bool
    ) -> None:
        self._marker, self._reader, self._seed = marker, reader, seed
        self._in_memory = in_memory
        self._images, self._size = marker.images, list(marker.plan.patch_size)
        # Of each stream, where it draws from: what that is, its windows, and how.
        self._open: dict[int, tuple[Key, Sequence[int], Draw]] = {}
        self._empty: set[Key] = set()
        self._elsewhere: Draw | None = None

    def draw(self, stream: Stream, block: Block, first: int, stop: int) -> Places:
        """Draw the patches of some positions of a block; `DataError` if nothing passes."""
        key, position = key_of(*self._seed, stream.number, 6), np.arange(first, stop)
        draw, source = self._source(stream, block)
        found = draw(key, position)
        window = found[:, 0]
        origins = self._reader.origins(window)
        sample, start = found[:, 1] + origins[:, 1], found[:, 2:] + origins[:, 2:]
        places = Places.of_size(self._size, origins[:, 0], sample, start, window)
        if not self._marker.criterion.keep or source is None:
            return places
        kept = fractions(key + np.uint64(1), position) < self._marker.criterion.keep
        of, one = source
        at = fractions(key + np.uint64(PER_PATCH), position) * (one.stop - one.first)
        plain = of.epoch.places(of.marks(one, one.first + at.astype(np.int64)))
        columns = zip(plain, places, strict=True)
        return Places(*(np.where(kept.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in columns))

    def _source(self, stream: Stream, block: Block) -> tuple[Draw, tuple[Stream, Block] | None]:
        """Return what to draw from: the block, or the next one, of any stream, that passes."""
        every = ((of, one) for of in stream.others() for one in of.blocks(0))
        candidates = chain(((stream, one) for one in stream.blocks(block.first)), every)
        for of, one in islice(candidates, 1 if self._in_memory else SEARCHED):
            if draw := self._open_block(stream.number, of, one):
                return draw, (of, one)
        self._elsewhere = self._elsewhere or self._search_elsewhere()
        return self._elsewhere, None

    def _open_block(self, number: int, stream: Stream, block: Block) -> Draw | None:
        """Let stream ``number`` draw from a block of any; ``None`` if nothing in it passes."""
        key = stream.number, block.first
        if self._in_memory:
            number, key = -1, (-1, 0)
        if number in self._open and self._open[number][0] == key:
            return self._open[number][2]
        if key in self._empty:
            return None
        if number in self._open:
            self._reader.release(self._open.pop(number)[1])
        n_windows = stream.epoch.table.first[-1]
        windows = range(n_windows) if self._in_memory else stream.windows(block)
        if draw := self._judge_windows(windows, key):
            self._open[number] = key, windows, draw
            return draw
        self._empty.add(key)
        self._reader.release(windows)
        self._reader.end(key)  # nothing of it will be drawn
        return None

    def _judge_windows(self, windows: Sequence[int], key: Key) -> Draw | None:
        """Load windows, and find what passes in them; ``None`` if nothing does."""
        masks = [self._reader.take(window).passing for window in windows]
        numbers = [(w, s) for w, of in zip(windows, masks, strict=True) for s in range(len(of))]
        marked = OriginMasks([mask for of in masks for mask in of], np.array(numbers))
        if not marked.n_allowed or self._marker.criterion.marks_suffice:
            return marked.draw if marked.n_allowed else None
        of_block = key_of(*self._seed, key[0] + 1, key[1], 7)  # as others may draw from it, too
        for first in range(0, TRIES, ROUND):
            some = marked.draw(of_block, np.arange(first, first + ROUND))
            some = some[self._judge(some)]
            if len(some):
                return partial(self._draw_judged, marked, some)
        return None

    def _draw_judged(
        self, marked: OriginMasks, some: Numbers, key: np.uint64, position: Numbers
    ) -> Numbers:
        """Draw candidates and judge them; where many fail, draw from ``some`` that pass."""
        found = some[(fractions(key, position) * len(some)).astype(np.int64)]
        missing = np.arange(len(position))
        for attempt in range(2, PER_PATCH):
            drawn = marked.draw(key + np.uint64(attempt), position[missing])
            passes = self._judge(drawn)
            found[missing[passes]] = drawn[passes]
            missing = missing[~passes]
            if not len(missing):
                break
        return found

    def _judge(self, found: Numbers) -> NDArray[np.bool_]:
        """Cut candidates and judge them; NaN counts as 0."""
        passes = np.empty(len(found), bool)
        at_once = max(JUDGED_BYTES // (prod(self._size) * self._images.dtypes[0].itemsize), 1)
        for part in (slice(i, i + at_once) for i in range(0, len(found), at_once)):
            windows: list[int] = found[part, 0].tolist()
            blocks = {window: self._reader.get(window).blocks[:1] for window in set(windows)}
            cuts = self._images.cut(blocks, windows, found[part, 1:].tolist(), self._size)
            if cuts[0].dtype.kind == "f":
                cuts[0][~np.isfinite(cuts[0])] = 0
            passes[part] = _passes(self._marker.criterion, cuts[0])
        return passes

    def _search_elsewhere(self) -> Draw:
        """Read patches one by one, from all over the data, until enough of them pass."""
        plan, criterion = replace(self._marker.plan, n_patches=MEASURED), self._marker.criterion
        epochs = (plan.epoch(FAR * (1 + self._seed[1]) + n) for n in range(TRIES // MEASURED))
        places = (epoch.places(np.arange(MEASURED)) for epoch in epochs)
        regions = (some.region(i) for some in places for i in range(MEASURED))
        passing: list[tuple[int, int]] = []
        tried: list[NDArray[Any]] = []
        for n, region in enumerate(regions):
            patch = self._images.read_patch(region)
            if patch is not None and _passes(criterion, patch[0])[0]:
                self._reader.add(-1 - n, region, Loaded(patch))
                passing.append((-1 - n, 0))
            elif patch is not None and len(tried) < MEASURED:
                tried.append(patch[0])
            if len(passing) == ELSEWHERE:
                break
        if not passing:
            raise DataError(nothing_passes(criterion, tried))
        whole = OriginBits([1] * len(self._size))  # one origin
        whole.allow(0, np.ones(1, bool))
        return OriginMasks([whole] * len(passing), np.array(passing)).draw


def _passes(criterion: PatchFilter, patches: NDArray[Any]) -> NDArray[np.bool_]:
    """Judge patches, ``N C (Z) Y X``, by a criterion that may be anybody's."""
    passes = np.asarray(criterion.passes(patches))
    if passes.shape != (len(patches),) or passes.dtype != bool:
        raise DataError(
            f"patch_filter: {type(criterion).__name__}.passes gave {passes.dtype} of shape "
            f"{passes.shape} for {len(patches)} patches. It must return a bool for each patch."
        )
    return passes
