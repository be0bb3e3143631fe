"""The planes of a scene of a CZI: how they are numbered, and where they were acquired.

Mosaics have gaps, experiments have missing planes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from careamics_dm.formats.czi.directory import SubBlocks
from careamics_dm.images.boxes import Boxes, common, gaps


class PixelType(NamedTuple):
    """A pixel type of CZI, as pylibCZIrw names it."""

    name: str
    dtype: str
    n_samples: int  # 3 for colours, which are stored in the order B, G, R


PIXEL_TYPES = {
    0: PixelType("Gray8", "uint8", 1),
    1: PixelType("Gray16", "uint16", 1),
    2: PixelType("Gray32Float", "float32", 1),
    3: PixelType("Bgr24", "uint8", 3),
    4: PixelType("Bgr48", "uint16", 3),
}
"""What can be read, by its number in the file."""


Indices = range | tuple[int, ...]
"""Indices that a dimension has in the file, ascending; they need not start at 0."""


def indices_of(values: NDArray[np.int64]) -> Indices:
    """Collect the different values: as a range where they are evenly spaced, as it is small."""
    found: list[int] = np.unique(values).tolist()
    step = found[1] - found[0] if len(found) > 1 else 1
    even = range(found[0], found[-1] + 1, step)
    return even if list(even) == found else tuple(found)


@dataclass(frozen=True)
class SceneLayout:
    """Which planes a scene has, and where it lies."""

    path: str
    scene: int | None  # None in files without scenes
    origin: tuple[int, int]
    """``Y X`` of the top left pixel in the coordinates of the file, which may be negative."""
    size: tuple[int, int]  # Y X, pixels
    samples: tuple[tuple[str, Indices], ...]
    """Dimensions that fold into samples; the last one runs fastest."""
    depth: tuple[tuple[str, Indices], ...]  # the dimension that is depth; empty for planes
    channels: Indices  # along C
    pixel_types: tuple[int, ...]  # of each channel; see `PIXEL_TYPES`

    @property
    def dimensions(self) -> tuple[tuple[str, Indices], ...]:
        """All that number the planes; the last one, C, runs fastest."""
        return (*self.samples, *self.depth, ("C", self.channels))

    @property
    def lengths(self) -> tuple[int, int, int]:
        """Samples, depth and channels of the file."""
        n_samples, n_depth = (prod(len(i) for _, i in d) for d in (self.samples, self.depth))
        return n_samples, n_depth, len(self.channels)

    @property
    def components(self) -> list[tuple[int, int]]:
        """Per channel of the image: the channel of the file, and the component of its pixels."""
        return [
            (c, component)
            for c, number in enumerate(self.pixel_types)
            for component in ((2, 1, 0) if PIXEL_TYPES[number].n_samples == 3 else (0,))
        ]

    def plane(self, sample: int, z: int, channel: int) -> dict[str, int]:
        """Return what libCZI calls a plane: an index per dimension."""
        places = np.unravel_index(sample, [len(i) for _, i in self.samples] or [1])
        plane = {d: i[int(p)] for (d, i), p in zip(self.samples, places, strict=False)}
        plane |= {letter: indices[z] for letter, indices in self.depth}
        return plane | {"C": self.channels[channel]}


class Coverage:
    """The boxes of each plane that were acquired; inside, rows of top, left, bottom, right."""

    def __init__(self, blocks: SubBlocks, layout: SceneLayout) -> None:
        self.size = layout.size
        self.lengths = layout.lengths
        number = np.zeros(len(blocks), np.int64)
        for letter, indices in layout.dimensions:
            # Without the dimension, all lie at its one place.
            found = blocks.index.get(letter, indices[0])
            number = number * len(indices) + np.searchsorted(np.array(indices), found)
        order = np.argsort(number, kind="stable")
        boxes = np.concatenate([blocks.start - layout.origin, blocks.stop - layout.origin], axis=1)
        self._boxes = boxes[order]
        planes = np.arange(int(np.prod(self.lengths)) + 1)
        self._first = np.searchsorted(number[order], planes)
        self._found: dict[frozenset[bytes], Boxes | None] = {}
        # Whether every plane is one sub-block of the size of the image.
        whole = (self._boxes == (0, 0, *self.size)).all()
        self.is_simple = bool(whole and (np.diff(self._first) == 1).all())

    def region(self, sample: int, channels: Sequence[int]) -> Boxes | None:
        """Return the boxes, ``Z Y X``, that all some channels have of a sample; ``None``: all."""
        planes = [self._common(sample, z, channels) for z in range(self.lengths[1])]
        if all(boxes is None for boxes in planes):
            return None
        found: Boxes = []
        # Neighbours in depth with the same boxes are one.
        for _, run in groupby(enumerate(planes), key=lambda item: id(item[1])):
            members = list(run)
            first, last, boxes = members[0][0], members[-1][0], members[0][1]
            for start, stop in [((0, 0), self.size)] if boxes is None else boxes:
                found.append(((first, *start), (last + 1, *stop)))
        return found

    def _common(self, sample: int, z: int, channels: Sequence[int]) -> Boxes | None:
        """Boxes of one plane that all channels have; None: all of the plane."""
        _, n_depth, n_channels = self.lengths
        first = (sample * n_depth + z) * n_channels
        rows = [self._boxes[self._first[first + c] : self._first[first + c + 1]] for c in channels]
        key = frozenset(boxes.tobytes() for boxes in rows)
        if key not in self._found:  # most planes are alike
            regions: list[Boxes] = [[((y, x), (v, u)) for y, x, v, u in of.tolist()] for of in rows]
            one = regions[0] if gaps(regions[0], self.size) else None
            self._found[key] = one if len(key) == 1 else common(regions, self.size)
        return self._found[key]
