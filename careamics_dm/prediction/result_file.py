"""A result, and the file of it that is being written."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.axes import Box, Layout
from careamics_dm.images.image_stack import ImageStack, Metadata

STATED = {
    **{"Y": "pixel size", "X": "pixel size", "Z": "Z step", "T": "frame interval"},
    **{"C": "channel names", "N": "name of the scene", "L": "labels and display of ImageJ"},
    **{"D": "channel colours", "P": "position"},
}
"""What an image may say of itself."""


@dataclass(frozen=True)
class ResultImage:
    """An image that is predicted, and how to write it."""

    path: Path
    """The final name."""
    stack: ImageStack
    """The image it is predicted from."""
    layout: Layout
    """Axes and shape: those of ``stack`` on disk, with the channels of the prediction."""
    dtype: np.dtype[Any]
    replace: bool
    """Whether to replace what has meanwhile got the final name."""
    channels: Sequence[int] | None = None
    """Channels of ``stack`` that are predicted; ``None``: all."""

    @property
    def part(self) -> Path:
        """The name of the unfinished result."""
        return part_of(self.path)

    @cached_property
    def metadata(self) -> Metadata:
        """Return what ``stack`` says of itself, as far as it is true of the result, too."""
        found: Metadata = {"scale": getattr(self.stack, "scale", None) or {}}
        found["image_name"] = getattr(self.stack, "image_name", "")
        found["origin"] = getattr(self.stack, "origin", None) or {}
        n, there = self.layout.size("C"), self.stack.data_shape[1]
        chosen = list(range(there) if self.channels is None else self.channels)
        if len(chosen) != n:  # the network makes other channels
            return found
        whole = chosen == list(range(there))
        colours: bool = getattr(self.stack, "is_rgb", False)
        found["is_rgb"] = colours and whole
        if not found["is_rgb"] and (names := getattr(self.stack, "channel_names", None)):
            found["channel_names"] = [names[c] for c in chosen]
        if not found["is_rgb"] and (colors := getattr(self.stack, "channel_colors", None)):
            found["channel_colors"] = [colors[c] for c in chosen]
        if whole or not colours:
            found["labels"] = _labels(self.stack, chosen)
        imagej = dict(getattr(self.stack, "imagej", None) or {})
        for name, size in (("Ranges", 2), ("LUTs", 1)):  # of each channel
            if len(values := imagej.get(name, ())) == size * there:
                imagej[name] = [v for c in chosen for v in values[size * c : size * (c + 1)]]
        found["imagej"] = imagej
        return found

    def stated(self, letters: str = "YXZTCNLDP") -> list[str]:
        """Name what the metadata say, of the part of `STATED` with these letters."""
        axes, found = self.layout.axes.replace("S", "T"), self.metadata
        display = {"Ranges", "LUTs"} & found.get("imagej", {}).keys()
        says = {axis: axis in axes for axis in found.get("scale", ())} | {
            "C": bool(found.get("channel_names")),
            "N": bool(found.get("image_name")),
            "L": bool(found.get("labels") or display),
            "D": bool(found.get("channel_colors")),
            "P": any(found.get("origin", {}).values()),
        }
        return [*{STATED[letter]: None for letter in letters if says.get(letter)}]


def _labels(stack: ImageStack, channels: Sequence[int]) -> list[str]:
    """Choose the labels of some channels."""
    labels = np.array(getattr(stack, "labels", ()), dtype=object)
    planes = {
        axis: n
        for axis, n in zip(stack.original_axes, stack.original_data_shape, strict=True)
        if axis not in "YX" and not (axis == "C" and getattr(stack, "is_rgb", False))
    }
    if len(labels) != prod(planes.values()):
        return []
    labels = labels.reshape([*planes.values()])
    if "C" in planes:
        labels = labels.take(channels, axis=[*planes].index("C"))
    return [str(label) for label in labels.ravel()]


class ResultFile(Protocol):
    """A result that is being written. What has its final name is complete.

    Several processes may have it open at a time, and write blocks of their own. One process begins
    it and one finishes it; the others open and close it.
    """

    def put(self, box: Box, pixels: NDArray[Any]) -> None:
        """Write ``pixels``, in axes and dtype of the result, to a box of it: all of a block."""

    def flush(self) -> None:
        """Bring to disk what was put."""

    def finish(self) -> None:
        """Give it its final name, after the last box.

        Raises a FileExistsError, and leaves nothing, if another prediction was first. What is left
        if this fails or is interrupted can be opened, and finished again.
        """

    def close(self) -> None:
        """Leave it unfinished, so that it can be opened again."""

    def discard(self) -> None:
        """Remove what was written."""


def part_of(path: Path) -> Path:
    """Return the name of a result while it is unfinished."""
    # Readers of Zarr find images by what is in folders.
    in_zarr = any(part.lower().endswith(".zarr") for part in path.parts)
    return path.with_name(f"{'.' * in_zarr}{path.name}.part")


def to_dtype(pixels: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert a prediction; to integers by rounding and clipping, to bool by a threshold of 0.5."""
    if dtype.kind == "b":
        over: NDArray[Any] = pixels >= 0.5
        return over
    if dtype.kind in "iu":
        if np.isnan(pixels.min(initial=0)):
            raise DataError(
                f"writer: the prediction contains NaN, which {dtype} cannot store. Check the "
                "model, or set writer.dtype to float32."
            )
        limits = np.iinfo(dtype)
        # float64 where float32 lacks the largest integers. It lacks the largest 64-bit integer,
        # too, and what rounds up to it would overflow.
        high = float(limits.max)
        high = np.nextafter(high, 0) if int(high) > limits.max else high
        whole = np.rint(pixels, dtype=np.float32 if dtype.itemsize <= 2 else np.float64)
        return np.asarray(np.clip(whole, limits.min, high, out=whole).astype(dtype))
    converted: NDArray[Any] = pixels.astype(dtype, copy=False)
    return converted


def predicted_channels(datamodule: Any) -> list[list[int] | None]:
    """Return which channels of its image each result has; no channel is one that has another."""
    images = datamodule.images_of("predict")
    if datamodule.settings.target_channels is not None:
        return [[] for _ in images.stacks]
    found: list[list[int] | None] = images.channels
    return found
