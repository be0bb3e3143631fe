"""TIFF files: plain, ImageJ, OME-TIFF, BigTIFF, tiled, compressed, pyramidal, and sets of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, Unpack

import tifffile
from lightning.pytorch.utilities import rank_zero_warn

from careamics_dm.datamodule.patch_datamodule import PatchDataModule
from careamics_dm.datamodule.settings import SharedSettings
from careamics_dm.errors import DataError
from careamics_dm.formats.tiff.declared import shaped_metadata
from careamics_dm.formats.tiff.headers import (
    FoundSeries,
    Images,
    Key,
    find_series,
    images_in,
    open_file,
    surplus,
    were_appended,
)
from careamics_dm.formats.tiff.metadata import (
    channel_colors,
    channel_names,
    correlated_noise,
    display,
    labels,
    pixel_size,
)
from careamics_dm.formats.tiff.pages import TiffArray, find_raw
from careamics_dm.formats.tiff.sets import Files, SetPart, group_sets
from careamics_dm.images import argument_checks as check
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.axes import check_axes, contradicted_axes, same_roles, unstated_axes
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.sources.listing import Listing, list_files
from careamics_dm.sources.source_path import TIFF, TIFF_OF_MICROSCOPES

Dimensions = tuple[tuple[int, ...], str]
"""Numbers of the dimensions of a file that are used, and the letter of each."""


class TiffDataModule(PatchDataModule):
    """Patches from TIFF files.

    Data arguments take a path, a list, a folder (searched recursively), a glob or a manifest.
    Of uncompressed files only the pixels that are needed are read, of others the strips or tiles
    that have them, each once. Axes, pixel size and channel names come from OME, ImageJ or
    tifffile's own metadata, and those of microscopes; other stacks need an ``axes`` string. RGB
    samples are channels.

    Files of a set (OME-TIFF, Micro-Manager) are one image where all of them are named, or the file
    that describes the others (also a ``.companion.ome``); else each is an image of its own pages.

    Parameters
    ----------
    series : int, optional
        Image within each file; by default all of them. Pages of one shape that were appended one
        by one are one stack of samples; label, macro and thumbnail of a slide are left out.
    level : int
        Level of the pyramid; 0 is full resolution. Noise2Void should not learn from others:
        scaling down correlates the noise of neighbours.
    incomplete : {"error", "trim"}
        Files that lack pages, of recordings that were stopped: error, or trim (take the whole
        frames that are there, with a warning).
    **shared
        Arguments of all formats; see `Settings`.
    """

    def __init__(
        self,
        *,
        series: int | None = None,
        level: int = 0,
        incomplete: Literal["error", "trim"] = "error",
        **shared: Unpack[SharedSettings],
    ) -> None:
        super().__init__(**shared)
        self.series = check.number("series", series, 0, optional=True)
        self.level = check.number("level", level, 0)
        self.incomplete = check.one_of("incomplete", incomplete, ("error", "trim"))

    def list_sources(self, data: Any, what: str) -> Listing:
        """TIFF files; a set of files that is one OME-TIFF image is listed once."""
        role, _, of = what.partition("_")
        other = {"train": "val", "val": "train"}.get(role, "")
        elsewhere = getattr(self.settings, f"{other}_{of}", None)
        listing = list_files(data, (*TIFF, *TIFF_OF_MICROSCOPES), what)
        return group_sets(listing, what, _files_of(elsewhere))

    def open_source(
        self, source: Path, axes: str, *, series: str | None = None, level: str | None = None
    ) -> list[ImageStack]:
        """See `PatchDataModule.open_source`; a manifest's rows may name series and level."""
        stacks = open_tiff(
            source,
            axes,
            series=check.key(f"{source}: series", series, self.series),
            level=check.key(f"{source}: level", level, self.level),
            trust_axes=self.settings.trust_axes,
            incomplete=self.incomplete,
        )
        # Rows may name several images of a file.
        chosen = {"series": series, "level": level}
        named = "_".join(f"{key}_{n}" for key, n in chosen.items() if n is not None)
        for stack in stacks:
            stack.source += f"/{named}" * bool(named)
        return [*stacks]


def open_tiff(
    path: Path | str | SetPart,
    axes: str = "auto",
    *,
    series: int | None = None,
    level: int = 0,
    trust_axes: bool = False,
    incomplete: Literal["error", "trim"] = "error",
) -> list[ArrayStack]:
    """Open the images of a TIFF file from its headers; for the arguments see `TiffDataModule`.

    The ``source`` of each is the path or, where there are several, ``path/series_1``.
    """
    alone, trim = isinstance(path, SetPart), incomplete == "trim"
    key = Key(str(path), level=level, alone=alone, trim=trim)
    with open_file(key) as (file, files):
        if series is not None or not were_appended(file, key):
            return _open_images(file, files, key, series, axes, trust_axes)
    key = key._replace(pages=True)
    with open_file(key) as (file, files):
        return _open_images(file, files, key, series, axes, trust_axes)


def _open_images(
    file: tifffile.TiffFile,
    files: Files,
    key: Key,
    series: int | None,
    axes: str,
    trust_axes: bool,
) -> list[ArrayStack]:
    images = images_in(file, files, key, series)
    found = {name: find_series(file, files, one) for name, one in images.keys.items()}
    _check_together(found, key.path)
    stacks = [_open_image(one, name, axes, trust_axes) for name, one in found.items()]
    for problem in [one.problem for one in found.values()] + [surplus(file, files, key)]:
        if problem:
            rank_zero_warn(problem)
    stacks[0].note = _note(images, found, key.path)
    return stacks


