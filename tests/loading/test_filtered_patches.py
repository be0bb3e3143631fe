"""Training patches that pass a filter: which are drawn, from where, and how often."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from stacks import Ledger, RecordingStack

from careamics_dm.errors import DataError
from careamics_dm.formats.array import ArrayDataModule
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.extent import Extent
from careamics_dm.images.image_set import ImageSet
from careamics_dm.loading import filtered_patches
from careamics_dm.loading.dataset import PatchDataset
from careamics_dm.loading.loader import PatchLoader
from careamics_dm.sampling.allowed_origins import OriginMask, ValidOrigins
from careamics_dm.sampling.epoch_streams import Share
from careamics_dm.sampling.filters.base import PatchFilter
from careamics_dm.sampling.filters.criteria import EntropyFilter, MaxFilter, MeanStdFilter
from careamics_dm.sampling.random_patches import RandomPatches

pytestmark = pytest.mark.usefixtures("files_close")

BACKGROUND, BRIGHT = 100, 500


def scene(shape, seed, dtype=np.uint16, share=0.3):
    """Noise, and in one corner of each sample bright pixels here and there."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(BACKGROUND, 4, shape)
    corner = tuple(slice(0, round(n * share ** (1 / 2))) for n in shape[-2:])
    lit = pixels[(..., *corner)]
    lit[rng.random(lit.shape) < 0.02] = BRIGHT
    return pixels.astype(dtype)


def passes(criterion, patch):
    """Say whether a patch, ``C (Z) Y X``, passes, in plain NumPy."""
    if isinstance(criterion, Range):
        return np.ptp(patch.astype(float)) > 200
    for channel in patch if criterion.channel is None else patch[[criterion.channel]]:
        if isinstance(criterion, MaxFilter):
            good = channel.max() >= criterion.threshold
        elif isinstance(criterion, MeanStdFilter):
            mean, std = criterion.mean, criterion.std
            good = mean is None or channel.mean(dtype=np.float64) >= mean
            good &= std is None or channel.std(dtype=np.float64) >= std
        else:
            thin = channel[..., ::2, ::2]
            share = np.unique(thin, return_counts=True)[1] / thin.size
            good = -(share * np.log2(share)).sum() >= criterion.bits
        if good:
            return True
    return False


def make(images, patch=(16, 16), n=200, *, targets=(), window_bytes=6000, **options):
    """Make a dataset; by default streamed, with a pool that holds a part of it."""
    found = ImageSet(list(images), list(targets))
    found.channels, found.target_channels = [None] * len(images), [None] * len(targets)
    extents = found.extents()
    plan = RandomPatches(extents, patch, n, options.get("seed", 0), window_bytes)
    options = {"batch_size": 8, "pool_bytes": 60_000} | options
    return PatchDataset(found, plan, **options)


def streamed(n=6, shape=(2, 1, 64, 64), **how):
    ledger = Ledger()
    return [
        RecordingStack(scene(shape, i, **how), f"{i}", (16,) * (len(shape) - 2), ledger)
        for i in range(n)
    ]


def in_memory(n=6, shape=(2, 1, 64, 64), **how):
    axes = "SCZYX" if len(shape) == 5 else "SCYX"
    return [ArrayStack(scene(shape, i, **how), axes, f"{i}") for i in range(n)]


def pixels_of(stack):
    return stack.pixels if isinstance(stack, RecordingStack) else stack.array


def numbered(stacks):
    """Targets that tell where a patch is from: pixels are numbered through all images."""
    first, targets = 0, []
    for stack in stacks:
        shape = (stack.data_shape[0], 1, *stack.data_shape[2:])
        pixels = first + np.arange(np.prod(shape)).reshape(shape)
        first += pixels.size
        targets.append(
            RecordingStack(pixels.astype(np.float32), "number", getattr(stack, "block_shape", None))
        )
    return targets


def corners(batches):
    """Number of the first pixel of each patch."""
    found = np.concatenate([batch["target"].numpy() for batch in batches])
    return found.reshape(len(found), -1)[:, 0].astype(int)


