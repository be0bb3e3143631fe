"""Zarr stores behind URLs, on servers of this machine, and in zip files."""

from __future__ import annotations

import pickle
import threading
import warnings
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import s3fs
import zarr
from modules import Identity, trainer
from moto.server import ThreadedMotoServer
from zarr_files import SCALE, numbers, write_array, write_collection, write_image, write_plate

from careamics_dm import ZarrWriter
from careamics_dm.errors import DataError
from careamics_dm.formats.zarr.array import forget_stores
from careamics_dm.formats.zarr.datamodule import ZarrDataModule
from careamics_dm.testing.datamodule_checks import check_datamodule, check_image_stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from careamics_dm.images.array_stack import ArrayStack

pytestmark = pytest.mark.usefixtures("files_close")


def module(data: Any, **given: Any) -> ZarrDataModule:
    given = {"patch_size": (8, 8), "batch_size": 2} | given
    return ZarrDataModule(train_data=data, **given)


def stacks(data: Any, **given: Any) -> list[ArrayStack]:
    made = module(data, **given)
    try:
        sources = made.list_sources(data, "train_data").inputs
        return [made.open_source(source, made.settings.axes)[0] for source in sources]
    finally:
        forget_stores()


# ------------------------------------------------------------------------------------------ S3


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    """Return the options of an S3 server with an empty bucket."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"endpoint_url": f"http://{host}:{port}", "key": "any", "secret": "any"}
    s3fs.S3FileSystem(**options).mkdir("bucket")
    yield options
    server.stop()


def upload(folder: Path, name: str, options: dict[str, Any]) -> str:
    import s3fs

    s3fs.S3FileSystem(**options).put(f"{folder}/", f"bucket/{name}/", recursive=True)
    return f"s3://bucket/{name}"


def test_store_groups_and_arrays_in_a_bucket(tmp_path: Path, s3: dict[str, Any]) -> None:
    arrays = list(write_collection(tmp_path / "a.zarr").values())
    url = upload(tmp_path / "a.zarr", "a.zarr", s3)
    for data, expected in (
        (url, arrays[:2]),
        (f"{url}/others/array_3", arrays[3:]),
        ([f"{url}/array_2", f"{url}/others"], arrays[1:]),
    ):
        found = stacks(data, axes="SYX", storage_options=s3)
        assert [stack.source.startswith(url) for stack in found] == [True] * len(expected)
        for stack, array in zip(found, expected, strict=True):
            np.testing.assert_array_equal(stack.load().array, array)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_image_and_plate_in_a_bucket(tmp_path: Path, s3: dict[str, Any], version: str) -> None:
    array = numbers((2, 3, 40, 50))
    write_image(tmp_path / "a.zarr", array, "czyx", version, "ome-zarr")
    url = upload(tmp_path / "a.zarr", f"image-{version}.zarr", s3)
    (stack,) = stacks(url, storage_options=s3)
    assert (stack.source, stack.original_axes, stack.scale) == (url, "CZYX", SCALE)
    np.testing.assert_array_equal(stack.load().array, array)

    fields = write_plate(tmp_path / "p.zarr", version, "ome-zarr", fields=1)
    url = upload(tmp_path / "p.zarr", f"plate-{version}.zarr", s3)
    found = stacks(url, storage_options=s3, column=2)
    assert [stack.source for stack in found] == [f"{url}/A/2/0", f"{url}/B/2/0"]
    for stack in found:
        np.testing.assert_array_equal(stack.load().array, fields[stack.source[len(url) + 1 :]])


def test_the_whole_module_reads_from_a_bucket(tmp_path: Path, s3: dict[str, Any]) -> None:
    write_array(tmp_path / "a.zarr", numbers((3, 40, 50)), dimension_names=["t", "y", "x"])
    url = upload(tmp_path / "a.zarr", "whole.zarr", s3)
    check_datamodule(module(url, predict_data=url, storage_options=s3, in_memory=False))


def test_worker_processes_open_the_bucket_themselves(tmp_path: Path, s3: dict[str, Any]) -> None:
    write_array(tmp_path / "a.zarr", numbers((3, 40, 50)), dimension_names=["t", "y", "x"])
    url = upload(tmp_path / "a.zarr", "workers.zarr", s3)
    here, there = (
        module(url, storage_options=s3, in_memory=False, num_workers=n, normalization="none")
        for n in (0, 2)
    )
    patches = [[b["image"] for b in m.val_dataloader()] for m in (here, there)]
    for one, other in zip(*patches, strict=True):
        np.testing.assert_array_equal(one, other)
    there.teardown("fit")


def test_results_go_to_a_bucket_and_are_read_there(tmp_path: Path, s3: dict[str, Any]) -> None:
    fields = write_plate(tmp_path / "p.zarr", "0.5", "ome-zarr", fields=1)
    data = module(None, predict_data=tmp_path / "p.zarr", normalization="none")
    for existing, dtype in (("error", "float32"), ("replace", "source"), ("skip", "float32")):
        writer = ZarrWriter("s3://bucket/out", storage_options=s3, existing=existing, dtype=dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning, when there is nothing to predict
            run = trainer(tmp_path, callbacks=[writer])
            run.predict(Identity(), datamodule=data, return_predictions=False)
    found = stacks("s3://bucket/out/p.zarr", storage_options=s3)
    for stack, (path, array) in zip(found, fields.items(), strict=True):
        assert (stack.source, stack.data_dtype) == (f"s3://bucket/out/p.zarr/{path}", "u2")
        np.testing.assert_array_equal(stack.load().array, array)
    nobody = ZarrWriter("s3://elsewhere/out", storage_options=s3)
    with pytest.raises(DataError, match=r"s3://elsewhere/out.* can't be written .*Check the URL"):
        nobody.prepare(data)


def test_missing_chunk_in_a_bucket_is_told(tmp_path: Path, s3: dict[str, Any]) -> None:
    write_array(tmp_path / "a.zarr", numbers((3, 40, 50)))
    (tmp_path / "a.zarr/c/0/1/2").unlink()
    url = upload(tmp_path / "a.zarr", "hole.zarr", s3)
    with pytest.raises(DataError, match=r"hole\.zarr: 1 of 12 .* missing: c/0/1/2\."):
        stacks(url, axes="ZYX", storage_options=s3)


def test_what_is_not_there_and_servers_that_do_not_answer(s3: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"s3://bucket/no.zarr: not a Zarr store"):
        stacks("s3://bucket/no.zarr", storage_options=s3)
    with pytest.raises(DataError, match=r"s3://other/no\.zarr.*(storage_options|not a Zarr store)"):
        stacks("s3://other/no.zarr", storage_options=s3)
    with pytest.raises(DataError, match=r"http://127.0.0.1:9/a\.zarr: cannot be read"):
        stacks("http://127.0.0.1:9/a.zarr")


def test_options_of_another_driver_are_told(s3: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"s3://bucket/a.zarr: .*storage_options"):
        stacks("s3://bucket/a.zarr", storage_options={"no_such_option": 1})


# --------------------------------------------------------------------------------- web servers


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None: ...

    def list_directory(self, path: object) -> None:
        self.send_error(404)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """Serve a folder whose contents are not listed."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=partial(server.serve_forever, 0.02))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_ome_image_on_a_web_server(tmp_path: Path, web: str) -> None:
    array = numbers((2, 3, 40, 50))
    write_image(tmp_path / "a.zarr", array, "czyx", "0.5", "bioio")
    (stack,) = stacks(f"{web}/a.zarr")
    np.testing.assert_array_equal(stack.load().array, array)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_arrays_of_a_web_server_need_consolidated_metadata(
    tmp_path: Path, web: str, zarr_format: Any
) -> None:
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=zarr_format)
    array = numbers((40, 50))
    root.create_array("one", shape=array.shape, dtype="uint16", chunks=(16, 16))[...] = array
    with pytest.raises(DataError, match=r"cannot be listed.*Name its arrays"):
        stacks(f"{web}/a.zarr", axes="YX")
    (stack,) = stacks(f"{web}/a.zarr/one", axes="YX")
    np.testing.assert_array_equal(stack.load().array, array)
    with pytest.warns() if zarr_format == 3 else pytest.MonkeyPatch.context():
        zarr.consolidate_metadata(tmp_path / "a.zarr")
    (stack,) = stacks(f"{web}/a.zarr", axes="YX")
    assert stack.source == f"{web}/a.zarr/one"


