"""Random numbers by number: the same whoever asks, and as random as others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from careamics_dm.sampling.keyed_random import fractions, key_of, mixed, permuted

PROPERTY = settings(max_examples=60, deadline=None)


def plausible(counts: np.ndarray, expected: float) -> bool:
    chi2, df = ((counts - expected) ** 2 / expected).sum(), counts.size - 1
    return bool(abs(chi2 - df) < 5 * (2 * df) ** 0.5)


@PROPERTY
@given(st.integers(1, 5000), st.integers(0, 2**32))
def test_a_permutation_takes_every_number_to_another(n: int, seed: int) -> None:
    found = permuted(key_of(seed), np.arange(n), n)
    assert sorted(found.tolist()) == list(range(n))


@PROPERTY
@given(st.integers(1, 2**45), st.integers(0, 2**32), st.lists(st.integers(0, 2**45), min_size=1))
def test_a_number_is_taken_to_the_same_whatever_else_is_asked(
    n: int, seed: int, some: list[int]
) -> None:
    numbers = np.array(some) % n
    together = permuted(key_of(seed), numbers, n)
    alone = [int(permuted(key_of(seed), numbers[i : i + 1], n)[0]) for i in range(len(numbers))]
    assert together.tolist() == alone
    assert ((together >= 0) & (together < n)).all()
    assert len(set(together.tolist())) == len(set(numbers.tolist()))


@pytest.mark.parametrize("n", [5, 1500])  # sorted, and by a network
def test_over_keys_a_number_is_taken_anywhere(n: int) -> None:
    bins = min(n, 20)
    counts = np.zeros((bins, bins))
    for seed in range(6000 // bins):
        found = permuted(key_of(seed, n), np.arange(n), n)
        np.add.at(counts, (np.arange(n) * bins // n, found * bins // n), 1)
    assert plausible(counts, counts.mean())


def test_neighbours_do_not_stay_neighbours() -> None:
    found = permuted(key_of(3), np.arange(100_000), 100_000)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.02
    assert np.count_nonzero(np.abs(np.diff(found)) == 1) < 20


def test_fractions_are_uniform_and_keys_apart() -> None:
    numbers = np.arange(100_000)
    one, other = fractions(key_of(0, 1), numbers), fractions(key_of(0, 2), numbers)
    assert 0 <= one.min() < one.max() < 1
    for found in (one, other):
        assert plausible(np.bincount((found * 100).astype(int), minlength=100), 1000)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.02
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.02


def test_64_bits_are_random_each() -> None:
    bits = np.unpackbits(mixed(key_of(7), np.arange(20_000)).view(np.uint8)).reshape(-1, 64)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.02
