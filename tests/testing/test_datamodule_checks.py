"""The checks for authors of formats: what keeps the promises passes, what breaks one is told."""

from __future__ import annotations

import numpy as np
import pytest
from stacks import RecordingStack

from careamics_dm import ArrayDataModule
from careamics_dm.formats.array import ArrayDataModule as Format
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.sampling.read_windows import PatchList
from careamics_dm.testing.datamodule_checks import check_datamodule, check_image_stack

rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 1000, (2, 3, 20, 30)).astype(np.uint16)


class Padding(RecordingStack):
    """A minimal stack, that also pads."""

    def extract_patch(self, sample_idx, channels, coords, patch_size):
        size = self.data_shape[2:]
        pixels = self.pixels[sample_idx]
        pixels = pixels if channels is None else pixels[list(channels)]
        places = [
            np.clip(np.arange(a, a + n), 0, limit - 1)
            for a, n, limit in zip(coords, patch_size, size, strict=True)
        ]
        return pixels[(slice(None), *np.ix_(*places))]

    in_memory = True


class ClosedForGood(Padding):
    """Has no pixels left once it is closed."""

    def close(self):
        self.pixels = self.pixels * 0


class TestStacks:
    @pytest.mark.parametrize("expected", [None, PIXELS], ids=["itself", "expected"])
    def test_six_members_will_do(self, expected):
        check_image_stack(Padding(PIXELS), expected)

    def test_arrays_keep_the_promises(self):
        check_image_stack(ArrayStack(PIXELS, "TCYX", "a"), PIXELS)
        volume = rng.normal(size=(5, 6, 7)).astype(">f4")
        check_image_stack(ArrayStack(volume, "XZY", "a"), volume.transpose(1, 2, 0)[None, None])

    def broken(self, message, pixels=PIXELS, expected=PIXELS, **members):
        methods = {name: value for name, value in members.items() if callable(value)}
        stack = type("Broken", (Padding,), methods)(pixels) if methods else Padding(pixels)
        vars(stack).update({n: value for n, value in members.items() if n not in methods})
        with pytest.raises(AssertionError, match=message):
            check_image_stack(stack, expected)

    @pytest.mark.parametrize(
        ("members", "message"),
        [
            ({"source": ""}, "source=''. Name the image"),
            ({"data_shape": (20, 30)}, "Give the sizes of S C"),
            ({"data_shape": (2, 3, 0, 30)}, "Give the sizes of S C"),
            ({"data_dtype": np.dtype("c8")}, "not a real number"),
            ({"data_dtype": np.dtype("f4")}, "gave uint16, but data_dtype is float32"),
            ({"original_axes": "CYX"}, "Give a letter per dimension"),
            ({"original_axes": "SCYY"}, "Give a letter per dimension"),
            ({"original_data_shape": (2, 3, 30, 20)}, "holds other pixels than data_shape"),
            ({"block_shape": (20,)}, r"block_shape=\(20,\). Give the sizes"),
            ({"block_shape": (0, 30)}, r"block_shape=\(0, 30\). Give the sizes"),
            ({"samples_per_block": 2}, "samples_per_block=2. .*extract_samples"),
            ({"extract_samples": lambda self, *_: np.zeros(1)}, "extract_samples gives other pix"),
            (
                {"valid_region": lambda *_: [((0, 0), (21, 30))]},
                r"has \(0, 0\) to \(21, 30\)",
            ),
            ({"scale": {"Y": (0.0, "µm")}}, r"Give \(size, unit\)"),
            ({"channel_names": ("one",)}, r"3 channel\(s\), but channel_names="),
            ({"scale": {"S": (1.0, "s")}}, r"for T, Z, Y and X"),
            ({"labels": ("one",)}, r"1 labels for 6 plane\(s\)"),
            ({"labels": ("one",), "is_rgb": True}, r"1 labels for 2 plane\(s\)"),
            ({"in_memory": False}, "pickles to .* bytes, but reads from a file"),
        ],
        ids=lambda value: value if isinstance(value, str) else ",".join(value),
    )
    def test_members_that_make_no_sense(self, members, message):
        pixels = np.repeat(PIXELS, 4, axis=2) if "in_memory" in members else PIXELS
        self.broken(message, pixels, pixels, **members)

    def test_a_missing_member(self):
        class Half:
            source = "a"

        with pytest.raises(AssertionError, match="Half, has no data_shape"):
            check_image_stack(Half())

    def test_other_pixels(self):
        self.broken("other pixels than expected", expected=PIXELS + 1)

    def test_another_shape(self):
        self.broken(r"data_shape \(2, 3, 20, 30\), not \(2, 3, 20, 29\)", expected=PIXELS[..., :29])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda patch, channels: patch.tolist(), "gave a list. Let it give"),
            (lambda patch, channels: patch[:, 1:], "gave shape"),
            (lambda patch, channels: patch if channels is None else patch[::-1], "other pixels"),
        ],
    )
    def test_wrong_patches(self, change, message):
        def extract_patch(self, sample_idx, channels, coords, patch_size):
            patch = Padding.extract_patch(self, sample_idx, channels, coords, patch_size)
            return change(patch, channels)

        self.broken(message, extract_patch=extract_patch)

    def test_a_patch_that_is_shifted_when_it_reaches_outside(self):
        def extract_patch(self, sample_idx, channels, coords, patch_size):
            inside = [max(a, 0) for a in coords]
            return Padding.extract_patch(self, sample_idx, channels, inside, patch_size)

        self.broken("reaches outside is wrong inside", extract_patch=extract_patch)

    def test_closing_for_good(self):
        with pytest.raises(AssertionError, match="other pixels than expected"):
            check_image_stack(ClosedForGood(PIXELS), PIXELS)

    def test_not_pickling_at_all(self):
        self.broken(r"recording: does not pickle \(", close=lambda self: None)

    def test_pickling_that_changes_it(self):
        self.broken("pickled, its source is b", __reduce__=lambda self: (Padding, (PIXELS, "b")))


