"""Statistics of the training data, from a bounded random part of it or from everything."""

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from tqdm.auto import tqdm

from careamics_dm.errors import DataError
from careamics_dm.images.extent import Extent
from careamics_dm.images.image_set import PROGRESS_AFTER, ImageSet, nan_message
from careamics_dm.images.region import Region, read_samples
from careamics_dm.sampling.chunk_grid import window_shape
from careamics_dm.sampling.read_windows import sample_runs
from careamics_dm.transforms.normalization import Affine, Normalization, Side

SIDES: tuple[Side, ...] = ("image", "target")
STATISTICS_BYTES = 2**28
"""Of the training data, at most this many bytes (256 MiB) make the statistics."""
SMALL = 2**16
"""Bytes of small samples in memory that are read together."""
BLOCK = 2**24
"""Bytes read at once: small compared with the data, large compared with the cost of a read."""
EXACT = 2**24
"""The largest integer up to which float32 represents all of them."""


def given_statistics(normalization: Normalization, normalize_target: bool) -> dict[str, Affine]:
    """Return the given statistics, without any data; a DataError if none are given for images."""
    found = {side: _given(normalization, side, normalize_target) for side in SIDES}
    if found["image"] is None:
        raise DataError(
            "the statistics for normalisation are unknown: restore a checkpoint, give train_data "
            "to compute them from, or give them to normalization."
        )
    return {side: affine for side, affine in found.items() if affine is not None}


def _given(normalization: Normalization, side: Side, normalize_target: bool) -> Affine | None:
    if side == "target" and not normalize_target:
        return Affine([0.0], [1.0])
    return normalization.given(side)


def measure(
    images: ImageSet,
    normalization: Normalization,
    n_bytes: int | None,
    seed: int,
    *,
    allow_nan: bool,
    normalize_target: bool = True,
    trained: NDArray[np.bool_] | None = None,
) -> dict[str, Affine]:
    """Compute statistics of "image" and "target" unless they are given; see `pixel_blocks`."""
    found: dict[str, Affine] = {}
    counts = [images.n_channels, images.n_target_channels]
    for number, side in enumerate(SIDES[: len(images.sides)]):
        affine = _given(normalization, side, normalize_target)
        if affine is None:
            options: Any = {"allow_nan": allow_nan, "trained": trained}
            blocks = pixel_blocks(images, number, n_bytes, seed, **options)
            affine = normalization.measure(_warn_if_rounded(blocks, side))
        found[side] = affine.spread(counts[number], side)
    return found


def pixel_blocks(
    images: ImageSet,
    side: int,
    n_bytes: int | None,
    seed: int,
    *,
    allow_nan: bool,
    trained: NDArray[np.bool_] | None = None,
) -> Iterator[NDArray[Any]]:
    """Yield the finite pixels, ``(C, n)`` in the stored dtype, of blocks in random order.

    Of images (side 0) or targets (1); None for ``n_bytes`` reads everything. NaN and infinity are
    left out where ``allow_nan``. ``trained`` says which samples, image by image, to use.
    """
    blocks = _blocks(images, trained)
    blocks = [blocks[i] for i in np.random.default_rng([seed, 2]).permutation(len(blocks))]
    dtypes = [np.dtype(stack.data_dtype) for stack in images.sides[side][0]]
    sizes = [
        block.n_samples * prod(np.subtract(block.stop, block.start)) * dtypes[block.image].itemsize
        for block in blocks
    ]
    wanted = sum(sizes) if n_bytes is None else n_bytes
    n, done, is_empty = int(np.searchsorted(np.cumsum(sizes), wanted)) + 1, 0, True
    bar = tqdm(total=n, desc="statistics", unit="block", delay=PROGRESS_AFTER, leave=False)
    for block, size in zip(blocks, sizes, strict=True):
        if done >= wanted:
            break
        acquired = _acquired(images, block)
        if acquired is not None and not acquired.any():
            continue  # does not count: else a sparse mosaic would yield nothing but gaps
        done += size
        bar.update()
        pixels = _finite_pixels(images, side, block, acquired, allow_nan=allow_nan)
        if pixels.size:
            is_empty = False
            yield pixels
    bar.close()
    if is_empty:
        name = ("images", "targets")[side]
        raise DataError(
            f"the {name} contain nothing but NaN, infinity or gaps, so there are no statistics. "
            "Check which parts and channels were acquired."
        )


