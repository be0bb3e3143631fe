"""Volumes as planes: which sample is which plane, and what suits a patch size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from stacks import RecordingStack

from careamics_dm.errors import DataError
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.frame_pairs import AlternateFrames
from careamics_dm.images.plane_stack import PlaneStack, suit_patch
from careamics_dm.images.stack_view import layout_of
from careamics_dm.testing.image_stack_checks import check_image_stack

if TYPE_CHECKING:
    from careamics_dm.images.image_stack import ImageStack

PIXELS = np.arange(2 * 3 * 4 * 10 * 12, dtype=np.uint16).reshape(2, 3, 4, 10, 12)  # S C Z Y X
PLANES = PIXELS.transpose(0, 2, 1, 3, 4).reshape(8, 3, 10, 12)


ON_DISK = PIXELS.transpose(2, 0, 1, 3, 4)


class Stored:
    """Pixels that are not in memory, as far as a stack can say."""

    shape, dtype = ON_DISK.shape, ON_DISK.dtype

    def __getitem__(self, box: Any) -> Any:
        return ON_DISK[box]


def stacks() -> dict[str, ImageStack]:
    return {
        "in memory": ArrayStack(PIXELS, "TCZYX", "a"),
        "stored": ArrayStack(Stored(), "ZTCYX", "a", block_shape=(3, 1, 3, 5, 5)),
        "whole volumes": ArrayStack(Stored(), "ZTCYX", "a", block_shape=(4, 2, 3, 5, 5)),
        "someone else's": RecordingStack(PIXELS, block=(2, 5, 5)),
    }


@pytest.mark.parametrize(
    ("name", "together"),
    [("in memory", 4), ("stored", 3), ("whole volumes", 8), ("someone else's", 2)],
)
def test_every_plane_is_a_sample_and_z_runs_fastest(name: str, together: int) -> None:
    planes = PlaneStack(stacks()[name])
    if name != "someone else's":  # which pads nothing
        check_image_stack(planes, PLANES)
    assert planes.samples_per_block == together
    np.testing.assert_array_equal(
        planes.extract_patch(6, [1], (1, 2), (5, 6)), PLANES[6, 1:2, 1:6, 2:8]
    )
    for first, n in ((0, 8), (0, 4), (1, 2), (2, 5), (3, 5), (7, 1)):
        found = planes.extract_samples(first, n, [2, 0], (1, 2), (5, 6))
        np.testing.assert_array_equal(found, PLANES[first : first + n, [2, 0], 1:6, 2:8])


def test_planes_go_back_to_the_axes_of_the_volume() -> None:
    layout = layout_of(PlaneStack(stacks()["stored"])).with_channels(2)
    assert (layout.axes, layout.shape) == ("ZTCYX", (4, 2, 2, 10, 12))
    np.testing.assert_array_equal(
        layout.from_canonical(PLANES[:, :2]), PIXELS.transpose(2, 0, 1, 3, 4)[:, :, :2]
    )


def test_loaded_planes_are_in_memory_and_views() -> None:
    loaded = PlaneStack(stacks()["stored"]).load()
    assert loaded.in_memory
    check_image_stack(loaded, PLANES)
    patch = loaded.extract_patch(5, None, (1, 2), (3, 4))
    assert np.shares_memory(patch, loaded.stack.array)


def test_acquired_boxes_are_those_of_the_plane() -> None:
    stack: Any = RecordingStack(PIXELS)
    stack.valid_region = lambda sample, channels: [((0, 0, 0), (2, 5, 5)), ((1, 0, 6), (4, 9, 9))]
    found = [PlaneStack(stack).valid_region(z) for z in range(4)]
    assert found == [
        [((0, 0), (5, 5))],
        [((0, 0), (5, 5)), ((0, 6), (9, 9))],
        [((0, 6), (9, 9))],
        [((0, 6), (9, 9))],
    ]
    assert PlaneStack(RecordingStack(PIXELS)).valid_region(0) is None


def test_frames_of_planes_alternate() -> None:
    second = AlternateFrames(PlaneStack(stacks()["in memory"]), "T", 1)
    found = [second.extract_patch(z, None, (0, 0), (10, 12)) for z in range(4)]
    np.testing.assert_array_equal(found, PLANES[4:])


@pytest.mark.parametrize(
    ("depth", "n_dims", "z_as_samples", "shape"),
    [
        (1, 2, False, (2, 3, 10, 12)),
        (1, 3, False, (2, 3, 1, 10, 12)),
        (4, 3, False, (2, 3, 4, 10, 12)),
        (4, 2, True, (8, 3, 10, 12)),
        (0, 2, True, (2, 3, 10, 12)),
    ],
)
def test_images_suit_the_patch_size(
    depth: int, n_dims: int, z_as_samples: bool, shape: tuple[int, ...]
) -> None:
    pixels = PIXELS[:, :, :depth] if depth else PIXELS[:, :, 0]
    stack = suit_patch(RecordingStack(pixels), n_dims, z_as_samples)
    assert tuple(stack.data_shape) == shape
    assert tuple(stack.original_data_shape) == pixels.shape


@pytest.mark.parametrize(
    ("pixels", "n_dims", "message"),
    [
        (PIXELS, 2, r"with Z, of 4 planes, .*3 numbers \(Z Y X\), but has 2.* z_as_samples=true"),
        (PIXELS[:, :, 0], 3, "without Z, so patch_size needs 2 numbers, but has 3"),
    ],
)
def test_images_that_do_not_suit_are_refused(pixels: Any, n_dims: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        suit_patch(RecordingStack(pixels), n_dims, False)
