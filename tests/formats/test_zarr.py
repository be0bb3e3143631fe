"""What `ZarrDataModule` reads and refuses of plain stores, groups and arrays."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numcodecs
import numpy as np
import pytest
import zarr
import zarr.codecs.numcodecs as numcodecs_of_zarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec
from zarr_files import numbers, write_array, write_collection, zstd

from careamics_dm.errors import DataError
from careamics_dm.formats.zarr import array as _zarr_array
from careamics_dm.formats.zarr.array import ZarrArray, forget_stores
from careamics_dm.formats.zarr.datamodule import ZarrDataModule
from careamics_dm.images import tensorstore_array
from careamics_dm.testing.datamodule_checks import check_datamodule, check_image_stack

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from careamics_dm.images.array_stack import ArrayStack

pytestmark = pytest.mark.usefixtures("files_close")
ENGINES = ["zarr", "tensorstore"]


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


def whole(stack: ArrayStack) -> NDArray[Any]:
    return stack.array[tuple(slice(0, n) for n in stack.original_data_shape)]


# -------------------------------------------------------------------------- what may be named


def test_store_group_array_and_list_of_the_data_preparation_guide(tmp_path: Path) -> None:
    arrays = write_collection(tmp_path / "a.zarr")
    uris, pixels = list(arrays), list(arrays.values())
    group = str(zarr.open_group(tmp_path / "a.zarr/others", mode="r").store_path)
    for data, expected in (
        (tmp_path / "a.zarr", pixels[:2]),
        (group, pixels[2:]),
        (uris[0], pixels[:1]),
        (uris, pixels),
    ):
        found = stacks(data, "SYX")
        assert len(found) == len(expected)
        for stack, array in zip(found, expected, strict=True):
            check_image_stack(stack, array[:, None])


@pytest.mark.parametrize("form", ["{}", "{}/", "./{}", "file://{}", "file://./{}"])
def test_relative_paths_and_uris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_collection(Path("a.zarr"))
    assert str(zarr.open_array("a.zarr/array_1", mode="r").store_path) == "file://a.zarr/array_1"
    found = stacks(form.format("a.zarr/others"), "SYX")
    assert [stack.source for stack in found] == ["a.zarr/others/array_2", "a.zarr/others/array_3"]
    (stack,) = stacks(form.format("a.zarr/array_1"), "SYX")
    assert stack.source == "a.zarr/array_1"


def test_a_store_that_is_one_array_is_named_by_its_path(tmp_path: Path) -> None:
    write_array(tmp_path / "no suffix", numbers((40, 50)))
    (stack,) = stacks(tmp_path / "no suffix", "YX")
    assert stack.source == str(tmp_path / "no suffix")


def test_folder_glob_list_and_manifests_of_stores(tmp_path: Path) -> None:
    for name in ("b.zarr", "deep/a.zarr", ".hidden.zarr", "store without suffix"):
        write_array(tmp_path / name, numbers((40, 50)))
    write_collection(tmp_path / "c.zarr")
    (tmp_path / "notes.md").write_text("of no concern")

    def names(data: Any) -> list[str]:
        found = [str(s) for s in module(data).list_sources(data, "train_data").inputs]
        return [name.removeprefix(f"{tmp_path}/") for name in found]

    everything = ["b.zarr", "c.zarr/array_1", "c.zarr/array_2", "deep/a.zarr"]
    assert names(tmp_path) == [*everything, "store without suffix"]
    assert names(tmp_path / "*.zarr") == everything[:3]
    assert names([tmp_path / "deep/a.zarr", tmp_path / "b.zarr"]) == ["deep/a.zarr", "b.zarr"]
    (tmp_path / "m.csv").write_text("input\nc.zarr/others\nb.zarr\n")
    assert names(tmp_path / "m.csv") == ["c.zarr/others/array_2", "c.zarr/others/array_3", "b.zarr"]
    (tmp_path / "m.txt").write_text(f"file://{tmp_path}/c.zarr/array_2\n")
    assert names(tmp_path / "m.txt") == ["c.zarr/array_2"]


def test_folders_pair_by_name_and_manifests_by_row(tmp_path: Path) -> None:
    for side in ("in", "out"):
        for seed, name in enumerate(("b", "a")):
            write_array(tmp_path / side / f"{name}.zarr", numbers((40, 50), seed=seed))
    made = module(tmp_path / "in", train_target=tmp_path / "out", axes="YX")
    made.setup("fit")
    images = made.images_of("train")
    assert [Path(s.source).parts[-2:] for s in images.targets] == [
        ("out", "a.zarr"),
        ("out", "b.zarr"),
    ]
    (tmp_path / "m.csv").write_text("input,target,split\nin/a.zarr,out/b.zarr,train\n")
    made = module(tmp_path / "m.csv", axes="YX")
    made.setup("fit")
    (target,) = made.images_of("train").targets
    assert target.source.endswith("out/b.zarr")


def test_sources_are_small_plain_and_readable(tmp_path: Path) -> None:
    write_collection(tmp_path / "a.zarr")
    made = module(tmp_path / "a.zarr")
    source = made.list_sources(tmp_path / "a.zarr", "train_data").inputs[0]
    assert str(source) == f"{tmp_path}/a.zarr/array_1"
    assert pickle.loads(pickle.dumps(source)) == source
    assert len(pickle.dumps(source)) < 1000


# -------------------------------------------------------------------------------- what is read

BIG = np.dtype(">u2")
# name: shape, dtype, how it is written, block on disk
LAYOUTS: dict[str, tuple[tuple[int, ...], Any, dict[str, Any], tuple[int, ...]]] = {
    "format 3": ((3, 40, 50), "uint16", {}, (3, 16, 16)),
    "format 2": ((3, 40, 50), "uint16", {"zarr_format": 2}, (3, 16, 16)),
    "format 2, nested keys": (
        (3, 40, 50),
        "uint16",
        {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
        (3, 16, 16),
    ),
    "format 3, flat keys": (
        (3, 40, 50),
        "uint16",
        {"chunk_key_encoding": {"name": "default", "separator": "."}},
        (3, 16, 16),
    ),
    "uncompressed": ((3, 40, 50), "int16", {"compressors": None}, (3, 16, 16)),
    "blosc": ((3, 40, 50), "uint16", {"compressors": zstd()}, (3, 16, 16)),
    "gzip": ((3, 40, 50), "uint16", {"compressors": GzipCodec()}, (3, 16, 16)),
    "two codecs": (
        (3, 40, 50),
        "uint16",
        {"compressors": [BloscCodec(cname="lz4"), ZstdCodec()]},
        (3, 16, 16),
    ),
    "format 2, blosc": (
        (3, 40, 50),
        "uint16",
        {"zarr_format": 2, "compressors": numcodecs.Blosc()},
        (3, 16, 16),
    ),
    "format 2, LZMA and delta": (
        (3, 40, 50),
        "uint16",
        {
            "zarr_format": 2,
            "compressors": numcodecs.LZMA(),
            "filters": [numcodecs.Delta(dtype="u2")],
        },
        (3, 16, 16),
    ),
    "shards": (
        (3, 40, 50),
        "uint16",
        {"chunks": (1, 16, 16), "shards": (1, 32, 64), "compressors": zstd()},
        (1, 32, 50),
    ),
    "big-endian": ((40, 50), BIG, {"zarr_format": 2}, (16, 16)),
    "big-endian, format 3": (
        (40, 50),
        "uint16",
        {"serializer": zarr.codecs.BytesCodec(endian="big")},
        (16, 16),
    ),
    "columns first": ((40, 50), "uint16", {"zarr_format": 2, "order": "F"}, (16, 16)),
    "transposed": (
        (3, 40, 50),
        "uint16",
        {"filters": [zarr.codecs.TransposeCodec(order=(2, 0, 1))]},
        (3, 16, 16),
    ),
    "bool": ((40, 50), "bool", {}, (16, 16)),
    "float64": ((40, 50), "float64", {}, (16, 16)),
    "float16": ((40, 50), "float16", {}, (16, 16)),
    "int64": ((40, 50), "int64", {"compressors": zstd()}, (16, 16)),
    "chunks larger than the array": ((7, 9), "uint8", {"chunks": (64, 64)}, (7, 9)),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pixels_and_blocks_of_every_layout(tmp_path: Path, layout: str, engine: str) -> None:
    shape, dtype, how, block = LAYOUTS[layout]
    array = numbers(shape, dtype)
    write_array(tmp_path / "a.zarr", array, **how)
    axes = "ZYX"[-len(shape) :]
    (stack,) = stacks(tmp_path / "a.zarr", axes, engine=engine)
    assert stack.block_shape == block
    assert stack.data_dtype == np.dtype(dtype).newbyteorder("=")
    if engine == "zarr":
        check_image_stack(stack, array[None, None])
    assert isinstance(stack.array, ZarrArray)
    np.testing.assert_array_equal(whole(stack), array)
    box = tuple(slice(n // 3, n - 1) for n in shape)
    np.testing.assert_array_equal(stack.array[box], array[box])
    assert stack.array[box].dtype == stack.data_dtype  # of this machine's byte order
    refused = layout == "format 2, LZMA and delta"
    assert stack.array.engine == ("zarr" if refused else engine)
    stack.close()


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
def test_codecs_of_numcodecs_in_format_3(tmp_path: Path) -> None:
    array = numbers((40, 50))
    for name in ("LZMA", "Zlib", "LZ4", "BZ2"):
        write_array(tmp_path / name, array, compressors=getattr(numcodecs_of_zarr, name)())
        (stack,) = stacks(tmp_path / name, "YX")
        np.testing.assert_array_equal(stack.load().array, array)


def test_huge_shards_are_read_by_chunk(tmp_path: Path) -> None:
    shape = (1, 8192, 8192)
    zarr.create_array(
        tmp_path / "a.zarr", shape=shape, chunks=(1, 256, 256), shards=shape, dtype="uint16"
    )
    (stack,) = stacks(tmp_path / "a.zarr", "ZYX", missing_chunks="fill")
    assert stack.block_shape == (1, 256, 256)


def test_names_of_dimensions_are_axes(tmp_path: Path) -> None:
    array = numbers((2, 40, 50))
    write_array(tmp_path / "a.zarr", array, dimension_names=["C", "y", "X"])
    assert stacks(tmp_path / "a.zarr")[0].original_axes == "CYX"
    write_array(tmp_path / "b.zarr", array, dimension_names=["time", "y", "x"])
    assert stacks(tmp_path / "b.zarr")[0].original_axes == "TYX"
    stored = write_array(tmp_path / "c.zarr", array, zarr_format=2)
    stored.attrs["_ARRAY_DIMENSIONS"] = ["z", "y", "x"]  # as xarray writes
    assert stacks(tmp_path / "c.zarr")[0].original_axes == "ZYX"
    with pytest.raises(DataError, match=r'axes="ZYX" contradicts its metadata, which say TYX'):
        stacks(tmp_path / "b.zarr", "ZYX")
    assert stacks(tmp_path / "b.zarr", "ZYX", trust_axes=True)[0].original_axes == "ZYX"
    assert stacks(tmp_path / "b.zarr", "SYX")[0].data_shape == (2, 1, 40, 50)


def test_threads_processes_and_pickles_read_alike(tmp_path: Path) -> None:
    array = numbers((3, 40, 50))
    write_array(tmp_path / "a.zarr", array, dimension_names=["t", "y", "x"])
    (stack,) = stacks(tmp_path / "a.zarr")
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: whole(stack), range(32)):
            np.testing.assert_array_equal(found, array)
    with multiprocessing.get_context("forkserver").Pool(1) as spawned:
        box = (0, None, (0, 0), (40, 50))
        np.testing.assert_array_equal(spawned.apply(stack.extract_patch, box)[0], array[0])
    assert len(pickle.dumps(stack)) < 1500


@pytest.mark.parametrize("workers", [0, 2])
def test_the_whole_module(tmp_path: Path, workers: int) -> None:
    write_collection(tmp_path / "a.zarr")
    data = tmp_path / "a.zarr"
    check_datamodule(
        module(data, predict_data=data, axes="SYX", in_memory=False, num_workers=workers)
    )


# ------------------------------------------------------------------------------------- engines


def test_tensorstore_reads_what_it_can(tmp_path: Path) -> None:
    array = numbers((4, 600, 600))
    for name, expected, how in (
        ("chunks", "tensorstore", {"chunks": (1, 64, 64)}),
        ("shards", "tensorstore", {"chunks": (1, 64, 64), "shards": (1, 640, 640)}),
        ("codec", "zarr", {"zarr_format": 2, "compressors": numcodecs.LZMA(preset=1)}),
    ):
        write_array(tmp_path / name, array, **how)
        (stack,) = stacks(tmp_path / name, "ZYX")
        assert isinstance(stack.array, ZarrArray)
        assert stack.array.engine == expected
        np.testing.assert_array_equal(whole(stack), array)
        stack.close()


def test_a_forked_process_reads_with_zarr_if_its_parent_used_tensorstore(tmp_path: Path) -> None:
    write_array(tmp_path / "a.zarr", numbers((3, 40, 50)), dimension_names=["t", "y", "x"])
    code = f"""
