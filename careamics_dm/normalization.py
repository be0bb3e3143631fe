"""Statistics of the data; how they are applied and undone.

Every method is affine, ``(x - offset) / scale`` with one offset and scale per channel, so that
one line applies it, one undoes it, and a checkpoint stores two lists of numbers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from careamics_dm.axes import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from numpy.typing import NDArray

    Blocks = Iterable[NDArray[Any]]

Side = Literal["image", "target"]
Given = float | list[float] | None


class Affine(NamedTuple):
    """Normalisation of one side (image or target): ``(x - offset) / scale``."""

    offset: list[float]
    """Per channel, in the units of the data."""
    scale: list[float]
    """Per channel, never 0."""

    def apply_(self, x_NCYX: torch.Tensor) -> torch.Tensor:
        """Normalise a float32 batch ``(N, C, (Z), Y, X)`` in place."""
        offset, scale = self._columns(x_NCYX)
        if x_NCYX.device.type == "cpu":
            # One thread of NumPy: a batch is small, and the threads of torch wait for each other
            # where the cores are busy (measured: up to a hundred times slower).
            x = x_NCYX.numpy()
            x -= offset.numpy()
            x *= 1 / scale.numpy()
            return x_NCYX
        return x_NCYX.sub_(offset).mul_(1 / scale)

    def undo(self, y_NCYX: torch.Tensor) -> torch.Tensor:
        """Return a batch ``(N, C, (Z), Y, X)`` in the units of the data."""
        offset, scale = self._columns(y_NCYX)
        return y_NCYX * scale + offset

    def spread(self, n_channels: int, side: Side) -> Affine:
        """Return one offset and scale per channel, also where one serves all.

        Raises
        ------
        DataError
            Neither one number nor one per channel.
        """
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
        return (
            like.new_tensor(self.offset).reshape(shape),
            like.new_tensor(self.scale).reshape(shape),
        )


class Normalization(ABC):
    """A method of normalisation; a subclass per method.

    Raises
    ------
    DataError
        Given statistics that make no sense, as soon as an object is made.
    """

    per_channel: bool

    def __post_init__(self) -> None:
        """Check what was given."""
        if not isinstance(self.per_channel, bool):
            raise DataError(f"normalization: per_channel={self.per_channel!r}: give true or false.")
        self.given("image")
        self.given("target")

    def given(self, side: Side) -> Affine | None:
        """Statistics that the user gave for the images or targets, if any."""
        del side
        return None

    @abstractmethod
    def measure(self, blocks: Blocks) -> Affine:
        """Compute statistics.

        Parameters
        ----------
        blocks : iterable of ndarray
            ``(C, n)`` finite pixels each, in the stored dtype.

        Returns
        -------
        Affine
            Per channel; all channels together, repeated, when not ``per_channel``.
        """


@dataclass
class MeanStd(Normalization):
    """Zero mean and unit standard deviation.

    Parameters
    ----------
    per_channel : bool
        Each channel by its own statistics, or all by the same.
    mean, std : float or list of float, optional
        Given instead of computed; one number or one per channel, in the units of the data.
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
        prefix = "target_" if side == "target" else ""
        mean, std = (self.target_mean, self.target_std) if prefix else (self.mean, self.std)
        found = _given(f"{prefix}mean", mean, f"{prefix}std", std)
        if found is not None and min(found[1]) <= 0:
            raise DataError(f"normalization: {prefix}std={std} must be above 0.")
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
        Each channel by its own statistics, or all by the same.
    min, max : float or list of float, optional
        Given instead of computed, in the units of the data.
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
        prefix = "target_" if side == "target" else ""
        low, high = (self.target_min, self.target_max) if prefix else (self.min, self.max)
        found = _given(f"{prefix}min", low, f"{prefix}max", high)
        if found is not None and any(a >= b for a, b in zip(*found, strict=True)):
            raise DataError(f"normalization: {prefix}min={low} must be below {prefix}max={high}.")
        return found and _span(*found)

    def measure(self, blocks: Blocks) -> Affine:
        """See `Normalization.measure`."""
        ranges = [
            (block.min(axis=1).astype(np.float64), block.max(axis=1).astype(np.float64))
            for block in (_together(block, self.per_channel) for block in blocks)
        ]
        return _span(np.min([r[0] for r in ranges], 0), np.max([r[1] for r in ranges], 0))


