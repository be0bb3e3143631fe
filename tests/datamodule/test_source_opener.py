"""What the processes of a run decide together about their images."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
import tifffile
import torch
import torch.distributed as dist

from careamics_dm import ArrayDataModule, TiffDataModule, predict
from careamics_dm.cli.trained_model import TrainedModel
from careamics_dm.datamodule import source_opener
from careamics_dm.errors import DataError


def one_of_two(rank: int, folder, free: int, connect_first: bool, answers) -> None:
    """Say, in one of two processes, whether images are in memory, and how they are normalised."""
    source_opener.available_bytes = lambda: free
    data = TiffDataModule(train_data=folder / "a.tif", patch_size=(8, 8), seed=rank)
    if not connect_first:
        data.setup("fit")
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2
    )
    data.setup("fit")
    (stack,) = data.images_of("train").stacks
    answers.put((rank, stack.in_memory, data.measure_statistics()["image"]))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("free", "connect_first"),
    [([2**40, 0], True), ([0, 2**40], False), ([2**40, 0], False), ([2**40, 2**40], False)],
)
def test_images_are_in_the_memory_of_all_if_each_has_enough(tmp_path, free, connect_first):
    pixels = np.random.default_rng(0).poisson(200, (64, 64)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, metadata={"axes": "YX"})
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    both = [
        context.Process(target=one_of_two, args=(i, tmp_path, free[i], connect_first, answers))
        for i in range(2)
    ]
    for process in both:
        process.start()
    (_, *one), (_, *other) = sorted(answers.get(timeout=60) for _ in both)
    for process in both:
        process.join()
    assert one == other and one[0] is all(free)


@pytest.mark.parametrize("shard", ["0/16", "17/16", "a/b", "3", "1/0", 3])
def test_a_share_that_is_none_is_refused(shard):
    with pytest.raises(DataError, match=r"^shard=.*: give the number of this job and of all jobs"):
        TiffDataModule(predict_data="a.tif", shard=shard)


def test_arrays_are_returned_of_all_images_or_not_at_all():
    data = ArrayDataModule(predict_data=np.ones((32, 32)), axes="YX", shard="1/2")
    model = TrainedModel(torch.nn.Identity(), {}, {})
    with pytest.raises(DataError, match="returns whole images only"):
        predict(model, data)
