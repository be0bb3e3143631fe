"""The chunk grid of an image: the windows that are read in one go, and what each may serve.

A window is a box of whole stored blocks, so that no block is decoded for two windows. A patch has
to lie inside one window. So the grid of windows is shifted by a whole number of blocks, another one
in every epoch, and origins are weighted (see `Axis`): over the epochs all are equally likely.
"""

from collections.abc import Iterable, Sequence
from copy import copy
from functools import lru_cache, reduce
from math import ceil, prod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from careamics_dm.images.extent import Extent
from careamics_dm.sampling.keyed_random import Numbers

Values = NDArray[np.float64]
Index = int | Numbers

ROW = 4
"""How many times as wide as high, in patches, windows of raw pixels are: long pieces are read in
half of the time."""


def window_shape(
    extent: Extent, patch_size: Sequence[int], window_bytes: int | None
) -> tuple[int, ...]:
    """Size of a window, ``(Z) Y X`` pixels: the whole sample, if it fits (``None``: it does).

    Else whole blocks, several per axis, within a budget of decoded bytes, which is exceeded only
    when a few blocks per axis already do.
    """
    if window_bytes is None or extent.sample_bytes * extent.together <= window_bytes:
        return extent.size
    unit = [_unit(b, p) for b, p in zip(extent.block, patch_size, strict=True)]
    # A patch crosses so many borders at most; one more block, and it fits at some shift.
    window = [u * (2 + (p - 2) // u if p > 1 else 1) for u, p in zip(unit, patch_size, strict=True)]
    window = [min(w, n) for w, n in zip(window, extent.size, strict=True)]
    wide = [*patch_size[:-1], patch_size[-1] * (ROW if extent.block[-1] == 1 else 1)]
    while open_axes := [d for d in range(len(window)) if window[d] < extent.size[d]]:
        # Widen where a window is narrowest in patches: that is where most patches are cut.
        axis = min(open_axes, key=lambda d: window[d] / wide[d])
        wider = window.copy()
        more = max(window[axis] // unit[axis] // 8, 1)  # in few steps, however small the blocks
        wider[axis] = min(window[axis] + more * unit[axis], extent.size[axis])
        if prod(wider) * extent.pixel_bytes * extent.together > window_bytes:
            break
        window = wider
    return tuple(window)


def _unit(block: int, patch: int) -> int:
    """Block borders a window may end at: every border, but at most about four per patch."""
    return block * ceil(patch / (4 * block))


class Axis:
    """Windows along one axis, at every shift.

    Windows are ``m`` blocks wide, on a grid that is shifted by ``0`` to ``m - 1`` blocks. An origin
    whose patch crosses ``c`` block borders is inside a window at ``m - c`` of the ``m`` shifts, and
    weighs ``1 / (m - c)`` there; `random_patches` says why. Along each axis there are two kinds of
    origins only, which cross ``c`` and ``c + 1`` borders.
    """

    def __init__(self, size: int, patch: int, block: int, window: int) -> None:
        self.size, self.n_origins = size, max(size - patch, 0) + 1
        self.unit = size + patch if window >= size else _unit(block, patch)
        self.m = 1 if window >= size else window // self.unit
        least = (patch - 1) // self.unit
        # In each block, origins that cross the least borders come first.
        first = self.unit - (patch - 1) % self.unit
        self.kinds = [(0, first, self.m - least), (first, self.unit - first, self.m - least - 1)]
        self.kinds = [kind for kind in self.kinds if kind[1] and kind[2]]

    def n_windows(self, shift: int) -> int:
        """Count windows, also those that are too narrow for a patch."""
        return ((self.size - 1) // self.unit + shift) // self.m + 1

    def box(self, shift: int, window: Numbers) -> tuple[Numbers, Numbers]:
        """First pixel of each window, and one after its last."""
        first = (window * self.m - shift) * self.unit
        return np.maximum(first, 0), np.minimum(first + self.m * self.unit, self.size)

    def counts(
        self, shift: Index, window: Numbers, start: Index = 0, stop: Index | None = None
    ) -> list[Numbers]:
        """Count, of each kind, origins from ``start`` to ``stop`` that windows may serve."""
        stop = self.n_origins if stop is None else stop
        first = (window * self.m - shift) * self.unit
        found = []
        for offset, n, shifts in self.kinds:
            low, high = np.maximum(first, start), np.minimum(first + shifts * self.unit, stop)
            before = [
                at // self.unit * n + np.clip(at % self.unit - offset, 0, n) for at in (low, high)
            ]
            found.append(np.maximum(before[1] - before[0], 0) * (high > low))
        return found

    def weights(
        self, shift: Index, window: Numbers, start: Index = 0, stop: Index | None = None
    ) -> Values:
        """Add up the weights of origins from ``start`` to ``stop`` that windows may serve."""
        counts = self.counts(shift, window, start, stop)
        parts = (n / shifts for n, (_, _, shifts) in zip(counts, self.kinds, strict=True))
        return np.asarray(sum(parts), float)

    def totals(self, start: int = 0, stop: int | None = None) -> Values:
        """Add up the weights of origins from ``start`` to ``stop``, ``(m,)`` by shift."""
        shift, window = np.arange(self.m)[:, None], np.arange(self.n_windows(self.m - 1))
        return np.asarray(self.weights(shift, window, start, stop).sum(axis=1))

    def draw(self, shift: int, window: Numbers, fraction: Values) -> Numbers:
        """Return an origin in each window: which one, a fraction from 0 to below 1 says."""
        counts = self.counts(shift, window)
        first = np.maximum((window * self.m - shift) * self.unit, 0)
        left = fraction * self.weights(shift, window)
        origin = first
        for i, (n, (offset, per_block, shifts)) in enumerate(zip(counts, self.kinds, strict=True)):
            number = np.minimum((np.maximum(left, 0) * shifts).astype(np.int64), n - 1)
            at = first + number // per_block * self.unit + offset + number % per_block
            origin = at if i == 0 else np.where((left >= 0) & (n > 0), at, origin)
            left = left - n / shifts
        return origin


axis_of = lru_cache(maxsize=4096)(Axis)
"""Images of one size share theirs."""


def outer(vectors: Iterable[Values]) -> Values:
    """Multiply a vector per axis to an array."""
    return reduce(np.multiply.outer, vectors)


class SeparableOrder:
    """Boxes of a grid one after another, each as long as the product of its axes' lengths.

    Where a box begins in the row of all, and which box is at a place, need no table of boxes.
    """

    def __init__(self, lengths: Sequence[NDArray[np.generic]]) -> None:
        self.lengths = [np.asarray(of) for of in lengths]
        self._until = [np.concatenate([[0], np.cumsum(of)]) for of in self.lengths]
        ends = [until[-1] for until in self._until]
        self._inner = [prod(ends[d + 1 :]) for d in range(len(ends))]
        self.total = prod(ends)
        self.shape = tuple(len(of) for of in self.lengths)

    def before(self, index: Sequence[NDArray[np.int64]]) -> NDArray[np.generic]:
        """Where boxes, by their place along each axis, begin."""
        scale: Any = 1
        begin: Any = 0
        for length, until, inner, i in zip(
            self.lengths, self._until, self._inner, index, strict=True
        ):
            begin, scale = begin + scale * (until[i] * inner), scale * length[i]
        return np.asarray(begin)

    def at(self, place: NDArray[np.generic]) -> tuple[list[Numbers], NDArray[np.generic]]:
        """Return the boxes at places, along each axis, and how far inside they are."""
        index: list[Numbers] = []
        scale: Any = 1
        left: Any = place
        divide = np.floor_divide if np.issubdtype(place.dtype, np.integer) else np.true_divide
        for length, until, inner in zip(self.lengths, self._until, self._inner, strict=True):
            i = np.searchsorted(until[1:-1], divide(left, scale * inner), side="right")
            left = left - scale * (until[i] * inner)
            index, scale = [*index, i], scale * length[i]
        return index, left


class WindowGrid:
    """The windows of samples of one geometry in one epoch: shifted, and in random order.

    Places in the row of all windows, and of the samples that share each, are measured in weights
    of origins (see `Axis`). A window of one sample has a ``rank`` in that row. Masks, gaps and
    held-out patches take weight away: see `without`.
    """

    def __init__(
        self, axes: Sequence[Axis], shifts: Sequence[int], n_samples: int, rng: np.random.Generator
    ) -> None:
        self.axes, self.shifts, self.n_samples = axes, shifts, n_samples
        every = [
            axis.weights(k, np.arange(axis.n_windows(k)))
            for axis, k in zip(axes, shifts, strict=True)
        ]
        self.windows = [rng.permutation(np.flatnonzero(weight)) for weight in every]
        self._place = [np.full(len(weight), -1) for weight in every]
        for place, order in zip(self._place, self.windows, strict=True):
            place[order] = np.arange(len(order))
        weights = [weight[order] for weight, order in zip(every, self.windows, strict=True)]
        self._order = SeparableOrder([*weights, np.ones(n_samples)])
        self.total = float(self._order.total)
        self.n_windows = prod(len(of) for of in self.windows)
        self._lacking = np.zeros(0, np.int64)  # ranks of windows of which something is lost
        self._lost = np.zeros(1)  # before each of these, and in all
        self._begin = self._end = np.zeros(0)  # of what is left of each of these

    def ranks(self, windows: Sequence[Numbers], sample: int) -> Numbers:
        """Rank of a box of windows, numbers along each axis; below 0 if they serve no origin."""
        place = np.ix_(*(of[w] for of, w in zip(self._place, windows, strict=True)))
        rank = np.ravel_multi_index([*place, sample], self._order.shape, mode="clip")
        return np.where(reduce(np.minimum, place) >= 0, rank, -1).reshape(-1)

    def at(self, place: Values) -> Numbers:
        """Return the ranks of the windows at places from 0 to the total weight."""
        if not len(self._lacking):
            return np.ravel_multi_index(self._order.at(place)[0], self._order.shape)
        i = np.searchsorted(self._begin, place, side="right") - 1
        inside = (i >= 0) & (place < self._end[i])
        index, _ = self._order.at(np.where(inside, 0, place + self._lost[i + 1]))
        return np.where(inside, self._lacking[i], np.ravel_multi_index(index, self._order.shape))

    def before(self, rank: int) -> float:
        """Where the window of a rank begins."""
        index = np.unravel_index(np.array([rank]), self._order.shape)
        lost = self._lost[np.searchsorted(self._lacking, rank)]
        return float(self._order.before(list(index))[0]) - float(lost)

    def without(self, rank: Numbers, weight: Values) -> Self:
        """Return the windows without some weights; each may be named once or repeatedly."""
        ranks, inverse = np.unique(rank[rank >= 0], return_inverse=True)
        lost = np.bincount(inverse, weight[rank >= 0])
        index = list(np.unravel_index(ranks, self._order.shape))
        full = np.prod([of[i] for of, i in zip(self._order.lengths, index, strict=True)], axis=0)
        left = np.where(full - lost > 1e-9 * full, full - lost, 0)  # rounding leaves no origin
        other = copy(self)
        other._lacking, other._lost = ranks, np.concatenate([[0.0], np.cumsum(lost)])
        other._begin = np.asarray(self._order.before(index), float) - other._lost[:-1]
        other._end = other._begin + left
        other.total = self.total - float(other._lost[-1])
        return other

    def numbers(self, rank: Numbers) -> list[Numbers]:
        """Return window numbers along each axis."""
        place = np.unravel_index(rank, self._order.shape)
        return [of[p] for of, p in zip(self.windows, place, strict=False)]

    def draw(self, rank: Numbers, fraction: Sequence[Values]) -> Numbers:
        """Return an origin ``(N, D)`` in each window, by a fraction for each axis."""
        columns = zip(self.axes, self.shifts, self.numbers(rank), fraction, strict=True)
        return np.stack([axis.draw(shift, w, f) for axis, shift, w, f in columns], axis=1)

    def box(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the first pixel of a window, ``(Z) Y X``, and one after its last."""
        columns = zip(self.axes, self.shifts, self.numbers(np.array(rank)), strict=True)
        ends = [axis.box(shift, number) for axis, shift, number in columns]
        return tuple(int(a) for a, _ in ends), tuple(int(b) for _, b in ends)

    def origins(self, rank: int) -> tuple[tuple[int, ...], Values]:
        """Return the first origin of a window, and the weight of each from there on."""
        start, stop = self.box(rank)
        weights = []
        for d, number in enumerate(self.numbers(np.array(rank))):
            every = np.arange(start[d], min(stop[d], self.axes[d].n_origins))
            weights.append(self.axes[d].weights(self.shifts[d], number, every, every + 1))
        return start, outer(weights)
