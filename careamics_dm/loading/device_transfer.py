"""Batches as they are stored, and how they get to the device."""

from typing import Any

import torch

Batch = dict[str, Any]

_FOR_MPS = {
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    torch.uint64: torch.float32,
    torch.float64: torch.float32,
}
"""Dtypes that Apple's devices lack, and what goes over in their place."""


class RawBatch(Batch):
    """A batch as stored, which a data module has yet to normalise and augment."""

    def to(self, device: torch.device) -> "RawBatch":
        """Move the pixels to a device, in a dtype that it has; called by Lightning.

        Where tiles belong stays here, where results are put together.
        """
        pixels = {key: storable(self[key], device) for key in ("image", "target") if key in self}
        # From pinned memory, where the loader puts batches for CUDA, while the host computes.
        at_once = device.type == "cuda"
        moved = {key: x.to(device, non_blocking=at_once) for key, x in pixels.items()}
        return RawBatch(self | moved)


def storable(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return pixels in a dtype that a device has."""
    return x.to(_FOR_MPS.get(x.dtype, x.dtype)) if device.type == "mps" else x
