"""What one process draws in a pass, batch by batch, and what it has to read for it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from careamics_dm.sampling.block_tiles import BlockTiles
from careamics_dm.sampling.keyed_random import fractions
from careamics_dm.sampling.read_windows import PatchList
from careamics_dm.sampling.streams import Block, Epoch, Stream
from careamics_dm.sampling.tiling import TileGrid

Numbers = NDArray[np.int64]

PORTION = 2048
"""Patches to locate together."""


class Drawn(NamedTuple):
    """Patches in the order of drawing."""

    window: Numbers
    """``(N,)`` number of the read window."""
    sample: Numbers
    """``(N,)`` index along ``S`` of the image."""
    start: Numbers
    """``(N, D)`` origin in the image, pixels."""


class Step(NamedTuple):
    """A batch, or this process's part of one."""

    rows: slice
    """Of a portion."""
    place: Numbers
    """Where in the batch these rows belong."""
    n: int
    """Patches of the batch, those of other processes included."""
    orientation: tuple[int, ...]
    """How many of them get which orientation."""
    number: int
    """Of the first patch, on this rank."""
    ended: list[tuple[int, int]]
    """Keys of needs that end with it."""


@dataclass
class Portion:
    """Patches that are located together, and the batches that they make."""

    drawn: Drawn
    size: Numbers
    """``(N, D)``, pixels."""
    steps: list[Step]
    numbers: Numbers
    """``(N,)`` of each in a fixed plan."""


class Need(NamedTuple):
    """Windows that are needed from a patch of this rank on, until a step ends the need."""

    number: int
    key: tuple[int, int]
    windows: list[int]


