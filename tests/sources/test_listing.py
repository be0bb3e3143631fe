from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from careamics_dm import TiffDataModule, ZarrDataModule
from careamics_dm.errors import DataError
from careamics_dm.sources.listing import Listing, list_files, pair, read_manifest

TIFF = (".tif", ".tiff", ".ome.tif")
YX = {"axes": "YX"}

NASTY = [
    "a=b.tif",
    "me@lab.tif",
    "100%.tif",
    "%20.tif",
    "one,two.tif",
    "two words.tif",
    " leading space.tif",
    "[1].tif",
    "cells[0-9].tif",
    "star*.tif",
    "what?.tif",
    "{a,b}.tif",
    "${oc.env:HOME}.tif",
    "$HOME.tif",
    "-rf.tif",
    "zellkörper_µm.tif",
    "細胞.tif",
    'it\'s "quoted".tif',
    "semi;colon&and.tif",
    "back\\slash#hash.tif",
    "dots.in.the.name.tif",
    "~tilde.tif",
    "null.tif",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Has files of several kinds at several depths, hidden ones among them."""
    for name in (
        "b.tif",
        "a.TIF",
        "deep/er/c.tiff",
        "deep/d.Ome.Tif",
        "notes.md",
        "._b.tif",
        ".hidden/e.tif",
        "deep/.thumbs/f.tif",
    ):
        path = tmp_path / "scan" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "scan"


def names(listing: Listing, folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in listing.inputs]


def test_a_file_is_itself(folder: Path) -> None:
    for data in (folder / "b.tif", str(folder / "b.tif")):
        assert list_files(data, TIFF, "train_data").inputs == [folder / "b.tif"]


@pytest.mark.parametrize("source", ["s3://bucket/a.tif", ["https://host/a.tif"]])
def test_a_url_is_no_file(source: str | list[str]) -> None:
    with pytest.raises(DataError, match=r"a\.tif is a URL, and only data=zarr reads from URLs"):
        list_files(source, [".tif"], "train_data")


def test_a_list_keeps_its_order(folder: Path) -> None:
    data = [str(folder / "b.tif"), folder / "a.TIF"]
    for listed in (data, tuple(data)):
        assert names(list_files(listed, TIFF, "train_data"), folder) == ["b.tif", "a.TIF"]


def test_a_folder_is_searched_deeply_in_any_case_without_hidden_files(folder: Path) -> None:
    listing = list_files(folder, TIFF, "train_data")
    assert names(listing, folder) == ["a.TIF", "b.tif", "deep/d.Ome.Tif", "deep/er/c.tiff"]
    assert listing.root == folder


def test_a_folder_below_a_hidden_one_is_searched_when_named(folder: Path) -> None:
    listing = list_files(folder / ".hidden", TIFF, "train_data")
    assert names(listing, folder) == [".hidden/e.tif"]


def test_a_glob_matches_as_in_a_shell(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(list_files(f"{folder}/*.tif", TIFF, "train_data"), folder) == ["b.tif"]
    assert names(list_files(f"{folder}/**/[cd].*", TIFF, "train_data"), folder) == [
        "deep/d.Ome.Tif",
        "deep/er/c.tiff",
    ]
    assert names(list_files(f"{folder}/._*", TIFF, "train_data"), folder) == ["._b.tif"]
    monkeypatch.chdir(folder)
    assert list_files("?.tif", TIFF, "train_data").inputs == [Path("b.tif")]


def test_folders_that_are_sources_themselves_are_listed_like_files(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "plain").mkdir()
    extensions = (".zarr",)
    for data in ([tmp_path / "a.zarr"], f"{tmp_path}/*"):
        assert names(list_files(data, extensions, "train_data"), tmp_path) == ["a.zarr"]


@pytest.mark.parametrize("name", NASTY)
def test_a_nasty_name_survives_every_way_of_naming_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    path.touch()
    for data in (path, str(path), [path], tmp_path):
        assert list_files(data, TIFF, "train_data").inputs == [path]
    quoted = name.replace('"', '""')
    (tmp_path / "list.csv").write_text(f'input,split\n"{quoted}",train\n', encoding="utf-8")
    (tmp_path / "list.txt").write_text(name + "\n", encoding="utf-8")
    single = name.replace("'", "''")
    (tmp_path / "list.yaml").write_text(f"- input: '{single}'\n", encoding="utf-8")
    for kind in ("csv", "txt", "yaml"):
        assert list_files(tmp_path / f"list.{kind}", TIFF, "train_data").inputs == [path]
    monkeypatch.chdir(tmp_path)
    assert list_files(name, TIFF, "train_data").inputs == [Path(name)]


def test_a_tilde_alone_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tif").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert list_files("~/a.tif", TIFF, "train_data").inputs == [tmp_path / "a.tif"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Holds in/1 to 4.tif and out/1 to 4.tif."""
    for side in ("in", "out"):
        (tmp_path / side).mkdir()
        for i in range(1, 5):
            (tmp_path / side / f"{i}.tif").touch()
    return tmp_path


TABLE = """\
\ufeffinput, target,split
in/1.tif,out/2.tif,train
in/2.tif,out/1.tif,train

in/3.tif,out/3.tif,val
in/4.tif,,predict
"""


def test_a_csv_manifest_chooses_by_split_and_pairs_by_row(files: Path) -> None:
    manifest = files / "list.CSV"
    manifest.write_text(TABLE, encoding="utf-8")
    train = list_files(manifest, TIFF, "train_data")
    assert names(train, files) == ["in/1.tif", "in/2.tif"]
    assert train.targets == [files / "out/2.tif", files / "out/1.tif"]
    assert names(list_files(manifest, TIFF, "val_data"), files) == ["in/3.tif"]
    assert names(list_files(manifest, TIFF, "train_target"), files) == ["in/1.tif", "in/2.tif"]


def test_a_split_without_targets_has_none(files: Path) -> None:
    manifest = files / "list.csv"
    manifest.write_text(TABLE, encoding="utf-8")
    predict = list_files(manifest, TIFF, "predict_data")
    assert names(predict, files) == ["in/4.tif"]
    assert predict.targets is None


def test_a_yaml_manifest_lists_mappings_or_names_as_they_are_written(files: Path) -> None:
    (files / "0012").touch()
    manifest = files / "list.yml"
    manifest.write_text("- 0012\n- input: in/1.tif\n", encoding="utf-8")
    assert names(read_manifest(manifest, "train_data"), files) == ["0012", "in/1.tif"]
    manifest.write_text("- {input: in/1.tif, target: out/1.tif, mask: in/2.tif}\n")
    listing = read_manifest(manifest, "train_data")
    assert (listing.targets, listing.masks) == ([files / "out/1.tif"], [files / "in/2.tif"])


def test_a_text_manifest_has_a_name_per_line_also_absolute(files: Path) -> None:
    manifest = files / "list.txt"
    manifest.write_bytes(f"\ufeffin/1.tif\r\n\r\n{files}/out/1.tif".encode())
    assert names(read_manifest(manifest, "train_data"), files) == ["in/1.tif", "out/1.tif"]


def test_a_text_file_is_a_source_where_the_format_reads_text(files: Path) -> None:
    table = files / "table.txt"
    table.write_text("1 2 3")
    assert list_files(table, (".txt",), "train_data").inputs == [table]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "file\nx.tif\n", "has the columns file, but not input, which names the files"),
        ("a.csv", "input,target\nin/1.tif,out/1.tif\nin/2.tif,\n", "row 2 has no target"),
        ("a.csv", "input,split\nin/1.tif,val\n,train\n", "row 2 has no input"),
        ("a.csv", "input,split\nin/1.tif,trian\n", "row 1 has split=trian. Choose among train,"),
        ("a.csv", "input,split\nin/1.tif\n", "row 1 has split=. Choose among"),
        ("a.csv", "input,split\nin/1.tif,val\n", "has no row with split=train"),
        ("a.csv", "input\nin/one,two.tif\n", "row 1 has more fields than the header"),
        ("a.csv", "input\n", "has no row"),
        ("a.csv", "", "has no row"),
        ("a.txt", "\n\n", "has no row"),
        ("a.yaml", "", "has no row"),
        ("a.yaml", "input: in/1.tif", "expected a list"),
        ("a.yaml", "- [in/1.tif]", "row 1 is neither a name nor a mapping"),
        ("a.yaml", "- input: [in/1.tif]", "row 1 is neither a name nor a mapping"),
        ("a.yaml", "- 'in", "cannot be read: while scanning"),
        ("a.csv", "input\nin/1.tif\nin/8.tif\nin/9.tif\n", "2 file(s) do not exist: "),
        ("a.csv", "input,target\nin/8.tif,out/9.tif\n", "2 file(s) do not exist: "),
        ("a.csv", "input\nin\n", "is a folder in a list"),
    ],
)
def test_a_faulty_manifest_is_explained(files: Path, name: str, content: str, message: str) -> None:
    (files / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as error:
        list_files(files / name, TIFF, "train_data")
    assert message in str(error.value)
    assert str(error.value).startswith("train_data: ")
    assert str(files) in str(error.value)


def test_a_manifest_that_is_not_utf_8_is_refused(files: Path) -> None:
    (files / "a.txt").write_bytes("zellkörper.tif".encode("latin-1"))
    with pytest.raises(DataError, match=r"a.txt cannot be read: 'utf-8' codec"):
        list_files(files / "a.txt", TIFF, "train_data")


def test_all_missing_paths_of_a_list_are_named_at_once(files: Path) -> None:
    with pytest.raises(DataError) as error:
        list_files(["no/1.tif", files / "in/1.tif", "no/2.tif"], TIFF, "val_data")
    assert "val_data: 2 file(s) do not exist: no/1.tif, no/2.tif (seen from " in str(error.value)


def test_a_missing_path_is_an_error() -> None:
    with pytest.raises(DataError, match=r"test_data: no/such.tif does not exist \(seen from"):
        list_files("no/such.tif", TIFF, "test_data")


def test_an_empty_list_is_an_error() -> None:
    with pytest.raises(DataError, match=r"train_data: the list is empty. Name at least one file"):
        list_files([], TIFF, "train_data")


@pytest.mark.parametrize("data", ["", [""]])
def test_an_empty_path_does_not_mean_the_working_directory(data: object) -> None:
    with pytest.raises(DataError, match="train_data: the path is empty"):
        list_files(data, TIFF, "train_data")


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no file ending in .tif.* \(found: nothing\)"):
        list_files(tmp_path, TIFF, "train_data")


def test_a_folder_without_a_match_tells_what_is_there(tmp_path: Path) -> None:
    for name in ("a.czi", "b.czi", "c.png", "README"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"\(found: .czi, .png, README\). Check the folder"):
        list_files(tmp_path, TIFF, "train_data")


def test_a_pattern_without_a_match_is_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no file matches the pattern .*scan/x\*.tif"):
        list_files(f"{folder}/x*.tif", TIFF, "train_data")


@pytest.mark.parametrize("name", ["plain", "with.dot"])
def test_a_folder_in_a_list_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=f"{name} is a folder in a list. Name its files"):
        list_files([tmp_path / name], TIFF, "train_data")


