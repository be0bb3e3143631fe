"""Regions: boxes of images that are read in one go, padded where they reach outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from careamics_dm.axes import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from careamics_dm.image_stack import ImageStack


class Region(NamedTuple):
    """A box of one sample, or of several that are stored together, read in one go."""

    image: int
    """Index of the stack in the set."""
    sample: int
    """Index along ``S``."""
    start: tuple[int, ...]
    """First pixel, ``(Z) Y X``."""
    stop: tuple[int, ...]
    """One after the last pixel, ``(Z) Y X``; may lie outside the image."""
    n_samples: int = 1
    """Successive samples."""


def read_region(stack: ImageStack, region: Region, channels: Sequence[int] | None) -> NDArray[Any]:
    """Read a region of one sample: ``C (Z) Y X``; see `read_samples`."""
    pixels: NDArray[Any] = read_samples(stack, region, channels)[0]
    return pixels


def read_samples(stack: ImageStack, region: Region, channels: Sequence[int] | None) -> NDArray[Any]:
    """Read a region, padded by reflection where it reaches outside the image.

    Reflection, not zeros: a camera has an offset, and a border of zeros is a dark frame that a
    network learns. The stack itself is only asked for what lies inside.

    Parameters
    ----------
    stack : ImageStack
        The image.
    region : Region
        What to read.
    channels : sequence of int, or None
        Indices; ``None`` is all.

    Returns
    -------
    ndarray
        ``S C (Z) Y X``, stored dtype.

    Raises
    ------
    DataError
        Reading failed; the message names the image and the region.
    """
    place = f"sample {region.sample} from {region.start} to {region.stop}"
    try:
        start, stop = clip_box(region.start, region.stop, stack.data_shape[2:])
        size = tuple(b - a for a, b in zip(start, stop, strict=True))
        patch = _extract(stack, region, channels, start, size)
    except Exception as error:
        raise DataError(
            f"{stack.source}: reading {place} failed: {type(error).__name__}: {error}"
        ) from error
    n_channels = stack.data_shape[1] if channels is None else len(channels)
    asked = (region.n_samples, n_channels, *size)
    if patch.shape != asked:
        raise DataError(
            f"{stack.source}: reading {place} gave shape {patch.shape[1:]} instead of {asked[1:]}. "
            "Correct its extract_patch, or save the file anew."
        )
    if patch.dtype.newbyteorder("=") != np.dtype(stack.data_dtype).newbyteorder("="):
        raise DataError(
            f"{stack.source}: reading {place} gave {patch.dtype} instead of {stack.data_dtype}. "
            "Correct its data_dtype, or convert in its extract_patch."
        )
    return pad_to(patch, region.start, region.stop, start, stop)


def _extract(
    stack: ImageStack,
    region: Region,
    channels: Sequence[int] | None,
    start: Sequence[int],
    size: Sequence[int],
) -> NDArray[Any]:
    """Ask a stack for what lies inside; one by one where it knows no more than one sample."""
    extract: Any = getattr(stack, "extract_samples", None)
    if extract is not None and region.n_samples > 1:
        pixels: NDArray[Any] = extract(region.sample, region.n_samples, channels, start, size)
        return pixels
    if region.n_samples == 1:
        return stack.extract_patch(region.sample, channels, start, size)[None]
    samples = range(region.sample, region.sample + region.n_samples)
    return np.stack([stack.extract_patch(s, channels, start, size) for s in samples])


def clip_box(
    start: Sequence[int], stop: Sequence[int], size: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Start and stop of the part of a box inside an image of ``size``.

    Where the box reaches outside, it is as wide as reflection at that border needs.
    """
    if any(a >= n or b <= 0 for a, b, n in zip(start, stop, size, strict=True)):
        raise IndexError(f"box {tuple(start)} to {tuple(stop)} lies outside {tuple(size)}.")
    inner = [
        (
            max(min(a, 2 * n - 1 - b), 0) if b > n else max(a, 0),
            min(max(b, 1 - a), n) if a < 0 else min(b, n),
        )
        for a, b, n in zip(start, stop, size, strict=True)
    ]
    return tuple(a for a, _ in inner), tuple(b for _, b in inner)


def pad_to(
    patch: NDArray[Any],
    start: Sequence[int],
    stop: Sequence[int],
    inner_start: Sequence[int],
    inner_stop: Sequence[int],
) -> NDArray[Any]:
    """Pad ``... (Z) Y X``, read from the box of `clip_box`, by reflection to the outer box."""
    columns = list(zip(start, stop, inner_start, inner_stop, strict=True))
    width = [(max(i - a, 0), max(b - j, 0)) for a, b, i, j in columns]
    if not np.any(width):
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
