"""What every test is held to, and a few small helpers."""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# For so little work, more threads only wait for each other (measured: up to ten times as long).
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of what tests start, and of notebooks
# New processes that inherit nothing, forked from a clean one that has imported this once: where a
# test starts several, and spawning itself is not what it tests.
multiprocessing.set_forkserver_preload(
    ["careamics_dm.cli.train", "careamics_dm.testing.datamodule_checks"]
)
# No deadlines: they tell how busy the machine is.
settings.register_profile("no deadlines", deadline=None)
settings.load_profile("no deadlines")
DESCRIPTORS = Path("/proc/self/fd")
NOT_ON_WINDOWS = re.compile(r'"fork"|_fork"|(import|from) resource|outcomes|mkfifo|os\.fork')


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out, on Windows, the files of tests that need what it lacks."""
    if os.name != "nt" or collection_path.suffix != ".py":
        return None
    return bool(NOT_ON_WINDOWS.search(collection_path.read_text("utf-8"))) or None


def open_files(folder: Path) -> list[str]:
    """Files below a folder that this process has open."""
    found = []
    for link in list(DESCRIPTORS.iterdir()) if DESCRIPTORS.exists() else []:
        try:
            target = link.readlink()
        except OSError:  # closed meanwhile
            continue
        if target.is_relative_to(folder):
            found.append(str(target))
    return found


def reader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("reader")]


def wait_for_none(leftovers):
    """Give what a failed assertion or a cycle still holds a moment to go."""
    if leftovers():
        gc.collect()
        for _ in range(20):
            if not leftovers():
                break
            time.sleep(0.05)
    assert not leftovers()


@pytest.fixture(autouse=True)
def threads_end():
    """Fail a test that leaves a reader thread running."""
    yield
    wait_for_none(reader_threads)


@pytest.fixture
def files_close(tmp_path):
    """Fail a test that leaves a file below its folder open."""
    yield
    wait_for_none(lambda: open_files(tmp_path))
