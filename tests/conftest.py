"""What every test is held to, and a few small helpers."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# For so little work, more threads only wait for each other (measured: up to ten times as long).
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of what tests start, and of notebooks
# No deadlines: they tell how busy the machine is.
settings.register_profile("no deadlines", deadline=None)
settings.load_profile("no deadlines")
DESCRIPTORS = Path("/proc/self/fd")


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
