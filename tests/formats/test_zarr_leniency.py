"""What OME-Zarr and Zarr stores may be like without a loss of the image; sources that change."""

from __future__ import annotations

import json
import shutil
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr_files import numbers, write_array

from careamics_dm.errors import DataError
from careamics_dm.formats.zarr.array import forget_stores
from careamics_dm.formats.zarr.datamodule import ZarrDataModule
from careamics_dm.formats.zarr.ome_metadata import read_wells

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("files_close")
IMAGE = numbers((2, 20, 24))
SCALE = {"type": "scale", "scale": [1, 0.2, 0.1]}
TRANSLATION = {"type": "translation", "translation": [0, 5, 5]}
AXES = [
    {"name": "c", "type": "channel"},
    {"name": "y", "type": "space", "unit": "micrometer"},
    {"name": "x", "type": "space", "unit": "micrometer"},
]


def module(data: Any, **given: Any) -> ZarrDataModule:
    given = {"patch_size": (8, 8), "n_val_patches": 0, "normalization": "none"} | given
    return ZarrDataModule(train_data=data, **given)


def write_image(
    path: Path, entry: dict[str, Any] | None = None, pixels: Any = IMAGE, zarr_format: Any = 2
) -> Path:
    """Write an image of one level, with this entry of ``multiscales``."""
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    write_array(path / "0", pixels, zarr_format=zarr_format)
    usual = {"version": "0.4", "axes": AXES}
    usual |= {"datasets": [{"path": "0", "coordinateTransformations": [SCALE]}]}
    metadata = {"multiscales": [usual if entry is None else entry]}
    group.attrs.update(metadata if zarr_format == 2 else {"ome": metadata | {"version": "0.5"}})
    return path


def images(made: ZarrDataModule) -> list[Any]:
    made.setup("fit")
    return list(made.images_of("train").stacks)


def pixels_of(stack: Any) -> Any:
    return stack.load().array


# ----------------------------------------------------------------------------- transformations


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("place", ["level", "image"])
@pytest.mark.parametrize(
    "steps",
    [
        [],
        [{"type": "identity"}],
        [TRANSLATION, SCALE],
        [{"type": "affine", "affine": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]}],
        [{"type": "sequence", "transformations": [SCALE, TRANSLATION], "input": {"name": "cyx"}}],
        [{"type": "scale", "scale": [0.2, 0.1]}],
        [{"type": "scale", "path": "scales"}],
        ["scale"],
        {"type": "scale"},
    ],
)
def test_other_transformations_cost_the_pixel_size_with_one_warning(
    tmp_path: Path, steps: Any, place: str, zarr_format: int
) -> None:
    entry = {"axes": AXES, "datasets": [{"path": "0", "coordinateTransformations": [SCALE]}]}
    if place == "level":
        entry["datasets"] = [{"path": "0", "coordinateTransformations": steps}]
    else:
        entry["coordinateTransformations"] = steps
    if zarr_format == 2:
        entry["version"] = "0.4"
    paths = [write_image(tmp_path / f"{n}.zarr", entry, IMAGE, zarr_format) for n in "ab"]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = images(module(paths))
    assert [stack.original_axes for stack in found] == ["CYX", "CYX"]
    np.testing.assert_array_equal(pixels_of(found[1]), IMAGE)
    if place == "image" and steps == []:  # none, which is usual
        assert (found[0].scale["X"], told) == ((0.1, "µm"), [])
        return
    assert [stack.scale for stack in found] == [{}, {}]
    (one,) = told
    assert "pixel size of 2 image(s)" in str(one.message)


def test_a_translation_after_the_scale_is_usual(tmp_path: Path) -> None:
    levels = [{"path": "0", "coordinateTransformations": [SCALE, TRANSLATION]}]
    path = write_image(tmp_path / "a.zarr", {"version": "0.4", "axes": AXES, "datasets": levels})
    (stack,) = images(module(path))
    assert stack.scale == {"Y": (0.2, "µm"), "X": (0.1, "µm")}


# -------------------------------------------------------------------------------- old versions


@pytest.mark.parametrize(
    ("entry", "shape", "axes"),
    [
        ({"version": "0.1"}, (1, 2, 1, 20, 24), "TCZYX"),
        ({"version": "0.2", "metadata": {"method": "x"}}, (1, 2, 1, 20, 24), "TCZYX"),
        ({"version": "0.3", "axes": ["c", "y", "x"]}, (2, 20, 24), "CYX"),
        ({"version": "0.3", "axes": ["t", "y", "x"]}, (2, 20, 24), "TYX"),
        ({"axes": ["y", "x"]}, (40, 24), "YX"),
        ({}, (2, 1, 1, 20, 24), "TCZYX"),
    ],
)
def test_versions_before_transformations(
    tmp_path: Path, entry: dict[str, Any], shape: tuple[int, ...], axes: str
) -> None:
    path = write_image(tmp_path / "a.zarr", entry | {"datasets": [{"path": "0"}]}, numbers(shape))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (stack,) = images(module(path))
    assert (stack.original_axes, stack.scale) == (axes, {})
    assert tuple(stack.original_data_shape) == shape


