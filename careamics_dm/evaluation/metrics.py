"""How close an image is to the ground truth: PSNR, scale-invariant PSNR and SSIM."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIGMA, RADIUS = 1.5, 5
"""The Gaussian window of SSIM (Wang et al., 2004), in pixels: 11 wide."""


def psnr(truth: NDArray[Any], image: NDArray[Any], data_range: float | None = None) -> float:
    r"""Compute the peak signal-to-noise ratio, :math:`10 \log_{10}(range^2 / MSE)`.

    Parameters
    ----------
    truth : ndarray
        Noise-free image of any shape and real dtype.
    image : ndarray
        Image to score: same shape, same unit of intensity.
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
    truth : ndarray
        Noise-free image of any shape and real dtype.
    image : ndarray
        Image to score: same shape, any unit of intensity.

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
    """Compute the mean structural similarity (Wang et al., 2004).

    Means, variances and the covariance are weighted by a Gaussian window, sigma 1.5 and 11 pixels
    wide along each axis, with the image reflected at its border. The constants are
    ``(0.01 * data_range)**2`` and ``(0.03 * data_range)**2``. Along an axis that is shorter than
    the window, the window is the largest odd number of pixels that fits, with a sigma of its radius
    / 3.5, so that a volume of one plane scores like that plane.

    Parameters
    ----------
    truth : ndarray
        Noise-free image, ``Y X`` or ``Z Y X``, any real dtype.
    image : ndarray
        Image to score: same shape, same unit of intensity.
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

    References
    ----------
    Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE
    Transactions on Image Processing 13, 2004.
    """
    x, y = _pair(truth, image)
    if x.ndim not in (2, 3):
        raise ValueError(f"SSIM needs images Y X or Z Y X, but the shape is {x.shape}")
    peak = _peak(x, data_range)
    a, b = torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None]
    return float(_ssim(a, b, torch.tensor([[peak]], dtype=torch.float64)))


