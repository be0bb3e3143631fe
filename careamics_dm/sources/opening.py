"""Opening the sources of one role (train, val, test, predict) and checking them as a set."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

from tqdm.auto import tqdm

from careamics_dm.errors import DataError
from careamics_dm.images.axes import select_channels
from careamics_dm.images.frame_pairs import alternate
from careamics_dm.images.image_set import PROGRESS_AFTER, ImageSet, count_channels
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.sources.listing import CHANNELS, Listing
from careamics_dm.sources.source_path import absolute, file_of

Open = Callable[..., list[ImageStack]]
Channels = Sequence[int | str] | None
Opened = list[ImageStack] | None
"""The images of a source; ``None`` where it has a fault."""

T = TypeVar("T")
OPENERS = 8  # threads that open files: opening waits for the disk, not for a core
TASKS = 256  # at least, of many sources: a task for each array takes longer than opening it


def open_images(
    what: str,
    open_source: Open,
    inputs: Listing,
    targets: Listing | None,
    masks: Listing | None,
    *,
    axes: tuple[str, str, str],
    channels: Channels,
    target_channels: Channels,
    patch_size: Sequence[int] | None,
    small_images: Literal["error", "pad", "skip"],
    within: bool = False,
    repeats: str | None = None,
) -> tuple[ImageSet, list[str]]:
    """Open the sources of one role and check them against each other; all faults in one message.

    ``axes`` are of inputs, targets and masks. ``patch_size=None`` leaves sizes unchecked, as for
    prediction. With ``within``, targets are channels of the images themselves, chosen by
    ``target_channels``; with ``repeats``, every second frame along that axis. Also returns the
    names of images that were left out because they are small.
    """
    faults: list[str] = []
    opened, target_stacks, mask_stacks = (
        [] if listing is None else _open_all(open_source, listing, role_axes, faults)
        for listing, role_axes in zip((inputs, targets, masks), axes, strict=True)
    )

    def add(i: int, stack: ImageStack, target: ImageStack | None, mask: ImageStack | None) -> None:
        """Check an image of source ``i`` with its target and mask, and add it to the set."""
        _check_partner(stack, target, "target")
        _check_partner(stack, mask, "mask")
        chosen = _select(stack, _channels_of(inputs, i, channels))
        half, target_chosen = stack, None
        if target is not None and targets is not None:
            target_chosen = _select(target, _channels_of(targets, i, target_channels))
        elif repeats:
            half = alternate(stack, repeats, 0)  # an error where there are no such frames
            target_chosen = _select(stack, target_channels) if target_channels else chosen
        elif within:
            wanted = _channels_of(inputs, i, target_channels, "target_channel")
            target_chosen = _select(stack, wanted)
            _check_apart(stack, chosen, target_chosen)
        if patch_size is not None and not _fits(half, patch_size, small_images):
            skipped.append(stack.source)
            return
        images.stacks.append(stack)
        images.channels.append(chosen)
        if target is not None:
            images.targets.append(target)
        if target is not None or within or repeats:
            images.target_channels.append(target_chosen)
        if mask is not None:
            images.masks.append(mask)

    images, skipped = ImageSet([]), list[str]()
    for i, stacks in enumerate(opened):
        if stacks is None:  # its fault is on the list
            continue
        label = stacks[0].source if stacks else str(inputs.inputs[i])
        of_targets = _partners(label, stacks, target_stacks[i : i + 1], "target", faults)
        of_masks = _partners(label, stacks, mask_stacks[i : i + 1], "mask", faults)
        for stack, target, mask in zip(stacks, of_targets, of_masks, strict=True):
            try:
                add(i, stack, target, mask)
            except DataError as error:
                faults.append(str(error))
    faults += _disagreements(images) + _twice(images)
    if not images.stacks and not faults:
        small = f"every image is smaller than patch_size {tuple(patch_size or ())}. Use smaller "
        faults.append(f"{small}patches." if skipped else "there is no image.")
    if faults:
        raise DataError(join_faults(what, faults))
    return images, skipped


def join_faults(what: str, faults: Sequence[str], most: int = 20) -> str:
    """Put several faults into one message."""
    if len(faults) == 1:
        return faults[0] if faults[0].startswith(what) else f"{what}: {faults[0]}"
    lines = [f"{what}: {len(faults)} problems:", *(f"  - {fault}" for fault in faults[:most])]
    return "\n".join(lines + [f"  and {len(faults) - most} more"] * (len(faults) > most))


def attempt_all(
    task: Callable[[Any, dict[str, str]], T],
    sources: Sequence[Any],
    rows: Sequence[dict[str, str]] | None,
    faults: list[str],
) -> list[T | None]:
    """Do a task for each source and row in threads; faults are listed, their results ``None``."""

    def attempt(source: Any, row: dict[str, str]) -> tuple[T | None, str]:
        try:
            return task(source, row), ""
        except DataError as error:
            return None, str(error)
        except OSError as error:
            name = source if isinstance(source, str | Path) else ""
            return None, f"{name}: cannot be read ({error})."

    bar: dict[str, Any] = {"total": len(sources), "unit": "file", "delay": PROGRESS_AFTER}
    columns = [sources, rows or [{}] * len(sources)]
    n = max(len(sources) // TASKS, 1)
    parts = [[column[i : i + n] for column in columns] for i in range(0, len(sources), n)]
    with ThreadPoolExecutor(OPENERS) as pool:
        found = chain.from_iterable(pool.map(lambda part: [*map(attempt, *part)], parts))
        results = list(tqdm(found, "opening", leave=False, **bar))
    faults += [fault for _, fault in results if fault]
    return [result for result, _ in results]


def _open_all(open_source: Open, listing: Listing, axes: str, faults: list[str]) -> list[Opened]:
    """Open sources; ``None`` for those whose fault is put on the list."""

    def open_one(source: Any, row: dict[str, str]) -> list[ImageStack]:
        keys = {key: value for key, value in row.items() if key not in CHANNELS}
        return open_source(source, axes, **keys)

    return attempt_all(open_one, listing.inputs, listing.keys, faults)


def _partners(
    label: str,
    stacks: list[ImageStack],
    found: Sequence[list[ImageStack] | None],
    name: str,
    faults: list[str],
) -> Sequence[ImageStack | None]:
    """Return the targets or masks of the images of a source; ``None`` each if they are unusable."""
    others = found[0] if found else None
    if others is not None and len(others) != len(stacks):
        faults.append(f"{label}: {len(stacks)} image(s), but {len(others)} {name}(s).")
    elif others is not None and (lone := _lone(stacks, others)):
        faults.append(
            f"{label}: images of a file pair by name, but these have no {name}, or are {name}s of "
            f"no image: {', '.join(lone)}. Name those that match, in a manifest, for instance."
        )
    elif others is not None:
        return others
    return [None] * len(stacks)


def _lone(stacks: Sequence[ImageStack], others: Sequence[ImageStack]) -> list[str]:
    """Names in two files, of scenes, say, that only one has; none where all are other names."""
    if len(stacks) < 2:
        return []
    ours, theirs = (
        {absolute(s.source).relative_to(file_of(s.source)).as_posix() for s in column}
        for column in (stacks, others)
    )
    return sorted(ours ^ theirs) if ours & theirs else []


def _check_partner(stack: ImageStack, other: ImageStack | None, name: str) -> None:
    if other is None:
        return
    ours = (stack.data_shape[0], *stack.data_shape[2:])
    theirs = (other.data_shape[0], *other.data_shape[2:])
    if ours != theirs:
        raise DataError(
            f"{stack.source} has samples and size {ours}, its {name} {other.source} has {theirs} "
            f"(axes {stack.original_axes} and {other.original_axes}). Check pairing and axes."
        )
    if name == "mask" and other.data_shape[1] != 1:
        raise DataError(
            f"{other.source}: a mask has the axes of its image without C, but this one has "
            f"{other.data_shape[1]} channels."
        )


def _fits(stack: ImageStack, patch_size: Sequence[int], small_images: str) -> bool:
    """Whether to use an image; an error where it is smaller than the patch."""
    size = tuple(stack.data_shape[2:])
    if all(n >= p for n, p in zip(size, patch_size, strict=True)):
        return True
    if small_images == "error":
        planes = " Or train on planes: z_as_samples=true, and patch_size of 2 numbers (Y X)."
        no_depth = "A Z of length 1 is no depth: give patch_size 2 numbers (Y X). "
        raise DataError(
            f"{stack.source}: size {size} is smaller than patch_size {tuple(patch_size)}. "
            f"{no_depth * (len(size) == 3 and size[0] == 1)}Use "
            "smaller patches, or set small_images to pad (by reflection) or skip."
            f"{planes * (len(size) == 3 and 1 < size[0] < patch_size[0])}"
        )
    return small_images == "pad"


def _check_apart(
    stack: ImageStack, channels: Sequence[int] | None, target_channels: Sequence[int] | None
) -> None:
    """Refuse targets that are among the inputs, from where a network would copy them."""
    every = range(stack.data_shape[1])
    ours = every if channels is None else channels
    theirs = every if target_channels is None else target_channels
    if both := sorted(set(ours) & set(theirs)):
        raise DataError(
            f"{stack.source}: channel(s) {', '.join(map(str, both))} would be both input and "
            f"target. Of its {len(every)} channel(s), set channels or target_channels."
        )


def _channels_of(listing: Listing, i: int, otherwise: Channels, key: str = "channel") -> Channels:
    """Return what a manifest's row says, else what is said for all."""
    channel = listing.keys[i].get(key) if listing.keys else None
    if channel is None:
        return otherwise
    return [int(channel) if channel.strip().isdecimal() else channel]


