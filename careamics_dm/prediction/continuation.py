"""Which blocks an earlier prediction has left, on which all processes agree."""

import uuid
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from careamics_dm.errors import DataError
from careamics_dm.prediction.block_record import (
    BlockRecord,
    UrlRecord,
    blocks_in,
    read_record,
)
from careamics_dm.prediction.fingerprint import Fingerprints, combined
from careamics_dm.prediction.result_blocks import ImageBlocks
from careamics_dm.sources.data_warnings import say
from careamics_dm.sources.ranks import agreed
from careamics_dm.sources.source_path import as_text, is_url

THREADS = 8
"""That look for results: behind a URL, that is waiting."""


@dataclass
class Progress:
    """How many blocks there are."""

    n_there: int
    """From an earlier run."""
    n_done: int
    """With those that this process has made."""
    n: int

    def of_all(self, n_ranks: int) -> int:
        """Estimate how many there are by now, if other ranks are as far as this one."""
        return min(self.n_there + (self.n_done - self.n_there) * n_ranks, self.n)


class Continuation:
    """The results of a prediction: what each is made of, and what is there of it.

    Parameters
    ----------
    prints, blocks, paths
        What is predicted, in which blocks, and the final names of the results.
    wanted : container of int
        The images of which results are written.
    facts : sequence
        Of the writer, on which all pixels depend.
    storage_options : mapping
        For results behind URLs.

    Attributes
    ----------
    there : list of set of int
        Blocks of each image that are written already.
    """

    def __init__(
        self,
        prints: Fingerprints,
        blocks: Sequence[ImageBlocks],
        paths: Sequence[Path],
        wanted: Container[int],
        facts: Sequence[object],
        storage_options: Mapping[str, Any],
    ) -> None:
        self.blocks, self._prints, self._paths = blocks, prints, paths
        self._facts, self._options = (*prints.common, *facts), storage_options
        self._run, self.there = agreed(lambda: (uuid.uuid4().hex, self._find(wanted)))

    def record(self, image: int) -> BlockRecord | UrlRecord:
        """Open and lock the record of a result."""
        path = self._paths[image]
        of = path, self._made_of(image), self._run, len(self.blocks[image])
        if is_url(path):
            return UrlRecord(*of, self._options)
        path.parent.mkdir(parents=True, exist_ok=True)
        return BlockRecord(*of)

    def check(self, image: int, record: BlockRecord | UrlRecord) -> None:
        """Raise a DataError if a result has lost blocks since the beginning."""
        if not self.there[image] <= record.marked():
            raise DataError(
                f"writer: {as_text(self._paths[image])} was begun anew by another prediction "
                "meanwhile. Start this one again once that has ended, or write to another folder."
            )

    def _find(self, wanted: Container[int]) -> list[set[int]]:
        def read(image: int) -> str | None:
            # Of others alone: a job that shares the images may be finishing one of them.
            return read_record(self._paths[image], self._options) if image in wanted else None

        with ThreadPoolExecutor(THREADS) as pool:
            found = [*pool.map(read, range(len(self._paths)))]
        return [self._left(i, record) if record else set() for i, record in enumerate(found)]

    def _left(self, image: int, record: str) -> set[int]:
        """Return the blocks of a result that are there; of a complete one, all but one."""
        n = len(self.blocks[image])
        there = blocks_in(record, self._made_of(image), n)
        if there is None:
            say(
                f"{as_text(self._paths[image])} was begun with another model, another image or "
                "other settings: it is begun anew."
            )
        return set(sorted(there or ())[: n - 1])  # whoever predicts the last block finishes it

    def _made_of(self, image: int) -> str:
        return combined((self._facts, self.blocks[image], self._prints.of_image(image)))