import multiprocessing
from careamics_dm.formats.zarr.store_files import Place
from careamics_dm.formats.zarr.discovery import ZarrSource
from careamics_dm.formats.zarr.opening import open_zarr
path = {str(tmp_path / "a.zarr")!r}
stack, _ = open_zarr(ZarrSource(Place(path), "array"), engine="tensorstore")
box = (slice(0, 3), slice(0, 40), slice(0, 50))
def read(_):
    return stack.array.engine, int(stack.array[box].sum())
def forked():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map_async(read, [0, 1]).get(60)[0]
first, here, second = forked(), read(0), forked()
assert first[1] == here[1] == second[1] > 0
print(first[0], here[0], second[0])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["tensorstore", "tensorstore", "zarr"], done.stderr


def test_forked_workers_of_a_loader_read_what_their_parent_reads(tmp_path: Path) -> None:
    write_array(tmp_path / "a.zarr", numbers((3, 40, 50)), dimension_names=["t", "y", "x"])
    given = {"in_memory": False, "num_workers": 2, "start_method": "fork"}
    if sys.platform != "win32":
        made = module(tmp_path / "a.zarr", **given)  # statistics are read by the parent
        assert len(list(made.train_dataloader())) > 0
        made.teardown("fit")


def test_engines_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"engine='fast'.* auto, zarr, tensorstore"):
        module("a.zarr", engine="fast")
    for module_of in (_zarr_array, tensorstore_array):
        monkeypatch.setattr(module_of, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r'tensorstore is not installed.*"careamics-dm\[fast\]"'):
        module("a.zarr", engine="tensorstore")
    array = numbers((40, 50))
    write_array(tmp_path / "a.zarr", array)
    (stack,) = stacks(tmp_path / "a.zarr", "YX")
    assert isinstance(stack.array, ZarrArray)
    assert stack.array.engine == "zarr"
    stack.close()


