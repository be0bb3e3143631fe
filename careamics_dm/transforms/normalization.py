"""Methods of normalisation: how statistics are computed, applied and undone.

Every method is affine, ``(x - offset) / scale`` with one offset and scale per channel: one line
applies it, one line undoes it, and a checkpoint stores two lists of numbers.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from careamics_dm.errors import DataError

Blocks = Iterable[NDArray[Any]]


Side = Literal["image", "target"]
Given = float | list[float] | None


class Affine(NamedTuple):
    """Normalisation of images or of targets: ``(x - offset) / scale``."""

    offset: list[float]
    """Per channel, in the units of the data."""
    scale: list[float]
    """Per channel, never 0."""

    def apply_(self, x_NCYX: torch.Tensor) -> torch.Tensor:
        """Normalise a float32 batch ``(N, C, (Z), Y, X)`` in place."""
        offset, scale = self._columns(x_NCYX)
        if x_NCYX.device.type == "cpu":
            # One thread of NumPy: a batch is small, and torch's threads wait for each other on busy
            # cores (measured: up to a hundred times slower).
            x = x_NCYX.numpy()
            x -= offset.numpy()
            x *= 1 / scale.numpy()
            return x_NCYX
        return x_NCYX.sub_(offset).mul_(1 / scale)

    def undo(self, y_NCYX: torch.Tensor) -> torch.Tensor:
        """Return a batch ``(N, C, (Z), Y, X)`` in the units of the data."""
        offset, scale = self._columns(y_NCYX)
        return y_NCYX * scale + offset

    def spread(self, n_channels: int, side: Side) -> "Affine":
        """Return one offset and scale per channel, repeated where all channels share them."""
        if len(self.offset) not in (1, n_channels):
            raise DataError(
                f"normalization: {len(self.offset)} numbers are given for the {side}s, which have "
                f"{n_channels} channel(s). Give one number, or one per channel."
            )
        times = n_channels // len(self.offset)
        return Affine(self.offset * times, self.scale * times)

    def _columns(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(self.offset) not in (1, like.shape[1]):
            raise DataError(
                f"normalization: the statistics are of {len(self.offset)} channel(s), but the "
                f"batch has {like.shape[1]}. Select the channels that were trained on."
            )
        shape = (-1,) + (1,) * (like.ndim - 2)
        # By way of NumPy, which is five times as fast with lists.
        columns = (torch.from_numpy(np.array(c, np.float64).reshape(shape)) for c in self)
        offset, scale = (column.to(like.device, like.dtype) for column in columns)
        return offset, scale


class Normalization(ABC):
    """A method of normalisation; one subclass per method.

    Raises
    ------
    DataError
        If the given statistics make no sense.
    """

    per_channel: bool

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not isinstance(self.per_channel, bool):
            raise DataError(f"normalization: per_channel={self.per_channel!r}: give true or false.")
        self.given("image")
        self.given("target")

    def given(self, side: Side) -> Affine | None:
        """Return the statistics that the user gave for images or targets, if any."""
        return None

    @abstractmethod
    def measure(self, blocks: Blocks) -> Affine:
        """Compute statistics from ``(C, n)`` finite pixels each, per channel or for all."""


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
    """

    per_channel: bool = True
    mean: Given = None
    std: Given = None
    target_mean: Given = None
    target_std: Given = None

    def given(self, side: Side) -> Affine | None:
        """See `Normalization.given`."""
        mean, std = _names(side, "mean", "std")
        found = _given(self, mean, std)
        if found is not None and min(found[1]) <= 0:
            raise DataError(f"normalization: {std}={getattr(self, std)} must be above 0.")
        return found and Affine(*found)

    def measure(self, blocks: Blocks) -> Affine:
        """See `Normalization.measure`; blocks are merged after Chan et al. 1983."""
        count, mean, squares = 0, np.zeros(1), np.zeros(1)
        for block in blocks:
            block = _together(block, self.per_channel)
            n = block.shape[1]
            here = block.mean(axis=1, dtype=np.float64)
            delta, total = here - mean, count + n
            squares = squares + block.var(axis=1, dtype=np.float64) * n
            squares = squares + delta**2 * count * n / total
            mean, count = mean + delta * n / total, total
        return _affine(mean, np.sqrt(squares / max(count, 1)))


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
    """

    per_channel: bool = True
    min: Given = None
    max: Given = None
    target_min: Given = None
    target_max: Given = None

    def given(self, side: Side) -> Affine | None:
        """See `Normalization.given`."""
        low, high = _names(side, "min", "max")
        found = _given(self, low, high)
        if found is not None and any(a >= b for a, b in zip(*found, strict=True)):
            a, b = (f"{name}={getattr(self, name)}" for name in (low, high))
            raise DataError(f"normalization: {a} must be below {b}.")
        return found and _span(*found)

    def measure(self, blocks: Blocks) -> Affine:
        """See `Normalization.measure`."""
        ranges = [
            (block.min(axis=1).astype(np.float64), block.max(axis=1).astype(np.float64))
            for block in (_together(block, self.per_channel) for block in blocks)
        ]
        low, high = zip(*ranges, strict=True)
        return _span(np.min(low, 0), np.max(high, 0))


@dataclass
class Quantile(Normalization):
    """A low quantile to 0, a high one to 1: robust against hot pixels.

    Parameters
    ----------
    low : float
        Quantile that becomes 0, from 0 to 1.
    high : float
        Quantile that becomes 1, from 0 to 1.
    per_channel : bool
        Normalise each channel by its own statistics, or all by the same.
    """

    low: float = 0.01
    high: float = 0.99
    per_channel: bool = True

    def __post_init__(self) -> None:
        """Check the order of the quantiles."""
        super().__post_init__()
        numbers = all(isinstance(q, float | int) for q in (self.low, self.high))
        if not (numbers and 0 <= self.low < self.high <= 1):
            raise DataError(
                f"normalization: low={self.low}, high={self.high}; give 0 <= low < high <= 1."
            )

    def measure(self, blocks: Blocks) -> Affine:
        """See `Normalization.measure`; exact up to 16 million pixels, and always for 16 bit."""
        histograms: list[_Histogram] = []
        for block in blocks:
            block = _together(block, self.per_channel)
            histograms = histograms or [_Histogram() for _ in block]
            for histogram, pixels in zip(histograms, block, strict=True):
                histogram.add(pixels)
        low, high = np.transpose([h.quantiles([self.low, self.high]) for h in histograms])
        return _span(low, high)


@dataclass
class NoNormalization(Normalization):
    """Leave the data as they are (as float32).

    Parameters
    ----------
    per_channel : bool
        Of no effect.
    """

    per_channel: bool = False

    def given(self, side: Side) -> "Affine":
        """See `Normalization.given`: offset 0, scale 1."""
        return Affine([0.0], [1.0])

    def measure(self, blocks: Blocks) -> Affine:
        """See `Normalization.measure`."""
        return self.given("image")


def _together(block: NDArray[Any], per_channel: bool) -> NDArray[Any]:
    return block if per_channel else block.reshape(1, -1)


class _Histogram:
    """Counts of the pixels of a channel: all that have up to 16 bit, others up to a limit."""

    LOWEST, VALUES = -(2**15), 2**15 + 2**16
    MOST = 2**24
    """Wider pixels to hold at once."""

    def __init__(self) -> None:
        self.counts = np.zeros(self.VALUES, np.int64)
        self.wide: list[NDArray[np.float64]] = []
        self.step, self.n_wide = 1, 0  # one in ``step`` wide pixels is used

    def add(self, pixels: NDArray[Any]) -> None:
        """Count pixels."""
        if pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= 2:
            self.counts += np.bincount(pixels.astype(np.int64) - self.LOWEST, minlength=self.VALUES)
            return
        self.wide.append(pixels[:: self.step].astype(np.float64))
        self.n_wide += len(self.wide[-1])
        while self.n_wide > self.MOST:
            # By 3: a stride that divides the width of an image would use few of its columns.
            fewer = np.concatenate(self.wide)[::3]
            self.wide, self.n_wide, self.step = [fewer], len(fewer), self.step * 3

    def quantiles(self, q: list[float]) -> NDArray[np.float64]:
        """Compute quantiles with linear interpolation between pixels, as `numpy.quantile` does."""
        present = np.flatnonzero(self.counts)
        values = np.concatenate([present + float(self.LOWEST), *self.wide])
        weights = np.concatenate([self.counts[present], np.full(self.n_wide, self.step)])
        order = np.argsort(values, kind="stable")
        last = np.cumsum(weights[order]) - 1  # rank of the last pixel of each value
        place = np.asarray(q) * last[-1]
        ranks = (np.floor(place), np.ceil(place))
        below, above = (values[order][np.searchsorted(last, rank)] for rank in ranks)
        return np.asarray(below + (above - below) * (place % 1))


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
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise DataError(f"normalization: {name}={given}: give a number, or one per channel.")
    return numbers
