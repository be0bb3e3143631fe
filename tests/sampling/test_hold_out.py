from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from careamics_dm.errors import DataError
from careamics_dm.images.extent import Extent
from careamics_dm.sampling.allowed_origins import OriginMask
from careamics_dm.sampling.hold_out import hold_out
from careamics_dm.sampling.patch_grid import PatchGrid

# No deadlines: they tell how busy the machine is.
PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def on_disk(*sizes: tuple[int, ...], samples: int = 1, block: int = 8) -> list[Extent]:
    return [Extent(samples, s, tuple(min(block, n) for n in s), 2, False) for s in sizes]


def whole_patches(extents: list[Extent], patch: tuple[int, ...]) -> np.ndarray:
    """Image, sample and start of the grid but for patches that do not divide their axis."""
    grid = PatchGrid(extents, patch)
    found = grid.places(np.arange(len(grid)))
    inside = found.start + found.size <= np.array([e.size for e in extents])[found.image]
    keep = (inside & (found.start % found.size == 0)).all(axis=1)
    return np.column_stack([found.image, found.sample, found.start])[keep]


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Extent], tuple[int, ...], int]:
    """Images, some smaller than a patch; a patch size; how many to hold out, up to all but one."""
    n_axes = draw(st.integers(2, 3))
    sizes = draw(st.lists(st.tuples(*[st.integers(2, 20)] * n_axes), min_size=1, max_size=3))
    patch = tuple(draw(st.integers(1, 6)) for _ in range(n_axes))
    extents = on_disk(*sizes, samples=draw(st.integers(1, 2)), block=draw(st.integers(1, 9)))
    n_patches = len(whole_patches(extents, patch))
    assume(n_patches > 1)
    return extents, patch, draw(st.sampled_from([1, n_patches // 2, n_patches - 1]))


@PROPERTY
@given(cases(), st.integers(0, 2**32))
def test_held_out_patches_are_distinct_and_of_a_grid(
    case: tuple[list[Extent], tuple[int, ...], int], seed: int
) -> None:
    extents, patch, n = case
    held = hold_out(extents, patch, n, np.random.default_rng(seed))
    assert len(held) == n
    image, start = held.rows[:, 0], held.rows[:, 2:]
    assert len(np.unique(held.rows, axis=0)) == n
    assert (start % patch == 0).all()
    size = np.array([extents[i].size for i in image]).reshape(n, -1)
    assert (start + patch <= size).all()
    assert held.rows.tolist() == sorted(held.rows.tolist())


def test_the_same_generator_holds_out_the_same() -> None:
    extents = on_disk((100, 100), (50, 80))
    one, two, other = (hold_out(extents, (8, 8), 9, np.random.default_rng(s)) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.rows, two.rows)
    assert not np.array_equal(one.rows, other.rows)


def test_every_patch_is_equally_likely_to_be_held_out() -> None:
    extents = on_disk((16, 24), (8, 16), samples=2)
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(400):
        held = hold_out(extents, (8, 8), 4, np.random.default_rng(seed))
        for place in held.rows.tolist():
            counts[tuple(place)] = counts.get(tuple(place), 0) + 1
    assert len(counts) == 16
    assert all(abs(count - 100) < 45 for count in counts.values())


@pytest.mark.parametrize("n", [6, 7])
def test_holding_out_everything_is_an_error(n: int) -> None:
    with pytest.raises(DataError) as error:
        hold_out(on_disk((16, 24)), (8, 8), n, np.random.default_rng(0))
    assert f"n_val_patches={n}, but the training data hold only 6 patches of (8, 8)" in str(
        error.value
    )


def test_only_patches_whose_centre_is_in_the_mask_are_held_out() -> None:
    rng = np.random.default_rng(0)
    extents = on_disk((40, 40), (24, 40), (5, 5))
    pixels = [rng.random(e.size) < 0.5 for e in extents]
    masks = {(i, 0): OriginMask(m, (8, 8)) for i, m in enumerate(pixels) if i != 1}
    grid = whole_patches(extents, (8, 8))
    inside = [i == 1 or pixels[i][y + 4, x + 4] for i, _, y, x in grid.tolist()]
    held = hold_out(extents, (8, 8), sum(inside) - 1, rng, masks)
    allowed = {*map(tuple, grid[np.array(inside)].tolist())}
    assert {*map(tuple, held.rows.tolist())} < allowed
    with pytest.raises(DataError, match=f"hold only {sum(inside)} patches"):
        hold_out(extents, (8, 8), sum(inside), rng, masks)
