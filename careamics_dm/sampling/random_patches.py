"""Random patches: place number ``k`` of an epoch is a function of seed, epoch and ``k``.

No table of patches is made, and no pixel is read. This is how it works:

1. Every sample has a weight, its area (times the share of its origins that masks, gaps and
   held-out patches allow), and within it every window of its shifted chunk grid has one: the sum of
   the weights of the origins that it may serve (see `chunk_grid`). Laid end to end in a random
   order, the weights make a ruler. On it stand ``n_patches`` marks at equal distances, the first
   at a random place (systematic sampling). Mark ``t`` is found by bisection: first the sample,
   then, as the weights of windows are products over axes, a window along each axis.
2. Inside the window the origin is drawn by a hash of ``t``, in proportion to weights. Where it is
   not allowed, it is drawn again.
3. The marks are cut into streams, and these into blocks of windows that fit the memory; within a
   block marks come in random order (see `epoch_streams`). So place ``k`` is mark ``t(k)``.

Every allowed origin of an image is equally likely. Given the shifts of its grid, an origin ``o`` is
drawn with a probability in proportion to its weight ``w(o, shifts)`` over the total ``W(shifts)``
of its geometry: the distance of the marks and their random start see to that, and as a window
weighs what its allowed origins do, drawing again inside it does not change this. Shifts are drawn
with a probability in proportion to ``W(shifts)``. So the total cancels, and what is left is the sum
of ``w(o, shifts)`` over all shifts: along each axis ``m - c`` shifts at which the origin, whose
patch crosses ``c`` block borders, is inside a window, times the weight ``1 / (m - c)``. That is 1.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.extent import Extent, Extents
from careamics_dm.images.region import Region
from careamics_dm.sampling.allowed_origins import Allowed, Masks, total_weights
from careamics_dm.sampling.chunk_grid import Axis, Values, WindowGrid, axis_of, window_shape
from careamics_dm.sampling.keyed_random import Numbers, fractions, key_of
from careamics_dm.sampling.read_windows import PlacePlan, Places, Runs, WindowTable, sample_runs

TRIES = 64
"""Origins to draw in a window, until one is allowed, before all of its origins are listed."""


class Geometry(NamedTuple):
    """Runs of samples whose windows are alike."""

    runs: Numbers
    n: int  # samples of each run
    axes: list[Axis]
    window_bytes: int


@dataclass(frozen=True)
class RandomPatches:
    """New random patches in every epoch; a `DataError` says that nothing is left to draw from."""

    extents: Sequence[Extent]
    patch_size: tuple[int, ...]
    n_patches: int  # of an epoch, over all ranks
    seed: int
    window_bytes: int | None = None  # decoded bytes to read in one go; None: whole samples
    allowed: Masks | None = None
    trained: NDArray[np.bool_] | None = None  # samples to draw from, image by image; None: all
    few: int = 16  # where windows serve fewer patches on average, only what these need is read
    is_random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.area.any():
            raise DataError(
                "masks and validation patches leave no place for a training patch. Use fewer or "
                "smaller validation patches, or a larger mask."
            )

    def __len__(self) -> int:
        return self.n_patches

    def epoch(self, number: int) -> "RandomEpoch":
        """Return the places of an epoch."""
        return RandomEpoch(self, number)

    def allows(
        self, image: int, sample: int, start: Sequence[int], stop: Sequence[int]
    ) -> NDArray[np.bool_]:
        """Whether each origin of a box may be drawn, ``(Z) Y X``; any epoch may draw these."""
        allowed = (self.allowed or {}).get((image, sample))
        if allowed is not None:
            return allowed.within(start, stop)
        number = self.images.first[image] + sample
        is_trained = self.trained is None or bool(self.trained[number])
        return np.full([b - a for a, b in zip(start, stop, strict=True)], is_trained)

    @property
    def largest_window(self) -> int:
        """Decoded bytes of the largest read window."""
        return int(self.bytes_of_windows.max(initial=0))

    @cached_property
    def bytes_of_windows(self) -> Numbers:
        """Decoded bytes of a window of each run."""
        found: Numbers = self.images.each(lambda e: e.sample_bytes)[self.runs.image] * self.runs.n
        for geometry in self.geometries:
            found[geometry.runs] = geometry.window_bytes
        return found

    @cached_property
    def images(self) -> Extents:
        """The extents, each kind once."""
        return Extents(self.extents)

    @cached_property
    def runs(self) -> Runs:
        """Samples to draw from, as they are read."""
        return sample_runs(self.images, self.trained)

    @cached_property
    def restricted(self) -> dict[int, list[tuple[int, Allowed]]]:
        """By run, the samples in it that are not allowed everywhere."""
        return self.runs.having(self.allowed or {})

    @cached_property
    def sizes(self) -> Numbers:
        """Size of each image, ``(I, D)``, at least that of a patch."""
        return np.asarray(np.maximum(self.images.each(lambda e: e.size), self.patch_size))

    @cached_property
    def area(self) -> Values:
        """Pixels of each run, in proportion to what is allowed of it."""
        each = self.sizes.astype(float).prod(axis=1)[self.runs.image]
        area: Values = each * self.runs.n
        for run, samples in self.restricted.items():
            left = sum(allowed.n_allowed / allowed.n_origins for _, allowed in samples)
            area[run] = each[run] * (self.runs.n[run] - len(samples) + left)
        return area

    @cached_property
    def geometries(self) -> list[Geometry]:
        """Runs that are read window by window, or several samples of which some have masks.

        All other runs, mostly small, are one window each, whose origins need no grid.
        """
        found: dict[tuple[Extent, int], list[int]] = defaultdict(list)
        alike = self.images.changed(lambda e: e._replace(samples=e.together))
        shapes = {e: window_shape(e, self.patch_size, self.window_bytes) for e in alike.kinds}
        on_grid = alike.each(lambda e: shapes[e] != e.size)[self.runs.image]
        on_grid[[run for run in self.restricted if self.runs.n[run] > 1]] = True
        for run in np.flatnonzero(on_grid).tolist():
            found[alike[self.runs.image[run]], int(self.runs.n[run])].append(run)
        return [
            Geometry(
                np.array(mine),
                n,
                list(map(axis_of, e.size, self.patch_size, e.block, shapes[e])),
                prod(shapes[e]) * e.pixel_bytes * n * (not e.in_memory),
            )
            for (e, n), mine in found.items()
        ]


class RandomEpoch(PlacePlan):
    """The places of the random patches of one epoch, in the order of their windows (``table``)."""

    is_random = True

    def __init__(self, plan: RandomPatches, epoch: int) -> None:
        self._plan, self._n = plan, plan.n_patches
        self._key = key_of(plan.seed, epoch, 0)
        rng = np.random.default_rng([plan.seed, epoch])
        weight, n_windows = plan.area.copy(), np.ones(len(plan.area), np.int64)
        self._grids: list[WindowGrid] = []
        self._grid_of = np.full(len(weight), -1)
        for geometry in plan.geometries:
            self._add(geometry, weight, rng)
            n_windows[geometry.runs] = self._grids[-1].n_windows
        # Where windows have less than a patch each, only these are read.
        images, image = plan.images, plan.runs.image
        patch_bytes = images.each(lambda e: e.pixel_bytes)[image] * prod(plan.patch_size)
        each = self._n * weight / weight.sum() / np.maximum(n_windows, 1)
        few = np.minimum(plan.bytes_of_windows, (each * patch_bytes).astype(np.int64) + 1)
        window_bytes = np.where(each < 1, few, plan.bytes_of_windows)
        self._has_few = (each < plan.few) & ~images.each(lambda e: e.in_memory)[image]
        order = rng.permutation(np.flatnonzero(weight))
        self._order, self._weight = order, weight
        self._until = np.concatenate([[0.0], np.cumsum(weight[order])])
        self._step = float(self._until[-1]) / max(self._n, 1)
        self._offset = float(rng.random())
        self.table = WindowTable(n_windows[order], window_bytes[order])

    def __len__(self) -> int:
        return self._n

    def windows(self, marks: Numbers) -> Numbers:
        """Return the window of each mark; ascending, as marks are."""
        return self._find(marks)[2]

    def places(self, marks: Numbers) -> Places:
        """Return where the patches of marks lie."""
        (of, rank, window), runs = self._find(marks), self._plan.runs
        image, sample = runs.image[of], runs.first[of] + rank % runs.n[of]
        shape = self._plan.sizes[image] - self._plan.patch_size + 1
        hashed = self._hashed(marks, 0)
        start = (hashed.T * shape).astype(np.int64)
        for grid, mine in self._by_grid(of):
            start[mine] = grid.draw(rank[mine], [*hashed[:, mine]])
        if self._plan.restricted:
            self._restrict(marks, of, rank, sample, start)
        return Places.of_size(self._plan.patch_size, image, sample, start, window)

    def first(self, window: int) -> int:
        """Return the first mark in a window, or after it; rounding may make it a neighbour."""
        run = self.table.run_of(window)
        if run == len(self._order):
            return self._n
        begin, of = float(self._until[run]), int(self._order[run])
        if inside := window - int(self.table.first[run]):
            grid = self._grids[self._grid_of[of]]
            begin += grid.before(inside * grid.n_samples) / grid.total * self._weight[of]
        return min(max(ceil(begin / self._step - self._offset), 0), self._n)

    def region(self, window: int) -> Region:
        """Return what to read of a window: all, or as far as the patches reach, if they are few."""
        run = self.table.run_of(window)
        of = self._order[run]
        if self._has_few[of]:
            near = max(self.first(window) - 2, 0), min(self.first(window + 1) + 2, self._n)
            marks = np.arange(*near)
            return self.places(marks[self.windows(marks) == window]).reach()
        image, sample, n = (int(column[of]) for column in self._plan.runs)
        if self._grid_of[of] < 0:
            size = tuple(self._plan.sizes[image].tolist())
            return Region(image, sample, (0,) * len(size), size, n)
        grid = self._grids[self._grid_of[of]]
        start, stop = grid.box((window - int(self.table.first[run])) * grid.n_samples)
        return Region(image, sample, start, tuple(map(max, stop, self._plan.patch_size)), n)

    def _add(self, geometry: Geometry, weight: Values, rng: np.random.Generator) -> None:
        """Draw the shifts of a geometry, and weigh its runs; see `random_patches`."""
        runs, restricted = geometry.runs.tolist(), self._plan.restricted
        masks = [allowed for run in runs for _, allowed in restricted.get(run, ())]
        total = total_weights(geometry.axes, geometry.n * len(runs), masks)
        # Where no patch fits, runs have no weight, and any shift will do.
        chance = total.reshape(-1) if total.any() else np.ones(total.size)
        number = rng.choice(total.size, p=chance / chance.sum())
        shifts = [int(k) for k in np.unravel_index(number, total.shape)]
        grid = WindowGrid(geometry.axes, shifts, geometry.n, rng)
        share, lengths = weight[geometry.runs].sum(), np.full(len(runs), grid.total)
        self._grid_of[geometry.runs] = len(self._grids)
        self._grids.append(grid)
        for i, run in enumerate(runs):
            if run not in restricted or not grid.n_windows:
                continue
            lost = [allowed.lost(grid, sample) for sample, allowed in restricted[run]]
            left = grid.without(*map(np.concatenate, zip(*lost, strict=True)))
            lengths[i] = left.total if left.total > 1e-9 * grid.total else 0
            self._grid_of[run] = len(self._grids)
            self._grids.append(left)
        if lengths.any():
            weight[geometry.runs] = share * lengths / lengths.sum()

    def _find(self, marks: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Return the run of each mark, a rank in it (see `WindowGrid`), and the window."""
        at = (marks + self._offset) * self._step
        run = np.searchsorted(self._until[1:-1], at, side="right")
        of = self._order[run]
        inside = (at - self._until[run]) / self._weight[of]
        inside = np.minimum(np.maximum(inside, 0), 1 - 1e-12)
        rank = (inside * self._plan.runs.n[of]).astype(np.int64)
        for grid, mine in self._by_grid(of):
            rank[mine] = grid.at(inside[mine] * grid.total)
        return of, rank, self.table.first[run] + rank // self._plan.runs.n[of]

    def _by_grid(self, of: Numbers) -> Iterator[tuple[WindowGrid, Numbers]]:
        """Yield the grids of runs, and which of these have each; none of runs read as a whole."""
        numbers = self._grid_of[of]
        for number in set(numbers.tolist()) - {-1}:
            yield self._grids[number], np.flatnonzero(numbers == number)

    def _hashed(self, marks: Numbers, attempt: int) -> Values:
        """Return a random fraction for each axis and mark, ``(D, N)``."""
        n_dims = len(self._plan.patch_size)
        numbers = marks * n_dims + np.arange(n_dims)[:, None]
        return fractions(self._key + np.uint64(attempt), numbers)

    def _restrict(
        self, marks: Numbers, of: Numbers, rank: Numbers, sample: Numbers, start: Numbers
    ) -> None:
        """Draw again, in place, origins that are not allowed."""
        for r in np.unique(of).tolist():
            for s, allowed in self._plan.restricted.get(r, ()):
                mine = np.flatnonzero((of == r) & (sample == self._plan.runs.first[r] + s))
                if self._grid_of[r] < 0:
                    number = self._hashed(marks[mine], 0)[0] * allowed.n_allowed
                    start[mine] = allowed.at(number.astype(np.int64))
                    continue
                grid, attempt = self._grids[self._grid_of[r]], 1
                while len(mine := mine[~allowed.allows(start[mine])]) and attempt < TRIES:
                    start[mine] = grid.draw(rank[mine], [*self._hashed(marks[mine], attempt)])
                    attempt += 1
                fraction = fractions(self._key + np.uint64(TRIES), marks[mine])
                for window in np.unique(rank[mine]).tolist():
                    here = rank[mine] == window
                    first, each = grid.origins(window)
                    inside = allowed.within(first, np.add(first, each.shape).tolist())
                    until = np.cumsum(np.where(inside, each, 0))
                    number = np.searchsorted(until, fraction[here] * until[-1], side="right")
                    start[mine[here]] = np.stack(np.unravel_index(number, each.shape), 1) + first
