"""A result that grows block by block, out of tiles."""

from collections.abc import Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from careamics_dm.images.boxes import seen_from
from careamics_dm.prediction.background import Background
from careamics_dm.prediction.block_record import BlockRecord, UrlRecord
from careamics_dm.prediction.result_blocks import ImageBlocks
from careamics_dm.prediction.result_file import ResultFile, ResultImage, to_dtype
from careamics_dm.prediction.stitching import corners, crop_in_tile

SHARE = 20
"""Blocks are recorded so seldom that it takes one part of the time in so many."""


class BlockResult:
    """A result that this process has begun or opened, and what it writes of it.

    Tiles are put together in memory until their block is complete, which is then written once, in a
    thread, while the next block grows.
    """

    def __init__(
        self,
        image: ResultImage,
        blocks: ImageBlocks,
        file: ResultFile,
        record: BlockRecord | UrlRecord,
    ) -> None:
        self.image = image
        self._blocks, self._file, self._record = blocks, file, record
        self._there = record.marked()
        self._begun: dict[int, tuple[NDArray[Any], int]] = {}
        self._writing = Background(most=1)
        self._written: list[int] = []
        self._saved, self._saving = monotonic(), 0.0

    def put(self, tile: NDArray[Any], region: Sequence[int]) -> int:
        """Add a tile ``C (Z) Y X`` with its ``region``; return how many blocks it completes."""
        _, first, stop = corners(region)
        number = self._blocks.number(region[1], first)
        if number in self._there:
            return 0
        block = self._blocks.region(number)
        if number not in self._begun:
            size = [b - a for a, b in zip(block.start, block.stop, strict=True)]
            pixels = np.empty((block.n_samples, len(tile), *size), self.image.dtype)
            self._begun[number] = pixels, pixels.size
        pixels, missing = self._begun[number]
        part = tile[(slice(None), *crop_in_tile(region))]
        place = seen_from(block.start, list(map(slice, first, stop)))
        pixels[region[1] - block.sample][(slice(None), *place)] = to_dtype(part, pixels.dtype)
        self._begun[number] = pixels, missing - part.size
        if missing > part.size:
            return 0
        del self._begun[number]
        self._writing.do(self._write, number, pixels)
        return 1

    def _save(self) -> None:
        """Record the blocks that are written, once their pixels are on disk."""
        if not self._written:
            return
        began = monotonic()
        if len(self._blocks) > 1:  # else it is finished at once
            self._file.flush()
        self._record.mark(self._written)
        self._written.clear()
        self._saved = monotonic()
        self._saving = self._saved - began

    def close(self) -> None:
        """Finish the result if all its blocks are there; else leave it, if there are any.

        Raises a FileExistsError if another prediction was first.
        """
        try:
            try:
                self._writing.finish()
            finally:  # if a block could not be written, others are there
                self._writing.close()
                try:
                    self._save()
                finally:
                    self._finish_or_leave()
        finally:
            self._record.close()

    def _finish_or_leave(self) -> None:
        if self._record.claim():
            try:
                self._file.finish()
            except FileExistsError:
                self._record.remove()
                raise
            self._record.remove()
        elif not self._record.marked() and self._record.is_last():
            self._file.discard()
            self._record.remove()
        else:
            self._file.close()

    def _write(self, number: int, pixels: NDArray[Any]) -> None:
        """Put a block into the file, in as few boxes as its axes there allow."""
        block, layout, done = self._blocks.region(number), self.image.layout, 0
        channels = slice(0, layout.size("C"))
        for box in layout.boxes(block.sample, block.n_samples, channels, block.start, block.stop):
            inside = replace(layout, shape=tuple(part.stop - part.start for part in box))
            n = inside.data_shape[0]
            self._file.put(box, inside.from_canonical(pixels[done : done + n]))
            done += n
        self._written.append(number)
        if monotonic() - self._saved >= SHARE * self._saving:
            self._save()
