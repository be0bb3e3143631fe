"""Learning-rate schedulers that suit the run."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from careamics_dm.models.trainer_data import validates

if TYPE_CHECKING:
    from collections.abc import Callable

    import lightning as L
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


def configure_scheduler(
    make: Callable[[Optimizer], LRScheduler], optimizer: Optimizer, module: L.LightningModule
) -> dict[str, Any]:
    """Make a scheduler and say how Lightning steps it: ``lr_scheduler`` of its configuration.

    A ``functools.partial`` with ``T_max=None`` gets the number of epochs, or raises a ValueError
    where there is none. ``ReduceLROnPlateau`` follows ``val_loss`` if there is one.
    """
    trainer = module.trainer
    if isinstance(make, functools.partial) and make.keywords.get("T_max", 0) is None:
        if trainer.max_epochs is None or trainer.max_epochs < 1:
            raise ValueError(
                "the learning-rate scheduler has no T_max, which is then the run's length, but "
                f"max_epochs={trainer.max_epochs}; set trainer.max_epochs or the scheduler's T_max."
            )
        make = functools.partial(make, T_max=trainer.max_epochs)
    scheduler = make(optimizer)
    if not isinstance(scheduler, ReduceLROnPlateau):
        return {"scheduler": scheduler}
    if not validates(module):
        return {"scheduler": scheduler, "monitor": "train_loss"}
    # Between validations there is no new val_loss.
    every = trainer.check_val_every_n_epoch or 1
    return {"scheduler": scheduler, "monitor": "val_loss", "frequency": every}
