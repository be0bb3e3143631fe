"""Who draws what: the same batches on any number of ranks and workers, entered anywhere."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stacks import Ledger, RecordingStack

from careamics_dm.images.image_set import ImageSet
from careamics_dm.loading.dataset import PatchDataset
from careamics_dm.loading.loader import PatchLoader
from careamics_dm.sampling.epoch_streams import Share
from careamics_dm.sampling.filters.criteria import MaxFilter
from careamics_dm.sampling.patch_grid import PatchGrid
from careamics_dm.sampling.random_patches import RandomPatches

pytestmark = pytest.mark.usefixtures("files_close")

PROPERTY = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
N, SHAPE = 210, (1, 1, 64, 64)


def stacks(n=12):
    ledger = Ledger()
    size = int(np.prod(SHAPE))
    pixels = [
        np.arange(i * size, (i + 1) * size, dtype=np.float32).reshape(SHAPE) for i in range(n)
    ]
    return [RecordingStack(p, f"image {i}", (16, 16), ledger) for i, p in enumerate(pixels)]


def dataset(images=None, *, rank=0, ranks=1, plan="random", pool_bytes=150_000, n=N, **options):
    """Patches whose pixels tell where they are from; as a rule streamed."""
    images = images or stacks()
    found = ImageSet(images, channels=[None] * len(images))
    extents, budget = found.extents(), pool_bytes // 32
    if plan == "random":
        where = RandomPatches(extents, (8, 8), n, 0, budget)
    elif plan == "grid":
        where = PatchGrid(extents, (16, 16), window_bytes=budget, seed=0)
    else:
        where = PatchGrid(extents, (16, 16), window_bytes=budget)
    options = {"batch_size": 24 // ranks, "n_orientations": 8} | options
    return PatchDataset(found, where, pool_bytes=pool_bytes, share=Share(rank, ranks), **options)


def corners(batch):
    return batch["image"][:, 0, 0, 0].double().tolist()


def turned(batch):
    """First pixel and orientation of each patch."""
    orientations = [i for i, n in enumerate(batch["orientation"]) for _ in range(n)]
    assert len(orientations) == len(batch["image"])
    return [*zip(corners(batch), orientations, strict=True)]


def steps(ranks, **options):
    """What all ranks together draw in each step."""
    every = [list(dataset(rank=r, ranks=ranks, **options)) for r in range(ranks)]
    assert len({len(batches) for batches in every}) == 1
    return [sorted(chain(*map(turned, step))) for step in zip(*every, strict=True)]


@pytest.mark.parametrize("plan", ["random", "grid"])
@pytest.mark.parametrize("pool_bytes", [150_000, 2**20])  # streamed, and kept
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_step_of_all_ranks_is_the_same_on_any_number_of_them(ranks, pool_bytes, plan):
    alone = steps(1, pool_bytes=pool_bytes, plan=plan)
    together = steps(ranks, pool_bytes=pool_bytes, plan=plan)
    whole = N // 24 if plan == "random" else len(alone) - 1
    assert together[:whole] == alone[:whole]
    # Of the last, as many are left out as do not divide.
    assert not Counter(together[-1]) - Counter(alone[-1])


def test_so_it_is_with_a_filter():
    def filtered(ranks):
        images = stacks()
        for image in images:
            image.pixels[:, :, 20:] = 0
        return steps(ranks, images=images, patch_filter=MaxFilter(1))

    alone = filtered(1)
    assert [filtered(ranks)[:8] for ranks in (2, 8)] == [alone[:8]] * 2


@pytest.mark.parametrize("batch_size", [24, 3, None])
@pytest.mark.parametrize("workers", [2, 3, 9])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on few cores
def test_workers_make_the_same_batches_together(workers, batch_size):
    options = {"batch_size": batch_size, "n": 100}
    alone = PatchLoader(dataset(**options))
    loader = PatchLoader(dataset(**options), num_workers=workers, start_method="fork")
    for _ in range(2):  # the second with the same, living workers
        for one, other in zip(alone, loader, strict=True):
            assert one.keys() == other.keys()
            assert torch.equal(one["image"], other["image"])
            assert one.get("orientation") == other.get("orientation")
    loader.close()


@PROPERTY
@given(st.integers(0, 60), st.integers(1, 12), st.integers(1, 9))
def test_every_patch_is_drawn_by_one_rank_and_all_have_equally_many_batches(n, ranks, batch_size):
    sets = [
        dataset(stacks(3), rank=r, ranks=ranks, n=n, batch_size=batch_size) for r in range(ranks)
    ]
    parts = [list(part) for part in sets]
    assert {part.count() for part in sets} == {len(batches) for batches in parts}
    assert len(parts[0]) == ceil(n // ranks / batch_size)
    drawn = Counter(c for batches in parts for batch in batches for c in corners(batch))
    assert drawn.total() == n // ranks * ranks
    sizes = [[len(batch["image"]) for batch in batches] for batches in parts]
    assert all(size == sizes[0] for size in sizes)
    if ranks in (1, 2, 4, 8):
        whole = Counter(c for b in dataset(stacks(3), n=n) for c in corners(b))
        assert not drawn - whole


def test_a_window_is_read_by_one_rank_but_for_those_that_streams_share():
    images = stacks(40)
    ranks = [dataset(images, rank=r, ranks=8, n=2000) for r in range(8)]
    windows = np.unique(ranks[0].plan.epoch(0).windows(np.arange(2000)))
    for part in ranks:
        list(part)
    n_reads = sum(len(image.reads) for image in images)
    assert len(windows) <= n_reads <= len(windows) + 8


def test_a_batch_mixes_all_streams_and_two_windows_of_each():
    """Of 8 streams that read window by window: 8 images and more, and most patches alone."""
    images, blocks = [], []
    for batch in dataset(stacks(40), n=2400, batch_size=64):
        image, y, x = np.unravel_index(np.array(corners(batch), int), (40, *SHAPE[2:]))
        images.append(len({*image.tolist()}))
        blocks.append(
            len({*zip(image.tolist(), (y // 16).tolist(), (x // 16).tolist(), strict=True)})
        )
    assert min(images) == 8
    assert np.mean(images) > 10
    assert np.mean(blocks) > 36


def test_a_run_goes_on_in_the_middle_of_an_epoch_with_other_ranks():
    """1, 2, 4 ranks and 1 again, of a few steps each: every patch comes once."""
    found, states = [], [None]
    for ranks, n_steps in ((1, 2), (2, 3), (4, 1), (1, None)):
        parts = []
        for rank in range(ranks):
            loader = PatchLoader(dataset(rank=rank, ranks=ranks))
            if states[-1] is not None:
                loader.load_state_dict(states[-1])
            batches = iter(loader)
            length = len(loader) - loader.batch if n_steps is None else n_steps
            parts.append([next(batches) for _ in range(length)])
            state = loader.state_dict()
            if n_steps is None:
                assert next(batches, None) is None
            batches.close()
            loader.close()
        states.append(state)
        found += [sorted(chain(*map(turned, step))) for step in zip(*parts, strict=True)]
    assert found == steps(1)


@PROPERTY
@given(st.integers(0, N), st.sampled_from([1, 2, 4, 8]), st.integers(1, 30))
def test_the_rest_of_an_epoch_is_what_is_left_wherever_it_begins(patch, ranks, batch_size):
    images, left = stacks(3), []
    for rank in range(ranks):
        part = dataset(images, rank=rank, ranks=ranks, batch_size=batch_size)
        part.set_epoch(0, patch)
        batches = list(part)
        assert len(batches) == part.count(patch) == ceil((N - patch) // ranks / batch_size)
        left += [c for batch in batches for c in corners(batch)]
    before = dataset(images, batch_size=1)
    every = Counter(c for batch in before for c in corners(batch))
    first = Counter(
        c for batch, _ in zip(before, range(patch), strict=False) for c in corners(batch)
    )
    assert not Counter(left) - (every - first)
    assert len(left) == (N - patch) // ranks * ranks


def test_other_numbers_of_ranks_go_on_approximately_and_say_so():
    loader = PatchLoader(dataset())
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    batches.close()
    other = PatchLoader(dataset(rank=0, ranks=3))
    with pytest.warns(UserWarning, match=r"read in 8 streams; 3 rank\(s\) read 24"):
        other.load_state_dict(state)
    assert len(other) == 1 + ceil((N - 24) // 3 / 8)
    assert len(list(other)) == len(other) - 1


def test_states_of_older_versions_count_batches():
    loader = PatchLoader(dataset())
    loader.load_state_dict({"epoch": 2, "batch": 3})
    whole = dataset()
    whole.set_epoch(2)
    assert [turned(b) for b in loader] == [turned(b) for b in list(whole)[3:]]


def test_a_state_at_the_end_of_an_epoch_goes_on_with_the_next():
    loader = PatchLoader(dataset())
    list(loader)
    again = PatchLoader(dataset())
    again.load_state_dict(loader.state_dict())
    assert (again.epoch, again.batch) == (1, 0)


@PROPERTY
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 9))
def test_fixed_patches_are_shared_out_equally_and_only_the_first_come_again(ranks, images, size):
    of_images = stacks(images)
    whole = [c for b in dataset(of_images, plan="tiles", batch_size=99) for c in corners(b)]
    each = ceil(len(whole) / ranks)
    found = []
    for rank in range(ranks):
        part = dataset(of_images, rank=rank, ranks=ranks, plan="tiles", batch_size=size)
        mine = [c for batch in part for c in corners(batch)]
        assert len(mine) == each
        found += mine
    assert found == (whole + whole)[: each * ranks]


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_order_of_fixed_patches_does_not_depend_on_workers(workers):
    expected = [corners(batch) for batch in dataset(plan="tiles", batch_size=7)]
    loader = PatchLoader(
        dataset(plan="tiles", batch_size=7), num_workers=workers, start_method="fork"
    )
    assert [corners(batch) for batch in loader] == expected
    loader.close()


def test_batches_mix_images_and_windows():
    """As many as there are streams, and more: each has two windows at hand."""
    part = dataset(stacks(40), n=4000, batch_size=64, pool_bytes=200_000)
    images = [len({int(c // 4096) for c in corners(b)}) for b in list(part)[3:]]
    assert np.mean(images) > 7


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("n", [1, 2049])
def test_a_worker_may_have_no_part_in_a_batch(n):
    loader = PatchLoader(dataset(n=n), num_workers=8, start_method="fork")
    assert sum(len(batch["image"]) for batch in loader) == n
    loader.close()


def test_a_pass_that_goes_on_after_closing_reads_no_more_than_it_needs():
    images = stacks(60)
    loader = PatchLoader(dataset(images, n=3000))
    batches = iter(loader)
    next(batches)
    loader.close()
    before = sum(len(image.reads) for image in images)
    next(batches)
    assert sum(len(image.reads) for image in images) - before < 30
    batches.close()


@pytest.mark.parametrize("patch_filter", [None, MaxFilter(90_000)])
def test_at_the_end_of_an_epoch_no_more_than_the_last_blocks_are_held(patch_filter):
    part = dataset(stacks(40), n=1000, patch_filter=patch_filter)
    batches = iter(part)
    next(batches)
    (reader,) = part._readers
    for _ in batches:
        pass
    assert reader._held == 0 if patch_filter is None else reader._held < part.pool_bytes // 2
