"""Arguments of a wrong type or size: one message that names the argument."""

from __future__ import annotations

import numpy as np
import pytest
from faults.outcomes import assert_clear, outcome_of

IMAGE = np.random.default_rng(0).integers(1, 999, (48, 40)).astype(np.uint16)
HUGE = 10**20
INTEGERS = [1.5, "x", [1], -1, HUGE, np.ones(2), {}]
CHOICES = ["x", 3, [], {}]
WRONG = {
    "axes": [None, 3, "", "YQ", "XX", "Y", "ZYX", ["Y", "X"], "YX" * 50],
    "patch_size": [
        *[8, 8.5, "8,8", "abc", None, (), (8,), (8, 8, 8), (8, 8, 8, 8), (8, -8), (0, 8), (8, 1.5)],
        *[(8, HUGE), (8, "8"), (8, None), (64, 8), np.zeros((2, 2)), {}, (True, 8)],
    ],
    "batch_size": [0, *INTEGERS],
    "patches_per_epoch": [0, *INTEGERS],
    "n_val_patches": INTEGERS,
    "n_folds": [0, 1, *INTEGERS],
    "fold": INTEGERS,
    "pool_mib": [0, None, *INTEGERS],
    "num_workers": [None, *INTEGERS],
    "seed": [None, 1.5, "x", [1], -1, np.ones(2), {}],
    "sampling": [None, *CHOICES],
    "hold_out": CHOICES,
    "small_images": [None, *CHOICES],
    "nan_policy": [None, *CHOICES],
    "in_memory": ["x", 3, None, []],
    "batch_format": [None, *CHOICES],
    "start_method": CHOICES,
    "repeats": ["X", 3, []],
    "normalization": ["x", 3, None, []],
    "augmentation": ["x", 3, None, []],
    "patch_filter": ["x", 3, []],
    "channels": ["x", 3, 1.5, [], [1], ["a"], [-1], [None], [1.5], {}],
    "trust_axes": ["x", 3, None, []],
    "normalize_target": ["x", 3, None, []],
    "exact_statistics": ["x", 3, None, []],
    "tile_size": [8, "x", (8,), (8, -8), (8, HUGE), (8, 1.5), (8, "8"), {}],
    "tile_overlap": [-1, "x", (8,), (8, -8), (8, 1.5), (8, "8"), {}, HUGE],
}
CASES = [(name, i) for name, values in WRONG.items() for i in range(len(values))]


@pytest.mark.parametrize(("name", "number"), CASES)
def test_a_wrong_argument_is_named(name, number):
    value = WRONG[name][number]
    settings = {"train_data": IMAGE, "axes": "YX", name: value}
    assert_clear(outcome_of("array", settings).message, name.removesuffix("s"))
