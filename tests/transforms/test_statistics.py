"""Statistics of training data: from a bounded sample or from all, without NaN, once."""

from __future__ import annotations

import sys
import tracemalloc
import warnings

import numpy as np
import pytest
from stacks import RecordingStack

from careamics_dm import ArrayDataModule, MeanStd, MinMax, Quantile
from careamics_dm.datamodule import measured_statistics as module
from careamics_dm.errors import DataError
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.image_set import ImageSet
from careamics_dm.transforms import histogram, statistics
from careamics_dm.transforms.normalization import Affine
from careamics_dm.transforms.statistics import measure, pixel_blocks

pytestmark = pytest.mark.usefixtures("files_close")

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers(monkeypatch):
    """Each test draws the same numbers, whatever ran before it."""
    monkeypatch.setattr(sys.modules[__name__], "rng", np.random.default_rng(0))


def images(*pixels, block=None):
    stacks = [RecordingStack(p, f"image {i}", block) for i, p in enumerate(pixels)]
    return ImageSet(stacks, channels=[None] * len(stacks))


def data(image, axes="YX", patch=(16, 16), **options):
    return ArrayDataModule(
        train_data=image, axes=axes, patch_size=patch, augmentation=False, **options
    )


class TestExact:
    @pytest.mark.parametrize("streamed", [True, False])
    @pytest.mark.parametrize(
        ("axes", "shape", "patch"),
        [("SYX", (3, 70, 90), (16, 16)), ("CZYX", (2, 9, 40, 50), (4, 16, 16))],
    )
    def test_they_equal_numpy_over_everything(self, tmp_path, axes, shape, patch, streamed):
        image = rng.integers(0, 4000, shape).astype(np.uint16)
        np.save(tmp_path / "a.npy", image)
        channels = image if "C" in axes else image[None]
        flat = channels.reshape(len(channels), -1).astype(np.float64)
        low, high = np.quantile(flat, [0.01, 0.99], axis=1)
        limits = np.quantile(flat, [0.002, 0.998], axis=1)
        expected = {
            "mean_std": Affine(flat.mean(1).tolist(), flat.std(1).tolist()),
            "min_max": Affine(flat.min(1).tolist(), np.ptp(flat, 1).tolist()),
            "quantile": Affine(low.tolist(), (high - low).tolist(), *limits.tolist()),
        }
        for method, affine in expected.items():
            found = data(
                tmp_path / "a.npy",
                axes,
                patch,
                normalization=method,
                exact_statistics=True,
                in_memory=not streamed,
            ).measure_statistics()
            assert found["image"].offset == pytest.approx(affine.offset)
            assert found["image"].scale == pytest.approx(affine.scale)
            assert np.allclose(found["image"].high or 0, affine.high or 0)

    def test_every_pixel_of_every_image_counts_once(self):
        pixels = [np.arange(n * n, dtype=np.float64).reshape(1, 1, n, n) for n in (3, 2000, 50)]
        some = images(*pixels, block=(32, 32))
        blocks = list(pixel_blocks(some, 0, None, 0, allow_nan=False))
        assert len(blocks) > 3
        counted = np.sort(np.concatenate([b.ravel() for b in blocks]))
        assert np.array_equal(counted, np.sort(np.concatenate([p.ravel() for p in pixels])))

    def test_many_small_samples_in_memory_are_taken_together(self):
        pixels = np.arange(30_000 * 64, dtype=np.float64).reshape(30_000, 8, 8)
        source = data(pixels, "SYX", (8, 8))
        source.setup("fit")
        blocks = list(pixel_blocks(source.images_of("train"), 0, None, 0, allow_nan=False))
        assert len(blocks) < 300
        counted = np.sort(np.concatenate([b.ravel() for b in blocks]))
        assert np.array_equal(counted, pixels.ravel())


