"""The planes of images that pictures consist of, and what a model makes of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from numpy.typing import NDArray

from careamics_dm.images.image_set import ImageSet
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.images.region import Region, read_region

Planes = dict[str, NDArray[Any]]

LARGEST = {"Y": 512, "X": 512, "Z": 16}
"""The most pixels per axis of an image in a picture, and of what a model restores for it."""


def middle(stack: ImageStack, largest: Mapping[str, int] = LARGEST) -> Region:
    """Return the middle of the first sample, at most ``largest`` pixels."""
    size = tuple(stack.data_shape[2:])
    return around(Region(0, 0, (0,) * len(size), size), stack, largest)


def around(patch: Region, stack: ImageStack, largest: Mapping[str, int] = LARGEST) -> Region:
    """Return a patch and its surroundings, at most ``largest`` pixels, inside the image."""
    size = stack.data_shape[2:]
    extent = [min(n, largest[axis]) for n, axis in zip(size, "ZYX"[-len(size) :], strict=True)]
    columns = zip(patch.start, patch.stop, extent, size, strict=True)
    start = tuple(max(min((a + b - m) // 2, n - m), 0) for a, b, m, n in columns)
    stop = tuple(a + m for a, m in zip(start, extent, strict=True))
    return patch._replace(start=start, stop=stop)


def middle_plane(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the plane ``Y X`` in the middle of the first channel of ``C (Z) Y X``."""
    first: NDArray[Any] = pixels[0]
    return first[len(first) // 2] if first.ndim == 3 else first


def restored_planes(model: Any, data: Any, images: ImageSet, region: Region) -> Planes:
    """Read a region and let a model, attached to a trainer, restore it.

    Returns the planes ``Y X`` for a picture, in the units of the data: "noisy", "denoised" and,
    where there are targets, "target".
    """
    i = region.image
    noisy = read_region(images.stacks[i], region, images.channels[i])
    planes = {"noisy": noisy, "denoised": _restore(model, data, noisy)}
    if images.targets:
        planes["target"] = read_region(images.targets[i], region, images.target_channels[i])
    return {name: middle_plane(pixels) for name, pixels in planes.items()}


def _restore(model: Any, data: Any, noisy: NDArray[Any]) -> NDArray[np.float32]:
    """Restore ``C (Z) Y X``, as stored, without a change to the model or any random state."""
    # Data with NaN only come here where nan_policy allows them.
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
