"""Where an image with gaps allows patches: origins whose patch lies in what was acquired."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from careamics_dm.image_stack import Boxes


class ValidOrigins:
    """The allowed origins of one sample of an image with gaps, as boxes that are disjoint.

    A patch may be drawn where all of its pixels were acquired. Origins are drawn exactly
    uniformly, without rejection, and memory depends on the number of boxes, not of pixels.

    Parameters
    ----------
    boxes : list of (start, stop)
        What was acquired, ``(Z) Y X``, pixels; they may overlap.
    size : sequence of int
        Of the image, ``(Z) Y X``, pixels.
    patch_size : sequence of int
        ``(Z) Y X``, pixels.

    Attributes
    ----------
    forbidden : list of (start, stop)
        Boxes of origins that are not allowed; they may overlap.
    """

    def __init__(self, boxes: Boxes, size: Sequence[int], patch_size: Sequence[int]) -> None:
        self.patch_size = tuple(patch_size)
        self.shape = tuple(max(n - p, 0) + 1 for n, p in zip(size, patch_size, strict=True))
        self.forbidden: Boxes = []
        self.exclude(gaps(boxes, size))

    def exclude(self, boxes: Iterable[tuple[Sequence[int], Sequence[int]]]) -> None:
        """Forbid every origin whose patch would overlap one of these boxes of pixels."""
        near = [origins_near(box, self.patch_size, self.shape) for box in boxes]
        self.forbidden = self.forbidden + near  # not in place: a copy must not change
        allowed = gaps(self.forbidden, self.shape)
        corners = np.array(allowed, np.int64).reshape(len(allowed), 2, len(self.shape))
        self._start, self._stop = corners[:, 0], corners[:, 1]
        self._until = np.cumsum((self._stop - self._start).prod(axis=1))

    @property
    def n_origins(self) -> int:
        """How many origins there are."""
        return prod(self.shape)

    @property
    def n_allowed(self) -> int:
        """How many are allowed."""
        return int(self._until[-1]) if len(self._until) else 0

    def allows(self, starts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of ``(N, D)`` origins is allowed."""
        allowed = np.zeros(len(starts), bool)
        order = np.argsort(starts[:, 0], kind="stable")
        ordered = starts[order]
        # Boxes are flat along the first axis: each is asked only for what lies at its height.
        first = np.searchsorted(ordered[:, 0], self._start[:, 0])
        last = np.searchsorted(ordered[:, 0], self._stop[:, 0])
        rows = zip(first.tolist(), last.tolist(), self._start, self._stop, strict=True)
        for a, b, start, stop in rows:
            at = ordered[a:b, 1:]
            inside = ((at >= start[1:]) & (at < stop[1:])).all(axis=1)
            allowed[order[a:b][inside]] = True
        return allowed

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw ``(n, D)`` allowed origins, all equally likely."""
        if n == 0:
            return np.zeros((0, len(self.shape)), np.int64)
        box = np.searchsorted(self._until, rng.integers(self.n_allowed, size=n), side="right")
        drawn: NDArray[np.int64] = rng.integers(self._start[box], self._stop[box])
        return drawn


def origins_near(
    box: tuple[Sequence[int], Sequence[int]], patch_size: Sequence[int], shape: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Origins, as a box among ``shape`` of them, whose patch overlaps a box of pixels."""
    start = [min(max(a - p + 1, 0), n) for a, p, n in zip(box[0], patch_size, shape, strict=True)]
    stop = [max(min(b, n), 0) for b, n in zip(box[1], shape, strict=True)]
    return tuple(start), tuple(stop)


def gaps(boxes: Boxes, size: Sequence[int]) -> Boxes:
    """Return disjoint boxes that cover what the boxes, which may overlap, leave of ``size``.

    Parameters
    ----------
    boxes : list of (start, stop)
        Pixels; what lies outside ``size`` is ignored.
    size : sequence of int
        As many numbers as each start and stop.

    Returns
    -------
    list of (start, stop)
        Empty where nothing is left.
    """
    inside = [
        (
            tuple(max(a, 0) for a in start),
            tuple(min(b, n) for b, n in zip(stop, size, strict=True)),
        )
        for start, stop in boxes
    ]
    inside = [box for box in inside if all(a < b for a, b in zip(*box, strict=True))]
    return _gaps(inside, tuple(size))


def _gaps(boxes: Boxes, size: tuple[int, ...]) -> Boxes:
    """Sweep along the first axis: between two edges of boxes, the rest is one axis less."""
    if not boxes:
        return [((0,) * len(size), size)]
    edges = sorted({0, size[0], *(edge for start, stop in boxes for edge in (start[0], stop[0]))})
    found: Boxes = []
    before: tuple[Any, ...] | None = None
    waiting, at = sorted(boxes, key=lambda box: box[0][0]), 0
    active: Boxes = []
    for low, high in pairwise(edges):
        active = [box for box in active if box[1][0] > low]
        while at < len(waiting) and waiting[at][0][0] == low:
            active.append(waiting[at])
            at += 1
        if len(size) == 1:
            rest: Boxes = [] if active else [((), ())]
        else:
            rest = _gaps([(start[1:], stop[1:]) for start, stop in active], size[1:])
        if before is not None and rest == before[1]:  # the strip goes on
            found[len(found) - len(rest) :] = [((before[0], *a), (high, *b)) for a, b in rest]
        else:
            found += [((low, *a), (high, *b)) for a, b in rest]
            before = (low, rest)
    return found


def common(regions: Sequence[Boxes | None], size: Sequence[int]) -> Boxes | None:
    """Return what several regions have in common; ``None`` is all of ``size``."""
    different = [boxes for i, boxes in enumerate(regions) if boxes not in regions[:i]]
    lacking = [gap for boxes in different if boxes is not None for gap in gaps(boxes, size)]
    return gaps(lacking, size) if lacking else None


def n_pixels(boxes: Boxes) -> int:
    """Count the pixels of disjoint boxes."""
    return sum(prod(b - a for a, b in zip(*box, strict=True)) for box in boxes)