def test_missing_chunk_on_a_web_server_is_told_when_it_is_read(tmp_path: Path, web: str) -> None:
    array = numbers((90, 100))
    write_array(tmp_path / "a.zarr", array)
    (tmp_path / "a.zarr/c/1/2").unlink()
    (stack,) = stacks(f"{web}/a.zarr", axes="YX")
    np.testing.assert_array_equal(stack.array[0:16, 0:100], array[:16])
    with pytest.raises(DataError, match=r"a\.zarr: 1 chunk\(s\) are missing: c/1/2\."):
        _ = stack.array[0:90, 0:100]
    (stack,) = stacks(f"{web}/a.zarr", axes="YX", missing_chunks="fill")
    array[16:32, 32:48] = 0
    np.testing.assert_array_equal(stack.array[0:90, 0:100], array)


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("abfs", "adlfs")])
def test_driver_that_is_not_installed_is_named(scheme: str, package: str) -> None:
    with pytest.raises(DataError, match=f"no driver for {scheme}://.*[Ii]nstall {package}"):
        stacks(f"{scheme}://bucket/a.zarr")


def test_unknown_scheme_is_told() -> None:
    with pytest.raises(DataError, match=r"gopher://a/b\.zarr: "):
        stacks("gopher://a/b.zarr")


