"""Where the pixels of a result go in an OME-Zarr array, and what of it is stored together."""

from collections.abc import Sequence
from math import ceil, prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.axes import Box, Layout

BLOCK = {2: (1024, 1024), 3: (64, 256, 256)}
"""What is written at once, ``(Z) Y X``: in format 3 a shard."""
CHUNK = {(2, 3): (256, 256), (3, 3): (16, 128, 128), (2, 2): (512, 512), (3, 2): (16, 256, 256)}
"""What is decoded at once, by dimensions of an image and format; without shards, larger."""
MOST = 2**27
"""Pixels that are written at once: blocks are in memory, and codecs take 2 GiB at most."""


class Parts(NamedTuple):
    """The shapes of chunks, and of the blocks of whole chunks in which they are written."""

    chunk: tuple[int, ...]
    block: tuple[int, ...]


class Choice(NamedTuple):
    """What a user wants to be stored together, ``(Z) Y X``; ``None``: the usual."""

    chunks: tuple[int, ...] | None = None
    shards: tuple[int, ...] | None = None


FREE = Choice()
"""What suits most images."""


def parts(size: Sequence[int], zarr_format: int, choice: Choice = FREE) -> Parts:
    """Divide an image of this size, ``(Z) Y X``; what is small is not padded to a whole block."""
    n = len(size)
    for name, chosen in choice._asdict().items():
        if chosen is not None and len(chosen) != n:
            kind, axes = ("volumes", "Z Y X") if n == 3 else ("planes", "Y X")
            raise DataError(
                f"writer.{name}={list(chosen)}: the images are predicted as {kind}, so give {n} "
                f"numbers ({axes})."
            )
    wanted = choice.chunks or CHUNK[n, zarr_format]
    chunk = tuple(min(c, s) for c, s in zip(wanted, size, strict=True))
    at_once = choice.shards or BLOCK[n]
    block = tuple(ceil(min(b, s) / c) * c for b, s, c in zip(at_once, size, chunk, strict=True))
    if prod(block) > MOST:
        raise DataError(
            f"writer: {prod(block)} pixels ({list(block)}) would be stored together, more than "
            f"{MOST}. Give smaller writer.chunks or writer.shards."
        )
    return Parts(chunk, block)


class ZarrLayout:
    """An image in the order of axes that OME-Zarr demands, ``T C Z Y X``, as far as it has them.

    All axes that are samples become T, the last one running fastest, as OME-Zarr knows no others.
    """

    def __init__(self, layout: Layout, volumes: bool) -> None:
        # Z has a dimension also where the network takes plane by plane.
        self._layout = Layout(layout.axes, layout.shape)
        self._volumes = volumes
        there = "T" * bool(self._layout.sample_axes) + "C" * ("C" in layout.axes)
        self.axes = there + self._layout.spatial_axes
        sizes = dict(zip("TCZYX" if self.has_z else "TCYX", self._layout.data_shape, strict=True))
        self.shape = tuple(sizes[axis] for axis in self.axes)

    @property
    def has_z(self) -> bool:
        """Whether there is an axis Z."""
        return self._layout.spatial_axes == "ZYX"

    def place(self, box: Box, pixels: NDArray[Any]) -> tuple[Box, NDArray[Any]]:
        """Return the box in the array, and its pixels, of a box of successive samples."""
        ordered = self._layout.to_canonical(pixels)
        where = dict(zip(self._layout.axes, box, strict=True))
        samples = self._layout.sample_axes
        if samples:
            starts = [where[axis].start for axis in samples]
            sizes = [self._layout.size(axis) for axis in samples]
            first = int(np.ravel_multi_index(starts, sizes))
            where["T"] = slice(first, first + len(ordered))
        target = tuple(where[axis] for axis in self.axes)
        return target, ordered.reshape([part.stop - part.start for part in target])

    def parts(self, shape: Sequence[int], zarr_format: int, choice: Choice = FREE) -> Parts:
        """Divide an array of these axes: a sample, channel and, of planes, plane each by itself."""
        n = 3 if self.has_z and self._volumes else 2
        chunk, block = parts(shape[-n:], zarr_format, choice)
        single = (1,) * (len(shape) - n)
        return Parts(single + chunk, single + block)
