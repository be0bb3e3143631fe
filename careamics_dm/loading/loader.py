"""Passes over a dataset: which epoch, which batch comes next, and who reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from careamics_dm.loading.dataset import Batch, PatchDataset


class PatchLoader:
    """Passes over a `PatchDataset`: counts epochs, and resumes inside one.

    Every pass draws the patches of the next epoch. Lightning saves `state_dict` with a
    checkpoint and restores it, so that training goes on with the very next batch. With
    ``num_workers=0`` threads of this process read.
    """

    def __init__(
        self,
        dataset: PatchDataset,
        *,
        num_workers: int = 0,
        start_method: str | None = None,
        epoch: int = 0,
    ) -> None:
        # Neither a DataLoader nor with an attribute `dataset`: Lightning warns that the length of
        # an iterable dataset may be wrong, and asks for more workers than threads need.
        self.patches = dataset
        self.epoch, self.batch = epoch, 0
        self._begun = False
        self._workers: dict[str, Any] = {
            "num_workers": num_workers,
            "persistent_workers": num_workers > 0,
            "multiprocessing_context": start_method if num_workers else None,
            "pin_memory": torch.cuda.is_available(),
        }
        self._loader: DataLoader[Batch] | None = None

    def __len__(self) -> int:
        """Count the batches of an epoch, on this rank."""
        return self.patches.count()

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the next epoch, or the rest of a resumed one."""
        if self._begun:
            self.epoch, self.batch = self.epoch + 1, 0
        self._begun = True
        self.patches.set_epoch(self.epoch, self.batch)
        if self._loader is None:
            self._loader = DataLoader(
                self.patches, batch_size=None, collate_fn=_as_it_is, **self._workers
            )
        for batch in self._loader:
            self.batch += 1
            yield batch

    def close(self) -> None:
        """Let worker processes and reader threads end."""
        self._loader = None
        self.patches.stop()

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and how many of its batches were handed out."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batch that was handed out last."""
        self.epoch, self.batch, self._begun = state["epoch"], state["batch"], False
        if self.batch >= len(self):
            self.epoch, self.batch = self.epoch + 1, 0


def _as_it_is(batch: Any) -> Any:
    """Keep a batch: the loader's own conversion walks through it and takes 0.2 ms."""
    return batch
