"""What a criterion for training patches is; `filters` has those that there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import isfinite
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from careamics_dm.axes import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    Values = NDArray[np.float64]


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
        if not is_number(self.keep) or not 0 <= self.keep < 1:
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

    def passing(self, pixels: NDArray[Any], size: Sequence[int]) -> NDArray[np.bool_] | None:
        """Say for all patches of an image at once which pass.

        Pixels in memory are looked at once, before training, if a filter knows how.

        Parameters
        ----------
        pixels : ndarray
            ``C (Z) Y X``, finite, in the dtype of batches.
        size : sequence of int
            Of a patch, ``(Z) Y X``, pixels.

        Returns
        -------
        ndarray of bool or None
            By origin, ``(Z) Y X``; ``None`` if that can't be told.
        """
        del pixels, size
        return None

    def may_pass(self, pixels: NDArray[Any], size: Sequence[int]) -> NDArray[np.bool_] | None:
        """Say for bunches of neighbouring origins whether any of their patches may pass.

        Patches elsewhere are not even cut, which makes most of the speed where few pass; see
        `bunches`.

        Parameters
        ----------
        pixels : ndarray
            ``C (Z) Y X``, in the dtype of batches; may have NaN or infinity, near which patches
            count as if they may pass.
        size : sequence of int
            Of a patch, ``(Z) Y X``, pixels.

        Returns
        -------
        ndarray of bool or None
            By bunch, ``(Z) Y X``; ``None`` if that can't be told.
        """
        del pixels, size
        return None

    def _chosen(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return the channels that are looked at, ``C ...``."""
        n_channels = len(pixels)
        if self.channel is None:
            return pixels
        if self.channel >= n_channels:
            raise DataError(
                f"patch_filter: channel={self.channel}, but {n_channels} channel(s) are selected. "
                f"Give a number from 0 to {n_channels - 1}, or null to look at all."
            )
        return pixels[self.channel : self.channel + 1]

    def _rows(self, patches: NDArray[Any]) -> NDArray[Any]:
        """Return the pixels that are looked at, ``(N, C, pixels)``."""
        chosen = self._chosen(np.moveaxis(patches, 1, 0))
        return np.moveaxis(chosen, 0, 1).reshape(len(patches), len(chosen), -1)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


def nothing_passes(criterion: PatchFilter, patches: Iterable[Sequence[NDArray[Any]]]) -> str:
    """Say what patches, ``1 C (Z) Y X`` of each side, are like if none passes, and what to do."""
    measured = [criterion.measure(image) for image, *_ in patches]
    if not measured:
        return (
            "nan_policy=skip: each of the patches that were looked at has NaN or infinity in it. "
            "Mend the files, or set nan_policy to zero."
        )
    values = np.concatenate(measured)
    of = "" if criterion.channel is None else f" of channel {criterion.channel}"
    lines = []
    for name, least, found in zip(
        criterion.quantities, criterion.least, np.moveaxis(values, 2, 0), strict=True
    ):
        if least is not None:
            low, first, half, third, high = np.quantile(found, [0, 0.25, 0.5, 0.75, 1]).tolist()
            share = float((found >= least).any(axis=1).mean())
            lines.append(
                f"{name}{of}: at least {least:g} is asked for; measured were {low:.4g} to "
                f"{high:.4g}, quartiles {first:.4g}, {half:.4g} and {third:.4g}, and {share:.0%} "
                "of the patches reach it"
            )
    return (
        f"patch_filter: none of {len(values)} patches, from all over the training data, passes. "
        f"{'; '.join(lines)}. Ask for less, set channel to the one that shows the structure, or "
        "leave patch_filter out."
    )
