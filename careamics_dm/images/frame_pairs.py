"""Targets inside the images themselves: other channels, or every second frame or plane."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.axes import is_run
from careamics_dm.images.boxes import Boxes
from careamics_dm.images.image_stack import Channels, ImageStack
from careamics_dm.images.region import Region, block_shape_of, read_samples
from careamics_dm.images.stack_view import StackView, boxes_acquired, layout_of


class AlternateFrames(StackView):
    """Every second frame of an image along ``axis`` (``T`` or ``S``), as an `ImageStack`.

    ``first`` is 0 for frames 0, 2, 4, ... or 1 for 1, 3, 5, ...; of an odd number the last one is
    in neither. Optional members are those of the image.
    """

    def __init__(self, stack: ImageStack, axis: str, first: int) -> None:
        super().__init__(stack)
        layout = layout_of(stack)
        axes, sizes = layout.sample_axes, [layout.size(a) for a in layout.sample_axes]
        if axis not in axes or prod(sizes) != stack.data_shape[0]:
            depth = " If frames are depth (Z Y X patches), give repeats=Z."
            raise DataError(
                f"{stack.source}: repeats={axis}, but its axes are {stack.original_axes}, where "
                f"{axis} is no axis of frames. Name the axis along which the scene was repeated."
                f"{depth * (len(stack.data_shape) == 5)}"
            )
        at = axes.index(axis)
        self.n_frames, self._inner, self._outer = sizes[at], prod(sizes[at + 1 :]), prod(sizes[:at])
        if self.n_frames < 2:
            raise DataError(
                f"{stack.source}: repeats={axis}: there is a single frame along {axis}."
            )
        self.first = first
        n = self._outer * (self.n_frames // 2) * self._inner
        self.data_shape = (n, *stack.data_shape[1:])
        # Frames that lie behind one another, in a block that holds several.
        together: int = getattr(stack, "samples_per_block", 1)
        self.samples_per_block = max(together // 2, 1) if self._inner == 1 else 1

    def samples(self, sample_idx: int, n_samples: int = 1) -> list[int]:
        """Return which samples of the whole image these are."""
        sizes = (self._outer, self.n_frames // 2, self._inner)
        number = np.arange(sample_idx, sample_idx + n_samples)
        outer, pair, inner = np.unravel_index(number, sizes)
        frame = outer * self.n_frames + 2 * pair + self.first
        found: list[int] = (frame * self._inner + inner).tolist()
        return found

    def extract_patch(
        self, sample_idx: int, channels: Channels, coords: Sequence[int], patch_size: Sequence[int]
    ) -> NDArray[Any]:
        """Read a patch; see `ImageStack.extract_patch`."""
        return self.stack.extract_patch(self.samples(sample_idx)[0], channels, coords, patch_size)

    def extract_samples(
        self,
        sample_idx: int,
        n_samples: int,
        channels: Channels,
        coords: Sequence[int],
        patch_size: Sequence[int],
    ) -> NDArray[Any]:
        """Read a box of successive samples: ``S C (Z) Y X``; see `ImageStack`."""
        wanted = self.samples(sample_idx, n_samples)
        span = wanted[-1] - wanted[0] + 1
        together = self._inner == 1 and getattr(self.stack, "samples_per_block", 1) > 1
        if together and span == 2 * n_samples - 1:  # else frames between would be read in vain
            # What stores samples together can read them together.
            extract: Any = getattr(self.stack, "extract_samples", None)
            block: NDArray[Any] = extract(wanted[0], span, channels, coords, patch_size)
            return block[::2]
        return np.stack([self.stack.extract_patch(s, channels, coords, patch_size) for s in wanted])

    def valid_region(self, sample_idx: int, channels: Channels = None) -> Boxes | None:
        """Boxes that were acquired; see `ImageStack`."""
        return boxes_acquired(self.stack, self.samples(sample_idx)[0], channels)


class AlternatePlanes(StackView):
    """Every second plane along depth: frames 0, 2, 4, ... or 1, 3, 5, ... of a movie as volumes.

    Of an odd number the last one is in neither. Optional members are those of the image.
    """

    def __init__(self, stack: ImageStack, first: int) -> None:
        super().__init__(stack)
        *outer, self.n_frames, y, x = stack.data_shape
        if self.n_frames < 2:
            raise DataError(f"{stack.source}: repeats=Z: there is a single plane along Z.")
        self.first = first
        self.data_shape = (*outer, self.n_frames // 2, y, x)
        depth, *plane = block_shape_of(stack)
        self.block_shape = (max(depth // 2, 1), *plane)

    def extract_patch(
        self, sample_idx: int, channels: Channels, coords: Sequence[int], patch_size: Sequence[int]
    ) -> NDArray[Any]:
        """Read a patch; see `ImageStack.extract_patch`."""
        pixels: NDArray[Any] = self.extract_samples(sample_idx, 1, channels, coords, patch_size)[0]
        return pixels

    def extract_samples(
        self,
        sample_idx: int,
        n_samples: int,
        channels: Channels,
        coords: Sequence[int],
        patch_size: Sequence[int],
    ) -> NDArray[Any]:
        """Read a box of successive samples: ``S C Z Y X``; see `ImageStack`."""
        stop = [c + n for c, n in zip(coords, patch_size, strict=True)]
        start, stop = [2 * coords[0] + self.first, *coords[1:]], [2 * stop[0], *stop[1:]]
        region = Region(0, sample_idx, tuple(start), tuple(stop), n_samples)
        pixels: NDArray[Any] = read_samples(self.stack, region, channels)[:, :, ::2]
        return pixels

    def valid_region(self, sample_idx: int, channels: Channels = None) -> Boxes | None:
        """Boxes that were acquired; see `ImageStack`."""
        boxes = boxes_acquired(self.stack, sample_idx, channels)
        if boxes is None:
            return None
        n, first = self.data_shape[2], self.first
        return [
            ((-((first - a) // 2), *start), (min(-((first - b) // 2), n), *stop))
            for (a, *start), (b, *stop) in boxes
        ]


def alternate(stack: ImageStack, axis: str, first: int) -> AlternateFrames | AlternatePlanes:
    """See every second frame of an image along an axis, ``Z`` where frames are depth."""
    if axis == "Z" and len(stack.data_shape) == 5:
        return AlternatePlanes(stack, first)
    return AlternateFrames(stack, axis, first)


def read_pair(
    image: ImageStack,
    target: ImageStack,
    region: Region,
    channels: Channels,
    target_channels: Channels,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read a region of image and target, ``S C (Z) Y X``; once where they are stored together."""
    if isinstance(image, AlternatePlanes) and isinstance(target, AlternatePlanes):
        (z, *start), (end, *stop) = region.start, region.stop
        if image.stack is target.stack and 0 <= z and end <= image.data_shape[2]:
            both = region._replace(start=(2 * z, *start), stop=(2 * end, *stop))
            found = read_pair(image.stack, image.stack, both, channels, target_channels)
            return found[0][:, :, ::2], found[1][:, :, 1::2]
    whole, step = image, 1
    if isinstance(image, AlternateFrames) and isinstance(target, AlternateFrames):
        frames = image.samples(region.sample, region.n_samples)
        behind = frames[-1] - frames[0] == 2 * (region.n_samples - 1)
        if image.stack is target.stack and behind and image.samples_per_block > 1:
            whole, step = image.stack, 2
            region = region._replace(sample=frames[0], n_samples=2 * region.n_samples)
    ours, theirs = (_indices(whole, chosen) for chosen in (channels, target_channels))
    union = sorted({*ours, *theirs})
    if (whole is target or step == 2) and union[-1] - union[0] < len(union):
        block = read_samples(whole, region, union)
        at = {channel: i for i, channel in enumerate(union)}
        first, second = block[::step], block[step - 1 :: step]
        return _take(first, [at[c] for c in ours]), _take(second, [at[c] for c in theirs])
    if step == 2:
        block = read_samples(whole, region, ours)[::2]
        return block, read_samples(whole, region, theirs)[1::2]
    return read_samples(image, region, channels), read_samples(target, region, target_channels)


def _indices(stack: ImageStack, channels: Channels) -> list[int]:
    return list(range(stack.data_shape[1])) if channels is None else list(channels)


def _take(block: NDArray[Any], channels: list[int]) -> NDArray[Any]:
    """Select channels, as a view where they are a run."""
    return block[:, slice(channels[0], channels[-1] + 1) if is_run(channels) else channels]
