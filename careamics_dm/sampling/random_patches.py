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
   block marks come in random order (see `streams`). So place ``k`` is mark ``t(k)``.

Every allowed origin of an image is equally likely. Given the shifts of its grid, an origin ``o`` is
drawn with a probability in proportion to its weight ``w(o, shifts)`` over the total ``W(shifts)``
of its geometry: the distance of the marks and their random start see to that, and as a window
weighs what its allowed origins do, drawing again inside it does not change this. Shifts are drawn
with a probability in proportion to ``W(shifts)``. So the total cancels, and what is left is the sum
of ``w(o, shifts)`` over all shifts: along each axis ``m - c`` shifts at which the origin, whose
patch crosses ``c`` block borders, is inside a window, times the weight ``1 / (m - c)``. That is 1.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.extent import Extent
from careamics_dm.images.region import Region
from careamics_dm.sampling.allowed_origins import OriginMask, ValidOrigins
from careamics_dm.sampling.chunk_grid import Losses, WindowGrid
from careamics_dm.sampling.geometries import Geometry, draw_shifts, find_geometries
from careamics_dm.sampling.keyed_random import fractions, key_of
from careamics_dm.sampling.read_windows import Places, Runs, WindowTable, reach, sample_runs

Numbers = NDArray[np.int64]

TRIES = 64
"""Origins to draw in a window, until one is allowed, before all of its origins are listed."""
FEW = 16
"""Patches that a window serves on average, from which on all of it is read; of fewer, the box that
they need."""


