"""The promises of stacks and data modules as checks, for us and for authors of new formats.

Each check raises AssertionError with a message that says which promise is broken, and how.
"""

from __future__ import annotations

import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from careamics_dm.regions import Region, read_region

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from careamics_dm.datamodule import PatchDataModule
    from careamics_dm.image_stack import ImageStack
    from careamics_dm.loader import PatchLoader

BOXES = 20
"""Random boxes that are read and compared."""
PICKLE_BYTES = 4096
"""A stack that reads from files travels in less."""
STAGES = {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}


def check_image_stack(
    stack: ImageStack, expected: NDArray[Any] | None = None, seed: int = 0
) -> None:
    """Check that a stack keeps the promises of `ImageStack`.

    Parameters
    ----------
    stack : ImageStack
        Of any class.
    expected : ndarray, optional
        Its pixels, ``S C (Z) Y X``; without them, boxes are compared with the stack's own whole
        samples.
    seed : int
        Of the boxes.

    Raises
    ------
    AssertionError
        A broken promise.
    """
    _check_members(stack)
    shape = tuple(stack.data_shape)
    if expected is None:
        whole = [_read(stack, s, None, (0,) * len(shape[2:]), shape[2:]) for s in range(shape[0])]
        expected = np.stack(whole)
    _expect(expected.shape == shape, f"{stack.source}: data_shape {shape}, not {expected.shape}")
    rng = np.random.default_rng(seed)
    boxes = [_random_box(shape, rng) for _ in range(BOXES)]
    _check_boxes(stack, boxes, expected)
    _check_outside(stack, expected)
    with ThreadPoolExecutor(4) as pool:
        for result in [pool.submit(_check_boxes, stack, boxes, expected) for _ in range(4)]:
            result.result()
    _check_pickle(stack, boxes, expected)
    if close := getattr(stack, "close", None):
        close()
        close()
        _check_boxes(stack, boxes[:2], expected)
        close()


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
    stages = [stage for stage, role in STAGES.items() if datamodule.data[role] is not None]
    if datamodule.data["train"] is not None and "validate" not in stages:
        stages.append("validate")
    _expect(bool(stages), "the data module has no data to check")
    for stage in (*reversed(stages), *stages):
        datamodule.setup(stage)
    first = {stage: _batches(datamodule, stage) for stage in stages}
    again: PatchDataModule = pickle.loads(fresh)
    for stage in reversed(stages):
        _expect(
            _equal(first[stage], _batches(again, stage)),
            f"{stage}: another order of stages, but the same seed, gave other batches",
        )
    again.teardown("fit")
    for stage in stages:
        _check_batches(datamodule, stage, first[stage])
    if "fit" in stages:
        _check_epochs(datamodule)
    if "predict" in stages:
        _check_cover(datamodule, first["predict"])
    _expect(bool(datamodule.summary().strip()), "summary() is empty")
    _check_state(datamodule, pickle.loads(fresh))
    datamodule.teardown(stages[0])
    datamodule.teardown(stages[0])
    _expect(
        _equal(first[stages[0]], _batches(datamodule, stages[0])),
        f"{stages[0]}: after teardown, batches differ",
    )
    pickle.dumps(datamodule)
    datamodule.teardown(stages[0])


def _expect(kept: bool, promise: str) -> None:
    if not kept:
        raise AssertionError(promise)


def _check_members(stack: ImageStack) -> None:
    name = type(stack).__name__
    members = ("source", "data_shape", "data_dtype", "original_axes", "original_data_shape")
    for member in (*members, "extract_patch"):
        _expect(hasattr(stack, member), f"{name} has no {member}")
    _expect(isinstance(stack.source, str) and stack.source != "", f"{name}: source names nothing")
    shape, n = tuple(stack.data_shape), len(stack.data_shape)
    whole = all(isinstance(size, int | np.integer) and size > 0 for size in shape)
    _expect(n in (4, 5) and whole, f"{stack.source}: data_shape {shape} is not S C (Z) Y X")
    kind = np.dtype(stack.data_dtype).kind
    _expect(kind in "biuf", f"{stack.source}: data_dtype {stack.data_dtype} is not a real number")
    axes, original = stack.original_axes, tuple(stack.original_data_shape)
    _expect(
        len(axes) == len(original) == len(set(axes)) and {"Y", "X"} <= set(axes),
        f"{stack.source}: original_axes {axes!r} do not suit original_data_shape {original}",
    )
    _expect(
        prod(original) == prod(shape)
        and all(original[axes.index(axis)] == shape["YX".index(axis) - 2] for axis in "YX"),
        f"{stack.source}: original_data_shape {original} ({axes}) and data_shape {shape} differ",
    )
    block = getattr(stack, "block_shape", None) or shape[2:]
    _expect(
        len(block) == n - 2 and min(block) > 0,
        f"{stack.source}: block_shape {block} is not ([Z], Y, X) in pixels",
    )
    for axis, entry in (getattr(stack, "scale", None) or {}).items():
        fine = axis in "ZYX" and len(entry) == 2 and entry[0] > 0 and isinstance(entry[1], str)
        _expect(fine, f"{stack.source}: scale {axis}={entry} is not (size, unit)")
    names = getattr(stack, "channel_names", None)
    fine = not names or len(names) == shape[1]
    _expect(fine, f"{stack.source}: {shape[1]} channel(s), but channel_names {names}")


