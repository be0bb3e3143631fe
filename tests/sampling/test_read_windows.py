"""Runs of samples, and windows numbered through them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from careamics_dm.images.extent import Extent
from careamics_dm.sampling.read_windows import PatchList, WindowTable, sample_runs

PROPERTY = settings(max_examples=60, deadline=None)


def extent(samples: int, together: int, *, in_memory: bool = False) -> Extent:
    return Extent(samples, (8, 8), (8, 8), 1, in_memory, together)


@PROPERTY
@given(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 4)), min_size=1, max_size=5), st.data())
def test_runs_are_the_chosen_samples_in_a_row_that_are_stored_together(
    images: list[tuple[int, int]], data: st.DataObject
) -> None:
    extents = [extent(*image) for image in images]
    n = sum(samples for samples, _ in images)
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    runs = sample_runs(extents, chosen)
    every = [(i, s) for i, (samples, _) in enumerate(images) for s in range(samples)]
    covered = [
        (i, s)
        for i, first, n in zip(*(column.tolist() for column in runs), strict=True)
        for s in range(first, first + n)
    ]
    assert covered == [key for key, is_chosen in zip(every, chosen, strict=True) if is_chosen]
    for i, first, n in zip(*(column.tolist() for column in runs), strict=True):
        together = extents[i].together
        assert first // together == (first + n - 1) // together


def test_in_memory_each_sample_is_a_run() -> None:
    runs = sample_runs([extent(3, 2), extent(2, 2, in_memory=True)])
    assert list(zip(*(column.tolist() for column in runs), strict=True)) == [
        (0, 0, 2),
        (0, 2, 1),
        (1, 0, 1),
        (1, 1, 1),
    ]


@PROPERTY
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 9)), min_size=1, max_size=6))
def test_windows_are_found_by_the_bytes_before_them(runs: list[tuple[int, int]]) -> None:
    n_windows, n_bytes = np.array(runs).T
    table = WindowTable(n_windows, n_bytes)
    before = np.concatenate([[0], np.cumsum(np.repeat(n_bytes, n_windows))])
    assert [table.bytes_before(w) for w in range(len(before))] == before.tolist()
    for wanted in range(int(before[-1]) + 3):
        expected = min(int(np.searchsorted(before, wanted)), len(before) - 1)
        assert table.window_from(wanted) == expected
    number = np.repeat(np.arange(len(runs)), n_windows)
    assert [table.run_of(window) for window in range(len(number))] == number.tolist()


def test_listed_patches_are_read_alone() -> None:
    patches = PatchList(np.array([[2, 0, 0, 9], [0, 1, 3, 4]]), (5, 6))
    places = patches.places(np.array([1, 0]))
    assert places.image.tolist() == [2, 0]
    assert places.size.tolist() == [[5, 6], [5, 6]]
    assert patches.region(0) == (0, 1, (3, 4), (8, 10), 1)
    assert patches.epoch(7) is patches
