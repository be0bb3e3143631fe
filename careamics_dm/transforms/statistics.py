"""Statistics of the training data, from a bounded random part of it or from everything."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from tqdm.auto import tqdm

from careamics_dm.errors import DataError
from careamics_dm.images.image_set import PROGRESS_AFTER, nan_message
from careamics_dm.images.region import Region, read_samples
from careamics_dm.sampling.chunk_grid import cell_shape
from careamics_dm.sampling.tiling import tile_plan
from careamics_dm.transforms.normalization import Affine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from careamics_dm.images.image_set import ImageSet
    from careamics_dm.transforms.normalization import Normalization, Side

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
    image, target = normalization.given("image"), normalization.given("target")
    if image is None:
        raise DataError(
            "the statistics for normalisation are unknown: restore a checkpoint, give train_data "
            "to compute them from, or give them to normalization."
        )
    if not normalize_target:
        target = Affine([0.0], [1.0])
    return {"image": image} | ({} if target is None else {"target": target})


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
    """Compute statistics per channel of "image" and "target", unless they are given.

    For the other arguments see `pixel_blocks`.
    """
    found: dict[str, Affine] = {}
    sides: list[Side] = ["image", "target"]
    counts = [images.n_channels, images.n_target_channels]
    for number, side in enumerate(sides[: len(images.sides)]):
        affine = normalization.given(side)
        if side == "target" and not normalize_target:
            affine = Affine([0.0], [1.0])
        if affine is None:
            blocks = pixel_blocks(
                images, number, n_bytes, seed, allow_nan=allow_nan, trained=trained
            )
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
    blocks: list[Region] = []
    counts = [extent.samples for extent in images.extents()]
    trained = np.ones(sum(counts), bool) if trained is None else trained
    used = np.split(trained, np.cumsum(counts)[:-1])
    for i, extent in enumerate(images.extents()):
        in_memory, extent, n = extent.in_memory, extent._replace(in_memory=False), len(extent.size)
        # One by one, small samples would take far longer than their pixels.
        together = max(SMALL // extent.sample_bytes, 1) if in_memory else extent.together
        shape = cell_shape(extent, [min(64, size) for size in extent.size], BLOCK)
        boxes = tile_plan([extent._replace(samples=1)], shape, [0] * n).crop.tolist()
        blocks += [
            Region(i, sample, tuple(box[:n]), tuple(box[n:]), n_samples)
            for sample, n_samples in _runs(used[i], together)
            for box in boxes
        ]
    return blocks


def _runs(used: NDArray[np.bool_], together: int) -> list[tuple[int, int]]:
    """Return first sample and length of runs of used samples that are stored together."""
    sample = np.flatnonzero(used)
    begins = (np.diff(sample, prepend=-2) > 1) | (sample % together == 0)
    first = np.flatnonzero(begins)
    length = np.diff(first, append=len(sample))
    return list(zip(sample[first].tolist(), length.tolist(), strict=True))


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
    """Tell for each pixel of a region, sample by sample, if it was acquired; ``None``: all were."""
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