def test_an_old_image_of_other_dimensions_than_five_says_so(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", {"version": "0.1", "datasets": [{"path": "0"}]})
    with pytest.raises(DataError, match=r"name 5 axes \(TCZYX\), but the array has shape"):
        images(module(path))


@pytest.mark.parametrize(
    "plate",
    [
        {"version": "0.4", "field_count": 0, "wells": [("A/1", 0, 0), ("B/2", 1, 1)]},
        {"version": "0.1", "field_count": 1, "wells": [("A/1",), ("B/2",)]},
        {"wells": [("A/1",), ("B/2",)], "acquisitions": [{"id": 0, "maximumfieldcount": 0}]},
    ],
)
def test_plates_as_they_are(tmp_path: Path, plate: dict[str, Any]) -> None:
    keys = ("path", "rowIndex", "columnIndex")
    wells = [dict(zip(keys, well, strict=False)) for well in plate["wells"]]
    named = {"rows": [{"name": "A"}, {"name": "B"}], "columns": [{"name": "1"}, {"name": "2"}]}
    group = zarr.open_group(tmp_path / "p.zarr", mode="w", zarr_format=2)
    group.attrs["plate"] = plate | named | {"wells": wells}
    for path in ("A/1", "B/2"):
        well = group.create_group(path)
        well.attrs["well"] = {"version": "0.1", "images": [{"path": "0"}]}
        write_image(tmp_path / "p.zarr" / path / "0")
    found = images(module(tmp_path / "p.zarr", row="B"))
    assert [stack.source for stack in found] == [f"{tmp_path}/p.zarr/B/2/0"]
    wells_found = read_wells(group.attrs.asdict(), "p")
    assert [(w.row, w.column) for w in wells_found] == [("A", "1"), ("B", "2")]


# ------------------------------------------------------------------- images beside other things


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_group_gives_its_images_and_says_what_it_leaves_out(
    tmp_path: Path, zarr_format: Any
) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=zarr_format)
    write_array(tmp_path / "a.zarr/b", IMAGE[0], zarr_format=zarr_format)
    write_array(tmp_path / "a.zarr/a", IMAGE[1], zarr_format=zarr_format)
    write_array(tmp_path / "a.zarr/times", np.arange(5.0), zarr_format=zarr_format)
    text = np.full((3, 4), "nucleus", "<U7")
    write_array(tmp_path / "a.zarr/words", text, zarr_format=zarr_format)
    group.create_group("table")
    with pytest.warns(UserWarning, match=r"2 array\(s\) of one dimension .*times, .*words\.$"):
        found = images(module(tmp_path / "a.zarr", axes="YX"))
    assert [stack.source[-2:] for stack in found] == ["/a", "/b"]
    np.testing.assert_array_equal(pixels_of(found[0]), IMAGE[1])


def test_a_group_of_other_things_alone_is_refused(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "a.zarr", mode="w")
    write_array(tmp_path / "a.zarr/times", np.arange(5.0))
    with pytest.raises(DataError, match=r"holds no array .*There is .*/times, of one dimension"):
        images(module(tmp_path / "a.zarr", axes="YX"))


@pytest.mark.parametrize("named", ["", "/images", "/images/nuclei"])
def test_spatialdata(tmp_path: Path, named: str) -> None:
    root = zarr.open_group(tmp_path / "s.zarr", mode="w", zarr_format=2)
    root.attrs["spatialdata_attrs"] = {"version": "0.1"}
    for kind in ("images", "labels", "tables", "points"):
        root.create_group(kind)
    root["labels"].attrs["labels"] = ["cells"]
    root["tables"].create_group("table").create_array("X", shape=(3, 4), dtype="f4", chunks=(3, 4))
    write_image(tmp_path / "s.zarr/images/nuclei")
    write_image(tmp_path / "s.zarr/labels/cells")
    (stack,) = images(module(f"{tmp_path}/s.zarr{named}"))
    assert stack.source == f"{tmp_path}/s.zarr/images/nuclei"
    np.testing.assert_array_equal(pixels_of(stack), IMAGE)


# ------------------------------------------------------------------------------ unwritten chunks


def with_background(path: Path) -> Any:
    """Write an image whose first chunk is zero, which zarr then leaves out."""
    pixels = numbers((32, 32))
    pixels[:16, :16] = 0
    write_array(path, pixels)
    return pixels