def test_an_engine_that_fails_on_an_array_is_not_used_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = numbers((40, 50))
    write_array(tmp_path / "a.zarr", array)
    (stack,) = stacks(tmp_path / "a.zarr", "YX", engine="tensorstore")

    def fail(self: object, box: object) -> None:
        raise ValueError("unsupported")

    monkeypatch.setattr(tensorstore_array.TensorStoreArray, "__getitem__", fail)
    np.testing.assert_array_equal(whole(stack), array)
    assert isinstance(stack.array, ZarrArray)
    assert stack.array.engine == "zarr"
    stack.close()


# ------------------------------------------------------------------------------ missing chunks


@pytest.mark.parametrize("how", [{}, {"zarr_format": 2}, {"shards": (32, 32)}])
@pytest.mark.parametrize("n", [50, 120])  # few and many chunks: looked for, listed
def test_missing_chunks_are_an_error_or_filled_and_counted(
    tmp_path: Path, how: dict[str, Any], n: int
) -> None:
    array = numbers((n, n))
    write_array(tmp_path / "a.zarr", array, **how)
    names = ["1.0", "1.1"] if "zarr_format" in how else ["c/1/0", "c/1/1"]
    for name in names:
        (tmp_path / "a.zarr" / name).unlink()
    message = rf"a\.zarr: \d+ of \d+ chunk\(s\) are missing: {names[0]}, {names[1]}.*missing_chunks"
    with pytest.raises(DataError, match=message):
        stacks(tmp_path / "a.zarr", "YX")
    made = module(tmp_path / "a.zarr", axes="YX", missing_chunks="fill", normalization="none")
    with pytest.warns(UserWarning, match=r"missing chunk\(s\) of 1 array.*fill value") as told:
        made.setup("fit")
    assert len(told) == 1
    side = 32 if "shards" in how else 16
    array[side : 2 * side, : 2 * side] = 0
    (stack,) = made.images_of("train").stacks
    np.testing.assert_array_equal(stack.extract_patch(0, None, (0, 0), (n, n))[0], array)


