from __future__ import annotations

import pickle
import resource
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch.multiprocessing as mp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from careamics_dm.errors import DataError
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.axes import Layout
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.images.raw_array import RawArray
from careamics_dm.images.region import Region, block_shape_of, read_region

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# No deadlines: they tell how busy the machine is.
PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class SixMembers:
    """What CAREamics documents of an image stack, and no more; not padded outside."""

    source = "six"
    data_shape = (1, 2, 6, 7)
    data_dtype = np.dtype(np.int64)
    original_axes = "CYX"
    original_data_shape = (2, 6, 7)
    pixels = np.arange(2 * 6 * 7).reshape(2, 6, 7)

    def extract_patch(
        self,
        sample_idx: int,
        channels: Sequence[int] | None,
        coords: Sequence[int],
        patch_size: Sequence[int],
    ) -> np.ndarray:
        (y, x), (h, w) = coords, patch_size
        assert y >= 0 and x >= 0 and y + h <= 6 and x + w <= 7, "asked for what lies outside"
        return self.pixels[slice(None) if channels is None else channels, y : y + h, x : x + w]


def reflected(indices: np.ndarray, n: int) -> np.ndarray:
    """Indices into an axis of length n, mirrored at its first and last pixel."""
    if n == 1:
        return np.zeros_like(indices)
    folded = indices % (2 * n - 2)
    return np.where(folded < n, folded, 2 * n - 2 - folded)


def expected_patch(
    canonical: np.ndarray, sample: int, channels: list[int], start: list[int], size: list[int]
) -> np.ndarray:
    columns = zip(start, size, canonical.shape[2:], strict=True)
    at = [reflected(np.arange(a, a + p), n) for a, p, n in columns]
    return canonical[np.ix_([sample], channels, *at)][0]


@st.composite
def arrays(draw: st.DrawFn) -> tuple[str, np.ndarray]:
    axes = "".join(draw(st.permutations("YX" + "".join(draw(st.sets(st.sampled_from("STCZ")))))))
    shape = tuple(draw(st.integers(1, 6)) for _ in axes)
    return axes, np.arange(np.prod(shape)).reshape(shape)


@PROPERTY
@given(arrays(), st.data())
def test_a_patch_equals_indexing_and_is_padded_by_reflection(
    case: tuple[str, np.ndarray], data: st.DataObject
) -> None:
    axes, array = case
    stack = ArrayStack(array, axes, "a")
    samples, n_channels, *size = stack.data_shape
    sample = data.draw(st.integers(0, samples - 1))
    channels = data.draw(
        st.none() | st.lists(st.integers(0, n_channels - 1), min_size=1, max_size=4)
    )
    # Anywhere that touches the image, also far wider than it.
    start = [data.draw(st.integers(-9, n - 1)) for n in size]
    stop = [data.draw(st.integers(max(a, 0) + 1, n + 14)) for a, n in zip(start, size, strict=True)]
    patch_size = [b - a for a, b in zip(start, stop, strict=True)]
    canonical = Layout(axes, array.shape).to_canonical(array)
    expected = expected_patch(
        canonical, sample, channels or [*range(n_channels)], start, patch_size
    )
    if channels is not None:
        expected = expected_patch(canonical, sample, channels, start, patch_size)
    found = stack.extract_patch(sample, channels, start, patch_size)
    np.testing.assert_array_equal(found, expected)
    region = Region(0, sample, tuple(start), tuple(stop))
    np.testing.assert_array_equal(read_region(stack, region, channels), expected)


def test_a_patch_of_an_array_is_a_view() -> None:
    array = np.zeros((3, 10, 12, 2))
    patch = ArrayStack(array, "TYXC", "a").extract_patch(1, None, (2, 3), (4, 4))
    assert np.shares_memory(patch, array)
    run = ArrayStack(array, "TYXC", "a").extract_patch(1, [1], (2, 3), (4, 4))
    assert np.shares_memory(run, array)


