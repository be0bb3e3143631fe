"""The extent of an image: what its patches are planned from."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Extent(NamedTuple):
    """What planning needs of an image."""

    samples: int  # length of S
    size: tuple[int, ...]  # (Z) Y X, pixels
    block: tuple[int, ...]  # stored unit, (Z) Y X, pixels
    pixel_bytes: int  # bytes per pixel over all channels, target included
    in_memory: bool  # patches are views: reading costs nothing
    samples_per_block: int = 1
    """Successive samples that are stored as a unit, so that they are read together."""

    @property
    def together(self) -> int:
        """Samples that are read together."""
        return 1 if self.in_memory else max(min(self.samples_per_block, self.samples), 1)

    @property
    def sample_bytes(self) -> int:
        """Bytes that a decoded sample takes; 0 in memory."""
        return 0 if self.in_memory else prod(self.size) * self.pixel_bytes


class Extents(Sequence[Extent]):
    """The extents of many images, most of which are alike: each kind is there once.

    So what follows from an extent is worked out once for each of the ``kinds``; ``kind`` is the
    number of that of each image.
    """

    kinds: list[Extent]
    kind: NDArray[np.int64]

    def __init__(self, extents: Iterable[Extent]) -> None:
        if isinstance(extents, Extents):
            self.kinds, self.kind = extents.kinds, extents.kind
            return
        number: dict[Extent, int] = {}
        self.kind = np.array([number.setdefault(e, len(number)) for e in extents], np.int64)
        self.kinds = [*number]

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, image: Any) -> Any:
        return self.kinds[self.kind[image]]

    def each(self, value: Callable[[Extent], Any]) -> NDArray[Any]:
        """Return a number, or several, of each image."""
        return np.array([value(kind) for kind in self.kinds])[self.kind]

    def changed(self, change: Callable[[Extent], Extent]) -> "Extents":
        """Return the images with other extents."""
        other = Extents(change(kind) for kind in self.kinds)
        other.kind = other.kind[self.kind]
        return other

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """Number, through all images, of the first sample of each."""
        n = self.each(lambda extent: extent.samples)
        found: NDArray[np.int64] = np.cumsum(n) - n
        return found

    def samples(self, chosen: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Return image and index of every sample, ``(2, N)``, image by image; of chosen ones."""
        n = self.each(lambda extent: extent.samples)
        image = np.repeat(np.arange(len(self)), n)
        every = np.stack([image, np.arange(len(image)) - self.first[image]])
        return every if chosen is None else every[:, chosen]
