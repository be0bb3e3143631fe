"""What is held out for validation, as plain values for checkpoints and as a table."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from careamics_dm.datamodule.validation_split import (
    Split,
    SplitRule,
    first_of,
    split_off_patches,
    split_off_samples,
)
from careamics_dm.errors import DataError
from careamics_dm.images.image_set import ImageSet
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.sampling.folds import units
from careamics_dm.sampling.keyed_random import Numbers
from careamics_dm.sampling.read_windows import PatchList

NEW_RUN = "To train its model further on other images, start a new run with weights=FILE."
COLUMNS = ("split", "image", "sample", "start", "size")
"""Of a table of the split."""


def to_rows(split: Split, images: ImageSet) -> list[list[Any]]:
    """Return plain values for a checkpoint: ``[source, sample, *origin]`` for each patch.

    Of samples that are held out as a whole, ``[source, sample]`` for each.
    """
    if isinstance(split.patches, PatchList):
        places = split.patches.rows
    else:
        assert split.trained is not None
        places = images.extents().samples(~split.trained).T
    names = image_names(images.stacks)
    return [[names[i], *place] for i, *place in places.tolist()]


def from_rows(rows: Sequence[Sequence[Any]], rule: SplitRule, images: ImageSet) -> Split:
    """Read back what `to_rows` wrote.

    `DataError` where an image is missing, or is smaller now, or nothing is left to train on.
    """
    if len(rows[0]) > 2:
        places = _numbers_of(rows, images.stacks, rule.patch_size)
        return split_off_patches(rule, images, PatchList(places, rule.patch_size))
    image, sample = _numbers_of(rows, images.stacks, ()).T
    extents = images.extents()
    trained = np.ones(extents.each(lambda extent: extent.samples).sum(), bool)
    trained[extents.first[image] + sample] = False
    of, names = units(images.stacks, "images")
    held = sorted(names[i] for i in np.unique(of[~trained]))
    words = (
        f"{np.count_nonzero(~trained)} of {len(trained)} samples held out for validation, as in "
        f"the checkpoint, in {len(held)} of {len(names)} images: {first_of(held)}"
    )
    if not trained.any():
        raise DataError(
            f"train_data: {words}. Nothing is left to train on. Add the images that the run of "
            f"the checkpoint was trained on, or give val_data. {NEW_RUN}"
        )
    return split_off_samples(rule, images, trained, words)


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
        held, size = to_rows(split, images), split.patches.patch_size
        rows += [("val", name, sample, start, size) for name, sample, *start in held]
    listed = [(*row, " ".join(map(str, start)), " ".join(map(str, n))) for *row, start, n in rows]
    return [dict(zip(COLUMNS, row, strict=True)) for row in listed]


def image_names(stacks: Sequence[ImageStack]) -> list[str]:
    """Name images by source; further channels of one file, which are images too, by number."""
    sources = [stack.source for stack in stacks]
    seen: dict[str, int] = {}
    for i, source in enumerate(sources):
        seen[source] = seen.get(source, 0) + 1
        sources[i] = source if seen[source] == 1 else f"{source} ({seen[source]})"
    return sources


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
