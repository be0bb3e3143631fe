"""Grids of patches that lie side by side.

Number ``k`` is found by arithmetic: first the run of samples, then along each axis the read window
and the patch in it. Only what is left out, or chosen, is listed.
"""

from collections.abc import Sequence
from copy import copy
from math import prod
from typing import Self

import numpy as np
from numpy.typing import NDArray

from careamics_dm.images.extent import Extent, Extents
from careamics_dm.images.region import Region
from careamics_dm.sampling.allowed_origins import Masks
from careamics_dm.sampling.chunk_grid import SeparableOrder, window_shape
from careamics_dm.sampling.keyed_random import Numbers
from careamics_dm.sampling.read_windows import PlacePlan, Places, Runs, WindowTable, sample_runs

PORTION = 2**16
"""Patches to look at together."""


class PatchGrid(PlacePlan):
    """Patches side by side that cover every pixel; the last of an axis overlaps, to end with it.

    A patch larger than the image reaches outside it at the far side. Only ``chosen`` samples, image
    by image, are covered, and patches left out that are not ``allowed``, by image and sample. With
    a ``seed``, samples are in another order in every epoch, and patches are drawn in random order.
    """

    def __init__(
        self,
        extents: Sequence[Extent],
        patch_size: Sequence[int],
        *,
        window_bytes: int | None = None,
        chosen: NDArray[np.bool_] | None = None,
        allowed: Masks | None = None,
        seed: int | None = None,
    ) -> None:
        self._seed, self.is_random = seed, seed is not None
        self._listed: Numbers | None = None
        self._excluded = np.zeros(0, np.int64)
        self._patch = tuple(patch_size)
        images = Extents(extents)
        runs = sample_runs(images, chosen)
        alike = images.changed(lambda e: e._replace(samples=e.together))
        number: dict[tuple[int, int], int] = {}
        keys = zip(alike.kind[runs.image].tolist(), runs.n.tolist(), strict=True)
        kind = np.array([number.setdefault(key, len(number)) for key in keys], np.int64)
        self._layouts = [_Layout(alike.kinds[k], n, self._patch, window_bytes) for k, n in number]
        self._order(runs, kind)
        if allowed:
            self._exclude(allowed)

    def __len__(self) -> int:
        if self._listed is not None:
            return len(self._listed)
        return int(self._until[-1]) - len(self._excluded)

    def epoch(self, number: int) -> Self:
        """Return itself or, if it has a seed, the same with the samples in random order."""
        if self._seed is None:
            return self
        turn = np.random.default_rng([self._seed, number]).permutation(len(self._runs.n))
        other = copy(self)
        other._order(Runs(*(column[turn] for column in self._runs)), self._kind[turn])
        run = np.searchsorted(self._until, self._excluded, side="right") - 1
        moved = other._until[:-1][np.argsort(turn)[run]] - self._until[run]
        other._excluded = np.sort(self._excluded + moved)
        return other

    def some(self, n: int | None, rng: np.random.Generator) -> Self:
        """Return ``n`` of the patches, chosen at random, in their order; of fewer, all."""
        if n is None or n >= len(self):
            return self
        other = copy(self)
        other._listed = self._ranks(np.sort(rng.choice(len(self), n, replace=False)))
        return other

    def windows(self, numbers: Numbers) -> Numbers:
        """Return the read window of each patch."""
        return self.places(numbers).window

    def places(self, numbers: Numbers) -> Places:
        """Return where patches lie."""
        return self._places(self._ranks(numbers))

    def first(self, window: int) -> int:
        """Return the first patch in a window, or after it."""
        run = self.table.run_of(window)
        if run == len(self._kind):
            return len(self)
        layout = self._layouts[self._kind[run]]
        rank = self._until[run] + layout.before(window - self.table.first[run])
        if self._listed is not None:
            return int(np.searchsorted(self._listed, rank))
        return int(rank - np.searchsorted(self._excluded, rank))

    def region(self, window: int) -> Region:
        """Return what to read of a window: as far as its patches reach."""
        return self.places(np.arange(self.first(window), self.first(window + 1))).reach()

    def _order(self, runs: Runs, kind: Numbers) -> None:
        """Put the runs in an order, and count."""
        self._runs, self._kind = runs, kind
        counts = [(of.n_patches, of.n_windows, of.window_bytes) for of in self._layouts]
        n_patches, n_windows, window_bytes = np.array(counts, np.int64).reshape(-1, 3)[kind].T
        self._until = np.concatenate([[0], np.cumsum(n_patches)])
        self.table = WindowTable(n_windows, window_bytes)
        self.largest_window = int(window_bytes.max(initial=0))

    def _exclude(self, allowed: Masks) -> None:
        """Leave out patches whose origins are not allowed."""
        lost = [self._excluded]
        for run, here in self._runs.having(allowed).items():
            begin, end = self._until[run : run + 2].tolist()
            for low in range(begin, end, PORTION):
                ranks = np.arange(low, min(low + PORTION, end))
                places = self._places(ranks)
                for sample, origins in here:
                    mine = np.flatnonzero(places.sample == self._runs.first[run] + sample)
                    lost.append(ranks[mine[~origins.allows(places.start[mine])]])
        self._excluded = np.sort(np.concatenate(lost))

    def _ranks(self, numbers: Numbers) -> Numbers:
        """Return the places among all patches, those that are left out included."""
        if self._listed is not None:
            return self._listed[numbers]
        before = self._excluded - np.arange(len(self._excluded))
        return np.asarray(numbers + np.searchsorted(before, numbers, side="right"))

    def _places(self, ranks: Numbers) -> Places:
        run = np.searchsorted(self._until, ranks, side="right") - 1
        kind, inside = self._kind[run], ranks - self._until[run]
        sample, window = self._runs.first[run], self.table.first[run]
        start = np.empty((len(ranks), len(self._patch)), np.int64)
        for k in np.unique(kind).tolist():
            mine = np.flatnonzero(kind == k)
            more, start[mine], number = self._layouts[k].at(inside[mine])
            sample[mine] += more
            window[mine] += number
        return Places.of_size(self._patch, self._runs.image[run], sample, start, window)


