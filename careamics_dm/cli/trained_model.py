"""A trained model in Python, from nothing but its checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.utils import instantiate
from omegaconf import OmegaConf

from careamics_dm.cli import HAS_WHITELIST
from careamics_dm.cli.application import targets
from careamics_dm.cli.checkpoints import explaining_weights, load_checkpoint
from careamics_dm.cli.trust import check_config
from careamics_dm.models.base import RestorationModule
from careamics_dm.transforms.normalization import Affine


class TrainedModel(NamedTuple):
    """What `load_model` gives."""

    module: Any
    """The LightningModule with its weights, in evaluation mode, on the CPU."""
    statistics: dict[str, Affine]
    """Of "image" and "target", for ``statistics`` of a data module."""
    config: dict[str, Any]
    """Every setting of the run, as in its ``config.yaml``."""


class _Shape(NamedTuple):
    n_channels: int
    n_target_channels: int
    patch_size: tuple[int, ...]


def load_model(path: str | Path, *, trusted: Sequence[str] = ()) -> TrainedModel:
    """Load a model that careamics-train has saved.

    Parameters
    ----------
    path : path
        ``model.ckpt`` of a run.
    trusted : sequence of str
        Packages, besides ours and torch's layers and optimisers, of which the checkpoint may name
        classes, such as ``["monai"]``.

    Returns
    -------
    TrainedModel
        ``module``, ``statistics`` and ``config``.

    Raises
    ------
    DataError
        If there is no such checkpoint, or it names what is not trusted. No code in it is run.

    Examples
    --------
    >>> model = load_model("runs/first/model.ckpt")  # doctest: +SKIP
    >>> data.statistics = model.statistics  # doctest: +SKIP
    >>> trainer.predict(model.module, datamodule=data)  # doctest: +SKIP
    """
    content = load_checkpoint(path)
    config, data = content["config"], content["data"]
    wanted = check_config(config["model"], trusted, path)
    allowed = {"_execution_whitelist_": sorted(set(targets(wanted)))} if HAS_WHITELIST else {}
    module = instantiate(OmegaConf.create(wanted), **allowed)
    if isinstance(module, RestorationModule):
        n_targets, size = data["n_target_channels"], tuple(config["data"]["patch_size"])
        module.build(_Shape(data["n_channels"], n_targets or data["n_channels"], size))
    with explaining_weights(str(path), "It was changed or damaged."):
        module.load_state_dict(content["weights"])
    statistics = {side: Affine(**numbers) for side, numbers in data["statistics"].items()}
    return TrainedModel(module.eval(), statistics, config)
