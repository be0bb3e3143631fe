"""What a file declares of its pages, where tifffile goes by those that it finds, or guesses."""

import json
import re
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from careamics_dm.formats.tiff.sets import check_number


class Declared(NamedTuple):
    """Axes and shape of an image, and which page of its series is where, in order; -1: none."""

    axes: str
    shape: list[int]
    numbers: NDArray[np.int64] | None = None
    n_pages: int = 0
    """How many pages are declared, if these are more than the shape has."""


def shaped_metadata(page: tifffile.TiffPage) -> dict[str, Any]:
    """Return what tifffile wrote about the series that starts here; nothing in other files."""
    text = page.shaped_description or ""
    return dict(json.loads(text)) if text.startswith("{") else {}


def declared(
    file: tifffile.TiffFile, series: tifffile.TiffPageSeries, axes: str, shape: list[int]
) -> Declared:
    """Correct the axes and the shape that tifffile gives to a series, at full resolution."""
    if series.kind == "shaped":
        return _by_tifffile(series, axes, shape)
    if file.is_imagej and series.kind in ("generic", "uniform"):
        return _by_imagej(file, axes, shape)
    if series.kind == "scanimage":
        return _by_scanimage(file, axes, shape)
    if series.kind == "mmstack":
        return _by_micromanager(file, axes, shape)
    return Declared(axes, shape)


def n_undeclared(file: tifffile.TiffFile) -> int:
    """Count the pages of a file that no image of its metadata has."""
    kind = file.series[0].kind
    if kind == "imagej":
        series = file.series[0]
        return len(file.pages) - prod(series.shape) // prod(series.keyframe.shaped)
    if kind != "ome":
        return 0
    pages = (page for series in file.series for page in series if page)
    path = file.filehandle.path
    used = {page.index for page in pages if page.parent.filehandle.path == path}
    return len(file.pages) - len(used)


def _by_tifffile(series: tifffile.TiffPageSeries, axes: str, shape: list[int]) -> Declared:
    """Where pages are missing, tifffile takes the first one for all."""
    page, metadata = series.keyframe, shaped_metadata(series.keyframe)
    stated = [*metadata.get("shape", shape)]
    if prod(stated) <= prod(shape):
        return Declared(axes, shape)
    if len(metadata.get("axes", "")) == len(stated):
        return Declared(metadata["axes"], stated)
    return Declared("Q" + page.axes, [prod(stated) // prod(page.shape), *page.shape])


def _by_imagej(file: tifffile.TiffFile, axes: str, shape: list[int]) -> Declared:
    """Where the file ends early, tifffile takes the pages that it finds for anything."""
    page, metadata = file.pages.first, file.imagej_metadata or {}
    sizes = [metadata.get(name, 1) for name in ("frames", "slices", "channels")]
    if sizes[2] in (page.shaped[0], page.shaped[4]):
        sizes[2] = 1  # the samples of a pixel
    if prod(sizes) * prod(page.shape) <= prod(shape):
        return Declared(axes, shape)
    return Declared("TZC" + page.axes, [*sizes, *page.shape])


def _by_scanimage(file: tifffile.TiffFile, axes: str, shape: list[int]) -> Declared:
    """Arrange the pages by channels, repeats of a slice, slices and volumes.

    A recording may be in several files, each of which starts and ends anywhere. Where the focus
    returns for the next volume, there are frames that belong to no slice.
    """
    page = file.pages.first
    text = f"{page.software}\n{page.description}"

    def number(*names: str) -> int:
        found = (re.search(rf"\b{name} *= *(\d+)", text) for name in names)
        return next((int(match[1]) for match in found if match), 0)

    saved = re.search(r"channels?Save *= *(.*)", text)
    if saved is None:
        return Declared(axes, shape)
    n_channels = len(re.findall(r"\d+", saved[1])) or 1
    enabled = re.findall(r"(?:hStackManager|hFastZ)\.enable *= *(\w+)", text)
    slices = number("actualNumSlices", "numSlices", r"hFastZ\.numFramesPerVolume")
    if enabled and not {"true", "1"} & set(enabled):
        slices = 1  # as in a recording before this one
    slices = max(slices, 1)
    repeats = (number("framesPerSlice") or 1) if slices > 1 else 1
    cycle = max(slices * repeats, number("numFramesPerVolumeWithFlyback") if slices > 1 else 1)
    path = file.filehandle.path
    check_number(cycle * n_channels, path, [Path(path)])
    first = number("frameNumberAcquisition", "frameNumbers") or 1
    places = np.arange(len(file.pages)) + (first - 1) % cycle * n_channels
    frames, channel = np.divmod(places, n_channels)
    volume, frame = np.divmod(frames, cycle)
    numbers = np.full((volume.max() + 1, cycle, n_channels), -1, np.int64)
    numbers[volume, frame, channel] = np.arange(len(places))
    numbers = numbers[:, : slices * repeats]
    sizes = [len(numbers), slices, repeats, n_channels]
    axes = "TZSC" if len(numbers) > 1 else "SZTC"
    return Declared(axes + page.axes, [*sizes, *page.shape], numbers.ravel())


def _by_micromanager(file: tifffile.TiffFile, axes: str, shape: Sequence[int]) -> Declared:
    """Of a recording that stopped, tifffile takes what is there for all."""
    summary = tifffile.read_micromanager_metadata(file.filehandle, {"Summary"})["Summary"]
    stated = {"T": "Frames", "Z": "Slices", "C": "Channels"}
    full = {
        axis: max(size, int(summary.get(stated.get(axis, ""), 0)))
        for axis, size in zip(axes[:4], shape[:4], strict=True)  # the others are of a page
    }
    n_pages = prod(full.values())
    full["T"] = min(full["T"], shape[axes.index("T")] + 1)  # one that is missing is as good as all
    path = file.filehandle.path
    check_number(prod(full.values()), path, [Path(path)])
    numbers = np.full([*full.values()], -1, np.int64)
    numbers[tuple(map(slice, shape[:4]))] = np.arange(prod(shape[:4])).reshape(shape[:4])
    return Declared(axes, [*full.values(), *shape[4:]], numbers.ravel(), n_pages)
