"""The promises of stacks and data modules as checks, for us and for authors of new formats.

Each check raises AssertionError with a message that says which promise is broken, and how.
"""

import io
import pickle
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch

from careamics_dm.datamodule.patch_datamodule import PatchDataModule
from careamics_dm.images.region import Region, read_region
from careamics_dm.loading.dataset import Plan
from careamics_dm.sampling.read_windows import Places
from careamics_dm.testing.image_stack_checks import check_image_stack as check_image_stack
from careamics_dm.testing.image_stack_checks import expect

Batches = Sequence[dict[str, Any]]
STAGES = {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}


def check_datamodule(datamodule: PatchDataModule) -> None:
    """Check that a data module keeps its promises, in every stage that it has data for.

    Parameters
    ----------
    datamodule : PatchDataModule
        Newly made, with little data: all of it is read several times. It is used up.

    Raises
    ------
    AssertionError
        A broken promise.
    """
    fresh = pickle.dumps(datamodule)
    stages = [stage for stage, role in STAGES.items() if datamodule.settings.data(role) is not None]
    if datamodule.settings.train_data is not None and "validate" not in stages:
        stages.append("validate")
    expect(stages != [], "the data module has no data to check")
    for stage in (*reversed(stages), *stages):
        datamodule.setup(stage)
    first = {stage: _batches(datamodule, stage) for stage in stages}
    again: PatchDataModule = pickle.loads(fresh)
    for stage in reversed(stages):
        same = _equal(first[stage], _batches(again, stage))
        expect(same, f"{stage}: another order of stages, but the same seed, gave other batches")
    again.teardown("fit")
    for stage in stages:
        _check_batches(datamodule, stage, first[stage])
    if "fit" in stages:
        _check_epochs(datamodule)
    if "predict" in stages:
        _check_cover(datamodule, first["predict"])
    expect(datamodule.summary().strip() != "", "summary() is empty")
    _check_state(datamodule, pickle.loads(fresh))
    datamodule.teardown(stages[0])
    datamodule.teardown(stages[0])
    same = _equal(first[stages[0]], _batches(datamodule, stages[0]))
    expect(same, f"{stages[0]}: after teardown, batches differ")
    pickle.dumps(datamodule)
    datamodule.teardown(stages[0])


def _batches(datamodule: PatchDataModule, stage: str) -> list[dict[str, Any]]:
    """Return the first epoch of a stage, as stored."""
    loader = getattr(datamodule, f"{STAGES[stage]}_dataloader")()
    batches = list(loader)
    n, found = len(loader), len(batches)
    expect(n == found, f"{stage}: len(loader) is {n}, but {found} batches came")
    return batches


def _equal(one: Batches, other: Batches) -> bool:
    def same(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor):
            return a.dtype == b.dtype and np.array_equal(a.numpy(), b.numpy(), equal_nan=True)
        return bool(a == b)

    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        for a, b in zip(one, other, strict=True)
    )


def _check_batches(datamodule: PatchDataModule, stage: str, batches: Batches) -> None:
    patch_size = datamodule.settings.patch_size
    dims, tiles = len(patch_size), stage in ("test", "predict")
    lead = 0 if datamodule.settings.batch_size is None and not tiles else 1
    allowed = {"image"} | ({"region"} if tiles else set())
    allowed |= set() if stage == "predict" else {"target"}
    for batch in batches:
        keys = set(batch) - {"orientation"}
        expect("image" in keys and keys <= allowed, f"{stage}: a batch has the keys {keys}")
        for key in keys & {"image", "target"}:
            shape = tuple(batch[key].shape)
            fits = len(shape) == lead + 1 + dims and (tiles or shape[-dims:] == patch_size)
            expect(fits, f"{stage}: {key} has shape {shape}, patch_size is {patch_size}")
        done = datamodule.transform(batch)
        tensors = list(done.values()) if isinstance(done, dict) else done
        tensors = tensors if isinstance(tensors, list | tuple) else [tensors]
        expect(tensors[0].shape == batch["image"].shape, f"{stage}: transform changes the shape")
        for x in tensors:
            fine = x.dtype == torch.float32 or (tiles and x.dtype == torch.int64)
            expect(fine, f"{stage}: transform gives {x.dtype}, not float32")
    for key in ("image", "target"):
        dtypes = {batch[key].dtype for batch in batches if key in batch}
        expect(len(dtypes) < 2, f"{stage}: batches mix the dtypes {dtypes}")


