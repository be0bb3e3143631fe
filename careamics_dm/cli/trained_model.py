"""A trained model in Python, from nothing but its checkpoint, and what it makes of images."""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, overload

import lightning as L
import numpy as np
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import OmegaConf

from careamics_dm.cli import HAS_WHITELIST
from careamics_dm.cli.application import targets
from careamics_dm.cli.checkpoints import (
    WholeFiles,
    explaining_weights,
    load_checkpoint,
    read_checkpoint,
)
from careamics_dm.cli.foreign_checkpoint import as_ours, is_careamics
from careamics_dm.cli.help import FROM_CHECKPOINT
from careamics_dm.cli.prediction_data import opened
from careamics_dm.cli.trust import check_config
from careamics_dm.datamodule.patch_datamodule import PatchDataModule
from careamics_dm.errors import DataError
from careamics_dm.formats.array import ArrayDataModule
from careamics_dm.formats.czi.datamodule import CziDataModule
from careamics_dm.formats.tiff.datamodule import TiffDataModule
from careamics_dm.formats.zarr.datamodule import ZarrDataModule
from careamics_dm.images.stack_view import layout_of
from careamics_dm.models.base import RestorationModule
from careamics_dm.prediction.stitching import Stitching
from careamics_dm.sources.file_kind import SUFFIXES
from careamics_dm.sources.free_memory import available_bytes
from careamics_dm.transforms.normalization import Affine


class TrainedModel(NamedTuple):
    """What `load_model` gives."""

    module: Any
    """The LightningModule with its weights, in evaluation mode, on the CPU."""
    statistics: dict[str, Affine]
    """Of "image" and "target", for ``statistics`` of a data module."""
    config: dict[str, Any]
    """Every setting of the run, as in its ``config.yaml``."""


FORMATS: dict[str, type[PatchDataModule]] = {
    "array": ArrayDataModule,
    "czi": CziDataModule,
    "tiff": TiffDataModule,
    "zarr": ZarrDataModule,
}


class Shape(NamedTuple):
    """What a network is built for, as a data module says it."""

    n_channels: int
    n_target_channels: int
    patch_size: tuple[int, ...]


