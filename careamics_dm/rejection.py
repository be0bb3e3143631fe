"""Patches that a filter rejects, replaced by others from what is decoded at that moment."""

from __future__ import annotations

from collections import defaultdict
from math import ceil, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from careamics_dm.allowed import Allowed
from careamics_dm.axes import DataError
from careamics_dm.coarse import Coarse, tile_of
from careamics_dm.cutting import copy_boxes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from careamics_dm.filters import PatchFilter
    from careamics_dm.reader import Reader
    from careamics_dm.regions import Region
    from careamics_dm.sampling import RandomPatches
    from careamics_dm.schedule import Schedule
    from careamics_dm.sides import Sides

    Cuts = list[NDArray[Any]]
    Maps = dict[Region, NDArray[np.bool_]]

CHUNK_BYTES = 2**19
"""Candidates are judged in portions of so many bytes, which stay in the cache."""
PER_PATCH = 200
"""Candidates to judge for each patch that is wanted, at most."""
IN_VAIN = 1000
"""Candidates to judge, at most, before the first one that passes."""
LOOK = 0.25
"""A region is looked at as a whole once so much of it was judged in vain."""
MOST = 2**10
"""Origins to draw together."""
DRAWS = 2**17
"""Origins to draw, at most, where masks leave few of them."""


