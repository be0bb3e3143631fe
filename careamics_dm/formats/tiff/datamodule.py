"""TIFF files: plain, ImageJ, OME-TIFF, BigTIFF, tiled, compressed, pyramidal."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Unpack
from xml.etree import ElementTree

import tifffile

from careamics_dm.datamodule.patch_datamodule import PatchDataModule
from careamics_dm.datamodule.settings import SharedSettings
from careamics_dm.formats.tiff.headers import FoundSeries, Key, open_series, shaped_metadata
from careamics_dm.formats.tiff.pages import TiffArray, map_series
from careamics_dm.images import checks as check
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.axes import check_axes, contradicted_axes, same_roles, unstated_axes
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.sources.listing import Listing, list_files
from careamics_dm.sources.source_path import TIFF

MICROMETER = "µm"
Dimensions = tuple[tuple[int, ...], str]
"""Numbers of the dimensions of a file that are used, and the letter of each."""


class TiffDataModule(PatchDataModule):
    """Patches from TIFF files.

    Data arguments take a path, a list, a folder (searched recursively), a glob or a manifest.
    Uncompressed files are memory-mapped; of others only the strips or tiles that are needed are
    read, each once. Axes, pixel size and channel names come from OME, ImageJ or tifffile's own
    metadata; other stacks need an ``axes`` string. RGB samples are channels.

    Parameters
    ----------
    series : int
        Image within each file. In a set of OME-TIFF files with several images, those are
        counted that have a page in the file named.
    level : int
        Level of the pyramid; 0 is full resolution.
    **shared
        Parameters of `PatchDataModule`.
    """

    def __init__(
        self, *, series: int = 0, level: int = 0, **shared: Unpack[SharedSettings]
    ) -> None:
        super().__init__(**shared)
        self.series = check.number("series", series, 0)
        self.level = check.number("level", level, 0)

    def list_sources(self, data: Any, what: str) -> Listing:
        """TIFF files; a set of files that is one OME-TIFF image is listed once."""
        return _one_per_image(list_files(data, TIFF, what), self.series)

    def open_source(
        self, source: Path, axes: str, *, series: str | None = None, level: str | None = None
    ) -> list[ImageStack]:
        """See `PatchDataModule.open_source`; a manifest's rows may name series and level."""
        stack = open_tiff(
            source,
            axes,
            series=check.key(f"{source}: series", series, self.series),
            level=check.key(f"{source}: level", level, self.level),
            trust_axes=self.settings.trust_axes,
        )
        # Rows may name several images of a file.
        chosen = {"series": series, "level": level}
        named = "_".join(f"{key}_{n}" for key, n in chosen.items() if n is not None)
        stack.source += f"/{named}" * bool(named)
        return [stack]


def open_tiff(
    path: Path | str,
    axes: str = "auto",
    *,
    series: int = 0,
    level: int = 0,
    trust_axes: bool = False,
) -> ArrayStack:
    """Open one image of a TIFF file from its headers; for the arguments see `TiffDataModule`."""
    key = Key(str(path), series, level)
    with open_series(key) as found:
        file = _describe(found)
        if axes == "auto":
            dims, axes = _auto(file, key.path)
        else:
            dims, axes = _match(file, axes, trust_axes, key.path)
        shape = tuple(file.shape[d] for d in dims)
        array = map_series(found, shape) or TiffArray(found, shape)
        pixels = _ome_pixels(found)
        sizes, names = _scale(found, pixels), _channel_names(pixels)
    scale = {
        letter: sizes[file.axes[d]]
        for d, letter in zip(dims, axes, strict=True)
        if letter in "ZYX" and file.axes[d] in sizes
    }
    return ArrayStack(
        array,
        axes,
        key.path,
        # Any box of a mapped file can be read alone.
        block_shape=array.block_shape if isinstance(array, TiffArray) else (1,) * len(shape),
        scale=scale,
        channel_names=names,
    )


