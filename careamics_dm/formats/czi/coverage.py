"""Where a scene of a CZI was acquired: mosaics have gaps, experiments have missing planes."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from careamics_dm.formats.czi.directory import SubBlocks
from careamics_dm.formats.czi.layout import SceneLayout
from careamics_dm.images.boxes import Boxes, common, gaps


class Coverage:
    """The boxes of each plane of a scene that were acquired.

    Inside, boxes of a plane are rows of an array: top, left, bottom, right.
    """

    def __init__(self, blocks: SubBlocks, layout: SceneLayout) -> None:
        self.size = layout.size
        self.lengths = layout.lengths
        number = np.zeros(len(blocks), np.int64)
        for letter, indices in layout.dimensions:
            # Without the dimension, all lie at its one place.
            found = blocks.index.get(letter, indices[0])
            number = number * len(indices) + np.searchsorted(np.array(indices), found)
        order = np.argsort(number, kind="stable")
        boxes = np.concatenate([blocks.start - layout.origin, blocks.stop - layout.origin], axis=1)
        self._boxes = boxes[order]
        planes = np.arange(int(np.prod(self.lengths)) + 1)
        self._first = np.searchsorted(number[order], planes)
        self._found: dict[frozenset[bytes], Boxes | None] = {}

    @property
    def is_simple(self) -> bool:
        """Whether every plane is one sub-block of the size of the image."""
        whole = (self._boxes == (0, 0, *self.size)).all()
        return bool(whole and (np.diff(self._first) == 1).all())

    def region(self, sample: int, channels: Sequence[int]) -> Boxes | None:
        """Return the boxes, ``Z Y X``, of a sample that were acquired in all of some channels.

        They may overlap; together they are what was acquired. ``None``: everything was.
        """
        planes = [self._common(sample, z, channels) for z in range(self.lengths[1])]
        if all(boxes is None for boxes in planes):
            return None
        found: Boxes = []
        # Neighbours in depth with the same boxes are one.
        for _, run in groupby(enumerate(planes), key=lambda item: id(item[1])):
            members = list(run)
            first, last, boxes = members[0][0], members[-1][0], members[0][1]
            for start, stop in [((0, 0), self.size)] if boxes is None else boxes:
                found.append(((first, *start), (last + 1, *stop)))
        return found

    def _common(self, sample: int, z: int, channels: Sequence[int]) -> Boxes | None:
        """Boxes of one plane that all channels have; None: all of the plane."""
        _, n_depth, n_channels = self.lengths
        first = (sample * n_depth + z) * n_channels
        rows = [self._boxes[self._first[first + c] : self._first[first + c + 1]] for c in channels]
        key = frozenset(boxes.tobytes() for boxes in rows)
        if key not in self._found:  # most planes are alike
            regions: list[Boxes] = [
                [((top, left), (bottom, right)) for top, left, bottom, right in boxes.tolist()]
                for boxes in rows
            ]
            if len(key) == 1:
                self._found[key] = regions[0] if gaps(regions[0], self.size) else None
            else:
                self._found[key] = common(regions, self.size)
        return self._found[key]
