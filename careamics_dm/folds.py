"""Units of data that validate or train as a whole, and how they are dealt into folds."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING, Literal

import numpy as np

from careamics_dm.axes import DataError
from careamics_dm.names import absolute, file_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from careamics_dm.image_stack import ImageStack

Whole = Literal["samples", "images", "files"]

N_FOLDS = 10
"""Folds where nobody says how many; of fewer units, as many as there are."""
SMALLER = {"files": ("images", "samples"), "images": ("samples",), "samples": ()}
"""Units of which there may be more."""


def units(stacks: Sequence[ImageStack], kind: Whole) -> tuple[NDArray[np.int64], list[str]]:
    """Find the units of some images.

    Parameters
    ----------
    stacks : sequence of ImageStack
        The images. Those of one source (other channels of it) are one unit: they show the same.
    kind : {"samples", "images", "files"}
        What is a unit: each sample, each image, or all images in a file or container.

    Returns
    -------
    ndarray of int64
        The unit of each sample, image by image.
    list of str
        The units' names: paths below the folder that all files have in common, with ``/``.
    """
    files = [file_of(stack.source) for stack in stacks]
    root = os.path.commonpath({str(file.parent) for file in files})
    paths = files if kind == "files" else [absolute(stack.source) for stack in stacks]
    names = [path.relative_to(root).as_posix() for path in paths]
    samples = [stack.data_shape[0] for stack in stacks]
    known: dict[str, int] = {}
    if kind == "samples":
        each = [
            f"{name} sample {s}" for name, n in zip(names, samples, strict=True) for s in range(n)
        ]
        return np.array([known.setdefault(name, len(known)) for name in each]), [*known]
    of_image = np.array([known.setdefault(name, len(known)) for name in names])
    return np.repeat(of_image, samples), [*known]


def deal(names: Sequence[str], n_folds: int) -> NDArray[np.int64]:
    """Deal units into folds, by their names alone.

    Sorted by a digest of their names, they are dealt like cards. Their order, the seed and the
    process do not matter; but adding a unit may move others.

    Parameters
    ----------
    names : sequence of str
        Of the units, all different.
    n_folds : int
        How many.

    Returns
    -------
    ndarray of int64
        The fold of each unit. Folds differ in size by at most one.
    """
    # Not hash(): that is another one in every process.
    digests = [sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names]
    order = sorted(range(len(names)), key=lambda i: (digests[i], names[i]))
    fold = np.empty(len(names), np.int64)
    fold[order] = np.arange(len(names)) % n_folds
    return fold


def n_folds_of(names: Sequence[str], kind: Whole, n_folds: int | None, fold: int) -> int:
    """Return how many folds there are.

    Parameters
    ----------
    names : sequence of str
        Of the units.
    kind : {"samples", "images", "files"}
        What they are, for messages.
    n_folds : int or None
        As asked for; by default `N_FOLDS`, or as many as there are units.
    fold : int
        The one that validates.

    Raises
    ------
    DataError
        Fewer units than folds, a single one, or no such fold.
    """
    n = len(names)
    if n < 2:
        raise DataError(
            f"train_data: hold_out={kind} needs 2 {kind} or more, one to validate and one to train "
            f"on, but there is only {names[0]}. Set hold_out to "
            f"{' or '.join([*SMALLER[kind], 'patches'])}, or give val_data."
        )
    if n_folds is not None and n_folds > n:
        smaller = f", or set hold_out to {' or '.join(SMALLER[kind])}" if SMALLER[kind] else ""
        raise DataError(
            f"train_data: n_folds={n_folds}, but there are only {n} {kind} to deal into folds. Use "
            f"at most {n} folds{smaller}."
        )
    found = min(N_FOLDS, n) if n_folds is None else n_folds
    if fold >= found:
        raise DataError(
            f"train_data: fold={fold}, but {n} {kind} make {found} folds, from 0 to {found - 1}."
        )
    return found
