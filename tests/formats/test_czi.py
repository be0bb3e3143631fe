"""What `CziDataModule` reads and refuses, on files written by pylibCZIrw."""

from __future__ import annotations

import multiprocessing
import pickle
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import product
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from conftest import open_files
from czi_files import (
    OF_DIMENSION,
    Tile,
    change_entry,
    directory_position,
    read_direct,
    replace_pixels,
    sub_block_position,
    sum_of,
    write_czi,
)
from pylibCZIrw.czi import CziReader

from careamics_dm.errors import DataError
from careamics_dm.formats.czi import planes as _czi_planes
from careamics_dm.formats.czi.datamodule import CziDataModule, open_czi
from careamics_dm.formats.czi.directory import read_directory
from careamics_dm.formats.czi.layout import indices_of
from careamics_dm.formats.czi.planes import CziArray, Key, OpenCzi
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.testing.datamodule_checks import check_datamodule, check_image_stack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = pytest.mark.usefixtures("files_close")

H, W = 40, 52
ORIGIN = {"T": 0, "Z": 0, "C": 0, "S": 0}


def numbers(shape: tuple[int, ...] = (H, W), dtype: str = "uint16", seed: int = 0) -> NDArray[Any]:
    """Pixels, none of them 0: what was not acquired is told apart."""
    return np.random.default_rng(seed).integers(1, 250, shape).astype(dtype)


def planes(dtype: str = "uint16", at: tuple[int, int] = (0, 0), **indices: Any) -> list[Tile]:
    """One sub-block per plane, for all combinations of indices, in scene 0 if none is given."""
    indices = {"S": [0]} | indices
    combinations = [dict(zip(indices, c, strict=True)) for c in product(*indices.values())]
    return [Tile(numbers(dtype=dtype, seed=i), plane, at) for i, plane in enumerate(combinations)]


def along(**indices: Any) -> list[dict[str, int]]:
    """All combinations of indices, the last dimension running fastest."""
    return [dict(zip(indices, c, strict=True)) for c in product(*indices.values())]


def only(stacks: list[ArrayStack]) -> ArrayStack:
    (stack,) = stacks
    return stack


def read(stack: ArrayStack) -> NDArray[Any]:
    return stack.array[tuple(slice(0, n) for n in stack.original_data_shape)]


def whole(stack: ArrayStack) -> NDArray[Any]:
    """Read all of an image and close its file."""
    pixels = read(stack)
    stack.close()
    return pixels


def from_three() -> list[Tile]:
    return planes(T=[3, 4], Z=[3, 4, 5], C=[3, 4])


def mosaic(n: int = 3, step: int = 30, skip: tuple[int, ...] = (), **plane: int) -> list[Tile]:
    """Tiles that overlap by 10 rows and 22 columns; some may be left out."""
    at = [(x * step, y * step) for y, x in product(range(n), range(n))]
    return [
        Tile(numbers(seed=i), ORIGIN | plane, place) for i, place in enumerate(at) if i not in skip
    ]


# ------------------------------------------------------------------------------- what is read

ROI = (0, 0, W, H)
# name: tiles, how they are written, axes, how pylibCZIrw is asked
READABLE: dict[str, tuple[list[Tile], dict[str, Any], str, dict[str, Any]]] = {
    "a plane": (planes(T=[0], Z=[0], C=[0]), {}, "SCYX", {"samples": [{}]}),
    "8 bit": (planes("uint8", C=[0]), {}, "SCYX", {"samples": [{}]}),
    "float": (planes("float32", C=[0]), {}, "SCYX", {"samples": [{}]}),
    "Zstandard 0": (
        planes(T=[0, 1], C=[0, 1]),
        {"compression": "zstd0:ExplicitLevel=1"},
        "SCYX",
        {"samples": along(T=[0, 1]), "channels": [0, 1]},
    ),
    "Zstandard 1": (
        planes(Z=[0, 1], C=[0]),
        {"compression": "zstd1:ExplicitLevel=1;PreProcess=HiLoByteUnpack"},
        "SCZYX",
        {"samples": [{}], "depth": along(Z=[0, 1])},
    ),
    "indices from 3, Z is depth": (
        from_three(),
        {},
        "SCZYX",
        {"samples": along(T=[3, 4]), "depth": along(Z=[3, 4, 5]), "channels": [3, 4]},
    ),
    "indices from 3, T is depth": (
        from_three(),
        {},
        "SCTYX",
        {"samples": along(Z=[3, 4, 5]), "depth": along(T=[3, 4]), "channels": [3, 4]},
    ),
    "indices from 3, planes: Z runs faster than T": (
        from_three(),
        {},
        "scyx",
        {"samples": along(T=[3, 4], Z=[3, 4, 5]), "channels": [3, 4]},
    ),
    "one index, not 0": (
        planes(T=[7], Z=[5], C=[1]),
        {},
        "SCYX",
        {"samples": along(T=[7], Z=[5]), "channels": 1, "pixel_type": "Gray16"},
    ),
    "indices with holes": (
        planes(T=[2, 5, 6], Z=[0, 10, 20], C=[0, 3]),
        {},
        "SCZYX",
        {"samples": along(T=[2, 5, 6]), "depth": along(Z=[0, 10, 20]), "channels": [0, 3]},
    ),
    "negative origin": (
        planes(at=(-100, -7), C=[0]),
        {},
        "SCYX",
        {"samples": [{}], "roi": (-100, -7, W, H)},
    ),
    "huge origin": (
        planes(at=(2_000_000_000, 1_500_000_000), C=[0]),
        {},
        "SCYX",
        {"samples": [{}], "roi": (2_000_000_000, 1_500_000_000, W, H)},
    ),
    "without scenes": (
        [Tile(numbers(), {"Z": z, "C": 0}) for z in (0, 1)],
        {},
        "SCZYX",
        {"samples": [{}], "depth": along(Z=[0, 1]), "scene": None},
    ),
    "a dimension of length 1 that not all sub-blocks name": (
        [*planes(C=[0], Z=[3]), *planes(C=[1])],
        {},
        "SCYX",
        {"samples": along(Z=[3]), "channels": [0, 1]},
    ),
    "without T, Z and C": ([Tile(numbers(), {"S": 0})], {}, "SCYX", {"samples": [{}]}),
    "more dimensions fold into samples, alphabetically": (
        planes(V=[0, 1], T=[0, 1], C=[0, 1], H=[1, 2, 3]),
        {},
        "SCYX",
        {"samples": along(T=[0, 1], H=[1, 2, 3], V=[0, 1]), "channels": [0, 1]},
    ),
    "more dimensions and depth": (
        planes(I=[0, 1], Z=[1, 2], C=[0], B=[0], R=[0, 1]),
        {},
        "SCZYX",
        {"samples": along(I=[0, 1], R=[0, 1]), "depth": along(Z=[1, 2])},
    ),
    "colours are channels": (
        [Tile(numbers((H, W, 3), "uint8"), ORIGIN | {"T": t}) for t in (0, 1)],
        {},
        "SCYX",
        {"samples": along(T=[0, 1])},
    ),
    "colours of 16 bit": (
        [Tile(numbers((H, W, 3)), ORIGIN | {"Z": z}) for z in (0, 1)],
        {},
        "SCZYX",
        {"samples": [{}], "depth": along(Z=[0, 1])},
    ),
    "colours in several channels": (
        [Tile(numbers((H, W, 3), "uint8", c), ORIGIN | {"C": c}) for c in (0, 1)],
        {},
        "SCYX",
        {"samples": [{}], "channels": [0, 1]},
    ),
    "a mosaic that overlaps": (
        mosaic(),
        {"compression": "zstd0:ExplicitLevel=1"},
        "SCYX",
        {"samples": [{}], "roi": (0, 0, W + 60, H + 60)},
    ),
    "a mosaic with gaps": (
        mosaic(step=70, skip=(0, 4)),
        {},
        "SCYX",
        {"samples": [{}], "roi": (0, 0, W + 140, H + 140)},
    ),
    "missing planes": (
        [tile for i, tile in enumerate(from_three()) if i not in (0, 7)],
        {},
        "SCZYX",
        {"samples": along(T=[3, 4]), "depth": along(Z=[3, 4, 5]), "channels": [3, 4]},
    ),
}