def test_chunks_missing_in_shards_are_found(tmp_path: Path) -> None:
    array = numbers((40, 50))
    array[16:32, :16] = 0  # zarr leaves out what is all fill value
    write_array(tmp_path / "a.zarr", array, shards=(32, 64))
    with pytest.raises(DataError, match=r"1 of 16 .*missing: c/0/0, chunk \(1, 0\) in it\."):
        stacks(tmp_path / "a.zarr", "YX")
    (stack,) = stacks(tmp_path / "a.zarr", "YX", missing_chunks="fill")
    check_image_stack(stack, array[None, None])


def test_an_array_may_end_with_a_chunk_inside_its_shard(tmp_path: Path) -> None:
    array = numbers((48, 64))
    write_array(tmp_path / "a.zarr", array, shards=(32, 64))
    (stack,) = stacks(tmp_path / "a.zarr", "YX")
    check_image_stack(stack, array[None, None])


def test_fill_value_of_the_array_is_what_fills(tmp_path: Path) -> None:
    zarr.create_array(
        tmp_path / "a.zarr", shape=(40, 50), chunks=(16, 16), dtype="u2", fill_value=7
    )
    for engine in ENGINES:
        (stack,) = stacks(tmp_path / "a.zarr", "YX", missing_chunks="fill", engine=engine)
        assert (whole(stack) == 7).all()
        stack.close()


