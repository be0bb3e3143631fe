"""The images of one role (train, val, test, predict): opened, checked, described."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tqdm.auto import tqdm

from careamics_dm.axes import DataError, select_channels
from careamics_dm.image_stack import ArrayStack, ImageStack, block_shape_of
from careamics_dm.origin_mask import OriginMask
from careamics_dm.plan import Extent, Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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

    @property
    def n_channels(self) -> int:
        """Channels that are read of each image."""
        return _count(self.stacks, self.channels)

    @property
    def n_target_channels(self) -> int:
        """Channels of each target; of the image where there is no target."""
        return _count(self.targets, self.target_channels) if self.targets else self.n_channels

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
                        _count([stacks[i]], [channels[i]]) * np.dtype(stacks[i].data_dtype).itemsize
                        for stacks, channels in self.sides
                    ),
                    # A selection with gaps is a copy, not a view.
                    all(
                        getattr(stacks[i], "in_memory", False) and _run(channels[i])
                        for stacks, channels in self.sides
                    ),
                )
            )
        return tuple(rows)

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

    def close(self) -> None:
        """Close every file and forget what was read; reading opens them again."""
        self.kept.clear()
        for stack in (*self.stacks, *self.targets, *self.masks):
            if close := getattr(stack, "close", None):
                close()

    def origin_masks(
        self, patch_size: Sequence[int], held_out: Plan | None = None
    ) -> dict[tuple[int, int], OriginMask]:
        """Read the masks and tell where they allow patches that overlap no held-out one."""
        found = {}
        for i, mask in enumerate(self.masks):
            for sample in range(mask.data_shape[0]):
                size = mask.data_shape[2:]
                pixels = mask.extract_patch(sample, None, [0] * len(size), size)[0]
                found[i, sample] = OriginMask(pixels, patch_size)
                if held_out is not None:
                    here = (held_out.image == i) & (held_out.sample == sample)
                    found[i, sample].exclude(held_out.start[here])
        if found and not any(mask.n_allowed for mask in found.values()):
            raise DataError(
                f"train_mask: no patch of {tuple(patch_size)} has its centre inside the mask. "
                "Non-zero is where patches may be drawn: check that the mask is not inverted."
            )
        return found


def describe(role: str, images: Images) -> str:
    """Describe the images of a role in one line: count, sizes, dtype, bytes, how they are read."""
    extents = images.extents()
    sizes = sorted({e.size for e in extents}, key=prod)
    names = ["×".join(map(str, size)) for size in sizes]
    size = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    blocks = sorted({"×".join(map(str, e.block)) for e in extents})
    how = f"streamed in blocks of {', '.join(blocks[:3])}{', ...' if len(blocks) > 3 else ''}"
    samples = sum(e.samples for e in extents)
    dtypes = ", ".join(sorted({str(stack.data_dtype) for stack in images.stacks}))
    axes = ", ".join(sorted({stack.original_axes for stack in images.stacks}))
    extra = " with targets" * bool(images.targets) + " with masks" * bool(images.masks)
    return (
        f"{role:<8} {len(extents)} image(s) {axes}{extra}, {samples} sample(s) of {size}, "
        f"{images.n_channels} channel(s), {dtypes}, {images.n_bytes() / 2**20:.1f} MiB, "
        f"{'in memory' if all(getattr(s, 'in_memory', False) for s in images.stacks) else how}"
    )


def nan_message(source: str, value: Any, sample: int, channel: int, where: Sequence[int]) -> str:
    """Say where a NaN or infinity is, and what can be done about it."""
    return (
        f"{source}: {value} at sample {sample}, channel {channel}, "
        f"{'ZYX'[-len(where) :]}={tuple(where)}. Mend the file, or set nan_policy to zero (NaN "
        "and infinity become 0) or skip (such patches are replaced by others)."
    )


def open_images(
    what: str,
    open_source: Open,
    inputs: Sequence[Any],
    targets: Sequence[Any] | None,
    masks: Sequence[Any] | None,
    *,
    axes: tuple[str, str, str],
    channels: Channels,
    target_channels: Channels,
    patch_size: Sequence[int] | None,
    small_images: Literal["error", "pad", "skip"],
) -> tuple[Images, list[str]]:
    """Open the sources of one role and check them against each other.

    Parameters
    ----------
    what : str
        Name of the argument, for messages.
    open_source : callable
        ``(source, axes) -> list of stacks``, of the format.
    inputs, targets, masks : sequence
        Sources, paired.
    axes : tuple of str
        Of inputs, targets and masks.
    channels, target_channels : sequence of int or str, or None
        Selections.
    patch_size : sequence of int, or None
        ``None`` leaves sizes unchecked, as for prediction.
    small_images : {"error", "pad", "skip"}
        What to do about images smaller than the patch.

    Returns
    -------
    Images
        Opened.
    list of str
        Names of images that were left out because they are small.

    Raises
    ------
    DataError
        All faults of all sources, in one message.
    """
    faults: list[str] = []
    columns = [
        _open_all(open_source, sources or [], role_axes, faults)
        for sources, role_axes in zip((inputs, targets, masks), axes, strict=True)
    ]
    images, skipped = Images([]), []
    for i, stacks in enumerate(columns[0]):
        others = [column[i] if column else None for column in columns[1:]]
        if stacks is None:  # told already
            continue
        for k, name in enumerate(("target", "mask")):
            other = others[k]
            if other is not None and len(other) != len(stacks):
                label = stacks[0].source if stacks else inputs[i]
                faults.append(f"{label}: {len(stacks)} image(s), but {len(other)} {name}(s).")
                others[k] = None
        for j, stack in enumerate(stacks):
            target, mask = (None if other is None else other[j] for other in others)
            try:
                _check_partner(stack, target, "target")
                _check_partner(stack, mask, "mask")
                chosen = _select(stack, channels)
                target_chosen = None if target is None else _select(target, target_channels)
                if patch_size is not None and not _fits(stack, patch_size, small_images):
                    skipped.append(stack.source)
                    continue
            except DataError as error:
                faults.append(str(error))
                continue
            images.stacks.append(stack)
            images.channels.append(chosen)
            if target is not None:
                images.targets.append(target)
                images.target_channels.append(target_chosen)
            if mask is not None:
                images.masks.append(mask)
    faults += _disagreements(images)
    if not images.stacks and not faults:
        faults.append(
            f"every image is smaller than patch_size {tuple(patch_size or ())}: use smaller ones."
            if skipped
            else "there is no image."
        )
    if faults:
        raise DataError(join_faults(what, faults))
    return images, skipped


def join_faults(what: str, faults: Sequence[str], most: int = 20) -> str:
    """Put several faults into one message."""
    if len(faults) == 1:
        return faults[0] if faults[0].startswith(what) else f"{what}: {faults[0]}"
    lines = [f"{what}: {len(faults)} problems:", *(f"  - {fault}" for fault in faults[:most])]
    return "\n".join(lines + [f"  and {len(faults) - most} more"] * (len(faults) > most))


def _open_all(
    open_source: Open, sources: Sequence[Any], axes: str, faults: list[str]
) -> list[list[ImageStack] | None]:
    """Open sources; ``None`` for those whose fault is put on the list."""

    def attempt(source: Any) -> list[ImageStack] | str:
        try:
            return open_source(source, axes)
        except DataError as error:
            return str(error)
        except OSError as error:
            return f"{source if isinstance(source, str | Path) else ''}: cannot be read ({error})."

    with ThreadPoolExecutor(OPENERS) as pool:
        work = pool.map(attempt, sources)
        bar = tqdm(work, "opening", len(sources), unit="file", delay=PROGRESS_AFTER, leave=False)
        results = list(bar)
    faults += [result for result in results if isinstance(result, str)]
    return [None if isinstance(result, str) else result for result in results]


def _check_partner(stack: ImageStack, other: ImageStack | None, name: str) -> None:
    if other is None:
        return
    ours = (stack.data_shape[0], *stack.data_shape[2:])
    theirs = (other.data_shape[0], *other.data_shape[2:])
    if ours != theirs:
        raise DataError(
            f"{stack.source} has samples and size {ours}, its {name} {other.source} has {theirs} "
            f"(axes {stack.original_axes} and {other.original_axes}). They must be equal: check "
            f"the pairing and the axes."
        )
    if name == "mask" and other.data_shape[1] != 1:
        raise DataError(
            f"{other.source}: a mask has the axes of its image without C, but this one has "
            f"{other.data_shape[1]} channels."
        )


def _fits(stack: ImageStack, patch_size: Sequence[int], small_images: str) -> bool:
    """Whether an image is kept; raises when it does not suit the patch."""
    size = tuple(stack.data_shape[2:])
    if len(size) != len(patch_size):
        depth = "with" if len(size) == 3 else "without"
        raise DataError(
            f"{stack.source}: axes {stack.original_axes} are {depth} Z, so patch_size needs "
            f"{len(size)} numbers, but is {tuple(patch_size)}."
        )
    if all(n >= p for n, p in zip(size, patch_size, strict=True)):
        return True
    if small_images == "error":
        raise DataError(
            f"{stack.source}: size {size} is smaller than patch_size {tuple(patch_size)}. Use "
            "smaller patches, or set small_images to pad (by reflection) or skip."
        )
    return small_images == "pad"


def _select(stack: ImageStack, channels: Channels) -> list[int] | None:
    names = getattr(stack, "channel_names", None)
    return select_channels(channels, stack.data_shape[1], names, stack.source)


def _disagreements(images: Images) -> list[str]:
    """Images whose channels or dimensions differ from those of the first."""
    faults = []
    # After a fault, a target may be missing.
    sides = images.sides if len(images.targets) in (0, len(images.stacks)) else images.sides[:1]
    for (stacks, channels), name in zip(sides, ("channels", "target_channels"), strict=False):
        for stack, chosen in zip(stacks, channels, strict=True):
            found, first = _count([stack], [chosen]), _count(stacks[:1], channels[:1])
            if found != first:
                faults.append(
                    f"{stack.source} has {found} channel(s), but {stacks[0].source} has {first}. "
                    f"Select the ones they share with {name}."
                )
            if len(stack.data_shape) != len(stacks[0].data_shape):
                faults.append(f"{stack.source} and {stacks[0].source}: only one has depth (Z).")
    return faults


def _count(stacks: Sequence[ImageStack], channels: Sequence[Sequence[int] | None]) -> int:
    chosen = channels[0]
    return stacks[0].data_shape[1] if chosen is None else len(chosen)


def _run(channels: Sequence[int] | None) -> bool:
    """Whether a selection is one run of channels, so that it is a slice."""
    return channels is None or list(channels) == list(range(channels[0], channels[-1] + 1))
