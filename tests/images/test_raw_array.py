from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from careamics_dm.errors import DataError
from careamics_dm.images import raw_array
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.raw_array import RawArray, file_of

if TYPE_CHECKING:
    from collections.abc import Callable

# No deadlines: they tell how busy the machine is. A file may serve several examples.
SAFE = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
PROPERTY = settings(max_examples=100, deadline=None, suppress_health_check=SAFE)
HEADER = b"header"


def store(path: Path, array: np.ndarray, order: str) -> RawArray:
    path.write_bytes(HEADER + array.tobytes(order))  # type: ignore[arg-type]
    return RawArray(path, array.dtype, array.shape, len(HEADER), order)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[slice, ...]]:
    """The shape of an array, and a box in it."""
    shape = tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=4)))
    start = [draw(st.integers(0, n - 1)) for n in shape]
    return shape, tuple(
        slice(a, draw(st.integers(a + 1, n))) for a, n in zip(start, shape, strict=True)
    )


@given(
    case=boxes(),
    order=st.sampled_from("CF"),
    dtype=st.sampled_from(["u1", ">u2", "<i4", ">f8", "?"]),
    gap=st.sampled_from([0, 1, 20, 2**14]),
    strip=st.sampled_from([1, 100, 2**22]),
)
@PROPERTY
def test_a_box_of_a_file_has_the_pixels_of_the_array(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[tuple[int, ...], tuple[slice, ...]],
    order: str,
    dtype: str,
    gap: int,
    strip: int,
) -> None:
    """Whichever way is fastest: rows by themselves, with gaps, in one piece, or in strips."""
    monkeypatch.setattr(raw_array, "GAP", gap)
    monkeypatch.setattr(raw_array, "STRIP", strip)
    shape, box = case
    array = np.random.default_rng(0).integers(0, 2**15, shape).astype(dtype)
    found = store(tmp_path / "a.raw", array, order)[box]
    np.testing.assert_array_equal(found, array[box], strict=True)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_stack_reads_patches_of_a_file(tmp_path: Path, order: str) -> None:
    array = np.arange(3 * 20 * 30, dtype=">u2").reshape(3, 20, 30)
    stored = store(tmp_path / "a.raw", array, order)
    stack = ArrayStack(stored, "TYX", "a", block_shape=(1, 1, 1))
    assert not stack.in_memory
    patch = stack.extract_patch(2, None, (3, 4), (5, 6))
    np.testing.assert_array_equal(patch, array[2:, 3:8, 4:10])


def calls_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Record the sizes of what is read from files, in bytes."""
    sizes: list[int] = []

    class Counted(raw_array.FileIO):
        def readinto(self, into: memoryview) -> int | None:
            n = super().readinto(into)
            sizes.append(n or 0)
            return n

    monkeypatch.setattr(raw_array, "FileIO", Counted)
    return lambda: [sizes.pop(0) for _ in range(len(sizes))]


def test_what_lies_in_one_piece_is_read_in_one_call_and_nothing_more_than_pays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.zeros((4, 100, 20_000), np.uint8)
    stored, read = store(tmp_path / "a.raw", array, "C"), calls_of(monkeypatch)
    _ = stored[0:4, 0:100, 0:20_000]
    assert read() == [8_000_000]
    _ = stored[1:3, 10:40, 0:20_000]  # two pieces, far from each other
    assert read() == [600_000, 600_000]
    _ = stored[1:2, 10:40, 0:15_000]  # what lies between costs less than a call for each row
    assert read() == [600_000]
    _ = stored[1:2, 10:13, 0:100]  # a call for each row costs less
    assert read() == [100, 100, 100]


@pytest.mark.parametrize("order", ["C", "F"])
def test_little_more_than_the_box_is_in_memory_at_a_time(tmp_path: Path, order: str) -> None:
    array = np.random.default_rng(0).integers(0, 2**16, (64, 512, 1024), np.uint16)
    stored = store(tmp_path / "a.raw", array if order == "C" else array.T, order)
    box = (slice(1, 63), slice(0, 512), slice(3, 6))  # a little of each row of the file
    tracemalloc.start()
    found = stored[box if order == "C" else box[::-1]]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(found if order == "C" else found.T, array[box])
    assert peak < found.nbytes + 2 * raw_array.STRIP


@pytest.mark.parametrize("planes", [1, 2])
def test_planes_are_read_in_parts_where_little_of_them_is_needed(
    tmp_path: Path, planes: int
) -> None:
    path = tmp_path / "a.raw"
    with path.open("wb") as file:
        file.truncate(2 * 2048 * 8192 * 2)  # planes of 32 MiB
    stored = RawArray(path, np.uint16, (2, 2048, 8192))
    tracemalloc.start()
    _ = stored[0:planes, 0:2048, 0:3]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * raw_array.STRIP


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    stored = store(tmp_path / "a.raw", np.zeros((3, 20, 30)), "C")
    before = len(list(Path("/proc/self/fd").iterdir()))
    read = [stored[0:1, i : i + 1, 0:30] for i in range(20)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert len(read) == 20


def test_a_file_that_ends_early_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    path.write_bytes(bytes(1000))
    stored = RawArray(path, np.uint16, (40, 20))
    assert stored[0:25, 0:20].shape == (25, 20)
    with pytest.raises(EOFError, match=r"a\.raw: ends at byte 1000, 40 too early"):
        _ = stored[0:26, 0:20]


def test_a_file_that_changes_is_an_error_unless_it_may(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    path.write_bytes(bytes(100))
    fixed, may = RawArray(path, "u1", (100,)), RawArray(path, "u1", (100,), may_change=True)
    path.write_bytes(bytes(range(200)))
    with pytest.raises(DataError, match="has changed since set-up"):
        _ = fixed[0:1,]
    np.testing.assert_array_equal(may[98:100,], np.array([98, 99], np.uint8))


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_view_of_a_memory_map_is_found_in_its_file(tmp_path: Path, order: str) -> None:
    array = np.arange(4 * 5 * 6, dtype=np.int32).reshape(4, 5, 6)
    store(tmp_path / "a.raw", array, order)
    mapped = np.memmap(tmp_path / "a.raw", np.int32, "r", len(HEADER), (4, 5, 6), order)  # type: ignore[call-overload]
    view = mapped[2] if order == "C" else mapped[..., 2]
    found = file_of(view)
    assert found is not None
    assert len(pickle.dumps(found)) < 500
    np.testing.assert_array_equal(found[0:5, 0:6] if order == "C" else found[0:4, 0:5], view)
