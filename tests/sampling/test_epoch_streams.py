"""Streams: every place once, the same batches on any number of ranks, blocks that fit memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from careamics_dm.images.extent import Extent
from careamics_dm.sampling.epoch_streams import (
    UNBOUNDED,
    Share,
    Stream,
    count_streams,
)
from careamics_dm.sampling.keyed_random import key_of
from careamics_dm.sampling.patch_grid import PatchGrid
from careamics_dm.sampling.random_patches import RandomPatches

PROPERTY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def streams(draw: st.DrawFn) -> list[Stream]:
    """All streams of an epoch, of random patches or of a grid."""
    extents = draw(
        st.lists(
            st.builds(
                Extent,
                st.integers(1, 3),
                st.tuples(*[st.integers(1, 60)] * 2),
                st.tuples(*[st.integers(1, 16)] * 2),
                st.integers(1, 3),
                st.booleans(),
            ),
            min_size=1,
            max_size=4,
        )
    )
    budget, n = draw(st.integers(1, 3000)), draw(st.sampled_from([1, 2, 8, 24]))
    if draw(st.booleans()):
        epoch = RandomPatches(tuple(extents), (5, 4), draw(st.integers(1, 300)), 0, budget).epoch(1)
    else:
        epoch = PatchGrid(extents, (5, 4), window_bytes=budget, seed=0).epoch(1)
    unit = draw(st.just(UNBOUNDED) | st.integers(1, 3000))
    growth = draw(st.sampled_from([1, 2, 4, 256]))
    return [Stream(epoch, j, n, key_of(0), unit, growth) for j in range(n)]


@PROPERTY
@given(streams())
def test_every_place_of_an_epoch_is_drawn_once(every: list[Stream]) -> None:
    marks = []
    for stream in every:
        position = 0
        for block in stream.blocks(0):
            assert block.first == position < block.stop
            position = block.stop
            marks += stream.marks(block, np.arange(block.first, block.stop)).tolist()
        assert position == stream.n
    assert sorted(marks) == list(range(len(every[0].epoch)))
    lengths = [stream.n for stream in every]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)  # so patch k is of stream k % n


@PROPERTY
@given(streams(), st.data())
def test_a_stream_can_be_entered_anywhere(every: list[Stream], data: st.DataObject) -> None:
    stream = data.draw(st.sampled_from(every))
    if not stream.n:
        return
    blocks = list(stream.blocks(0))
    position = data.draw(st.integers(0, stream.n - 1))
    rest = list(stream.blocks(position))
    assert rest == [block for block in blocks if block.stop > position]
    block = rest[0]
    np.testing.assert_array_equal(
        stream.marks(block, np.arange(position, block.stop)),
        stream.marks(block, np.arange(block.first, block.stop))[position - block.first :],
    )


@PROPERTY
@given(streams())
def test_the_windows_of_a_block_are_those_of_its_places(every: list[Stream]) -> None:
    for stream in every:
        for block in stream.blocks(0):
            marks = stream.marks(block, np.arange(block.first, block.stop))
            assert set(stream.windows(block)) == set(stream.epoch.windows(marks))


def test_blocks_grow_and_then_keep_to_their_bytes() -> None:
    extent = Extent(1, (4000, 4000), (100, 100), 1, False)
    unit = 250_000
    epoch = RandomPatches((extent,), (20, 20), 40_000, 0, unit, few=0).epoch(0)
    stream = Stream(epoch, 0, 2, key_of(0), unit, 4)

    def n_bytes(block) -> int:
        regions = [epoch.region(window) for window in stream.windows(block)]
        return sum(int(np.prod(np.subtract(r.stop, r.start))) for r in regions)

    sizes = [n_bytes(block) for block in stream.blocks(0)]
    assert sizes[0] <= unit and sizes[1] <= unit and sizes[2] <= 2 * unit
    assert max(sizes) <= 4 * unit
    assert np.median(sizes) > 1.5 * unit


def test_patches_of_a_block_are_in_random_order() -> None:
    extent = Extent(1, (900, 900), (100, 100), 1, True)
    epoch = RandomPatches((extent,), (9, 9), 8000, 0).epoch(0)
    stream = Stream(epoch, 0, 1, key_of(0), UNBOUNDED, 1)
    (block,) = stream.blocks(0)
    marks = stream.marks(block, np.arange(8000))
    assert abs(np.corrcoef(marks, np.arange(8000))[0, 1]) < 0.05
    assert abs(np.corrcoef(marks[1:], marks[:-1])[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("ranks", "window", "n"), [(1, 0, 8), (4, 0, 8), (8, 0, 8), (3, 0, 24), (64, 0, 64)]
)
def test_ranks_serve_equally_many_streams(ranks: int, window: int, n: int) -> None:
    assert count_streams(Share(0, ranks), window, 1000) == n


@pytest.mark.parametrize(("window", "n"), [(62, 8), (63, 4), (125, 4), (250, 2), (251, 1)])
def test_streams_are_fewer_where_a_window_of_each_does_not_fit_half_the_pool(
    window: int, n: int
) -> None:
    assert count_streams(Share(), window, 1000) == n
    assert count_streams(Share(1, 2), window, 1000) == max(n, 2)


def test_the_other_streams_are_those_of_the_epoch() -> None:
    epoch = RandomPatches((Extent(1, (50, 50), (9, 9), 1, True),), (5, 5), 30, 0).epoch(0)
    stream = Stream(epoch, 3, 4, key_of(0), UNBOUNDED, 1)
    assert [other.number for other in stream.others()] == [0, 1, 2]
