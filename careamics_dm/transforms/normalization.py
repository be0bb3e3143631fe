"""Methods of normalisation: how statistics are computed, applied and undone.

Every method is affine, ``(x - offset) / scale`` with one offset and scale per channel: one line
applies it, one line undoes it, and a checkpoint stores a few lists of numbers. Values may be
clipped before, so that hot pixels weigh no more than the brightest of the others.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.argument_checks import is_number, written
from careamics_dm.transforms.histogram import Histogram, histograms_of

Blocks = Iterable[NDArray[Any]]


Side = Literal["image", "target"]
Given = float | list[float] | None


class Affine(NamedTuple):
    """Normalisation of images or of targets: ``(x - offset) / scale``, ``x`` clipped if asked."""

    offset: list[float]
    """Per channel, in the units of the data."""
    scale: list[float]
    """Per channel, never 0."""
    low: list[float] | None = None
    """Per channel; values below are set to it. ``None``: nothing is clipped."""
    high: list[float] | None = None
    """Per channel; values above are set to it."""

    def apply_(self, x_NCYX: torch.Tensor) -> torch.Tensor:
        """Normalise a float32 batch ``(N, C, (Z), Y, X)`` in place."""
        if x_NCYX.device.type == "cpu":
            # One thread of NumPy: a batch is small, and torch's threads wait for each other on busy
            # cores (measured: up to a hundred times slower).
            x = x_NCYX.numpy()
            offset, scale, *limits = (c.astype(x.dtype) for c in self._columns(x_NCYX))
            if limits:
                np.clip(x, *limits, out=x)
            x -= offset
            x *= 1 / scale
            return x_NCYX
        offsets, scales, *ends = self._tensors(x_NCYX)
        if ends:
            x_NCYX.clamp_(*ends)
        return x_NCYX.sub_(offsets).mul_(1 / scales)

    def undo(self, y_NCYX: torch.Tensor) -> torch.Tensor:
        """Return a batch ``(N, C, (Z), Y, X)`` in the units of the data."""
        offset, scale, *_ = self._tensors(y_NCYX)
        return y_NCYX * scale + offset

    def spread(self, n_channels: int, side: Side) -> "Affine":
        """Return one offset and scale per channel, repeated where all channels share them."""
        if len(self.offset) not in (1, n_channels):
            raise DataError(
                f"normalization: {len(self.offset)} numbers are given for the {side}s, which have "
                f"{n_channels} channel(s). Give one number, or one per channel."
            )
        times = n_channels // len(self.offset)
        low, high = (limit and limit * times for limit in (self.low, self.high))
        return Affine(self.offset * times, self.scale * times, low, high)

    def _columns(self, like: torch.Tensor) -> Iterator[NDArray[np.float64]]:
        """Return offset, scale and, where values are clipped, both limits, shaped for a batch."""
        if len(self.offset) not in (1, like.shape[1]):
            raise DataError(
                f"normalization: the statistics are of {len(self.offset)} channel(s), but the "
                f"batch has {like.shape[1]}. Select the channels that were trained on."
            )
        shape = (-1,) + (1,) * (like.ndim - 2)
        # NumPy is five times as fast as torch with lists.
        return (np.array(c, np.float64).reshape(shape) for c in self if c is not None)

    def _tensors(self, like: torch.Tensor) -> list[torch.Tensor]:
        """Return the columns as tensors on the device of a batch."""
        # Converted first, as not every device has float64. A copy that blocks would make the host
        # wait for all that the device has yet to do.
        at_once = like.device.type == "cuda"
        return [
            torch.from_numpy(column).to(like.dtype).to(like.device, non_blocking=at_once)
            for column in self._columns(like)
        ]


class Normalization(ABC):
    """A method of normalisation; one subclass per method.

    Raises
    ------
    DataError
        If the given statistics make no sense.
    """

    per_channel: bool
    clip: float = 0.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not isinstance(self.per_channel, bool):
            raise DataError(f"normalization: per_channel={self.per_channel!r}: give true or false.")
        if not (is_number(self.clip) and 0 <= self.clip < 0.5):
            raise DataError(
                f"{written('normalization: clip', self.clip)}: give the share of pixels to clip at "
                "each end, from 0 (none) to below 0.5, such as 0.002."
            )
        given = [self.given("image"), self.given("target")]
        if self.clip and any(given):
            raise DataError(
                f"normalization: clip={self.clip} is a share of pixels, so it goes with statistics "
                "that are computed. Leave out clip, or the numbers that are given."
            )

    def given(self, side: Side) -> Affine | None:
        """Return the statistics that the user gave for images or targets, if any."""
        return None

    def measure(self, blocks: Blocks) -> Affine:
        """Compute statistics from ``(C, n)`` finite pixels each, per channel or for all."""
        together = (block if self.per_channel else block.reshape(1, -1) for block in blocks)
        return self._from_histograms(together) if self.clip else self.from_pixels(together)

    def from_pixels(self, blocks: Blocks) -> Affine:
        """Compute statistics where no pixel is clipped."""
        return self._from_histograms(blocks)

    @abstractmethod
    def from_histogram(self, histogram: Histogram, low: float, high: float) -> tuple[float, float]:
        """Return offset and scale of a channel whose pixels are clipped to a range."""

    def _from_histograms(self, blocks: Blocks) -> Affine:
        """Compute statistics of pixels after clipping, with the limits."""
        histograms = histograms_of(blocks)
        low, high = zip(*(h.limits(self.clip) for h in histograms), strict=True)
        columns = [self.from_histogram(*each) for each in zip(histograms, low, high, strict=True)]
        affine = _affine(*zip(*columns, strict=True))
        return affine._replace(low=list(low), high=list(high)) if self.clip else affine


@dataclass
class MeanStd(Normalization):
    """Zero mean and unit standard deviation.

    Parameters
    ----------
    per_channel : bool
        Normalise each channel by its own statistics, or all by the same.
    mean, std : float or list of float, optional
        Use this number, or one per channel, and do not compute it. In units of the data.
    target_mean, target_std : float or list of float, optional
        The same for targets.
    clip : float
        Share of pixels to clip at each end, in the statistics and in every batch, so that hot
        pixels weigh no more than the brightest of the others. What is brighter is lost in
        predictions. 0 clips nothing; 0.002 suits up to 0.1 % of hot pixels.
    """

    per_channel: bool = True
    mean: Given = None
    std: Given = None
    target_mean: Given = None
    target_std: Given = None
    clip: float = 0.0

    def given(self, side: Side) -> Affine | None:
        """See `Normalization.given`."""
        mean, std = _names(side, "mean", "std")
        found = _given(self, mean, std)
        if found is not None and min(found[1]) <= 0:
            raise DataError(f"normalization: {std}={getattr(self, std)} must be above 0.")
        return found and Affine(*found)

    def from_pixels(self, blocks: Blocks) -> Affine:
        """See `Normalization.from_pixels`; blocks are merged after Chan et al. 1983."""
        count, mean, squares = 0, np.zeros(1), np.zeros(1)
        for block in blocks:
            n = block.shape[1]
            here = block.mean(axis=1, dtype=np.float64)
            delta, total = here - mean, count + n
            squares = squares + block.var(axis=1, dtype=np.float64) * n
            squares = squares + delta**2 * count * n / total
            mean, count = mean + delta * n / total, total
        return _affine(mean, np.sqrt(squares / max(count, 1)))

    def from_histogram(self, histogram: Histogram, low: float, high: float) -> tuple[float, float]:
        """See `Normalization.from_histogram`."""
        return histogram.moments(low, high)


@dataclass
class MinMax(Normalization):
    """The smallest value to 0, the largest to 1.

    Parameters
    ----------
    per_channel : bool
        Normalise each channel by its own statistics, or all by the same.
    min, max : float or list of float, optional
        Use this number, or one per channel, and do not compute it. In units of the data.
    target_min, target_max : float or list of float, optional
        The same for targets.
    clip : float
        Share of pixels to clip at each end, see `MeanStd`.
    """

    per_channel: bool = True
    min: Given = None
    max: Given = None
    target_min: Given = None
    target_max: Given = None
    clip: float = 0.0

    def given(self, side: Side) -> Affine | None:
        """See `Normalization.given`."""
        low, high = _names(side, "min", "max")
        found = _given(self, low, high)
        if found is not None and any(a >= b for a, b in zip(*found, strict=True)):
            a, b = (f"{name}={getattr(self, name)}" for name in (low, high))
            raise DataError(f"normalization: {a} must be below {b}.")
        return found and _span(*found)

    def from_pixels(self, blocks: Blocks) -> Affine:
        """See `Normalization.from_pixels`."""
        ranges = [
            (block.min(axis=1).astype(np.float64), block.max(axis=1).astype(np.float64))
            for block in blocks
        ]
        low, high = zip(*ranges, strict=True)
        return _span(np.min(low, 0), np.max(high, 0))

    def from_histogram(self, histogram: Histogram, low: float, high: float) -> tuple[float, float]:
        """See `Normalization.from_histogram`."""
        return low, high - low


@dataclass
class Quantile(Normalization):
    """A low quantile to 0, a high one to 1; hot pixels are clipped.

    Parameters
    ----------
    low : float
        Quantile that becomes 0, from 0 to 1.
    high : float
        Quantile that becomes 1, from 0 to 1.
    per_channel : bool
        Normalise each channel by its own statistics, or all by the same.
    clip : float
        Share of pixels to clip at each end, see `MeanStd`.
    """

    low: float = 0.01
    high: float = 0.99
    per_channel: bool = True
    clip: float = 0.002

    def __post_init__(self) -> None:
        """Check the order of the quantiles."""
        super().__post_init__()
        if not (is_number(self.low) and is_number(self.high) and 0 <= self.low < self.high <= 1):
            raise DataError(
                f"normalization: low={self.low}, high={self.high}; give 0 <= low < high <= 1."
            )

    def from_histogram(self, histogram: Histogram, low: float, high: float) -> tuple[float, float]:
        """See `Normalization.from_histogram`; exact up to 16 million pixels, always for 16 bit."""
        first, last = np.clip(histogram.quantiles([self.low, self.high]), low, high).tolist()
        return first, last - first


@dataclass
class NoNormalization(Normalization):
    """Leave the data as they are (as float32).

    Parameters
    ----------
    per_channel : bool
        Clip each channel by its own values, or all by the same.
    clip : float
        Share of pixels to clip at each end, see `MeanStd`.
    """

    per_channel: bool = False
    clip: float = 0.0

    def given(self, side: Side) -> Affine | None:
        """See `Normalization.given`: offset 0, scale 1."""
        return None if self.clip else Affine([0.0], [1.0])

    def from_pixels(self, blocks: Blocks) -> Affine:
        """See `Normalization.from_pixels`."""
        return Affine([0.0], [1.0])

    def from_histogram(self, histogram: Histogram, low: float, high: float) -> tuple[float, float]:
        """See `Normalization.from_histogram`."""
        return 0.0, 1.0


def _affine(offset: Any, scale: Any) -> Affine:
    """Make plain numbers; a constant channel becomes zeros, not infinities."""
    pairs = zip(np.atleast_1d(offset).tolist(), np.atleast_1d(scale).tolist(), strict=True)
    # A spread below the resolution of float32 at the offset is a rounding error.
    columns = [(float(o), float(s) if s > abs(o) * 2**-24 else 1.0) for o, s in pairs]
    return Affine([o for o, _ in columns], [s for _, s in columns])


def _span(low: Any, high: Any) -> Affine:
    return _affine(low, np.subtract(high, low, dtype=np.float64))


def _names(side: Side, first: str, second: str) -> tuple[str, str]:
    """Return the names of two statistics of images or of targets."""
    return (f"target_{first}", f"target_{second}") if side == "target" else (first, second)


def _given(method: object, name: str, other: str) -> tuple[list[float], list[float]] | None:
    """Check a pair of given statistics: as many numbers of each, or none at all."""
    first, second = getattr(method, name), getattr(method, other)
    if first is None and second is None:
        return None
    if first is None or second is None:
        lone, missing = (name, other) if second is None else (other, name)
        raise DataError(f"normalization: {lone} is given without {missing}. Give both or neither.")
    a, b = _numbers(name, first), _numbers(other, second)
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        raise DataError(f"normalization: {name} has {len(a)} number(s), {other} {len(b)}.")
    n = max(len(a), len(b))
    return a * (n // len(a)), b * (n // len(b))


def _numbers(name: str, given: Any) -> list[float]:
    values = [given] if isinstance(given, str) or not hasattr(given, "__iter__") else list(given)
    if not values or not all(map(is_number, values)):
        raise DataError(f"normalization: {name}={given}: give a number, or one per channel.")
    return [float(value) for value in values]
