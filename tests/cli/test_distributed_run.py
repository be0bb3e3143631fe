"""Processes of one run share its folder, and the job of a sweep; schedulers start them again."""

import json
import multiprocessing
import os
import socket
import sys

import lightning as L
import pytest
import torch.distributed as dist
from apps import SMALL, run, write_tiffs

from careamics_dm.cli.application import NOT_ASKED
from careamics_dm.cli.distributed_run import (
    BEGAN,
    JOB,
    connect,
    is_restarted,
    join_others,
    one_job,
    requeue,
)
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
        ({"SLURM_STEP_ID": "1"}, "slurm-77-1"),
        ({"SLURM_STEP_ID": "1", "SLURM_RESTART_COUNT": "2"}, "slurm-77-1"),  # where it goes on
        ({}, None),  # a batch script without srun
    ],
)
def test_tasks_of_slurm_name_the_folder_after_their_job(variables, name):
    job = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}
    os.environ.update(variables | job)
    join_others()
    assert os.environ.get(BEGAN) == name


@pytest.mark.parametrize(
    ("variables", "restarted"),
    [
        ({}, False),
        ({"SLURM_RESTART_COUNT": "0", "TORCHELASTIC_RESTART_COUNT": ""}, False),
        ({"SLURM_RESTART_COUNT": "1"}, True),
        ({"TORCHELASTIC_RESTART_COUNT": "2"}, True),
    ],
)
def test_schedulers_count_how_often_they_start_a_run(variables, restarted):
    os.environ.update(variables)
    assert is_restarted() is restarted


@pytest.mark.parametrize("started", ["SLURM", "torchrun", "torchrun in SLURM"])
def test_a_trainer_that_leaves_processes_out_is_refused(started):
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    if "SLURM" in started:
        os.environ.update(SLURM_NTASKS="2" if started == "SLURM" else "1", SLURM_STEP_ID="0")
    if "torchrun" in started:
        torchrun(0, 1)
    with pytest.raises(DataError, match=r"^2 processes were started.* make 1\. Set trainer\.dev"):
        connect(trainer)


@pytest.mark.parametrize(
    ("variables", "code", "said", "asked"),
    [
        ({}, 0, "", ""),
        (
            {"SLURM_JOB_ID": "77"},
            0,
            " SLURM will restart job 77, which then goes on by itself.",
            "77",
        ),
        (
            {"SLURM_JOB_ID": "79", "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "3"},
            *(0, " SLURM will restart job 77_3, which then goes on by itself.", "77_3"),
        ),
        ({"SLURM_JOB_ID": "77"}, 1, " SLURM could not requeue job 77: no right", "77"),
    ],
)
def test_a_job_asks_slurm_to_be_started_again(tmp_path, variables, code, said, asked):
    log = tmp_path / "log"
    (tmp_path / "scontrol").write_text(
        f"#!/bin/sh\necho $* > {log}; echo no right >&2; exit {code}"
    )
    (tmp_path / "scontrol").chmod(0o755)
    os.environ.update(variables | {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    sys.argv.append("hydra.run.dir=here")
    assert requeue() == said
    assert (log.read_text() if log.exists() else "") == (f"requeue {asked}\n" if asked else "")


def test_a_job_is_not_started_again_where_it_would_not_find_its_folder():
    os.environ["SLURM_JOB_ID"] = "77"
    assert "With hydra.run.dir=FOLDER" in requeue()


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
    torchrun(0, store.port, TORCHELASTIC_RESTART_COUNT="1")
    join_others()
    assert os.environ[BEGAN] == names[0]


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


TOGETHER = ("trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp")
DATA = ("data=tiff", "data.train_data=images", "data.predict_data=images", *SMALL, *TOGETHER)


def refuse_in_rank(rank, port, folder):
    """Begin, as torchrun does, what is refused; write down what this rank says of it."""
    torchrun(rank, port, LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    del os.environ["TORCHELASTIC_USE_AGENT_STORE"]
    done = run("train", folder, *DATA, "overwrite=false")
    more = run("train", folder, *DATA, "writer.folder=images/image_0.tif")
    said = [text.split("careamics-train: ")[1:] for text in (done.err, more.err)]
    (folder / f"{rank}").write_text(json.dumps([done.code, more.code, *said]))


def fail_in_rank(rank, port, folder):
    """Train, as torchrun does, until this rank finds what is wrong in it alone, or ends with it."""
    torchrun(rank, port, LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    del os.environ["TORCHELASTIC_USE_AGENT_STORE"]
    sys.path.insert(0, str(folder))
    fails = "{_target_: hydra.utils.get_method, path: second.fails}"
    done = run("train", folder, *DATA, f"data.augmentation={fails}")
    (folder / f"{rank}").write_text(json.dumps([done.code, done.err]))


def in_two_processes(work, folder):
    """Do some work in both ranks; return what they have written down."""
    write_tiffs(folder / "images", "YX", [(32, 32)])
    with socket.socket() as server:
        server.bind(("localhost", 0))
        port = server.getsockname()[1]
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=work, args=(r, port, folder)) for r in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(100)
    return [json.loads((folder / f"{rank}").read_text()) for rank in range(2)]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of Python 3.12
def test_what_the_first_rank_refuses_ends_all_with_one_message(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.ckpt").touch()
    first, second = in_two_processes(refuse_in_rank, tmp_path)
    assert first[:2] == [1, 1] and second == [1, 1, [], []]
    assert len(first[2]) == len(first[3]) == 1
    assert "has the results of another training (model.ckpt)" in first[2][0]
    assert "images/image_0.tif can't be written to" in first[3][0]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of Python 3.12
def test_what_goes_wrong_in_one_rank_ends_all_with_a_message_of_each(tmp_path):
    (tmp_path / "second.py").write_text(
        "import os\ndef fails(batch):\n"
        "    if os.environ['RANK'] == '1': raise ValueError('too bright')\n    return batch\n"
    )
    first, second = in_two_processes(fail_in_rank, tmp_path)
    assert first[0] == second[0] == 1
    assert "careamics-train: another process of this run has ended; its own message" in first[1]
    assert "careamics-train: too bright" in second[1]
    assert "Traceback" not in first[1] + second[1]


def test_a_process_that_another_one_starts_shows_no_stack_trace_unless_users_ask(tmp_path):
    os.environ |= {"HYDRA_FULL_ERROR": "1", NOT_ASKED: "1"}
    assert "careamics-train: data.batch_size=0" in run("train", tmp_path, "data.batch_size=0").err
    assert os.environ["HYDRA_FULL_ERROR"] == os.environ.pop(NOT_ASKED) == "1"
    with pytest.raises(Exception, match="batch_size=0"):
        run("train", tmp_path, "data.batch_size=0")
