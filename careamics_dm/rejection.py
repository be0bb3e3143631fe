"""Patches that a filter rejects, replaced by others from what is decoded at that moment."""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from careamics_dm.allowed import Allowed
from careamics_dm.axes import DataError
from careamics_dm.cutting import copy_boxes, groups
from careamics_dm.known import CANNOT
from careamics_dm.patch_filter import nothing_passes
from careamics_dm.sides import TRIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from careamics_dm.known import Known, Looked
    from careamics_dm.patch_filter import PatchFilter
    from careamics_dm.reader import Reader
    from careamics_dm.sampling import RandomPatches
    from careamics_dm.schedule import Schedule
    from careamics_dm.sides import Sides

    Cuts = list[NDArray[Any]]

PORTION, PORTION_BYTES = 1024, 2**23
"""Patches, and bytes of images, to find together at most: so many share what calls take."""
JUDGED_BYTES = 2**20
"""Bytes of images to judge in one go, so that they stay in the cache."""
PER_PATCH, IN_VAIN = 200, 1000
"""Candidates to judge, at most, for each patch that is wanted; and before the first that passes."""
FAR = 2**32
"""An epoch that no training reaches: from there on plans say which patches to read elsewhere."""
MOST = 2**10
"""Origins to draw together."""
DRAWS = 2**17
"""Origins to draw, at most, where masks leave few of them."""


