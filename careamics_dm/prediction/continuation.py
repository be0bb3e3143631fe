"""Which blocks an earlier prediction has left, on which all processes agree."""

import uuid
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from careamics_dm.errors import DataError
from careamics_dm.images.image_set import ImageSet
from careamics_dm.prediction.block_record import BlockRecord, NoRecord, blocks_there, is_begun
from careamics_dm.prediction.fingerprint import combined, fingerprint_of_image
from careamics_dm.prediction.result_file import part_of
from careamics_dm.sampling.blocks import ImageBlocks
from careamics_dm.sources.data_warnings import say
from careamics_dm.sources.source_path import is_url

Agreed = TypeVar("Agreed")


@dataclass
class Progress:
    """How many blocks there are."""

    n_there: int
    """From an earlier run."""
    n_done: int
    """With those that this process has written."""
    n: int

    def of_all(self, n_ranks: int) -> int:
        """Estimate how many there are by now, if other ranks are as far as this one."""
        return min(self.n_there + (self.n_done - self.n_there) * n_ranks, self.n)


class Continuation:
    """The results of a prediction: what each is made of, and what is there of it.

    Parameters
    ----------
    images, blocks, paths
        What is predicted, in which blocks, and the final names of the results.
    wanted : container of int
        The images of which results are written.
    facts : sequence
        Of model and settings, on which all pixels depend.

    Attributes
    ----------
    there : list of set of int
        Blocks of each image that are written already.
    """

    def __init__(
        self,
        images: ImageSet,
        blocks: Sequence[ImageBlocks],
        paths: Sequence[Path],
        wanted: Container[int],
        facts: Sequence[object],
    ) -> None:
        self.blocks, self._images, self._paths = blocks, images, paths
        self._facts = combined(facts)
        self._run, self.there = agreed(
            lambda: (
                uuid.uuid4().hex,
                [self._left(i) if i in wanted else set() for i in range(len(blocks))],
            )
        )

    def record(self, image: int) -> BlockRecord | NoRecord:
        """Open and lock the record of a result."""
        path = self._paths[image]
        if is_url(path):
            return NoRecord(len(self.blocks[image]))
        path.parent.mkdir(parents=True, exist_ok=True)
        return BlockRecord(path, self._made_of(image), self._run, len(self.blocks[image]))

    def check(self, image: int, record: BlockRecord | NoRecord) -> None:
        """Raise a DataError if a result has lost blocks since the beginning."""
        if not self.there[image] <= record.marked():
            raise DataError(
                f"writer: {self._paths[image]} was begun anew by another prediction meanwhile. "
                "Start this one again once that has ended, or write to another folder."
            )

    def _left(self, image: int) -> set[int]:
        """Return the blocks of a result that are there; of a complete one, all but one."""
        path, n = self._paths[image], len(self.blocks[image])
        if is_url(path) or not (is_begun(path) and part_of(path).exists()):
            return set()
        there = blocks_there(path, self._made_of(image), n)
        if there is None:
            say(
                f"{path} was begun with another model, another image or other settings: it is "
                "begun anew."
            )
        return set(sorted(there or ())[: n - 1])  # whoever predicts the last block finishes it

    def _made_of(self, image: int) -> str:
        channels = self._images.channels[image] if self._images.channels else None
        source = fingerprint_of_image(self._images.stacks[image], channels)
        return combined((self._facts, self.blocks[image], source))


def agreed(find: Callable[[], Agreed]) -> Agreed:
    """Return what the first of the processes that predict together finds."""
    if not (dist.is_available() and dist.is_initialized()):
        return find()
    found = [find() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found)
    answer: Any = found[0]
    return answer  # type: ignore[no-any-return]
