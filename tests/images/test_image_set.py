"""The images of a role: checked against each other, described, loaded, and memory for them."""

from __future__ import annotations

import numpy as np
import pytest
from stacks import RecordingStack

from careamics_dm.errors import DataError
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.image_set import ImageSet, describe
from careamics_dm.images.raw_array import RawArray
from careamics_dm.sources.free_memory import available_bytes, left_in_group
from careamics_dm.sources.listing import Listing
from careamics_dm.sources.opening import join_faults, open_images


def array(*shape, dtype=np.uint16):
    return np.zeros(shape, dtype)


def opened(inputs, targets=None, masks=None, **options):
    """Open sources that are lists of stacks, or a fault to raise."""

    def open_source(source, axes):
        if isinstance(source, Exception):
            raise source
        return source

    options = {
        "axes": ("auto",) * 3,
        "channels": None,
        "target_channels": None,
        "patch_size": (4, 4),
        "small_images": "error",
    } | options
    listings = [None if x is None else Listing(x) for x in (inputs, targets, masks)]
    return open_images("train_data", open_source, *listings, **options)[0]


def stack(*shape, name="a", **options):
    return ArrayStack(array(*shape), "SCZYX"[-len(shape) :], name, **options)


class TestOpening:
    def test_a_source_may_hold_several_images(self):
        images = opened([[stack(8, 8, name="a"), stack(9, 9, name="b")], [stack(5, 5, name="c")]])
        assert [s.source for s in images.stacks] == ["a", "b", "c"]

    def test_a_file_that_cannot_be_read_is_a_fault_among_others(self):
        faults = [PermissionError(13, "Permission denied"), DataError("x.tif: is damaged.")]
        with pytest.raises(DataError) as caught:
            opened([*faults, [stack(8, 8)], [stack(2, 2, name="small")]])
        message = str(caught.value)
        assert message.startswith("train_data: 3 problems:")
        assert all(part in message for part in ("Permission denied", "is damaged", "small: size"))

    def test_a_source_has_as_many_targets_as_images(self):
        with pytest.raises(DataError, match=r"a: 2 image\(s\), but 1 target\(s\)"):
            opened([[stack(8, 8), stack(8, 8)]], [[stack(8, 8)]])

    def test_a_source_without_any_image_is_a_fault(self):
        with pytest.raises(DataError, match="train_data: there is no image"):
            opened([[]])

    def test_masks_have_one_channel(self):
        images = [[RecordingStack(array(1, 2, 8, 8), "a")]]
        opened(images, None, [[RecordingStack(array(1, 1, 8, 8), "mask")]])
        with pytest.raises(DataError, match="mask: a mask has the axes of its image without C"):
            opened(images, None, [[RecordingStack(array(1, 2, 8, 8), "mask")]])

    def test_a_stack_that_is_falsy_is_still_a_target(self):
        class Odd(RecordingStack):
            def __len__(self):
                return 0

        images = opened([[Odd(array(1, 1, 8, 8))]], [[Odd(array(1, 1, 8, 8))]])
        assert len(images.targets) == 1

    def test_twenty_faults_are_told_and_the_others_counted(self):
        message = join_faults("val_data", [f"fault {i}" for i in range(25)])
        assert message.count("fault") == 20
        assert message.endswith("and 5 more")

    def test_one_fault_is_one_line(self):
        assert join_faults("val_data", ["a.tif: is damaged"]) == "val_data: a.tif: is damaged"
        assert join_faults("val_data", ["val_data: the list"]) == "val_data: the list"


class TestDescription:
    def test_it_names_sizes_blocks_and_bytes(self):
        stacks = [RecordingStack(array(2, 1, 1024, 512), str(i), (64, 512)) for i in range(3)]
        line = describe("train", ImageSet(stacks, channels=[None] * 3))
        assert line.startswith("train ")
        for part in ("3 image(s) SCYX", "6 sample(s) of 1024×512", "uint16", "6.0 MiB", "64×512"):
            assert part in line

    def test_blocks_of_image_and_target_are_read_together(self):
        images = ImageSet(
            [RecordingStack(array(1, 2, 64, 64), block=(1, 64))],
            [RecordingStack(array(1, 1, 64, 64, dtype=np.float32), block=(16, 16))],
            channels=[[0]],
            target_channels=[None],
        )
        (extent,) = images.extents()
        assert extent.block == (16, 64)
        assert extent.pixel_bytes == 2 + 4
        assert not extent.in_memory

    @pytest.mark.parametrize(
        ("channels", "in_memory"), [(None, True), ([1, 2], True), ([0, 2], False), ([1, 0], False)]
    )
    def test_only_views_count_as_in_memory(self, channels, in_memory):
        (extent,) = ImageSet([stack(3, 1, 8, 8)], channels=[None]).extents()
        assert extent.in_memory
        channelled = ArrayStack(array(3, 8, 8), "CYX", "a")
        (extent,) = ImageSet([channelled], channels=[channels]).extents()
        assert extent.in_memory is in_memory


class TestLoading:
    def test_all_channels_are_counted_and_arrays_in_memory_are_not(self, tmp_path):
        np.save(tmp_path / "a.npy", array(3, 8, 8))
        mapped = RawArray(tmp_path / "a.npy", np.uint16, (3, 8, 8), 128)
        images = ImageSet(
            [ArrayStack(mapped, "CYX", "a"), ArrayStack(array(3, 8, 8), "CYX", "b")],
            channels=[[0], [0]],
        )
        assert images.bytes_to_load() == 3 * 8 * 8 * 2
        assert images.n_bytes() == 2 * 8 * 8 * 2
        images.load()
        assert images.bytes_to_load() == 0
        assert images.stacks[0].in_memory

    def test_closing_closes_every_stack_and_forgets_what_was_kept(self):
        stacks = [RecordingStack(array(1, 1, 8, 8)) for _ in range(3)]
        images = ImageSet(stacks[:1], stacks[1:2], stacks[2:], [None], [None])
        images.kept[0, 0] = (array(2),)
        images.close()
        assert [s.closed for s in stacks] == [1, 1, 1]
        assert images.kept == {}


class TestMemory:
    def test_some_is_free(self):
        assert 2**20 < available_bytes() < 2**50

    @pytest.mark.parametrize(
        ("limit", "used", "cache", "left"),
        [(1000, 300, 0, 700), (1000, 900, 500, 600), (1000, 2000, 0, 0)],
    )
    def test_a_control_group_leaves_its_limit_less_what_is_used(
        self, tmp_path, limit, used, cache, left
    ):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
        (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\nactive_file 7\n")
        assert left_in_group(tmp_path) == left

    def test_a_control_group_without_limit_leaves_all(self, tmp_path):
        assert left_in_group(tmp_path) > 2**50
        (tmp_path / "memory.max").write_text("max\n")
        (tmp_path / "memory.current").write_text("5\n")
        (tmp_path / "memory.stat").write_text("")
        assert left_in_group(tmp_path) > 2**50
