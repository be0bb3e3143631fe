"""Targets inside the images: other channels, or every second frame."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from stacks import RecordingStack

from careamics_dm.errors import DataError
from careamics_dm.formats.array import ArrayDataModule
from careamics_dm.formats.zarr.datamodule import ZarrDataModule
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.axes import Layout
from careamics_dm.images.frame_pairs import AlternateFrames, AlternatePlanes, read_pair
from careamics_dm.images.region import Region

OPTIONS = {"patch_size": (8, 8), "normalization": "none", "n_val_patches": 0, "batch_size": 4}


def numbers(*shape):
    return np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)


def frames_of(array, axes, axis, first):
    """What NumPy alone gives: every other frame, then ``S C (Z) Y X``."""
    at = axes.index(axis)
    n = array.shape[at] // 2 * 2
    half = array[(slice(None),) * at + (slice(first, n, 2),)]
    return Layout(axes, half.shape).to_canonical(half)


def layouts():
    """Axes in any order with frames along ``T`` or ``S``, and sizes."""
    letters = st.lists(st.sampled_from("STCZ"), unique=True).filter(lambda a: {"S", "T"} & {*a})
    orders = letters.flatmap(lambda some: st.permutations([*some, "Y", "X"]))
    return orders.map("".join).flatmap(
        lambda axes: st.tuples(
            st.just(axes), st.tuples(*(st.integers(2, 5) for _ in axes)), st.sampled_from("ST")
        ).filter(lambda drawn: drawn[2] in drawn[0])
    )


def places_of(loader, epoch=0):
    """Where all patches of an epoch lie."""
    plan = loader.patches.plan
    return plan.epoch(epoch).places(np.arange(len(plan)))


@given(layouts())
def test_every_other_frame_is_what_numpy_takes(drawn):
    axes, shape, axis = drawn
    array = numbers(*shape)
    for first in (0, 1):
        expected = frames_of(array, axes, axis, first)
        stack = AlternateFrames(ArrayStack(array, axes, "a"), axis, first)
        assert stack.data_shape == expected.shape
        n, size = stack.data_shape[0], expected.shape[2:]
        for s in range(n):
            patch = stack.extract_patch(s, None, [0] * len(size), size)
            assert np.array_equal(patch, expected[s])
        block = stack.extract_samples(0, n, None, [0] * len(size), size)
        assert np.array_equal(block, expected)


@given(layouts(), st.data())
def test_pairs_are_read_as_their_halves_are(drawn, data):
    axes, shape, axis = drawn
    block = tuple(data.draw(st.integers(1, n)) for n in shape)
    whole = ArrayStack(numbers(*shape), axes, "a", block_shape=block)
    image, target = (AlternateFrames(whole, axis, first) for first in (0, 1))
    n = data.draw(st.integers(1, image.data_shape[0]))
    first = data.draw(st.integers(0, image.data_shape[0] - n))
    some = st.lists(st.integers(0, image.data_shape[1] - 1), min_size=1, unique=True)
    channels, target_channels = data.draw(st.none() | some), data.draw(st.none() | some)
    size = tuple(image.data_shape[2:])
    region = Region(0, first, (0,) * len(size), size, n)
    found = read_pair(image, target, region, channels, target_channels)
    for pixels, which, chosen in zip(found, (0, 1), (channels, target_channels), strict=True):
        expected = frames_of(numbers(*shape), axes, axis, which)[first : first + n]
        assert np.array_equal(pixels, expected if chosen is None else expected[:, chosen])


def test_frames_of_a_slow_axis_are_not_taken_for_neighbours():
    """Samples 0 to 4 and 10 of the file span what 0, 2, ... 10 would."""
    whole = ArrayStack(numbers(4, 5, 2, 2), "STYX", "a", block_shape=(1, 2, 2, 2))
    stack = AlternateFrames(whole, "S", 0)
    assert stack.samples(0, 6) == [0, 1, 2, 3, 4, 10]
    block = stack.extract_samples(0, 6, None, (0, 0), (2, 2))
    assert np.array_equal(block, frames_of(numbers(4, 5, 2, 2), "STYX", "S", 0)[:6])


def test_channels_of_one_image_that_lie_together_are_read_once():
    stack = RecordingStack(numbers(1, 3, 16, 16))
    image, target = read_pair(stack, stack, Region(0, 0, (0, 0), (8, 8)), [1], [0])
    assert len(stack.reads) == 1
    assert np.array_equal(image[0, 0], stack.pixels[0, 1, :8, :8])
    assert np.array_equal(target[0, 0], stack.pixels[0, 0, :8, :8])


def test_channels_that_lie_apart_are_read_alone():
    stack = RecordingStack(numbers(1, 3, 16, 16))
    image, target = read_pair(stack, stack, Region(0, 0, (0, 0), (8, 8)), [0], [2])
    assert len(stack.reads) == 2
    assert (target - image == 2 * 16 * 16).all()


def test_a_chunk_of_many_frames_is_decoded_once_for_both(tmp_path):
    stored = zarr.create_array(
        tmp_path / "a.zarr", shape=(8, 32, 32), chunks=(4, 32, 32), dtype="uint16"
    )
    stored[...] = numbers(8, 32, 32)
    data = ZarrDataModule(
        train_data=tmp_path / "a.zarr", axes="TYX", repeats="T", in_memory=False, **OPTIONS
    )
    data.setup("fit")
    images = data.images_of("train")
    whole = images.stacks[0].stack
    spans = []
    extract = whole.extract_samples

    def record(sample, n, *rest):
        spans.append((sample, n))
        return extract(sample, n, *rest)

    whole.extract_samples = record
    region = Region(0, 0, (0, 0), (32, 32), 2)
    image, target = read_pair(images.stacks[0], images.targets[0], region, None, None)
    assert spans == [(0, 4)]
    assert np.array_equal(image[:, 0], numbers(8, 32, 32)[0:4:2])
    assert np.array_equal(target[:, 0], numbers(8, 32, 32)[1:4:2])
    data.teardown("fit")


def test_pixels_are_in_memory_once():
    image = numbers(4, 2, 16, 16)
    for options in ({"repeats": "T"}, {"channels": [0], "target_channels": [1]}):
        data = ArrayDataModule(train_data=image, axes="TCYX", **OPTIONS, **options)
        data.setup("fit")
        (batch,) = list(data.train_dataloader())[:1]
        assert batch["target"].shape == batch["image"].shape
        images = data.images_of("train")
        for stack in (*images.stacks, *images.targets):
            patch = stack.extract_patch(0, [0], (0, 0), (8, 8))
            assert np.shares_memory(patch, image)
        data.teardown("fit")


def test_the_last_of_an_odd_number_of_frames_is_told():
    data = ArrayDataModule(train_data=numbers(5, 16, 16), axes="TYX", repeats="T", **OPTIONS)
    with pytest.warns(UserWarning, match=r"repeats: 1 image\(s\) have an odd number of frames"):
        data.setup("fit")
    assert data.images_of("train").stacks[0].data_shape == (2, 1, 16, 16)


def test_frames_take_the_mask_of_their_input():
    mask = np.zeros((4, 16, 16), np.uint8)
    mask[2, 8:, 8:] = 1  # of the second pair alone
    data = ArrayDataModule(
        train_data=numbers(4, 16, 16), train_mask=mask, axes="TYX", repeats="T", **OPTIONS
    )
    data.setup("fit")
    plan = places_of(data.train_dataloader())
    assert set(plan.sample.tolist()) == {1}
    assert (plan.start + 4 >= 8).all()


def test_prediction_takes_every_frame():
    image = numbers(4, 16, 16)
    data = ArrayDataModule(train_data=image, predict_data=image, axes="TYX", repeats="T", **OPTIONS)
    data.setup("fit")
    data.setup("predict")
    assert [stack.data_shape for stack in data.predict_stacks] == [(4, 1, 16, 16)]
    assert all("target" not in batch for batch in data.predict_dataloader())


def test_a_pair_travels_in_a_pickle():
    stack = AlternateFrames(ArrayStack(numbers(4, 16, 16), "TYX", "a"), "T", 1)
    copy = pickle.loads(pickle.dumps(stack))
    patch = copy.extract_patch(1, None, (0, 0), (16, 16))
    assert np.array_equal(patch[0], numbers(4, 16, 16)[3])


def test_gaps_are_those_of_the_frame():
    class Gappy(RecordingStack):
        def valid_region(self, sample, channels):
            return None if sample == 3 else [((0, 0), (8, 8 + sample))]

    stack = Gappy(numbers(4, 1, 16, 16))
    asked = [AlternateFrames(stack, "S", first).valid_region(1, None) for first in (0, 1)]
    assert asked == [[((0, 0), (8, 10))], None]


def test_repeats_and_targets_contradict_each_other():
    image = numbers(4, 16, 16)
    with pytest.raises(DataError, match="repeats=T makes targets of every second frame"):
        ArrayDataModule(train_data=image, train_target=image, axes="TYX", repeats="T")


def test_target_channels_select_of_given_targets_and_of_nothing_else():
    image = numbers(2, 2, 16, 16)
    data = ArrayDataModule(
        train_data=image,
        train_target=image,
        val_data=image + 1,
        axes="SCYX",
        channels=[0],
        target_channels=[1],
        **OPTIONS | {"n_val_patches": None},
    )
    data.setup("fit")
    assert data.has_target("train")
    assert not data.has_target("val")


@pytest.mark.parametrize("normalize_target", [True, False])
def test_targets_have_statistics_of_their_own_or_are_left_alone(normalize_target):
    image = numbers(1, 16, 16)
    data = ArrayDataModule(
        train_data=image,
        train_target=image * 3 + 50,
        axes="SYX",
        normalize_target=normalize_target,
        **OPTIONS | {"normalization": "mean_std"},
    )
    for batch in data.train_dataloader():
        done = data.transform(batch)
        if normalize_target:
            assert np.allclose(done["target"], done["image"], atol=1e-5)
        else:
            raw = data.denormalize(done["image"], "image")
            assert np.allclose(done["target"], raw * 3 + 50, rtol=1e-5)
            assert np.array_equal(data.denormalize(done["target"]), done["target"])


def test_a_manifest_and_repeats_contradict_each_other(tmp_path):
    np.save(tmp_path / "a.npy", numbers(4, 16, 16))
    (tmp_path / "m.csv").write_text("input,target\na.npy,a.npy\n")
    data = ArrayDataModule(train_data=tmp_path / "m.csv", axes="TYX", repeats="T", **OPTIONS)
    with pytest.raises(DataError, match="the manifest names targets, but repeats=T"):
        data.setup("fit")


def test_target_channels_select_of_the_targets_of_a_manifest_and_of_nothing_else(tmp_path):
    np.save(tmp_path / "a.npy", numbers(2, 2, 16, 16))
    (tmp_path / "m.csv").write_text("input,target\na.npy,a.npy\n")
    data = ArrayDataModule(
        train_data=tmp_path / "m.csv",
        test_data=tmp_path / "a.npy",
        axes="SCYX",
        channels=[0],
        target_channels=[1],
        **OPTIONS,
    )
    data.setup("fit")
    data.setup("test")
    assert data.has_target("train")
    assert not data.has_target("test")


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_places_that_validate_are_trained_on_in_no_frame_of_the_scene(sampling):
    data = ArrayDataModule(
        train_data=numbers(3, 8, 32, 40),
        axes="STYX",
        repeats="T",
        sampling=sampling,
        **OPTIONS | {"n_val_patches": 3},
    )
    data.setup("fit")
    held = places_of(data.val_dataloader())
    assert len(held.start) == 3
    loader = data.train_dataloader()
    for epoch in range(5):
        plan = places_of(loader, epoch)
        for start in held.start:
            assert not (np.abs(plan.start - start) < 8).all(axis=1).any()
    held_out = [row for row in data.split_table() if row["split"] == "val"]
    assert len(held_out) == 3
    other = ArrayDataModule(
        train_data=numbers(3, 8, 32, 40),
        axes="STYX",
        repeats="T",
        **OPTIONS | {"seed": 1, "n_val_patches": None},
    )
    other.load_state_dict(data.state_dict())
    other.setup("fit")
    plan = places_of(other.train_dataloader())
    for start in held.start:
        assert not (np.abs(plan.start - start) < 8).all(axis=1).any()


def test_few_places_of_a_scene_that_is_repeated_validate():
    data = ArrayDataModule(
        train_data=numbers(40, 16, 16), axes="TYX", repeats="T", **OPTIONS | {"n_val_patches": None}
    )
    data.setup("fit")
    assert len(data.val_dataloader().patches.plan) == 1  # of four, a quarter
    assert data.n_train_patches > 0


class TestFramesAsDepth:
    """Movies with time as depth, called Z: odd and even frames as volumes."""

    @staticmethod
    def movie(n=9):
        """A pixel says its frame and place."""
        return numbers(n, 12, 10)

    @pytest.mark.parametrize("first", [0, 1])
    @pytest.mark.parametrize("block", [None, (3, 5, 10), (4, 12, 10)])
    def test_a_patch_has_every_second_frame(self, first, block):
        array = numbers(2, 9, 2, 6, 7)  # S Z C Y X
        shape = block and (1, block[0], 1, *block[1:])
        stack = AlternatePlanes(ArrayStack(array, "SZCYX", "a", block_shape=shape), first)
        half = array[:, first:8:2].transpose(0, 2, 1, 3, 4)
        assert stack.data_shape == half.shape and stack.n_frames == 9
        assert np.array_equal(
            stack.extract_patch(1, [1], (1, 2, 3), (3, 4, 4)), half[1, [1], 1:4, 2:6, 3:7]
        )
        both = stack.extract_samples(0, 2, None, (0, 0, 0), (4, 6, 7))
        assert np.array_equal(both, half)
        assert pickle.loads(pickle.dumps(stack)).data_shape == half.shape

    def test_a_pair_is_read_once_and_padded_alike(self):
        stack = RecordingStack(numbers(1, 1, 8, 6, 6))
        image, target = (AlternatePlanes(stack, first) for first in (0, 1))
        found = read_pair(image, target, Region(0, 0, (1, 0, 0), (3, 6, 6)), None, None)
        assert len(stack.reads) == 1
        for first, half in enumerate(found):
            assert np.array_equal(half[0], stack.pixels[0, :, 2 + first : 6 : 2])
        beyond = read_pair(image, target, Region(0, 0, (0, 0, 0), (5, 6, 6)), None, None)
        for first, half in enumerate(beyond):
            expected = stack.pixels[0, 0, first::2]
            assert np.array_equal(half[0, 0], expected[[0, 1, 2, 3, 2]])

    def test_acquired_boxes_are_those_of_the_frames_seen(self):
        stack = RecordingStack(numbers(1, 1, 8, 6, 6))
        stack.valid_region = lambda *_: [((1, 0, 2), (6, 6, 6)), ((2, 0, 0), (7, 6, 2))]
        even, odd = (AlternatePlanes(stack, first).valid_region(0) for first in (0, 1))
        assert even == [((1, 0, 2), (3, 6, 6)), ((1, 0, 0), (4, 6, 2))]  # 2 4; 2 4 6
        assert odd == [((0, 0, 2), (3, 6, 6)), ((1, 0, 0), (3, 6, 2))]  # 1 3 5; 3 5

    @pytest.mark.parametrize("in_memory", [True, False])
    @pytest.mark.parametrize("chunks", [(1, 12, 10), (4, 6, 10), (3, 12, 10)])
    def test_batches_pair_each_frame_with_the_next(self, tmp_path, in_memory, chunks):
        stored = zarr.create_array(
            tmp_path / "a.zarr", shape=(9, 12, 10), chunks=chunks, dtype="uint16"
        )
        stored[...] = self.movie()
        with pytest.warns(UserWarning, match="odd number of frames"):
            data = self.make(ZarrDataModule, tmp_path / "a.zarr", in_memory=in_memory)
            data.setup("fit")
        frames = set()
        for batch in data.batches("train"):
            assert batch["image"].shape[1:] == (1, 3, 8, 8)
            assert (batch["target"] - batch["image"] == 120).all()
            first = batch["image"][:, 0, :, 0, 0] // 120
            assert (first.diff(dim=1) == 2).all() and (first % 2 == 0).all()
            frames |= set(first.flatten().int().tolist())
        assert frames == {0, 2, 4, 6}
        data.teardown("fit")

    @staticmethod
    def make(kind, source, **more):
        options = {**OPTIONS, "patch_size": (3, 8, 8), "augmentation": False}
        options |= {"patches_per_epoch": 32, "repeats": "Z", "axes": "ZYX"}
        return kind(train_data=source, **options, **more)

    def test_prediction_takes_every_frame(self):
        data = self.make(ArrayDataModule, self.movie(8), predict_data=self.movie(7))
        data.setup("predict")
        (batch,) = list(data.predict_dataloader())
        assert np.array_equal(batch["image"][0, 0], self.movie(7))
        data.teardown("predict")

    def test_planes_as_samples_are_paired_too(self):
        more = {"patch_size": (8, 8), "repeats": "Z", "z_as_samples": True, "augmentation": False}
        data = ArrayDataModule(train_data=self.movie(8), axes="ZYX", **{**OPTIONS, **more})
        for batch in data.batches("train"):
            assert (batch["target"] - batch["image"] == 120).all()
        data.teardown("fit")

    def test_what_can_not_be_paired_is_said(self):
        with pytest.raises(DataError, match=r"size \(4, 12, 10\) is smaller than patch_size \(5,"):
            ArrayDataModule(
                train_data=self.movie(8), axes="ZYX", repeats="Z", patch_size=(5, 8, 8)
            ).setup("fit")
        data = ArrayDataModule(
            train_data=self.movie(8), axes="ZYX", repeats="T", patch_size=(2, 8, 8)
        )
        with pytest.raises(DataError, match=r"If frames are depth .*, give repeats=Z"):
            data.setup("fit")