# ----------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("how", [{"compressors": zstd()}, {"shards": (32, 32)}])
def test_damaged_chunk_is_named_when_it_is_read(
    tmp_path: Path, how: dict[str, Any], engine: str
) -> None:
    array = numbers((60, 60))
    write_array(tmp_path / "a.zarr", array, **how)
    chunk = tmp_path / "a.zarr/c/1/1"
    chunk.write_bytes(chunk.read_bytes()[:9])
    (stack,) = stacks(tmp_path / "a.zarr", "YX", engine=engine)
    np.testing.assert_array_equal(stack.array[0:16, 0:60], array[:16])
    with pytest.raises(DataError, match=r"a\.zarr: chunk c/1/1 cannot be read .* damaged"):
        whole(stack)
    stack.close()


def not_zarr(path: Path) -> str:
    (path / "a.zarr/x").mkdir(parents=True)
    return r"a\.zarr: not a Zarr store.* no zarr\.json, \.zgroup or \.zarray \(found: x\)"


def empty_folder(path: Path) -> str:
    (path / "a.zarr").mkdir()
    return r"a\.zarr: not a Zarr store"


def plain_file(path: Path) -> str:
    (path / "a.zarr").write_text("text")
    return r"a\.zarr: not a Zarr store: neither a folder nor a readable zip file"


def no_path(path: Path) -> str:
    return r"a\.zarr does not exist"


