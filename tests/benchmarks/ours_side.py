"""careamics_dm, timed: see `side`."""

from __future__ import annotations

import functools
import time
import warnings
from math import prod
from threading import Lock
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from side import peak_mib, resident_mib, serve, timed_passes
from stops import Stops

from careamics_dm.formats.array import ArrayDataModule
from careamics_dm.formats.custom.datamodule import CustomDataModule
from careamics_dm.formats.czi.datamodule import CziDataModule
from careamics_dm.formats.tiff.datamodule import TiffDataModule
from careamics_dm.formats.zarr.datamodule import ZarrDataModule
from careamics_dm.models.masking import Masking
from careamics_dm.models.n2v import N2VModule
from careamics_dm.models.supervised import CAREModule
from careamics_dm.models.unet import UNet
from careamics_dm.transforms.normalization import MeanStd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from careamics_dm.datamodule.patch_datamodule import PatchDataModule

IMPORTED = resident_mib()
FORMATS: dict[str, Any] = {
    "array": ArrayDataModule,
    "tiff": TiffDataModule,
    "czi": CziDataModule,
    "zarr": ZarrDataModule,
    "custom": CustomDataModule,
}
opened: dict[str, PatchDataModule] = {}


def make(
    kind: str,
    paths: list[str],
    axes: str,
    patch_size: list[int],
    batch_size: int,
    mean: float,
    std: float,
    pool_mib: int,
    options: dict[str, Any],
) -> PatchDataModule:
    """Make a data module: ``.npy`` files as arrays in memory, others streamed."""
    arrays = kind == "array"
    dm = FORMATS[kind](
        train_data=[np.load(path) for path in paths] if arrays else paths,
        axes=axes,
        patch_size=patch_size,
        batch_size=batch_size,
        n_val_patches=0,
        in_memory=arrays,
        pool_mib=pool_mib,
        normalization=MeanStd(mean=mean, std=std),
        **options,
    )
    return dm


def open_data(**how: Any) -> dict[str, float]:
    """Set a data module up; see `make`."""
    start = time.perf_counter()
    dm = opened["data"] = make(**how)
    dm.setup("fit")
    return {"set_up": time.perf_counter() - start, "patches": dm.n_train_patches}


def decoded(**how: Any) -> float | None:
    """Stream one epoch; return decoded bytes per byte of patches, None for arrays in memory."""
    if how["kind"] == "array":
        return None
    dm = make(**how)
    dm.setup("fit")
    counts = [Counting(stack) for stack in dm.images_of("train").stacks]
    delivered = sum(batch["image"].nbytes for batch in dm.train_dataloader())
    dm.teardown("fit")
    return sum(count.bytes for count in counts) / delivered


class Counting:
    """A stored array that counts the bytes of the blocks that are decoded for its boxes.

    It takes the place of the array of a stack of one channel.
    """

    def __init__(self, stack: Any) -> None:
        self.array, self.bytes, self.lock = stack.array, 0, Lock()
        self.shape, self.dtype = stack.array.shape, stack.array.dtype
        sizes = dict(zip(stack.layout.spatial_axes, stack.block_shape, strict=True))
        whole = stack.samples_per_block > 1
        self.block = [
            sizes.get(axis, n if whole else 1)
            for axis, n in zip(stack.original_axes, self.shape, strict=True)
        ]
        stack.array = self

    def __getitem__(self, box: tuple[slice, ...]) -> Any:
        met = [
            min(-(-asked.stop // b) * b, n) - asked.start // b * b
            for asked, b, n in zip(box, self.block, self.shape, strict=True)
        ]
        with self.lock:
            self.bytes += prod(met) * self.dtype.itemsize
        return self.array[box]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.array, name)


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


def epochs(kind: str, how: str, epochs: int, **settings: Any) -> int:
    """Stream data for some epochs; returns the patches."""
    dm = FORMATS[kind](in_memory=False, **settings)
    if how == "trainer":
        module = OneNumber()
        stops = Stops(np.zeros((1, 1)), 0, 1, [], ".")
        stops.trainer(-1, max_epochs=epochs).fit(module, datamodule=dm)
        return module.patches
    dm.setup("fit")
    loader = dm.train_dataloader()
    patches = sum(len(dm.transform(batch)["image"]) for _ in range(epochs) for batch in loader)
    dm.teardown("fit")
    return patches


def opening(kind: str, **settings: Any) -> dict[str, float]:
    """Time ``setup``, and then the first batch without statistics."""
    dm = FORMATS[kind](normalization="none", in_memory=False, **settings)
    start = time.perf_counter()
    dm.setup("fit")
    set_up = time.perf_counter() - start
    next(iter(dm.train_dataloader()))
    found = {"set_up": set_up, "first": time.perf_counter() - start - set_up}
    found["images"] = len(dm.images_of("train").stacks)
    dm.teardown("fit")
    return found


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
    warnings.filterwarnings("ignore")
    L.seed_everything(seed, verbose=False)
    image, care = np.load(noisy), algorithm == "care"
    dm = ArrayDataModule(
        train_data=image,
        train_target=np.load(clean) if care else None,
        axes="YX",
        patch_size=patch_size,
        batch_size=batch_size,
        n_val_patches=0,
        normalization=MeanStd(mean=mean, std=std, target_mean=mean, target_std=std),
        seed=seed,
    )
    rest: dict[str, Any] = {
        "optimizer": functools.partial(torch.optim.Adam, lr=lr),
        "scheduler": functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=decay),
    }
    network = functools.partial(UNet, depth=depth, first_filters=filters, batch_norm=batch_norm)
    masking = Masking(masked_pixel_percentage=masked)
    module = CAREModule(network, **rest) if care else N2VModule(network, masking=masking, **rest)
    stops = Stops(image, mean, std, steps, folder)
    stops.trainer(max(steps)).fit(module, datamodule=dm)
    return stops.answer()


if __name__ == "__main__":
    serve(
        {
            "open": open_data,
            "passes": passes,
            "memory": memory,
            "decoded": decoded,
            "epochs": epochs,
            "opening": opening,
            "train": train,
        }
    )
