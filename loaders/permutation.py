"""A shuffle without a table: permutations of 0..n-1 computed one element at a time.

An unbalanced Feistel network over the smallest power of two that holds n is a permutation whatever
its round function is; elements that land outside 0..n-1 are sent through again until they land
inside ("cycle walking", Black and Rogaway, *Ciphers with Arbitrary Finite Domains*, 2002), which
keeps it a permutation. The domain is less than twice n, so an element walks less than twice on
average. Nothing is stored: the state of a shuffle is its key.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.uint64]

# 8 rounds: with fewer, small domains (n < 16) favour some places measurably
# (tests/loaders/test_permutation.py).
_ROUNDS = 8
_WORD = (1 << 64) - 1
# The increment and the two multipliers of splitmix64 (Steele, Lea, Flood 2014).
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_ROUND_KEYS = [np.uint64((_GOLDEN * (number + 1)) & _WORD) for number in range(_ROUNDS)]


def keys(*parts: int | npt.NDArray[Any]) -> Integers:
    """A 64-bit key from whole numbers (or arrays of them, elementwise): splitmix64 over the parts
    in turn.

    Parts are taken modulo 2**64, so negative seeds are keys of their own. Returns uint64,
    1-dimensional.
    """
    key = np.zeros(1, np.uint64)
    for part in parts:
        word = np.uint64(part & _WORD) if isinstance(part, int) else part.astype(np.uint64)
        key = (key ^ word) + np.uint64(_GOLDEN)
        key = (key ^ (key >> np.uint64(30))) * _MIX_1
        key = (key ^ (key >> np.uint64(27))) * _MIX_2
        key ^= key >> np.uint64(31)
    return key


def permute(index: npt.NDArray[Any], size: int | npt.NDArray[Any], key: Integers) -> Integers:
    """Where the permutation of 0..size-1 named by `key` sends each element of `index`.

    Args:
        index: whole numbers below `size`, 1-dimensional.
        size: of the permuted range, 1 to 2**62; a number, or one for each element.
        key: from `keys`, one (shape [1]) or one for each element.

    Returns:
        uint64, the shape of `index`.
    """
    sizes = np.atleast_1d(np.asarray(size, np.uint64))
    # frexp's exponent is the bit length; exact in this use, since only sizes given as arrays are
    # small ones.
    bits = np.array([(int(sizes[0]) - 1).bit_length()]) if sizes.size == 1 else _bit_lengths(sizes)
    low = (bits - bits // 2).astype(np.uint64)
    high_mask = (np.uint64(1) << (bits // 2).astype(np.uint64)) - np.uint64(1)
    low_mask = (np.uint64(1) << low) - np.uint64(1)
    out = _encrypt(index.astype(np.uint64), key, low, low_mask, high_mask)
    outside = np.flatnonzero(out >= sizes)
    while outside.size:
        walked = _encrypt(
            out[outside],
            _take(key, outside),
            _take(low, outside),
            _take(low_mask, outside),
            _take(high_mask, outside),
        )
        out[outside] = walked
        outside = outside[walked >= _take(sizes, outside)]
    return out


def _bit_lengths(sizes: Integers) -> npt.NDArray[np.int64]:
    return np.frexp((sizes - np.uint64(1)).astype(np.float64))[1].astype(np.int64)


def _take(values: Integers, index: npt.NDArray[np.intp]) -> Integers:
    return values if values.size == 1 else values[index]


def _encrypt(
    index: Integers, key: Integers, low: Integers, low_mask: Integers, high_mask: Integers
) -> Integers:
    """One pass of the Feistel network over the domain of `low` + high bits."""
    left, right = index >> low, index & low_mask
    for number, round_key in enumerate(_ROUND_KEYS):
        if number % 2:
            right ^= _scramble(left, key ^ round_key) & low_mask
        else:
            left ^= _scramble(right, key ^ round_key) & high_mask
    return (left << low) | right


def _scramble(half: Integers, key: Integers) -> Integers:
    """32 well-mixed bits of (half, key)."""
    word = half + key
    word *= _MIX_1
    word ^= word >> np.uint64(29)
    word *= _MIX_2
    word >>= np.uint64(32)
    return word
