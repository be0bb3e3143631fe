"""What a result is made of, in one number: only the same result is continued."""

import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import lightning as L
import numpy as np
import torch

from careamics_dm.images.image_set import ImageSet
from careamics_dm.images.image_stack import Channels, ImageStack
from careamics_dm.sources.source_path import absolute, file_of


class Fingerprints:
    """What all results of a prediction are made of: hashed once, whatever writes them.

    ``how`` has the settings of the data on which pixels depend.
    """

    def __init__(self, trainer: L.Trainer, images: ImageSet, how: str) -> None:
        self.images = images
        self.common = fingerprint_of_model(trainer, trainer.lightning_module), how
        self._of_images: dict[int, str] = {}
        self._lock = Lock()

    def of_image(self, image: int) -> str:
        """Return what stands for an image and its channels; called in the thread of each writer."""
        with self._lock:
            if image not in self._of_images:
                channels = self.images.channels[image] if self.images.channels else None
                found = fingerprint_of_image(self.images.stacks[image], channels)
                self._of_images[image] = found
            return self._of_images[image]


def fingerprint_of_model(trainer: L.Trainer, module: L.LightningModule) -> str:
    """Return what stands for weights, statistics, and how the network is applied."""
    found = hashlib.sha256(type(module).__qualname__.encode())
    for name, value in sorted(module.state_dict().items()):
        found.update(name.encode())
        if isinstance(value, torch.Tensor):
            flat = value.detach().cpu().contiguous().reshape(-1)
            found.update(f"{value.dtype} {tuple(value.shape)}".encode())
            found.update(flat.view(torch.uint8).numpy().tobytes())
    data: Any = getattr(trainer, "datamodule", None)
    device = trainer.strategy.root_device.type
    turned = getattr(module, "test_time_augmentation", False)
    found.update(repr((data.statistics, trainer.precision, device, turned)).encode())
    return found.hexdigest()


WHERE = {"folder", "existing", "storage_options", "zip"}
"""Settings of writers on which no pixel depends."""


def facts_of_settings(writer: object) -> list[object]:
    """Return what kind a writer is, and settings on which pixels depend: the same in every run."""
    names = sorted(inspect.signature(type(writer)).parameters.keys() - WHERE)
    settings = [(name, getattr(writer, name)) for name in names]
    return [
        type(writer).__name__,
        *((name, str(getattr(value, "__qualname__", value))) for name, value in settings),
    ]


def fingerprint_of_image(stack: ImageStack, channels: Channels) -> str:
    """Return what stands for an image: its source as it is now or, where it has none, its pixels.

    A folder, of a Zarr store, is taken for what lies directly in it.
    """
    shape, dtype = tuple(stack.data_shape), np.dtype(stack.data_dtype)
    facts = (stack.source, stack.original_axes, shape, dtype.str, channels)
    found = hashlib.sha256(repr(facts).encode())
    path = file_of(stack.source)
    if path.exists():
        inside = [path, *sorted(path.iterdir())] if path.is_dir() else [path]
        inside += [absolute(stack.source) / name for name in (".zarray", "zarr.json")]
        found.update(repr([_stamp(file) for file in inside]).encode())
    elif getattr(stack, "in_memory", False):
        for sample in range(shape[0]):
            size = shape[2:]
            pixels = stack.extract_patch(sample, channels, (0,) * len(size), size)
            found.update(np.ascontiguousarray(pixels).data)
    return found.hexdigest()


def combined(parts: Sequence[object]) -> str:
    """Return one number of several parts."""
    return hashlib.sha256(repr(tuple(parts)).encode()).hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    """Return what changes when a file is written again."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
