"""The images of one role (train, val, test, predict): opened, checked, described."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from careamics_dm.axes import DataError
from careamics_dm.image_stack import ArrayStack, ImageStack
from careamics_dm.origin_mask import OriginMask
from careamics_dm.pairs import EveryOther
from careamics_dm.plan import Extent, Plan
from careamics_dm.regions import block_shape_of
from careamics_dm.valid_origins import ValidOrigins, common, gaps, n_pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from careamics_dm.image_stack import Boxes
    from careamics_dm.reader import Kept

    Open = Callable[[Any, str], list[ImageStack]]
    Channels = Sequence[int | str] | None

OPENERS = 8
"""Threads that open files: opening waits for the disk, not for a core."""
PROGRESS_AFTER = 2.0
"""Seconds after which work shows a progress bar."""


@dataclass
class Images:
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
    passing: dict[Any, Any] = field(default_factory=dict)
    """Where patches pass a filter, see `passing.plan_passing`; found out once."""
    _same: dict[Any, Boxes | None] = field(default_factory=dict)
    """The same, by what stacks said: samples are mostly alike, and share their boxes."""
    _origins: dict[Any, ValidOrigins] = field(default_factory=dict)
    """Those that `_places` made."""

    @property
    def n_channels(self) -> int:
        """Channels that are read of each image."""
        return count_channels(self.stacks, self.channels)

    @property
    def n_target_channels(self) -> int:
        """Channels of each target; of the image where there is no target."""
        return (
            count_channels(self.targets, self.target_channels) if self.targets else self.n_channels
        )

    @property
    def sides(self) -> list[tuple[list[ImageStack], list[list[int] | None]]]:
        """Images and, where there are any, targets, each with the channels to read."""
        sides = [(self.stacks, self.channels)]
        return sides + ([(self.targets, self.target_channels)] if self.targets else [])

    def extents(self) -> tuple[Extent, ...]:
        """Describe the images for planning."""
        rows = []
        for i, stack in enumerate(self.stacks):
            together = [stacks[i] for stacks, _ in self.sides]
            blocks = [block_shape_of(other) for other in together]
            rows.append(
                Extent(
                    stack.data_shape[0],
                    tuple(stack.data_shape[2:]),
                    tuple(max(column) for column in zip(*blocks, strict=True)),
                    sum(
                        count_channels([stacks[i]], [channels[i]])
                        * np.dtype(stacks[i].data_dtype).itemsize
                        for stacks, channels in self.sides
                    ),
                    # A selection with gaps is a copy, not a view.
                    all(
                        getattr(stacks[i], "in_memory", False) and _run(channels[i])
                        for stacks, channels in self.sides
                    ),
                    max(getattr(other, "samples_per_block", 1) for other in together),
                )
            )
        return tuple(rows)

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

    def _samples(self, chosen: NDArray[np.bool_] | None) -> list[list[int]]:
        """List the samples of each image; of all, image by image, the chosen ones."""
        every = np.ones(sum(s.data_shape[0] for s in self.stacks), bool)
        ends = np.cumsum([stack.data_shape[0] for stack in self.stacks])[:-1]
        parts = np.split(every if chosen is None else chosen, ends)
        return [np.flatnonzero(part).tolist() for part in parts]

    def n_not_acquired(self, chosen: NDArray[np.bool_] | None = None) -> dict[int, int]:
        """Count pixels, over all or ``chosen`` samples, not acquired, per image with any."""
        counts = {}
        for i, samples in enumerate(self._samples(chosen)):
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
        """Bytes that `load` takes: of all channels, where pixels are not in memory yet."""
        return sum(
            prod(stack.data_shape) * np.dtype(stack.data_dtype).itemsize
            for stacks, _ in self.sides
            for stack in stacks
            if isinstance(stack, ArrayStack) and not stack.in_memory
        )

    def load(self) -> None:
        """Read all pixels into memory, in the stored dtype."""
        for stacks, _ in self.sides:
            bar = tqdm(stacks, "loading", unit="image", delay=PROGRESS_AFTER, leave=False)
            stacks[:] = [s.load() if isinstance(s, ArrayStack) else s for s in bar]

    def pair_within(self, repeats: str | None) -> None:
        """Find targets inside the images: every second frame, or, without that, other channels.

        Their channels are in ``target_channels`` already. After `load`, so that pixels are in
        memory once.

        Parameters
        ----------
        repeats : str or None
            The axis whose frames 0, 2, ... are inputs, and 1, 3, ... their targets.
        """
        if repeats is None:
            self.targets = self.stacks
            return
        self.targets = [EveryOther(stack, repeats, 1) for stack in self.stacks]
        self.stacks = [EveryOther(stack, repeats, 0) for stack in self.stacks]
        self.masks = [EveryOther(mask, repeats, 0) for mask in self.masks]

    def close(self) -> None:
        """Close every file and forget what was read; reading opens them again."""
        self.kept.clear()
        for stack in (*self.stacks, *self.targets, *self.masks):
            if close := getattr(stack, "close", None):
                close()

    def origin_masks(
        self,
        patch_size: Sequence[int],
        held_out: Plan | None = None,
        chosen: NDArray[np.bool_] | None = None,
    ) -> dict[tuple[int, int], OriginMask | ValidOrigins]:
        """Tell where masks and gaps allow patches that overlap no held-out one.

        Samples without mask and gap, where all is allowed, are left out; and those that are not
        ``chosen``, where each sample, image by image, is or is not.
        """
        found: dict[tuple[int, int], OriginMask | ValidOrigins] = {}
        everything = [(i, s) for i, of in enumerate(self._samples(chosen)) for s in of]
        for i, sample in everything:
            valid, size = self.valid_region(i, sample), self.stacks[i].data_shape[2:]
            if self.masks:
                pixels = self.masks[i].extract_patch(sample, None, [0] * len(size), size)[0]
                allowed: OriginMask | ValidOrigins = OriginMask(pixels, patch_size)
                allowed.exclude([] if valid is None else gaps(valid, size))
            elif valid is not None:
                allowed = self._places(i, sample, patch_size)
            else:
                continue
            here = held_out is not None and (held_out.image == i) & (held_out.sample == sample)
            if held_out is not None and np.any(here):
                starts = held_out.start[here]
                allowed = copy(allowed)
                allowed.exclude(zip(starts.tolist(), (starts + patch_size).tolist(), strict=True))
            found[i, sample] = allowed
        if len(found) == len(everything) and not any(mask.n_allowed for mask in found.values()):
            raise DataError(
                f"train_mask: no patch of {tuple(patch_size)} has its centre inside the mask. "
                "Non-zero is where patches may be drawn: check that the mask is not inverted."
                if self.masks
                else f"no patch of {tuple(patch_size)} lies in what was acquired of "
                f"{self.stacks[0].source}: its gaps are too close. Use a smaller patch_size."
            )
        return found

    def without_place(self, patch_size: Sequence[int]) -> list[int]:
        """List the images, of several, whose gaps leave no place for a patch."""
        if self.masks:  # what they leave out is meant
            return []
        lost = []
        for i, stack in enumerate(self.stacks):
            samples = range(stack.data_shape[0])
            gappy = all(self.valid_region(i, s) is not None for s in samples)
            if gappy and not any(self._places(i, s, patch_size).n_allowed for s in samples):
                lost.append(i)
        return lost

    def _places(self, image: int, sample: int, patch_size: Sequence[int]) -> ValidOrigins:
        """Return the origins that gaps allow; samples alike share them, so they stay as is."""
        valid = self.valid_region(image, sample)
        assert valid is not None
        size, patch = tuple(self.stacks[image].data_shape[2:]), tuple(patch_size)
        key = (size, patch, id(valid))  # boxes live as long as this
        if key not in self._origins:
            self._origins[key] = ValidOrigins(valid, size, patch)
        return self._origins[key]

    def without_gaps(self, plan: Plan) -> Plan:
        """Keep the patches of a plan that lie in what was acquired."""
        keep = np.ones(len(plan), bool)
        for i, sample in np.unique(np.stack([plan.image, plan.sample], axis=1), axis=0).tolist():
            valid = self.valid_region(i, sample)
            if valid is not None:
                mine = np.flatnonzero((plan.image == i) & (plan.sample == sample))
                allowed = self._places(i, sample, plan.size[mine[0]].tolist())
                keep[mine] = allowed.allows(plan.start[mine])
        if len(plan) and not keep.any():
            raise DataError(
                f"no patch of {tuple(plan.size[0].tolist())}, side by side, lies in what was "
                f"acquired of {self.stacks[0].source}: its gaps are too close. Use a smaller "
                "patch_size."
            )
        return plan.take(np.flatnonzero(keep))


def describe(role: str, images: Images) -> str:
    """Describe the images of a role in one line: count, sizes, dtype, bytes, how they are read."""
    extents = images.extents()
    sizes = sorted({e.size for e in extents}, key=prod)
    names = ["×".join(map(str, size)) for size in sizes]
    size = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    blocks = sorted({"×".join(map(str, e.block)) for e in extents if prod(e.block) > 1})
    how = f"streamed in blocks of {', '.join(blocks[:3])}{', ...' if len(blocks) > 3 else ''}"
    how = how if blocks else "mapped from disk"
    samples = sum(e.samples for e in extents)
    dtypes = ", ".join(sorted({str(stack.data_dtype) for stack in images.stacks}))
    axes = ", ".join(sorted({stack.original_axes for stack in images.stacks}))
    missing = sum(images.n_not_acquired().values())
    gaps = f", {missing / sum(e.samples * prod(e.size) for e in extents):.0%} not acquired"
    gaps = gaps if missing else ""
    extra = " with targets" * bool(images.targets) + " with masks" * bool(images.masks)
    return (
        f"{role:<8} {len(extents)} image(s) {axes}{extra}, {samples} sample(s) of {size}, "
        f"{images.n_channels} channel(s), {dtypes}, {images.n_bytes() / 2**20:.1f} MiB{gaps}, "
        f"{'in memory' if all(getattr(s, 'in_memory', False) for s in images.stacks) else how}"
    )


def nan_message(source: str, value: Any, sample: int, channel: int, where: Sequence[int]) -> str:
    """Say where a NaN or infinity is, and what can be done about it."""
    return (
        f"{source}: {value} at sample {sample}, channel {channel}, "
        f"{'ZYX'[-len(where) :]}={tuple(where)}. Mend the file, or set nan_policy to zero (NaN "
        "and infinity become 0) or skip (such patches are replaced by others)."
    )


def count_channels(stacks: Sequence[ImageStack], channels: Sequence[Sequence[int] | None]) -> int:
    """Count the channels that are read of each image."""
    chosen = channels[0]
    return stacks[0].data_shape[1] if chosen is None else len(chosen)


def _run(channels: Sequence[int] | None) -> bool:
    """Whether a selection is one run of channels, so that it is a slice."""
    return channels is None or list(channels) == list(range(channels[0], channels[-1] + 1))
