"""What was learnt about regions: once for all epochs, and never so that draws depend on it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from careamics_dm import known
from careamics_dm.filters import EntropyFilter, MaxFilter, MeanStdFilter
from careamics_dm.known import CANNOT, UNKNOWN, Known
from careamics_dm.plan import Extent
from careamics_dm.regions import Region

SIZE = (16, 16)  # bunches of 2 x 2 origins
EXTENT = Extent(2, (100, 90), (100, 90), 2, in_memory=False)


class Counting(MaxFilter):
    """Counts the pixels that it is asked about."""

    asked = 0

    def may_pass(self, pixels, size):
        """See `MaxFilter.may_pass`."""
        self.asked += pixels[0].size
        return super().may_pass(pixels, size)


@pytest.fixture
def image():
    pixels = np.zeros((2, 1, 100, 90), np.uint16)
    pixels[:, :, 40:60, 30:45] = 9
    return pixels


def look(learnt, image, start, stop, sample=0, n=1):
    region = Region(0, sample, start, stop, n)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    return learnt.look(region, image[(slice(sample, sample + n), slice(None), *box)])


def passing(image):
    """By origin, as NumPy says."""
    views = np.lib.stride_tricks.sliding_window_view(image[0, 0], SIZE)
    return views.max(axis=(2, 3)) >= 9


def test_a_whole_sample_is_told_bunch_by_bunch(image):
    learnt = Known(MaxFilter(9), SIZE, [EXTENT], np.dtype(np.uint16))
    found = look(learnt, image, (0, 0), (100, 90))
    assert found.state.shape == (1, 43, 38) and not found.in_part
    may = np.kron(found.state[0] != CANNOT, np.ones((2, 2), bool))[:85, :75]
    assert may[passing(image)].all()
    assert np.array_equal(found.numbers, np.flatnonzero(found.state != CANNOT))
    assert len(found.numbers) < 0.35 * found.state.size


@pytest.mark.parametrize("remembers", [True, False])
def test_what_is_drawn_from_depends_on_the_region_alone(image, monkeypatch, remembers):
    if not remembers:
        monkeypatch.setattr(known, "MOST", 10)
    learnt = Known(MaxFilter(9), SIZE, [EXTENT], np.dtype(np.uint16))
    assert learnt.remembers == remembers
    look(learnt, image, (0, 0), (100, 90))
    for start, stop in [((3, 5), (60, 90)), ((10, 0), (100, 70)), ((33, 32), (90, 90))]:
        fresh = Known(MaxFilter(9), SIZE, [EXTENT], np.dtype(np.uint16))
        first, again = (look(of, image, start, stop) for of in (fresh, learnt))
        assert np.array_equal(first.numbers, again.numbers)
        assert first.in_part and (first.state == UNKNOWN).any()
        assert (again.state == UNKNOWN).any() != remembers


@settings(max_examples=60, deadline=None)
@given(
    st.data(), st.sampled_from(["u1", "u2", "f4"]), st.sampled_from([(9, 9), (16, 16), (40, 17)])
)
def test_and_on_nothing_that_other_regions_taught(data, dtype, size):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    image = rng.normal(100, 4, (1, 1, 100, 90))
    image[..., 40:60, 30:45] += 60
    image = image.astype(dtype)
    filters = [MaxFilter(130), MeanStdFilter(mean=104), MeanStdFilter(std=9), EntropyFilter(4.5)]
    for criterion in filters:
        fresh, learnt = (Known(criterion, size, [EXTENT], image.dtype) for _ in range(2))
        for _ in range(5):
            start = tuple(
                data.draw(st.integers(0, n - p)) for n, p in zip((100, 90), size, strict=True)
            )
            ends = zip(start, (100, 90), size, strict=True)
            stop = tuple(data.draw(st.integers(a + p, n)) for a, n, p in ends)
            last = look(learnt, image, start, stop)
        assert np.array_equal(look(fresh, image, start, stop).numbers, last.numbers)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_near_pixels_that_must_be_told_all_stays_open(image, bad):
    broken = np.concatenate([image, image], axis=1).astype(np.float32)
    broken[0, 0, 80, 80] = bad  # in the channel that is not looked at
    learnt = Known(MaxFilter(9, channel=1), SIZE, [EXTENT], np.dtype(np.float32))
    may = look(learnt, broken, (0, 0), (100, 90)).state[0] != CANNOT
    assert may[33:41, 33:].all() and not may[:, :3].any()


def test_bunches_that_reach_outside_are_left_open(image):
    learnt = Known(MaxFilter(9), SIZE, [EXTENT], np.dtype(np.uint16))
    found = look(learnt, image, (1, 61), (50, 90))  # origins from 1 to 34, and 61 to 75
    assert found.state.shape == (1, 18, 8)
    # The first along Y (origins 0 and 1), the last (34 and 35) and the first along X (60 and 61);
    # not the last along X, with which the image ends.
    expected = np.zeros((18, 8), bool)
    expected[[0, 17]] = expected[:, 0] = True
    assert np.array_equal(found.state[0] == UNKNOWN, expected)


def test_no_pixel_is_asked_twice(image):
    criterion = Counting(9)
    learnt = Known(criterion, SIZE, [EXTENT], np.dtype(np.uint16))
    look(learnt, image, (0, 0), (100, 90), n=2)
    asked = criterion.asked
    assert asked == image.size
    look(learnt, image, (0, 0), (100, 90), sample=1)
    look(learnt, image, (20, 7), (90, 88))
    assert criterion.asked == asked


def test_small_regions_and_filters_that_cannot_tell_leave_all_open(image):
    criterion = Counting(9)
    learnt = Known(criterion, SIZE, [EXTENT], np.dtype(np.uint16))
    found = look(learnt, image, (0, 0), (31, 31))
    assert criterion.asked == 0 and len(found.numbers) == found.state.size == 64
    fractions = image.astype(np.float32)
    learnt = Known(EntropyFilter(9), SIZE, [EXTENT], np.dtype(np.float32))
    found = look(learnt, fractions, (0, 0), (100, 90))
    assert len(found.numbers) == found.state.size and not found.in_part
