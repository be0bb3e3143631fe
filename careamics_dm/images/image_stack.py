"""The contract that every format meets: an image seen as ``S C (Z) Y X``."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypedDict, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Groups = Mapping[str, Mapping[str, Any]]
"""OME-Zarr metadata of groups, by their paths below a store."""
Channels = Sequence[int] | None
"""Indices along C; ``None`` is all."""


class Metadata(TypedDict, total=False):
    """What an image may say besides its pixels: optional members of an `ImageStack`."""

    scale: dict[str, tuple[float, str]]
    channel_names: Sequence[str] | None
    channel_colors: Sequence[str] | None
    labels: Sequence[str]
    is_rgb: bool
    image_name: str
    origin: dict[str, float]
    imagej: dict[str, Any]


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
        filled in prediction, with a warning.
    ``in_memory : bool``
        Patches are views that cost neither reading nor memory.
    ``scale : dict of str to tuple of (float, str)``
        Pixel size per spatial axis with its unit, and under "T" the time between frames.
    ``channel_names : tuple of str``
        Names of the channels.
    ``channel_colors : tuple of str``
        Colours in which to display the channels, RRGGBB in hexadecimal.
    ``labels : tuple of str``
        A text per plane ``Y X``, in the order of ``original_axes``; per colour plane, if
        ``is_rgb``.
    ``is_rgb : bool``
        Whether the channels are red, green and blue (and opacity) of a colour image.
    ``correlated_noise : str``
        Why the noise of neighbouring pixels is correlated, such as "lossy JPEG compression"; "" if
        there is no reason to think so.
    ``image_name : str``
        How the file names this image of several, such as a scene.
    ``origin : dict of str to float``
        Where the first pixel is, per axis of ``scale`` and in its unit; 0 where nothing is said.
    ``imagej : dict``
        How ImageJ displays the image, by tifffile's names: ``mode``, ``Ranges``, ``LUTs`` ...
    ``ome_groups() : dict of str to dict, or ome_groups = None``
        Of an image in a Zarr store: the OME metadata of its group and of those around it, by
        their paths below the store, for a result that is to be alike. Read when it is called.
    ``chunks_and_shards : two tuples of int, or None``
        Of an image in a Zarr store: what is decoded at once, and what is a file, ``([Z], Y, X)``.
    ``codec() : tuple of str and dict, or codec = None``
        Of an image in a Zarr store: what compresses its chunks ("none": nothing), and its settings.
        Read when it is called.
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
        self, sample_idx: int, channels: Channels, coords: Sequence[int], patch_size: Sequence[int]
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
    """An array read by boxes; may have ``close()`` and ``valid_region(sample, channels)``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape on disk."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype on disk."""

    def __getitem__(self, box: tuple[slice, ...], /) -> NDArray[Any]:
        """Read a box; one slice of step 1 per dimension."""
