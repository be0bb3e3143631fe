"""How often each value occurs in a channel."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Histogram:
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
        values, weights = self._weighted()
        order = np.argsort(values, kind="stable")
        last = np.cumsum(weights[order]) - 1  # rank of the last pixel of each value
        place = np.asarray(q) * last[-1]
        ranks = (np.floor(place), np.ceil(place))
        below, above = (values[order][np.searchsorted(last, rank)] for rank in ranks)
        return np.asarray(below + (above - below) * (place % 1))

    def _weighted(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return values and how many pixels each stands for."""
        present = np.flatnonzero(self.counts)
        values = np.concatenate([present + float(self.LOWEST), *self.wide])
        return values, np.concatenate([self.counts[present], np.full(self.n_wide, self.step)])

    def limits(self, share: float) -> tuple[float, float]:
        """Return the values that leave this share of the pixels out at each end."""
        low, high = self.quantiles([share, 1 - share]).tolist()
        return low, high

    def moments(self, low: float, high: float) -> tuple[float, float]:
        """Return mean and standard deviation of the pixels, clipped to this range."""
        values, weights = self._weighted()
        values = np.clip(values, low, high)
        mean = np.average(values, weights=weights)
        return float(mean), float(np.sqrt(np.average((values - mean) ** 2, weights=weights)))


def histograms_of(blocks: Iterable[NDArray[Any]]) -> list[Histogram]:
    """Count the pixels of ``(C, n)`` blocks, a histogram per channel."""
    histograms: list[Histogram] = []
    for block in blocks:
        histograms = histograms or [Histogram() for _ in block]
        for histogram, pixels in zip(histograms, block, strict=True):
            histogram.add(pixels)
    return histograms
