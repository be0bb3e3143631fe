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

Part = tuple[int, Block, int, int]
"""Of a block: its stream, by its place on this rank, the block, first position and stop."""
PORTION = 2048
"""Patches to locate together."""
NONE = np.zeros(0, np.int64)


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
        every = (
            slice(first, min(first + self.batch_size, high))
            for low, high in pairwise(self.ends.tolist())
            for first in range(low, high, self.batch_size)
        )
        batches = islice(every, self.worker, None, self.workers)
        while some := [*islice(batches, max(PORTION // self.batch_size, 1))]:
            numbers = np.concatenate([self.numbers[rows] for rows in some])
            steps, first = [], 0
            for rows in some:
                n, key = rows.stop - rows.start, (0, rows.start)
                steps.append(Step(slice(first, first + n), np.arange(n), n, (), rows.start, [key]))
                first += n
            yield Portion(self.plan.places(numbers), steps)


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
        n, first = len(self.streams), self.first
        while first < self.stop:
            most = PORTION
            if self.draw is not None:  # from decoded blocks: not before these are needed
                ends = [
                    (s, block.stop) for s, block, *_ in self._parts(self.mine, first, first + n)
                ]
                most = min([PORTION, *(end * n + s - first for s, end in ends)])
            n_steps = max(most // self.batch_size, 1)
            stop = min(first + n_steps * self.batch_size, self.stop)
            parts = [*self._parts(self.mine, first, stop)]
            ended: list[list[Key]] = [[] for _ in range(first, stop, self.batch_size)]
            for s, block, _, end in parts:
                if end == block.stop:
                    step = ((end - 1) * n + s - first) // self.batch_size
                    ended[step].append((self.streams[s].number, block.first))
            yield self._portion(first, stop, parts, ended)
            first = stop

    def _parts(self, of: Sequence[int], first: int, stop: int) -> Iterator[Part]:
        """Yield what the blocks of some streams have of this rank's patches."""
        for s in of:
            low, high = (-((s - number) // len(self.streams)) for number in (first, stop))
            for block in self.streams[s].blocks(low, high):
                yield s, block, max(low, block.first), min(high, block.stop)

    def _needs_of(self, s: int) -> Iterator[Need]:
        stream = self.streams[s]
        for _, block, low, _ in self._parts([s], self.first, self.stop):
            key = stream.number, block.first
            yield Need(low * len(self.streams) + s, key, stream.windows(block))

    def _portion(
        self, first: int, stop: int, parts: Sequence[Part], ended: Sequence[list[Key]]
    ) -> Portion:
        """Draw parts of blocks, and order the patches into batches."""
        number = np.arange(first, stop)
        # In a batch, patches that are turned alike stand together.
        of_all = number * self.share.world_size + self.share.rank
        turn = (fractions(self.turn_key, of_all) * self.n_orientations).astype(np.int64)
        turned = (number - first) // self.batch_size * self.n_orientations + turn
        counts = np.bincount(turned, minlength=len(ended) * self.n_orientations)
        own = [np.arange(low, high) * len(self.streams) + s - first for s, _, low, high in parts]
        place = np.argsort(np.argsort(turned, kind="stable"))[np.concatenate([NONE, *own])]
        rows = np.argsort(place)
        step, place = np.divmod(place[rows], self.batch_size)
        begin = np.searchsorted(step, np.arange(len(ended) + 1))
        steps = []
        for i, keys in enumerate(ended):
            here, a = slice(begin[i], begin[i + 1]), i * self.batch_size
            n = min(self.batch_size, len(number) - a)
            orientation = counts[i * self.n_orientations :][: self.n_orientations]
            steps.append(Step(here, place[here], n, tuple(orientation.tolist()), first + a, keys))
        return Portion(self._locate(parts).some(rows), steps)

    def _locate(self, parts: Sequence[Part]) -> Places:
        """Draw positions of blocks."""
        if self.draw is not None and parts:
            found = [self.draw(self.streams[s], block, low, high) for s, block, low, high in parts]
            return Places(*map(np.concatenate, zip(*found, strict=True)))
        marks = [self.streams[s].marks(block, np.arange(a, b)) for s, block, a, b in parts]
        return self.streams[0].epoch.places(np.concatenate([NONE, *marks]))