def module(kind, **options):
    options = {"train_data": PIXELS[:, 0], "axes": "SYX", "patch_size": (8, 8)} | options
    return kind(**options, n_val_patches=2)


class Leaky(Format):
    """Validates on what it trains on."""

    def val_dataloader(self):
        loader = super().val_dataloader()
        places = self.train_dataloader().patches.plan.epoch(0).places(np.arange(2))
        loader.patches.plan = PatchList(np.column_stack(places[:3]), (8, 8))
        return loader


class Repeating(Format):
    """Draws the same patches in every epoch."""

    def train_dataloader(self):
        loader = super().train_dataloader()
        plan = loader.patches.plan
        same = plan.epoch(0)
        vars(plan)["epoch"] = lambda number: same
        return loader


class Forgetful(Format):
    """Loses its statistics."""

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict | {"statistics": {}})


class Misplacing(Format):
    """Gives tiles the place of others."""

    def predict_dataloader(self):
        loader = super().predict_dataloader()
        plan = loader.patches.plan
        places = plan.places

        def misplaced(numbers):
            return places(numbers)._replace(crop=places(len(plan) - 1 - numbers).crop)

        plan.places = misplaced
        return loader


class Lying(Format):
    """Has a loader of another length than it says."""

    def train_dataloader(self):
        loader = super().train_dataloader()
        loader.patches.count = lambda patch=0: 100
        return loader


class TestDataModules:
    def test_ours_keep_the_promises(self):
        check_datamodule(module(ArrayDataModule, predict_data=PIXELS[:, 1], tile_size=(16, 16)))

    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            (Leaky, "a training patch overlaps a validation patch"),
            (Repeating, "the second epoch draws the patches of the first"),
            (Forgetful, "load_state_dict loses the statistics"),
            (Misplacing, "is not at the place it claims|cover pixels"),
            (Lying, r"len\(loader\) is 100, but \d+ batches came"),
        ],
    )
    def test_a_broken_promise_is_named(self, kind, message):
        data = module(kind, predict_data=PIXELS[:, 1], tile_size=(8, 8), tile_overlap=(0, 0))
        with pytest.raises(AssertionError, match=message):
            check_datamodule(data)

    def test_without_data_there_is_nothing_to_check(self):
        with pytest.raises(AssertionError, match="no data to check"):
            check_datamodule(ArrayDataModule())