_Box = tuple[int, list[int] | None, tuple[int, ...], tuple[int, ...]]
"""Sample, channels, origin, size."""


def _random_box(shape: Sequence[int], rng: np.random.Generator) -> _Box:
    size = tuple(int(rng.integers(1, n + 1)) for n in shape[2:])
    start = tuple(int(rng.integers(n - m + 1)) for n, m in zip(shape[2:], size, strict=True))
    some = rng.permutation(shape[1])[: rng.integers(1, shape[1] + 1)].tolist()
    channels: list[int] | None = None if rng.random() < 0.5 else [int(c) for c in some]
    return int(rng.integers(shape[0])), channels, start, size


def _read(
    stack: ImageStack,
    sample: int,
    channels: list[int] | None,
    start: Sequence[int],
    size: Sequence[int],
) -> NDArray[Any]:
    patch = stack.extract_patch(sample, channels, list(start), list(size))
    what = f"{stack.source}: patch of sample {sample}, channels {channels}, at {start}, size {size}"
    n = stack.data_shape[1] if channels is None else len(channels)
    _expect(isinstance(patch, np.ndarray), f"{what} is a {type(patch).__name__}, not an ndarray")
    _expect(patch.shape == (n, *size), f"{what} has shape {patch.shape}")
    stored = np.dtype(stack.data_dtype).newbyteorder("=")
    _expect(
        patch.dtype.newbyteorder("=") == stored,
        f"{what} has dtype {patch.dtype}, but data_dtype is {stack.data_dtype}",
    )
    return patch


def _check_boxes(stack: ImageStack, boxes: Sequence[_Box], expected: NDArray[Any]) -> None:
    for sample, channels, start, size in boxes:
        patch = _read(stack, sample, channels, start, size)
        inside = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        wanted = expected[(sample, slice(None) if channels is None else channels, *inside)]
        _expect(
            np.array_equal(patch, wanted, equal_nan=wanted.dtype.kind == "f"),
            f"{stack.source}: other pixels than expected in sample {sample}, channels {channels}, "
            f"at {start}, size {size}",
        )


def _check_outside(stack: ImageStack, expected: NDArray[Any]) -> None:
    """Check patches that reach outside on both sides: padded, and right where they are inside."""
    size = stack.data_shape[2:]
    start, outer = [-2] * len(size), [n + 5 for n in size]
    patch = _read(stack, 0, None, start, outer)
    inner = patch[(slice(None), *(slice(2, 2 + n) for n in size))]
    _expect(
        np.array_equal(inner, expected[0], equal_nan=expected.dtype.kind == "f"),
        f"{stack.source}: a patch that reaches outside is wrong inside",
    )


def _check_pickle(stack: ImageStack, boxes: Sequence[_Box], expected: NDArray[Any]) -> None:
    try:
        pickled = pickle.dumps(stack)
    except Exception as error:
        raise AssertionError(f"{stack.source}: does not pickle ({error})") from error
    if not getattr(stack, "in_memory", False):
        _expect(
            len(pickled) <= PICKLE_BYTES,
            f"{stack.source}: pickles to {len(pickled)} bytes, but reads from a file: let it open "
            "its file where it is read",
        )
    copy: ImageStack = pickle.loads(pickled)
    _expect(copy.source == stack.source, f"{stack.source}: pickled, its source is {copy.source}")
    _check_boxes(copy, boxes[:5], expected)
    if close := getattr(copy, "close", None):
        close()


def _loader(datamodule: PatchDataModule, stage: str) -> PatchLoader | list[Any]:
    loader: PatchLoader | list[Any] = getattr(datamodule, f"{STAGES[stage]}_dataloader")()
    return loader


def _batches(datamodule: PatchDataModule, stage: str) -> list[dict[str, Any]]:
    """Return the first epoch of a stage, as stored."""
    loader = _loader(datamodule, stage)
    batches = list(loader)
    _expect(
        len(batches) == len(loader),
        f"{stage}: len(loader) is {len(loader)}, but {len(batches)} batches came",
    )
    return batches


def _equal(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> bool:
    def same(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor):
            return a.dtype == b.dtype and np.array_equal(a.numpy(), b.numpy(), equal_nan=True)
        return bool(a == b)

    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        for a, b in zip(one, other, strict=True)
    )