@pytest.mark.parametrize("data", [3, [3], np.zeros((2, 2)), {"a": 1}, b"a.tif"])
def test_what_is_no_path_is_an_error(data: object) -> None:
    with pytest.raises(DataError, match=r"train_data: .* is not a path. Give a path or a list"):
        list_files(data, TIFF, "train_data")


def make(folder: Path, *names: str) -> Listing:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return list_files(folder, TIFF, "train_data")


def test_files_of_two_folders_pair_by_name_below_the_folder(tmp_path: Path) -> None:
    inputs = make(tmp_path / "in", "b.tif", "a.tif", "x/a.ome.tif", "dots.in.name.tif")
    targets = make(tmp_path / "out", "a.TIFF", "b.tif", "x/a.tif", "dots.in.name.tif")
    paired = pair(inputs, targets, "train_target").inputs
    paired = [path.relative_to(tmp_path / "out") for path in paired]
    ours = [str(path.relative_to(tmp_path / "in")) for path in inputs.inputs]
    assert ours == ["a.tif", "b.tif", "dots.in.name.tif", "x/a.ome.tif"]
    assert [str(path) for path in paired] == ["a.TIFF", "b.tif", "dots.in.name.tif", "x/a.tif"]


def test_unpaired_files_on_either_side_are_named(tmp_path: Path) -> None:
    inputs = make(tmp_path / "in", "a.tif", "b.tif")
    targets = make(tmp_path / "out", "b.tif", "c.tif")
    lone = r"train_target: .* have no partner: in .*in, a; in .*out, c\. Add"
    with pytest.raises(DataError, match=lone):
        pair(inputs, targets, "train_target")


