"""Optimiser and learning rates of a run, also of one that goes on with other settings."""

import copy
import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from careamics_dm.models.trainer_data import configure_scheduler

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
MakeScheduler = Callable[[torch.optim.Optimizer], LRScheduler]
_KEY = "learning_plan"
"""Name of the settings in a checkpoint."""


class LearningPlan(L.Callback):
    """Makes optimiser and scheduler, and notes their settings in checkpoints.

    Lightning restores what the two had become, with all settings. Where those of a resumed run
    differ from those of its checkpoint (more epochs, another rate), the run goes on as if it had
    had its own from the beginning; where they don't, nothing is touched.
    """

    def __init__(self, optimizer: MakeOptimizer | None, scheduler: MakeScheduler | None) -> None:
        self._make_optimizer = optimizer or functools.partial(torch.optim.Adam, lr=1e-3)
        self._make_scheduler = scheduler
        self._settings: dict[str, Any] = {}
        self._restored: dict[str, Any] | None = None

    def configure(self, module: L.LightningModule, lr: float | None) -> OptimizerLRScheduler:
        """Make both, as Lightning takes them; ``lr`` replaces the optimiser's own."""
        optimizer = self._make_optimizer(module.parameters())
        for group in optimizer.param_groups if lr is not None else ():
            group["lr"] = lr
        config: Any = {"optimizer": optimizer}
        if self._make_scheduler is not None:
            config["lr_scheduler"] = configure_scheduler(self._make_scheduler, optimizer, module)
        scheduler = config.get("lr_scheduler", {}).get("scheduler")
        groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
        state = None if scheduler is None else scheduler.state_dict()
        self._settings = copy.deepcopy({"optimizer": groups, "scheduler": state})
        found: OptimizerLRScheduler = config
        return found

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note the settings in a checkpoint; called by Lightning."""
        checkpoint[_KEY] = self._settings

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember the settings that a checkpoint notes, if it does; called by Lightning."""
        self._restored = checkpoint.get(_KEY)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the settings of this run hold if its checkpoint has others; called by Lightning."""
        restored, self._restored = self._restored, None
        if restored is None or not self._settings or restored == self._settings:
            return
        optimizer, configs = trainer.optimizers[0], trainer.lr_scheduler_configs
        before = optimizer.param_groups[0]["lr"]
        for group, own in zip(optimizer.param_groups, self._settings["optimizer"], strict=True):
            group.update(copy.deepcopy(own))
        scheduler = configs[0].scheduler if configs else None
        if isinstance(scheduler, LRScheduler) and not isinstance(scheduler, ReduceLROnPlateau):
            assert self._make_scheduler is not None
            fresh = configure_scheduler(self._make_scheduler, optimizer, pl_module)["scheduler"]
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                for _ in range(scheduler.last_epoch):
                    fresh.step()
            scheduler.load_state_dict(fresh.state_dict())
        rank_zero_info(
            "The settings of the learning rate differ from those of the checkpoint: it goes on "
            f"with {optimizer.param_groups[0]['lr']:.6g}, not {before:.6g}."
        )