@pytest.mark.parametrize("case", READABLE)
def test_pixels_are_those_that_pylibczirw_reads(tmp_path: Path, case: str) -> None:
    tiles, how, axes, asked = READABLE[case]
    path = write_czi(tmp_path / "a.czi", tiles, **how)
    stack = only(open_czi(path, axes))
    expected = read_direct(path, **({"roi": ROI} | asked))
    assert stack.source == str(path)
    assert stack.original_axes == ("SCZYX" if "depth" in asked else "SCYX")
    assert stack.original_data_shape == stack.data_shape == expected.shape
    assert stack.data_dtype == expected.dtype == tiles[0].pixels.dtype
    check_image_stack(stack, expected)
    check_image_stack(stack.load(), expected)


@pytest.mark.parametrize(
    ("level", "why"), [(1.0, ""), (0.9, "lossy JPEG XR compression")], ids=["lossless", "lossy"]
)
def test_jpeg_xr(tmp_path: Path, level: float, why: str) -> None:
    path = write_czi(tmp_path / "a.czi", [Tile(np.full((H, W), 7, "u2"), ORIGIN)])
    replace_pixels(path, 0, imagecodecs.jpegxr_encode(np.full((H, W), 300, "u2"), level=level))
    change_entry(path, 0, compression=4)
    stack = only(open_czi(path, "SCYX"))
    np.testing.assert_array_equal(whole(stack), 300)
    assert stack.correlated_noise == why


