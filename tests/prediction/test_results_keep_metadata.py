"""What files say of images is said of results, too: every input by every writer."""

from __future__ import annotations

import numpy as np
import pytest
from result_cases import CASES, MICRONS, canonical, open_input, plain, predict
from result_readers import read_czi, read_tiff, read_zarr

from careamics_dm import CziWriter, FunctionWriter, NpyWriter, TiffWriter, ZarrWriter

pytestmark = [pytest.mark.usefixtures("files_close"), pytest.mark.filterwarnings("ignore:writer:")]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tiff(tmp_path, case):
    writers = [TiffWriter(tmp_path / dtype, dtype=dtype) for dtype in ("float32", "source")]
    paths = predict(open_input(tmp_path / "in", case), tmp_path, *writers)
    for path, dtype in zip(paths, ("float32", case.dtype), strict=True):
        kind, colours, array, scale, names, labels, scene, colors = read_tiff(path)
        assert np.array_equal(array, canonical(case.array, case.axes))
        assert array.dtype == dtype
        assert plain(case.scale) == {a: n * MICRONS[unit] for a, (n, unit) in scale.items()}
        assert (names, labels) == (case.names, case.labels)
        assert colors == case.colors
        assert not case.scene or scene == case.scene
        assert colours == ("RGB" if case.rgb and dtype != "float32" else "MINISBLACK")
        assert case.kind != "imagej" or kind == "imagej"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_czi_npy_and_functions(tmp_path, case):
    def write(path, array, **info):
        called.append(info)
        np.save(path, array)

    called = []
    data = open_input(tmp_path / "in", case)
    as_source = "source" if case.dtype.startswith("uint") else "float32"
    writers = [
        CziWriter(tmp_path / "czi", dtype=as_source),
        NpyWriter(tmp_path / "npy", dtype="source"),
        FunctionWriter(tmp_path / "function", write_func=write, extension=".npy"),
    ]
    czi, npy, by_function = predict(data, tmp_path, *writers)
    stack = data.predict_stacks[0]
    for path, dtype in ((npy, case.dtype), (by_function, "float32")):
        array = np.load(path)
        assert array.shape == tuple(stack.original_data_shape) and array.dtype == dtype
        axes = stack.original_axes
        axes = axes.replace("YXC", "YXS") if case.rgb else axes
        assert np.array_equal(canonical(array, axes), canonical(case.array, case.axes))
    (info,) = called
    assert (info["axes"], info["source"]) == (stack.original_axes, stack.source)
    assert {a: n * MICRONS[unit] for a, (n, unit) in info["scale"].items()} == plain(case.scale)
    assert (info["channel_names"], info["labels"]) == (case.names, case.labels)
    assert (info["is_rgb"], info["image_name"]) == (case.rgb, case.scene)
    assert [*(info["channel_colors"] or ())] == (case.colors or [])
    array, scale, names, scene, colors = read_czi(czi)
    assert colors == case.colors
    assert np.array_equal(array, canonical(case.array, case.axes))
    assert array.dtype == (case.dtype if as_source == "source" else "float32")
    assert scale == plain(case.scale)
    assert (names, scene) == (case.names, case.scene)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_ome_zarr(tmp_path, case, version):
    writer = ZarrWriter(tmp_path / "out", ngff_version=version, dtype="source")
    (path,) = predict(open_input(tmp_path / "in", case), tmp_path, writer)
    found = read_zarr(path)
    assert np.array_equal(found.array, canonical(case.array, case.axes))
    assert found.array.dtype == case.dtype
    assert plain(case.scale) == {a: n * MICRONS[unit] for a, (n, unit) in found.scale.items()}
    assert found.names == case.names
    colours = ["FFFFFF"] if "C" not in case.axes else ["00FF00", "FF00FF"]
    colours = ["FF0000", "00FF00", "0000FF"] if case.rgb else colours
    assert found.colors == (case.colors or colours)
    from_zarr = case.kind in ("ome-zarr", "plate")
    assert found.name == (case.scene or ("cells" if from_zarr else "in"))
    assert not (from_zarr and case.names) or found.windows == [(1, 200), (1, 200)]
