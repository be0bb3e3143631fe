"""Where a scene of a CZI was acquired: mosaics have gaps, experiments have missing planes."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from careamics_dm.formats._czi_directory import SubBlocks
    from careamics_dm.formats._czi_planes import SceneLayout

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""First pixel and one after the last, ``(Z) Y X``."""


class Coverage:
    """The boxes of each plane of a scene that were acquired.

    Inside, boxes of a plane are rows of an array: top, left, bottom, right.

    Parameters
    ----------
    blocks : SubBlocks
        Of the scene.
    layout : SceneLayout
        How its planes are numbered.
    """

    def __init__(self, blocks: SubBlocks, layout: SceneLayout) -> None:
        self.size = layout.size
        self.lengths = layout.lengths
        number = np.zeros(len(blocks), np.int64)
        for letter, indices in layout.dimensions:
            # Without the dimension, all lie at its one place.
            place = indices.places(blocks.index[letter]) if letter in blocks.index else 0
            number = number * len(indices) + place
        order = np.argsort(number, kind="stable")
        boxes = np.concatenate([blocks.start - layout.origin, blocks.stop - layout.origin], axis=1)
        self._boxes = boxes[order]
        planes = np.arange(int(np.prod(self.lengths)) + 1)
        self._first = np.searchsorted(number[order], planes)
        self._covers: dict[bytes, bool] = {}

    @property
    def is_simple(self) -> bool:
        """Whether every plane is one sub-block of the size of the image."""
        whole = (self._boxes == (0, 0, *self.size)).all()
        return bool(whole and (np.diff(self._first) == 1).all())

    def region(self, sample: int, channels: Sequence[int]) -> list[Box] | None:
        """Return the boxes of a sample that were acquired in all of some channels.

        Parameters
        ----------
        sample : int
            Index among the samples.
        channels : sequence of int
            Places of channels of the file.

        Returns
        -------
        list of box, or None
            Boxes may overlap; together they are what was acquired. None: everything was.
        """
        _, n_depth, _ = self.lengths
        planes = [self._common(sample, z, channels) for z in range(n_depth)]
        if all(self._is_covered(boxes) for boxes in planes):
            return None
        found: list[Box] = []
        runs = groupby(enumerate(planes), key=lambda item: item[1].tobytes())
        for _, run in runs:  # neighbours in depth with the same boxes
            members = [z for z, _ in run]
            for top, left, bottom, right in planes[members[0]].tolist():
                start, stop = (members[0], top, left), (members[-1] + 1, bottom, right)
                found.append((start, stop))
        return found

    def _common(self, sample: int, z: int, channels: Sequence[int]) -> NDArray[np.int64]:
        """Boxes of one plane that all channels have."""
        _, n_depth, n_channels = self.lengths
        common: NDArray[np.int64] | None = None
        for c in channels:
            plane = (sample * n_depth + z) * n_channels + c
            rows = self._boxes[self._first[plane] : self._first[plane + 1]]
            boxes = np.unique(rows, axis=0) if len(rows) > 1 else rows
            if common is None or np.array_equal(common, boxes):
                common = boxes
            else:
                common = _intersect(common, boxes)
        return np.empty((0, 4), np.int64) if common is None else common

    def _is_covered(self, boxes: NDArray[np.int64]) -> bool:
        key = boxes.tobytes()
        if key not in self._covers:
            self._covers[key] = _cover(boxes, self.size)
        return self._covers[key]


def _intersect(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Intersect each box with each other."""
    parts = [np.empty((0, 4), np.int64)]
    for box in ours:  # one by one: all pairs at once may not fit in memory
        start = np.maximum(box[:2], theirs[:, :2])
        stop = np.minimum(box[2:], theirs[:, 2:])
        parts.append(np.concatenate([start, stop], axis=1)[(start < stop).all(axis=1)])
    return np.unique(np.concatenate(parts), axis=0)


def _cover(boxes: NDArray[np.int64], size: tuple[int, int]) -> bool:
    """Whether boxes, which lie inside an image, leave no pixel of it out."""
    edges = np.unique(boxes[:, [0, 2]])
    if not len(boxes) or edges[0] > 0 or edges[-1] < size[0]:
        return False
    for top in edges[:-1]:  # between two edges, rows are alike
        row = boxes[(boxes[:, 0] <= top) & (boxes[:, 2] > top)]
        row = row[np.argsort(row[:, 1])]
        reached = np.maximum.accumulate(np.append(0, row[:, 3]))
        if (row[:, 1] > reached[:-1]).any() or reached[-1] < size[1]:
            return False
    return True
