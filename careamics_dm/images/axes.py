"""Axes: any order on disk to ``S C (Z) Y X`` and back.

Letters
-------
``S`` sample, ``T`` time, ``C`` channel, ``Z Y X`` space. ``Y`` and ``X`` are always present.
Inside, every image is seen as ``S C (Z) Y X``: ``S``, ``T`` and any other axis that a file's
metadata knows (say, ``H`` of a CZI) fold into samples, ``Z`` is depth.

Shape suffixes
--------------
A name may carry the shape of its array: ``x_NCYX``. ``N`` counts patches of a batch; ``(Z)`` is
there for volumes only. Coordinates are in pixels, in ``(Z) Y X`` order, start inclusive, stop
exclusive.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError

AXES = "STCZYX"
Box = tuple[slice, ...]  # a slice of step 1 per dimension on disk


def check_axes(axes: str, shape: Sequence[int], source: str) -> str:
    """Return a user's axes in upper case; an error if they are invalid or do not suit ``shape``."""
    axes = axes.upper()
    advice = f'{source}: axes="{axes}", shape {tuple(shape)}: '
    if unknown := sorted(set(axes) - set(AXES)):
        raise DataError(
            f"{advice}{', '.join(unknown)} is not an axis. Use letters of {AXES}: S sample, "
            "T time, C channel, Z depth, Y row, X column."
        )
    if len(set(axes)) != len(axes):
        raise DataError(f"{advice}a letter stands twice. Name each axis once, of {AXES}.")
    if not {"Y", "X"} <= set(axes):
        raise DataError(f"{advice}Y and X are required. Name the rows Y and the columns X.")
    if len(axes) != len(shape):
        raise DataError(
            f"{advice}{len(axes)} letters for {len(shape)} dimensions. "
            f"Give {len(shape)} letters of {AXES} in the order on disk."
        )
    return axes