class TestMemory:
    @pytest.mark.parametrize("method", ["mean_std", "min_max", "quantile"])
    @pytest.mark.parametrize("kind", ["in memory", "one stored block"])
    @pytest.mark.parametrize("dtype", [np.uint8, np.int32])
    def test_it_is_bounded_for_one_large_image(self, monkeypatch, kind, dtype, method):
        monkeypatch.setattr(statistics, "BLOCK", 2**18)
        monkeypatch.setattr(histogram.Histogram, "MOST", 2**16)
        image = rng.integers(0, 200, (2, 2048, 2048)).astype(dtype)
        some = images(image[None])
        if kind == "in memory":
            some = ImageSet([ArrayStack(image, "CYX", "a")], channels=[None])
        method = {"mean_std": MeanStd(), "min_max": MinMax(), "quantile": Quantile()}[method]
        tracemalloc.start()
        found = measure(some, method, None, 0, allow_nan=False)["image"]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # Beside a block that is read, some blocks as float64.
        assert peak < (0 if kind == "in memory" else image.nbytes) + 32 * 2**18
        flat = image.reshape(2, -1)
        if isinstance(method, MeanStd):
            assert found.offset == pytest.approx(flat.mean(1).tolist())
            assert found.scale == pytest.approx(flat.std(1).tolist())

    @pytest.mark.parametrize("n", [3, 11, 12, 1000, 1009])
    def test_of_very_many_blocks_each_comes_once_in_no_order(self, monkeypatch, n):
        monkeypatch.setattr(statistics, "PORTION", 2)
        some = images(np.arange(n, dtype=np.uint16).reshape(n, 1, 1, 1))
        found = [int(block[0, 0]) for block in pixel_blocks(some, 0, None, 0, allow_nan=False)]
        assert sorted(found) == list(range(n))
        assert n < 5 or found != sorted(found)

    def test_blocks_of_what_is_only_declared_are_not_listed(self):
        class Declared(RecordingStack):
            """Pixels of which no disk holds all."""

            def __init__(self):
                super().__init__(np.zeros((1, 1, 8, 8), np.uint8), block=(64, 64))
                self.data_shape = (1, 1, 2**28, 2**28)

            def extract_patch(self, sample_idx, channels, coords, patch_size):
                return np.full((1, *patch_size), 7, np.uint8)

        some = ImageSet([Declared()], channels=[None])
        blocks = pixel_blocks(some, 0, 2**24, 0, allow_nan=False)
        assert [np.unique(block).tolist() for block in blocks] == [[7]]


class TestSampled:
    def test_no_more_is_read_than_the_limit_and_a_block(self):
        pixels = rng.normal(size=(40, 1, 256, 256)).astype(np.float32)
        some = images(pixels, block=(64, 64))
        limit, sample = 10 * 256 * 256 * 4, 256 * 256 * 4
        n = sum(b.nbytes for b in pixel_blocks(some, 0, limit, 0, allow_nan=False))
        assert limit - sample <= n <= limit + sample
        assert len({s for s, _, _ in some.stacks[0].reads}) == len(some.stacks[0].reads)

    @pytest.mark.parametrize("method", [MeanStd(), MinMax(), Quantile()])
    def test_they_come_close_to_the_exact_ones(self, monkeypatch, method):
        monkeypatch.setattr(module, "STATISTICS_BYTES", 2**21)
        image = rng.gamma(4, 100, (100, 256, 256)).clip(0, 1500).astype(np.float32)
        bounded = data(image, "SYX", normalization=method).measure_statistics()["image"]
        exact = data(image, "SYX", normalization=method, exact_statistics=True)
        exact = exact.measure_statistics()["image"]
        assert bounded != exact or isinstance(method, MinMax)
        assert bounded.offset == pytest.approx(exact.offset, rel=0.02, abs=10)
        assert bounded.scale == pytest.approx(exact.scale, rel=0.02)

    def test_a_seed_repeats_them(self, monkeypatch):
        monkeypatch.setattr(module, "STATISTICS_BYTES", 2**18)
        image = rng.normal(size=(100, 64, 64))

        def found(seed):
            return data(image, "SYX", seed=seed).measure_statistics()

        assert found(1) == found(1)
        assert found(1) != found(2)