def test_two_files_of_one_name_are_an_error_and_none_is_dropped(tmp_path: Path) -> None:
    inputs = make(tmp_path / "in", "a.tif", "a.tiff")
    targets = make(tmp_path / "out", "a.tif")
    with pytest.raises(DataError, match=r"a.tif and .*a.tiff have the same name without ext"):
        pair(inputs, targets, "train_target")


def test_lists_pair_by_order_and_must_be_equally_long() -> None:
    inputs, others = Listing(["a", "b"]), Listing([2, 1])
    assert pair(inputs, others, "train_target").inputs == [2, 1]
    with pytest.raises(DataError, match=r"train_mask: 2 input\(s\) but 1 of these"):
        pair(inputs, Listing([1]), "train_mask")


def test_a_folder_and_a_list_pair_by_order(tmp_path: Path) -> None:
    inputs = make(tmp_path / "in", "b.tif", "a.tif")
    targets = ["for a", "for b"]
    assert pair(inputs, Listing(targets), "train_target").inputs == targets


def test_what_pairs_by_name_keeps_its_own_keys(tmp_path: Path) -> None:
    inputs = make(tmp_path / "in", "a.tif", "b.tif")
    targets = make(tmp_path / "out", "b.tif", "a.tif")
    targets = replace(targets, keys=[{"series": p.stem} for p in targets.inputs])
    assert pair(inputs, targets, "train_target").keys == [{"series": "a"}, {"series": "b"}]


