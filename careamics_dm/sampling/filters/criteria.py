"""Criteria that training patches must meet, so that networks do not learn background."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, e, pi
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.argument_checks import is_number
from careamics_dm.sampling.filters.base import Measured, PatchFilter
from careamics_dm.sampling.filters.window_statistics import (
    entropy,
    reaching_windows,
    reduce_windows,
    to_levels,
)

Passed = NDArray[np.bool_]

EVERY = 2
"""Step, along Y and X, between the pixels that make the entropy."""


def _passes(criterion: PatchFilter, patches: NDArray[Any]) -> Passed:
    """Return which patches have a channel that reaches all that is asked for."""
    measured = criterion.measured(patches)
    reached = np.logical_and.reduce([values >= least for _, least, values in measured])
    return np.asarray(reached.any(axis=1))


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
        Which selected channel is judged; by default any may pass.
    """

    threshold: float
    keep: float = 0.0
    channel: int | None = None
    marks_suffice: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("threshold", self.threshold, "the least maximum, in the units of the data")

    passes = _passes

    def passing_origins(self, pixels: NDArray[Any], size: Sequence[int]) -> Passed:
        """See `PatchFilter.passing_origins`."""
        chosen = self.select(pixels[None])[0]
        # In NumPy a float32 compared with a number means that number in float32.
        least = np.float64(self.threshold) if chosen.dtype.kind == "f" else ceil(self.threshold)
        bright = np.any(chosen >= least, axis=0)
        return reduce_windows(bright, size, np.logical_or)

    def measured(self, patches: NDArray[Any]) -> list[Measured]:
        """See `PatchFilter.measured`."""
        rows = _rows(self.select(patches))
        return [Measured("max", self.threshold, rows.max(axis=2).astype(np.float64))]


@dataclass
class MeanStdFilter(PatchFilter):
    """Patches that are bright enough on average, vary enough, or both.

    Parameters
    ----------
    mean : float, optional
        Least mean of the pixels, in the units of the stored data.
    std : float, optional
        Least standard deviation, in the units of the stored data. One or both are needed.
    keep : float
        Probability of keeping a patch that is rejected.
    channel : int, optional
        Which selected channel is judged; by default any may pass.
    """

    mean: float | None = None
    std: float | None = None
    keep: float = 0.0
    channel: int | None = None
    marks_suffice: ClassVar[bool] = True

    def __post_init__(self) -> None:
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

    passes = _passes

    def passing_origins(self, pixels: NDArray[Any], size: Sequence[int]) -> Passed:
        """See `PatchFilter.passing_origins`."""
        least = {"mean": self.mean, "variance": None if self.std is None else self.std**2}
        channels = self.select(pixels[None])[0]
        reached = [reaching_windows(one, size, **least) for one in channels]
        return np.asarray(np.logical_or.reduce(reached))

    def measured(self, patches: NDArray[Any]) -> list[Measured]:
        """See `PatchFilter.measured`."""
        rows = _rows(self.select(patches))
        found = rows.mean(axis=2, dtype=np.float64), rows.std(axis=2, dtype=np.float64)
        columns = zip(("mean", "std"), (self.mean, self.std), found, strict=True)
        return [Measured(name, least, v) for name, least, v in columns if least is not None]


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
        Which selected channel is judged; by default any may pass.

    References
    ----------
    C. E. Shannon, "A Mathematical Theory of Communication", Bell System Technical Journal 27
    (1948), 379-423. The bound by the variance: T. M. Cover and J. A. Thomas, "Elements of
    Information Theory" (2006), problem 8.7.
    """

    bits: float
    keep: float = 0.0
    channel: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("bits", self.bits, "the least entropy, in bits")

    passes = _passes

    def passing_origins(self, pixels: NDArray[Any], size: Sequence[int]) -> Passed | None:
        """See `PatchFilter.passing_origins`; by the variance alone, and of integers only."""
        if pixels.dtype.kind == "f":
            return None
        # Integers of a given variance have at most the entropy of a Gaussian that is as wide,
        # about: H <= log2(2 pi e (variance + 1 / 12)) / 2.
        least = (2 ** (2 * self.bits) / (2 * pi * e) - 1 / 12) * (1 - 1e-9)
        thin_size = (*size[:-2], *(-(-p // EVERY) for p in size[-2:]))
        found = np.zeros([n - p + 1 for n, p in zip(pixels.shape[1:], size, strict=True)], bool)
        for channel, y, x in product(self.select(pixels[None])[0], range(EVERY), range(EVERY)):
            here = found[..., y::EVERY, x::EVERY]
            if here.size:
                thin = channel[..., y::EVERY, x::EVERY]
                enough = reaching_windows(thin, thin_size, variance=least)
                here |= enough[tuple(map(slice, here.shape))]
        return found

    def measured(self, patches: NDArray[Any]) -> list[Measured]:
        """See `PatchFilter.measured`."""
        rows = _rows(self.select(patches)[..., ::EVERY, ::EVERY])
        values = entropy(to_levels(rows.reshape(-1, rows.shape[2])))
        return [Measured("entropy", self.bits, values.reshape(rows.shape[:2]))]


def _rows(patches: NDArray[Any]) -> NDArray[Any]:
    """Pixels of each channel of each patch, ``(N, C, pixels)``."""
    return patches.reshape(*patches.shape[:2], -1)


def _check(name: str, value: Any, meaning: str) -> None:
    if value is None:
        raise DataError(f"patch_filter: {name} is not given. Give {meaning}.")
    if not is_number(value):
        raise DataError(f"patch_filter: {name}={value!r}: give a number, {meaning}.")
