from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from careamics_dm.images.extent import Extent
from careamics_dm.prediction.result_blocks import ImageBlocks
from careamics_dm.sampling.allowed_origins import OriginMask
from careamics_dm.sampling.epoch_streams import Share
from careamics_dm.sampling.tiling import BlockTiles, TileGrid

if TYPE_CHECKING:
    from careamics_dm.sampling.read_windows import Places

# No deadlines: they tell how busy the machine is.
PROPERTY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


EXTENT_LISTS = st.integers(2, 3).flatmap(
    lambda n_axes: st.lists(
        st.builds(
            Extent,
            st.integers(1, 3),
            st.tuples(*[st.integers(1, 22)] * n_axes),
            st.tuples(*[st.integers(1, 22)] * n_axes),
            st.integers(1, 4),
            st.booleans(),
        ),
        min_size=1,
        max_size=3,
    )
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Extent], tuple[int, ...], tuple[int, ...], int]:
    """Images, a tile (often about as large as the first image), an overlap, a budget."""
    extents = draw(EXTENT_LISTS)
    tile = tuple(
        draw(st.integers(1, 12) | st.integers(max(n - 1, 1), n + 1)) for n in extents[0].size
    )
    overlap = tuple(draw(st.integers(0, t - 1)) for t in tile)
    return extents, tile, overlap, draw(st.integers(1, 2000))


def places(grid: TileGrid) -> Places:
    return grid.places(np.arange(len(grid)))


def crops(grid: TileGrid) -> np.ndarray:
    return places(grid).crop


def cover(grid: TileGrid, extents: list[Extent]) -> list[np.ndarray]:
    """How often each pixel is in the kept part of a tile."""
    found = [np.zeros((e.samples, *e.size), int) for e in extents]
    tiles, boxes = places(grid), crops(grid)
    n_axes = tiles.start.shape[1]
    for i, s, box in zip(tiles.image, tiles.sample, boxes, strict=True):
        found[i][(s, *map(slice, box[:n_axes], box[n_axes:]))] += 1
    return found


@PROPERTY
@given(cases(), st.integers(1, 8))
def test_the_kept_parts_of_tiles_cover_every_pixel_exactly_once(
    case: tuple[list[Extent], tuple[int, ...], tuple[int, ...], int], divisor: int
) -> None:
    extents, tile, overlap, budget = case
    grid = TileGrid(extents, tile, overlap, divisor=(divisor,) * 3, window_bytes=budget)
    assert all((counts == 1).all() for counts in cover(grid, extents))


@PROPERTY
@given(cases())
def test_tiles_lie_inside_an_image_that_is_larger_and_contain_what_they_keep(
    case: tuple[list[Extent], tuple[int, ...], tuple[int, ...], int],
) -> None:
    extents, tile, overlap, budget = case
    grid = TileGrid(extents, tile, overlap, window_bytes=budget)
    tiles, crop = places(grid), crops(grid)
    size = np.array([extents[i].size for i in tiles.image])
    stop, n_axes = tiles.start + tiles.size, len(tile)
    assert (tiles.size == tile).all()
    assert (tiles.start >= 0).all()
    np.testing.assert_array_equal(stop > size, (size < tile) & (tiles.start == 0))
    first, last = crop[:, :n_axes], crop[:, n_axes:]
    assert (tiles.start <= first).all()
    assert (first < last).all()
    assert (last <= np.minimum(stop, size)).all()