def test_a_manifest_may_say_what_in_its_files_is_meant(files: Path) -> None:
    manifest = files / "a.csv"
    manifest.write_text("input,scene,channel\nin/1.tif,2,DAPI\nin/1.tif,,1\n")
    listing = list_files(manifest, TIFF, "train_data")
    assert [path.name for path in listing.inputs] == ["1.tif", "1.tif"]
    assert listing.keys == [{"scene": "2", "channel": "DAPI"}, {"channel": "1"}]
    assert listing.take([1]).keys == [{"channel": "1"}]


def test_a_manifest_may_name_urls(files: Path) -> None:
    manifest = files / "a.csv"
    manifest.write_text("input,target\ns3://bucket/a.zarr,in/1.tif\n")
    listing = list_files(manifest, TIFF, "train_data")
    assert listing.inputs == ["s3://bucket/a.zarr"]
    assert listing.targets == [files / "in/1.tif"]


def test_targets_are_given_once(tmp_path):
    for name in "abc":
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros((32, 32), np.uint16), metadata=YX)
    (tmp_path / "m.csv").write_text("input,target\na.tif,b.tif\n")
    data = TiffDataModule(
        train_data=tmp_path / "m.csv", train_target=tmp_path / "c.tif", patch_size=(8, 8)
    )
    with pytest.raises(DataError, match=r"train_target is given, and the manifest of train_data"):
        data.setup("fit")


