"""Learning-rate schedules that span a run."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


def make_scheduler(
    make: Callable[[Optimizer], LRScheduler], optimizer: Optimizer, epochs: int | None
) -> LRScheduler:
    """Make a scheduler, which spans the run where it leaves its ``T_max`` open.

    Parameters
    ----------
    make : callable
        Makes it from the optimiser. A ``functools.partial`` with ``T_max=None`` gets ``epochs``.
    optimizer : Optimizer
        Whose learning rate it changes.
    epochs : int or None
        Epochs of the run; None or below 1 if without end.

    Returns
    -------
    LRScheduler
        The scheduler.

    Raises
    ------
    ValueError
        If ``T_max`` is open and the run without end.
    """
    if isinstance(make, functools.partial) and make.keywords.get("T_max", 0) is None:
        if epochs is None or epochs < 1:
            raise ValueError(
                "the learning-rate scheduler has no T_max, which is then the run's length, but "
                f"max_epochs={epochs}; set trainer.max_epochs or the scheduler's T_max."
            )
        make = functools.partial(make, T_max=epochs)
    return make(optimizer)
