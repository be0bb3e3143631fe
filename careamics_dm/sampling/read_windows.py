"""What is read in one go, numbered in the order of an epoch, without a table of all of it."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from careamics_dm.images.extent import Extent
from careamics_dm.images.region import Region
from careamics_dm.sampling.keyed_random import Numbers

WINDOWS = 32
"""Windows that fit the pool: of each of 8 streams 2 serve while the next 2 are read."""


class Places(NamedTuple):
    """Where patches lie, a row each."""

    image: Numbers
    """``(N,)`` index of the stack."""
    sample: Numbers
    """``(N,)`` index along ``S``."""
    start: Numbers
    """``(N, D)`` origin, pixels, ``(Z) Y X``."""
    size: Numbers
    """``(N, D)`` size, pixels."""
    window: Numbers
    """``(N,)`` number of the read window that serves it."""
    crop: Numbers
    """``(N, 2 D)`` start and stop of what to keep of a tile; ``(N, 0)`` of other patches."""


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

    def region(self, window: int, *, whole: bool = False) -> Region:
        """Return the box of a patch."""
        del whole
        return reach(self.places(np.array([window])))


class Runs(NamedTuple):
    """Successive samples that are stored, and so read, together; a row for each run."""

    image: Numbers
    first: Numbers
    n: Numbers


def sample_runs(
    extents: Sequence[Extent],
    chosen: NDArray[np.bool_] | None = None,
    together: Sequence[int] | None = None,
) -> Runs:
    """List the runs of samples; of ``chosen`` ones only, image by image.

    ``together`` says for each image how many to read at once; by default, those stored together.
    """
    samples = np.array([extent.samples for extent in extents], np.int64)
    each = np.array(together or [extent.together for extent in extents], np.int64)
    image = np.repeat(np.arange(len(extents)), samples)
    sample = np.arange(len(image)) - np.repeat(np.cumsum(samples) - samples, samples)
    if chosen is not None:
        image, sample = image[chosen], sample[chosen]
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

    def run_of(self, window: Numbers) -> Numbers:
        """Return the run of each window."""
        return np.searchsorted(self.first, window, side="right") - 1

    def bytes_before(self, window: int) -> int:
        """Count the bytes of all windows before one."""
        run = int(self.run_of(np.array(window)))
        rest = window - self.first[run]
        return int(self._until[run] + (rest * self._bytes[run] if rest else 0))

    def window_from(self, n_bytes: int) -> int:
        """Return the first window that has so many bytes before it, or more."""
        run = int(np.searchsorted(self._until[:-1], n_bytes))
        if not run or not self._bytes[run - 1]:
            return int(self.first[run])
        number = -((self._until[run - 1] - n_bytes) // self._bytes[run - 1])
        return int(min(self.first[run - 1] + number, self.first[run]))
