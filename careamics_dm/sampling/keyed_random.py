"""Random numbers that are functions of a key and a number, so that any of them can be computed.

A generator gives its millionth number only after all before it. Here number ``k`` of a sequence is
computed by itself, for many ``k`` at once; so an epoch can be entered anywhere.

References
----------
G. L. Steele, D. Lea and C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014
(the constants, and that a counter, mixed, passes for random). J. Black and P. Rogaway, "Ciphers
with arbitrary finite domains", CT-RSA 2002 (a permutation of ``range(n)`` by a Feistel network
that is repeated until it ends inside the range).
"""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

STEP, FIRST, SECOND = (
    np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
SMALL = 1024
"""Numbers that are permuted by sorting."""
ROUNDS = 6
"""Of the permutation: each half is changed three times."""


def key_of(*words: int) -> np.uint64:
    """Return the key of a sequence, from a seed and whatever else names it, all from 0 on."""
    return np.uint64(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def mixed(key: np.uint64, numbers: Numbers) -> NDArray[np.uint64]:
    """Return 64 random bits for each number."""
    z = numbers.astype(np.uint64)
    z *= STEP
    z += key
    z ^= z >> np.uint64(30)
    z *= FIRST
    z ^= z >> np.uint64(27)
    z *= SECOND
    z ^= z >> np.uint64(31)
    return z


def fractions(key: np.uint64, numbers: Numbers) -> NDArray[np.float64]:
    """Return a random fraction, from 0 to below 1, for each number."""
    return np.asarray((mixed(key, numbers) >> np.uint64(11)) * 2.0**-53, np.float64)


def permuted(key: np.uint64, numbers: Numbers, n: int) -> Numbers:
    """Return where a random permutation of ``range(n)`` takes each number of it."""
    if n <= SMALL:  # a network of so few bits would prefer some permutations
        return np.asarray(np.argsort(mixed(key, np.arange(n)))[numbers])
    bits = (n - 1).bit_length()
    found = _exchange(key, numbers, bits)
    while len(outside := np.flatnonzero(found >= n)):
        found[outside] = _exchange(key, found[outside], bits)
    return found


def _exchange(key: np.uint64, numbers: Numbers, bits: int) -> Numbers:
    """Permute all numbers of so many bits: each half in turn is changed by what the other is."""
    low = np.uint64(bits // 2)
    masks = [np.uint64(2 ** (bits - bits // 2) - 1), np.uint64(2 ** (bits // 2) - 1)]
    both = numbers.astype(np.uint64)
    halves = [both >> low, both & masks[1]]
    for i, round_key in enumerate(mixed(key, np.arange(ROUNDS))):
        # The high bits of a product depend on all bits of its factors.
        z = halves[1 - i % 2] + round_key
        z *= FIRST
        z ^= z >> np.uint64(29)
        z *= SECOND
        z >>= np.uint64(33)
        z &= masks[i % 2]
        halves[i % 2] ^= z
    return np.asarray((halves[0] << low | halves[1]).astype(np.int64))
