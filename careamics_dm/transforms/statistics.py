"""Statistics of the training data, from a bounded random part of it or from everything."""

from collections.abc import Iterable, Iterator
from math import prod
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from tqdm.auto import tqdm

from careamics_dm.errors import DataError
from careamics_dm.images.extent import Extent
from careamics_dm.images.image_set import PROGRESS_AFTER, ImageSet
from careamics_dm.images.nan_message import nan_message
from careamics_dm.images.region import Region, read_samples
from careamics_dm.sampling.chunk_grid import window_shape
from careamics_dm.sampling.keyed_random import key_of, permuted
from careamics_dm.sampling.read_windows import sample_runs
from careamics_dm.transforms.normalization import Affine, MeanStd, Normalization, Side

SIDES: tuple[Side, ...] = ("image", "target")
STATISTICS_BYTES = 2**28
"""Of the training data, at most this many bytes (256 MiB) make the statistics."""
SMALL = 2**16
"""Bytes of small samples that are read, and of small blocks that are worked on, together."""
BLOCK = 2**24
"""Bytes read at once: small compared with the data, large compared with the cost of a read."""
PORTION = 4096
"""Blocks to put into random order together."""
COMPARED_BYTES = 2**22
"""Of training and validation data each, at most this many bytes are compared."""
APART = 30
"""Standard deviations: images that differ by this factor are in other units."""
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
    val: ImageSet | None = None,
) -> dict[str, Affine]:
    """Compute statistics of "image" and "target" unless they are given; see `pixel_blocks`.

    Warns where intensities of ``val``, images for validation, differ grossly.
    """
    if val is not None:
        _warn_of_ranges(images, val, seed)
    found: dict[str, Affine] = {}
    counts = [images.n_channels, images.n_target_channels]
    for number, side in enumerate(SIDES[: len(images.sides)]):
        affine = _given(normalization, side, normalize_target)
        if affine is None:
            options: Any = {"allow_nan": allow_nan, "trained": trained}
            blocks = pixel_blocks(images, number, n_bytes, seed, **options)
            affine = normalization.measure(_warn_of_values(_joined(blocks), side))
            _check_limits(affine, normalization, side)
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
    blocks = _Blocks(images, trained)
    dtypes = [np.dtype(stack.data_dtype) for stack in images.sides[side][0]]
    done, is_empty = 0, True
    total = len(blocks) if n_bytes is None else None  # of a part, gaps decide how many
    bar = tqdm(desc="statistics", total=total, unit="block", delay=PROGRESS_AFTER, leave=False)
    for block in blocks.in_random_order(seed):
        if n_bytes is not None and done >= n_bytes:
            break
        acquired = _acquired(images, block)
        if acquired is not None and not acquired.any():
            continue  # does not count: else a sparse mosaic would yield nothing but gaps
        n_pixels = block.n_samples * prod(np.subtract(block.stop, block.start))
        done += n_pixels * dtypes[block.image].itemsize
        bar.update()
        pixels = _finite_pixels(images, side, block, acquired, allow_nan=allow_nan)
        is_empty &= not pixels.size
        # What is stored as a unit, and so read at once, may be large.
        step = max(BLOCK // (pixels.itemsize * len(pixels)), 1)
        yield from (pixels[:, i : i + step] for i in range(0, pixels.shape[1], step))
    bar.close()
    if is_empty:
        name = ("images", "targets")[side]
        raise DataError(
            f"the {name} contain nothing but NaN, infinity or gaps, so there are no statistics. "
            "Check which parts and channels were acquired."
        )


class _Blocks:
    """The samples to use, in blocks that are read at once."""

    def __init__(self, images: ImageSet, trained: NDArray[np.bool_] | None) -> None:
        self._extents = images.extents()
        # One by one, small samples in memory would take far longer than their pixels.
        together = self._extents.each(
            lambda e: max(SMALL // (prod(e.size) * e.pixel_bytes), 1) if e.in_memory else e.together
        )
        self._runs = sample_runs(self._extents, trained, together)
        self._shape = {extent: _block_shape(extent) for extent in self._extents.kinds}
        n = self._extents.each(lambda e: prod(self._grid(e)))
        self._until = np.concatenate([[0], np.cumsum(n[self._runs.image])])

    def __len__(self) -> int:
        return int(self._until[-1])

    def in_random_order(self, seed: int) -> Iterator[Region]:
        """Yield each block once, without a list of them, as they may be very many."""
        key, end = key_of(seed, 2), len(self)
        for first in range(0, end, PORTION):
            number = permuted(key, np.arange(first, min(first + PORTION, end)), end)
            run = np.searchsorted(self._until, number, side="right") - 1
            columns = (*(column[run] for column in self._runs), number - self._until[run])
            for image, sample, n, inside in zip(*(c.tolist() for c in columns), strict=True):
                yield Region(image, sample, *self._box(self._extents[image], inside), n)

    def _box(self, extent: Extent, number: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the corners of a block of a sample."""
        start: list[int] = []
        for n, step in zip(self._grid(extent)[::-1], self._shape[extent][::-1], strict=True):
            number, place = divmod(number, n)
            start.insert(0, place * step)
        columns = zip(start, self._shape[extent], extent.size, strict=True)
        return tuple(start), tuple(min(a + step, size) for a, step, size in columns)

    def _grid(self, extent: Extent) -> list[int]:
        """Blocks along each axis of a sample."""
        return [-(-n // b) for n, b in zip(extent.size, self._shape[extent], strict=True)]


def _block_shape(extent: Extent) -> tuple[int, ...]:
    """Return the size of blocks; of what is in memory, any box can be read alone."""
    if extent.in_memory:
        extent = extent._replace(in_memory=False, block=(1,) * len(extent.size))
    return window_shape(extent, [min(64, size) for size in extent.size], BLOCK)


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
    flat: NDArray[Any] = block.swapaxes(0, 1).reshape(block.shape[1], -1)
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
    valid = [images.acquired().get((region.image, sample)) for sample in samples]
    if all(boxes is None for boxes in valid):
        return None
    size = tuple(b - a for a, b in zip(region.start, region.stop, strict=True))
    acquired = np.zeros((len(valid), *size), bool)
    for pixels, boxes in zip(acquired, valid, strict=True):
        for start, stop in [(region.start, region.stop)] if boxes is None else boxes:
            corners = zip(start, stop, region.start, strict=True)
            pixels[tuple(slice(max(a - r, 0), max(b - r, 0)) for a, b, r in corners)] = True
    return acquired.reshape(-1)


def _joined(blocks: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Put small blocks together: one by one, they would take far longer than their pixels."""
    some: list[NDArray[Any]] = []
    for block in blocks:
        if some and (block.dtype != some[0].dtype or sum(of.nbytes for of in some) > SMALL):
            yield some[0] if len(some) == 1 else np.concatenate(some, axis=1)
            some = []
        some.append(block)
    if some:
        yield np.concatenate(some, axis=1)


def _warn_of_values(blocks: Iterator[NDArray[Any]], side: Side) -> Iterator[NDArray[Any]]:
    """Pass blocks on; warn of integers that float32 can't hold, and of channels of one value."""
    rounded, first, alike = False, None, None
    for block in blocks:
        if not rounded and block.dtype.kind in "iu" and block.dtype.itemsize > 2:
            largest = max(int(block.max()), -int(block.min()))
            if rounded := largest > EXACT:
                rank_zero_warn(
                    f"the {side}s contain integers up to {largest} or more. Networks compute in "
                    f"float32, which rounds integers above {EXACT} (2^24)."
                )
        if block.size and (alike is None or alike.any()):
            first = block[:, :1].copy() if first is None else first
            alike = (block == first).all(axis=1) & (alike is None or alike)
        yield block
    if first is not None and alike is not None and alike.any():
        found = ", ".join(f"channel {c}: {first[c, 0]}" for c in np.flatnonzero(alike))
        rank_zero_warn(
            f"the {side}s have the same value everywhere ({found}), from which nothing can be "
            "learned. Check which files and channels were chosen."
        )


def _check_limits(affine: Affine, normalization: Normalization, side: Side) -> None:
    """Refuse to clip channels to one value, if they have others."""
    limits = zip(affine.low or (), affine.high or (), strict=True)
    for channel, (low, high) in enumerate(limits):
        if low == high:
            raise DataError(
                f"normalization: clip={normalization.clip:g} leaves only the value {low:g} in "
                f"channel {channel} of the {side}s, as nearly all of their pixels have it. Use a "
                "smaller clip, or 0."
            )


def _warn_of_ranges(train: ImageSet, val: ImageSet, seed: int) -> None:
    """Warn where intensities of training and validation images differ grossly."""
    parts = (pixel_blocks(i, 0, COMPARED_BYTES, seed, allow_nan=True) for i in (train, val))
    try:
        ours, theirs = map(MeanStd().measure, parts)
    except DataError:  # nothing but NaN in a part
        return
    columns = ours.offset, ours.scale, theirs.offset, theirs.scale
    for mean, std, other, spread in zip(*columns, strict=True):
        small, large = sorted((std, spread))
        if large > APART * small or abs(mean - other) > APART * large:
            rank_zero_warn(
                f"val_data: intensities are {other:.4g} ± {spread:.4g}, those of train_data "
                f"{mean:.4g} ± {std:.4g} (mean and standard deviation of a part). Are they in the "
                "same units, bit depth and format?"
            )
            return