def test_an_image_is_listed_once(tmp_path):
    image = np.zeros((2, 32, 32), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", image, metadata={"axes": "CYX"})
    (tmp_path / "m.csv").write_text("input,channel\na.tif,0\na.tif,1\n")
    data = TiffDataModule(train_data=tmp_path / "m.csv", patch_size=(8, 8), n_val_patches=8)
    data.setup("fit")  # channels of one image are several
    data.measure_statistics()
    state = data.state_dict()
    assert len({row[0] for row in state["held_out"]}) == 2
    again = TiffDataModule(train_data=tmp_path / "m.csv", patch_size=(8, 8))
    again.load_state_dict(state)
    again.setup("fit")
    assert again.state_dict()["held_out"] == state["held_out"]
    twice = TiffDataModule(train_data=[tmp_path / "a.tif"] * 2, patch_size=(8, 8))
    with pytest.raises(DataError, match=r"a\.tif is listed 2 times\. Name it once"):
        twice.setup("fit")


def test_a_key_that_is_no_number_is_told_with_its_file(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((32, 32), np.uint16), metadata=YX)
    (tmp_path / "m.csv").write_text("input,series\na.tif,x\n")
    with pytest.raises(DataError, match=r"a\.tif: series=x: a manifest gives it as a whole"):
        TiffDataModule(train_data=tmp_path / "m.csv", patch_size=(8, 8)).setup("fit")


class TestSamePixels:
    """A file that is named again, also through links, and what can't be read in a folder."""

    @staticmethod
    def image(path: Path) -> Path:
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, np.arange(32 * 32, dtype=np.uint16).reshape(32, 32))
        return path

    @pytest.mark.parametrize("named", ["the file", "a link", "a linked folder", "a list"])
    def test_an_image_in_training_and_validation_is_refused(self, tmp_path: Path, named: str):
        file = self.image(tmp_path / "train/a.tif")
        self.image(tmp_path / "train/b.tif")
        (tmp_path / "link.tif").symlink_to(file)
        (tmp_path / "linked").symlink_to(tmp_path / "train")
        other = self.image(tmp_path / "other/c.tif")
        val = {"the file": file, "a link": tmp_path / "link.tif"}
        val |= {"a linked folder": tmp_path / "linked", "a list": [str(other), str(file)]}
        data = TiffDataModule(
            train_data=tmp_path / "train", val_data=val[named], patch_size=(8, 8), axes="YX"
        )
        with pytest.raises(DataError, match=r"val_data: [12] image\(s\) are in train_data too, /"):
            data.setup("fit")
        good = TiffDataModule(
            train_data=file, val_data=other, test_data=file, patch_size=(8, 8), axes="YX"
        )
        good.setup("fit")  # other files with the same pixels can't be told apart
        good.setup("test")

    def test_so_is_a_link_inside_a_store(self, tmp_path: Path):
        group = zarr.open_group(tmp_path / "a.zarr", mode="w")
        group.create_array("x", data=np.ones((32, 32), np.uint16))
        (tmp_path / "a.zarr/y").symlink_to(tmp_path / "a.zarr/x")
        one, other = (f"file://{tmp_path}/a.zarr/{name}" for name in "xy")
        data = ZarrDataModule(train_data=one, val_data=other, patch_size=(8, 8), axes="YX")
        with pytest.raises(DataError, match=r"val_data: 1 image\(s\) are in train_data too"):
            data.setup("fit")

    def test_other_channels_of_the_same_file_may_validate(self, tmp_path: Path):
        tifffile.imwrite(
            tmp_path / "a.tif", np.zeros((2, 32, 32), np.uint16), metadata={"axes": "CYX"}
        )
        rows = "input,channel,split\na.tif,0,train\na.tif,1,val\n"
        (tmp_path / "m.csv").write_text(rows)
        data = TiffDataModule(
            train_data=tmp_path / "m.csv", val_data=tmp_path / "m.csv", patch_size=(8, 8)
        )
        data.setup("fit")

    @pytest.mark.parametrize("pattern", ["", "*.tif"])
    def test_a_link_to_a_file_beside_it_counts_once(self, tmp_path: Path, pattern: str):
        file = self.image(tmp_path / "scan/b.tif")
        outside = self.image(tmp_path / "outside/c.tif")
        (tmp_path / "scan/a.tif").symlink_to(file)
        (tmp_path / "scan/c.tif").symlink_to(outside)
        (tmp_path / "scan/d.tif").symlink_to(outside)
        with pytest.warns(UserWarning, match=r"2 link\(s\) .* left out: .*/a\.tif, .*/d\.tif\.$"):
            found = list_files(tmp_path / "scan" / pattern, TIFF, "train_data").inputs
        assert [path.name for path in found] == ["b.tif", "c.tif"]

    def test_a_link_in_a_list_is_listed_twice(self, tmp_path: Path):
        file = self.image(tmp_path / "a.tif")
        (tmp_path / "b.tif").symlink_to(file)
        data = TiffDataModule(train_data=[file, tmp_path / "b.tif"], patch_size=(8, 8), axes="YX")
        with pytest.raises(DataError, match=r"a\.tif is listed 2 times"):
            data.setup("fit")

    def test_links_that_lead_nowhere_are_no_missing_images(self, tmp_path: Path):
        self.image(tmp_path / "scan/a.tif")
        (tmp_path / "scan/notes.md").symlink_to(tmp_path / "nowhere.md")
        assert len(list_files(tmp_path / "scan", TIFF, "train_data").inputs) == 1
        (tmp_path / "scan/b.tif").symlink_to(tmp_path / "nowhere.tif")
        with pytest.raises(DataError, match=r"scan: .*/b\.tif is a link to what is not there\. Re"):
            list_files(tmp_path / "scan", TIFF, "train_data")

    def test_folders_that_cannot_be_read_are_no_empty_ones(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        self.image(tmp_path / "scan/a.tif")
        (tmp_path / "scan/locked").mkdir()
        scan = os.scandir

        def refuse(path):
            if str(path).endswith("locked"):
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
        with pytest.raises(DataError, match=r"locked cannot be read \(Permission denied\)"):
            list_files(tmp_path / "scan", TIFF, "train_data")

    def test_images_of_several_dtypes_are_told(self, tmp_path: Path):
        self.image(tmp_path / "scan/a.tif")
        tifffile.imwrite(tmp_path / "scan/a_mask.tif", np.ones((32, 32), np.uint8))
        data = TiffDataModule(train_data=tmp_path / "scan", patch_size=(8, 8), axes="YX")
        with pytest.warns(
            UserWarning, match=r"1 uint16 \(.*a\.tif\), 1 uint8 \(.*a_mask\.tif\)\. "
        ):
            data.setup("fit")
