from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from careamics_dm.errors import DataError
from careamics_dm.images.axes import Layout
from careamics_dm.prediction import mapped_file
from careamics_dm.prediction.mapped_file import MappedFile
from careamics_dm.prediction.result_file import ResultImage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def begin(path: Path, shape: Sequence[int], order: list[int], dtype: str = "i2") -> MappedFile:
    """Begin a file whose axes lie in another order on disk, and bools as bytes."""

    def create(part: Path, image: ResultImage, *, begin: bool) -> Any:
        stored = tuple(shape[d] for d in order)
        mapped = np.lib.format.open_memmap(part, "w+", dtype.replace("?", "u1"), stored)
        return mapped.transpose(np.argsort(order))

    stack: Any = SimpleNamespace()
    layout = Layout("STZYX"[-len(shape) :], tuple(shape))
    image = ResultImage(path, stack, layout, np.dtype(dtype).newbyteorder("="), replace=True)
    return MappedFile(image, create, begin=True)


@given(
    data=st.data(),
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    dtype=st.sampled_from(["i2", ">u2", "?", "f2"]),
    run=st.sampled_from([0, 8, 2**16]),
    short=st.booleans(),
)
def test_boxes_are_written_wherever_they_lie(tmp_path_factory, data, shape, dtype, run, short):
    """Through the map or not, in any order, and where the system writes less than it was given."""
    order = data.draw(st.permutations(range(len(shape))))
    path = tmp_path_factory.mktemp("out") / "a.npy"
    pixels = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    pwrite = getattr(os, "pwrite", None)  # not on Windows
    edges = [sorted(data.draw(st.sets(st.integers(1, n), max_size=2)) | {0, n}) for n in shape]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped_file, "RUN", run)
        if short and pwrite:
            patch.setattr(os, "pwrite", lambda to, what, at: pwrite(to, what[:3], at))
        file = begin(path, shape, order, dtype)
        for corner in np.ndindex(*(len(of) - 1 for of in edges)):
            box = tuple(slice(of[i], of[i + 1]) for of, i in zip(edges, corner, strict=True))
            file.put(box, pixels[box])
        file.finish()
    np.testing.assert_array_equal(np.load(path), pixels.transpose(order))


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_what_cannot_be_written_is_one_message(tmp_path, monkeypatch, call):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full, raising=False)
    file = begin(tmp_path / "a.npy", (200, 300), [0, 1])
    with pytest.raises(DataError, match=r"a.npy, of 0.1 MiB, can't be written \(No space left"):
        file.put((slice(0, 200), slice(0, 300)), np.zeros((200, 300), np.int16))
        file.finish()
    file.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy.part"]
