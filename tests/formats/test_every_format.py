"""What every format promises, with the same image in each; formats are found by their YAML."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections import Counter
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import pytest
from apps import ALLOWED, compose
from hydra.utils import instantiate
from modules import digest
from omegaconf import OmegaConf

from careamics_dm.samples.formats import write
from careamics_dm.samples.simulation import load
from careamics_dm.testing.datamodule_checks import check_datamodule, check_image_stack

CONF = Path(str(resources.files("careamics_dm.conf")))
FORMATS = sorted(path.stem for path in (CONF / "data").glob("*.yaml"))
SECONDS = 120


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    return {path.parent.name: path for path in write(folder)}


@contextmanager
def time_limit(seconds):
    """Fail, and don't wait for ever, where processes wait for each other."""

    def stop(*_):
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def module(name, path, **options):
    """Make a DataModule as the command line does with experiment=formats."""
    config = compose("train", f"data={name}", "experiment=formats").data
    return instantiate(
        OmegaConf.merge(config, {"axes": "SCYX", "train_data": str(path)}, options), **ALLOWED
    )


def test_there_is_a_copy_for_each_format(copies):
    assert sorted(copies) == FORMATS


@pytest.mark.parametrize("name", FORMATS)
def test_the_image_is_the_same(name, copies):
    data = module(name, copies[name], in_memory=False)
    data.setup("fit")
    (stack,) = data.images_of("train").stacks
    assert stack.source.startswith(str(copies[name]))
    check_image_stack(stack, load("nuclei").noisy[None, None])
    data.teardown("fit")


@pytest.mark.parametrize("name", FORMATS)
def test_the_promises_are_kept(name, copies):
    check_datamodule(
        module(
            name,
            copies[name],
            predict_data=str(copies[name]),
            in_memory=False,
            patch_size=[100, 100],
            tile_size=[200, 190],
            patches_per_epoch=24,
            batch_size=5,
        )
    )


def patches(data):
    """Go through an epoch and count its patches as stored."""
    found = Counter(digest(patch) for batch in data.train_dataloader() for patch in batch["image"])
    data.teardown("fit")
    return found


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than there are cores
@pytest.mark.parametrize(
    ("name", "method", "counts"),
    [(name, "fork", (2, 4)) for name in FORMATS]
    + [("array", "forkserver", (2,)), ("czi", "forkserver", (2,)), ("zarr", "spawn", (2,))],
)
def test_processes_draw_the_same_patches_after_this_one_has_read(name, method, counts, copies):
    options = {"in_memory": False, "patches_per_epoch": 40, "batch_size": 4, "pool_mib": 1}
    with time_limit(SECONDS):
        alone = module(name, copies[name], **options)
        expected = patches(alone)
        assert expected.total() == 40
        for workers in counts:
            data = module(name, copies[name], num_workers=workers, start_method=method, **options)
            data.measure_statistics()  # this process reads, with threads, before it forks
            assert patches(data) == expected
            assert data.statistics == alone.statistics


@contextmanager
def descriptors(more):
    """Allow only so many more open files than there are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    now = sum(1 for _ in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (now + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("name", FORMATS)
def test_of_hundreds_of_files_few_are_open_at_once(name, copies, tmp_path):
    files = [tmp_path / f"{i:03d}{copies[name].suffix}" for i in range(200)]
    for file in files:
        if copies[name].is_dir():
            shutil.copytree(copies[name], file, copy_function=os.link)
        else:
            os.link(copies[name], file)
    options = {"in_memory": False, "pool_mib": 1, "patch_size": [256, 256], "sampling": "grid"}
    options |= {"train_data": list(map(str, files)), "n_val_patches": 0}
    data = module(name, copies[name], **options)
    with descriptors(100):
        data.setup("fit")
        assert len(data.images_of("train").stacks) == 200
        assert sum(len(batch["image"]) for batch in data.train_dataloader()) == 800
        data.teardown("fit")


def test_all_formats_give_the_same_batches(copies):
    drawn = [patches(module(name, copies[name], seed=3)) for name in FORMATS]
    assert all(one == drawn[0] for one in drawn)
