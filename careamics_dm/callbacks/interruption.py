"""Ctrl+C ends a run between two batches."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import lightning as L

MESSAGE = b"\nStopping before the next batch; press Ctrl+C again to stop at once.\n"


class StopOnRequest(L.Callback):
    """End a run before its next batch after Ctrl+C, and at once after a second Ctrl+C.

    A KeyboardInterrupt at any place could be lost: Python ignores one inside a destructor, such as
    that of a loader's iterator, which waits for its reader threads at the end of every epoch.
    """

    def __init__(self) -> None:
        self._requested = False

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Handle Ctrl+C from now on, unless another handler does; called by Lightning."""
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._request)

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        """Restore Python's handler; called by Lightning."""
        # Lightning ignores further signals while it shuts down.
        if signal.getsignal(signal.SIGINT) == self._request:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Restore Python's handler, and stop if the last batch was interrupted."""
        self.on_exception()
        self._stop()

    def _stop(self, *args: Any, **kwargs: Any) -> None:
        """Stop if that was requested; called by Lightning before every batch."""
        if self._requested:
            self._requested = False
            raise KeyboardInterrupt

    on_train_batch_start = on_validation_batch_start = _stop
    on_test_batch_start = on_predict_batch_start = _stop

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
        os.write(2, MESSAGE)  # print could be what was interrupted
