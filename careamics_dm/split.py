"""What of the training data validates and what trains: made, restored, told, written."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from careamics_dm.axes import DataError
from careamics_dm.cells import CELLS, VAL_SHARE
from careamics_dm.folds import deal, n_folds_of, units
from careamics_dm.held_out import (
    from_rows,
    hold_out,
    image_names,
    image_numbers,
    n_available,
    to_rows,
    within,
)
from careamics_dm.plan import Plan, rows_of
from careamics_dm.tiling import grid_plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from careamics_dm.arguments import Arguments
    from careamics_dm.datamodule import PatchDataModule
    from careamics_dm.image_stack import ImageStack
    from careamics_dm.images import Images
    from careamics_dm.plan import Extent

VAL_PATCHES = 8
"""Validation patches to hold out by default; of little data, at most a quarter."""
COLUMNS = ("split", "image", "sample", "start", "size")
"""Of a table of the split."""


@dataclass(frozen=True)
class Split:
    """Validation patches of the training data, and what they leave to train on."""

    patches: Plan
    """The validation patches."""
    trained: NDArray[np.bool_] | None = None
    """Whether each sample, image by image, is trained on; ``None``: all are, but for
    ``avoided``."""
    elsewhere: Plan | None = None
    """The same places in other samples that show the same scene."""
    words: str = ""
    """What is held out, where that is whole samples."""

    @property
    def avoided(self) -> Plan | None:
        """Patches that no training patch may overlap; ``None`` where samples are left out."""
        if self.trained is not None:
            return None
        return self.patches if self.elsewhere is None else self.elsewhere

    def to_rows(self, stacks: Sequence[ImageStack]) -> list[list[Any]]:
        """Write what is held out as plain values, for a checkpoint.

        Returns
        -------
        list of list
            ``[source, sample, *origin]`` for each patch, or ``[source, sample]`` for each sample
            that is held out as a whole.
        """
        if self.trained is None:
            return to_rows(self.patches, stacks)
        names = image_names(stacks)
        samples = [(name, s) for name, n in _sizes(names, stacks) for s in range(n)]
        return [list(samples[row]) for row in np.flatnonzero(~self.trained).tolist()]


def make_split(arguments: Arguments, images: Images, restored: Mapping[str, Any]) -> Split | None:
    """Choose what of the training data validates, or take what a checkpoint says.

    Parameters
    ----------
    arguments : Arguments
        ``hold_out``, ``n_folds``, ``fold``, ``n_val_patches``, ``patch_size`` and ``seed`` count.
    images : Images
        The training data.
    restored : mapping
        State of a data module, or nothing.

    Returns
    -------
    Split or None
        ``None``: nothing validates.

    Raises
    ------
    DataError
        Nothing would be left to train on or to validate with, folds that cannot be, or images of
        the checkpoint that are missing.
    """
    if arguments.n_val_patches == 0:
        return None
    rows, patch_size = restored.get("held_out"), arguments.patch_size
    if rows and len(rows[0]) == 2:
        trained = _trained_from_rows(rows, images.stacks)
        return _whole(arguments, images, trained, _words(trained, images))
    # Patches of another size would not lie on the same grid.
    if rows and tuple(restored["patch_size"]) == patch_size:
        return _patches(arguments, images, from_rows(rows, images.stacks, patch_size))
    if arguments.hold_out != "patches":
        return _fold(arguments, images)
    extents, masks = images.extents(), images.origin_masks(patch_size)
    n = arguments.n_val_patches
    if n is None:
        # Places of a scene that is repeated are held out in every frame.
        few = [e._replace(samples=1) for e in extents] if arguments.repeats else extents
        n = min(VAL_PATCHES, n_available(few, patch_size, masks) // 4)
    rng = np.random.default_rng([arguments.seed, 3])
    if not n:
        return None
    return _patches(arguments, images, hold_out(extents, patch_size, n, rng, masks))


def _patches(arguments: Arguments, images: Images, patches: Plan) -> Split:
    """Hold out patches; of a scene that is repeated, in every frame."""
    if arguments.repeats is None:
        return Split(patches)
    samples = np.array([stack.data_shape[0] for stack in images.stacks])[patches.image]
    every = patches.take(np.repeat(np.arange(len(patches)), samples))
    sample = np.concatenate([np.arange(n) for n in samples])
    places = np.column_stack([every.image, sample, every.start])
    once = np.unique(places, axis=0, return_index=True)[1]
    return Split(patches, elsewhere=replace(every, sample=sample).take(once))


def _fold(arguments: Arguments, images: Images) -> Split:
    """Hold out the units of a fold."""
    kind, fold = arguments.hold_out, arguments.fold
    assert kind != "patches"
    of, names = units(images.stacks, kind)
    n_folds = n_folds_of(names, kind, arguments.n_folds, fold)
    held = deal(names, n_folds) == fold
    some = sorted(names[i] for i in np.flatnonzero(held))
    words = (
        f"{len(some)} of {len(names)} {kind} held out for validation (fold {fold} of {n_folds}): "
        f"{_some(some)}"
    )
    return _whole(arguments, images, ~held[of], words)


def _whole(arguments: Arguments, images: Images, trained: NDArray[np.bool_], words: str) -> Split:
    """Lay validation patches side by side over the samples that are not trained on."""
    patch_size, extents = arguments.patch_size, images.extents()
    masks = images.origin_masks(patch_size)
    rows = [(i, s) for i, extent in enumerate(extents) for s in range(extent.samples)]
    left = (rows[row] for row in np.flatnonzero(trained).tolist())
    if not any(key not in masks or masks[key].n_allowed for key in left):
        raise DataError(
            f"train_data: {words}. Masks and gaps leave no place for a training patch of "
            f"{patch_size} in the others. Use smaller patches, a larger mask or another fold."
            if trained.any()
            else f"train_data: {words}. Nothing is left to train on. Add the images that the run "
            "of the checkpoint was trained on, or give val_data."
        )
    cell_bytes = arguments.pool_bytes // VAL_SHARE // CELLS
    plan = within(_grid_over(extents, ~trained, patch_size, cell_bytes), masks, extents)
    if not len(plan):
        raise DataError(
            f"train_data: {words}. Masks and gaps leave no validation patch of {patch_size} side "
            "by side in them. Use smaller patches, a larger mask or another fold."
        )
    if arguments.n_val_patches is not None and arguments.n_val_patches < len(plan):
        plan = some_of(plan, arguments.n_val_patches, arguments.seed)
    return Split(plan, trained, words=f"{words}; {len(plan)} patches")


def some_of(plan: Plan, n_patches: int, seed: int) -> Plan:
    """Choose some patches of a plan at random, in its order."""
    rng = np.random.default_rng([seed, 4])
    return plan.take(np.sort(rng.choice(len(plan), n_patches, replace=False)))


def _grid_over(
    extents: Sequence[Extent], held: NDArray[np.bool_], patch_size: Sequence[int], cell_bytes: int
) -> Plan:
    """Lay patches side by side over some samples, image by image."""
    first = np.cumsum([0] + [extent.samples for extent in extents])
    image = np.flatnonzero(np.add.reduceat(held, first[:-1], dtype=np.int64))
    parts, numbers = [], []
    for i in image.tolist():
        number, extent = np.flatnonzero(held[first[i] : first[i + 1]]), extents[i]
        if extent.together == 1:  # of the others, whole groups are read
            extent = extent._replace(samples=len(number), samples_per_block=1)
        else:
            number = np.arange(extent.samples)
        parts.append(extent)
        numbers.append(number)
    plan = grid_plan(parts, patch_size, cell_bytes=cell_bytes)
    sample = np.concatenate(numbers)[rows_of(plan, parts)]
    found = Plan(image[plan.image], sample, plan.start, plan.size, plan.cell, plan.crop, plan.split)
    return found.take(held[rows_of(found, extents)])


def _trained_from_rows(
    rows: Sequence[Sequence[Any]], stacks: Sequence[ImageStack]
) -> NDArray[np.bool_]:
    """Read back what `Split.to_rows` wrote of whole samples."""
    advice = "Train on the same data, or give val_data."
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


def _words(trained: NDArray[np.bool_], images: Images) -> str:
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
    images: Images, split: Split | None, role: Literal["train", "val"]
) -> list[dict[str, Any]]:
    """List the samples of some images, and the patches held out of them.

    Parameters
    ----------
    images : Images
        Of a role.
    split : Split or None
        Of training data.
    role : {"train", "val"}
        What the images are for.

    Returns
    -------
    list of dict
        See `careamics_dm.datamodule.PatchDataModule.split_table`.
    """
    trained = iter(() if split is None or split.trained is None else split.trained.tolist())
    names, rows = image_names(images.stacks), []
    for name, stack in zip(names, images.stacks, strict=True):
        size = _numbers(stack.data_shape[2:])
        for sample in range(stack.data_shape[0]):
            of = role if next(trained, True) else "val"
            rows.append(_row(of, name, sample, "", size))
    if split is not None and split.trained is None:
        held = split.patches
        columns = (held.image, held.sample, held.start, held.size)
        for i, sample, start, shape in zip(*(c.tolist() for c in columns), strict=True):
            rows.append(_row("val", names[i], sample, _numbers(start), _numbers(shape)))
    return rows


def _row(*values: Any) -> dict[str, Any]:
    return dict(zip(COLUMNS, values, strict=True))


def _numbers(values: Sequence[int]) -> str:
    return " ".join(map(str, values))


def write_split(data: PatchDataModule, path: str | Path) -> Path:
    """Write which samples train and which validate as a table, CSV in UTF-8.

    Parameters
    ----------
    data : PatchDataModule
        With training or validation data.
    path : path
        ``split.csv``, say, in a folder that exists.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    DataError
        As for `careamics_dm.datamodule.PatchDataModule.split_table`.
    """
    rows, path = data.split_table(), Path(path)
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path
