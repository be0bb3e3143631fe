from __future__ import annotations

import numpy as np
import pytest

from careamics_dm.images.extent import Extent
from careamics_dm.prediction.block_tiles import BlockTiles
from careamics_dm.prediction.result_blocks import ImageBlocks, image_blocks, images_of_shard


class TestImageBlocks:
    def blocks(self, unit: tuple[int, ...], **given: object) -> ImageBlocks:
        extent = {"samples": 3, "size": (1200, 1000), "block": (40, 50)} | given
        return image_blocks(
            Extent(**extent, pixel_bytes=2, in_memory=False), 1, unit, (64, 64), (16, 16), (8, 8), 4
        )

    @pytest.mark.parametrize("unit", [(1, 1), (64, 96), (1, 1000)])
    def test_they_are_whole_units_and_share_an_image_among_ranks(self, unit):
        blocks = self.blocks(unit)
        whole = np.array(blocks.shape) % unit == 0
        assert (whole | (np.array(blocks.shape) == blocks.size)).all()
        assert 3 <= len(blocks) <= 3 * 40 and blocks.together == 1

    def test_a_large_one_takes_its_share_of_memory(self):
        blocks = self.blocks((1, 1), size=(40_000, 40_000))
        assert 2**24 < 4 * np.prod(blocks.shape) <= 2**25

    def test_they_are_whole_rows_of_large_files_without_chunks(self):
        """Unless these take more memory, or there are too few of them for ranks to share."""
        volume = Extent(1, (128, 2048, 2048), (1, 1, 1), 2, False)
        how = 1, (1, 1, 1), (32, 256, 256), (0, 0, 0), (1, 1, 1), 1
        assert image_blocks(volume, *how).shape == (32, 256, 2048)
        chunks = 1, (32, 256, 256), (32, 256, 256), (0, 0, 0), (1, 1, 1), 1
        assert image_blocks(volume, *chunks).shape == (32, 256, 1024)
        for size in [(128, 2048, 20_480), (128, 512, 2048)]:
            blocks = image_blocks(volume._replace(size=size), *how)
            assert blocks.shape[-1] < size[-1] and len(blocks) >= 16

    def test_small_samples_come_together_where_a_batch_takes_several(self):
        blocks = self.blocks((1, 1), samples=100, size=(48, 40), block=(48, 40))
        assert (blocks.together, blocks.shape, len(blocks)) == (6, (48, 40), 17)

    def test_samples_that_are_stored_together_stay_so(self):
        blocks = self.blocks((1, 1), samples=50, samples_per_block=7)
        assert blocks.together == 7

    @pytest.mark.parametrize("together", [1, 16, 64])
    def test_all_samples_of_a_block_fit_the_memory(self, together):
        size = {"size": (2048, 2048), "block": (64, 64)}
        blocks = self.blocks((1, 1), samples=128, samples_per_block=together, **size)
        most = 2**26 if blocks.shape[-1] == 2048 else 2**25  # whole rows may take more
        assert 4 * blocks.together * np.prod(blocks.shape) <= most

    def test_stored_blocks_stay_whole_but_not_what_is_in_memory(self):
        stored = self.blocks((1, 1), block=(1200, 1000))
        assert (stored.shape, len(stored)) == ((1200, 1000), 3)
        extent = Extent(3, (1200, 1000), (1200, 1000), 2, True)
        mapped = image_blocks(extent, 1, (1, 1), (64, 64), (16, 16), (8, 8), 4)
        assert len(mapped) >= 16

    @pytest.mark.parametrize("unit", [(1, 1), (256, 256)])
    def test_their_borders_lie_where_they_cost_no_tile(self, unit):
        extent = Extent(2, (2048, 2048), (1, 1), 2, True)
        how = (256, 256), (52, 52), (4, 4)
        blocks = image_blocks(extent, 1, unit, *how, 4)
        whole = ImageBlocks(2, extent.size, 1, extent.size)
        assert [len(BlockTiles([b], *how)) for b in (whole, blocks)] == [200, 200]
        assert len(blocks) > 2


@pytest.mark.parametrize(("n", "n_jobs"), [(10, 3), (2, 5), (7, 1)])
def test_jobs_share_images_evenly(n: int, n_jobs: int) -> None:
    shares = [images_of_shard(f"{job}/{n_jobs}", n) for job in range(1, n_jobs + 1)]
    assert sorted(i for share in shares for i in share) == [*range(n)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert images_of_shard(None, n) == range(n)


def test_images_that_are_alike_share_their_blocks() -> None:
    given = Extent(1, (512, 512), (64, 64), 2, False), 1, (1, 1), (64, 64), (8, 8), (1, 1), 4
    assert image_blocks(*given) is image_blocks(*given)