@dataclass
class Quantile(Normalization):
    """A low quantile to 0, a high one to 1: robust against hot pixels.

    Parameters
    ----------
    low, high : float
        The quantiles, between 0 and 1.
    per_channel : bool
        Each channel by its own statistics, or all by the same.
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
        """See `Normalization.measure`; exact, but for more than 16 million wider than 16 bit."""
        tallies: list[_Tally] = []
        for block in blocks:
            block = _together(block, self.per_channel)
            tallies = tallies or [_Tally() for _ in block]
            for tally, pixels in zip(tallies, block, strict=True):
                tally.add(pixels)
        columns = [tally.quantiles((self.low, self.high)) for tally in tallies]
        return _span([low for low, _ in columns], [high for _, high in columns])


@dataclass
class NoNormalization(Normalization):
    """Leave the data as they are (as float32)."""

    per_channel: bool = False

    def given(self, side: Side) -> Affine:
        """See `Normalization.given`: offset 0, scale 1."""
        del side
        return Affine([0.0], [1.0])

    def measure(self, blocks: Blocks) -> Affine:
        """See `Normalization.measure`."""
        del blocks
        return self.given("image")


def _together(block: NDArray[Any], per_channel: bool) -> NDArray[Any]:
    return block if per_channel else block.reshape(1, -1)


class _Tally:
    """Pixels of a channel, counted: exactly where they have 16 bit or less."""

    LOWEST, VALUES = -(2**15), 2**15 + 2**16
    MOST = 2**24
    """Wider pixels to hold at once."""

    def __init__(self) -> None:
        self.counts = np.zeros(self.VALUES, np.int64)
        self.wide: list[NDArray[Any]] = []
        self.step, self.n_wide = 1, 0

    def add(self, pixels: NDArray[Any]) -> None:
        """Count pixels."""
        if pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= 2:
            self.counts += np.bincount(pixels.astype(np.int64) - self.LOWEST, minlength=self.VALUES)
            return
        self.wide.append(pixels[:: self.step].astype(np.float64))
        self.n_wide += len(self.wide[-1])
        while self.n_wide > self.MOST:
            # By 3: a stride that divides the width of an image would take few of its columns.
            whole = np.concatenate(self.wide)[::3]
            self.wide, self.n_wide, self.step = [whole], len(whole), self.step * 3

    def quantiles(self, wanted: tuple[float, float]) -> tuple[float, float]:
        """Compute quantiles, between pixels by straight lines as `numpy.quantile` does."""
        present = np.flatnonzero(self.counts)
        wide = np.concatenate(self.wide) if self.wide else np.empty(0)
        values = np.concatenate([present + float(self.LOWEST), wide])
        order = np.argsort(values, kind="stable")
        weights = np.concatenate([self.counts[present], np.full(len(wide), self.step)])
        until = np.cumsum(weights[order])
        values = values[order]
        low, high = (self._at(values, until, q) for q in wanted)
        return low, high

    def _at(self, values: NDArray[Any], until: NDArray[Any], q: float) -> float:
        place = q * (until[-1] - 1)
        below = math.floor(place)
        a, b = values[np.searchsorted(until, [below, min(below + 1, until[-1] - 1)], side="right")]
        return float(a + (b - a) * (place - below))


def _affine(offset: Any, scale: Any) -> Affine:
    """Plain numbers; a constant channel gives zeros, not infinities."""
    pairs = zip(np.atleast_1d(offset).tolist(), np.atleast_1d(scale).tolist(), strict=True)
    # Below the resolution of float32 at the offset, a spread is rounding.
    columns = [(float(o), float(s) if s > abs(o) * 2**-24 else 1.0) for o, s in pairs]
    return Affine([o for o, _ in columns], [s for _, s in columns])


def _span(low: Any, high: Any) -> Affine:
    return _affine(low, np.subtract(high, low, dtype=np.float64))


def _given(
    name: str, first: Given, other: str, second: Given
) -> tuple[list[float], list[float]] | None:
    """Check a pair of statistics; equally many numbers of both, or none."""
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
