"""The promises of an image stack as checks; see `careamics_dm.testing`."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from careamics_dm.image_stack import ImageStack

BOXES = 20
"""Random boxes that are read and compared."""
PICKLE_BYTES = 4096
"""A stack that reads from files travels in less."""


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
    expect(expected.shape == shape, f"{stack.source}: data_shape {shape}, not {expected.shape}")
    rng = np.random.default_rng(seed)
    boxes = [_random_box(shape, rng) for _ in range(BOXES)]
    _check_boxes(stack, boxes, expected)
    _check_outside(stack, expected)
    _check_samples(stack, expected, rng)
    _check_valid_region(stack)
    with ThreadPoolExecutor(4) as pool:
        for result in [pool.submit(_check_boxes, stack, boxes, expected) for _ in range(4)]:
            result.result()
    _check_pickle(stack, boxes, expected)
    if close := getattr(stack, "close", None):
        close()
        close()
        _check_boxes(stack, boxes[:2], expected)
        close()


def expect(kept: bool, promise: str) -> None:
    """Raise with a promise that is not kept."""
    if not kept:
        raise AssertionError(promise)


def _check_members(stack: ImageStack) -> None:
    name = type(stack).__name__
    members = ("source", "data_shape", "data_dtype", "original_axes", "original_data_shape")
    for member in (*members, "extract_patch"):
        expect(hasattr(stack, member), f"{name} has no {member}")
    expect(isinstance(stack.source, str) and stack.source != "", f"{name}: source names nothing")
    shape, n = tuple(stack.data_shape), len(stack.data_shape)
    whole = all(isinstance(size, int | np.integer) and size > 0 for size in shape)
    expect(n in (4, 5) and whole, f"{stack.source}: data_shape {shape} is not S C (Z) Y X")
    kind = np.dtype(stack.data_dtype).kind
    expect(kind in "biuf", f"{stack.source}: data_dtype {stack.data_dtype} is not a real number")
    axes, original = stack.original_axes, tuple(stack.original_data_shape)
    expect(
        len(axes) == len(original) == len(set(axes)) and {"Y", "X"} <= set(axes),
        f"{stack.source}: original_axes {axes!r} do not suit original_data_shape {original}",
    )
    expect(
        prod(original) == prod(shape)
        and all(original[axes.index(axis)] == shape["YX".index(axis) - 2] for axis in "YX"),
        f"{stack.source}: original_data_shape {original} ({axes}) and data_shape {shape} differ",
    )
    block = getattr(stack, "block_shape", None) or shape[2:]
    expect(
        len(block) == n - 2 and min(block) > 0,
        f"{stack.source}: block_shape {block} is not ([Z], Y, X) in pixels",
    )
    for axis, entry in (getattr(stack, "scale", None) or {}).items():
        fine = axis in "ZYX" and len(entry) == 2 and entry[0] > 0 and isinstance(entry[1], str)
        expect(fine, f"{stack.source}: scale {axis}={entry} is not (size, unit)")
    names = getattr(stack, "channel_names", None)
    fine = not names or len(names) == shape[1]
    expect(fine, f"{stack.source}: {shape[1]} channel(s), but channel_names {names}")


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
    expect(isinstance(patch, np.ndarray), f"{what} is a {type(patch).__name__}, not an ndarray")
    expect(patch.shape == (n, *size), f"{what} has shape {patch.shape}")
    stored = np.dtype(stack.data_dtype).newbyteorder("=")
    expect(
        patch.dtype.newbyteorder("=") == stored,
        f"{what} has dtype {patch.dtype}, but data_dtype is {stack.data_dtype}",
    )
    return patch


def _check_boxes(stack: ImageStack, boxes: Sequence[_Box], expected: NDArray[Any]) -> None:
    for sample, channels, start, size in boxes:
        patch = _read(stack, sample, channels, start, size)
        inside = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        wanted = expected[(sample, slice(None) if channels is None else channels, *inside)]
        expect(
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
    expect(
        np.array_equal(inner, expected[0], equal_nan=expected.dtype.kind == "f"),
        f"{stack.source}: a patch that reaches outside is wrong inside",
    )


def _check_samples(stack: ImageStack, expected: NDArray[Any], rng: np.random.Generator) -> None:
    """Check that several samples at once are the same as one by one, where a stack has both."""
    together = getattr(stack, "samples_per_block", 1)
    extract: Any = getattr(stack, "extract_samples", None)
    expect(together >= 1, f"{stack.source}: samples_per_block is {together}")
    expect(
        together == 1 or extract is not None,
        f"{stack.source}: samples_per_block is {together}, but there is no extract_samples",
    )
    if extract is None:
        return
    for _ in range(5):
        sample, channels, start, size = _random_box(expected.shape, rng)
        n = int(rng.integers(1, expected.shape[0] - sample + 1))
        found = extract(sample, n, channels, list(start), list(size))
        inside = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        wanted = expected[(slice(sample, sample + n), slice(None), *inside)]
        wanted = wanted if channels is None else wanted[:, channels]
        expect(
            np.array_equal(found, wanted, equal_nan=wanted.dtype.kind == "f"),
            f"{stack.source}: extract_samples gives other pixels than expected for {n} samples "
            f"from {sample} on, channels {channels}, at {start}, size {size}",
        )


def _check_valid_region(stack: ImageStack) -> None:
    """Check that boxes of what was acquired lie in the image."""
    ask: Any = getattr(stack, "valid_region", None)
    size = tuple(stack.data_shape[2:])
    for sample in range(stack.data_shape[0] if ask else 0):
        for start, stop in ask(sample, None) or ():
            inside = all(0 <= a < b <= n for a, b, n in zip(start, stop, size, strict=True))
            expect(
                inside, f"{stack.source}: valid_region({sample}) has {start} to {stop} of {size}"
            )


def _check_pickle(stack: ImageStack, boxes: Sequence[_Box], expected: NDArray[Any]) -> None:
    try:
        pickled = pickle.dumps(stack)
    except Exception as error:
        raise AssertionError(f"{stack.source}: does not pickle ({error})") from error
    if not getattr(stack, "in_memory", False):
        expect(
            len(pickled) <= PICKLE_BYTES,
            f"{stack.source}: pickles to {len(pickled)} bytes, but reads from a file: let it open "
            "its file where it is read",
        )
    copy: ImageStack = pickle.loads(pickled)
    expect(copy.source == stack.source, f"{stack.source}: pickled, its source is {copy.source}")
    _check_boxes(copy, boxes[:5], expected)
    if close := getattr(copy, "close", None):
        close()
