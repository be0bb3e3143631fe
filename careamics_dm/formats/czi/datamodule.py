"""CZI files of Zeiss microscopes: scenes, mosaics, time series, stacks, compressed or not."""

from collections.abc import Sequence
from contextlib import closing
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from careamics_dm.datamodule.patch_datamodule import PatchDataModule
from careamics_dm.datamodule.settings import SharedSettings
from careamics_dm.errors import DataError
from careamics_dm.formats.czi.directory import SubBlocks, first_bytes, read_directory
from careamics_dm.formats.czi.layout import PIXEL_TYPES, SceneLayout, indices_of
from careamics_dm.formats.czi.metadata import (
    channel_colors,
    channel_names,
    parse,
    pixel_size,
    scene_name,
)
from careamics_dm.formats.czi.planes import CziArray, Key, OpenCzi
from careamics_dm.images import argument_checks as check
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.axes import select_channels
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.images.lossy_compression import ENOUGH, lossy_codec
from careamics_dm.sources.file_kind import other_kind
from careamics_dm.sources.listing import Listing, list_files

Scenes = Sequence[int] | None
DEPTH = {"SCYX": "", "SCZYX": "Z", "SCTYX": "T"}
"""The axes to choose from, and the dimension that is depth with each."""
LARGE_AREA, SPARSEST = 2**32, 2**12
"""Pixels of a scene from which its gaps are doubted, and how many times what was acquired it is."""
JPEG_XR = 4
COMPRESSIONS = (0, JPEG_XR, 5, 6)
"""Those that libCZI decodes: none, JPEG XR, Zstandard, Zstandard with a header."""
OTHERS = "Bgr96Float, Bgra32, Gray64ComplexFloat, Bgr192ComplexFloat, Gray32, Gray64Float"
UNREADABLE = {
    "compression": {1: "JPEG", 2: "LZW"},
    "pixel type": dict(enumerate(OTHERS.split(", "), start=8)),
}


class CziDataModule(PatchDataModule):
    """Patches from CZI files.

    Data arguments take a path, a list, a glob or a manifest, in which a column ``scene`` may
    choose one scene per row; not a folder. Each scene is an image of its own, full resolution.

    ``axes`` is ``SCYX``, ``SCZYX`` or ``SCTYX``: planes, or volumes with Z or T as depth (T
    is then called Z in the image). Whatever is not depth folds into samples: T, then Z, then
    other dimensions (B, H, I, R, V) in alphabetical order, the last one running fastest.
    ``auto`` takes the depth that the file has, Z before T; for a patch size of two numbers, T
    folds into samples (Z too, with ``z_as_samples``). The components of colour pixels are channels:
    R, G, B of the first channel, of the second, and so on.

    Parameters
    ----------
    scenes : sequence of int, optional
        Indices of the scenes to take, as the file numbers them; all by default.
    cache_mib : int
        Memory for decoded sub-blocks of compressed files, MiB. Of all open files together, in each
        process. It serves where a sub-block is read more than once, as with small tiles.
    convert_pixel_types : bool
        Convert channels of different pixel types to one that holds all. Else such a file is an
        error.
    **shared
        Arguments of all formats; see `Settings`.
    """

    def __init__(
        self,
        *,
        scenes: Sequence[int] | None = None,
        cache_mib: int = 256,
        convert_pixel_types: bool = False,
        **shared: Unpack[SharedSettings],
    ) -> None:
        super().__init__(**shared)
        self.scenes = _check_scenes(scenes)
        self.cache_mib = check.number("cache_mib", cache_mib, 0)
        self.convert_pixel_types = check.boolean("convert_pixel_types", convert_pixel_types)

    def list_sources(self, data: Any, what: str) -> Listing:
        """CZI files; a folder is refused, as it usually holds overviews and other experiments."""
        if isinstance(data, str | PathLike) and Path(data).expanduser().is_dir():
            raise DataError(
                f"{what}: {data} is a folder. List its CZI files, or give a pattern "
                f"({Path(data) / '*.czi'}) or a manifest.{other_kind(data, 'czi')}"
            )
        return list_files(data, (".czi",), what)

    def open_source(self, source: Path, axes: str, *, scene: str | None = None) -> list[ImageStack]:
        """See `PatchDataModule.open_source`; ``scene`` chooses one, whatever ``scenes`` says."""
        if axes.upper() == self.settings.axes.replace("C", ""):
            axes = self.settings.axes  # a mask, which has the axes of the images without C
        row = None if scene is None else (check.key(f"{source}: scene", scene, 0),)
        stacks = open_czi(
            source,
            axes,
            scenes=row or self.scenes,
            patch_dims=len(self.settings.patch_size),
            keep_z=True,
            cache_mib=self.cache_mib,
            convert_pixel_types=self.convert_pixel_types,
            channels=self._channels(),
            name_scene=row is not None,
        )
        return [*stacks]

    def _channels(self) -> list[int | str] | None:
        """Return the channels that are read of any image; ``None``: all."""
        inputs, targets = self.settings.channels, self.settings.target_channels
        return None if inputs is None else [*inputs, *(targets or ())]


