"""What `ZarrDataModule` reads and refuses of OME-Zarr, on files of three writers."""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr_files import NAMES, SCALE, numbers, write_array, write_image, write_labels, write_plate

from careamics_dm.errors import DataError
from careamics_dm.formats.zarr.array import forget_stores
from careamics_dm.formats.zarr.datamodule import ZarrDataModule
from careamics_dm.testing.datamodule_checks import check_datamodule, check_image_stack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from careamics_dm.images.array_stack import ArrayStack

pytestmark = pytest.mark.usefixtures("files_close")
VERSIONS = ["0.4", "0.5"]
WRITERS = ["ome-zarr", "ngff-zarr", "bioio"]
PLATE_WRITERS = ["ome-zarr", "ngff-zarr"]  # bioio writes no plates


def module(data: Any, **given: Any) -> ZarrDataModule:
    given = {"patch_size": (8, 8), "batch_size": 2} | given
    return ZarrDataModule(train_data=data, **given)


def stacks(data: Any, axes: str = "auto", **given: Any) -> list[ArrayStack]:
    made = module(data, axes=axes, **given)
    try:
        sources = made.list_sources(data, "train_data").inputs
        return [made.open_source(source, made.settings.axes)[0] for source in sources]
    finally:
        forget_stores()


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the OME metadata of a group."""
    old, new = path / ".zattrs", path / "zarr.json"
    content = json.loads((old if old.exists() else new).read_text())
    change(content if old.exists() else content["attributes"]["ome"])
    (old if old.exists() else new).write_text(json.dumps(content))


# -------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("axes", "shape"), [("tczyx", (2, 2, 3, 40, 50)), ("czyx", (2, 3, 40, 50)), ("yx", (40, 50))]
)
def test_image_of_each_writer(
    tmp_path: Path, writer: str, version: str, axes: str, shape: tuple[int, ...]
) -> None:
    array = numbers(shape)
    write_image(tmp_path / "a.zarr", array, axes, version, writer)
    (stack,) = stacks(tmp_path / "a.zarr")
    assert (stack.source, stack.original_axes) == (str(tmp_path / "a.zarr"), axes.upper())
    assert stack.scale == {axis: SCALE[axis] for axis in axes.upper() if axis in SCALE}
    has_names = "c" in axes and writer != "ngff-zarr"
    assert stack.channel_names == (tuple(NAMES) if has_names else None)
    np.testing.assert_array_equal(stack.load().array, array)
    if axes == "czyx":
        check_image_stack(stack, array[None])


@pytest.mark.parametrize("version", VERSIONS)
def test_levels(tmp_path: Path, version: str) -> None:
    write_image(tmp_path / "a.zarr", numbers((2, 40, 50)), "cyx", version, "ome-zarr")
    (stack,) = stacks(tmp_path / "a.zarr", level=1)
    assert stack.correlated_noise == "level 1 of a pyramid is scaled down"
    assert stack.load().correlated_noise == stack.correlated_noise
    assert stack.data_shape == (1, 2, 20, 25)
    assert stack.scale == {"Y": (0.4, "µm"), "X": (0.2, "µm")}
    with pytest.raises(DataError, match=r"a\.zarr: level=5 does not exist\. There are 0: \w+, 1: "):
        stacks(tmp_path / "a.zarr", level=5)


def test_level_by_row_of_a_manifest(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr", numbers((40, 50)), "yx", "0.5", "ome-zarr")
    (tmp_path / "m.csv").write_text("input,level\na.zarr,\na.zarr,1\n")
    made = module(tmp_path / "m.csv")
    made.setup("fit")
    assert [s.data_shape[2:] for s in made.images_of("train").stacks] == [(40, 50), (20, 25)]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_level_that_is_named_itself_knows_its_axes(tmp_path: Path, version: str) -> None:
    write_image(tmp_path / "a.zarr", numbers((2, 40, 50)), "cyx", version, "ome-zarr")
    names = sorted(p.name for p in (tmp_path / "a.zarr").iterdir() if p.is_dir())
    name, smaller, *_ = names
    (stack,) = stacks(f"file://{tmp_path}/a.zarr/{name}")
    assert stack.correlated_noise == ""
    for place in (f"file://{tmp_path}/a.zarr/{smaller}", tmp_path / "a.zarr" / smaller):
        (level,) = stacks(place)
        assert level.correlated_noise == "level 1 of a pyramid is scaled down"
    assert (stack.source, stack.original_axes) == (f"{tmp_path}/a.zarr/{name}", "CYX")
    assert stack.channel_names == tuple(NAMES)


@pytest.mark.parametrize("version", VERSIONS)
def test_axes_that_contradict_metadata(tmp_path: Path, version: str) -> None:
    write_image(tmp_path / "a.zarr", numbers((2, 40, 50)), "cyx", version, "ome-zarr")
    with pytest.raises(DataError, match=r'a\.zarr: axes="ZYX" contradicts .* CYX .*trust_axes'):
        stacks(tmp_path / "a.zarr", "ZYX")
    assert stacks(tmp_path / "a.zarr", "CYX")[0].original_axes == "CYX"
    (stack,) = stacks(tmp_path / "a.zarr", "ZYX", trust_axes=True)
    assert (stack.original_axes, stack.channel_names) == ("ZYX", None)


def test_shards(tmp_path: Path) -> None:
    array = numbers((2, 70, 90))
    write_image(tmp_path / "a.zarr", array, "cyx", "0.5", "ome-zarr")
    (name, *_) = sorted(p.name for p in (tmp_path / "a.zarr").iterdir() if p.is_dir())
    shutil.rmtree(tmp_path / "a.zarr" / name)
    how = {"chunks": (1, 16, 16), "shards": (1, 64, 64)}
    write_array(tmp_path / "a.zarr" / name, array, **how)
    (stack,) = stacks(tmp_path / "a.zarr")
    assert stack.block_shape == (64, 64)
    check_image_stack(stack, array[None])


def test_names_and_units_as_files_have_them(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr", numbers((2, 3, 40, 50)), "czyx", "0.4", "ome-zarr")

    def change(ome: dict[str, Any]) -> None:
        (entry,) = ome["multiscales"]
        for axis, name in zip(entry["axes"], ("channels", "depth", "rows", "cols"), strict=True):
            axis["name"] = name
        entry["axes"][1]["unit"] = "um"
        del entry["axes"][2]["unit"]
        entry["axes"][3]["unit"] = "nanometer"
        entry["coordinateTransformations"] = [{"type": "scale", "scale": [1, 2, 2, 2]}]
        ome["omero"]["channels"] = [{"label": "DAPI"}, {"label": "GFP"}]  # no color, no window

    edit(tmp_path / "a.zarr", change)
    (stack,) = stacks(tmp_path / "a.zarr")
    assert stack.original_axes == "CZYX"
    assert stack.scale == {"Z": (1.0, "µm"), "X": (0.2, "nm")}
    assert stack.channel_names == ("DAPI", "GFP")


@pytest.mark.parametrize("omero", [[1], {"channels": 3}, {"channels": {"DAPI": 1}}, None])
def test_channel_names_that_are_none_are_left_out(tmp_path: Path, omero: Any) -> None:
    write_image(tmp_path / "a.zarr", numbers((2, 40, 50)), "cyx", "0.4", "ome-zarr")
    edit(tmp_path / "a.zarr", lambda ome: ome.update(omero=omero))
    assert stacks(tmp_path / "a.zarr")[0].channel_names is None


def test_labels_are_no_images_but_may_be_masks(tmp_path: Path) -> None:
    array = numbers((40, 50))
    write_image(tmp_path / "a.zarr", array, "yx", "0.5", "ome-zarr")
    write_labels(tmp_path / "a.zarr", "cells", array.astype("uint8"), "yx")
    assert [s.source for s in stacks(tmp_path / "a.zarr")] == [str(tmp_path / "a.zarr")]
    for inner in ("labels", "labels/cells"):
        with pytest.raises(DataError, match=f"a.zarr/{inner}: holds labels"):
            stacks(tmp_path / "a.zarr" / inner)
    made = module(tmp_path / "a.zarr", train_mask=tmp_path / "a.zarr/labels/cells")
    made.setup("fit")
    np.testing.assert_array_equal(made.images_of("train").masks[0].load().array, array)
    # An array with the attribute, beside others, is left out too.
    stored = zarr.open_group(tmp_path / "b.zarr", mode="w")
    for name in ("cells", "image"):
        stored.create_array(name, shape=(40, 50), chunks=(40, 50), dtype="u2")[...] = array
    stored["cells"].attrs["image-label"] = {}
    assert [s.source[-6:] for s in stacks(tmp_path / "b.zarr", "YX")] == ["/image"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("listed", [True, False])
def test_collection_of_images(tmp_path: Path, version: str, listed: bool) -> None:
    names = ["0", "1", "10", "2"]
    for seed, name in enumerate(names):
        write_image(
            tmp_path / "a.zarr" / name, numbers((40, 50), seed=seed), "yx", version, "ome-zarr"
        )
    layout, series = {"bioformats2raw.layout": 3}, {"series": ["2", "0", "7"]}
    if version == "0.5":
        layout, series = {"ome": layout | {"version": "0.5"}}, {"ome": series | {"version": "0.5"}}
    zarr_format: Any = 2 if version == "0.4" else 3
    root = zarr.open_group(tmp_path / "a.zarr", mode="a", zarr_format=zarr_format)
    root.attrs.update(layout)
    if not listed:
        found = stacks(tmp_path / "a.zarr")
        assert [s.source.rsplit("/", 1)[1] for s in found] == ["0", "1", "2", "10"]
        return
    root.create_group("OME").attrs.update(series)
    with pytest.warns(UserWarning, match=r"1 .*metadata list are not there.*a\.zarr/7\."):
        found = stacks(tmp_path / "a.zarr")
    assert [s.source for s in found] == [f"{tmp_path}/a.zarr/{n}" for n in ("2", "0")]


# -------------------------------------------------------------------------------------- plates


@pytest.mark.parametrize("writer", PLATE_WRITERS)
@pytest.mark.parametrize("version", VERSIONS)
def test_plate_of_each_writer(tmp_path: Path, writer: str, version: str) -> None:
    path = tmp_path / "p.zarr"
    fields = write_plate(path, version, writer)
    found = stacks(path)
    assert [s.source for s in found] == [f"{path}/{name}" for name in fields]
    for stack, array in zip(found, fields.values(), strict=True):
        assert stack.original_axes == "CYX"
        np.testing.assert_array_equal(stack.load().array, array)
    names = [getattr(s, "image_name", None) for s in found]  # by which results are called
    assert names == [f"{r}{c}_field{f}" for r, c, f in (name.split("/") for name in fields)]
    assert len(stacks(f"{path}/A/2")) == 2  # a well
    assert [s.source for s in stacks(f"file://{path}/A/2/1")] == [f"{path}/A/2/1"]


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plate") / "p.zarr"
    write_plate(path, "0.5", "ome-zarr")
    return path


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"row": "A"}, ["A/1/0", "A/1/1", "A/2/0", "A/2/1"]),
        ({"column": 2, "field": 0}, ["A/2/0", "B/2/0"]),
        ({"column": "02", "field": (1,)}, ["A/2/1", "B/2/1"]),
        ({"row": ["A", "B"], "column": "[2-9]", "field": "1"}, ["A/2/1", "B/2/1"]),
        ({"row": "*", "field": "?"}, ["A/1/0", "A/1/1", "A/2/0", "A/2/1", "B/2/0", "B/2/1"]),
    ],
)
def test_selection_in_a_plate(plate: Path, chosen: dict[str, Any], expected: list[str]) -> None:
    assert [s.source for s in stacks(plate, **chosen)] == [f"{plate}/{name}" for name in expected]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"row": "C"}, "no well has row=C. There are rows A, B and columns 1, 2."),
        ({"row": "B", "column": 1}, "no well has row=B, column=1."),
        ({"field": 7}, "no field has field=7. There are fields 0, 1."),
        # A slip in a list is told, not left out.
        ({"row": ["A", "Q"], "column": [1, 9]}, "no well has row=Q nor column=9."),
        ({"field": ("0", 5, "x*")}, r"no field has field=5 nor field=x\*. There are fields 0, 1."),
    ],
)
def test_selection_of_nothing(plate: Path, chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"p.zarr: {message}"):
        stacks(plate, **chosen)
    with pytest.raises(DataError, match=r"A/2: is a well, so field alone"):
        stacks(plate / "A/2", row="A")


def test_selection_by_row_of_a_manifest(plate: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(
        f"input,row,column,field,split\n{plate},A,1,,train\n{plate},B,,1,train\n"
    )
    made = module(tmp_path / "m.csv")
    made.setup("fit")
    names = [s.source.removeprefix(f"{plate}/") for s in made.images_of("train").stacks]
    assert names == ["A/1/0", "A/1/1", "B/2/1"]


def test_fields_of_two_plates_pair_by_name(plate: Path, tmp_path: Path) -> None:
    shutil.copytree(plate, tmp_path / "t.zarr")
    made = module(plate, train_target=tmp_path / "t.zarr", normalization="none")
    check_datamodule(made)
    shutil.rmtree(tmp_path / "t.zarr/A/2/0")
    with (
        pytest.warns(UserWarning, match="1 .*not there"),
        pytest.raises(DataError, match=r"no partner: in .*, A/2/0"),
    ):
        module(plate, train_target=tmp_path / "t.zarr").setup("fit")


@pytest.mark.parametrize("version", VERSIONS)
def test_missing_wells_and_fields_are_left_out_and_counted(tmp_path: Path, version: str) -> None:
    path = tmp_path / "p.zarr"
    write_plate(path, version, "ome-zarr")
    shutil.rmtree(path / "A/1/1")
    shutil.rmtree(path / "B/2")
    with pytest.warns(UserWarning, match=r"2 well\(s\).*left out: .*A/1/1, .*B/2\.") as told:
        found = stacks(path)
    assert len(told) == 1
    assert [s.source.removeprefix(f"{path}/") for s in found] == ["A/1/0", "A/2/0", "A/2/1"]
    for well in ("A/1", "A/2"):
        shutil.rmtree(path / well)
    with pytest.raises(DataError, match=r"none of its 3 well\(s\) and field\(s\) is there"):
        stacks(path)


def test_groups_without_metadata_on_the_way_are_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "p.zarr"
    write_plate(path, "0.4", "ome-zarr")
    for name in ("A", "B", "A/1"):
        (path / name / ".zgroup").unlink()
    assert len(stacks(path)) == 6


def test_opening_a_plate_takes_a_millisecond_per_field(tmp_path: Path) -> None:
    path = tmp_path / "p.zarr"
    write_plate(path, "0.5", "ome-zarr", fields=1)
    for field in range(1, 201):
        shutil.copytree(path / "A/1/0", path / f"A/1/{field}")
    edit(
        path / "A/1",
        lambda ome: ome["well"]["images"].extend({"path": f"{n}"} for n in range(1, 201)),
    )
    made = ZarrDataModule(predict_data=path, patch_size=(8, 8), normalization="none")
    start = time.perf_counter()
    made.setup("predict")
    assert len(made.predict_stacks) == 203
    assert time.perf_counter() - start < 203 * 0.02  # 20 times what it takes: machines differ


# ----------------------------------------------------------------------------------- bad input


def no_axes(ome: dict[str, Any]) -> str:
    del ome["multiscales"][0]["axes"]
    path = ome["multiscales"][0]["datasets"][0]["path"]
    return rf"its metadata are not OME-Zarr 0.[45]: axes: Field .*name the array \(.*a.zarr/{path},"


def axes_of_version_3(ome: dict[str, Any]) -> str:
    ome["multiscales"][0]["axes"] = ["c", "y", "x"]
    return "its metadata are not OME-Zarr"


def no_transformation(ome: dict[str, Any]) -> str:
    del ome["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    return "datasets.0.coordinateTransformations: Field required"


def empty_multiscales(ome: dict[str, Any]) -> str:
    ome["multiscales"] = []
    return "its metadata are not OME-Zarr"


def other_path(ome: dict[str, Any]) -> str:
    ome["multiscales"][0]["datasets"][0]["path"] = "nowhere"
    return r"nowhere: cannot be opened .*copy is incomplete"


def other_number_of_axes(ome: dict[str, Any]) -> str:
    del ome["multiscales"][0]["axes"][0]
    for dataset in ome["multiscales"][0]["datasets"]:
        dataset["coordinateTransformations"] = [{"type": "scale", "scale": [1, 1]}]
    return r"its metadata name 2 axes \(YX\), but the array has shape \(2, 40, 50\)"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "damage",
    [
        no_axes,
        axes_of_version_3,
        no_transformation,
        empty_multiscales,
        other_path,
        other_number_of_axes,
    ],
)
def test_metadata_that_are_wrong(
    tmp_path: Path, version: str, damage: Callable[[dict[str, Any]], str]
) -> None:
    array = numbers((2, 40, 50))
    write_image(tmp_path / "a.zarr", array, "cyx", version, "ome-zarr")
    (name, *_) = sorted(p.name for p in (tmp_path / "a.zarr").iterdir() if p.is_dir())
    messages: list[str] = []
    edit(tmp_path / "a.zarr", lambda ome: messages.append(damage(ome)))
    with pytest.raises(DataError, match=r"a\.zarr.*" + messages[0]):
        stacks(tmp_path / "a.zarr")
    (stack,) = stacks(tmp_path / "a.zarr" / name, "CYX", trust_axes=True)  # the way out
    np.testing.assert_array_equal(stack.load().array, array)


def test_versions_to_come_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr", numbers((40, 50)), "yx", "0.5", "ome-zarr")
    edit(tmp_path / "a.zarr", lambda ome: ome.update(version="0.7"))
    with pytest.raises(DataError, match=r"OME-Zarr 0\.7 cannot be read; 0\.4 and 0\.5 can"):
        stacks(tmp_path / "a.zarr")


@pytest.mark.parametrize("version", VERSIONS)
def test_plates_and_wells_that_are_wrong(tmp_path: Path, version: str) -> None:
    path = tmp_path / "p.zarr"
    write_plate(path, version, "ome-zarr", fields=1)
    edit(path / "A/1", lambda ome: ome.pop("well"))
    with pytest.raises(DataError, match="A/1: has no metadata of a well"):
        stacks(path)
    edit(path / "A/2", lambda ome: ome["well"].update(images=[]))
    with pytest.raises(DataError, match=r"A/2: its metadata are not OME-Zarr .*images"):
        stacks(path, column=2)
    edit(path / "B/2/0", lambda ome: ome.pop("multiscales"))
    with pytest.raises(DataError, match="B/2/0: has no OME metadata of an image"):
        stacks(path, row="B")
    edit(path, lambda ome: ome["plate"].pop("rows"))
    with pytest.raises(
        DataError, match=r"p\.zarr: its metadata are not OME-Zarr .*rows: Field.*list the"
    ):
        stacks(path)


def test_the_whole_module_on_a_plate(plate: Path) -> None:
    check_datamodule(module(plate, predict_data=plate, row="B", in_memory=False, channels=["GFP"]))
