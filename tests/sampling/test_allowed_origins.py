"""Where masks and gaps allow patches: all such places equally likely, no others."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from careamics_dm.images.boxes import common, gaps, n_pixels
from careamics_dm.sampling.allowed_origins import OriginMask, OriginMasks, ValidOrigins

# No deadlines: they tell how busy the machine is.
PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def masks(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...]]:
    n_axes = draw(st.integers(2, 3))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(n_axes))
    patch = tuple(draw(st.integers(1, 6)) for _ in range(n_axes))
    return draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 2))), patch


def centre(origin: tuple[int, ...], mask: np.ndarray, patch: tuple[int, ...]) -> tuple[int, ...]:
    columns = zip(origin, mask.shape, patch, strict=True)
    return tuple(o + p // 2 if n >= p else n // 2 for o, n, p in columns)


def all_origins(mask: np.ndarray, patch: tuple[int, ...]) -> np.ndarray:
    return np.array(list(np.ndindex(*np.maximum(np.subtract(mask.shape, patch), 0) + 1)))


@PROPERTY
@given(masks())
def test_an_origin_is_allowed_where_the_centre_of_its_patch_is_in_the_mask(
    case: tuple[np.ndarray, tuple[int, ...]],
) -> None:
    mask, patch = case
    origins, allowed = all_origins(mask, patch), OriginMask(mask, patch)
    expected = [mask[centre(tuple(o), mask, patch)] != 0 for o in origins]
    np.testing.assert_array_equal(allowed.allows(origins), expected)
    assert allowed.n_origins == len(origins)
    assert allowed.n_allowed == sum(expected)


@PROPERTY
@given(masks(), st.data())
def test_excluding_forbids_exactly_the_origins_that_overlap(
    case: tuple[np.ndarray, tuple[int, ...]], data: st.DataObject
) -> None:
    mask, patch = case
    origins, allowed = all_origins(mask, patch), OriginMask(mask, patch)
    before = allowed.allows(origins)
    some = data.draw(st.lists(st.sampled_from(range(len(origins))), max_size=3))
    allowed.exclude([(origins[i], origins[i] + patch) for i in some])
    far = [all((np.abs(o - origins[i]) >= patch).any() for i in some) for o in origins]
    np.testing.assert_array_equal(allowed.allows(origins), before & np.array(far))
    assert allowed.n_allowed == (before & np.array(far)).sum()


@PROPERTY
@given(masks())
def test_every_allowed_origin_has_a_number(case: tuple[np.ndarray, tuple[int, ...]]) -> None:
    mask, patch = case
    allowed = OriginMask(mask, patch)
    drawn = allowed.at(np.arange(allowed.n_allowed))
    assert drawn.shape == (allowed.n_allowed, mask.ndim)
    assert allowed.allows(drawn).all()
    assert len(np.unique(drawn, axis=0)) == allowed.n_allowed


def test_allowed_origins_of_a_large_mask_have_numbers_too() -> None:
    mask = np.random.default_rng(0).random((40, 50)) < 0.3  # several groups of bits
    allowed = OriginMask(mask, (3, 4))
    found = allowed.at(np.arange(allowed.n_allowed))
    np.testing.assert_array_equal(found, np.argwhere(mask[1:39, 2:49]))


def test_one_allowed_origin_in_a_large_mask_is_found() -> None:
    mask = np.zeros((1000, 1000), bool)
    mask[777, 31 + 32] = True
    found = OriginMask(mask, (64, 64)).at(np.zeros(5, np.int64))
    np.testing.assert_array_equal(found, [[777 - 32, 31]] * 5)


def test_an_empty_mask_allows_nothing() -> None:
    empty = OriginMask(np.zeros((8, 8)), (2, 2))
    assert empty.n_allowed == 0
    assert empty.at(np.zeros(0, np.int64)).shape == (0, 2)


def test_any_number_but_zero_is_inside() -> None:
    mask = np.array([[0.0, -1.0, 0.5, 255.0]])
    np.testing.assert_array_equal(
        OriginMask(mask, (1, 1)).allows(np.array([[0, i] for i in range(4)])),
        [False, True, True, True],
    )


@PROPERTY
@given(masks(), st.data())
def test_a_box_of_origins_is_a_part_of_all(
    case: tuple[np.ndarray, tuple[int, ...]], data: st.DataObject
) -> None:
    mask, patch = case
    allowed = OriginMask(mask, patch)
    start = [data.draw(st.integers(0, n - 1)) for n in allowed.shape]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, allowed.shape, strict=True)]
    every = allowed.allows(all_origins(mask, patch)).reshape(allowed.shape)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    np.testing.assert_array_equal(allowed.within(start, stop), every[box])


@PROPERTY
@given(st.lists(hnp.arrays(np.bool_, st.tuples(*[st.integers(1, 40)] * 2)), min_size=1, max_size=4))
def test_of_several_samples_every_allowed_origin_is_drawn_equally_often(every: list) -> None:
    numbers = np.array([(7 + i, 3) for i in range(len(every))])
    several = OriginMasks([OriginMask(mask, (1, 1)) for mask in every], numbers)
    assert several.n_allowed == sum(mask.sum() for mask in every)
    if several.n_allowed:
        n = 40 * several.n_allowed
        drawn = several.draw(np.uint64(0), np.arange(n))
        assert (drawn[:, 1] == 3).all()
        for i, mask in enumerate(every):
            times = np.zeros(mask.shape, int)
            np.add.at(times, tuple(drawn[drawn[:, 0] == 7 + i, 2:].T), 1)
            assert not times[~mask].any()
            assert (abs(times[mask] - 40) < 6 * np.sqrt(40)).all()


Boxes = list[tuple[tuple[int, ...], tuple[int, ...]]]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Boxes, tuple[int, ...]]:
    """Boxes that may overlap, be empty and reach outside, and the size of an image."""
    size = tuple(draw(st.integers(1, 9)) for _ in range(draw(st.integers(2, 3))))
    edge = st.integers(-2, 11)
    box = st.tuples(*(st.tuples(edge, edge) for _ in size))
    boxes = draw(st.lists(box, max_size=5))
    return [tuple(zip(*b, strict=True)) for b in boxes], size


def painted(boxes: Boxes, size: tuple[int, ...]) -> np.ndarray:
    count = np.zeros(size, int)
    for start, stop in boxes:
        count[tuple(slice(max(a, 0), max(b, 0)) for a, b in zip(start, stop, strict=True))] += 1
    return count


@PROPERTY
@given(cases())
def test_gaps_are_what_the_boxes_leave_each_pixel_once(case: tuple[Boxes, tuple[int, ...]]) -> None:
    boxes, size = case
    found = gaps(boxes, size)
    np.testing.assert_array_equal(painted(found, size), painted(boxes, size) == 0)
    assert n_pixels(found) == (painted(boxes, size) == 0).sum()


@PROPERTY
@given(st.lists(cases(), min_size=1, max_size=4), st.booleans())
def test_regions_have_in_common_what_each_of_them_has(
    drawn: list[tuple[Boxes, tuple[int, ...]]], with_all: bool
) -> None:
    size = drawn[0][1]
    regions = [boxes for boxes, other in drawn if len(other) == len(size)]
    found = common([None, *regions] if with_all else regions, size)
    expected = np.all([painted(boxes, size) > 0 for boxes in regions], axis=0)
    assert (found is None) == expected.all()
    if found is not None:
        np.testing.assert_array_equal(painted(found, size), expected)


def test_equal_strips_make_one_box() -> None:
    boxes = [((0, y, 0), (5, y + 3, 4)) for y in range(0, 9, 3)]
    assert gaps(boxes, (5, 9, 10)) == [((0, 0, 4), (5, 9, 10))]


@st.composite
def with_patch(draw: st.DrawFn) -> tuple[Boxes, tuple[int, ...], tuple[int, ...]]:
    boxes, size = draw(cases())
    return boxes, size, tuple(draw(st.integers(1, 4)) for _ in size)


@PROPERTY
@given(with_patch())
def test_an_origin_is_allowed_where_all_of_its_patch_was_acquired(
    case: tuple[Boxes, tuple[int, ...], tuple[int, ...]],
) -> None:
    boxes, size, patch = case
    origins = ValidOrigins(boxes, size, patch)
    everywhere = np.array(list(np.ndindex(*origins.shape)))
    acquired = painted(boxes, size) > 0
    expected = [
        bool(acquired[tuple(slice(a, a + p) for a, p in zip(o, patch, strict=True))].all())
        for o in everywhere.tolist()
    ]
    np.testing.assert_array_equal(origins.allows(everywhere), expected)
    assert origins.n_origins == len(everywhere)
    assert origins.n_allowed == sum(expected)
    found = origins.at(np.arange(origins.n_allowed))
    assert origins.allows(found).all()
    assert len(np.unique(found, axis=0)) == origins.n_allowed


def test_excluding_between_gaps_forbids_what_overlaps() -> None:
    origins = ValidOrigins([((0, 0), (9, 9))], (9, 20), (3, 3))
    assert origins.n_allowed == 49
    origins.exclude([((3, 3), (6, 6))])
    everywhere = np.array(list(np.ndindex(*origins.shape)))
    overlaps = (np.abs(everywhere - 3) < 3).all(axis=1)
    assert not origins.allows(everywhere)[overlaps].any()
    assert origins.n_allowed == 49 - 25


def test_an_image_of_which_nothing_was_acquired_allows_nothing() -> None:
    origins = ValidOrigins([], (9, 20), (3, 3))
    assert origins.n_allowed == 0
    assert origins.at(np.zeros(0, np.int64)).shape == (0, 2)