class _Layout:
    """The patches of samples of one geometry that are read together."""

    def __init__(
        self, extent: Extent, n_samples: int, patch: Sequence[int], window_bytes: int | None
    ) -> None:
        self.n_samples = n_samples
        read = window_shape(extent, patch, window_bytes)
        columns = [*zip(extent.size, patch, read, strict=True)]
        self._starts = [np.minimum(np.arange(0, n, p), max(n - p, 0)) for n, p, _ in columns]
        windows = [of // r for of, r in zip(self._starts, read, strict=True)]
        self._first = [np.flatnonzero(np.diff(of, prepend=-1)) for of in windows]
        self._order = SeparableOrder([np.unique(of, return_counts=True)[1] for of in windows])
        self.n_patches = int(self._order.total) * n_samples
        self.n_windows = prod(self._order.shape)
        box = prod(min(r + p, n) for n, p, r in columns)
        self.window_bytes = box * extent.pixel_bytes * n_samples * (not extent.in_memory)

    def before(self, window: int) -> int:
        """Count the patches of windows before one."""
        index = [np.array(i) for i in np.unravel_index(window, self._order.shape)]
        return int(self._order.before(index)) * self.n_samples

    def at(self, number: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Return sample; start, ``(N, D)``; and window."""
        nth, rest = np.divmod(number, self.n_samples)
        index, inside = self._order.at(nth)
        left = inside * self.n_samples + rest
        sizes = [of[i] for of, i in zip(self._order.lengths, index, strict=True)]
        sample, left = np.divmod(left, prod(sizes))
        start = np.empty((len(number), len(sizes)), np.int64)
        for d in range(len(sizes) - 1, -1, -1):
            left, place = np.divmod(left, sizes[d])
            start[:, d] = self._starts[d][self._first[d][index[d]] + place]
        return sample, start, np.ravel_multi_index(index, self._order.shape)
