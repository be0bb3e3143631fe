"""Patches that pass a filter, drawn from what is decoded at that moment."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.region import Region
from careamics_dm.loading.origin_marks import Loaded, Marker
from careamics_dm.loading.patch_extraction import region_of_patch
from careamics_dm.loading.prefetch import Reader
from careamics_dm.loading.schedule import Drawn
from careamics_dm.sampling.allowed_origins import OriginMask, OriginMasks
from careamics_dm.sampling.filters.base import PatchFilter, nothing_passes
from careamics_dm.sampling.streams import Block, Stream

Found = tuple[NDArray[np.int64], NDArray[np.int64]]

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
FAR = 2**32
"""An epoch that no training reaches: from there on plans say which patches to read elsewhere."""


class _MarkedBlock:
    """A block whose passing origins are all marked."""

    def __init__(self, passing: OriginMasks, rejected: OriginMasks | None, keep: float) -> None:
        self._passing, self._rejected, self._keep = passing, rejected, keep
        self.any_passes = passing.n_allowed > 0

    def draw(self, n: int, rng: np.random.Generator) -> Found:
        """Draw ``n`` patches that pass, or else are kept; see `OriginMasks.draw`."""
        region, places = self._passing.draw(n, rng)
        if self._rejected is not None and self._rejected.n_allowed:
            n_rejected = self._rejected.n_allowed
            share = n_rejected / (n_rejected + self._passing.n_allowed)
            kept = np.flatnonzero(rng.random(n) < self._keep * share)
            region[kept], places[kept] = self._rejected.draw(len(kept), rng)
        return region, places


class _JudgedBlock:
    """A block whose candidates are cut and judged, ``at_once`` in one go."""

    def __init__(
        self,
        candidates: OriginMasks,
        judge: Callable[[Found], NDArray[np.bool_]],
        keep: float,
        at_once: int,
        rng: np.random.Generator,
    ) -> None:
        self._candidates, self._judge, self._keep = candidates, judge, keep
        self._at_once = at_once
        self._one = self._search(1, TRIES, 0.0, rng)
        self.any_passes = len(self._one[0]) > 0

    def draw(self, n: int, rng: np.random.Generator) -> Found:
        """Draw ``n`` patches that pass, or else are kept; few that pass are drawn repeatedly."""
        region, places = self._search(n, PER_PATCH * n, self._keep, rng)
        if not len(region):
            region, places = self._one
        order = np.resize(rng.permutation(len(region)), n)
        return region[order], places[order]

    def _search(self, n: int, most: int, keep: float, rng: np.random.Generator) -> Found:
        """Judge candidates until ``n`` pass; of the first ``n`` a part is kept in any case."""
        found: list[Found] = []
        missing, tried = n, 0
        while missing > 0 and tried < most and self._candidates.n_allowed:
            step = min(self._at_once, 4 * missing + 4, most - tried)
            region, places = self._candidates.draw(step, rng)
            first = np.arange(tried, tried + step) < n
            good = self._judge((region, places)) | (first & (rng.random(step) < keep))
            found.append((region[good], places[good]))
            missing, tried = missing - int(good.sum()), tried + step
        if not found:
            return np.empty(0, np.int64), np.empty((0, 1), np.int64)
        region, places = (np.concatenate(column)[:n] for column in zip(*found, strict=True))
        return region, places


_Source = _MarkedBlock | _JudgedBlock


class Foreground:
    """Draws the patches of the blocks of streams from what passes a filter.

    The patches of a block (see `streams`) are drawn once its windows are decoded, all that pass
    equally likely; where all images are in memory, from all of them. Where nothing passes, from the
    next block in which something does. What is drawn follows from the seed and the place in the
    epoch alone, so a resumed run, and one with other ranks, draws the same.

    Parameters
    ----------
    marker : Marker
        Marks what passes.
    reader : Reader
        Gives windows, marked.
    seed : tuple of int
        Of the data, and the epoch.
    in_memory : bool
        Whether all images are.
    """

    def __init__(
        self, marker: Marker, reader: Reader[Loaded], seed: tuple[int, int], *, in_memory: bool
    ) -> None:
        self._marker, self._reader, self._seed = marker, reader, seed
        self._in_memory = in_memory
        self._images, self._size = marker.images, list(marker.plan.patch_size)
        # Of each stream, where it draws from: what that is, its windows, and how.
        self._open: dict[int, tuple[tuple[int, int], list[int], _Source]] = {}
        self._empty: set[tuple[int, int]] = set()
        self._portions: dict[int, tuple[tuple[int, int], Found]] = {}
        self._elsewhere: _Source | None = None

    def draw(self, stream: Stream, block: Block, first: int, stop: int) -> Drawn:
        """Draw the patches of some positions of a block; `DataError` if nothing passes."""
        parts = []
        while first < stop:
            begin = block.first + (first - block.first) // PORTION * PORTION
            end = min(begin + PORTION, stop)
            window, places = self._portion(stream, block, begin)
            parts.append((window[first - begin : end - begin], places[first - begin : end - begin]))
            first = end
        window, places = (np.concatenate(column) for column in zip(*parts, strict=True))
        unique, inverse = np.unique(window, return_inverse=True)
        regions = [self._reader.region(w) for w in unique.tolist()]
        places = places + np.array([(r.sample, *r.start) for r in regions], np.int64)[inverse]
        return Drawn(window, places[:, 0], places[:, 1:])

    def _portion(self, stream: Stream, block: Block, begin: int) -> Found:
        """Draw the portion of a block that begins at a position, unless it is the last drawn."""
        key = block.first, begin
        if stream.number not in self._portions or self._portions[stream.number][0] != key:
            rng = np.random.default_rng([*self._seed, stream.number, begin, 6])
            found = self._source(stream, block).draw(min(PORTION, block.stop - begin), rng)
            self._portions[stream.number] = key, found
        return self._portions[stream.number][1]

    def _source(self, stream: Stream, block: Block) -> _Source:
        """Return what to draw from: the block, or the next one, of any stream, that passes."""
        for other, candidate in islice(self._candidates(stream, block), SEARCHED):
            if source := self._open_block(stream.number, other, candidate):
                return source
        self._elsewhere = self._elsewhere or self._search_elsewhere()
        return self._elsewhere

    def _candidates(self, stream: Stream, block: Block) -> Iterator[tuple[Stream, Block]]:
        yield stream, block
        if not self._in_memory:
            yield from ((stream, other) for other in stream.blocks(block.stop))
            for other in stream.others():
                yield from ((other, candidate) for candidate in other.blocks(0))

    def _open_block(self, number: int, stream: Stream, block: Block) -> _Source | None:
        """Let stream ``number`` draw from a block of any; ``None`` if nothing in it passes."""
        whole, key = self._in_memory, (stream.number, block.first)
        if whole:
            number, key = -1, (-1, 0)
        if number in self._open and self._open[number][0] == key:
            return self._open[number][2]
        if key in self._empty:
            return None
        if number in self._open:
            self._release(self._open.pop(number)[1])
        every = np.arange(stream.epoch.table.first[-1])
        windows = (every if whole else stream.windows(block)).tolist()
        source = self._judge_windows(windows, key)
        if not source.any_passes:
            self._empty.add(key)
            self._release(windows)
            self._reader.end(key, early=True)  # nothing of it will be drawn
            return None
        self._open[number] = key, windows, source
        return source

    def _judge_windows(self, windows: Sequence[int], key: tuple[int, int]) -> _Source:
        """Load windows, and find what passes in them."""
        marks = [self._reader.take(window).marks for window in windows]
        criterion = self._marker.criterion
        passing = self._masks_of(windows, [found.passing for found in marks if found])
        if not criterion.marks_suffice:
            patch_bytes = prod(self._size) * self._images.dtypes[0].itemsize
            at_once = max(JUDGED_BYTES // patch_bytes, 1)
            rng = np.random.default_rng([*self._seed, key[0] + 1, key[1], 7])
            return _JudgedBlock(passing, self._judge, criterion.keep, at_once, rng)
        if not criterion.keep:
            return _MarkedBlock(passing, None, 0.0)
        rejected = self._masks_of(windows, [found.rejected for found in marks if found])
        return _MarkedBlock(passing, rejected, criterion.keep)

    def _masks_of(self, windows: Sequence[int], masks: list[list[OriginMask]]) -> OriginMasks:
        numbers = [(w, s) for w, of in zip(windows, masks, strict=True) for s in range(len(of))]
        return OriginMasks([mask for of in masks for mask in of], np.array(numbers, np.int64))

    def _release(self, windows: Sequence[int]) -> None:
        for window in windows:
            self._reader.release(window)

    def _judge(self, found: Found) -> NDArray[np.bool_]:
        """Cut candidates and judge them; NaN counts as 0."""
        window, places = found
        blocks = {w: self._reader.get(w).blocks[:1] for w in np.unique(window).tolist()}
        cuts = self._images.cut(blocks, window.tolist(), places.tolist(), self._size)
        if cuts[0].dtype.kind == "f":
            cuts[0][~np.isfinite(cuts[0])] = 0
        return _passes(self._marker.criterion, cuts[0])

    def _search_elsewhere(self) -> _Source:
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
        whole = OriginMask(np.ones(self._size, bool), self._size)  # one origin
        return _MarkedBlock(self._masks_of(passing, [[whole]] * len(passing)), None, 0.0)

    def _other_regions(self) -> Iterator[Region]:
        """Boxes of patches of epochs that are never drawn."""
        plan, n = self._marker.plan, 0
        while n < TRIES:
            places = plan.epoch(FAR * (1 + self._seed[1]) + n)
            rng = np.random.default_rng([*self._seed, n, 8])
            marks = rng.integers(len(plan), size=MEASURED)
            located = places.places(marks)
            yield from (region_of_patch(located, row) for row in range(MEASURED))
            n += MEASURED


def _passes(criterion: PatchFilter, patches: NDArray[Any]) -> NDArray[np.bool_]:
    """Judge patches, ``N C (Z) Y X``, by a criterion that may be anybody's."""
    passes = np.asarray(criterion.passes(patches))
    if passes.shape != (len(patches),) or passes.dtype != bool:
        raise DataError(
            f"patch_filter: {type(criterion).__name__}.passes gave {passes.dtype} of shape "
            f"{passes.shape} for {len(patches)} patches. It must return a bool for each patch."
        )
    return passes
