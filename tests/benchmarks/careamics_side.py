"""CAREamics 0.3.5, timed: see `side`. Runs in an environment of its own that has it."""

from __future__ import annotations

import logging
import time
import warnings
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
from careamics.config import CAREAlgorithm, N2VAlgorithm
from careamics.config.data.data_config import DataConfig
from careamics.dataset.factory import ReadFuncLoading
from careamics.lightning.data.data_module import CareamicsDataModule
from careamics.lightning.modules.care_module import CAREModule
from careamics.lightning.modules.n2v_module import N2VModule
from side import peak_mib, resident_mib, serve, timed_passes
from stops import Stops

if TYPE_CHECKING:
    from collections.abc import Iterable

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
IMPORTED = resident_mib()
opened: dict[str, Any] = {}


def configure(
    kind: str,
    axes: str,
    patch_size: list[int],
    batch_size: int,
    mean: float,
    std: float,
    seed: int = 42,
) -> DataConfig:
    """Random patches, flips and quarter turns (its default), given statistics, no workers."""
    return DataConfig(
        mode="training",
        data_type=kind,
        axes=axes,
        patching={"name": "random", "patch_size": patch_size},
        normalization={
            "name": "mean_std",
            "input_means": [mean],
            "input_stds": [std],
            "target_means": [mean],
            "target_stds": [std],
        },
        batch_size=batch_size,
        in_memory=kind in ("array", "custom"),  # it loads what a read function gives
        num_workers=0,
        seed=seed,
    )


def open_data(
    kind: str,
    paths: list[str],
    axes: str,
    patch_size: list[int],
    batch_size: int,
    mean: float,
    std: float,
) -> dict[str, float]:
    """Set its data module up: ``.npy`` files as arrays in memory, others not, where it can."""
    data: Any = [np.load(path) for path in paths] if kind == "array" else paths
    config = configure(kind, axes, patch_size, batch_size, mean, std)
    # It wants validation data with random patches: the smallest that will do.
    small = data[0]
    if kind == "array":
        small = small[tuple(slice(0, p) for p in patch_size)]
    loading = ReadFuncLoading(np.load, extension_filter="*.npy") if kind == "custom" else None
    start = time.perf_counter()
    dm = CareamicsDataModule(config, train_data=data, val_data=[small], loading=loading)
    dm.setup("fit")
    opened["loader"] = dm.train_dataloader()
    return {"set_up": time.perf_counter() - start, "patches": len(dm.train_dataset or ())}


def passes(seconds: float) -> dict[str, float]:
    """Time passes."""
    loader: Iterable[Any] = opened["loader"]
    return timed_passes(lambda: loader, lambda batch: len(batch[0].data), seconds)


def memory() -> dict[str, float]:
    """Peak over what the imports took, MiB."""
    return {"over_imports": peak_mib() - IMPORTED}


def train(
    algorithm: str,
    noisy: str,
    clean: str,
    folder: str,
    mean: float,
    std: float,
    patch_size: list[int],
    batch_size: int,
    depth: int,
    filters: int,
    lr: float,
    masked: float,
    batch_norm: bool,
    decay: float,
    steps: list[int],
    seed: int,
) -> dict[str, Any]:
    """Train Noise2Void or CARE and save what it makes of the image after so many steps."""
    L.seed_everything(seed, verbose=False)
    image, targets = np.load(noisy), {}
    if algorithm == "care":
        truth = np.load(clean)
        targets = {"train_data_target": truth, "val_data_target": truth[:64, :64]}
    config = configure("array", "YX", patch_size, batch_size, mean, std, seed + 1)
    dm = CareamicsDataModule(config, train_data=image, val_data=image[:64, :64], **targets)
    shared: dict[str, Any] = {
        "model": {
            "architecture": "UNet",
            "depth": depth,
            "num_channels_init": filters,
            "use_batch_norm": batch_norm,
        },
        "optimizer": {"name": "Adam", "parameters": {"lr": lr}},
        "lr_scheduler": {"name": "StepLR", "parameters": {"step_size": 1, "gamma": decay}},
    }
    module: L.LightningModule
    if algorithm == "care":
        module = CAREModule(CAREAlgorithm(**shared))
    else:
        module = N2VModule(N2VAlgorithm(n2v_config={"masked_pixel_percentage": masked}, **shared))
    stops = Stops(image, mean, std, steps, folder)
    stops.trainer(max(steps)).fit(module, datamodule=dm)
    return stops.answer()


if __name__ == "__main__":
    serve({"open": open_data, "passes": passes, "memory": memory, "train": train})
