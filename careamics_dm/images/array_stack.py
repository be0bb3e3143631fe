"""An array, in memory, raw in a file or stored in blocks, as an image stack."""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.axes import shared_layout
from careamics_dm.images.boxes import Boxes, common
from careamics_dm.images.image_stack import Channels, Groups, Metadata, StoredArray
from careamics_dm.images.raw_array import file_of
from careamics_dm.images.region import read_padded
from careamics_dm.images.shared_memory import share, shared_pixels

MOST_BYTES = 2**60  # an exbibyte


def scaled_down(level: int) -> str:
    """Say why the noise of a level of a pyramid is correlated, for `ArrayStack`."""
    return f"level {level} of a pyramid is scaled down" * (level > 0)


class ArrayStack:
    """A stored array with axes, a letter per dimension in the order on disk, as an `ImageStack`.

    An ndarray is neither copied nor changed; worker processes share it (those that are spawned,
    one copy of it for all). ``block_shape`` is the stored unit per dimension *on disk*, by default
    the whole sample. ``metadata`` are optional members of an `ImageStack`.
    """

    chunks_and_shards: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    codec: Callable[[], tuple[str, dict[str, Any]]] | None = None

    def __init__(
        self,
        array: NDArray[Any] | StoredArray,
        axes: str,
        source: str,
        *,
        block_shape: tuple[int, ...] | None = None,
        **metadata: Unpack[Metadata],
    ) -> None:
        self.array = array
        self.layout = shared_layout(axes, tuple(array.shape))
        self.original_axes, self.original_data_shape = axes, self.layout.shape
        self.data_shape = self.layout.data_shape  # asked for often
        self.source = source
        self.note = ""  # for the summary: what of a file this is
        self.correlated_noise = ""
        self.ome_groups: Callable[[], Groups] | None = None
        self.files = frozenset[Path]()  # that hold its pixels; none: its source
        self.data_dtype = np.dtype(array.dtype)
        self.scale = metadata.get("scale") or {}
        names = tuple(metadata.get("channel_names") or ())
        self.channel_names = names if "C" in axes and len(names) == self.data_shape[1] else None
        colors = tuple(metadata.get("channel_colors") or ())
        self.channel_colors = colors if "C" in axes and len(colors) == self.data_shape[1] else None
        self.origin = metadata.get("origin") or {}
        self.is_rgb, self.image_name = metadata.get("is_rgb", False), metadata.get("image_name", "")
        self.labels, self.imagej = tuple(metadata.get("labels", ())), metadata.get("imagej", {})
        # Per sample and channel, of an array that was loaded.
        self._valid: list[list[Boxes | None]] | None = None
        if block_shape is not None:
            block = shared_layout(axes, block_shape)
            self.block_shape = tuple(block.size(axis) for axis in block.spatial_axes)
            self.samples_per_block = self.layout.samples_in(block_shape)
        if self.data_dtype.kind not in "biuf":
            raise DataError(
                f"{source}: dtype {self.data_dtype} is not a real number. Convert it (of complex "
                "data, take the magnitude)."
            )
        if 0 in self.layout.shape:
            raise DataError(f"{source}: shape {self.layout.shape} holds no pixel.")
        if prod(self.layout.shape) * self.data_dtype.itemsize >= MOST_BYTES:
            raise DataError(
                f"{source}: shape {self.layout.shape} is more than any disk holds. The file is "
                "damaged: copy or save it again."
            )

    @property
    def metadata(self) -> Metadata:
        """What the file says of the image."""
        return {
            "scale": self.scale,
            "channel_names": self.channel_names,
            "channel_colors": self.channel_colors,
            "origin": self.origin,
            "is_rgb": self.is_rgb,
            "image_name": self.image_name,
            "labels": self.labels,
            "imagej": self.imagej,
        }

    @property
    def in_memory(self) -> bool:
        """Whether the pixels are a plain array in memory, so that patches are views."""
        return type(self.array) is np.ndarray

    def extract_patch(
        self, sample_idx: int, channels: Channels, coords: Sequence[int], patch_size: Sequence[int]
    ) -> NDArray[Any]:
        """Read a patch; see `ImageStack.extract_patch`. Padding is by reflection."""
        read = partial(self.extract_samples, sample_idx, 1, channels)
        stop = [c + p for c, p in zip(coords, patch_size, strict=True)]
        patch: NDArray[Any] = read_padded(read, coords, stop, self.data_shape[2:])[0]
        return patch

    def extract_samples(
        self,
        sample_idx: int,
        n_samples: int,
        channels: Channels,
        coords: Sequence[int],
        patch_size: Sequence[int],
    ) -> NDArray[Any]:
        """Read a box of successive samples, inside the image: ``S C (Z) Y X``."""
        stop = [c + p for c, p in zip(coords, patch_size, strict=True)]
        read = slice(0, self.data_shape[1])
        if channels is not None:
            read = slice(min(channels), max(channels) + 1)
        boxes = self.layout.boxes(sample_idx, n_samples, read, coords, stop)
        parts = [self.layout.to_canonical(self.array[box]) for box in boxes]
        patch = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if channels is not None and list(channels) != list(range(read.start, read.stop)):
            patch = patch[:, [c - read.start for c in channels]]
        return patch

    def valid_region(self, sample_idx: int, channels: Channels = None) -> Boxes | None:
        """Boxes that were acquired; see `ImageStack`."""
        if self._valid is not None:
            of_channel = self._valid[sample_idx]
            chosen = of_channel if channels is None else [of_channel[c] for c in channels]
            if all(boxes is chosen[0] for boxes in chosen):
                return chosen[0]
            return common(chosen, self.data_shape[2:])
        ask: Any = getattr(self.array, "valid_region", lambda *_: None)
        found: Boxes | None = ask(sample_idx, channels)
        return found

    def load(self) -> "ArrayStack":
        """Return the same image with its pixels in memory, in the stored dtype."""
        if self.in_memory:
            return self
        whole = self.array[tuple(slice(0, n) for n in self.layout.shape)]
        base = whole if whole.base is None else whole.base
        if type(base) is not np.ndarray or not base.flags.owndata or base.nbytes > whole.nbytes:
            # A memory map is copied too: its file may change or be slow.
            whole = np.array(whole, order="C", subok=False)
        loaded = ArrayStack(whole, self.original_axes, self.source, **self.metadata)
        loaded.note, loaded.ome_groups, loaded.files = self.note, self.ome_groups, self.files
        loaded.correlated_noise = self.correlated_noise
        loaded.chunks_and_shards, loaded.codec = self.chunks_and_shards, self.codec
        if hasattr(self.array, "valid_region"):
            n, n_channels = self.data_shape[:2]
            same: dict[str, Boxes | None] = {}  # most samples and channels are alike
            boxes = ((self.valid_region(s, [c]) for c in range(n_channels)) for s in range(n))
            loaded._valid = [[same.setdefault(repr(b), b) for b in row] for row in boxes]
        self.close()
        return loaded

    def close(self) -> None:
        """Close the file, if the array has one."""
        if close := getattr(self.array, "close", None):
            close()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle; a process that is being spawned gets pixels in shared memory, or their file."""
        state = self.__dict__.copy()
        shared = state.pop("_shared", None)
        if isinstance(self.array, np.memmap) and (mapped := file_of(self.array)) is not None:
            state["array"] = mapped
        elif isinstance(self.array, np.ndarray) and get_spawning_popen() is not None:
            if shared is None:
                shared = self._shared = share(self.array)
                # From now on this process uses the shared copy too, so that there is only one.
                self.array = shared_pixels(shared, self.data_dtype, self.layout.shape)
            state["array"] = None
            state["_shared"] = shared
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle; see `__getstate__`."""
        self.__dict__.update(state)
        if "_shared" in state:
            self.array = shared_pixels(self._shared, self.data_dtype, self.layout.shape)
