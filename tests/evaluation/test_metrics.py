from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from careamics_dm.evaluation.metrics import Scores, psnr, scale_invariant_psnr, ssim

if TYPE_CHECKING:
    from collections.abc import Callable


def pair(*shape: int, seed: int = 0, offset: float = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth image, float64, and the same with noise, gain and offset."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.arange(math.prod(shape), dtype=torch.float64).view(shape)
    truth = 100 * (ramp / 7).sin() + offset
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    return truth, 0.8 * truth + 10 * noise + 3


def test_psnr_is_that_of_torchmetrics() -> None:
    truth, image = pair(20, 30)
    peak = float(truth.max() - truth.min())
    # Which has its logarithm of 10 in float32.
    expected = float(peak_signal_noise_ratio(image, truth, data_range=peak))
    assert psnr(truth.numpy(), image.numpy()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(30, 41), (12, 19, 30), (11, 11)])
def test_ssim_is_that_of_torchmetrics(shape: tuple[int, ...]) -> None:
    truth, image = pair(*shape)
    for peak in (None, 70.0):
        ours = ssim(truth.numpy(), image.numpy(), peak)
        reference = float(truth.max() - truth.min()) if peak is None else peak
        expected = structural_similarity_index_measure(
            image[None, None], truth[None, None], data_range=reference
        )
        assert ours == pytest.approx(float(expected), rel=1e-9)
        assert 0 < ours < 0.99


def test_ssim_of_equal_images_is_one() -> None:
    truth = np.random.default_rng(0).integers(0, 60000, (16, 20), np.uint16)
    assert ssim(truth, truth) == pytest.approx(1, abs=1e-12)


def test_ssim_of_a_volume_of_one_plane_is_that_of_the_plane() -> None:
    truth, image = (x.numpy() for x in pair(20, 30))
    assert ssim(truth[None], image[None]) == pytest.approx(ssim(truth, image), rel=1e-12)


def test_ssim_has_a_smaller_window_where_the_image_is_smaller() -> None:
    truth, image = pair(40, 5)
    sigma, size = (1.5, 2 / 3.5), (11, 5)
    expected = structural_similarity_index_measure(
        image[None, None], truth[None, None], sigma=sigma, kernel_size=size, data_range=50.0
    )
    ours = ssim(truth.numpy(), image.numpy(), 50)
    assert ours == pytest.approx(float(expected), rel=1e-9)


def test_ssim_is_of_images_and_volumes() -> None:
    with pytest.raises(ValueError, match=r"Y X or Z Y X, but the shape is \(9,\)"):
        ssim(np.arange(9), np.arange(9))


def test_psnr_by_hand() -> None:
    truth = np.array([[0.0, 10.0], [20.0, 30.0]])
    # Off by 3 everywhere: 20 log10(30 / 3) = 20 dB.
    assert psnr(truth, truth + 3) == pytest.approx(20.0)
    assert psnr(truth, truth + 3, data_range=300) == pytest.approx(40.0)


def test_equal_images_are_infinitely_good() -> None:
    truth = np.arange(6, dtype=np.uint8)
    assert psnr(truth, truth) == math.inf


def test_unsigned_integers_do_not_wrap_around() -> None:
    truth = np.array([0, 100, 255], np.uint8)
    image = np.array([10, 90, 245], np.uint8)
    assert psnr(truth, image) == pytest.approx(20 * math.log10(255 / 10))


def test_large_offsets_keep_precision() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1, (64, 64)).astype(np.float32)
    image = truth + rng.normal(0, 0.1, truth.shape).astype(np.float32)
    lifted = psnr(truth.astype(np.float64) + 1e9, image.astype(np.float64) + 1e9)
    assert lifted == pytest.approx(psnr(truth, image), abs=1e-3)


def test_scale_invariant_psnr_ignores_gain_and_offset() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1, (64, 64))
    image = truth + rng.normal(0, 0.1, truth.shape)
    expected = scale_invariant_psnr(truth, image)
    assert expected >= psnr(truth, image)
    assert scale_invariant_psnr(truth, 40 * image - 700) == pytest.approx(expected)
    assert scale_invariant_psnr(truth, -image) == pytest.approx(expected)


def test_scale_invariant_psnr_is_the_least_squares_fit() -> None:
    rng = np.random.default_rng(1)
    truth, image = rng.normal(0, 1, (2, 500))
    a, b = np.polyfit(image, truth, 1)
    assert scale_invariant_psnr(truth, image) == pytest.approx(psnr(truth, a * image + b))


def test_a_constant_image_fits_the_mean() -> None:
    truth = np.array([0.0, 1.0, 2.0])
    assert scale_invariant_psnr(truth, np.ones(3)) == pytest.approx(psnr(truth, np.ones(3)))


def test_nan_stays_nan() -> None:
    truth = np.array([0.0, 1.0])
    assert math.isnan(psnr(truth, np.array([0.0, np.nan])))
    assert math.isnan(psnr(np.array([np.nan, 1.0]), truth))
    assert math.isnan(scale_invariant_psnr(truth, np.array([0.0, np.nan])))
    image = np.arange(9.0).reshape(3, 3)
    assert math.isnan(ssim(image, np.where(image == 4, np.nan, image)))


