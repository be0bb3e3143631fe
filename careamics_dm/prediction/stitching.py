"""Stitch predicted tiles into images, in any order of arrival."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.images.stack_view import layout_of


class Placement:
    """Put the tiles of one image into an array with this ``layout``; count missing pixels."""

    def __init__(self, stack: ImageStack, n_channels: int) -> None:
        self.layout = layout_of(stack).with_channels(n_channels)
        samples, _, *size = self.layout.data_shape
        self.missing = samples * prod(size)

    @property
    def complete(self) -> bool:
        """Whether every pixel has arrived."""
        return self.missing == 0

    def put(self, canvas: NDArray[Any], tile: NDArray[Any], region: Sequence[int]) -> None:
        """Put the cropped part of a tile ``C (Z) Y X`` where its ``region`` says."""
        _, first, stop = _corners(region)
        everything = slice(0, self.layout.size("C"))
        box = self.layout.box(region[1], everything, first, stop)
        canvas[box] = self.layout.from_box(tile[(slice(None), *crop_in_tile(region))])
        self.missing -= prod(b - a for a, b in zip(first, stop, strict=True))


def crop_in_tile(region: Sequence[int]) -> tuple[slice, ...]:
    """Return the slices of (Z), Y, X of a tile that its ``region`` keeps, in pixels of the tile."""
    return tuple(slice(a - s, b - s) for s, a, b in zip(*_corners(region), strict=True))


def _corners(region: Sequence[int]) -> list[list[int]]:
    """Return tile start, crop start and crop stop, ``(Z) Y X``, in pixels of the image."""
    n = (len(region) - 2) // 3
    return [list(region[2 + n * i : 2 + n * (i + 1)]) for i in range(3)]


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
    canvases: dict[int, NDArray[np.float32]] = {}
    placements: dict[int, Placement] = {}
    for output in outputs:
        tiles = output["prediction"].detach().cpu().float().numpy()
        for tile, region in zip(tiles, output["region"].tolist(), strict=True):
            image = region[0]
            if image not in placements:
                placement = placements[image] = Placement(stacks[image], len(tile))
                canvases[image] = np.empty(placement.layout.shape, np.float32)
            placements[image].put(canvases[image], tile, region)
    complete = {image for image, placement in placements.items() if placement.complete}
    lacking = [stack.source for i, stack in enumerate(stacks) if i not in complete]
    if lacking:
        raise DataError(
            f"tiles are missing, or come twice, of {', '.join(lacking[:5])}"
            f"{', ...' if len(lacking) > 5 else ''}. Stitch all outputs of one prediction at once."
        )
    return [canvases[i] for i in range(len(stacks))]
