"""Stored blocks that neighbouring tiles have in common."""

from __future__ import annotations

import numpy as np
import pytest
from stacks import RecordingStack

from careamics_dm import CustomDataModule, stitch
from careamics_dm.errors import DataError

rng = np.random.default_rng(0)


def predicted(pool_mib, block=(32, 32), fail=False, size=(300, 250)):
    pixels = rng.integers(0, 999, (2, 1, *size)).astype(np.uint16)
    stack = RecordingStack(pixels, block=block, fail=fail)
    data = CustomDataModule(
        image_stack_loader=lambda *_: [stack],
        predict_data="any",
        axes="SCYX",
        patch_size=(8, 8),
        tile_size=(32, 32),
        tile_overlap=(16, 16),
        batch_size=4,
        pool_mib=pool_mib,
        normalization="none",
    )
    data.setup("predict")
    stack.reads.clear()
    (result,) = stitch(
        [{"prediction": b["image"], "region": b["region"]} for b in data.predict_dataloader()],
        data.predict_stacks,
    )
    return stack, result


def n_read(stack):
    return sum(np.prod(np.subtract(stop, start)) for _, start, stop in stack.reads)


@pytest.mark.parametrize("block", [(32, 32), (25, 250), (64, 37), None])
def test_a_stored_block_is_decoded_once_although_tiles_overlap(block):
    stack, result = predicted(16, block)
    np.testing.assert_array_equal(result, stack.pixels)
    assert n_read(stack) == stack.pixels.size


def test_little_memory_decodes_large_blocks_again():
    stack, result = predicted(1, (150, 500), size=(600, 500))  # two are more than may be held
    np.testing.assert_array_equal(result, stack.pixels)
    assert stack.pixels.size < n_read(stack) < 40 * stack.pixels.size


def test_a_fault_is_raised():
    with pytest.raises(DataError, match="the disk is gone"):
        predicted(16, fail=True)
