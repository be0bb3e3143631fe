"""What files say of images is said of results, too: every input by every writer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tifffile
from modules import Identity, trainer
from pylibCZIrw.czi import (
    ChannelDisplaySettingsDataClass,
    Rgb8Color,
    TintingMode,
    create_czi,
    edit_czi,
    open_czi,
)

from careamics_dm import (
    CustomDataModule,
    CziDataModule,
    CziWriter,
    FunctionWriter,
    NpyWriter,
    TiffDataModule,
    TiffWriter,
)
from careamics_dm.images.array_stack import ArrayStack

pytestmark = [pytest.mark.usefixtures("files_close"), pytest.mark.filterwarnings("ignore:writer:")]

SIZES = {"S": 3, "T": 3, "Z": 4, "C": 2, "Y": 12, "X": 10}
NAMES = ["DAPI é", "GFP <x>"]
LUTS = [np.full((3, 256), i, np.uint8) for i in (1, 2)]
RANGES = (1.0, 200.0, 2.0, 100.0)


def pixels(axes, dtype="uint16", **sizes):
    shape = [(SIZES | sizes)[axis] for axis in axes]
    return np.random.default_rng(0).integers(0, 255, shape).astype(dtype)


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


COLORS = ["FF8000", "0080FF"]
XY = {"X": (0.1, "µm"), "Y": (0.2, "µm")}
XYZ = XY | {"Z": (0.5, "µm")}
T = {"T": (2.5, "s")}
CASES = [
    Case("plain", "YX", XY),
    Case("plain", "YXC", XY, rgb=True, dtype="uint8"),
    Case("imagej", "YX", XY, labels=["one"]),
    Case("imagej", "CYX", XY, labels=["DAPI", "GFP"]),
    Case("imagej", "TYX", XY | T),
    Case("imagej", "ZYX", XYZ),
    Case("imagej", "TZCYX", XYZ | T, labels=[f"plane {n}" for n in range(24)]),
    Case("imagej", "TYXC", XY | T, rgb=True, dtype="uint8"),
    Case("ome", "CYX", XY, NAMES, colors=COLORS),
    Case("ome", "TCYX", XY | T, NAMES),
    Case("ome", "CZYX", XYZ, NAMES),
    Case("ome", "TYX", XY | {"T": (250.0, "ms")}, dtype="int16"),
    Case("ome", "TZYX", XY | {"Z": (500.0, "nm")} | T, dtype="float64"),
    Case("ome", "TYXC", XY | T, rgb=True),
    Case("czi", "TCYX", XY | T, NAMES, scene="left & right"),
    Case("czi", "TCZYX", XYZ, NAMES, colors=COLORS),
    Case("custom", "CYX", XY, colors=COLORS),
    Case("czi", "TYXC", XY | T, rgb=True),
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


def open_input(folder, case):
    folder.mkdir()
    size = (4, 8, 8) if case.has_depth else (8, 8)
    shared = {"normalization": "none", "patch_size": size, "tile_size": size}
    if case.kind == "czi":
        write_czi(folder, case)
        return CziDataModule(predict_data=folder / "in.czi", **shared)
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


def read_tiff(path):
    """What tifffile, and an XML parser, find: pixels, scale, names, labels, scene, colours."""
    with tifffile.TiffFile(path) as file:
        series, page = file.series[0], file.pages.first
        array, axes = series.asarray(), series.axes
        per_unit = {a: page.tags[tag].value for a, tag in (("X", 282), ("Y", 283))}
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


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tiff(tmp_path, case):
    writers = [TiffWriter(tmp_path / dtype, dtype=dtype) for dtype in ("float32", "source")]
    paths = predict(open_input(tmp_path / "in", case), tmp_path, *writers)
    for path, dtype in zip(paths, ("float32", case.dtype), strict=True):
        kind, colours, array, scale, names, labels, scene, colors = read_tiff(path)
        assert np.array_equal(array, canonical(case.array, case.axes))
        assert array.dtype == dtype
        assert plain(case.scale) == {a: n * MICRONS[unit] for a, (n, unit) in scale.items()}
        assert (names, labels) == (case.names, case.labels)
        assert case.kind == "imagej" or colors == case.colors
        assert not case.scene or scene == case.scene
        assert colours == ("RGB" if case.rgb and dtype != "float32" else "MINISBLACK")
        assert case.kind != "imagej" or kind == "imagej"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_czi_npy_and_functions(tmp_path, case):
    def write(path, array, **info):
        called.append(info)
        np.save(path, array)

    called = []
    data = open_input(tmp_path / "in", case)
    as_source = "source" if case.dtype.startswith("uint") else "float32"
    writers = [
        CziWriter(tmp_path / "czi", dtype=as_source),
        NpyWriter(tmp_path / "npy", dtype="source"),
        FunctionWriter(tmp_path / "function", write_func=write, extension=".npy"),
    ]
    czi, npy, by_function = predict(data, tmp_path, *writers)
    stack = data.predict_stacks[0]
    for path, dtype in ((npy, case.dtype), (by_function, "float32")):
        array = np.load(path)
        assert array.shape == tuple(stack.original_data_shape) and array.dtype == dtype
        axes = stack.original_axes
        axes = axes.replace("YXC", "YXS") if case.rgb else axes
        assert np.array_equal(canonical(array, axes), canonical(case.array, case.axes))
    (info,) = called
    assert (info["axes"], info["source"]) == (stack.original_axes, stack.source)
    assert {a: n * MICRONS[unit] for a, (n, unit) in info["scale"].items()} == plain(case.scale)
    assert (info["channel_names"], info["labels"]) == (case.names, case.labels)
    assert (info["is_rgb"], info["image_name"]) == (case.rgb, case.scene)
    assert case.kind == "imagej" or (info["channel_colors"] or None) == case.colors
    array, scale, names, scene, colors = read_czi(czi)
    assert case.kind == "imagej" or colors == case.colors
    assert np.array_equal(array, canonical(case.array, case.axes))
    assert array.dtype == (case.dtype if as_source == "source" else "float32")
    assert scale == plain(case.scale)
    assert (names, scene) == (case.names, case.scene)


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
