"""Origins of patches that masks, gaps or filters allow, as boxes or a bit each."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from careamics_dm.images.boxes import Boxes, gaps
from careamics_dm.sampling.chunk_grid import Axis, Values, WindowGrid, outer
from careamics_dm.sampling.keyed_random import Numbers, fractions

GROUP = 32
"""Bytes of a group of origins: 8 bytes of counts for each make a quarter more memory."""
FIRST_BIT = np.uint8(128)


class ValidOrigins:
    """The allowed origins of one sample of an image with gaps, as boxes that are disjoint.

    A patch may be drawn where all of its pixels were acquired: lie in ``boxes``, ``(Z) Y X``
    pixels, which may overlap. Memory depends on the number of boxes, not of pixels.
    """

    def __init__(self, boxes: Boxes, size: Sequence[int], patch_size: Sequence[int]) -> None:
        self.patch_size = tuple(patch_size)
        self.shape = tuple(max(n - p, 0) + 1 for n, p in zip(size, patch_size, strict=True))
        self.n_origins = prod(self.shape)
        self._forbidden: Boxes = []
        self.exclude(gaps(boxes, size))

    def exclude(self, boxes: Iterable[tuple[Sequence[int], Sequence[int]]]) -> None:
        """Forbid every origin whose patch would overlap one of these boxes of pixels."""
        near = [origins_near(box, self.patch_size, self.shape) for box in boxes]
        self._forbidden = self._forbidden + near  # not in place: a copy must not change
        allowed = gaps(self._forbidden, self.shape)
        corners = np.array(allowed, np.int64).reshape(len(allowed), 2, len(self.shape))
        self._start, self._stop = corners[:, 0], corners[:, 1]
        self._until = np.cumsum((self._stop - self._start).prod(axis=1))
        self.n_allowed = int(self._until.max(initial=0))
        self._apart = gaps(allowed, self.shape)  # what is forbidden, but disjoint

    def allows(self, starts: Numbers) -> NDArray[np.bool_]:
        """Whether each of ``(N, D)`` origins is allowed."""
        if not self.n_allowed:
            return np.zeros(len(starts), bool)
        box, strip = np.zeros(len(starts), np.int64), np.zeros(len(self._start), np.int64)
        for d, n in enumerate(self.shape):
            # Boxes lie in strips: those that begin alike end alike, and are apart along next axes.
            begin, strip = np.unique(strip * n + self._start[:, d], return_inverse=True)
            box = np.searchsorted(begin, box * n + starts[:, d], side="right") - 1
        inside = (starts >= self._start[box]) & (starts < self._stop[box])
        return np.asarray(inside.all(axis=1))

    def within(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.bool_]:
        """Whether each origin of a box is allowed, ``(Z) Y X``."""
        allowed = np.zeros([b - a for a, b in zip(start, stop, strict=True)], bool)
        boxes = np.stack([self._start, self._stop], axis=1) - np.array(start)
        boxes = np.clip(boxes, 0, allowed.shape)
        for box in boxes[(boxes[:, 0] < boxes[:, 1]).all(axis=1)].tolist():
            allowed[tuple(map(slice, *box))] = True
        return allowed

    def at(self, number: Numbers) -> Numbers:
        """Return allowed origins, ``(N, D)``, by their numbers, from 0 to below `n_allowed`."""
        box = np.searchsorted(self._until, number, side="right")
        left = self._until[box] - 1 - number
        found = np.empty((len(number), len(self.shape)), np.int64)
        for d in range(len(self.shape) - 1, -1, -1):
            start, stop = self._start[box, d], self._stop[box, d]
            left, found[:, d] = left // (stop - start), start + left % (stop - start)
        return found

    def totals(self, axes: Sequence[Axis]) -> Values:
        """Add up the weights of allowed origins, by the shift along each axis."""
        total = outer(axis.totals() for axis in axes)
        for box in self._apart:
            ends = zip(axes, *box, strict=True)
            total = total - outer(axis.totals(start, stop) for axis, start, stop in ends)
        return total

    def lost(self, grid: WindowGrid, sample: int) -> tuple[Numbers, Values]:
        """Return the windows, by rank, that reach forbidden origins, and the weight of these."""
        ranks, weights = [np.zeros(0, np.int64)], [np.zeros(0)]
        for box in self._apart:
            near, weight = [], []
            for axis, shift, start, stop in zip(grid.axes, grid.shifts, *box, strict=True):
                ends = [(at // axis.unit + shift) // axis.m for at in (start, stop - 1)]
                near.append(np.arange(ends[0], ends[1] + 1))
                weight.append(axis.weights(shift, near[-1], start, stop))
            ranks.append(grid.ranks(near, sample))
            weights.append(outer(weight).reshape(-1))
        return np.concatenate(ranks), np.concatenate(weights)


def total_weights(axes: Sequence[Axis], n_samples: int, masks: Sequence["Allowed"]) -> Values:
    """Add up the weights of samples, of which some have masks, by the shift along each axis."""
    total = (n_samples - len(masks)) * outer(axis.totals() for axis in axes)
    for mask, n in Counter(masks).items():  # several samples may have the same
        total = total + n * mask.totals(axes)
    return np.maximum(total, 0)


def origins_near(
    box: tuple[Sequence[int], Sequence[int]], patch_size: Sequence[int], shape: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Origins, as a box among ``shape`` of them, whose patch overlaps a box of pixels."""
    start, stop = (np.clip(end, 0, shape) for end in (np.subtract(box[0], patch_size) + 1, box[1]))
    return tuple(start.tolist()), tuple(stop.tolist())


