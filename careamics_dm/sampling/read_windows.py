"""What is read in one go, numbered in the order of an epoch, without a table of all of it."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from careamics_dm.images.extent import Extent, Extents
from careamics_dm.images.region import Region
from careamics_dm.sampling.keyed_random import Numbers

T = TypeVar("T")

WINDOWS = 32
"""Windows that fit the pool: of each of 8 streams 2 serve while the next 2 are read."""


class Places(NamedTuple):
    """Where patches lie, a row each."""

    image: Numbers  # (N,) index of the stack
    sample: Numbers  # (N,) index along S
    start: Numbers  # (N, D) origin, pixels, (Z) Y X
    size: Numbers  # (N, D) size, pixels
    window: Numbers  # (N,) number of the read window that serves it
    crop: Numbers  # (N, 2 D) start and stop of what to keep of a tile; (N, 0) of other patches

    @classmethod
    def of_size(
        cls, size: Sequence[int], image: Numbers, sample: Numbers, start: Numbers, window: Numbers
    ) -> Self:
        """Return places of patches of one size, of which all is kept."""
        sizes = np.broadcast_to(np.array(size, np.int64), start.shape)
        return cls(image, sample, start, sizes, window, start[:, :0])

    def some(self, rows: slice | Numbers) -> Self:
        """Return some of the rows."""
        return type(self)(*(column[rows] for column in self))

    def region(self, row: int) -> Region:
        """Return the box of one patch."""
        return self.some(slice(row, row + 1)).reach()

    def reach(self) -> Region:
        """Return the box that all of the patches, which are of one window, need."""
        first, last = int(self.sample.min()), int(self.sample.max())
        start, stop = self.start.min(axis=0), (self.start + self.size).max(axis=0)
        ends = tuple(start.tolist()), tuple(stop.tolist())
        return Region(int(self.image[0]), first, *ends, last - first + 1)


class PlacePlan(ABC):
    """Places of an epoch, by number; of every epoch, unless ``is_random``.

    If there are ``ends``, batches end there, full or not: so a batch has tiles of one block only,
    and its result is the same in whichever order blocks are predicted.
    """

    is_random = False
    ends: Numbers = np.zeros(0, np.int64)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def places(self, numbers: Numbers) -> Places:
        """Return where patches lie."""

    @abstractmethod
    def region(self, window: int) -> Region:
        """Return what to read of a window."""

    def epoch(self, number: int) -> Self:
        """Return itself, or what it is in an epoch."""
        del number
        return self


class PatchList(PlacePlan):
    """Patches that are listed; ``rows``: image, sample and origin each."""

    def __init__(self, rows: Numbers, patch_size: Sequence[int]) -> None:
        self.rows, self.patch_size = rows[np.lexsort(rows.T[::-1])], tuple(patch_size)

    def __len__(self) -> int:
        return len(self.rows)

    def places(self, numbers: Numbers) -> Places:
        """Return where patches lie; each is read alone, as they may be far from each other."""
        rows = self.rows[numbers]
        return Places.of_size(self.patch_size, rows[:, 0], rows[:, 1], rows[:, 2:], numbers)

    def region(self, window: int) -> Region:
        """Return the box of a patch."""
        return self.places(np.array([window])).reach()


class Runs(NamedTuple):
    """Successive samples that are stored, and so read, together; a row for each run."""

    image: Numbers
    first: Numbers
    n: Numbers

    def having(self, of: Mapping[tuple[int, int], T]) -> dict[int, list[tuple[int, T]]]:
        """Return what is said of samples, by image and sample: by run, with the place in it.

        Runs must be in the order of images and samples.
        """
        begins = [*zip(self.image.tolist(), self.first.tolist(), strict=True)] if of else []
        found = defaultdict(list)
        for (image, sample), value in of.items():
            run = bisect_right(begins, (image, sample)) - 1
            if run >= 0 and image == self.image[run] and sample < self.first[run] + self.n[run]:
                found[run].append((sample - int(self.first[run]), value))
        return dict(found)


def sample_runs(
    extents: Sequence[Extent],
    chosen: NDArray[np.bool_] | None = None,
    together: Numbers | None = None,
) -> Runs:
    """List the runs of samples; of ``chosen`` ones only, image by image.

    ``together`` says for each image how many to read at once; by default, those stored together.
    """
    extents = Extents(extents)
    each = extents.each(lambda extent: extent.together) if together is None else together
    image, sample = extents.samples(chosen)
    begins = np.ones(len(image), bool)
    begins[1:] = (np.diff(image) != 0) | (np.diff(sample) != 1) | (sample % each[image] == 0)[1:]
    first = np.flatnonzero(begins)
    return Runs(image[first], sample[first], np.diff(first, append=len(image)))


class WindowTable:
    """Numbers of windows, run by run in the order of the epoch, and the bytes before each.

    ``first`` is the first window of each run and, at last, how many there are.
    """

    def __init__(self, n_windows: Numbers, window_bytes: Numbers) -> None:
        self.first = np.concatenate([[0], np.cumsum(n_windows)])
        self._until = np.concatenate([[0], np.cumsum(n_windows * window_bytes)])
        self._bytes = np.append(window_bytes, 0)

    def run_of(self, window: int) -> int:
        """Return the run of a window."""
        return int(np.searchsorted(self.first, window, side="right")) - 1

    def bytes_before(self, window: int) -> int:
        """Count the bytes of all windows before one."""
        run = self.run_of(window)
        return int(self._until[run] + (window - self.first[run]) * self._bytes[run])

    def window_from(self, n_bytes: int) -> int:
        """Return the first window that has so many bytes before it, or more."""
        run = int(np.searchsorted(self._until[:-1], n_bytes))
        if not run or not self._bytes[run - 1]:
            return int(self.first[run])
        number = -((self._until[run - 1] - n_bytes) // self._bytes[run - 1])
        return int(min(self.first[run - 1] + number, self.first[run]))
