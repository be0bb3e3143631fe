"""Regions: boxes of images that are read in one go, padded where they reach outside."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.image_stack import Channels, ImageStack
from careamics_dm.images.stack_rules import check_patch


class Region(NamedTuple):
    """A box of one sample, or of several that are stored together, read in one go."""

    image: int  # index of the stack in the set
    sample: int  # index along S
    start: tuple[int, ...]  # first pixel, (Z) Y X
    stop: tuple[int, ...]  # one after the last pixel, (Z) Y X; may lie outside the image
    n_samples: int = 1  # successive samples


Blocks = tuple["NDArray[Any]", ...]
"""What is read of a region: image and, where there is one, target, ``S C (Z) Y X``."""
Kept = dict[tuple[int, int], Blocks]
"""Whole samples kept for all epochs, by image and (first) sample."""


def read_region(stack: ImageStack, region: Region, channels: Channels) -> NDArray[Any]:
    """Read a region of one sample: ``C (Z) Y X``; see `read_samples`."""
    pixels: NDArray[Any] = read_samples(stack, region, channels)[0]
    return pixels


def read_samples(stack: ImageStack, region: Region, channels: Channels) -> NDArray[Any]:
    """Read a region: ``S C (Z) Y X``, padded by reflection where it reaches outside the image.

    Reflection, not zeros: a camera has an offset, and a border of zeros is a dark frame that a
    network learns. The stack itself is only asked for what lies inside.
    """
    call = f"{stack.source}: reading sample {region.sample} from {region.start} to {region.stop}"
    read = partial(_extract, stack, region, channels, call)
    try:
        return read_padded(read, region.start, region.stop, stack.data_shape[2:])
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{call} failed: {type(error).__name__}: {error}") from error


def _extract(
    stack: ImageStack,
    region: Region,
    channels: Channels,
    call: str,
    start: Sequence[int],
    size: Sequence[int],
) -> NDArray[Any]:
    """Ask a stack for what lies inside, sample by sample where it can't give several, and check."""
    extract: Any = getattr(stack, "extract_samples", None)
    if extract is not None:
        pixels: NDArray[Any] = extract(region.sample, region.n_samples, channels, start, size)
    else:
        samples = range(region.sample, region.sample + region.n_samples)
        patches = [stack.extract_patch(s, channels, start, size) for s in samples]
        pixels = patches[0][None] if len(patches) == 1 else np.stack(patches)
    shape = (stack.data_shape[1] if channels is None else len(channels), *size)
    dtype = np.dtype(stack.data_dtype)
    if region.n_samples == 1:
        check_patch(pixels[0], call, shape, dtype)
    else:
        check_patch(pixels, call, (region.n_samples, *shape), dtype)
    return pixels


def read_padded(
    read: Callable[[tuple[int, ...], tuple[int, ...]], NDArray[Any]],
    start: Sequence[int],
    stop: Sequence[int],
    size: Sequence[int],
) -> NDArray[Any]:
    """Read a box, ``(Z) Y X``, padded by reflection where it reaches outside an image of ``size``.

    ``read(start, size)`` reads a box inside the image. If all of the box lies outside, that is an
    IndexError.
    """
    inner_start, inner_stop = _clip(start, stop, size)
    inner_size = tuple(b - a for a, b in zip(inner_start, inner_stop, strict=True))
    return _pad(read(inner_start, inner_size), start, stop, inner_start, inner_stop)


def _clip(start: Sequence[int], stop: Sequence[int], size: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the part of a box inside an image, at a border as wide as reflection there needs."""
    if any(a >= n or b <= 0 for a, b, n in zip(start, stop, size, strict=True)):
        raise IndexError(f"box {tuple(start)} to {tuple(stop)} lies outside {tuple(size)}.")
    box = list(zip(start, stop, size, strict=True))
    first = [max(min(a, 2 * n - 1 - b), 0) if b > n else max(a, 0) for a, b, n in box]
    last = [min(max(b, 1 - a), n) if a < 0 else min(b, n) for a, b, n in box]
    return [tuple(first), tuple(last)]


def _pad(
    patch: NDArray[Any],
    start: Sequence[int],
    stop: Sequence[int],
    inner_start: Sequence[int],
    inner_stop: Sequence[int],
) -> NDArray[Any]:
    """Pad ``... (Z) Y X``, read from the box of `_clip`, by reflection to the outer box."""
    columns = list(zip(start, stop, inner_start, inner_stop, strict=True))
    width = [(max(i - a, 0), max(b - j, 0)) for a, b, i, j in columns]
    if not any(map(any, width)):
        return patch
    leading = patch.ndim - len(width)
    padded = np.pad(patch, [(0, 0)] * leading + width, mode="reflect")
    cut = [slice(max(a - i, 0), max(a - i, 0) + b - a) for a, b, i, _ in columns]
    everything = [slice(None)] * leading
    return padded[tuple(everything + cut)]


def block_shape_of(stack: ImageStack) -> tuple[int, ...]:
    """``([Z], Y, X)`` of the stored unit; the whole sample where a stack does not say."""
    size = tuple(stack.data_shape[2:])
    block = getattr(stack, "block_shape", None) or size
    return tuple(min(b, n) for b, n in zip(block, size, strict=True))
