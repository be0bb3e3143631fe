"""What of the training data validates and what trains: chosen, restored, described, listed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.image_set import ImageSet
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.sampling.folds import deal, n_folds_of, units
from careamics_dm.sampling.held_out import (
    NEW_RUN,
    from_rows,
    hold_out,
    image_names,
    image_numbers,
    n_available,
    to_rows,
)
from careamics_dm.sampling.image_origins import origin_masks
from careamics_dm.sampling.read_windows import WINDOWS, PatchList
from careamics_dm.sampling.tiling import TileGrid

HoldOut = Literal["patches", "samples", "images", "files"]
VAL_PATCHES = 8
"""Validation patches to hold out by default; of little data, at most a quarter."""
COLUMNS = ("split", "image", "sample", "start", "size")
"""Of a table of the split."""


@dataclass(frozen=True)
class Split:
    """Validation patches of the training data, and what they leave to train on."""

    patches: PatchList | TileGrid
    """The validation patches."""
    trained: NDArray[np.bool_] | None = None
    """Whether each sample, image by image, is trained on; ``None``: all are, but for
    ``avoided``."""
    elsewhere: PatchList | None = None
    """The same places in other samples that show the same scene."""
    words: str = ""
    """What is held out, where that is whole samples."""

    @property
    def avoided(self) -> PatchList | None:
        """Patches that no training patch may overlap; ``None`` where samples are left out."""
        if isinstance(self.patches, TileGrid):
            return None
        return self.patches if self.elsewhere is None else self.elsewhere

    def to_rows(self, stacks: Sequence[ImageStack]) -> list[list[Any]]:
        """Return plain values for a checkpoint: ``[source, sample, *origin]`` for each patch.

        Of samples that are held out as a whole, ``[source, sample]`` for each.
        """
        if isinstance(self.patches, PatchList):
            return to_rows(self.patches, stacks)
        assert self.trained is not None
        names = image_names(stacks)
        samples = [(name, s) for name, n in _sizes(names, stacks) for s in range(n)]
        return [list(samples[row]) for row in np.flatnonzero(~self.trained).tolist()]


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


def make_split(rule: SplitRule, images: ImageSet, restored: Mapping[str, Any]) -> Split | None:
    """Choose what of the training data validates, or take what a checkpoint says.

    ``restored`` is the state of a data module, or empty. Returns ``None`` if nothing validates.
    `DataError` if nothing would be left to train on or to validate with, or images of the
    checkpoint are missing.
    """
    if rule.n_val_patches == 0:
        return None
    rows, patch_size = restored.get("held_out"), rule.patch_size
    if rows and len(rows[0]) == 2:
        trained = _trained_from_rows(rows, images.stacks)
        return _whole(rule, images, trained, _words(trained, images))
    # Patches of another size would not lie on the same grid.
    if rows and tuple(restored["patch_size"]) == patch_size:
        return _patches(rule, images, from_rows(rows, images.stacks, patch_size))
    if rule.hold_out != "patches":
        return _fold(rule, images)
    extents, masks = images.extents(), origin_masks(images, patch_size)
    n = rule.n_val_patches
    if n is None:
        # Places of a scene that is repeated are held out in every frame.
        few = [e._replace(samples=1) for e in extents] if rule.repeats else extents
        n = min(VAL_PATCHES, n_available(few, patch_size, masks) // 4)
    rng = np.random.default_rng([rule.seed, 3])
    if not n:
        return None
    return _patches(rule, images, hold_out(extents, patch_size, n, rng, masks))


def _patches(rule: SplitRule, images: ImageSet, patches: PatchList) -> Split:
    """Hold out patches; of a scene that is repeated, in every frame."""
    if rule.repeats is None:
        return Split(patches)
    samples = np.array([stack.data_shape[0] for stack in images.stacks])[patches.image]
    row = np.repeat(np.arange(len(patches)), samples)
    sample = np.concatenate([np.arange(n) for n in samples])
    places = np.column_stack([patches.image[row], sample, patches.start[row]])
    image, sample, *start = np.unique(places, axis=0).T
    elsewhere = PatchList(image, sample, np.stack(start, axis=1), patches.patch_size)
    return Split(patches, elsewhere=elsewhere)


def _fold(rule: SplitRule, images: ImageSet) -> Split:
    """Hold out the units of a fold."""
    kind, fold = rule.hold_out, rule.fold
    assert kind != "patches"
    of, names = units(images.stacks, kind)
    n_folds = n_folds_of(names, kind, rule.n_folds, fold)
    held = deal(names, n_folds) == fold
    some = sorted(names[i] for i in np.flatnonzero(held))
    words = (
        f"{len(some)} of {len(names)} {kind} held out for validation (fold {fold} of {n_folds}): "
        f"{_some(some)}"
    )
    return _whole(rule, images, ~held[of], words)


def _whole(rule: SplitRule, images: ImageSet, trained: NDArray[np.bool_], words: str) -> Split:
    """Lay validation patches side by side over the samples that are not trained on."""
    patch_size, extents = rule.patch_size, images.extents()
    masks = origin_masks(images, patch_size)
    rows = [(i, s) for i, extent in enumerate(extents) for s in range(extent.samples)]
    left = (rows[row] for row in np.flatnonzero(trained).tolist())
    if not any(key not in masks or masks[key].n_allowed for key in left):
        raise DataError(
            f"train_data: {words}. Masks and gaps leave no place for a training patch of "
            f"{patch_size} in the others. Use smaller patches, a larger mask or another fold."
            if trained.any()
            else f"train_data: {words}. Nothing is left to train on. Add the images that the run "
            f"of the checkpoint was trained on, or give val_data. {NEW_RUN}"
        )
    window_bytes = rule.pool_bytes // WINDOWS
    plan = TileGrid(extents, patch_size, window_bytes=window_bytes, chosen=~trained, allowed=masks)
    if not len(plan):
        raise DataError(
            f"train_data: {words}. Masks and gaps leave no validation patch of {patch_size} side "
            "by side in them. Use smaller patches, a larger mask or another fold."
        )
    if rule.n_val_patches is not None and rule.n_val_patches < len(plan):
        plan = plan.some(rule.n_val_patches, np.random.default_rng([rule.seed, 4]))
    return Split(plan, trained, words=f"{words}; {len(plan)} patches")


def _trained_from_rows(
    rows: Sequence[Sequence[Any]], stacks: Sequence[ImageStack]
) -> NDArray[np.bool_]:
    """Read back what `Split.to_rows` wrote of whole samples."""
    advice = f"Train on the same data, or give val_data. {NEW_RUN}"
    number = image_numbers(rows, stacks, "samples", advice)
    samples = [stack.data_shape[0] for stack in stacks]
    first = np.cumsum([0, *samples])
    trained = np.ones(first[-1], bool)
    for source, sample in rows:
        i = number[source]
        if sample >= samples[i]:
            raise DataError(
                f"train_data: the checkpoint holds out sample {sample} of {source} for validation, "
                f"but the image has {samples[i]} sample(s). {advice}"
            )
        trained[first[i] + sample] = False
    return trained


def _words(trained: NDArray[np.bool_], images: ImageSet) -> str:
    """Tell what a checkpoint holds out."""
    of, names = units(images.stacks, "images")
    held = sorted(names[i] for i in np.unique(of[~trained]))
    return (
        f"{np.count_nonzero(~trained)} of {len(trained)} samples held out for validation, as in "
        f"the checkpoint, in {len(held)} of {len(names)} images: {_some(held)}"
    )


def _sizes(names: Sequence[str], stacks: Sequence[ImageStack]) -> list[tuple[str, int]]:
    return [(name, stack.data_shape[0]) for name, stack in zip(names, stacks, strict=True)]


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


def table_of(
    images: ImageSet, split: Split | None, role: Literal["train", "val"]
) -> list[dict[str, Any]]:
    """List the samples of the images of a role, and the patches held out; see `COLUMNS`."""
    trained = iter(() if split is None or split.trained is None else split.trained.tolist())
    names, rows = image_names(images.stacks), []
    for name, stack in zip(names, images.stacks, strict=True):
        size = _numbers(stack.data_shape[2:])
        for sample in range(stack.data_shape[0]):
            of = role if next(trained, True) else "val"
            rows.append(_row(of, name, sample, "", size))
    if split is not None and isinstance(split.patches, PatchList):
        held = split.patches
        columns = (held.image.tolist(), held.sample.tolist(), held.start.tolist())
        for i, sample, start in zip(*columns, strict=True):
            rows.append(_row("val", names[i], sample, _numbers(start), _numbers(held.patch_size)))
    return rows


def _row(*values: Any) -> dict[str, Any]:
    return dict(zip(COLUMNS, values, strict=True))


def _numbers(values: Sequence[int]) -> str:
    return " ".join(map(str, values))