class Scores:
    """PSNR, scale-invariant PSNR and SSIM of an image that arrives in pieces.

    Only sums in float64 are stored, no pixels, so an image may have any size, and other processes
    may score parts of it (`merge`). PSNR and scale-invariant PSNR do not depend on how the image
    was cut: means, variances and the covariance are merged by the method of Chan et al. (1979),
    which stays exact at large offsets. SSIM is the mean over tiles, weighted by their pixels. It is
    that of the image if this comes as one tile, and otherwise an approximation, as each tile is
    reflected at its border and has its own range.

    Parameters
    ----------
    n_channels : int
        Channels, each with scores of its own.
    data_range : float, optional
        Range of intensities, in the units of the data. By default the largest minus the smallest
        value: for PSNR of all targets, for SSIM of the tile's target; tiles with a constant target
        then have no SSIM and do not count.

    References
    ----------
    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", Stanford 1979.
    """

    def __init__(self, n_channels: int, data_range: float | None = None) -> None:
        self.data_range = data_range

        def each(value: float) -> Tensor:
            return torch.full((n_channels,), value, dtype=torch.float64)

        self._pixels = each(0)
        self._low, self._high = each(math.inf), each(-math.inf)
        self._squared_error = each(0)
        self._means = torch.stack([each(0)] * 2)  # of targets and of predictions
        # Sums over pixels of (deviation of target)^2, (that of prediction)^2 and their product.
        self._products = torch.stack([each(0)] * 3)
        self._ssim_sum, self._ssim_pixels = each(0), each(0)

    @property
    def n_channels(self) -> int:
        """Channels, as given."""
        return len(self._pixels)

    @property
    def constant(self) -> list[bool]:
        """Whether the target of each channel has one value everywhere, and thus no score."""
        flat = (self._high <= self._low) & (self._pixels > 0)
        return flat.tolist() if self.data_range is None else [False] * self.n_channels

    def add(self, target: Tensor, prediction: Tensor) -> None:
        """Count tiles.

        Parameters
        ----------
        target : Tensor
            ``(N, C, (Z), Y, X)``, any device and real dtype, in the units of the data.
        prediction : Tensor
            The same shape and units.

        Raises
        ------
        ValueError
            If the shapes differ, or there are other than ``n_channels`` channels.
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
        # First to the host: not every device has float64.
        x, y = (t.detach().cpu().double() for t in (target, prediction))
        part = Scores(self.n_channels, self.data_range)
        part._measure(x.transpose(0, 1).flatten(1), y.transpose(0, 1).flatten(1))
        part._measure_ssim(x, y)
        self.merge(part)

    def merge(self, other: Scores) -> None:
        """Add what ``other`` has counted, which does not change.

        Raises
        ------
        ValueError
            If the numbers of channels differ.
        """
        if other.n_channels != self.n_channels:
            raise ValueError(
                f"scores of {other.n_channels} channel(s) can't be merged with those of "
                f"{self.n_channels}; score the same channels of each."
            )
        pixels = self._pixels + other._pixels
        share = other._pixels / pixels.clamp(min=1)
        shift = other._means - self._means
        cross = torch.stack([shift[0] ** 2, shift[1] ** 2, shift[0] * shift[1]])
        self._products = self._products + other._products + cross * self._pixels * share
        self._means = self._means + shift * share
        self._pixels = pixels
        self._low = torch.minimum(self._low, other._low)
        self._high = torch.maximum(self._high, other._high)
        self._squared_error = self._squared_error + other._squared_error
        self._ssim_sum = self._ssim_sum + other._ssim_sum
        self._ssim_pixels = self._ssim_pixels + other._ssim_pixels

    def as_dict(self) -> dict[str, list[float]]:
        """Return the scores so far.

        Returns
        -------
        dict of str to list of float
            ``"psnr"`` and ``"si_psnr"`` (see `scale_invariant_psnr`) in decibels and ``"ssim"``,
            one number per channel: ``nan`` where nothing was counted or the target is constant,
            ``inf`` decibels where there is no difference.
        """
        target, prediction, product = self._products
        # A constant prediction explains nothing.
        explained = torch.where(prediction == 0, 0.0, product**2 / prediction)
        residual = (target - explained).clamp(min=0)
        return {
            "psnr": self._decibels(self._squared_error).tolist(),
            "si_psnr": self._decibels(residual).tolist(),
            "ssim": (self._ssim_sum / self._ssim_pixels).tolist(),
        }

    def _measure(self, x: Tensor, y: Tensor) -> None:
        """Compute the sums of channels ``(C, pixels)``."""
        self._pixels += x.shape[1]
        self._low, self._high = x.aminmax(dim=1)
        self._squared_error = (x - y).square().sum(1)
        self._means = torch.stack([x.mean(1), y.mean(1)])
        x, y = x - self._means[0, :, None], y - self._means[1, :, None]
        self._products = torch.stack([x.square().sum(1), y.square().sum(1), (x * y).sum(1)])

    def _measure_ssim(self, x: Tensor, y: Tensor) -> None:
        """Compute the sums of SSIM of tiles ``(N, C, (Z), Y, X)``."""
        peak = x.flatten(2).amax(2) - x.flatten(2).amin(2)
        counts = peak != 0
        if self.data_range is not None:
            peak = torch.full_like(peak, self.data_range)
            counts = torch.ones_like(counts)
        similarity = torch.where(counts, _ssim(x, y, peak), 0.0)
        pixels = math.prod(x.shape[2:])
        self._ssim_sum = similarity.sum(0) * pixels
        self._ssim_pixels = counts.sum(0).double() * pixels

    def _decibels(self, squared_error: Tensor) -> Tensor:
        peak = self._high - self._low
        peak = peak if self.data_range is None else torch.full_like(peak, self.data_range)
        decibels = 10 * (peak.square() * self._pixels / squared_error).log10()
        return torch.where(peak > 0, decibels, math.nan)


def _pair(truth: NDArray[Any], image: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return both images as float64, so that unsigned integers do not wrap around."""
    if truth.shape != image.shape:
        raise ValueError(f"truth has shape {truth.shape} but the image has {image.shape}")
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
