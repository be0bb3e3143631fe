"""Patches that pass a filter, drawn from what is decoded at that moment."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from careamics_dm.errors import DataError
from careamics_dm.loading.origin_marks import Loaded
from careamics_dm.loading.patch_extraction import by_region, region_of_patch
from careamics_dm.sampling.allowed_origins import OriginMask, OriginMasks
from careamics_dm.sampling.filters.base import PatchFilter, nothing_passes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from careamics_dm.images.region import Region
    from careamics_dm.loading.origin_marks import Marker
    from careamics_dm.loading.prefetch import Reader
    from careamics_dm.loading.schedule import Schedule

    Found = tuple[NDArray[np.int64], NDArray[np.int64]]

PORTION = 1024
"""Patches to draw together."""
JUDGED_BYTES = 2**20
"""Bytes of patches to judge in one go, so that they stay in the cache."""
TRIES = 1000
"""Patches to judge, where only patches can be judged, before a window counts as background; and
patches to read from all over the data before none is said to pass."""
PER_PATCH = 100
"""Candidates to judge, at most, for each patch that is wanted."""
SEARCHED_BYTES = 2**32
"""Decoded bytes of a schedule to search for patches that pass."""
MEASURED = 100
"""Of these, patches to measure for the message."""
ELSEWHERE = 64
"""Patches from elsewhere that are enough."""
FAR = 2**32
"""An epoch that no training reaches: from there on plans say which patches to read elsewhere."""


class _MarkedWindow:
    """Regions at hand together, where all that pass are marked."""

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


class _JudgedWindow:
    """Regions at hand together, where candidates are cut and judged, ``at_once`` in one go."""

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


class Foreground:
    """Draws the patches of one pass over a schedule from what passes a filter.

    The patches of a window of regions (see `schedule`) are drawn once these are decoded, all that
    pass equally likely; where nothing passes, from the next window in which something does. What
    is drawn follows from seed and place in the schedule alone, so that a resumed run draws the
    same.
    """

    def __init__(
        self, marker: Marker, schedule: Schedule, reader: Reader[Loaded], seed: Sequence[int]
    ) -> None:
        self._marker, self._reader, self._seed = marker, reader, tuple(seed)
        self._images, self._size = marker.images, list(marker.plan.patch_size)
        self._region_bytes = np.array(schedule.region_bytes, np.int64)
        n = int(schedule.window.max(initial=-1)) + 1
        # Where the regions, and the rows, of each window begin.
        self._regions = np.searchsorted(schedule.window, np.arange(n + 1))
        self._rows = np.searchsorted(schedule.window[schedule.region], np.arange(n + 1))
        self._is_empty = np.zeros(n, bool)
        self._open = -1  # number of the window that is drawn from
        self._window: _MarkedWindow | _JudgedWindow | None = None
        self._elsewhere: _MarkedWindow | None = None
        self._portion = slice(0, 0)
        self._drawn: Found = np.empty(0, np.int64), np.empty((0, 1), np.int64)

    def draw(self, rows: slice) -> Iterator[Found]:
        """Draw the patches of a batch, part by part; use each part before the next.

        Yields regions ``(N,)``, and samples and origins in them ``(N, 1 + D)``. `DataError` if
        nothing passes.
        """
        row = rows.start
        while row < rows.stop:
            if not self._portion.start <= row < self._portion.stop:
                self._draw_portion(row)
            begin, stop = self._portion.start, min(self._portion.stop, rows.stop)
            region, places = self._drawn
            yield region[row - begin : stop - begin], places[row - begin : stop - begin]
            row = stop

    def _draw_portion(self, row: int) -> None:
        number = int(np.searchsorted(self._rows, row, side="right")) - 1
        first, last = self._rows[number : number + 2].tolist()
        begin = first + (row - first) // PORTION * PORTION
        self._portion = slice(begin, min(begin + PORTION, last))
        rng = np.random.default_rng([*self._seed, begin, 6])
        self._drawn = self._source(number).draw(self._portion.stop - begin, rng)

    def _source(self, number: int) -> _MarkedWindow | _JudgedWindow:
        """Return the window to draw from: this one, or the next, or the last, where any passes."""
        n = len(self._is_empty)
        for order in (range(number, n), range(number - 1, -1, -1)):
            if window := self._first_that_passes(order):
                return window
        self._elsewhere = self._elsewhere or self._search_elsewhere()
        return self._elsewhere

    def _first_that_passes(self, order: Iterable[int]) -> _MarkedWindow | _JudgedWindow | None:
        searched = 0
        for w in order:
            if w == self._open:
                return self._window
            regions = range(*self._regions[w : w + 2].tolist())
            if not self._is_empty[w]:
                window = self._look_at(w, regions)
                if window.any_passes:
                    if self._window is not None:
                        self._drop(range(*self._regions[self._open : self._open + 2].tolist()))
                    self._open, self._window = w, window
                    return window
                self._is_empty[w] = True
                self._drop(regions)
            searched += int(self._region_bytes[regions].sum())
            if searched > SEARCHED_BYTES:
                break
        return None

    def _look_at(self, number: int, regions: Sequence[int]) -> _MarkedWindow | _JudgedWindow:
        marks = [self._reader.block(r).marks for r in regions]
        criterion = self._marker.criterion
        passing = self._masks_of(regions, [found.passing for found in marks if found])
        if not criterion.marks_suffice:
            patch_bytes = prod(self._size) * self._images.dtypes[0].itemsize
            at_once = max(JUDGED_BYTES // patch_bytes, 1)
            rng = np.random.default_rng([*self._seed, number, 7])
            return _JudgedWindow(passing, self._judge, criterion.keep, at_once, rng)
        if not criterion.keep:
            return _MarkedWindow(passing, None, 0.0)
        rejected = self._masks_of(regions, [found.rejected for found in marks if found])
        return _MarkedWindow(passing, rejected, criterion.keep)

    def _masks_of(self, regions: Sequence[int], masks: list[list[OriginMask]]) -> OriginMasks:
        numbers = [(r, s) for r, of in zip(regions, masks, strict=True) for s in range(len(of))]
        return OriginMasks([mask for of in masks for mask in of], np.array(numbers, np.int64))

    def _drop(self, regions: Sequence[int]) -> None:
        for r in regions:
            self._reader.drop(r)

    def _judge(self, found: Found) -> NDArray[np.bool_]:
        """Cut candidates and judge them; NaN counts as 0."""
        region, places = found
        at = places.tolist()
        cuts: list[NDArray[Any]] = []
        for r, rows in by_region(region):
            blocks = self._reader.block(r).blocks[:1]
            cuts = self._images.cut(blocks, rows.tolist(), at, self._size, cuts, len(at))
        if cuts[0].dtype.kind == "f":
            cuts[0][~np.isfinite(cuts[0])] = 0
        return _passes(self._marker.criterion, cuts[0])

    def _search_elsewhere(self) -> _MarkedWindow:
        """Read patches one by one, from all over the data, until enough of them pass."""
        passing: list[int] = []
        tried: list[NDArray[Any]] = []
        for region in self._other_regions():
            patch = self._images.read_patch(region)
            if patch is not None and _passes(self._marker.criterion, patch[0])[0]:
                passing.append(self._reader.add(region, Loaded(patch)))
                if len(passing) == ELSEWHERE:
                    break
            elif patch is not None and len(tried) < MEASURED:
                tried.append(patch[0])
        if not passing:
            raise DataError(nothing_passes(self._marker.criterion, tried))
        whole = OriginMask(np.ones(self._size, bool), self._size)  # one origin
        return _MarkedWindow(self._masks_of(passing, [[whole]] * len(passing)), None, 0.0)

    def _other_regions(self) -> Iterator[Region]:
        """Boxes of patches of plans that no epoch draws."""
        _, epoch, rank, worker = self._seed
        n = 0
        while n < TRIES:
            plan = self._marker.plan.at(FAR * (1 + epoch) + 2**20 * rank + 2**10 * worker + n)
            rng = np.random.default_rng([*self._seed, n, 8])
            for row in rng.permutation(len(plan))[:MEASURED].tolist():
                yield region_of_patch(plan, row)
            n += min(len(plan), MEASURED)


def _passes(criterion: PatchFilter, patches: NDArray[Any]) -> NDArray[np.bool_]:
    """Judge patches, ``N C (Z) Y X``, by a criterion that may be anybody's."""
    passes = np.asarray(criterion.passes(patches))
    if passes.shape != (len(patches),) or passes.dtype != bool:
        raise DataError(
            f"patch_filter: {type(criterion).__name__}.passes gave {passes.dtype} of shape "
            f"{passes.shape} for {len(patches)} patches. It must return a bool for each patch."
        )
    return passes
