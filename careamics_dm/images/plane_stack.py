"""Volumes as planes: every plane along Z is a sample, as is the only one where Z has length 1."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.boxes import Boxes
from careamics_dm.images.image_stack import Channels, ImageStack
from careamics_dm.images.region import Region, block_shape_of, read_samples
from careamics_dm.images.stack_view import StackView, boxes_acquired


class PlaneStack(StackView):
    """The planes of a volume as an `ImageStack` without depth; of samples, Z runs fastest."""

    def __init__(self, stack: ImageStack) -> None:
        super().__init__(stack)
        n_samples, n_channels, self.depth, *size = stack.data_shape
        self.data_shape = (n_samples * self.depth, n_channels, *size)
        together, *block = block_shape_of(stack)
        self.block_shape = tuple(block)
        if together == self.depth:
            together *= getattr(stack, "samples_per_block", 1)
        self.samples_per_block = together

    def extract_patch(
        self, sample_idx: int, channels: Channels, coords: Sequence[int], patch_size: Sequence[int]
    ) -> NDArray[Any]:
        """Read a patch; see `ImageStack.extract_patch`."""
        sample, z = divmod(sample_idx, self.depth)
        return self.stack.extract_patch(sample, channels, (z, *coords), (1, *patch_size))[:, 0]

    def extract_samples(
        self,
        sample_idx: int,
        n_samples: int,
        channels: Channels,
        coords: Sequence[int],
        patch_size: Sequence[int],
    ) -> NDArray[Any]:
        """Read a box of successive planes: ``S C Y X``; see `ImageStack`."""
        stop = [c + p for c, p in zip(coords, patch_size, strict=True)]
        parts, end = [], sample_idx + n_samples
        while sample_idx < end:
            sample, z = divmod(sample_idx, self.depth)
            # Whole volumes, where they are asked for, or some planes of one.
            volumes = (end - sample_idx) // self.depth if z == 0 else 0
            n = min(end - sample_idx, self.depth - z) if volumes == 0 else self.depth
            region = Region(0, sample, (z, *coords), (z + n, *stop), max(volumes, 1))
            block = np.moveaxis(read_samples(self.stack, region, channels), 2, 1)
            parts.append(block.reshape(-1, *block.shape[2:]))
            sample_idx += len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def valid_region(self, sample_idx: int, channels: Channels = None) -> Boxes | None:
        """Boxes that were acquired; see `ImageStack`."""
        sample, z = divmod(sample_idx, self.depth)
        boxes = boxes_acquired(self.stack, sample, channels)
        if boxes is None:
            return None
        return [(start[1:], stop[1:]) for start, stop in boxes if start[0] <= z < stop[0]]

    def load(self) -> "PlaneStack":
        """Return the same image with its pixels in memory, where it is an `ArrayStack`."""
        return PlaneStack(self.stack.load()) if isinstance(self.stack, ArrayStack) else self


def suit_patch(stack: ImageStack, n_dims: int, z_as_samples: bool) -> ImageStack:
    """Return an image with as many dimensions, 2 or 3, as patches have.

    Raises a DataError if patches have depth and the image has none, or the other way round.
    """
    depth = stack.data_shape[2] if len(stack.data_shape) == 5 else 0
    if n_dims == 3 and not depth:
        raise DataError(
            f"{stack.source}: axes {stack.original_axes} are without Z, so patch_size needs 2 "
            "numbers, but has 3."
        )
    if n_dims == 2 and depth > 1 and not z_as_samples:
        raise DataError(
            f"{stack.source}: axes {stack.original_axes} are with Z, of {depth} planes, so "
            "patch_size needs 3 numbers (Z Y X), but has 2. Or set z_as_samples=true: every plane "
            "is then an image by itself."
        )
    return PlaneStack(stack) if n_dims == 2 and depth else stack
