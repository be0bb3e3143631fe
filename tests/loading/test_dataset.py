"""Batches of patches: what they hold, what is read for them, and in which order they come."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import time
from collections import Counter
from math import ceil

import numpy as np
import pytest
import torch
from conftest import reader_threads
from hypothesis import given, settings
from hypothesis import strategies as st
from stacks import Ledger, RecordingStack

from careamics_dm.errors import DataError
from careamics_dm.formats.array import ArrayDataModule
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.image_set import ImageSet
from careamics_dm.loading.dataset import PatchDataset
from careamics_dm.loading.loader import PatchLoader
from careamics_dm.prediction.block_tiles import BlockTiles
from careamics_dm.prediction.result_blocks import ImageBlocks
from careamics_dm.sampling.epoch_streams import Share
from careamics_dm.sampling.patch_grid import PatchGrid
from careamics_dm.sampling.random_patches import RandomPatches
from careamics_dm.sampling.read_windows import PatchList

pytestmark = pytest.mark.usefixtures("files_close")

EVERYTHING = 2**29


def numbered(shape, dtype=np.float32, first=0):
    """Pixels that are all different, so that a patch tells where it comes from."""
    return (first + np.arange(np.prod(shape))).reshape(shape).astype(dtype)


def make(stacks, patch=(16, 16), n=40, *, plan="random", window_bytes=EVERYTHING, **options):
    images = ImageSet(list(stacks), list(options.pop("targets", None) or []))
    images.channels = options.pop("channels", None) or [None] * len(images.stacks)
    images.target_channels = options.pop("target_channels", None) or [None] * len(images.targets)
    images.kept = options.pop("kept", {})
    extents = images.extents()
    if plan == "random":
        where = RandomPatches(extents, patch, n, options.get("seed", 0), window_bytes)
    elif plan == "grid":
        where = PatchGrid(extents, patch, window_bytes=window_bytes)
    else:
        blocks = [ImageBlocks(e.samples, e.size, 1, e.size) for e in extents]
        where = BlockTiles(blocks, patch, [4] * len(patch), [1] * len(patch))
    options.setdefault("batch_size", 8)
    return PatchDataset(images, where, **options)


def recorded(n=6, shape=(2, 1, 64, 64), dtype=np.uint16, block=None):
    ledger = Ledger()
    size = int(np.prod(shape))
    return [
        RecordingStack(numbered(shape, dtype, i * size), f"image {i}", block, ledger)
        for i in range(n)
    ]


def epoch_of(dataset, epoch=0):
    dataset.set_epoch(epoch)
    return list(dataset)


def corners(batches):
    """First pixel of each patch."""
    return torch.cat([b["image"][:, 0].flatten(1)[:, 0].double() for b in batches]).tolist()


def same(ours, theirs):
    return len(ours) == len(theirs) and all(
        a.keys() == b.keys()
        and all(np.array_equal(np.asarray(a[key]), np.asarray(b[key])) for key in a)
        for a, b in zip(ours, theirs, strict=True)
    )


class TestBatches:
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "f2", "f4"])
    def test_dtypes_that_torch_has_stay_as_stored(self, kind, order):
        image = numbered((1, 1, 8, 8), order + kind)
        batches = list(make([ArrayStack(image, "SCYX", "a")], (4, 4), plan="grid"))
        assert batches[0]["image"].dtype == getattr(torch, np.dtype(kind).name)
        assert batches[0]["image"][0, 0].tolist() == image[0, 0, :4, :4].tolist()

    @pytest.mark.parametrize("kind", ["u4", "i4", "u8", "i8", "f8", "?", ">i4", ">f8"])
    def test_other_dtypes_become_float32(self, kind):
        image = numbered((1, 1, 8, 8)).astype(kind)
        (batch,) = make([ArrayStack(image, "SCYX", "a")], (8, 8), plan="grid")
        assert batch["image"].dtype == torch.float32
        assert np.array_equal(batch["image"][0].numpy(), image[0].astype(np.float32))

    @pytest.mark.parametrize(
        ("kinds", "expected"),
        [
            (("u1", "i1"), torch.int16),
            (("u1", "u2"), torch.uint16),
            (("u2", "i2"), torch.float32),
            (("u2", "f2"), torch.float32),
            (("u1", "f2"), torch.float16),
            ((">u2", "<u2"), torch.uint16),
            (("f4", "f8"), torch.float32),
        ],
    )
    def test_mixed_dtypes_give_one_that_loses_nothing(self, kinds, expected):
        extremes = []
        for kind in kinds:
            info = np.finfo(kind) if np.dtype(kind).kind == "f" else np.iinfo(kind)
            ends = [0, 1] if np.dtype(kind).kind == "f" else [info.min, info.max]
            extremes.append(np.resize(np.array(ends, kind), (1, 1, 4, 4)))
        stacks = [ArrayStack(image, "SCYX", str(i)) for i, image in enumerate(extremes)]
        (batch,) = make(stacks, (4, 4), plan="grid")
        assert batch["image"].dtype == expected
        for cut, image in zip(batch["image"], extremes, strict=True):
            assert cut.double().tolist() == image[0].astype(np.float64).tolist()

    @settings(max_examples=40, deadline=None)
    @given(data=st.data())
    def test_patches_are_the_pixels_where_the_plan_says(self, data):
        dims = data.draw(st.sampled_from([2, 3]))
        patch = tuple(data.draw(st.lists(st.integers(1, 7), min_size=dims, max_size=dims)))
        channels = data.draw(st.integers(1, 3))
        stacks, targets, first = [], [], 0
        for i in range(data.draw(st.integers(1, 3))):
            size = [data.draw(st.integers(p, 20)) for p in patch]
            shape = (data.draw(st.integers(1, 2)), channels, *size)
            block = tuple(data.draw(st.integers(1, n)) for n in size)
            pixels = numbered(shape, first=first)
            first += pixels.size
            stacks.append(RecordingStack(pixels, f"{i}", block))
            targets.append(RecordingStack(-pixels[:, :1], f"target {i}", block))
        dataset = make(
            stacks,
            patch,
            data.draw(st.integers(1, 30)),
            targets=targets,
            batch_size=data.draw(st.integers(1, 9)),
            window_bytes=data.draw(st.sampled_from([1, 500, 10**6])),
            pool_bytes=data.draw(st.sampled_from([1, 2000, 10**7])),
        )
        epoch = data.draw(st.integers(0, 3))
        batches = epoch_of(dataset, epoch)
        places = dataset.plan.epoch(epoch).places(np.arange(len(dataset.plan)))
        planned = []
        for i, s, start in zip(places.image, places.sample, places.start, strict=True):
            box = tuple(slice(a, a + p) for a, p in zip(start, patch, strict=True))
            planned.append(stacks[i].pixels[(s, slice(None), *box)])
        found = torch.cat([b["image"] for b in batches]).numpy()
        order = np.argsort([p.flat[0] for p in planned], kind="stable")
        assert np.array_equal(
            found[np.argsort(found.reshape(len(found), -1)[:, 0], kind="stable")],
            np.stack(planned)[order],
        )
        targets_found = torch.cat([b["target"] for b in batches]).numpy()
        assert np.array_equal(targets_found, -found[:, :1])
        assert len(batches) == dataset.count() == ceil(len(planned) / dataset.batch_size)

    def test_batches_mix_images(self):
        dataset = make(recorded(), n=200, batch_size=32)
        size = dataset.images.stacks[0].pixels.size
        for batch in epoch_of(dataset, 1):
            assert len({int(c // size) for c in corners([batch])}) > 1

    def test_channels_are_those_selected(self):
        stack = RecordingStack(numbered((1, 4, 16, 16)))
        target = RecordingStack(numbered((1, 2, 16, 16)))
        (batch,) = make(
            [stack],
            (16, 16),
            1,
            targets=[target],
            channels=[[2, 0]],
            target_channels=[[1]],
        )
        assert np.array_equal(batch["image"][0], stack.pixels[0, [2, 0]])
        assert np.array_equal(batch["target"][0], target.pixels[0, [1]])

    def test_without_a_batch_size_single_patches_come(self):
        dataset = make(recorded(1), (16, 16), 5, batch_size=None, n_orientations=8)
        patches = list(dataset)
        assert len(patches) == dataset.count() == 5
        assert all(set(p) == {"image"} and p["image"].shape == (1, 16, 16) for p in patches)

    def test_single_tiles_have_their_place(self):
        dataset = make(recorded(1), (32, 32), plan="tiles", batch_size=None)
        for tile in dataset:
            image, sample, y, x = tile["region"][:4].tolist()
            pixels = dataset.images.stacks[image].pixels[sample]
            assert np.array_equal(tile["image"], pixels[:, y : y + 32, x : x + 32])

    def test_orientations_are_counted_for_the_patches_of_each_batch_alike(self):
        dataset = make(recorded(1), (8, 8), 20, n_orientations=4, batch_size=16)
        counts = np.zeros((2, 4))
        for epoch in range(200):
            for i, batch in enumerate(epoch_of(dataset, epoch)):
                assert sum(batch["orientation"]) == len(batch["image"])
                counts[i] += batch["orientation"]
        # The short last batch too: 800 patches in 4 orientations, 200 each, sd 12.
        assert counts[1].sum() == 800
        assert np.all(abs(counts[1] - 200) < 60)
        assert np.all(abs(counts[0] - 800) < 120)


class TestReading:
    def test_every_region_is_read_once_per_epoch(self):
        stacks = recorded(8, (1, 1, 64, 64), block=(16, 16))
        pool = 3 * 64 * 64 * 2
        dataset = make(stacks, (8, 8), 300, window_bytes=32 * 32 * 2, pool_bytes=pool)
        for epoch in range(3):
            for stack in stacks:
                stack.reads.clear()
            epoch_of(dataset, epoch)
            windows = np.unique(dataset.plan.epoch(epoch).windows(np.arange(300)))
            # One that two streams share may be read by each.
            n_reads = sum(len(stack.reads) for stack in stacks)
            assert len(windows) <= n_reads < len(windows) + 8

    def test_a_region_is_read_only_as_far_as_its_patches_reach(self):
        (stack,) = recorded(1, (1, 1, 256, 256))
        dataset = make([stack], (8, 8), 1, pool_bytes=1000)
        epoch_of(dataset)
        ((_, start, stop),) = stack.reads
        assert [b - a for a, b in zip(start, stop, strict=True)] == [8, 8]

    @pytest.mark.parametrize("patches", [30, 400])
    def test_the_pool_stays_within_its_bytes(self, patches):
        stacks = recorded(20, (1, 1, 64, 64), block=(16, 16))
        pool = 6 * 64 * 64 * 2
        dataset = make(stacks, (8, 8), patches, window_bytes=pool // 16, pool_bytes=pool)
        for epoch in range(3):
            for batch in epoch_of(dataset, epoch):
                del batch
        ledger = stacks[0].ledger
        assert pool / 4 < ledger.most_live <= pool or patches == 30
        assert ledger.most_live <= pool
        assert ledger.live == 0

    def test_patches_are_mixed_over_half_of_the_pool_while_the_other_half_is_read(self):
        stacks = recorded(24, (1, 1, 64, 64), np.float32)
        size = stacks[0].pixels.nbytes
        dataset = make(stacks, n=2000, pool_bytes=8 * size, window_bytes=size)
        image = np.array(corners(epoch_of(dataset))) // stacks[0].pixels.size
        uses = [np.flatnonzero(image == i) for i in range(24)]
        live = [sum(u[0] <= at <= u[-1] for u in uses) for at in range(2000)]
        assert max(live) == 4

    @pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on few cores
    @pytest.mark.parametrize("n_images", [100, 12])  # of a pool of 16
    def test_worker_processes_share_the_pool_out(self, n_images):
        class Live(RecordingStack):
            """Pixels are the bytes that this process holds."""

            def extract_patch(self, *place):
                patch = super().extract_patch(*place)
                patch[:] = self.ledger.live
                return patch

        ledger, image = Ledger(), np.zeros((1, 1, 64, 64), np.float32)
        stacks = [Live(image, "a", None, ledger) for _ in range(n_images)]
        dataset = make(
            stacks, n=10 * n_images, pool_bytes=16 * image.nbytes, window_bytes=image.nbytes
        )
        most = {}
        for workers in (0, 2, 4):
            loader = PatchLoader(dataset, num_workers=workers, start_method="fork")
            batches = (batch for _ in range(2) for batch in loader)
            most[workers] = max(float(batch["image"].max()) for batch in batches) / image.nbytes
            loader.close()
            dataset.images.kept.clear()
        # What fits a process's part, as the 12 fit all, is kept; of more, half is mixed at once.
        assert min(n_images, 9) <= most[0] <= min(n_images, 16)
        assert 4 < most[2] <= 8 and 2 < most[4] <= 4

    def test_a_region_larger_than_the_pool_is_read_alone(self):
        stacks = recorded(3, (1, 1, 64, 64))
        dataset = make(stacks, (16, 16), 60, pool_bytes=100)
        assert len(corners(epoch_of(dataset))) == 60
        assert stacks[0].ledger.most_live <= 2 * stacks[0].pixels.nbytes

    def test_a_set_that_fits_is_read_once_for_all_epochs(self):
        stacks = recorded(5, (2, 1, 64, 64))
        dataset = make(stacks, (16, 16), 100, window_bytes=1000, pool_bytes=10 * 64 * 64 * 2)
        for epoch in range(4):
            epoch_of(dataset, epoch)
        reads = [read for stack in stacks for read in stack.reads]
        assert len(reads) == 10
        assert all(stop == (64, 64) for _, _, stop in reads)

    def test_two_datasets_can_share_what_is_kept(self):
        (stack,) = recorded(1)
        kept = {}
        for _ in range(2):
            epoch_of(make([stack], n=50, kept=kept))
        assert len(stack.reads) == 2  # samples

    def test_a_set_larger_than_the_pool_is_covered_in_every_epoch(self):
        stacks = recorded(10, (1, 1, 50, 70), np.float32, block=(16, 16))
        dataset = make(stacks, (16, 16), plan="grid", window_bytes=2000, pool_bytes=20_000)
        for _ in range(2):
            found = torch.cat([b["image"] for b in dataset]).unique()
            assert len(found) == 10 * 50 * 70

    def test_reading_goes_on_ahead_of_need(self):
        stacks = recorded(6, (1, 1, 64, 64))
        dataset = make(stacks, (16, 16), 600)
        batches = iter(dataset)
        next(batches)
        for _ in range(100):
            if sum(len(stack.reads) for stack in stacks) == 6:
                break
            time.sleep(0.01)
        assert sum(len(stack.reads) for stack in stacks) == 6
        batches.close()

    def test_stopping_early_leaves_no_thread(self):
        loader = PatchLoader(make(recorded(20), n=400, pool_bytes=40_000, window_bytes=4000))
        for _ in loader:
            assert reader_threads()
            break
        assert not reader_threads()

    def test_closing_a_loader_ends_the_threads_of_a_pass_that_may_go_on(self):
        loader = PatchLoader(make(recorded(20), n=100, pool_bytes=40_000, window_bytes=4000))
        batches = iter(loader)
        first = [next(batches)]
        loader.close()
        assert not reader_threads()
        assert same(first + list(batches), epoch_of(loader.patches))

    @pytest.mark.parametrize("pool_bytes", [2**20, 5000])
    def test_a_fault_while_reading_reaches_the_consumer_with_its_place(self, pool_bytes):
        stacks = recorded(3)
        stacks[1].fail = True
        dataset = make(stacks, n=50, pool_bytes=pool_bytes)
        with pytest.raises(DataError, match=r"image 1: reading sample \d from \(.*disk is gone"):
            list(dataset)
        assert not reader_threads()
        stacks[1].fail = False
        assert len(corners(list(dataset))) == 50

    def test_a_fault_in_a_worker_process_too(self):
        stacks = recorded(1)
        stacks[0].fail = True
        loader = PatchLoader(make(stacks, n=50), num_workers=1, start_method="fork")
        with pytest.raises(DataError, match=r"image 0: reading sample .*disk is gone"):
            list(loader)

    def test_small_images_are_padded_by_reflection(self):
        image = numbered((1, 1, 5, 30))
        dataset = make([RecordingStack(image)], (8, 8), 20)
        padded = np.pad(image[0, 0], [(0, 3), (0, 0)], "reflect")
        for batch in dataset:
            for patch in batch["image"][:, 0].numpy():
                x = int(patch[0, 0]) % 30
                assert np.array_equal(patch, padded[:, x : x + 8])

    def test_in_memory_nothing_is_copied_but_patches(self):
        array = numbered((1, 1, 64, 64))
        dataset = make([ArrayStack(array, "SCYX", "a")])
        batches = iter(dataset)
        next(batches)
        assert not reader_threads()
        (reader,) = dataset._readers
        assert all(np.shares_memory(loaded.blocks[0], array) for loaded in reader._live.values())
        batches.close()


class TestOrder:
    def test_each_epoch_draws_new_patches_and_a_seed_repeats_them(self):
        loader = PatchLoader(make(recorded()))
        first, second = corners(loader), corners(loader)
        assert set(first) != set(second)
        again = PatchLoader(make(recorded()))
        assert (corners(again), corners(again)) == (first, second)
        other = PatchLoader(make(recorded(), seed=1))
        assert corners(other) != first

    def test_a_loader_may_begin_at_any_epoch(self):
        loader = PatchLoader(make(recorded()))
        list(loader)
        assert same(list(loader), list(PatchLoader(make(recorded()), epoch=lambda: 1)))

    @pytest.mark.parametrize("kept", [True, False])
    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_resumed_epoch_goes_on_with_the_very_next_batch(self, workers, kept):
        options = {"n": 75, "n_orientations": 8, "window_bytes": EVERYTHING if kept else 3000}
        options["pool_bytes"] = EVERYTHING if kept else 30_000

        def loader():
            return PatchLoader(
                make(recorded(), **options), num_workers=workers, start_method="fork"
            )

        whole = loader()
        epochs = [list(whole) for _ in range(3)]
        stops = [(0, 0), (0, 3), (1, 4), (1, 10), (2, 9)] if workers == 0 else [(1, 3), (0, 4)]
        for epoch, stop in stops:
            first = loader()
            for _ in range(epoch):
                list(first)
            batches = iter(first)
            for _ in range(stop):
                next(batches)
            state = first.state_dict()
            batches.close()
            first.close()
            resumed = loader()
            resumed.load_state_dict(pickle.loads(pickle.dumps(state)))
            rest = [*list(resumed), *list(resumed)]
            expected = [b for e in epochs[epoch:] for b in e][stop:]
            both = min(len(rest), len(expected))
            assert both > 0
            assert same(rest[:both], expected[:both])
            resumed.close()
        whole.close()

    def test_after_a_resume_what_is_past_is_not_read_again(self):
        stacks = recorded(20, (1, 1, 64, 64))
        dataset = make(stacks, n=200, pool_bytes=3 * 64 * 64 * 2, window_bytes=64 * 64 * 2)
        dataset.set_epoch(0, 20 * 8)  # of 25 batches
        assert len(list(dataset)) == 5
        assert sum(len(stack.reads) for stack in stacks) < 10
        assert stacks[0].ledger.most_live <= dataset.pool_bytes

    def test_nothing_is_drawn_twice_by_two_workers(self):
        options = {"n": 75, "pool_bytes": 30_000, "window_bytes": 3000}
        loader = PatchLoader(make(recorded(), **options), num_workers=2, start_method="fork")
        alone = PatchLoader(make(recorded(), **options))
        for _ in range(2):  # the second with the same, living workers
            found = list(loader)
            assert sorted(corners(found)) == sorted(corners(alone))
            assert [len(b["image"]) for b in found] == [8] * 9 + [3]
        loader.close()

    @pytest.mark.parametrize("ranks", [1, 2, 3])
    def test_ranks_draw_different_patches_and_equally_many_batches(self, ranks):
        sets = [make(recorded(), n=75, share=Share(r, ranks)) for r in range(ranks)]
        assert {dataset.count() for dataset in sets} == {ceil(75 // ranks / 8)}
        parts = [Counter(corners(list(dataset))) for dataset in sets]
        assert {part.total() for part in parts} == {75 // ranks}
        whole = Counter(corners(list(make(recorded(), n=75))))
        assert (whole - sum(parts, Counter())).total() == 75 % ranks

    @pytest.mark.parametrize("plan", ["grid", "tiles"])
    @pytest.mark.parametrize("workers", [1, 2])
    def test_validation_and_prediction_have_one_order_whatever_the_workers(self, plan, workers):
        stacks = [ArrayStack(numbered((1, 1, 50, 70)), "SCYX", "a")] * 2
        dataset = make(stacks, (16, 16), plan=plan, window_bytes=2000, pool_bytes=4000)
        alone = list(PatchLoader(dataset))
        loader = PatchLoader(dataset, num_workers=workers, start_method="fork")
        assert same(list(loader), alone)
        assert same(list(loader), alone)
        loader.close()

    def test_workers_may_start_from_a_server(self, tmp_path):
        array = numbered((2, 1, 64, 64), np.uint16)
        np.save(tmp_path / "a.npy", array + array.size)
        (file,) = ArrayDataModule().open_source(tmp_path / "a.npy", "SCYX")
        dataset = make([ArrayStack(array, "SCYX", "array"), file], n=60)
        alone = PatchLoader(dataset)
        loader = PatchLoader(dataset, num_workers=2, start_method="forkserver")
        epochs = [corners(loader) for _ in range(2)]
        assert sorted(epochs[0]) == sorted(corners(alone))
        assert sorted(epochs[1]) == sorted(corners(alone))
        assert set(epochs[0]) != set(epochs[1])
        loader.close()

    def test_a_loader_that_is_garbage_ends_its_processes(self):
        dataset = make(recorded(2, (1, 1, 16, 16)), (4, 4))
        loader = PatchLoader(dataset, num_workers=2, start_method="fork")
        unfinished = iter(loader)
        next(unfinished)
        cycle = [loader, unfinished]
        cycle.append(cycle)
        del loader, unfinished, cycle
        gc.collect()
        assert not multiprocessing.active_children()

    def test_a_dataset_pickles_without_what_it_read(self):
        dataset = make(recorded(1, (1, 1, 8, 8)), (4, 4))
        list(dataset)
        copy = pickle.loads(pickle.dumps(dataset))
        assert not copy.images.kept
        assert same(list(copy), list(dataset))


class TestNan:
    def stacks(self, bad=np.nan, side="image", where=(0, 1, 3, 20)):
        image, target = numbered((1, 2, 8, 64)), numbered((1, 2, 8, 64))
        (image if side == "image" else target)[where] = bad
        return {"image": [RecordingStack(image, "x")], "target": [RecordingStack(target, "y")]}

    def patches(self, policy, stacks, n=64, plan="grid", **options):
        dataset = make(
            stacks["image"],
            (8, 8),
            n,
            plan=plan,
            targets=stacks["target"],
            nan_policy=policy,
            **options,
        )
        return list(dataset)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize(("side", "name"), [("image", "x"), ("target", "y")])
    def test_error_names_file_and_place(self, side, name, bad):
        message = rf"{name}: -?(nan|inf) at sample 0, channel 1, YX=\(3, 20\).*nan_policy"
        with pytest.raises(DataError, match=message):
            self.patches("error", self.stacks(bad, side))

    def test_error_names_the_channel_in_the_file(self):
        stack = self.stacks()["image"]
        with pytest.raises(DataError, match="channel 1"):
            list(make(stack, (8, 8), plan="grid", channels=[[1]]))

    @pytest.mark.parametrize("side", ["image", "target"])
    def test_zero_replaces_just_the_pixel(self, side):
        stacks = self.stacks(side=side)
        (batch,) = self.patches("zero", stacks)
        pixels = stacks[side][0].pixels[0]
        expected = np.nan_to_num(pixels).reshape(2, 8, 8, 8).transpose(2, 0, 1, 3)
        assert np.array_equal(batch[side], expected)

    @pytest.mark.parametrize("side", ["image", "target"])
    def test_skip_takes_another_patch_of_both_sides(self, side):
        (batch,) = self.patches("skip", self.stacks(side=side))
        assert len(batch["image"]) == 8
        assert np.array_equal(batch["image"], batch["target"])
        assert torch.isfinite(batch["image"]).all()

    def test_skip_looks_elsewhere_when_a_whole_batch_is_bad(self):
        where = (0, slice(None), slice(None), slice(0, 32))
        batches = self.patches("skip", self.stacks(where=where), batch_size=4)
        assert [len(b["image"]) for b in batches] == [4, 4]
        assert np.array_equal(batches[0]["image"], batches[0]["target"])
        assert len(set(corners(batches[:1]))) == 4
        again = self.patches("skip", self.stacks(where=where), batch_size=4)
        assert same(batches, again)

    def test_skip_works_for_single_patches(self):
        patches = self.patches("skip", self.stacks(), batch_size=None)
        assert len(patches) == 8
        assert all(torch.isfinite(p["image"]).all() for p in patches)

    def test_skip_gives_up_when_all_is_bad(self):
        with pytest.raises(DataError, match=r"x: nan at .*Other patches were tried"):
            self.patches("skip", self.stacks(where=...))

    def test_skipping_in_prediction_sets_zero_since_every_tile_has_a_place(self):
        stack = self.stacks()["image"]
        tiles = list(make(stack, (8, 8), plan="tiles", nan_policy="skip"))
        assert all(torch.isfinite(b["image"]).all() for b in tiles)
        starts = torch.cat([b["region"][:, 3] for b in tiles])
        assert len(starts.unique()) == len(starts)

    def test_a_value_beyond_float32_is_an_infinity(self):
        stack = ArrayStack(np.full((1, 1, 4, 4), 1e300), "SCYX", "a")
        with pytest.raises(DataError, match="a: inf at sample 0"):
            list(make([stack], (4, 4), plan="grid"))


def test_an_empty_plan_yields_nothing():
    dataset = make(recorded(1), plan="grid")
    dataset.plan = PatchList(np.zeros((0, 4), np.int64), (8, 8))
    assert dataset.count() == 0
    assert list(dataset) == []


def test_the_first_batch_mixes_images_in_memory():
    size = 64 * 64
    stacks = [ArrayStack(numbered((1, 1, 64, 64), first=i * size), "SCYX", "a") for i in range(9)]
    first = epoch_of(make(stacks, n=200, batch_size=32))[:1]
    assert len({int(c // size) for c in corners(first)}) > 5


def test_the_first_batch_waits_for_one_window_of_each_stream_only():
    stacks = recorded(50, (1, 1, 64, 64), np.float32)
    dataset = make(stacks, n=2000, batch_size=100, pool_bytes=60 * 64 * 64 * 4)
    size = stacks[0].pixels.size
    images = [{int(c // size) for c in corners(epoch_of(dataset, e)[:1])} for e in (0, 1)]
    assert len(images[0]) <= 3 * 8
    assert len(images[1]) > 30