@dataclass(frozen=True)
class _Description:
    """What a file says of its dimensions."""

    axes: str
    shape: tuple[int, ...]
    claims: str  # the axes again, ? where they are tifffile's guess
    usual: tuple[int, ...]  # the dimensions that tifffile.imread gives

    def letters(self, dims: Sequence[int], claimed: bool = False) -> str:
        return "".join((self.claims if claimed else self.axes)[d] for d in dims)


def _describe(found: FoundSeries) -> _Description:
    """Read the axes; the samples of a pixel (of RGB, say) become ``C``."""
    page, kind = found.pages.keyframe, found.base.kind
    axes, dims = list(found.axes.upper()), list(range(len(found.shape)))
    stated = kind not in ("uniform", "generic", "nih")
    if kind == "shaped":
        stated = "axes" in shaped_metadata(found.base.keyframe)
    # I and Q are tifffile's "some sequence" and "other".
    claims = [letter if stated and letter not in "IQ" else "?" for letter in axes]
    at = len(axes) - len(page.axes) + page.axes.find("S")
    if page.samplesperpixel > 1 and axes[at] == "S":
        channels = axes.index("C") if "C" in axes else None
        if channels is None or found.shape[channels] == 1:
            dims = [d for d in dims if d != channels]
            axes[at] = "C"
            if stated or _is_rgb(page, guessed=kind == "shaped"):
                claims[at] = "C"
        else:
            axes[at] = claims[at] = "?"  # channels of several samples each
    elif kind != "shaped" and axes[-1] == "S" and found.shape[-1] == 1:
        dims.pop()  # tifffile's filler
    usual = [d for d in dims if kind == "shaped" or found.shape[d] > 1 or axes[d] in "YX"]
    return _Description(
        "".join(axes[d] for d in dims),
        tuple(found.shape[d] for d in dims),
        "".join(claims[d] for d in dims),
        tuple(dims.index(d) for d in usual),
    )


def _is_rgb(page: tifffile.TiffPage, guessed: bool) -> bool:
    """Whether a page is RGB for sure; tifffile also calls three frames or floats RGB."""
    if page.photometric not in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR):
        return False
    return not guessed or (page.planarconfig == 1 and page.dtype in ("uint8", "uint16"))


def _auto(file: _Description, source: str) -> Dimensions:
    """Take the file's own axes."""
    dims = tuple(d for d in file.usual if file.shape[d] > 1 or file.axes[d] not in "IQ?")
    axes = file.letters(dims)
    clear = axes.isalpha() and not set(axes) & set("IQ") and {"Y", "X"} <= set(axes)
    if clear and len(set(axes)) == len(axes):
        return dims, axes
    why = f"the file does not say what its dimensions are: tifffile guesses {axes}"
    raise unstated_axes(source, why, tuple(file.shape[d] for d in dims))


def _match(file: _Description, axes: str, trust_axes: bool, source: str) -> Dimensions:
    """Lay a user's letters over the dimensions; those of length 1 may be left out."""
    long = [d for d, n in enumerate(file.shape) if n > 1]
    short = [d for d, n in enumerate(file.shape) if n == 1]
    options = [file.usual] if len(file.usual) == len(axes) else []
    if len(axes) >= len(long):
        options += [
            tuple(sorted([*long, *some])) for some in combinations(short, len(axes) - len(long))
        ]
    shape = tuple(file.shape[d] for d in (options or [file.usual])[0])
    axes = check_axes(axes, shape, source)
    for dims in options:
        sizes = [file.shape[d] for d in dims]
        if trust_axes or same_roles(axes, file.letters(dims, claimed=True), sizes):
            return dims, axes
    raise contradicted_axes(source, axes, file.letters(file.usual, claimed=True), shape)


