"""Weights of a network as other programs load them: with its source, and as TorchScript."""

import pydoc
import sys
import warnings
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from shutil import copyfile
from typing import Any

import torch
import yaml
from torch import nn

from careamics_dm.cli.model_description import Sizes
from careamics_dm.cli.trained_model import Shape, make
from careamics_dm.errors import DataError
from careamics_dm.models import unet
from careamics_dm.models.base import RestorationModule
from careamics_dm.models.trainer_data import network_arguments

_STATE, _SCRIPT = "weights.pt", "weights_torchscript.pt"
_PLAIN = (str, int, float, bool, type(None))


def weights_of(
    module: RestorationModule, config: dict[str, Any], shape: Shape, sizes: Sizes, folder: Path
) -> dict[str, Any]:
    """Write the weights of a model into a folder, and describe them.

    ``config`` is that of the network, with public names. Raises a DataError where other programs
    could not build the network, or TorchScript gives other results than the network.
    """
    state = {
        "source": _STATE,
        "pytorch_version": torch.__version__.split("+")[0],
        **_architecture(config, module.restores_to, shape, folder),
    }
    torch.save(module.network.state_dict(), folder / _STATE)
    _write_script(module.network, shape.n_channels, sizes, folder / _SCRIPT)
    script = {"source": _SCRIPT, "pytorch_version": state["pytorch_version"]}
    return {
        "pytorch_state_dict": state,
        "torchscript": script | {"parent": "pytorch_state_dict"},
    }


def _architecture(
    config: dict[str, Any], restores_to: str, shape: Shape, folder: Path
) -> dict[str, Any]:
    """Say how the network is built: from its source file, or from the package that it is in."""
    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    if config.get("_partial_"):
        n = shape.n_channels if restores_to == "image" else shape.n_target_channels
        arguments |= network_arguments(make(config), shape, n)
    arguments = {k: list(v) if isinstance(v, tuple) else v for k, v in arguments.items()}
    for key, value in arguments.items():
        if not all(isinstance(v, _PLAIN) for v in (value if isinstance(value, list) else [value])):
            raise DataError(
                f"model.network.{key} is no plain value, so that other programs can't build the "
                "network. Write a function that makes it, and train with that."
            )
    target = config["_target_"]
    found: Any = unet.UNet if target == "careamics_dm.UNet" else pydoc.locate(target)
    name, home = found.__qualname__, found.__module__
    built: dict[str, Any] = {"callable": name, "kwargs": arguments}
    if "." in home and found is not unet.UNet:
        return {"architecture": built | {"import_from": home}, **_dependencies(home, folder)}
    source = Path(str(getattr(sys.modules.get(home), "__file__", None)))
    if source.suffix != ".py" or not source.is_file() or not name.isidentifier():
        raise DataError(
            f"model.network: {target} has no source file that could be exported. Write the network "
            "into a file of its own, and train with that."
        )
    copyfile(source, folder / source.name)
    return {"architecture": built | {"source": source.name}}


def _dependencies(home: str, folder: Path) -> dict[str, Any]:
    """Name the package of a network for conda and pip."""
    top = home.split(".")[0]
    if top == "torch":
        return {}
    package = packages_distributions().get(top, [top])[0]
    try:
        release = version(package)
    except PackageNotFoundError as error:
        raise DataError(
            f"model.network: {home} is in no installed package. Write the network into a file of "
            "its own, and train with that."
        ) from error
    needed = ["pip", f"pytorch=={torch.__version__.split('+')[0]}"]
    environment = {
        "channels": ["conda-forge", "nodefaults"],
        "dependencies": [*needed, {"pip": [f"{package}=={release}"]}],
    }
    file = folder / "environment.yaml"
    file.write_text(yaml.safe_dump(environment, sort_keys=False), encoding="utf-8")
    return {"dependencies": {"source": file.name}}


def _write_script(network: nn.Module, n_channels: int, sizes: Sizes, path: Path) -> None:
    """Record the network as TorchScript, and compare for images of other sizes."""
    larger = tuple(low + n for low, n in zip(sizes.least, sizes.step, strict=True))
    random = torch.Generator().manual_seed(0)
    image, others = (
        torch.randn((n, n_channels, *size), generator=random)
        for n, size in ((1, sizes.least), (2, larger))
    )
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # what they warn of is compared
            script = torch.jit.trace(network, image, check_trace=False)
            same = torch.allclose(script(others), network(others), rtol=1e-4, atol=1e-5)
            script.save(str(path))
    except Exception as error:  # networks raise what they like
        raise DataError(
            f"the network can't be written as TorchScript ({type(error).__name__}: {error})."
        ) from error
    if not same:
        raise DataError(
            "the network can't be written as TorchScript: for images of other sizes it gave other "
            "results than the network. Its forward must not depend on the size by Python's if."
        )
