"""Ctrl+C ends a run, wherever it strikes."""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import lightning as L

if TYPE_CHECKING:
    from sys import UnraisableHookArgs
    from types import FrameType


class StopOnRequest(L.Callback):
    """End a run at the next batch after Ctrl+C, if not at once.

    Python drops a KeyboardInterrupt that strikes in a destructor, and a loader's iterator has one,
    which waits for its reader threads at the end of every epoch. So the wish is remembered.
    """

    def __init__(self) -> None:
        self.asked = False
        self._active = False
        self._hook = sys.unraisablehook

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Watch for Ctrl+C, unless someone else does; called by Lightning."""
        del trainer, pl_module, stage
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._active, self._hook = True, sys.unraisablehook
            sys.unraisablehook = self._unraisable
            signal.signal(signal.SIGINT, self._remember)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave things as they were; called by Lightning."""
        del trainer, pl_module, stage
        if self._active:
            self._active = False
            sys.unraisablehook = self._hook
            # Lightning ignores further signals while it shuts down.
            if signal.getsignal(signal.SIGINT) == self._remember:
                signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave things as they were; called by Lightning."""
        del exception
        self.teardown(trainer, pl_module, "")

    def on_train_batch_start(self, *_: Any) -> None:
        """See `StopOnRequest`; called by Lightning."""
        self._stop()

    def on_validation_batch_start(self, *_: Any) -> None:
        """See `StopOnRequest`; called by Lightning."""
        self._stop()

    def on_test_batch_start(self, *_: Any) -> None:
        """See `StopOnRequest`; called by Lightning."""
        self._stop()

    def on_predict_batch_start(self, *_: Any) -> None:
        """See `StopOnRequest`; called by Lightning."""
        self._stop()

    def _stop(self) -> None:
        if self.asked:
            raise KeyboardInterrupt

    def _remember(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.asked = True
        raise KeyboardInterrupt

    def _unraisable(self, dropped: UnraisableHookArgs) -> None:
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            self._hook(dropped)
