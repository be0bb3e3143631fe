"""A stack of someone else's, that tells what is asked of it."""

from __future__ import annotations

import weakref
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


class RecordingStack:
    """The six members of the contract, nothing inherited, over pixels ``S C (Z) Y X``.

    Attributes
    ----------
    reads : list
        Of ``(sample, start, stop)``.
    live, most_live : int
        Bytes handed out that someone still holds, now and at most, over all stacks of a ledger.
    """

    def __init__(self, pixels, source="recording", block=None, ledger=None, fail=False):
        self.pixels = pixels
        self.source = source
        self.data_shape = pixels.shape
        self.data_dtype = pixels.dtype
        self.original_axes = "SCZYX" if pixels.ndim == 5 else "SCYX"
        self.original_data_shape = pixels.shape
        self.reads: list[tuple[int, tuple[int, ...], tuple[int, ...]]] = []
        self.ledger = ledger or Ledger()
        self.fail = fail
        self.closed = 0
        if block is not None:
            self.block_shape = block

    def extract_patch(
        self,
        sample_idx: int,
        channels: Sequence[int] | None,
        coords: Sequence[int],
        patch_size: Sequence[int],
    ) -> Any:
        stop = tuple(a + n for a, n in zip(coords, patch_size, strict=True))
        self.reads.append((sample_idx, tuple(coords), stop))
        if self.fail:
            raise RuntimeError("the disk is gone")
        size = self.data_shape[2:]
        assert all(0 <= a < b <= n for a, b, n in zip(coords, stop, size, strict=True))
        box = tuple(slice(a, b) for a, b in zip(coords, stop, strict=True))
        patch = self.pixels[(sample_idx, slice(None), *box)]
        patch = np.array(patch if channels is None else patch[list(channels)])
        self.ledger.take(patch)
        return patch

    def close(self) -> None:
        self.closed += 1


class Ledger:
    """Counts the bytes of arrays that are still alive."""

    def __init__(self):
        self.live = self.most_live = 0
        self.lock = Lock()

    def take(self, array):
        self._add(array.nbytes)
        weakref.finalize(array, self._add, -array.nbytes)

    def _add(self, n):
        with self.lock:
            self.live += n
            self.most_live = max(self.most_live, self.live)

    def __reduce__(self):
        return Ledger, ()  # a process counts for itself
