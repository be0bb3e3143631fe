"""Random patches: where they may be, how likely, and that they need no table."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from careamics_dm.errors import DataError
from careamics_dm.images.extent import Extent
from careamics_dm.sampling.allowed_origins import OriginMask, ValidOrigins
from careamics_dm.sampling.epoch_streams import Stream
from careamics_dm.sampling.random_patches import RandomPatches

if TYPE_CHECKING:
    from careamics_dm.sampling.read_windows import Places

# No deadlines: they tell how busy the machine is.
PROPERTY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])

Allowed = dict[tuple[int, int], OriginMask | ValidOrigins]


@st.composite
def cases(draw: st.DrawFn) -> RandomPatches:
    """Images of all kinds, some with masks or held-out boxes, a patch size, a budget."""
    n_axes = draw(st.integers(2, 3))
    extents = draw(
        st.lists(
            st.builds(
                Extent,
                st.integers(1, 4),
                st.tuples(*[st.integers(1, 30)] * n_axes),
                st.tuples(*[st.integers(1, 12)] * n_axes),
                st.integers(1, 4),
                st.booleans(),
                st.integers(1, 3),
            ),
            min_size=1,
            max_size=4,
        )
    )
    patch = tuple(draw(st.integers(1, 9)) for _ in range(n_axes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    allowed: Allowed = {}
    for i, extent in enumerate(extents):
        for s in range(extent.samples):
            kind = rng.integers(5)
            if kind == 0:
                allowed[i, s] = OriginMask(rng.random(extent.size) < 0.4, patch)
            elif kind == 1:
                allowed[i, s] = held_out(extent.size, patch, [rng.integers(0, extent.size)])
    n = sum(extent.samples for extent in extents)
    trained = rng.random(n) < 0.7 if draw(st.booleans()) else None
    budget = draw(st.none() | st.integers(1, 10_000))
    try:
        return RandomPatches(
            tuple(extents), patch, draw(st.integers(0, 200)), 0, budget, allowed, trained
        )
    except DataError:  # nothing is left
        assume(False)
        raise


def held_out(
    size: tuple[int, ...], patch: tuple[int, ...], starts: list[np.ndarray]
) -> ValidOrigins:
    found = ValidOrigins([((0,) * len(size), size)], size, patch)
    found.exclude([(tuple(s.tolist()), tuple((s + patch).tolist())) for s in starts])
    return found


def on_disk(*sizes: tuple[int, ...], block: tuple[int, ...], samples: int = 1) -> list[Extent]:
    return [Extent(samples, size, block, 1, False) for size in sizes]


def places(patches: RandomPatches, epoch: int = 0) -> Places:
    return patches.epoch(epoch).places(np.arange(len(patches)))


def plausible(counts: np.ndarray, expected: np.ndarray | float) -> bool:
    chi2, df = ((counts - expected) ** 2 / expected).sum(), counts.size - 1
    return bool(abs(chi2 - df) < 4.5 * (2 * df) ** 0.5)


@PROPERTY
@given(cases(), st.integers(0, 5), st.data())
def test_a_place_is_a_pure_function_of_seed_epoch_and_number(
    patches: RandomPatches, epoch: int, data: st.DataObject
) -> None:
    every = places(patches, epoch)
    again = replace(patches)
    again.epoch(epoch + 1)
    some = np.array(data.draw(st.lists(st.integers(0, max(len(patches) - 1, 0)), max_size=9)))
    some = some[some < len(patches)].astype(np.int64)
    for column, one in zip(every, again.epoch(epoch).places(some), strict=True):
        np.testing.assert_array_equal(column[some], one, strict=True)


@PROPERTY
@given(cases(), st.integers(0, 5))
def test_as_many_patches_as_asked_for_lie_inside_images_where_they_may(
    patches: RandomPatches, epoch: int
) -> None:
    found, first = places(patches, epoch), 0
    assert len(found.image) == len(patches) == patches.n_patches
    size = np.array([e.size for e in patches.extents])[found.image]
    # In an axis that is shorter than the patch, it begins at 0.
    most = np.maximum(size - patches.patch_size, 0)
    assert ((found.start >= 0) & (found.start <= most)).all()
    assert (found.size == patches.patch_size).all()
    for i, extent in enumerate(patches.extents):
        for s in range(extent.samples):
            mine = (found.image == i) & (found.sample == s)
            if patches.trained is not None and not patches.trained[first + s]:
                assert not mine.any()
            if (allowed := patches.allowed and patches.allowed.get((i, s))) and mine.any():
                assert allowed.allows(found.start[mine]).all()
        first += extent.samples


@PROPERTY
@given(cases(), st.integers(0, 5))
def test_marks_are_in_the_order_of_their_windows_which_hold_them(
    patches: RandomPatches, epoch: int
) -> None:
    located, whole = patches.epoch(epoch), replace(patches, few=0).epoch(epoch)
    found = located.places(np.arange(len(patches)))
    np.testing.assert_array_equal(located.windows(np.arange(len(patches))), found.window)
    assert (np.diff(found.window) >= 0).all()
    for window in np.unique(found.window).tolist():
        mine = np.flatnonzero(found.window == window)
        assert abs(located.first(window) - mine[0]) <= 1  # rounding
        for region in (located.region(window), whole.region(window)):
            assert (found.image[mine] == region.image).all()
            assert (found.sample[mine] >= region.sample).all()
            assert (found.sample[mine] < region.sample + region.n_samples).all()
            assert (found.start[mine] >= region.start).all()
            assert (found.start[mine] + patches.patch_size <= region.stop).all()


def test_what_is_read_at_once_stays_within_the_budget() -> None:
    extents = on_disk((999, 1001), (2000, 300), block=(32, 50))
    located = RandomPatches(tuple(extents), (20, 20), 5000, 0, 40_000).epoch(0)
    windows = np.unique(located.windows(np.arange(5000)))
    regions = [located.region(window) for window in windows.tolist()]
    assert max(np.prod(np.subtract(r.stop, r.start)) for r in regions) <= 40_000
    assert len(regions) > 20


def test_windows_do_not_overlap_and_are_whole_blocks() -> None:
    extents = on_disk((200, 200), block=(16, 16))
    located = RandomPatches(tuple(extents), (10, 10), 3000, 0, 64 * 64, few=0).epoch(0)
    seen = np.zeros((200, 200), int)
    for window in range(int(located.table.first[-1])):
        region = located.region(window)
        assert all(a % 16 == 0 for a in region.start)
        assert all(b % 16 == 0 or b == 200 for b in region.stop)
        seen[tuple(map(slice, region.start, region.stop))] += 1
    assert seen.max() == 1
    # A shift may leave a window at the border that is too narrow for a patch, for this epoch.
    assert seen.mean() > 0.6


def test_where_patches_are_few_only_the_box_that_they_need_is_read() -> None:
    extents = on_disk((2000, 2000), block=(100, 100))
    located = RandomPatches(tuple(extents), (10, 10), 3, 0, 10**6).epoch(0)
    for window in located.windows(np.arange(3)).tolist():
        region = located.region(window)
        assert np.prod(np.subtract(region.stop, region.start)) == 100


def test_epochs_and_seeds_differ_in_patches_and_in_their_order() -> None:
    extents = tuple(on_disk((300, 300), (200, 400), block=(16, 16)))
    found = [
        places(RandomPatches(extents, (16, 16), 200, s, 5000), e)
        for s, e in ((0, 0), (0, 1), (1, 0))
    ]
    for i, one in enumerate(found):
        for other in found[:i]:
            shared = {*map(tuple, one.start.tolist())} & {*map(tuple, other.start.tolist())}
            assert len(shared) < 10
            assert not np.array_equal(one.start[:, 0] // 50, other.start[:, 0] // 50)


def test_images_get_patches_in_proportion_to_their_area() -> None:
    extents = on_disk((10, 10), (30, 10), (2, 20), (50, 20), block=(5, 5), samples=2)
    found = places(RandomPatches(tuple(extents), (4, 4), 2960, 0, 50))
    # An image smaller than the patch counts as large as the patch that pads it.
    areas = np.repeat([100, 300, 80, 1000], 2)
    assert np.abs(np.bincount(found.image * 2 + found.sample) - areas).max() <= 1


def test_an_image_that_gets_less_than_a_patch_per_epoch_gets_it_every_so_often() -> None:
    extents = tuple(on_disk((10, 10), (30, 30), block=(30, 30)))
    patches = RandomPatches(extents, (4, 4), 2, 0, 10**6)
    got = [int((places(patches, epoch).image == 0).sum()) for epoch in range(500)]
    assert set(got) == {0, 1}
    assert abs(sum(got) - 100) < 40


KINDS = [
    ((9, 11), (4, 3), (9, 11), 10**6),  # in one piece
    ((9, 11), (4, 3), (1, 1), 30),
    ((12, 13), (3, 4), (4, 4), 64),  # blocks that do not divide the image
    ((12, 13), (5, 4), (2, 3), 64),  # patches larger than blocks
    ((1, 60), (1, 7), (1, 5), 20),  # a line
    ((17, 3), (4, 4), (5, 3), 30),  # narrower than the patch
    ((7, 8, 6), (3, 2, 3), (3, 3, 2), 80),
]


@pytest.mark.parametrize("restricted", ["no", "mask", "gap and held out"])
@pytest.mark.parametrize(("size", "patch", "block", "budget"), KINDS)
def test_over_the_epochs_every_allowed_origin_is_equally_likely(
    size: tuple[int, ...],
    patch: tuple[int, ...],
    block: tuple[int, ...],
    budget: int,
    restricted: str,
) -> None:
    rng, allowed = np.random.default_rng(3), Allowed()
    if restricted == "mask":
        allowed[0, 0] = OriginMask(rng.random(size) < 0.4, patch)
    elif restricted == "gap and held out":
        start, stop, axis = [0] * len(size), [*size], int(np.argmax(size))
        start[axis], stop[axis] = size[axis] // 2 + 1, size[axis] // 2
        sides = [((0,) * len(size), tuple(stop)), (tuple(start), size)]
        allowed[0, 0] = ValidOrigins(sides, size, patch)
        corner = np.maximum(np.subtract(size, patch), 0)
        allowed[0, 0].exclude([(corner.tolist(), (corner + patch).tolist())])
    if allowed and not allowed[0, 0].n_allowed:
        return  # narrower than the patch, all is held out
    # One patch per epoch: those of an epoch share their grid of windows.
    patches = RandomPatches(tuple(on_disk(size, block=block)), patch, 1, 0, budget, allowed)
    counts = np.zeros(np.maximum(np.subtract(size, patch), 0) + 1)
    n_epochs = 300
    for epoch in range(n_epochs):
        counts[tuple(places(patches, epoch).start[0])] += 1
    may = allowed[0, 0].within([0] * len(size), counts.shape) if allowed else counts >= 0
    assert not counts[~may].any()
    assert plausible(counts[may], n_epochs / may.sum())


def test_over_the_epochs_origins_are_equally_likely_in_each_of_unequal_images() -> None:
    sizes = [(8, 20), (13, 6), (10, 10)]
    extents = on_disk(*sizes, block=(4, 4))
    extents[2] = extents[2]._replace(in_memory=True)
    patches = RandomPatches(tuple(extents), (3, 3), 1, 0, 40)
    counts = [np.zeros(np.subtract(size, 2)) for size in sizes]
    n_epochs = 1000
    for epoch in range(n_epochs):
        found = places(patches, epoch)
        counts[found.image[0]][tuple(found.start[0])] += 1
    area = np.array([np.prod(size) for size in sizes])
    expected = [
        np.full(c.shape, n_epochs * a / area.sum() / c.size)
        for c, a in zip(counts, area, strict=True)
    ]
    assert plausible(*(np.concatenate([x.ravel() for x in xs]) for xs in (counts, expected)))


def test_away_from_the_border_every_pixel_is_equally_likely_to_be_covered() -> None:
    patches = RandomPatches(tuple(on_disk((60, 60), block=(8, 8))), (6, 6), 40, 0, 500)
    covered = np.zeros((60, 60))
    n_epochs = 300
    for epoch in range(n_epochs):
        for y, x in places(patches, epoch).start:
            covered[y : y + 6, x : x + 6] += 1
    inner = covered[6:-6, 6:-6]
    expected = n_epochs * 40 * 36 / 55**2
    assert abs(inner.mean() / expected - 1) < 0.02
    # Rows and columns beside block borders are covered as often as others.
    for axis in (0, 1):
        assert np.abs(inner.mean(axis=axis) / expected - 1).max() < 0.1


def test_samples_that_are_stored_together_may_have_masks_of_their_own() -> None:
    extent = Extent(4, (9, 12), (4, 4), 1, False, 2)
    rng = np.random.default_rng(0)
    masks: Allowed = {(0, s): OriginMask(rng.random((9, 12)) < 0.4, (3, 3)) for s in (0, 3)}
    patches = RandomPatches((extent,), (3, 3), 500, 0, 60, masks)
    counts = np.zeros((4, 7, 10))
    for epoch in range(60):
        found = places(patches, epoch)
        np.add.at(counts, (found.sample, *found.start.T), 1)
    may = np.ones(counts.shape, bool)
    for (_, s), mask in masks.items():
        may[s] = mask.within((0, 0), (7, 10))
    assert not counts[~may].any()
    assert abs(counts[may] / counts[may].mean() - 1).max() < 0.5


def test_an_image_that_its_mask_leaves_out_gets_nothing() -> None:
    extents = on_disk((9, 12), (9, 12), (9, 12), block=(4, 4))
    masks: Allowed = {(i, 0): OriginMask(np.full((9, 12), i == 1), (3, 3)) for i in range(3)}
    found = places(RandomPatches(tuple(extents), (3, 3), 50, 0, 40, masks))
    assert set(found.image.tolist()) == {1}
    assert len(found.image) == 50


def test_so_does_one_of_which_no_window_has_room_for_a_patch() -> None:
    size, patch = (24, 14), (8, 9)
    extents = [Extent(2, size, (15, 4), 1, False), Extent(1, size, size, 1, False)]
    nothing = OriginMask(np.zeros(size), patch)
    masks: Allowed = {(0, 0): nothing, (0, 1): nothing}
    patches = RandomPatches(tuple(extents), patch, 7, 0, 30, masks)
    for epoch in range(9):
        assert set(places(patches, epoch).image.tolist()) == {1}


def test_an_origin_that_is_alone_in_its_window_is_found() -> None:
    mask = np.zeros((400, 400), bool)
    mask[311, 77] = True
    extents = on_disk((400, 400), block=(20, 20))
    found = places(
        RandomPatches(tuple(extents), (5, 5), 9, 0, 10_000, {(0, 0): OriginMask(mask, (5, 5))})
    )
    np.testing.assert_array_equal(found.start, [[309, 75]] * 9)


def test_a_mask_that_leaves_no_place_is_an_error() -> None:
    masks: Allowed = {(0, 0): OriginMask(np.zeros((9, 12)), (3, 3))}
    with pytest.raises(DataError, match="leave no place for a training patch"):
        RandomPatches(tuple(on_disk((9, 12), block=(4, 4))), (3, 3), 5, 0, 40, masks)


def test_where_patches_may_be_is_said_box_by_box() -> None:
    mask = OriginMask(np.random.default_rng(0).random((9, 12)) < 0.4, (3, 3))
    trained = np.array([True, True, False])
    extents = tuple(on_disk((9, 12), block=(4, 4), samples=3))
    patches = RandomPatches(extents, (3, 3), 5, 0, 40, {(0, 0): mask}, trained)
    box = (2, 3), (6, 9)
    np.testing.assert_array_equal(patches.allows(0, 0, *box), mask.within(*box))
    assert patches.allows(0, 1, *box).all()
    assert not patches.allows(0, 2, *box).any()


def test_a_petabyte_needs_no_more_memory_than_a_gigabyte() -> None:
    extents = tuple(on_disk(*[(400_000, 1_200_000)] * 1000, block=(256, 256)))
    patches = RandomPatches(extents, (64, 64), 10**11, 0, 2**24)
    located = patches.epoch(3)
    stream = Stream(located, 5, 8, np.uint64(1), 2**24, 2)
    block = next(stream.blocks(10**10))
    found = located.places(stream.marks(block, np.arange(block.first, block.first + 64)))
    assert len(np.unique(found.window)) <= 4
    held = [value for value in vars(located).values() if isinstance(value, np.ndarray)]
    assert sum(map(sys.getsizeof, held)) < 2**20
