"""Patches, copied out of the regions that hold them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray


def batch_dtype(stored: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
    """Dtype of a batch: as stored where no wider than float32, which it becomes anyway."""
    dtype = np.result_type(*stored)
    kept = {np.dtype(t) for t in ("u1", "i1", "u2", "i2", "f2", "f4")}
    return dtype if dtype in kept else np.dtype(np.float32)


def copy_boxes(
    block: NDArray[Any],
    rows: Sequence[int],
    at: Sequence[Sequence[int]],
    size: Sequence[int],
    out: NDArray[Any],
) -> None:
    """Copy boxes of a block into rows of a batch.

    Parameters
    ----------
    block : ndarray
        ``S C (Z) Y X``.
    rows : sequence of int
        Which rows of ``at`` and ``out`` lie in this block.
    at : sequence of sequence of int
        Sample and origin of each row, ``S (Z) Y X``, within its block.
    size : sequence of int
        ``(Z) Y X``, pixels.
    out : ndarray
        ``N C (Z) Y X``; what is beyond its dtype becomes infinite, to be told as such.
    """
    if block.dtype == np.float64:
        with np.errstate(over="ignore"):
            _copy(block, rows, at, size, out)
    else:
        _copy(block, rows, at, size, out)


def _copy(
    block: NDArray[Any],
    rows: Sequence[int],
    at: Sequence[Sequence[int]],
    size: Sequence[int],
    out: NDArray[Any],
) -> None:
    """Copy; a plain loop is the fastest gather that NumPy has."""
    if len(size) == 2:
        h, w = size
        for i in rows:
            s, y, x = at[i]
            out[i] = block[s, :, y : y + h, x : x + w]
    else:
        d, h, w = size
        for i in rows:
            s, z, y, x = at[i]
            out[i] = block[s, :, z : z + d, y : y + h, x : x + w]


def groups(region: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Tell rows apart by their region.

    Parameters
    ----------
    region : ndarray of int64
        ``(N,)``.

    Yields
    ------
    region : int
        Each, ascending.
    rows : ndarray of int64
        Its rows.
    """
    order = np.argsort(region, kind="stable")
    ordered = region[order]
    ends = (np.flatnonzero(ordered[1:] != ordered[:-1]) + 1).tolist()
    for a, b in pairwise([0, *ends, len(order)]):
        if a < b:
            yield int(ordered[a]), order[a:b]


def per_patch(good: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether all of a patch is good."""
    return np.asarray(good.reshape(len(good), -1).all(axis=1))