def place(number, shape):
    """Image, sample and origin of a numbered pixel."""
    size = shape[0] * int(np.prod(shape[2:]))
    image, rest = divmod(int(number), size)
    sample, *start = np.unravel_index(rest, (shape[0], *shape[2:]))
    return image, int(sample), [int(a) for a in start]


def images_of(batches):
    return np.concatenate([batch["image"].numpy() for batch in batches])


def same(ours, theirs):
    return len(ours) == len(theirs) and all(
        a.keys() == b.keys()
        and all(np.array_equal(np.asarray(a[key]), np.asarray(b[key])) for key in a)
        for a, b in zip(ours, theirs, strict=True)
    )


def epoch_of(dataset, epoch):
    dataset.set_epoch(epoch)
    return list(dataset)


class Range(PatchFilter):
    """A criterion as others write it: it judges patches, nothing else."""

    def passes(self, patches):
        pixels = patches.reshape(len(patches), -1).astype(float)
        return pixels.max(axis=1) - pixels.min(axis=1) > 200


FILTERS = [
    MaxFilter(400),
    MeanStdFilter(std=20),
    MeanStdFilter(102, 10),
    EntropyFilter(3.85),
    Range(),
]


SIZES = [((2, 1, 64, 64), (16, 16)), ((1, 2, 12, 48, 48), (4, 16, 16))]


