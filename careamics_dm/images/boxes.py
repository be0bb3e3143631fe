"""Boxes of pixels, and what several of them leave or have in common."""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from math import ceil, prod
from typing import Any

Place = tuple[int, ...]  # of a block in a grid
Part = tuple[slice, ...]  # of an array
Boxes = list[tuple[tuple[int, ...], tuple[int, ...]]]  # start and stop of each, (Z) Y X, pixels


def gaps(boxes: Boxes, size: Sequence[int]) -> Boxes:
    """Return disjoint boxes that cover what the boxes, which may overlap, leave of ``size``."""
    inside = [
        (tuple(max(a, 0) for a in start), tuple(min(b, n) for b, n in zip(stop, size, strict=True)))
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


def blocks_in(box: Sequence[slice], block: Sequence[int]) -> Iterator[tuple[Place, Part]]:
    """Yield the blocks of a regular grid that a box meets: the place of each, and what it meets."""
    met = [range(s.start // b, ceil(s.stop / b)) for s, b in zip(box, block, strict=True)]
    for place in product(*met):
        columns = zip(box, block, place, strict=True)
        part = [slice(max(s.start, i * b), min(s.stop, i * b + b)) for s, b, i in columns]
        yield place, tuple(part)


def seen_from(origin: Sequence[int], box: Sequence[slice]) -> Part:
    """Return a box in coordinates that start at ``origin``."""
    return tuple(slice(s.start - o, s.stop - o) for s, o in zip(box, origin, strict=True))