@dataclass
class FixedPass:
    """Batches of places in their order: of validation, test and prediction.

    ``numbers`` are those of this rank, from its first batch on; ``ends`` are the rows of them at
    which a batch ends, full or not. A worker makes every ``workers``-th batch.
    """

    plan: TileGrid | BlockTiles | PatchList
    numbers: Numbers
    ends: Numbers
    batch_size: int
    worker: int
    workers: int

    def needs(self) -> Iterator[Need]:
        """Yield the windows to read, in the order of need."""
        for portion in self.portions():
            for step in portion.steps:
                windows = portion.drawn.window[step.rows].tolist()
                yield Need(step.number, (0, step.number), [*dict.fromkeys(windows)])

    def portions(self) -> Iterator[Portion]:
        """Yield the batches, portion by portion."""
        batches = self._batches()
        while some := [*islice(batches, max(PORTION // self.batch_size, 1))]:
            numbers = np.concatenate([self.numbers[rows] for rows in some])
            places, steps, first = self.plan.places(numbers), [], 0
            for rows in some:
                n, key = rows.stop - rows.start, (0, rows.start)
                steps.append(Step(slice(first, first + n), np.arange(n), n, (), rows.start, [key]))
                first += n
            drawn = Drawn(places.window, places.sample, places.start)
            yield Portion(drawn, places.size, steps, numbers)

    def _batches(self) -> Iterator[slice]:
        number = 0
        for low, high in pairwise(self.ends.tolist()):
            for first in range(low, high, self.batch_size):
                if number % self.workers == self.worker:
                    yield slice(first, min(first + self.batch_size, high))
                number += 1


class RandomPass:
    """Batches of random patches, from the streams of this process.

    Patch number ``i`` of a rank is of its stream ``i % n``.

    Parameters
    ----------
    epoch : Epoch
        Where patches are.
    streams : sequence of Stream
        All of this rank.
    mine : range
        Which of them this process serves.
    numbers : tuple of int
        First patch of this rank to draw, and one after the last.
    batch_size : int
        Patches per batch, of the rank.
    turn : callable
        The orientation of patches, by their number on this rank.
    n_orientations : int
        How many there are.
    patch_size : tuple of int
        ``(Z) Y X``, pixels.

    Attributes
    ----------
    draw : callable or None
        Draws positions of a block otherwise than the epoch does.
    """

    def __init__(
        self,
        epoch: Epoch,
        streams: Sequence[Stream],
        mine: range,
        numbers: tuple[int, int],
        batch_size: int,
        turn: Callable[[Numbers], Numbers],
        n_orientations: int,
        patch_size: Sequence[int],
    ) -> None:
        self._epoch, self._streams, self._mine = epoch, streams, mine
        (self._first, self._stop), self._batch_size = numbers, batch_size
        self._turn, self._n_orientations = turn, n_orientations
        self._size = np.array(patch_size)
        self.draw: Callable[[Stream, Block, int, int], Drawn] | None = None

    def needs(self) -> Iterator[Need]:
        """Yield the windows to read, in the order of need."""
        yield from merge(*map(self._needs_of, self._mine), key=lambda need: need.number)

    def portions(self) -> Iterator[Portion]:
        """Yield the batches, portion by portion."""
        blocks = {s: self._blocks_of(s) for s in self._mine}
        current = {s: next(blocks[s], None) for s in self._mine}
        first = self._first
        while first < self._stop:
            ends = [block.stop * len(self._streams) + s for s, block in current.items() if block]
            # What is drawn from decoded blocks: not before these are needed.
            most = PORTION if self.draw is None else min([PORTION, *(e - first for e in ends)])
            n_steps = max(most // self._batch_size, 1)
            stop = min(first + n_steps * self._batch_size, self._stop)
            parts, ended = [], []
            for s in self._mine:
                low, high = self._positions(s, first, stop)
                while low < high:
                    block = current[s]
                    assert block is not None
                    end = min(high, block.stop)
                    parts.append((s, block, low, end))
                    low = end
                    if end == block.stop:
                        number = (end - 1) * len(self._streams) + s
                        ended.append((number, (self._streams[s].number, block.first)))
                        current[s] = next(blocks[s], None)
            yield self._portion(first, stop, parts, ended)
            first = stop

    def _blocks_of(self, s: int) -> Iterator[Block]:
        return self._streams[s].blocks(self._positions(s, self._first, self._first)[0])

    def _needs_of(self, s: int) -> Iterator[Need]:
        for block in self._blocks_of(s):
            number = max(block.first * len(self._streams) + s, self._first)
            if number >= self._stop:
                return
            windows = self._streams[s].windows(block).tolist()
            yield Need(number, (self._streams[s].number, block.first), windows)

    def _positions(self, s: int, first: int, stop: int) -> tuple[int, int]:
        """Positions in a stream of the rank's patches from ``first`` to ``stop``."""
        n = len(self._streams)
        return -((s - first) // n), -((s - stop) // n)

    def _portion(
        self,
        first: int,
        stop: int,
        parts: Sequence[tuple[int, Block, int, int]],
        ended: Sequence[tuple[int, tuple[int, int]]],
    ) -> Portion:
        drawn, own = self._locate(parts)
        number = np.arange(first, stop)
        step, turn = (number - first) // self._batch_size, self._turn(number)
        # In a batch, patches that are turned alike stand together.
        order = np.argsort(step * self._n_orientations + turn, kind="stable")
        row = np.full(len(number), -1)  # of each number, among mine
        row[own - first] = np.arange(len(own))
        rows = row[order]
        ends = np.minimum(np.arange(step[-1] + 1) * self._batch_size, len(number)).tolist()
        counts = np.bincount(
            step * self._n_orientations + turn, minlength=(step[-1] + 1) * self._n_orientations
        ).reshape(-1, self._n_orientations)
        gone: list[list[tuple[int, int]]] = [[] for _ in ends]
        for last, key in ended:
            gone[(last - first) // self._batch_size].append(key)
        steps, begin = [], 0
        for i, a in enumerate(ends):
            b = min(a + self._batch_size, len(number))
            place = np.flatnonzero(rows[a:b] >= 0)
            turned = tuple(counts[i].tolist())
            steps.append(
                Step(slice(begin, begin + len(place)), place, b - a, turned, first + a, gone[i])
            )
            begin += len(place)
        mine = rows[rows >= 0]
        size = np.broadcast_to(self._size, (len(mine), len(self._size)))
        return Portion(Drawn(*(column[mine] for column in drawn)), size, steps, number)

    def _locate(self, parts: Sequence[tuple[int, Block, int, int]]) -> tuple[Drawn, Numbers]:
        """Draw positions of blocks; also return their numbers on this rank."""
        n = len(self._streams)
        numbers = [np.arange(low, high) * n + s for s, _, low, high in parts]
        own = np.concatenate([np.zeros(0, np.int64), *numbers])
        if self.draw is not None and parts:
            found = [self.draw(self._streams[s], block, low, high) for s, block, low, high in parts]
            return Drawn(*map(np.concatenate, zip(*found, strict=True))), own
        marks = [self._streams[s].marks(block, low, high) for s, block, low, high in parts]
        places = self._epoch.places(np.concatenate([np.zeros(0, np.int64), *marks]))
        return Drawn(places.window, places.sample, places.start), own


def turns(key: np.uint64, n_orientations: int, numbers: Numbers) -> Numbers:
    """Return a random orientation for each patch of an epoch."""
    found: Numbers = (fractions(key, numbers) * n_orientations).astype(np.int64)
    return found
