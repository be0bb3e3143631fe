"""Streams: an epoch is cut into runs of places, each of which one rank reads, block by block.

Patch number ``k`` of an epoch is of stream ``k % n``. A batch of all ranks together is the next
patches of all streams in turn; of W ranks, rank r serves the streams r, r + W, r + 2 W, ...
So the same patches make a batch of 1, 2, 4 or 8 ranks, and of any number of workers. Other numbers
of ranks need other streams (see `count_streams`), and draw other patches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import lcm
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from careamics_dm.images.region import Region
from careamics_dm.sampling.keyed_random import mixed, permuted
from careamics_dm.sampling.read_windows import Places, WindowTable

Numbers = NDArray[np.int64]

STREAMS = 8
"""Of an epoch, as a rule; see `count_streams`."""
PORTION = 2**16
"""Places whose windows are looked up together."""


@dataclass(frozen=True)
class Share:
    """Who I am among ranks."""

    rank: int = 0
    world_size: int = 1


def count_streams(share: Share, window_bytes: int, pool_bytes: int) -> int:
    """Count the streams of an epoch, whose largest window has so many bytes.

    8; fewer if one window per stream does not fit in half of the pool; and always a multiple of the
    number of ranks, so that each serves equally many: 24 for 3 ranks.
    """
    n = STREAMS
    while n > 1 and n * window_bytes > pool_bytes // 2:
        n //= 2
    return lcm(n, share.world_size)


class Epoch(Protocol):
    """The places of an epoch, in the order of the windows that serve them."""

    @property
    def table(self) -> WindowTable:
        """Windows in that order."""

    def __len__(self) -> int:
        """Count places."""
        ...

    def windows(self, marks: Numbers) -> Numbers:
        """Return the window of each place."""
        ...

    def places(self, marks: Numbers) -> Places:
        """Return places by number."""
        ...

    def first(self, window: int) -> int:
        """Return the first place in a window, or after it."""
        ...

    def region(self, window: int, *, whole: bool = False) -> Region:
        """Return what is to be read of a window."""
        ...


class Block(NamedTuple):
    """Places of a stream that are drawn in random order."""

    first: int
    """Position in the stream of the first."""
    stop: int
    mark: int
    """Number in the epoch of the first."""


class Stream:
    """One stream of an epoch.

    Parameters
    ----------
    epoch : Epoch
        All places.
    number, n_streams : int
        Which of how many.
    key : uint64
        Of the order within blocks.
    window_bytes : int or None
        Bytes of the first block; the next ones grow, so that the first batch comes soon.
        ``None``: all places of the stream are one block.
    growth : int or None
        The largest block has so many ``window_bytes``, a power of 2; ``None``: no bound.
    """

    def __init__(
        self,
        epoch: Epoch,
        number: int,
        n_streams: int,
        key: np.uint64,
        window_bytes: int | None,
        growth: int | None,
    ) -> None:
        self.epoch, self.number, self._key = epoch, number, key
        self._unit, self._growth, self._n_streams = window_bytes, growth, n_streams
        each, rest = divmod(len(epoch), n_streams)
        self._first = number * each + min(number, rest)
        self.n = each + (number < rest)
        self._bytes_before = 0
        if self.n and window_bytes is not None:
            self._bytes_before = self._bytes_at(0)

    def others(self) -> Iterator["Stream"]:
        """Yield the other streams of the epoch, from the next one on."""
        for step in range(1, self._n_streams):
            number = (self.number + step) % self._n_streams
            yield Stream(self.epoch, number, self._n_streams, self._key, self._unit, self._growth)

    def blocks(self, position: int) -> Iterator[Block]:
        """Yield the blocks of the stream from the one that has a position on."""
        block = 0
        if self._unit is not None and position < self.n:
            unit = (self._bytes_at(position) - self._bytes_before) // self._unit
            block = _block_of(unit, self._growth)
        first = self._end(block - 1)
        while first > position:  # where blocks meet, rounding decides
            block -= 1
            first = self._end(block - 1)
        while first < self.n:
            stop = self._end(block)
            if stop > max(first, position):
                yield Block(first, stop, self._first + first)
            first, block = max(first, stop), block + 1

    def marks(self, block: Block, first: int, stop: int) -> Numbers:
        """Return the numbers in the epoch of positions of a block, in the order of drawing."""
        key = mixed(self._key, np.array([block.mark]))[0]
        inside = np.arange(first - block.first, stop - block.first)
        return block.mark + permuted(key, inside, block.stop - block.first)

    def windows(self, block: Block) -> Numbers:
        """Return the windows that serve a block."""
        stop = block.mark + block.stop - block.first
        parts = [np.arange(a, min(a + PORTION, stop)) for a in range(block.mark, stop, PORTION)]
        return _different(np.concatenate([_different(self.epoch.windows(part)) for part in parts]))

    def _bytes_at(self, position: int) -> int:
        """Count the bytes of the windows of the epoch before the one of a position."""
        window = self.epoch.windows(np.array([self._first + position]))[0]
        return self.epoch.table.bytes_before(int(window))

    def _end(self, block: int) -> int:
        """Return the position after the last of a block."""
        if block < 0:
            return 0
        if self._unit is None:
            return self.n
        n_bytes = self._bytes_before + _end(block, self._growth) * self._unit
        mark = self.epoch.first(self.epoch.table.window_from(n_bytes))
        return min(max(mark - self._first, 0), self.n)


def _different(windows: Numbers) -> Numbers:
    """Return each of ascending numbers once."""
    found: Numbers = windows[np.flatnonzero(np.diff(windows, prepend=-1))]
    return found


def _block_of(unit: int, growth: int | None) -> int:
    """Return the block that has a unit: blocks have 1, 1, 2, 4, ... units, then ``growth`` each."""
    if growth is None or unit < growth:
        return unit.bit_length()
    return growth.bit_length() + (unit - growth) // growth


def _end(block: int, growth: int | None) -> int:
    """Return the unit after the last of a block."""
    if growth is None or block < growth.bit_length():
        return 1 << block
    return growth * (block - growth.bit_length() + 2)