def _select(stack: ImageStack, channels: Channels) -> list[int] | None:
    names = getattr(stack, "channel_names", None)
    return select_channels(channels, stack.data_shape[1], names, stack.source)


def check_no_image_in_both(train: ImageSet, val: ImageSet) -> None:
    """Refuse images that train and validate: validation would see what is trained on."""
    ours, theirs = _by_place(train), _by_place(val)
    both = [theirs[place][0] for place in theirs if place in ours]
    both = [source for source in both if file_of(source).exists()] + _in_sets_of(train, val)
    if both:
        raise DataError(
            f"val_data: {len(both)} image(s) are in train_data too, {', '.join(both[:5])}"
            f"{', ...' * (len(both) > 5)}. Name each in one of them, or leave out val_data to hold "
            "patches out of the training data."
        )


def _in_sets_of(train: ImageSet, val: ImageSet) -> list[str]:
    """List validation images of which a file belongs to the set of another training image."""
    if not any(getattr(stack, "files", None) for stack in (*train.stacks, *val.stacks)):
        return []
    used = {file: stack for stack in train.stacks for file in _files_of(stack)}
    return [
        f"{stack.source} ({file.name} is a file of {used[file].source})"
        for stack in val.stacks
        for file in sorted(_files_of(stack) & used.keys())[:1]
        if file_of(used[file].source).resolve() != file_of(stack.source).resolve()
    ]


