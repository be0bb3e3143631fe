"""Models of CAREamics 0.3.5 and what they predict: ``python careamics_training.py FOLDER``.

Runs in an environment of its own that has it. For each of seven models, FOLDER gets the checkpoint
(``NAME.ckpt``), an image (``NAME.npy``) and the prediction of CAREamics (``NAME_careamics.npy``).
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from careamics import CAREamist
from careamics.config.factories import (
    create_advanced_care_config,
    create_advanced_n2n_config,
    create_advanced_n2v_config,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLAT = {"data_type": "array", "patch_size": [16, 16], "batch_size": 8}
DEEP = FLAT | {"patch_size": [8, 16, 16]}
ONE = {"num_epochs": 1, "num_steps": 12, "num_workers": 0, "optimizer_params": {"lr": 0.002}}
N2V = partial(create_advanced_n2v_config, masked_pixel_percentage=1.0)
CARE, N2N = create_advanced_care_config, create_advanced_n2n_config
MODELS: dict[str, tuple[Any, dict[str, Any], tuple[int, ...]]] = {
    # Sizes that the network divides: CAREamics predicts others in tiles only.
    "n2v": (N2V, FLAT | {"axes": "YX"}, (96, 80)),
    "n2v_3d": (
        N2V,
        DEEP | {"axes": "ZYX", "model_params": {"depth": 1, "num_channels_init": 16}},
        (16, 48, 40),
    ),
    "n2v2": (
        N2V,
        FLAT | {"axes": "SYX", "use_n2v2": True, "normalization": "quantile"}
        | {"model_params": {"depth": 3, "num_channels_init": 8}},
        (2, 64, 72),
    ),
    "n2v_channels": (
        N2V,
        FLAT | {"axes": "CYX", "n_channels": 2, "struct_n2v_axes": "horizontal"}
        | {"augmentations": [], "model_params": {"num_channels_init": 8, "residual": True}},
        (2, 64, 72),
    ),
    "care": (
        CARE,
        FLAT | {"axes": "CYX", "n_channels_in": 2, "n_channels_out": 1, "target_axes": "YX"}
        | {"normalization": "min_max", "model_params": {"use_batch_norm": False}},
        (2, 64, 72),
    ),
    "care_channels": (
        CARE,
        FLAT | {"axes": "SCYX", "n_channels_in": 3, "n_channels_out": 3}
        | {"independent_channels": True, "normalization_params": {"per_channel": False}},
        (2, 3, 64, 40),
    ),
    "n2n": (
        N2N,
        FLAT | {"axes": "YX", "normalization": "none", "model_params": {"residual": True}},
        (64, 72),
    ),
}  # fmt: skip


def noisy(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Make waves with noise, brighter in further channels."""
    places = np.indices(shape, np.float32)
    waves = 100 + 40 * np.sin(places[-1] / 5) * np.cos(places[-2] / 7) + 50 * places[0]
    return (waves + np.random.default_rng(seed).normal(0, 15, shape)).astype(np.float32)


def train(name: str, folder: Path) -> None:
    """Train a model for a few steps, let it predict, and save both."""
    make, settings, shape = MODELS[name]
    image, second = noisy(shape, 0), noisy(shape, 1)
    if settings.get("normalization") == "none":
        image, second = image / 100, second / 100
    careamist = CAREamist(make(experiment_name=name, **ONE, **settings), work_dir=folder / name)
    given = {} if make is N2V else {"train_data_target": 2 * second + 30}
    if "target_axes" in settings:
        given = {"train_data_target": 2 * second[0] + 30}
    careamist.train(train_data=image, **given)
    np.save(folder / f"{name}.npy", image)
    np.save(folder / f"{name}_careamics.npy", careamist.predict(image)[0][0])
    (checkpoint,) = (folder / name).rglob("*_last.ckpt")
    checkpoint.rename(folder / f"{name}.ckpt")


if __name__ == "__main__":
    for model in MODELS:
        train(model, Path(sys.argv[1]))