def _check_epochs(datamodule: PatchDataModule) -> None:
    """Check that epochs differ, and that training patches keep away from validation patches."""
    loader = datamodule.train_dataloader()
    epochs = [list(loader) for _ in range(2)]
    expect(len(epochs[0]) == len(epochs[1]), "fit: epochs have unequally many batches")
    plans = [_places(loader.patches.plan, epoch) for epoch in range(3)]
    if datamodule.settings.sampling == "random":
        new = not np.array_equal(plans[0].start, plans[1].start)
        sizes = [np.array(extent.size) for extent in loader.patches.extents]
        one_place = all((size <= datamodule.settings.patch_size).all() for size in sizes)
        expect(new or one_place, "fit: the second epoch draws the patches of the first")
    held = datamodule.val_dataloader()
    if datamodule.settings.val_data is not None or isinstance(held, list):
        return
    patch, fixed = datamodule.settings.patch_size, _places(held.patches.plan, 0)
    _check_samples(datamodule, plans, fixed)
    for plan, i in product(plans, range(len(fixed.image))):
        near = (np.abs(plan.start - fixed.start[i]) < patch).all(axis=1)
        same = (plan.image == fixed.image[i]) & (plan.sample == fixed.sample[i])
        expect(not (near & same).any(), "fit: a training patch overlaps a validation patch")


def _places(plan: Plan, epoch: int) -> Places:
    """Return where all patches of an epoch lie."""
    return plan.epoch(epoch).places(np.arange(len(plan)))


def _check_samples(datamodule: PatchDataModule, plans: Sequence[Places], fixed: Places) -> None:
    """Check that samples which validate as a whole are not trained on, and no others validate."""
    if datamodule.settings.split_rule.hold_out == "patches":
        return
    rows, extents = datamodule.split_table(), datamodule.train_dataloader().patches.extents
    n = sum(extent.samples for extent in extents)
    expect(len(rows) == n, f"split_table() has {len(rows)} rows for {n} samples")
    held = np.array([row["split"] == "val" for row in rows])
    first = np.cumsum([0] + [extent.samples for extent in extents])
    for plan in plans:
        seen = held[first[plan.image] + plan.sample]
        expect(not seen.any(), "fit: a training patch is of a sample that is held out")
    valid = held[first[fixed.image] + fixed.sample].all()
    expect(valid, "validate: a validation patch is of a sample that is trained on")


def _check_cover(datamodule: PatchDataModule, batches: Batches) -> None:
    """Check that the inner parts of tiles cover every pixel once, and hold the right pixels."""
    images, dims = datamodule.images_of("predict"), len(datamodule.settings.patch_size)
    stacks = images.stacks
    seen = [np.zeros((s.data_shape[0], *s.data_shape[2:]), np.uint8) for s in stacks]
    for batch in batches:
        for tile, row in zip(batch["image"].numpy(), batch["region"].tolist(), strict=True):
            image, sample = row[:2]
            start, first, stop = (row[2 + dims * i : 2 + dims * (i + 1)] for i in range(3))
            seen[image][(sample, *(slice(a, b) for a, b in zip(first, stop, strict=True)))] += 1
            inner = tuple(slice(a - s, b - s) for a, b, s in zip(first, stop, start, strict=True))
            box = Region(image, sample, tuple(first), tuple(stop))
            stored = read_region(stacks[image], box, images.channels[image])
            found, wanted = tile[(slice(None), *inner)], stored.astype(tile.dtype)
            finite = np.isfinite(wanted)
            right = found.shape == wanted.shape and (found == wanted)[finite].all()
            name = stacks[image].source
            expect(right, f"predict: a tile of {name} is not at the place it claims: {row}")
    for stack, n in zip(stacks, seen, strict=True):
        times = f"{n.min()} to {n.max()} times"
        expect((n == 1).all(), f"predict: tiles cover pixels of {stack.source} {times}")


def _check_state(datamodule: PatchDataModule, other: PatchDataModule) -> None:
    """Check that the state is plain, and that another data module takes it."""
    file = io.BytesIO()
    torch.save(datamodule.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    expect(state == datamodule.state_dict(), "state_dict changes when it is saved and loaded")
    other.load_state_dict(state)
    expect(other.statistics == datamodule.statistics, "load_state_dict loses the statistics")
    other.teardown("fit")
