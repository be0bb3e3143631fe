"""How close an image is to the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def psnr(truth: NDArray[Any], image: NDArray[Any], data_range: float | None = None) -> float:
    r"""Compute the peak signal-to-noise ratio, :math:`10 \log_{10}(range^2 / MSE)`.

    Parameters
    ----------
    truth : ndarray
        Noise-free image of any shape and real dtype.
    image : ndarray
        Image to judge: same shape, same unit of intensity.
    data_range : float, optional
        The peak, in the unit of the images; by default ``truth.max() - truth.min()``.

    Returns
    -------
    float
        Decibels; ``inf`` if the images are equal, ``nan`` if either contains NaN.

    Raises
    ------
    ValueError
        If the shapes differ, the images are empty or the range is not above zero.
    """
    x, y = _pair(truth, image)
    peak = float(np.ptp(x)) if data_range is None else float(data_range)
    if peak <= 0:
        raise ValueError(f"data range {peak:g} must be above zero (is the truth constant?)")
    error = float(np.mean(np.square(x - y)))
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def scale_invariant_psnr(truth: NDArray[Any], image: NDArray[Any]) -> float:
    """Compute the peak signal-to-noise ratio after the best affine fit of intensities.

    The image is replaced by ``a * image + b`` with the ``a`` and ``b`` of least squared error,
    so that images in other units than the truth's can be judged (Weigert et al., Nature
    Methods 15, 2018, "Content-aware image restoration", supplementary note 2).

    Parameters
    ----------
    truth : ndarray
        Noise-free image of any shape and real dtype.
    image : ndarray
        Image to judge: same shape, any unit of intensity.

    Returns
    -------
    float
        Decibels, never less than ``psnr(truth, image)``; ``nan`` if either contains NaN.

    Raises
    ------
    ValueError
        If the shapes differ, the images are empty or the truth is constant.
    """
    x, y = _pair(truth, image)
    y = y - y.mean()
    variance = float(np.mean(np.square(y)))
    slope = float(np.mean(y * (x - x.mean()))) / variance if variance else 0.0
    return psnr(x, slope * y + x.mean())


def _pair(truth: NDArray[Any], image: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both images as float64, so that unsigned integers do not wrap around."""
    if truth.shape != image.shape:
        raise ValueError(f"truth has shape {truth.shape} but the image has {image.shape}")
    if truth.size == 0:
        raise ValueError(f"images of shape {truth.shape} are empty")
    return truth.astype(np.float64), image.astype(np.float64)
