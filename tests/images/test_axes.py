from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from careamics_dm.errors import DataError
from careamics_dm.images.axes import Layout, check_axes, same_roles, select_channels

# No deadlines: they tell how busy the machine is.
PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def layouts(draw: st.DrawFn, extra: str = "STCZHV") -> Layout:
    """Any valid subset of the axes, in any order, with metadata-only letters among them."""
    letters = "YX" + "".join(draw(st.sets(st.sampled_from(extra))))
    axes = "".join(draw(st.permutations(letters)))
    return Layout(axes, tuple(draw(st.integers(1, 4)) for _ in axes))


def numbered(layout: Layout) -> np.ndarray:
    return np.arange(prod(layout.shape)).reshape(layout.shape)


@PROPERTY
@given(layouts())
def test_to_canonical_and_back_is_the_identity(layout: Layout) -> None:
    array = numbered(layout)
    canonical = layout.to_canonical(array)
    assert canonical.shape == layout.data_shape
    np.testing.assert_array_equal(layout.from_canonical(canonical), array)


@PROPERTY
@given(layouts())
def test_every_pixel_is_where_its_indices_say(layout: Layout) -> None:
    array = numbered(layout)
    canonical = layout.to_canonical(array)
    for index in np.ndindex(*layout.shape):
        at = dict(zip(layout.axes, index, strict=True))
        sample = 0
        for axis in layout.sample_axes:
            sample = sample * layout.size(axis) + at[axis]
        where = (sample, at.get("C", 0), *(at[axis] for axis in layout.spatial_axes))
        assert canonical[where] == array[index]


@PROPERTY
@given(layouts(), st.data())
def test_a_box_picks_what_indexing_picks(layout: Layout, data: st.DataObject) -> None:
    array, canonical = numbered(layout), layout.to_canonical(numbered(layout))
    samples, n_channels, *size = layout.data_shape
    sample = data.draw(st.integers(0, samples - 1))
    c0 = data.draw(st.integers(0, n_channels - 1))
    c1 = data.draw(st.integers(c0 + 1, n_channels))
    space = [sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in size]
    box = layout.box(sample, slice(c0, c1), [a for a, _ in space], [b for _, b in space])
    expected = canonical[(sample, slice(c0, c1), *(slice(a, b) for a, b in space))]
    np.testing.assert_array_equal(layout.to_canonical(array[box])[0], expected)


@PROPERTY
@given(layouts(), st.data())
def test_a_box_goes_back_to_where_it_came_from(layout: Layout, data: st.DataObject) -> None:
    array = numbered(layout)
    samples, n_channels, *size = layout.data_shape
    sample = data.draw(st.integers(0, samples - 1))
    ends = [sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in size]
    box = layout.box(sample, slice(0, n_channels), [a for a, _ in ends], [b for _, b in ends])
    copy = np.full_like(array, -1)
    copy[box] = layout.from_box(layout.to_canonical(array[box])[0])
    np.testing.assert_array_equal(copy[box], array[box])
    assert (copy != -1).sum() == array[box].size


def test_samples_run_over_s_before_t_whatever_the_order_on_disk() -> None:
    s_t = np.arange(6).reshape(2, 3)  # value = 3 s + t
    for axes, array in (("STYX", s_t[:, :, None, None]), ("TSYX", s_t.T[:, :, None, None])):
        canonical = Layout(axes, array.shape).to_canonical(array)
        np.testing.assert_array_equal(canonical.reshape(-1), np.arange(6))


def test_letters_only_metadata_know_fold_into_samples_after_s_and_t() -> None:
    assert Layout("VHTSYX", (1,) * 6).sample_axes == "STHV"


def test_depth_is_there_only_with_z() -> None:
    assert Layout("TYX", (5, 4, 3)).data_shape == (5, 1, 4, 3)
    assert Layout("ZYX", (5, 4, 3)).data_shape == (1, 1, 5, 4, 3)


def test_reordering_does_not_copy_where_samples_are_one_axis() -> None:
    array = np.zeros((4, 2, 5, 3))
    assert np.shares_memory(Layout("YCXS", array.shape).to_canonical(array), array)


def test_a_sample_beyond_the_last_is_refused() -> None:
    with pytest.raises(ValueError, match="out of bounds"):
        Layout("TYX", (3, 4, 4)).box(3, slice(0, 1), (0, 0), (1, 1))


