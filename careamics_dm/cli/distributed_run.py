"""Runs of several processes and of schedulers: who takes part, where, and how they restart."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from careamics_dm.errors import DataError

if TYPE_CHECKING:
    import lightning as L

BEGAN = "CAREAMICS_DM_BEGAN"
"""When a run began, or its job of SLURM: with it the name of the folder ends, in all processes."""
JOB = "CAREAMICS_DM_JOB"
"""Arguments of the job of a sweep that a process belongs to."""
_ELASTIC = "TORCHELASTIC_RUN_ID"
"""Set in processes of torchrun."""


def join_others() -> None:
    """Take over folder and job, where this process is one of several of a run."""
    environment = os.environ
    if JOB in environment and environment.get("LOCAL_RANK", "0") != "0":
        sys.argv[1:] = json.loads(environment[JOB])
    elif n_started() > 1 and _ELASTIC in environment:
        environment[BEGAN] = _agree()
    elif n_started() > 1:
        # The same when the job is started again.
        environment[BEGAN] = f"slurm-{environment['SLURM_JOB_ID']}-{environment['SLURM_STEP_ID']}"


@contextmanager
def one_job(overrides: Sequence[str], folder: str) -> Iterator[None]:
    """Let the processes that a job of a sweep starts run this job alone, and end with it."""
    before = dict(os.environ)
    flags = [text for text in sys.argv[1:] if text[0] == "-" or not set("=~") & set(text)]
    flags = [text for text in flags if text not in ("-m", "--multirun")]
    own = [f"hydra.run.dir='{folder}'", "hydra.output_subdir=null"]
    os.environ[JOB] = json.dumps([*flags, *overrides, *own])
    try:
        yield
    finally:
        import torch.distributed as dist  # late: commands begin without torch

        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
        os.environ.clear()  # Lightning would take the next job for one that others have started
        os.environ.update(before)


def n_started() -> int:
    """Return how many processes ``srun`` or torchrun has started together with this one."""
    if _ELASTIC in os.environ:  # also where srun has started torchrun
        return int(os.environ["WORLD_SIZE"])
    # Not in a batch script itself.
    return int(os.environ.get("SLURM_NTASKS", 1)) if "SLURM_STEP_ID" in os.environ else 1


def _names_folder() -> bool:
    """Whether the command line says where the run, or the sweep, is."""
    return any(text.startswith(("hydra.run.dir=", "hydra.sweep.dir=")) for text in sys.argv)


def _agree() -> str:
    """Return the time at which the first of the processes of torchrun began."""
    if _names_folder():
        return ""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise DataError("give the processes of this run a folder in common: hydra.run.dir=FOLDER.")
    import torch.distributed as dist  # late, as above

    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(*address, is_master=False)  # type: ignore[attr-defined]
    key = "careamics_dm/began"
    if os.environ["RANK"] == "0":  # of processes that are started again, what was set first holds
        store.compare_set(key, "", datetime.now().strftime("%Y-%m-%d/%H-%M-%S"))
    return str(store.get(key).decode())


def is_restarted() -> bool:
    """Whether a scheduler has started this run again, with the command that it began with."""
    counts = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
    return any(int(os.environ.get(name) or 0) > 0 for name in counts)


def connect(trainer: "L.Trainer") -> None:
    """Connect processes that were started together: what one finds wrong, all hear of.

    Processes that Lightning starts come later, when the first one has found nothing wrong. Refuse a
    trainer that leaves some of them out.
    """
    if (n := n_started()) == 1:
        return
    if n != trainer.world_size:
        raise DataError(
            f"{n} processes were started for this run, but trainer.devices and trainer.num_nodes "
            f"make {trainer.world_size}. Set trainer.devices to the number of processes per node, "
            "and trainer.num_nodes to that of nodes."
        )
    trainer.strategy.setup_environment()


def requeue() -> str:
    """Ask SLURM, if this is one of its jobs, to start it again; return what became of that.

    Only where it will find the folder of its run, as all processes of ``srun`` do.
    """
    environment = os.environ
    job = environment.get("SLURM_JOB_ID")
    if job is None:
        return ""
    if not (_names_folder() or environment.get(BEGAN, "").startswith("slurm-")):
        return " With hydra.run.dir=FOLDER, SLURM could start it again, and it would go on."
    if array := environment.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{environment['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", None) or error
        return f" SLURM could not requeue job {job}: {str(why).strip()}"
    return f" SLURM will restart job {job}, which then goes on by itself."
