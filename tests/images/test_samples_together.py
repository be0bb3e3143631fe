"""Samples that are stored together, as frames in a chunk or a file are, are read together."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

from careamics_dm.datamodule.patch_datamodule import PatchDataModule
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.sampling.filters.criteria import MeanStdFilter
from careamics_dm.sources.listing import Listing
from careamics_dm.testing.datamodule_checks import check_datamodule

SHAPE = {"T": 12, "C": 2, "Y": 90, "X": 70}
CHUNK = {"T": 5, "C": 2, "Y": 32, "X": 16}


class ChunkedArray:
    """Pixels in chunks; counts how often each chunk is decoded."""

    def __init__(self, pixels, chunk):
        self.pixels, self.chunk = pixels, chunk
        self.shape, self.dtype = pixels.shape, pixels.dtype
        self.decoded = np.zeros([-(-n // c) for n, c in zip(self.shape, chunk, strict=True)], int)

    def __getitem__(self, box):
        columns = zip(box, self.chunk, strict=True)
        self.decoded[tuple(slice(s.start // c, -(-s.stop // c)) for s, c in columns)] += 1
        return self.pixels[box].copy()

    @property
    def bytes(self):
        return self.decoded.sum() * prod(self.chunk) * self.dtype.itemsize


class Module(PatchDataModule):
    """One chunked array, as a format of someone else's."""

    def __init__(self, scale=1, **shared):
        super().__init__(train_data="chunked", patch_size=(16, 16), **shared)
        self.array, self.scale = None, {"T": 1, "C": 1, "Y": scale, "X": scale}

    def list_sources(self, data, what):
        return Listing([data])

    def open_source(self, source, axes):
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 9, [SHAPE[a] * self.scale[a] for a in axes])
        chunk = tuple(CHUNK[a] * self.scale[a] for a in axes)
        self.array = ChunkedArray(pixels.astype(np.uint16), chunk)
        return [ArrayStack(self.array, axes, source, block_shape=self.array.chunk)]


def module(axes="TCYX", **options):
    return Module(axes=axes, **({"in_memory": False, "n_val_patches": 0} | options))


@pytest.mark.parametrize("sampling", ["random", "grid"])
@pytest.mark.parametrize("pool", ["all fits", "little"])
def test_a_chunk_is_decoded_once_per_epoch_however_many_samples_it_holds(sampling, pool):
    size = {"scale": 6, "pool_mib": 2} if pool == "little" else {}
    data = module(sampling=sampling, normalization="none", **size)
    loader = data.train_dataloader()
    delivered = sum(batch["image"].nbytes for batch in loader)
    limit = 1 if pool == "all fits" else 1.3
    whole = data.array.decoded.size * prod(data.array.chunk) * 2
    assert data.array.bytes <= limit * max(whole, delivered)
    data.teardown("fit")


def test_statistics_decode_each_chunk_once():
    data = module()
    found = data.measure_statistics()["image"]
    assert (data.array.decoded == 1).all()
    in_memory = module(in_memory=True, exact_statistics=True)
    expected = in_memory.measure_statistics()["image"]
    np.testing.assert_allclose(np.array(found[:2]), np.array(expected[:2]))


@pytest.mark.parametrize("axes", ["TCYX", "CTYX", "YXTC", "TYX"])
@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_a_module_keeps_the_promises(axes, sampling):
    check_datamodule(
        module(
            axes,
            sampling=sampling,
            predict_data="chunked",
            tile_size=(80, 60),
            pool_mib=1,
            scale=3,
        )
    )


@pytest.mark.parametrize(
    ("axes", "chunk", "together"),
    [
        ("YX", (8, 8), 1),
        ("SYX", (4, 8, 8), 4),
        ("STYX", (1, 3, 8, 8), 3),
        ("STYX", (2, 3, 8, 8), 3),  # runs of 3 of 4: no whole rows
        ("STYX", (2, 4, 8, 8), 8),
        ("TSYX", (4, 1, 8, 8), 4),  # T runs faster, whatever the order on disk
        ("TSYX", (1, 5, 8, 8), 1),
        ("YXT", (8, 8, 4), 4),
    ],
)
def test_a_stack_knows_how_many_samples_are_stored_together(axes, chunk, together):
    shape = [{"S": 5, "T": 4, "Y": 16, "X": 16}[a] for a in axes]
    pixels = np.arange(prod(shape), dtype=np.uint32).reshape(shape)
    stack = ArrayStack(ChunkedArray(pixels, chunk), axes, "some", block_shape=chunk)
    assert stack.samples_per_block == together
    samples = stack.data_shape[0]
    whole = [stack.extract_patch(s, None, (1, 2), (5, 6)) for s in range(samples)]
    for first in range(samples):
        for n in range(1, samples - first + 1):
            found = stack.extract_samples(first, n, None, (1, 2), (5, 6))
            assert np.array_equal(found, np.stack(whole[first : first + n]))


def test_a_filter_takes_nothing_from_samples_that_are_held_out():
    class Numbered(Module):
        """Pixels that tell their sample, and how bright they are."""

        def open_source(self, source, axes):
            (stack,) = super().open_source(source, axes)
            numbers = np.arange(SHAPE["T"], dtype=np.uint16).reshape(-1, 1, 1, 1)
            stack.array.pixels[:] = stack.array.pixels % 9 + 10 * numbers
            return [stack]

    criterion = MeanStdFilter(std=2.6)
    data = Numbered(
        axes="TCYX",
        in_memory=False,
        hold_out="samples",
        n_val_patches=40,
        patches_per_epoch=300,
        normalization="none",
        patch_filter=criterion,
    )
    found = np.concatenate([batch["image"].numpy() for batch in data.train_dataloader()])
    held_out = {row["sample"] for row in data.split_table() if row["split"] == "val"}
    used = set(np.unique(found // 10).astype(int).tolist())
    assert held_out and used == set(range(SHAPE["T"])) - held_out
    assert len(found) == 300 and criterion.passes(found).all()
