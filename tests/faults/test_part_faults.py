"""Arguments of formats, transforms, filters and masking, of a wrong type or size."""

from __future__ import annotations

import numpy as np
import pytest
from faults.outcomes import MODULES, assert_clear

from careamics_dm import (
    Augmentation,
    DataError,
    EntropyFilter,
    Masking,
    MaxFilter,
    MeanStd,
    MeanStdFilter,
    MinMax,
    NoNormalization,
    Quantile,
)

HUGE, INFINITE, NAN = 10**20, float("inf"), float("nan")
WHOLE = [1.5, "x", [1], -1, HUGE, np.ones(2), {}, True]
NUMBERS = ["x", "1", [], {}, NAN, INFINITE, np.ones((2, 2)), True, object]
BOOLS = ["x", 3, [], {}, None, 1.5]
CHOICES = ["x", 3, [], {}, 1.5, np.ones(2), True]
TIFF, CZI, ZARR, CUSTOM = (MODULES[kind] for kind in ("tiff", "czi", "zarr", "custom"))
NUMPY_LOAD = {"read_func": "numpy.load"}
WRONG = [
    (TIFF, {}, "series", WHOLE),
    (TIFF, {}, "level", [None, *WHOLE]),
    (TIFF, {}, "incomplete", [None, *CHOICES]),
    (CZI, {}, "scenes", [1.5, "x", ["a"], [-1], [HUGE], [1.5], np.ones((2, 2)), {}, [], [True], 3]),
    (CZI, {}, "scenes", [[0, 0], {0}, b"0"]),
    (CZI, {}, "cache_mib", [None, *WHOLE]),
    (CZI, {}, "convert_pixel_types", BOOLS),
    (ZARR, {}, "level", [None, *WHOLE]),
    (ZARR, {}, "row", [1.5, {}, [], [[]], np.ones(2), True, [None]]),
    (ZARR, {}, "field", [1.5, {}, [], [1.5]]),
    (ZARR, {}, "missing_chunks", ["x", 3, [], {"x": "fill"}, {"image": "x"}, {"mask": 3}, None]),
    (ZARR, {}, "storage_options", ["x", 3, [], [1]]),
    (ZARR, {}, "engine", ["zarrs", None, *CHOICES]),
    (CUSTOM, {}, "read_func", [3, [], {}, "numpy", "numpy.nope", "nomodule.f", "", "a b", 1.5]),
    (CUSTOM, {}, "image_stack_loader", [3, "numpy.nope", "nomodule.f", {}]),
    (CUSTOM, NUMPY_LOAD, "extension", [3, "", "/x", [], {}]),
    (MeanStd, {}, "per_channel", BOOLS),
    (MeanStd, {"std": 1}, "mean", [[1, "a"], [[1]], *NUMBERS]),
    (MeanStd, {"mean": 1}, "std", [0, -1, *NUMBERS]),
    (MeanStd, {}, "clip", [0.5, 1, -0.1, None, HUGE, *NUMBERS]),
    (MinMax, {"max": 9}, "min", [9, HUGE, *NUMBERS]),
    (MinMax, {"target_min": 9}, "target_max", [9, -1, *NUMBERS]),
    (MinMax, {}, "clip", [0.5, None, *NUMBERS]),
    (Quantile, {}, "low", [1.5, -0.1, 0.99, None, HUGE, *NUMBERS]),
    (Quantile, {}, "high", [1.5, 0.01, None, *NUMBERS]),
    (NoNormalization, {}, "clip", [0.5, None, *NUMBERS]),
    (Augmentation, {}, "flip", ["Q", 3, None, [], {}, 1.5, True]),
    (Augmentation, {}, "quarter_turns", BOOLS),
    (MaxFilter, {}, "threshold", [None, *NUMBERS]),
    (MaxFilter, {"threshold": 3}, "keep", [-0.1, 1, HUGE, None, *NUMBERS]),
    (MaxFilter, {"threshold": 3}, "channel", [1.5, "x", [1], -1, np.ones(2), {}]),
    (MeanStdFilter, {}, "mean", NUMBERS),
    (MeanStdFilter, {}, "std", NUMBERS),
    (EntropyFilter, {}, "bits", [None, *NUMBERS]),
    (EntropyFilter, {"bits": 3}, "keep", [-0.1, 2, None, *NUMBERS]),
    (Masking, {}, "masked_pixel_percentage", [0, 51, -1, HUGE, None, *NUMBERS]),
    (Masking, {}, "roi_size", [4, 1, 0, None, HUGE + 1, *WHOLE]),
    (Masking, {}, "struct_span", [4, 1, None, *WHOLE]),
    (Masking, {}, "strategy", [None, *CHOICES]),
    (Masking, {}, "struct_mask", CHOICES),
    (Masking, {}, "remove_center", BOOLS),
]
CASES = [
    pytest.param(make, more | {name: value}, name, id=f"{make.__name__}-{name}-{i}-{n}")
    for n, (make, more, name, values) in enumerate(WRONG)
    for i, value in enumerate(values)
]


@pytest.mark.parametrize(("make", "arguments", "name"), CASES)
def test_a_wrong_argument_is_named(make, arguments, name):
    with pytest.raises(DataError) as raised:
        make(**arguments)
    assert_clear(str(raised.value), name)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (TIFF, {"serie": 1}, "TiffDataModule has no argument serie. Did you mean series"),
        (CZI, {"scene": [0]}, "CziDataModule has no argument scene. Did you mean scenes"),
        (ZARR, {"colum": "B"}, "ZarrDataModule has no argument colum. Did you mean column"),
        (TIFF, {"patchsize": (8, 8)}, "no argument patchsize. Did you mean patch_size"),
    ],
)
def test_a_misspelt_argument_is_told_with_the_right_one(make, arguments, message):
    with pytest.raises(TypeError) as raised:
        make(**arguments)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("make", "arguments", "meant"),
    [
        (Masking, {"strategy": "medain"}, "median"),
        (Masking, {"struct_mask": "vertcal"}, "vertical"),
        (TIFF, {"incomplete": "trimm"}, "trim"),
        (ZARR, {"engine": "tensor_store"}, "tensorstore"),
        (MODULES["array"], {"normalization": "mean-std"}, "mean_std"),
        (CUSTOM, {"read_func": "numpy.laod"}, "load"),
    ],
)
def test_a_misspelt_choice_is_told_with_the_right_one(make, arguments, meant):
    with pytest.raises(DataError) as raised:
        make(**arguments)
    assert "mean" in str(raised.value) and meant in str(raised.value)