class TestNan:
    @pytest.mark.parametrize("policy", ["zero", "skip"])
    @pytest.mark.parametrize("method", ["mean_std", "min_max", "quantile"])
    def test_it_is_left_out_where_the_policy_allows_it(self, policy, method):
        clean = rng.normal(5, 2, (2, 64, 64)).astype(np.float32)
        dirty = np.concatenate([clean, np.full((2, 8, 64), np.nan, np.float32)], axis=1)
        dirty[0, 64:66] = np.inf
        dirty[1, 67] = 1e9  # its partner in the other channel is NaN: the pixel is left out
        options = {"normalization": method, "nan_policy": policy, "n_val_patches": 1}
        found = data(dirty, "CYX", **options).measure_statistics()["image"]
        expected = data(clean, "CYX", **options).measure_statistics()["image"]
        assert found.offset == pytest.approx(expected.offset)
        assert found.scale == pytest.approx(expected.scale)

    def test_it_is_an_error_with_its_place_otherwise(self):
        image = np.zeros((3, 64, 64), np.float32)
        image[2, 5, 7] = np.nan
        with pytest.raises(DataError, match=r"train_data: nan at sample 2, channel 0, YX=\(5, 7\)"):
            data(image, "SYX").measure_statistics()

    def test_nothing_else_is_an_error_too(self):
        image = np.full((64, 64), np.nan)
        with pytest.raises(DataError, match="the images contain nothing but NaN, infinity or gaps"):
            data(image, nan_policy="zero").measure_statistics()


class TestTargets:
    def test_they_have_their_own(self):
        image = rng.normal(5, 2, (64, 64))
        both = data(image, train_target=image * 10).measure_statistics()
        assert both["target"].offset == pytest.approx([10 * both["image"].offset[0]])
        assert both["target"].scale == pytest.approx([10 * both["image"].scale[0]])

    def test_given_for_images_they_are_computed_for_targets(self):
        image = rng.normal(5, 2, (64, 64))
        method = MeanStd(mean=1, std=2)
        both = data(image, train_target=image, normalization=method).measure_statistics()
        assert both["image"] == Affine([1.0], [2.0])
        assert both["target"].offset == pytest.approx([image.mean()])

    def test_given_for_both_nothing_is_read(self):
        some = images(np.zeros((1, 2, 64, 64)))
        some.targets, some.target_channels = list(some.stacks), [None]
        method = MinMax(min=0, max=2, target_min=0, target_max=4)
        found = measure(some, method, None, 0, allow_nan=False)
        assert found == {
            "image": Affine([0.0] * 2, [2.0] * 2),
            "target": Affine([0.0] * 2, [4.0] * 2),
        }
        assert some.stacks[0].reads == []

    def test_without_training_data_given_ones_serve_both_sides(self):
        method = MeanStd(mean=1, std=2, target_mean=3, target_std=4)
        alone = ArrayDataModule(predict_data=np.zeros((8, 8)), axes="YX", normalization=method)
        assert alone.measure_statistics() == {
            "image": Affine([1.0], [2.0]),
            "target": Affine([3.0], [4.0]),
        }

    def test_selected_channels_only(self):
        image = np.stack([np.zeros((64, 64)), np.arange(64.0 * 64).reshape(64, 64)])
        found = data(image, "CYX", channels=[1], normalization="min_max").measure_statistics()
        assert found["image"] == Affine([0.0], [64.0 * 64 - 1])


def test_they_are_computed_once():
    image = rng.normal(size=(64, 64))
    one = data(image)
    first = one.measure_statistics()
    one.train_dataloader()
    one.setup("fit")
    assert one.measure_statistics() is first


def test_unknown_statistics_say_what_to_do():
    alone = ArrayDataModule(predict_data=np.zeros((8, 8)), axes="YX")
    with pytest.raises(DataError, match="restore a checkpoint, give train_data"):
        alone.predict_dataloader()


@pytest.mark.parametrize("extreme", [2**24 + 1, -(2**25)])
def test_integers_that_float32_rounds_are_warned_of_once(extreme):
    image = np.zeros((4, 64, 64), np.int32)
    image[:, 3, 3] = extreme
    with pytest.warns(UserWarning, match=rf"integers up to {abs(extreme)} or more.*2\^24") as told:
        data(image, "SYX").measure_statistics()
    assert len(told) == 1


