"""How close an image is to the ground truth: PSNR, scale-invariant PSNR and SSIM."""

import math
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

SIGMA, RADIUS = 1.5, 5
"""The Gaussian window of SSIM (Wang et al., 2004), in pixels: 11 wide."""


def psnr(truth: NDArray[Any], image: NDArray[Any], data_range: float | None = None) -> float:
    r"""Compute the peak signal-to-noise ratio, :math:`10 \log_{10}(range^2 / MSE)`.

    Parameters
    ----------
    truth, image : ndarray
        Ground truth and image to score: any real dtype, same shape and unit of intensity.
    data_range : float, optional
        Peak, in the unit of the images; by default ``truth.max() - truth.min()``.

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
    peak = _peak(x, data_range)
    error = float(np.mean(np.square(x - y)))
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def scale_invariant_psnr(truth: NDArray[Any], image: NDArray[Any]) -> float:
    """Compute the peak signal-to-noise ratio after the best affine fit of intensities.

    The image is replaced by ``a * image + b`` with the ``a`` and ``b`` of least squared error, so
    that images in another unit than the ground truth can be scored (Weigert et al., Nature Methods
    15, 2018, "Content-aware image restoration", supplementary note 2).

    Parameters
    ----------
    truth, image : ndarray
        Ground truth and image to score: any real dtype and unit of intensity, same shape.

    Returns
    -------
    float
        Decibels, never less than ``psnr(truth, image)``; ``nan`` if either contains NaN.

    Raises
    ------
    ValueError
        If the shapes differ, the images are empty or the ground truth is constant.
    """
    x, y = _pair(truth, image)
    y = y - y.mean()
    variance = float(np.mean(np.square(y)))
    slope = float(np.mean(y * (x - x.mean()))) / variance if variance else 0.0
    return psnr(x, slope * y + x.mean())


def ssim(truth: NDArray[Any], image: NDArray[Any], data_range: float | None = None) -> float:
    """Compute the mean structural similarity (Wang et al., IEEE Trans. Image Processing 13, 2004).

    Means, variances and the covariance are weighted by a Gaussian window, sigma 1.5 and 11 pixels
    wide along each axis, with the image reflected at its border. The constants are
    ``(0.01 * data_range)**2`` and ``(0.03 * data_range)**2``. Along an axis that is shorter than
    the window, the window is the largest odd number of pixels that fits, with a sigma of its radius
    / 3.5, so that a volume of one plane scores like that plane.

    Parameters
    ----------
    truth, image : ndarray
        Ground truth and image to score, ``Y X`` or ``Z Y X``: any real dtype, same shape and unit.
    data_range : float, optional
        Range of intensities, in the unit of the images; by default ``truth.max() - truth.min()``.

    Returns
    -------
    float
        At most 1, for equal images; ``nan`` if either contains NaN.

    Raises
    ------
    ValueError
        If the images are not 2-D or 3-D, the shapes differ, the images are empty or the range is
        not above zero.
    """
    x, y = _pair(truth, image)
    if x.ndim not in (2, 3):
        raise ValueError(f"SSIM needs images Y X or Z Y X, but the shape is {x.shape}")
    peak = _peak(x, data_range)
    a, b = torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None]
    return float(_ssim(a, b, torch.tensor([[peak]], dtype=torch.float64)))


class Scores:
    """PSNR, scale-invariant PSNR and SSIM of an image that arrives in tiles, by channel.

    Only sums in float64 are stored, no pixels, so an image may have any size, and other processes
    may score parts of it (`merge`). PSNR and scale-invariant PSNR do not depend on how the image
    was cut: means, variances and the covariance are merged by the method of Chan, Golub and LeVeque
    ("Updating formulae and a pairwise algorithm for computing sample variances", 1979), which stays
    exact at large offsets. Their range of intensities is the largest minus the smallest target.

    SSIM is the mean over tiles, weighted by their pixels. It is that of the image if this comes as
    one tile, and otherwise an approximation, as each tile is reflected at its border and has a
    range of its own; tiles with a constant target do not count.
    """

    def __init__(self, n_channels: int) -> None:
        zeros = torch.zeros(n_channels, dtype=torch.float64)
        self._low, self._high = zeros + math.inf, zeros - math.inf
        # Of pixels, of squared errors, of SSIM times pixels, and of pixels that have an SSIM.
        self._sums = zeros.repeat(4, 1)
        self._means = zeros.repeat(2, 1)  # of targets and of predictions
        # Sums over pixels of (deviation of target)^2, (that of prediction)^2 and their product.
        self._products = zeros.repeat(3, 1)

    @property
    def n_channels(self) -> int:
        """Channels, each with scores of its own."""
        return len(self._low)

    @property
    def constant(self) -> list[bool]:
        """Whether the target of each channel has one value everywhere, and thus no score."""
        return ((self._high <= self._low) & (self._sums[0] > 0)).tolist()

    def add(self, target: Tensor, prediction: Tensor) -> None:
        """Count tiles ``(N, C, (Z), Y, X)``, any device and real dtype, in the units of the data.

        Raises a ValueError if the shapes differ, or there are other than ``n_channels`` channels.
        """
        if target.shape != prediction.shape:
            raise ValueError(
                f"targets of shape {tuple(target.shape)} can't be compared with predictions of "
                f"shape {tuple(prediction.shape)}; give the same pixels and channels of both."
            )
        if target.ndim not in (4, 5) or target.shape[1] != self.n_channels:
            raise ValueError(
                f"scores of {self.n_channels} channel(s) need (N, C={self.n_channels}, (Z), Y, X), "
                f"but got {tuple(target.shape)}."
            )
        if target.numel() == 0:
            return
        part = Scores(self.n_channels)
        # First to the host: not every device has float64.
        part._measure(*(tiles.detach().cpu().double() for tiles in (target, prediction)))
        self.merge(part)

    def merge(self, other: Self) -> None:
        """Add what ``other``, with as many channels, has counted; it does not change."""
        if other.n_channels != self.n_channels:
            raise ValueError(
                f"scores of {other.n_channels} channel(s) can't be merged with those of "
                f"{self.n_channels}; score the same channels of each."
            )
        share = other._sums[0] / (self._sums[0] + other._sums[0]).clamp(min=1)
        shift = other._means - self._means
        cross = torch.stack([shift[0] ** 2, shift[1] ** 2, shift[0] * shift[1]])
        self._products = self._products + other._products + cross * self._sums[0] * share
        self._means = self._means + shift * share
        self._sums = self._sums + other._sums
        self._low = torch.minimum(self._low, other._low)
        self._high = torch.maximum(self._high, other._high)

    def as_dict(self) -> dict[str, list[float]]:
        """Return the scores so far, "psnr" and "si_psnr" in decibels and "ssim", by channel.

        They are ``nan`` where nothing was counted or the target is constant, and ``inf`` decibels
        where there is no difference.
        """
        target, prediction, product = self._products
        # A constant prediction explains nothing.
        explained = torch.where(prediction == 0, 0.0, product**2 / prediction)
        residual = (target - explained).clamp(min=0)
        return {
            "psnr": self._decibels(self._sums[1]).tolist(),
            "si_psnr": self._decibels(residual).tolist(),
            "ssim": (self._sums[2] / self._sums[3]).tolist(),
        }

    def _measure(self, x: Tensor, y: Tensor) -> None:
        """Compute the sums of float64 targets and predictions, ``(N, C, (Z), Y, X)``."""
        peak = x.flatten(2).amax(2) - x.flatten(2).amin(2)
        similarity = torch.where(peak != 0, _ssim(x, y, peak), 0.0).sum(0)
        n_pixels, n_scored = math.prod(x.shape[2:]), (peak != 0).sum(0)
        x, y = (tiles.transpose(0, 1).flatten(1) for tiles in (x, y))
        self._sums[0], self._sums[1] = x.shape[1], (x - y).square().sum(1)
        self._sums[2], self._sums[3] = similarity * n_pixels, n_scored * n_pixels
        self._low, self._high = x.aminmax(dim=1)
        self._means = torch.stack([x.mean(1), y.mean(1)])
        x, y = x - self._means[0, :, None], y - self._means[1, :, None]
        self._products = torch.stack([x.square().sum(1), y.square().sum(1), (x * y).sum(1)])

    def _decibels(self, squared_error: Tensor) -> Tensor:
        peak = self._high - self._low
        decibels = 10 * (peak.square() * self._sums[0] / squared_error).log10()
        return torch.where(peak > 0, decibels, math.nan)


def _pair(truth: NDArray[Any], image: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return both images as float64, so that unsigned integers do not wrap around."""
    if truth.shape != image.shape:
        raise ValueError(f"the ground truth has shape {truth.shape}, but the image {image.shape}")
    if truth.size == 0:
        raise ValueError(f"images of shape {truth.shape} are empty")
    return truth.astype(np.float64), image.astype(np.float64)


