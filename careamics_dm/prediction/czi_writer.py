"""Predictions as CZI files."""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from pylibCZIrw.czi import (
    ChannelDisplaySettingsDataClass,
    Rgb8Color,
    TintingMode,
    create_czi,
    edit_czi,
)

from careamics_dm.errors import DataError
from careamics_dm.images.axes import Layout
from careamics_dm.images.colors import red_green_blue
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.images.units import convert
from careamics_dm.prediction.mapped_file import MappedFile
from careamics_dm.prediction.result_file import ResultFile, ResultImage
from careamics_dm.prediction.result_writer import ResultWriter

DTYPES = (np.uint8, np.uint16, np.float32)


class CziWriter(ResultWriter):
    """Write predictions as CZI files with the names of the inputs, one for each image or scene.

    They have the dimensions T (of all samples), Z and C, pixel size, frame interval, names and
    colours of channels; integer results of RGB images are RGB. Until an image is complete, its
    pixels are in a file beside the result, which takes as much space again.

    Parameters
    ----------
    folder, dtype, existing, output
        See `ResultWriter`.

    Raises
    ------
    DataError
        As `ResultWriter`; or if the dtype is none that CZI can hold (uint8, uint16, float32).
    """

    def suffixes(self, stack: ImageStack) -> Sequence[str]:
        """Return that of CZI."""
        del stack
        return (".czi",)

    def check(self, image: ResultImage) -> Iterable[str]:
        """Refuse other dtypes, and return what of the metadata CZI lacks."""
        if image.dtype not in DTYPES:
            raise DataError(
                f"writer: CZI can't hold the {image.dtype} of {image.stack.source}, only uint8, "
                "uint16 and float32. Set writer.dtype=float32, or write TIFF (writer=tiff)."
            )
        lost = [
            axis for axis in "YXZT" if axis in image.metadata["scale"] and not _size(image, axis)
        ]
        several = len(Layout(image.layout.axes, image.layout.shape).sample_axes) > 1
        return ["axes of samples (all are T)"] * several + image.stated("".join([*lost, "LP"]))

    def open(self, image: ResultImage, *, begin: bool) -> ResultFile:
        """Open a file, of which the CZI is made, as that can't be written box by box."""
        return MappedFile(image, convert=partial(write_czi, image), begin=begin)


def write_czi(image: ResultImage, pixels: NDArray[Any], path: Path) -> None:
    """Write all pixels, plane by plane, and the metadata."""
    layout = Layout(image.layout.axes, image.layout.shape)
    n_samples, n_channels, *size = layout.data_shape
    found = image.metadata
    is_rgb = found.get("is_rgb") and n_channels == 3 and image.dtype != np.float32
    with create_czi(str(path)) as file:
        for sample, z in product(range(n_samples), range(layout.size("Z"))):
            start = [z, 0, 0][-len(size) :]
            stop = [z + 1, *size[-2:]][-len(size) :]
            box = layout.box(sample, slice(0, n_channels), start, stop)
            plane = layout.to_canonical(pixels[box]).reshape(n_channels, *size[-2:])
            at = {"T": sample, "Z": z}
            if is_rgb:  # stored as B, G, R
                file.write(np.moveaxis(plane[::-1], 0, -1), plane=at)
            else:
                for c, one in enumerate(plane):
                    file.write(one[..., None], plane=at | {"C": c})
        names = dict(enumerate(found.get("channel_names") or ()))
        colors = found.get("channel_colors") or ()
        file.write_metadata(
            path.stem,
            names,
            *((_size(image, a) or 0) for a in "XYZ"),
            display_settings={c: _display(color) for c, color in enumerate(colors)} or None,
        )
    _add_metadata(path, _size(image, "T"), found.get("image_name", ""))


def _display(color: str) -> ChannelDisplaySettingsDataClass:
    """Return how to display a channel: all of its range, in a colour."""
    tint = Rgb8Color(*map(np.uint8, red_green_blue(color)))
    return ChannelDisplaySettingsDataClass(True, TintingMode.Color, tint, 0.0, 1.0)


def _size(image: ResultImage, axis: str) -> float | None:
    """Return a pixel size in metres, or the frame interval in seconds."""
    scale = image.metadata["scale"]
    return convert(*scale[axis], "s" if axis == "T" else "m") if axis in scale else None


def _add_metadata(path: Path, interval: float | None, scene: str) -> None:
    """Add what pylibCZIrw does not write by itself."""
    if not interval and not scene:
        return
    with edit_czi(str(path)) as file, file.edit_session() as session:
        root = ElementTree.fromstring(session.get_xml())
        dimensions = root.find("./Metadata/Information/Image/Dimensions")
        assert dimensions is not None  # just written
        if interval:
            time = _nested(dimensions, "T", "Positions", "Interval")
            ElementTree.SubElement(time, "Start").text = "0"
            ElementTree.SubElement(time, "Increment").text = str(interval)
        if scene:
            ElementTree.SubElement(
                _nested(dimensions, "S", "Scenes"), "Scene", {"Index": "0", "Name": scene}
            )
        session.set_xml(ElementTree.tostring(root, encoding="unicode"))


def _nested(parent: ElementTree.Element, *tags: str) -> ElementTree.Element:
    for tag in tags:
        parent = ElementTree.SubElement(parent, tag)
    return parent
