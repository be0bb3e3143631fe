"""Each method, applied and undone, with statistics that are given or computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from careamics_dm import MeanStd, MinMax, NoNormalization, Quantile
from careamics_dm.errors import DataError
from careamics_dm.transforms.normalization import Affine, Normalization

rng = np.random.default_rng(0)
SPAN = np.array([[1, -1], [0, 1]])  # low and high to offset and scale


def pixels(dtype=np.uint16, channels=2, n=1000):
    return (
        rng.integers(0, 100, (channels, n)).astype(dtype) * np.array([[1], [7]], dtype)[:channels]
    )


def flat(blocks):
    return np.concatenate([block.reshape(len(block), -1) for block in blocks], axis=1)


class TestMeasuring:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
    def test_mean_and_standard_deviation(self, dtype):
        blocks = [pixels(dtype, n=n) for n in (1, 10, 1000)]
        offset, scale, *_ = MeanStd().measure(blocks)
        assert offset == pytest.approx(flat(blocks).mean(axis=1))
        assert scale == pytest.approx(flat(blocks).std(axis=1, dtype=np.float64))

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32])
    def test_smallest_and_largest(self, dtype):
        blocks = [pixels(dtype, n=n) for n in (1, 10, 1000)]
        offset, scale, *_ = MinMax().measure(blocks)
        assert offset == flat(blocks).min(axis=1).tolist()
        assert scale == np.ptp(flat(blocks), axis=1).tolist()

    @settings(max_examples=100, deadline=None)
    @given(
        blocks=st.lists(
            st.sampled_from(["u1", "i1", "u2", "i2", ">u2", "u4", "f4"]).flatmap(
                lambda dtype: hnp.arrays(
                    dtype,
                    hnp.array_shapes(min_dims=1, max_dims=1, max_side=30),
                    elements=st.integers(0, 120),
                )
            ),
            min_size=1,
            max_size=4,
        ),
        low=st.floats(0, 0.5),
        high=st.floats(0.51, 1),
    )
    def test_quantiles_are_those_of_numpy_whatever_the_dtypes(self, blocks, low, high):
        offset, scale, *_ = Quantile(low, high, clip=0).measure([block[None] for block in blocks])
        whole = np.concatenate([block.astype(np.float64) for block in blocks])
        a, b = np.quantile(whole, [low, high])
        assert offset[0] == pytest.approx(a, abs=1e-9)
        assert scale[0] == (pytest.approx(b - a, abs=1e-9) if b - a > a * 2**-24 else 1)

    def test_quantiles_of_negative_integers(self):
        values = np.arange(-300, 300, dtype=np.int16)[None]
        offset, scale, *_ = Quantile(0.25, 0.75).measure([values])
        assert (offset[0], offset[0] + scale[0]) == pytest.approx(np.quantile(values, [0.25, 0.75]))

    def test_quantiles_of_more_floats_than_are_held_come_close(self, monkeypatch):
        monkeypatch.setattr("careamics_dm.transforms.histogram.Histogram.MOST", 10_000)
        blocks = [rng.normal(size=(1, 7_000)).astype(np.float32) for _ in range(30)]
        offset, scale, *_ = Quantile(0.1, 0.9).measure(blocks)
        a, b = np.quantile(flat(blocks), [0.1, 0.9])
        assert offset[0] == pytest.approx(a, abs=0.1)
        assert scale[0] == pytest.approx(b - a, abs=0.1)

    def test_floats_weigh_as_much_as_integers_though_only_some_of_them_are_held(self, monkeypatch):
        monkeypatch.setattr("careamics_dm.transforms.histogram.Histogram.MOST", 10_000)
        zeros, fives = np.zeros((1, 30_000), np.uint16), np.full((1, 30_000), 5, np.float32)
        assert Quantile(0.1, 0.6, clip=0).measure([zeros, fives]) == Affine([0.0], [5.0])

    @pytest.mark.parametrize("method", [MeanStd, MinMax, Quantile])
    def test_all_channels_together_have_one_offset_and_scale(self, method):
        blocks = [pixels()]
        together = method(per_channel=False).measure(blocks)
        alone = method().measure([flat(blocks).reshape(1, -1)])
        assert together == alone
        assert together.spread(2, "image") == Affine(*(c and c * 2 for c in together))

    @pytest.mark.parametrize("value", [0, 7, 0.1, 1e-6, 12345.678, -3e5])
    @pytest.mark.parametrize("method", [MeanStd(), MinMax(), Quantile()])
    def test_a_constant_channel_becomes_zeros_and_comes_back(self, method, value):
        blocks = [np.full((1, n), value, np.float32) for n in (3, 1000, 77)]
        affine = method.measure(blocks)
        x = torch.full((1, 1, 4, 4), value, dtype=torch.float32)
        normal = affine.apply_(x.clone())
        assert normal.abs().max() <= 1e-6 * max(abs(value), 1e-6)
        assert torch.allclose(affine.undo(normal), x)
        # What differs a little is not blown up either.
        assert affine.apply_(x + 1).abs().max() <= 1.01

    @pytest.mark.parametrize("method", [MeanStd(), MinMax(), Quantile()])
    def test_so_does_one_whose_spread_float32_cannot_hold(self, method):
        block = 1e6 + np.array([[0, 1e-4, 2e-4, 3e-4]])
        assert method.measure([block]).scale == [1.0]

    def test_none_measures_nothing(self):
        assert NoNormalization().measure([]) == Affine([0.0], [1.0])


@dataclass
class Halfway(Normalization):
    """Half of the range to 0."""

    per_channel: bool
    clip: float = 0.0

    def from_histogram(self, histogram, low, high):
        return (low + high) / 2, high - low


class TestClipping:
    """0.1 % of the pixels are hot: saturated at 65535, far above all others."""

    @pytest.fixture(params=[np.uint16, np.float32])
    def blocks(self, request):
        image = rng.normal([[500], [70]], [[40], [5]], (2, 20_000)).round()
        image[:, ::1000] = 65535
        return [image[:, :7_000].astype(request.param), image[:, 7_000:].astype(request.param)]

    @pytest.mark.parametrize(
        ("method", "right"),
        [
            (MeanStd(clip=0.01), lambda x, a, b: (x.mean(), x.std())),
            (MinMax(clip=0.01), lambda x, a, b: (a, b - a)),
            (Quantile(0.2, 0.8, clip=0.01), lambda x, *_: np.quantile(x, [0.2, 0.8]) @ SPAN),
            (Quantile(0.001, 0.999, clip=0.01), lambda x, a, b: (a, b - a)),
            (NoNormalization(clip=0.01, per_channel=True), lambda *_: (0, 1)),
        ],
        ids=["mean_std", "min_max", "quantile", "extremes", "none"],
    )
    def test_statistics_are_of_the_clipped_pixels(self, method, right, blocks):
        affine = method.measure(blocks)
        for channel, image in enumerate(flat(blocks).astype(np.float64)):
            low, high = np.quantile(image, [0.01, 0.99])
            found = [column[channel] for column in affine]
            expected = [*right(np.clip(image, low, high), low, high), low, high]
            assert found == pytest.approx(expected)

    @pytest.mark.parametrize("method", [MeanStd(clip=0.002), MinMax(clip=0.002), Quantile()])
    def test_hot_pixels_become_the_brightest_of_the_others(self, method, blocks):
        affine, image = method.measure(blocks), flat(blocks).astype(np.float32)
        low, high = (np.array(limits)[:, None] for limits in (affine.low, affine.high))
        assert (high < 700).all()  # the mean plus five standard deviations
        x = torch.from_numpy(image[None, :, None])
        back = affine.undo(affine.apply_(x.clone()))[0, :, 0].numpy()
        np.testing.assert_allclose(back, np.clip(image, low, high), rtol=1e-5)

    def test_all_channels_together_have_the_same_limits(self, blocks):
        affine = MeanStd(per_channel=False, clip=0.01).measure(blocks).spread(2, "image")
        low, high = np.quantile(flat(blocks), [0.01, 0.99])
        assert affine.low == pytest.approx([low] * 2) and affine.high == pytest.approx([high] * 2)

    @pytest.mark.parametrize("clip", [0.0, 0.01])
    def test_a_method_of_ones_own_only_says_what_it_makes_of_a_histogram(self, blocks, clip):
        affine = Halfway(per_channel=True, clip=clip).measure(blocks)
        image = np.concatenate(blocks, axis=1)
        low, high = np.quantile(image, [clip, 1 - clip], axis=1)
        assert affine.offset == pytest.approx(((low + high) / 2).tolist())
        assert (affine.low == pytest.approx(low.tolist())) if clip else (affine.low is None)

    def test_by_default_only_quantiles_clip(self):
        clips = {m: m().clip for m in (MeanStd, MinMax, Quantile, NoNormalization)}
        assert clips == {MeanStd: 0, MinMax: 0, Quantile: 0.002, NoNormalization: 0}


class TestApplying:
    @settings(max_examples=100, deadline=None)
    @given(
        dtype=st.sampled_from([np.uint8, np.uint16]),
        method=st.sampled_from([MeanStd(), MinMax(), Quantile(clip=0), NoNormalization()]),
        data=st.data(),
    )
    def test_undoing_is_exact_once_rounded_for_8_and_16_bit(self, dtype, method, data):
        low = data.draw(st.integers(0, int(np.iinfo(dtype).max)))
        high = data.draw(st.integers(low, int(np.iinfo(dtype).max)))
        measured = data.draw(hnp.arrays(dtype, (2, 30), elements=st.integers(low, high)))
        image = np.arange(2 * 32**2).reshape(1, 2, 32, 32).astype(dtype)
        image.flat[:2] = np.iinfo(dtype).min, np.iinfo(dtype).max
        affine = method.measure([measured]).spread(2, "image")
        normal = affine.apply_(torch.from_numpy(image.astype(np.float32)))
        assert normal.dtype == torch.float32
        assert np.array_equal(affine.undo(normal).round().numpy(), image)

    def test_none_keeps_every_bit(self):
        affine = NoNormalization().given("image")
        x = torch.from_numpy(rng.normal(size=(2, 3, 4, 5)).astype(np.float32) * 1e20)
        assert torch.equal(affine.undo(affine.apply_(x.clone())), x)

    @pytest.mark.parametrize("size", [(6, 7), (5, 6, 7)])
    def test_every_channel_by_its_own_numbers_in_2d_and_3d(self, size):
        x = torch.ones(4, 2, *size)
        done = Affine([1.0, 3.0], [2.0, 4.0]).apply_(x.clone())
        assert torch.equal(done[:, 0], torch.zeros(4, *size))
        assert torch.equal(done[:, 1], torch.full((4, *size), -0.5))

    def test_another_number_of_channels_is_an_error(self):
        with pytest.raises(DataError, match=r"of 2 channel\(s\), but the batch has 3"):
            Affine([1.0, 2.0], [1.0, 1.0]).apply_(torch.ones(1, 3, 2, 2))


class TestGiven:
    def test_one_number_or_one_per_channel(self):
        assert MeanStd(mean=3, std=2).given("image") == Affine([3.0], [2.0])
        assert MeanStd(mean=[3, 4], std=[1, 2]).given("image") == Affine([3.0, 4.0], [1.0, 2.0])
        assert MeanStd(mean=[3, 4], std=2).given("image") == Affine([3.0, 4.0], [2.0, 2.0])
        assert MinMax(min=3, max=[5, 7]).given("image") == Affine([3.0, 3.0], [2.0, 4.0])

    def test_targets_have_their_own(self):
        method = MeanStd(mean=3, std=2, target_mean=30, target_std=20)
        assert method.given("target") == Affine([30.0], [20.0])
        assert MinMax(min=0, max=1).given("target") is None
        assert MinMax(target_min=1, target_max=3).given("target") == Affine([1.0], [2.0])
        assert MinMax(target_min=1, target_max=3).given("image") is None

    def test_they_must_suit_the_channels(self):
        affine = MeanStd(mean=[1, 2], std=1).given("image")
        with pytest.raises(DataError, match=r"2 numbers are given for the images.*3 channel"):
            affine.spread(3, "image")

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: MeanStd(mean=1), "mean is given without std. Give both or neither"),
            (lambda: MeanStd(std=1), "std is given without mean"),
            (lambda: MeanStd(target_mean=1), "target_mean is given without target_std"),
            (lambda: MinMax(max=1), "max is given without min"),
            (lambda: MeanStd(mean=[1, 2], std=[1, 2, 3]), r"mean has 2 number\(s\), std 3"),
            (lambda: MeanStd(mean=1, std=0), "std=0 must be above 0"),
            (lambda: MeanStd(mean=1, std=[1, -2]), r"std=\[1, -2\] must be above 0"),
            (lambda: MinMax(min=5, max=5), "min=5 must be below max=5"),
            (lambda: MinMax(target_min=5, target_max=1), "target_min=5 must be below target_max=1"),
            (lambda: MeanStd(mean="a", std=1), "mean=a: give a number, or one per channel"),
            (lambda: MeanStd(mean=float("nan"), std=1), "mean=nan: give a number"),
            (lambda: MeanStd(mean=[], std=1), r"mean=\[\]: give a number"),
            (lambda: Quantile(0.9, 0.1), "give 0 <= low < high <= 1"),
            (lambda: Quantile(1, 99), "give 0 <= low < high <= 1"),
            (lambda: Quantile("low"), "give 0 <= low < high <= 1"),
            (lambda: MeanStd(mean=1, std=1, clip=0.1), "clip=0.1 is a share of pixels.*Leave out"),
            (lambda: MinMax(target_min=1, target_max=2, clip=0.1), "clip=0.1 is a share of pixels"),
            (lambda: Quantile(clip=0.5), "clip=0.5: give the share of pixels to clip at each end"),
            (lambda: MeanStd(clip=True), "clip=True: give the share of pixels"),
            (lambda: MinMax(clip=-0.1), "clip=-0.1: give the share of pixels"),
            (lambda: NoNormalization(clip="yes"), "clip='yes': give the share of pixels"),
            (lambda: MeanStd(per_channel="yes"), "per_channel='yes': give true or false"),
        ],
    )
    def test_what_makes_no_sense_is_said_at_once(self, make, message):
        with pytest.raises(DataError, match=message):
            make()
