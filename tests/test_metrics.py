from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from careamics_dm.metrics import psnr, scale_invariant_psnr

if TYPE_CHECKING:
    from collections.abc import Callable


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


@pytest.mark.parametrize("metric", [psnr, scale_invariant_psnr])
def test_errors_name_what_is_wrong(metric: Callable[..., float]) -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        metric(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="empty"):
        metric(np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(ValueError, match="above zero"):
        metric(np.ones(3), np.arange(3.0))


def test_range_must_be_positive() -> None:
    with pytest.raises(ValueError, match="above zero"):
        psnr(np.arange(3.0), np.zeros(3), data_range=-1)
