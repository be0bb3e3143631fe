"""A prediction that was stopped goes on with the next block, and ends as if it had not been."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import fsspec
import lightning as L
import numpy as np
import pytest
import tifffile
import torch
import zarr
from modules import trainer

from careamics_dm import ArrayDataModule, TiffDataModule, TiffWriter, ZarrWriter
from careamics_dm.errors import DataError
from careamics_dm.prediction import block_record, fingerprint
from careamics_dm.prediction.block_record import BlockRecord, blocks_in, read_record, remove_rest
from careamics_dm.prediction.mapped_file import MappedFile
from careamics_dm.prediction.result_file import part_of

fcntl = block_record.fcntl
pytestmark = pytest.mark.usefixtures("files_close")

FORKS = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of Python 3.12
IMAGE = np.random.default_rng(0).poisson(200, (2, 60, 50)).astype(np.uint16)


class Blur(L.LightningModule):
    """Predicts what the neighbours of a pixel say too; stops after some batches."""

    def __init__(self, stop_after=10**9, fault=None, weight=0.1):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 1, 3, padding=1)
        torch.nn.init.constant_(self.conv.weight, weight)
        torch.nn.init.constant_(self.conv.bias, weight)
        self.stop_after, self.fault, self.tiles = stop_after, fault or RuntimeError("stop"), 0

    def predict_step(self, batch, batch_idx):
        if batch_idx == self.stop_after:
            raise self.fault
        self.tiles += len(batch["image"])
        return {"prediction": self.conv(batch["image"]), "region": batch["region"]}


class Turned(Blur):
    test_time_augmentation = True


@pytest.fixture
def source(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, metadata={"axes": "TYX"})
    return tmp_path / "a.tif"


def data(source, kind=TiffDataModule, **options):
    given = {"patch_size": (8, 8), "tile_size": (16, 16), "tile_overlap": (4, 4)}
    given |= {"batch_size": 2, "normalization": "none", "axes": "TYX"}
    return kind(predict_data=source, **(given | options))


def predict(source, folder, model=None, writer=None, devices=1, **options):
    writer = writer or TiffWriter(folder, existing="skip")
    model = model or Blur()
    ranks = {"devices": devices, "strategy": "ddp_fork"} if devices > 1 else {}
    run = trainer(folder.parent, callbacks=[writer], **ranks)
    run.predict(model, datamodule=data(source, **options), return_predictions=False)
    return model


def stop(source, folder, after, **options):
    with pytest.raises(RuntimeError, match="stop"):
        predict(source, folder, Blur(after), **options)


def written(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("after", [0, 1, 5, 17, 19])
def test_what_was_stopped_anywhere_ends_bit_by_bit_as_the_same(tmp_path, source, after, capsys):
    whole = predict(source, tmp_path / "whole")
    stop(source, tmp_path / "out", after)
    n_there = None
    if after > 3:  # the first block has that many batches, or less
        assert written(tmp_path / "out") == ["a.tif.blocks", "a.tif.part"]
        marks = (tmp_path / "out" / "a.tif.blocks").read_text().splitlines()[2]
        n_there = marks.count("1")
        assert 0 < n_there < len(marks)
    elif after == 0:
        assert written(tmp_path / "out") == []
    capsys.readouterr()
    model = predict(source, tmp_path / "out")
    assert (tmp_path / "out" / "a.tif").read_bytes() == (tmp_path / "whole" / "a.tif").read_bytes()
    assert written(tmp_path / "out") == ["a.tif"]
    said = capsys.readouterr().out
    if n_there is None:
        assert model.tiles <= whole.tiles
    else:
        assert f"continuing in {tmp_path / 'out'}: {n_there} of {len(marks)} blocks" in said
        assert model.tiles < whole.tiles


def test_it_can_be_stopped_again_and_again(tmp_path, source):
    predict(source, tmp_path / "whole")
    for _ in range(50):
        try:
            predict(source, tmp_path / "out", Blur(8, KeyboardInterrupt()))
        except SystemExit:
            continue
        break
    assert (tmp_path / "out" / "a.tif").read_bytes() == (tmp_path / "whole" / "a.tif").read_bytes()


def touch(source):
    os.utime(source, ns=(1, 1))


OTHERS = {
    "model": ({"model": Blur(weight=0.2)}, None),
    "turns": ({"model": Turned()}, None),
    "tiles": ({"tile_overlap": (6, 6)}, None),
    "batches": ({"batch_size": 3}, None),
    "statistics": ({"normalization": "given"}, None),
    "image": ({}, touch),
    "dtype": ({"writer": "source"}, None),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_result_is_begun_anew_and_that_is_said(tmp_path, source, other, capsys):
    options, change = OTHERS[other]
    options = dict(options)
    if options.get("normalization"):
        from careamics_dm import MeanStd

        options["normalization"] = MeanStd(mean=[100.0], std=[2.0])
    writers = [None, None]
    if "writer" in options:
        options.pop("writer")
        writers = [TiffWriter(tmp_path / name, dtype="source") for name in ("out", "whole")]
    stop(source, tmp_path / "out", 17)
    if change:
        change(source)
    capsys.readouterr()
    predict(source, tmp_path / "out", writer=writers[0], **options)
    assert "begun with another model, another image or other settings" in capsys.readouterr().out
    predict(source, tmp_path / "whole", writer=writers[1], **options)
    assert (tmp_path / "out" / "a.tif").read_bytes() == (tmp_path / "whole" / "a.tif").read_bytes()
    assert written(tmp_path / "out") == ["a.tif"]


def test_space_that_a_result_has_already_is_not_asked_for_again(tmp_path, source, monkeypatch):
    stop(source, tmp_path / "out", 17)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"but in .* 0 MiB are free"):
        predict(source, tmp_path / "other")
    predict(source, tmp_path / "out")
    assert written(tmp_path / "out") == ["a.tif"]


def test_other_pixels_in_memory_are_another_image(tmp_path):
    array, options = IMAGE.copy(), {"kind": ArrayDataModule}
    stop(array, tmp_path / "out", 17, **options)
    array[0, 30, 30] += 1
    predict(array, tmp_path / "out", **options)
    predict(array, tmp_path / "whole", **options)
    name = "predict_data.tif"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("change", [None, "model", "gone"])
def test_what_was_stopped_behind_a_url_goes_on(tmp_path, source, change, capsys):
    memory, url = fsspec.filesystem("memory"), f"memory://stopped/{change}"
    whole = predict(source, tmp_path / "whole", writer=ZarrWriter(f"{url}/whole"))
    with pytest.raises(RuntimeError, match="stop"):
        predict(source, tmp_path / "out", Blur(17), ZarrWriter(f"{url}/out", existing="skip"))
    store = f"/stopped/{change}/out/a.zarr"
    marks = memory.cat(f"{store}/.blocks").decode().splitlines()[2]
    assert 0 < marks.count("1") < len(marks)
    if change == "gone":
        memory.rm(store, recursive=True)
    model = Blur(weight=0.1 if change != "model" else 0.2)
    capsys.readouterr()
    # Another password is no reason to begin anew, nor is another place to start from.
    again = ZarrWriter(f"{url}/out", existing="skip", storage_options={"skip_instance_cache": True})
    predict(source, tmp_path / "elsewhere", model, again)
    said = capsys.readouterr().out
    assert (f"{url}/out: {marks.count('1')} of {len(marks)} blocks are there" in said) is (
        change is None
    )
    assert (model.tiles < whole.tiles) is (change is None)
    assert ("begun with another model" in said) == (change == "model")
    files = [sorted(memory.find(f"/stopped/{change}/{name}")) for name in ("whole", "out")]
    assert [f.replace("/whole/", "/out/") for f in files[0]] == files[1]
    same = [memory.cat(a) == memory.cat(b) for a, b in zip(*files, strict=True)]
    assert all(same) is (change != "model")
    memory.pipe(f"{store}/.blocks", b"of a process that was killed")
    data_of = data(source)
    data_of.setup("predict")
    ZarrWriter(f"{url}/out", existing="skip").prepare(data_of)
    data_of.teardown("predict")
    assert not memory.exists(f"{store}/.blocks")


def test_weights_and_pixels_are_hashed_once_for_all_writers(tmp_path, monkeypatch):
    hashed = []
    for name in ("fingerprint_of_model", "fingerprint_of_image"):
        count = getattr(fingerprint, name)
        monkeypatch.setattr(
            fingerprint, name, lambda *of, f=count, n=name: (hashed.append(n), f(*of))[1]
        )
    for after in (17, 10**9):
        hashed.clear()
        writers = [TiffWriter(tmp_path / name, existing="skip") for name in "ab"]
        run = trainer(tmp_path, callbacks=writers)
        with pytest.raises(RuntimeError, match="stop") if after == 17 else nullcontext():
            run.predict(
                Blur(after), datamodule=data(IMAGE, ArrayDataModule), return_predictions=False
            )
        assert sorted(hashed) == ["fingerprint_of_image", "fingerprint_of_model"]


def test_a_writer_can_be_pickled_after_a_prediction(tmp_path, source):
    writer = TiffWriter(tmp_path / "out")
    predict(source, tmp_path / "out", writer=writer)
    assert pickle.loads(pickle.dumps(writer)).paths == writer.paths == [tmp_path / "out" / "a.tif"]


class TestWhatIsLeft:
    def left(self, tmp_path, source):
        predict(source, tmp_path / "whole")
        stop(source, tmp_path / "out", 17)
        out = tmp_path / "out"
        return out / "a.tif.blocks", out / "a.tif.part", (tmp_path / "whole/a.tif").read_bytes()

    def ends_well(self, tmp_path, source, expected):
        model = predict(source, tmp_path / "out")
        assert (tmp_path / "out/a.tif").read_bytes() == expected
        assert written(tmp_path / "out") == ["a.tif"]
        return model

    @pytest.mark.parametrize("cut", [0, 10, 97, -1])
    def test_a_record_that_is_not_whole_counts_for_nothing(self, tmp_path, source, cut):
        record, _, expected = self.left(tmp_path, source)
        record.write_text(record.read_text()[:cut])
        self.ends_well(tmp_path, source, expected)

    @pytest.mark.parametrize("lost", [0, 1])
    def test_a_record_or_a_file_alone_counts_for_nothing(self, tmp_path, source, lost):
        *files, expected = self.left(tmp_path, source)
        files[lost].unlink()
        self.ends_well(tmp_path, source, expected)

    @pytest.mark.parametrize("claimed", [True, False])
    def test_a_result_that_only_lacked_its_name_gets_it(self, tmp_path, source, claimed):
        record, part, expected = self.left(tmp_path, source)
        part.write_bytes((tmp_path / "whole/a.tif").read_bytes())
        record.write_text(record.read_text()[:98] + record.read_text()[98:].replace("0", "1"))
        if claimed:
            record.rename(f"{record}.all")
        assert 0 < self.ends_well(tmp_path, source, expected).tiles <= 8

    def test_another_writer_beside_gets_the_blocks_that_it_lacks(self, tmp_path, source):
        _, _, expected = self.left(tmp_path, source)
        writers = [TiffWriter(tmp_path / name) for name in ("out", "new")]
        run = trainer(tmp_path, callbacks=writers)
        run.predict(Blur(), datamodule=data(source), return_predictions=False)
        assert [writer.paths[0].read_bytes() for writer in writers] == [expected] * 2


def test_the_record_lets_in_processes_of_one_prediction_only(tmp_path):
    result = tmp_path / "a.tif"
    first = BlockRecord(result, "m" * 64, "1" * 32, 3)
    assert first.alone and not first.goes_on()
    (tmp_path / "a.tif.part").touch()
    first.share()
    second = BlockRecord(result, "m" * 64, "1" * 32, 3)
    assert not second.alone and second.goes_on()
    with pytest.raises(DataError, match=r"another prediction is writing .*a\.tif at this time"):
        BlockRecord(result, "m" * 64, "2" * 32, 3)
    first.mark([0, 2])
    assert not first.claim()
    second.mark([1])
    record = read_record(result, {})
    assert [first.marked(), blocks_in(record, "m" * 64, 3)] == [{0, 1, 2}] * 2
    assert blocks_in(record, "n" * 64, 3) is None
    assert [second.claim(), first.claim()] == [True, False]
    second.remove()
    first.close()
    second.close()
    assert written(tmp_path) == ["a.tif.part"]
    third = BlockRecord(result, "m" * 64, "2" * 32, 3)
    assert third.alone
    third.close()


class ByteLocks:
    """The module msvcrt of Windows, with locks of bytes that belong to an open file."""

    LK_NBLCK = 2

    def locking(self, file: int, mode: int, n: int) -> None:
        assert mode == self.LK_NBLCK
        place = os.lseek(file, 0, os.SEEK_CUR)
        how = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, place, n, 0)
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, how)


class TestWithTheLocksOfWindows:
    @pytest.fixture(autouse=True)
    def windows(self, monkeypatch):
        if fcntl is not None:
            monkeypatch.setitem(sys.modules, "msvcrt", ByteLocks())
            monkeypatch.setattr(block_record, "fcntl", None)

    def test_one_process_has_the_record(self, tmp_path):
        result = tmp_path / "a.tif"
        (part := part_of(result)).touch()
        first = BlockRecord(result, "m" * 64, "1" * 32, 2)
        assert first.alone and first.is_last()
        for run in "12":  # another prediction, before and after the first has begun
            with pytest.raises(DataError, match=r"another prediction is writing .*a\.tif"):
                BlockRecord(result, "m" * 64, "2" * 32, 2)
            if run == "1":
                first.share()
        first.mark([1])
        assert [first.marked(), blocks_in(read_record(result, {}), "m" * 64, 2)] == [{1}] * 2
        first.close()
        again = BlockRecord(result, "m" * 64, "3" * 32, 2)
        assert again.alone and again.goes_on()
        again.share()
        again.mark([0])
        assert again.claim()
        again.remove()
        again.close()
        part.unlink()
        assert written(tmp_path) == []

    def test_what_was_stopped_goes_on(self, tmp_path, source):
        predict(source, tmp_path / "whole")
        stop(source, tmp_path / "out", 17)
        assert 0 < predict(source, tmp_path / "out").tiles < 32
        assert written(tmp_path / "out") == ["a.tif"]
        whole, result = (tmp_path / name / "a.tif" for name in ("whole", "out"))
        assert result.read_bytes() == whole.read_bytes()


def fill_disk(monkeypatch, first: int, last: int) -> None:
    """Let writing fail from the block of one number to that of another."""
    put, n = MappedFile.put, iter(range(100))

    def full(self, box, pixels):
        if first <= next(n) <= last:
            raise OSError(28, "No space left on device")
        time.sleep(0.02)  # so that blocks wait
        put(self, box, pixels)

    monkeypatch.setattr(MappedFile, "put", full)


@pytest.mark.parametrize(("first", "last"), [(3, 3), (3, 100), (11, 11)])
def test_a_full_disk_in_the_middle_is_continued(tmp_path, source, monkeypatch, first, last):
    predict(source, tmp_path / "whole")
    fill_disk(monkeypatch, first, last)
    with pytest.raises(OSError, match="No space left"):
        predict(source, tmp_path / "out")
    assert blocks_of(tmp_path / "out") == "1" * first + "0" * (12 - first)
    monkeypatch.undo()
    predict(source, tmp_path / "out")
    assert (tmp_path / "out" / "a.tif").read_bytes() == (tmp_path / "whole" / "a.tif").read_bytes()


def test_a_full_disk_leaves_nothing_of_an_image_that_has_nothing(tmp_path, source, monkeypatch):
    fill_disk(monkeypatch, 0, 100)
    with pytest.raises(OSError, match="No space left"):
        predict(source, tmp_path / "out", tile_size=(64, 64))  # one block
    assert written(tmp_path / "out") == []


def blocks_of(folder: Path) -> str:
    return (folder / "a.tif.blocks").read_text().splitlines()[2]


class Killed(Blur):
    def predict_step(self, batch, batch_idx):
        if batch_idx == self.stop_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict_step(batch, batch_idx)


@FORKS
def test_after_sigkill_it_goes_on(tmp_path, source):
    predict(source, tmp_path / "whole")
    process = multiprocessing.get_context("fork").Process(
        target=predict, args=(source, tmp_path / "out", Killed(17))
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    marks = blocks_of(tmp_path / "out")
    assert 0 < marks.count("1") < len(marks)
    predict(source, tmp_path / "out", Killed())
    assert (tmp_path / "out" / "a.tif").read_bytes() == (tmp_path / "whole" / "a.tif").read_bytes()


def end_where(kind: type, name: str, *given: object) -> None:
    """Predict in a process that ends at once where it would call a method."""

    def predict_until() -> None:
        setattr(kind, name, lambda *_, **__: os._exit(9))
        predict(*given)

    process = multiprocessing.get_context("fork").Process(target=predict_until)
    process.start()
    process.join()
    assert process.exitcode == 9


@FORKS
@pytest.mark.filterwarnings("ignore:Total length of `PatchLoader` across ranks is zero")
@pytest.mark.parametrize(
    ("writer", "end", "rest"),
    [
        (TiffWriter, (BlockRecord, "remove"), "a.tif.parts"),
        (partial(TiffWriter, compression="zlib"), (MappedFile, "_remove"), "a.tif.parts"),
        (ZarrWriter, (BlockRecord, "remove"), ".a.zarr.old"),
    ],
    ids=["tiff", "zlib", "zarr"],
)
def test_nothing_stays_beside_a_result_after_a_kill(tmp_path, source, writer, end, rest):
    end_where(*end, source, tmp_path, Blur(), writer(tmp_path / "out"))
    (tmp_path / "out" / rest / "0").mkdir(parents=True)
    assert len(written(tmp_path / "out")) == (3 if end[0] is BlockRecord else 4)
    predict(source, tmp_path, writer=writer(tmp_path / "out", existing="skip"))
    (name,) = written(tmp_path / "out")
    (tmp_path / "out" / rest / "0").mkdir(parents=True)
    predict(source, tmp_path, writer=writer(tmp_path / "out", existing="replace"))
    assert written(tmp_path / "out") == [name]


@FORKS
@pytest.mark.filterwarnings("ignore:Total length of `PatchLoader` across ranks is zero")
def test_what_is_to_replace_a_result_stays_after_a_kill_and_is_finished(tmp_path, source):
    writer = partial(TiffWriter, tmp_path / "out", compression="zlib")
    predict(source, tmp_path, writer=writer())
    end_where(MappedFile, "_convert", source, tmp_path, Blur(), writer(existing="replace"))
    assert predict(source, tmp_path, writer=writer(existing="skip")).tiles == 0
    assert written(tmp_path / "out") == ["a.tif", "a.tif.blocks.all", "a.tif.part"]
    assert 0 < predict(source, tmp_path, writer=writer(existing="replace")).tiles <= 8
    assert written(tmp_path / "out") == ["a.tif"]


def test_what_another_prediction_is_writing_stays(tmp_path):
    result = tmp_path / "a.tif"
    result.touch()
    os.utime(result, (0, 0))  # older than what is to replace it
    other = BlockRecord(result, "m" * 64, "1" * 32, 1)
    other.share()
    remove_rest(result, {})
    assert written(tmp_path) == ["a.tif", "a.tif.blocks"]
    part_of(result).touch()
    other.mark([0])
    assert other.claim()
    remove_rest(result, {})
    assert written(tmp_path) == ["a.tif", "a.tif.blocks.all", "a.tif.part"]
    part_of(result).replace(result)
    remove_rest(result, {})
    assert written(tmp_path) == ["a.tif"]
    other.remove()
    other.close()


class Shares(Blur):
    """Writes down what each process predicts."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def predict_step(self, batch, batch_idx):
        with (self.folder / f"{self.trainer.global_rank}").open("a") as file:
            file.writelines(f"{row}\n" for row in batch["region"].tolist())
        return super().predict_step(batch, batch_idx)


