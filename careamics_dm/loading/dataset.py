"""A share of the plan, read by regions, cut into patches, yielded as batches."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from careamics_dm.errors import DataError
from careamics_dm.loading.foreground import Foreground
from careamics_dm.loading.origin_marks import Loaded, Marker, Marks
from careamics_dm.loading.patch_extraction import PairedImages, by_region, region_of_patch
from careamics_dm.loading.prefetch import Reader, threads_for
from careamics_dm.loading.schedule import rank_slice, schedule, worker_slice
from careamics_dm.sampling.plan import Share
from careamics_dm.sampling.random_patches import RandomPatches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from careamics_dm.images.extent import Extent
    from careamics_dm.images.image_set import ImageSet
    from careamics_dm.images.region import Blocks, Region
    from careamics_dm.loading.patch_extraction import NanPolicy
    from careamics_dm.loading.schedule import Schedule
    from careamics_dm.sampling.filters.base import PatchFilter
    from careamics_dm.sampling.plan import Plan
    from careamics_dm.sampling.random_patches import GridPatches

Batch = dict[str, Any]

TRIES = 100
"""Other patches to try where no patch of a batch can be used."""
ORIGINS_PER_BYTE = 6
"""Marks of a filter take so little memory: a bit for each origin, and a quarter for counts."""


class PatchDataset(IterableDataset[Batch]):
    """Batches of patches, cut from regions that are each read once.

    Regions are read ahead by threads, in the order in which they are needed, and dropped after
    their last patch. A set that fits ``pool_bytes`` is kept, and read once for all epochs. Every
    pass yields the batches of the epoch that `set_epoch` set last.

    Parameters
    ----------
    images : ImageSet
        The images, with their targets and selected channels.
    plan : Plan, RandomPatches or GridPatches
        Where the patches are.
    batch_size : int or None
        Patches per batch; ``None`` yields single patches, without the leading ``N``.
    pool_bytes : int
        Bound on decoded bytes held, shared out over loader processes; a single region may exceed
        it.
    seed : int
        Shuffles.
    n_orientations : int
        Above 1, batches carry how many of their patches get which orientation.
    with_region : bool
        Whether batches carry where their tiles belong.
    nan_policy : {"error", "zero", "skip"}
        What to do about NaN and infinity in a patch: raise; set them to 0; or take another
        patch instead, of the same batch or else of the same epoch.
    share : Share, optional
        This process's rank among those that train together.
    keep : bool
        Whether a set that fits ``pool_bytes`` is kept for other epochs, in ``images.kept``.
    patch_filter : PatchFilter, optional
        What patches must meet; others are replaced by random ones that do, see `Foreground`.

    Yields
    ------
    dict
        ``image`` ``(N, C, (Z), Y, X)`` in the stored dtype where torch has it, else float32;
        ``target`` likewise; ``region`` int64 ``(N, 2 + 3 D)``: image, sample, tile start, crop
        start and crop stop, in pixels; ``orientation``, a tuple of counts, see `augmentation`.

    Raises
    ------
    DataError
        A filter, but a plan that has no other patches to draw.
    """

    def __init__(
        self,
        images: ImageSet,
        plan: Plan | RandomPatches | GridPatches,
        *,
        batch_size: int | None = 64,
        pool_bytes: int = 2**29,
        seed: int = 0,
        n_orientations: int = 1,
        with_region: bool = False,
        nan_policy: NanPolicy = "error",
        share: Share | None = None,
        keep: bool = True,
        patch_filter: PatchFilter | None = None,
    ) -> None:
        self.images, self.plan, self.extents = images, plan, images.extents()
        self.batch_size = batch_size
        self.pool_bytes = pool_bytes
        self.seed = seed
        self.n_orientations = n_orientations
        self.with_region = with_region
        self.share = share or Share()
        self.keep = keep
        # Epoch, and batch to start from; shared, so that living workers see them change.
        self.progress = torch.zeros(2, dtype=torch.int64).share_memory_()
        self._pair = PairedImages(images, nan_policy)
        self._marker = None if patch_filter is None else self._make_marker(patch_filter)
        self._marks: dict[tuple[int, int], Marks] = {}
        self._readers: WeakSet[Reader[Loaded]] = WeakSet()

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
        share = self._share_of_worker(skip)
        rng = np.random.default_rng([self.seed, epoch, share.rank, share.worker, 1])
        planned = self._schedule(epoch, share, rng)
        size, n = self.batch_size or 1, len(planned.plan)
        sizes = np.minimum(size, n - np.arange(0, n, size))
        shares = [1 / self.n_orientations] * self.n_orientations
        orientations = rng.multinomial(sizes, shares).tolist()
        first = len(range(share.worker, skip, share.workers))
        patches = self._open(planned, first * size, epoch, share)
        with closing(patches.reader):
            for number in range(first, len(sizes)):
                rows = slice(number * size, number * size + int(sizes[number]))
                batch = patches.batch(rows)
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
        self._marks.clear()
        self.images.close()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what was read."""
        images = replace(self.images, kept={})
        return self.__dict__ | {"images": images, "_marks": {}, "_readers": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle; see `__getstate__`."""
        self.__dict__.update(state)
        self._readers = WeakSet()

    def _make_marker(self, patch_filter: PatchFilter) -> Marker:
        if self.with_region or not isinstance(self.plan, RandomPatches):
            raise DataError(
                "patch_filter: patches that are rejected are replaced by others at random, so the "
                "plan must be RandomPatches, and with_region=False."
            )
        n_origins = sum(e.samples * prod(e.size) for e in self.extents if e.in_memory)
        if n_origins > ORIGINS_PER_BYTE * self.pool_bytes:
            # Mapped from disk, say: marked part by part, as if it were read.
            self.extents = tuple(e._replace(in_memory=False) for e in self.extents)
            self.plan = replace(self.plan, extents=self.extents)
        return Marker(patch_filter, self.plan, self._pair)

    def _share_of_worker(self, skip: int) -> Share:
        """Return the share of this loader process, of a pass that begins at batch ``skip``."""
        info = get_worker_info()
        workers = info.num_workers if info else 1
        # A loader asks its workers in turn, beginning with worker 0; after a resume the batch
        # that comes next is the one of worker `skip % workers`.
        worker = ((info.id if info else 0) + skip) % workers
        return replace(self.share, worker=worker, workers=workers)

    def _keeps(self, share: Share) -> bool:
        """Whether all that this process reads is kept for other epochs."""
        return self.keep and fits(self.extents, self.pool_bytes // share.workers)

    def _schedule(self, epoch: int, share: Share, rng: np.random.Generator) -> Schedule:
        plan = self.plan.at(epoch)
        mine = plan.take(rank_slice(plan, share))
        mine = mine.take(worker_slice(mine, len(mine), self.batch_size or 1, share))
        budget, keeps = self.pool_bytes // share.workers, self._keeps(share)
        costs = self._marker is not None or not all(e.in_memory for e in self.extents)
        return schedule(
            mine,
            self.extents,
            budget if keeps else budget // 2,  # while one half serves, the other is read
            rng if plan.split == "random" else None,
            whole_samples=keeps,
            # By the epoch, not by what is there: a resumed run must draw the same.
            ramp=costs and (not keeps or epoch == 0),
        )

    def _open(self, planned: Schedule, first_row: int, epoch: int, share: Share) -> _Patches:
        """Begin to read what a pass needs from this row of the schedule on."""
        needed, keeps = planned.last_row >= first_row, self._keeps(share)
        if self._marker is not None and needed.any():
            needed = planned.window >= planned.window[planned.region[first_row]]
        at_hand = all(self._is_at_hand(region, keeps) for region in planned.regions)
        reader = Reader(
            self._load_kept if keeps else self._load,
            planned.regions,
            planned.region_bytes,
            self.pool_bytes // share.workers,
            needed.tolist(),
            n_threads=0 if at_hand else threads_for(share.workers),
        )
        self._readers.add(reader)
        foreground = None
        if self._marker is not None:
            seed = (self.seed, epoch, share.rank, share.worker)
            foreground = Foreground(self._marker, planned, reader, seed)
        return _Patches(
            self._pair, planned, reader, foreground, (self.seed, epoch), self.with_region
        )

    def _load(self, region: Region) -> Loaded:
        """Read a region, and mark what passes the filter; called in threads."""
        blocks = self._pair.read(region)
        return Loaded(blocks, self._marker.mark(region, blocks) if self._marker else None)

    def _load_kept(self, region: Region) -> Loaded:
        """Return a whole sample, which is read and marked once for all epochs."""
        key, kept = (region.image, region.sample), self.images.kept
        blocks = kept.get(key) or self._pair.read(region)
        if not self.extents[region.image].in_memory:
            kept[key] = blocks
        if self._marker is None:
            return Loaded(blocks)
        if key not in self._marks:
            self._marks[key] = self._marker.mark(region, blocks)
        return Loaded(blocks, self._marks[key])

    def _is_at_hand(self, region: Region, keeps: bool) -> bool:
        """Whether loading a region costs nothing."""
        key = (region.image, region.sample)
        is_read = self.extents[region.image].in_memory or (keeps and key in self.images.kept)
        return is_read and (self._marker is None or (keeps and key in self._marks))


@dataclass
class _Patches:
    """The patches of one pass over a schedule."""

    images: PairedImages
    schedule: Schedule
    reader: Reader[Loaded]
    foreground: Foreground | None
    seed: tuple[int, int]
    with_region: bool

    def __post_init__(self) -> None:
        self.origins, self.last_row = self.schedule.origins, self.schedule.last_row.tolist()

    def batch(self, rows: slice) -> Batch:
        """Cut the patches of a batch out of their regions."""
        plan, n = self.schedule.plan, rows.stop - rows.start
        size: list[int] = plan.size[rows.start].tolist()
        used: list[int] = []
        at: list[list[int]] = []
        cuts: list[NDArray[Any]] = []
        for region, places in self._places(rows):
            at += places.tolist()
            for r, mine in by_region(region):
                # No block stays in a variable, so that few are held at once.
                blocks_of, mine = self.reader.block, (mine + len(used)).tolist()
                cuts = self.images.cut(blocks_of(r).blocks, mine, at, size, cuts, n)
                if self.foreground is None and self.last_row[r] < rows.stop:
                    self.reader.drop(r)
            used += region.tolist()

        def place_of(row: int) -> tuple[int, int, Sequence[int]]:
            region, (sample, *start) = self.reader.regions[used[row]], at[row]
            origin = [a + b for a, b in zip(region.start, start, strict=True)]
            return region.image, region.sample + sample, origin

        others = None if self.with_region else lambda: self._read_others(rows)
        self.images.apply_nan_policy(cuts, place_of, others)
        tensors = [torch.from_numpy(cut) for cut in cuts]
        batch: Batch = dict(zip(("image", "target"), tensors, strict=False))
        if self.with_region:
            columns = (plan.image[rows, None], plan.sample[rows, None], plan.start[rows])
            batch["region"] = torch.from_numpy(np.hstack([*columns, plan.crop[rows]]))
        return batch

    def _places(self, rows: slice) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Regions, and samples and origins in them, of the patches of a batch, part by part."""
        if self.foreground is not None:
            yield from self.foreground.draw(rows)
            return
        plan, region = self.schedule.plan, self.schedule.region[rows]
        places = np.column_stack([plan.sample[rows], plan.start[rows]])
        yield region, places - self.origins[region]

    def _read_others(self, rows: slice) -> list[Blocks]:
        """Read patches from all over the plan that have no NaN, instead of a batch."""
        # Of the place in the epoch alone, so that a resumed run takes the same ones.
        rng = np.random.default_rng([*self.seed, rows.start, 5])
        found: list[Blocks] = []
        for row in rng.permutation(len(self.schedule.plan))[:TRIES].tolist():
            patch = self.images.read_patch(region_of_patch(self.schedule.plan, row))
            if patch is not None:
                found.append(patch)
            if len(found) == rows.stop - rows.start:
                break
        return found


def fits(extents: Sequence[Extent], pool_bytes: int) -> bool:
    """Whether all decoded samples fit the pool, so that they are kept for all epochs."""
    return sum(extent.samples * extent.sample_bytes for extent in extents) <= pool_bytes
