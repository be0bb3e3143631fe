"""Batches in whichever layout a loader yields them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

Batch: TypeAlias = Mapping[str, Any] | Sequence[Tensor] | Tensor
"""``{"image": N C (Z) Y X}`` with "target" and "region" where there are such; or a tuple; or the
image tensor alone."""


def unpack(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Return image and target, ``(N, C, (Z), Y, X)``, of a batch in any layout.

    The second of a tuple is the target if it has as many axes as the image.
    """
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, Mapping):
        if "image" in batch:
            return batch["image"], batch.get("target")
        found = f"a dict with the keys {', '.join(map(repr, batch)) or '(none)'}"
    else:
        if len(batch) > 0:
            # Without targets, the region of test data comes second.
            paired = len(batch) > 1 and batch[1].ndim == batch[0].ndim
            return batch[0], batch[1] if paired else None
        found = "an empty sequence"
    raise ValueError(
        f"A batch must hold an image, but it is {found}; let the loader yield "
        "{'image': ...}, a tuple (image, target), or the image tensor."
    )