def test_options_do_not_show_in_messages_nor_names(tmp_path: Path, s3: dict[str, Any]) -> None:
    write_array(tmp_path / "a.zarr", numbers((40, 50)))
    url = upload(tmp_path / "a.zarr", "secret.zarr", s3)
    (stack,) = stacks(url, axes="YX", storage_options=s3 | {"secret": "hush"})
    assert "hush" not in stack.source + repr(stack.layout)
    assert stacks(url, axes="YX", storage_options=s3)[0].array[0:1, 0:1].shape == (1, 1)
    pickle.dumps(stack)


# ------------------------------------------------------------------------------------ zip files


def pack(folder: Path, target: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as packed:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                packed.write(path, prefix + path.relative_to(folder).as_posix())
    return target


@pytest.mark.parametrize("name", ["a.zarr.zip", "a.zip", "a.ozx", "anything"])
def test_store_in_a_zip_file(tmp_path: Path, name: str) -> None:
    arrays = list(write_collection(tmp_path / "a.zarr").values())
    path = pack(tmp_path / "a.zarr", tmp_path / name)
    for data, expected in (
        (path, arrays[:2]),
        (f"zip://{path}/others", arrays[2:]),
        (f"{path}/others/array_3", arrays[3:]),
    ):
        found = stacks(data, axes="SYX")
        for stack, array in zip(found, expected, strict=True):
            np.testing.assert_array_equal(stack.load().array, array)
    (stack, _) = stacks(path, axes="SYX")
    check_image_stack(stack, arrays[0][:, None])


def test_what_zarr_prints_of_a_zip_store_names_it(tmp_path: Path) -> None:
    array = numbers((40, 50))
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="w") as store:
        stored = zarr.open_group(store).create_array(
            "one", shape=array.shape, dtype="uint16", chunks=(16, 16)
        )
        stored[...] = array
        uri = str(stored.store_path)
    (stack,) = stacks(uri, axes="YX")
    assert stack.source == f"{tmp_path / 'a.zip'}/one"
    check_image_stack(stack, array[None, None])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_image_and_plate_in_a_zip_file(tmp_path: Path, version: str) -> None:
    array = numbers((2, 3, 40, 50))
    write_image(tmp_path / "a.zarr", array, "czyx", version, "ngff-zarr")
    (stack,) = stacks(pack(tmp_path / "a.zarr", tmp_path / "a.zarr.zip"))
    check_image_stack(stack, array[None])
    fields = write_plate(tmp_path / "p.zarr", version, "ome-zarr")
    found = stacks(pack(tmp_path / "p.zarr", tmp_path / "p.zip"))
    assert len(found) == len(fields) == 6


def test_workers_read_a_zip_file(tmp_path: Path) -> None:
    write_array(tmp_path / "a.zarr", numbers((3, 40, 50)), dimension_names=["t", "y", "x"])
    path = pack(tmp_path / "a.zarr", tmp_path / "a.zip")
    check_datamodule(module(path, in_memory=False))
    made = module(path, in_memory=False, num_workers=1, start_method="forkserver")
    assert len(list(made.train_dataloader())) > 0
    made.teardown("fit")


def test_missing_chunk_in_a_zip_file_is_told(tmp_path: Path) -> None:
    write_array(tmp_path / "a.zarr", numbers((100, 110)))
    (tmp_path / "a.zarr/c/1/2").unlink()
    with pytest.raises(DataError, match=r"1 of 49 chunk\(s\) are missing: c/1/2\."):
        stacks(pack(tmp_path / "a.zarr", tmp_path / "a.zip"), axes="YX")


def test_store_in_a_folder_of_a_zip_file_is_found_by_its_path(tmp_path: Path) -> None:
    array = numbers((40, 50))
    write_array(tmp_path / "a.zarr", array)
    path = pack(tmp_path / "a.zarr", tmp_path / "a.zip", "a.zarr/")
    with pytest.raises(DataError, match=r"a\.zip: not a Zarr store.*\(found: a\.zarr\)"):
        stacks(path, axes="YX")
    (stack,) = stacks(path / "a.zarr", axes="YX")
    check_image_stack(stack, array[None, None])


def test_zip_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match=r"a\.zip: .*neither a folder nor a readable zip file"):
        stacks(tmp_path / "a.zip", axes="YX")


def test_a_zip_file_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    for seed in range(2):
        array = numbers((40, 50), seed=seed)
        write_array(tmp_path / f"{seed}.zarr", array)
        (stack,) = stacks(pack(tmp_path / f"{seed}.zarr", tmp_path / "a.zip"), axes="YX")
        np.testing.assert_array_equal(stack.load().array, array)
