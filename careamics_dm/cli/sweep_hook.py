"""A sweep compares its jobs at its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode

from careamics_dm.cli.secrets import hide
from careamics_dm.cli.sweep_table import Job, compare, forget_jobs, note_job

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig

_begun: list[Path] = []
"""Folders of sweeps that this process has begun and not compared: Hydra tells the end of those
without a failure only."""


class CompareJobs(Callback):
    """Note what becomes of each job of a sweep, and compare them when all have ended.

    Hydra calls it. Jobs may run in other processes, which share the folder of the sweep.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Forget an earlier sweep in the same folder."""
        del kwargs
        folder = Path(str(config.hydra.sweep.dir)).absolute()
        forget_jobs(folder)
        _begun.append(folder)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note that a job has begun."""
        del kwargs
        _note(config, "unfinished")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Note how a job has ended."""
        del kwargs
        _note(config, "done" if job_return.status == JobStatus.COMPLETED else "failed")


def compare_begun() -> None:
    """Compare the jobs of the sweeps that this process has begun, however they ended."""
    while _begun:
        if said := compare(_begun.pop()):
            print(f"\n{said}")


def _note(config: DictConfig, state: str) -> None:
    if config.hydra.mode != RunMode.MULTIRUN:
        return
    settings = HydraConfig.get()
    pairs = [text.lstrip("+").partition("=") for text in hide(list(settings.overrides.task))]
    job = Job(
        number=int(settings.job.num),
        overrides={key: value for key, _, value in pairs},
        folder=Path(settings.runtime.output_dir),
        state=state,
    )
    note_job(Path(settings.runtime.cwd, str(settings.sweep.dir)), job)
