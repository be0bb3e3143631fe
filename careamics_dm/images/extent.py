"""The extent of an image: what its patches are planned from."""

from math import prod
from typing import NamedTuple


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
