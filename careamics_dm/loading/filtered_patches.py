"""Patches that pass a filter: marked in decoded regions, and drawn from what is decoded."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice, product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.region import Blocks, Region
from careamics_dm.loading.patch_extraction import PairedImages
from careamics_dm.loading.prefetch import Loaded, Reader
from careamics_dm.loading.read_schedule import Key
from careamics_dm.sampling.allowed_origins import OriginBits, OriginMasks
from careamics_dm.sampling.epoch_streams import Block, Stream
from careamics_dm.sampling.filters.base import PatchFilter, nothing_passes
from careamics_dm.sampling.filters.window_statistics import reduce_windows
from careamics_dm.sampling.keyed_random import Numbers
from careamics_dm.sampling.random_patches import RandomPatches
from careamics_dm.sampling.read_windows import Places

PORTION = 1024
"""Patches of a block to draw together."""
JUDGED_BYTES = 2**20
"""Bytes of patches to judge in one go, so that they stay in the cache."""
TRIES = 1000
"""Patches to judge, where only patches can be judged, before a block counts as background; and
patches to read from all over the data before none is said to pass."""
PER_PATCH = 100
"""Candidates to judge, at most, for each patch that is wanted."""
SEARCHED = 64
"""Blocks of a stream to search for patches that pass."""
MEASURED = 100
"""Of these, patches to measure for the message."""
ELSEWHERE = 64
"""Patches from elsewhere that are enough."""
PIECE = {2: (256, 1024), 3: (16, 128, 128)}
"""Origins to judge together, ``(Z) Y X``, or twice as many as patches are large: memory of so few
is used again and again. Multiples of 8, so that slabs begin at whole bytes of masks."""
FAR = 2**32
"""An epoch that no training reaches: from there on plans say which patches to read elsewhere."""


Marks = tuple[list[OriginBits], list[OriginBits]]
"""Of each sample of a region, the origins whose patches pass (or, where only patches can be judged,
all that may be drawn); and those that do not pass, unless none of these is ever drawn."""


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
        """Mark a region, ``S C (Z) Y X``, a bit or two for each origin; called in threads."""
        shape = tuple(n - p + 1 for n, p in zip(blocks[0].shape[2:], self.size, strict=True))
        marks: Marks = [], []
        for s, sample in enumerate(zip(*blocks, strict=True)):
            masks = [OriginBits(shape) for _ in range(2)]
            for first in range(0, shape[0], self._steps[0]):
                slab = slice(first, min(first + self._steps[0], shape[0]))
                start = [first + region.start[0], *region.start[1:]]
                stop = np.add(start, [slab.stop - first, *shape[1:]]).tolist()
                usable = self.plan.allows(region.image, region.sample + s, start, stop)
                good = self._judge(sample, slab, usable)
                masks[0].allow(first, usable & good)
                masks[1].allow(first, usable & ~good)
            marks[0].append(masks[0])
            if self.criterion.keep and self.criterion.marks_suffice:
                marks[1].append(masks[1])
        return marks

    def _judge(
        self, sample: Sequence[NDArray[Any]], slab: slice, usable: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Judge a slab of origins, piece by piece; and forbid those near NaN, in place."""
        good = np.ones(usable.shape, bool)
        axes = zip(usable.shape[1:], self._steps[1:], strict=True)
        for corner in product(*(range(0, n, step) for n, step in axes)):
            ends = map(int.__add__, corner, self._steps[1:])
            piece: tuple[slice, ...] = (slice(None), *map(slice, corner, ends))
            if not usable[piece].any():
                continue
            origins = zip((slab.start, *corner), good[piece].shape, self.size, strict=True)
            box = (slice(None), *(slice(a, a + n + p - 1) for a, n, p in origins))
            image, *_ = (
                self._finite(side, pixels[box], usable[piece]) for side, pixels in enumerate(sample)
            )
            found = self.criterion.passing_origins(image, self.size)
            if found is not None:
                good[piece] = found
        return good

    def _finite(self, side: int, pixels: NDArray[Any], usable: NDArray[np.bool_]) -> NDArray[Any]:
        """Return pixels as batches have them, NaN as 0; forbid origins near it, in place."""
        pixels = self.images.as_in_batches(side, pixels)
        if pixels.dtype.kind != "f" or not (bad := ~np.isfinite(pixels)).any():
            return pixels
        if self.images.nan_policy == "skip":
            usable &= ~reduce_windows(bad.any(axis=0), self.size, np.logical_or)
        return np.where(bad, pixels.dtype.type(0), pixels)


