"""Passes over a dataset: which epoch, which batch comes next, and who reads.

A worker process that is spawned imports this module: Lightning would take it seconds more.
"""

import signal
import warnings
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from torch.utils.data import DataLoader

from careamics_dm.loading.dataset import PatchDataset
from careamics_dm.loading.device_transfer import Batch, RawBatch
from careamics_dm.sampling.keyed_random import key_of

GRACE = 60
"""Seconds that a worker process goes on after SIGTERM, which a whole group of processes gets."""


class PatchLoader:
    """Passes over a `PatchDataset`: counts epochs, and resumes inside one.

    Every pass draws the patches of the next epoch, or of the one that ``epoch`` returns when it
    begins: a trainer's, which a checkpoint restores. Lightning saves `state_dict` with a checkpoint
    and restores it, so that training goes on with the very next patch, also with another number of
    ranks or workers or another batch size. With ``num_workers=0`` threads of this process
    read; more make a batch together. ``with_seed`` gives each batch a seed for its augmentation.
    """

    def __init__(
        self,
        dataset: PatchDataset,
        *,
        num_workers: int = 0,
        start_method: str | None = None,
        epoch: Callable[[], int | None] = lambda: None,
        with_seed: bool = False,
    ) -> None:
        # Neither a DataLoader nor with an attribute `dataset`: Lightning warns that the length of
        # an iterable dataset may be wrong, and asks for more workers than threads need.
        self.patches = dataset
        self.epoch, self.batch = epoch() or 0, 0
        self._epoch_now = epoch
        self._with_seed = with_seed
        # In this epoch, batches that an earlier run drew, and patches, over all ranks.
        self._skipped, self._patch = 0, 0
        self._begun = False
        random = dataset.plan.is_random
        if random:  # each makes a part of each batch, of its own streams
            num_workers = min(num_workers, dataset.n_streams // dataset.share.world_size)
        self._n_parts = max(num_workers, 1) if random else 1
        self._workers: dict[str, Any] = {
            "num_workers": num_workers,
            "persistent_workers": num_workers > 0,
            "multiprocessing_context": start_method if num_workers else None,
            "worker_init_fn": _leave_signals_to_main if num_workers else None,
            "pin_memory": torch.cuda.is_available(),
        }
        # Also held by the finalizer: if these were garbage together with this, collecting them
        # would close the queues by which workers are told to end, and then wait for each.
        self._loaders: list[DataLoader[Batch]] = []
        weakref.finalize(self, _end_workers, self._loaders)

    def __len__(self) -> int:
        """Count the batches of an epoch, on this rank."""
        return self._skipped + self.patches.count(self._patch)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the next epoch, or the rest of a resumed one."""
        now = self._epoch_now()
        epoch = self.epoch + self._begun if now is None else now
        if self._begun or epoch != self.epoch:
            self.epoch, self.batch, self._skipped, self._patch = epoch, 0, 0, 0
        self._begun = True
        self.patches.set_epoch(self.epoch, self._patch)
        if not self._loaders:
            self._loaders.append(
                # The loader's own conversion walks through a batch and takes 0.2 ms.
                DataLoader(self.patches, batch_size=None, collate_fn=RawBatch, **self._workers)
            )
        parts = iter(self._loaders[0])
        while (batch := self._next(parts)) is not None:
            if self._with_seed:
                place = self.epoch, self.batch, self.patches.share.rank
                batch["seed"] = int(key_of(self.patches.seed, *place, 7))
            self.batch += 1
            yield batch

    def _next(self, parts: Iterator[Batch]) -> Batch | None:
        """Return the next batch, or the parts that processes made of it, joined."""
        try:
            batch = next(parts, None)
            others = [next(parts) for _ in range(self._n_parts - 1)] if batch is not None else []
        except Exception:
            # Now, as the traceback holds the iterator: collected as garbage, it would wait long.
            self.close()
            raise
        return batch if batch is None or not others else _join([batch, *others])

    def close(self) -> None:
        """Let worker processes and reader threads end, whoever still holds an iterator."""
        _end_workers(self._loaders)
        self.patches.stop()

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, how many of its batches were handed out, and how many patches.

        ``patch`` counts those of all ranks; ``streams`` is in how many streams they were read.
        """
        step = (self.patches.batch_size or 1) * self.patches.share.world_size
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "patch": self._patch + (self.batch - self._skipped) * step,
            "streams": self.patches.n_streams,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batch that was handed out last."""
        share = self.patches.share
        step = (self.patches.batch_size or 1) * share.world_size
        self.epoch, self.batch, self._begun = state["epoch"], state["batch"], False
        self._skipped, self._patch = self.batch, state.get("patch", self.batch * step)
        n_streams = self.patches.n_streams
        if share.rank == 0 and self._patch and state.get("streams", n_streams) != n_streams:
            warnings.warn(
                f"the checkpoint was written inside an epoch that was read in {state['streams']} "
                f"streams; {share.world_size} rank(s) read {n_streams}. So in the rest of this "
                "epoch some patches are drawn again, and others not at all; from the next epoch "
                "on, all is exact.",
                stacklevel=2,
            )
        if self._patch and not self.patches.count(self._patch):
            self.epoch, self.batch, self._skipped, self._patch = self.epoch + 1, 0, 0, 0


def _join(parts: list[Batch]) -> Batch:
    """Make a batch of what several processes made of it."""
    full = [part for part in parts if "image" in part]
    if "rows" not in full[0]:  # a single patch
        return full[0]
    batch = RawBatch()
    for key in full[0].keys() - {"rows", "n", "orientation"}:
        first = full[0][key]
        batch[key] = first.new_empty((full[0]["n"], *first.shape[1:]))
        if torch.cuda.is_available():
            batch[key] = batch[key].pin_memory()
        for part in full:  # in NumPy: torch can't do it for every dtype
            batch[key].numpy()[part["rows"].numpy()] = part[key].numpy()
    if "orientation" in full[0]:
        batch["orientation"] = full[0]["orientation"]
    return batch


def _end_workers(loaders: list[DataLoader[Batch]]) -> None:
    """Let the worker processes of loaders end, and forget these."""
    while loaders:
        iterator: Any = getattr(loaders.pop(), "_iterator", None)
        if iterator is not None and hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()


def _leave_signals_to_main(worker: int) -> None:
    """Ignore what asks the run to stop; end after SIGTERM only if it has not: it needs batches."""
    del worker

    def wait(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        signal.alarm(GRACE)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, wait)
    if hasattr(signal, "SIGUSR1"):  # of SLURM, before its time limit; not on Windows
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
