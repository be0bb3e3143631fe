"""Statistics of the training data, from a bounded random part of it or from all."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from tqdm.auto import tqdm

from careamics_dm.axes import DataError
from careamics_dm.cells import cell_shape
from careamics_dm.images import PROGRESS_AFTER, nan_message
from careamics_dm.normalization import Affine
from careamics_dm.regions import Region, read_samples
from careamics_dm.tiling import tile_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from careamics_dm.images import Images
    from careamics_dm.normalization import Normalization, Side

SMALL = 2**16
"""Bytes of samples in memory that are taken together."""
EXACT = 2**24
"""The largest integer up to which float32 has them all."""


def measure(
    images: Images,
    normalization: Normalization,
    n_bytes: int | None,
    seed: int,
    *,
    allow_nan: bool,
    normalize_target: bool = True,
    trained: NDArray[np.bool_] | None = None,
) -> dict[str, Affine]:
    """Compute the statistics of images and targets, where they are not given.

    Parameters
    ----------
    images : Images
        The training data.
    normalization : Normalization
        The method.
    n_bytes, seed, allow_nan, trained
        See `pixel_blocks`.
    normalize_target : bool
        Otherwise targets are left as they are.

    Returns
    -------
    dict of str to Affine
        ``image`` and, where there are targets, ``target``; an entry per channel.
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
            affine = normalization.measure(_told_if_wide(blocks, side))
        found[side] = affine.spread(counts[number], side)
    return found


def pixel_blocks(
    images: Images,
    side: int,
    n_bytes: int | None,
    seed: int,
    *,
    allow_nan: bool,
    trained: NDArray[np.bool_] | None = None,
) -> Iterator[NDArray[Any]]:
    """Yield the finite pixels of blocks in random order, for statistics.

    Parameters
    ----------
    images : Images
        The training data.
    side : int
        0 for images, 1 for targets.
    n_bytes : int or None
        Stop after so many bytes; ``None`` reads everything.
    seed : int
        Chooses the blocks.
    allow_nan : bool
        Leave out NaN and infinity; otherwise they are an error.
    trained : ndarray of bool, optional
        Whether each sample, image by image, counts; all by default.

    Yields
    ------
    ndarray
        ``(C, n)``, stored dtype.

    Raises
    ------
    DataError
        NaN or infinity, or nothing else.
    """
    stacks, channels = images.sides[side]
    # 16 MiB at a time: small beside the data, large beside the cost of a read.
    agenda: list[Region] = []
    counts = [extent.samples for extent in images.extents()]
    trained = np.ones(sum(counts), bool) if trained is None else trained
    chosen = np.split(trained, np.cumsum(counts)[:-1])
    for i, extent in enumerate(images.extents()):
        in_memory, extent, n = extent.in_memory, extent._replace(in_memory=False), len(extent.size)
        cells = cell_shape(extent, [min(64, size) for size in extent.size], 2**24)
        # Small samples one by one would take far longer than their pixels.
        together = max(SMALL // extent.sample_bytes, 1) if in_memory else extent.together
        plan = tile_plan([extent._replace(samples=1)], cells, [0] * n)
        agenda += [
            Region(i, s, tuple(box[:n]), tuple(box[n:]), n_samples)
            for s, n_samples in _runs(chosen[i], together)
            for box in plan.crop.tolist()
        ]
    order = np.random.default_rng([seed, 2]).permutation(len(agenda))
    pixels = [
        agenda[r].n_samples * prod(np.subtract(agenda[r].stop, agenda[r].start).tolist())
        for r in order
    ]
    sizes = [
        p * np.dtype(stacks[agenda[r].image].data_dtype).itemsize
        for p, r in zip(pixels, order, strict=True)
    ]
    wanted = sum(sizes) if n_bytes is None else n_bytes
    n, some, done = int(np.searchsorted(np.cumsum(sizes), wanted)) + 1, False, 0
    bar = tqdm(total=n, desc="statistics", unit="block", delay=PROGRESS_AFTER, leave=False)
    for r, size in zip(order, sizes, strict=True):
        if done >= wanted:
            break
        region = agenda[r]
        acquired = _acquired(images, region)
        if acquired is not None and not acquired.any():
            continue  # else a sparse mosaic would give nothing but gaps
        done += size
        bar.update()
        block = read_samples(stacks[region.image], region, channels[region.image])
        flat = np.moveaxis(block, 1, 0).reshape(block.shape[1], -1)
        if acquired is not None:
            flat = flat[:, acquired]
        if block.dtype.kind == "f" and not (finite := np.isfinite(flat)).all():
            if not allow_nan:
                place = np.argwhere(~np.isfinite(block))[0]
                where = tuple((place[2:] + region.start).tolist())
                chosen, channel = channels[region.image], int(place[1])
                raise DataError(
                    nan_message(
                        stacks[region.image].source,
                        block[tuple(place)],
                        region.sample + int(place[0]),
                        channel if chosen is None else chosen[channel],
                        where,
                    )
                )
            flat = flat[:, finite.all(axis=0)]
        if flat.size:
            some = True
            yield flat
    bar.close()
    if not some:
        name = ("images", "targets")[side]
        raise DataError(
            f"the {name} hold nothing but NaN and infinity, or gaps, so no statistics. Check what "
            "was acquired, and in which channels."
        )


def _runs(chosen: NDArray[np.bool_], together: int) -> list[tuple[int, int]]:
    """First and length of runs of chosen samples, each within samples that are stored together."""
    sample = np.flatnonzero(chosen)
    begins = (np.diff(sample, prepend=-2) > 1) | (sample % together == 0)
    first = np.flatnonzero(begins)
    length = np.diff(first, append=len(sample))
    return list(zip(sample[first].tolist(), length.tolist(), strict=True))


def _acquired(images: Images, region: Region) -> NDArray[np.bool_] | None:
    """Whether each pixel of a region, sample by sample, was acquired; ``None``: all were."""
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


def _told_if_wide(blocks: Iterator[NDArray[Any]], side: Side) -> Iterator[NDArray[Any]]:
    """Pass blocks on; warn once where integers are too large for float32 to tell them apart."""
    told = False
    for block in blocks:
        if not told and block.dtype.kind in "iu" and block.dtype.itemsize > 2:
            largest = max(int(block.max()), -int(block.min()))
            if told := largest > EXACT:
                rank_zero_warn(
                    f"the {side}s hold integers up to {largest} or more. Networks compute in "
                    f"float32, which rounds integers above {EXACT} (2^24)."
                )
        yield block
