"""Streams: an epoch is cut into runs of places, each of which one rank reads, block by block.

Patch number ``k`` of an epoch is of stream ``k % n``. A batch of all ranks together is the next
patches of all streams in turn; of W ranks, rank r serves the streams r, r + W, r + 2 W, ...
So the same patches make a batch of 1, 2, 4 or 8 ranks, and of any number of workers. Other numbers
of ranks need other streams (see `count_streams`), and draw other patches.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import lcm
from typing import NamedTuple

import numpy as np

from careamics_dm.sampling.keyed_random import Numbers, mixed, permuted
from careamics_dm.sampling.patch_grid import PORTION, PatchGrid
from careamics_dm.sampling.random_patches import RandomEpoch

STREAMS = 8
"""Of an epoch, as a rule; see `count_streams`."""
UNBOUNDED = 2**60
"""More bytes, and places, than an epoch has: a block of this size holds all places of a stream."""
RECENT = 64
"""Blocks of a stream whose ends are remembered: reading and drawing ask in turns."""


class Share(NamedTuple):
    """The rank of a process, and the number of ranks."""

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


class Block(NamedTuple):
    """Places of a stream that are drawn in random order."""

    first: int  # position in the stream of the first
    stop: int


@dataclass
class Stream:
    """One stream of an epoch; ``n`` are its places."""

    epoch: RandomEpoch | PatchGrid
    number: int
    n_streams: int
    key: np.uint64  # of the order within blocks
    window_bytes: int  # of the first block; the next ones grow, so that the first batch comes soon
    growth: int  # the largest block has so many window_bytes, a power of 2

    def __post_init__(self) -> None:
        each, rest = divmod(len(self.epoch), self.n_streams)
        self._first = self.number * each + min(self.number, rest)
        self.n = each + (self.number < rest)
        window = self.epoch.windows(np.array([self._first]))[0] if self.n else 0
        self._bytes_before = self.epoch.table.bytes_before(int(window))
        self._ends: dict[int, int] = {}

    def others(self) -> Iterator["Stream"]:
        """Yield the other streams of the epoch, from the next one on."""
        for step in range(1, self.n_streams):
            yield replace(self, number=(self.number + step) % self.n_streams)

    def blocks(self, position: int, until: int = UNBOUNDED) -> Iterator[Block]:
        """Yield the blocks of the stream that have positions from one to below another."""
        table = self.epoch.table
        n_bytes = table.bytes_before(int(table.first[-1])) - self._bytes_before
        most = n_bytes // self.window_bytes + 1  # none has less than a unit
        block = bisect_right(range(most), position, key=self._end)
        first = self._end(block - 1)
        while max(first, position) < min(until, self.n):
            stop = self._end(block)
            if stop > first:
                yield Block(first, stop)
            first, block = max(first, stop), block + 1

    def marks(self, block: Block, positions: Numbers) -> Numbers:
        """Return the numbers in the epoch of positions of a block."""
        mark = self._first + block.first
        key = mixed(self.key, np.array([mark]))[0]
        return mark + permuted(key, positions - block.first, block.stop - block.first)

    def windows(self, block: Block) -> list[int]:
        """Return the windows that serve a block."""
        first, stop = (self._first + position for position in block)
        parts = [np.arange(a, min(a + PORTION, stop)) for a in range(first, stop, PORTION)]
        found: set[int] = set()
        return sorted(found.union(*(np.unique(self.epoch.windows(p)).tolist() for p in parts)))

    def _end(self, block: int) -> int:
        """Return the position after a block."""
        if block not in self._ends:
            if len(self._ends) == RECENT:
                self._ends.clear()
            self._ends[block] = self._find_end(block)
        return self._ends[block]

    def _find_end(self, block: int) -> int:
        """Find where a block ends; they have 1, 1, 2, 4, ... units, then ``growth``."""
        if block < 0:
            return 0
        steps = self.growth.bit_length()
        n_units = 2**block if block < steps else self.growth * (block - steps + 2)
        n_bytes = self._bytes_before + n_units * self.window_bytes
        mark = self.epoch.first(self.epoch.table.window_from(n_bytes))
        return min(max(mark - self._first, 0), self.n)
