"""A share of an epoch, read window by window, cut into patches, yielded as batches."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from math import ceil, prod
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from careamics_dm.errors import DataError
from careamics_dm.images.extent import Extents
from careamics_dm.images.image_set import ImageSet
from careamics_dm.images.region import Blocks, Region
from careamics_dm.loading.device_transfer import Batch
from careamics_dm.loading.filtered_patches import FilteredPatches, Marker
from careamics_dm.loading.first_batch import read_alone
from careamics_dm.loading.patch_extraction import NanPolicy, PairedImages
from careamics_dm.loading.prefetch import Loaded, Marks, Reader, threads_for
from careamics_dm.loading.read_schedule import FixedPass, RandomPass, Step
from careamics_dm.sampling.epoch_streams import UNBOUNDED, Share, Stream, count_streams
from careamics_dm.sampling.filters.base import PatchFilter
from careamics_dm.sampling.keyed_random import Numbers, key_of
from careamics_dm.sampling.patch_grid import PatchGrid
from careamics_dm.sampling.random_patches import RandomEpoch, RandomPatches
from careamics_dm.sampling.read_windows import WINDOWS, PlacePlan, Places

Plan = RandomPatches | PlacePlan
BlockCache = Callable[[PairedImages, Extents, int], Callable[[Region], Blocks]]

ORIGINS_PER_BYTE = 6
"""Marks of a filter take so little memory: a bit for each origin, and a quarter for counts."""
MIXED = 2
"""Windows of a stream whose patches are shuffled together."""
STEPS = 8
"""How many times smaller than a window the first block of a stream is, where images are small."""
TRIES = 100
"""Other patches to try where no patch of a batch can be used."""


class PatchDataset(IterableDataset[Batch]):
    """Batches of patches, cut from windows that are each read once.

    Windows are read ahead by threads, in the order in which they are needed, and dropped after
    their last patch. A set that fits ``pool_bytes`` is kept, and read once for all epochs. Every
    pass yields the batches of the epoch that `set_epoch` set last.

    Parameters
    ----------
    images : ImageSet
        The images, with their targets and selected channels.
    plan : RandomPatches, PatchGrid, PatchList or BlockTiles
        Where the patches are. Batches of tiles carry where these belong.
    batch_size : int or None
        Patches per batch; ``None`` yields single patches, without the leading ``N``.
    pool_bytes : int
        Bound on decoded bytes held, shared out over loader processes; a single window may exceed
        it.
    seed : int
        Seed of the order of random patches and of their orientation.
    n_orientations : int
        Above 1, batches carry how many of their patches get which orientation.
    nan_policy : {"error", "zero", "skip"}
        What to do about NaN and infinity in a patch: raise; set them to 0; or take another
        patch instead, of the same batch or else of the same epoch.
    share : Share, optional
        This process's rank among those that train together.
    keep : bool
        Whether a set that fits ``pool_bytes`` is kept for other epochs, in ``images.kept``.
    block_cache : callable, optional
        What reads regions, and holds the stored blocks that they have in common: made of the
        images, their extents and a number of bytes. By default, nothing is held.
    patch_filter : PatchFilter, optional
        What patches must meet; others are replaced by random ones that do, see `FilteredPatches`.

    Yields
    ------
    dict
        ``image`` ``(N, C, (Z), Y, X)`` in the stored dtype where torch has it, else float32;
        ``target`` likewise; ``region`` int64 ``(N, 2 + 3 D)``: image, sample, tile start, crop
        start and crop stop, in pixels; ``orientation``, a tuple of counts, see `augmentation`.
        Of a loader process that makes a part of each random batch, also ``rows``: where in the
        batch its patches belong, and ``n``, how many there are in all.

    Raises
    ------
    DataError
        A filter with a plan that has no other patches to draw.
    """

    def __init__(
        self,
        images: ImageSet,
        plan: Plan,
        *,
        batch_size: int | None = 64,
        pool_bytes: int = 2**29,
        seed: int = 0,
        n_orientations: int = 1,
        nan_policy: NanPolicy = "error",
        share: Share | None = None,
        keep: bool = True,
        block_cache: BlockCache | None = None,
        patch_filter: PatchFilter | None = None,
    ) -> None:
        self.images, self.plan, self.extents = images, plan, images.extents()
        self.batch_size, self.pool_bytes, self.seed = batch_size, pool_bytes, seed
        self.n_orientations, self.share, self.keep = n_orientations, share or Share(), keep
        self._block_cache = block_cache
        # Epoch, and patch to start from; shared, so that living workers see them change.
        self.progress = torch.zeros(2, dtype=torch.int64).share_memory_()
        self._pair = PairedImages(images, nan_policy)
        self._marker = None if patch_filter is None else self._make_marker(patch_filter)
        self._marks: dict[tuple[int, int], Marks] = {}
        self._readers: set[Reader] = set()

    def set_epoch(self, epoch: int, patch: int = 0) -> None:
        """Let the next pass yield the batches of this epoch, from this patch of all ranks on."""
        self.progress.copy_(torch.tensor([epoch, patch]))

    def count(self, patch: int = 0) -> int:
        """Count batches (or single patches) of this rank in an epoch, from a patch on."""
        lengths = np.diff(self._ends(*self._numbers(patch)))
        return int(np.sum(-(-lengths // (self.batch_size or 1))))

    @property
    def n_streams(self) -> int:
        """Streams of an epoch of random patches, over all ranks; see `epoch_streams`."""
        if not (isinstance(self.plan, RandomPatches | PatchGrid) and self.plan.is_random):
            return 1
        largest = 0 if fits(self.extents, self.pool_bytes) else self.plan.largest_window
        return count_streams(self.share, largest, self.pool_bytes)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of one epoch, or this process's share of them."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        epoch, patch = self.progress.tolist()
        plan = self.plan.epoch(epoch)
        schedule = self._schedule(plan, epoch, patch, worker, workers)
        reader = self._open(plan, schedule, epoch, workers)
        try:
            for portion in schedule.portions():
                at = np.column_stack([portion.places.sample, portion.places.start])
                if len(at):
                    at -= reader.origins(portion.places.window)[:, 1:]
                for step in portion.steps:
                    batch: Batch = {}
                    if step.place.size:
                        places = portion.places.some(step.rows)
                        others = partial(self._others, plan, epoch, step)
                        batch = self._cut(reader, places, at[step.rows], others)
                    for key in step.ended:
                        reader.end(key)
                    if self.batch_size is None:
                        batch = {key: value[0] for key, value in batch.items()}
                    elif self.plan.is_random:
                        if self.n_orientations > 1:
                            batch["orientation"] = step.orientation
                        if workers > 1:
                            batch |= {"rows": torch.from_numpy(step.place), "n": step.n}
                    yield batch
        finally:
            reader.close()
            self._readers.discard(reader)

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
        return self.__dict__ | {"images": images, "_marks": {}, "_readers": set()}

    def _make_marker(self, patch_filter: PatchFilter) -> Marker:
        if not isinstance(self.plan, RandomPatches):
            raise DataError(
                "patch_filter: patches that are rejected are replaced by others at random, so the "
                "plan must be RandomPatches."
            )
        self.plan = replace(self.plan, few=0)  # all of a window is marked
        n_origins = self.extents.each(lambda e: e.samples * prod(e.size) * e.in_memory).sum()
        if n_origins > ORIGINS_PER_BYTE * self.pool_bytes:
            # Mapped from disk, say: marked part by part, as if it were read.
            self.extents = self.extents.changed(lambda e: e._replace(in_memory=False))
            window_bytes = self.pool_bytes // WINDOWS
            self.plan = replace(self.plan, extents=self.extents, window_bytes=window_bytes)
        return Marker(patch_filter, self.plan, self._pair)

    def _numbers(self, patch: int) -> tuple[int, int]:
        """Return first and stop of this rank's patches from a patch of all ranks on.

        Patch number ``i`` of a rank is number ``i * world_size + rank`` of a random plan. Of a
        fixed one ranks take equally many that stand together, the first again where they do not
        divide.
        """
        n, ranks = len(self.plan), self.share.world_size
        if not self.plan.is_random:
            return patch // ranks, ceil(n / ranks)
        first = -((self.share.rank - patch) // ranks)
        return first, first + max(n - patch, 0) // ranks

    def _ends(self, first: int, stop: int) -> Numbers:
        """Return where batches end, full or not; see `PlacePlan`."""
        ends = () if isinstance(self.plan, RandomPatches) else self.plan.ends
        return np.clip(ends, first, stop) if len(ends) else np.array([first, stop])

    def _schedule(
        self, plan: PlacePlan, epoch: int, patch: int, worker: int, workers: int
    ) -> RandomPass | FixedPass:
        """Say what a process draws, from a patch of all ranks on."""
        (first, stop), size = self._numbers(patch), self.batch_size or 1
        if isinstance(plan, RandomEpoch | PatchGrid) and plan.is_random:
            streams, turn_key = self._streams(plan, epoch), key_of(self.seed, epoch, 2)
            mine, turns = range(worker, len(streams), workers), (self.n_orientations, turn_key)
            return RandomPass(self.share, streams, mine, first, stop, size, *turns)
        numbers = (np.arange(first, stop) + self.share.rank * stop) % max(len(plan), 1)
        return FixedPass(plan, numbers, self._ends(first, stop) - first, size, worker, workers)

    def _open(
        self, plan: PlacePlan, schedule: RandomPass | FixedPass, epoch: int, workers: int
    ) -> Reader:
        """Begin to read what a pass needs; whole samples, if they are kept for other epochs."""
        keeps = self.keep and fits(self.extents, self.pool_bytes // workers)
        in_memory = all(e.in_memory for e in self.extents.kinds)
        at_hand = (in_memory and self._marker is None) or (keeps and self._has_all())
        budget = self.pool_bytes // workers
        read: Callable[[Region], Blocks] = self._pair.read
        if self._block_cache is not None:
            read = self._block_cache(self._pair, self.extents, budget // 4)
            budget //= 2
        load = partial(self._load, read, keeps)
        needs, n_threads = (iter(()), 0) if at_hand else (schedule.needs(), threads_for(workers))
        reader = Reader(load, partial(self._find, plan, keeps), needs, budget, n_threads)
        self._readers.add(reader)
        if self._marker is not None and isinstance(schedule, RandomPass):
            seed = self.seed, epoch
            schedule.draw = FilteredPatches(self._marker, reader, seed, in_memory=in_memory).draw
        return reader

    def _cut(
        self, reader: Reader, places: Places, at: Numbers, others: Callable[[], list[Blocks]]
    ) -> Batch:
        """Cut the patches of a batch out of their regions, where these have them at ``at``."""
        windows: list[int] = places.window.tolist()
        blocks: dict[int, Blocks] = {}
        keeps = reader.is_new and self.keep and fits(self.extents, reader.budget)
        if keeps and self._marker is None:
            alone = read_alone(self._pair, self.images, self.extents, reader, places)
            for row, patch in alone.items():
                windows[row], at[row], blocks[-1 - row] = -1 - row, 0, patch
        reader.load_ahead()
        blocks |= {window: reader.get(window).blocks for window in {*windows} - blocks.keys()}
        cuts = self._pair.cut(blocks, windows, at.tolist(), places.size[0].tolist())
        of_tiles = places.crop.size > 0
        self._pair.apply_nan_policy(cuts, places.region, None if of_tiles else others)
        batch: Batch = dict(zip(("image", "target"), map(torch.from_numpy, cuts), strict=False))
        if of_tiles:
            ends = places.image[:, None], places.sample[:, None], places.start, places.crop
            batch["region"] = torch.from_numpy(np.hstack(ends))
        return batch

    def _others(self, plan: PlacePlan, epoch: int, step: Step) -> list[Blocks]:
        """Read patches from all over the plan that have no NaN, instead of a batch."""
        # Of the place in the epoch alone, so that a resumed run takes the same ones.
        seed = self.seed, epoch, self.share.rank, step.number, int(step.place[0]), 5
        rng, n = np.random.default_rng(seed), len(plan)
        numbers = rng.permutation(n) if n <= TRIES else rng.integers(n, size=TRIES)
        regions = map(plan.places(numbers).region, range(len(numbers)))
        return [*islice(filter(None, map(self._pair.read_patch, regions)), step.n)]

    def _has_all(self) -> bool:
        """Whether all that is kept has been read, and marked."""
        n_runs = self.extents.each(lambda e: -(-e.samples // e.together))
        n_read = n_runs[self.extents.each(lambda e: not e.in_memory)].sum()
        n_marked = 0 if self._marker is None else n_runs.sum()
        return bool(len(self.images.kept) == n_read and len(self._marks) == n_marked)

    def _streams(self, places: RandomEpoch | PatchGrid, epoch: int) -> list[Stream]:
        """Return the streams of this rank."""
        window_bytes, growth = max(self.pool_bytes // WINDOWS // STEPS, 1), MIXED * STEPS
        if self.keep and fits(self.extents, self.pool_bytes):
            growth = WINDOWS * STEPS  # the last block may be as large as the pool
            if epoch > 0 or (self._marker is None and all(e.in_memory for e in self.extents.kinds)):
                window_bytes = UNBOUNDED  # all is there, so all is mixed
        key, n = key_of(self.seed, epoch, 1), self.n_streams
        mine = range(self.share.rank, n, self.share.world_size)
        return [Stream(places, s, n, key, window_bytes, growth) for s in mine]

    def _find(self, plan: PlacePlan, keeps: bool, window: int) -> tuple[Region, int]:
        """Return what to read of a window, whole samples if they are kept, and its bytes."""
        region = plan.region(window)
        extent = self.extents[region.image]
        if keeps:
            first = region.sample // extent.together * extent.together
            n = min(extent.together, extent.samples - first)
            size = tuple(map(max, extent.size, region.stop))
            region = Region(region.image, first, (0,) * len(size), size, n)
        n_pixels = prod(b - a for a, b in zip(region.start, region.stop, strict=True))
        n_bytes = n_pixels * region.n_samples * extent.pixel_bytes
        return region, 0 if extent.in_memory else n_bytes

    def _load(self, read: Callable[[Region], Blocks], keeps: bool, region: Region) -> Loaded:
        """Read a region and mark what passes the filter, or take what is kept; in threads."""
        key = region.image, region.sample
        kept, marks = (self.images.kept, self._marks) if keeps else ({}, {})
        blocks = kept.get(key) or read(region)
        if not self.extents[region.image].in_memory:
            kept[key] = blocks
        if self._marker is None:
            return Loaded(blocks)
        if key not in marks:
            marks[key] = self._marker.mark(region, blocks)
        return Loaded(blocks, marks[key])


def fits(extents: Extents, pool_bytes: int) -> bool:
    """Whether all decoded samples fit the pool, so that they are kept for all epochs."""
    return bool(extents.each(lambda e: e.samples * e.sample_bytes).sum() <= pool_bytes)