class Rejection:
    """Replaces what a filter rejects, in one pass over a schedule.

    Patches come from regions that are decoded for this batch in any case, so that nothing is
    read twice; which these are follows from the schedule alone, and so a seed repeats every
    batch, also after a resume. In them, every origin that passes is equally likely.

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
        Where a coarse look at regions that are kept is kept too.
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
        if not self.bytes.any():  # all in memory: there before the first patch
            self.first[:] = 0
        self.last = np.array(reader.last, np.int64)
        self.begin = 0
        self.tile = np.array((1, *tile_of(self.size)), np.int64)
        self.maps = maps
        self.grid = -(-self.shape // self.tile)  # of tiles that origins lie in
        self.offset = np.cumsum(self.grid.prod(axis=1)) - self.grid.prod(axis=1)
        self.possible = np.ones(int(self.grid.prod(axis=1).sum()), bool)
        self.looked = np.zeros(len(regions), bool)
        self.in_vain = np.zeros(len(regions), np.int64)
        # A look costs about as much as judging a part of the region by candidates.
        pixels = (self.shape + np.array([0, *(p - 1 for p in self.size)])).prod(axis=1)
        self.patience = LOOK * pixels / prod(self.size)
        self.rate = 1.0
        self.scratch: Cuts = []

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
        np.add.at(self.in_vain, self.agenda.region[rows][~passed], 1)
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
        expected = ceil(1.2 * len(lost) * known / max(good, 1))
        for regions, places, drawn in self._candidates(window, expected, rng):
            while len(places) and found < len(lost):
                # How many are judged together changes nothing but the time it takes.
                n = min(ceil(1.1 * (len(lost) - found) / self.rate) + 1, len(self.scratch[0]))
                taken = self._judge(regions[:n], places[:n])
                regions, places = regions[n:], places[n:]
                good += len(taken[0])
                for cut, patches in zip(cuts, taken, strict=True):
                    wanted = lost[found : found + len(patches)]
                    cut[wanted] = patches[: len(wanted)]
                found = min(found + len(taken[0]), len(lost))
            if found == len(lost) or drawn > (PER_PATCH * len(lost) if good else IN_VAIN):
                break
        return lost[found:]

    def _candidates(
        self, window: NDArray[np.int64], n: int, rng: np.random.Generator
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], int]]:
        """Draw origins: regions, places ``S (Z) Y X`` in them, and how many were allowed so far.

        What is drawn does not depend on what is known of the regions, so that a resumed run,
        which knows less, draws the same.
        """
        until, drawn, allowed = np.cumsum(self.count[window]), 0, 0
        while drawn < DRAWS:
            n = min(max(n, 16), MOST)
            region, places = self._draw(window, until, n, rng)
            drawn, allowed = drawn + n, allowed + len(places)
            may = self._may_pass(region, places)
            yield region[may], places[may], allowed
            n *= 2

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
        places = np.empty((n, self.shape.shape[1]), np.int64)
        for d in range(places.shape[1] - 1, -1, -1):
            rest, places[:, d] = np.divmod(rest, self.shape[region, d])
        asked = np.flatnonzero(self.limited[region])
        if len(asked):
            where = places[asked] + self.reader.origins[region[asked]]
            bad = asked[~self.allowed.allows(self.image[region[asked]], where)]
            region, places = np.delete(region, bad), np.delete(places, bad, axis=0)
        return region, places

    def _may_pass(self, region: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether candidates may pass, as far as is known of their regions."""
        for r in np.unique(region[self.in_vain[region] > self.patience[region]]).tolist():
            if not self.looked[r]:
                self._look(r)
        tile, grid = places // self.tile, self.grid[region]
        at = tile[:, 0]
        for d in range(1, tile.shape[1]):
            at = at * grid[:, d] + tile[:, d]
        return np.asarray(self.possible[self.offset[region] + at])

    def _look(self, r: int) -> None:
        """Find out where in a region patches may pass."""
        self.looked[r] = True
        grid, region = self.grid[r], self.agenda.regions[r]
        found = self.maps.get(region)
        if found is None:
            tile, dtype = self.tile[1:].tolist(), self.sides.dtypes[0]
            inside = tuple(map(slice, grid[1:].tolist()))  # no origin lies in the last tiles
            found = np.stack(
                [
                    self.criterion.possible(Coarse(pixels, self.size, tile), dtype)[inside]
                    for pixels in self.reader.block(r)[0]
                ]
            )
            if self.window_bytes is None:
                self.maps[region] = found
        self.possible[self.offset[r] : self.offset[r] + found.size] = found.reshape(-1)

    def _judge(self, regions: NDArray[np.int64], places: NDArray[np.int64]) -> Cuts:
        """Cut candidates and return those that pass; targets of these only."""
        where = places + self.reader.origins[regions]
        images = self._cut(0, regions, places)
        good = self.sides.usable(images, 0, self.image[regions], where)
        good &= self.criterion.passes(images)
        np.add.at(self.in_vain, regions[~good], 1)
        self.rate += 0.2 * ((good.sum() + 0.1) / len(good) - self.rate)
        if len(self.scratch) == 1:
            return [images[good]]
        regions, places, where = regions[good], places[good], where[good]
        targets = self._cut(1, regions, places)
        fine = self.sides.usable(targets, 1, self.image[regions], where)
        return [images[good][fine], targets[fine]]

    def _cut(
        self, side: int, regions: NDArray[np.int64], places: NDArray[np.int64]
    ) -> NDArray[Any]:
        """Copy the patches of a side at these places into memory that is used again."""
        by_region: dict[int, list[int]] = defaultdict(list)
        for i, r in enumerate(regions.tolist()):
            by_region[r].append(i)
        at = places.tolist()
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


def nothing_passes(criterion: PatchFilter, values: NDArray[np.float64]) -> str:
    """Say what was measured, ``(N, C, K)``, where nothing passes, and what to do."""
    of = "" if criterion.channel is None else f" of channel {criterion.channel}"
    lines = []
    for name, least, found in zip(
        criterion.quantities, criterion.least, np.moveaxis(values, 2, 0), strict=True
    ):
        if least is not None:
            low, first, half, third, high = np.quantile(found, [0, 0.25, 0.5, 0.75, 1]).tolist()
            share = float((found >= least).any(axis=1).mean())
            lines.append(
                f"{name}{of}: at least {least:g} is asked for; measured were {low:.4g} to "
                f"{high:.4g}, quartiles {first:.4g}, {half:.4g} and {third:.4g}, and {share:.0%} "
                "of the patches reach it"
            )
    return (
        f"patch_filter: none of {len(values)} patches, from all over the training data, passes. "
        f"{'; '.join(lines)}. Ask for less, set channel to the one that shows the structure, or "
        "leave patch_filter out."
    )
