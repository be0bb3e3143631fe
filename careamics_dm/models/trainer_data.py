"""What a model asks the data module of its trainer; only public members, each only if present."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch.trainer.states import TrainerFn

if TYPE_CHECKING:
    import lightning as L
    from torch import Tensor

_ROLES: dict[Any, tuple[str, ...]] = {
    TrainerFn.FITTING: ("train", "val"),
    TrainerFn.VALIDATING: ("val",),
    TrainerFn.TESTING: ("test",),
}


def data_of(module: L.LightningModule) -> Any:
    """Return the data module of the trainer of a model, None where there is none."""
    try:
        return getattr(module.trainer, "datamodule", None)
    except RuntimeError:  # Lightning's answer when there is no trainer
        return None


def in_data_units(module: L.LightningModule, x: Tensor, side: str = "target") -> Tensor:
    """Undo the normalisation of targets or images, ``(N, C, (Z), Y, X)``."""
    denormalize = getattr(data_of(module), "denormalize", None)
    if denormalize is None:
        return x
    units: Tensor = denormalize(x) if side == "target" else denormalize(x, side=side)
    return units


def validates(module: L.LightningModule) -> bool:
    """Tell whether training has validation data."""
    if not module.trainer.enable_validation:
        return False
    # A data module always has the method; without validation data it returns no loader.
    data = data_of(module)
    loaders = True if data is None else data.val_dataloader()
    return loaders is not None and loaders != []


def check_targets(module: L.LightningModule, learns_from: str) -> None:
    """Raise a ValueError if a model learns from targets and this stage's data have none."""
    data = data_of(module)
    if learns_from == "noisy images" or not hasattr(data, "has_target"):
        return
    roles = _ROLES.get(module.trainer.state.fn, ())
    lacking = [role for role in roles if not data.has_target(role)]
    if "train" in roles and "val" in lacking and not validates(module):
        lacking.remove("val")
    if lacking:
        raise lack_of_targets(type(module).__name__, learns_from, lacking[0])


def lack_of_targets(module: str, learns_from: str, role: str) -> ValueError:
    """Make the error for data of a role, such as "train", that lack targets a model needs."""
    other = "; Noise2Void (model=n2v) learns without targets" if role == "train" else ""
    return ValueError(
        f"{module} learns from {learns_from}, but {role}_data has no targets. Give {role}_target, "
        "or target_channels for channels of the same images, or repeats for repeated frames of "
        f"one file{other}."
    )
