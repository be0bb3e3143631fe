"""Predicted tiles back into images, in any order of arrival."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from careamics_dm.axes import DataError, Layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch
    from numpy.typing import NDArray

    from careamics_dm.image_stack import ImageStack


class Canvas(Protocol):
    """What tiles are put on: an array in the order of the file, in memory or mapped."""

    def __setitem__(self, box: Any, pixels: NDArray[Any], /) -> None:
        """Put pixels into a box."""


class Placement:
    """Puts the tiles of one image on a canvas and knows when it is complete.

    Parameters
    ----------
    stack : ImageStack
        The image that was predicted.
    n_channels : int
        Channels of the prediction.

    Attributes
    ----------
    layout : Layout
        Axes and shape of the output: those of the image, with the channels of the prediction.
    """

    def __init__(self, stack: ImageStack, n_channels: int) -> None:
        on_disk = Layout(stack.original_axes, tuple(stack.original_data_shape))
        self.layout = on_disk.with_channels(n_channels)
        samples, _, *size = self.layout.data_shape
        self.missing = samples * prod(size)

    @property
    def complete(self) -> bool:
        """Whether every pixel has arrived."""
        return self.missing == 0

    def put(self, canvas: Canvas, tile: NDArray[Any], region: Sequence[int]) -> None:
        """Put the part of a tile that it keeps where it belongs.

        Parameters
        ----------
        canvas : array
            Of the axes and shape of ``layout``.
        tile : ndarray
            ``C (Z) Y X``.
        region : sequence of int
            A row of the batch's ``region``: image, sample, tile start, crop start, crop stop.
        """
        n = len(self.layout.spatial_axes)
        start, first, stop = (np.array(region[2 + n * i : 2 + n * (i + 1)]) for i in range(3))
        inner = tuple(slice(a, b) for a, b in zip(first - start, stop - start, strict=True))
        everything = slice(0, self.layout.size("C"))
        box = self.layout.box(region[1], everything, first.tolist(), stop.tolist())
        canvas[box] = self.layout.from_box(tile[(slice(None), *inner)])
        self.missing -= prod((stop - first).tolist())


def stitch(
    outputs: Iterable[Mapping[str, torch.Tensor]], stacks: Sequence[ImageStack]
) -> list[NDArray[np.float32]]:
    """Stitch what ``trainer.predict`` returned into images.

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
        Tiles of an image are missing, or there are some twice.
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
    lacking = [
        s.source for i, s in enumerate(stacks) if i in placements and not placements[i].complete
    ]
    lacking += [stack.source for i, stack in enumerate(stacks) if i not in placements]
    if lacking:
        raise DataError(
            f"tiles are missing, or there twice, of {', '.join(lacking[:5])}"
            f"{', ...' if len(lacking) > 5 else ''}. Stitch all outputs of one prediction at once."
        )
    return [canvases[i] for i in range(len(stacks))]