def _blocks(images: ImageSet, trained: NDArray[np.bool_] | None) -> list[Region]:
    """Divide the samples to use into blocks that are read at once."""
    extents = images.extents()
    boxes: dict[Extent, list[tuple[tuple[int, ...], tuple[int, ...]]]] = {}
    # One by one, small samples in memory would take far longer than their pixels.
    together = [
        max(SMALL // (prod(e.size) * e.pixel_bytes), 1) if e.in_memory else e.together
        for e in extents
    ]
    blocks: list[Region] = []
    for image, sample, n in zip(*sample_runs(extents, trained, together), strict=True):
        key = extents[image]._replace(in_memory=False)
        if key not in boxes:
            boxes[key] = _boxes(key)
        blocks += [Region(int(image), int(sample), *box, int(n)) for box in boxes[key]]
    return blocks


def _boxes(extent: Extent) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Divide a sample into boxes, start and stop of each, that are read at once."""
    shape = window_shape(extent, [min(64, size) for size in extent.size], BLOCK)
    starts = product(*(range(0, n, step) for n, step in zip(extent.size, shape, strict=True)))
    return [
        (start, tuple(min(a + b, n) for a, b, n in zip(start, shape, extent.size, strict=True)))
        for start in starts
    ]


def _finite_pixels(
    images: ImageSet,
    side: int,
    region: Region,
    acquired: NDArray[np.bool_] | None,
    *,
    allow_nan: bool,
) -> NDArray[Any]:
    """Read the acquired pixels of a region, ``(C, n)``; NaN is left out or an error."""
    stacks, channels = images.sides[side]
    stack, chosen = stacks[region.image], channels[region.image]
    block = read_samples(stack, region, chosen)
    flat: NDArray[Any] = np.moveaxis(block, 1, 0).reshape(block.shape[1], -1)
    if acquired is not None:
        flat = flat[:, acquired]
    if block.dtype.kind != "f" or (finite := np.isfinite(flat)).all():
        return flat
    if allow_nan:
        return flat[:, finite.all(axis=0)]
    place = np.argwhere(~np.isfinite(block))[0]
    sample, channel = region.sample + int(place[0]), int(place[1])
    channel = channel if chosen is None else chosen[channel]
    where = tuple((place[2:] + region.start).tolist())
    raise DataError(nan_message(stack.source, block[tuple(place)], sample, channel, where))


def _acquired(images: ImageSet, region: Region) -> NDArray[np.bool_] | None:
    """Return for each pixel of a region, sample by sample, if it was acquired; ``None``: all."""
    samples = range(region.sample, region.sample + region.n_samples)
    valid = [images.valid_region(region.image, sample) for sample in samples]
    if all(boxes is None for boxes in valid):
        return None
    size = tuple(b - a for a, b in zip(region.start, region.stop, strict=True))
    acquired = np.zeros((len(valid), *size), bool)
    for pixels, boxes in zip(acquired, valid, strict=True):
        for start, stop in [(region.start, region.stop)] if boxes is None else boxes:
            corners = zip(start, stop, region.start, strict=True)
            pixels[tuple(slice(max(a - r, 0), max(b - r, 0)) for a, b, r in corners)] = True
    return acquired.reshape(-1)


def _warn_if_rounded(blocks: Iterator[NDArray[Any]], side: Side) -> Iterator[NDArray[Any]]:
    """Pass blocks on; warn once where integers are too large for float32 to distinguish them."""
    warned = False
    for block in blocks:
        if not warned and block.dtype.kind in "iu" and block.dtype.itemsize > 2:
            largest = max(int(block.max()), -int(block.min()))
            if warned := largest > EXACT:
                rank_zero_warn(
                    f"the {side}s contain integers up to {largest} or more. Networks compute in "
                    f"float32, which rounds integers above {EXACT} (2^24)."
                )
        yield block
