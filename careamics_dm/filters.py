"""Criteria that training patches must meet, so that networks do not learn background."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, e, pi, prod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from careamics_dm.axes import DataError
from careamics_dm.bunches import moments_near, most_near
from careamics_dm.measures import entropy, levels, moments
from careamics_dm.patch_filter import PatchFilter, is_number
from careamics_dm.sliding import sliding, sliding_moments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Values = NDArray[np.float64]

EVERY = 2
"""Step, along Y and X, between the pixels that make the entropy."""
MOST_EXACT = 2**21
"""Pixels of a patch whose squares, of 16 bits each, add up without rounding."""
NEARLY = 1e-9
"""Relative difference that rounding may make."""
MOST_ASKED = 2**13
"""Patches to measure one by one, at most, where rounding decides whether they pass."""


@dataclass
class MaxFilter(PatchFilter):
    """Patches whose brightest pixel is bright enough.

    Parameters
    ----------
    threshold : float
        Least maximum, in the units of the stored data.
    keep : float
        Probability of keeping a patch that is rejected.
    channel : int, optional
        Which of the selected channels is looked at; by default one that passes is enough.
    """

    threshold: float
    keep: float = 0.0
    channel: int | None = None
    quantities: ClassVar[tuple[str, ...]] = ("max",)

    def __post_init__(self) -> None:
        """See `PatchFilter`."""
        super().__post_init__()
        _check("threshold", self.threshold, "the least maximum, in the units of the data")

    @property
    def least(self) -> tuple[float | None, ...]:
        """See `PatchFilter.least`."""
        return (self.threshold,)

    def measure(self, patches: NDArray[Any]) -> Values:
        """See `PatchFilter.measure`."""
        return np.asarray(self._rows(patches).max(axis=2, keepdims=True), np.float64)

    def passing(self, pixels: NDArray[Any], size: Sequence[int]) -> NDArray[np.bool_]:
        """See `PatchFilter.passing`."""
        chosen = self._chosen(pixels)
        # In NumPy a float32 compared with a number means that number in float32.
        wide = chosen.dtype.kind == "f"
        least = np.float64(self.threshold) if wide else ceil(self.threshold)
        bright = np.any(chosen >= least, axis=0)
        return sliding(bright, size, np.logical_or)

    def may_pass(self, pixels: NDArray[Any], size: Sequence[int]) -> NDArray[np.bool_]:
        """See `PatchFilter.may_pass`."""
        most = [most_near(channel, size) for channel in self._chosen(pixels)]
        return np.asarray(np.any(~np.less(most, self.threshold), axis=0))


@dataclass
class MeanStdFilter(PatchFilter):
    """Patches that are bright enough on average, vary enough, or both.

    Parameters
    ----------
    mean, std : float, optional
        Least mean and least standard deviation of the pixels, in the units of the stored data;
        at least one of them.
    keep : float
        Probability of keeping a patch that is rejected.
    channel : int, optional
        Which of the selected channels is looked at; by default one that passes is enough.
    """

    mean: float | None = None
    std: float | None = None
    keep: float = 0.0
    channel: int | None = None
    quantities: ClassVar[tuple[str, ...]] = ("mean", "std")

    def __post_init__(self) -> None:
        """See `PatchFilter`."""
        super().__post_init__()
        if self.mean is None and self.std is None:
            raise DataError(
                "patch_filter: neither mean nor std is given. Give one or both, in the units of "
                "the data."
            )
        for name, value in (("mean", self.mean), ("std", self.std)):
            if value is not None:
                _check(name, value, f"the least {name}, in the units of the data")
        if self.std is not None and self.std < 0:
            raise DataError(f"patch_filter: std={self.std} is below 0, where no patch is.")

    @property
    def least(self) -> tuple[float | None, ...]:
        """See `PatchFilter.least`."""
        return self.mean, self.std

    def measure(self, patches: NDArray[Any]) -> Values:
        """See `PatchFilter.measure`."""
        rows = self._rows(patches)
        mean, variance = moments(rows.reshape(-1, rows.shape[2]))
        return np.stack([mean, np.sqrt(variance)], axis=1).reshape(*rows.shape[:2], 2)

    def passing(self, pixels: NDArray[Any], size: Sequence[int]) -> NDArray[np.bool_] | None:
        """See `PatchFilter.passing`."""
        if prod(size) > MOST_EXACT:
            return None
        found = np.zeros([n - p + 1 for n, p in zip(pixels.shape[1:], size, strict=True)], bool)
        for channel in self._chosen(pixels):
            mean, square, shift = sliding_moments(channel, size)
            variance = np.maximum(square - mean * mean, 0)
            passed, unsure = np.ones(found.shape, bool), np.zeros(found.shape, bool)
            if self.mean is not None:
                passed &= mean + shift >= self.mean
            if self.std:
                passed &= np.sqrt(variance) >= self.std
            if channel.dtype.kind == "f":
                unsure = self._unsure(mean, square, variance, shift) & ~found
                if unsure.sum() > MOST_ASKED:
                    return None
            found |= passed & ~unsure
            for at in np.argwhere(unsure).tolist():
                box = tuple(slice(a, a + p) for a, p in zip(at, size, strict=True))
                found[tuple(at)] = self.passes(pixels[(None, slice(None), *box)])[0]
        return found

    def may_pass(self, pixels: NDArray[Any], size: Sequence[int]) -> NDArray[np.bool_]:
        """See `PatchFilter.may_pass`."""
        n_pixels = prod(size)
        found = []
        for channel in self._chosen(pixels):
            ((n, mean, squares),) = moments_near(channel, size)
            # So much can the mean of a patch differ from that of all pixels that are touched; and
            # squared differences are summed over a part of these.
            above = np.sqrt(squares * (n - n_pixels) / (n * n_pixels))
            above += NEARLY * (abs(mean) + np.sqrt(squares / n))
            too_dim = False if self.mean is None else mean + above < self.mean
            too_even = False if self.std is None else np.sqrt(squares / n_pixels) < self.std
            found.append(~np.logical_or(too_dim, too_even))
        return np.asarray(np.any(found, axis=0))

    def _unsure(
        self, mean: Values, square: Values, variance: Values, shift: float
    ) -> NDArray[np.bool_]:
        """Where rounding decides: `measure` sums fractions in another order."""
        unsure = np.zeros(mean.shape, bool)
        if self.mean is not None:
            unsure |= abs(mean + shift - self.mean) < 1e-9 * np.sqrt(square) + 1e-15 * abs(shift)
        if self.std:
            unsure |= abs(variance - self.std * self.std) < 1e-8 * square
        return unsure


@dataclass
class EntropyFilter(PatchFilter):
    """Patches whose intensities are spread over enough values.

    The Shannon entropy ``H = -sum(p log2 p)``, where ``p`` is the share of pixels of each value:
    0 bits for an even patch, 8 bits if 256 values are equally frequent. Integer pixels count
    by their exact values, floating-point ones by 256 equal levels between the smallest and the
    largest. Every second pixel along Y and X is counted, as counting takes long; so of a patch of
    64 × 64 pixels 1024 are, which have 10 bits at most.

    Parameters
    ----------
    bits : float
        Least entropy, bits.
    keep : float
        Probability of keeping a patch that is rejected.
    channel : int, optional
        Which of the selected channels is looked at; by default one that passes is enough.

    References
    ----------
    C. E. Shannon, "A Mathematical Theory of Communication", Bell System Technical Journal 27
    (1948), 379-423. The bound by the variance: T. M. Cover and J. A. Thomas, "Elements of
    Information Theory" (2006), problem 8.7.
    """

    bits: float
    keep: float = 0.0
    channel: int | None = None
    quantities: ClassVar[tuple[str, ...]] = ("entropy",)

    def __post_init__(self) -> None:
        """See `PatchFilter`."""
        super().__post_init__()
        _check("bits", self.bits, "the least entropy, in bits")

    @property
    def least(self) -> tuple[float | None, ...]:
        """See `PatchFilter.least`."""
        return (self.bits,)

    def measure(self, patches: NDArray[Any]) -> Values:
        """See `PatchFilter.measure`."""
        rows = self._rows(patches[..., ::EVERY, ::EVERY])
        values = levels(rows.reshape(-1, rows.shape[2]))
        return entropy(values).reshape(*rows.shape[:2], 1)

    def may_pass(self, pixels: NDArray[Any], size: Sequence[int]) -> NDArray[np.bool_] | None:
        """See `PatchFilter.may_pass`; by the variance alone, and of integers only."""
        if pixels.dtype.kind == "f":
            return None
        # Whole numbers of a given variance have at most the entropy of a Gaussian that is as wide,
        # about: H <= log2(2 pi e (variance + 1 / 12)) / 2.
        least = np.exp2(2 * self.bits) / (2 * pi * e) - 1 / 12
        n_counted = prod((*size[:-2], *(-(-p // EVERY) for p in size[-2:])))
        found: NDArray[np.bool_] | None = None
        for channel in self._chosen(pixels):
            for _, _, squares in moments_near(channel, size, EVERY):
                wide = ~(squares * (1 + NEARLY) < least * n_counted)
                found = wide if found is None else found | wide
        return found


def _check(name: str, value: Any, meaning: str) -> None:
    if value is None:
        raise DataError(f"patch_filter: {name} is not given. Give {meaning}.")
    if not is_number(value):
        raise DataError(f"patch_filter: {name}={value!r}: give a number, {meaning}.")