@pytest.mark.parametrize("dtype", ["?", "i1", "u8", ">u2", ">f4", "f2", "f8"])
def test_every_real_dtype_is_kept_also_where_padded(dtype: str) -> None:
    array = np.arange(20).reshape(4, 5).astype(dtype)
    array.flags.writeable = False
    stack = ArrayStack(array, "YX", "a")
    patch = stack.extract_patch(0, None, (-1, 2), (7, 6))
    assert patch.dtype == np.dtype(dtype) == stack.data_dtype
    np.testing.assert_array_equal(
        patch, expected_patch(array[None, None], 0, [0], [-1, 2], [7, 6]), strict=True
    )


@pytest.mark.parametrize("dtype", ["c8", "O", "U3", "M8[s]"])
def test_other_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(DataError, match=r"cells.npy: dtype .* is not a real number. Convert it"):
        ArrayStack(np.zeros((4, 4), dtype), "YX", "cells.npy")


def test_an_array_without_pixels_is_refused() -> None:
    with pytest.raises(DataError, match=r"cells.npy: shape \(0, 4\) holds no pixel"):
        ArrayStack(np.zeros((0, 4)), "YX", "cells.npy")


def test_a_patch_wholly_outside_is_refused() -> None:
    stack = ArrayStack(np.zeros((4, 4)), "YX", "a")
    with pytest.raises(IndexError, match="lies outside"):
        stack.extract_patch(0, None, (4, 0), (2, 2))


def test_the_block_shape_is_given_on_disk_and_told_in_canonical_order() -> None:
    stack = ArrayStack(np.zeros((9, 2, 8)), "XCY", "a", block_shape=(3, 2, 100))
    assert stack.block_shape == (100, 3)
    assert block_shape_of(stack) == (8, 3)


def test_the_whole_sample_is_a_block_where_a_stack_does_not_say() -> None:
    assert block_shape_of(ArrayStack(np.zeros((3, 8, 9)), "TYX", "a")) == (8, 9)


def test_six_members_make_an_image_stack() -> None:
    stack = SixMembers()
    assert isinstance(stack, ImageStack)
    assert block_shape_of(stack) == (6, 7)
    found = read_region(stack, Region(0, 0, (2, 0), (9, 20)), [1, 0])
    expected = expected_patch(stack.pixels[None], 0, [1, 0], [2, 0], [7, 20])
    np.testing.assert_array_equal(found, expected)


class Broken(SixMembers):
    source = "/data/broken.czi"

    def extract_patch(self, *args: object) -> np.ndarray:
        raise OSError("bad sub-block")


class Wrong(SixMembers):
    source = "/data/wrong.h5"

    def extract_patch(self, *args: object) -> np.ndarray:
        return np.zeros((2, 2))


def test_an_error_while_reading_tells_source_and_place() -> None:
    with pytest.raises(DataError) as error:
        read_region(Broken(), Region(0, 0, (1, 2), (4, 5)), None)
    assert str(error.value) == (
        "/data/broken.czi: reading sample 0 from (1, 2) to (4, 5) failed: OSError: bad sub-block"
    )
    assert isinstance(error.value.__cause__, OSError)


def test_a_region_outside_the_image_tells_source_and_place() -> None:
    with pytest.raises(DataError, match=r"six: reading sample 0 from \(9, 0\) .* lies outside"):
        read_region(SixMembers(), Region(0, 0, (9, 0), (12, 2)), None)


def test_a_stack_that_returns_another_shape_than_asked_is_named() -> None:
    with pytest.raises(DataError, match=r"wrong.h5.* gave shape \(2, 2\) instead of \(2, 3, 3\)"):
        read_region(Wrong(), Region(0, 0, (0, 0), (3, 3)), None)


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 999, (3, 20, 30)).astype(">u2")


def raw(array: np.ndarray, path: Path, order: str) -> RawArray:
    path.write_bytes(b"header" + array.tobytes(order))  # type: ignore[arg-type]
    return RawArray(path, array.dtype, array.shape, 6, order)


def test_a_stack_on_disk_pickles_in_less_than_a_kilobyte(array: np.ndarray, tmp_path: Path) -> None:
    stack = ArrayStack(raw(array, tmp_path / "a.raw", "C"), "TYX", "a", block_shape=(1, 1, 1))
    pickled = pickle.dumps(stack)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    np.testing.assert_array_equal(again.extract_patch(1, None, (0, 0), (20, 30))[0], array[1])