class Rejection:
    """Replaces what a filter rejects, in one pass over a schedule.

    Patches come from regions that are decoded for these batches in any case, so that nothing is
    read twice; which these are follows from the schedule alone, and so a seed repeats every
    batch, also after a resume. In them, every origin that passes is equally likely.

    Once something was rejected, regions are looked at as a whole first (see `bunches`), so that
    most of what does not pass need not be cut.

    Parameters
    ----------
    criterion : PatchFilter
        What patches must meet.
    plan : RandomPatches
        Where patches may be drawn.
    agenda : Schedule
        This pass.
    reader : Reader
        Holds the regions.
    sides : Sides
        Reads and cuts.
    batch_size : int
        Patches of a batch.
    window_bytes : int or None
        Decoded bytes to hold for choosing among them; ``None`` where all is kept anyway.
    seed : sequence of int
        Of run, epoch, rank and worker.
    known : Known
        What was learnt in other passes.
    """

    def __init__(
        self,
        criterion: PatchFilter,
        plan: RandomPatches,
        agenda: Schedule,
        reader: Reader,
        sides: Sides,
        batch_size: int,
        window_bytes: int | None,
        seed: Sequence[int],
        known: Known,
    ) -> None:
        self.criterion, self.agenda, self.reader, self.sides = criterion, agenda, reader, sides
        self.window_bytes, self.seed, self.known = window_bytes, seed, known
        self.plan, self.allowed = plan, Allowed(plan)
        self.size: list[int] = list(plan.patch_size)
        self.step = np.array([1, *known.step])
        regions = agenda.regions
        self.image = np.array([r.image for r in regions], np.int64)
        self.n_origins, self.bunches, self.begin = known.grid(regions)
        self.count = self.bunches.prod(axis=1)
        """Bunches to draw from; of a region that was not looked at, all."""
        self.is_known, self.in_part = np.zeros((2, len(regions)), bool)
        self.looked: dict[int, Looked] = {}
        self.limited = np.array([self.allowed.limits(r) for r in regions], bool)
        self.until = np.cumsum([0, *agenda.region_bytes])
        self.first = np.unique(agenda.region, return_index=True)[1]
        self.held_from = 0
        if not self.until[-1]:  # all in memory: there before the first patch
            self.first[:] = 0
        self.at_once = max(JUDGED_BYTES // (prod(self.size) * sides.dtypes[0].itemsize), 1)
        patch_bytes = prod(self.size) * max(extent.pixel_bytes for extent in plan.extents)
        wanted = min(PORTION, PORTION_BYTES // patch_bytes)
        if window_bytes is not None and self.until[-1]:
            # What is held serves several portions, or too few regions would serve too many.
            wanted = min(wanted, len(agenda.plan) * window_bytes // int(self.until[-1]) // 4)
        self.portion = max(wanted // batch_size, 1) * batch_size
        # After a resume, what comes before in its portion is found once more.
        reader.first_row = begin = reader.first_row // self.portion * self.portion
        if begin and window_bytes is not None:
            for r in self._window(slice(begin, begin + self.portion)).tolist():
                reader.last[r] = max(reader.last[r], begin)  # or it would not be read ahead
        self.last = np.array(reader.last, np.int64)
        self.portion_begin = -1
        self.n_found, self.any_passed = 0, False
        self.found: Cuts = []
        self.order = np.empty(0, np.int64)

    def batch(self, rows: slice) -> Cuts:
        """Return the patches of a batch.

        Parameters
        ----------
        rows : slice
            The batch, in the schedule.

        Returns
        -------
        list of ndarray
            Images and targets ``N C (Z) Y X``.

        Raises
        ------
        DataError
            Nothing passes, here or elsewhere in the plan; or what is read must not be used.
        """
        begin = rows.start // self.portion * self.portion
        if begin != self.portion_begin:
            self._find(slice(begin, min(begin + self.portion, len(self.agenda.plan))))
            self.portion_begin = begin
        mine = self.order[rows.start - begin : rows.stop - begin]
        return [found.take(mine, axis=0) for found in self.found]

    def _find(self, rows: slice) -> None:
        """Find the patches of a portion: those of the schedule that pass, and others instead."""
        # Of the place in the epoch alone, so that a resumed run takes the same ones.
        rng = np.random.default_rng([*self.seed, rows.start, 6])
        plan, n = self.agenda.plan, rows.stop - rows.start
        self.order = rng.permutation(n)  # or all that are replaced would come last
        window = self._window(rows)
        region = self.agenda.region[rows]
        places = np.column_stack([plan.sample[rows], plan.start[rows]])
        places -= self.reader.origins[region]
        kept = rng.random(n) < self.criterion.keep
        self.n_found, self.any_passed = 0, False
        rejected_before = bool(self.looked or self.known.states)

        def take(mine: NDArray[np.int64]) -> None:
            if rejected_before:  # most of what can't pass is told at once
                self._look(np.unique(region[mine]))
                mine = mine[kept[mine] | self._may_pass(region[mine], places[mine])]
            self._take(region[mine], places[mine], kept[mine], rows)

        early = np.flatnonzero(region < window[0])  # one by one: these can't be held
        for r, mine in groups(region[early]):
            take(early[mine])
            self._drop(np.array([r]), rows.stop)
        self._drop(np.arange(self.held_from, window[0]), rows.stop)
        self.held_from = int(window[0])
        late = np.argsort(region, kind="stable")
        take(late[len(early) :])
        if self.n_found < n:
            self._search(window, rows, rng)
        if self.n_found < n:
            self._search_elsewhere(rows)
            more = np.resize(rng.permutation(self.n_found), n - self.n_found)
            for found in self.found:
                found[self.n_found : n] = found[more]

    def _window(self, rows: slice) -> NDArray[np.int64]:
        """Regions, ascending, to choose from: the latest that these rows need, and those before."""
        stop = int(np.searchsorted(self.first, rows.stop))
        if self.window_bytes is None:
            return np.arange(stop)
        begin = int(np.searchsorted(self.until, self.until[stop] - self.window_bytes))
        return np.arange(min(begin, stop - 1), stop)

    def _next(self, window: NDArray[np.int64]) -> NDArray[np.int64]:
        """Regions that will be read next, as many again, as far as there is memory."""
        stop = int(window[-1]) + 1
        more = np.arange(stop, min(stop + len(window), len(self.count)))
        if self.window_bytes is not None:
            more = more[self.until[more + 1] - self.until[window[0]] <= self.window_bytes]
        return more

    def _drop(self, regions: NDArray[np.int64], row: int) -> None:
        """Let regions go that no patch from ``row`` of the schedule on needs."""
        for r in regions[self.last[regions] < row].tolist():
            self.reader.drop(r, row)
            self.looked.pop(r, None)

    def _take(
        self,
        region: NDArray[np.int64],
        places: NDArray[np.int64],
        kept: NDArray[np.bool_],
        rows: slice,
    ) -> None:
        """Cut candidates, and add those that pass, or are kept, until there are enough.

        ``places`` are sample and origin in the region, ``(N, 1 + D)``.
        """
        i, n = 0, rows.stop - rows.start
        while i < len(region) and self.n_found < n:
            # Hardly more than are missing: most that were looked at do pass.
            step = min(self.at_once, (n - self.n_found) * 17 // 16 + 2)
            mine = slice(i, i + step)
            taken = self._judge(region[mine], places[mine], kept[mine])
            self.n_found = min(self.n_found + taken, n)
            i += step

    def _judge(
        self, region: NDArray[np.int64], places: NDArray[np.int64], kept: NDArray[np.bool_]
    ) -> int:
        """Cut candidates behind what was found, close gaps, and count those that are left."""
        image, where = self.image[region], places + self.reader.origins[region]
        images = self._cut(0, region, places)
        usable = self.sides.usable(images, 0, image, where)
        passed = self.criterion.passes(images) & usable
        taken = np.flatnonzero(passed | (kept & usable))
        if len(self.sides.sides) > 1 and len(taken):
            targets = self._cut(1, region[taken], places[taken])
            fine = self.sides.usable(targets, 1, image[taken], where[taken])
            if not fine.all():
                taken = taken[fine]
                targets[: len(taken)] = targets[fine]
        self.any_passed |= bool(passed[taken].any())
        if len(taken) < len(images):
            images[: len(taken)] = images[taken]
        return len(taken)

    def _cut(self, side: int, region: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[Any]:
        """Copy candidates behind what was found."""
        at, out = places.tolist(), None
        for r, mine in groups(region):
            block = self.reader.block(r)[side]
            out = self._room(side, block.shape[1])[: len(at)]
            copy_boxes(block, mine.tolist(), at, self.size, out)
        assert out is not None
        return out

    def _room(self, side: int, n_channels: int) -> NDArray[Any]:
        """Return the place behind what was found."""
        if side == len(self.found):
            shape = (self.portion + self.at_once, n_channels, *self.size)
            self.found.append(np.empty(shape, self.sides.dtypes[side]))
        return self.found[side][self.n_found :]

    def _search(self, window: NDArray[np.int64], rows: slice, rng: np.random.Generator) -> None:
        """Draw from the window what is missing."""
        n = rows.stop - rows.start
        missing = n - self.n_found
        self._look(window)
        while self.count[window].sum() < missing and (more := self._next(window)).size:
            window = np.concatenate([window, more])
            self._look(window)
        until = np.cumsum(self.count[window])
        drawn, allowed, factor = 0, 0, 1.2
        while until[-1] and self.n_found < n and drawn < DRAWS:
            asked = min(ceil(factor * (n - self.n_found)) + 4, MOST)
            region, places = self._draw(window, until, asked, rng)
            drawn, allowed, factor = drawn + asked, allowed + len(region), 2 * factor
            if self.in_part[window].any():
                may = self._may_pass(region, places)
                region, places = region[may], places[may]
            self._take(region, places, np.zeros(len(region), bool), rows)
            if allowed > (PER_PATCH * missing if self.any_passed else IN_VAIN):
                return

    def _draw(
        self,
        window: NDArray[np.int64],
        until: NDArray[np.int64],
        n: int,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw ``n`` origins, all equally likely; return those that the plan allows."""
        rest = rng.integers(until[-1], size=n)
        number = np.searchsorted(until, rest, side="right")
        region = window[number]
        rest -= until[number] - self.count[region]
        for r, mine in groups(region):
            rest[mine] = self.looked[r].numbers[rest[mine]]
        bunch = np.empty((n, len(self.step)), np.int64)
        for d in range(bunch.shape[1] - 1, -1, -1):
            rest, bunch[:, d] = np.divmod(rest, self.bunches[region, d])
        within = rng.integers(self.step, size=bunch.shape)
        places = bunch * self.step + self.begin[region] + within
        # Parts of the first and the last bunches may lie outside.
        good = ((places >= 0) & (places < self.n_origins[region])).all(axis=1)
        asked = np.flatnonzero(good & self.limited[region])
        if len(asked):
            where = places[asked] + self.reader.origins[region[asked]]
            good[asked] = self.allowed.allows(self.image[region[asked]], where)
        return region[good], places[good]

    def _look(self, window: NDArray[np.int64]) -> None:
        """Find out which bunches of these regions may pass."""
        for r in window[~self.is_known[window]].tolist():
            self.looked[r] = self.known.look(self.agenda.regions[r], self.reader.block(r)[0])
            self.count[r] = len(self.looked[r].numbers)
            self.in_part[r] = self.looked[r].in_part
        self.is_known[window] = True

    def _may_pass(self, region: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether origins may pass, for all that is known."""
        may, bunch = np.ones(len(region), bool), (places - self.begin[region]) // self.step
        for r, mine in groups(region):
            if r in self.looked:
                may[mine] = self.looked[r].state[tuple(bunch[mine].T)] != CANNOT
        return may

    def _search_elsewhere(self, rows: slice) -> None:
        """Add patches from all over the data, read one by one: of this epoch, then of others."""
        n, (_, epoch, rank, worker) = rows.stop - rows.start, self.seed
        # At the very beginning a set in which nothing passes is told soon; later there was some.
        tried, most = 0, IN_VAIN * (10 if rows.start or epoch else 1)
        plan = self.agenda.plan
        while tried < most and not self.any_passed:
            # Patches that are known to be of no use count, too: a resumed run does not know.
            for patch in self.sides.elsewhere(plan, rows.start, epoch, self.known.may_pass):
                if self.criterion.passes(patch[0]).all():
                    self.any_passed = True
                    for side, pixels in enumerate(patch):
                        self._room(side, pixels.shape[1])[0] = pixels[0]
                    self.n_found += 1
                    if self.n_found == n:
                        return
            tried += min(len(plan), TRIES)
            plan = self.plan.at(FAR * (1 + rank) + 2**20 * worker + tried)
        if not self.any_passed:
            patches = self.sides.elsewhere(self.agenda.plan, rows.start, epoch)
            raise DataError(nothing_passes(self.criterion, patches))
