"""Runs of several processes: they share a folder, and run the same job of a sweep."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

import torch.distributed as dist

from careamics_dm.errors import DataError

BEGAN = "CAREAMICS_DM_BEGAN"
"""When a run began, or its job of SLURM: with it the name of the folder ends, in all processes."""
JOB = "CAREAMICS_DM_JOB"
"""Arguments of the job of a sweep that a process belongs to."""


def join_others() -> None:
    """Take over folder and job, where this process is one of several of a run."""
    environment = os.environ
    if JOB in environment and environment.get("LOCAL_RANK", "0") != "0":
        sys.argv[1:] = json.loads(environment[JOB])
    elif int(environment.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in environment:
        names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
        environment[BEGAN] = "-".join(["slurm", *(environment.get(name, "0") for name in names)])
    elif "TORCHELASTIC_RUN_ID" in environment and int(environment["WORLD_SIZE"]) > 1:
        environment[BEGAN] = _agree()


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
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
        os.environ.clear()  # Lightning would take the next job for one that others have started
        os.environ.update(before)


def _agree() -> str:
    """Return the time at which the first of the processes of torchrun began."""
    if any(text.startswith("hydra.run.dir=") for text in sys.argv):
        return ""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise DataError("give the processes of this run a folder in common: hydra.run.dir=FOLDER.")
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(*address, is_master=False)  # type: ignore[attr-defined]
    key = f"careamics_dm/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if os.environ["RANK"] == "0":
        store.set(key, datetime.now().strftime("%Y-%m-%d/%H-%M-%S"))
    return str(store.get(key).decode())
