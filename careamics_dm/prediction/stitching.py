"""Stitch predicted tiles into images, in any order of arrival."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.images.stack_view import layout_of


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
        self._missing: dict[int, int] = {}

    def add(self, output: Mapping[str, torch.Tensor]) -> None:
        """Put tiles where they belong: an output of ``predict_step``, see `stitch`."""
        tiles = output["prediction"].detach().cpu().float().numpy()
        for tile, region in zip(tiles, output["region"].tolist(), strict=True):
            image = region[0]
            layout = layout_of(self._stacks[image]).with_channels(len(tile))
            if image not in self._canvases:
                self._canvases[image] = np.empty(layout.shape, np.float32)
                self._missing[image] = prod(layout.shape)
            part = tile[(slice(None), *crop_in_tile(region))]
            box = layout.box(region[1], slice(0, len(tile)), *corners(region)[1:])
            self._canvases[image][box] = layout.from_box(part)
            self._missing[image] -= part.size

    def images(self) -> list[NDArray[np.float32]]:
        """Return the images; see `stitch`."""
        lacking = [stack.source for i, stack in enumerate(self._stacks) if self._missing.get(i, 1)]
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