@dataclass(frozen=True)
class Layout:
    """The axes of an array on disk, and where they go in ``S C (Z) Y X``.

    Letters other than ``C``, ``Z``, ``Y`` and ``X`` fold into samples: ``S`` first, then ``T``,
    then others in alphabetical order, then ``Z`` with ``z_as_samples``, the last one running
    fastest, whatever the order on disk.
    """

    axes: str
    shape: tuple[int, ...]
    z_as_samples: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without what is derived."""
        return Layout, (self.axes, self.shape, self.z_as_samples)

    @cached_property
    def spatial_axes(self) -> str:
        """``"ZYX"`` with depth, ``"YX"`` without."""
        return "ZYX" if "Z" in self.axes and not self.z_as_samples else "YX"

    @cached_property
    def sample_axes(self) -> str:
        """The axes that fold into samples, slowest first."""
        extra = sorted(set(self.axes) - set(AXES))
        planes = "Z" * self.z_as_samples
        return "".join(axis for axis in ("S", "T", *extra, *planes) if axis in self.axes)

    def size(self, axis: str) -> int:
        """Length of an axis in pixels, frames or channels; 1 when it is absent."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    @property
    def _canonical(self) -> str:
        """The axes on disk in the order ``S C (Z) Y X``, with all that fold into samples."""
        return self.sample_axes + "C" * ("C" in self.axes) + self.spatial_axes

    @cached_property
    def data_shape(self) -> tuple[int, ...]:
        """``(S, C, [Z], Y, X)``."""
        samples = prod(self.size(axis) for axis in self.sample_axes)
        return (samples, self.size("C"), *(self.size(axis) for axis in self.spatial_axes))

    def boxes(
        self,
        sample: int,
        n_samples: int,
        channels: slice,
        start: Sequence[int],
        stop: Sequence[int],
    ) -> Iterator[tuple[slice, ...]]:
        """Slices of step 1, in the order on disk, of a box of successive samples inside the image.

        Samples that fill whole axes on disk come together, in as few boxes as possible. ``start``
        and ``stop`` are pixels, ``(Z) Y X``.
        """
        where = {"C": channels}
        where |= {a: slice(i, j) for a, i, j in zip(self.spatial_axes, start, stop, strict=True)}
        axes = self.sample_axes
        sizes = [self.size(axis) for axis in axes]
        strides = [prod(sizes[d + 1 :]) for d in range(len(sizes))]
        end = sample + n_samples
        while axes and sample < end:
            # The slowest axis along which the next samples fill all that runs faster.
            d = next(d for d, n in enumerate(strides) if sample % n == 0 and end - sample >= n)
            index = [int(i) for i in np.unravel_index(sample, sizes)]
            n = min((end - sample) // strides[d], sizes[d] - index[d])
            for i, axis in enumerate(axes):
                first = index[i] if i <= d else 0
                where[axis] = slice(first, first + (1 if i < d else n if i == d else sizes[i]))
            yield tuple(where[axis] for axis in self.axes)
            sample += n * strides[d]
        if not axes:
            yield tuple(where[axis] for axis in self.axes)

    def box(self, sample: int, channels: slice, start: Sequence[int], stop: Sequence[int]) -> Box:
        """Slices, in the order on disk, of a box of one sample; see `boxes`."""
        return next(self.boxes(sample, 1, channels, start, stop))

    def samples_in(self, block: Sequence[int]) -> int:
        """How many successive samples a block of this shape on disk holds."""
        inside = Layout(self.axes, tuple(block))
        n = 1
        for axis in reversed(self.sample_axes):
            n *= min(inside.size(axis), self.size(axis))
            if inside.size(axis) < self.size(axis):
                break
        return n

    def to_canonical(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Reorder an array, or a box of it, to ``S C (Z) Y X``; a view where possible."""
        array = array.transpose([self.axes.index(axis) for axis in self._canonical])
        n = len(self.sample_axes)
        one_channel = [] if "C" in self.axes else [1]
        return array.reshape(prod(array.shape[:n]), *one_channel, *array.shape[n:])

    def from_canonical(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Put a whole ``S C (Z) Y X`` array, of any number of channels, back into disk order."""
        sizes = [self.size(axis) for axis in self.sample_axes]
        channels = [array.shape[1]] * ("C" in self.axes)
        array = array.reshape(*sizes, *channels, *array.shape[2:])
        return array.transpose([self._canonical.index(axis) for axis in self.axes])

    def from_box(self, box: NDArray[np.generic]) -> NDArray[np.generic]:
        """Put a box of one sample, ``C (Z) Y X``, into disk order."""
        lengths = dict(zip("C" + self.spatial_axes, box.shape, strict=True))
        shape = tuple(lengths.get(axis, 1) for axis in self.axes)
        return replace(self, shape=shape).from_canonical(box[None])

    def with_channels(self, n_channels: int) -> "Layout":
        """Return the layout with other channels; several in an image without ``C`` come first."""
        if "C" in self.axes:
            at = self.axes.index("C")
            return replace(self, shape=(*self.shape[:at], n_channels, *self.shape[at + 1 :]))
        if n_channels == 1:
            return self
        return replace(self, axes="C" + self.axes, shape=(n_channels, *self.shape))


shared_layout = lru_cache(maxsize=4096)(Layout)
"""Images of one shape share theirs."""


def unstated_axes(source: str, why: str, shape: Sequence[int]) -> DataError:
    """Make the error for ``axes="auto"`` where nothing says what dimensions are."""
    n = len(shape)
    fitting = {2: ("YX",), 3: ("TYX", "ZYX"), 4: ("TZYX", "ZCYX"), 5: ("TCZYX",)}.get(n, (AXES,))
    examples = " or ".join(f'"{axes}"' for axes in fitting)
    return DataError(
        f'{source}: axes="auto", but {why} (shape {tuple(shape)}). Give {n} letters of {AXES} in '
        f"the order on disk, for instance axes={examples}."
    )


def contradicted_axes(source: str, axes: str, claim: str, shape: Sequence[int]) -> DataError:
    """Make the error for axes other than those that a file claims; ``?`` claims nothing."""
    return DataError(
        f'{source}: axes="{axes}" contradicts its metadata, which say {claim} (shape '
        f'{tuple(shape)}). Correct axes, leave it at "auto", or override them: trust_axes=true.'
    )


def same_roles(axes: str, claim: str, shape: Sequence[int] = ()) -> bool:
    """Whether axes mean what a file claims of an array of this shape; ``?`` claims nothing.

    ``S``, ``T``, unknown letters and a ``Z`` of length 1 are all samples.
    """

    def role(axis: str, size: int) -> str:
        return axis if axis in "CYX" or (axis == "Z" and size != 1) else "S"

    columns = zip(axes, claim, shape or [0] * len(axes), strict=False)
    return len(axes) == len(claim) and all(
        theirs == "?" or role(ours, n) == role(theirs, n) for ours, theirs, n in columns
    )


def select_channels(
    channels: Sequence[int | str] | None, n_channels: int, names: Sequence[str] | None, source: str
) -> list[int] | None:
    """Turn a selection by index or name into indices; ``None`` is all, an invalid one an error."""
    if channels is None:
        return None
    named = f"names {', '.join(names)}" if names else "no names"
    there = f"{source} has {n_channels} channel(s) (0 to {n_channels - 1}, {named})"
    if not channels:
        raise DataError(f"channels=[] selects nothing: {there}. Leave channels out to take all.")
    if isinstance(channels, str):
        raise DataError(f"channels={channels!r} is one word: {there}. Give a list, [{channels}].")
    return [_channel_index(channel, n_channels, names, there) for channel in channels]


def is_run(channels: Sequence[int] | None) -> bool:
    """Whether a selection is one run of channels, so that it is a slice."""
    return channels is None or list(channels) == list(range(channels[0], channels[-1] + 1))


def _channel_index(channel: int | str, n: int, names: Sequence[str] | None, there: str) -> int:
    if isinstance(channel, str):
        found = [i for i, name in enumerate(names or ()) if name == channel]
        if not found:
            raise DataError(f"channel {channel!r} is unknown: {there}. Choose among them.")
        if len(found) > 1:
            raise DataError(f"channel {channel!r} names several: {there}. Select by index.")
        return found[0]
    if isinstance(channel, bool) or not isinstance(channel, int | np.integer):
        raise DataError(f"channel {channel!r} is neither index nor name: {there}.")
    if not 0 <= channel < n:
        raise DataError(f"channel {channel} does not exist: {there}. Choose among them.")
    return int(channel)
