"""My share of the plan, read by regions, cut into patches, yielded as batches."""

from __future__ import annotations

from contextlib import closing
from math import ceil
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from careamics_dm.axes import DataError
from careamics_dm.cutting import groups
from careamics_dm.known import Known
from careamics_dm.plan import Share
from careamics_dm.reader import Reader
from careamics_dm.rejection import Rejection
from careamics_dm.sampling import RandomPatches
from careamics_dm.schedule import rank_slice, schedule, worker_slice
from careamics_dm.sides import Sides

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from careamics_dm.image_stack import ImageStack
    from careamics_dm.patch_filter import PatchFilter
    from careamics_dm.plan import Extent, Plan
    from careamics_dm.reader import Kept
    from careamics_dm.sampling import GridPatches
    from careamics_dm.schedule import Schedule
    from careamics_dm.sides import NanPolicy

Batch = dict[str, Any]


class PatchDataset(IterableDataset[Batch]):
    """Batches of patches, cut from regions that are each read once.

    Regions are read ahead by threads, in the order in which they are needed, and dropped after
    their last patch. A set that fits ``pool_bytes`` is kept, and read once for all epochs. Every
    pass yields the batches of the epoch that `set_epoch` set last.

    Parameters
    ----------
    stacks : sequence of ImageStack
        The images.
    plan : Plan, RandomPatches or GridPatches
        Where the patches are.
    extents : sequence of Extent
        Of the images, as they were planned with.
    targets : sequence of ImageStack, optional
        One per image, of the same samples and size.
    channels, target_channels : sequence of (sequence of int, or None), optional
        Per image, the channels to read.
    batch_size : int or None
        Patches per batch; ``None`` yields single patches, without the leading ``N``.
    pool_bytes : int
        Bound on decoded bytes held, per process; a single region may exceed it.
    seed : int
        Shuffles.
    n_orientations : int
        Above 1, batches carry how many of their patches get which orientation.
    with_region : bool
        Whether batches carry where their tiles belong.
    nan_policy : {"error", "zero", "skip"}
        What to do about NaN and infinity in a patch: raise; set them to 0; or take another
        patch instead, of the same batch or else of the same epoch.
    rank, world_size : int
        Of this process among those that train together.
    keep : bool
        Whether a set that fits ``pool_bytes`` is kept for other epochs.
    kept : dict, optional
        Where it is kept, to share it between datasets of the same images.
    patch_filter : PatchFilter, optional
        What patches must meet; others are replaced by random ones that do, see `Rejection`.

    Yields
    ------
    dict
        ``image`` ``(N, C, (Z), Y, X)`` in the stored dtype where torch has it, else float32;
        ``target`` likewise; ``region`` int64 ``(N, 2 + 3 D)``: image, sample, tile start, crop
        start and crop stop, in pixels; ``orientation``, a tuple of counts, see `augmentation`.
    """

    def __init__(
        self,
        stacks: Sequence[ImageStack],
        plan: Plan | RandomPatches | GridPatches,
        extents: Sequence[Extent],
        *,
        targets: Sequence[ImageStack] | None = None,
        channels: Sequence[Sequence[int] | None] | None = None,
        target_channels: Sequence[Sequence[int] | None] | None = None,
        batch_size: int | None = 64,
        pool_bytes: int = 2**29,
        seed: int = 0,
        n_orientations: int = 1,
        with_region: bool = False,
        nan_policy: NanPolicy = "error",
        rank: int = 0,
        world_size: int = 1,
        keep: bool = True,
        kept: Kept | None = None,
        patch_filter: PatchFilter | None = None,
    ) -> None:
        self.plan = plan
        self.extents = tuple(extents)
        self.sides = [(stacks, channels)] + ([(targets, target_channels)] if targets else [])
        self._sides = Sides(self.sides, nan_policy, seed)
        self.batch_size = batch_size
        self.pool_bytes = pool_bytes
        self.seed = seed
        self.n_orientations = n_orientations
        self.with_region = with_region
        self.share = Share(rank, world_size)
        # Epoch, and batch to start from; shared, so that living workers see them change.
        self.progress = torch.zeros(2, dtype=torch.int64).share_memory_()
        self.keep = keep
        self._kept: Kept = {} if kept is None else kept
        self._known: Known | None = None
        self._readers: WeakSet[Reader] = WeakSet()
        if patch_filter is not None and (with_region or not isinstance(plan, RandomPatches)):
            raise DataError(
                "patch_filter: patches that are rejected are replaced by others at random, so the "
                "plan must be RandomPatches, and with_region=False."
            )
        self.patch_filter = patch_filter

    def set_epoch(self, epoch: int, batch: int = 0) -> None:
        """Let the next pass yield the batches of this epoch, from this one on."""
        self.progress.copy_(torch.tensor([epoch, batch]))

    def count(self) -> int:
        """Count batches (or single patches) of this rank in an epoch."""
        if self.plan.split == "random":
            n = len(self.plan) // self.share.world_size
        else:
            n = len(rank_slice(self.plan.at(0), self.share))
        return n if self.batch_size is None else ceil(n / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        epoch, skip = self.progress.tolist()
        info = get_worker_info()
        workers = info.num_workers if info else 1
        # A loader asks its workers in turn, beginning with worker 0; after a resume the batch
        # that comes next is the one of worker `skip % workers`.
        worker = ((info.id if info else 0) + skip) % workers
        share = Share(self.share.rank, self.share.world_size, worker, workers)
        plan = self.plan.at(epoch)
        mine = plan.take(rank_slice(plan, share))
        size = self.batch_size or 1
        mine = mine.take(worker_slice(mine, len(mine), size, share))
        rng = np.random.default_rng([self.seed, epoch, share.rank, worker, 1])
        budget = self.pool_bytes // workers
        keep = self.keep and fits(self.extents, budget)
        window = budget if keep else budget // 2
        agenda = schedule(
            mine,
            self.extents,
            window,
            rng if plan.split == "random" else None,
            whole_samples=keep,
            # By the epoch, not by what is there: a resumed run must draw the same.
            ramp=not keep or epoch == 0,
        )
        sizes = np.minimum(size, len(mine) - np.arange(0, len(mine), size))
        shares = [1 / self.n_orientations] * self.n_orientations
        orientations = rng.multinomial(sizes, shares).tolist()
        first = len(range(worker, skip, workers))
        kept = self._kept if keep else None
        reader = Reader(self._sides.read, agenda, budget, kept, first * size, workers)
        self._readers.add(reader)
        rejection = None
        if self.patch_filter is not None and isinstance(self.plan, RandomPatches):
            if self._known is None:
                patch, dtype = self.plan.patch_size, self._sides.dtypes[0]
                self._known = Known(self.patch_filter, patch, self.extents, dtype)
            rejection = Rejection(
                self.patch_filter,
                self.plan,
                agenda,
                reader,
                self._sides,
                size,
                None if keep else window,
                (self.seed, epoch, share.rank, worker),
                self._known,
            )
        with closing(reader):
            for number in range(first, len(sizes)):
                rows = slice(number * size, number * size + int(sizes[number]))
                batch = self._batch(agenda, rows, reader, rejection, epoch)
                if self.batch_size is None:
                    yield {key: value[0] for key, value in batch.items()}
                    continue
                if self.n_orientations > 1:
                    batch["orientation"] = tuple(orientations[number])
                yield batch

    def stop(self) -> None:
        """End reading ahead in every pass; a pass that goes on reads what it needs itself."""
        for reader in list(self._readers):
            reader.close()

    def close(self) -> None:
        """Close every file and forget what was kept."""
        self.stop()
        self._kept.clear()
        self._known = None
        for stacks, _ in self.sides:
            for stack in stacks:
                if close := getattr(stack, "close", None):
                    close()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what was read."""
        return self.__dict__ | {"_kept": {}, "_known": None, "_readers": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle; see `__getstate__`."""
        self.__dict__.update(state)
        self._readers = WeakSet()

    def _batch(
        self,
        agenda: Schedule,
        rows: slice,
        reader: Reader,
        rejection: Rejection | None,
        epoch: int,
    ) -> Batch:
        """Cut the patches of a batch out of their regions."""
        plan = agenda.plan
        if rejection is not None:
            cuts = rejection.batch(rows)
        else:
            cuts = self._cut(agenda, rows, reader)
            self._sides.mend(cuts, plan, rows, epoch, tiles=self.with_region)
        tensors = [torch.from_numpy(cut) for cut in cuts]
        batch: Batch = dict(zip(("image", "target"), tensors, strict=False))
        if self.with_region:
            columns = (plan.image[rows, None], plan.sample[rows, None], plan.start[rows])
            batch["region"] = torch.from_numpy(np.hstack([*columns, plan.crop[rows]]))
        return batch

    def _cut(self, agenda: Schedule, rows: slice, reader: Reader) -> list[NDArray[Any]]:
        """Copy the patches of every side, region by region, so that few are held at once."""
        used = agenda.region[rows]
        places = np.column_stack([agenda.plan.sample[rows], agenda.plan.start[rows]])
        at = (places - reader.origins[used]).tolist()
        size = agenda.plan.size[rows.start].tolist()
        cuts: list[NDArray[Any]] = []
        for r, mine in groups(used):
            cuts = self._sides.cut(reader.block(r), mine.tolist(), at, size, cuts)
            reader.drop(r, rows.stop)
        return cuts


def fits(extents: Sequence[Extent], pool_bytes: int) -> bool:
    """Whether all decoded samples fit the pool, so that they are kept for all epochs."""
    return sum(extent.samples * extent.sample_bytes for extent in extents) <= pool_bytes
