"""Stitch predicted tiles into images, in any order of arrival."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.axes import Box
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.images.stack_view import layout_of


class Placement:
    """Where the tiles of one image go in an array with this ``layout``; count missing pixels."""

    def __init__(self, stack: ImageStack, n_channels: int) -> None:
        self.layout = layout_of(stack).with_channels(n_channels)
        samples, _, *size = self.layout.data_shape
        self.missing = samples * prod(size)

    @property
    def complete(self) -> bool:
        """Whether every pixel has arrived."""
        return self.missing == 0

    def place(self, tile: NDArray[Any], region: Sequence[int]) -> tuple[Box, NDArray[Any]]:
        """Return the box where the part of a tile ``C (Z) Y X`` goes that is kept, and this part.

        ``region`` is that of the tile. Counts it as arrived.
        """
        _, first, stop = corners(region)
        everything = slice(0, self.layout.size("C"))
        self.missing -= prod(b - a for a, b in zip(first, stop, strict=True))
        kept = self.layout.from_box(tile[(slice(None), *crop_in_tile(region))])
        return self.layout.box(region[1], everything, first, stop), kept


def crop_in_tile(region: Sequence[int]) -> tuple[slice, ...]:
    """Return the slices of (Z), Y, X of a tile that its ``region`` keeps, in pixels of the tile."""
    return tuple(slice(a - s, b - s) for s, a, b in zip(*corners(region), strict=True))


def corners(region: Sequence[int]) -> list[list[int]]:
    """Return tile start, crop start and crop stop, ``(Z) Y X``, in pixels of the image."""
    n = (len(region) - 2) // 3
    return [list(region[2 + n * i : 2 + n * (i + 1)]) for i in range(3)]


class Stitching:
    """Images that are being stitched from the outputs of a prediction, in any order.

    Parameters
    ----------
    stacks : sequence of ImageStack
        The images that are predicted.
    """

    def __init__(self, stacks: Sequence[ImageStack]) -> None:
        self._stacks = stacks
        self._canvases: dict[int, NDArray[np.float32]] = {}
        self._placements: dict[int, Placement] = {}

    def add(self, output: Mapping[str, torch.Tensor]) -> None:
        """Put tiles where they belong: an output of ``predict_step``, see `stitch`."""
        tiles = output["prediction"].detach().cpu().float().numpy()
        for tile, region in zip(tiles, output["region"].tolist(), strict=True):
            image = region[0]
            if image not in self._placements:
                placement = Placement(self._stacks[image], len(tile))
                self._placements[image] = placement
                self._canvases[image] = np.empty(placement.layout.shape, np.float32)
            box, pixels = self._placements[image].place(tile, region)
            self._canvases[image][box] = pixels

    def images(self) -> list[NDArray[np.float32]]:
        """Return the images; see `stitch`."""
        lacking = [
            stack.source
            for i, stack in enumerate(self._stacks)
            if i not in self._placements or not self._placements[i].complete
        ]
        if lacking:
            raise DataError(
                f"tiles are missing, or come twice, of {', '.join(lacking[:5])}"
                f"{', ...' if len(lacking) > 5 else ''}. Stitch all outputs of one prediction at "
                "once."
            )
        return [self._canvases[i] for i in range(len(self._stacks))]


def stitch(
    outputs: Iterable[Mapping[str, torch.Tensor]], stacks: Sequence[ImageStack]
) -> list[NDArray[np.float32]]:
    """Stitch the outputs of ``trainer.predict`` into images.

    Parameters
    ----------
    outputs : iterable of dict
        ``prediction`` ``(N, C, (Z), Y, X)`` and ``region`` ``(N, 2 + 3 D)``, a dict per batch,
        in any order.
    stacks : sequence of ImageStack
        The images that were predicted: ``datamodule.predict_stacks``.

    Returns
    -------
    list of ndarray
        float32, one per image, with the axes and shape of the source.

    Raises
    ------
    DataError
        If tiles of an image are missing or come twice.
    """
    stitching = Stitching(stacks)
    for output in outputs:
        stitching.add(output)
    return stitching.images()
