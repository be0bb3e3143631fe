"""The base class of criteria for training patches; `criteria` has those that are built in."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.argument_checks import is_number, number


class Measured(NamedTuple):
    """What a criterion measured of patches, and what is asked for."""

    name: str
    least: float
    values: NDArray[np.float64]
    """``(N, C)``, of each channel that is judged."""


class PatchFilter(ABC):
    """A criterion for training patches; a subclass per criterion.

    A criterion of your own needs one method, `passes`::

        class NotSaturated(PatchFilter):
            def passes(self, patches):
                return patches.max(axis=(1, 2, 3)) < 4095

    Candidates are then drawn, cut and judged. A criterion that can judge all origins of an image
    at once, and so defines `passing_origins`, is much faster.

    Attributes
    ----------
    keep : float
        Probability of keeping a patch that is rejected, from 0 to below 1.
    channel : int or None
        Index, among the selected channels, of the one that is judged; ``None``: all are.
    marks_suffice : bool
        Whether every patch that `passing_origins` returns passes; else it is judged, too.
    """

    keep: float = 0.0
    channel: int | None = None
    marks_suffice: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check ``keep`` and ``channel`` of a dataclass; `DataError` if they make no sense."""
        if not is_number(self.keep) or not 0 <= self.keep < 1:
            raise DataError(
                f"patch_filter: keep={self.keep!r}: give the probability of keeping a patch that "
                "is rejected, from 0 to below 1."
            )
        number("patch_filter: channel", self.channel, 0, optional=True)

    @abstractmethod
    def passes(self, patches: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which patches meet the criterion.

        Parameters
        ----------
        patches : ndarray
            ``N C (Z) Y X``, finite, in the dtype in which batches come: as stored where torch has
            that dtype, else float32.

        Returns
        -------
        ndarray of bool
            ``(N,)``.
        """

    def passing_origins(
        self, pixels: NDArray[Any], size: Sequence[int]
    ) -> NDArray[np.bool_] | None:
        """Return, for all patches of an image at once, which may meet the criterion.

        Parameters
        ----------
        pixels : ndarray
            ``C (Z) Y X``, finite, in the dtype of batches.
        size : sequence of int
            Of a patch, ``(Z) Y X``, pixels.

        Returns
        -------
        ndarray of bool or None
            By origin, ``(Z) Y X``; ``None`` is all.
        """
        del pixels, size
        return None

    def measured(self, patches: NDArray[Any]) -> list[Measured]:
        """Return what was measured of patches, ``N C (Z) Y X``, for the message if none passes."""
        del patches
        return []

    def select(self, patches: NDArray[Any]) -> NDArray[Any]:
        """Return the channels of patches, ``N C (Z) Y X``, that are judged.

        `DataError` if the patches have no such ``channel``.
        """
        if self.channel is None:
            return patches
        n_channels = patches.shape[1]
        if self.channel >= n_channels:
            raise DataError(
                f"patch_filter: channel={self.channel}, but {n_channels} channel(s) are selected. "
                f"Give a number from 0 to {n_channels - 1}, or null to judge all."
            )
        return patches[:, self.channel : self.channel + 1]


def nothing_passes(criterion: PatchFilter, patches: Sequence[NDArray[Any]]) -> str:
    """Explain that no patch passes, of some from all over the data, ``1 C (Z) Y X`` each."""
    if not patches:
        return (
            "nan_policy=skip: each of the patches that were tried has NaN or infinity in it. "
            "Fix the files, or set nan_policy to zero."
        )
    of = "" if criterion.channel is None else f" of channel {criterion.channel}"
    lines = [
        f"{name}{of}: at least {least:g} is asked for; measured were "
        "{:.4g} to {:.4g}, quartiles {:.4g}, {:.4g} and {:.4g}, and ".format(
            *np.quantile(values, [0, 1, 0.25, 0.5, 0.75])
        )
        + f"{(values >= least).any(axis=1).mean():.0%} of the patches reach it"
        for name, least, values in criterion.measured(np.concatenate(patches))
    ]
    return (
        f"patch_filter: none of {len(patches)} patches, from all over the training data, passes. "
        f"{'; '.join(lines)}{'. ' if lines else ''}Ask for less, set channel to the one that "
        "shows the structure, or leave patch_filter out."
    )
