"""Origins of patches that masks or filters allow, a bit each."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from careamics_dm.valid_origins import origins_near

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray


GROUP = 32
"""Bytes of a group of origins: 8 bytes of counts for each make a quarter more memory."""
FIRST_BIT = np.uint8(128)


class OriginMask:
    """The allowed origins of one sample, a bit each.

    A patch may be drawn where the mask is non-zero at the patch's central pixel (index
    ``size // 2`` along each axis; the central pixel of an axis that is shorter than the patch).
    Origins are drawn exactly uniformly, without rejection, so a sparse mask costs no more than a
    full one.

    Parameters
    ----------
    mask : ndarray
        ``(Z) Y X``; non-zero may be sampled.
    patch_size : sequence of int
        ``(Z) Y X``, pixels.
    """

    def __init__(self, mask: NDArray[Any], patch_size: Sequence[int]) -> None:
        centre = tuple(
            slice(p // 2, p // 2 + max(n - p, 0) + 1) if n >= p else slice(n // 2, n // 2 + 1)
            for n, p in zip(mask.shape, patch_size, strict=True)
        )
        self.patch_size = tuple(patch_size)
        allowed = mask[centre] != 0
        self._clear(allowed.shape)
        self.allow(0, allowed)
        self.count()

    @classmethod
    def none(cls, shape: Sequence[int], patch_size: Sequence[int]) -> OriginMask:
        """Forbid all of ``shape`` origins, to `allow` some and then `count` them."""
        mask = cls.__new__(cls)
        mask.patch_size = tuple(patch_size)
        mask._clear(shape)
        return mask

    def _clear(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        # Bits of all origins in a row, in groups that are counted and searched as one.
        self._bits = np.zeros((-(-prod(self.shape) // (8 * GROUP)), GROUP), np.uint8)

    def allow(self, first: int, allowed: NDArray[np.bool_]) -> None:
        """Allow origins of a slab that begins at ``first``, a multiple of 8, on the first axis."""
        bits = np.packbits(allowed.reshape(-1))
        begin = first * prod(self.shape[1:]) // 8
        self._bits.reshape(-1)[begin : begin + len(bits)] |= bits

    def intersect(self, other: OriginMask) -> None:
        """Forbid what another mask of the same origins forbids; `count` afterwards."""
        self._bits &= other._bits

    def count(self) -> None:
        """Count what is allowed, so that origins can be drawn."""
        counts = np.bitwise_count(self._bits).sum(axis=1, dtype=np.int64)
        self._until = np.concatenate([[0], np.cumsum(counts)])

    @property
    def n_origins(self) -> int:
        """How many origins there are."""
        return prod(self.shape)

    @property
    def n_allowed(self) -> int:
        """How many are allowed."""
        return int(self._until[-1])

    def exclude(self, boxes: Iterable[tuple[Sequence[int], Sequence[int]]]) -> None:
        """Forbid every origin whose patch would overlap one of these boxes of pixels."""
        flat = self._bits.reshape(-1)
        for box in boxes:
            start, stop = origins_near(box, self.patch_size, self.shape)
            near = [np.arange(a, b) for a, b in zip(start, stop, strict=True)]
            origin = np.ravel_multi_index(np.ix_(*near), self.shape).reshape(-1)
            np.bitwise_and.at(flat, origin >> 3, ~(FIRST_BIT >> (origin & 7).astype(np.uint8)))
        self.count()

    def allows(self, starts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of ``(N, D)`` origins is allowed."""
        origin = np.ravel_multi_index(tuple(starts.T), self.shape)
        bits = self._bits.reshape(-1)[origin >> 3] & (FIRST_BIT >> (origin & 7).astype(np.uint8))
        allowed: NDArray[np.bool_] = bits != 0
        return allowed

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw ``(n, D)`` allowed origins, all equally likely."""
        if n == 0:
            return np.zeros((0, len(self.shape)), np.int64)
        rank = rng.integers(self.n_allowed, size=n)
        place = np.empty(n, np.int64)
        for i in range(0, n, 4096):  # bounded memory
            place[i : i + 4096] = self._numbers(rank[i : i + 4096])
        return np.stack(np.unravel_index(place, self.shape), axis=1)

    def _numbers(self, rank: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find allowed origins by their rank among these: numbers among all origins."""
        group = np.searchsorted(self._until, rank, side="right") - 1
        seen = np.cumsum(np.unpackbits(self._bits[group], axis=1), axis=1, dtype=np.int16)
        within = rank - self._until[group]
        return np.asarray(group * (8 * GROUP) + (seen > within[:, None]).argmax(axis=1))


class KeptOrigins:
    """Origins that a filter passes, and others that are drawn a part as often.

    Parameters
    ----------
    passing, rejected : OriginMask
        No origin is in both.
    keep : float
        How likely one of the rejected origins is, compared to one that passes.
    """

    def __init__(self, passing: OriginMask, rejected: OriginMask, keep: float) -> None:
        self.passing, self.rejected, self.keep = passing, rejected, keep

    @property
    def n_origins(self) -> int:
        """How many origins there are."""
        return self.passing.n_origins

    @property
    def n_allowed(self) -> float:
        """How many are allowed, in effect: a rejected one counts as a part."""
        return self.passing.n_allowed + self.keep * self.rejected.n_allowed

    def allows(self, starts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of ``(N, D)`` origins may be drawn at all."""
        return self.passing.allows(starts) | self.rejected.allows(starts)

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw ``(n, D)`` origins."""
        share = self.passing.n_allowed / (self.n_allowed or 1)
        passing = rng.random(n) < share
        starts = np.empty((n, len(self.passing.shape)), np.int64)
        for mask, mine in ((self.passing, passing), (self.rejected, ~passing)):
            starts[mine] = mask.draw(int(mine.sum()), rng)
        return starts
