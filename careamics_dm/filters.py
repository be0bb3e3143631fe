"""Criteria that training patches must meet, so that networks do not learn background."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import isfinite
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from careamics_dm.axes import DataError
from careamics_dm.measures import entropy, levels, moments, most_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from careamics_dm.coarse import Coarse

    Values = NDArray[np.float64]

EVERY = 2
"""Step, along Y and X, between the pixels that make the entropy."""


class PatchFilter(ABC):
    """A criterion for training patches; a subclass per criterion.

    A patch is judged by its own pixels, in the dtype in which batches come: as stored where torch
    has that dtype, else float32.

    Attributes
    ----------
    keep : float
        Probability of keeping a patch that does not meet the criterion.
    channel : int or None
        Index, among the selected channels, of the one that is looked at; ``None``: a patch
        passes if any of its channels does.
    quantities : tuple of str
        What is measured.

    Raises
    ------
    DataError
        Values that make no sense, as soon as an object is made.
    """

    keep: float
    channel: int | None
    quantities: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        """Check what was given."""
        if not _is_number(self.keep) or not 0 <= self.keep < 1:
            raise DataError(
                f"patch_filter: keep={self.keep!r}: give the probability of keeping a patch that "
                "is rejected, from 0 to below 1."
            )
        whole = isinstance(self.channel, Integral) and not isinstance(self.channel, bool)
        if self.channel is not None and (not whole or self.channel < 0):
            raise DataError(
                f"patch_filter: channel={self.channel!r}: give the index of one of the selected "
                "channels, from 0 on, or null."
            )

    @property
    @abstractmethod
    def least(self) -> tuple[float | None, ...]:
        """What each of `quantities` must reach; ``None`` where anything goes."""

    @abstractmethod
    def measure(self, patches: NDArray[Any]) -> Values:
        """Measure patches.

        Parameters
        ----------
        patches : ndarray
            ``N C (Z) Y X``, finite pixels.

        Returns
        -------
        ndarray of float64
            ``(N, C, K)``: each of `quantities`, of each channel that is looked at.
        """

    def passes(self, patches: NDArray[Any]) -> NDArray[np.bool_]:
        """Say which patches meet the criterion.

        Parameters
        ----------
        patches : ndarray
            ``N C (Z) Y X``, finite pixels.

        Returns
        -------
        ndarray of bool
            ``(N,)``.

        Raises
        ------
        DataError
            The patches have no such ``channel``.
        """
        least = np.array([-np.inf if bound is None else bound for bound in self.least])
        enough = np.greater_equal(self.measure(patches), least)
        return np.asarray(np.any(np.all(enough, axis=2), axis=1))

    def possible(self, coarse: Coarse, dtype: np.dtype[Any]) -> NDArray[np.bool_]:
        """Say where patches may pass; where they may not, none does.

        Parameters
        ----------
        coarse : Coarse
            A look at a block of pixels.
        dtype : numpy.dtype
            In which batches come.

        Returns
        -------
        ndarray of bool
            By tile, see `Coarse`.
        """
        bound = self._bound(coarse, dtype)
        if bound is None:
            return np.ones(coarse.shape, bool)
        chosen = bound if self.channel is None else bound[self.channel : self.channel + 1]
        return np.asarray(chosen.any(axis=0))

    def _bound(self, coarse: Coarse, dtype: np.dtype[Any]) -> NDArray[np.bool_] | None:
        """Where a channel may pass, ``(C, tiles)``, if a coarse look can tell."""
        del coarse, dtype
        return None

    def _rows(self, patches: NDArray[Any]) -> NDArray[Any]:
        """Return the pixels that are looked at, ``(N, C, pixels)``."""
        n, n_channels = patches.shape[:2]
        if self.channel is None:
            return patches.reshape(n, n_channels, -1)
        if self.channel >= n_channels:
            raise DataError(
                f"patch_filter: channel={self.channel}, but {n_channels} channel(s) are selected. "
                f"Give a number from 0 to {n_channels - 1}, or null to look at all."
            )
        return patches[:, self.channel : self.channel + 1].reshape(n, 1, -1)


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

    def _bound(self, coarse: Coarse, dtype: np.dtype[Any]) -> NDArray[np.bool_] | None:
        del dtype
        return _may_reach(coarse.high(), self.threshold)


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

    def _bound(self, coarse: Coarse, dtype: np.dtype[Any]) -> NDArray[np.bool_] | None:
        del dtype
        may = np.ones((len(coarse.block), *coarse.shape), bool)
        if self.mean is not None:
            may &= _may_reach(coarse.mean(), self.mean)
        if self.std is not None:
            may &= _may_reach(coarse.variance(), self.std**2)
        return may


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

    def passes(self, patches: NDArray[Any]) -> NDArray[np.bool_]:
        """See `PatchFilter.passes`."""
        rows = self._rows(patches[..., ::EVERY, ::EVERY])
        values = levels(rows.reshape(-1, rows.shape[2]))
        # Whole numbers of a given variance have at most the entropy of a Gaussian that is as
        # wide, about: that settles most background, which is noise, much faster than counting.
        passed = most_bits(moments(values)[1]) > self.bits - 1e-6
        passed[passed] = entropy(values[passed]) >= self.bits
        return np.asarray(passed.reshape(rows.shape[:2]).any(axis=1))

    def _bound(self, coarse: Coarse, dtype: np.dtype[Any]) -> NDArray[np.bool_] | None:
        if dtype.kind == "f":
            return None
        may = np.zeros((len(coarse.block), *coarse.shape), bool)
        for thin in coarse.thinned(EVERY):
            here = tuple(map(slice, (len(may), *thin.shape)))
            may[here] |= _may_reach(most_bits(thin.variance()), self.bits - 1e-6)
        return may


def _may_reach(bound: Values, least: float) -> NDArray[np.bool_]:
    """Whether a bound allows a value; what is not finite tells nothing."""
    return np.asarray((bound >= least) | ~np.isfinite(bound))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


def _check(name: str, value: Any, meaning: str) -> None:
    if value is None:
        raise DataError(f"patch_filter: {name} is not given. Give {meaning}.")
    if not _is_number(value):
        raise DataError(f"patch_filter: {name}={value!r}: give a number, {meaning}.")
