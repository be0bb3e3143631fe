"""The loss of models that learn from pairs of images, such as CARE and Noise2Noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from torch import Tensor
from torch.nn import functional as F

Criterion: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Loss: TypeAlias = Literal["mae", "mse"] | Criterion
_LOSSES: dict[str, Criterion] = {"mae": F.l1_loss, "mse": F.mse_loss}


def make_criterion(loss: Loss) -> Criterion:
    """Return the function that a loss names, or itself; raise a ValueError for unknown names."""
    if not isinstance(loss, str):
        return loss
    if loss not in _LOSSES:
        raise ValueError(
            f"loss={loss!r} does not exist; use 'mae', 'mse' or a function of prediction and "
            "target."
        )
    return _LOSSES[loss]


def lacks_target(model: str, learns_from: str) -> ValueError:
    """Say that a batch has no target."""
    return ValueError(
        f"{model} learns from {learns_from}, but the batch has no target; let the loader yield "
        "{'image': ..., 'target': ...} or a tuple (image, target)."
    )


def compare(model: str, criterion: Criterion | None, restored: Tensor, target: Tensor) -> Tensor:
    """Return the loss of restored images, ``(N, C, (Z), Y, X)``, as a scalar.

    A ValueError names the model if there is no criterion, or if the shapes differ.
    """
    if criterion is None:
        raise ValueError(f"{model} has no loss: set criterion, or override the method loss.")
    if restored.shape != target.shape:
        raise ValueError(
            f"{model} compares output and target, but the network made {tuple(restored.shape)} and "
            f"the target is {tuple(target.shape)}; build it with out_channels={target.shape[1]}, "
            "or select other target channels."
        )
    # Half precision would round the sum over many pixels.
    return criterion(restored.float(), target)
