"""The work of a batch, counted and not timed: pixels decoded, bytes copied, calls of Python."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import tifffile
import zarr
from counting import count_calls
from stacks import RecordingStack

from careamics_dm import ArrayDataModule, CustomDataModule, TiffDataModule, ZarrDataModule

BATCH, PATCH, BLOCK = 64, (32, 32), 64
BATCH_BYTES = 2 * BATCH * PATCH[0] * PATCH[1]


def array(tmp_path, pixels):
    return ArrayDataModule(train_data=pixels, **settings())


def tiff_in_memory(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "image.tif", pixels, metadata={"axes": "YX"})
    return TiffDataModule(train_data=tmp_path / "image.tif", in_memory=True, **settings())


def zarr_kept(tmp_path, pixels):
    zarr.create_array(tmp_path / "image.zarr", data=pixels, chunks=(256, 256))
    return ZarrDataModule(train_data=tmp_path / "image.zarr", in_memory=False, **settings())


def settings():
    return {"axes": "YX", "patch_size": PATCH, "batch_size": BATCH, "n_val_patches": 0}


@pytest.fixture(params=[array, tiff_in_memory, zarr_kept], ids=lambda f: f.__name__)
def batches(request, tmp_path):
    """Yield batches of the second epoch, which finds all that is kept."""
    pixels = np.random.default_rng(0).integers(0, 999, (2048, 2048), dtype=np.uint16)
    data = request.param(tmp_path, pixels)
    data.setup("fit")
    loader = data.train_dataloader()
    for _ in loader:
        pass
    yield iter(loader)
    data.teardown("fit")


def test_pixels_of_a_batch_are_copied_once(batches):
    next(batches)
    tracemalloc.start()
    try:
        held = [next(batches)["image"]]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        held.append(next(batches)["image"])
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert held[1].numel() * held[1].element_size() == BATCH_BYTES
    assert BATCH_BYTES <= peak < 1.1 * BATCH_BYTES


def test_a_batch_takes_few_calls_of_python(batches):
    next(batches)
    n_calls = count_calls(lambda: [next(batches) for _ in range(8)])
    assert n_calls / 8 < 100  # of 64 patches


@pytest.mark.parametrize("size", [32, 48])
def test_an_epoch_of_streaming_decodes_each_pixel_about_once(size):
    """With a pool of a quarter of the data; patches reach over the borders of blocks."""
    rng = np.random.default_rng(0)
    stacks = [
        RecordingStack(rng.integers(0, 99, (1, 1, 512, 512), np.uint16), f"{i}", (BLOCK, BLOCK))
        for i in range(16)
    ]
    data = CustomDataModule(
        train_data=list(range(16)),
        image_stack_loader=lambda sources, *args, **kwargs: [stacks[i] for i in sources],
        **settings() | {"axes": "SCYX", "patch_size": (size, size)},
        normalization="none",  # no statistics to measure
        in_memory=False,
        pool_mib=2,
    )
    data.setup("fit")
    delivered = sum(batch["image"].numel() for batch in data.train_dataloader())
    reads = [(start, stop) for stack in stacks for _, start, stop in stack.reads]
    decoded = sum(
        BLOCK**2 * np.prod(-(-np.array(stop) // BLOCK) - np.array(start) // BLOCK)
        for start, stop in reads
    )
    assert decoded < 1.2 * delivered
    data.teardown("fit")
