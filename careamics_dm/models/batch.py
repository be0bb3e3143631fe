"""Batches in whichever layout a loader yields them, and the loss of the pairs in them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from torch import Tensor
from torch.nn import functional as F

from careamics_dm.loading.device_transfer import RawBatch

Batch: TypeAlias = Mapping[str, Any] | Sequence[Tensor] | Tensor
"""``{"image": N C (Z) Y X}`` with "target" and "region" where there are such; or a tuple; or the
image tensor alone."""
Criterion: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Loss: TypeAlias = Literal["mae", "mse"] | Criterion
_LOSSES: dict[str, Criterion] = {"mae": F.l1_loss, "mse": F.mse_loss}


def unpack(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Return image and target of a batch; the second of a tuple is one if it has as many axes."""
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, RawBatch):
        raise ValueError(
            "The batch is as stored, neither normalised nor turned: give the trainer the data "
            "module (trainer.fit(model, datamodule=data), likewise predict and the others) and "
            "not its loader, or call data.transform(batch) in a loop of your own."
        )
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


def make_criterion(loss: Loss) -> Criterion:
    """Return the function that a loss names, or the function itself."""
    if not isinstance(loss, str):
        return loss
    if loss not in _LOSSES:
        raise ValueError(f"loss={loss!r} does not exist; use 'mae', 'mse' or a function.")
    return _LOSSES[loss]


def compare(model: str, criterion: Criterion | None, restored: Tensor, target: Tensor) -> Tensor:
    """Return the loss of restored images, ``(N, C, (Z), Y, X)``, as a scalar."""
    if criterion is None:
        raise ValueError(f"{model} has no loss: give loss, or override the method loss.")
    if restored.shape != target.shape:
        raise ValueError(
            f"{model} compares output and target, but the network made {tuple(restored.shape)} and "
            f"the target is {tuple(target.shape)}; build it with out_channels={target.shape[1]}, "
            "or select other target channels."
        )
    # Half precision would round the sum over many pixels.
    return criterion(restored.float(), target)
