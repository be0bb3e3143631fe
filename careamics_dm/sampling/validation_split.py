"""What of the training data validates and what trains: chosen, restored, described, listed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.extent import Extent, Extents
from careamics_dm.images.image_set import ImageSet
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.sampling.allowed_origins import Masks
from careamics_dm.sampling.folds import deal, n_folds_of, units
from careamics_dm.sampling.image_origins import origin_masks
from careamics_dm.sampling.keyed_random import Numbers
from careamics_dm.sampling.patch_grid import PatchGrid
from careamics_dm.sampling.read_windows import WINDOWS, PatchList

NEW_RUN = "To train its model further on other images, start a new run with weights=FILE."
HoldOut = Literal["patches", "samples", "images", "files"]
VAL_PATCHES = 8
"""Validation patches to hold out by default; of little data, at most a quarter."""
COLUMNS = ("split", "image", "sample", "start", "size")
"""Of a table of the split."""


@dataclass(frozen=True)
class Split:
    """Validation patches of the training data, and what they leave to train on."""

    patches: PatchList | PatchGrid  # that validate
    trained: NDArray[np.bool_] | None = None  # each sample, image by image; None: all but avoided
    avoided: PatchList | None = None  # no training patch may overlap; None: samples are left out
    words: str = ""  # what is held out, where that is whole samples

    def to_rows(self, images: ImageSet) -> list[list[Any]]:
        """Return plain values for a checkpoint: ``[source, sample, *origin]`` for each patch.

        Of samples that are held out as a whole, ``[source, sample]`` for each.
        """
        if isinstance(self.patches, PatchList):
            return to_rows(self.patches.rows, images.stacks)
        assert self.trained is not None
        return to_rows(images.extents().samples(~self.trained).T, images.stacks)


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
        trained = _trained_from_rows(rows, images)
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
        few = extents.changed(lambda e: e._replace(samples=1)) if rule.repeats else extents
        n = min(VAL_PATCHES, len(side_by_side(few, patch_size, masks)) // 4)
    if not n:
        return None
    rng = np.random.default_rng([rule.seed, 3])
    return _patches(rule, images, hold_out(extents, patch_size, n, rng, masks))


def _patches(rule: SplitRule, images: ImageSet, patches: PatchList) -> Split:
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
    left = zip(*extents.samples(trained).tolist(), strict=True)
    if not any(key not in masks or masks[key].n_allowed for key in left):
        raise DataError(
            f"train_data: {words}. Masks and gaps leave no place for a training patch of "
            f"{patch_size} in the others. Use smaller patches, a larger mask or another fold."
            if trained.any()
            else f"train_data: {words}. Nothing is left to train on. Add the images that the run "
            f"of the checkpoint was trained on, or give val_data. {NEW_RUN}"
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


def _trained_from_rows(rows: Sequence[Sequence[Any]], images: ImageSet) -> NDArray[np.bool_]:
    """Read back what `Split.to_rows` wrote of whole samples."""
    image, sample = _numbers_of(rows, images.stacks, ()).T
    first = images.extents().first
    trained = np.ones(sum(stack.data_shape[0] for stack in images.stacks), bool)
    trained[first[image] + sample] = False
    return trained


def _words(trained: NDArray[np.bool_], images: ImageSet) -> str:
    """Tell what a checkpoint holds out."""
    of, names = units(images.stacks, "images")
    held = sorted(names[i] for i in np.unique(of[~trained]))
    return (
        f"{np.count_nonzero(~trained)} of {len(trained)} samples held out for validation, as in "
        f"the checkpoint, in {len(held)} of {len(names)} images: {_some(held)}"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)


def table_of(
    images: ImageSet, split: Split | None, role: Literal["train", "val"]
) -> list[dict[str, Any]]:
    """List the samples of the images of a role, and the patches held out; see `COLUMNS`."""
    trained = iter(() if split is None or split.trained is None else split.trained.tolist())
    rows: list[tuple[Any, ...]] = [
        (role if next(trained, True) else "val", name, sample, (), stack.data_shape[2:])
        for name, stack in zip(image_names(images.stacks), images.stacks, strict=True)
        for sample in range(stack.data_shape[0])
    ]
    if split is not None and isinstance(split.patches, PatchList):
        held, size = split.to_rows(images), split.patches.patch_size
        rows += [("val", name, sample, start, size) for name, sample, *start in held]
    listed = [(*row, " ".join(map(str, start)), " ".join(map(str, n))) for *row, start, n in rows]
    return [dict(zip(COLUMNS, row, strict=True)) for row in listed]


def hold_out(
    extents: Sequence[Extent],
    patch_size: Sequence[int],
    n_patches: int,
    rng: np.random.Generator,
    masks: Masks | None = None,
) -> PatchList:
    """Choose validation patches of a grid at random.

    ``rng`` is of the seed alone, so that they stay the same in every epoch. `DataError` if nothing
    would be left to train on.
    """
    grid = side_by_side(extents, patch_size, masks)
    if n_patches >= len(grid):
        raise DataError(
            f"n_val_patches={n_patches}, but the training data hold only {len(grid)} patches of "
            f"{tuple(patch_size)} side by side, and some must be left to train on. Use fewer or "
            "smaller patches, or give val_data."
        )
    chosen = grid.places(rng.choice(len(grid), n_patches, replace=False))
    return PatchList(np.column_stack(chosen[:3]), patch_size)


def side_by_side(
    extents: Sequence[Extent], patch_size: Sequence[int], masks: Masks | None
) -> PatchGrid:
    """Lay patches side by side inside images, where masks and gaps allow them."""

    def inside(extent: Extent) -> Extent:
        size = tuple(n // p * p for n, p in zip(extent.size, patch_size, strict=True))
        return extent._replace(size=size, samples=extent.samples if all(size) else 0)

    return PatchGrid(Extents(extents).changed(inside), patch_size, allowed=masks)


def to_rows(places: Numbers, stacks: Sequence[ImageStack]) -> list[list[Any]]:
    """Write places as plain values, ``[source, sample, *origin]`` each."""
    names = image_names(stacks)
    return [[names[i], *place] for i, *place in places.tolist()]


def image_names(stacks: Sequence[ImageStack]) -> list[str]:
    """Name images by source; further channels of one file, which are images too, by number."""
    sources = [stack.source for stack in stacks]
    seen: dict[str, int] = {}
    for i, source in enumerate(sources):
        seen[source] = seen.get(source, 0) + 1
        sources[i] = source if seen[source] == 1 else f"{source} ({seen[source]})"
    return sources


def from_rows(
    rows: Sequence[Sequence[Any]], stacks: Sequence[ImageStack], patch_size: Sequence[int]
) -> PatchList:
    """Read back what `to_rows` wrote; `DataError` where an image is missing, or is smaller now."""
    return PatchList(_numbers_of(rows, stacks, patch_size), patch_size)


def _numbers_of(
    rows: Sequence[Sequence[Any]], stacks: Sequence[ImageStack], patch_size: Sequence[int]
) -> Numbers:
    """Replace the names in rows of a checkpoint by numbers of images, which must have the rest."""
    number = {name: i for i, name in enumerate(image_names(stacks))}
    advice = f"Train on the same data, or give val_data. {NEW_RUN}"
    if missing := sorted({row[0] for row in rows} - set(number)):
        raise DataError(
            f"train_data: the validation data of the checkpoint are in {', '.join(missing)}, which "
            f"the training data lack. {advice}"
        )
    for name, sample, *origin in rows:
        samples, _, *size = stacks[number[name]].data_shape
        fits = sample < samples and len(origin) == (len(size) if patch_size else 0)
        if not fits or any(a + p > n for a, p, n in zip(origin, patch_size, size, strict=False)):
            patch = f"a patch of {tuple(patch_size)} at {tuple(origin)} in " if origin else ""
            raise DataError(
                f"train_data: the checkpoint validates on {patch}sample {sample} of {name}, but "
                f"the image has {samples} sample(s) of {tuple(size)}. {advice}"
            )
    return np.array([(number[name], *place) for name, *place in rows])


def n_by_default(images: ImageSet, patch_size: Sequence[int], split: Split | None) -> int:
    """Count random patches per epoch: as many as cover the data, but for the held-out ones."""
    held = 0 if split is None or split.avoided is None else len(split.avoided)
    trained = None if split is None else split.trained
    extents = images.extents()
    n = np.bincount(extents.samples(trained)[0], minlength=len(extents))
    covering = n * extents.each(
        lambda e: prod(-(-s // p) for s, p in zip(e.size, patch_size, strict=True))
    )
    lacking = sum(
        covering[i] * pixels / (n[i] * prod(extents[i].size))
        for i, pixels in images.n_not_acquired(trained).items()
    )
    return max(round(float(covering.sum() - lacking)) - held, 1)
