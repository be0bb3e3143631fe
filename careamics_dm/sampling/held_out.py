"""Validation patches held out of the training data."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.extent import Extent
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.sampling.allowed_origins import OriginMask, ValidOrigins
from careamics_dm.sampling.read_windows import PatchList

Masks = Mapping[tuple[int, int], OriginMask | ValidOrigins]


def hold_out(
    extents: Sequence[Extent],
    patch_size: Sequence[int],
    n_patches: int,
    rng: np.random.Generator,
    masks: Masks | None = None,
) -> PatchList:
    """Choose validation patches of a grid at random, sorted by image and position.

    ``rng`` is of the seed alone, so that they stay the same in every epoch. `DataError` if nothing
    would be left to train on.
    """
    counts = [_n_patches(extent.size, patch_size) for extent in extents]
    image, sample, available, allowed = _available(extents, patch_size, masks)
    until = np.cumsum(available)
    if n_patches >= until[-1]:
        raise DataError(
            f"n_val_patches={n_patches}, but the training data hold only {until[-1]} patches of "
            f"{tuple(patch_size)} side by side, and some must be left to train on. Use fewer or "
            "smaller patches, or give val_data."
        )
    pick = rng.choice(until[-1], n_patches, replace=False)
    chosen = np.searchsorted(until, pick, side="right")
    number = pick - (until - available)[chosen]
    start = np.empty((n_patches, len(patch_size)), np.int64)
    for row in np.unique(chosen).tolist():
        mine = np.flatnonzero(chosen == row)
        numbers = allowed[row][number[mine]] if row in allowed else number[mine]
        start[mine] = _origins(numbers, counts[image[row]], patch_size)
    return _sorted(image[chosen], sample[chosen], start, patch_size)


def n_available(extents: Sequence[Extent], patch_size: Sequence[int], masks: Masks | None) -> int:
    """Count the patches that lie side by side where masks and gaps allow them."""
    return int(_available(extents, patch_size, masks)[2].sum())


def _available(
    extents: Sequence[Extent], patch_size: Sequence[int], masks: Masks | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], dict[int, NDArray[np.int64]]]:
    """Image, sample and count of patches of each sample; of masked ones, the patches by number."""
    counts = [_n_patches(extent.size, patch_size) for extent in extents]
    image = np.repeat(np.arange(len(extents)), [extent.samples for extent in extents])
    sample = np.concatenate([np.arange(extent.samples) for extent in extents])
    available = np.array([prod(count) for count in counts])[image]
    allowed: dict[int, NDArray[np.int64]] = {}
    shared: dict[tuple[tuple[int, ...], int], NDArray[np.int64]] = {}
    for row, (i, s) in enumerate(zip(image.tolist(), sample.tolist(), strict=True)):
        if masks and (i, s) in masks and available[row]:
            key = (counts[i], id(masks[i, s]))  # samples with the same gaps share theirs
            if key not in shared:
                starts = _origins(np.arange(available[row]), counts[i], patch_size)
                shared[key] = np.flatnonzero(masks[i, s].allows(starts))
            allowed[row] = shared[key]
            available[row] = len(allowed[row])
    return image, sample, available, allowed


def _n_patches(size: Sequence[int], patch_size: Sequence[int]) -> tuple[int, ...]:
    """How many whole patches lie side by side along each axis."""
    return tuple(n // p for n, p in zip(size, patch_size, strict=True))


def _origins(
    number: NDArray[np.int64], counts: Sequence[int], patch_size: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.int64]:
    """Origins of numbered patches of a grid."""
    index = np.stack(np.unravel_index(number, tuple(counts)), axis=1).astype(np.int64)
    return index * np.asarray(patch_size, np.int64)


def _sorted(
    image: NDArray[np.int64],
    sample: NDArray[np.int64],
    start: NDArray[np.int64],
    patch_size: Sequence[int],
) -> PatchList:
    """List patches by image, sample and position."""
    order = np.lexsort((*start.T[::-1], sample, image))
    return PatchList(image[order], sample[order], start[order], patch_size)


def to_rows(held_out: PatchList, stacks: Sequence[ImageStack]) -> list[list[Any]]:
    """Write held-out patches as plain values, ``[source, sample, *origin]`` each."""
    columns = (held_out.image.tolist(), held_out.sample.tolist(), held_out.start.tolist())
    names = image_names(stacks)
    return [[names[i], s, *start] for i, s, start in zip(*columns, strict=True)]


def image_names(stacks: Sequence[ImageStack]) -> list[str]:
    """Name images by source; further channels of one file, which are images too, by number."""
    sources = [stack.source for stack in stacks]
    seen: dict[str, int] = {}
    for i, source in enumerate(sources):
        seen[source] = seen.get(source, 0) + 1
        sources[i] = source if seen[source] == 1 else f"{source} ({seen[source]})"
    return sources


NEW_RUN = "To train its model further on other images, start a new run with weights=FILE."


def image_numbers(
    rows: Sequence[Sequence[Any]], stacks: Sequence[ImageStack], what: str, advice: str
) -> dict[str, int]:
    """Find images by name; all that rows of a checkpoint name must be there."""
    number = {name: i for i, name in enumerate(image_names(stacks))}
    if missing := sorted({row[0] for row in rows} - set(number)):
        raise DataError(
            f"train_data: the checkpoint holds out validation {what} of {', '.join(missing)}, "
            f"which is not among the training data. {advice}"
        )
    return number


def from_rows(
    rows: Sequence[Sequence[Any]], stacks: Sequence[ImageStack], patch_size: Sequence[int]
) -> PatchList:
    """Read what `to_rows` wrote; `DataError` where an image is missing, or is smaller now."""
    advice = f"Train on the same data with the same patch_size, or give val_data. {NEW_RUN}"
    number = image_numbers(rows, stacks, "patches", advice)
    for source, s, *origin in rows:
        samples, _, *size = stacks[number[source]].data_shape
        fits = len(origin) == len(size) == len(patch_size) and s < samples
        if not fits or any(a + p > n for a, p, n in zip(origin, patch_size, size, strict=True)):
            raise DataError(
                f"train_data: the checkpoint holds out a validation patch of {source}, sample "
                f"{s}, at {tuple(origin)}, but the image has {samples} sample(s) of "
                f"{tuple(size)} and patch_size is {tuple(patch_size)}. {advice}"
            )
    image = np.array([number[row[0]] for row in rows], np.int64)
    sample = np.array([row[1] for row in rows], np.int64)
    start = np.array([row[2:] for row in rows], np.int64).reshape(len(rows), len(patch_size))
    return _sorted(image, sample, start, patch_size)
