"""One progress bar for the whole of a training or prediction."""

from math import ceil
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from careamics_dm.prediction.result_writer import ResultWriter

SCORES = ("train_loss", "val_loss", "val_psnr")


class RunProgress(ProgressBar):
    """Show batches done of all batches of the run, the time left, the epoch, and its scores.

    Takes the place of Lightning's bar, which begins anew in every epoch. Scores are those of the
    last whole epoch. A test has a bar, too, and so has a prediction: of the blocks of all results,
    where they are written (the first process takes the others to be as far).
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: tqdm[Any] | None = None
        self._writer: ResultWriter | None = None

    def disable(self) -> None:
        """Show nothing, as on other ranks than the first; called by Lightning."""
        self._enabled = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin; called by Lightning."""
        self._begin("training", _n_batches(trainer), trainer.fit_loop.total_batch_idx + 1)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Move on; called by Lightning."""
        if self._bar is not None:
            self._bar.update(trainer.fit_loop.total_batch_idx + 1 - self._bar.n)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show epoch and scores; called by Lightning."""
        if self._bar is not None:
            logged = trainer.callback_metrics
            scores = {name: f"{float(logged[name]):.4g}" for name in SCORES if name in logged}
            epochs = f"{trainer.current_epoch + 1}/{trainer.max_epochs}"
            self._bar.set_postfix({"epoch": epochs} | scores, refresh=False)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin; called by Lightning."""
        self._begin("test", int(sum(trainer.num_test_batches)), 0)

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Move on; called by Lightning."""
        if self._bar is not None:
            self._bar.update()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin, with the blocks that are there already; called by Lightning."""
        writers = (c for c in getattr(trainer, "callbacks", []) if isinstance(c, ResultWriter))
        self._writer = next(writers, None)
        if self._writer is None:
            self._begin("prediction", int(sum(trainer.num_predict_batches)), 0)
        else:
            blocks = self._writer.progress
            self._begin("prediction", blocks.n, blocks.n_there, "block")

    def on_predict_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Move on; called by Lightning."""
        if self._bar is None:
            return
        if self._writer is None:
            self._bar.update()
        else:
            self._bar.update(self._writer.progress.of_all(trainer.world_size) - self._bar.n)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Fill the bar, as all processes have ended; called by Lightning, of writers before."""
        if self._bar is not None:
            self._bar.update((self._bar.total or 0) - self._bar.n)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the bar as it is; called by Lightning."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave the bar as it is; called by Lightning."""
        self.teardown(trainer, pl_module, "")

    def _begin(self, what: str, total: int | None, done: int, unit: str = "batch") -> None:
        off = not self._enabled
        self._bar = tqdm(desc=what, total=total, initial=done, unit=unit, disable=off)


def _n_batches(trainer: L.Trainer) -> int | None:
    """Count the batches of a run; None where it has no end."""
    per_epoch = trainer.num_training_batches
    if per_epoch == float("inf"):
        return None
    ends = []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        ends.append(trainer.max_epochs * int(per_epoch))
    if trainer.max_steps >= 0:
        each = trainer.accumulate_grad_batches  # an epoch's last step may be of fewer
        epochs, steps = divmod(trainer.max_steps, ceil(per_epoch / each))
        ends.append(epochs * int(per_epoch) + steps * each)
    return min(ends, default=None)
