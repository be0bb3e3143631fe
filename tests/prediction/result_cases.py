"""Inputs of every format and shape, by other libraries, and what they say of themselves."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from modules import Identity, trainer
from pylibCZIrw.czi import (
    ChannelDisplaySettingsDataClass,
    Rgb8Color,
    TintingMode,
    create_czi,
    edit_czi,
)

from careamics_dm import (
    ArrayDataModule,
    CustomDataModule,
    CziDataModule,
    TiffDataModule,
    ZarrDataModule,
)
from careamics_dm.images.array_stack import ArrayStack

SIZES = {"S": 3, "T": 3, "Z": 4, "C": 2, "Y": 12, "X": 10}
NAMES = ["DAPI é", "GFP <x>"]
RANGES = (1.0, 200.0, 2.0, 100.0)


def pixels(axes, dtype="uint16", **sizes):
    shape = [(SIZES | sizes)[axis] for axis in axes]
    return np.random.default_rng(0).integers(0, 255, shape).astype(dtype)


COLORS = ["FF8000", "0080FF"]
LUTS = [
    np.outer(list(bytes.fromhex(color)), np.linspace(0, 1, 256)).round().astype(np.uint8)
    for color in COLORS
]
MICRONS = {"Å": 1e-4, "nm": 1e-3, "µm": 1.0, "um": 1.0, "mm": 1e3, "s": 1.0, "ms": 1e-3}


@dataclass
class Case:
    """An input: its format, axes, and what it says of itself."""

    kind: str
    axes: str
    scale: dict[str, tuple[float, str]] = field(default_factory=dict)
    names: list[str] | None = None
    labels: list[str] = field(default_factory=list)
    rgb: bool = False
    dtype: str = "uint16"
    scene: str = ""
    colors: list[str] | None = None

    def __str__(self):
        return f"{self.kind}-{self.axes}-{'rgb-' * self.rgb}{self.dtype}"

    @property
    def array(self):
        return pixels(self.axes, self.dtype, **({"C": 3} if self.rgb else {}))

    @property
    def has_depth(self):
        return "Z" in self.axes


XY = {"X": (0.1, "µm"), "Y": (0.2, "µm")}
XYZ = XY | {"Z": (0.5, "µm")}
T = {"T": (2.5, "s")}
CASES = [
    Case("array", "YX"),
    Case("array", "TZCYX", dtype="float32"),
    Case("plain", "YX", XY),
    Case("plain", "TCYX", XY),
    Case("plain", "ZYX", XY),
    Case("plain", "YXC", XY, rgb=True, dtype="uint8"),
    Case("imagej", "YX", XY, labels=["one"]),
    Case("imagej", "CYX", XY, labels=["DAPI", "GFP"], colors=COLORS),
    Case("imagej", "TYX", XY | T),
    Case("imagej", "ZYX", XYZ),
    Case("imagej", "TZCYX", XYZ | T, labels=[f"plane {n}" for n in range(24)], colors=COLORS),
    Case("imagej", "TYXC", XY | T, rgb=True, dtype="uint8"),
    Case("ome", "CYX", XY, NAMES, colors=COLORS),
    Case("ome", "TCYX", XY | T, NAMES),
    Case("ome", "CZYX", XYZ, NAMES),
    Case("ome", "TYX", XY | {"T": (250.0, "ms")}, dtype="int16"),
    Case("ome", "TZYX", XY | {"Z": (500.0, "nm")} | T, dtype="float64"),
    Case("ome", "TYXC", XY | T, rgb=True),
    Case("czi", "YX", XY),
    Case("czi", "TCYX", XY | T, NAMES, scene="left & right"),
    Case("czi", "TCZYX", XYZ | T, NAMES, colors=COLORS),
    Case("czi", "TYXC", XY | T, rgb=True),
    Case("ome-zarr", "YX", XY),
    Case("ome-zarr", "CYX", XY, NAMES, colors=COLORS),
    Case("ome-zarr", "TYX", XY | T, dtype="int16"),
    Case("ome-zarr", "CZYX", XYZ, NAMES, colors=COLORS),
    Case("ome-zarr", "TCZYX", XYZ | T, NAMES, colors=COLORS, dtype="float32"),
    Case("plate", "CYX", XY, NAMES, colors=COLORS, scene="B2_field0"),
    Case("custom", "CYX", XY, colors=COLORS),
    Case("custom", "SCYX", XY, NAMES),
    Case("custom", "TZYX", {"X": (2.0, "Å"), "Y": (2.0, "Å"), "Z": (1.0, "nm"), "T": (5.0, "ms")}),
    Case("custom", "TCZYX", XYZ | T, NAMES, scene="B2_field0", dtype="int32"),
]


def write_input(folder, case):
    """The input as a file, by another library."""
    array, scale = case.array, case.scale
    axes = case.axes.replace("C", "S") if case.rgb else case.axes
    options = {"photometric": "rgb" if case.rgb else "minisblack"}
    per_unit = tuple(1 / scale[axis][0] for axis in "XY")
    metadata: dict[str, Any] = {"axes": axes}
    if case.kind == "imagej":
        metadata |= {"unit": "um", "mode": "composite"} if not case.rgb else {"unit": "um"}
        metadata |= {"spacing": scale["Z"][0]} if "Z" in scale else {}
        metadata |= {"finterval": scale["T"][0]} if "T" in scale else {}
        metadata |= {"Labels": case.labels} if case.labels else {}
        if "C" in axes:
            metadata |= {"LUTs": LUTS, "Ranges": RANGES}
        options |= {"imagej": True, "resolution": per_unit}
    elif case.kind == "ome":
        for axis, (size, unit) in scale.items():
            key = "TimeIncrement" if axis == "T" else f"PhysicalSize{axis}"
            metadata |= {key: size, f"{key}Unit": unit}
        metadata |= {"Channel": {"Name": case.names}} if case.names else {}
        if case.colors:  # opaque; a signed number
            numbers = [int(f"{color}FF", 16) for color in case.colors]
            metadata["Channel"]["Color"] = [n - 2**32 * (n >= 2**31) for n in numbers]
        options |= {"ome": True}
    else:
        per_cm = tuple(1e4 * n for n in per_unit)
        options |= {"resolution": per_cm, "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(folder / "in.tif", array, metadata=metadata, **options)


def write_czi(folder, case):
    array = canonical(case.array, case.axes)
    with create_czi(str(folder / "in.czi")) as file:
        for t, z in np.ndindex(array.shape[:2]):
            if case.rgb:
                colours = np.moveaxis(array[t, z, ::-1], 0, -1)
                file.write(np.ascontiguousarray(colours), plane={"T": t, "Z": z})
                continue
            for c, plane in enumerate(array[t, z]):
                file.write(plane[..., None], plane={"T": t, "Z": z, "C": c})
        meters = [case.scale.get(axis, (0, ""))[0] * 1e-6 for axis in "XYZ"]
        tints = [Rgb8Color(*map(np.uint8, bytes.fromhex(color))) for color in case.colors or ()]
        shows = {
            c: ChannelDisplaySettingsDataClass(True, TintingMode.Color, tint, 0, 1)
            for c, tint in enumerate(tints)
        }
        names = dict(enumerate(case.names or ()))
        file.write_metadata("in", names, *meters, display_settings=shows or None)
    scenes = f"<S><Scenes><Scene Index='0' Name='{case.scene.replace('&', '&amp;')}'/></Scenes></S>"
    interval = "<Interval><Start>0</Start><Increment>2.5</Increment></Interval>"
    more = scenes * bool(case.scene)
    more += f"<T><Positions>{interval}</Positions></T>" * ("T" in case.scale)
    with edit_czi(str(folder / "in.czi")) as file, file.edit_session() as session:
        session.set_xml(session.get_xml().replace("</Dimensions>", f"{more}</Dimensions>"))


def write_zarr(folder, case):
    """An image in OME-Zarr 0.5, or in a plate in 0.4."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that only the tests use
        _write_zarr(folder, case)


