"""What the DataModules of all formats share: one loader for each stage."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Unpack, get_args

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from careamics_dm.datamodule import documentation
from careamics_dm.datamodule.held_out_data import HeldOutData
from careamics_dm.datamodule.held_out_rows import table_of
from careamics_dm.datamodule.loaders import Loaders, Results, Role, epoch_of
from careamics_dm.datamodule.measured_statistics import statistics_of
from careamics_dm.datamodule.settings import Settings, SharedSettings
from careamics_dm.datamodule.source_opener import SourceOpener
from careamics_dm.errors import DataError
from careamics_dm.images import argument_checks as check
from careamics_dm.images.image_set import ImageSet, describe
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.images.region import Region
from careamics_dm.loading.device_transfer import Batch
from careamics_dm.loading.loader import PatchLoader
from careamics_dm.sources.listing import Listing
from careamics_dm.transforms.batch_transform import BatchTransform
from careamics_dm.transforms.normalization import Affine, Side


class PatchDataModule(L.LightningDataModule):
    """Patches of images for training, validation, test and prediction.

    A format says how its sources are found (`list_sources`) and opened (`open_source`); everything
    else is here. Making one reads nothing; `setup` opens and checks every source.

    Parameters
    ----------
    **shared
        Arguments of all formats; see `Settings`.

    Attributes
    ----------
    settings : Settings
        The arguments, checked.
    patch_size : tuple of int
        ``(Z) Y X``, pixels.
    statistics : dict of str to Affine
        Of ``image`` and ``target``; empty until measured or restored.
    """

    def __init__(self, **shared: Unpack[SharedSettings]) -> None:
        super().__init__()
        documentation.check_names(type(self), shared)
        # Sequences become tuples. (Editors follow ``**shared`` to the arguments.)
        self.settings = settings = Settings(**shared)  # type: ignore[arg-type]
        self._opener = SourceOpener(settings, self.list_sources, self.open_source)
        self.patch_size, n_dims = settings.patch_size, len(settings.patch_size)
        self.statistics: dict[str, Affine] = {}
        self._transform = BatchTransform(
            settings.orientations, settings.own_augmentation, settings.batch_format, n_dims
        )
        self._loaders = Loaders(settings)
        self._passes: dict[str, PatchLoader | list[Any]] = {}
        self._held_out = HeldOutData(None if settings.val_data is not None else settings.split_rule)
        self._described = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show the shared parameters in the signature and the docstring of a format."""
        super().__init_subclass__(**kwargs)
        documentation.document(cls)

    def __repr__(self) -> str:
        return documentation.describe_settings(self, self.settings)

    __str__ = __repr__  # Lightning's makes every loader, which would read the data

    def list_sources(self, data: Any, what: str) -> Listing:
        """Find the sources that a data argument names; a format says how.

        Parameters
        ----------
        data
            The argument.
        what : str
            Its name, for messages.

        Returns
        -------
        Listing
            Sources, each as `open_source` takes it; a `DataError` if there are none.
        """
        raise TypeError(f"{type(self).__name__} does not say how to find its sources.")

    def open_source(self, source: Any, axes: str) -> list[ImageStack]:
        """Open a source, reading no pixel; a format says how.

        Keyword-only parameters are what a manifest's rows may say of their file (``scene``,
        ``level``): they come as text, or not at all.

        Parameters
        ----------
        source
            As listed by `list_sources`.
        axes : str
            The ``axes`` argument, or ``"auto"``.

        Returns
        -------
        list of ImageStack
            The images in it; a `DataError` if it can't be read, or is not what ``axes`` says.
        """
        raise TypeError(f"{type(self).__name__} does not say how to open its sources.")

    def setup(self, stage: str) -> None:
        """Open and check the sources of a stage.

        Stages (``fit``, ``validate``, ``test``, ``predict``) come in any order, repeatedly. Of
        connected ranks all must call it: together they decide whether images fit in memory. A
        `DataError` has all faults of all sources in one message.
        """
        roles = self._opener.open(stage)
        # Blocks are dealt out: a process may have none to predict.
        self.allow_zero_length_dataloader_with_multiple_devices = stage == "predict"
        if "train" in roles and not self._held_out.chosen:
            self._held_out.choose(self._opener.images["train"])

    def train_dataloader(self) -> PatchLoader:
        """Batches of new patches in every pass; the first call computes the statistics."""
        images = self.images_of("train")
        self.measure_statistics()
        epoch = partial(epoch_of, self.trainer)
        if epoch() is not None and not self._described:
            rank_zero_info(self.summary())
            self._described = True
        return self._loaders.train(images, self._held_out.split, self.trainer, epoch)

    def val_dataloader(self) -> PatchLoader | list[Any]:
        """Batches of the same validation patches in every pass; no loader without any."""
        if self.settings.n_val_patches == 0:
            return []
        of = "train" if self.settings.val_data is None else "val"
        images, split = self.images_of(of), self._held_out.split
        self.measure_statistics()
        if of == "val":
            return self._loaders.grid(images, self.trainer)
        return [] if split is None else self._loaders.held_out(images, split, self.trainer)

    def test_dataloader(self) -> PatchLoader:
        """Test images as in prediction, tile by tile or whole, with their targets."""
        self.measure_statistics()
        return self._loaders.whole(self.images_of("test"), self.trainer)

    def predict_dataloader(self) -> PatchLoader:
        """Tiles, or whole images, with the place where each belongs."""
        self.measure_statistics()
        return self._loaders.tiles(self.images_of("predict"), self.trainer)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalise and augment a batch on its device; called by Lightning."""
        del dataloader_idx
        return self.transform(batch) if isinstance(batch, dict) and "image" in batch else batch

    def transform(self, batch: Batch) -> Any:
        """Turn a batch of a loader into what modules get.

        Lightning calls it for every batch; loops of your own call it themselves.

        Parameters
        ----------
        batch : dict
            As yielded by a loader of this module, on any device.

        Returns
        -------
        dict, tuple or Tensor
            As ``batch_format`` says: float32, normalised and, in training, augmented, except for
            single patches (``batch_size=None``).
        """
        return self._transform(batch, self.measure_statistics())

    def batches(self, role: Role, device: torch.device | str = "cpu") -> Iterator[Any]:
        """Pass over the batches of a role once, in a loop of your own without a Trainer.

        Parameters
        ----------
        role : {"train", "val", "test", "predict"}
            Which data. Every pass over ``"train"`` draws new patches.
        device : torch.device or str
            Where batches are moved to, normalised and augmented.

        Returns
        -------
        iterator
            Batches as a module gets them, see `transform`.
        """
        check.one_of("role", role, get_args(Role))
        if role not in self._passes:
            self._passes[role] = getattr(self, f"{role}_dataloader")()
        return (self.transform(move_data_to_device(b, device)) for b in self._passes[role])

    def denormalize(self, y: torch.Tensor, side: Side = "target") -> torch.Tensor:
        """Return a batch in the units of the data.

        Parameters
        ----------
        y : Tensor
            ``(N, C, (Z), Y, X)``, normalised; the result has the same shape.
        side : {"target", "image"}
            What it is like: predictions are like targets (if there are any, else like images).
        """
        if not self.statistics:
            raise DataError("the statistics are unknown: call setup or restore a checkpoint first.")
        return self.statistics.get(side, self.statistics["image"]).undo(y)

    def measure_statistics(self) -> dict[str, Affine]:
        """Return the statistics of images and targets; compute them unless they are there.

        Of connected ranks all must call it: the first one computes, and the others wait for what
        it finds. A `DataError` says that there are no training data, given or restored statistics.
        """
        if not self.statistics:
            images = None if self.settings.train_data is None else self.images_of("train")
            trained, val = self._held_out.trained, self._opener.images.get("val")
            self.statistics = statistics_of(self.settings, images, trained, val)
        return self.statistics

    def state_dict(self) -> dict[str, Any]:
        """Return statistics, split and channels as plain values, for a checkpoint."""
        return {
            "statistics": {key: value._asdict() for key, value in self.statistics.items()},
            "normalization": documentation.method_of(self.settings),
            "n_channels": self._opener.n_channels,
            "n_target_channels": self._opener.n_target_channels,
            **self._held_out.state(self._opener.images.get("train"), self.patch_size),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; statistics are not computed again.

        Unless a training is resumed with another normalisation, which is warned of. A `DataError`
        says that the number of channels differs, or validation images are missing.
        """
        own, former = documentation.method_of(self.settings), state_dict.get("normalization")
        if former in (None, own) or not (self.trainer and self.trainer.state.fn == "fit"):
            self.statistics = {k: Affine(**v) for k, v in state_dict["statistics"].items()}
        else:
            rank_zero_warn(
                f"The checkpoint was trained with normalization={former}, this run is given {own}: "
                "it measures its own statistics, so that the network sees other intensities."
            )
        self._opener.expect(state_dict.get("n_channels"), state_dict.get("n_target_channels"))
        self._held_out.restore(state_dict)
        if "train" in self._opener.images:
            self._held_out.choose(self._opener.images["train"])

    @property
    def n_channels(self) -> int:
        """Number of channels of the images; a `DataError` before `setup`."""
        if self._opener.n_channels is None:
            raise DataError("the number of channels is not known before setup: call setup first.")
        return self._opener.n_channels

    @property
    def n_target_channels(self) -> int:
        """Number of channels of the targets, or of the images where there are no targets."""
        return self._opener.n_target_channels or self.n_channels

    def has_target(self, role: str) -> bool:
        """Whether the images of ``train``, ``val`` or ``test`` have targets; after `setup`."""
        of = "train" if role == "val" and self.settings.val_data is None else role
        return of in self._opener.images and bool(self._opener.images[of].targets)

    def teardown(self, stage: str) -> None:
        """End worker processes and close every file; both start again when needed."""
        self._passes.clear()
        self._loaders.close()
        self._described = False
        self._opener.close()

    def on_exception(self, exception: BaseException) -> None:
        """End what a run that failed has left running; called by Lightning."""
        self.teardown("")

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the trainer."""
        return self.__dict__ | {"trainer": None, "_passes": {}}

    @property
    def n_train_patches(self) -> int:
        """Training patches per epoch, over all ranks; opens the sources."""
        return self._loaders.n_train_patches(self.images_of("train"), self._held_out.split)

    @property
    def batch_size(self) -> int | None:
        """Patches per batch; Lightning's search for a batch size sets it."""
        return self.settings.batch_size

    @batch_size.setter
    def batch_size(self, n: int | None) -> None:
        self.settings = replace(self.settings, batch_size=n)
        self._loaders.settings = self.settings
        self._passes.clear()

    def images_of(self, role: str) -> ImageSet:
        """Return the images of ``train``, ``val``, ``test`` or ``predict``."""
        if role not in self._opener.images or (role == "train" and not self._held_out.chosen):
            self.setup({"train": "fit", "val": "validate"}.get(role, role))
        return self._opener.images[role]

    def first_validation_patch(self) -> Region | None:
        """Return the place of the first held-out patch in ``images_of("train")``, if any."""
        return self._held_out.first_patch()

    @property
    def predict_stacks(self) -> list[ImageStack]:
        """The images of ``predict_data``, in the order that ``region`` numbers them."""
        return self.images_of("predict").stacks

    @property
    def predict_images(self) -> Sequence[int]:
        """Indices of those of `predict_stacks` that are predicted: of this shard, and selected."""
        return self._loaders.predicted(len(self.predict_stacks))

    def select_predict(self, images: Sequence[int] | None, results: Sequence[Results] = ()) -> None:
        """Predict only these of `predict_stacks` (``None``: all), and what ``results`` lack."""
        self._loaders.select(images, results)

    def split_table(self) -> list[dict[str, Any]]:
        """List which samples train and which validate, and the patches that are held out.

        A row for each sample and each held-out patch: ``split`` (``"train"`` or ``"val"``),
        ``image`` (its source), ``sample`` (index along ``S``), ``start`` (of a patch, ``(Z) Y X``
        in pixels, with spaces between; empty for a whole sample) and ``size`` (likewise).
        """
        train, val = self.settings.train_data is not None, self.settings.val_data is not None
        rows = table_of(self.images_of("train"), self._held_out.split, "train") if train else []
        return rows + table_of(self.images_of("val"), None, "val") if val or not rows else rows

    def summary(self) -> str:
        """Describe sources, shapes, blocks, patches and bytes, a few lines per role."""
        lines = [describe(role, images) for role, images in self._opener.images.items()]
        if "train" in self._opener.images:
            counts = self._held_out.split, self.n_train_patches
            lines += documentation.describe_patches(self.settings, *counts)
        return "\n".join(lines) or "nothing is open yet: call setup."


documentation.document(PatchDataModule)
