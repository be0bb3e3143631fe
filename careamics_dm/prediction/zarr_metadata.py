"""OME-Zarr metadata (NGFF 0.4 and 0.5) of results, checked with yaozarrs' models."""

import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from careamics_dm.images.axes import Layout
from careamics_dm.images.image_stack import Groups, ImageStack
from careamics_dm.images.units import convert
from careamics_dm.prediction.result_file import ResultImage

Scale = Mapping[str, tuple[float, str]]
"""Pixel size and time step by axis, with their units."""
KINDS = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}
UNITS = {
    **{"Å": "angstrom", "nm": "nanometer", "µm": "micrometer", "mm": "millimeter"},
    **{"cm": "centimeter", "m": "meter", "µs": "microsecond", "ms": "millisecond"},
    **{"s": "second", "min": "minute", "h": "hour"},
}
"""Units as OME-Zarr calls them."""
COLORS = ("00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")
"""Of channels of which nothing is said; one channel is grey."""


INTEGERS = ("int8", "int16", "int32", "uint8", "uint16", "uint32")
"""Of OME-XML."""
RGB = ("FF0000", "00FF00", "0000FF", "FFFFFF")


def attributes(model: str, content: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Return a group's attributes, checked with the model of a version ("0.4" or "0.5")."""
    import yaozarrs.v04
    import yaozarrs.v05

    models = yaozarrs.v05 if version == "0.5" else yaozarrs.v04
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of units that it does not list
        checked = getattr(models, model).model_validate(content)
    plain: dict[str, Any] = checked.model_dump(mode="json", exclude_none=True)
    return {"ome": plain} if version == "0.5" else plain


def ome_part(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `attributes` were made of."""
    return dict(given.get("ome", given))


def source_groups(stack: ImageStack) -> Groups:
    """Return the OME metadata of the groups around an image, and of its own; empty if none."""
    ask: Any = getattr(stack, "ome_groups", None)
    found: Groups = ask() if ask else {}
    return found


def image_metadata(
    image: ResultImage,
    axes: str,
    levels: Sequence[Sequence[int]],
    ranges: Sequence[tuple[float, float]],
    display_of_source: bool,
) -> dict[str, Any]:
    """Describe an image of levels that are smaller by factors.

    ``ranges`` are the darkest and the brightest value of each channel; colours and display ranges
    of the source come before, if they suit the result.
    """
    groups = [g for g in source_groups(image.stack).values() if "multiscales" in g]
    own = groups[-1] if groups else {}
    name = image.metadata.get("image_name") or _name(own) or image.path.stem
    entry = {"name": name, "datasets": _datasets(image, axes, levels), "type": "mean"}
    channels = _channels(image, ranges, own.get("omero") if display_of_source else None)
    return {
        "multiscales": [entry | {"axes": _axes(axes, scale_of(image))}],
        "omero": {"channels": channels},
    }


def _name(metadata: Mapping[str, Any]) -> str:
    entries = metadata.get("multiscales")
    entry = entries[0] if isinstance(entries, list) and entries else None
    return str(entry.get("name") or "") if isinstance(entry, dict) else ""


def _axes(axes: str, scale: Scale) -> list[dict[str, Any]]:
    units = {axis: UNITS.get(unit, unit) for axis, (_, unit) in scale.items()}
    return [
        {"name": axis.lower(), "type": KINDS[axis]}
        | ({"unit": units[axis]} if units.get(axis) else {})
        for axis in axes
    ]


def _datasets(
    image: ResultImage, axes: str, levels: Sequence[Sequence[int]]
) -> list[dict[str, Any]]:
    scale, places = scale_of(image), image.metadata["origin"]
    size = np.array([scale.get(axis, (1.0, ""))[0] for axis in axes])
    origin = np.array([places.get(axis, 0.0) if axis in scale else 0.0 for axis in axes])
    datasets = []
    for number, factors in enumerate(np.array(levels)):
        steps: list[dict[str, Any]] = [{"type": "scale", "scale": (size * factors).tolist()}]
        if number or origin.any():  # the first pixel is the mean of the first ones of the image
            shift = origin + size * (factors - 1) / 2
            steps.append({"type": "translation", "translation": shift.tolist()})
        datasets.append({"path": str(number), "coordinateTransformations": steps})
    return datasets


def scale_of(image: ResultImage) -> Scale:
    """Return the pixel size of a result, and the time step where samples are frames.

    A CZI calls its frames S.
    """
    frames = len(Layout(image.layout.axes, image.layout.shape).sample_axes) == 1
    return {a: entry for a, entry in image.metadata["scale"].items() if a != "T" or frames}


def pixel_lengths(axes: str, scale: Scale) -> list[float]:
    """Return the lengths of a pixel along axes in one unit; ones if they are not all given."""
    unit = scale.get("X", (1.0, ""))[1]
    found = [convert(*scale.get(axis, (0.0, "")), unit) if axis in "ZYX" else 1.0 for axis in axes]
    return [length or 1.0 for length in found] if all(found) else [1.0] * len(axes)


def _channels(
    image: ResultImage, ranges: Sequence[tuple[float, float]], given: Any
) -> list[dict[str, Any]]:
    """Describe channels: by the ``omero`` metadata of the source where those suit."""
    from pydantic import ValidationError
    from yaozarrs.v05 import OmeroChannel

    n, n_source = len(ranges), image.stack.data_shape[1]
    theirs = given.get("channels") if isinstance(given, Mapping) else None
    chosen = range(n_source) if image.channels is None else image.channels
    good = isinstance(theirs, list) and len(theirs) == n_source and len(chosen) == n
    theirs = [theirs[c] for c in chosen] if theirs and good else [{}] * n
    names = image.metadata.get("channel_names") or ()
    colors = image.metadata.get("channel_colors") or ()
    found = []
    for i, (low, high) in enumerate(ranges):
        limits = {"start": low, "end": high, "min": low, "max": high}
        color = "FFFFFF" if n == 1 else COLORS[i % len(COLORS)]
        if image.metadata.get("is_rgb"):
            color = RGB[min(i, len(RGB) - 1)]
        color = colors[i] if colors else color
        ours = {"color": color, "window": limits, "active": True}
        ours |= {"label": names[i]} if len(names) == n else {}
        try:
            channel = OmeroChannel.model_validate(ours | dict(theirs[i]))
        except (ValidationError, TypeError, ValueError):
            channel = OmeroChannel.model_validate(ours)
        found.append(channel.model_dump(mode="json", exclude_none=True))
    return found


def collection_xml(images: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Return the OME-XML that programs read of a collection; see `describe_array`."""
    root = ET.Element("OME", xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06")
    for path, pixels in images.items():
        image = ET.SubElement(root, "Image", ID=f"Image:{path}", Name=path)
        order = {"ID": f"Pixels:{path}", "DimensionOrder": "XYZCT"}
        inside = ET.SubElement(image, "Pixels", order | {k: str(v) for k, v in pixels.items()})
        for channel in range(pixels["SizeC"]):
            ET.SubElement(inside, "Channel", ID=f"Channel:{path}:{channel}", SamplesPerPixel="1")
        ET.SubElement(inside, "MetadataOnly")
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def describe_array(group: Mapping[str, Any], array: Any) -> dict[str, Any]:
    """Describe the array of an image, with OME metadata ``group``, by attributes of OME-XML."""
    names = [axis["name"].upper() for axis in group["multiscales"][0]["axes"]]
    sizes = dict(zip(names, array.shape, strict=True))
    kinds = {"float16": "float", "float32": "float", "bool": "bit"}
    name = str(array.dtype)
    kind = name if name in INTEGERS else kinds.get(name, "double")
    return {f"Size{axis}": sizes.get(axis, 1) for axis in "XYZCT"} | {"Type": kind}


def plate_metadata(plate: Mapping[str, Any], wells: Iterable[str]) -> dict[str, Any]:
    """Return the metadata of a plate with some of its wells only."""
    rows, columns = ([item["name"] for item in plate[key]] for key in ("rows", "columns"))
    chosen = [
        {"path": path, "rowIndex": rows.index(row), "columnIndex": columns.index(column)}
        for path in sorted(wells, key=lambda path: _order(path, rows, columns))
        for row, column in [path.split("/")]
    ]
    keys = ("name", "acquisitions", "rows", "columns")
    return {"plate": {key: plate[key] for key in keys if key in plate} | {"wells": chosen}}


def _order(path: str, rows: list[str], columns: list[str]) -> tuple[int, int]:
    row, column = path.split("/")
    return rows.index(row), columns.index(column)
