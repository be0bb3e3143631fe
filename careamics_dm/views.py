"""The part of an image that a picture shows, and what a model makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from careamics_dm.plots import middle_plane
from careamics_dm.regions import Region, read_region

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from careamics_dm.datamodule import PatchDataModule
    from careamics_dm.image_stack import ImageStack
    from careamics_dm.images import Images
    from careamics_dm.models.base import RestorationModule

VIEW = {"Y": 512, "X": 512, "Z": 32}
"""A picture shows at most so many pixels per axis, from the middle of an image."""


def middle(stack: ImageStack, view: Mapping[str, int] = VIEW) -> Region:
    """Return the middle of the first sample, as much of it as a picture shows.

    Parameters
    ----------
    stack : ImageStack
        The image.
    view : mapping of str to int
        Pixels along ``Y``, ``X`` and ``Z``, at most.

    Returns
    -------
    Region
        Of image 0.
    """
    size = tuple(stack.data_shape[2:])
    return around(Region(0, 0, (0,) * len(size), size), stack, view)


def around(patch: Region, stack: ImageStack, view: Mapping[str, int] = VIEW) -> Region:
    """Return the surroundings of a patch, as much of them as a picture shows.

    Parameters
    ----------
    patch : Region
        In the middle of the view, but for the border of the image.
    stack : ImageStack
        The image.
    view : mapping of str to int
        Pixels along ``Y``, ``X`` and ``Z``, at most.

    Returns
    -------
    Region
        Of the same image and sample.
    """
    size = stack.data_shape[2:]
    shown = [min(n, view[axis]) for n, axis in zip(size, "ZYX"[-len(size) :], strict=True)]
    columns = zip(patch.start, patch.stop, shown, size, strict=True)
    start = tuple(max(min((a + b - m) // 2, n - m), 0) for a, b, m, n in columns)
    stop = tuple(a + m for a, m in zip(start, shown, strict=True))
    return patch._replace(start=start, stop=stop)


def plane_of(pixels: NDArray[Any]) -> NDArray[Any]:
    """Pick the plane of a region, ``C (Z) Y X``, that a picture shows: ``Y X``."""
    return middle_plane(pixels, "CZYX" if pixels.ndim == 4 else "CYX")


def read_pair(images: Images, region: Region) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Read a region of an image and of its target, if it has one.

    Parameters
    ----------
    images : Images
        Of a role; see `PatchDataModule.images_of`.
    region : Region
        What to read.

    Returns
    -------
    image, target : ndarray
        ``C (Z) Y X``, stored dtypes; None for a target that is not there.
    """
    i = region.image
    image = read_region(images.stacks[i], region, images.channels[i])
    if not images.targets:
        return image, None
    return image, read_region(images.targets[i], region, images.target_channels[i])


def restore(
    model: RestorationModule, data: PatchDataModule, noisy: NDArray[Any]
) -> NDArray[np.float32]:
    """Let a model restore a region, and leave it and all random states as they were.

    Parameters
    ----------
    model : RestorationModule
        Attached to a trainer whose data module is ``data``.
    data : PatchDataModule
        Normalises.
    noisy : ndarray
        ``C (Z) Y X``, as stored.

    Returns
    -------
    ndarray of float32
        ``C (Z) Y X``, in the units of the data.
    """
    # Where the data have NaN, nan_policy has let them pass.
    image = torch.from_numpy(np.nan_to_num(noisy.astype(np.float32)))[None]
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        precision = model.trainer.precision_plugin
        with torch.no_grad(), isolate_rng(), precision.forward_context():
            batch = data.transform({"image": image.to(model.device)})
            restored = model.predict_step(precision.convert_input(batch))["prediction"]
    finally:
        for module in training:
            module.training = True
    pixels: NDArray[np.float32] = restored[0].float().cpu().numpy()
    return pixels