Draw = Callable[[int, np.random.Generator], Numbers]
"""Draws so many patches of a block that pass, or else are kept; see `OriginMasks.draw`."""


class FilteredPatches:
    """Draws the patches of the blocks of streams from what passes a filter.

    The patches of a block (see `epoch_streams`) are drawn once its windows are decoded, all that
    pass equally likely; where all images are ``in_memory``, from all of them. Where nothing passes,
    from the next block in which something does. What is drawn follows from the seed (of the data,
    and the epoch) and the place in the epoch alone, so a resumed run, and one with other ranks,
    draws the same.
    """

    def __init__(
        self, marker: Marker, reader: Reader, seed: tuple[int, int], *, in_memory: bool
    ) -> None:
        self._marker, self._reader, self._seed = marker, reader, seed
        self._in_memory = in_memory
        self._images, self._size = marker.images, list(marker.plan.patch_size)
        self._keep = marker.criterion.keep
        # Of each stream, where it draws from: what that is, its windows, and how.
        self._open: dict[int, tuple[Key, list[int], Draw]] = {}
        self._empty: set[Key] = set()
        self._portions: dict[int, tuple[Key, Numbers]] = {}
        self._elsewhere: Draw | None = None

    def draw(self, stream: Stream, block: Block, first: int, stop: int) -> Places:
        """Draw the patches of some positions of a block; `DataError` if nothing passes."""
        begins = range(first - (first - block.first) % PORTION, stop, PORTION)
        parts = [self._portion(stream, block, a)[max(first - a, 0) : stop - a] for a in begins]
        found = np.concatenate(parts)
        window = found[:, 0]
        origins = self._reader.origins(window)
        sample, start = found[:, 1] + origins[:, 1], found[:, 2:] + origins[:, 2:]
        return Places.of_size(self._size, origins[:, 0], sample, start, window)

    def _portion(self, stream: Stream, block: Block, begin: int) -> Numbers:
        """Draw the portion of a block that begins at a position, unless it is the last drawn."""
        key = block.first, begin
        if stream.number not in self._portions or self._portions[stream.number][0] != key:
            rng = np.random.default_rng([*self._seed, stream.number, begin, 6])
            found = self._source(stream, block)(min(PORTION, block.stop - begin), rng)
            self._portions[stream.number] = key, found
        return self._portions[stream.number][1]

    def _source(self, stream: Stream, block: Block) -> Draw:
        """Return what to draw from: the block, or the next one, of any stream, that passes."""
        candidates = islice(self._candidates(stream, block), 1 if self._in_memory else SEARCHED)
        for other, candidate in candidates:
            if draw := self._open_block(stream.number, other, candidate):
                return draw
        self._elsewhere = self._elsewhere or self._search_elsewhere()
        return self._elsewhere

    def _candidates(self, stream: Stream, block: Block) -> Iterator[tuple[Stream, Block]]:
        yield stream, block
        yield from ((stream, other) for other in stream.blocks(block.stop))
        for other in stream.others():
            yield from ((other, candidate) for candidate in other.blocks(0))

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
        windows = [*range(n_windows)] if self._in_memory else stream.windows(block).tolist()
        draw = self._judge_windows(windows, key)
        if draw is None:
            self._empty.add(key)
            self._reader.release(windows)
            self._reader.end(key)  # nothing of it will be drawn
            return None
        self._open[number] = key, windows, draw
        return draw

    def _judge_windows(self, windows: Sequence[int], key: Key) -> Draw | None:
        """Load windows, and find what passes in them; ``None`` if nothing does."""
        loaded = [self._reader.take(window) for window in windows]
        passing = _join(windows, [of.passing for of in loaded])
        if self._marker.criterion.marks_suffice:
            rejected = _join(windows, [of.rejected for of in loaded]) if self._keep else None
            how = partial(_draw_marked, passing, rejected, self._keep)
            return how if passing.n_allowed else None
        rng = np.random.default_rng([*self._seed, key[0] + 1, key[1], 7])
        one = self._search(passing, 1, TRIES, 0.0, rng)
        return partial(self._draw_judged, passing, one) if len(one) else None

    def _draw_judged(
        self, candidates: OriginMasks, one: Numbers, n: int, rng: np.random.Generator
    ) -> Numbers:
        """Cut candidates and judge them; few that pass, or the ``one`` known, are repeated."""
        found = self._search(candidates, n, PER_PATCH * n, self._keep, rng)
        found = found if len(found) else one
        return found[np.resize(rng.permutation(len(found)), n)]

    def _search(
        self, candidates: OriginMasks, n: int, most: int, keep: float, rng: np.random.Generator
    ) -> Numbers:
        """Judge candidates until ``n`` pass; of the first ``n`` a part is kept in any case."""
        patch_bytes = prod(self._size) * self._images.dtypes[0].itemsize
        at_once = max(JUDGED_BYTES // patch_bytes, 1)
        found: list[Numbers] = []
        missing, tried = n, 0
        while missing > 0 and tried < most and candidates.n_allowed:
            step = min(at_once, 4 * missing + 4, most - tried)
            drawn = candidates.draw(step, rng)
            first = np.arange(tried, tried + step) < n
            found.append(drawn[self._judge(drawn) | (first & (rng.random(step) < keep))])
            missing, tried = missing - len(found[-1]), tried + step
        return np.concatenate(found)[:n] if found else np.empty((0, 1), np.int64)

    def _judge(self, found: Numbers) -> NDArray[np.bool_]:
        """Cut candidates and judge them; NaN counts as 0."""
        windows: list[int] = found[:, 0].tolist()
        blocks = {window: self._reader.get(window).blocks[:1] for window in set(windows)}
        cuts = self._images.cut(blocks, windows, found[:, 1:].tolist(), self._size)
        if cuts[0].dtype.kind == "f":
            cuts[0][~np.isfinite(cuts[0])] = 0
        return _passes(self._marker.criterion, cuts[0])

    def _search_elsewhere(self) -> Draw:
        """Read patches one by one, from all over the data, until enough of them pass."""
        passing: list[int] = []
        tried: list[NDArray[Any]] = []
        for n, region in enumerate(self._other_regions()):
            patch = self._images.read_patch(region)
            if patch is not None and _passes(self._marker.criterion, patch[0])[0]:
                self._reader.add(-1 - n, region, Loaded(patch))
                passing.append(-1 - n)
                if len(passing) == ELSEWHERE:
                    break
            elif patch is not None and len(tried) < MEASURED:
                tried.append(patch[0])
        if not passing:
            raise DataError(nothing_passes(self._marker.criterion, tried))
        whole = OriginBits([1] * len(self._size))  # one origin
        whole.allow(0, np.ones(1, bool))
        return partial(_draw_marked, _join(passing, [[whole]] * len(passing)), None, 0.0)

    def _other_regions(self) -> Iterator[Region]:
        """Boxes of patches of epochs that are never drawn."""
        plan = self._marker.plan
        for n in range(0, TRIES, MEASURED):
            rng = np.random.default_rng([*self._seed, n, 8])
            marks = rng.integers(len(plan), size=MEASURED)
            places = plan.epoch(FAR * (1 + self._seed[1]) + n).places(marks)
            yield from map(places.region, range(MEASURED))


def _draw_marked(
    passing: OriginMasks,
    rejected: OriginMasks | None,
    keep: float,
    n: int,
    rng: np.random.Generator,
) -> Numbers:
    """Draw among marked origins; in place of some, among the rejected, in proportion to both."""
    found = passing.draw(n, rng)
    if rejected is not None and rejected.n_allowed:
        share = rejected.n_allowed / (rejected.n_allowed + passing.n_allowed)
        kept = np.flatnonzero(rng.random(n) < keep * share)
        found[kept] = rejected.draw(len(kept), rng)
    return found


def _join(windows: Sequence[int], masks: Sequence[Sequence[OriginBits]]) -> OriginMasks:
    """Draw from the samples of windows as from one."""
    numbers = [(w, s) for w, of in zip(windows, masks, strict=True) for s in range(len(of))]
    return OriginMasks([mask for of in masks for mask in of], np.array(numbers))


def _passes(criterion: PatchFilter, patches: NDArray[Any]) -> NDArray[np.bool_]:
    """Judge patches, ``N C (Z) Y X``, by a criterion that may be anybody's."""
    passes = np.asarray(criterion.passes(patches))
    if passes.shape != (len(patches),) or passes.dtype != bool:
        raise DataError(
            f"patch_filter: {type(criterion).__name__}.passes gave {passes.dtype} of shape "
            f"{passes.shape} for {len(patches)} patches. It must return a bool for each patch."
        )
    return passes