def open_czi(
    path: Path | str,
    axes: str = "auto",
    *,
    scenes: Sequence[int] | None = None,
    patch_dims: int = 2,
    keep_z: bool = False,
    cache_mib: int = 256,
    convert_pixel_types: bool = False,
    channels: Sequence[int | str] | None = None,
    name_scene: bool = False,
) -> list[ArrayStack]:
    """Open the scenes of a CZI file, in the order of ``scenes``; no pixels are read.

    ``channels`` are those that will be read: their pixel types must agree. ``patch_dims`` (2 or 3)
    is what ``axes="auto"`` goes by; with ``keep_z``, also for 2 Z of several planes is depth, and
    what is named as depth may have length 1. For other arguments see `CziDataModule`. Each scene
    is ``SCYX`` or ``SCZYX``; its ``source`` is the path, or, where several are taken or
    ``name_scene`` is true, ``path/scene_2``.
    """
    name = str(path)
    blocks = read_directory(name)
    with closing(OpenCzi(Key(name, 0))) as file:
        metadata = parse(file.metadata(), name)
    present = np.unique(blocks.index["S"]).tolist() if "S" in blocks.index else None
    chosen = _choose_scenes(present, scenes, name)
    of_scene = {n: blocks.of_scene(n if present is not None else None) for n in chosen}
    depth = _depth(axes, patch_dims, keep_z, [*of_scene.values()], name)
    sizes = pixel_size(metadata)
    stacks = []
    for n, part in of_scene.items():
        of_several = len(chosen) > 1 or (name_scene and len(present or ()) > 1)
        source = f"{name}/scene_{n}" if of_several else name
        layout = _layout(name, None if present is None else n, part, depth, source)
        names = _names(channel_names(metadata, list(layout.channels)), layout)
        alike = channels is not None and _are_alike(channels, names, layout)
        dtype = _dtype(layout, convert_pixel_types or alike, source)
        array = CziArray(layout, part, dtype, cache_mib * 2**20)
        stack = ArrayStack(
            array,
            "SCZYX" if depth else "SCYX",
            source,
            block_shape=array.block_shape,
            scale=_scale(sizes, depth, part),
            channel_names=names,
            channel_colors=channel_colors(metadata, list(layout.channels)),
            is_rgb=len(layout.channels) == 1 and len(layout.components) == 3,
            image_name=scene_name(metadata, layout.scene),
        )
        stack.correlated_noise = _correlated_noise(name, part)
        stacks.append(stack)
    return stacks


def _correlated_noise(path: str, blocks: SubBlocks) -> str:
    """Say whether the first sub-block with JPEG XR has lost something; others will be like it."""
    positions = blocks.position[blocks.compression == JPEG_XR]
    codec = lossy_codec(first_bytes(path, int(positions[0]), ENOUGH)) if len(positions) else ""
    return codec and f"lossy {codec} compression"


def _scale(
    sizes: dict[str, tuple[float, str]], depth: str, blocks: SubBlocks
) -> dict[str, tuple[float, str]]:
    """Return the sizes of the axes of an image; ``T`` is that of samples which are frames."""
    scale = {a: s for a, s in sizes.items() if a in "YX" or a == depth == "Z"}
    folded = [
        a for a in blocks.index if a not in f"SMC{depth}" and len(np.unique(blocks.index[a])) > 1
    ]
    if "T" in sizes and (folded == ["T"] or depth == "T"):
        scale["Z" if depth == "T" else "T"] = sizes["T"]
    return scale


def _check_scenes(scenes: Any) -> tuple[int, ...] | None:
    if scenes is None:
        return None
    one_by_one = isinstance(scenes, Sequence | np.ndarray) and not isinstance(scenes, str | bytes)
    if not one_by_one or not len(scenes):
        raise DataError(f"scenes={scenes!r} is not a list of scenes. Give one, such as [0].")
    numbers = tuple(check.number("a scene in scenes", scene, 0) for scene in scenes)
    if len(set(numbers)) < len(numbers):
        raise DataError(f"scenes={list(numbers)} names a scene twice. Name each once.")
    return numbers


def _choose_scenes(present: Scenes, scenes: Scenes, path: str) -> Sequence[int]:
    """Return the scenes to take; a file without scenes counts as scene 0."""
    there = (0,) if present is None else present
    if scenes is None:
        return there
    if missing := ", ".join(str(n) for n in scenes if n not in there):
        has = f"scenes {', '.join(map(str, there))}" if present else "no scenes (count it as 0)"
        raise DataError(
            f"{path}: scene {missing} does not exist; the file has {has}. Choose others."
        )
    return scenes


