"""Images with gaps: patches lie in what was acquired, all such places equally likely."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from careamics_dm.valid_origins import ValidOrigins, gaps, n_pixels

# No deadlines: they tell how busy the machine is.
PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

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


def test_equal_strips_make_one_box() -> None:
    boxes = [((0, y, 0), (5, y + 3, 4)) for y in range(0, 9, 3)]
    assert gaps(boxes, (5, 9, 10)) == [((0, 0, 4), (5, 9, 10))]


@st.composite
def with_patch(draw: st.DrawFn) -> tuple[Boxes, tuple[int, ...], tuple[int, ...]]:
    boxes, size = draw(cases())
    return boxes, size, tuple(draw(st.integers(1, 4)) for _ in size)


@PROPERTY
@given(with_patch(), st.integers(0, 2**32))
def test_an_origin_is_allowed_where_all_of_its_patch_was_acquired(
    case: tuple[Boxes, tuple[int, ...], tuple[int, ...]], seed: int
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
    if any(expected):
        drawn = origins.draw(50, np.random.default_rng(seed))
        assert origins.allows(drawn).all()


def test_all_allowed_origins_are_equally_likely() -> None:
    origins = ValidOrigins([((0, 0), (6, 9)), ((4, 5), (12, 12))], (12, 12), (3, 3))
    drawn = origins.draw(60_000, np.random.default_rng(0))
    counts = np.unique(drawn, axis=0, return_counts=True)[1]
    assert len(counts) == origins.n_allowed
    expected = len(drawn) / len(counts)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    degrees = len(counts) - 1
    assert abs(chi_square - degrees) < 5 * np.sqrt(2 * degrees)


def test_excluding_forbids_what_overlaps() -> None:
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
    assert origins.draw(0, np.random.default_rng(0)).shape == (0, 2)
