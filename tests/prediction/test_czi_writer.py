"""Results as CZI: what is refused, what is lost, and large planes."""

from __future__ import annotations

import numpy as np
import pytest
from modules import Identity, trainer
from pylibCZIrw.czi import open_czi
from test_function_writer import result, write

from careamics_dm import ArrayDataModule, CziWriter
from careamics_dm.errors import DataError
from careamics_dm.formats.czi.datamodule import open_czi as open_ours


@pytest.mark.parametrize("dtype", ["int16", "uint32", "float64", "bool"])
def test_dtypes_that_czi_lacks_are_refused_before_predicting(tmp_path, dtype):
    image = np.ones((20, 20), dtype)
    data = ArrayDataModule(predict_data=image, axes="YX", normalization="none")
    run = trainer(tmp_path, callbacks=[CziWriter(tmp_path / "out", dtype="source")])
    with pytest.raises(DataError, match=f"CZI can't hold the {dtype} of predict_data"):
        run.predict(Identity(), datamodule=data)
    assert not list((tmp_path / "out").iterdir())


def test_what_is_lost_is_named(tmp_path):
    scale = {"X": (1, "cubits"), "Y": (1, "cubits"), "Z": (2.5, "s"), "T": (2, "min")}
    image = np.ones((2, 3, 2, 4, 5), np.float32)
    says = {"scale": scale, "labels": ["one"]}
    lost = CziWriter(tmp_path).check(result("a.czi", image, "STZYX", **says))
    assert lost == ["axes of samples (all are T)", "pixel size", "Z step"]


def test_large_planes_and_several_axes_of_samples(tmp_path):
    image = np.random.default_rng(0).random((1, 2, 1300, 2100), np.float32)  # two parts each
    write(CziWriter(tmp_path), result(tmp_path / "a.czi", image, "STYX"), image)
    with open_czi(str(tmp_path / "a.czi")) as file:
        assert np.array_equal(file.read(plane={"T": 1})[..., 0], image[0, 1])
    (stack,) = open_ours(tmp_path / "a.czi")
    assert tuple(stack.data_shape) == (2, 1, 1300, 2100)
    stack.close()
