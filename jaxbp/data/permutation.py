"""A random order of 0 ... n - 1 that nobody stores: the entry at any place is computed by itself.

With n <= a b, a number x = a r + l is a pair (l, r), l < a, r < b. A round changes one of the two by a function of the
other:

    l <- l + f_1(r) mod a,    r <- r + f_2(l) mod b,    and so on.

Each round can be undone, so all of them together are a permutation of 0 ... a b - 1 (a Feistel network on Z_a x Z_b).
A result of n or more goes through again until it is below n, which makes it a permutation of 0 ... n - 1 (Black &
Rogaway 2002, "Ciphers with arbitrary finite domains", methods 2 and 3). With a = ceil sqrt n and b = ceil n / a fewer
than a of the a b numbers are n or more, so a second time is rare.
"""

from __future__ import annotations

import math

import numpy as np

ROUNDS = 8


def permuted(places: np.ndarray, size: int, *key: int) -> np.ndarray:
    """The entries at `places` [...] of the order of 0 ... size - 1 that belongs to the numbers `key`; int64 [...].

    Places lie in 0 ... size - 1; `key` holds numbers of at least 0. Any place takes the same short time.
    """
    a = max(math.isqrt(size - 1) + 1, 1)
    b = -(-size // a)
    keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64)
    entries = rounds(np.asarray(places, np.uint64), a, b, keys)
    while (above := entries >= size).any():
        entries[above] = rounds(entries[above], a, b, keys)
    return entries.astype(np.int64)


def rounds(x: np.ndarray, a: int, b: int, keys: np.ndarray) -> np.ndarray:
    """All rounds of the network on Z_a x Z_b; uint64 [...], a copy."""
    r, left = np.divmod(x, np.uint64(a))
    for first, second in keys.reshape(-1, 2):
        left = (left + mixed(r ^ first) % np.uint64(a)) % np.uint64(a)
        r = (r + mixed(left ^ second) % np.uint64(b)) % np.uint64(b)
    return r * np.uint64(a) + left


def mixed(x: np.ndarray) -> np.ndarray:
    """A hash of 64 bits, modulo 2^64 (the finalizer of SplitMix64; Steele, Lea & Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