def _depth(axes: str, patch_dims: int, keep_z: bool, parts: Sequence[SubBlocks], path: str) -> str:
    """Return the dimension that is depth, or nothing."""
    lengths = {a: [len(np.unique(p.index[a])) if a in p.index else 1 for p in parts] for a in "ZT"}
    there = " and ".join(f"{letter} of length {max(n)}" for letter, n in lengths.items())
    if axes.lower() == "auto":
        found = [letter for letter, n in lengths.items() if max(n) > 1]
        if patch_dims == 2:
            return "Z" if keep_z and "Z" in found else ""
        if not found:
            raise DataError(
                f"{path}: a patch size of 3 numbers, but with {there}, the file has no depth. Give "
                "a patch size of 2 numbers, or take the file off the list."
            )
        depth = found[0]
    elif axes.upper() in DEPTH:
        depth = DEPTH[axes.upper()]
    else:
        raise DataError(
            f'{path}: axes="{axes}" is none of those of CZI: SCYX (planes), SCZYX (Z is depth) or '
            "SCTYX (T is depth). S, C, Y and X are always there, in this order, also where there "
            "is one channel; Z and T are never both depth: what is not depth folds into S."
        )
    if depth and min(lengths[depth]) < 2 and not (keep_z and patch_dims == 2):
        some = max(lengths[depth]) > 1
        others = [a for a, d in DEPTH.items() if not d or min(lengths[d]) > 1]
        raise DataError(
            f"{path}: {depth} cannot be depth: the file has {there}"
            f"{' (but not in each of its scenes)' * some}. Set axes to {' or '.join(others)}"
            f"{', or choose scenes that have it' * some}."
        )
    return depth


def _layout(path: str, scene: int | None, blocks: SubBlocks, depth: str, name: str) -> SceneLayout:
    """Describe a scene: where it lies, and the planes it has."""
    top, left = blocks.start.min(axis=0).tolist()
    bottom, right = blocks.stop.max(axis=0).tolist()
    area, acquired = (
        (bottom - top) * (right - left),
        int((blocks.stop - blocks.start).prod(1).sum()),
    )
    if area > LARGE_AREA and area > acquired * SPARSEST:
        raise DataError(
            f"{name}: its sub-blocks lie so far apart that the image would be {bottom - top} × "
            f"{right - left} pixels, of which {acquired} were acquired. Where they lie is damaged: "
            "copy or save it again, or choose other scenes."
        )
    letters = [a for a in "TZ" if a in blocks.index]
    letters += sorted(set(blocks.index) - set("SMCTZ"))
    dimensions = [(a, indices_of(blocks.index[a])) for a in letters]
    of_blocks = blocks.index.get("C", np.zeros(len(blocks), np.int64))
    channels = indices_of(of_blocks)
    return SceneLayout(
        path,
        scene,
        (top, left),
        (bottom - top, right - left),
        tuple((a, indices) for a, indices in dimensions if a != depth),
        tuple((a, indices) for a, indices in dimensions if a == depth),
        channels,
        tuple(_pixel_type(blocks.where(of_blocks == c), c, name) for c in channels),
    )


def _pixel_type(blocks: SubBlocks, channel: int, source: str) -> int:
    """Return the pixel type of a channel, one that can be read."""
    for what, readable, found in (
        ("compression", COMPRESSIONS, blocks.compression),
        ("pixel type", PIXEL_TYPES, blocks.pixel_type),
    ):
        if bad := [n for n in np.unique(found).tolist() if n not in readable]:
            names = ", ".join(UNREADABLE[what].get(n, f"number {n}") for n in bad)
            raise DataError(
                f"{source}: channel {channel} has {what} {names}, which cannot be read. Convert it "
                "in ZEN (of complex data, take the magnitude)."
            )
    if len(types := np.unique(blocks.pixel_type)) > 1:
        names = ", ".join(PIXEL_TYPES[n].name for n in types.tolist())
        raise DataError(
            f"{source}: channel {channel} mixes the pixel types {names}. Convert it in ZEN."
        )
    return int(types[0])


def _are_alike(
    channels: Sequence[int | str], names: Sequence[str] | None, layout: SceneLayout
) -> bool:
    """Whether some channels have one pixel type, so that those of others do not matter."""
    try:
        chosen = select_channels(channels, len(layout.components), names, "")
    except DataError:  # said where the selection is checked
        return False
    of = [layout.pixel_types[layout.components[i][0]] for i in chosen or ()]
    return len({PIXEL_TYPES[number].dtype for number in of}) == 1


def _dtype(layout: SceneLayout, convert: bool, source: str) -> np.dtype[Any]:
    """Return the dtype of the image: that of all channels."""
    types = [PIXEL_TYPES[number] for number in layout.pixel_types]
    dtype = np.result_type(*(one.dtype for one in types))
    if not convert and len({one.dtype for one in types}) > 1:
        each = ", ".join(f"{c}: {t.name}" for c, t in zip(layout.channels, types, strict=True))
        raise DataError(
            f"{source}: its channels have different pixel types ({each}). Set "
            f"convert_pixel_types=true to read all as {dtype}, or select channels of one type."
        )
    return dtype


def _names(names: Sequence[str], layout: SceneLayout) -> list[str] | None:
    """Return a name per channel of the image, where the file names its channels."""
    components = layout.components
    if len(layout.channels) == 1 and len(components) == 3:
        return ["R", "G", "B"]
    if not names:
        return None
    colours = [PIXEL_TYPES[number].n_samples == 3 for number in layout.pixel_types]
    return [f"{names[c]} {'BGR'[one]}" if colours[c] else names[c] for c, one in components]