@PROPERTY
@given(layouts(), st.integers(1, 5))
def test_with_channels_changes_nothing_but_channels(layout: Layout, n: int) -> None:
    changed = layout.with_channels(n)
    samples, _, *size = layout.data_shape
    assert changed.data_shape == (samples, n, *size)
    assert changed.axes.replace("C", "") == layout.axes.replace("C", "")
    assert changed.axes == layout.axes or changed.axes == "C" + layout.axes


@PROPERTY
@given(layouts(), st.integers(1, 3))
def test_arrays_of_other_channel_counts_go_back_to_disk_order(layout: Layout, n: int) -> None:
    changed = layout.with_channels(n)
    canonical = np.arange(prod(changed.data_shape)).reshape(changed.data_shape)
    on_disk = changed.from_canonical(canonical)
    assert on_disk.shape == changed.shape
    np.testing.assert_array_equal(changed.to_canonical(on_disk), canonical)


@pytest.mark.parametrize(
    ("axes", "other", "same"),
    [
        ("TYX", "SYX", True),
        ("TCYX", "HCYX", True),
        ("TYX", "ZYX", False),
        ("YXC", "CYX", False),
        ("YX", "SYX", False),
    ],
)
def test_same_roles_tells_apart_only_what_matters(axes: str, other: str, same: bool) -> None:
    assert same_roles(axes, other) is same
    assert same_roles(other, axes) is same


@pytest.mark.parametrize(
    ("axes", "claim", "shape", "same"),
    [
        ("TCSYX", "TCZYX", (2, 2, 1, 8, 8), True),
        ("TCSYX", "TCZYX", (2, 2, 3, 8, 8), False),
        ("SYX", "?YX", (3, 8, 8), True),
        ("CYX", "ZYX", (1, 8, 8), False),
    ],
)
def test_a_z_of_one_plane_may_be_called_a_sample(
    axes: str, claim: str, shape: tuple[int, ...], same: bool
) -> None:
    assert same_roles(axes, claim, shape) is same


def test_lower_case_axes_are_taken() -> None:
    assert check_axes("tcyx", (2, 3, 4, 5), "a.tif") == "TCYX"


@pytest.mark.parametrize(
    ("axes", "shape", "message"),
    [
        ("AYX", (2, 3, 4), "A is not an axis. Use letters of STCZYX"),
        ("QAYX", (2, 3, 4, 5), "A, Q is not an axis"),
        ("YXY", (2, 3, 4), "a letter stands twice"),
        ("TCX", (2, 3, 4), "Y and X are required"),
        ("CYX", (3, 4), "3 letters for 2 dimensions. Give 2 letters of STCZYX"),
    ],
)
def test_wrong_axes_are_explained(axes: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(DataError) as error:
        check_axes(axes, shape, "cells.tif")
    assert message in str(error.value)
    assert str(error.value).startswith(f'cells.tif: axes="{axes}", shape {shape}: ')


def test_no_selection_means_all_channels() -> None:
    assert select_channels(None, 3, None, "a.tif") is None


def test_channels_are_selected_by_index_and_by_name_in_the_order_given() -> None:
    assert select_channels([2, "DAPI"], 3, ["GFP", "DAPI", "RFP"], "a.tif") == [2, 1]
    assert select_channels([np.int64(1)], 2, None, "a.tif") == [1]


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ([], "channels=[] selects nothing"),
        ([3], "channel 3 does not exist"),
        ([-1], "channel -1 does not exist"),
        (["Cy5"], "channel 'Cy5' is unknown"),
        (["GFP"], "channel 'GFP' names several"),
        ("DAPI", "channels='DAPI' is one word"),
        ([1.0], "channel 1.0 is neither index nor name"),
        ([True], "channel True is neither index nor name"),
    ],
)
def test_wrong_channels_are_answered_with_what_there_is(channels: object, message: str) -> None:
    with pytest.raises(DataError) as error:
        select_channels(channels, 3, ["DAPI", "GFP", "GFP"], "cells.tif")  # type: ignore[arg-type]
    assert message in str(error.value)
    assert "cells.tif has 3 channel(s) (0 to 2, names DAPI, GFP, GFP)" in str(error.value)


def test_a_name_is_unknown_to_an_image_without_names() -> None:
    with pytest.raises(DataError, match=r"'DAPI' is unknown: a.tif has 1 channel.*no names"):
        select_channels(["DAPI"], 1, None, "a.tif")
