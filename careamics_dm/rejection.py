"""Patches that a filter rejects, replaced by others from what is decoded at that moment."""

from __future__ import annotations

from collections import defaultdict
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from careamics_dm.allowed import Allowed
from careamics_dm.axes import DataError
from careamics_dm.cutting import copy_boxes
from careamics_dm.looking import Look
from careamics_dm.origin_mask import OriginMask, numbers_of
from careamics_dm.patch_filter import nothing_passes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from careamics_dm.patch_filter import PatchFilter
    from careamics_dm.reader import Blocks, Reader
    from careamics_dm.regions import Region
    from careamics_dm.sampling import RandomPatches
    from careamics_dm.schedule import Schedule
    from careamics_dm.sides import Sides

    Cuts = list[NDArray[Any]]
    Maps = dict[Region, OriginMask | None]

CHUNK_BYTES = 2**19
"""Candidates are judged in portions of so many bytes, which stay in the cache."""
PER_PATCH = 200
"""Candidates to judge for each patch that is wanted, at most."""
IN_VAIN = 1000
"""Candidates to judge, at most, before the first one that passes."""
MOST = 2**10
"""Origins to draw together."""
DRAWS = 2**17
"""Origins to draw, at most, where masks leave few of them."""


class Rejection:
    """Replaces what a filter rejects, in one pass over a schedule.

    Patches come from regions that are decoded for this batch in any case, so that nothing is
    read twice; which these are follows from the schedule alone, and so a seed repeats every
    batch, also after a resume. In them, every origin that passes is equally likely.

    Regions that are kept for other epochs are looked at as a whole first (see `Look`), so that
    hardly any candidate is in vain.

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
    window_bytes : int or None
        Decoded bytes to hold for choosing among them; ``None`` where all is kept anyway.
    seed : sequence of int
        Of run, epoch, rank and worker.
    maps : dict
        What is known of regions; it is kept as long as they are.
    """

    def __init__(
        self,
        criterion: PatchFilter,
        plan: RandomPatches,
        agenda: Schedule,
        reader: Reader,
        sides: Sides,
        window_bytes: int | None,
        seed: Sequence[int],
        maps: Maps,
    ) -> None:
        self.criterion, self.agenda, self.reader, self.sides = criterion, agenda, reader, sides
        self.window_bytes, self.seed = window_bytes, list(seed)
        self.allowed = Allowed(plan)
        self.size: list[int] = list(plan.patch_size)
        regions = agenda.regions
        self.image = np.array([r.image for r in regions], np.int64)
        shape = [
            (
                r.n_samples,
                *(b - a - p + 1 for a, b, p in zip(r.start, r.stop, self.size, strict=True)),
            )
            for r in regions
        ]
        self.shape = np.array(shape, np.int64).reshape(len(regions), 1 + len(self.size))
        self.count = self.shape.prod(axis=1)
        self.limited = np.array([self.allowed.limits(r) for r in regions], bool)
        self.bytes = np.array(agenda.region_bytes, np.int64)
        self.first = np.unique(agenda.region, return_index=True)[1]
        self.last = np.array(reader.last, np.int64)
        self.begin = 0
        # Of pixels in memory, `passing.plan_passing` has told already what can be told.
        pays = bool(self.bytes.any()) and window_bytes is None
        self.looked = np.full(len(regions), not pays)
        self.look, self.maps = Look(criterion, sides, self.size), maps
        self.told = pays and criterion.exact
        self.in_vain = False
        if pays:
            reader.read = self._read
        if not self.bytes.any():  # all in memory: there before the first patch
            self.first[:] = 0
            self._know(plan)
        self.rate = 1.0
        self.scratch: Cuts = []

    def _read(self, region: Region) -> Blocks:
        """Read a region and, in the same thread, look at it, if anything was rejected yet."""
        blocks = self.sides.read(region)
        if self.in_vain and region not in self.maps:
            self.maps[region] = self.look.mask(blocks)
        return blocks

    def _know(self, plan: RandomPatches) -> None:
        """Take over what a plan knows of samples that are whole."""
        for r in np.flatnonzero(self.limited).tolist():
            region, here = self.agenda.regions[r], tuple(self.shape[r, 1:].tolist())
            mask = (plan.masks or {}).get((region.image, region.sample))
            if isinstance(mask, OriginMask) and mask.shape == here and region.n_samples == 1:
                self.maps[region], self.count[r], self.limited[r] = mask, mask.n_allowed, False

    def window(self, rows: slice) -> NDArray[np.int64]:
        """Regions, ascending, that are decoded once the patches of these rows are cut."""
        stop = int(np.searchsorted(self.first, rows.stop))
        if self.window_bytes is None:
            return np.arange(stop)
        live = np.flatnonzero(self.last[self.begin : stop] >= rows.start) + self.begin
        self.begin = int(live[0])
        # A batch may need more regions than are to be held: then the latest.
        held = np.cumsum(self.bytes[live[::-1]])
        n = max(int(np.searchsorted(held, self.window_bytes, side="right")), 1)
        return live[-n:]

    def release(self, rows: slice) -> None:
        """Let regions go that no later patch needs, once a batch is complete."""
        if self.window_bytes is not None:
            for r in np.unique(self.agenda.region[rows]).tolist():
                self.reader.drop(r, rows.stop)

    def replace(self, cuts: Cuts, rows: slice, window: NDArray[np.int64]) -> None:
        """Replace, in place, the patches of a batch that are rejected.

        Parameters
        ----------
        cuts : list of ndarray
            Images and targets ``N C (Z) Y X``, finite.
        rows : slice
            Their place in the schedule.
        window : ndarray of int64
            Where to look: what `window` returns.

        Raises
        ------
        DataError
            Nothing passes, here or elsewhere in the plan.
        """
        passed = self.criterion.passes(cuts[0])
        if passed.all():
            return
        self.in_vain = True
        # Of the place in the epoch alone, so that a resumed run takes the same ones.
        rng = np.random.default_rng([*self.seed, rows.start, 6])
        lost = np.flatnonzero(~passed & (rng.random(len(passed)) >= self.criterion.keep))
        if not self.scratch:
            # Used again and again: new memory for each portion would cost more than to fill it.
            n = max(min(CHUNK_BYTES // cuts[0][0].nbytes, 256), 1)
            self.scratch = [np.empty((n, *cut.shape[1:]), cut.dtype) for cut in cuts]
        left = self._search(cuts, lost, passed, window, rng) if len(lost) else lost
        if len(left):
            left = self._look_elsewhere(cuts, left, rows, passed, len(left) < len(lost))
        if len(left):
            there = np.setdiff1d(np.union1d(np.flatnonzero(passed), lost), left)
            instead = np.resize(rng.permutation(there), len(left))
            for cut in cuts:
                cut[left] = cut[instead]

    def _search(
        self,
        cuts: Cuts,
        lost: NDArray[np.int64],
        passed: NDArray[np.bool_],
        window: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Fill rows of a batch from the window; returns those that nothing was found for."""
        found, known, good = 0, len(passed), int(passed.sum())
        # As many as the share that passes in this very batch lets expect to be needed.
        expected = len(lost) if self.told else ceil(1.2 * len(lost) * known / max(good, 1))
        for regions, places, drawn in self._candidates(window, expected, rng):
            while len(places) and found < len(lost):
                # How many are judged together changes nothing but the time it takes.
                n = min(ceil(1.1 * (len(lost) - found) / self.rate) + 1, len(self.scratch[0]))
                taken = self._judge(regions[:n], places[:n])
                regions, places = regions[n:], places[n:]
                good += len(taken)
                taken = taken[: len(lost) - found]
                for cut, patches in zip(cuts, self.scratch, strict=True):
                    cut[lost[found : found + len(taken)]] = patches[taken]
                found += len(taken)
            if found == len(lost) or drawn > (PER_PATCH * len(lost) if good else IN_VAIN):
                break
        return lost[found:]

    def _candidates(
        self, window: NDArray[np.int64], n: int, rng: np.random.Generator
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], int]]:
        """Draw origins: regions, places ``S (Z) Y X`` in them, and how many were allowed so far."""
        until, drawn, allowed = np.cumsum(self._counts(window)), 0, 0
        while until[-1] and drawn < DRAWS:
            n = min(max(n, 16), MOST)
            region, places = self._draw(window, until, n, rng)
            drawn, allowed = drawn + n, allowed + len(places)
            yield region, places, allowed
            n *= 2

    def _counts(self, window: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count the origins of regions that may pass, as far as looking pays."""
        for r in window[~self.looked[window]].tolist():
            mask = self._mask(r)
            if mask is not None:
                self.count[r] = mask.n_allowed
        self.looked[window] = True
        counts: NDArray[np.int64] = self.count[window]
        return counts

    def _mask(self, r: int) -> OriginMask | None:
        """Where patches of a region may pass, if that is known."""
        region = self.agenda.regions[r]
        if region not in self.maps:
            self.maps[region] = self.look.mask(self.reader.block(r))
        return self.maps[region]

    def _draw(
        self,
        window: NDArray[np.int64],
        until: NDArray[np.int64],
        n: int,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw origins that the plan allows, all equally likely, of ``n`` that are drawn."""
        rest = rng.integers(until[-1], size=n)
        number = np.searchsorted(until, rest, side="right")
        region = window[number]
        rest -= until[number] - self.count[region]
        if self.maps:
            rest = self._among_known(region, rest)
        places = np.empty((n, self.shape.shape[1]), np.int64)
        for d in range(places.shape[1] - 1, -1, -1):
            rest, places[:, d] = np.divmod(rest, self.shape[region, d])
        asked = np.flatnonzero(self.limited[region])
        if len(asked):
            where = places[asked] + self.reader.origins[region[asked]]
            bad = asked[~self.allowed.allows(self.image[region[asked]], where)]
            region, places = np.delete(region, bad), np.delete(places, bad, axis=0)
        return region, places

    def _among_known(self, region: NDArray[np.int64], rank: NDArray[np.int64]) -> NDArray[np.int64]:
        """Turn ranks among origins that may pass into numbers among all origins of regions."""
        order = np.argsort(region, kind="stable")
        first = np.flatnonzero(np.diff(region[order], prepend=-1))
        masks, rows = [], []
        for mine in np.split(order, first[1:]):
            mask = self.maps.get(self.agenda.regions[region[mine[0]]])
            if mask is not None:
                masks.append(mask)
                rows.append(mine)
        if masks:
            known = np.concatenate(rows)
            until = np.cumsum([len(mine) for mine in rows]).tolist()
            rank[known] = numbers_of(masks, rank[known], until)
        return rank

    def _judge(self, regions: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Cut candidates, and list those that pass; targets of these only."""
        where, image = places + self.reader.origins[regions], self.image[regions]
        images = self._cut(0, regions, places, range(len(regions)))
        good = self.sides.usable(images, 0, image, where)
        good &= self.criterion.passes(images)
        self.rate += 0.2 * ((good.sum() + 0.1) / len(good) - self.rate)
        taken = np.flatnonzero(good)
        if len(self.scratch) > 1 and len(taken):
            targets = self._cut(1, regions, places, taken.tolist())[taken]
            taken = taken[self.sides.usable(targets, 1, image[taken], where[taken])]
            self.scratch[1][np.flatnonzero(good)] = targets
        return taken

    def _cut(
        self,
        side: int,
        regions: NDArray[np.int64],
        places: NDArray[np.int64],
        rows: Sequence[int],
    ) -> NDArray[Any]:
        """Copy some patches of a side into memory that is used again."""
        by_region: dict[int, list[int]] = defaultdict(list)
        region, at = regions.tolist(), places.tolist()
        for i in rows:
            by_region[region[i]].append(i)
        out = self.scratch[side][: len(at)]
        for r, mine in by_region.items():
            copy_boxes(self.reader.block(r)[side], mine, at, self.size, out)
        return out

    def _look_elsewhere(
        self,
        cuts: Cuts,
        left: NDArray[np.int64],
        rows: slice,
        passed: NDArray[np.bool_],
        found: bool,
    ) -> NDArray[np.int64]:
        """Fill rows of a batch with patches from elsewhere in the plan, read one by one."""
        values = [self.criterion.measure(cuts[0])]
        n = 0
        for patch in self.sides.elsewhere(self.agenda.plan, rows.start, self.seed[1]):
            if self.criterion.passes(patch[0]).all():
                for cut, pixels in zip(cuts, patch, strict=True):
                    cut[left[n]] = pixels[0]
                n += 1
                if n == len(left):
                    break
            values.append(self.criterion.measure(patch[0]))
        if not n and not found and not passed.any():
            raise DataError(nothing_passes(self.criterion, np.concatenate(values)))
        return left[n:]
