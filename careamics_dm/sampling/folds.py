"""Units of data that validate or train as a whole, and how they are dealt into folds."""

import os
from collections.abc import Sequence
from hashlib import sha256
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from careamics_dm.images.image_stack import ImageStack
from careamics_dm.sources.source_path import absolute, file_of

Whole = Literal["samples", "images", "files"]


def units(stacks: Sequence[ImageStack], kind: Whole) -> tuple[NDArray[np.int64], list[str]]:
    """Return the unit of each sample, image by image, and the units' names.

    Images of one source (other channels of it) are one unit. Names are paths below the folder that
    all files have in common, with ``/``.
    """
    files = [file_of(stack.source) for stack in stacks]
    root = os.path.commonpath({str(file.parent) for file in files})
    paths = files if kind == "files" else [absolute(stack.source) for stack in stacks]
    names = [path.relative_to(root).as_posix() for path in paths]
    each = [
        f"{name} sample {s}" if kind == "samples" else name
        for name, stack in zip(names, stacks, strict=True)
        for s in range(stack.data_shape[0])
    ]
    number = {name: i for i, name in enumerate(dict.fromkeys(each))}
    return np.array([number[name] for name in each]), [*number]


def deal(names: Sequence[str], n_folds: int) -> NDArray[np.int64]:
    """Return the fold of each unit, by names alone; folds differ in size by at most one.

    Sorted by a digest of their names, units are dealt like cards. Their order, the seed and the
    process do not matter; but adding a unit may move others.
    """
    # Not hash(): that is another one in every process.
    digests = [sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names]
    order = sorted(range(len(names)), key=lambda i: (digests[i], names[i]))
    fold = np.empty(len(names), np.int64)
    fold[order] = np.arange(len(names)) % n_folds
    return fold