def _scale(found: FoundSeries, pixels: ElementTree.Element | None) -> dict[str, tuple[float, str]]:
    """Pixel size per axis with its unit, where the file says it."""
    page, level = found.base.keyframe, found.pages.keyframe
    sizes: dict[str, tuple[Any, Any]] = {}
    if pixels is not None:
        for a in "ZYX":
            unit = pixels.get(f"PhysicalSize{a}Unit", MICROMETER)
            sizes[a] = (pixels.get(f"PhysicalSize{a}"), unit)
    elif found.base.kind != "ome":
        per_unit = [tag.value for tag in map(page.tags.get, (283, 282)) if tag is not None]
        pixel = [d / n for n, d in per_unit if n > 0 and d > 0]
        factor, unit = _UNITS.get(int(page.resolutionunit), 0.0), MICROMETER
        metadata = found.file.imagej_metadata or {}
        if found.base.kind == "imagej":
            factor, unit = 1.0, metadata.get("unit", "pixel")
        if len(pixel) == 2 and factor:
            sizes = {a: (size * factor, unit) for a, size in zip("YX", pixel, strict=True)}
            sizes["Z"] = (metadata.get("spacing"), unit)
    attributes = {"Z": "imagedepth", "Y": "imagelength", "X": "imagewidth"}
    shrunk = {axis: getattr(page, n) / getattr(level, n) for axis, n in attributes.items()}
    scale = {}
    for axis, (size, unit) in sizes.items():
        unit_name, number = _unit(str(unit)), check.positive(size)
        if unit_name and number:
            scale[axis] = (number * shrunk[axis], unit_name)
    return scale


_UNITS = {2: 25400.0, 3: 10000.0, 4: 1000.0, 5: 1.0}
"""Micrometers in the units of TIFF: inch, centimeter; of tifffile: millimeter, micrometer."""


def _unit(name: str) -> str | None:
    name = name.strip().replace("\\u00B5", "µ").replace("\u03bc", "µ")
    if name.lower() in ("µm", "um", "micron", "microns", "micrometer", "micrometre"):
        return MICROMETER
    return None if name.lower() in ("", "pixel", "pixels", "reference frame") else name


def _channel_names(pixels: ElementTree.Element | None) -> tuple[str, ...]:
    names = [] if pixels is None else [c.get("Name", "") for c in pixels.iterfind("{*}Channel")]
    return tuple(names) if names and all(names) and len(set(names)) == len(names) else ()


def _ome_pixels(found: FoundSeries) -> ElementTree.Element | None:
    """Return the metadata of an OME series; None where there are none that can be matched."""
    if found.base.kind != "ome":
        return None
    root = ElementTree.fromstring(found.file.ome_metadata or "<OME/>")
    images = [p for p in root.iterfind("{*}Image/{*}Pixels") if p.find("{*}TiffData") is not None]
    return images[found.number] if len(images) == len(found.file.series) else None


def _one_per_image(listing: Listing, series: int) -> Listing:
    """Leave out the files of a multi-file OME-TIFF whose image an earlier file stands for."""
    if len(listing.inputs) == 1 or listing.keys is not None:  # rows say what they mean
        return listing
    seen: set[Hashable] = {("file", str(path.resolve())) for path in listing.inputs}
    keep = []
    for i, path in enumerate(listing.inputs):
        image = _image_in_set(path, series)
        if image is None or image not in seen:
            keep.append(i)
        seen.add(image)
    return listing.take(keep)


def _image_in_set(path: Path, series: int) -> Hashable | None:
    """Name the image of several files that a file has part of; None for other files."""
    try:
        with tifffile.TiffFile(path) as file:
            root = ElementTree.fromstring(file.ome_metadata or "<OME/>")
    except Exception:  # not a TIFF, or damaged: said when it is opened
        return None
    main = root.find("{*}BinaryOnly")
    if main is not None:
        return ("file", str((path.parent / main.get("MetadataFile", "")).resolve()))
    images = []
    for image in root.iterfind("{*}Image"):
        parts = image.findall("{*}Pixels/{*}TiffData/{*}UUID")
        names = {path.name if p.text == root.get("UUID") else p.get("FileName") for p in parts}
        if path.name in names:
            images.append((image.get("ID"), frozenset(names)))
    if series >= len(images) or len(images[series][1]) < 2:
        return None
    return (path.parent.resolve(), *images[series])
