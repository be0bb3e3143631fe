"""Pixel size, frame interval, channel names and labels, where a TIFF file really says them."""

import re
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from careamics_dm.formats.tiff.headers import FoundSeries
from careamics_dm.images import argument_checks as check
from careamics_dm.images.array_stack import scaled_down
from careamics_dm.images.colors import channel_colors as colors_of
from careamics_dm.images.lossy_compression import ENOUGH, lossy_codec
from careamics_dm.images.units import symbol

MICROMETER = "µm"
UNITS = {3: 10000.0, 4: 1000.0, 5: 1.0}
"""Micrometers in the units of TIFF: centimeter; of tifffile: millimeter, micrometer. Not in inches:
dots per inch are of a screen or printer."""
SCREENS = (72, 75, 96, 100, 150, 300, 600, 1200)
"""Dots per inch that programs write where they know nothing, also as dots per centimeter."""
DISPLAY = ("mode", "Ranges", "LUTs", "min", "max", "loop", "fps", "Info")
"""What ImageJ says that is neither axes nor calibration."""
Sizes = dict[str, tuple[Any, Any]]


def pixel_size(found: FoundSeries) -> dict[str, tuple[float, str]]:
    """Pixel size per axis and frame interval (T), with units, where the file says them."""
    page, level = found.base.keyframe, found.pages.keyframe
    attributes = {"Z": "imagedepth", "Y": "imagelength", "X": "imagewidth"}
    shrunk = {axis: getattr(page, n) / getattr(level, n) for axis, n in attributes.items()}
    scale = {}
    for axis, (size, unit) in _stated_sizes(found).items():
        unit_name, number = _unit(str(unit)), check.positive(size)
        if unit_name and number:
            scale[axis] = (number * shrunk.get(axis, 1), unit_name)
    return scale


def channel_names(found: FoundSeries) -> tuple[str, ...]:
    """Return the names of channels; nothing where they do not tell channels apart."""
    pixels = _ome_pixels(found)
    names = _summary(found).get("ChNames") or [] if pixels is None else _names_in(pixels)
    return tuple(names) if names and all(names) and len(set(names)) == len(names) else ()


def channel_colors(found: FoundSeries) -> tuple[str, ...]:
    """Return the colours of channels; of ImageJ, of lookup tables that begin at black."""
    if (pixels := _ome_pixels(found)) is not None:
        numbers = [channel.get("Color", "") for channel in pixels.iterfind("{*}Channel")]
        good = [re.fullmatch(r"-?\d+", number) for number in numbers]
        stated = [f"{int(n[0]) >> 8 & 0xFFFFFF:06X}" if n else "" for n in good]  # RGB, opacity
    else:
        tables = [np.asarray(table) for table in _imagej(found).get("LUTs", ())]
        stated = [bytes(of[:, -1]).hex() * (not of[:, 0].any()) for of in tables]
    return colors_of(stated)


def labels(found: FoundSeries) -> Sequence[str]:
    """Return ImageJ's text for each plane, in the order of the axes; nothing if some have none."""
    n = prod(n for axis, n in zip(found.axes, found.shape, strict=True) if axis not in "YXS")
    texts = _imagej(found).get("Labels", ())
    texts = [texts] if isinstance(texts, str) else texts
    return texts[:n] if len(texts) >= n else ()


def display(found: FoundSeries) -> dict[str, Any]:
    """Return how ImageJ displays the image."""
    return {name: value for name, value in _imagej(found).items() if name in DISPLAY}


def correlated_noise(found: FoundSeries) -> str:
    """Say why the noise of neighbours is correlated; of compression by the first segment."""
    rows, name = found.rows, getattr(found.pages.keyframe.compression, "name", "")
    segments = np.argwhere(rows.counts * rows.there[:, None])
    if found.key.level or not len(segments) or not re.search("JP|WEBP", name):
        return scaled_down(found.key.level)
    page, segment = segments[0]
    with Path(rows.files[page]).open("rb") as file:
        file.seek(int(rows.offsets[page, segment]))
        codec = lossy_codec(file.read(min(int(rows.counts[page, segment]), ENOUGH)))
    return codec and f"lossy {codec} compression"


def _imagej(found: FoundSeries) -> dict[str, Any]:
    return (found.file.imagej_metadata or {}) if found.base.kind == "imagej" else {}


