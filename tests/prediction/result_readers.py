"""What other libraries find in results."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import tifffile
import zarr
from pylibCZIrw.czi import open_czi
from result_cases import canonical, plain


def read_tiff(path):
    """What tifffile, and an XML parser, find: pixels, scale, names, labels, scene, colours."""
    with tifffile.TiffFile(path) as file:
        series, page = file.series[0], file.pages.first
        array, axes = series.asarray(), series.axes
        tags = {a: page.tags.get(tag) for a, tag in (("X", 282), ("Y", 283))}
        per_unit = {a: tag.value for a, tag in tags.items() if tag and tag.value != (1, 1)}
        scale = {a: (d / n, "µm") for a, (n, d) in per_unit.items()}
        names, labels, scene, colors = None, [], "", None
        if file.is_ome:
            xml = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]
            said, scene = xml["Pixels"], xml["Name"]
            tagged = {a: (1e4 * n, unit) for a, (n, unit) in scale.items()}
            scale = {
                a: (said[f"PhysicalSize{a}"], said[f"PhysicalSize{a}Unit"])
                for a in "XYZ"
                if f"PhysicalSize{a}" in said
            }
            # Programs that read no OME see the same.
            assert plain(scale, "YX") == {a: n for a, (n, _) in tagged.items()}
            if "TimeIncrement" in said:
                scale["T"] = (said["TimeIncrement"], said["TimeIncrementUnit"])
            channels = said["Channel"] if isinstance(said["Channel"], list) else [said["Channel"]]
            names = [channel["Name"] for channel in channels if "Name" in channel] or None
            numbers = [channel["Color"] for channel in channels if "Color" in channel]
            colors = [f"{number % 2**32:08X}".removesuffix("FF") for number in numbers] or None
        elif file.is_imagej:
            said = file.imagej_metadata
            scale = {a: (n, said["unit"]) for a, (n, _) in scale.items()}
            scale |= {"Z": (said["spacing"], said["unit"])} if "spacing" in said else {}
            scale |= {"T": (said["finterval"], "s")} if "finterval" in said else {}
            labels = said.get("Labels", [])
            labels = [labels] if isinstance(labels, str) else labels
            tables = said.get("LUTs", ())
            assert not tables or said["mode"] == "composite"  # else ImageJ does not show them
            colors = [bytes(table[:, 255]).hex().upper() for table in tables] or None
        else:
            scale = {a: (1e4 * n, unit) for a, (n, unit) in scale.items()}
        kind = "ome" if file.is_ome else "imagej" if file.is_imagej else "plain"
        return (
            kind,
            page.photometric.name,
            canonical(array, axes),
            scale,
            names,
            labels,
            scene,
            colors,
        )


def read_czi(path):
    """What pylibCZIrw finds: pixels, sizes, names of channels and of the scene, colours."""
    with open_czi(str(path)) as file:
        said = file.metadata["ImageDocument"]["Metadata"]
        sizes = {axis: stop for axis, (_, stop) in file.total_bounding_box.items()}
        planes = [
            [
                [file.read(plane={"T": t, "Z": z, "C": c}) for c in range(sizes["C"])]
                for z in range(sizes["Z"])
            ]
            for t in range(sizes["T"])
        ]
    array = np.array(planes)  # T Z C Y X, components
    array = (
        array[:, :, 0, ..., ::-1].transpose(0, 1, 4, 2, 3) if array.shape[5] == 3 else array[..., 0]
    )
    display = (said.get("DisplaySetting") or {}).get("Channels", {}).get("Channel", [])
    display = display if isinstance(display, list) else [display]
    colors = [one["Color"].removeprefix("#FF") for one in display if "Color" in one] or None
    distances = said["Scaling"]["Items"]["Distance"]
    scale = {one["@Id"]: float(one["Value"]) * 1e6 for one in distances if float(one["Value"])}
    dimensions = said["Information"]["Image"]["Dimensions"]
    if "T" in dimensions:
        scale["T"] = float(dimensions["T"]["Positions"]["Interval"]["Increment"])
    channels = dimensions["Channels"]["Channel"]
    channels = channels if isinstance(channels, list) else [channels]
    names = [channel["@Name"] for channel in channels if "@Name" in channel] or None
    scene = dimensions["S"]["Scenes"]["Scene"]["@Name"] if "S" in dimensions else ""
    return array, scale, names, scene, colors


class Stored(NamedTuple):
    """What is in an OME-Zarr."""

    array: Any
    scale: Any
    names: list[str] | None
    colors: list[str] | None
    name: str
    windows: list[tuple[float, float]]


UNITS = {"angstrom": "Å", "nanometer": "nm", "micrometer": "µm", "second": "s", "millisecond": "ms"}


def read_zarr(path):
    """What zarr finds, and ome-zarr and ngff-zarr agree with."""
    import ngff_zarr
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    attributes = zarr.open_group(path, mode="r").attrs.asdict()
    said = attributes.get("ome", attributes)
    (entry,) = said["multiscales"]
    axes = "".join(axis["name"] for axis in entry["axes"])
    (step,) = entry["datasets"][0]["coordinateTransformations"]
    array = zarr.open_array(path / "0", mode="r")[...]
    channels = said["omero"]["channels"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (theirs,) = Reader(parse_url(str(path), fmt=_format(said)))()
        ngff = ngff_zarr.from_ngff_zarr(str(path)).images[0]
    assert np.array_equal(theirs.data[0].compute(), array)
    assert [axis["name"] for axis in theirs.metadata["axes"]] == [*axes]
    assert theirs.metadata["coordinateTransformations"][0][0] == step
    labels = [channel.get("label") for channel in channels]
    shown = [label or f"channel_{c}" for c, label in enumerate(labels)]
    assert theirs.metadata["channel_names"] == shown
    assert ngff.dims == (*axes,) and np.array_equal(ngff.data.compute(), array)
    assert [ngff.scale[axis] for axis in axes] == step["scale"]
    units = {axis: UNITS[unit] for axis, unit in ngff.axes_units.items() if unit}
    scale = {axis.upper(): (ngff.scale[axis], unit) for axis, unit in units.items()}
    windows = [(c["window"]["start"], c["window"]["end"]) for c in channels]
    colors = [channel["color"] for channel in channels]
    names = labels if all(labels) else None
    return Stored(canonical(array, axes.upper()), scale, names, colors, entry["name"], windows)


def _format(said):
    from ome_zarr.format import FormatV04, FormatV05

    return FormatV05() if said.get("version") == "0.5" else FormatV04()
