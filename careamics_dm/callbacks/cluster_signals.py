"""Signals that end a run, and the file that it leaves: without torch, for a quick start."""

import signal

LAST = "last.ckpt"
"""To resume from, beside a model.ckpt that holds the best weights."""
OF_SCHEDULERS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
"""Signals by which schedulers end a run, or announce its time limit; Windows lacks the latter."""
