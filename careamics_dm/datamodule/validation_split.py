"""What of the training data validates and what trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.image_set import ImageSet
from careamics_dm.sampling.folds import Whole, deal, units
from careamics_dm.sampling.hold_out import hold_out, side_by_side
from careamics_dm.sampling.image_origins import origin_masks
from careamics_dm.sampling.patch_grid import PatchGrid
from careamics_dm.sampling.read_windows import WINDOWS, PatchList

HoldOut = Literal["patches", "samples", "images", "files"]
N_FOLDS = 10
"""Folds where nobody says how many; of fewer units, as many as there are."""
SMALLER = {"files": ("images", "samples"), "images": ("samples",), "samples": ()}
"""Units of which there may be more."""
VAL_PATCHES = 8
"""Validation patches to hold out by default; of little data, at most a quarter."""


@dataclass(frozen=True)
class Split:
    """Validation patches of the training data, and what they leave to train on."""

    patches: PatchList | PatchGrid  # that validate
    trained: NDArray[np.bool_] | None = None  # each sample, image by image; None: all but avoided
    avoided: PatchList | None = None  # no training patch may overlap; None: samples are left out
    words: str = ""  # what is held out, where that is whole samples


@dataclass(frozen=True)
class SplitRule:
    """What is held out for validation; see the settings of the same names."""

    patch_size: tuple[int, ...]
    hold_out: HoldOut
    n_folds: int | None
    fold: int
    n_val_patches: int | None
    repeats: str | None
    pool_bytes: int
    seed: int


def make_split(rule: SplitRule, images: ImageSet) -> Split | None:
    """Choose what of the training data validates; ``None`` if nothing does.

    `DataError` if nothing would be left to train on or to validate with.
    """
    patch_size = rule.patch_size
    if rule.hold_out != "patches":
        return _fold(rule, images)
    extents, masks = images.extents(), origin_masks(images, patch_size)
    n = rule.n_val_patches
    if n is None:
        # Places of a scene that is repeated are held out in every frame.
        few = extents.changed(lambda e: e._replace(samples=1)) if rule.repeats else extents
        n = min(VAL_PATCHES, len(side_by_side(few, patch_size, masks)) // 4)
    if not n:
        return None
    rng = np.random.default_rng([rule.seed, 3])
    return split_off_patches(rule, images, hold_out(extents, patch_size, n, rng, masks))


def split_off_patches(rule: SplitRule, images: ImageSet, patches: PatchList) -> Split:
    """Hold out patches; of a scene that is repeated, in every frame."""
    if rule.repeats is None:
        return Split(patches, avoided=patches)
    samples = images.extents().each(lambda e: e.samples)[patches.rows[:, 0]]
    places = np.repeat(patches.rows, samples, axis=0)
    places[:, 1] = np.concatenate([np.arange(n) for n in samples])
    places = np.unique(places, axis=0)
    return Split(patches, avoided=PatchList(places, patches.patch_size))


def _fold(rule: SplitRule, images: ImageSet) -> Split:
    """Hold out the units of a fold."""
    kind, fold = rule.hold_out, rule.fold
    assert kind != "patches"
    of, names = units(images.stacks, kind)
    n_folds = _n_folds_of(names, kind, rule.n_folds, fold)
    held = deal(names, n_folds) == fold
    some = sorted(names[i] for i in np.flatnonzero(held))
    words = (
        f"{len(some)} of {len(names)} {kind} held out for validation (fold {fold} of {n_folds}): "
        f"{first_of(some)}"
    )
    return split_off_samples(rule, images, ~held[of], words)


def split_off_samples(
    rule: SplitRule, images: ImageSet, trained: NDArray[np.bool_], words: str
) -> Split:
    """Lay validation patches side by side over the samples that are not trained on."""
    patch_size, extents = rule.patch_size, images.extents()
    masks = origin_masks(images, patch_size)
    left = zip(*extents.samples(trained).tolist(), strict=True)
    if not any(key not in masks or masks[key].n_allowed for key in left):
        raise DataError(
            f"train_data: {words}. Masks and gaps leave no place for a training patch of "
            f"{patch_size} in the others. Use smaller patches, a larger mask or another fold."
        )
    window_bytes = rule.pool_bytes // WINDOWS
    plan = PatchGrid(extents, patch_size, window_bytes=window_bytes, chosen=~trained, allowed=masks)
    if not len(plan):
        raise DataError(
            f"train_data: {words}. Masks and gaps leave no validation patch of {patch_size} side "
            "by side in them. Use smaller patches, a larger mask or another fold."
        )
    plan = plan.some(rule.n_val_patches, np.random.default_rng([rule.seed, 4]))
    return Split(plan, trained, words=f"{words}; {len(plan)} patches")


def _n_folds_of(names: Sequence[str], kind: Whole, n_folds: int | None, fold: int) -> int:
    """Return how many folds there are; `DataError` for too few units, or no such ``fold``."""
    n = len(names)
    if n < 2:
        raise DataError(
            f"train_data: hold_out={kind} needs 2 {kind} or more, one to validate and one to train "
            f"on, but there is only {names[0]}. Set hold_out to "
            f"{' or '.join([*SMALLER[kind], 'patches'])}, or give val_data."
        )
    if n_folds is not None and n_folds > n:
        smaller = f", or set hold_out to {' or '.join(SMALLER[kind])}" if SMALLER[kind] else ""
        raise DataError(
            f"train_data: n_folds={n_folds}, but there are only {n} {kind} to deal into folds. Use "
            f"at most {n} folds{smaller}."
        )
    found = min(N_FOLDS, n) if n_folds is None else n_folds
    if fold >= found:
        raise DataError(
            f"train_data: fold={fold}, but {n} {kind} make {found} folds, from 0 to {found - 1}."
        )
    return found


def first_of(names: Sequence[str]) -> str:
    """Join the first of some names."""
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)
