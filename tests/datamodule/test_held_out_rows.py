"""What is held out, written to checkpoints and read back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from careamics_dm.datamodule.held_out_rows import from_rows, to_rows
from careamics_dm.datamodule.validation_split import Split, SplitRule, make_split
from careamics_dm.errors import DataError
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.image_set import ImageSet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from careamics_dm.images.image_stack import ImageStack


def rule(patch: tuple[int, ...] = (8, 8)) -> SplitRule:
    return SplitRule(patch, "patches", None, 0, 12, None, 2**20, 0)


def images_of(stacks: Sequence[ImageStack]) -> ImageSet:
    return ImageSet([*stacks], channels=[None] * len(stacks))


@pytest.fixture
def images() -> ImageSet:
    a = ArrayStack(np.zeros((2, 24, 32), np.uint8), "TYX", "a.tif")
    return images_of([a, ArrayStack(np.zeros((40, 16), np.uint8), "YX", "b.tif")])


@pytest.fixture
def held(images: ImageSet) -> Split:
    split = make_split(rule(), images)
    assert split is not None and len(split.patches) == 12
    return split


def test_patches_are_written_as_plain_values_and_read_back(images: ImageSet, held: Split) -> None:
    rows = to_rows(held, images)
    assert all(type(value) in (str, int) for row in rows for value in row)
    again = from_rows(rows, rule(), images)
    for name in ("rows", "patch_size"):
        np.testing.assert_array_equal(
            getattr(again.patches, name), getattr(held.patches, name), strict=True
        )


def test_patches_are_found_again_when_images_come_in_another_order(
    images: ImageSet, held: Split
) -> None:
    other = images_of(images.stacks[::-1])
    again = from_rows(to_rows(held, images), rule(), other)
    assert sorted(to_rows(again, other)) == sorted(to_rows(held, images))


def test_an_image_that_is_missing_is_named(images: ImageSet, held: Split) -> None:
    with pytest.raises(DataError, match=r"validation data of the checkpoint are in a\.tif, which"):
        from_rows(to_rows(held, images), rule(), images_of(images.stacks[1:]))


@pytest.mark.parametrize(
    ("row", "patch"),
    [
        (["b.tif", 0, 40, 0], (8, 8)),
        (["b.tif", 1, 0, 0], (8, 8)),
        (["b.tif", 0, 0, 8], (8, 16)),
        (["b.tif", 0, 0, 0, 0], (8, 8)),
    ],
)
def test_a_patch_that_lies_outside_now_is_an_error(
    images: ImageSet, row: list[object], patch: tuple[int, ...]
) -> None:
    with pytest.raises(
        DataError, match=r"a patch of .*sample . of b\.tif, but .* has 1 sample\(s\)"
    ):
        from_rows([row], rule(patch), images)