class OriginBits:
    """Origins of one sample, a bit each; `allow` sets some, at first none is set.

    All are in a row, in groups that are counted and searched as one.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape, self.n_origins = tuple(shape), prod(shape)
        self.bits = np.zeros((-(-self.n_origins // (8 * GROUP)), GROUP), np.uint8)

    def allow(self, first: int, allowed: NDArray[np.bool_]) -> None:
        """Allow origins of a slab that begins at ``first``, a multiple of 8, on the first axis."""
        bits = np.packbits(allowed.reshape(-1))
        begin = first * prod(self.shape[1:]) // 8
        self.bits.reshape(-1)[begin : begin + len(bits)] |= bits


class OriginMask(OriginBits):
    """The allowed origins of one sample of an image with a mask.

    A patch may be drawn where the mask, ``(Z) Y X``, is non-zero at the patch's central pixel
    (index ``size // 2`` along each axis; the central pixel of an axis that is shorter than the
    patch).
    """

    def __init__(self, mask: NDArray[Any], patch_size: Sequence[int]) -> None:
        centre = tuple(
            slice(p // 2, p // 2 + n - p + 1) if n >= p else slice(n // 2, n // 2 + 1)
            for n, p in zip(mask.shape, patch_size, strict=True)
        )
        allowed = mask[centre] != 0
        super().__init__(allowed.shape)
        self.patch_size = tuple(patch_size)
        self.allow(0, allowed)
        self._count()

    def _count(self) -> None:
        self._until = _count_until(self.bits)
        self.n_allowed = int(self._until[-1])
        self._by_kind: tuple[Sequence[Axis], Numbers] | None = None

    def exclude(self, boxes: Iterable[tuple[Sequence[int], Sequence[int]]]) -> None:
        """Forbid every origin whose patch would overlap one of these boxes of pixels."""
        flat = self.bits.reshape(-1)
        for box in boxes:
            start, stop = origins_near(box, self.patch_size, self.shape)
            near = [np.arange(a, b) for a, b in zip(start, stop, strict=True)]
            origin = np.ravel_multi_index(np.ix_(*near), self.shape).reshape(-1)
            np.bitwise_and.at(flat, origin >> 3, ~(FIRST_BIT >> (origin & 7).astype(np.uint8)))
        self._count()

    def allows(self, starts: Numbers) -> NDArray[np.bool_]:
        """Whether each of ``(N, D)`` origins is allowed."""
        origin = np.ravel_multi_index(tuple(starts.T), self.shape)
        bits = self.bits.reshape(-1)[origin >> 3] & (FIRST_BIT >> (origin & 7).astype(np.uint8))
        return np.asarray(bits != 0)

    def within(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.bool_]:
        """Whether each origin of a box is allowed, ``(Z) Y X``."""
        row = prod(self.shape[1:])
        a, b = start[0] * row, stop[0] * row
        bits = np.unpackbits(self.bits.reshape(-1)[a >> 3 : -(-b >> 3)])[a & 7 : (a & 7) + b - a]
        rest = tuple(map(slice, start[1:], stop[1:]))
        return np.asarray(bits.reshape(-1, *self.shape[1:])[(slice(None), *rest)] != 0)

    def at(self, number: Numbers) -> Numbers:
        """Return allowed origins, ``(N, D)``, by their numbers, from 0 to below `n_allowed`."""
        place = _find_allowed(self.bits, self._until, number)
        return np.stack(np.unravel_index(place, self.shape), axis=1)

    def totals(self, axes: Sequence[Axis]) -> Values:
        """Add up the weights of allowed origins, by the shift along each axis."""
        matrices = [np.stack([_by_kind(axis, k)[0] for k in range(axis.m)]) for axis in axes]
        return _contract(self._count_by_kind(axes), matrices)

    def lost(self, grid: WindowGrid, sample: int) -> tuple[Numbers, Values]:
        """Return all windows, by rank, and the weight of the forbidden origins of each."""
        matrices, full = [], []
        for axis, shift in zip(grid.axes, grid.shifts, strict=True):
            (weights, window), every = _by_kind(axis, shift), np.arange(axis.n_windows(shift))
            matrices.append(np.where(window == every[:, None], weights, 0.0))
            full.append(axis.weights(shift, every))
        lost = outer(full) - _contract(self._count_by_kind(grid.axes), matrices)
        return grid.ranks([*map(np.arange, lost.shape)], sample), np.maximum(lost.reshape(-1), 0)

    def _count_by_kind(self, axes: Sequence[Axis]) -> Numbers:
        """Count allowed origins by block, and kind of origin (see `Axis`), along each axis."""
        if self._by_kind is None or self._by_kind[0] != axes:
            first, *edges = [_edges(axis) for axis in axes]
            slabs = []
            for start, stop in pairwise([*first.tolist(), self.shape[0]]):
                slab = self.within([start, *[0] * len(edges)], [stop, *self.shape[1:]])
                counts = slab.sum(axis=0, dtype=np.int64)
                for d, edge in enumerate(edges):
                    counts = np.add.reduceat(counts, edge, axis=d)
                slabs.append(counts)
            self._by_kind = axes, np.stack(slabs)
        return self._by_kind[1]


def _contract(counts: Numbers, matrices: Sequence[Values]) -> Values:
    """Multiply each axis of an array by a matrix, ``(new, old)``."""
    found = counts.astype(float)
    for matrix in matrices:  # the axis that is done goes last
        found = np.tensordot(found, matrix, (0, 1))
    return found


def _edges(axis: Axis) -> Numbers:
    """First origins of each block and kind along an axis; see `Axis`."""
    block = np.arange(0, axis.n_origins, axis.unit)
    edges = np.concatenate([block + offset for offset, _, _ in axis.kinds])
    return np.sort(edges[edges < axis.n_origins])


def _by_kind(axis: Axis, shift: int) -> tuple[Values, Numbers]:
    """Return the weight that each origin of each block and kind has, and their window."""
    edges = _edges(axis)
    window = (edges // axis.unit + shift) // axis.m
    return axis.weights(shift, window, edges, edges + 1), window


Allowed = OriginMask | ValidOrigins
Masks = Mapping[tuple[int, int], Allowed]
"""By image and sample, where patches may lie, if not everywhere."""


class OriginMasks:
    """The allowed origins of several samples, drawn from as one.

    ``numbers``, ``(M, 2)``, are the region, and the sample of it, that each mask is of.
    """

    def __init__(self, masks: Sequence[OriginBits], numbers: Numbers) -> None:
        self._numbers = numbers
        self._shapes = np.array([mask.shape for mask in masks], np.int64)
        n_groups = [len(mask.bits) for mask in masks]
        self._first = np.cumsum([0, *n_groups])
        self._of_group = np.repeat(np.arange(len(masks)), n_groups)
        self._bits = np.concatenate([mask.bits for mask in masks])
        self._until = _count_until(self._bits)
        self.n_allowed = int(self._until[-1])

    def draw(self, key: np.uint64, numbers: Numbers) -> Numbers:
        """Draw uniformly, for each number: region, sample in it, and origin, ``(N, 2 + D)``."""
        rank = (fractions(key, numbers) * self.n_allowed).astype(np.int64)
        rest = _find_allowed(self._bits, self._until, rank)
        mask = self._of_group[rest // (8 * GROUP)]
        rest -= self._first[mask] * 8 * GROUP
        places = np.empty((len(rank), 2 + self._shapes.shape[1]), np.int64)
        places[:, :2] = self._numbers[mask]
        for d in range(self._shapes.shape[1] - 1, -1, -1):
            rest, places[:, 2 + d] = np.divmod(rest, self._shapes[mask, d])
        return places


def _count_until(bits: NDArray[np.uint8]) -> Numbers:
    """Count what is allowed before each group, and in all."""
    counts = np.bitwise_count(bits.view(np.uint64)).sum(axis=1, dtype=np.int64)
    return np.concatenate([[0], np.cumsum(counts)])


def _find_allowed(bits: NDArray[np.uint8], until: Numbers, rank: Numbers) -> Numbers:
    """Find allowed origins by their rank among these: numbers among all bits."""
    found = np.empty(len(rank), np.int64)
    for i in range(0, len(rank), 4096):  # bounded memory
        part = rank[i : i + 4096]
        group = np.searchsorted(until, part, side="right") - 1
        within = part - until[group]
        octets = bits[group]
        octet, within = _find(np.bitwise_count(octets), within)
        row = np.arange(len(part))
        bit, _ = _find(np.unpackbits(octets[row, octet, None], axis=1), within)
        found[i : i + 4096] = (group * GROUP + octet) * 8 + bit
    return found


def _find(counts: NDArray[np.uint8], rank: Numbers) -> tuple[Numbers, Numbers]:
    """Column in which each row's running count exceeds a rank; and the rank within that column."""
    until = np.cumsum(counts, axis=1, dtype=np.uint16)
    column = (until > rank[:, None]).argmax(axis=1)
    row = np.arange(len(rank))
    return column, rank - until[row, column] + counts[row, column]
