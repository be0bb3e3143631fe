"""What a result is described as in a TIFF, and what is lost by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from careamics_dm.errors import DataError
from careamics_dm.formats.tiff.datamodule import open_tiff
from careamics_dm.formats.tiff.sets import dimensions
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.axes import Layout
from careamics_dm.images.units import LENGTHS, TIMES
from careamics_dm.prediction import mapped_file
from careamics_dm.prediction.mapped_file import MappedFile
from careamics_dm.prediction.result_file import ResultImage
from careamics_dm.prediction.tiff_description import TiffDescription
from careamics_dm.prediction.tiff_file import map_tiff
from careamics_dm.prediction.tiff_writer import TiffWriter

SIZES = {"S": 5, "T": 3, "Z": 4, "C": 2, "Y": 12, "X": 10}
SPACE = {"X": (0.1, "µm"), "Y": (0.2, "µm")}


def result(path, axes, dtype="f4", *, sizes=None, channels=None, shape=None, **says):
    """A result of an image that says something; ``shape`` is that of a larger one like it."""
    image = np.zeros([(SIZES | (sizes or {}))[axis] for axis in axes], "u1")
    stack = ArrayStack(image, axes, "in", **says)
    layout = Layout(axes, shape or image.shape)
    if channels is not None:
        layout = layout.with_channels(len(channels))
    return ResultImage(Path(path), stack, layout, np.dtype(dtype), False, channels)


def kind(described):
    options = described.options
    return "imagej" if options["imagej"] else "ome" if options["ome"] else "plain"


@pytest.mark.parametrize(
    ("name", "axes", "dtype", "says", "expected"),
    [
        ("a.tif", "CYX", "f4", {}, ("imagej", [])),
        ("a.ome.tif", "CYX", "f4", {}, ("ome", [])),
        ("a.tif", "CYX", "f4", {"channel_names": ["a", "b"]}, ("ome", [])),
        ("a.tif", "YX", "f4", {"image_name": "scene"}, ("ome", [])),
        ("a.tif", "YX", "i4", {}, ("plain", [])),
        ("a.tif", "TYX", "i4", {}, ("ome", [])),
        ("a.tif", "SCYX", "f4", {}, ("imagej", [])),
        ("a.tif", "CZYX", "f4", {"scale": {"Z": (1.0, "µm")}}, ("ome", [])),
        ("a.tif", "ZYX", "f4", {"scale": {"Z": (1.0, "µm")}}, ("ome", [])),
        ("a.tif", "ZYX", "f4", {"scale": SPACE | {"Z": (2.5, "s")}}, ("imagej", ["Z step"])),
        ("a.tif", "STYX", "f4", {"scale": {"T": (1.0, "s")}}, ("plain", ["frame interval"])),
        ("a.tif", "CYX", "i8", {"channel_names": ["a", "b"]}, ("plain", ["channel names"])),
        ("a.tif", "CYX", "i4", {"labels": ["a", "b"]}, ("ome", ["labels and display of ImageJ"])),
        ("a.tif", "YXT", "f4", {"scale": SPACE}, ("plain", [])),
        (
            "a.tif",
            "YX",
            "f4",
            {"scale": dict.fromkeys("YX", (1000000000000000.0, "m"))},
            ("ome", []),
        ),
        ("a.tif", "YX", "f4", {"scale": dict.fromkeys("YX", (2, "cubits"))}, ("imagej", [])),
        (
            "a.ome.tif",
            "YX",
            "f4",
            {"scale": dict.fromkeys("YX", (2, "cubits"))},
            ("ome", ["pixel size"]),
        ),
    ],
)
def test_what_loses_least_is_used(name, axes, dtype, says, expected):
    described = TiffDescription(result(name, axes, dtype, **says)).best()
    assert (kind(described), described.lost) == expected


@pytest.mark.parametrize(
    ("axes", "side", "dtype", "tiled", "expected"),
    [
        ("TYX", 20_000, "f4", False, ("ome", True)),
        ("TYX", 18_800, "f4", False, ("imagej", False)),
        ("YX", 40_000, "f4", False, ("plain", True)),
        ("TYX", 100, "f4", True, ("ome", False)),
    ],
)
def test_large_results_are_big_tiff_and_no_hyperstack(axes, side, dtype, tiled, expected):
    shape = tuple(SIZES[axis] if axis in "TC" else side for axis in axes)
    described = TiffDescription(result("a.tif", axes, dtype, shape=shape), tiled).best()
    assert (kind(described), described.options["bigtiff"]) == expected


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif"])
def test_any_unit_of_ome_can_be_written(tmp_path, suffix):
    """And is read again as it was, or as the same length."""
    for number, unit in enumerate([*LENGTHS, "pixel", "reference frame"]):
        time = [*TIMES][number % len(TIMES)]
        scale = {"X": (2.0, unit), "Y": (2.0, unit), "Z": (3.0, "nm"), "T": (4.0, time)}
        image = result(tmp_path / f"{number}{suffix}", "TZYX", scale=scale)
        file = MappedFile(image, map_tiff, begin=True)
        file.finish()
        back = open_tiff(image.path)[0]
        back.close()
        if unit not in ("pixel", "reference frame"):
            size, found = back.scale["X"]
            assert size * LENGTHS[found] == pytest.approx(2 * LENGTHS[unit])
            depth, found = back.scale["Z"]
            assert depth * LENGTHS[found] == pytest.approx(3e-9)
        interval, found = back.scale["T"]
        assert interval * TIMES[found] == pytest.approx(4 * TIMES[time])


def test_what_is_said_of_channels_is_that_of_those_predicted():
    says = {
        "channel_names": ["a", "b"],
        "labels": [f"t{t} c{c}" for t in range(3) for c in range(2)],
        "imagej": {"Ranges": (1, 2, 3, 4), "LUTs": ["red", "green"], "mode": "composite"},
    }
    found = result("a.tif", "TCYX", channels=[1], **says).metadata
    assert (found["channel_names"], found["labels"]) == (["b"], ["t0 c1", "t1 c1", "t2 c1"])
    assert found["imagej"] == {"Ranges": [3, 4], "LUTs": ["green"], "mode": "composite"}
    more = Layout("TCYX", (3, 5, 12, 10))
    stack = result("a", "TCYX", **says).stack
    others = ResultImage(Path("a"), stack, more, np.dtype("f4"), False).metadata
    assert others.keys() == {"scale", "origin", "image_name"}


def test_one_channel_stays_a_hyperstack(tmp_path):
    says = {"scale": SPACE, "imagej": {"Ranges": (1.0, 2.0, 3.0, 4.0)}}
    image = result(tmp_path / "a.tif", "TZCYX", channels=[1], **says)
    MappedFile(image, map_tiff, begin=True).finish()
    with tifffile.TiffFile(image.path) as file:
        assert (file.imagej_metadata["min"], file.imagej_metadata["max"]) == (3, 4)
        assert file.is_imagej and "slices=4\nframes=3\n" in file.pages.first.description
        assert dimensions(file, 0)[1] == [3, 4, 1, 12, 10, 1]


def test_without_a_pixel_size_the_unit_is_a_pixel(tmp_path):
    """Bio-Formats takes no unit for a micrometer."""
    image = result(tmp_path / "a.tif", "CYX")
    MappedFile(image, map_tiff, begin=True).finish()
    with tifffile.TiffFile(image.path) as file:
        assert file.imagej_metadata["unit"] == "pixel"
    assert open_tiff(image.path)[0].scale == {}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what it holds")
@pytest.mark.parametrize(
    ("width", "most", "n"), [(1024, 2**27, 0), (256, 2**27, 16), (256, 2**20, 32)]
)
def test_what_was_written_is_left_to_the_system(tmp_path, monkeypatch, width, most, n):
    """Once for boxes that lie beside each other, unless they are large; whole rows need no map."""

    def resident():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))

    image = result(tmp_path / "a.tif", "ZYX", sizes={"Z": 16, "Y": 512, "X": 1024})
    file, before = MappedFile(image, map_tiff, begin=True), resident()
    pixels = np.random.default_rng(0).random(image.layout.shape, np.float32)
    left: list[int] = []
    leave = mapped_file.leave_pages
    monkeypatch.setattr(mapped_file, "leave_pages", lambda a: (left.append(1), leave(a)))
    monkeypatch.setattr(mapped_file, "MAPPED", most)
    for z in range(16):
        for x in range(0, 1024, width):
            box = slice(z, z + 1), slice(0, 512), slice(x, x + width)
            file.put(box, pixels[box])
            assert resident() - before < 4 * 2**10  # KiB; all of it are 32 MiB
    assert len(left) == n
    file.finish()
    np.testing.assert_array_equal(tifffile.imread(image.path), pixels)


@pytest.mark.parametrize("channels", [None, [0]])
def test_rgb_results_are_rgb_only_with_all_colours(channels):
    image = result("a.tif", "YXC", "u1", sizes={"C": 3}, is_rgb=True, channels=channels)
    options = TiffDescription(image).best().options
    assert options["photometric"] == ("minisblack" if channels else "rgb")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": "jpeg"}, "writer.compression=.*choose"),
        ({"tile": [100, 100]}, "multiples of 16"),
        ({"tile": 256}, "give rows and columns"),
    ],
)
def test_options_are_checked(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        TiffWriter(tmp_path, **options)


@pytest.mark.parametrize("compression", [None, "zlib", "zstd", "lzw"])
@pytest.mark.parametrize("tile", [None, (16, 32)])
@pytest.mark.parametrize("rgb", [False, True])
def test_finished_files_are_compressed_and_tiled(tmp_path, compression, tile, rgb):
    sizes = {"C": 3, "Y": 50, "X": 40}
    axes, dtype = ("TYXC", "u1") if rgb else ("STCYX", "f4")
    image = result(tmp_path / "a.tif", axes, dtype, sizes=sizes, is_rgb=rgb)
    pixels = np.random.default_rng(0).integers(0, 200, image.layout.shape).astype(dtype)
    file = TiffWriter(tmp_path, compression=compression, tile=tile).open(image, begin=True)
    for t in range(len(pixels)):
        file.put((slice(t, t + 1),), pixels[t : t + 1])
    file.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
    with tifffile.TiffFile(image.path) as found:
        page = found.pages.first
        assert np.array_equal(found.asarray(), pixels)
        name = {None: "NONE", "zlib": "ADOBE_DEFLATE"}.get(compression, str(compression).upper())
        assert (page.compression.name, page.is_tiled) == (name, tile is not None)
        assert page.photometric.name == ("RGB" if rgb else "MINISBLACK")
