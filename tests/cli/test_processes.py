"""Processes of one run share its folder, and the job of a sweep."""

import json
import os
import sys

import pytest
import torch.distributed as dist
from apps import run

from careamics_dm.cli.processes import BEGAN, JOB, join_others, one_job
from careamics_dm.errors import DataError


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Set nothing that makes this process one of several."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_", "CAREAMICS_DM_")) or "RANK" in name:
            monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "argv", ["careamics-train", "data=tiff"])
    yield
    os.environ.clear()
    os.environ.update(before)


def test_a_process_alone_stays_as_it_is():
    join_others()
    assert BEGAN not in os.environ and sys.argv == ["careamics-train", "data=tiff"]


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "1"}, "slurm-77-1-0"),
        ({"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "2"}, "slurm-77-0-2"),
    ],
)
def test_tasks_of_slurm_name_the_folder_after_their_job(variables, name):
    os.environ.update(variables | {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"})
    join_others()
    assert os.environ[BEGAN] == name


def torchrun(rank: int, port: int, **others: str) -> None:
    os.environ.update(
        TORCHELASTIC_RUN_ID="none",
        TORCHELASTIC_USE_AGENT_STORE="True",
        WORLD_SIZE="2",
        RANK=str(rank),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        **others,
    )


def test_processes_of_torchrun_agree_on_when_they_began():
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    names = []
    for rank in range(2):
        torchrun(rank, store.port)
        join_others()
        names.append(os.environ.pop(BEGAN))
    assert names[0] == names[1] and len(names[0]) == len("2026-01-31/12-00-00")


def test_processes_that_cannot_agree_need_a_folder():
    torchrun(1, 1)
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    with pytest.raises(DataError, match=r"hydra\.run\.dir=FOLDER"):
        join_others()
    sys.argv.append("hydra.run.dir=here")
    join_others()


def test_the_folder_of_a_run_ends_with_it(tmp_path):
    os.environ[BEGAN] = "slurm-77-0-0"
    run("train", tmp_path, "data.batch_size=0", folder=None)
    assert (tmp_path / "outputs/train/slurm-77-0-0/.hydra").is_dir()


def test_a_process_that_a_job_of_a_sweep_starts_runs_this_job_alone():
    sys.argv[1:] = ["-m", "--config-dir=mine", "data=tiff,zarr", "~logger"]
    with one_job(["data=zarr", "~logger"], "/sweep/1"):
        os.environ |= {"LOCAL_RANK": "1", "WORLD_SIZE": "2"}  # as Lightning does
        join_others()
        started = sys.argv[1:]
    assert started == [
        *("--config-dir=mine", "data=zarr", "~logger"),
        *("hydra.run.dir='/sweep/1'", "hydra.output_subdir=null"),
    ]
    assert not {JOB, "LOCAL_RANK", "WORLD_SIZE"} & os.environ.keys()


def test_the_first_process_of_a_job_goes_on_with_the_sweep():
    os.environ |= {JOB: json.dumps(["data=zarr"]), "LOCAL_RANK": "0"}
    join_others()
    assert sys.argv == ["careamics-train", "data=tiff"]