class TestObedience:
    @pytest.mark.parametrize("criterion", FILTERS, ids=lambda f: repr(f)[:20])
    @pytest.mark.parametrize("where", [streamed, in_memory])
    @pytest.mark.parametrize(("shape", "patch"), SIZES)
    def test_every_patch_passes_and_comes_with_its_target(self, criterion, where, shape, patch):
        if isinstance(criterion, EntropyFilter):  # what few pixels have depends on how many
            criterion = EntropyFilter({2: 3.85, 3: 4.05}[len(patch)])
        stacks = where(3, shape)
        plain = images_of(make(stacks, patch))
        assert 0.02 < np.mean([passes(criterion, p) for p in plain]) < 0.98
        dataset = make(stacks, patch, targets=numbered(stacks), patch_filter=criterion)
        for epoch in range(2):
            dataset.set_epoch(epoch)
            batches = list(dataset)
            drawn = images_of(batches)
            assert len(batches) == dataset.count() == 25
            assert len(drawn) == 200
            assert all(passes(criterion, p) for p in drawn)
            numbers = corners(batches)
            assert len(set(numbers.tolist())) > 100
            for number, found in zip(numbers, drawn, strict=True):
                image, sample, start = place(number, shape)
                box = tuple(slice(a, a + p) for a, p in zip(start, patch, strict=True))
                assert np.array_equal(found, pixels_of(stacks[image])[(sample, slice(None), *box)])

    @pytest.mark.parametrize("channel", [None, 0, 1])
    def test_the_channel_that_is_asked_for_counts(self, channel):
        images = [scene((1, 2, 64, 64), i) for i in range(2)]
        for image in images:
            image[:, 1] = image[:, 1, ::-1, ::-1]  # bright in another corner
        stacks = [ArrayStack(image, "SCYX", "a") for image in images]
        criterion = MaxFilter(400, channel=channel)
        drawn = images_of(make(stacks, patch_filter=criterion))
        assert all(passes(criterion, p) for p in drawn)
        bright = (drawn.max(axis=(2, 3)) >= 400).mean(axis=0)
        assert all(bright[[0, 1] if channel is None else [1 - channel]] < 0.9)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_single_patches_and_worker_processes_too(self, workers):
        for batch_size in (None, 8):
            dataset = make(streamed(), n=40, batch_size=batch_size, patch_filter=MaxFilter(400))
            loader = PatchLoader(dataset, num_workers=workers, start_method="fork")
            found = [b["image"].numpy() for b in loader]
            assert len(found) == len(loader) == (40 if batch_size is None else 5)
            patches = found if batch_size is None else np.concatenate(found)
            assert all(p.max() >= 400 for p in patches)
            loader.close()

    @pytest.mark.parametrize("criterion", [MaxFilter(400, keep=0.25), Range()])
    def test_a_part_of_the_rejected_is_kept(self, criterion):
        criterion.keep = 0.25
        stacks = in_memory()
        plain = images_of(make(stacks, n=2000)).max(axis=(1, 2, 3)) < 400
        kept = images_of(make(stacks, n=2000, patch_filter=criterion)).max(axis=(1, 2, 3)) < 400
        assert 0.5 < plain.mean() < 0.9
        assert kept.sum() == pytest.approx(0.25 * plain.sum(), abs=80)

    @pytest.mark.parametrize("where", [streamed, in_memory])
    @pytest.mark.parametrize("criterion", [MaxFilter(400), MeanStdFilter(std=20), Range()])
    def test_all_that_pass_in_a_block_are_equally_likely(self, where, criterion):
        stacks = where(1, (1, 1, 40, 48))
        everything = {"window_bytes": 2**20, "pool_bytes": 2**20, "batch_size": 64}
        dataset = make(
            stacks, (8, 8), 40_000, targets=numbered(stacks), patch_filter=criterion, **everything
        )
        windows = np.lib.stride_tricks.sliding_window_view(pixels_of(stacks[0])[0, 0], (8, 8))
        expected = np.array([[passes(criterion, p[None]) for p in row] for row in windows])
        times = np.zeros((40, 48), int)
        np.add.at(times.reshape(-1), corners(dataset), 1)
        times = times[:33, :41]
        assert np.array_equal(times > 0, expected)
        # Chi-square, which has as many degrees of freedom as there are origins, but one.
        mean, n = times[expected].mean(), expected.sum()
        chi_square = ((times[expected] - mean) ** 2 / mean).sum()
        assert abs(chi_square - n) < 5 * np.sqrt(2 * n)

    def test_images_in_memory_give_as_much_as_passes_in_them(self):
        stacks = in_memory(3, (1, 1, 64, 64), share=0.2)
        stacks[1].array[:] = BACKGROUND
        stacks[2].array[:] = BRIGHT
        targets = [ArrayStack(target.pixels, "SCYX", "number") for target in numbered(stacks)]
        dataset = make(stacks, (8, 8), 3000, targets=targets, patch_filter=MaxFilter(400))
        times = np.bincount(corners(dataset) // 64**2, minlength=3)
        windows = np.lib.stride_tricks.sliding_window_view(pixels_of(stacks[0])[0, 0], (8, 8))
        pass_in_first = (windows.max(axis=(2, 3)) >= 400).sum()
        assert times[1] == 0
        expected = 3000 * pass_in_first / (pass_in_first + 57**2)
        assert times[0] == pytest.approx(expected, abs=5 * np.sqrt(expected))

    def test_images_smaller_than_patches_are_filtered_as_padded(self):
        image = scene((3, 50, 5), 0)
        data = ArrayDataModule(
            train_data=image,
            axes="SYX",
            patch_size=(8, 8),
            n_val_patches=0,
            small_images="pad",
            patches_per_epoch=50,
            patch_filter=MaxFilter(400),
        )
        assert (images_of(data.train_dataloader()).max(axis=(1, 2, 3)) >= 400).all()

    @pytest.mark.parametrize("criterion", [MaxFilter(400), MeanStdFilter(std=20)])
    def test_pieces_of_large_images_fit_together(self, criterion):
        image = np.full((1, 1, 700, 2500), BACKGROUND, np.uint16)
        image[:, :, ::97, ::89] = 1500
        stacks = [ArrayStack(image, "SCYX", "a")]
        options = {"targets": numbered(stacks), "batch_size": 500}
        drawn = corners(make(stacks, (8, 8), 20_000, patch_filter=criterion, **options))
        y, x = np.unravel_index(drawn, image.shape[2:])
        assert (((y - 1) // 97 != (y + 7) // 97) & ((x - 1) // 89 != (x + 7) // 89)).all()
        near = [
            sum(any((a + i) % step == 0 for i in range(8)) for a in range(n - 7))
            for n, step in ((700, 97), (2500, 89))
        ]
        assert len(set(drawn.tolist())) > 0.7 * near[0] * near[1]


class TestLimits:
    def test_masks_gaps_and_validation_patches_are_respected(self):
        image = scene((2, 96, 96), 0, share=0.6)
        number = np.arange(image.size, dtype=np.float32).reshape(image.shape)
        mask = np.zeros(image.shape, np.uint8)
        mask[0, 5:60, 10:80] = 1
        for options in ({"train_mask": mask}, {}):
            data = ArrayDataModule(
                train_data=image,
                train_target=number,
                axes="SYX",
                patch_size=(16, 16),
                patches_per_epoch=300,
                n_val_patches=3,
                augmentation=False,
                patch_filter=MaxFilter(400),
                **options,
            )
            data.setup("fit")
            validated = torch.cat([b["target"] for b in data.val_dataloader()]).unique()
            loader = data.train_dataloader()
            batches = list(loader)
            assert len(batches) == len(loader) and data.n_train_patches == 300
            drawn = torch.cat([b["target"] for b in batches])
            assert len(drawn) == 300
            assert not torch.isin(drawn, validated).any()
            assert (images_of(batches).max(axis=(1, 2, 3)) >= 400).all()
            if options:
                centres = drawn[:, 0, 8, 8].long().numpy()
                assert mask.reshape(-1)[centres].all()
            data.teardown("fit")

    def test_validation_is_not_filtered(self):
        image = scene((2, 96, 96), 0)
        options = {
            "train_data": image,
            "val_data": image.copy(),
            "axes": "SYX",
            "patch_size": (16, 16),
        }
        plain, filtered = (
            ArrayDataModule(**options, patch_filter=f) for f in (None, MaxFilter(400))
        )
        assert same(list(plain.val_dataloader()), list(filtered.val_dataloader()))

    @pytest.mark.parametrize("where", [streamed, in_memory])
    @pytest.mark.parametrize("criterion", [MaxFilter(400), MeanStdFilter(std=20), Range()])
    @pytest.mark.parametrize("side", ["image", "target"])
    def test_nan_is_never_drawn_under_skip(self, where, criterion, side):
        stacks = where(dtype=np.float32)
        targets = numbered(stacks)
        for stack in stacks if side == "image" else targets:
            pixels_of(stack)[:, :, 5:9, 5:9] = np.nan
        options = {"targets": targets, "patch_filter": criterion}
        for policy in ("skip", "zero"):
            dataset = make(stacks, nan_policy=policy, **options)
            batches = [batch for epoch in range(3) for batch in epoch_of(dataset, epoch)]
            drawn = images_of(batches)
            assert all(passes(criterion, p) for p in drawn)
            values = np.stack([drawn, np.concatenate([b["target"].numpy() for b in batches])])
            assert np.isfinite(values).all()
            has_zero = (values == 0)[:, :, :, :4, :4].any()  # but for number 0, at the corner
            assert has_zero if policy == "zero" else not has_zero or side == "target"
        with pytest.raises(DataError, match=r"nan at sample .*nan_policy"):
            dataset = make(stacks, nan_policy="error", **options)
            for epoch in range(6):  # not every epoch has windows that hold such patches
                epoch_of(dataset, epoch)

    def test_skip_leaves_out_just_the_patches_that_have_nan(self):
        image, target = scene((1, 1, 30, 30), 0, np.float32), scene((1, 1, 30, 30), 1, np.float32)
        image[..., 5, 5], image[..., 20, 20], target[..., 12, 20] = BRIGHT, np.nan, np.inf
        number = numbered([RecordingStack(image)])[0].pixels
        pair = np.concatenate([number, target], axis=1)
        stacks, targets = [ArrayStack(image, "SCYX", "a")], [ArrayStack(pair, "SCYX", "b")]
        options = {"targets": targets, "nan_policy": "skip", "patch_filter": MaxFilter(0)}
        drawn = np.unravel_index(
            np.unique(corners(make(stacks, (8, 8), 20_000, **options))), (30, 30)
        )
        expected = np.ones((23, 23), bool)
        expected[13:21, 13:21] = expected[5:13, 13:21] = False
        assert np.array_equal(np.stack(drawn), np.stack(np.nonzero(expected)))

    def test_where_a_plan_may_draw_is_what_it_draws(self):
        extents = (Extent(3, (40, 50), (40, 50), 2, True),)
        mask = np.random.default_rng(0).random((40, 50)) < 0.8
        boxes = [((0, 0), (30, 33)), ((20, 10), (40, 50))]
        masks = {(0, 0): OriginMask(mask, (8, 8)), (0, 1): ValidOrigins(boxes, (40, 50), (8, 8))}
        for given in masks.values():
            given.exclude([((9, 9), (12, 15))])
        plan = RandomPatches(extents, (8, 8), 60_000, 0, 2**20, masks)
        drawn = plan.epoch(0).places(np.arange(60_000))
        times = np.zeros((3, 33, 43), int)
        np.add.at(times, (drawn.sample, *drawn.start.T), 1)
        for sample in range(3):
            allowed = plan.allows(0, sample, (0, 0), (33, 43))
            assert np.array_equal(allowed, times[sample] > 0)
            assert np.array_equal(plan.allows(0, sample, (5, 7), (30, 9)), allowed[5:30, 7:9])

    def test_nothing_is_read_twice_for_it(self):
        stacks = streamed(8, (1, 1, 64, 64), share=0.5)
        filtered = make(stacks, (8, 8), 400, window_bytes=2048, patch_filter=MaxFilter(400))
        list(filtered)
        windows = np.unique(filtered.plan.epoch(0).windows(np.arange(400)))
        assert len(windows) <= sum(len(s.reads) for s in stacks) < len(windows) + 8
        assert stacks[0].ledger.most_live <= filtered.pool_bytes


class TestOrder:
    @pytest.mark.parametrize("kept", [True, False])
    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize(
        "criterion", [MaxFilter(400, keep=0.1), MeanStdFilter(std=20), Range()]
    )
    def test_a_resumed_epoch_goes_on_with_the_very_next_batch(self, workers, kept, criterion):
        def loader():
            stacks = streamed()
            pool = 2**20 if kept else 30_000
            dataset = make(
                stacks, n=96, targets=numbered(stacks), pool_bytes=pool, patch_filter=criterion
            )
            return PatchLoader(dataset, num_workers=workers, start_method="fork")

        whole = loader()
        expected = [batch for _ in range(2) for batch in whole]
        whole.close()
        for epoch, stop in [(0, 3), (1, 7)]:
            first = loader()
            for _ in range(epoch):
                list(first)
            batches = iter(first)
            for _ in range(stop):
                next(batches)
            state = pickle.loads(pickle.dumps(first.state_dict()))
            batches.close()
            first.close()
            resumed = loader()
            resumed.load_state_dict(state)
            assert same(list(resumed), expected[epoch * 12 + stop : (epoch + 1) * 12])
            resumed.close()

    @pytest.mark.parametrize("criterion", [MaxFilter(400), Range()])
    def test_so_it_does_where_most_windows_have_nothing(self, criterion):
        def dataset():
            stacks = streamed(12, (1, 1, 64, 64), share=0.5)
            for i in (0, 1, 2, 4, 5, 7, 8, 9, 10):
                stacks[i].pixels[:] = 0
            size = 64 * 64 * 2
            options = {"window_bytes": size, "pool_bytes": 2 * size, "patch_filter": criterion}
            return make(stacks, (8, 8), n=240, **options)

        whole = list(dataset())
        assert len(whole) == 30
        for stop in range(0, 30, 3):
            resumed = dataset()
            resumed.set_epoch(0, 8 * stop)
            assert same(list(resumed), whole[stop:])

    def test_a_seed_repeats_the_patches_and_another_gives_others(self):
        runs = [list(make(streamed(), seed=s, patch_filter=MaxFilter(400))) for s in (0, 0, 1)]
        assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


class TestNothingPasses:
    @pytest.mark.parametrize("where", [streamed, in_memory])
    def test_a_criterion_without_measurements_says_so_too(self, where):
        class Never(PatchFilter):
            def passes(self, patches):
                return np.zeros(len(patches), bool)

        with pytest.raises(DataError, match=r"none of \d+ patches, .*, passes\. Ask for less"):
            next(iter(make(where(), patch_filter=Never())))

    def test_of_a_huge_set_a_part_is_searched_before_the_error(self, monkeypatch):
        size = 64 * 64 * 2
        stacks = streamed(40, (1, 1, 64, 64))
        for stack in stacks:
            stack.pixels[:] = BACKGROUND
        options = {"window_bytes": size, "pool_bytes": 2 * size, "patch_filter": MaxFilter(400)}
        with monkeypatch.context() as patched:
            patched.setattr(filtered_patches, "SEARCHED", 10)
            with pytest.raises(DataError, match=r"patch_filter: none of 100 patches"):
                next(iter(make(stacks, n=2000, **options)))
        wide = [read for s in stacks for read in s.reads if read[2][0] - read[1][0] > 16]
        assert 10 <= len(wide) <= 13
        stacks[35].pixels[:] = BRIGHT
        drawn = images_of(make(stacks, n=2000, **options))
        assert len(drawn) == 2000 and (drawn >= 400).all()

    def test_a_criterion_that_answers_otherwise_is_an_error(self):
        class Mean(PatchFilter):
            def passes(self, patches):
                return patches.mean(axis=(2, 3))

        expected = r"Mean\.passes gave float64 of shape \(\d+, 1\) .* must return a bool for each"
        with pytest.raises(DataError, match=expected):
            next(iter(make(in_memory(), patch_filter=Mean())))

    def test_a_channel_that_is_not_selected_is_refused(self):
        with pytest.raises(DataError, match=r"channel=1, but 1 channel\(s\) are selected"):
            next(iter(make(in_memory(), patch_filter=MaxFilter(5, channel=1))))

    def test_the_message_shows_what_was_measured_and_comes_with_the_first_batch(self):
        stacks = [ArrayStack(np.full((1, 1, 64, 64), 7, np.uint16), "SCYX", "a")]
        expected = (
            r"patch_filter: none of \d+ patches, .* passes\. max: at least 8 is asked for; "
            r"measured were 7 to 7, quartiles 7, 7 and 7, and 0% of the patches reach it\. Ask"
        )
        with pytest.raises(DataError, match=expected):
            next(iter(make(stacks, patch_filter=MaxFilter(8))))

    def test_each_of_two_thresholds_is_shown(self):
        stacks = in_memory()
        expected = r"mean of channel 0: at least 90 .* 100% .*; std of channel 0: .* 0% of"
        with pytest.raises(DataError, match=expected):
            list(make(stacks, patch_filter=MeanStdFilter(90, 1000, channel=0)))

    def test_a_window_without_any_is_filled_from_elsewhere(self):
        stacks = streamed(6, (1, 1, 64, 64), share=0.5)
        for stack in stacks[:5]:
            stack.pixels[:] = 0
        options = {"n": 300, "window_bytes": 64 * 64 * 2, "pool_bytes": 2 * 64 * 64 * 2}
        for criterion in (MaxFilter(400), Range()):
            dataset = make(stacks, patch_filter=criterion, **options)
            drawn = images_of(dataset)
            assert len(drawn) == 300 and (drawn.max(axis=(1, 2, 3)) >= 400).all()
            assert stacks[0].ledger.most_live <= dataset.pool_bytes

    def test_few_that_pass_are_found_though_no_window_has_any(self):
        image = np.zeros((1, 1, 96, 96), np.uint16)
        image[0, 0, 40, 45] = 500  # in 64 patches of 7921
        number = numbered([RecordingStack(image, block=(16, 16))])
        dataset = make(
            [RecordingStack(image, "a", (16, 16), Ledger())],
            (8, 8),
            targets=number,
            window_bytes=3000,
            pool_bytes=9000,
            patch_filter=MaxFilter(1),
        )
        for epoch in range(8):
            dataset.set_epoch(epoch)
            assert (images_of(dataset).max(axis=(1, 2, 3)) == 500).all()

    @pytest.mark.parametrize("criterion", [MaxFilter(400), Range()])
    def test_one_image_in_a_hundred_is_enough(self, criterion):
        stacks = streamed(300, (1, 1, 32, 32))
        for i, stack in enumerate(stacks):
            stack.pixels[:] = BACKGROUND
            stack.pixels[..., ::4] = BRIGHT if i % 100 == 50 else BACKGROUND
        size = 32 * 32 * 2
        options = {"n": 1200, "window_bytes": size, "pool_bytes": 40 * size, "batch_size": 64}
        for seed in range(3):
            drawn = images_of(make(stacks, patch_filter=criterion, seed=seed, **options))
            assert len(drawn) == 1200 and all(passes(criterion, p) for p in drawn)

    def test_of_background_alone_nothing_is_kept(self):
        stacks = streamed(6, (1, 1, 64, 64), share=0.5)
        for stack in stacks[1:]:
            stack.pixels[:] = BACKGROUND
        size = 64 * 64 * 2
        options = {"window_bytes": size, "pool_bytes": 2 * size, "targets": numbered(stacks)}
        dataset = make(stacks, (8, 8), 400, patch_filter=MaxFilter(400, keep=0.5), **options)
        batches = list(dataset)
        assert (corners(batches) < 64 * 64).all()
        assert 0.1 < (images_of(batches).max(axis=(1, 2, 3)) < 400).mean() < 0.5

    @pytest.mark.parametrize("n", [1, 3])
    def test_few_patches_of_an_epoch_are_no_reason_to_give_up(self, n):
        stacks = streamed(3, (1, 1, 64, 64), share=0.08)
        for seed in range(10):
            drawn = images_of(make(stacks, n=n, seed=seed, patch_filter=MaxFilter(400)))
            assert len(drawn) == n and (drawn.max(axis=(1, 2, 3)) >= 400).all()

    def test_where_images_pass_but_no_target_may_be_used(self):
        stacks = streamed(2, (1, 1, 64, 64))
        targets = numbered(stacks)
        for target, stack in zip(targets, stacks, strict=True):
            target.pixels[stack.pixels > 300] = np.nan
        options = {"targets": targets, "nan_policy": "skip", "patch_filter": MaxFilter(400)}
        with pytest.raises(DataError, match=r"patch_filter: none of \d+ patches"):
            list(make(stacks, **options))
        targets[1].pixels[:] = 7
        for n in (16, 64):
            batches = list(make(stacks, n=n, **options))
            assert (images_of(batches).max(axis=(1, 2, 3)) >= 400).all()
            assert all((batch["target"] == 7).all() for batch in batches)


@pytest.mark.parametrize("where", [streamed, in_memory])
def test_more_workers_or_ranks_than_patches(where):
    dataset = make(where(), n=8, patch_filter=MaxFilter(400))
    loader = PatchLoader(dataset, num_workers=2, start_method="fork")
    assert [len(batch["image"]) for batch in loader] == [8]
    loader.close()
    ranks = [make(where(), n=3, share=Share(r, 4), patch_filter=MaxFilter(400)) for r in (0, 3)]
    assert [list(rank) for rank in ranks] == [[], []]


def test_a_grid_cannot_be_filtered():
    with pytest.raises(DataError, match="patch_filter goes with sampling=random"):
        ArrayDataModule(sampling="grid", patch_filter=MaxFilter(5))


def test_a_filter_is_an_object():
    with pytest.raises(DataError, match="patch_filter='max': give an object"):
        ArrayDataModule(patch_filter="max")


def test_what_is_in_memory_is_marked_once():
    class Counting(MaxFilter):
        times = 0

        def passing_origins(self, pixels, size):
            self.times += 1
            return super().passing_origins(pixels, size)

    criterion = Counting(400)
    dataset = make(in_memory(), patch_filter=criterion, pool_bytes=2**20)
    for epoch in range(3):
        dataset.set_epoch(epoch)
        list(dataset)
    assert criterion.times == 12  # samples


def test_marks_of_more_pixels_than_the_pool_holds_are_not_kept():
    image = scene((1, 1, 512, 512), 0)
    dataset = make([ArrayStack(image, "SCYX", "a")], pool_bytes=2**15, patch_filter=MaxFilter(400))
    for epoch in range(2):
        dataset.set_epoch(epoch)
        assert (images_of(dataset).max(axis=(1, 2, 3)) >= 400).all()
    assert not dataset._marks
    assert not any(extent.in_memory for extent in dataset.extents)
