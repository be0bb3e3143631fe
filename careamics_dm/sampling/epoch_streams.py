"""Streams: an epoch is cut into runs of places, each of which one rank reads, block by block.

Patch number ``k`` of an epoch is of stream ``k % n``. A batch of all ranks together is the next
patches of all streams in turn; of W ranks, rank r serves the streams r, r + W, r + 2 W, ...
So the same patches make a batch of 1, 2, 4 or 8 ranks, and of any number of workers. Other numbers
of ranks need other streams (see `count_streams`), and draw other patches.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import lcm
from typing import NamedTuple

import numpy as np

from careamics_dm.sampling.keyed_random import Numbers, mixed, permuted
from careamics_dm.sampling.patch_grid import PatchGrid
from careamics_dm.sampling.random_patches import RandomEpoch

STREAMS = 8
"""Of an epoch, as a rule; see `count_streams`."""
UNBOUNDED = 2**60
"""More bytes than an epoch has: a block of this size holds all places of a stream."""
RECENT = 64
"""Blocks of a stream whose ends are remembered."""
PORTION = 2**16
"""Places whose windows are looked up together."""


class Share(NamedTuple):
    """The rank of a process, and the number of ranks."""

    rank: int = 0
    world_size: int = 1


def images_of_shard(shard: str | None, n: int) -> range:
    """Return which of ``n`` images one of several jobs predicts: "3/16" is the third of 16 jobs.

    Neighbours, which are mostly alike, go to different jobs.
    """
    job, n_jobs = map(int, (shard or "1/1").split("/"))
    return range(job - 1, n, n_jobs)


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
    mark: int  # number in the epoch of the first


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
        self._bytes_before = self._bytes_at(0) if self.n else 0
        self._ends: dict[int, int] = {}

    def others(self) -> Iterator["Stream"]:
        """Yield the other streams of the epoch, from the next one on."""
        for step in range(1, self.n_streams):
            yield replace(self, number=(self.number + step) % self.n_streams)

    def blocks(self, position: int) -> Iterator[Block]:
        """Yield the blocks of the stream from the one that has a position on."""
        if position >= self.n:
            return
        unit = (self._bytes_at(position) - self._bytes_before) // self.window_bytes
        block = _block_of(unit, self.growth)
        while (first := self._end(block - 1)) > position:  # where blocks meet, rounding decides
            block -= 1
        while first < self.n:
            stop = self._end(block)
            if stop > max(first, position):
                yield Block(first, stop, self._first + first)
            first, block = max(first, stop), block + 1

    def marks(self, block: Block, first: int, stop: int) -> Numbers:
        """Return the numbers in the epoch of positions of a block, in the order of drawing."""
        key = mixed(self.key, np.array([block.mark]))[0]
        inside = np.arange(first - block.first, stop - block.first)
        return block.mark + permuted(key, inside, block.stop - block.first)

    def windows(self, block: Block) -> Numbers:
        """Return the windows that serve a block."""
        stop = block.mark + block.stop - block.first
        parts = [np.arange(a, min(a + PORTION, stop)) for a in range(block.mark, stop, PORTION)]
        return np.unique(np.concatenate([np.unique(self.epoch.windows(part)) for part in parts]))

    def _bytes_at(self, position: int) -> int:
        """Count the bytes of the windows of the epoch before the one of a position."""
        window = self.epoch.windows(np.array([self._first + position]))[0]
        return self.epoch.table.bytes_before(int(window))

    def _end(self, block: int) -> int:
        """Return the position after the last of a block; reading and drawing ask in turns."""
        if block not in self._ends:
            if len(self._ends) == RECENT:
                self._ends.clear()
            self._ends[block] = self._find_end(block)
        return self._ends[block]

    def _find_end(self, block: int) -> int:
        if block < 0:
            return 0
        n_bytes = self._bytes_before + _units_until(block, self.growth) * self.window_bytes
        mark = self.epoch.first(self.epoch.table.window_from(n_bytes))
        return min(max(mark - self._first, 0), self.n)


def _block_of(unit: int, growth: int) -> int:
    """Return the block that has a unit: blocks have 1, 1, 2, 4, ... units, then ``growth`` each."""
    if unit < growth:
        return unit.bit_length()
    return growth.bit_length() + (unit - growth) // growth


def _units_until(block: int, growth: int) -> int:
    """Return the unit after the last of a block."""
    if block < growth.bit_length():
        return 1 << block
    return growth * (block - growth.bit_length() + 2)
