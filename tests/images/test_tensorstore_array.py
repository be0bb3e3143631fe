from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec

from careamics_dm.images import tensorstore_array
from careamics_dm.images.tensorstore_array import open_fast, threads

if TYPE_CHECKING:
    from pathlib import Path

FORMATS: dict[str, dict[str, Any]] = {
    "format 2": {"zarr_format": 2, "chunks": (8, 16)},
    "format 2 with folders": {
        "zarr_format": 2,
        "chunks": (8, 16),
        "chunk_key_encoding": {"name": "v2", "separator": "/"},
    },
    "format 3": {"chunks": (8, 16), "compressors": BloscCodec(cname="zstd")},
    "format 3 with shards": {"chunks": (4, 8), "shards": (8, 16)},
}


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "float16", "float32", "float64"])
@pytest.mark.parametrize("how", FORMATS.values(), ids=FORMATS)
def test_what_it_writes_zarr_reads_and_the_other_way_round(
    tmp_path: Path, how: dict[str, Any], dtype: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 99, (21, 40)).astype(dtype)
    stored = zarr.create_array(tmp_path / "a.zarr", shape=(21, 40), dtype=dtype, **how)
    array = open_fast(stored, tmp_path / "a.zarr")
    assert array is not None
    assert (array.shape, array.dtype) == ((21, 40), np.dtype(dtype))
    array[0:16, 0:40] = pixels[:16]
    stored[16:21] = pixels[16:]
    box = slice(3, 21), slice(5, 40)
    np.testing.assert_array_equal(stored[:], pixels, strict=True)
    np.testing.assert_array_equal(array[box], pixels[box], strict=True)


@pytest.mark.parametrize("how", FORMATS.values(), ids=FORMATS)
def test_chunks_of_zeros_are_stored_too_and_nothing_else(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    for name in ("a", "b"):
        config: Any = {"write_empty_chunks": True}
        stored = zarr.create_array(
            tmp_path / name, shape=(21, 40), dtype="u2", config=config, **how
        )
        array = open_fast(stored, tmp_path / name) if name == "a" else stored
        assert array is not None
        array[0:21, 0:40] = np.zeros((21, 40), np.uint16)
    ours, theirs = files(tmp_path / "a"), files(tmp_path / "b")
    assert ours.keys() == theirs.keys()
    assert len(ours) > 9


def test_a_missing_chunk_is_the_fill_value_or_an_error(tmp_path: Path) -> None:
    how: dict[str, Any] = {"shape": (8, 8), "chunks": (4, 8), "dtype": "u1", "fill_value": 7}
    stored = zarr.create_array(tmp_path / "a.zarr", **how)
    filled, strict = (open_fast(stored, tmp_path / "a.zarr", fill=fill) for fill in (True, False))
    assert filled is not None and strict is not None
    box = slice(0, 8), slice(0, 8)
    np.testing.assert_array_equal(filled[box], np.full((8, 8), 7, np.uint8))
    with pytest.raises(Exception, match="missing"):
        _ = strict[box]


def test_what_it_cannot_do_is_left_to_zarr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = zarr.create_array(tmp_path / "a.zarr", shape=(8, 8), chunks=(4, 8), dtype="u1")
    assert open_fast(stored, tmp_path / "elsewhere.zarr") is None
    assert open_fast(stored, tmp_path / "a.zarr") is not None
    monkeypatch.setattr(tensorstore_array, "_used_in", -1)  # as after a fork
    assert open_fast(stored, tmp_path / "a.zarr") is None
    monkeypatch.setattr(tensorstore_array, "find_spec", lambda name: None)
    assert open_fast(stored, tmp_path / "a.zarr") is None


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    class Worker:
        num_workers = 3

    monkeypatch.setattr(tensorstore_array.os, "cpu_count", lambda: 8)
    assert threads() == 8
    monkeypatch.setattr(tensorstore_array, "get_worker_info", Worker)
    assert threads() == 2
