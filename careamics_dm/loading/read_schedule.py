"""What one process draws in a pass, batch by batch, and what it has to read for it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np

from careamics_dm.sampling.epoch_streams import Block, Share, Stream
from careamics_dm.sampling.keyed_random import Numbers, fractions
from careamics_dm.sampling.read_windows import PlacePlan, Places

Key = tuple[int, int]
"""Of a need: a stream and the first position of a block; or 0 and the first patch."""

PORTION = 2048
"""Patches to locate together."""


class Step(NamedTuple):
    """A batch, or this process's part of one."""

    rows: slice  # of a portion
    place: Numbers  # where in the batch these rows belong
    n: int  # patches of the batch, those of other processes included
    orientation: tuple[int, ...]  # how many of them get which orientation
    number: int  # of the first patch, on this rank
    ended: list[Key]  # needs that end with it


class Portion(NamedTuple):
    """Patches that are located together, and the batches that they make."""

    places: Places
    steps: list[Step]


class Need(NamedTuple):
    """Windows that are needed from a patch of this rank on, until a step ends the need."""

    number: int
    key: Key
    windows: list[int]


@dataclass
class FixedPass:
    """Batches of places in their order: of validation, test and prediction."""

    plan: PlacePlan
    numbers: Numbers  # of this rank, from its first batch on
    ends: Numbers  # the rows of them at which a batch ends, full or not
    batch_size: int
    worker: int  # makes every workers-th batch
    workers: int

    def needs(self) -> Iterator[Need]:
        """Yield the windows to read, in the order of need."""
        for portion in self.portions():
            for step in portion.steps:
                windows = portion.places.window[step.rows].tolist()
                yield Need(step.number, (0, step.number), [*dict.fromkeys(windows)])

    def portions(self) -> Iterator[Portion]:
        """Yield the batches, portion by portion."""
        batches = islice(self._batches(), self.worker, None, self.workers)
        while some := [*islice(batches, max(PORTION // self.batch_size, 1))]:
            numbers = np.concatenate([self.numbers[rows] for rows in some])
            steps, first = [], 0
            for rows in some:
                n, key = rows.stop - rows.start, (0, rows.start)
                steps.append(Step(slice(first, first + n), np.arange(n), n, (), rows.start, [key]))
                first += n
            yield Portion(self.plan.places(numbers), steps)

    def _batches(self) -> Iterator[slice]:
        for low, high in pairwise(self.ends.tolist()):
            for first in range(low, high, self.batch_size):
                yield slice(first, min(first + self.batch_size, high))


@dataclass
class RandomPass:
    """Batches of random patches, from the streams of this process.

    Patch number ``i`` of a rank is of its stream ``i % n``.
    """

    share: Share
    streams: Sequence[Stream]  # all of this rank
    mine: range  # which of them this process serves
    first: int  # of this rank's patches
    stop: int
    batch_size: int
    n_orientations: int
    turn_key: np.uint64  # of the orientation of patches
    draw: Callable[[Stream, Block, int, int], Places] | None = None  # in place of the epoch

    def needs(self) -> Iterator[Need]:
        """Yield the windows to read, in the order of need."""
        yield from merge(*map(self._needs_of, self.mine), key=lambda need: need.number)

    def portions(self) -> Iterator[Portion]:
        """Yield the batches, portion by portion."""
        n = len(self.streams)
        blocks = {s: self._blocks_of(s) for s in self.mine}
        current = {s: next(blocks[s], None) for s in self.mine}
        first = self.first
        while first < self.stop:
            ends = [block.stop * n + s for s, block in current.items() if block]
            # What is drawn from decoded blocks: not before these are needed.
            most = PORTION if self.draw is None else min([PORTION, *(e - first for e in ends)])
            n_steps = max(most // self.batch_size, 1)
            stop = min(first + n_steps * self.batch_size, self.stop)
            parts: list[tuple[int, Block, int, int]] = []
            ended: list[list[Key]] = [[] for _ in range(first, stop, self.batch_size)]
            for s in self.mine:
                low, high = self._position(s, first), self._position(s, stop)
                while low < high:
                    block = current[s]
                    assert block is not None
                    end = min(high, block.stop)
                    parts.append((s, block, low, end))
                    low = end
                    if end == block.stop:
                        step = ((end - 1) * n + s - first) // self.batch_size
                        ended[step].append((self.streams[s].number, block.first))
                        current[s] = next(blocks[s], None)
            yield self._portion(first, stop, parts, ended)
            first = stop

    def _blocks_of(self, s: int) -> Iterator[Block]:
        return self.streams[s].blocks(self._position(s, self.first))

    def _needs_of(self, s: int) -> Iterator[Need]:
        for block in self._blocks_of(s):
            number = max(block.first * len(self.streams) + s, self.first)
            if number >= self.stop:
                return
            windows = self.streams[s].windows(block).tolist()
            yield Need(number, (self.streams[s].number, block.first), windows)

    def _position(self, s: int, number: int) -> int:
        """Return the first position in a stream of the rank's patches from a number on."""
        return -((s - number) // len(self.streams))

    def _portion(
        self,
        first: int,
        stop: int,
        parts: Sequence[tuple[int, Block, int, int]],
        ended: Sequence[list[Key]],
    ) -> Portion:
        """Draw parts of blocks, and order the patches into batches."""
        number = np.arange(first, stop)
        # In a batch, patches that are turned alike stand together.
        of_all = number * self.share.world_size + self.share.rank
        turn = (fractions(self.turn_key, of_all) * self.n_orientations).astype(np.int64)
        turned = (number - first) // self.batch_size * self.n_orientations + turn
        counts = np.bincount(turned, minlength=len(ended) * self.n_orientations)
        own = [np.arange(low, high) * len(self.streams) + s for s, _, low, high in parts]
        row = np.full(len(number), -1)  # of each number, among mine
        row[np.concatenate([np.zeros(0, np.int64), *own]) - first] = np.arange(sum(map(len, own)))
        rows = row[np.argsort(turned, kind="stable")]
        steps, begin = [], 0
        for i, keys in enumerate(ended):
            a = i * self.batch_size
            place = np.flatnonzero(rows[a : a + self.batch_size] >= 0)
            here = slice(begin, begin + len(place))
            n = min(self.batch_size, len(number) - a)
            orientation = counts[i * self.n_orientations :][: self.n_orientations]
            steps.append(Step(here, place, n, tuple(orientation.tolist()), first + a, keys))
            begin = here.stop
        return Portion(self._locate(parts).some(rows[rows >= 0]), steps)

    def _locate(self, parts: Sequence[tuple[int, Block, int, int]]) -> Places:
        """Draw positions of blocks."""
        if self.draw is not None and parts:
            found = [self.draw(self.streams[s], block, low, high) for s, block, low, high in parts]
            return Places(*map(np.concatenate, zip(*found, strict=True)))
        marks = [self.streams[s].marks(block, low, high) for s, block, low, high in parts]
        return self.streams[0].epoch.places(np.concatenate([np.zeros(0, np.int64), *marks]))
