"""What a model asks of its trainer and the data module: only public members, each if present."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Protocol

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from careamics_dm.errors import DataError
from careamics_dm.models.batch import Batch, unpack
from careamics_dm.models.unet import UNet, pool_for
from careamics_dm.sampling.keyed_random import key_of


class BuildNetwork(Protocol):
    """Makes a network from what the data say, as LightningCLI has to read it from a type."""

    def __call__(
        self, *, in_channels: int, out_channels: int, dims: int, spatial_dims: int
    ) -> nn.Module:
        """Make it; it need not take all of these."""


Build = BuildNetwork | Callable[..., nn.Module]
"""A function, class or ``functools.partial`` with those of these arguments that it takes."""
NO_NETWORK = (
    "the weights are lost, as this model has no network yet: load their checkpoint; or, before "
    "training with ddp_spawn, build the network: data.setup('fit'); model.build(data)."
)
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


def out_channels(module: Any, data: Any) -> int | None:
    """Return the number of channels to restore, if the data module knows it."""
    n: int | None = getattr(data, "n_channels", None)
    return n if module.restores_to == "image" else getattr(data, "n_target_channels", n)


def build_network(build: Build, data: Any, out_channels: int | None) -> nn.Module:
    """Build a network with what `network_arguments` returns."""
    make: Callable[..., nn.Module] = build
    network = make(**(accepted := network_arguments(build, data, out_channels)))
    if pool := accepted.get("pool"):
        rank_zero_info(
            f"patches of {data.patch_size[0]} planes are too few to halve {network.depth} times: "
            f"the network halves Y and X only (pool=[{','.join(map(str, pool))}])"
        )
    return network


def network_arguments(build: Build, data: Any, out_channels: int | None) -> dict[str, Any]:
    """Return those of in_channels, out_channels and dims that a builder of networks accepts.

    ``spatial_dims`` works instead of ``dims`` (MONAI); what a ``functools.partial`` has set stays.
    A `UNet` gets the pooling that suits the depth of patches.
    Raises a ValueError if a number that ``build`` accepts is unknown.
    """
    make: Callable[..., nn.Module] = build
    parameters = inspect.signature(make).parameters
    if parameters.keys() == {"args", "kwargs"}:  # LightningCLI's, of which one argument is a class
        classes = [a for a in getattr(build, "args", ()) if inspect.isclass(a)]
        parameters = inspect.signature(classes[-1] if classes else make).parameters
    given = build.keywords if isinstance(build, functools.partial) else {}
    any_keyword = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    patch_size = getattr(data, "patch_size", None)
    numbers = {
        "in_channels": getattr(data, "n_channels", None),
        "out_channels": out_channels,
        "spatial_dims" if "spatial_dims" in parameters else "dims": patch_size and len(patch_size),
    }
    wanted = numbers.keys() if any_keyword else numbers.keys() & parameters.keys()
    accepted = {
        name: n for name, n in numbers.items() if name in wanted and given.get(name) is None
    }
    if None in accepted.values():
        found = f"{type(data).__name__} lacks one of them"
        raise ValueError(
            "The network is to be built from n_channels and patch_size of the trainer's "
            f"data module, but {'there is no data module' if data is None else found}; pass a "
            "built network, such as UNet(1, dims=2)."
        )
    if getattr(build, "func", build) is UNet and patch_size and given.get("pool") is None:
        depth = given.get("depth", parameters["depth"].default)
        accepted["pool"] = pool_for(patch_size, depth)
    return accepted


def compile_for_training(module: Any, compile: bool | dict[str, Any]) -> None:
    """Compile the network of a model that is to be trained, in place: weights keep their names."""
    if not isinstance(compile, bool | dict):
        raise DataError(f"compile={compile!r}: give true, false or arguments of torch.compile.")
    if compile is not False and module.trainer.state.fn == TrainerFn.FITTING:
        module.network.compile(**({} if compile is True else compile))


def check_data(module: Any, data: Any, out_channels: int | None) -> None:
    """Raise a ValueError where data, if there are any, do not suit a model in its stage."""
    stage = None if data is None else module.trainer.state.fn
    if stage is not None and (precision := module.trainer.precision) in ("16-true", "bf16-true"):
        raise ValueError(
            f"precision={precision} rounds images before they are normalised, and weights at every "
            f"step. Use {precision.removesuffix('true')}mixed, which is as fast, or 32-true."
        )
    # Images to predict have no targets whose channels could be counted.
    out_channels = None if stage == TrainerFn.PREDICTING else out_channels
    check_channels(module.network, getattr(data, "n_channels", None), out_channels)
    if stage == TrainerFn.FITTING and hasattr(data, "patch_size"):
        module.check_patch_size(data.patch_size)
    check_targets(module, module.learns_from)


def check_channels(network: nn.Module, n_channels: int | None, out_channels: int | None) -> None:
    """Raise a ValueError where the channels that a network states are not those of the data."""
    takes, makes = (getattr(network, name, None) for name in ("in_channels", "out_channels"))
    advice = "select other channels or build the network for these."
    if None not in (takes, n_channels) and takes != n_channels:
        raise ValueError(
            f"The network takes in_channels={takes}, but the data have n_channels={n_channels}; "
            f"{advice}"
        )
    if None not in (makes, out_channels) and makes != out_channels:
        raise ValueError(
            f"The network makes out_channels={makes}, but {out_channels} are to be restored from "
            f"these data; {advice}"
        )


def check_targets(module: L.LightningModule, learns_from: str) -> None:
    """Raise a ValueError if a model learns from targets and this stage's data have none."""
    data = data_of(module)
    if learns_from == "noisy images" or not hasattr(data, "has_target"):
        return
    roles = _ROLES.get(module.trainer.state.fn, ())
    lacking = [role for role in roles if not data.has_target(role)]
    if "train" in roles and "val" in lacking and not _validates(module):
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


