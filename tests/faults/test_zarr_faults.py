"""Damaged and misleading Zarr stores: the right pixels or one clear error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from faults.outcomes import assert_clear, assert_right_or_clear, outcome_of
from formats.zarr_files import write_array

PIXELS = np.random.default_rng(0).integers(1, 999, (3, 48, 40)).astype(np.uint16)
FORMATS = {2: ".zarray", 3: "zarr.json"}


def store(path: Path, zarr_format: int) -> Path:
    """Write an array of 3 x 3 x 3 chunks; return its metadata file."""
    write_array(path, PIXELS, chunks=(1, 16, 16), zarr_format=zarr_format)
    return path / FORMATS[zarr_format]


def outcome(path: Path, **settings: Any):
    return outcome_of("zarr", {"train_data": str(path), "axes": "SYX"} | settings)


def by_zarr(path: Path):
    """All that another reader makes of the same files; what is missing, it fills."""
    try:
        return np.asarray(zarr.open_array(path, mode="r")[...])
    except Exception:
        return None


def chunks_of(path: Path, zarr_format: int) -> list[Path]:
    meta = FORMATS[zarr_format]
    found = (p for p in path.rglob("*") if p.is_file() and p.name not in (meta, ".zattrs"))
    return sorted(found)


@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize(
    "text", ["", "{", "{}", "[]", "null", "3", '"zarr"', "no JSON", "\0\1\2", "0.1", "half"]
)
def test_metadata_that_are_none(zarr_format, text, tmp_path):
    path = tmp_path / "bad.zarr"
    file = store(path, zarr_format)
    whole = file.read_text()
    file.write_text(
        {"0.1": whole[: len(whole) // 10], "half": whole[: len(whole) // 2]}.get(text, text)
    )
    assert_clear(outcome(path).message, "bad.zarr")


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_no_metadata(zarr_format, tmp_path):
    path = tmp_path / "bad.zarr"
    store(path, zarr_format).unlink()
    assert_clear(outcome(path).message, "bad.zarr")


KEYS = {
    2: ["shape", "chunks", "dtype", "compressor", "fill_value", "order", "filters", "zarr_format"],
    3: [
        *["shape", "chunk_grid", "data_type", "codecs", "fill_value", "node_type"],
        *["zarr_format", "chunk_key_encoding"],
    ],
}
REMOVED = "removed"
VALUES = [REMOVED, None, -1, 0, "x", [], {}, [10**12, 10**12, 10**12], [3, 48], [3, 48, 41]]


@pytest.mark.parametrize("value", VALUES, ids=str)
@pytest.mark.parametrize(("zarr_format", "key"), [(f, k) for f, keys in KEYS.items() for k in keys])
def test_metadata_with_another_value(zarr_format, key, value, tmp_path):
    path = tmp_path / "bad.zarr"
    file = store(path, zarr_format)
    meta = json.loads(file.read_text())
    if value == REMOVED:
        del meta[key]
    else:
        meta[key] = value
    file.write_text(json.dumps(meta))
    assert_right_or_clear(outcome(path), "bad.zarr", PIXELS, by_zarr(path))


def empty(file: Path):
    file.write_bytes(b"")


def one_byte(file: Path):
    file.write_bytes(file.read_bytes()[:1])


def half(file: Path):
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])


def noise(file: Path):
    file.write_bytes(np.random.default_rng(0).bytes(file.stat().st_size))


def longer(file: Path):
    file.write_bytes(file.read_bytes() * 2)


def folder(file: Path):
    file.unlink()
    file.mkdir()


CHUNKS = [empty, one_byte, half, noise, longer, folder, Path.unlink]


@pytest.mark.parametrize("engine", ["auto", "zarr"])
@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize("damage", CHUNKS)
def test_a_chunk_that_is_damaged(damage, zarr_format, engine, tmp_path):
    path = tmp_path / "bad.zarr"
    store(path, zarr_format)
    damage(chunks_of(path, zarr_format)[5])
    right = PIXELS if damage is longer else None  # a decoder may stop where its data end
    assert_right_or_clear(outcome(path, engine=engine), "bad.zarr", right)


MULTISCALES: dict[str, Any] = {
    "version": "0.4",
    "axes": [
        {"name": "t", "type": "time"},
        {"name": "y", "type": "space"},
        {"name": "x", "type": "space"},
    ],
    "datasets": [
        {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 0.2, 0.1]}]}
    ],
}
OME = {
    "axes": [None, [], "tyx", [{}], [{"name": "y"}, {"name": "x"}], ["t", "y", "q"], 3],
    "datasets": [None, [], {}, [{}], [{"path": "9"}], [{"path": "../0"}], [{"path": 0}], "0"],
    "coordinateTransformations": [None, [], {}, [{}], [{"type": "affine"}], [{"scale": "x"}]],
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, values in OME.items() for v in values])
def test_ome_metadata_with_another_value(key, value, tmp_path):
    path = tmp_path / "bad.zarr"
    zarr.open_group(path, mode="w", zarr_format=2)
    store(path / "0", 2)
    meta = json.loads(json.dumps(MULTISCALES))
    if key == "coordinateTransformations":
        meta["datasets"][0][key] = value
    else:
        meta[key] = value
    (path / ".zattrs").write_text(json.dumps({"multiscales": [meta]}))
    found = outcome_of("zarr", {"train_data": str(path), "axes": "TYX"})
    assert_right_or_clear(found, "bad.zarr", PIXELS)


@pytest.mark.parametrize("attributes", ["", "[]", "null", '{"multiscales": null}', '{"plate": {}}'])
def test_attributes_that_are_none(attributes, tmp_path):
    path = tmp_path / "bad.zarr"
    zarr.open_group(path, mode="w", zarr_format=2)
    store(path / "0", 2)
    (path / ".zattrs").write_text(attributes)
    assert_right_or_clear(outcome(path), "bad.zarr", PIXELS)


def zipped(path: Path) -> Path:
    store(path, 3)
    return Path(shutil.make_archive(str(path), "zip", path))


@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.9, 0.99])
def test_an_archive_that_ends_early(part, tmp_path):
    path = zipped(tmp_path / "bad.zarr")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    assert_clear(outcome(path).message, "bad.zarr.zip")


@pytest.mark.parametrize(
    "source", ["none.zarr", "bad.zarr/none", "file://{}/bad.zarr/none", "file:///none.zarr", "bad"]
)
def test_what_is_not_there(source, tmp_path):
    store(tmp_path / "bad.zarr", 3)
    source = source.format(tmp_path) if "://" in source else str(tmp_path / source)
    assert_clear(outcome(source).message, Path(source).name)


@pytest.mark.parametrize("dtype", ["c8", "M8[s]", "S4", "U4", "V4"])
def test_dtypes_that_are_no_pixels(dtype, tmp_path):
    path = tmp_path / "bad.zarr"
    zarr.create_array(path, shape=(16, 16), chunks=(16, 16), dtype=dtype, zarr_format=2)
    assert_clear(outcome(path, axes="YX", missing_chunks="fill").message, "bad.zarr")