def _peak(truth: NDArray[Any], data_range: float | None) -> float:
    peak = float(np.ptp(truth)) if data_range is None else float(data_range)
    if peak <= 0:
        raise ValueError(f"data range {peak:g} must be above zero (is the truth constant?)")
    return peak


def _ssim(x: Tensor, y: Tensor, data_range: Tensor) -> Tensor:
    """Compute the mean structural similarity, ``(N, C)``, of float64 ``(N, C, (Z), Y, X)``."""
    c1, c2 = ((k * data_range.view(*x.shape[:2], *(1,) * (x.ndim - 2))) ** 2 for k in (0.01, 0.03))
    mean_x, mean_y = _smooth(x), _smooth(y)
    # Rounding must not make a variance negative.
    variances = (_smooth(x * x) - mean_x**2).clamp(min=0)
    variances += (_smooth(y * y) - mean_y**2).clamp(min=0)
    covariance = _smooth(x * y) - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    similarity *= (2 * covariance + c2) / (variances + c2)
    return similarity.flatten(2).mean(2)


def _smooth(x: Tensor) -> Tensor:
    """Smooth ``(N, C, (Z), Y, X)`` with the window of SSIM, one axis after the other.

    torchmetrics 1.9 applies the same window as one dense kernel: in 3-D 40 times as many products,
    and in float64 a copy of the image for each (measured: 8 GB for 16 x 96 x 96 pixels).
    """
    for axis in range(2, x.ndim):
        n = x.shape[axis]
        radius = min(RADIUS, (n - 1) // 2)
        if radius == 0:
            continue
        sigma = SIGMA if radius == RADIUS else radius / 3.5
        steps = torch.arange(-radius, radius + 1, dtype=x.dtype)
        weights = torch.softmax(-0.5 * (steps / sigma) ** 2, dim=0).tolist()
        pads = [0, 0] * (x.ndim - 1 - axis) + [radius, radius] + [0, 0] * (axis - 2)
        padded = F.pad(x, pads, mode="reflect")
        x = torch.zeros_like(x)
        for i, weight in enumerate(weights):
            x.add_(padded.narrow(axis, i, n), alpha=weight)
    return x