def _check_batches(
    datamodule: PatchDataModule, stage: str, batches: Sequence[dict[str, Any]]
) -> None:
    dims = len(datamodule.patch_size)
    lead = 0 if datamodule.batch_size is None and stage != "predict" else 1
    for batch in batches:
        keys = set(batch) - {"orientation"}
        allowed = {"image", "region"} if stage == "predict" else {"image", "target"}
        _expect("image" in keys and keys <= allowed, f"{stage}: a batch has the keys {keys}")
        for key in keys & {"image", "target"}:
            shape = tuple(batch[key].shape)
            _expect(
                len(shape) == lead + 1 + dims
                and (stage == "predict" or shape[-dims:] == datamodule.patch_size),
                f"{stage}: {key} has shape {shape}, patch_size is {datamodule.patch_size}",
            )
        done = datamodule.transform(batch)
        tensors = list(done.values()) if isinstance(done, dict) else done
        tensors = tensors if isinstance(tensors, list | tuple) else [tensors]
        _expect(tensors[0].shape == batch["image"].shape, f"{stage}: transform changes the shape")
        for x in tensors:
            fine = x.dtype == torch.float32 or (stage == "predict" and x.dtype == torch.int64)
            _expect(fine, f"{stage}: transform gives {x.dtype}, not float32")
    for key in ("image", "target"):
        dtypes = {batch[key].dtype for batch in batches if key in batch}
        _expect(len(dtypes) < 2, f"{stage}: batches mix the dtypes {dtypes}")


def _check_epochs(datamodule: PatchDataModule) -> None:
    """Check that epochs differ, and that training patches keep away from validation patches."""
    loader = datamodule.train_dataloader()
    epochs = [list(loader) for _ in range(2)]
    _expect(len(epochs[0]) == len(epochs[1]), "fit: epochs have unequally many batches")
    plans = [loader.patches.plan.at(epoch) for epoch in range(3)]
    if datamodule.sampling == "random":
        new = not np.array_equal(plans[0].start, plans[1].start)
        sizes = [np.array(extent.size) for extent in loader.patches.extents]
        one_place = all((size <= datamodule.patch_size).all() for size in sizes)
        _expect(new or one_place, "fit: the second epoch draws the patches of the first")
    held = datamodule.val_dataloader()
    if datamodule.data["val"] is not None or isinstance(held, list):
        return
    patch = np.array(datamodule.patch_size)
    fixed = held.patches.plan.at(0)
    for plan in plans:
        for i in range(len(fixed)):
            near = np.abs(plan.start - fixed.start[i]) < patch
            same = (plan.image == fixed.image[i]) & (plan.sample == fixed.sample[i])
            _expect(
                not bool((near.all(axis=1) & same).any()),
                "fit: a training patch overlaps a validation patch",
            )


def _check_cover(datamodule: PatchDataModule, batches: Sequence[dict[str, Any]]) -> None:
    """Check that the kept parts of tiles cover every pixel once, and hold the right pixels."""
    stacks, dims = datamodule.predict_stacks, len(datamodule.patch_size)
    seen = [np.zeros((s.data_shape[0], *s.data_shape[2:]), np.uint8) for s in stacks]
    for batch in batches:
        for tile, row in zip(batch["image"].numpy(), batch["region"].tolist(), strict=True):
            image, sample = row[:2]
            start, first, stop = (row[2 + dims * i : 2 + dims * (i + 1)] for i in range(3))
            seen[image][(sample, *(slice(a, b) for a, b in zip(first, stop, strict=True)))] += 1
            inner = tuple(slice(a - s, b - s) for a, b, s in zip(first, stop, start, strict=True))
            box = Region(image, sample, tuple(first), tuple(stop))
            stored = read_region(stacks[image], box, datamodule.channel_indices(stacks[image]))
            found, wanted = tile[(slice(None), *inner)], stored.astype(tile.dtype)
            finite = np.isfinite(wanted)
            _expect(
                found.shape == wanted.shape and bool((found == wanted)[finite].all()),
                f"predict: a tile of {stacks[image].source} is not at the place it claims: {row}",
            )
    for stack, count in zip(stacks, seen, strict=True):
        _expect(
            bool((count == 1).all()),
            f"predict: tiles cover pixels of {stack.source} {count.min()} to {count.max()} times",
        )


def _check_state(datamodule: PatchDataModule, other: PatchDataModule) -> None:
    """Check that the state is plain, and that another data module takes it."""
    file = io.BytesIO()
    torch.save(datamodule.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    _expect(state == datamodule.state_dict(), "state_dict changes when it is saved and loaded")
    other.load_state_dict(state)
    _expect(other.statistics == datamodule.statistics, "load_state_dict loses the statistics")
    other.teardown("fit")