def test_of_a_pyramid_full_resolution_is_read(tmp_path: Path) -> None:
    small = Tile(np.full((H // 2, W // 2), 9, "u2"), ORIGIN, (-2, -2))
    path = write_czi(tmp_path / "a.czi", [small, Tile(numbers(), ORIGIN)])
    for dimension, size in (("X", 2 * W), ("Y", 2 * H)):
        # A level is larger than full resolution, where its tiles reach beyond it.
        change_entry(path, 0, dimension, size=size)
    stack = only(open_czi(path, "SCYX"))
    assert stack.data_shape == (1, 1, H, W)
    check_image_stack(stack, numbers()[None, None])


def test_the_directory_is_read_as_libczi_reads_it(tmp_path: Path) -> None:
    tiles = [*from_three(), *planes(at=(-9, 70), T=[9], Z=[3], C=[3], S=[4])]
    path = write_czi(tmp_path / "a.czi", tiles)
    change_entry(path, 5, "X", stored=W // 2)  # of a pyramid
    found: list[tuple[Any, ...]] = []

    def note(index: int, block: Any) -> bool:
        box, place = block.logicalRect, block.coordinate.to_dict()
        number = block.pixelType.value
        found.append((box.y, box.x, box.y + box.h, box.x + box.w, number, *sorted(place.items())))
        return True

    with closing(CziReader(str(path))) as file:
        file.enumerate_subblocks_subset(note, only_layer0=True)
    blocks = read_directory(str(path))
    rows = np.column_stack([blocks.start, blocks.stop, blocks.pixel_type]).tolist()
    ours = [
        (*row, *((letter, int(blocks.index[letter][i])) for letter in "CSTZ"))
        for i, row in enumerate(rows)
    ]
    assert sorted(ours) == sorted(found)
    assert len(ours) == len(tiles) - 1


# ------------------------------------------------------------------------------------- scenes


def three_scenes(path: Path, scenes: tuple[int, ...] = (1, 2, 5)) -> Path:
    """Scenes of different sizes, the second left of the first, the third with more planes."""
    tiles = [
        Tile(numbers((30 + 10 * i, 64), seed=i), {"Z": z, "C": 0, "S": scene}, (100 - 90 * i, -i))
        for i, scene in enumerate(scenes)
        for z in range(i + 2)
    ]
    return write_czi(path, tiles)


def test_each_scene_is_an_image_of_its_own_size_and_place(tmp_path: Path) -> None:
    path = three_scenes(tmp_path / "a.czi")
    stacks = open_czi(path, "SCZYX")
    assert [s.source for s in stacks] == [f"{path}/scene_{n}" for n in (1, 2, 5)]
    for i, (scene, stack) in enumerate(zip((1, 2, 5), stacks, strict=True)):
        roi = (100 - 90 * i, -i, 64, 30 + 10 * i)
        depth = along(Z=range(i + 2))
        check_image_stack(stack, read_direct(path, roi, [{}], depth, scene=scene))
        assert stack.array.valid_region(0) is None


def test_scenes_are_selected_in_the_order_given(tmp_path: Path) -> None:
    path = three_scenes(tmp_path / "a.czi")
    assert [s.data_shape[1:] for s in open_czi(path, "SCZYX", scenes=[5, 1])] == [
        (1, 4, 50, 64),
        (1, 2, 30, 64),
    ]
    alone = only(open_czi(path, "SCZYX", scenes=[2]))
    assert (alone.source, alone.data_shape) == (str(path), (1, 1, 3, 40, 64))


def test_a_scene_that_is_not_there_is_told(tmp_path: Path) -> None:
    path = three_scenes(tmp_path / "a.czi")
    with pytest.raises(DataError, match=r"a\.czi: scene 0, 3 does not .* scenes 1, 2, 5\. Choose"):
        open_czi(path, "SCYX", scenes=[0, 1, 3])
    write_czi(path, [Tile(numbers(), {"C": 0})])
    assert len(open_czi(path, "SCYX", scenes=[0])) == 1
    with pytest.raises(DataError, match="scene 1 does not exist; the file has no scenes"):
        open_czi(path, "SCYX", scenes=[1])


def test_only_some_scenes_have_depth(tmp_path: Path) -> None:
    tiles = [*planes(S=[0], C=[0], Z=[0]), *planes(S=[1], C=[0], Z=[0, 1], at=(99, 0))]
    path = write_czi(tmp_path / "a.czi", tiles)
    with pytest.raises(DataError, match=r"not in each .* Set axes to SCYX, or choose scenes that"):
        open_czi(path, "SCZYX")
    assert only(open_czi(path, "SCZYX", scenes=[1])).data_shape == (1, 1, 2, H, W)


# --------------------------------------------------------------------------------------- gaps


def acquired(stack: ArrayStack, sample: int = 0, **how: Any) -> NDArray[np.bool_]:
    """Paint the boxes of `valid_region`."""
    size = stack.data_shape[2:]
    boxes = stack.array.valid_region(sample, **how)
    painted = np.full(size, boxes is None)
    for start, stop in boxes or []:
        assert all(0 <= a < b <= n for a, b, n in zip(start, stop, size, strict=True))
        painted[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return painted


@pytest.mark.parametrize(("step", "skip"), [(70, ()), (30, (4,)), (40, (0, 8)), (30, (1, 2, 5))])
def test_the_valid_region_of_a_mosaic_is_what_was_acquired(
    tmp_path: Path, step: int, skip: tuple[int, ...]
) -> None:
    stack = only(open_czi(write_czi(tmp_path / "a.czi", mosaic(3, step, skip)), "SCYX"))
    np.testing.assert_array_equal(acquired(stack), whole(stack)[0, 0] > 0)
    assert len(stack.array.valid_region(0) or [None] * 9) == 9 - len(skip)


def test_a_mosaic_without_gaps_is_all_valid(tmp_path: Path) -> None:
    stack = only(open_czi(write_czi(tmp_path / "a.czi", mosaic()), "SCYX"))
    assert stack.array.may_have_gaps
    assert stack.array.valid_region(0) is None


def test_what_one_channel_lacks_is_not_valid(tmp_path: Path) -> None:
    tiles = [*mosaic(2, 60, (0,), C=0), *mosaic(2, 60, (3,), C=1)]
    stack = only(open_czi(write_czi(tmp_path / "a.czi", tiles), "SCYX"))
    both = whole(stack)[0] > 0
    np.testing.assert_array_equal(acquired(stack), both[0] & both[1])
    for c in (0, 1):
        np.testing.assert_array_equal(acquired(stack, channels=[c]), both[c])


@pytest.mark.parametrize("lacking", [{"height": H - 9}, {"width": W - 9}])
def test_rows_and_columns_that_one_channel_lacks_are_not_valid(
    tmp_path: Path, lacking: dict[str, int]
) -> None:
    shape = (lacking.get("height", H), lacking.get("width", W))
    tiles = [Tile(numbers(), ORIGIN), Tile(numbers(shape), ORIGIN | {"C": 1})]
    stack = only(open_czi(write_czi(tmp_path / "a.czi", tiles), "SCYX"))
    assert stack.array.valid_region(0, [0]) is None
    for channels in (None, [1]):
        np.testing.assert_array_equal(acquired(stack, channels=channels), whole(stack)[0, 1] > 0)


def test_missing_planes_are_boxes_along_depth(tmp_path: Path) -> None:
    tiles = [t for t in planes(T=[0, 1], Z=range(6), C=[0]) if t.plane["T"] or t.plane["Z"] != 2]
    stack = only(open_czi(write_czi(tmp_path / "a.czi", tiles), "SCZYX"))
    assert stack.array.valid_region(0) == [((0, 0, 0), (2, H, W)), ((3, 0, 0), (6, H, W))]
    assert stack.array.valid_region(1) is None


def test_a_sample_that_lacks_a_channel_has_nothing_valid(tmp_path: Path) -> None:
    """As Airyscan files: one channel has 32 phases H, another has one."""
    tiles = [*planes(C=[0], H=range(3)), *planes(C=[1], H=[0])]
    stack = only(open_czi(write_czi(tmp_path / "a.czi", tiles), "SCYX"))
    assert [stack.array.valid_region(i) for i in range(3)] == [None, [], []]
    assert stack.array.valid_region(2, channels=[0]) is None


def test_the_valid_region_is_known_anew_in_another_process(tmp_path: Path) -> None:
    stack = only(open_czi(write_czi(tmp_path / "a.czi", mosaic(3, 70, (2,))), "SCYX"))
    known = stack.array.valid_region(0)
    stack.close()
    assert pickle.loads(pickle.dumps(stack)).array.valid_region(0) == known


# ------------------------------------------------------------------- pixel types, scale, names


def test_pixel_types_that_differ_are_an_error_or_converted(tmp_path: Path) -> None:
    tiles = [Tile(numbers(dtype=d), {"C": c, "S": 0}) for c, d in enumerate(("u1", "u2", "f4"))]
    path = write_czi(tmp_path / "a.czi", tiles[:2])
    with pytest.raises(
        DataError, match=r"different .* \(0: Gray8, 1: Gray16\)\. Set convert_pixel_types=true"
    ):
        open_czi(path, "SCYX")
    stack = only(open_czi(path, "SCYX", convert_pixel_types=True))
    assert stack.data_dtype == np.uint16
    check_image_stack(stack, np.stack([tile.pixels for tile in tiles[:2]])[None])
    write_czi(path, tiles)
    stack = only(open_czi(path, "SCYX", convert_pixel_types=True))
    assert stack.data_dtype == np.float32
    check_image_stack(stack, np.stack([tile.pixels for tile in tiles])[None].astype("f4"))


def test_colour_and_grey_of_the_same_depth_go_together(tmp_path: Path) -> None:
    colour, grey = numbers((H, W, 3), "uint8"), numbers(dtype="uint8", seed=1)
    tiles = [Tile(colour, {"C": 0, "S": 0}), Tile(grey, {"C": 1, "S": 0})]
    path = write_czi(tmp_path / "a.czi", tiles, names={0: "H&E", 1: "DAPI"})
    stack = only(open_czi(path, "SCYX"))
    assert stack.channel_names == ("H&E R", "H&E G", "H&E B", "DAPI")
    check_image_stack(stack, np.stack([*colour.transpose(2, 0, 1)[::-1], grey])[None])


def test_pixel_size_and_channel_names(tmp_path: Path) -> None:
    path = tmp_path / "a.czi"
    write_czi(path, from_three(), names={3: "DAPI", 4: "GFP"}, scale=(1e-7, 1.6e-6, 5e-7))
    stack = only(open_czi(path, "SCZYX"))
    assert stack.scale == {"X": (0.1, "µm"), "Y": (1.6, "µm"), "Z": (0.5, "µm")}
    assert stack.channel_names == ("DAPI", "GFP")
    assert only(open_czi(path, "SCTYX")).scale.keys() == {"X", "Y"}  # frames have no length


@pytest.mark.parametrize("names", [{}, {3: "A", 4: "A"}, {3: "A"}])
def test_names_that_name_nothing_are_left_out(tmp_path: Path, names: dict[int, str]) -> None:
    stack = only(open_czi(write_czi(tmp_path / "a.czi", from_three(), names=names), "SCZYX"))
    assert stack.channel_names is None or len(set(stack.channel_names)) == 2
    assert stack.scale == {}


def test_colours_alone_are_named(tmp_path: Path) -> None:
    path = write_czi(tmp_path / "a.czi", [Tile(numbers((H, W, 3), "uint8"), ORIGIN)])
    assert only(open_czi(path, "SCYX")).channel_names == ("R", "G", "B")


# --------------------------------------------------------------------------------------- axes


@pytest.mark.parametrize(
    ("indices", "patch_dims", "shape"),
    [
        ({"T": [0, 1, 2], "Z": [0, 1], "C": [0]}, 2, (6, 1, H, W)),
        ({"T": [0, 1, 2], "Z": [0, 1], "C": [0]}, 3, (3, 1, 2, H, W)),
        ({"T": [0, 1, 2], "Z": [4], "C": [0]}, 3, (1, 1, 3, H, W)),
    ],
)
def test_auto_goes_by_the_patch_size_and_takes_z_before_t(
    tmp_path: Path, indices: dict[str, Any], patch_dims: int, shape: tuple[int, ...]
) -> None:
    path = write_czi(tmp_path / "a.czi", planes(**indices))
    assert only(open_czi(path, patch_dims=patch_dims)).data_shape == shape


def test_auto_without_depth_is_told(tmp_path: Path) -> None:
    path = write_czi(tmp_path / "a.czi", planes(C=[0]))
    with pytest.raises(DataError, match=r"patch size of 3 numbers, but .* no depth\. Give a"):
        open_czi(path, patch_dims=3)


@pytest.mark.parametrize("axes", ["CYX", "SYX", "YX", "SCTZYX", "SZCYX", "TCZYX", "SC", ""])
def test_other_axes_are_refused_with_the_three(tmp_path: Path, axes: str) -> None:
    path = write_czi(tmp_path / "a.czi", planes(C=[0]))
    with pytest.raises(DataError, match=f'axes="{axes}" is none .*SCYX .*SCZYX .*SCTYX .* both'):
        open_czi(path, axes)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ("SCZYX", "Z cannot be depth: .* Z of length 1 and T of length 2. Set .* SCYX or SCTYX."),
        ("SCTYX", None),
    ],
)
def test_depth_that_is_not_there_is_told(tmp_path: Path, axes: str, message: str | None) -> None:
    path = write_czi(tmp_path / "a.czi", planes(T=[0, 1], C=[0]))
    if message is None:
        assert only(open_czi(path, axes)).data_shape == (1, 1, 2, H, W)
    else:
        with pytest.raises(DataError, match=message):
            open_czi(path, axes)


# ---------------------------------------------------------------------------------- bad input


def overwrite(path: Path, at: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + len(data)] = data
    path.write_bytes(content)


def not_finished(path: Path) -> None:
    overwrite(path, 32 + 52, bytes(8))


def without_blocks(path: Path) -> None:
    overwrite(path, directory_position(path.read_bytes()) + 32, bytes(4))


def same_place(path: Path) -> None:
    change_entry(path, 1, "T", start=0)


def one_without_t(path: Path) -> None:
    write_czi(path, [*planes(C=[0], T=[0, 1]), *planes(C=[1])])


def bad_xml(path: Path) -> None:
    overwrite(path, path.read_bytes().index(b"pylibCZIrw generated"), b"&\1")


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no CZI": (lambda p: p.write_bytes(b"II*\0" * 300), r"not a CZI file: it starts with b'II\*"),
    "empty": (lambda p: p.write_bytes(b""), r"not a CZI file: it is empty \(0 bytes\)"),
    "missing": (lambda p: p.unlink(), "cannot be read .*No such file"),
    "cut in its header": (lambda p: p.write_bytes(p.read_bytes()[:20]), "truncated"),
    "cut in its pixels": (lambda p: p.write_bytes(p.read_bytes()[:9000]), "no ZISRAWDIRECTORY|tru"),
    "cut in its directory": (
        lambda p: p.write_bytes(p.read_bytes()[: directory_position(p.read_bytes()) + 300]),
        r"truncated: .* byte \d+, but it has \d+ bytes. Copy or save it again",
    ),
    "not finished": (not_finished, "has no directory, .* not finished. Open"),
    "holes": (
        lambda p: overwrite(p, sub_block_position(p, 3) - 48, bytes(100)),
        r"there is no ZISRAWSUBBLOCK at byte \d+, .* damaged",
    ),
    "metadata cut": (lambda p: overwrite(p, 32 + 60, b"\xff" * 4), "metadata cannot be read"),
    "metadata no XML": (bad_xml, "metadata are damaged"),
    "no sub-block": (without_blocks, "holds no pixels"),
    "several files": (lambda p: change_entry(p, 1, file_part=2), "of several parts.*as one file"),
    "a level only": (
        lambda p: [change_entry(p, i, "X", stored=7) for i in range(4)],
        "no full resolution, only smaller copies",
    ),
    "several planes in one": (lambda p: change_entry(p, 1, "T", size=3), "several planes along T"),
    "the same place twice": (same_place, "1 of 4 sub-blocks are at the very place of another"),
    "unknown dimension": (lambda p: change_entry(p, 1, "T", name=b"Q"), "the dimension Q, which"),
    "a dimension of some": (one_without_t, "1 of 3 sub-blocks do not say .* along T, as"),
    "complex": (
        lambda p: change_entry(p, 1, pixel_type=10),
        "channel 0 has pixel type Gray64ComplexFloat, .* magnitude",
    ),
    "colours of floats": (
        lambda p: write_czi(p, [Tile(numbers((H, W, 3), "float32"), ORIGIN)]),
        "pixel type Bgr96Float, which cannot be read",
    ),
    "unknown type": (lambda p: change_entry(p, 1, pixel_type=77), "pixel type number 77"),
    "mixed types": (lambda p: change_entry(p, 1, pixel_type=0), "mixes the pixel types Gray8, Gr"),
    "JPEG": (lambda p: change_entry(p, 1, compression=1), "compression JPEG, which cannot be read"),
}


def own_entry(path: Path, number: int, field: str, value: int) -> None:
    """Change what a sub-block says of itself, but not the directory."""
    content = path.read_bytes()
    change_entry(path, number, "X" if field in OF_DIMENSION else "", **{field: value})
    start = directory_position(content)
    overwrite(path, start, content[start:])


def in_directory(path: Path, number: int, dimension: str, **values: Any) -> None:
    """Change the directory, but not what a sub-block says of itself."""
    content = path.read_bytes()
    change_entry(path, number, dimension, **values)
    start = directory_position(content)
    path.write_bytes(content[:start] + path.read_bytes()[start:])


def sizes(path: Path, number: int, layout: str, at: int, value: int) -> None:
    """Change how many bytes a sub-block says it has."""
    overwrite(path, sub_block_position(path, number) - 16 + at, struct.pack(layout, value))


FAR = {"start": 2**20}
CONTRADICTIONS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a place": (lambda p: in_directory(p, 1, "X", start=4), "sub-block 1 .* other sizes, places"),
    "a plane": (lambda p: in_directory(p, 2, "T", start=9), "sub-block 2 .* other sizes, places"),
    "a size": (lambda p: in_directory(p, 3, "Y", size=8, stored=8), "sub-block 3 .* other sizes"),
    "a level": (lambda p: in_directory(p, 1, "Y", stored=8), "sub-block 1 .* other sizes"),
    "a type": (lambda p: in_directory(p, 1, "", pixel_type=2), "sub-block 1 .* types than the dir"),
    "its own size": (lambda p: own_entry(p, 0, "size", 2**30), "sub-block 0 .* other sizes"),
    "its own type": (lambda p: own_entry(p, 0, "pixel_type", 0), "sub-block 0 .* or types"),
    "too many bytes": (lambda p: sizes(p, 1, "<q", 8, 2**33), "1 .* has 8589934592 bytes .* room"),
    "too few bytes": (lambda p: sizes(p, 1, "<q", 8, 100), "has 100 bytes of pixels, but declares"),
    "negative bytes": (lambda p: sizes(p, 1, "<i", 0, -5), "sub-block 1 .* more than there is"),
    "huge and compressed": (
        lambda p: [
            write_czi(p, planes(T=range(4), C=[0]), compression="zstd0:ExplicitLevel=1"),
            *(change_entry(p, 1, axis, size=2**20, stored=2**20) for axis in "XY"),
        ],
        r"declares 2048\.0 GiB of pixels in \d+ bytes",
    ),
    "far apart": (
        lambda p: [change_entry(p, 1, axis, **FAR) for axis in "XY"],
        "so far apart that the image would be 10486.. × 10486.. pixels, of which",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path, case: str) -> None:
    damage, message = CONTRADICTIONS[case]
    path = write_czi(tmp_path / "bad.czi", planes(T=range(4), C=[0]))
    damage(path)
    with pytest.raises(DataError, match=rf"bad\.czi: .*{message}"):
        open_czi(path, "SCYX")


@pytest.fixture
def no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that reads pixels."""
    monkeypatch.setattr(OpenCzi, "read", None)


@pytest.mark.usefixtures("no_pixels")
@pytest.mark.parametrize("case", DAMAGE)
def test_bad_files_are_told_when_they_are_opened(tmp_path: Path, case: str) -> None:
    damage, message = DAMAGE[case]
    path = write_czi(tmp_path / "bad.czi", planes(T=range(4), C=[0]))
    damage(path)
    with pytest.raises(DataError, match=r"bad\.czi: .*(" + message + ")"):
        open_czi(path, "SCYX")


@pytest.mark.usefixtures("no_pixels")
def test_pixels_that_the_file_ends_before_are_told(tmp_path: Path) -> None:
    """The directory may lie before the pixels."""
    path = write_czi(tmp_path / "a.czi", planes(T=range(4), C=[0]))
    content = path.read_bytes()
    last = max(sub_block_position(path, i) for i in range(4)) - 48
    start = directory_position(content)
    moved = bytearray(content[:last] + content[start:])  # over the last pixels
    struct.pack_into("<q", moved, 32 + 52, last)
    struct.pack_into("<q", moved, last + 32 + 128 + 6, len(moved) - 200)
    moved[-200:] = content[last : last + 200]
    path.write_bytes(moved)
    with pytest.raises(DataError, match="truncated"):
        open_czi(path, "SCYX")


def test_a_file_cut_anywhere_gives_an_error_or_its_pixels_never_others(tmp_path: Path) -> None:
    path = write_czi(tmp_path / "a.czi", mosaic(2), compression="zstd0:ExplicitLevel=1")
    expected, content, refused = whole(only(open_czi(path, "SCYX"))), path.read_bytes(), 0
    for size in np.linspace(0, len(content) - 1, 40).astype(int):
        path.write_bytes(content[:size])
        try:
            np.testing.assert_array_equal(whole(only(open_czi(path, "SCYX"))), expected)
        except DataError:
            refused += 1
    assert refused > 30


@pytest.mark.usefixtures("no_pixels")
def test_whatever_byte_is_wrong_the_error_names_the_file(tmp_path: Path) -> None:
    path = write_czi(tmp_path / "a.czi", mosaic(2))
    content = path.read_bytes()
    directory = range(directory_position(content), len(content))
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        for place in (range(120), directory):
            damaged = bytearray(content)
            damaged[rng.choice(place)] = rng.choice([0, 255, 77])
            path.write_bytes(damaged)
            try:
                open_czi(path, "SCYX")
            except DataError as error:
                assert str(path) in str(error)
                refused += 1
    assert 40 <= refused < 200  # most bytes say nothing that is needed


def test_damage_within_a_sub_block_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.czi"
    write_czi(path, planes(T=[4, 5], C=[0]), compression="zstd0:ExplicitLevel=1")
    overwrite(path, sub_block_position(path, 1) + 300, bytes(60))
    stack = only(open_czi(path, "SCYX"))
    np.testing.assert_array_equal(stack.array[0:1, 0:1, 0:H, 0:W][0, 0], numbers())
    with pytest.raises(DataError, match=r"a\.czi: plane T=5 C=0 cannot be read .* save it again"):
        stack.array[1:2, 0:1, 0:H, 0:W]
    stack.close()


# -------------------------------------------------------------- blocks, cache, processes, files


def test_planes_are_blocks_and_huge_ones_are_read_by_sub_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_czi(tmp_path / "a.czi", [*mosaic(4, 40, Z=0), *mosaic(4, 40, Z=1)])
    assert only(open_czi(path, "SCYX")).block_shape == (H + 120, W + 120)
    assert only(open_czi(path, "SCZYX")).block_shape == (1, H + 120, W + 120)
    monkeypatch.setattr(_czi_planes, "BLOCK_BYTES", 10_000)
    monkeypatch.setattr(_czi_planes, "REGION_BYTES", H * W * 2 * 4)
    assert only(open_czi(path, "SCZYX")).block_shape == (1, 2 * H, 2 * W)
    monkeypatch.setattr(_czi_planes, "REGION_BYTES", 1)
    assert only(open_czi(path, "SCYX")).block_shape == (H, W)


def test_a_stack_pickles_to_less_than_a_kilobyte(tmp_path: Path) -> None:
    tiles = planes(T=range(20), Z=range(5), C=[0, 1])
    stack = only(open_czi(write_czi(tmp_path / "a.czi", tiles), "SCZYX"))
    stack.array[0:1, 0:1, 0:1, 0:1, 0:1]
    assert len(pickle.dumps(stack)) < 1024
    stack.close()


def test_indices() -> None:
    for values in ([5], [3, 4, 5], [0, 10, 20], [-4, 7, 8]):
        assert list(indices_of(np.array(values * 2))) == values


def test_files_close_and_open_again(tmp_path: Path) -> None:
    stacks = open_czi(three_scenes(tmp_path / "a.czi"), "SCZYX")
    assert open_files(tmp_path) == []
    for stack in stacks:
        read(stack)
    assert len(open_files(tmp_path)) == 1  # scenes share a reader
    stacks[0].close()
    assert open_files(tmp_path) == []
    whole(stacks[1])
    assert open_files(tmp_path) == []


def test_few_files_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_czi_planes._READERS, "most", 3)
    paths = [write_czi(tmp_path / f"{i}.czi", planes(C=[0])) for i in range(6)]
    stacks = [only(open_czi(path, "SCYX")) for path in paths]
    for stack in stacks * 2:
        np.testing.assert_array_equal(read(stack)[0, 0], numbers())
    assert len(open_files(tmp_path)) == 3
    for stack in stacks:
        stack.close()


def test_a_file_that_was_replaced_is_opened_anew(tmp_path: Path) -> None:
    path = write_czi(tmp_path / "a.czi", mosaic(2, 60, (0,)))
    read(only(open_czi(path, "SCYX")))
    write_czi(path, [Tile(numbers((30, 30), seed=8), ORIGIN)])
    stack = only(open_czi(path, "SCYX"))
    check_image_stack(stack, numbers((30, 30), seed=8)[None, None])
    assert stack.array.valid_region(0) is None


def test_the_cache_of_all_open_files_stays_within_its_budget(tmp_path: Path) -> None:
    paths = [
        write_czi(tmp_path / f"{i}.czi", mosaic(2), compression="zstd0:ExplicitLevel=1")
        for i in range(4)
    ]
    files = [OpenCzi(Key(str(path), 2**20)) for path in paths]
    assert [file.cache_bytes for file in files] == [2**19, 2**18, 2**17, 2**16]
    files.pop(0).close()
    files.append(OpenCzi(Key(str(paths[0]), 2**20)))
    assert sum(file.cache_bytes for file in files) <= 2**20
    for file in files:
        file.close()


@pytest.mark.parametrize("cache_mib", [0, 1])
def test_pixels_are_the_same_with_and_without_a_cache(tmp_path: Path, cache_mib: int) -> None:
    path = write_czi(tmp_path / "a.czi", mosaic(), compression="zstd0:ExplicitLevel=1")
    expected = read_direct(path, (0, 0, W + 60, H + 60), [{}])
    check_image_stack(only(open_czi(path, "SCYX", cache_mib=cache_mib)), expected)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_with_files_of_their_own(tmp_path: Path, method: str) -> None:
    path = write_czi(tmp_path / "a.czi", from_three(), compression="zstd0:ExplicitLevel=1")
    stack = only(open_czi(path, "SCZYX"))
    total = int(read(stack).sum())  # the file is open here
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(sum_of, [stack] * 4) == [total] * 4
    assert sum_of(stack) == total


def test_threads_read_and_close_at_once(tmp_path: Path) -> None:
    path = write_czi(tmp_path / "a.czi", from_three(), compression="zstd0:ExplicitLevel=1")
    stack = only(open_czi(path, "SCZYX"))
    expected = whole(stack)

    def read(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        equal = []
        for _ in range(20):
            box = tuple(
                slice(a, int(rng.integers(a, n)) + 1)
                for a, n in ((int(rng.integers(n)), n) for n in stack.data_shape)
            )
            equal.append(np.array_equal(stack.array[box], expected[box]))
            if rng.random() < 0.2:
                stack.close()
        return all(equal)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(read, range(12)))
    stack.close()


def test_a_worker_that_is_spawned_need_not_import_torch() -> None:
    code = "import sys, careamics_dm.formats.czi.planes as p; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ------------------------------------------------------------------------ through the DataModule


def module_of(data: object, **arguments: Any) -> CziDataModule:
    shared: dict[str, Any] = {"patch_size": (16, 16), "batch_size": 2, "patches_per_epoch": 4}
    return CziDataModule(train_data=data, **(shared | arguments))


def test_a_folder_is_refused(tmp_path: Path) -> None:
    write_czi(tmp_path / "a.czi", planes(C=[0]))
    for folder in (tmp_path, str(tmp_path)):
        with pytest.raises(DataError, match=r"train_data: .* is a folder.*\*\.czi.* manifest"):
            module_of(folder).setup("fit")
    module = module_of(str(tmp_path / "*.czi"))
    module.setup("fit")
    assert [stack.source for stack in module.images_of("train").stacks] == [str(tmp_path / "a.czi")]
    module.teardown("fit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scenes": 1}, "scenes=1 is not a list"),
        ({"scenes": []}, "is not a list of scenes"),
        ({"scenes": [-1]}, "a scene in scenes=-1 is too small"),
        ({"scenes": [True]}, "a scene in scenes=True: give a whole number"),
        ({"scenes": [1, 1]}, "names a scene twice"),
        ({"cache_mib": -1}, "cache_mib=-1 is too small"),
        ({"convert_pixel_types": 1}, "convert_pixel_types=1: give true or false"),
        ({"cache_mib": 0.5}, "cache_mib=0.5: give a whole number"),
    ],
)
def test_arguments_are_checked_when_it_is_made(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        module_of("a.czi", **arguments)


def test_a_manifest_may_choose_a_scene_per_row(tmp_path: Path) -> None:
    path = three_scenes(tmp_path / "a.czi")
    (tmp_path / "list.csv").write_text("input,scene\na.czi,5\na.czi,1\n")
    module = module_of(str(tmp_path / "list.csv"), axes="SCZYX", patch_size=(2, 16, 16), scenes=[2])
    module.setup("fit")
    assert [s.source for s in module.images_of("train").stacks] == [
        f"{path}/scene_5",
        f"{path}/scene_1",
    ]
    module.teardown("fit")
    for scene in ("one", "1.0", "-1"):
        with pytest.raises(DataError, match=rf"a\.czi: scene={scene}: a manifest gives it"):
            module.open_source(path, "SCYX", scene=scene)


def test_a_mask_may_be_a_czi_too(tmp_path: Path) -> None:
    image = write_czi(tmp_path / "a.czi", planes(T=[0, 1], C=[0, 1]))
    allowed = np.zeros((H, W), "u1")
    allowed[:, :26] = 1
    mask = write_czi(tmp_path / "m.czi", [Tile(allowed, ORIGIN | {"T": t}) for t in (0, 1)])
    module = module_of([image], train_mask=[mask], axes="SCYX", n_val_patches=0)
    for batch in module.train_dataloader():
        assert batch["image"].shape == (2, 2, 16, 16)
    module.teardown("fit")


def test_each_plane_is_read_once_in_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_czi(tmp_path / "a.czi", planes(T=range(5), C=[0]))
    module = module_of([path], in_memory=False, patches_per_epoch=200, n_val_patches=0)
    module.measure_statistics()
    reads: list[tuple[int, int, int]] = []
    read = OpenCzi.read

    def note(self: OpenCzi, layout: Any, place: Any, roi: Any) -> NDArray[Any]:
        reads.append(place)
        return read(self, layout, place, roi)

    monkeypatch.setattr(OpenCzi, "read", note)
    assert len(list(module.train_dataloader())) == 100
    assert sorted(reads) == [(t, 0, 0) for t in range(5)]
    module.teardown("fit")


PROMISES: dict[str, tuple[Callable[[], list[Tile]], dict[str, Any]]] = {
    "planes": (lambda: planes(T=[0, 1], C=[0, 1]), {"tile_size": (24, 24)}),
    "stacks, streamed": (
        lambda: planes(T=[2, 3], Z=range(3, 9), C=[0]),
        {"axes": "SCZYX", "patch_size": (4, 16, 16), "in_memory": False},
    ),
    "time as depth": (
        lambda: planes(T=range(5), C=[0, 1]),
        {"axes": "SCTYX", "patch_size": (3, 16, 16), "channels": (1,)},
    ),
    "scenes": (
        lambda: [*planes(S=[1], C=[0]), *mosaic(2, S=4)],
        {"tile_size": (32, 32), "in_memory": False},
    ),
    "colours": (lambda: [Tile(numbers((H, W, 3), "uint8"), ORIGIN)], {}),
    "two processes": (lambda: planes(T=[0, 1, 2], C=[0]), {"num_workers": 1, "in_memory": False}),
}


@pytest.mark.parametrize("case", PROMISES)
def test_the_module_keeps_all_promises(tmp_path: Path, case: str) -> None:
    tiles, arguments = PROMISES[case]
    data = [write_czi(tmp_path / f"{i}.czi", tiles()) for i in range(2)]
    arguments = {"test_data": data, "predict_data": data} | arguments
    check_datamodule(module_of(data, **arguments))


def test_training_keeps_to_what_was_acquired(tmp_path: Path) -> None:
    path = write_czi(tmp_path / "a.czi", mosaic(3, 60, (0, 4)))
    for in_memory in (True, False):
        module = module_of([path], in_memory=in_memory, patches_per_epoch=400, n_val_patches=4)
        batches = [*module.train_dataloader(), *module.val_dataloader()]
        assert min(batch["image"].numpy().min() for batch in batches) > 0
        module.teardown("fit")


def test_prediction_tells_what_was_not_acquired(tmp_path: Path) -> None:
    path = write_czi(tmp_path / "a.czi", mosaic(2, 60, (1,)))
    module = module_of([path], predict_data=[path], tile_size=(32, 32))
    with pytest.warns(UserWarning, match=r"a\.czi \d+ pixels .* read as 0"):
        check_datamodule(module)


def test_stacks_are_arrays_that_are_read_by_boxes(tmp_path: Path) -> None:
    stack = only(open_czi(write_czi(tmp_path / "a.czi", planes(C=[0])), "SCYX"))
    assert isinstance(stack, ArrayStack) and isinstance(stack.array, CziArray)


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"channels": [1]}, True),
        ({"channels": ["B"]}, True),
        ({"channels": ["A"], "target_channels": ["B"]}, False),
        ({"channels": [0, 1]}, False),
        ({}, False),
        ({"convert_pixel_types": True}, True),
    ],
)
def test_pixel_types_of_channels_that_are_not_read_do_not_matter(
    tmp_path: Path, options: dict[str, Any], allowed: bool
) -> None:
    tiles = [Tile(numbers(dtype="uint8"), {"C": 0}), Tile(numbers(seed=1), {"C": 1})]
    path = write_czi(tmp_path / "a.czi", tiles, names={0: "A", 1: "B"})
    data = CziDataModule(train_data=path, patch_size=(8, 8), n_val_patches=0, **options)
    if not allowed:
        with pytest.raises(DataError, match=r"different pixel types .*, or select channels of one"):
            data.setup("fit")
        return
    data.setup("fit")
    (stack,) = data.images_of("train").stacks
    np.testing.assert_array_equal(stack.extract_patch(0, [1], (0, 0), (H, W))[0], numbers(seed=1))
    data.teardown("fit")
