"""What runs beside training: saving the model, learning rates, pictures."""

import shutil
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.image import imread

from careamics_dm.callbacks.cluster_signals import LAST
from careamics_dm.errors import DataError
from careamics_dm.evaluation.comparison_plot import plot_comparison
from careamics_dm.evaluation.planes import around, middle, restored_planes
from careamics_dm.models.base import RestorationModule
from careamics_dm.models.trainer_data import data_of

LARGEST = {"Y": 256, "X": 256, "Z": 16}
"""The most pixels per axis in the picture of an epoch."""


class SaveModel(ModelCheckpoint):
    """Save ``model.ckpt``: the weights to use, which are not always those of the last epoch.

    The model decides which ones (its attribute ``keeps``; "last" where it has none). With targets,
    the validation loss measures what matters, and the weights with the lowest loss are the "best"
    against overfitting. The loss of Noise2Void measures how well noise is predicted from its
    surroundings and ranks neighbouring epochs by chance, so the "last" weights are saved, after the
    learning rate has decreased.

    "last": ``model.ckpt`` is replaced after every epoch. "best": it is replaced after each epoch
    with a lower ``val_loss`` (after every epoch while there is none, as without validation data),
    and ``last.ckpt``, to resume from, after every epoch; `StopOnRequest` saves that, too, where a
    run is interrupted. A run that is resumed in another folder brings its ``model.ckpt`` along, so
    the best is that of all epochs.

    Parameters
    ----------
    dirpath : path, optional
        Where to save; None: the folder of the run. That is, where Lightning saves.
    keep : {"best", "last"}, optional
        Which weights to save, overriding the model.

    Attributes
    ----------
    kept_scores : dict of str to float
        What was logged for the weights in ``model.ckpt``, and ``epoch``, counted from 0.

    Raises
    ------
    DataError
        If ``keep`` has another value.
    """

    def __init__(
        self, dirpath: str | Path | None = None, *, keep: Literal["best", "last"] | None = None
    ) -> None:
        if keep not in (None, "best", "last"):
            raise DataError(f"keep={keep!r}: choose best or last, or null to let the model decide.")
        super().__init__(
            dirpath, filename="model", enable_version_counter=False, save_on_train_epoch_end=True
        )
        self.keep = keep
        self.kept_scores: dict[str, float] = {}
        self._best = False
        self._elsewhere: dict[str, Any] = {}

    @property
    def state_key(self) -> str:
        """Name of its state in a checkpoint, whatever the arguments."""
        return type(self).__qualname__

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Ask the model which weights to save; called by Lightning."""
        # Lightning would look whether the folder is empty in a way that imports s3fs.
        wanted, self.save_top_k = self.save_top_k, 0
        super().setup(trainer, pl_module, stage)
        self.save_top_k = wanted
        assert self.dirpath is not None
        if stage == "fit" and Path(self.dirpath).is_dir() and any(Path(self.dirpath).iterdir()):
            rank_zero_warn(f"Checkpoint directory {self.dirpath} exists and is not empty.")
        self._elsewhere = {}  # of a checkpoint that was validated or tested, say
        self._best = (self.keep or getattr(pl_module, "keeps", "last")) == "best"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Bring the best model along where a run goes on in another folder; called by Lightning."""
        super().on_train_start(trainer, pl_module)
        before, self._elsewhere = self._elsewhere, {}
        if not self._best or before.get("best_model_score") is None:
            return
        assert self.dirpath is not None
        path = Path(self.dirpath) / "model.ckpt"
        beside = Path(str(trainer.ckpt_path)).with_name(path.name)  # also of a folder that moved
        candidates = (beside, Path(before["best_model_path"]))
        found = next((one for one in candidates if _holds_best(one, before)), None)
        found = trainer.strategy.broadcast(found)
        if found is None:
            rank_zero_warn(
                f"The weights with the lowest val_loss so far ({before['best_model_score']:.6g}) "
                f"can't be read from {beside}, so {path} will have the best of the epochs from here"
                " on."
            )
            return
        if trainer.is_global_zero and found.resolve() != path.resolve():
            part = path.with_suffix(".part")  # a copy that is cut short must not look whole
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found, part)
            part.replace(path)
        one = {"best_model_path": str(path), "kth_best_model_path": str(path)}
        scores = {"best_k_models": {str(path): before["best_model_score"]}}
        self.load_state_dict(before | one | scores | {"dirpath": self.dirpath})

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the model, and what to resume from; called by Lightning."""
        # Validation of this epoch, if any, is over. In epochs without, val_loss is still that of
        # the last validation, which is not lower than itself.
        self.monitor = "val_loss" if self._best and "val_loss" in trainer.callback_metrics else None
        score_before, scores_before = self.best_model_score, self.kept_scores
        logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
        self.kept_scores = logged | {"epoch": float(trainer.current_epoch)}  # if it is saved now
        super().on_train_epoch_end(trainer, pl_module)
        if self.monitor is not None and self.best_model_score is score_before:
            self.kept_scores = scores_before
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert self.dirpath is not None
        last = Path(self.dirpath) / LAST
        if self.monitor is not None:
            trainer.save_checkpoint(last, weights_only=False)
        elif trainer.is_global_zero:
            last.unlink(missing_ok=True)  # of an interruption; model.ckpt has gone further

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs; called by Lightning."""
        return super().state_dict() | {"kept_scores": self.kept_scores}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what is known of the ``model.ckpt`` in the same folder; called by Lightning."""
        if state_dict["dirpath"] == self.dirpath:
            super().load_state_dict(state_dict)
            self.kept_scores = state_dict.get("kept_scores", {})
            # Checkpoints of early versions have no scores.
            if self.kept_scores and not _is_best(self.kept_scores, self.best_model_score):
                self.best_model_score, self.best_k_models = None, {}
        else:
            self._elsewhere = state_dict  # until the folder to copy it to is known to be used


def _is_best(kept_scores: dict[str, float], score: torch.Tensor | None) -> bool:
    """Whether the weights that were kept have the lowest loss; the last ones need not."""
    return score is not None and kept_scores.get("val_loss") == float(score)


def _holds_best(path: Path, state: dict[str, Any]) -> bool:
    """Whether a file holds the model that the state of a `SaveModel` calls the best."""
    if not path.is_file():
        return False
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        its_own, kept = content["callbacks"][SaveModel.__qualname__], state["kept_scores"]
        return (
            content["epoch"] == kept["epoch"]
            and its_own["kept_scores"] == kept
            and _is_best(kept, state["best_model_score"])
        )
    except Exception:  # whatever a damaged or foreign file makes of it, it is not that model
        return False


class LearningRate(LearningRateMonitor):
    """Log the learning rate of each epoch; does nothing where there is no logger."""

    def __init__(self) -> None:
        super().__init__(logging_interval="epoch")

    def on_train_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """See `LearningRate`; called by Lightning."""
        if trainer.loggers:
            super().on_train_start(trainer, *args, **kwargs)

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """See `LearningRate`; called by Lightning."""
        if trainer.loggers:
            super().on_train_epoch_start(trainer, *args, **kwargs)


class Pictures(L.Callback):
    """Draw what the model makes of the same part of an image every few epochs.

    Noisy, denoised and, where there is one, target, in ``pictures/epoch_0020.png`` and, as
    "picture", in TensorBoard and W&B where one of these is the logger. The part is the middle of
    the first validation image, or else the surroundings of the first patch that is held out for
    validation. Training is not affected: all random states are restored. Only models that are a
    `RestorationModule` are drawn.

    Parameters
    ----------
    every_n_epochs : int
        Epochs between two pictures, at least 1.
    folder : path, optional
        Where to create ``pictures``; None: the folder of the run. That is, the trainer's
        ``default_root_dir``.

    Raises
    ------
    DataError
        If ``every_n_epochs`` is not a positive whole number.
    """

    def __init__(self, every_n_epochs: int = 20, folder: str | Path | None = None) -> None:
        n = every_n_epochs
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise DataError(f"every_n_epochs={n!r}: give a whole number, at least 1.")
        self.every_n_epochs = n
        self.folder = folder

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw every few epochs; called by Lightning."""
        epoch = trainer.current_epoch + 1
        data = data_of(pl_module)
        if epoch % self.every_n_epochs or not trainer.is_global_zero:
            return
        if not isinstance(pl_module, RestorationModule) or not hasattr(data, "images_of"):
            return
        images = data.images_of("train" if data.settings.val_data is None else "val")
        patch = data.first_validation_patch()
        region = middle(images.stacks[0], LARGEST)
        if patch is not None:
            region = around(patch, images.stacks[patch.image], LARGEST)
        scene = restored_planes(pl_module, data, images, region)
        folder = Path(self.folder or trainer.default_root_dir).expanduser()
        path = folder / "pictures" / f"epoch_{epoch:04}.png"
        reference = "target" if "target" in scene else "noisy"  # the same in all epochs
        plot_comparison([scene], path, reference=reference, title=f"epoch {epoch}")
        log_picture(trainer, path)


def log_picture(trainer: L.Trainer, path: Path) -> None:
    """Log a PNG as "picture" with those of a trainer's loggers that take pictures."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            pixels = imread(path)[..., :3]
            logger.experiment.add_image("picture", pixels, trainer.global_step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image("picture", [str(path)], step=trainer.global_step)
