"""An index: what opening found is kept, and counts until the source changes."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import tifffile

from careamics_dm import ArrayDataModule, TiffDataModule
from careamics_dm.axes import DataError
from careamics_dm.index import Index


@pytest.fixture
def folder(tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    for i, options in enumerate([{}, {"compression": "zlib", "tile": (16, 16)}]):
        image = np.full((40, 40), i, np.uint16)
        tifffile.imwrite(files / f"{i}.tif", image, metadata={"axes": "YX"}, **options)
    return files


class Counting(TiffDataModule):
    """Tells which files it opened."""

    def __init__(self, *, series: int = 0, level: int = 0, **shared):
        super().__init__(series=series, level=level, **shared)
        self.opened = []

    def open_source(self, source, axes, **keys):
        self.opened.append(source.name)
        return super().open_source(source, axes, **keys)


def open_files(folder, **options):
    """Open the files of a folder, and read them."""
    options |= {"in_memory": False, "patch_size": (16, 16)}
    data = Counting(train_data=folder, index=folder.parent / "index", **options)
    data.setup("fit")
    for i, stack in enumerate(data.train_stacks):
        assert (stack.extract_patch(0, None, (3, 4), (5, 6)) == i).all()
    data.teardown("fit")
    return sorted(data.opened)


def test_what_is_known_is_not_opened_again(folder):
    assert open_files(folder) == ["0.tif", "1.tif"]
    assert open_files(folder) == []


def test_a_file_that_has_changed_is_opened_anew(folder):
    open_files(folder)
    os.utime(folder / "1.tif", ns=(1, 1))
    assert open_files(folder) == ["1.tif"]
    (folder / "2.tif").write_bytes((folder / "1.tif").read_bytes())
    tifffile.imwrite(folder / "2.tif", np.full((50, 50), 2, np.uint16), metadata={"axes": "YX"})
    assert open_files(folder) == ["2.tif"]


def test_files_opened_otherwise_are_others(folder):
    open_files(folder)
    assert open_files(folder, axes="YX") == ["0.tif", "1.tif"]
    assert open_files(folder, trust_axes=True) == ["0.tif", "1.tif"]
    with pytest.raises(DataError, match="series=3 does not exist"):
        open_files(folder, series=3)
    assert open_files(folder) == []


def test_settings_that_may_be_secret_are_not_written(folder, tmp_path):
    data = Counting(train_data=folder, index=tmp_path / "index", patch_size=(16, 16))
    data.series = 0
    data.level = type("Secret", (int,), {"__repr__": lambda self: "my password"})(0)
    data.setup("fit")
    assert b"password" not in (tmp_path / "index").read_bytes()


def test_pixels_are_not_kept(folder, tmp_path):
    open_files(folder)
    assert (tmp_path / "index").stat().st_size < 4000
    index = Index(tmp_path / "arrays")
    module = ArrayDataModule(axes="YX")
    large = module.open_source(("large", np.zeros((99, 999))), "YX")
    index.remember("large", 1, large)
    index.save()
    assert not (tmp_path / "arrays").exists()


def test_sources_that_cannot_tell_a_change_are_opened_each_time(tmp_path):
    index = Index(tmp_path / "index")
    index.remember("key", None, [])
    assert index.recall("key", None) is None


def test_a_file_of_another_kind_is_refused_and_left_alone(folder, tmp_path):
    (tmp_path / "index").write_text("my notes")
    with pytest.raises(DataError, match=r"index: .*index is not an index .*Name another file"):
        open_files(folder)
    assert (tmp_path / "index").read_text() == "my notes"


def test_an_index_of_another_version_is_made_anew(folder, tmp_path):
    open_files(folder)
    (tmp_path / "index").write_bytes(pickle.dumps((("careamics_dm index", "0.0"), {"a": (1, b"")})))
    assert open_files(folder) == ["0.tif", "1.tif"]
    assert open_files(folder) == []


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_reading_an_index_runs_nothing(folder, tmp_path):
    (tmp_path / "index").write_bytes(pickle.dumps(Evil(str(tmp_path / "executed"))))
    with pytest.raises(DataError, match=r"io.open is no part of a description"):
        open_files(folder)
    assert not (tmp_path / "executed").exists()


def test_an_index_that_cannot_be_written_is_told(folder, tmp_path):
    (tmp_path / "file").touch()
    index = tmp_path / "file" / "index"
    data = TiffDataModule(train_data=folder, index=index, patch_size=(16, 16))
    with pytest.raises(DataError, match=r"index: .* can't be written"):
        data.setup("fit")


def test_nothing_is_made_of_what_our_modules_import(folder, tmp_path):
    path = str(tmp_path / "executed")
    for module, name in (("careamics_dm.index", "io.FileIO"), ("careamics_dm.writers", "Path")):
        # GLOBAL with a dotted name, which protocol 4 follows; then a call.
        content = b"".join(
            [
                b"\x80\x04",
                *(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)),
                b"\x93",
                *(b"\x8c" + bytes([len(text)]) + text.encode() for text in (path, "w")),
                b"\x86R.",
            ]
        )
        (tmp_path / "index").write_bytes(content)
        with pytest.raises(DataError, match=rf"{module}.{name} is no part of a description"):
            open_files(folder)
        assert not (tmp_path / "executed").exists()


def test_a_relative_path_means_what_it_means_here(tmp_path, monkeypatch):
    for i, name in enumerate(("here", "there")):
        (tmp_path / name / "files").mkdir(parents=True)
        image = np.full((40, 40), i, np.uint16)
        tifffile.imwrite(tmp_path / name / "files" / "0.tif", image, metadata={"axes": "YX"})
    for folder, data, value in (("here", "files", 0), ("there", tmp_path / "here" / "files", 0)):
        monkeypatch.chdir(tmp_path / folder)
        module = TiffDataModule(
            train_data=data, index=tmp_path / "index", patch_size=(16, 16), in_memory=False
        )
        module.setup("fit")
        assert (module.train_stacks[0].extract_patch(0, None, (0, 0), (4, 4)) == value).all()
        module.teardown("fit")


@pytest.mark.parametrize("index", [5, True, ""])
def test_what_is_no_path_is_refused(folder, index):
    with pytest.raises(DataError, match=r"index=.* is not a path\. Name a file"):
        TiffDataModule(train_data=folder, index=index, patch_size=(16, 16)).setup("fit")


def test_a_folder_is_refused(folder):
    with pytest.raises(DataError, match=r"index: .* is a folder\. Name a file"):
        TiffDataModule(train_data=folder, index=folder, patch_size=(16, 16)).setup("fit")


def test_runs_at_the_same_time_keep_what_each_found(tmp_path):
    ours, theirs = (Index(tmp_path / "index") for _ in range(2))
    for index, key in ((ours, "a"), (theirs, "b")):
        index.remember(key, 1, [])
        index.save()
    both = Index(tmp_path / "index")
    for key in ("a", "b"):
        assert both.recall(key, 1) == []
        assert both.recall(key, 2) is None
