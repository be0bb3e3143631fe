"""The promises of an image stack as checks; see `careamics_dm.testing`."""

import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.images.stack_rules import read_members, read_patch

BOXES = 20  # random boxes that are read and compared
PICKLE_BYTES = 4096  # a stack that reads from files pickles to less


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
    try:
        _check(stack, expected, np.random.default_rng(seed))
    except DataError as error:
        raise AssertionError(str(error)) from error


def _check(stack: ImageStack, expected: NDArray[Any] | None, rng: np.random.Generator) -> None:
    members = read_members(stack, type(stack).__name__)
    shape = members.data_shape
    if expected is None:
        start = (0,) * len(shape[2:])
        whole = [(s, None, start, shape[2:]) for s in range(shape[0])]
        expected = np.stack([read_patch(stack, members, box) for box in whole])
    expect(expected.shape == shape, f"{stack.source}: data_shape {shape}, not {expected.shape}")
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


def expect(holds: bool | np.bool_, promise: str) -> None:
    """Raise with a promise that does not hold."""
    if not holds:
        raise AssertionError(promise)


def _equal(found: NDArray[Any], wanted: NDArray[Any]) -> bool:
    return np.array_equal(found, wanted, equal_nan=wanted.dtype.kind == "f")


_Box = tuple[int, list[int] | None, tuple[int, ...], tuple[int, ...]]
"""Sample, channels, origin, size."""


def _random_box(shape: Sequence[int], rng: np.random.Generator) -> _Box:
    size = tuple(int(rng.integers(1, n + 1)) for n in shape[2:])
    start = tuple(int(rng.integers(n - m + 1)) for n, m in zip(shape[2:], size, strict=True))
    some = rng.permutation(shape[1])[: rng.integers(1, shape[1] + 1)].tolist()
    channels: list[int] | None = None if rng.random() < 0.5 else [int(c) for c in some]
    return int(rng.integers(shape[0])), channels, start, size


def _check_boxes(stack: ImageStack, boxes: Sequence[_Box], expected: NDArray[Any]) -> None:
    members = read_members(stack, type(stack).__name__)
    for sample, channels, start, size in boxes:
        patch = read_patch(stack, members, (sample, channels, start, size))
        inside = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        wanted = expected[(sample, slice(None) if channels is None else channels, *inside)]
        box = f"sample {sample}, channels {channels}, at {start}, size {size}"
        expect(_equal(patch, wanted), f"{stack.source}: other pixels than expected in {box}")


def _check_outside(stack: ImageStack, expected: NDArray[Any]) -> None:
    """Check a patch that reaches outside at every border: padded, and right inside."""
    size = stack.data_shape[2:]
    start, outer = [-2] * len(size), [n + 5 for n in size]
    patch = read_patch(stack, read_members(stack, ""), (0, None, start, outer))
    inner = patch[(slice(None), *(slice(2, 2 + n) for n in size))]
    right = _equal(inner, expected[0])
    expect(right, f"{stack.source}: a patch that reaches outside is wrong inside")


def _check_samples(stack: ImageStack, expected: NDArray[Any], rng: np.random.Generator) -> None:
    """Check that several samples at once are the same as one by one, where a stack has both."""
    extract: Any = getattr(stack, "extract_samples", None)
    if extract is None:
        return
    for _ in range(5):
        sample, channels, start, size = _random_box(expected.shape, rng)
        n = int(rng.integers(1, expected.shape[0] - sample + 1))
        found = extract(sample, n, channels, list(start), list(size))
        inside = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        wanted = expected[(slice(sample, sample + n), slice(None), *inside)]
        wanted = wanted if channels is None else wanted[:, channels]
        box = f"{n} samples from {sample} on, channels {channels}, at {start}, size {size}"
        promise = f"{stack.source}: extract_samples gives other pixels than expected for {box}"
        expect(_equal(found, wanted), promise)


def _check_valid_region(stack: ImageStack) -> None:
    """Check that boxes of what was acquired lie in the image."""
    ask: Any = getattr(stack, "valid_region", None)
    size = tuple(stack.data_shape[2:])
    for sample in range(stack.data_shape[0] if ask else 0):
        for start, stop in ask(sample, None) or ():
            inside = all(0 <= a < b <= n for a, b, n in zip(start, stop, size, strict=True))
            box = f"{start} to {stop} of {size}"
            expect(inside, f"{stack.source}: valid_region({sample}) has {box}")


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
