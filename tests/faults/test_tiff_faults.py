"""Damaged, foreign and misleading TIFFs: the right pixels or one clear error."""

from __future__ import annotations

import gzip
import io
import logging
import os
import struct
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from faults.outcomes import assert_clear, assert_refused, assert_right_or_clear, outcome_of

if TYPE_CHECKING:
    from pathlib import Path

KINDS = {
    "raw": {"metadata": {"axes": "TYX"}},
    "tiled": {"tile": (16, 16), "compression": "zlib", "metadata": {"axes": "TYX"}},
    "ome": {"ome": True, "metadata": {"axes": "TYX"}},
    "imagej": {"imagej": True, "metadata": {"axes": "TYX"}},
}
AXES = {"axes": "TYX", "trust_axes": True}
PIXELS = np.random.default_rng(0).integers(1, 999, (3, 48, 40)).astype(np.uint16)


@pytest.fixture(autouse=True, scope="module")
def quiet():
    """What tifffile logs about damaged files is not ours."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("tifffile").setLevel(logging.WARNING)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("written")
    for kind, how in KINDS.items():
        tifffile.imwrite(folder / kind, PIXELS, photometric="minisblack", **how)
    return {kind: (folder / kind).read_bytes() for kind in KINDS}


def by_tifffile(path: Path):
    """All that another reader makes of the same bytes."""
    try:
        return tifffile.imread(path)
    except Exception:
        return None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0, 0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 0.999])
def test_a_file_that_ends_early(kind, part, written, tmp_path):
    whole = written[kind]
    path = tmp_path / "cut.tif"
    path.write_bytes(whole[: int(part * len(whole))])
    assert_right_or_clear(outcome_of("tiff", {"train_data": str(path), **AXES}), "cut.tif", PIXELS)


def outside_pixels(path: Path, whole: bytes) -> np.ndarray:
    """Bytes that are no pixels: headers, tags, descriptions."""
    is_pixel = np.zeros(len(whole), bool)
    with tifffile.TiffFile(path) as file:
        for page in file.pages:
            for start, n in zip(page.dataoffsets, page.databytecounts, strict=True):
                is_pixel[start : start + n] = True
    return np.flatnonzero(~is_pixel)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(16))
def test_a_changed_byte_of_the_metadata(kind, seed, written, tmp_path):
    path = tmp_path / "changed.tif"
    path.write_bytes(written[kind])
    rng = np.random.default_rng(seed)
    changed = bytearray(written[kind])
    changed[rng.choice(outside_pixels(path, written[kind]))] ^= 1 << int(rng.integers(8))
    path.write_bytes(changed)
    outcome = outcome_of("tiff", {"train_data": str(path), **AXES})
    assert_right_or_clear(outcome, "changed.tif", PIXELS, by_tifffile(path))


TAGS = [
    ("ImageWidth", [0, 1, 39, 41, 2**20, 2**31]),
    ("ImageLength", [0, 1, 47, 49, 2**20, 2**31]),
    ("BitsPerSample", [0, 1, 7, 8, 12, 32, 255]),
    ("SamplesPerPixel", [0, 2, 3, 200]),
    ("Compression", [0, 2, 3, 4, 5, 6, 7, 8, 99, 32773, 33003, 34712, 50000, 65535]),
    ("PhotometricInterpretation", [0, 3, 6, 32803]),
    ("SampleFormat", [0, 2, 3, 4, 5, 6, 9]),
    ("PlanarConfiguration", [0, 2, 9]),
    ("RowsPerStrip", [0, 1, 47, 2**31]),
    ("StripByteCounts", [0, 1, 3839, 2**31]),
    ("StripOffsets", [0, 8, 2**31]),
    ("FillOrder", [0, 2, 9]),
    ("Orientation", [0, 2, 3, 5, 8, 99]),
    ("Predictor", [0, 9]),
]


@pytest.mark.parametrize(("tag", "value"), [(t, v) for t, values in TAGS for v in values])
def test_a_tag_with_another_value(tag, value, tmp_path):
    """A file of one page. A tag that it lacks takes the place of one that does not matter."""
    path = tmp_path / "tag.tif"
    tifffile.imwrite(
        path, PIXELS[0], photometric="minisblack", metadata=None, resolution=(1, 1), software=False
    )
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        entry = tags.get(tag) or tags["ResolutionUnit"]
        at, code = entry.offset, entry.dtype
    whole = bytearray(path.read_bytes())
    whole[at : at + 2] = struct.pack("<H", tifffile.TIFF.TAGS[tag])
    if code == 3 and value >= 2**16:
        whole[at + 2 : at + 4] = struct.pack("<H", 4)
        code = 4
    form = "<I" if code == 4 else "<HH"
    whole[at + 8 : at + 12] = struct.pack(form, value, *[0] * (form == "<HH"))
    path.write_bytes(whole)
    outcome = outcome_of("tiff", {"train_data": str(path), "axes": "YX"})
    assert_right_or_clear(outcome, "tag.tif", PIXELS[0], by_tifffile(path))


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, PIXELS)
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("image.tif", b"II*\0")
    return file.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 123456\n"
HEADER = struct.pack("<2sHI", b"II", 42, 8)
FOREIGN = {
    "empty": b"",
    "text": b"these are no pixels\n" * 9,
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "jpeg": b"\xff\xd8\xff\xe0" + bytes(100),
    "npy": npy(),
    "zip": archive(),
    "gzip": gzip.compress(HEADER + bytes(1000)),
    "git LFS pointer": LFS,
    "czi": b"ZISRAWFILE" + bytes(600),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "zeros": bytes(5000),
    "header alone": HEADER,
    "directory beyond the end": struct.pack("<2sHI", b"II", 42, 2**30),
    "directory in the header": struct.pack("<2sHI", b"II", 42, 0) + bytes(100),
    "directory without tags": HEADER + struct.pack("<HI", 0, 0),
    "directory that follows itself": HEADER + struct.pack("<HI", 0, 8),
    "more tags than there are": HEADER + struct.pack("<H", 65535),
    "BigTIFF, header alone": struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_no_tiff(what, tmp_path):
    assert_refused("tiff", tmp_path / "foreign.tif", FOREIGN[what], "YX")


def make_folder(path: Path):
    path.mkdir()


def make_link(path: Path):
    path.symlink_to("nowhere.tif")


def make_loop(path: Path):
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [make_folder, make_link, make_loop, os.mkfifo])
def test_what_is_no_file(make, tmp_path):
    path = tmp_path / "none.tif"
    make(path)
    outcome = outcome_of("tiff", {"train_data": str(path), "axes": "YX"})
    assert_clear(outcome.message, "none.tif")


@pytest.mark.parametrize("dtype", ["c8", "c16", "?", "i1", "u8", "f2", "f8"])
def test_dtypes(dtype, tmp_path):
    """Complex pixels are refused, all others are read as they are."""
    path = tmp_path / "image.tif"
    image = (PIXELS[0] % 2).astype(dtype)
    tifffile.imwrite(path, image, photometric="minisblack")
    outcome = outcome_of("tiff", {"train_data": str(path), "axes": "YX"})
    if dtype.startswith("c"):
        assert_clear(outcome.message, "image.tif", "complex")
    else:
        assert_right_or_clear(outcome, "image.tif", image)
        assert outcome.pixels is not None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers(bad, tmp_path):
    path = tmp_path / "image.tif"
    image = np.ones((8, 8), np.float32)
    image[3, 5] = bad
    tifffile.imwrite(path, image)
    outcome = outcome_of("tiff", {"train_data": str(path), "axes": "YX"})
    assert_clear(outcome.message, "image.tif", "nan_policy", "(3, 5)")
