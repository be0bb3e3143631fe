"""The images of one role (train, val, test, predict): opened, checked, described."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.axes import is_run
from careamics_dm.images.boxes import Boxes, common, n_pixels
from careamics_dm.images.extent import Extent
from careamics_dm.images.frame_pairs import alternate
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.images.plane_stack import PlaneStack
from careamics_dm.images.region import Kept, block_shape_of

PROGRESS_AFTER = 2.0  # seconds after which work shows a progress bar


@dataclass
class ImageSet:
    """Stacks of one role with their targets, masks and selected channels."""

    stacks: list[ImageStack]
    targets: list[ImageStack] = field(default_factory=list)
    masks: list[ImageStack] = field(default_factory=list)
    channels: list[list[int] | None] = field(default_factory=list)
    target_channels: list[list[int] | None] = field(default_factory=list)
    kept: Kept = field(default_factory=dict)
    """Whole samples that loaders of this process share, see `PatchDataset`."""
    valid: dict[tuple[int, int], Boxes | None] = field(default_factory=dict)
    """What `valid_region` found, by image and sample."""
    _described: tuple[list[int], tuple[Extent, ...]] = ([], ())
    """What `extents` returned last, and of which stacks."""
    _same: dict[Any, Boxes | None] = field(default_factory=dict)
    """The same, by what stacks said: samples are mostly alike, and share their boxes."""

    @property
    def n_channels(self) -> int:
        """Channels that are read of each image."""
        return count_channels(self.stacks[0], self.channels[0])

    @property
    def n_target_channels(self) -> int:
        """Channels of each target; of the image where there is no target."""
        stacks, channels = self.sides[-1]
        return count_channels(stacks[0], channels[0])

    @property
    def sides(self) -> list[tuple[list[ImageStack], list[list[int] | None]]]:
        """Images and, where there are any, targets, each with the channels to read."""
        sides = [(self.stacks, self.channels)]
        return sides + ([(self.targets, self.target_channels)] if self.targets else [])

    def extents(self) -> tuple[Extent, ...]:
        """Describe the images for planning."""
        # Made again only if there are other stacks: loaded ones, or pairs of frames.
        key = [id(stack) for stacks, _ in self.sides for stack in stacks]
        if key != self._described[0]:
            self._described = key, tuple(map(self._extent, range(len(self.stacks))))
        return self._described[1]

    def _extent(self, i: int) -> Extent:
        sides = [(stacks[i], channels[i]) for stacks, channels in self.sides]
        blocks = [block_shape_of(stack) for stack, _ in sides]
        itemsizes = [np.dtype(stack.data_dtype).itemsize for stack, _ in sides]
        counts = [count_channels(stack, chosen) for stack, chosen in sides]
        return Extent(
            self.stacks[i].data_shape[0],
            tuple(self.stacks[i].data_shape[2:]),
            tuple(max(column) for column in zip(*blocks, strict=True)),
            sum(n * size for n, size in zip(counts, itemsizes, strict=True)),
            # A selection with gaps is a copy, not a view.
            all(getattr(s, "in_memory", False) and is_run(chosen) for s, chosen in sides),
            max(getattr(stack, "samples_per_block", 1) for stack, _ in sides),
        )

    def valid_region(self, image: int, sample: int) -> Boxes | None:
        """Boxes that were acquired, of images and targets alike; ``None`` is all."""
        if (image, sample) not in self.valid:
            known, size = [], tuple(self.stacks[image].data_shape[2:])
            for stacks, channels in self.sides:
                if ask := getattr(stacks[image], "valid_region", None):
                    known.append(ask(sample, channels[image]))
            said = (None if b is None else tuple((tuple(p), tuple(q)) for p, q in b) for b in known)
            key = (size, tuple(said))
            if key not in self._same:
                self._same[key] = common(known, size)
            self.valid[image, sample] = self._same[key]
        return self.valid[image, sample]

    def samples(self, chosen: NDArray[np.bool_] | None) -> list[list[int]]:
        """List the samples of each image; of all, image by image, the chosen ones."""
        if chosen is None:
            return [list(range(stack.data_shape[0])) for stack in self.stacks]
        ends = np.cumsum([stack.data_shape[0] for stack in self.stacks])[:-1]
        parts = np.split(chosen, ends)
        return [np.flatnonzero(part).tolist() for part in parts]

    def n_not_acquired(self, chosen: NDArray[np.bool_] | None = None) -> dict[int, int]:
        """Count pixels, over all or ``chosen`` samples, not acquired, per image with any."""
        counts = {}
        for i, samples in enumerate(self.samples(chosen)):
            size = self.stacks[i].data_shape[2:]
            valid = [self.valid_region(i, s) for s in samples]
            of = {id(boxes): prod(size) - n_pixels(boxes) for boxes in valid if boxes is not None}
            if n := sum(of.get(id(boxes), 0) for boxes in valid):
                counts[i] = n
        return counts

    def n_bytes(self) -> int:
        """Bytes of all pixels that are read, in the stored dtype."""
        return sum(e.samples * prod(e.size) * e.pixel_bytes for e in self.extents())

    def bytes_to_load(self) -> int:
        """Bytes that `load` and masks take: of all channels, where pixels are not in memory yet."""
        return sum(
            prod(stack.data_shape) * np.dtype(stack.data_dtype).itemsize
            for stacks in (*(stacks for stacks, _ in self.sides), self.masks)
            for stack in stacks
            if isinstance(stack, ArrayStack | PlaneStack) and not getattr(stack, "in_memory", False)
        )

    def load(self) -> None:
        """Read all pixels into memory, in the stored dtype."""
        for stacks, _ in self.sides:
            bar = tqdm(stacks, "loading", unit="image", delay=PROGRESS_AFTER, leave=False)
            stacks[:] = [s.load() if isinstance(s, ArrayStack | PlaneStack) else s for s in bar]

    def pair_within(self, repeats: str | None) -> None:
        """Find targets inside the images: other channels or, along ``repeats``, every second frame.

        Their channels are in ``target_channels`` already. After `load`, so that pixels are in
        memory once.
        """
        if repeats is None:
            self.targets = self.stacks
            return
        self.targets = [alternate(stack, repeats, 1) for stack in self.stacks]
        self.stacks = [alternate(stack, repeats, 0) for stack in self.stacks]
        self.masks = [alternate(mask, repeats, 0) for mask in self.masks]

    def close(self) -> None:
        """Close every file and forget what was read; reading opens them again."""
        self.kept.clear()
        for stack in (*self.stacks, *self.targets, *self.masks):
            if close := getattr(stack, "close", None):
                close()


def describe(role: str, images: ImageSet) -> str:
    """Describe the images of a role in one line: count, sizes, dtype, bytes, how they are read."""
    extents = images.extents()
    sizes = ["×".join(map(str, size)) for size in sorted({e.size for e in extents}, key=prod)]
    size = sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    blocks = sorted({"×".join(map(str, e.block)) for e in extents if prod(e.block) > 1})
    how = f"streamed in blocks of {', '.join(blocks[:3])}{', ...' if len(blocks) > 3 else ''}"
    how = how if blocks else "mapped from disk"
    samples = sum(e.samples for e in extents)
    dtypes = ", ".join(sorted({str(stack.data_dtype) for stack in images.stacks}))
    axes = ", ".join(sorted({stack.original_axes for stack in images.stacks}))
    missing = sum(images.n_not_acquired().values())
    share = missing / sum(e.samples * prod(e.size) for e in extents)
    gaps = f", {share:.0%} not acquired" if missing else ""
    notes = [note for stack in images.stacks if (note := getattr(stack, "note", ""))]
    notes[5:] = [f"and {len(notes) - 5} more files of which several or not all images are read"] * (
        len(notes) > 5
    )
    taken = "".join(f"\n{'':<8} {note}" for note in notes)
    planes = " (Z plane by plane)" * any(map(_is_by_planes, images.stacks))
    extra = " with targets" * bool(images.targets) + " with masks" * bool(images.masks)
    return (
        f"{role:<8} {len(extents)} image(s) {axes}{extra}, {samples} sample(s) of {size}{planes}, "
        f"{images.n_channels} channel(s), {dtypes}, {images.n_bytes() / 2**20:.1f} MiB{gaps}, "
        f"{'in memory' if all(getattr(s, 'in_memory', False) for s in images.stacks) else how}"
        f"{taken}"
    )


def _is_by_planes(stack: ImageStack) -> bool:
    """Whether an image is a volume, which is read plane by plane."""
    sizes = dict(zip(stack.original_axes, stack.original_data_shape, strict=True))
    return len(stack.data_shape) == 4 and sizes.get("Z", 1) > 1


def nan_message(source: str, value: Any, sample: int, channel: int, where: Sequence[int]) -> str:
    """Say where a NaN or infinity is, and what can be done about it."""
    return (
        f"{source}: {value} at sample {sample}, channel {channel}, "
        f"{'ZYX'[-len(where) :]}={tuple(where)}. Correct the file, or set nan_policy to zero (NaN "
        "and infinity become 0) or skip (such patches are replaced by others)."
    )


def count_channels(stack: ImageStack, chosen: Sequence[int] | None) -> int:
    """Count the channels that are read of an image."""
    return stack.data_shape[1] if chosen is None else len(chosen)