def test_integers_up_to_there_are_not():
    image = np.zeros((64, 64), np.int64)
    image[3, 3] = 2**24
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data(image).measure_statistics()


def test_a_nan_is_told_by_its_channel_in_the_file():
    pixels = np.zeros((1, 3, 20, 20), np.float32)
    pixels[0, 2, 4, 5] = np.nan
    one = images(pixels)
    one.channels[0] = [2]
    with pytest.raises(DataError, match=r"sample 0, channel 2, YX=\(4, 5\)"):
        list(pixel_blocks(one, 0, None, 0, allow_nan=False))


def test_targets_are_left_alone_without_training_data_too():
    image = rng.normal(100, 10, (32, 32)).astype(np.float32)
    source = ArrayDataModule(
        val_data=image,
        val_target=image,
        axes="YX",
        patch_size=(16, 16),
        normalization=MeanStd(mean=100, std=10),
        normalize_target=False,
    )
    for batch in source.val_dataloader():
        done = source.transform(batch)
        assert np.array_equal(done["target"], batch["target"])
        assert np.array_equal(source.denormalize(done["target"]), batch["target"])


NOISE = rng.integers(0, 99, (32, 32))


class TestConstantImages:
    @pytest.mark.parametrize(
        ("images", "axes", "said"),
        [
            (np.full((32, 32), 7, np.uint16), "YX", r"\(channel 0: 7\)"),
            (np.full((3, 32, 32), 0.5), "SYX", r"\(channel 0: 0.5\)"),
            (np.stack([NOISE, NOISE * 0 + 3]), "CYX", r"\(channel 1: 3\)"),
            (np.zeros((2, 32, 32), bool), "CYX", r"\(channel 0: False, channel 1: False\)"),
        ],
    )
    def test_they_are_said(self, images, axes, said):
        with pytest.warns(UserWarning, match=f"the images have the same value everywhere.*{said}"):
            data(images, axes).measure_statistics()

    def test_so_are_constant_targets(self):
        with pytest.warns(UserWarning, match=r"the targets have the same value.*\(channel 0: 5\)"):
            data(NOISE, train_target=np.full((32, 32), 5)).measure_statistics()

    @pytest.mark.parametrize("images", [NOISE, np.stack([NOISE * 0, NOISE * 0 + 1])])
    def test_images_that_vary_are_not(self, images):
        axes = "SYX"[3 - images.ndim :]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            data(images, axes).measure_statistics()

    @pytest.mark.parametrize("normalization", [Quantile(), MeanStd(clip=0.01), MinMax(clip=0.01)])
    def test_so_few_other_pixels_that_clipping_leaves_none_are_an_error(self, normalization):
        sparse = np.zeros((2, 64, 64), np.uint16)
        sparse[0] = np.arange(64)
        sparse[1, 5, :4] = 900
        with pytest.raises(DataError, match=r"leaves only the value 0 in channel 1 of the images"):
            data(sparse, "CYX", normalization=normalization).measure_statistics()


class TestRangesOfTrainingAndValidation:
    IMAGE = rng.normal(500, 20, (40, 40))

    @pytest.mark.parametrize(
        ("val", "words"),
        [
            (IMAGE / 65535, r"0\.0076.* ± 0\.00030.*, those of train_data 499\.\d ± 19"),
            (IMAGE * 257, r"1.28.e\+05 ± 51"),
            (IMAGE + 2000, r"2499 ± 19\.93"),
            (np.stack([IMAGE, IMAGE * 99]), r"4.9.*e\+04 ± 1973"),
        ],
    )
    def test_a_gross_difference_is_said(self, val, words):
        axes, train = ("CYX", np.stack([self.IMAGE] * 2)) if val.ndim == 3 else ("YX", self.IMAGE)
        with pytest.warns(UserWarning, match=f"val_data: intensities are .*({words}).*bit depth"):
            data(train, axes, val_data=val).train_dataloader()

    @pytest.mark.parametrize("val", [IMAGE * 2, IMAGE + 300, np.full((40, 40), np.nan)])
    def test_others_are_not(self, val):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            data(self.IMAGE, val_data=val, nan_policy="skip").train_dataloader()