def no_arrays(path: Path) -> str:
    zarr.open_group(path / "a.zarr", mode="w").create_group("inner")
    return r"a\.zarr: holds no array and has no OME metadata\. There are the groups inner"


def empty_group(path: Path) -> str:
    zarr.open_group(path / "a.zarr", mode="w")
    return r"a\.zarr: holds no array.* nothing"


def damaged_json(path: Path) -> str:
    write_array(path / "a.zarr", numbers((40, 50)))
    (path / "a.zarr/zarr.json").write_text("{")
    return r"a\.zarr: zarr\.json is damaged"


def other_json(path: Path) -> str:
    write_array(path / "a.zarr", numbers((40, 50)))
    (path / "a.zarr/zarr.json").write_text("[]")
    return r"a\.zarr: zarr\.json holds no metadata"


def unknown_format(path: Path) -> str:
    write_array(path / "a.zarr", numbers((40, 50)))
    (path / "a.zarr/zarr.json").write_text('{"zarr_format": 9, "node_type": "array"}')
    return r"zarr_format=9"


def incomplete_metadata(path: Path) -> str:
    write_array(path / "a.zarr", numbers((40, 50)))
    (path / "a.zarr/zarr.json").write_text('{"zarr_format": 3, "node_type": "array"}')
    return r"a\.zarr: cannot be opened"


def unknown_codec(path: Path) -> str:
    write_array(path / "a.zarr", numbers((40, 50)), compressors=GzipCodec())
    text = (path / "a.zarr/zarr.json").read_text()
    (path / "a.zarr/zarr.json").write_text(text.replace('"gzip"', '"squash"'))
    return r"a\.zarr: cannot be opened .*squash.*codec"


def one_dimension(path: Path) -> str:
    write_array(path / "a.zarr", numbers((40,)))
    return r"a\.zarr: shape \(40,\) has 1 dimension\(s\), so it is no image"


def no_dimension(path: Path) -> str:
    zarr.create_array(path / "a.zarr", shape=(), dtype="u2")
    return r"a\.zarr: shape \(\) has 0 dimension"


def complex_numbers(path: Path) -> str:
    write_array(path / "a.zarr", np.ones((40, 50), np.complex64))
    return r"a\.zarr: dtype complex64 is not a real number"


def text(path: Path) -> str:
    write_array(path / "a.zarr", np.full((4, 5), "abc"), zarr_format=2)
    return r"a\.zarr: dtype <U3 is not a real number"