@dataclass(frozen=True)
class RandomPatches:
    """New random patches in every epoch.

    Parameters
    ----------
    extents : sequence of Extent
        The images.
    patch_size : tuple of int
        ``(Z) Y X``, pixels.
    n_patches : int
        Patches of an epoch, over all ranks.
    seed : int
        Of everything.
    window_bytes : int or None
        Decoded bytes to read in one go; ``None``: whole samples.
    allowed : mapping
        By image and sample, where patches may lie, if not everywhere.
    trained : ndarray of bool, optional
        Whether each sample, image by image, may be drawn from; by default all may.

    Raises
    ------
    DataError
        Nothing is left to draw from.
    """

    extents: Sequence[Extent]
    patch_size: tuple[int, ...]
    n_patches: int
    seed: int
    window_bytes: int | None = None
    allowed: Mapping[tuple[int, int], OriginMask | ValidOrigins] | None = None
    trained: NDArray[np.bool_] | None = None
    is_random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Find fault early."""
        if not self.area.any():
            raise DataError(
                "masks and validation patches leave no place for a training patch. Use fewer or "
                "smaller validation patches, or a larger mask."
            )

    def __len__(self) -> int:
        """Count patches of an epoch."""
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
        first = self.first_sample[image] + sample
        is_trained = self.trained is None or bool(self.trained[first])
        return np.full([b - a for a, b in zip(start, stop, strict=True)], is_trained)

    @cached_property
    def largest_window(self) -> int:
        """Decoded bytes of the largest read window."""
        whole = np.array([e.sample_bytes for e in self.extents])[self.runs.image] * self.runs.n
        for geometry in self.geometries:
            whole[geometry.runs] = geometry.window_bytes
        return int(whole.max(initial=0))

    @cached_property
    def first_sample(self) -> Numbers:
        """Number, through all images, of the first sample of each."""
        return np.cumsum([0] + [extent.samples for extent in self.extents])

    @cached_property
    def runs(self) -> Runs:
        """Samples to draw from, as they are read."""
        return sample_runs(self.extents, self.trained)

    @cached_property
    def restricted(self) -> dict[int, list[tuple[int, OriginMask | ValidOrigins]]]:
        """By run, the samples in it that are not allowed everywhere."""
        found = defaultdict(list)
        row = self.first_sample[self.runs.image] + self.runs.first
        for (image, sample), allowed in (self.allowed or {}).items():
            number = self.first_sample[image] + sample
            if self.trained is None or self.trained[number]:
                run = int(np.searchsorted(row, number, side="right")) - 1
                found[run].append((int(number - row[run]), allowed))
        return dict(found)

    @cached_property
    def sizes(self) -> Numbers:
        """Size of each image, ``(I, D)``, at least that of a patch."""
        sizes = np.array([extent.size for extent in self.extents], np.int64)
        return np.maximum(sizes, self.patch_size)

    @cached_property
    def area(self) -> NDArray[np.float64]:
        """Pixels of each run, in proportion to what is allowed of it."""
        each = self.sizes.astype(float).prod(axis=1)[self.runs.image]
        area: NDArray[np.float64] = each * self.runs.n
        for run, samples in self.restricted.items():
            left = sum(allowed.n_allowed / allowed.n_origins for _, allowed in samples)
            area[run] = each[run] * (self.runs.n[run] - len(samples) + left)
        return area

    @cached_property
    def geometries(self) -> list[Geometry]:
        """Runs that are read window by window; see `find_geometries`."""
        how = self.patch_size, self.window_bytes, self.restricted
        return find_geometries(self.extents, self.runs, *how)


class Ruler(NamedTuple):
    """The windows of a run."""

    grid: WindowGrid
    losses: Losses | None
    length: float
    """Weight of all its windows."""


class RandomEpoch:
    """The places of the random patches of one epoch; see `random_patches`.

    Attributes
    ----------
    table : WindowTable
        Windows, in the order of the marks.
    """

    def __init__(self, plan: RandomPatches, epoch: int) -> None:
        self._plan, self._n = plan, plan.n_patches
        self._key = key_of(plan.seed, epoch, 0)
        rng = np.random.default_rng([plan.seed, epoch])
        runs, weight = plan.runs, plan.area.copy()
        n_windows = np.ones(len(weight), np.int64)
        window_bytes = np.array([e.sample_bytes for e in plan.extents])[runs.image] * runs.n
        self._rulers: list[Ruler] = []
        self._ruler_of = np.full(len(weight), -1)
        for geometry in plan.geometries:
            self._add(geometry, weight, rng)
            mine = geometry.runs
            n_windows[mine] = self._rulers[-1].grid.n_windows
            window_bytes[mine] = geometry.window_bytes
        # Where windows have less than a patch each, only these are read.
        patch_bytes = np.array([e.pixel_bytes for e in plan.extents])[runs.image]
        patch_bytes = patch_bytes * prod(plan.patch_size)
        each = self._n * weight / weight.sum() / n_windows
        few = (each * patch_bytes).astype(np.int64) + 1
        window_bytes = np.where(each < 1, np.minimum(window_bytes, few), window_bytes)
        in_memory = np.array([e.in_memory for e in plan.extents])[runs.image]
        self._has_few = (each < FEW) & ~in_memory
        order = rng.permutation(np.flatnonzero(weight))
        self._order, self._weight = order, weight
        self._until = np.concatenate([[0.0], np.cumsum(weight[order])])
        self._step = float(self._until[-1]) / max(self._n, 1)
        self._offset = float(rng.random())
        self.table = WindowTable(n_windows[order], window_bytes[order])

    def __len__(self) -> int:
        """Count places."""
        return self._n

    def windows(self, marks: Numbers) -> Numbers:
        """Return the window of each mark; ascending, as marks are."""
        run, rank = self._find(marks)
        return self._number(run, rank)

    def places(self, marks: Numbers) -> Places:
        """Return where the patches of marks lie."""
        run, rank = self._find(marks)
        of = self._order[run]
        runs, patch = self._plan.runs, np.array(self._plan.patch_size)
        image, sample = runs.image[of], runs.first[of] + rank  # the rank of one window: its sample
        shape = self._plan.sizes[image] - patch + 1
        hashed = self._hashed(marks, 0)
        start = (hashed.T * shape).astype(np.int64)
        for ruler, mine in self._by_ruler(of):
            start[mine] = ruler.grid.draw(rank[mine], [*hashed[:, mine]])
            sample[mine] = runs.first[of[mine]] + ruler.grid.numbers(rank[mine])[1]
        if self._plan.restricted:
            self._restrict(marks, of, rank, sample, start)
        size = np.broadcast_to(patch, start.shape)
        return Places(image, sample, start, size, self._number(run, rank))

    def first(self, window: int) -> int:
        """Return the first mark in a window, or after it; rounding may make it a neighbour."""
        run = int(np.searchsorted(self.table.first, window, side="right")) - 1
        if run == len(self._order):
            return self._n
        begin, of = float(self._until[run]), int(self._order[run])
        if inside := window - int(self.table.first[run]):
            grid, losses, length = self._rulers[self._ruler_of[of]]
            begin += grid.before(inside * grid.n_samples, losses) / length * self._weight[of]
        return min(max(ceil(begin / self._step - self._offset), 0), self._n)

    def region(self, window: int, *, whole: bool = False) -> Region:
        """Return what to read of a window: all, or as far as the patches reach, if they are few."""
        run = int(np.searchsorted(self.table.first, window, side="right")) - 1
        of = self._order[run]
        if self._has_few[of] and not whole:
            near = max(self.first(window) - 2, 0), min(self.first(window + 1) + 2, self._n)
            marks = np.arange(*near)
            return reach(self.places(marks[self.windows(marks) == window]))
        image, sample, n = (int(column[of]) for column in self._plan.runs)
        if self._ruler_of[of] < 0:
            size = tuple(self._plan.sizes[image].tolist())
            return Region(image, sample, (0,) * len(size), size, n)
        grid = self._rulers[self._ruler_of[of]].grid
        rank = np.array([(window - self.table.first[run]) * grid.n_samples])
        numbers, _ = grid.numbers(rank)
        boxes = zip(grid.axes, grid.shifts, numbers, self._plan.patch_size, strict=True)
        ends = [(*axis.box(shift, number), patch) for axis, shift, number, patch in boxes]
        start = tuple(int(a[0]) for a, _, _ in ends)
        return Region(image, sample, start, tuple(max(int(b[0]), p) for _, b, p in ends), n)

    def _add(
        self, geometry: Geometry, weight: NDArray[np.float64], rng: np.random.Generator
    ) -> None:
        """Draw the shifts of a geometry, and weigh its runs; see `random_patches`."""
        restricted = self._plan.restricted
        mine = [run for run in geometry.runs.tolist() if run in restricted]
        masks = [allowed for run in mine for _, allowed in restricted[run]]
        grid = WindowGrid(geometry.axes, draw_shifts(geometry, masks, rng), geometry.n, rng)
        share, lengths = weight[geometry.runs].sum(), np.full(len(geometry.runs), grid.total)
        self._ruler_of[geometry.runs] = len(self._rulers) + len(mine)
        for i in np.flatnonzero(np.isin(geometry.runs, mine)).tolist():
            run = int(geometry.runs[i])
            lost = [allowed.lost(grid, sample) for sample, allowed in restricted[run]]
            losses = grid.lose(*(np.concatenate(column) for column in zip(*lost, strict=True)))
            left = grid.total - float(losses.until[-1])
            lengths[i] = left if left > 1e-9 * grid.total else 0
            self._ruler_of[run] = len(self._rulers)
            self._rulers.append(Ruler(grid, losses, left))
        self._rulers.append(Ruler(grid, None, grid.total))
        if lengths.any():
            weight[geometry.runs] = share * lengths / lengths.sum()

    def _find(self, marks: Numbers) -> tuple[Numbers, Numbers]:
        """Return the run of each mark, in the order of the epoch, and a rank in it."""
        at = (marks + self._offset) * self._step
        run = np.searchsorted(self._until[1:-1], at, side="right")
        of = self._order[run]
        inside = (at - self._until[run]) / self._weight[of]
        inside = np.minimum(np.maximum(inside, 0), 1 - 1e-12)
        rank = (inside * self._plan.runs.n[of]).astype(np.int64)
        for (grid, losses, length), mine in self._by_ruler(of):
            rank[mine] = grid.at(inside[mine] * length, losses)
        return run, rank

    def _by_ruler(self, of: Numbers) -> Iterator[tuple["Ruler", Numbers]]:
        """Yield the rulers of runs, and which of these have each; none of runs read as a whole."""
        numbers = self._ruler_of[of]
        for number in set(numbers.tolist()) - {-1}:
            yield self._rulers[number], np.flatnonzero(numbers == number)

    def _number(self, run: Numbers, rank: Numbers) -> Numbers:
        """Return the numbers of windows, counted through all runs."""
        n_samples = self._plan.runs.n[self._order[run]]
        numbers: Numbers = self.table.first[run] + rank // n_samples
        return numbers

    def _hashed(self, marks: Numbers, attempt: int) -> NDArray[np.float64]:
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
                if self._ruler_of[r] < 0:
                    number = self._hashed(marks[mine], 0)[0] * allowed.n_allowed
                    start[mine] = allowed.at(number.astype(np.int64))
                    continue
                grid = self._rulers[self._ruler_of[r]].grid
                for attempt in range(1, TRIES):
                    mine = mine[~allowed.allows(start[mine])]
                    if not len(mine):
                        break
                    hashed = self._hashed(marks[mine], attempt)
                    start[mine] = grid.draw(rank[mine], [*hashed])
                else:
                    mine = mine[~allowed.allows(start[mine])]
                    fraction = fractions(self._key + np.uint64(TRIES), marks[mine])
                    for window in np.unique(rank[mine]).tolist():
                        here = rank[mine] == window
                        found = grid.draw_listed(window, allowed, fraction[here])
                        start[mine[here]] = found