def _stated_sizes(found: FoundSeries) -> Sizes:
    """Return what the metadata of a microscope say, else ImageJ's, else the tags of TIFF."""
    file = found.file
    if (pixels := _ome_pixels(found)) is not None:
        return _sizes_in(pixels)
    if summary := _summary(found):
        pixel, step = summary.get("PixelSize_um"), summary.get("z-step_um")
        sizes = {a: (n, MICROMETER) for a, n in zip("ZYX", (step, pixel, pixel), strict=True)}
        return sizes | {"T": (summary.get("Interval_ms"), "ms")}
    if metadata := file.lsm_metadata:
        sizes = {a: (_micrometers(metadata.get(f"VoxelSize{a}")), MICROMETER) for a in "ZYX"}
        return sizes | {"T": (metadata.get("TimeIntervall"), "s")}
    if metadata := file.stk_metadata:
        unit, steps = metadata.get("CalibrationUnits", ""), metadata.get("ZDistance", [0])
        sizes = {a: (metadata.get(f"{a}Calibration"), unit) for a in "YX"}
        return sizes | {"Z": (abs(float(steps[0])), MICROMETER)}
    if metadata := file.fei_metadata:
        beam = metadata.get("EScan") or metadata.get("Scan") or {}
        names = {"Y": "PixelHeight", "X": "PixelWidth"}
        return {a: (_micrometers(beam.get(name)), MICROMETER) for a, name in names.items()}
    if found.base.kind == "ome":
        return {}
    metadata = _imagej(found)
    rate = check.positive(metadata.get("fps"))
    interval = metadata.get("finterval") or (rate and 1 / rate)
    return _tagged_sizes(found) | {"T": (interval, metadata.get("tunit", "s"))}


def _tagged_sizes(found: FoundSeries) -> Sizes:
    page, metadata = found.base.keyframe, found.file.imagej_metadata
    values = [tag.value for tag in map(page.tags.get, (283, 282)) if tag is not None]
    sizes = [d / n for n, d in values if n > 0 and d > 0]
    factor, unit = UNITS.get(int(page.resolutionunit), 0.0), MICROMETER
    if metadata is not None:
        factor, unit = 1.0, metadata.get("unit", "")
    elif any(
        abs(25400 / dots / (size * factor or 1) - 1) < 1e-3 for dots in SCREENS for size in sizes
    ):
        return {}
    if len(sizes) < 2 or not factor:
        return {}
    stated = {a: (size * factor, unit) for a, size in zip("YX", sizes, strict=True)}
    return stated | {"Z": ((metadata or {}).get("spacing"), unit)}


def _micrometers(meters: Any) -> float:
    return check.positive(meters) * 1e6


def _unit(name: str) -> str | None:
    """Return a unit of length; None for what is none, or is of a screen: pixels and inches."""
    none = ("", "pixel", "pixels", "reference frame", "inch", "inches")
    return None if name.strip().lower() in none else symbol(name)


def _summary(found: FoundSeries) -> dict[str, Any]:
    """Return what Micro-Manager says of a recording."""
    return dict((found.file.micromanager_metadata or {}).get("Summary", {}))


def _ome_pixels(found: FoundSeries) -> ElementTree.Element | None:
    """Return what OME-XML says of an image; None where it cannot be told which it is."""
    images = _all_pixels(found.file.ome_metadata or "<OME/>")
    if found.base.kind == "ome" and len(images) == len(found.file.series):
        return images[found.key.series]
    said = {(*_sizes_in(pixels).items(), *_names_in(pixels)) for pixels in images}
    return images[0] if len(said) == 1 else None


def _sizes_in(pixels: ElementTree.Element) -> Sizes:
    names = {"T": ("TimeIncrement", "s")}
    names |= {a: (f"PhysicalSize{a}", MICROMETER) for a in "ZYX"}
    return {a: (pixels.get(n), pixels.get(f"{n}Unit", unit)) for a, (n, unit) in names.items()}


def _names_in(pixels: ElementTree.Element) -> list[str]:
    return [channel.get("Name", "") for channel in pixels.iterfind("{*}Channel")]


@lru_cache(8)
def _all_pixels(text: str) -> list[ElementTree.Element]:
    """Parse OME-XML once for all images of a file; what tifffile cannot parse says nothing."""
    try:
        pixels = ElementTree.fromstring(text).iterfind("{*}Image/{*}Pixels")
    except ElementTree.ParseError:
        return []
    return [image for image in pixels if image.find("{*}TiffData") is not None]
