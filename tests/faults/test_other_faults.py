"""Damaged ``.npy`` files, functions of users that go wrong, manifests, CZIs, and changing files."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from faults.outcomes import MODULES, assert_clear, assert_refused, assert_right_or_clear, outcome_of
from formats.czi_files import Tile, write_czi

from careamics_dm import DataError, MeanStd

if TYPE_CHECKING:
    from pathlib import Path

PIXELS = np.random.default_rng(0).integers(1, 999, (3, 48, 40)).astype(np.uint16)


# --------------------------------------------------------------------------------- array


@pytest.mark.parametrize("part", [0, 0.001, 0.005, 0.01, 0.3, 0.99])
def test_an_npy_file_that_ends_early(part, tmp_path):
    path = tmp_path / "bad.npy"
    np.save(path, PIXELS)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    outcome = outcome_of("array", {"train_data": str(path), "axes": "SYX"})
    assert_clear(outcome.message, "bad.npy")


@pytest.mark.parametrize("at", range(0, 120, 6))
def test_a_changed_byte_of_an_npy_header(at, tmp_path):
    path = tmp_path / "bad.npy"
    np.save(path, PIXELS)
    whole = bytearray(path.read_bytes())
    whole[at] ^= 4
    path.write_bytes(whole)
    try:
        other = np.load(path)
    except Exception:
        other = None
    outcome = outcome_of("array", {"train_data": str(path), "axes": "SYX"})
    assert_right_or_clear(outcome, "bad.npy", PIXELS, other)


ARRAYS = {
    "objects": np.array([[None] * 9] * 9),
    "strings": np.full((9, 9), "a"),
    "dates": np.zeros((9, 9), "M8[s]"),
    "complex": np.zeros((9, 9), complex),
    "fields": np.zeros((9, 9), [("a", "u1"), ("b", "u1")]),
    "no dimensions": np.array(3),
    "one dimension": np.zeros(99),
    "too many": np.zeros((2, 9, 9)),
    "no pixels": np.zeros((0, 9)),
    "too small": np.zeros((9, 3)),
    "nan": np.full((9, 9), np.nan),
}


@pytest.mark.parametrize("what", ARRAYS)
@pytest.mark.parametrize("where", ["memory", "file"])
def test_arrays_that_are_no_images(what, where, tmp_path):
    source: Any = ARRAYS[what]
    if where == "file":
        source = str(tmp_path / "bad.npy")
        np.save(source, ARRAYS[what], allow_pickle=True)
    assert_clear(outcome_of("array", {"train_data": source, "axes": "YX"}).message)


def test_a_pickle_is_not_opened(tmp_path):
    path = tmp_path / "bad.npy"
    path.write_bytes(pickle.dumps(PIXELS))
    outcome = outcome_of("array", {"train_data": str(path), "axes": "SYX"})
    assert_clear(outcome.message, "bad.npy")


@pytest.mark.parametrize(
    "data", [3, 2.5, True, b"image.npy", {"a": 1}, {1}, [], "", object(), [[]]]
)
@pytest.mark.parametrize("kind", ["array", "tiff", "zarr", "czi"])
def test_sources_of_another_type(kind, data):
    assert_clear(outcome_of(kind, {"train_data": data, "axes": "YX"}).message, "train_data")


# -------------------------------------------------------------------------------- custom


def raises(path: Path) -> Any:
    raise OSError(f"cannot read {path.name}")


READ = {
    "raises": raises,
    "none": lambda _: None,
    "text": lambda _: "pixels",
    "list": lambda _: [[1, 2], [3]],
    "one dimension": lambda _: np.zeros(99),
    "too many": lambda _: np.zeros((2, 9, 9)),
    "objects": lambda _: np.array([[None] * 9] * 9),
    "complex": lambda _: np.zeros((9, 9), complex),
    "nothing": lambda _: np.zeros((0, 9)),
    "too small": lambda _: np.zeros((3, 9)),
    "no argument": lambda: np.zeros((9, 9)),
    "nan": lambda _: np.full((9, 9), np.nan),
}


@pytest.mark.parametrize("what", READ)
def test_read_functions_that_give_no_image(what, tmp_path):
    (tmp_path / "bad.raw").touch()
    settings = {"read_func": READ[what], "extension": ".raw", "train_data": str(tmp_path)}
    assert_clear(outcome_of("custom", settings | {"axes": "YX"}).message, "bad.raw")


@pytest.mark.parametrize("found", [None, [], 3, [3], [None], "stack", {"a": 1}])
def test_loaders_that_give_no_image_stacks(found):
    settings = {"image_stack_loader": lambda *_: found, "train_data": "database", "axes": "YX"}
    assert_clear(outcome_of("custom", settings).message)


# ----------------------------------------------------------------------------- manifests

MANIFESTS = {
    "empty.csv": "",
    "header.csv": "input\n",
    "nothing.csv": "input\n\n\n",
    "other.csv": "file\na.tif\n",
    "unknown.csv": "input,noise\na.tif,3\n",
    "twice.csv": "input,input\na.tif,a.tif\n",
    "longer.csv": "input,target\na.tif,a.tif,a.tif\n",
    "split.csv": "input,split\na.tif,training\n",
    "half.csv": "input,target\na.tif,a.tif\na.tif,\n",
    "missing.csv": "input\nnone.tif\n",
    "number.csv": "input,series\na.tif,first\n",
    "negative.csv": "input,series\na.tif,-1\n",
    "beyond.csv": "input,series\na.tif,9\n",
    "channel.csv": "input,channel\na.tif,9\n",
    "level.csv": "input,level\na.tif,9\n",
    "quote.csv": 'input\n"a.tif\n',
    "empty.txt": "",
    "missing.txt": "none.tif\n",
    "empty.yaml": "",
    "list.yaml": "- [1, 2]\n",
    "number.yaml": "3\n",
    "broken.yaml": "a: [\n",
    "tag.yaml": "!!python/object/apply:os.getcwd []\n",
    "unknown.yaml": "- {input: a.tif, noise: 3}\n",
    "missing.yaml": "- input: none.tif\n",
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_that_name_no_images(name, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS[0])
    (tmp_path / name).write_text(MANIFESTS[name])
    outcome = outcome_of("tiff", {"train_data": str(tmp_path / name), "axes": "YX"})
    by_file = ("beyond", "negative", "number", "quote", "channel", "level")
    named = dict.fromkeys((f"{stem}.csv" for stem in by_file), "a.tif")
    named |= {f"missing.{suffix}": "none.tif" for suffix in ("csv", "txt", "yaml")}
    assert_clear(outcome.message, named.get(name, name))


@pytest.mark.parametrize("data", ["utf-16", "latin-1"])
def test_a_manifest_in_another_encoding(data, tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes("input\nzürich.tif\n".encode(data))
    assert_clear(outcome_of("tiff", {"train_data": str(path), "axes": "YX"}).message, "list.csv")


# ----------------------------------------------------------------------------------- czi


def czi(path: Path) -> bytes:
    write_czi(path, [Tile(PIXELS[t], {"T": t, "C": 0, "S": 0}) for t in range(3)])
    return path.read_bytes()


@pytest.mark.parametrize("part", [0, 0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 0.99])
def test_a_czi_that_ends_early(part, tmp_path):
    path = tmp_path / "bad.czi"
    whole = czi(path)
    path.write_bytes(whole[: int(part * len(whole))])
    outcome = outcome_of("czi", {"train_data": str(path), "axes": "SCYX"})
    assert_right_or_clear(outcome, "bad.czi", PIXELS)


@pytest.mark.parametrize("seed", range(40))
def test_a_changed_byte_of_a_czi(seed, tmp_path):
    """In its header, or the headers and directories of its segments."""
    path = tmp_path / "bad.czi"
    whole = bytearray(czi(path))
    rng = np.random.default_rng(seed)
    names = (b"ZISRAWFILE", b"ZISRAWSUBBLOCK", b"ZISRAWDIRECTORY")
    begins = [whole.index(name) for name in names]
    spans = [np.arange(begins[0], begins[0] + 112), np.arange(begins[1], begins[1] + 300)]
    spans.append(np.arange(begins[2], begins[2] + 32 + 128 + 400))
    whole[rng.choice(np.concatenate(spans))] ^= 1 << int(rng.integers(8))
    path.write_bytes(whole)
    outcome = outcome_of("czi", {"train_data": str(path), "axes": "SCYX"})
    assert_right_or_clear(outcome, "bad.czi", PIXELS)


FOREIGN = {
    "empty": b"",
    "text": b"no pixels" * 99,
    "name alone": b"ZISRAWFILE",
    "zeros": bytes(999),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_no_czi(what, tmp_path):
    assert_refused("czi", tmp_path / "bad.czi", FOREIGN[what], "SCYX")


# ------------------------------------------------------------------- files that change

KINDS = {
    "tiff": ("image.tif", lambda p, a: tifffile.imwrite(p, a, photometric="minisblack")),
    "tiled": (
        "image.tif",
        lambda p, a: tifffile.imwrite(
            p, a, photometric="minisblack", tile=(16, 16), compression="zlib"
        ),
    ),
    "array": ("image.npy", np.save),
    "custom": ("image.npy", np.save),
}


def halve(path: Path, _: Any) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def remove(path: Path, _: Any) -> None:
    path.unlink()


def replace(path: Path, write: Any) -> None:
    path.unlink()
    write(path, PIXELS[:, :20, :20])


def retype(path: Path, write: Any) -> None:
    path.unlink()
    write(path, PIXELS.astype(np.float32) / 2)


@pytest.mark.parametrize("kind", ["tiff", "tiled", "custom"])
@pytest.mark.parametrize("change", [halve, remove, replace, retype])
def test_a_file_that_changes_after_set_up(kind, change, tmp_path):
    name, write = KINDS[kind]
    path = tmp_path / name
    write(path, PIXELS)
    how = {"read_func": np.load, "extension": ".npy"} if kind == "custom" else {}
    data = MODULES[{"tiled": "tiff"}.get(kind, kind)](
        predict_data=str(path),
        axes="SYX",
        normalization=MeanStd(mean=0.0, std=1.0),
        in_memory=False,
        pool_mib=1,
        **how,
    )
    data.setup("predict")
    try:
        change(path, write)
        try:
            found = [batch["image"] for batch in data.predict_dataloader()]
            np.testing.assert_array_equal(np.concatenate(found)[:, 0], PIXELS)
        except DataError as error:  # if it is not held, or still open
            assert_clear(str(error), name)
    finally:
        data.teardown("predict")