def parts_of(data: Any) -> list[Any]:
    """Return the data modules that data consist of."""
    return [*getattr(data, "parts", {"": data}).values()]


def warn_of_correlated_noise(module: L.LightningModule) -> None:
    """Warn of training images whose noise a model that needs independent pixels would learn."""
    if module.trainer.state.fn != TrainerFn.FITTING:
        return
    parts = parts_of(data_of(module))
    images = [part.images_of("train") for part in parts if hasattr(part, "images_of")]
    stacks = [stack for found in images for stack in found.stacks]
    reasons = {s.source: why for s in stacks if (why := getattr(s, "correlated_noise", ""))}
    if reasons:
        first, why = next(iter(reasons.items()))
        rank_zero_warn(
            f"the noise of neighbouring pixels is correlated in {len(reasons)} of {len(stacks)} "
            f"training image(s), such as {first} ({why}). Models that learn from noisy images "
            "alone learn such noise instead of removing it. Train on full resolution (level=0), "
            "and on images without lossy compression."
        )


def generator_of_step(
    module: L.LightningModule, seed: int, batch: Batch, batch_idx: int
) -> torch.Generator:
    """Make the random numbers of a training step: a function of seed, epoch, batch and rank."""
    key = key_of(seed, module.current_epoch, batch_idx, module.global_rank)
    return torch.Generator(unpack(batch)[0].device).manual_seed(int(key))


def configure_scheduler(
    make: Callable[[Optimizer], LRScheduler], optimizer: Optimizer, module: L.LightningModule
) -> dict[str, Any]:
    """Make a scheduler and say how Lightning steps it: ``lr_scheduler`` of its configuration.

    A ``functools.partial`` with ``T_max=None`` gets the number of epochs, or raises a ValueError
    where there is none. ``ReduceLROnPlateau`` follows ``val_loss`` if there is one.
    """
    trainer = module.trainer
    if isinstance(make, functools.partial) and make.keywords.get("T_max", 0) is None:
        if trainer.max_epochs is None or trainer.max_epochs < 1:
            raise ValueError(
                "the learning-rate scheduler has no T_max, which is then the run's length, but "
                f"max_epochs={trainer.max_epochs}; set trainer.max_epochs or the scheduler's T_max."
            )
        make = functools.partial(make, T_max=trainer.max_epochs)
    scheduler = make(optimizer)
    if not isinstance(scheduler, ReduceLROnPlateau):
        return {"scheduler": scheduler}
    if not _validates(module):
        return {"scheduler": scheduler, "monitor": "train_loss"}
    # Between validations there is no new val_loss.
    every = trainer.check_val_every_n_epoch or 1
    return {"scheduler": scheduler, "monitor": "val_loss", "frequency": every}


def _validates(module: L.LightningModule) -> bool:
    """Whether training has validation data."""
    if not module.trainer.enable_validation:
        return False
    # A data module always has the method; without validation data it returns no loader.
    data = data_of(module)
    loaders = True if data is None else data.val_dataloader()
    return loaders is not None and loaders != []