def _files_of(stack: ImageStack) -> frozenset[Path]:
    """Return the files that hold an image."""
    return getattr(stack, "files", None) or frozenset([file_of(stack.source).resolve()])


def _by_place(images: ImageSet) -> dict[tuple[str, tuple[int, ...]], list[str]]:
    """Group the names of images by their path, links resolved, and channels."""
    found: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    real_folder = cache(os.path.realpath)  # of many images
    for stack, chosen in zip(images.stacks, images.channels, strict=True):
        channels = range(stack.data_shape[1]) if chosen is None else chosen
        # Not a Path: that would take longer than all else about an image.
        folder, name = os.path.split(stack.source.replace("://", "/"))
        path = os.path.join(real_folder(folder), name)  # noqa: PTH118
        path = os.path.realpath(path) if os.path.islink(path) else path  # noqa: PTH114
        found.setdefault((path, tuple(channels)), []).append(stack.source)
    return found


def _twice(images: ImageSet) -> list[str]:
    """Images that are listed again: validation patches of one would be trained on in the other."""
    found = _by_place(images)
    return [
        f"{sources[0]} is listed {len(sources)} times. Name it once."
        for sources in found.values()
        if len(sources) > 1
    ]


def _disagreements(images: ImageSet) -> list[str]:
    """Images whose channels or dimensions differ from those of the first."""
    faults = []
    roles = [("channels", images.stacks, images.channels)]
    # After a fault, a target may be missing.
    if len(images.target_channels) == len(images.stacks):
        targets = images.targets or images.stacks
        roles.append(("target_channels", targets, images.target_channels))
    for name, stacks, channels in roles:
        counts = list(map(count_channels, stacks, channels))
        for stack, count in zip(stacks, counts, strict=True):
            if count != counts[0]:
                faults.append(
                    f"{stack.source} has {count} channel(s), but {stacks[0].source} has "
                    f"{counts[0]}. Select the ones they share with {name}."
                )
            if len(stack.data_shape) != len(stacks[0].data_shape):
                faults.append(f"{stack.source} and {stacks[0].source}: only one has depth (Z).")
    return faults