@PROPERTY
@given(cases(), st.integers(1, 8))
def test_tiles_lie_on_the_grid_of_the_network_and_end_where_it_would_extend_the_whole_image(
    case: tuple[list[Extent], tuple[int, ...], tuple[int, ...], int], divisor: int
) -> None:
    extents, tile, overlap, budget = case
    grid = TileGrid(extents, tile, overlap, divisor=(divisor,) * 3, window_bytes=budget)
    tiles = places(grid)
    size = np.array([extents[i].size for i in tiles.image])
    assert (tiles.start % divisor == 0).all() and (tiles.size % divisor == 0).all()
    assert (tiles.size < np.array(tile) + divisor).all()
    extended = np.maximum(-(-size // divisor) * divisor, tiles.size)
    for image in range(len(extents)):
        mine = tiles.image == image
        ends = (tiles.start + tiles.size)[mine].max(axis=0)
        np.testing.assert_array_equal(ends, extended[mine][0])


@PROPERTY
@given(cases(), st.integers(1, 8))
def test_a_kept_part_is_half_the_overlap_away_from_the_edge_of_its_tile(
    case: tuple[list[Extent], tuple[int, ...], tuple[int, ...], int], divisor: int
) -> None:
    extents, tile, overlap, budget = case
    grid = TileGrid(extents, tile, overlap, divisor=(divisor,) * 3, window_bytes=budget)
    tiles, crop = places(grid), crops(grid)
    size, n_axes = np.array([extents[i].size for i in tiles.image]), len(tile)
    margin = np.minimum(overlap, -(-np.array(tile) // divisor) * divisor - divisor) // 2
    first, last = crop[:, :n_axes], crop[:, n_axes:]
    assert ((first - tiles.start >= margin) | (first == 0)).all()
    assert ((tiles.start + tiles.size - last >= margin) | (last == size)).all()


@PROPERTY
@given(cases())
def test_tiles_are_in_the_order_of_images_and_of_what_is_read_together(
    case: tuple[list[Extent], tuple[int, ...], tuple[int, ...], int],
) -> None:
    extents, tile, overlap, budget = case
    grid = TileGrid(extents, tile, overlap, window_bytes=budget)
    tiles = places(grid)
    # Samples that are stored together go together.
    group = tiles.sample // np.array([e.together for e in extents])[tiles.image]
    assert (np.diff(tiles.image * 10 + group) >= 0).all()
    assert (np.diff(tiles.window) >= 0).all()
    for window in np.unique(tiles.window).tolist():
        mine = np.flatnonzero(tiles.window == window)
        assert grid.first(window) == mine[0]
        assert len({*zip(tiles.image[mine].tolist(), group[mine].tolist(), strict=True)}) == 1
        region = grid.region(window)
        assert (tiles.start[mine] >= region.start).all()
        assert (tiles.start[mine] + tiles.size[mine] <= region.stop).all()
        assert (tiles.start[mine].min(axis=0) == region.start).all()


@PROPERTY
@given(cases(), st.data())
def test_samples_can_be_chosen(
    case: tuple[list[Extent], tuple[int, ...], tuple[int, ...], int], data: st.DataObject
) -> None:
    extents, tile, overlap, budget = case
    n = sum(extent.samples for extent in extents)
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    grid = TileGrid(extents, tile, overlap, window_bytes=budget, chosen=chosen)
    counts = [pixels for image in cover(grid, extents) for pixels in image]
    for pixels, is_chosen in zip(counts, chosen, strict=True):
        assert (pixels == is_chosen).all()


@PROPERTY
@given(cases(), st.integers(0, 99))
def test_patches_that_are_not_allowed_are_left_out_and_some_or_all_come_in_other_orders(
    case: tuple[list[Extent], tuple[int, ...], tuple[int, ...], int], seed: int
) -> None:
    extents, tile, overlap, budget = case
    rng = np.random.default_rng(seed)
    masks = {
        (i, s): OriginMask(rng.random(extent.size) < 0.5, tile)
        for i, extent in enumerate(extents)
        for s in range(extent.samples)
        if rng.random() < 0.5
    }
    every = places(TileGrid(extents, tile, overlap, window_bytes=budget))
    keep = [
        (i, s) not in masks or bool(masks[i, s].allows(start[None])[0])
        for i, s, start in zip(every.image, every.sample, every.start, strict=True)
    ]
    grid = TileGrid(extents, tile, overlap, window_bytes=budget, allowed=masks, seed=budget)
    for column, wanted in zip(places(grid), every, strict=True):
        np.testing.assert_array_equal(column, wanted[keep])
    others = [grid.epoch(3), grid.some(len(grid) // 2, rng)]
    rows = [np.column_stack([p.image, p.sample, p.start]).tolist() for p in map(places, others)]
    expected = np.column_stack([every.image, every.sample, every.start])[keep].tolist()
    assert sorted(rows[0]) == sorted(expected)
    assert len(rows[1]) == len(grid) // 2
    assert [row for row in expected if row in rows[1]] == rows[1]
    for other in others:
        tiles = places(other)
        for window in np.unique(tiles.window).tolist():
            mine = np.flatnonzero(tiles.window == window)
            assert other.first(window) == mine[0]
            region = other.region(window)
            assert (tiles.start[mine] >= region.start).all()
            assert (tiles.start[mine] + tiles.size[mine] <= region.stop).all()


@st.composite
def block_cases(
    draw: st.DrawFn,
) -> tuple[list[Extent], TileGrid, list[ImageBlocks], np.ndarray]:
    """A grid with blocks of any shape, whole units or not, and how far they are covered around."""
    extents, tile, overlap, _ = draw(cases())
    divisor = draw(st.integers(1, 6))
    blocks = [
        ImageBlocks(
            e.samples,
            e.size,
            draw(st.integers(1, 4)),
            tuple(draw(st.integers(1, n)) for n in e.size),
        )
        for e in extents
    ]
    grid = TileGrid(extents, tile, overlap, divisor=(divisor,) * 3, blocks=blocks)
    margin = np.minimum(overlap, np.array(grid.tile_size) - divisor) // 2
    return extents, grid, blocks, margin


@PROPERTY
@given(block_cases())
def test_the_tiles_of_a_block_cover_it_exactly_once_and_lie_in_the_extended_image(
    case: tuple[list[Extent], TileGrid, list[ImageBlocks], np.ndarray],
) -> None:
    extents, grid, blocks, margin = case
    tiles, crop = places(grid), crops(grid)
    n_axes, number = len(margin), 0
    for image, (extent, of) in enumerate(zip(extents, blocks, strict=True)):
        divisor = np.array(grid.divisor[:n_axes])
        end = -(-np.array(extent.size) // divisor) * divisor
        covered = np.zeros((extent.samples, *extent.size), int)
        for block in map(of.region, range(len(of))):
            mine = np.flatnonzero(tiles.window == number)
            assert grid.first(number) == mine[0] and grid.first(number + 1) == mine[-1] + 1
            first, stop = crop[mine, :n_axes], crop[mine, n_axes:]
            start, last = tiles.start[mine], tiles.start[mine] + tiles.size[mine]
            assert (tiles.image[mine] == image).all()
            assert (first >= block.start).all() and (stop <= block.stop).all()
            assert (start % divisor == 0).all()
            assert (start >= 0).all() and (last <= end).all()
            assert ((first - start >= margin) | (start == 0)).all()
            assert ((last - stop >= margin) | (last == end)).all()
            for s, box in zip(tiles.sample[mine], crop[mine], strict=True):
                assert block.sample <= s < block.sample + block.n_samples
                assert of.number(int(s), box[:n_axes].tolist()) == number - offset(blocks, image)
                covered[(s, *map(slice, box[:n_axes], box[n_axes:]))] += 1
            number += 1
        assert (covered == 1).all()


def offset(blocks: list[ImageBlocks], image: int) -> int:
    return sum(map(len, blocks[:image]))


@PROPERTY
@given(block_cases(), st.data())
def test_some_blocks_have_the_tiles_that_they_have_among_all(
    case: tuple[list[Extent], TileGrid, list[ImageBlocks], np.ndarray], data: st.DataObject
) -> None:
    extents, grid, blocks, _ = case
    n = offset(blocks, len(extents))
    chosen = data.draw(st.lists(st.integers(0, n - 1), unique=True))
    plan = BlockTiles(grid, np.array(chosen, int))
    tiles = plan.places(np.arange(len(plan)))
    for i, number in enumerate(chosen):
        mine = np.arange(plan.ends[i], plan.ends[i + 1])
        of_grid = np.arange(grid.first(number), grid.first(number + 1))
        assert (tiles.window[mine] == number).all()
        np.testing.assert_array_equal(tiles.crop[mine], grid.places(of_grid).crop)
        assert plan.region(number) == grid.region(number)
    assert plan.ends[-1] == len(plan)
    n_tiles = np.diff(plan.ends)
    for n in (1, 2, 3):
        shares = [plan.part(Share(rank, n)) for rank in range(n)]
        assert [number for share in shares for number in share.blocks.tolist()] == chosen
        for share in shares:
            assert abs(len(share) - len(plan) / n) <= n_tiles.max(initial=0)


def test_one_block_has_the_tiles_of_an_image_without_blocks() -> None:
    extents = [Extent(2, (50, 37), (16, 16), 2, False)]
    blocks = [ImageBlocks(2, (50, 37), 1, (50, 37))]
    one, other = (
        TileGrid(extents, (16, 12), (5, 4), divisor=(2, 2), blocks=b) for b in (None, blocks)
    )
    np.testing.assert_array_equal(places(one).start, places(other).start)
    np.testing.assert_array_equal(crops(one), crops(other))


def test_the_last_two_tiles_which_overlap_more_meet_in_the_middle_too() -> None:
    grid = TileGrid([Extent(1, (11, 6), (6, 6), 2, False)], (6, 6), (2, 0))
    assert places(grid).start[:, 0].tolist() == [0, 4, 5]
    assert crops(grid)[:, [0, 2]].tolist() == [[0, 5], [5, 7], [7, 11]]


def test_without_a_tile_size_images_are_tiles() -> None:
    extents = [Extent(2, (5, 6), (1, 1), 2, False), Extent(1, (300, 4), (1, 1), 2, False)]
    grid = TileGrid(extents, None, window_bytes=1)
    np.testing.assert_array_equal(places(grid).size, [[5, 6], [5, 6], [300, 4]])
    np.testing.assert_array_equal(crops(grid)[:, 2:], places(grid).size)


def test_a_huge_slide_needs_no_table_of_tiles() -> None:
    grid = TileGrid(
        [Extent(1, (200_000, 200_000), (256, 256), 2, False)], (256, 256), window_bytes=2**24
    )
    assert len(grid) == 782**2
    window = int(grid.windows(np.array([500_000]))[0])
    region = grid.region(window)
    assert np.prod(np.subtract(region.stop, region.start)) * 2 < 1.2 * 2**24
    assert grid.first(window) <= 500_000 < grid.first(window + 1)


def test_the_patches_of_a_grid_come_in_another_order_in_every_epoch() -> None:
    extents = [Extent(30, (16, 16), (8, 8), 2, False)]

    def order(seed: int, epoch: int) -> list[list[int]]:
        tiles = places(TileGrid(extents, (8, 8), window_bytes=2000, seed=seed).epoch(epoch))
        rows: list[list[int]] = np.column_stack([tiles.sample, tiles.start]).tolist()
        return rows

    first, tiles = order(0, 0), places(TileGrid(extents, (8, 8)))
    assert sorted(first) == sorted(np.column_stack([tiles.sample, tiles.start]).tolist())
    assert first == order(0, 0)
    assert first != order(0, 1) != order(0, 2) != first
    assert first != order(1, 0)
