"""From batches as stored to what modules get: float32, normalised and augmented."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from careamics_dm.transforms.augmentation import Orientation, OwnAugmentation, augment, orient
from careamics_dm.transforms.normalization import Affine


class BatchTransform:
    """Normalises and augments whole batches on whatever device they are."""

    def __init__(
        self,
        orientations: Sequence[Orientation],
        own: OwnAugmentation | None,
        batch_format: str,
        n_dims: int,
    ) -> None:
        self.orientations, self.own = list(orientations), own
        self.batch_format, self.n_dims = batch_format, n_dims

    def __call__(self, batch: Mapping[str, Any], statistics: Mapping[str, Affine]) -> Any:
        """Transform a batch of a loader; see `PatchDataModule.transform`."""
        counts, single = batch.get("orientation"), batch["image"].ndim == self.n_dims + 1
        done: dict[str, torch.Tensor] = {}
        for key in ("image", "target"):
            if key not in batch:
                continue
            if counts is None:
                x = _float32(batch[key])
            else:
                x = orient(batch[key], self.orientations, counts)
            # Targets that training data lack are in the units of the images.
            affine = statistics.get(key, statistics["image"])
            done[key] = affine.apply_(x[None])[0] if single else affine.apply_(x)
        if self.own is not None and "seed" in batch and not single:
            done = augment(self.own, done, batch["seed"])
        if "region" in batch:
            done["region"] = batch["region"]
        if self.batch_format == "tensor":
            return done["image"]
        return done if self.batch_format == "dict" else tuple(done.values())


def _float32(x: torch.Tensor) -> torch.Tensor:
    """Copy a batch as float32; on the CPU by NumPy, as torch's threads wait for busy cores."""
    if x.device.type == "cpu":
        return torch.from_numpy(x.numpy().astype(np.float32))
    return x.to(torch.float32, copy=True)
