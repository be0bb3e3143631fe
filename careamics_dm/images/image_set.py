"""The images of one role (train, val, test, predict): opened, checked, described."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.axes import is_run
from careamics_dm.images.boxes import Boxes, common, n_pixels
from careamics_dm.images.extent import Extent, Extents
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
    _extents: Extents | None = None
    _acquired: dict[tuple[int, int], Boxes] | None = None

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

    def extents(self) -> Extents:
        """Describe the images for planning."""
        if self._extents is None:
            image, *target = (map(_extent, *side) for side in self.sides)
            self._extents = Extents(map(_together, image, *target) if target else image)
        return self._extents

    def acquired(self, chosen: NDArray[np.bool_] | None = None) -> dict[tuple[int, int], Boxes]:
        """Boxes that were acquired, of images and targets alike, by image and sample.

        Only of samples with gaps, of all or the ``chosen`` ones. Equal boxes are there once.
        """
        if self._acquired is None:
            self._acquired = dict(self._find_acquired())
        if chosen is None or not self._acquired:
            return self._acquired
        first = self.extents().first
        return {(i, s): boxes for (i, s), boxes in self._acquired.items() if chosen[first[i] + s]}

    def _find_acquired(self) -> Iterator[tuple[tuple[int, int], Boxes]]:
        same: dict[Any, Boxes | None] = {}
        for i, stack in enumerate(self.stacks):
            both = ((getattr(of[i], "valid_region", None), chosen[i]) for of, chosen in self.sides)
            asked = [(ask, channels) for ask, channels in both if ask is not None]
            size = tuple(stack.data_shape[2:])
            for s in range(stack.data_shape[0] if asked else 0):
                said = [ask(s, channels) for ask, channels in asked]
                if all(boxes is None for boxes in said):
                    continue
                key = size, repr(said)
                if key not in same:
                    same[key] = common(said, size)
                if (boxes := same[key]) is not None:
                    yield (i, s), boxes

    def n_not_acquired(self, chosen: NDArray[np.bool_] | None = None) -> dict[int, int]:
        """Count pixels, over all or ``chosen`` samples, not acquired, per image with any."""
        counts: Counter[int] = Counter()
        n_gaps: dict[tuple[int, int], int] = {}
        for (i, _), boxes in self.acquired(chosen).items():
            n = prod(self.stacks[i].data_shape[2:])
            key = n, id(boxes)
            if key not in n_gaps:
                n_gaps[key] = n - n_pixels(boxes)
            counts[i] += n_gaps[key]
        return counts

    def n_bytes(self) -> int:
        """Bytes of all pixels that are read, in the stored dtype."""
        return int(self.extents().each(lambda e: e.samples * prod(e.size) * e.pixel_bytes).sum())

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
        self._extents = None
        for stacks, _ in self.sides:
            bar = tqdm(stacks, "loading", unit="image", delay=PROGRESS_AFTER, leave=False)
            stacks[:] = [s.load() if isinstance(s, ArrayStack | PlaneStack) else s for s in bar]

    def pair_within(self, repeats: str | None) -> None:
        """Find targets inside the images: other channels or, along ``repeats``, every second frame.

        Their channels are in ``target_channels`` already. After `load`, so that pixels are in
        memory once.
        """
        self._extents = self._acquired = None
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
    how = how if blocks else "read from disk as needed"
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


def _extent(stack: ImageStack, channels: Sequence[int] | None) -> Extent:
    """Describe an image of which these channels are read."""
    return Extent(
        stack.data_shape[0],
        tuple(stack.data_shape[2:]),
        block_shape_of(stack),
        count_channels(stack, channels) * np.dtype(stack.data_dtype).itemsize,
        # A selection with gaps is a copy, not a view.
        getattr(stack, "in_memory", False) and is_run(channels),
        getattr(stack, "samples_per_block", 1),
    )


def _together(image: Extent, target: Extent) -> Extent:
    """Describe an image that is read with its target."""
    return Extent(
        image.samples,
        image.size,
        tuple(map(max, image.block, target.block)),
        image.pixel_bytes + target.pixel_bytes,
        image.in_memory and target.in_memory,
        max(image.samples_per_block, target.samples_per_block),
    )


def _is_by_planes(stack: ImageStack) -> bool:
    """Whether an image is a volume, which is read plane by plane."""
    sizes = dict(zip(stack.original_axes, stack.original_data_shape, strict=True))
    return len(stack.data_shape) == 4 and sizes.get("Z", 1) > 1


def count_channels(stack: ImageStack, chosen: Sequence[int] | None) -> int:
    """Count the channels that are read of an image."""
    return stack.data_shape[1] if chosen is None else len(chosen)
