"""The contract that every format meets: an image seen as ``S C (Z) Y X``."""

from __future__ import annotations

from multiprocessing.context import get_spawning_popen
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from careamics_dm.axes import DataError, Layout
from careamics_dm.pixels import MappedArray as MappedArray
from careamics_dm.pixels import file_of, share, shared_pixels
from careamics_dm.regions import clip_box, pad_to
from careamics_dm.valid_origins import common

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@runtime_checkable
class ImageStack(Protocol):
    """An image, or several of one shape, on disk or in memory.

    Any class with these members is one; nothing needs to be inherited. Optional members, found
    with ``getattr``:

    ``block_shape : tuple of int``
        ``([Z], Y, X)``, what is stored and decoded as a unit (chunk, tile, strip, page). Absent:
        the whole sample.
    ``extract_samples(sample_idx, n_samples, channels, coords, patch_size)``
        Like ``extract_patch`` for successive samples: ``S C (Z) Y X``. With it,
        ``samples_per_block : int`` says how many samples are stored and decoded as a unit.
    ``valid_region(sample_idx, channels) : list of (start, stop), or None``
        Boxes, ``(Z) Y X``, pixels, whose union was acquired in these channels (``None``: in all
        of them); ``None`` is everywhere. Training patches lie inside; what was not acquired is
        filled, and told, in prediction.
    ``in_memory : bool``
        Patches are views that cost neither reading nor memory.
    ``scale : dict of str to tuple of (float, str)``
        Pixel size per spatial axis with its unit.
    ``channel_names : tuple of str``
        Names of the channels.
    ``close() : None``
        Close files; called on teardown.
    """

    @property
    def source(self) -> str:
        """Name of the image, unique in the set; used in messages and for output names."""

    @property
    def data_shape(self) -> Sequence[int]:
        """``(S, C, [Z], Y, X)``."""

    @property
    def data_dtype(self) -> np.dtype[Any]:
        """Dtype of what is stored."""

    @property
    def original_axes(self) -> str:
        """Axes in the order on disk."""

    @property
    def original_data_shape(self) -> Sequence[int]:
        """Shape in the order on disk."""

    def extract_patch(
        self,
        sample_idx: int,
        channels: Sequence[int] | None,
        coords: Sequence[int],
        patch_size: Sequence[int],
    ) -> NDArray[Any]:
        """Read a patch.

        Parameters
        ----------
        sample_idx : int
            Index along ``S``.
        channels : sequence of int, or None
            Indices along ``C``; ``None`` is all.
        coords, patch_size : sequence of int
            Origin and size, pixels, ``(Z) Y X``. What lies outside the image is padded.

        Returns
        -------
        ndarray
            ``C (Z) Y X`` in the stored dtype.
        """
        ...


class StoredArray(Protocol):
    """What a format has to give: an array that is read by boxes.

    It may have ``close()`` and ``valid_region(sample, channels)``, see `ImageStack`.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape on disk."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype on disk."""

    def __getitem__(self, box: tuple[slice, ...], /) -> NDArray[Any]:
        """Read a box; one slice of step 1 per dimension."""


Boxes = list[tuple[tuple[int, ...], tuple[int, ...]]]
"""Start and stop of each, ``(Z) Y X``, pixels."""


class ArrayStack:
    """A stored array with named axes, as an `ImageStack`.

    Parameters
    ----------
    array : ndarray or StoredArray
        The pixels. An ndarray is neither copied nor changed; worker processes share it (those
        that are spawned, one copy of it for all).
    axes : str
        A letter per dimension, in the order on disk.
    source : str
        Name of the image.
    block_shape : tuple of int, optional
        Stored unit per dimension *on disk*; the whole sample by default.
    scale : dict, optional
        Pixel size: ``{"Y": (0.1, "µm"), ...}``.
    channel_names : sequence of str, optional
        Names of the channels.

    Raises
    ------
    DataError
        A dtype that is not a real number (complex, object, text), or an empty array.
    """

    def __init__(
        self,
        array: NDArray[Any] | StoredArray,
        axes: str,
        source: str,
        *,
        block_shape: tuple[int, ...] | None = None,
        scale: dict[str, tuple[float, str]] | None = None,
        channel_names: Sequence[str] | None = None,
    ) -> None:
        self.array = array
        self.layout = Layout(axes, tuple(array.shape))
        self.data_shape = self.layout.data_shape  # asked for often
        self.source = source
        self.data_dtype = np.dtype(array.dtype)
        self.scale = scale or {}
        self.channel_names = tuple(channel_names) if channel_names else None
        # Per sample and channel, of an array that was loaded.
        self._valid: list[list[Boxes | None]] | None = None
        if block_shape is not None:
            block = Layout(axes, block_shape)
            self.block_shape = tuple(block.size(axis) for axis in block.spatial_axes)
            self.samples_per_block = self.layout.samples_in(block_shape)
        if self.data_dtype.kind not in "biuf":
            raise DataError(
                f"{source}: dtype {self.data_dtype} is not a real number. "
                "Convert it (of complex data, take the magnitude)."
            )
        if 0 in self.layout.shape:
            raise DataError(f"{source}: shape {self.layout.shape} holds no pixel.")

    @property
    def original_axes(self) -> str:
        """Axes in the order on disk."""
        return self.layout.axes

    @property
    def original_data_shape(self) -> tuple[int, ...]:
        """Shape in the order on disk."""
        return self.layout.shape

    @property
    def in_memory(self) -> bool:
        """Whether the pixels are a plain array in memory, so that patches are views."""
        return type(self.array) is np.ndarray

    def extract_patch(
        self,
        sample_idx: int,
        channels: Sequence[int] | None,
        coords: Sequence[int],
        patch_size: Sequence[int],
    ) -> NDArray[Any]:
        """Read a patch; see `ImageStack.extract_patch`. Padding is by reflection."""
        outer = [c + p for c, p in zip(coords, patch_size, strict=True)]
        start, stop = clip_box(coords, outer, self.data_shape[2:])
        inner = [b - a for a, b in zip(start, stop, strict=True)]
        patch = self.extract_samples(sample_idx, 1, channels, start, inner)[0]
        return pad_to(patch, coords, outer, start, stop)

    def extract_samples(
        self,
        sample_idx: int,
        n_samples: int,
        channels: Sequence[int] | None,
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

    def valid_region(self, sample_idx: int, channels: Sequence[int] | None = None) -> Boxes | None:
        """Boxes that were acquired; see `ImageStack`."""
        if self._valid is not None:
            of_channel = self._valid[sample_idx]
            chosen = of_channel if channels is None else [of_channel[c] for c in channels]
            if all(boxes is chosen[0] for boxes in chosen):
                return chosen[0]
            return common(chosen, self.data_shape[2:])
        ask = getattr(self.array, "valid_region", None)
        found: Boxes | None = ask(sample_idx, channels) if ask else None
        return found

    def load(self) -> ArrayStack:
        """Return the same image with its pixels in memory, in the stored dtype."""
        if self.in_memory:
            return self
        whole = self.array[tuple(slice(0, n) for n in self.layout.shape)]
        if type(whole) is not np.ndarray or not whole.flags.owndata:
            # A memory map is copied too: its file may change or be slow.
            whole = np.array(whole, order="C", subok=False)
        loaded = ArrayStack(
            whole,
            self.original_axes,
            self.source,
            scale=self.scale,
            channel_names=self.channel_names,
        )
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
