"""The contract that every format meets: an image seen as ``S C (Z) Y X``."""

from __future__ import annotations

from multiprocessing.context import get_spawning_popen
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from careamics_dm.axes import DataError, Layout
from careamics_dm.pixels import MappedArray as MappedArray
from careamics_dm.pixels import file_of, share, shared_pixels

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
    """What a format has to give: an array that is read by boxes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape on disk."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype on disk."""

    def __getitem__(self, box: tuple[slice, ...], /) -> NDArray[Any]:
        """Read a box; one slice of step 1 per dimension."""


class Region(NamedTuple):
    """A box of one sample that is read in one go."""

    image: int
    """Index of the stack in the set."""
    sample: int
    """Index along ``S``."""
    start: tuple[int, ...]
    """First pixel, ``(Z) Y X``."""
    stop: tuple[int, ...]
    """One after the last pixel, ``(Z) Y X``; may lie outside the image."""


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
        self.source = source
        self.data_dtype = np.dtype(array.dtype)
        self.scale = scale or {}
        self.channel_names = tuple(channel_names) if channel_names else None
        if block_shape is not None:
            block = Layout(axes, block_shape)
            self.block_shape = tuple(block.size(axis) for axis in block.spatial_axes)
        if self.data_dtype.kind not in "biuf":
            raise DataError(
                f"{source}: dtype {self.data_dtype} is not a real number. "
                "Convert it (of complex data, take the magnitude)."
            )
        if 0 in self.layout.shape:
            raise DataError(f"{source}: shape {self.layout.shape} holds no pixel.")

    @property
    def data_shape(self) -> tuple[int, ...]:
        """``(S, C, [Z], Y, X)``."""
        return self.layout.data_shape

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
        read = slice(0, self.data_shape[1])
        if channels is not None:
            read = slice(min(channels), max(channels) + 1)
        box = self.array[self.layout.box(sample_idx, read, start, stop)]
        patch = self.layout.to_canonical(box)[0]
        if channels is not None and list(channels) != list(range(read.start, read.stop)):
            patch = patch[[c - read.start for c in channels]]
        return pad_to(patch, coords, outer, start, stop)

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


def read_region(stack: ImageStack, region: Region, channels: Sequence[int] | None) -> NDArray[Any]:
    """Read a region, padded by reflection where it reaches outside the image.

    Reflection, not zeros: a camera has an offset, and a border of zeros is a dark frame that a
    network learns. The stack itself is only asked for what lies inside.

    Parameters
    ----------
    stack : ImageStack
        The image.
    region : Region
        What to read.
    channels : sequence of int, or None
        Indices; ``None`` is all.

    Returns
    -------
    ndarray
        ``C (Z) Y X``, stored dtype.

    Raises
    ------
    DataError
        Reading failed; the message names the image and the region.
    """
    place = f"sample {region.sample} from {region.start} to {region.stop}"
    try:
        start, stop = clip_box(region.start, region.stop, stack.data_shape[2:])
        size = tuple(b - a for a, b in zip(start, stop, strict=True))
        patch = stack.extract_patch(region.sample, channels, start, size)
    except Exception as error:
        raise DataError(
            f"{stack.source}: reading {place} failed: {type(error).__name__}: {error}"
        ) from error
    asked = (stack.data_shape[1] if channels is None else len(channels), *size)
    if patch.shape != asked:
        raise DataError(
            f"{stack.source}: reading {place} gave shape {patch.shape} instead of {asked}. "
            "Correct its extract_patch, or save the file anew."
        )
    return pad_to(patch, region.start, region.stop, start, stop)


def clip_box(
    start: Sequence[int], stop: Sequence[int], size: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Start and stop of the part of a box inside an image of ``size``.

    Where the box reaches outside, it is as wide as reflection at that border needs.
    """
    if any(a >= n or b <= 0 for a, b, n in zip(start, stop, size, strict=True)):
        raise IndexError(f"box {tuple(start)} to {tuple(stop)} lies outside {tuple(size)}.")
    inner = [
        (
            max(min(a, 2 * n - 1 - b), 0) if b > n else max(a, 0),
            min(max(b, 1 - a), n) if a < 0 else min(b, n),
        )
        for a, b, n in zip(start, stop, size, strict=True)
    ]
    return tuple(a for a, _ in inner), tuple(b for _, b in inner)


def pad_to(
    patch: NDArray[Any],
    start: Sequence[int],
    stop: Sequence[int],
    inner_start: Sequence[int],
    inner_stop: Sequence[int],
) -> NDArray[Any]:
    """Pad ``C (Z) Y X``, read from the box of `clip_box`, by reflection to the outer box."""
    columns = list(zip(start, stop, inner_start, inner_stop, strict=True))
    width = [(max(i - a, 0), max(b - j, 0)) for a, b, i, j in columns]
    if not np.any(width):
        return patch
    padded = np.pad(patch, [(0, 0), *width], mode="reflect")
    cut = [slice(max(a - i, 0), max(a - i, 0) + b - a) for a, b, i, _ in columns]
    return padded[(slice(None), *cut)]


def block_shape_of(stack: ImageStack) -> tuple[int, ...]:
    """``([Z], Y, X)`` of the stored unit; the whole sample where a stack does not say."""
    size = tuple(stack.data_shape[2:])
    block = getattr(stack, "block_shape", None) or size
    return tuple(min(b, n) for b, n in zip(block, size, strict=True))