def text_of_any_length(path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a dtype that format 3 does not specify
        zarr.create_array(path / "a.zarr", shape=(2, 3), chunks=(2, 3), dtype=str)[...] = "abc"
    return r"a\.zarr: dtype .* is not a real number"


def attributes_that_are_a_list(path: Path) -> str:
    write_array(path / "a.zarr", numbers((40, 50)))
    content = json.loads((path / "a.zarr/zarr.json").read_text())
    (path / "a.zarr/zarr.json").write_text(json.dumps(content | {"attributes": [1]}))
    return r"a\.zarr: its metadata have attributes='\[1\]', which should be a mapping"


def folder_of_other_files(path: Path) -> str:
    (path / "a.zarr").mkdir()
    (path / "a.zarr/1.tif").write_bytes(b"II")
    return r"a\.zarr: not a Zarr store.*found: 1\.tif"


def no_pixels(path: Path) -> str:
    zarr.create_array(path / "a.zarr", shape=(0, 50), chunks=(1, 50), dtype="u2")
    return r"a\.zarr: shape \(0, 50\) holds no pixel"


BAD: list[Callable[[Path], str]] = [
    not_zarr,
    empty_folder,
    plain_file,
    no_path,
    no_arrays,
    empty_group,
    damaged_json,
    other_json,
    unknown_format,
    incomplete_metadata,
    unknown_codec,
    one_dimension,
    no_dimension,
    complex_numbers,
    text,
    text_of_any_length,
    attributes_that_are_a_list,
    folder_of_other_files,
    no_pixels,
]


@pytest.mark.parametrize("damage", BAD)
def test_bad_stores_are_told(tmp_path: Path, damage: Callable[[Path], str]) -> None:
    message = damage(tmp_path)
    with pytest.raises(DataError, match=message):
        stacks(tmp_path / "a.zarr", "YX")


def test_all_faults_of_a_list_come_in_one_message(tmp_path: Path) -> None:
    write_array(tmp_path / "good.zarr", numbers((40, 50)))
    (tmp_path / "bad.zarr").mkdir()
    data = [tmp_path / name for name in ("bad.zarr", "good.zarr", "none.zarr")]
    with pytest.raises(DataError, match=r"train_data: 2 problems:(.|\n)*bad\.zarr(.|\n)*none"):
        stacks(data)


@pytest.mark.parametrize(
    ("axes", "shape", "message"),
    [
        ("auto", (3, 40, 50), r'shape \(3, 40, 50\)\)\. Give 3 letters .*"TYX" or "ZYX"'),
        ("auto", (2, 3, 40, 50), 'Give 4 letters .*"TZYX" or "ZCYX"'),
        ("auto", (2, 2, 3, 40, 50), 'Give 5 letters .*"TCZYX"'),
        ("auto", (40, 50), 'Give 2 letters .*"YX"'),
        ("YX", (3, 40, 50), "2 letters for 3 dimensions"),
    ],
)
def test_axes_that_cannot_be_known(
    tmp_path: Path, axes: str, shape: tuple[int, ...], message: str
) -> None:
    write_array(tmp_path / "a.zarr", numbers(shape))
    with pytest.raises(DataError, match=r"a\.zarr: .*" + message):
        stacks(tmp_path / "a.zarr", axes)


def test_lists_and_arguments_that_mean_nothing(tmp_path: Path) -> None:
    uris = list(write_collection(tmp_path / "a.zarr"))
    with pytest.raises(DataError, match=r"the list mixes URIs \(file://.*only stores, or only"):
        stacks([tmp_path / "a.zarr", uris[0]], "SYX")
    with pytest.raises(DataError, match="the list is empty"):
        stacks([])
    for nothing in ("", [""], ["", tmp_path / "a.zarr"]):  # not the current folder
        with pytest.raises(DataError, match="the path is empty"):
            stacks(nothing)
    with pytest.raises(DataError, match=r"a\.zarr/array_1: is an array, but level=1"):
        stacks(tmp_path / "a.zarr", "SYX", level=1)
    with pytest.raises(DataError, match="int is not a path"):
        stacks([3])
    with pytest.raises(DataError, match="dict is not a path"):
        stacks({})
    with pytest.raises(DataError, match="no file matches the pattern"):
        stacks(tmp_path / "*.zip")
    with pytest.raises(DataError, match=r"memory://12/a: is in the memory of a process"):
        stacks("memory://12/a")
    with pytest.raises(DataError, match=r"is no plate, but row=A chooses fields of one"):
        stacks(tmp_path / "a.zarr", "SYX", row="A")
    with pytest.raises(DataError, match=r"level=-1 is too small"):
        module(tmp_path / "a.zarr", level=-1)
    for name, choice in (("row", 1.5), ("column", []), ("field", [True]), ("row", {})):
        with pytest.raises(DataError, match=rf"{name}=.*give a name, a number or a list"):
            module(tmp_path / "a.zarr", **{name: choice})
    with pytest.raises(DataError, match=r"storage_options='anon': give names and values"):
        module(tmp_path / "a.zarr", storage_options="anon")
    with pytest.raises(DataError, match=r"missing_chunks='skip': choose among error, fill"):
        module(tmp_path / "a.zarr", missing_chunks="skip")


def test_a_store_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    for seed in range(2):
        array = numbers((40, 50), seed=seed)
        write_array(tmp_path / "a.zarr", array, overwrite=True)
        (stack,) = stacks(tmp_path / "a.zarr", "YX")
        np.testing.assert_array_equal(whole(stack), array)
        stack.close()