@FORKS
def test_two_processes_share_the_blocks_of_one_image_and_write_what_one_does(tmp_path, source):
    predict(source, tmp_path / "whole")
    (tmp_path / "shares").mkdir()
    predict(source, tmp_path / "out", Shares(tmp_path / "shares"), devices=2)
    assert (tmp_path / "out" / "a.tif").read_bytes() == (tmp_path / "whole" / "a.tif").read_bytes()
    assert written(tmp_path / "out") == ["a.tif"]
    one, two = ((tmp_path / f"shares/{i}").read_text().splitlines() for i in range(2))
    assert not set(one) & set(two)
    assert min(len(one), len(two)) >= 0.4 * (len(one) + len(two))


@FORKS
@pytest.mark.parametrize(
    "stored",
    [
        {},
        {"ngff_version": "0.4"},
        {"chunks": (512, 300), "compression": None},
        {"chunks": (96, 96), "shards": (672, 384), "compression": "gzip"},
        {"ngff_version": "0.4", "chunks": (512, 300), "compression": "zstd"},
    ],
    ids=str,
)
def test_two_processes_write_every_chunk_of_an_image_once(tmp_path, stored, monkeypatch):
    image = np.random.default_rng(0).poisson(200, (2100, 1100)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", image, metadata={"axes": "YX"})
    tiles = {"axes": "YX", "tile_size": (512, 512), "tile_overlap": (16, 16)}
    store, real = zarr.storage.LocalStore, zarr.storage.LocalStore.set

    async def write_down(self, key, value):
        with (tmp_path / f"keys_{os.getpid()}").open("a") as file:
            file.write(f"{self.root.name}/{key}\n")
        await real(self, key, value)

    def predict_to(name, devices):
        writer = ZarrWriter(tmp_path / name, **stored)
        predict(tmp_path / "a.tif", tmp_path / name, writer=writer, devices=devices, **tiles)
        return zarr.open_group(tmp_path / name / "a.zarr", mode="r")["0"]

    whole = predict_to("whole", 1)
    monkeypatch.setattr(store, "set", write_down)
    shared = predict_to("out", 2)
    np.testing.assert_array_equal(shared[:], whole[:])
    keys = [path.read_text().split() for path in tmp_path.glob("keys_*")]
    chunks = [[key for key in some if re.fullmatch(r"0/(c/)?\d+/\d+", key)] for some in keys]
    assert whole.chunks == stored.get("chunks", whole.chunks)
    rows, columns = whole.shards or whole.chunks
    assert sum(bool(some) for some in chunks) == 2
    written_by_both = [key for some in chunks for key in some]
    assert len(written_by_both) == len({*written_by_both})
    assert len(written_by_both) == -(-2100 // rows) * -(-1100 // columns)


@FORKS
def test_two_processes_write_every_chunk_once_with_tensorstore(tmp_path):
    """In a process of its own: tensorstore may not be used where a parent has used it."""
    image = np.random.default_rng(0).poisson(200, (2100, 1100)).astype(np.uint16)
    np.save(tmp_path / "a.npy", image)
    code = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from modules import Identity, trainer
from careamics_dm import ArrayDataModule, ZarrWriter
from careamics_dm.images.tensorstore_array import TensorStoreArray
folder = Path(sys.argv[1])
write = TensorStoreArray.__setitem__
def write_down(self, box, pixels):
    with (folder / f"boxes_{os.getpid()}").open("a") as file:
        print(self.shape, [(part.start, part.stop) for part in box], file=file)
    write(self, box, pixels)
TensorStoreArray.__setitem__ = write_down
data = ArrayDataModule(
    predict_data=folder / "a.npy", axes="YX", patch_size=(64, 64), tile_size=(512, 512),
    tile_overlap=(16, 16), batch_size=2, normalization="none",
)
writer = ZarrWriter(folder / "out", dtype="source")
trainer(folder, callbacks=[writer], devices=2, strategy="ddp_fork").predict(
    Identity(), datamodule=data, return_predictions=False
)
"""
    command = [sys.executable, "-W", "ignore", "-c", code, tmp_path, Path(__file__).parents[1]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (result,) = (tmp_path / "out").iterdir()
    np.testing.assert_array_equal(zarr.open_array(result / "0", mode="r")[:], image)
    boxes = [path.read_text().splitlines() for path in tmp_path.glob("boxes_*")]
    assert len(boxes) == 2
    together = [box for some in boxes for box in some if box.startswith("(2100")]
    assert len({*together}) == len(together) >= 2
    assert not [*result.rglob("*.__lock")]


@FORKS
def test_a_process_without_a_block_waits_for_the_other(tmp_path, source):
    one_block = {"tile_size": (64, 64)}
    predict(source, tmp_path / "whole", **one_block)
    (tmp_path / "shares").mkdir()
    predict(source, tmp_path / "out", Shares(tmp_path / "shares"), devices=2, **one_block)
    assert (tmp_path / "out" / "a.tif").read_bytes() == (tmp_path / "whole" / "a.tif").read_bytes()
    assert written(tmp_path / "shares") == ["0"]
