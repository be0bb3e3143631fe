"""Pixels that processes share without a copy each."""

from math import prod
from typing import Any

from numpy.typing import NDArray

_segments: list[tuple[Any, int, int]] = []
"""The shared segment that is being filled, bytes used in it, and bytes shared in all."""


def share(array: NDArray[Any]) -> tuple[Any, int]:
    """Copy pixels to shared memory; returns a segment (uint8 tensor) and where in it.

    Many arrays share a segment: each segment is an open descriptor, and thousands of images
    would be more than a process may have.
    """
    import torch  # late: stacks are used without torch too

    segment, used, total = _segments.pop() if _segments else (None, 0, 0)
    if segment is None or used + array.nbytes > len(segment):
        n = max(array.nbytes, 2**24, min(total // 8, 2**28))
        segment, used = torch.empty(n, dtype=torch.uint8).share_memory_(), 0
    shared_pixels((segment, used), array.dtype, array.shape)[...] = array
    end = -(-(used + array.nbytes) // 64) * 64
    _segments.append((segment, end, total + array.nbytes))
    return segment, used


def shared_pixels(shared: tuple[Any, int], dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Pixels in a shared segment, as an array."""
    segment, offset = shared
    flat = segment.numpy()[offset : offset + prod(shape) * dtype.itemsize]
    pixels: NDArray[Any] = flat.view(dtype).reshape(shape)
    return pixels
