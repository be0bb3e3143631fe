"""Results that a function of the user writes, and CZI: what can go wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from careamics_dm import FunctionWriter
from careamics_dm.errors import DataError
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.axes import Layout
from careamics_dm.prediction.result_file import ResultImage


def result(path, image, axes="YX", replace=False, **says):
    stack = ArrayStack(image, axes, "in", **says)
    return ResultImage(Path(path), stack, Layout(axes, image.shape), image.dtype, replace)


def write(writer, image, pixels):
    file = writer.open(image, begin=True)
    file.put((slice(None),) * pixels.ndim, pixels)
    file.finish()


def to_text(path, array, **info):
    """Found by its import path."""
    path.write_text(f"{info['axes']} {array.sum()}")


def to_folder(path, array, **info):
    path.mkdir()
    np.save(path / "pixels.npy", array)


def nothing(path, array, **info):
    pass


def broken(path, array, **info):
    path.write_text("half")
    raise OSError("no such device")


IMAGE = np.ones((4, 5), np.float32)


def test_a_function_is_found_by_its_import_path(tmp_path):
    name = f"{__name__}:to_text"
    writer = FunctionWriter(tmp_path, write_func=name, extension=".txt")
    write(writer, result(tmp_path / "a.txt", IMAGE), IMAGE)
    assert (tmp_path / "a.txt").read_text() == "YX 20.0"
    assert writer.suffixes(ArrayStack(IMAGE, "YX", "a")) == (".txt",)


def test_a_folder_is_a_result_and_can_be_replaced(tmp_path):
    writer = FunctionWriter(tmp_path, write_func=to_folder, extension=".store")
    for value in (1, 2):
        image = result(tmp_path / "a.store", IMAGE, replace=True)
        write(writer, image, IMAGE * value)
        assert (np.load(tmp_path / "a.store" / "pixels.npy") == value).all()
    with pytest.raises(FileExistsError):
        write(writer, result(tmp_path / "a.store", IMAGE), IMAGE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.store"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (nothing, "in: nothing has not written a.txt into the folder of the path"),
        (broken, "in: broken failed: OSError: no such device. It is called as write_func"),
    ],
)
def test_a_function_that_fails_leaves_the_pixels_to_try_again(tmp_path, function, message):
    writer = FunctionWriter(tmp_path, write_func=function, extension=".txt")
    with pytest.raises(DataError, match=message):
        write(writer, result(tmp_path / "a.txt", IMAGE), IMAGE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt.part"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"write_func": None, "extension": ".h5"}, "writer.write_func: a NoneType can't be called"),
        (
            {"write_func": to_text, "extension": None},
            "writer.extension=None: give one with its dot",
        ),
        (
            {"write_func": to_text, "extension": "h5"},
            "writer.extension='h5': give one with its dot",
        ),
    ],
)
def test_settings_are_checked(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        FunctionWriter(tmp_path, **options)