@pytest.mark.parametrize("view", [np.s_[:], np.s_[1:], np.s_[1:2, 3:7], np.s_[1]])
def test_a_memory_map_of_the_user_pickles_as_a_place_in_its_file(
    array: np.ndarray, tmp_path: Path, view: object
) -> None:
    np.save(tmp_path / "a.npy", np.tile(array, (1, 4, 4)))
    opened = np.load(tmp_path / "a.npy", mmap_mode="r")[view]
    stack = ArrayStack(opened, "TYX"[-opened.ndim :], "a")
    pickled = pickle.dumps(stack)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(pickle.loads(pickled).load().array, opened, strict=True)


def test_what_was_changed_in_a_copy_on_write_map_travels_with_it(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 4)))
    opened = np.load(tmp_path / "a.npy", mmap_mode="c")
    opened[1, 1] = 7
    stack = pickle.loads(pickle.dumps(ArrayStack(opened, "YX", "a")))
    assert stack.extract_patch(0, None, (1, 1), (1, 1)).item() == 7


def test_load_keeps_everything_but_the_place(array: np.ndarray, tmp_path: Path) -> None:
    stored = raw(array, tmp_path / "a.raw", "F")
    scale = {"Y": (0.1, "µm")}
    says = {"channel_names": ["r", "g", "b"], "is_rgb": True, "image_name": "b", "labels": ["c"]}
    says |= {"imagej": {"mode": "color"}, "scale": scale}
    stack = ArrayStack(stored, "CYX", "a", block_shape=(1, 1, 1), **says)
    loaded = stack.load()
    (tmp_path / "a.raw").unlink()
    assert loaded.in_memory
    assert type(loaded.array) is np.ndarray
    np.testing.assert_array_equal(loaded.array, array, strict=True)
    assert (loaded.source, loaded.original_axes, loaded.scale) == ("a", "CYX", scale)
    assert (loaded.channel_names, loaded.labels) == (("r", "g", "b"), ("c",))
    assert (loaded.is_rgb, loaded.image_name, loaded.imagej) == (True, "b", {"mode": "color"})
    assert loaded.load() is loaded


class Closes(np.ndarray):
    closed = 0

    def close(self) -> None:
        type(self).closed += 1


def test_close_closes_what_can_be_closed() -> None:
    ArrayStack(np.zeros((3, 3)), "YX", "a").close()
    ArrayStack(np.zeros((3, 3)).view(Closes), "YX", "a").close()
    assert Closes.closed == 1


def unpickled(stacks: list[ArrayStack], queue: mp.SimpleQueue) -> None:
    """Runs in a process of its own: tells what it got, and writes into the pixels it shares."""
    queue.put([(stack.array.tolist(), stack.array.dtype.str) for stack in stacks])
    stacks[0].array[0, 0] += 1


def send(stacks: list[ArrayStack], method: str) -> list[tuple[list[list[float]], str]]:
    context: Any = mp.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=unpickled, args=(stacks, queue))
    process.start()
    found = queue.get()
    process.join()
    assert process.exitcode == 0
    return found


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Allow this process fewer open descriptors than the test below has images."""
    forkserver.ensure_running()  # without this limit, which it would keep
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 100, hard)
    )
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_descriptors")
def test_processes_that_are_spawned_share_one_copy_of_arrays_in_memory() -> None:
    originals = [
        np.zeros((5, 6), np.int64),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(6, dtype=">u2").reshape(2, 3),
        np.array([[True, False]]),
        *(np.full((3, 3), i) for i in range(300)),
    ]
    stacks = [ArrayStack(a, "YX", str(i)) for i, a in enumerate(originals)]
    assert send(stacks, "spawn") == [(a.tolist(), a.dtype.str) for a in originals]
    # What the first process wrote, this one and the second one see: there is a single copy.
    assert stacks[0].array[0, 0] == 1
    assert send(stacks[:1], "forkserver")[0][0][0][0] == 1
    assert stacks[0].array[0, 0] == 2
    assert originals[0][0, 0] == 0
    assert all(stack.in_memory for stack in stacks)
    # Nothing of it remains in an ordinary pickle.
    assert len(pickle.dumps(stacks[0])) < 1000 + stacks[0].array.nbytes
