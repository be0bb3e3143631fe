"""Ctrl+C, SIGTERM and SIGUSR1 end a run between two batches, with a checkpoint to go on from."""

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch

from careamics_dm.callbacks.cluster_signals import LAST, OF_SCHEDULERS

MESSAGE = (
    b"\nStopping after this batch (in validation, after it); press Ctrl+C again to stop at once.\n"
)


class StopOnRequest(L.Callback):
    """End a run after its batch on Ctrl+C, SIGTERM or SIGUSR1, and at once on a second Ctrl+C.

    Training saves ``last.ckpt`` before it ends, from which it goes on with the very next batch. In
    the last batch of an epoch and in validation it first finishes the epoch, which `SaveModel`
    saves. All processes of a run stop at the same batch. The end is a KeyboardInterrupt with the
    signal as its argument.

    A KeyboardInterrupt at any place could be lost: Python ignores one inside a destructor, such as
    that of a loader's iterator, which waits for its reader threads at the end of every epoch.

    Parameters
    ----------
    folder : path, optional
        Where training saves ``last.ckpt``; None: it saves nothing.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder).expanduser()
        self._requested: int | None = None
        self._launcher: Any = None
        self._before: dict[int, Any] = {}

    def _listen(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Handle the signals from now on; called by Lightning, after it has set its own handlers.

        Where Ctrl+C is ignored, or handled by others, it stays so.
        """
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        self._launcher = trainer.strategy.launcher
        for number in (signal.SIGINT, *OF_SCHEDULERS):
            before = signal.getsignal(number)
            if number != signal.SIGINT or before is signal.default_int_handler:
                self._before[number] = before
                signal.signal(number, self._request)

    on_sanity_check_start = on_train_start = _listen
    on_validation_start = on_test_start = on_predict_start = _listen

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        """Restore the handlers; called by Lightning, which ignores signals while it shuts down."""
        for number, before in self._before.items():
            if signal.getsignal(number) == self._request:
                signal.signal(number, before)
        self._before.clear()

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Restore the handlers, and stop if that was requested meanwhile; called by Lightning."""
        self.on_exception()
        self._stop()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Save and stop if that was requested, unless an epoch or a step is about to end."""
        # Gradients that add up over batches are in no checkpoint.
        done = (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if done and not trainer.is_last_batch and self._agreed(trainer):
            if self.folder is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                trainer.save_checkpoint(self.folder / LAST, weights_only=False)
            self._stop()

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Stop if that was requested in the epoch before, which `SaveModel` has saved."""
        if self._agreed(trainer):
            self._stop()

    def _agreed(self, trainer: L.Trainer) -> bool:
        """Whether a stop was requested of any process; they save, and end, together."""
        mine = torch.tensor(self._requested or 0, device=trainer.strategy.root_device)
        asked = int(trainer.strategy.reduce(mine, reduce_op="max"))
        self._requested = asked or None
        return bool(asked)

    def _stop(self, *args: Any, **kwargs: Any) -> None:
        """Stop if that was requested; called by Lightning before a batch of test or prediction."""
        if self._requested is not None:
            number, self._requested = self._requested, None
            raise KeyboardInterrupt(number)

    on_test_batch_start = on_predict_batch_start = _stop

    def _request(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT and self._launcher is not None:
            self._launcher.kill(number)  # the processes that this one has started
        if self._requested is None:
            self._requested = number
        elif number == signal.SIGINT:  # schedulers may repeat the others
            raise KeyboardInterrupt(number)
        else:
            return
        os.write(2, MESSAGE)  # print could be what was interrupted