@pytest.mark.parametrize("sharded", [False, True])
def test_unwritten_chunks_of_masks_are_background(tmp_path: Path, sharded: bool) -> None:
    write_array(tmp_path / "a.zarr", numbers((32, 32)))
    mask = np.zeros((32, 32), "u1")
    mask[20:, 20:] = 1
    write_array(tmp_path / "m.zarr", mask, **({"shards": (32, 32)} if sharded else {}))
    made = module(tmp_path / "a.zarr", train_mask=tmp_path / "m.zarr", axes="YX")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.setup("fit")
    np.testing.assert_array_equal(pixels_of(made.images_of("train").masks[0]), mask)
    strict = {"missing_chunks": {"mask": "error"}}
    made = module(tmp_path / "a.zarr", train_mask=tmp_path / "m.zarr", axes="YX", **strict)
    with pytest.raises(DataError, match=r"m\.zarr: 3 of 4 .*missing_chunks={mask: fill}"):
        made.setup("fit")


@pytest.mark.parametrize(
    ("argument", "setting"),
    [("image", "fill"), ("image", {"target": "fill"}), ("target", "error")],
)
def test_the_error_names_the_setting_of_the_argument(
    tmp_path: Path, argument: str, setting: Any
) -> None:
    for name in ("image", "target"):
        path = tmp_path / f"{name}.zarr"
        if name == argument:
            pixels = with_background(path)
        else:
            write_array(path, numbers((32, 32)))
    data = {"train_target": tmp_path / "target.zarr", "axes": "YX"}
    made = module(tmp_path / "image.zarr", **data, missing_chunks=setting)
    message = rf"{argument}\.zarr: 1 of 4 .*set missing_chunks={{{argument}: fill}}"
    with pytest.raises(DataError, match=message):
        made.setup("fit")
    made = module(tmp_path / "image.zarr", **data, missing_chunks={argument: "fill"})
    with pytest.warns(UserWarning, match=r"1 missing chunk\(s\) of 1 array"):
        made.setup("fit")
    column = made.images_of("train").stacks if argument == "image" else None
    (stack,) = column or made.images_of("train").targets
    np.testing.assert_array_equal(pixels_of(stack), pixels)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": "fill"}, "a name in missing_chunks='images': choose among image, target, mask"),
        ({"image": "skip"}, "missing_chunks.image='skip': choose among error, fill"),
        ("no", "missing_chunks='no': choose among error, fill"),
    ],
)
def test_settings_that_are_none(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ZarrDataModule(missing_chunks=given)


# ----------------------------------------------------------------------------------- what is named


@pytest.mark.parametrize("prefix", ["file://", "file://localhost"])
def test_percent_encoded_uris(tmp_path: Path, prefix: str) -> None:
    folder = tmp_path / "a b#ü"
    write_array(folder / "c.zarr/d", IMAGE)
    uri = (folder / "c.zarr/d").as_uri().replace("file://", prefix)
    assert "%20" in uri
    (stack,) = images(module(uri, axes="CYX"))
    assert stack.source == str(folder / "c.zarr/d")
    literal = tmp_path / "a%20b.zarr"
    write_array(literal, IMAGE)
    (stack,) = images(module(f"file://{literal}", axes="CYX"))
    assert stack.source == str(literal)


@pytest.mark.parametrize(
    "name", [lambda g: g, lambda g: g.store_path, lambda g: [g["a"], g["b"].store_path]]
)
def test_what_zarr_opened_is_a_source(tmp_path: Path, name: Callable[[Any], Any]) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    for seed, child in enumerate("ab"):
        write_array(tmp_path / "a.zarr" / child, numbers((20, 24), seed=seed))
    found = images(module(name(group), axes="YX"))
    assert [stack.source for stack in found] == [f"{tmp_path}/a.zarr/{n}" for n in "ab"]
    target = module(group["a"], train_target=group["b"].store_path, axes="YX")
    assert len(images(target)) == len(target.images_of("train").targets) == 1


def test_what_is_in_memory_only_is_refused() -> None:
    group = zarr.open_group(zarr.storage.MemoryStore(), mode="w")
    with pytest.raises(DataError, match="is in the memory of a process"):
        module(group.store_path).setup("fit")


# --------------------------------------------------------------------------------- declared sizes


def declare(path: Path, **sizes: Any) -> None:
    """Change what metadata say of an array of 64² pixels in chunks of 16²."""
    name = path / ("zarr.json" if (path / "zarr.json").exists() else ".zarray")
    content = json.loads(name.read_text())
    if "chunks" in sizes and "chunk_grid" in content:
        content["chunk_grid"]["configuration"]["chunk_shape"] = sizes.pop("chunks")
    name.write_text(json.dumps(content | sizes))


@pytest.mark.parametrize("how", [{}, {"zarr_format": 2}, {"shards": (32, 32)}])
def test_a_trillion_chunks_are_not_counted_one_by_one(tmp_path: Path, how: dict[str, Any]) -> None:
    write_array(tmp_path / "a.zarr", numbers((64, 64)), **how)
    (tmp_path / "a.zarr/notes.0").touch()  # no chunk
    declare(tmp_path / "a.zarr", shape=[16_000_000, 16_000_000])
    made = module(tmp_path / "a.zarr", axes="YX")
    total, first = (10**12, 4) if "shards" not in how else (10**12, 2)
    message = rf"{total - 16} of {total} chunk\(s\) are missing: \S*0.{first},"
    with pytest.raises(DataError, match=message):
        made.setup("fit")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"chunks": [2**20, 2**16]}, r"chunks of \(1048576, 65536\) pixels, but the array has"),
        (
            {"chunks": [2**20] * 2, "shape": [2**20] * 2},
            r"takes 2048\.0 GiB of memory, but .* free",
        ),
        ({"shape": [2**40, 2**40]}, r"is more than any disk holds"),
    ],
)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_sizes_that_cannot_be_are_said_at_once(
    tmp_path: Path, sizes: dict[str, Any], message: str, zarr_format: int
) -> None:
    write_array(tmp_path / "a.zarr", numbers((64, 64)), zarr_format=zarr_format)
    declare(tmp_path / "a.zarr", **sizes)
    with pytest.raises(DataError, match=rf"a\.zarr: .*{message}"):
        module(tmp_path / "a.zarr", axes="YX", missing_chunks="fill").setup("fit")