@pytest.mark.parametrize("metric", [psnr, scale_invariant_psnr, ssim])
def test_errors_name_what_is_wrong(metric: Callable[..., float]) -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        metric(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="empty"):
        metric(np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(ValueError, match="above zero"):
        metric(np.ones((3, 3)), np.arange(9.0).reshape(3, 3))


def test_range_must_be_positive() -> None:
    with pytest.raises(ValueError, match="above zero"):
        psnr(np.arange(3.0), np.zeros(3), data_range=-1)


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 24), max_size=4),
    channels=st.integers(1, 3),
    volume=st.booleans(),
    offset=st.sampled_from([0, 1e6]),
    seed=st.integers(0, 99),
)
def test_scores_of_pieces_are_those_of_the_whole(
    cuts: list[int], channels: int, volume: bool, offset: float, seed: int
) -> None:
    shape = (2, channels, *(3,) * volume, 24, 12)
    truth, image = pair(*shape, seed=seed, offset=offset)
    pieces = Scores(channels)
    bounds = [0, *sorted(cuts), 24]
    for a, b in itertools.pairwise(bounds):
        pieces.add(truth[..., a:b, :], image[..., a:b, :])
    found = pieces.as_dict()
    for channel in range(channels):
        x, y = truth[:, channel].numpy(), image[:, channel].numpy()
        assert found["psnr"][channel] == pytest.approx(psnr(x, y), rel=1e-9)
        assert found["si_psnr"][channel] == pytest.approx(scale_invariant_psnr(x, y), rel=1e-6)
        peak = float(np.ptp(x))
        reference = peak_signal_noise_ratio(
            torch.from_numpy(y), torch.from_numpy(x), data_range=peak
        )
        assert found["psnr"][channel] == pytest.approx(float(reference), rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(owners=st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_scores_of_several_processes_merge_to_those_of_one(owners: list[int]) -> None:
    truth, image = pair(6, 2, 12, 12)
    parts, one = [Scores(2) for _ in range(3)], Scores(2)
    for tile, owner in enumerate(owners):
        for scores in (parts[owner], one):
            scores.add(truth[tile : tile + 1], image[tile : tile + 1])
    merged = Scores(2)
    for part in parts:
        before = part.as_dict()
        merged.merge(part)
        assert repr(part.as_dict()) == repr(before)
    for name, values in one.as_dict().items():
        assert merged.as_dict()[name] == pytest.approx(values, rel=1e-9)


def test_ssim_of_an_image_in_one_tile_is_exact() -> None:
    truth, image = pair(1, 2, 20, 30)
    scores = Scores(2)
    scores.add(truth, image)
    expected = [ssim(truth[0, c].numpy(), image[0, c].numpy()) for c in range(2)]
    assert scores.as_dict()["ssim"] == pytest.approx(expected, rel=1e-12)


def test_ssim_of_tiles_is_their_mean_weighted_by_pixels() -> None:
    truth, image = pair(1, 1, 20, 30)
    scores = Scores(1)
    small, large = (..., slice(0, 10)), (..., slice(10, 30))
    for tile in (small, large):
        scores.add(truth[tile], image[tile])
    a, b = (ssim(truth[t][0, 0].numpy(), image[t][0, 0].numpy()) for t in (small, large))
    assert scores.as_dict()["ssim"] == [pytest.approx((a + 2 * b) / 3, rel=1e-12)]


def test_a_tile_with_a_constant_target_has_no_ssim_and_does_not_count() -> None:
    truth, image = pair(2, 1, 12, 12)
    truth[1] = 5
    scores, alone = Scores(1), Scores(1)
    scores.add(truth, image)
    alone.add(truth[:1], image[:1])
    assert scores.as_dict()["ssim"] == alone.as_dict()["ssim"]
    empty = Scores(1)
    empty.add(truth[1:], image[1:])
    assert all(math.isnan(value) for [value] in empty.as_dict().values())


def test_scores_of_nothing_are_nan_and_of_equal_images_infinite() -> None:
    assert all(math.isnan(v) for values in Scores(2).as_dict().values() for v in values)
    truth, _ = pair(1, 1, 12, 12)
    scores = Scores(1)
    scores.add(truth, truth)
    assert scores.as_dict()["psnr"] == [math.inf]
    assert scores.as_dict()["ssim"] == [pytest.approx(1)]


def test_scores_take_half_precision_and_integers() -> None:
    truth = torch.arange(144).view(1, 1, 12, 12)
    scores = Scores(1)
    scores.add(truth, (truth + 3).half())
    assert scores.as_dict()["psnr"] == [pytest.approx(20 * math.log10(143 / 3))]


def test_scores_say_what_does_not_suit() -> None:
    scores = Scores(2)
    x = torch.zeros(1, 2, 8, 8)
    with pytest.raises(ValueError, match=r"\(1, 2, 8, 8\).*\(1, 2, 8, 7\); give the same"):
        scores.add(x, x[..., 1:])
    with pytest.raises(ValueError, match=r"need \(N, C=2, \(Z\), Y, X\), but got \(1, 1, 8, 8\)"):
        scores.add(x[:, :1], x[:, :1])
    with pytest.raises(ValueError, match=r"3 channel\(s\) can't be merged with those of 2"):
        scores.merge(Scores(3))
