"""A share of an epoch, read window by window, cut into patches, yielded as batches."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from math import ceil, prod
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from careamics_dm.errors import DataError
from careamics_dm.images.extent import Extent
from careamics_dm.images.image_set import ImageSet
from careamics_dm.images.region import Region
from careamics_dm.loading.batch_cutter import Batch, BatchCutter
from careamics_dm.loading.foreground import Foreground
from careamics_dm.loading.origin_marks import Loaded, Marker, Marks
from careamics_dm.loading.patch_extraction import NanPolicy, PairedImages
from careamics_dm.loading.prefetch import Reader, threads_for
from careamics_dm.loading.schedule import FixedPass, RandomPass, Step, turns
from careamics_dm.loading.shared_blocks import SharedBlocks
from careamics_dm.sampling.block_tiles import BlockTiles
from careamics_dm.sampling.filters.base import PatchFilter
from careamics_dm.sampling.keyed_random import key_of
from careamics_dm.sampling.random_patches import RandomEpoch, RandomPatches
from careamics_dm.sampling.read_windows import WINDOWS, PatchList
from careamics_dm.sampling.streams import Epoch, Share, Stream, count_streams
from careamics_dm.sampling.tiling import GridPatches, TileGrid

Plan = RandomPatches | GridPatches | TileGrid | BlockTiles | PatchList

ORIGINS_PER_BYTE = 6
"""Marks of a filter take so little memory: a bit for each origin, and a quarter for counts."""
MIXED = 2
"""Windows of a stream whose patches are shuffled together."""
STEPS = 8
"""The first block of a stream is so much smaller than a window, where images are."""


class PatchDataset(IterableDataset[Batch]):
    """Batches of patches, cut from windows that are each read once.

    Windows are read ahead by threads, in the order in which they are needed, and dropped after
    their last patch. A set that fits ``pool_bytes`` is kept, and read once for all epochs. Every
    pass yields the batches of the epoch that `set_epoch` set last.

    Parameters
    ----------
    images : ImageSet
        The images, with their targets and selected channels.
    plan : RandomPatches, GridPatches, TileGrid, BlockTiles or PatchList
        Where the patches are. A batch has tiles of one block only, so that its result is the same
        in whichever order blocks are predicted.
    batch_size : int or None
        Patches per batch; ``None`` yields single patches, without the leading ``N``.
    pool_bytes : int
        Bound on decoded bytes held, shared out over loader processes; a single window may exceed
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
        Of a loader process that makes a part of each random batch, also ``rows``: where in the
        batch its patches belong, and ``n``, how many there are in all.

    Raises
    ------
    DataError
        A filter, but a plan that has no other patches to draw.
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
        # Epoch, and patch to start from; shared, so that living workers see them change.
        self.progress = torch.zeros(2, dtype=torch.int64).share_memory_()
        self._pair = PairedImages(images, nan_policy)
        self._marker = None if patch_filter is None else self._make_marker(patch_filter)
        self._marks: dict[tuple[int, int], Marks] = {}
        self._readers: WeakSet[Reader[Loaded]] = WeakSet()

    def set_epoch(self, epoch: int, patch: int = 0) -> None:
        """Let the next pass yield the batches of this epoch, from this patch of all ranks on."""
        self.progress.copy_(torch.tensor([epoch, patch]))

    def count(self, patch: int = 0) -> int:
        """Count batches (or single patches) of this rank in an epoch, from a patch on."""
        lengths = np.diff(self._ends(*self._numbers(patch)))
        return int(np.sum(-(-lengths // (self.batch_size or 1))))

    @property
    def n_parts(self) -> int:
        """Loader processes that can make a batch together; 1: each makes its own."""
        return self.n_streams // self.share.world_size if self.plan.is_random else 1

    @property
    def n_streams(self) -> int:
        """Streams of an epoch of random patches, over all ranks; see `streams`."""
        if not isinstance(self.plan, RandomPatches | GridPatches):
            return 1
        largest = 0 if fits(self.extents, self.pool_bytes) else self.plan.largest_window
        return count_streams(self.share, largest, self.pool_bytes)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of one epoch, or this process's share of them."""
        epoch, patch = self.progress.tolist()
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        first, stop = self._numbers(patch)
        patches = self._open(epoch, first, stop, worker, workers)
        with closing(patches.reader):
            for portion in patches.schedule.portions():
                at = patches.locate(portion)
                for step in portion.steps:
                    batch = patches.batch(portion, step, at) if step.place.size else {}
                    for key in step.ended:
                        patches.reader.end(key)
                    if self.batch_size is None:
                        batch = {key: value[0] for key, value in batch.items()}
                    else:
                        batch |= self._about(step, workers)
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

    def _about(self, step: Step, workers: int) -> Batch:
        """Say what else a loader has to know about a batch of random patches."""
        if not self.plan.is_random:
            return {}
        turned = {"orientation": step.orientation} if self.n_orientations > 1 else {}
        part = {"rows": torch.from_numpy(step.place), "n": step.n} if workers > 1 else {}
        return turned | part

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

    def _ends(self, first: int, stop: int) -> NDArray[np.int64]:
        """Return where batches end, full or not."""
        ends = self.plan.ends if isinstance(self.plan, BlockTiles) else np.array([first, stop])
        clipped: NDArray[np.int64] = np.clip(ends, first, stop)
        return clipped

    def _keeps(self, workers: int) -> bool:
        """Whether all that this process reads is kept for other epochs."""
        return self.keep and fits(self.extents, self.pool_bytes // workers)

    def _open(self, epoch: int, first: int, stop: int, worker: int, workers: int) -> BatchCutter:
        """Begin to read what a pass needs from a patch of this rank on."""
        keeps, places = self._keeps(workers), self.plan.epoch(epoch)
        schedule: RandomPass | FixedPass
        if isinstance(places, RandomEpoch) or isinstance(self.plan, GridPatches):
            assert not isinstance(places, PatchList | BlockTiles)
            mine = range(worker, self.n_parts, workers)
            schedule = self._random_pass(places, epoch, (first, stop), mine)
        else:
            numbers = (np.arange(first, stop) + self.share.rank * stop) % max(len(places), 1)
            ends = self._ends(first, stop) - first
            schedule = FixedPass(places, numbers, ends, self.batch_size or 1, worker, workers)
        find = partial(self._find, places, keeps)
        at_hand = all(e.in_memory for e in self.extents) and self._marker is None
        at_hand |= keeps and self._has_all()
        budget, load = self.pool_bytes // workers, self._load_kept if keeps else self._load
        if isinstance(places, BlockTiles):
            shared = SharedBlocks(self._pair, self.extents, budget // 4)
            budget, load = budget * 3 // 4, shared.load
        reader = Reader(
            load,
            find,
            iter(()) if at_hand else schedule.needs(),
            budget,
            n_threads=0 if at_hand else threads_for(workers),
        )
        self._readers.add(reader)
        if self._marker is not None:
            assert isinstance(schedule, RandomPass)
            in_memory = all(e.in_memory for e in self.extents)
            foreground = Foreground(self._marker, reader, (self.seed, epoch), in_memory=in_memory)
            schedule.draw = foreground.draw
        seed = self.seed, epoch, self.share.rank
        return BatchCutter(self._pair, schedule, places, reader, seed, self.with_region)

    def _has_all(self) -> bool:
        """Whether all that is kept has been read, and marked."""
        groups = [(-(-e.samples // e.together), e.in_memory) for e in self.extents]
        n_read = sum(n for n, in_memory in groups if not in_memory)
        n_marked = 0 if self._marker is None else sum(n for n, _ in groups)
        return len(self.images.kept) == n_read and len(self._marks) == n_marked

    def _random_pass(
        self, places: RandomEpoch | TileGrid, epoch: int, numbers: tuple[int, int], mine: range
    ) -> RandomPass:
        window_bytes: int | None = max(self.pool_bytes // WINDOWS // STEPS, 1)
        share, growth = self.share, None
        if not (self.keep and fits(self.extents, self.pool_bytes)):
            growth = MIXED * STEPS
        elif epoch > 0 or (self._marker is None and all(e.in_memory for e in self.extents)):
            window_bytes = None  # all is there, so all is mixed
        key, n = key_of(self.seed, epoch, 1), self.n_streams
        streams = [
            Stream(places, s, n, key, window_bytes, growth)
            for s in range(share.rank, n, share.world_size)
        ]
        turn_key = key_of(self.seed, epoch, 2)

        def turn(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
            of_all = numbers * share.world_size + share.rank
            return turns(turn_key, self.n_orientations, of_all)

        assert isinstance(self.plan, RandomPatches | GridPatches)
        size = self.plan.patch_size
        return RandomPass(
            places, streams, mine, numbers, self.batch_size or 1, turn, self.n_orientations, size
        )

    def _find(
        self, places: Epoch | BlockTiles | PatchList, keeps: bool, window: int
    ) -> tuple[Region, int]:
        """Return what to read of a window, whole samples if they are kept, and its bytes."""
        region = places.region(window, whole=self._marker is not None)
        extent = self.extents[region.image]
        if keeps:
            first = region.sample // extent.together * extent.together
            last = region.sample + region.n_samples
            stop = min(-(-last // extent.together) * extent.together, extent.samples)
            size = tuple(max(n, end) for n, end in zip(extent.size, region.stop, strict=True))
            region = Region(region.image, first, (0,) * len(size), size, stop - first)
        n_pixels = prod(b - a for a, b in zip(region.start, region.stop, strict=True))
        n_bytes = n_pixels * region.n_samples * extent.pixel_bytes
        return region, 0 if extent.in_memory else n_bytes

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


def fits(extents: Sequence[Extent], pool_bytes: int) -> bool:
    """Whether all decoded samples fit the pool, so that they are kept for all epochs."""
    return sum(extent.samples * extent.sample_bytes for extent in extents) <= pool_bytes