def _open_image(found: FoundSeries, name: str, axes: str, trust_axes: bool) -> ArrayStack:
    file, path = _describe(found), found.key.path
    dims, axes = _auto(file, path) if axes == "auto" else _match(file, axes, trust_axes, path)
    shape = tuple(file.shape[d] for d in dims)
    array = find_raw(found, shape) or TiffArray(found, shape)
    sizes = pixel_size(found)
    # Time may be called S or, to be depth, Z.
    scale = {
        "T" if letter == "S" else letter: sizes[file.axes[d]]
        for d, letter in zip(dims, axes, strict=True)
        if file.axes[d] in sizes and (letter in "ZYX" or file.axes[d] == "T")
    }
    stack = ArrayStack(
        array,
        axes,
        path + name,
        # Any box of a raw file can be read alone.
        block_shape=array.block_shape if isinstance(array, TiffArray) else (1,) * len(shape),
        scale=scale,
        channel_names=channel_names(found),
        channel_colors=channel_colors(found),
        labels=labels(found),
        is_rgb=file.is_rgb and "C" in axes,
        imagej=display(found),
        # Of a file's only image it is often the name of an earlier file.
        image_name=found.base.name if name and found.base.kind == "ome" else "",
    )
    stack.files = frozenset(map(Path, set(found.rows.files)))
    stack.correlated_noise = correlated_noise(found)
    return stack


def _check_together(found: dict[str, FoundSeries], path: str) -> None:
    """Refuse series of other axes or dtypes, which are no images of one kind."""
    kinds = []
    for one in found.values():
        file = _describe(one)
        kinds.append((file.letters(file.usual), str(one.pages.dtype)))
    if len(set(kinds)) > 1:
        columns = zip(found.values(), kinds, strict=True)
        there = ", ".join(f"{f.key.series}: {k[0]} {f.pages.shape} {k[1]}" for f, k in columns)
        raise DataError(
            f"{path}: its series do not go together: {there}. Choose one of them with series, or "
            "with a column of that name in a manifest."
        )


def _note(images: Images, found: dict[str, FoundSeries], path: str) -> str:
    """Say what of a file is taken, where that is not all of it or more than one image."""
    notes = [f"{len(found)} images"] * (len(found) > 1)
    n_files = sum(len(set(f.rows.files)) for f in found.values())
    notes += [f"from a set of {n_files} files"] * (n_files > len(found))
    notes += [f"a stack of {len(f.rows)} appended pages" for f in found.values() if f.key.pages]
    notes += [f"without series {', '.join(images.left)}"] * bool(images.left)
    return f"{path}: {', '.join(notes)}" * bool(notes)


def _files_of(data: Any) -> list[Path]:
    """Return the files that another argument names; what is wrong with it is said there."""
    try:
        listed = [] if data is None else list_files(data, (*TIFF, *TIFF_OF_MICROSCOPES), "").inputs
    except DataError:
        return []
    return [Path(path).resolve() for path in listed]


@dataclass(frozen=True)
class _Description:
    """What a file says of its dimensions."""

    axes: str
    shape: tuple[int, ...]
    claims: str  # the axes again, ? where they are tifffile's guess
    usual: tuple[int, ...]  # the dimensions that tifffile.imread gives
    is_rgb: bool

    def letters(self, dims: Sequence[int], claimed: bool = False) -> str:
        return "".join((self.claims if claimed else self.axes)[d] for d in dims)


def _describe(found: FoundSeries) -> _Description:
    """Read the axes; the samples of a pixel (of RGB, say) become ``C``."""
    page, kind = found.pages.keyframe, found.base.kind
    axes, dims = list(found.axes.upper()), list(range(len(found.shape)))
    stated = [] if kind in ("uniform", "generic", "nih") else dims
    if kind == "shaped" and "axes" not in shaped_metadata(found.base.keyframe):
        stated = []
    if planes := _planes_of_pages(found):
        axes = [planes.get(d, letter) for d, letter in enumerate(axes)]
        stated = [*planes]
    # I and Q are tifffile's "some sequence" and "other".
    claims = [a if d in stated and a not in "IQ" else "?" for d, a in enumerate(axes)]
    at = len(axes) - len(page.axes) + page.axes.find("S")
    colours = False
    if page.samplesperpixel > 1 and axes[at] == "S":
        channels = axes.index("C") if "C" in axes else None
        if channels is None or found.shape[channels] == 1:
            dims = [d for d in dims if d != channels]
            axes[at] = "C"
            colours = _is_rgb(page, guessed=kind == "shaped")
            if stated or colours:
                claims[at] = "C"
        else:
            axes[at] = claims[at] = "?"  # channels of several samples each
    elif kind != "shaped" and axes[-1] == "S" and found.shape[-1] == 1:
        dims.pop()  # tifffile's filler
    if found.key.pages:
        axes[0] = "S"
    usual = [d for d in dims if kind == "shaped" or found.shape[d] > 1 or axes[d] in "YX"]
    return _Description(
        "".join(axes[d] for d in dims),
        tuple(found.shape[d] for d in dims),
        "".join(claims[d] for d in dims),
        tuple(dims.index(d) for d in usual),
        colours,
    )


def _planes_of_pages(found: FoundSeries) -> dict[int, str]:
    """Letters of the dimensions of appended pages, where tifffile wrote planes as if colours."""
    page, said = found.pages.keyframe, shaped_metadata(found.pages.keyframe)
    sizes = zip(said.get("axes", "").upper(), said.get("shape", ()), strict=False)
    letters = [letter for letter, n in sizes if n > 1]
    first = len(found.axes) - len(page.axes)
    dims = [d for d in range(first, len(found.axes)) if found.shape[d] > 1]
    if not found.key.pages or len(letters) != len(dims):
        return {}
    planes = dict(zip(dims, letters, strict=True))
    return {} if planes.get(first + page.axes.find("S"), "S") in "SC" else planes


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
