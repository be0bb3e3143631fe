"""How a result is described in a TIFF, so that other programs see what it is.

Fiji opens ImageJ hyperstacks as what they are, most other programs read OME. Neither holds
everything: what loses least is used.
"""

from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from careamics_dm.images.colors import red_green_blue
from careamics_dm.images.units import LENGTHS, TIMES, convert, symbol
from careamics_dm.prediction.result_file import ResultImage

NOT_IN_OME = (np.int64, np.uint64, np.float16)
CLASSIC_BYTES = 2**32 - 2**25
"""Of pixels; larger files are BigTIFF, and no ImageJ hyperstacks."""
RESOLUTIONS = (1e-9, 4e9)
"""Pixels per unit that a tag of TIFF holds."""


class Described(NamedTuple):
    """Arguments of ``tifffile.imwrite``, and what they can't say."""

    options: dict[str, Any]
    lost: list[str]


class TiffDescription:
    """The axes of a result's file, and how they and the metadata are written.

    In the file, samples ``S`` are called ``T`` where there is no other time, as viewers take no
    more than ``T``, ``Z`` and ``C``. The colours of integers come last, as RGB, and are called
    ``S`` as in tifffile; other channels come before ``Y``. Tiled files are no ImageJ hyperstacks.
    """

    def __init__(self, image: ResultImage, tiled: bool = False) -> None:
        layout, self.metadata = image.layout, image.metadata
        self.path, self.tiled, self._stated = image.path, tiled, image.stated
        # Bits can't be mapped.
        self.dtype = np.dtype(np.uint8) if image.dtype.kind == "b" else image.dtype
        axes = layout.axes if "T" in layout.axes else layout.axes.replace("S", "T")
        order = axes.replace("C", "")
        colours = self.metadata.get("is_rgb", False) and order.endswith("YX")
        self.is_rgb = colours and self.dtype in (np.uint8, np.uint16)
        if self.is_rgb:
            order += "C"
        elif axes.endswith("YXC"):
            order = f"{axes[:-3]}CYX"
        else:
            order = axes
        self.order = [axes.index(axis) for axis in order]
        """Which dimension of the result each one of the file is."""
        self.shape = tuple(layout.shape[d] for d in self.order)
        self.axes = order.replace("C", "S") if self.is_rgb and "S" not in order else order
        self.scale = self.metadata.get("scale", {})
        self.names = self.metadata.get("channel_names")
        self.colors = self.metadata.get("channel_colors") or []
        self.imagej = self.metadata.get("imagej", {})
        self.imagej = {"mode": "composite"} | self.imagej if colours else self.imagej

    def best(self) -> Described:
        """Return the description that loses least; OME where the name says so."""
        ome, plain = self._as_ome(), self._as_tifffile()
        if ome and self.path.name.lower().endswith((".ome.tif", ".ome.tiff", ".ome.btf")):
            return ome
        # What a single plane is, any program finds.
        others = (ome, plain) if self._n_planes > 1 else (plain, ome)
        found: list[Described] = [one for one in (self._as_imagej(), *others) if one]
        return min(found, key=lambda one: len(one.lost))

    @property
    def _n_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    @property
    def _planes(self) -> str:
        """The axes along which there are planes."""
        return self.axes[: -3 if self.is_rgb else -2]

    @property
    def _n_planes(self) -> int:
        return prod(self.shape[: len(self._planes)])

    @property
    def _by_planes(self) -> bool:
        return self.axes.removeprefix(self._planes) in ("YX", "YXS")

    def _as_imagej(self) -> Described | None:
        """Describe an ImageJ hyperstack; None where that can't hold the pixels."""
        allowed = (np.uint8,) if self.is_rgb else (np.uint8, np.uint16, np.float32)
        ordered = "".join(axis for axis in "TZC" if axis in self._planes)
        if (
            self.dtype not in allowed
            or not self._by_planes
            or self._planes != ordered
            or (min(self.shape) == 1 and self._n_planes == 1)  # it drops axes of size 1
            or self._n_bytes > CLASSIC_BYTES
            or self.tiled
        ):
            return None
        metadata = {"axes": self.axes} | self.imagej
        if len(limits := metadata.get("Ranges", ())) == 2:  # of one channel, ImageJ reads these
            metadata |= {"min": limits[0], "max": limits[1]}
        # Bio-Formats takes a spacing for micrometers, whatever the unit.
        unit = "µm" if self._size("X", "µm") else self.scale.get("X", (1, "µm"))[1]
        options = self._resolution(unit) if unit.isascii() or unit == "µm" else {}
        lost = [] if options else self._stated("YX")
        # Without a unit, Bio-Formats takes pixels for micrometers.
        metadata["unit"] = ("um" if unit == "µm" else unit) if options else "pixel"
        spacing = self._size("Z", unit) if options else None
        if spacing:
            metadata["spacing"] = spacing
        if interval := self._size("T", "s"):
            metadata["finterval"] = interval
        if self.colors and "LUTs" not in metadata:
            metadata["LUTs"] = [_lookup_table(color) for color in self.colors]
            metadata = {"mode": "composite"} | metadata
        lost += self._stated("Z" * (not spacing) + "T" * (not interval) + "CNP")
        if labels := self.metadata.get("labels"):
            times = max(self._n_planes // len(labels), 1)  # channels of an RGB image
            metadata["Labels"] = [label for label in labels for _ in range(times)]
        return Described(self._options(metadata) | options | {"imagej": True, "ome": False}, lost)

    def _as_ome(self) -> Described | None:
        """Describe an OME-TIFF; None where that can't hold the pixels."""
        if not (set(self._planes) <= set("TZC") and self._by_planes) or self.dtype in NOT_IN_OME:
            return None
        name = self.metadata.get("image_name") or self.path.stem
        metadata: dict[str, Any] = {"axes": self.axes, "Name": name}
        lost = ""
        for axis, (size, unit) in self.scale.items():
            key, units = (f"PhysicalSize{axis}", LENGTHS)
            if axis == "T":
                key, units = "TimeIncrement", TIMES
            if symbol(unit) not in units:
                lost += axis
            elif axis in self.axes:
                metadata |= {key: size, f"{key}Unit": symbol(unit)}
        if self.names and "C" in self.axes:
            metadata["Channel"] = {"Name": list(self.names)}
        if self.colors and "C" in self.axes:
            colors = {"Color": [*map(_rgba, self.colors)]}
            metadata["Channel"] = metadata.get("Channel", {}) | colors
        options = self._options(metadata) | self._resolution("cm") | {"imagej": False, "ome": True}
        return Described(options, self._stated(f"{lost}LP"))

    def _as_tifffile(self) -> Described:
        """Describe axes as tifffile does; resolution is a tag of any TIFF."""
        options, resolution = self._options({"axes": self.axes}), self._resolution("cm")
        lost = self._stated("ZTCNLDP" if resolution else "YXZTCNLDP")
        return Described(options | resolution | {"imagej": False, "ome": False}, lost)

    def _options(self, metadata: dict[str, Any]) -> dict[str, Any]:
        return {
            "metadata": metadata,
            "photometric": "rgb" if self.is_rgb else "minisblack",
            "bigtiff": self._n_bytes > CLASSIC_BYTES,
        }

    def _resolution(self, unit: str) -> dict[str, Any]:
        """Return tags for the pixel size; none where they can't hold it."""
        sizes = [self._size(axis, unit) for axis in "XY"]
        if not all(size and RESOLUTIONS[0] <= 1 / size <= RESOLUTIONS[1] for size in sizes):
            return {}
        options: dict[str, Any] = {"resolution": tuple(1 / size for size in sizes if size)}
        return options | ({"resolutionunit": "CENTIMETER"} if unit == "cm" else {})

    def _size(self, axis: str, unit: str) -> float | None:
        return convert(*self.scale[axis], unit) if axis in self.scale else None


def _lookup_table(color: str) -> NDArray[np.uint8]:
    """Return ImageJ's table from black to a colour, ``(3, 256)``."""
    return np.outer(red_green_blue(color), np.linspace(0, 1, 256)).round().astype(np.uint8)


def _rgba(color: str) -> int:
    """Return a colour as in OME-XML: red, green, blue and opacity, as a signed number."""
    return int.from_bytes(bytes([*red_green_blue(color), 255]), signed=True)
