"""Prediction of CAREamics 0.3.5, written to disk and timed: see `side` and `predicting`.

Runs in an environment of its own that has it.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from careamics import CAREamist
from careamics.config.factories import create_advanced_n2v_config
from side import serve

opened: dict[str, Any] = {}


def train(folder: str) -> None:
    """Train its default U-Net of planes for a step, as it predicts only what was trained."""
    torch.set_num_threads(1)
    config = create_advanced_n2v_config(
        experiment_name="benchmark",
        data_type="array",
        axes="SYX",
        patch_size=[64, 64],
        batch_size=4,
        num_epochs=1,
        num_steps=1,
        num_workers=0,
    )
    opened["careamist"] = CAREamist(config, work_dir=folder)
    noise = np.random.default_rng(0).poisson(200, (2, 256, 256)).astype(np.float32)
    opened["careamist"].train(train_data=noise)


def predict(source: str, folder: str, kind: str, tile: list[int], overlap: list[int]) -> float:
    """Predict a volume plane by plane to the same kind of file; return the seconds."""
    start = time.perf_counter()
    opened["careamist"].predict_to_disk(
        source,
        prediction_dir=folder,
        data_type=kind,
        write_type=kind,
        axes="SYX",
        batch_size=4,
        tile_size=tuple(tile),
        tile_overlap=tuple(overlap),
        num_workers=0,
    )
    return time.perf_counter() - start


if __name__ == "__main__":
    serve({"train": train, "predict": predict})
