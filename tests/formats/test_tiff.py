"""What `TiffDataModule` reads and refuses, on files written by tifffile."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import struct
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import psutil
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiff_files import OME, lsm, numbers, stk

from careamics_dm.errors import DataError
from careamics_dm.formats.tiff import pages as _tiff_pages
from careamics_dm.formats.tiff.datamodule import TiffDataModule
from careamics_dm.formats.tiff.datamodule import open_tiff as open_all
from careamics_dm.formats.tiff.pages import TiffArray
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.raw_array import RawArray
from careamics_dm.testing.datamodule_checks import check_datamodule, check_image_stack

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def open_tiff(path: Path, axes: str = "auto", **how: Any) -> ArrayStack:
    """Open a file that holds one image."""
    (stack,) = open_all(path, axes, **how)
    return stack


def whole(stack: ArrayStack) -> NDArray[Any]:
    return stack.array[tuple(slice(0, n) for n in stack.original_data_shape)]


def boxes(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Whole, in the middle, one pixel in the last corner."""
    return [
        tuple(slice(0, n) for n in shape),
        tuple(slice(n // 3, n // 3 + max(1, n // 2)) for n in shape),
        tuple(slice(n - 1, n) for n in shape),
    ]


# ------------------------------------------------------------------------------- what is read

TILES = {"tile": (32, 48), "photometric": "minisblack"}
STRIPS = {"rowsperstrip": 7, "photometric": "minisblack"}
UM = {"unit": "\\u00B5m", "spacing": 0.5}
# name: shape, dtype, how it is written, axes given, axes on disk, kind of array, block
READABLE: dict[
    str, tuple[tuple[int, ...], str, dict[str, Any], str, str, type, tuple[int, ...]]
] = {
    "plain": ((33, 47), "uint16", {}, "auto", "YX", RawArray, (1, 1)),
    "stack": ((5, 33, 47), "uint16", {}, "ZYX", "ZYX", RawArray, (1, 1, 1)),
    "frames": ((5, 33, 47), "uint8", {}, "tyx", "TYX", RawArray, (1, 1)),
    "ImageJ": (
        (2, 3, 2, 33, 47),
        "uint16",
        {"imagej": True, "metadata": {"axes": "TZCYX", **UM}, "resolution": (10, 20)},
        "auto",
        "TZCYX",
        RawArray,
        (1, 1, 1),
    ),
    "ImageJ, lengths of 1 left out": (
        (1, 3, 1, 33, 47),
        "uint16",
        {"imagej": True, "metadata": {"axes": "TZCYX"}},
        "auto",
        "ZYX",
        RawArray,
        (1, 1, 1),
    ),
    "ImageJ, lengths of 1 named": (
        (1, 3, 1, 33, 47),
        "uint16",
        {"imagej": True, "metadata": {"axes": "TZCYX"}},
        "TZCYX",
        "TZCYX",
        RawArray,
        (1, 1, 1),
    ),
    "ImageJ compressed": (
        (4, 2, 33, 47),
        "uint8",
        {"imagej": True, "metadata": {"axes": "TCYX"}, "compression": "zlib"},
        "auto",
        "TCYX",
        TiffArray,
        (33, 47),
    ),
    "OME": (
        (2, 3, 33, 47),
        "uint16",
        {"ome": True, "metadata": {"axes": "CZYX"}},
        "auto",
        "CZYX",
        RawArray,
        (1, 1, 1),
    ),
    "OME tiled, lifetime folds into samples": (
        (3, 2, 40, 50),
        "uint16",
        {"ome": True, "metadata": {"axes": "HCYX"}, "tile": (16, 16), "compression": "zlib"},
        "auto",
        "HCYX",
        TiffArray,
        (16, 16),
    ),
    "BigTIFF": ((33, 47), "uint16", {"bigtiff": True}, "auto", "YX", RawArray, (1, 1)),
    "shaped": (
        (2, 3, 33, 47),
        "uint16",
        {"metadata": {"axes": "TCYX"}, "photometric": "minisblack"},
        "auto",
        "TCYX",
        RawArray,
        (1, 1),
    ),
    "shaped, samples": (
        (4, 33, 47),
        "uint16",
        {"metadata": {"axes": "SYX"}, "photometric": "minisblack"},
        "auto",
        "SYX",
        RawArray,
        (1, 1),
    ),
    "lengths of 1": ((1, 1, 33, 47), "uint16", {}, "auto", "YX", RawArray, (1, 1)),
    "lengths of 1, named": ((1, 1, 33, 47), "uint16", {}, "SCYX", "SCYX", RawArray, (1, 1)),
    "deflate": (
        (3, 100, 130),
        "uint16",
        {**TILES, "compression": "zlib", "metadata": {"axes": "ZYX"}},
        "auto",
        "ZYX",
        TiffArray,
        (1, 32, 48),
    ),
    "LZW": (
        (3, 100, 130),
        "uint16",
        {**TILES, "compression": "lzw", "predictor": True},
        "ZYX",
        "ZYX",
        TiffArray,
        (1, 32, 48),
    ),
    "Zstandard": (
        (3, 100, 130),
        "int16",
        {**TILES, "compression": "zstd", "predictor": True},
        "TYX",
        "TYX",
        TiffArray,
        (32, 48),
    ),
    "JPEG XL": (
        (40, 50),
        "uint16",
        {"compression": "jpegxl", "compressionargs": {"lossless": True}},
        "auto",
        "YX",
        TiffArray,
        (40, 50),
    ),
    "strips": (
        (3, 100, 130),
        "uint8",
        {**STRIPS, "compression": "zlib", "predictor": True},
        "ZYX",
        "ZYX",
        TiffArray,
        (1, 7, 130),
    ),
    "float strips": (
        (3, 100, 130),
        "float32",
        {**STRIPS, "compression": "zstd", "predictor": 3},
        "ZYX",
        "ZYX",
        TiffArray,
        (1, 7, 130),
    ),
    "tiles, not compressed": ((3, 40, 50), "int16", TILES, "ZYX", "ZYX", TiffArray, (1, 32, 48)),
    "pages apart": ((3, 40, 50), "int16", {"page by page": 1}, "ZYX", "ZYX", TiffArray, (1, 1, 1)),
    "pages apart, big-endian strips": (
        (3, 40, 50),
        "uint16",
        {"page by page": 1, "byteorder": ">", "rowsperstrip": 9},
        "ZYX",
        "ZYX",
        TiffArray,
        (1, 1, 1),
    ),
    "big-endian": (
        (3, 40, 50),
        "float32",
        {"byteorder": ">", "photometric": "minisblack"},
        "ZYX",
        "ZYX",
        RawArray,
        (1, 1, 1),
    ),
    "big-endian tiles": (
        (3, 40, 50),
        "uint16",
        {**TILES, "byteorder": ">", "compression": "zlib", "predictor": True},
        "ZYX",
        "ZYX",
        TiffArray,
        (1, 32, 48),
    ),
    "float64": ((33, 47), "float64", {}, "auto", "YX", RawArray, (1, 1)),
    "one bit": ((5, 33, 47), "bool", {}, "ZYX", "ZYX", TiffArray, (1, 33, 47)),
    "white is zero": (
        (33, 47),
        "uint8",
        {"photometric": "miniswhite", "compression": "zlib"},
        "auto",
        "YX",
        TiffArray,
        (33, 47),
    ),
    "RGB": ((40, 50, 3), "uint8", {"photometric": "rgb"}, "auto", "YXC", RawArray, (1, 1)),
    "RGB stack": (
        (4, 40, 50, 3),
        "uint8",
        {"photometric": "rgb", "compression": "zlib", "rowsperstrip": 9},
        "TYXC",
        "TYXC",
        TiffArray,
        (9, 50),
    ),
    "RGB planes": (
        (3, 40, 50),
        "uint8",
        {"photometric": "rgb", "planarconfig": "separate", "tile": (16, 16)},
        "auto",
        "CYX",
        TiffArray,
        (16, 16),
    ),
    "RGB in OME": (
        (2, 40, 50, 3),
        "uint8",
        {"ome": True, "metadata": {"axes": "ZYXS"}, "photometric": "rgb"},
        "auto",
        "ZYXC",
        RawArray,
        (1, 1, 1),
    ),
    "RGB in ImageJ": (
        (2, 40, 50, 3),
        "uint8",
        {"imagej": True, "metadata": {"axes": "TYXS"}},
        "auto",
        "TYXC",
        RawArray,
        (1, 1),
    ),
    "two samples a pixel": (
        (40, 50, 2),
        "uint16",
        {"photometric": "minisblack", "planarconfig": "contig"},
        "auto",
        "YXC",
        RawArray,
        (1, 1),
    ),
    "volumes in tiles": (
        (2, 20, 40, 50),
        "uint16",
        {"tile": (8, 16, 16), "compression": "zlib", "photometric": "minisblack"},
        "TZYX",
        "TZYX",
        TiffArray,
        (8, 16, 16),
    ),
    "channels last": ((40, 50, 2), "uint16", {}, "XYC", "XYC", RawArray, (1, 1)),
    "channels last, compressed": (
        (40, 50, 2),
        "uint16",
        {"compression": "zlib"},
        "XYC",
        "XYC",
        TiffArray,
        (50, 1),
    ),
    # tifffile takes three frames for RGB planes.
    "three frames": (
        (3, 40, 50),
        "float32",
        {"photometric": "rgb", "planarconfig": "separate"},
        "TYX",
        "TYX",
        RawArray,
        (1, 1),
    ),
}


def write(path: Path, array: NDArray[Any], how: dict[str, Any]) -> None:
    how = dict(how)
    if how.pop("page by page", False):
        with tifffile.TiffWriter(path, byteorder=how.pop("byteorder", None)) as tiff:
            for page in array:
                tiff.write(page, metadata=None, contiguous=False, **how)
    else:
        tifffile.imwrite(path, array, **how)


@pytest.mark.parametrize("case", READABLE)
def test_pixels_axes_and_blocks_of_every_kind_of_file(tmp_path: Path, case: str) -> None:
    shape, dtype, how, asked, axes, kind, block = READABLE[case]
    array = numbers(shape, dtype)
    write(tmp_path / "a.tif", array, how)
    stack = open_tiff(tmp_path / "a.tif", asked)
    assert (stack.original_axes, type(stack.array)) == (axes, kind)
    assert stack.block_shape == block
    assert stack.data_dtype == np.dtype(dtype).newbyteorder(stack.data_dtype.byteorder)
    on_disk = array.reshape(stack.original_data_shape)
    for box in boxes(on_disk.shape):
        np.testing.assert_array_equal(stack.array[box], on_disk[box])
    patch = stack.extract_patch(0, None, (0,) * len(block), block)
    np.testing.assert_array_equal(
        patch, stack.load().extract_patch(0, None, (0,) * len(block), block)
    )


def test_imagej_stack_with_one_directory(tmp_path: Path) -> None:
    one_directory(tmp_path / "a.tif")
    stack = open_tiff(tmp_path / "a.tif")
    assert isinstance(stack.array, RawArray)
    np.testing.assert_array_equal(whole(stack), numbers((9, 33, 47)))


def test_jpeg_gives_what_tifffile_gives(tmp_path: Path) -> None:
    smooth = (np.indices((100, 130)).sum(axis=0) % 256).astype(np.uint8)
    color = np.stack([smooth, smooth.T[:100, :100].repeat(2, 1)[:, :130], smooth], axis=-1)
    tifffile.imwrite(
        tmp_path / "a.tif", color, photometric="rgb", tile=(32, 32), compression="jpeg"
    )
    stack = open_tiff(tmp_path / "a.tif")
    np.testing.assert_array_equal(whole(stack), tifffile.imread(tmp_path / "a.tif"))
    box = (slice(30, 70), slice(40, 41), slice(1, 3))
    np.testing.assert_array_equal(stack.array[box], tifffile.imread(tmp_path / "a.tif")[box])


def test_tiles_that_were_never_written_hold_nodata(tmp_path: Path) -> None:
    array = numbers((64, 64), "uint8")
    tifffile.imwrite(
        tmp_path / "a.tif",
        array,
        tile=(32, 32),
        compression="zlib",
        extratags=[(42113, "s", 0, "7", True)],  # GDAL_NODATA
    )
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        counts = tiff.pages.first.tags[325]
        counts.overwrite((0, *counts.value[1:]))
    array[:32, :32] = 7
    np.testing.assert_array_equal(whole(open_tiff(tmp_path / "a.tif")), array)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_box_of_a_tiled_compressed_stack(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "property.tif"
    array = numbers((3, 2, 70, 90))
    if not path.exists():
        tifffile.imwrite(path, array, tile=(32, 16), compression="zstd", metadata={"axes": "TCYX"})
    box = []
    for n in array.shape:
        start = data.draw(st.integers(0, n - 1))
        box.append(slice(start, data.draw(st.integers(start + 1, n))))
    stack = open_tiff(path)
    assert isinstance(stack.array, TiffArray)
    np.testing.assert_array_equal(stack.array[tuple(box)], array[tuple(box)])


# --------------------------------------------------------------------- only what is needed

Reads = list[tuple[int, int]]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Offsets and counts of what is read of pixels."""
    seen: Reads = []
    read = _tiff_pages.OpenFile.read

    def spy(self: _tiff_pages.OpenFile, offset: int, count: int) -> bytes:
        seen.append((offset, count))
        return read(self, offset, count)

    monkeypatch.setattr(_tiff_pages.OpenFile, "read", spy)
    return seen


def test_only_the_tiles_of_a_box_are_read_each_once(tmp_path: Path, reads: Reads) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, numbers((4, 96, 128)), tile=(32, 32), compression="zlib", photometric="minisblack"
    )
    stack = open_tiff(path, "ZYX")
    assert reads == []  # opening reads no pixel
    _ = stack.array[1:3, 30:40, 64:96]
    with tifffile.TiffFile(path) as tiff:
        needed = [
            (tiff.pages[page].dataoffsets[tile], tiff.pages[page].databytecounts[tile])
            for page in (1, 2)
            for tile in (2, 4 + 2)  # two of three rows, one of four columns
        ]
    assert sorted(reads) == sorted(needed)
    reads.clear()
    whole(stack)
    assert len(reads) == len(set(reads)) == 4 * 3 * 4


def test_a_page_whose_strips_lie_elsewhere(tmp_path: Path) -> None:
    array = numbers((2, 28, 47))
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for plane in array:
            writer.write(plane, contiguous=False, metadata=None, **STRIPS)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        page, end = tiff.pages[1], path.stat().st_size
        size = page.databytecounts[0]
        moved = [end + size * n for n in (3, 1, 0, 2)]  # appended, in another order
        for row, offset in zip(range(0, 28, 7), moved, strict=True):
            tiff.filehandle.seek(offset)
            tiff.filehandle.write(array[1, row : row + 7].tobytes())
        page.tags[273].overwrite(moved)
    for box in boxes(array.shape):
        np.testing.assert_array_equal(open_tiff(path, "ZYX").array[box], array[box])


def test_a_file_that_is_cut_off_after_it_was_opened(tmp_path: Path) -> None:
    array = numbers((64, 96))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, compression="zlib", **TILES)
    stack = open_tiff(path, "YX")
    np.testing.assert_array_equal(stack.array[0:32, 0:96], array[:32])
    os.truncate(path, path.stat().st_size - 9)
    with pytest.raises(DataError, match=r"a\.tif: has changed since set-up"):
        whole(stack)
    stack.close()


def test_only_the_strips_of_a_box_are_read_each_once(tmp_path: Path, reads: Reads) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, numbers((90, 128)), rowsperstrip=8, compression="zlib")
    stack = open_tiff(path)
    _ = stack.array[8:17, 5:6]
    with tifffile.TiffFile(path) as tiff:
        assert [offset for offset, _ in reads] == list(tiff.pages[0].dataoffsets[1:3])


def test_mapped_files_are_not_held_open(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", numbers((5, 33, 47)), {})
    write(tmp_path / "b.tif", numbers((5, 33, 47)), {"page by page": True})
    for name in ("a.tif", "b.tif"):
        stack = open_tiff(tmp_path / name, "ZYX")
        pixels = whole(stack).copy()
        assert pixels.shape == (5, 33, 47)
        assert str(tmp_path / name) not in [f.path for f in psutil.Process().open_files()]


def test_close_closes_and_the_next_read_opens_again(tmp_path: Path) -> None:
    def held() -> list[str]:
        return [f.path for f in psutil.Process().open_files() if f.path.endswith("held.tif")]

    array = numbers((33, 47))
    write(tmp_path / "held.tif", array, {"compression": "zlib"})
    stack = open_tiff(tmp_path / "held.tif")
    assert not held()  # opening does not hold it open
    for _ in range(2):
        np.testing.assert_array_equal(whole(stack), array)
        assert held()
        stack.close()
        assert not held()


def test_a_file_that_is_replaced_and_opened_again_is_read_anew(tmp_path: Path) -> None:
    for seed in range(3):
        array = numbers((33, 47)) + np.uint16(seed)
        write(tmp_path / "a.tif", array, {"compression": "zlib"})
        np.testing.assert_array_equal(whole(open_tiff(tmp_path / "a.tif")), array)


@pytest.mark.parametrize("how", [{}, {"compression": "zlib"}], ids=["mapped", "read"])
def test_a_stack_is_small_in_a_pickle_and_reads_in_a_spawned_process(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    array = numbers((50, 33, 47))
    write(tmp_path / "a.tif", array, how)
    stack = open_tiff(tmp_path / "a.tif", "TYX")
    whole(stack)
    assert len(pickle.dumps(stack)) < 1500  # the path is in it, which may be long
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        patch = pool.apply(stack.extract_patch, (7, None, (3, 4), (16, 16)))
    np.testing.assert_array_equal(patch[0], array[7, 3:19, 4:20])


def test_threads_read_one_file_at_once(tmp_path: Path) -> None:
    array = numbers((8, 64, 64))
    write(tmp_path / "a.tif", array, {"compression": "zlib", "rowsperstrip": 4})
    stack = open_tiff(tmp_path / "a.tif", "TYX")
    with ThreadPoolExecutor(4) as pool:
        for page, read in enumerate(
            pool.map(lambda i: stack.array[i % 8 : i % 8 + 1, 0:64, 0:64], range(64))
        ):
            np.testing.assert_array_equal(read[0], array[page % 8])


# -------------------------------------------------------------------- series, levels, sets


def write_pyramid(path: Path, ome: bool) -> list[NDArray[Any]]:
    levels = [numbers((2, 3, 128, 160)), numbers((2, 3, 64, 80)), numbers((2, 3, 32, 40))]
    how: dict[str, Any] = {"tile": (32, 32), "compression": "zlib", "photometric": "minisblack"}
    axes = "CZYX" if ome else "CTYX"  # tifffile wants Z halved as well, elsewhere than in OME
    metadata = {"axes": axes, "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.2, "PhysicalSizeZ": 1.0}
    with tifffile.TiffWriter(path, ome=ome) as tiff:
        tiff.write(levels[0], subifds=2, metadata=metadata, **how)
        for level in levels[1:]:
            tiff.write(level, subfiletype=1, metadata={"axes": axes}, **how)
    return levels


@pytest.mark.parametrize("ome", [True, False], ids=["OME", "shaped"])
def test_levels_of_a_pyramid(tmp_path: Path, ome: bool) -> None:
    path = tmp_path / "a.tif"
    levels = write_pyramid(path, ome)
    for number, level in enumerate(levels):
        stack = open_tiff(path, level=number)
        assert bool(stack.correlated_noise) == bool(number)
        np.testing.assert_array_equal(whole(stack), level)
        if ome:
            sizes = {"Z": (1.0, "µm"), "Y": (0.2 * 2**number, "µm"), "X": (0.1 * 2**number, "µm")}
            assert stack.scale == sizes
    with pytest.raises(DataError, match=r"a\.tif: level=3 .* 0: \(2, 3, 128, 160\), 1: .*80\)"):
        open_tiff(path, level=3)


@pytest.mark.parametrize(
    ("compression", "level", "why"),
    [
        ("jpeg", 90, "lossy JPEG compression"),
        ("jpegxr", 0.9, "lossy JPEG XR compression"),
        ("jpeg2000", 80, "lossy JPEG 2000 compression"),
        ("jpegxr", 1.0, ""),
        ("zlib", 6, ""),
        (None, None, ""),
    ],
)
def test_lossy_compression_correlates_noise(
    tmp_path: Path, compression: str | None, level: Any, why: str
) -> None:
    how = {"compressionargs": {"level": level}, "tile": (32, 32)} if compression else {}
    pixels = numbers((2, 64, 64), "uint8")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, compression=compression, metadata={"axes": "TYX"}, **how)
    assert open_tiff(path).correlated_noise == why


@pytest.mark.parametrize("ome", [True, False], ids=["OME", "shaped"])
def test_series_of_a_file(tmp_path: Path, ome: bool) -> None:
    path = tmp_path / "a.tif"
    arrays = [numbers((3, 40, 50)), numbers((2, 20, 30), "uint8")]
    with tifffile.TiffWriter(path, ome=ome) as tiff:
        for i, array in enumerate(arrays):
            metadata = {"axes": "ZYX", "PhysicalSizeX": i + 1.0, "PhysicalSizeY": 1.0}
            tiff.write(array, photometric="minisblack", metadata=metadata)
    for number, array in enumerate(arrays):
        stack = open_tiff(path, series=number)
        np.testing.assert_array_equal(whole(stack), array)
        if ome:
            assert stack.scale == {"Y": (1.0, "µm"), "X": (number + 1.0, "µm")}
    there = r"series=2 does not exist.*0: \(3, 40, 50\), 1: \(2, 20, 30\)"
    with pytest.raises(DataError, match=there):
        open_tiff(path, series=2)


@pytest.mark.parametrize("n", [2, 12])
@pytest.mark.parametrize("how", [{}, {"compression": "zlib"}], ids=["raw", "deflate"])
def test_pages_that_were_appended_are_one_stack(
    tmp_path: Path, n: int, how: dict[str, Any]
) -> None:
    array = numbers((n, 20, 30))
    for page in array:
        tifffile.imwrite(tmp_path / "a.tif", page, append=True, **how)
    for axes, shape in (
        ("auto", (n, 1, 20, 30)),
        ("TYX", (n, 1, 20, 30)),
        ("ZYX", (1, 1, n, 20, 30)),
    ):
        stack = open_tiff(tmp_path / "a.tif", axes)
        assert (stack.original_axes, stack.data_shape) == (axes.replace("auto", "SYX"), shape)
        np.testing.assert_array_equal(whole(stack), array)
    np.testing.assert_array_equal(whole(open_tiff(tmp_path / "a.tif", series=1)), array[1])


def test_colour_pages_that_were_appended(tmp_path: Path) -> None:
    array = numbers((3, 20, 30, 3), "uint8")
    for page in array:
        tifffile.imwrite(tmp_path / "a.tif", page, append=True, photometric="rgb")
    stack = open_tiff(tmp_path / "a.tif")
    assert (stack.original_axes, stack.data_shape) == ("SYXC", (3, 3, 20, 30))
    np.testing.assert_array_equal(whole(stack), array)


@pytest.mark.parametrize("n_stacks", [2, 3])
@pytest.mark.parametrize("n_planes", [3, 4])
@pytest.mark.parametrize("said", ["ZYX", "TZYX"])
def test_appended_stacks_of_as_many_planes_as_colours(
    tmp_path: Path, said: str, n_planes: int, n_stacks: int
) -> None:
    array, path = numbers((n_stacks, n_planes, 20, 30)), tmp_path / "a.tif"
    # What tifffile chooses by itself for such a stack, with a warning.
    how: dict[str, Any] = {"photometric": "rgb", "planarconfig": "separate"}
    for planes in array:
        one = planes if said == "ZYX" else planes[None]
        tifffile.imwrite(path, one, append=True, metadata={"axes": said}, **how)
    for axes in ("auto", "SZYX", "TZYX"):
        stack = open_tiff(path, axes)
        assert stack.original_axes == axes.replace("auto", "SZYX")
        assert (stack.data_shape, stack.is_rgb) == ((n_stacks, 1, n_planes, 20, 30), False)
        np.testing.assert_array_equal(whole(stack), array)
    with pytest.raises(DataError, match="ZYX"):
        open_tiff(path, "SCYX")
    last = open_tiff(path, series=n_stacks - 1)
    assert (last.original_axes, last.is_rgb) == (said, False)
    np.testing.assert_array_equal(whole(last).squeeze(), array[-1])


@pytest.mark.parametrize("said", [{}, {"axes": "YXS"}, {"axes": "CYX"}])
@pytest.mark.parametrize("n_colours", [3, 4])
def test_appended_colours_stay_colours(
    tmp_path: Path, said: dict[str, str], n_colours: int
) -> None:
    axes = said.get("axes", "YXS")
    array = numbers((2, 20, 30, n_colours) if axes == "YXS" else (2, n_colours, 20, 30), "uint8")
    for page in array:
        tifffile.imwrite(tmp_path / "a.tif", page, append=True, photometric="rgb", metadata=said)
    stack = open_tiff(tmp_path / "a.tif")
    assert (stack.original_axes, stack.is_rgb) == ("S" + axes.replace("S", "C"), True)
    np.testing.assert_array_equal(whole(stack), array)


@pytest.mark.parametrize("ome", [True, False], ids=["images of OME", "pages of other sizes"])
def test_all_images_of_a_file_are_read(tmp_path: Path, ome: bool) -> None:
    arrays = [numbers((20 + i, 30)) for i in range(9)]
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, ome=ome) as tiff:
        for array in arrays:
            tiff.write(array, metadata={"axes": "YX"})
    stacks = open_all(path)
    assert [stack.source for stack in stacks] == [f"{path}/series_{i}" for i in range(9)]
    for stack, array in zip(stacks, arrays, strict=True):
        np.testing.assert_array_equal(whole(stack), array)


@pytest.mark.parametrize("other", [numbers((9, 30, 3), "uint8"), numbers((9, 30), "uint8")])
def test_series_that_do_not_go_together_are_listed(tmp_path: Path, other: NDArray[Any]) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for array in (numbers((20, 30)), other):
            tiff.write(array)
    listed = r"go together: 0: YX \(20, 30\) uint16, 1: YXC? \(9, 30.* uint8\. Choose one .*series"
    with pytest.raises(DataError, match=r"a\.tif: its series do not " + listed):
        open_all(tmp_path / "a.tif")
    assert whole(open_tiff(tmp_path / "a.tif", series=1)).shape == other.shape


def test_of_a_slide_only_the_image_is_read(tmp_path: Path) -> None:
    """As Aperio's scanners write: baseline, thumbnail, label, macro."""
    image, path = numbers((64, 96, 3), "uint8"), tmp_path / "a.tif"
    how: dict[str, Any] = {"photometric": "rgb", "metadata": None, "description": "Aperio Image"}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, tile=(32, 32), **how)
        tiff.write(image[:20, :30], **how)
        tiff.write(image[:24, :30], subfiletype=1, **how)
        tiff.write(image[:26, :30], subfiletype=9, **how)
    module = module_of(path)
    module.setup("fit")
    (stack,) = module.images_of("train").stacks
    assert (stack.source, stack.data_shape) == (str(path), (1, 3, 64, 96))
    left = "a.tif: without series 1 (Thumbnail), 2 (Label), 3 (Macro)"
    assert left in module.summary()


def test_what_is_reduced_or_a_mask_is_no_image(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for kind, size, dtype in ((0, 40, "uint8"), (1, 13, "uint8"), (4, 17, "bool")):
            tiff.write(numbers((size, 30), dtype), subfiletype=kind, metadata=None)
    assert open_tiff(tmp_path / "a.tif").data_shape == (1, 1, 40, 30)


def test_the_summary_says_what_is_taken(tmp_path: Path) -> None:
    array = numbers((6, 32, 32))
    for page in array:
        tifffile.imwrite(tmp_path / "appended.tif", page, append=True)
    with tifffile.TiffWriter(tmp_path / "images.ome.tif", ome=True) as tiff:
        for page in array[:3]:
            tiff.write(page, metadata={"axes": "YX"})
    module = module_of(tmp_path)
    module.setup("fit")
    assert "4 image(s) SYX, YX, 9 sample(s)" in module.summary()
    assert "appended.tif: a stack of 6 appended pages" in module.summary()
    assert "images.ome.tif: 3 images" in module.summary()


def write_set(folder: Path, images: list[list[str]], frames: int = 2) -> list[NDArray[Any]]:
    """OME-TIFF files, each with the metadata of all; an image is a list of file names."""
    arrays, described = [], []
    for number, names in enumerate(images):
        array = numbers((len(names) * frames, 40, 50)) + np.uint16(1000 * number)
        arrays.append(array)
        data = "".join(
            f'<TiffData FirstT="{i * frames}" IFD="0" PlaneCount="{frames}">'
            f'<UUID FileName="{name}">urn:uuid:{name}</UUID></TiffData>'
            for i, name in enumerate(names)
        )
        described.append(
            f'<Image ID="Image:{number}"><Pixels ID="Pixels:{number}" DimensionOrder="XYZCT" '
            f'Type="uint16" SizeX="50" SizeY="40" SizeZ="1" SizeC="1" SizeT="{len(array)}">'
            f'<Channel ID="Channel:{number}:0" SamplesPerPixel="1"/>{data}</Pixels></Image>'
        )
    for array, names in zip(arrays, images, strict=True):
        for i, name in enumerate(names):
            xml = (
                '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
                f'UUID="urn:uuid:{name}">{"".join(described)}</OME>'
            )
            tifffile.imwrite(
                folder / name,
                array[i * frames : (i + 1) * frames],
                description=xml,
                metadata=None,
                compression="zlib",
                photometric="minisblack",
            )
    return arrays


def test_a_set_of_files_is_one_image(tmp_path: Path) -> None:
    (array,) = write_set(tmp_path, [["a.ome.tif", "b.ome.tif", "c.ome.tif"]])
    for name in "abc":
        stack = open_tiff(tmp_path / f"{name}.ome.tif")
        assert (stack.original_axes, stack.data_shape) == ("TYX", (6, 1, 40, 50))
        np.testing.assert_array_equal(stack.array[1:5, 3:9, 3:9], array[1:5, 3:9, 3:9])


def test_a_set_is_listed_once_and_each_of_its_images_is_found(tmp_path: Path) -> None:
    arrays = write_set(tmp_path, [["a.ome.tif", "b.ome.tif"], ["c.ome.tif", "d.ome.tif"]])
    write(tmp_path / "e.tif", numbers((40, 50)), {})
    module = TiffDataModule(train_data=tmp_path, patch_size=(8, 8), batch_size=1)
    listing = module.list_sources(tmp_path, "train_data")
    assert [path.name for path in listing.inputs] == ["a.ome.tif", "c.ome.tif", "e.tif"]
    for path, array in zip(listing.inputs[:2], arrays, strict=True):
        (stack,) = module.open_source(path, "auto")
        assert isinstance(stack, ArrayStack)
        np.testing.assert_array_equal(whole(stack), array)


def test_a_file_of_a_set_that_was_renamed_is_found_by_its_identity(tmp_path: Path) -> None:
    (array,) = write_set(tmp_path, [["a.ome.tif"]])
    renamed = (tmp_path / "a.ome.tif").rename(tmp_path / "renamed.ome.tif")
    np.testing.assert_array_equal(whole(open_tiff(renamed)), array)


def test_a_missing_file_of_a_set_is_named_never_read_as_zeros(tmp_path: Path) -> None:
    write_set(tmp_path, [["a.ome.tif", "b.ome.tif", "c.ome.tif"]])
    (tmp_path / "b.ome.tif").unlink()
    with pytest.raises(DataError, match=r"a\.ome\.tif: .* 6 pages, but 4 .* no b\.ome\.tif"):
        open_tiff(tmp_path / "a.ome.tif")


# ---------------------------------------------------------------------------- scale and names


@pytest.mark.parametrize(
    ("how", "scale"),
    [
        ({}, {}),
        ({"resolution": (2, 4), "resolutionunit": "NONE"}, {}),
        (
            {"resolution": (1e5, 5e4), "resolutionunit": "CENTIMETER"},
            {"Y": (0.2, "µm"), "X": (0.1, "µm")},
        ),
        (
            {"imagej": True, "resolution": (10, 5), "metadata": {"axes": "ZYX", **UM}},
            {"Z": (0.5, "µm"), "Y": (0.2, "µm"), "X": (0.1, "µm")},
        ),
        (
            {"imagej": True, "resolution": (10, 5), "metadata": {"axes": "ZYX", "unit": "micron"}},
            {"Y": (0.2, "µm"), "X": (0.1, "µm")},
        ),
        ({"imagej": True, "resolution": (10, 5), "metadata": {"axes": "ZYX"}}, {}),
        (
            {
                "ome": True,
                "metadata": {
                    "axes": "ZYX",
                    "PhysicalSizeX": 100,
                    "PhysicalSizeXUnit": "nm",
                    "PhysicalSizeZ": 2.5,
                    "PhysicalSizeZUnit": "µm",
                },
            },
            {"X": (100.0, "nm"), "Z": (2.5, "µm")},
        ),
    ],
)
def test_pixel_size(
    tmp_path: Path, how: dict[str, Any], scale: dict[str, tuple[float, str]]
) -> None:
    write(tmp_path / "a.tif", numbers((5, 33, 47)), how)
    found = open_tiff(tmp_path / "a.tif", "ZYX").scale
    assert found.keys() == scale.keys()
    for axis, (size, unit) in scale.items():
        assert found[axis] == (pytest.approx(size), unit)


@pytest.mark.parametrize("dots", [(72, 72), (96, 96), (300, 300), (123, 123)])
@pytest.mark.parametrize("unit", ["INCH", "CENTIMETER", "ImageJ"])
def test_dots_per_inch_are_no_pixel_size(
    tmp_path: Path, dots: tuple[float, float], unit: str
) -> None:
    how: dict[str, Any] = {"resolution": dots, "resolutionunit": unit}
    if unit == "CENTIMETER":
        how["resolution"] = (round(dots[0] / 2.54, 3), round(dots[1] / 2.54, 3))
    if unit == "ImageJ":  # which takes them from other files
        how = {"imagej": True, "resolution": dots, "metadata": {"unit": "inch"}}
    write(tmp_path / "a.tif", numbers((33, 47)), how)
    assert bool(open_tiff(tmp_path / "a.tif").scale) == (unit == "CENTIMETER" and dots[0] == 123)


def test_pixel_size_of_microscopes(tmp_path: Path) -> None:
    array, tenth = numbers((5, 20, 24)), (pytest.approx(0.1), "µm")
    stk(tmp_path / "a.stk", array, 0.1, 0.5)
    lsm(tmp_path / "b.lsm", array, 0.1, 0.5)
    module = TiffDataModule(predict_data=tmp_path, patch_size=(4, 16, 16))
    module.setup("predict")
    for stack in module.predict_stacks:
        assert isinstance(stack, ArrayStack)
        assert stack.scale == {"Z": (0.5, "µm"), "Y": tenth, "X": tenth}
        np.testing.assert_array_equal(whole(stack), array)


def test_pixel_size_of_an_electron_microscope(tmp_path: Path) -> None:
    text = "[Scan]\r\nPixelWidth=4.0e-09\r\nPixelHeight=5.0e-09\r\n"
    how = {"resolution": (72, 72), "resolutionunit": "INCH", "metadata": None}
    tifffile.imwrite(
        tmp_path / "a.tif", numbers((33, 47)), extratags=[(34682, 2, 0, text, True)], **how
    )
    scale = open_tiff(tmp_path / "a.tif").scale
    assert scale == {"Y": (pytest.approx(0.005), "µm"), "X": (pytest.approx(0.004), "µm")}


def test_channel_names(tmp_path: Path) -> None:
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    write(tmp_path / "a.tif", numbers((2, 33, 47)), {"ome": True, "metadata": metadata})
    assert open_tiff(tmp_path / "a.tif").channel_names == ("DAPI", "GFP")
    assert open_tiff(tmp_path / "a.tif", "ZYX", trust_axes=True).channel_names is None


# -------------------------------------------------------------------------------------- axes

IMAGEJ = {"imagej": True, "metadata": {"axes": "ZYX"}}


@pytest.mark.parametrize(
    ("shape", "how", "axes", "message"),
    [
        ((5, 33, 47), {}, "auto", r'shape \(5, 33, 47\).* Give 3 letters.*"TYX" or "ZYX"'),
        ((5, 6, 33, 47), {}, "auto", r'Give 4 letters.*"TZYX" or "ZCYX"'),
        ((5, 33, 47), {"metadata": {"axes": "QYX"}}, "auto", "does not say"),
        ((5, 33, 47), {"metadata": {"axes": "ZCX"}}, "auto", "does not say"),
        ((5, 33, 47), IMAGEJ, "TYX", 'axes="TYX" contradicts .* say ZYX.*trust_axes=true'),
        ((5, 33, 47), IMAGEJ, "ZXY", 'axes="ZXY" contradicts'),
        ((5, 33, 47), IMAGEJ, "YX", "2 letters for 3 dimensions"),
        ((5, 33, 47), {}, "TZYX", "4 letters for 3 dimensions"),
        ((5, 33, 47), {}, "AYX", "A is not an axis"),
        ((33, 47, 3), {"photometric": "rgb", "dtype": "uint8"}, "YXZ", "contradicts"),
    ],
)
def test_axes_that_cannot_be_known_or_contradict_the_file(
    tmp_path: Path, shape: tuple[int, ...], how: dict[str, Any], axes: str, message: str
) -> None:
    how = dict(how)
    write(tmp_path / "a.tif", numbers(shape, how.pop("dtype", "uint16")), how)
    with pytest.raises(DataError, match=r"a\.tif: .*" + message):
        open_tiff(tmp_path / "a.tif", axes)


@pytest.mark.parametrize("axes", ["TYX", "XZY", "SYX"])
def test_trust_axes_overrides_the_file(tmp_path: Path, axes: str) -> None:
    write(tmp_path / "a.tif", numbers((5, 33, 47)), IMAGEJ)
    stack = open_tiff(tmp_path / "a.tif", axes, trust_axes=True)
    assert (stack.original_axes, stack.original_data_shape) == (axes, (5, 33, 47))


def test_all_that_folds_into_samples_agrees(tmp_path: Path) -> None:
    metadata = {"axes": "TYX"}
    write(tmp_path / "a.tif", numbers((5, 33, 47)), {"imagej": True, "metadata": metadata})
    assert open_tiff(tmp_path / "a.tif", "SYX").data_shape == (5, 1, 33, 47)


def test_channels_of_several_samples_need_a_string(tmp_path: Path) -> None:
    metadata = {"axes": "CYXS"}
    how = {"ome": True, "metadata": metadata, "photometric": "rgb"}
    write(tmp_path / "a.tif", numbers((2, 33, 47, 3), "uint8"), how)
    with pytest.raises(DataError, match="does not say"):
        open_tiff(tmp_path / "a.tif")
    assert open_tiff(tmp_path / "a.tif", "CYXS").data_shape == (3, 2, 33, 47)


# --------------------------------------------------------------------------------- bad input


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def not_a_tiff(path: Path) -> None:
    path.write_text("intensity\n1\n2\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def missing(path: Path) -> None:
    path.unlink(missing_ok=True)


def without_pages(path: Path) -> None:
    path.write_bytes(b"II*\0\0\0\0\0")


def mapped_cut(path: Path) -> None:
    tifffile.imwrite(path, numbers((5, 33, 47)))
    cut(path, path.stat().st_size - 2000)


def tiles_cut(path: Path) -> None:
    tifffile.imwrite(path, numbers((96, 96)), tile=(32, 32), compression="zlib")
    cut(path, path.stat().st_size - 100)


def pages_cut(path: Path) -> None:
    write(path, numbers((9, 33, 47)), {"page by page": True})
    cut(path, path.stat().st_size // 2)


def chain_cut(path: Path) -> None:
    write(path, numbers((9, 33, 47)), {"page by page": True, "compression": "zlib"})
    with tifffile.TiffFile(path) as tiff:
        end = tiff.pages[5].offset
    cut(path, end)


def imagej_cut(path: Path) -> None:
    one_directory(path)
    cut(path, 20000)


def end_pages_after(path: Path, page: int) -> None:
    """End the chain of pages early, as a program that was stopped may leave it."""
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[page].offset
    content = bytearray(path.read_bytes())
    (n_tags,) = struct.unpack_from("<H", content, offset)
    struct.pack_into("<I", content, offset + 2 + n_tags * 12, 0)
    path.write_bytes(content)


def one_directory(path: Path) -> None:
    """As ImageJ writes stacks: only the first plane has a directory."""
    tifffile.imwrite(path, numbers((9, 33, 47)), imagej=True, metadata={"axes": "ZYX"})
    end_pages_after(path, 0)


def pages_dropped(path: Path, **how: Any) -> None:
    tifffile.imwrite(path, numbers((9, 33, 47)), compression="zlib", **how)
    end_pages_after(path, 4)


def imagej_pages_dropped(path: Path) -> None:
    pages_dropped(path, imagej=True, metadata={"axes": "ZYX"})


def ome_pages_dropped(path: Path) -> None:
    pages_dropped(path, ome=True, metadata={"axes": "ZYX"})


def shaped_pages_dropped(path: Path) -> None:
    pages_dropped(path)


def axes_pages_dropped(path: Path) -> None:
    pages_dropped(path, metadata={"axes": "ZYX"})


def complex_numbers(path: Path) -> None:
    tifffile.imwrite(path, np.ones((33, 47), np.complex64))


def unknown_compression(path: Path) -> None:
    tifffile.imwrite(path, numbers((33, 47)), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags[259].overwrite(34676)  # SGILOG


def odd_bits(path: Path) -> None:
    tifffile.imwrite(path, numbers((33, 47)))
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags[258].overwrite(99)


def too_few_tiles(path: Path) -> None:
    tifffile.imwrite(path, numbers((96, 96)), tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags[324].overwrite(tiff.pages[0].dataoffsets[:5])


FLAT = [tiles_cut, complex_numbers, unknown_compression, odd_bits, too_few_tiles]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (not_a_tiff, "not a readable TIFF file.*Save it again"),
        (empty, r"it is empty \(0 bytes\)"),
        (missing, "not a readable TIFF file.*No such file"),
        (without_pages, "holds no image"),
        (mapped_cut, r"truncated.*it has \d+ bytes.*[Cc]opy or save it again"),
        (tiles_cut, "truncated"),
        (pages_cut, "truncated|not a readable"),
        (chain_cut, "truncated"),
        (imagej_cut, "truncated.*9 pages, but 6"),
        (imagej_pages_dropped, "9 pages, but 5"),
        (ome_pages_dropped, "9 pages, but 5"),
        (shaped_pages_dropped, "9 pages, but"),
        (axes_pages_dropped, "9 pages, but 5"),
        (complex_numbers, "complex64 is not a real number"),
        (unknown_compression, "compression SGILOG.*convert the file to an uncompressed TIFF"),
        (odd_bits, "99 bits.*no NumPy dtype"),
        (too_few_tiles, "lists 5 strips or tiles where 9 are needed"),
    ],
)
def test_bad_files_are_told_when_they_are_opened(
    tmp_path: Path, damage: Callable[[Path], None], message: str, reads: Reads
) -> None:
    damage(tmp_path / "bad.tif")
    axes = "YX" if damage in FLAT else "ZYX"
    with pytest.raises(DataError, match=r"bad\.tif: .*" + message):
        open_tiff(tmp_path / "bad.tif", axes)
    assert reads == []


@pytest.mark.parametrize("case", ["stack", "ImageJ", "OME", "deflate", "pages apart"])
def test_a_file_cut_anywhere_gives_an_error_or_its_pixels_never_others(
    tmp_path: Path, case: str
) -> None:
    shape, dtype, how, asked, *_ = READABLE[case]
    array = numbers(shape, dtype)
    write(tmp_path / "a.tif", array, how)
    content = (tmp_path / "a.tif").read_bytes()
    refused = 0
    for size in np.linspace(0, len(content) - 1, 40).astype(int):
        (tmp_path / "a.tif").write_bytes(content[:size])
        try:
            np.testing.assert_array_equal(whole(open_tiff(tmp_path / "a.tif", asked)), array)
        except DataError:
            refused += 1
    assert refused > 30


def test_a_codec_that_imagecodecs_was_built_without_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", numbers((33, 47)), compression="lzw")

    def lacking(*args: object, **kwargs: object) -> None:
        raise imagecodecs.DelayedImportError("lzw_decode")

    monkeypatch.setitem(tifffile.TIFF.DECOMPRESSORS._codecs, 5, lacking)
    with pytest.raises(DataError, match=r"a\.tif: compression LZW, .* pip install imagecodecs"):
        open_tiff(tmp_path / "a.tif")


def test_damage_within_a_tile_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, numbers((64, 64)), tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[3]
    content = bytearray(path.read_bytes())
    content[offset : offset + 50] = bytes(50)
    path.write_bytes(content)
    stack = open_tiff(path)
    np.testing.assert_array_equal(stack.array[0:32, 0:32], numbers((64, 64))[:32, :32])
    with pytest.raises(DataError, match=rf"a\.tif: segment 3 of page 0 at byte {offset} cannot"):
        whole(stack)


# ------------------------------------------------------------- recordings that stopped early


def described(path: Path, n_pages: int, text: str) -> None:
    """Write pages of which the first has a description, which may declare another number."""
    with tifffile.TiffWriter(path) as tiff:
        for i, page in enumerate(numbers((n_pages, 20, 30))):
            description = text if i == 0 else None
            tiff.write(page, description=description, metadata=None, contiguous=False)


def by_ome(n: int, z: int = 1) -> str:
    return (
        f'<OME {OME}><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" '
        f'Type="uint16" SizeX="30" SizeY="20" SizeZ="{z}" SizeC="1" SizeT="{n}">'
        '<Channel ID="Channel:0:0"/><TiffData/></Pixels></Image></OME>'
    )


def by_imagej(n: int, z: int = 1) -> str:
    return f"ImageJ=1.53t\nimages={n * z}\nslices={z}\nframes={n}\nhyperstack=true\n"


@pytest.mark.parametrize(
    ("text", "n_pages", "n_there", "axes"),
    [
        (by_ome(15), 10, 10, "TYX"),
        (by_ome(5, 3), 10, 9, "TZYX"),
        (by_ome(1, 15), 10, 10, "ZYX"),
        (by_imagej(15), 10, 10, "TYX"),
        (by_imagej(5, 3), 10, 9, "TZYX"),
        (by_imagej(1, 15), 10, 10, "ZYX"),
        (by_imagej(3500), 1, 1, "YX"),
    ],
)
def test_fewer_pages_than_declared_are_an_error_or_trimmed_to_whole_frames(
    tmp_path: Path, text: str, n_pages: int, n_there: int, axes: str
) -> None:
    path = tmp_path / "a.tif"
    described(path, n_pages, text)
    said = rf"a\.tif: truncated: it declares \d+ pages, but {n_pages} are found"
    with pytest.raises(DataError, match=said + ".*incomplete=trim"):
        open_tiff(path)
    with pytest.warns(UserWarning, match=said + rf".* are read, {n_there} page\(s\)"):
        stack = open_tiff(path, incomplete="trim")
    assert stack.original_axes == axes
    pages = numbers((n_pages, 20, 30))[:n_there]
    np.testing.assert_array_equal(whole(stack).reshape(pages.shape), pages)


@pytest.mark.parametrize("text", [by_ome(5), by_imagej(5)], ids=["OME", "ImageJ"])
def test_more_pages_than_declared_are_left_with_a_warning(tmp_path: Path, text: str) -> None:
    described(tmp_path / "a.tif", 10, text)
    with pytest.warns(UserWarning, match=r"a\.tif: has 10 pages, 5 more than it declares"):
        stack = open_tiff(tmp_path / "a.tif")
    np.testing.assert_array_equal(whole(stack), numbers((10, 20, 30))[:5])


@pytest.mark.filterwarnings("ignore:.*truncated")
@pytest.mark.parametrize(
    ("how", "n_there"),
    [
        ({"metadata": {"axes": "TYX"}}, 4),
        ({"metadata": {"axes": "TYX"}, "compression": "zlib"}, 4),
        ({"imagej": True, "metadata": {"axes": "TYX"}}, 4),
        ({"imagej": True, "metadata": {"axes": "TYX"}, "compression": "zlib"}, 4),
        ({"page by page": True}, 4),
    ],
)
def test_a_file_that_was_cut_off_is_trimmed(
    tmp_path: Path, how: dict[str, Any], n_there: int
) -> None:
    array, path = numbers((9, 33, 47)), tmp_path / "a.tif"
    write(path, array, how)
    cut(path, path.stat().st_size // 2)
    stack = open_tiff(path, "TYX", incomplete="trim")
    np.testing.assert_array_equal(whole(stack), array[:n_there])
    assert len(pickle.dumps(stack)) < 1100


@pytest.mark.parametrize("bigtiff", [False, True])
def test_a_file_that_ends_inside_of_a_directory_is_trimmed(tmp_path: Path, bigtiff: bool) -> None:
    array, path = numbers((9, 33, 47)), tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as file:
        for page in array:
            file.write(page, contiguous=False, metadata=None)
    with tifffile.TiffFile(path) as file:
        begin = file.pages[5].offset
        n_bytes = file.tiff.tagnosize + len(file.pages[5].tags) * file.tiff.tagsize
    for end in range(begin + n_bytes - 1, begin, -7):
        cut(path, end)
        said = rf"but it has {end} bytes; 5 page\(s\) are found"
        with pytest.raises(DataError, match=said + ".*incomplete=trim"):
            open_tiff(path, "TYX")
        with pytest.warns(UserWarning, match=said + ".*frames that are there are read, 5"):
            stack = open_tiff(path, "TYX", incomplete="trim")
        np.testing.assert_array_equal(whole(stack), array[:5])


def test_without_a_whole_frame_trim_does_not_help(tmp_path: Path) -> None:
    tiles_cut(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: truncated: its page goes on beyond its end"):
        open_tiff(tmp_path / "a.tif", incomplete="trim")
    described(tmp_path / "b.tif", 2, by_ome(5, 3))
    with pytest.raises(DataError, match=r"b\.tif: truncated: .*2 are found.* Copy or save it"):
        open_tiff(tmp_path / "b.tif", incomplete="trim")


@pytest.mark.parametrize("text", [by_ome(10**9), by_imagej(10**9)], ids=["OME", "ImageJ"])
def test_a_number_of_pages_that_no_file_can_hold(tmp_path: Path, text: str) -> None:
    described(tmp_path / "a.tif", 2, text)
    with pytest.raises(DataError, match=r"a\.tif: declares 1000000000 pages, but has \d+ bytes"):
        open_tiff(tmp_path / "a.tif", incomplete="trim")


def test_the_folder_is_searched_for_all_tiff_endings(tmp_path: Path) -> None:
    names = ["a.tif", "b.TIFF", "c.ome.tif", "d.btf", "e.ome.tiff", "sub/f.tf8", "g.lsm", "h.STK"]
    for name in [*names, "i.png", ".hidden.tif"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, numbers((8, 8)), {})
    module = TiffDataModule(train_data=tmp_path, patch_size=(8, 8), batch_size=1)
    found = module.list_sources(tmp_path, "train_data").inputs
    assert sorted(str(p.relative_to(tmp_path)) for p in found) == sorted(map(str, map(Path, names)))


# ------------------------------------------------------------------- through the DataModule


def module_of(data: object, **arguments: Any) -> TiffDataModule:
    shared: dict[str, Any] = {"patch_size": (16, 16), "batch_size": 2, "patches_per_epoch": 4}
    return TiffDataModule(train_data=data, **(shared | arguments))


def test_all_faults_of_a_folder_come_in_one_message(tmp_path: Path) -> None:
    write(tmp_path / "good.tif", numbers((33, 47)), {})
    not_a_tiff(tmp_path / "table.tif")
    tiles_cut(tmp_path / "cut.tif")
    write(tmp_path / "frames.tif", numbers((5, 33, 47)), IMAGEJ)
    with pytest.raises(DataError, match=r"^train_data: 3 problems:") as error:
        module_of(tmp_path, axes="YX").setup("fit")
    _, *faults = str(error.value).splitlines()
    told = [
        r"cut\.tif: truncated: .* it has \d+ bytes",
        r"frames\.tif: .*2 letters for 3 dimensions",
        r"table\.tif: not a readable TIFF file",
    ]
    for fault, message in zip(faults, told, strict=True):
        assert re.search(message, fault), fault


def test_faults_of_training_and_validation_come_together(tmp_path: Path) -> None:
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        empty(tmp_path / name / f"{name}.tif")
    module = module_of(tmp_path / "train", val_data=tmp_path / "val")
    with pytest.raises(DataError, match=r"train\.tif: .*empty(.|\n)*val\.tif: .*empty"):
        module.setup("fit")


def test_volumes_among_planes_are_told(tmp_path: Path) -> None:
    write(tmp_path / "plane.tif", numbers((33, 47)), {})
    write(tmp_path / "volume.tif", numbers((20, 33, 47)), IMAGEJ)
    with pytest.raises(DataError, match=r"volume\.tif: axes ZYX .* patch_size needs 3 numbers"):
        module_of(tmp_path).setup("fit")


def test_a_set_of_files_is_one_image_of_the_module_and_pairs_with_one_target(
    tmp_path: Path,
) -> None:
    for name in ("input", "target"):
        (tmp_path / name).mkdir()
        (array,) = write_set(tmp_path / name, [["a.ome.tif", "b.ome.tif", "c.ome.tif"]])
        write(tmp_path / name / "other.tif", array, {"metadata": {"axes": "TYX"}})
    module = module_of(tmp_path / "input", train_target=tmp_path / "target", in_memory=False)
    module.setup("fit")
    names = [Path(stack.source).name for stack in module.images_of("train").stacks]
    assert names == ["a.ome.tif", "other.tif"]
    assert [stack.data_shape for stack in module.images_of("train").stacks] == [(6, 1, 40, 50)] * 2
    for stack in module.images_of("train").stacks:
        assert isinstance(stack, ArrayStack)
        np.testing.assert_array_equal(whole(stack), array)


def test_a_missing_file_of_a_set_is_told_once(tmp_path: Path) -> None:
    write_set(tmp_path, [["a.ome.tif", "b.ome.tif", "c.ome.tif"]])
    (tmp_path / "b.ome.tif").unlink()
    with pytest.raises(DataError, match=r"^train_data: .*a\.ome\.tif: .* no b\.ome\.tif") as error:
        module_of(tmp_path).setup("fit")
    assert len(str(error.value).splitlines()) == 1


# name: shapes, axes, how they are written, kind of array, arguments of the module
PROMISES: dict[str, tuple[list[tuple[int, ...]], str, dict[str, Any], type, dict[str, Any]]] = {
    "raw contiguous": ([(64, 80), (50, 70)], "YX", {}, RawArray, {"tile_size": (32, 32)}),
    "raw contiguous, streamed": ([(64, 80)] * 2, "YX", {}, RawArray, {"in_memory": False}),
    "deflate tiles of mixed shapes, streamed": (
        [(96, 130), (70, 200), (64, 48)],
        "YX",
        {"tile": (32, 48), "compression": "zlib"},
        TiffArray,
        {"in_memory": False, "tile_size": (48, 48)},
    ),
    "OME TZCYX": (
        [(2, 6, 3, 40, 50)],
        "TZCYX",
        {"ome": True, "metadata": {"axes": "TZCYX"}},
        RawArray,
        {"patch_size": (4, 16, 16), "tile_size": (4, 24, 24)},
    ),
    "OME TZCYX, deflate, streamed": (
        [(2, 6, 3, 40, 50)],
        "TZCYX",
        {"ome": True, "metadata": {"axes": "TZCYX"}, "tile": (16, 16), "compression": "zlib"},
        TiffArray,
        {"patch_size": (4, 16, 16), "in_memory": False, "channels": (2, 0)},
    ),
}


@pytest.mark.parametrize("case", PROMISES)
def test_the_module_and_its_stacks_keep_all_promises(tmp_path: Path, case: str) -> None:
    shapes, axes, how, kind, arguments = PROMISES[case]
    arrays = [numbers(shape) for shape in shapes]
    for i, array in enumerate(arrays):
        write(tmp_path / f"{i}.tif", array, how)
    check_datamodule(module_of(tmp_path, test_data=tmp_path, predict_data=tmp_path, **arguments))
    module = module_of(None, predict_data=tmp_path, **arguments)
    for stack, array in zip(module.predict_stacks, arrays, strict=True):
        assert isinstance(stack, ArrayStack)
        assert (type(stack.array), stack.original_axes) == (kind, axes)
        expected = array.swapaxes(1, 2) if axes == "TZCYX" else array[None, None]
        check_image_stack(stack, expected)
        check_image_stack(stack.load(), expected)


def test_rows_of_a_manifest_name_series_and_channel(tmp_path: Path) -> None:
    one, two = (np.zeros(shape, np.uint16) for shape in ((3, 40, 50), (3, 30, 40)))
    with tifffile.TiffWriter(tmp_path / "a.tif", ome=True) as file:
        for image in (one, two):
            file.write(image, metadata={"axes": "CYX"}, photometric="minisblack")
    (tmp_path / "m.csv").write_text("input,series,channel\na.tif,0,2\na.tif,1,0\n")
    data = TiffDataModule(train_data=tmp_path / "m.csv", patch_size=(16, 16))
    data.setup("fit")
    assert [s.source for s in data.images_of("train").stacks] == [
        str(tmp_path / "a.tif" / name) for name in ("series_0", "series_1")
    ]
    assert [s.data_shape for s in data.images_of("train").stacks] == [
        (1, 3, 40, 50),
        (1, 3, 30, 40),
    ]
    assert data.n_channels == 1
    (tmp_path / "m.csv").write_text("input,series\na.tif,first\n")
    with pytest.raises(DataError, match=r"a.tif: series=first: a manifest gives it as a whole"):
        TiffDataModule(train_data=tmp_path / "m.csv").setup("fit")


@pytest.mark.parametrize("compression", ["zlib", None])
def test_loading_takes_the_pixels_once(compression: str | None, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 9, (40, 128, 128)).astype(np.uint16)
    how = {"tile": (64, 64), "photometric": "minisblack", "metadata": {"axes": "TYX"}}
    tifffile.imwrite(tmp_path / "a.tif", image, compression=compression, **how)
    stack = open_tiff(tmp_path / "a.tif")
    tracemalloc.start()
    loaded = stack.load()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * image.nbytes
    assert loaded.in_memory and np.array_equal(loaded.array, image)


@pytest.mark.parametrize(
    ("compression", "photometric", "message"),
    [
        (32809, 1, "compression THUNDERSCAN, MINISBLACK pixels, .*convert the file"),
        (34676, 32844, "compression SGILOG, LOGL pixels, .*convert the file"),
        (34661, 1, "compression JBIG, MINISBLACK pixels, .*convert the file"),
        (1, 6, "compression NONE, YCBCR pixels, .*chroma subsampling .*convert the file"),
    ],
)
def test_what_no_codec_reads_is_to_be_converted(
    compression: int, photometric: int, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, numbers((32, 32, 3), "uint8"), photometric="rgb", metadata=None)
    with tifffile.TiffFile(path) as file:
        places = [file.pages.first.tags[code].valueoffset for code in (259, 262)]
    content = bytearray(path.read_bytes())
    for place, value in zip(places, (compression, photometric), strict=True):
        content[place : place + 2] = struct.pack("<H", value)
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.tif: {message}") as raised:
        open_tiff(path, "YXC")
    assert "pip install" not in str(raised.value)