def load_model(path: str | Path, *, trusted: Sequence[str] = ()) -> TrainedModel:
    """Load a model that careamics-train has saved, or CAREamics (see `from_careamics`).

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
    return trained_model(load_checkpoint(path), path, trusted)


def trained_model(
    content: dict[str, Any], path: str | Path, trusted: Sequence[str]
) -> TrainedModel:
    """Make the model of which `load_checkpoint` has read the content."""
    config, data = content["config"], content["data"]
    module = make(check_config(config["model"], trusted, path))
    if isinstance(module, RestorationModule):
        module.build(shape_of(content))
    with explaining_weights(str(path), "It was changed or damaged."):
        module.load_state_dict(content["weights"])
    statistics = {side: Affine(**numbers) for side, numbers in data["statistics"].items()}
    return TrainedModel(module.eval(), statistics, config)


def shape_of(content: dict[str, Any]) -> Shape:
    """Say what the network of a checkpoint was built for."""
    data = content["data"]
    n, n_targets = data["n_channels"], data["n_target_channels"]
    return Shape(n, n_targets or n, tuple(content["config"]["data"]["patch_size"]))


def make(checked: Any) -> Any:
    """Make what a part of a configuration describes that `check_config` has returned."""
    allowed = {"_execution_whitelist_": sorted(set(targets(checked)))} if HAS_WHITELIST else {}
    return instantiate(OmegaConf.create(checked), **allowed)


def from_careamics(path: str | Path, *, save: str | Path | None = None) -> TrainedModel:
    """Load a model that CAREamics 0.3 has trained: Noise2Void, N2V2, CARE or Noise2Noise.

    Its predictions are those of CAREamics, but for rounding. The commands, `load_model` and
    `predict` take such a checkpoint as it is, too. Results of Noise2Void are in the units of the
    images, even where CAREamics was told to skip the normalisation of targets.

    Parameters
    ----------
    path : path
        The ``.ckpt`` that CAREamics wrote.
    save : path, optional
        Where to write the model as a ``model.ckpt`` of ours, a new file.

    Returns
    -------
    TrainedModel
        ``module``, ``statistics`` and, as far as there are such settings here, ``config``.

    Raises
    ------
    DataError
        If it is no checkpoint of CAREamics, its network, algorithm or normalisation is not
        supported, or ``save`` exists. No code in it is run.

    Examples
    --------
    >>> model = from_careamics("n2v_last.ckpt", save="model.ckpt")  # doctest: +SKIP
    """
    content = read_checkpoint(path)
    if not is_careamics(content):
        raise DataError(f"checkpoint: {path} was not written by CAREamics 0.3. Try load_model.")
    model = load_model(path)
    if save is not None:
        save = Path(save).expanduser()
        if save.exists():
            raise DataError(f"save: {save} exists already. Name another file.")
        WholeFiles().save_checkpoint(as_ours(content, path), save)
    return model


@overload
def predict(
    model: TrainedModel | str | Path,
    data: NDArray[Any],
    *,
    trusted: Sequence[str] = (),
    **settings: Any,
) -> NDArray[np.float32]: ...


@overload
def predict(
    model: TrainedModel | str | Path,
    data: PatchDataModule | str | Path | Sequence[Any],
    *,
    trusted: Sequence[str] = (),
    **settings: Any,
) -> list[NDArray[np.float32]]: ...


def predict(
    model: TrainedModel | str | Path,
    data: Any,
    *,
    trusted: Sequence[str] = (),
    **settings: Any,
) -> NDArray[np.float32] | list[NDArray[np.float32]]:
    """Restore images and return them as arrays.

    Parameters
    ----------
    model : TrainedModel or path
        What `load_model` gave, or ``model.ckpt`` of a run.
    data : ndarray, path, sequence or PatchDataModule
        An array, a list of arrays, or what names files: a file, a folder, a glob or a list, all of
        one format, which is known by the suffix. A data module with ``predict_data`` reads other
        formats; it gets the statistics of the model unless it has its own.
    trusted : sequence of str
        See `load_model`.
    **settings
        Of the data module that is made for ``data``: ``axes="TYX"``, ``tile_size=(256, 256)``. By
        default channels and patch size are those of the training, and so are axes, unless the
        images say other ones. Models of planes take volumes plane by plane.

    Returns
    -------
    ndarray, or list of ndarray
        float32, in the units of the data, with axes and shape of the image (and as many channels
        as the model gives). A list, with one for each image, unless ``data`` is an array.

    Raises
    ------
    DataError
        If data can't be read or do not suit the model, or the results do not fit in memory: then
        write them to files, with ``careamics-predict`` or a writer in ``trainer.predict``.

    Examples
    --------
    >>> denoised = predict("runs/first/model.ckpt", image, axes="YX")  # doctest: +SKIP
    """
    trained = model if isinstance(model, TrainedModel) else load_model(model, trusted=trusted)
    module = data if isinstance(data, PatchDataModule) else data_for(trained, data, settings)
    if settings and module is data:
        raise DataError(f"{', '.join(settings)}: give settings to the data module instead.")
    if module.settings.shard is not None:
        raise DataError("shard: predict returns whole images only. Write them: careamics-predict.")
    module.statistics = module.statistics or trained.statistics
    stacks = module.predict_stacks
    collect = _Collect(stacks)
    trainer = L.Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[collect],
    )
    module.setup("predict")
    _check_memory(module)
    trainer.predict(trained.module, datamodule=module, return_predictions=False)
    images = collect.stitching.images()
    return images[0] if isinstance(data, np.ndarray) else images


class _Collect(L.Callback):
    """Stitches what is predicted."""

    def __init__(self, stacks: Sequence[Any]) -> None:
        self.stitching = Stitching(stacks)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.stitching.add(outputs)


def data_for(trained: TrainedModel, data: Any, settings: dict[str, Any]) -> PatchDataModule:
    """Make the data module that reads ``data``."""
    # Normalised by the statistics of the model.
    former = {k: trained.config["data"].get(k) for k in FROM_CHECKPOINT - {"normalization"}}
    if "axes" in settings:  # those of the training were trusted, not these
        former["trust_axes"] = None
    given = {name: value for name, value in former.items() if value is not None} | settings
    kind = _kind_of(data)
    images, _ = opened(lambda by: kind(predict_data=data, **by), given, settings)
    return images


def _kind_of(data: Any) -> type[PatchDataModule]:
    """Return the data module that reads ``data``."""
    first = data[0] if isinstance(data, list | tuple) and data else data
    if isinstance(first, np.ndarray):
        return ArrayDataModule
    path = Path(first)
    kinds = {SUFFIXES.get(path.suffix.lower())}
    if path.is_dir() and kinds == {None}:
        kinds = {SUFFIXES.get(entry.suffix.lower()) for entry in path.iterdir()} - {None}
    if len(kinds) != 1 or None in kinds:
        raise DataError(
            f"{first}: its suffix does not say the format. Make a data module, such as "
            "CustomDataModule(predict_data=..., ...), and give that."
        )
    return FORMATS[str(kinds.pop())]


def _check_memory(data: PatchDataModule) -> None:
    """Refuse results that do not fit in memory."""
    layouts = [
        layout_of(stack).with_channels(data.n_target_channels) for stack in data.predict_stacks
    ]
    needed = 4 * sum(prod(layout.shape) for layout in layouts)
    if needed > (free := available_bytes()):
        raise DataError(
            f"the results take {needed / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB of memory are "
            "free. Write them to files: careamics-predict, or trainer.predict with a writer."
        )