def _write_zarr(folder, case):
    from ome_zarr.format import FormatV04, FormatV05
    from ome_zarr.writer import write_image, write_plate_metadata, write_well_metadata

    place, fmt = folder / "in.zarr", FormatV05()
    if case.kind == "plate":
        fmt = FormatV04()
        root = zarr.open_group(place, mode="w", zarr_format=2)
        write_plate_metadata(root, ["A", "B"], ["1", "2"], ["B/2"], fmt=fmt)
        write_well_metadata(root.require_group("B/2"), ["0"], fmt=fmt)
        place = place / "B" / "2" / "0"
    sizes = {axis.lower(): size for axis, (size, _) in case.scale.items()}
    units = {axis.lower(): "second" if axis == "T" else "micrometer" for axis in case.scale}
    how = {"axes": case.axes.lower(), "scale": sizes, "axes_units": units}
    write_image(case.array, str(place), scale_factors=[2], fmt=fmt, **how)
    group = zarr.open_group(place)
    found = group.attrs.asdict()
    content = found.get("ome", found)
    window = {"start": 1, "end": 200, "min": 0, "max": 255}
    pairs = zip(case.names or (), case.colors or (), strict=True)
    channels = [{"label": n, "color": c, "window": window, "active": True} for n, c in pairs]
    content |= {"omero": {"channels": channels}} if channels else {}
    content["multiscales"][0]["name"] = "cells"
    group.attrs.put(found)


def open_input(folder, case):
    folder.mkdir()
    size = (4, 8, 8) if case.has_depth else (8, 8)
    shared = {"normalization": "none", "patch_size": size, "tile_size": size}
    if case.kind == "czi":
        write_czi(folder, case)
        return CziDataModule(predict_data=folder / "in.czi", **shared)
    if case.kind in ("ome-zarr", "plate"):
        write_zarr(folder, case)
        return ZarrDataModule(predict_data=folder / "in.zarr", **shared)
    if case.kind == "array":
        np.save(folder / "in.npy", case.array)
        return ArrayDataModule(predict_data=folder / "in.npy", axes=case.axes, **shared)
    if case.kind == "custom":
        says = {"scale": case.scale, "channel_names": case.names, "image_name": case.scene}
        says |= {"channel_colors": case.colors}
        stack = ArrayStack(case.array, case.axes, "in", **says)
        return CustomDataModule(
            predict_data="in", image_stack_loader=lambda *_: [stack], axes=case.axes, **shared
        )
    write_input(folder, case)
    return TiffDataModule(predict_data=folder / "in.tif", **shared)


def predict(data, folder, *writers, model=None):
    run = trainer(folder, callbacks=[*writers])
    run.predict(model or Identity(), datamodule=data, return_predictions=False)
    return [path for writer in writers for path in writer.paths]


def canonical(array, axes):
    """T Z C Y X."""
    axes = axes.replace("S", "C" if "YXS" in axes else "T")
    for axis in "TZC":
        if axis not in axes:
            array, axes = array[None], axis + axes
    return array.transpose([axes.index(axis) for axis in "TZCYX"])


def plain(scale, axes="TZYX"):
    """Sizes in micrometers and seconds."""
    return {a: pytest.approx(n * MICRONS[unit]) for a, (n, unit) in scale.items() if a in axes}
