"""How the planes of a scene of a CZI are numbered, and what their pixels are."""

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


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
