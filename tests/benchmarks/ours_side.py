"""careamics_dm, timed: see `side`."""

from __future__ import annotations

import functools
import time
import warnings
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from side import peak_mib, resident_mib, serve, timed_passes
from stops import Stops

from careamics_dm import ArrayDataModule, TiffDataModule
from careamics_dm.models.masking import Masking
from careamics_dm.models.n2v import N2VModule
from careamics_dm.models.unet import UNet
from careamics_dm.normalization import MeanStd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from careamics_dm.datamodule import PatchDataModule

IMPORTED = resident_mib()
opened: dict[str, PatchDataModule] = {}


def open_data(
    paths: list[str],
    axes: str,
    patch_size: list[int],
    batch_size: int,
    mean: float,
    std: float,
    pool_mib: int,
) -> dict[str, float]:
    """Set a data module up: ``.npy`` files as arrays in memory, TIFFs streamed."""
    arrays = paths[0].endswith(".npy")
    data: Any = [np.load(path) for path in paths] if arrays else paths
    kind = ArrayDataModule if arrays else TiffDataModule
    start = time.perf_counter()
    dm = kind(
        train_data=data,
        axes=axes,
        patch_size=patch_size,
        batch_size=batch_size,
        n_val_patches=0,
        in_memory=arrays,
        pool_mib=pool_mib,
        normalization=MeanStd(mean=mean, std=std),
    )
    dm.setup("fit")
    opened["data"] = dm
    return {"set_up": time.perf_counter() - start, "patches": dm.n_train_patches}


def batches(dm: PatchDataModule) -> Iterator[Any]:
    """What a module gets from Lightning."""
    if "loader" not in opened:
        opened["loader"] = dm.train_dataloader()  # type: ignore[assignment]
    for batch in opened["loader"]:  # type: ignore[attr-defined]
        yield dm.transform(batch)


def passes(seconds: float) -> dict[str, float]:
    """Time passes."""
    dm = opened["data"]
    return timed_passes(lambda: batches(dm), lambda batch: len(batch["image"]), seconds)


def memory() -> dict[str, float]:
    """Peak over what the imports took, MiB."""
    return {"over_imports": peak_mib() - IMPORTED}


class OneNumber(L.LightningModule):
    """As little a model as there can be: training is loading."""

    def __init__(self) -> None:
        super().__init__()
        self.number = torch.nn.Parameter(torch.ones(()))
        self.patches = 0

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Look at the batch."""
        self.patches += len(batch["image"])
        return (batch["image"].mean() * self.number).square()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Never change the number."""
        return torch.optim.SGD(self.parameters(), lr=0.0)


def epochs(folder: str, how: str, epochs: int, pool_mib: int) -> int:
    """Stream a folder of TIFFs for some epochs; returns the patches."""
    dm = TiffDataModule(
        train_data=folder,
        axes="SYX",
        batch_size=64,
        in_memory=False,
        pool_mib=pool_mib,
    )
    if how == "trainer":
        module = OneNumber()
        stops = Stops(np.zeros((1, 1)), 0, 1, [], folder)
        stops.trainer(-1, max_epochs=epochs).fit(module, datamodule=dm)
        return module.patches
    dm.setup("fit")
    loader = dm.train_dataloader()
    patches = sum(len(dm.transform(batch)["image"]) for _ in range(epochs) for batch in loader)
    dm.teardown("fit")
    return patches


def train(
    noisy: str,
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
    """Train Noise2Void and save what it makes of the image after so many steps."""
    warnings.filterwarnings("ignore")
    L.seed_everything(seed, verbose=False)
    image = np.load(noisy)
    dm = ArrayDataModule(
        train_data=image,
        axes="YX",
        patch_size=patch_size,
        batch_size=batch_size,
        n_val_patches=0,
        normalization=MeanStd(mean=mean, std=std),
        seed=seed,
    )
    module = N2VModule(
        functools.partial(UNet, depth=depth, first_filters=filters, batch_norm=batch_norm),
        masking=Masking(masked_pixel_percentage=masked),
        optimizer=functools.partial(torch.optim.Adam, lr=lr),
        scheduler=functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=decay),
    )
    stops = Stops(image, mean, std, steps, folder)
    stops.trainer(max(steps)).fit(module, datamodule=dm)
    return stops.answer()


if __name__ == "__main__":
    serve({"open": open_data, "passes": passes, "memory": memory, "epochs": epochs, "train": train})
