"""The planes of images that pictures consist of, and what a model makes of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from numpy.typing import NDArray

from careamics_dm.images.image_set import ImageSet
from careamics_dm.images.image_stack import Channels, ImageStack
from careamics_dm.images.region import Region, read_region
from careamics_dm.images.stack_view import layout_of
from careamics_dm.sources.source_path import absolute, file_of

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


def middle_plane(pixels: NDArray[Any], *, rgb: bool = False) -> NDArray[Any]:
    """Return the plane in the middle of ``C (Z) Y X``: ``Y X`` of the first channel.

    With ``rgb``, all three channels as ``Y X 3``.
    """
    planes: NDArray[Any] = pixels[:, pixels.shape[1] // 2] if pixels.ndim == 4 else pixels
    return np.moveaxis(planes, 0, -1) if rgb else planes[0]


def is_rgb(stack: ImageStack, channels: Channels, n: int) -> bool:
    """Whether the ``n`` channels made of the chosen ones of an image are red, green and blue."""
    colours: bool = getattr(stack, "is_rgb", False)
    as_stored = channels is None or [*channels] == [0, 1, 2]
    return colours and as_stored and n == stack.data_shape[1] == 3


def name_of(stack: ImageStack) -> str:
    """Return the name of a file, and of the image in it."""
    return absolute(stack.source).relative_to(file_of(stack.source).parent).as_posix()


def channel_name(stack: ImageStack, channel: int) -> str:
    """Return what a channel is called, or its number."""
    names = getattr(stack, "channel_names", None) or ()
    return names[channel] if channel < len(names) else f"C {channel}"


def label_of(stack: ImageStack, region: Region, channel: int | None) -> str:
    """Say where a place is: its channel, and its index along axes longer than 1."""
    words = []
    if channel is not None:
        words.append(channel_name(stack, channel))
    layout = layout_of(stack)
    sizes = [layout.size(axis) for axis in layout.sample_axes]
    index = [int(i) for i in np.unravel_index(region.sample, sizes)] if sizes else []
    at = [*zip(layout.sample_axes, index, sizes, strict=True)]
    if layout.spatial_axes == "ZYX":
        at.append(("Z", region.start[0], layout.size("Z")))
    return ", ".join([*words, *(f"{axis} {i}" for axis, i, n in at if n > 1)])


def restored_planes(model: Any, data: Any, images: ImageSet, region: Region) -> Planes:
    """Read a region and let a model, attached to a trainer, restore it.

    Returns the planes ``Y X`` (of RGB, ``Y X 3``) for a picture, in the units of the data:
    "noisy", "denoised" and, where there are targets, "target".
    """
    i = region.image
    noisy = read_region(images.stacks[i], region, images.channels[i])
    planes = {"noisy": noisy, "denoised": _restore(model, data, noisy)}
    if images.targets:
        planes["target"] = read_region(images.targets[i], region, images.target_channels[i])
    rgb = all(is_rgb(images.stacks[i], images.channels[i], len(p)) for p in planes.values())
    return {name: middle_plane(pixels, rgb=rgb) for name, pixels in planes.items()}


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
