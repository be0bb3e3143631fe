"""Sets of TIFF files: what was named is read, nothing else, nothing less, nothing twice."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiff_files import mm_stack, nd_tiff, numbers, ome_set, scan_image

from careamics_dm.errors import DataError
from careamics_dm.formats.tiff.datamodule import TiffDataModule, open_tiff
from careamics_dm.images.array_stack import ArrayStack

STACK = numbers((6, 2, 20, 24))
FRAMES = STACK[:, 0]
PARTLY = "ignore:.*named in part"


def read(module: TiffDataModule, role: str = "predict") -> dict[str, tuple[str, list[int]]]:
    """Axes of each image by its name, and which planes of `STACK`, in order, it has."""
    every = STACK.reshape(-1, 20, 24)
    found = {}
    for stack in module.images_of(role).stacks:
        assert isinstance(stack, ArrayStack)
        planes = np.asarray(stack.load().array).reshape(-1, 20, 24)
        numbers = [int(np.flatnonzero((every == plane).all((1, 2)))[0]) for plane in planes]
        name = Path(stack.source).name
        found[name] = (stack.original_axes, numbers)
    return found


def module_of(data: Any, **how: Any) -> TiffDataModule:
    module = TiffDataModule(**({"predict_data": data, "patch_size": (2, 16, 16)} | how))
    module.setup("predict")
    return module


def alone(*numbers: int) -> dict[str, tuple[str, list[int]]]:
    return {f"f{i}.ome.tif": ("ZYX", [2 * i, 2 * i + 1]) for i in numbers}


WHOLE = {"f0.ome.tif": ("TZYX", [*range(12)])}


@pytest.mark.parametrize("described_by", ["each", "first", "companion"])
def test_a_folder_with_a_whole_set_is_one_image(tmp_path: Path, described_by: str) -> None:
    ome_set(tmp_path, STACK, described_by)
    module = module_of(tmp_path)
    assert read(module) == WHOLE
    assert "f0.ome.tif: from a set of 6 files" in module.summary()
    assert module.predict_stacks[0].scale == {"Y": (0.5, "µm"), "X": (0.5, "µm")}


@pytest.mark.parametrize(
    ("described_by", "named", "found"),
    [
        ("first", "f0.ome.tif", WHOLE),
        ("companion", "set.companion.ome", {"set.companion.ome": WHOLE["f0.ome.tif"]}),
        ("companion", "*", {"set.companion.ome": WHOLE["f0.ome.tif"]}),
    ],
)
def test_the_file_that_describes_a_set_stands_for_it(
    tmp_path: Path, described_by: str, named: str, found: dict[str, tuple[str, list[int]]]
) -> None:
    ome_set(tmp_path, STACK, described_by)
    assert read(module_of(tmp_path / named)) == found


@pytest.mark.filterwarnings(PARTLY)
@pytest.mark.parametrize(
    ("described_by", "named"),
    [
        ("each", [0]),
        ("each", [3, 4, 5]),
        ("first", [5]),
        ("first", [0, 1]),
        ("first", [3, 5]),
        ("companion", [0]),
        ("companion", [1, 3, 4]),
    ],
)
def test_files_of_a_set_that_is_named_in_part_are_read_alone(
    tmp_path: Path, described_by: str, named: Sequence[int]
) -> None:
    files = ome_set(tmp_path, STACK, described_by)
    assert read(module_of([files[i] for i in named])) == alone(*named)


def test_a_warning_says_that_a_set_is_named_in_part(tmp_path: Path) -> None:
    files = ome_set(tmp_path, STACK, "each")
    with pytest.warns(UserWarning, match=r"predict_data: 2 file\(s\) .* in part: f1\.ome\.tif, f4"):
        module_of([files[1], files[4]])


@pytest.mark.filterwarnings(PARTLY)
@pytest.mark.parametrize("described_by", ["each", "first", "companion"])
@pytest.mark.parametrize("train", [[0, 1, 2, 3], [0]], ids=["most", "the first"])
def test_training_and_validation_each_read_the_files_that_they_name(
    tmp_path: Path, described_by: str, train: list[int]
) -> None:
    files = ome_set(tmp_path, STACK, described_by)
    module = TiffDataModule(
        train_data=[files[i] for i in train], val_data=files[4:], patch_size=(2, 16, 16)
    )
    module.setup("fit")
    assert read(module, "train") == alone(*train)
    assert read(module, "val") == alone(4, 5)


@pytest.mark.filterwarnings(PARTLY)
def test_rows_of_a_manifest_name_files_of_a_set(tmp_path: Path) -> None:
    files = ome_set(tmp_path, STACK, "first")
    rows = [f"{file.name},{'val' if i > 3 else 'train'}\n" for i, file in enumerate(files)]
    (tmp_path / "m.csv").write_text("input,split\n" + "".join(rows))
    manifest = tmp_path / "m.csv"
    module = TiffDataModule(train_data=manifest, val_data=manifest, patch_size=(2, 16, 16))
    module.setup("fit")
    assert read(module, "train") == alone(0, 1, 2, 3)
    assert read(module, "val") == alone(4, 5)


def test_parts_are_read_without_the_file_that_describes_them(tmp_path: Path) -> None:
    files = ome_set(tmp_path, STACK, "first")
    files[0].unlink()
    assert read(module_of(tmp_path, axes="ZYX")) == alone(1, 2, 3, 4, 5)


@pytest.mark.parametrize("described_by", ["each", "companion"])
def test_a_set_that_lacks_files_is_an_error_or_trimmed(tmp_path: Path, described_by: str) -> None:
    files = ome_set(tmp_path, STACK, described_by)
    files[2].unlink()
    lacks = r"f0\.ome\.tif: truncated: it declares 12 pages, but 10 are found; there is no f2\.ome"
    with pytest.raises(DataError, match=lacks + r".*incomplete=trim"):
        module_of(tmp_path)
    with pytest.warns(UserWarning, match=lacks + r".* are read, 10 page"):
        module = module_of(tmp_path, incomplete="trim")
    assert read(module) == {"f0.ome.tif": ("TZYX", [*range(4), *range(6, 12)])}


def test_a_companion_without_its_files(tmp_path: Path) -> None:
    for file in ome_set(tmp_path, STACK, "companion"):
        file.unlink()
    with pytest.raises(DataError, match=r"companion\.ome: none of the files that it names is"):
        module_of(tmp_path / "set.companion.ome")


def test_targets_of_a_set_pair_with_its_parts(tmp_path: Path) -> None:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
        files = ome_set(tmp_path / name, STACK, "first")
        files[0].unlink()
    module = TiffDataModule(
        train_data=tmp_path / "in",
        train_target=tmp_path / "out",
        axes="ZYX",
        patch_size=(2, 16, 16),
    )
    module.setup("fit")
    pairs = zip(module.images_of("train").stacks, module.images_of("train").targets, strict=True)
    assert all(Path(a.source).name == Path(b.source).name for a, b in pairs)


# ---------------------------------------------------------------- Micro-Manager and ScanImage

SUMMARY = {"Frames": 6, "Slices": 1, "Channels": 1, "Positions": 1, "Prefix": "a"}


def times(first: int, last: int, position: int = 0) -> list[tuple[int, int, int, int]]:
    return [(0, 0, t, position) for t in range(first, last)]


def recording(folder: Path) -> list[Path]:
    parts = {
        "a_MMStack.ome.tif": (0, 3),
        "a_MMStack_1.ome.tif": (3, 5),
        "a_MMStack_2.ome.tif": (5, 6),
    }
    size = {"PixelSize_um": 0.25, "z-step_um": 2.0, "ChNames": ["GFP"], "Interval_ms": 40}
    for name, (first, last) in parts.items():
        mm_stack(folder / name, FRAMES[first:last], times(first, last), **SUMMARY, **size)
    return [folder / name for name in parts]


def planes(*frames: int) -> list[int]:
    """Return the numbers in `STACK` of some of `FRAMES`."""
    return [2 * frame for frame in frames]


def test_a_recording_of_micromanager_is_one_image(tmp_path: Path) -> None:
    files = recording(tmp_path)
    for data in (tmp_path, files, files[0]):
        module = module_of(data, patch_size=(16, 16))
        assert read(module) == {"a_MMStack.ome.tif": ("TYX", planes(*range(6)))}
    scale = {"T": (40.0, "ms"), "Y": (0.25, "µm"), "X": (0.25, "µm")}
    assert module.predict_stacks[0].scale == scale


@pytest.mark.filterwarnings(PARTLY)
def test_files_of_a_recording_that_is_named_in_part(tmp_path: Path) -> None:
    files = recording(tmp_path)
    found = read(module_of(files[1:], patch_size=(16, 16)))
    assert found == {
        "a_MMStack_1.ome.tif": ("TYX", planes(3, 4)),
        "a_MMStack_2.ome.tif": ("YX", planes(5)),
    }


@pytest.mark.parametrize("n_files", [1, 2])
def test_a_recording_of_micromanager_that_stopped(tmp_path: Path, n_files: int) -> None:
    for file in recording(tmp_path)[n_files:]:
        file.unlink()
    n = (3, 5)[n_files - 1]
    with pytest.raises(DataError, match=rf"declares 6 pages, but {n} are found.*incomplete=trim"):
        module_of(tmp_path, patch_size=(16, 16))
    with pytest.warns(UserWarning, match=f"are read, {n} page"):
        module = module_of(tmp_path, patch_size=(16, 16), incomplete="trim")
    assert read(module) == {"a_MMStack.ome.tif": ("TYX", planes(*range(n)))}


def test_a_number_of_frames_that_no_file_can_hold(tmp_path: Path) -> None:
    cycle = {"hStackManager.numFramesPerVolumeWithFlyback": 10**9}
    scan_image(tmp_path / "b.tif", FRAMES, 1, VOLUMES | cycle)
    with pytest.raises(DataError, match=r"b\.tif: declares 1000000000 pages, but has \d+ bytes"):
        module_of(tmp_path / "b.tif", patch_size=(16, 16))


def test_positions_are_images(tmp_path: Path) -> None:
    apart, together = tmp_path / "apart", tmp_path / "together"
    apart.mkdir()
    together.mkdir()
    summary = SUMMARY | {"Frames": 3, "Positions": 2}
    for p in range(2):
        path = apart / f"a_MMStack_Pos{p}.ome.tif"
        mm_stack(path, FRAMES[3 * p : 3 * p + 3], times(0, 3, p), **summary)
    index = [(0, 0, t, p) for t in range(3) for p in range(2)]
    mm_stack(together / "a_MMStack.ome.tif", FRAMES, index, **summary)
    assert read(module_of(apart, patch_size=(16, 16))) == {
        "a_MMStack_Pos0.ome.tif": ("TYX", planes(0, 1, 2)),
        "a_MMStack_Pos1.ome.tif": ("TYX", planes(3, 4, 5)),
    }
    assert read(module_of(together, patch_size=(16, 16))) == {
        "position_0": ("TYX", planes(0, 2, 4)),
        "position_1": ("TYX", planes(1, 3, 5)),
    }


@pytest.mark.filterwarnings(PARTLY)
def test_a_data_set_of_ndtiff(tmp_path: Path) -> None:
    names = ["a_NDTiffStack.tif", "a_NDTiffStack_1.tif"]
    nd_tiff(tmp_path, {names[0]: FRAMES[:4], names[1]: FRAMES[4:]})
    whole = module_of(tmp_path, patch_size=(16, 16))
    assert read(whole) == {names[0]: ("TYX", planes(*range(6)))}
    assert whole.predict_stacks[0].scale == {"Y": (0.25, "µm"), "X": (0.25, "µm")}
    second = module_of(tmp_path / names[1], patch_size=(16, 16))
    assert read(second) == {names[1]: ("TYX", planes(4, 5))}


VOLUMES = {"hChannels.channelSave": "1", "hStackManager.enable": "true"}
VOLUMES |= {"hStackManager.numSlices": 2, "hStackManager.framesPerSlice": 1}
FLYBACK = {"hStackManager.numFramesPerVolume": 2, "hStackManager.numFramesPerVolumeWithFlyback": 3}
PLANAR = VOLUMES | {"hStackManager.enable": "false", "hStackManager.framesPerSlice": 1000}


@pytest.mark.parametrize(
    ("n_pages", "settings", "axes", "found"),
    [
        (12, PLANAR, "TYX", [*range(12)]),
        (12, PLANAR | {"hChannels.channelSave": "[1;2]"}, "TCYX", [*range(12)]),
        (12, VOLUMES, "TZYX", [*range(12)]),
        (12, VOLUMES | FLYBACK, "TZYX", [0, 1, 3, 4, 6, 7, 9, 10]),
        (12, VOLUMES | {"hStackManager.framesPerSlice": 6}, "ZTYX", [*range(12)]),
        (12, VOLUMES | {"hStackManager.framesPerSlice": 3}, "TZSYX", [*range(12)]),
    ],
    ids=["planar", "channels", "volumes", "flyback", "a stack of repeats", "repeats of slices"],
)
def test_frames_slices_and_channels_of_scanimage(
    tmp_path: Path, n_pages: int, settings: dict[str, Any], axes: str, found: list[int]
) -> None:
    scan_image(tmp_path / "a.tif", STACK.reshape(-1, 20, 24)[:n_pages], 1, settings)
    size = (2, 16, 16) if "Z" in axes else (16, 16)
    assert read(module_of(tmp_path, patch_size=size)) == {"a.tif": (axes, found)}


CLASSIC = {
    "equal": [0] * 12,
    "longer from frame 10": [0] * 9 + [16] * 3,
    "last longer": [0] * 11 + [400],
    "first longer": [400] + [0] * 11,
}
"""Characters that the description of each page is longer: tifffile goes by the first five."""


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("extra", CLASSIC.values(), ids=CLASSIC)
def test_classic_files_of_scanimage(tmp_path: Path, extra: list[int], in_memory: bool) -> None:
    pages, path = STACK.reshape(-1, 20, 24), tmp_path / "a.tif"
    scan_image(path, pages, 1, PLANAR, bigtiff=False, extra=extra)
    how = {"patch_size": (16, 16), "in_memory": in_memory}
    assert read(module_of(path, **how)) == {"a.tif": ("TYX", [*range(12)])}
    for n in (11, 7):
        whole = path.read_bytes()
        path.write_bytes(whole[: whole.index(pages[n].tobytes()) + 500])
        with pytest.raises(DataError, match=r"a\.tif: truncated.*incomplete=trim"):
            module_of(path, **how)
        with pytest.warns(UserWarning, match=f"truncated.*are read, {n} page"):
            module = module_of(path, **how, incomplete="trim")
        assert read(module) == {"a.tif": ("TYX", [*range(n)])}


def test_classic_files_whose_links_have_too_few_bits(tmp_path: Path) -> None:
    path, side, n_pages = tmp_path / "a.tif", 20_000, 12
    text = b"scanimage.SI5 = <end>\0"
    with path.open("wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, 8))
        for i in range(n_pages):
            start = file.tell()
            pixels = start + 2 + 9 * 12 + 4 + len(text)
            tags = [
                (256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 1),
                (262, 3, 1, 1), (270, 2, len(text), pixels - len(text)), (273, 4, 1, pixels),
                (278, 4, 1, side), (279, 4, 1, side**2),
            ]  # fmt: skip
            numbers = [(tag, kind, n, value % 2**32) for tag, kind, n, value in tags]
            file.write(struct.pack("<H", 9) + b"".join(struct.pack("<HHII", *t) for t in numbers))
            link = pixels + side**2 if i < n_pages - 1 else 0
            file.write(struct.pack("<I", link % 2**32) + text + bytes([i + 1]))
            file.seek(pixels + side**2)  # the rest is a hole that takes no room on the disk
        file.write(bytes(4096))
    stack = open_tiff(path, "TYX")[0]
    assert stack.data_shape == (n_pages, 1, side, side)
    first = [stack.extract_patch(i, None, (0, 0), (1, 1))[0, 0, 0] for i in range(n_pages)]
    assert first == [*range(1, n_pages + 1)]


def test_split_files_of_scanimage_are_images(tmp_path: Path) -> None:
    pages = STACK.reshape(-1, 20, 24)
    scan_image(tmp_path / "a_00001.tif", pages[:7], 1, PLANAR)
    scan_image(tmp_path / "a_00002.tif", pages[7:], 8, PLANAR)
    assert read(module_of(tmp_path, patch_size=(16, 16))) == {
        "a_00001.tif": ("TYX", [*range(7)]),
        "a_00002.tif": ("TYX", [*range(7, 12)]),
    }


@pytest.mark.parametrize(
    ("first", "last", "found"),
    [(0, 5, [0, 1, 2, 3]), (3, 12, [*range(4, 12)])],
    ids=["end", "start"],
)
def test_volumes_that_are_not_whole_are_an_error_or_left_out(
    tmp_path: Path, first: int, last: int, found: list[int]
) -> None:
    scan_image(tmp_path / "a.tif", STACK.reshape(-1, 20, 24)[first:last], first + 1, VOLUMES)
    with pytest.raises(DataError, match=rf"but {last - first} are found.*incomplete=trim"):
        module_of(tmp_path)
    with pytest.warns(UserWarning, match=f"are read, {len(found)} page"):
        module = module_of(tmp_path, incomplete="trim")
    assert read(module) == {"a.tif": ("TZYX", found)}


@pytest.mark.filterwarnings(PARTLY)
@pytest.mark.parametrize(
    ("described_by", "train", "val", "both"),
    [
        ("companion", "set.companion.ome", "f3.ome.tif", "f3.ome.tif is a file of"),
        ("companion", "f3.ome.tif", "set.companion.ome", "f3.ome.tif is a file of"),
        ("each", "*.tif", "f3.ome.tif", "f3.ome.tif is a file of"),
        ("first", "f[0-5].ome.tif", "f5.ome.tif", "f5.ome.tif is a file of"),
        ("companion", "f3.ome.tif", "link.ome.tif", "link.ome.tif"),
    ],
)
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_set_in_training_and_a_file_of_it_in_validation_is_an_error(
    tmp_path: Path, described_by: str, train: str, val: str, both: str, in_memory: bool
) -> None:
    ome_set(tmp_path, STACK, described_by)
    if "link" in val:
        (tmp_path / val).symlink_to(tmp_path / "f3.ome.tif")
    module = TiffDataModule(
        train_data=tmp_path / train,
        val_data=tmp_path / val,
        patch_size=(2, 16, 16),
        in_memory=in_memory,
    )
    with pytest.raises(DataError, match=rf"1 image\(s\) are in train_data too.*{both}"):
        module.setup("fit")


FOUR = [(0, 0, t, 0) for t in range(4)]


@pytest.mark.parametrize("split", [False, True], ids=["one file", "two files"])
def test_a_recording_without_end_that_was_stopped(tmp_path: Path, split: bool) -> None:
    """Micro-Manager declares all the frames that it was to take, here 10^9."""
    pages, path = STACK[:4, 0], tmp_path / "a_MMStack_Pos0.ome.tif"
    mm_stack(path, pages[: 2 if split else 4], FOUR[: 2 if split else 4], Frames=10**9)
    if split:
        mm_stack(tmp_path / "a_MMStack_Pos0_1.ome.tif", pages[2:], FOUR[2:], Frames=10**9)
    with pytest.raises(DataError, match=r"declares 1000000000 pages, but 4 are .*incomplete=trim"):
        module_of(tmp_path, patch_size=(16, 16))
    with pytest.warns(UserWarning, match=r"are read, 4 page\(s\)"):
        module = module_of(tmp_path, incomplete="trim", patch_size=(16, 16))
    assert read(module) == {path.name: ("TYX", [0, 2, 4, 6])}


@pytest.mark.parametrize(
    ("index", "summary", "n_pages"),
    [
        ((0, 0, 3 * 10**8, 0), {}, 300000001),
        ((0, 0, 3, 10**8), {}, 400000004),
        ((10**4, 10**6, 3, 0), {}, 40004040004),
        ((0, 0, 3, 0), {"Slices": 10**8}, 400000000),
    ],
)
@pytest.mark.parametrize("incomplete", ["error", "trim"])
def test_what_no_file_can_hold_is_refused_at_once(
    tmp_path: Path, index: Any, summary: Any, n_pages: int, incomplete: str
) -> None:
    path = tmp_path / "a_MMStack_Pos0.ome.tif"
    mm_stack(path, STACK[:4, 0], [*FOUR[:3], index], Frames=4, **summary)
    with pytest.raises(DataError, match=rf"Pos0\.ome\.tif: declares {n_pages} pages, but has"):
        module_of(path, incomplete=incomplete)


def test_so_is_an_index_of_ndtiff(tmp_path: Path) -> None:
    nd_tiff(tmp_path, {"NDTiffStack.tif": STACK[:, 0]})
    index = tmp_path / "NDTiff.index"
    texts = b'{"time": 5}', b'{"time": 300000000}'
    last, far = (len(text).to_bytes(4, "little") + text for text in texts)
    assert last in index.read_bytes()
    index.write_bytes(index.read_bytes().replace(last, far))
    with pytest.raises(DataError, match=r"NDTiffStack\.tif: declares 300000001 pages, but has"):
        module_of(tmp_path)
