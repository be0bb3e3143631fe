"""Tiles that overlap: what they keep of blocks, and how far they reach around."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from careamics_dm.prediction.block_tiles import BlockTiles
from careamics_dm.prediction.result_blocks import ImageBlocks
from careamics_dm.sampling.epoch_streams import Share

if TYPE_CHECKING:
    from careamics_dm.sampling.read_windows import Places

# No deadlines: they tell how busy the machine is.
PROPERTY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])

Size = tuple[int, ...]


def whole(samples: int, size: Size) -> ImageBlocks:
    """An image of which each sample is a block."""
    return ImageBlocks(samples, size, 1, size)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[ImageBlocks], Size, Size, Size]:
    """Images, a tile (often about as large as the first image), an overlap, a divisor."""
    n_axes = draw(st.integers(2, 3))
    size = st.tuples(*[st.integers(1, 22)] * n_axes)
    images = draw(st.lists(st.builds(whole, st.integers(1, 3), size), min_size=1, max_size=3))
    tile = tuple(
        draw(st.integers(1, 12) | st.integers(max(n - 1, 1), n + 1)) for n in images[0].size
    )
    overlap = tuple(draw(st.integers(0, t - 1)) for t in tile)
    return images, tile, overlap, (draw(st.integers(1, 8)),) * n_axes


def places(tiles: BlockTiles) -> Places:
    return tiles.places(np.arange(len(tiles)))


def crops(tiles: BlockTiles) -> np.ndarray:
    return places(tiles).crop


@PROPERTY
@given(cases())
def test_the_kept_parts_of_tiles_cover_every_pixel_exactly_once(
    case: tuple[list[ImageBlocks], Size, Size, Size],
) -> None:
    images, n_axes = case[0], len(case[1])
    counts = [np.zeros((of.samples, *of.size), int) for of in images]
    tiles = places(BlockTiles(*case))
    for i, s, box in zip(tiles.image, tiles.sample, tiles.crop, strict=True):
        counts[i][(s, *map(slice, box[:n_axes], box[n_axes:]))] += 1
    assert all((of == 1).all() for of in counts)


@PROPERTY
@given(cases())
def test_tiles_lie_in_the_extended_image_and_contain_what_they_keep(
    case: tuple[list[ImageBlocks], Size, Size, Size],
) -> None:
    images, tile, overlap, (divisor, *_) = case
    tiles, n_axes = places(BlockTiles(*case)), len(tile)
    size = np.array([images[i].size for i in tiles.image])
    stop = tiles.start + tiles.size
    assert (tiles.start % divisor == 0).all() and (tiles.size % divisor == 0).all()
    assert (tiles.start >= 0).all() and (tiles.size < np.array(tile) + divisor).all()
    # They end where the network would extend the whole image to.
    extended = -(-size // divisor) * divisor
    assert (stop <= extended).all()
    for image in np.unique(tiles.image):
        mine = tiles.image == image
        np.testing.assert_array_equal(stop[mine].max(axis=0), extended[mine][0])
    first, last = tiles.crop[:, :n_axes], tiles.crop[:, n_axes:]
    assert (tiles.start <= first).all()
    assert (first < last).all()
    assert (last <= np.minimum(stop, size)).all()
    # Half the overlap, or all that a tile has, is around what is kept.
    margin = np.minimum(overlap, tiles.size - divisor) // 2
    assert ((first - tiles.start >= margin) | (first == 0)).all()
    assert ((stop - last >= margin) | (last == size)).all()


@st.composite
def block_cases(draw: st.DrawFn) -> tuple[list[ImageBlocks], BlockTiles, np.ndarray]:
    """Blocks of any shape, whole units or not, and how far they are covered around."""
    images, tile, overlap, divisor = draw(cases())
    blocks = [
        ImageBlocks(
            of.samples,
            of.size,
            draw(st.integers(1, 4)),
            tuple(draw(st.integers(1, n)) for n in of.size),
        )
        for of in images
    ]
    tiles = BlockTiles(blocks, tile, overlap, divisor)
    return blocks, tiles, np.minimum(overlap, np.array(tiles.tile_size) - divisor) // 2


@PROPERTY
@given(block_cases())
def test_the_tiles_of_a_block_cover_it_exactly_once_and_lie_in_the_extended_image(
    case: tuple[list[ImageBlocks], BlockTiles, np.ndarray],
) -> None:
    images, plan, margin = case
    tiles, crop, divisor = places(plan), crops(plan), np.array(plan.divisor)
    n_axes, number = len(margin), 0
    for image, of in enumerate(images):
        end = -(-np.array(of.size) // divisor) * divisor
        covered = np.zeros((of.samples, *of.size), int)
        for block in map(of.region, range(len(of))):
            mine = np.flatnonzero(tiles.window == number)
            assert plan.ends[number] == mine[0] and plan.ends[number + 1] == mine[-1] + 1
            first, stop = crop[mine, :n_axes], crop[mine, n_axes:]
            start, last = tiles.start[mine], tiles.start[mine] + tiles.size[mine]
            region = plan.region(number)
            assert (start.min(axis=0) == region.start).all()
            assert (last.max(axis=0) == region.stop).all()
            assert (region.image, *region[1:2], region.n_samples) == (image, *block[1:2], block[4])
            assert (tiles.image[mine] == image).all()
            assert (first >= block.start).all() and (stop <= block.stop).all()
            assert (start % divisor == 0).all()
            assert (start >= 0).all() and (last <= end).all()
            assert ((first - start >= margin) | (start == 0)).all()
            assert ((last - stop >= margin) | (last == end)).all()
            for s, box in zip(tiles.sample[mine], crop[mine], strict=True):
                assert block.sample <= s < block.sample + block.n_samples
                assert of.number(int(s), box[:n_axes].tolist()) == number - offset(images, image)
                covered[(s, *map(slice, box[:n_axes], box[n_axes:]))] += 1
            number += 1
        assert (covered == 1).all()


def offset(images: list[ImageBlocks], image: int) -> int:
    return sum(map(len, images[:image]))


@PROPERTY
@given(block_cases(), st.data())
def test_some_blocks_have_the_tiles_that_they_have_among_all(
    case: tuple[list[ImageBlocks], BlockTiles, np.ndarray], data: st.DataObject
) -> None:
    images, every, _ = case
    n = offset(images, len(images))
    chosen = data.draw(st.lists(st.integers(0, n - 1), unique=True))
    plan = every.of_blocks(np.array(chosen, int))
    tiles = plan.places(np.arange(len(plan)))
    for i, number in enumerate(chosen):
        mine = np.arange(plan.ends[i], plan.ends[i + 1])
        among_all = every.places(np.arange(every.ends[number], every.ends[number + 1]))
        assert (tiles.window[mine] == i).all()
        for column, wanted in zip(tiles[:4], among_all[:4], strict=True):
            np.testing.assert_array_equal(column[mine], wanted)
        np.testing.assert_array_equal(tiles.crop[mine], among_all.crop)
        assert plan.region(i) == every.region(number)
    assert plan.ends[-1] == len(plan)
    n_tiles = np.diff(plan.ends)
    for n in (1, 2, 3):
        shares = [plan.part(Share(rank, n)) for rank in range(n)]
        assert [number for share in shares for number in share.numbers.tolist()] == chosen
        for share in shares:
            assert abs(len(share) - len(plan) / n) <= n_tiles.max(initial=0)


def test_the_last_two_tiles_which_overlap_more_meet_in_the_middle_too() -> None:
    tiles = BlockTiles([whole(1, (11, 6))], (6, 6), (2, 0), (1, 1))
    assert places(tiles).start[:, 0].tolist() == [0, 4, 5]
    assert crops(tiles)[:, [0, 2]].tolist() == [[0, 5], [5, 7], [7, 11]]


def test_without_a_tile_size_images_are_tiles() -> None:
    tiles = BlockTiles([whole(2, (5, 6)), whole(1, (300, 4))], None, (0, 0), (1, 1))
    np.testing.assert_array_equal(places(tiles).size, [[5, 6], [5, 6], [300, 4]])
    np.testing.assert_array_equal(crops(tiles)[:, 2:], places(tiles).size)
