"""What is read in one go, numbered in the order of an epoch, without a table of all of it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from careamics_dm.images.extent import Extent, Extents
from careamics_dm.images.region import Region
from careamics_dm.sampling.keyed_random import Numbers

T = TypeVar("T")

MOST_SAMPLES = 2**32
"""Of an image: it and the sample make one number."""
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


def reach(places: Places) -> Region:
    """Return the box that patches of one window need."""
    first, last = int(places.sample.min()), int(places.sample.max())
    start, stop = places.start.min(axis=0), (places.start + places.size).max(axis=0)
    ends = tuple(start.tolist()), tuple(stop.tolist())
    return Region(int(places.image[0]), first, *ends, last - first + 1)


class PatchList:
    """Patches that are listed, by image, sample and position: the same in every epoch."""

    is_random: ClassVar[bool] = False

    def __init__(
        self, image: Numbers, sample: Numbers, start: Numbers, patch_size: Sequence[int]
    ) -> None:
        order = np.lexsort((*start.T[::-1], sample, image))
        self.image, self.sample, self.start = image[order], sample[order], start[order]
        self.patch_size = tuple(patch_size)

    def __len__(self) -> int:
        return len(self.image)

    def epoch(self, number: int) -> Self:
        """Return itself."""
        del number
        return self

    def places(self, numbers: Numbers) -> Places:
        """Return where patches lie; each is read alone, as they may be far from each other."""
        start = self.start[numbers]
        size = np.broadcast_to(np.array(self.patch_size), start.shape)
        image, sample = self.image[numbers], self.sample[numbers]
        return Places(image, sample, start, size, numbers, start[:, :0])

    def region(self, window: int) -> Region:
        """Return the box of a patch."""
        return reach(self.places(np.array([window])))


class Runs(NamedTuple):
    """Successive samples that are stored, and so read, together; a row for each run."""

    image: Numbers
    first: Numbers
    n: Numbers

    def having(self, of: Mapping[tuple[int, int], T]) -> dict[int, list[tuple[int, T]]]:
        """Return what is said of samples, by image and sample: by run, with the place in it.

        Runs must be in the order of images and samples.
        """
        begin, found = self.image * MOST_SAMPLES + self.first, defaultdict(list)
        for (image, sample), value in of.items():
            place = image * MOST_SAMPLES + sample
            run = int(begin.searchsorted(place, side="right")) - 1
            if run >= 0 and place - begin[run] < self.n[run]:
                found[run].append((int(place - begin[run]), value))
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
        self._bytes = window_bytes

    def run_of(self, window: int) -> int:
        """Return the run of a window."""
        return int(np.searchsorted(self.first, window, side="right")) - 1

    def bytes_before(self, window: int) -> int:
        """Count the bytes of all windows before one."""
        run = self.run_of(window)
        rest = window - self.first[run]
        return int(self._until[run] + (rest * self._bytes[run] if rest else 0))

    def window_from(self, n_bytes: int) -> int:
        """Return the first window that has so many bytes before it, or more."""
        run = int(np.searchsorted(self._until[:-1], n_bytes))
        if not run or not self._bytes[run - 1]:
            return int(self.first[run])
        number = -((self._until[run - 1] - n_bytes) // self._bytes[run - 1])
        return int(min(self.first[run - 1] + number, self.first[run]))
