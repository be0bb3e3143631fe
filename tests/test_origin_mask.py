from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from careamics_dm.origin_mask import OriginMask

# No deadlines: they tell how busy the machine is.
PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def masks(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...]]:
    n_axes = draw(st.integers(2, 3))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(n_axes))
    patch = tuple(draw(st.integers(1, 6)) for _ in range(n_axes))
    return draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 2))), patch


def centre(origin: tuple[int, ...], mask: np.ndarray, patch: tuple[int, ...]) -> tuple[int, ...]:
    columns = zip(origin, mask.shape, patch, strict=True)
    return tuple(o + p // 2 if n >= p else n // 2 for o, n, p in columns)


def all_origins(mask: np.ndarray, patch: tuple[int, ...]) -> np.ndarray:
    return np.array(list(np.ndindex(*np.maximum(np.subtract(mask.shape, patch), 0) + 1)))


@PROPERTY
@given(masks())
def test_an_origin_is_allowed_where_the_centre_of_its_patch_is_in_the_mask(
    case: tuple[np.ndarray, tuple[int, ...]],
) -> None:
    mask, patch = case
    origins, allowed = all_origins(mask, patch), OriginMask(mask, patch)
    expected = [mask[centre(tuple(o), mask, patch)] != 0 for o in origins]
    np.testing.assert_array_equal(allowed.allows(origins), expected)
    assert allowed.n_origins == len(origins)
    assert allowed.n_allowed == sum(expected)


@PROPERTY
@given(masks(), st.data())
def test_excluding_forbids_exactly_the_origins_that_overlap(
    case: tuple[np.ndarray, tuple[int, ...]], data: st.DataObject
) -> None:
    mask, patch = case
    origins, allowed = all_origins(mask, patch), OriginMask(mask, patch)
    before = allowed.allows(origins)
    some = data.draw(st.lists(st.sampled_from(range(len(origins))), max_size=3))
    allowed.exclude([(origins[i], origins[i] + patch) for i in some])
    far = [all((np.abs(o - origins[i]) >= patch).any() for i in some) for o in origins]
    np.testing.assert_array_equal(allowed.allows(origins), before & np.array(far))
    assert allowed.n_allowed == (before & np.array(far)).sum()


@PROPERTY
@given(masks(), st.integers(0, 2**32))
def test_only_allowed_origins_are_drawn(
    case: tuple[np.ndarray, tuple[int, ...]], seed: int
) -> None:
    mask, patch = case
    allowed = OriginMask(mask, patch)
    if allowed.n_allowed:
        drawn = allowed.draw(20, np.random.default_rng(seed))
        assert drawn.shape == (20, mask.ndim)
        assert allowed.allows(drawn).all()


def test_every_allowed_origin_is_drawn_equally_often() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((40, 50)) < 0.3  # several groups of bits
    allowed = OriginMask(mask, (3, 4))
    drawn = allowed.draw(200 * allowed.n_allowed, rng)
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == allowed.n_allowed
    chi2, df = ((counts - 200) ** 2 / 200).sum(), len(counts) - 1
    assert abs(chi2 - df) < 5 * (2 * df) ** 0.5


def test_one_allowed_origin_in_a_large_mask_is_found() -> None:
    mask = np.zeros((1000, 1000), bool)
    mask[777, 31 + 32] = True
    drawn = OriginMask(mask, (64, 64)).draw(5, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, [[777 - 32, 31]] * 5)


def test_drawing_none_from_an_empty_mask_is_fine() -> None:
    empty = OriginMask(np.zeros((8, 8)), (2, 2))
    assert empty.n_allowed == 0
    assert empty.draw(0, np.random.default_rng(0)).shape == (0, 2)


def test_any_number_but_zero_is_inside() -> None:
    mask = np.array([[0.0, -1.0, 0.5, 255.0]])
    np.testing.assert_array_equal(
        OriginMask(mask, (1, 1)).allows(np.array([[0, i] for i in range(4)])),
        [False, True, True, True],
    )
