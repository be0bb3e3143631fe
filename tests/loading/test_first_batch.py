"""The first batch of a pass, of which patches are read by themselves where that is less."""

from __future__ import annotations

import numpy as np
import pytest
from stacks import RecordingStack

from careamics_dm.images.image_set import ImageSet
from careamics_dm.loading.dataset import PatchDataset
from careamics_dm.sampling.filters.criteria import MaxFilter
from careamics_dm.sampling.random_patches import RandomPatches

SIZE, BATCH = 16, 8


def numbered(n=1, shape=(1, 1, 256, 256), first=0, block=(SIZE, SIZE)):
    """Pixels that are all different, so that a patch tells where it comes from."""
    each = int(np.prod(shape))
    return [
        RecordingStack(
            (first + i * each + np.arange(each, dtype=np.float32)).reshape(shape), f"{i}", block
        )
        for i in range(n)
    ]


def make(stacks, n=200, *, targets=(), pool_bytes=2**29, **options):
    images = ImageSet(stacks, [*targets])
    images.channels, images.target_channels = [None] * len(stacks), [None] * len(targets)
    patch = (SIZE,) * (stacks[0].pixels.ndim - 2)
    plan = RandomPatches(images.extents(), patch, n, 0, pool_bytes // 32)
    return PatchDataset(images, plan, batch_size=BATCH, pool_bytes=pool_bytes, **options)


def sizes(stack):
    return [tuple(np.subtract(stop, start).tolist()) for _, start, stop in stack.reads]


@pytest.mark.parametrize("shape", [(1, 1, 256, 256), (1, 2, 64, 256, 128), (4, 1, 256, 256)])
def test_patches_of_the_first_batch_are_read_before_whole_samples_that_are_kept(shape):
    block = (SIZE,) * (len(shape) - 2)
    (stack,) = numbered(shape=shape, block=block)
    dataset = make([stack])
    batches = list(dataset)
    assert sizes(stack)[:BATCH] == [block] * BATCH
    assert sizes(stack)[BATCH:] == [shape[2:]] * shape[0]
    patches = np.concatenate([batch["image"].numpy() for batch in batches])
    for patch in patches:
        sample, _, *at = np.unravel_index(int(patch[0].flat[0]), shape)
        box = (slice(a, a + SIZE) for a in at)
        np.testing.assert_array_equal(patch, stack.pixels[(sample, slice(None), *box)])
    again = np.concatenate([batch["image"].numpy() for batch in dataset])  # all of it kept
    np.testing.assert_array_equal(again, patches)
    assert len(stack.reads) == BATCH + shape[0]


def test_of_what_is_not_kept_whole_windows_are_read_at_once():
    (stack,) = numbered(shape=(1, 1, 1024, 1024))
    list(make([stack], n=5000, pool_bytes=stack.pixels.nbytes // 2))
    assert (SIZE, SIZE) not in sizes(stack)[:BATCH]


def test_targets_are_read_beside_their_images():
    stacks, targets = numbered(), numbered(first=1000)
    for batch in make(stacks, targets=targets):
        np.testing.assert_array_equal(batch["image"] + 1000, batch["target"])
    assert sizes(targets[0]) == sizes(stacks[0]) == [(SIZE, SIZE)] * BATCH + [(256, 256)]


@pytest.mark.parametrize("block", [None, (256, 64), (64, 64)])
def test_nothing_is_read_twice_if_patches_take_much_of_what_is_stored(block):
    (stack,) = numbered(block=block)
    list(make([stack]))
    assert sizes(stack) == [(256, 256)]


def test_nothing_is_read_twice_for_a_filter_that_judges_whole_windows():
    (stack,) = numbered()
    list(make([stack], patch_filter=MaxFilter(0)))
    assert sizes(stack) == [(256, 256)]


def test_a_pass_that_goes_on_in_the_middle_has_the_same_batches():
    (stack,) = numbered()
    expected = list(make([stack]))[5:]
    dataset = make([stack])
    dataset.set_epoch(0, 5 * BATCH)
    stack.reads.clear()
    for ours, theirs in zip(dataset, expected, strict=True):
        np.testing.assert_array_equal(ours["image"], theirs["image"])
    assert sizes(stack)[:BATCH] == [(SIZE, SIZE)] * BATCH


def test_patches_of_a_shard_are_read_by_its_chunks_but_not_where_targets_have_none():
    whole = (256, 256)
    (stack,), (target,) = numbered(block=whole), numbered(first=1000, block=whole)
    stack.chunks_and_shards = (SIZE, SIZE), whole
    list(make([stack]))
    assert sizes(stack) == [(SIZE, SIZE)] * BATCH + [whole]
    stack.reads.clear()
    list(make([stack], targets=[target]))
    assert sizes(stack) == sizes(target) == [whole]