# ----------------------------------------------------------------- stores that change after set-up


@pytest.mark.parametrize("engine", ["zarr", "tensorstore"])
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("fault", ["vanished", "a folder", "filled elsewhere"])
def test_a_chunk_that_vanishes_is_no_zeros(
    tmp_path: Path, fault: str, zarr_format: Any, engine: str
) -> None:
    write_array(tmp_path / "a.zarr", numbers((32, 32)), zarr_format=zarr_format)
    fill = {"missing_chunks": "fill"} if fault == "filled elsewhere" else {}
    options = {"axes": "YX", "engine": engine, "in_memory": False} | fill
    made = module(tmp_path / "a.zarr", **options)
    (stack,) = images(made)
    assert stack.extract_patch(0, None, (0, 0), (4, 4)).all()
    assert stack.array.engine == engine
    chunk = tmp_path / "a.zarr" / ("1.1" if zarr_format == 2 else "c/1/1")
    chunk.unlink()
    if fault == "a folder":
        chunk.mkdir()
    with pytest.raises(DataError, match=r"a\.zarr: chunk \S*1.1 is missing, but was there at set"):
        stack.extract_patch(0, None, (12, 12), (8, 8))
    assert stack.extract_patch(0, None, (0, 0), (4, 4)).all()


@pytest.mark.parametrize("engine", ["zarr", "tensorstore"])
@pytest.mark.parametrize("read_before", [True, False])
@pytest.mark.parametrize("other", [IMAGE.astype("int16"), IMAGE.astype("f4"), IMAGE[:, :10]])
def test_an_array_that_is_replaced_is_noticed(
    tmp_path: Path, other: Any, read_before: bool, engine: str
) -> None:
    write_array(tmp_path / "a.zarr", IMAGE)
    (stack,) = images(module(tmp_path / "a.zarr", axes="CYX", engine=engine, in_memory=False))
    if read_before:
        stack.extract_patch(0, None, (0, 0), (4, 4))
    shutil.rmtree(tmp_path / "a.zarr")
    write_array(tmp_path / "a.zarr", other)
    with pytest.raises(DataError, match=r"a\.zarr: has changed: it now has .* at set-up"):
        stack.extract_patch(0, None, (0, 0), (4, 4))
    forget_stores()


def test_metadata_that_are_written_again_change_nothing(tmp_path: Path) -> None:
    write_array(tmp_path / "a.zarr", IMAGE)
    (stack,) = images(module(tmp_path / "a.zarr", axes="CYX", in_memory=False))
    stack.extract_patch(0, None, (0, 0), (4, 4))
    content = json.loads((tmp_path / "a.zarr/zarr.json").read_text())
    content["attributes"] = {"note": "later"}
    (tmp_path / "a.zarr/zarr.json").write_text(json.dumps(content))
    np.testing.assert_array_equal(stack.extract_patch(0, None, (0, 0), (20, 24)), IMAGE)
