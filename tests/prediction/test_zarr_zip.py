"""Results as zip files of OME-Zarr: what is in them, and what an interruption leaves."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from modules import Identity, trainer

from careamics_dm import ArrayDataModule, ZarrDataModule, ZarrWriter
from careamics_dm.errors import DataError
from careamics_dm.prediction import zarr_writer, zarr_zip

sys.path.append(str(Path(__file__).parents[1] / "formats"))
from zarr_files import numbers, write_plate

pytestmark = pytest.mark.usefixtures("files_close")
SIZES = {"normalization": "none", "patch_size": (16, 16), "tile_size": (16, 16)}


def predict(data, writer, folder):
    run = trainer(folder, callbacks=[writer])
    run.predict(Identity(), datamodule=data, return_predictions=False)
    data.teardown("predict")


def arrays(images):
    return ArrayDataModule(predict_data=images, axes="YX", **SIZES)


def plate(path, **chosen):
    return ZarrDataModule(predict_data=path, **(SIZES | chosen))


def read(path):
    """What our own reader finds: sources and pixels."""
    data = plate(path)
    data.setup("predict")
    found = {stack.source: stack.load().array for stack in data.predict_stacks}
    data.teardown("predict")
    return found


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class Killed(BaseException):
    """Stands for the end of the process: nothing handles it."""


def kill(*_args, **_options):
    raise Killed


def test_an_image_is_one_file(tmp_path):
    image = numbers((40, 600))  # with a smaller level
    writer = ZarrWriter(tmp_path / "out", zip=True, dtype="source", chunks=(16, 16))
    predict(arrays(image), writer, tmp_path)
    path = tmp_path / "out" / "predict_data.ozx"
    assert names(tmp_path / "out") == ["predict_data.ozx"] and writer.paths == [path]
    with zipfile.ZipFile(path) as opened:
        entries, comment = opened.infolist(), json.loads(opened.comment)
        assert opened.testzip() is None
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    metadata = ["zarr.json", "0/zarr.json", "1/zarr.json"]
    assert [entry.filename for entry in entries][:3] == metadata and len(entries) > 3
    assert comment["ome"]["zipFile"]["centralDirectory"] == {"jsonFirst": True}
    store = zarr.storage.ZipStore(path, mode="r")
    group = zarr.open_group(store, mode="r")
    np.testing.assert_array_equal(group["0"][:], image)
    assert group["0"].chunks == (16, 16)
    assert len(group.attrs["ome"]["multiscales"][0]["datasets"]) == 2
    store.close()
    ((source, pixels),) = read(path).items()
    assert source == str(path)
    np.testing.assert_array_equal(pixels.squeeze(), image)


@pytest.mark.filterwarnings("ignore:Total length of `PatchLoader` across ranks is zero")
def test_a_plate_is_one_file_once_it_is_complete(tmp_path):
    fields = write_plate(tmp_path / "p.zarr", "0.5", "ome-zarr")
    path = tmp_path / "out" / "p.ozx"

    class Fails(Identity):
        def predict_step(self, batch, batch_idx):
            if batch_idx:
                raise RuntimeError("no luck")
            return super().predict_step(batch, batch_idx)

    def run(model=None, **options):
        writer, chosen = ZarrWriter(tmp_path / "out", zip=True, **options), {"batch_size": 60}
        run = trainer(tmp_path, callbacks=[writer])
        data = plate(tmp_path / "p.zarr", **chosen)
        run.predict(model or Identity(), datamodule=data, return_predictions=False)

    with pytest.raises(RuntimeError, match="no luck"):
        run(Fails())
    assert names(tmp_path / "out") == ["p.zarr"]
    run(existing="skip")
    assert names(tmp_path / "out") == ["p.ozx"]
    found = read(path)
    assert list(found) == [f"{path}/{name}" for name in fields]
    for pixels, image in zip(found.values(), fields.values(), strict=True):
        np.testing.assert_array_equal(pixels.squeeze(), image)
    stamp = path.stat().st_mtime_ns
    run(existing="skip")
    with pytest.raises(DataError, match=r"6 result\(s\) exist already"):
        run()
    assert path.stat().st_mtime_ns == stamp
    run(existing="replace")
    assert path.stat().st_mtime_ns > stamp and names(tmp_path / "out") == ["p.ozx"]


@pytest.mark.filterwarnings("ignore:Total length of `PatchLoader` across ranks is zero")
@pytest.mark.parametrize(
    ("place", "name", "left"),
    [
        (zarr_writer, "zip_store", ["predict_data.zarr"]),
        (zarr_zip.os, "fsync", ["predict_data.ozx.part", "predict_data.zarr"]),
        (zarr_zip.Path, "replace", ["predict_data.ozx.part", "predict_data.zarr"]),
        (zarr_zip.Path, "rename", ["predict_data.ozx", "predict_data.zarr"]),
        (zarr_zip.shutil, "rmtree", [".predict_data.zarr.old", "predict_data.ozx"]),
    ],
)
def test_what_is_interrupted_is_whole_and_goes_on(tmp_path, monkeypatch, place, name, left):
    image, out = numbers((40, 50)), tmp_path / "out"
    predict(arrays(image), ZarrWriter(out), tmp_path)  # all but the last step
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(place, name, kill)
        predict(arrays(image), ZarrWriter(out, zip=True, existing="skip"), tmp_path)
    assert names(out) == left
    for path in [out / name for name in left if name.endswith(("a.ozx", "a.zarr"))]:
        np.testing.assert_array_equal(next(iter(read(path).values())).squeeze(), image)
    predict(arrays(image), ZarrWriter(out, zip=True, existing="skip"), tmp_path)
    assert names(out) == ["predict_data.ozx"]
    np.testing.assert_array_equal(next(iter(read(out / names(out)[0]).values())).squeeze(), image)


def test_what_a_zip_file_does_not_allow_is_refused(tmp_path):
    write_plate(tmp_path / "p.zarr", "0.5", "ome-zarr", fields=1)
    out = tmp_path / "out"
    predict(plate(tmp_path / "p.zarr", row="A"), ZarrWriter(out, zip=True), tmp_path)
    for existing in ("error", "skip"):
        writer = ZarrWriter(out, zip=True, existing=existing)
        with pytest.raises(DataError, match=r"p\.ozx is there already, without B/2/0, and nothing"):
            predict(plate(tmp_path / "p.zarr"), writer, tmp_path)
    replacing = ZarrWriter(out, zip=True, existing="replace")
    with pytest.raises(DataError, match=r"p\.ozx would replace an input"):
        predict(plate(out / "p.ozx"), replacing, tmp_path)
    with pytest.raises(DataError, match=r"another job, and data\.shard is 1/2\. Leave one"):
        predict(plate(tmp_path / "p.zarr", shard="1/2"), replacing, tmp_path)
    assert names(out) == ["p.ozx"] and len(read(out / "p.ozx")) == 2
    (out / "p.ozx").write_text("mine")
    with pytest.raises(DataError, match=r"p\.ozx is there already and is no zip file"):
        predict(plate(tmp_path / "p.zarr"), ZarrWriter(out, zip=True), tmp_path)
    assert (out / "p.ozx").read_text() == "mine"
