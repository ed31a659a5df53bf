r"""Hash buckets of n-grams as the official DSIR package has them: SHA-256 of the words joined by one space, modulo.

The words are those of `ngrams`. An n-gram is at most a few dozen bytes, one block of SHA-256, so hashing it here takes
less than calling hashlib; and since few n-grams make up most of a text, their buckets are remembered: in a table of
fixed size whose entries hold the n-gram itself, so that a remembered bucket is always the right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit, types

from dselect.kernels.words import SPACE, Floats, Ints, decode, lower_bytes, width, word_classes

_SPANS = 4096  # words held at a time: memory does not grow with the document
_SLOT_BITS = 16  # 65 536 remembered n-grams, 2.6 MB; four times as many are no faster
_KEPT = 31  # bytes of the longest n-gram that is remembered

_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_BOUNDS = types.int64[::1]
_U32 = types.uint32
_U64 = types.uint64


def _primes(count: int) -> list[int]:
    found: list[int] = []
    number = 2
    while len(found) < count:
        if all(number % prime for prime in found):
            found.append(number)
        number += 1
    return found


def _root_bits(number: int, root: int) -> int:
    """Return the first 32 bits of the fraction of a root (2 or 3) of a number, by bisection on integers."""
    low, high = 0, number << 32
    scaled = number << 32 * root
    while low < high:
        middle = (low + high + 1) // 2
        if middle**root <= scaled:
            low = middle
        else:
            high = middle - 1
    return low & 0xFFFFFFFF


# FIPS 180-4, 4.2.2 and 5.3.3: fractions of the cube roots of the first 64 primes, of the square roots of the first 8
_K = np.array([_root_bits(prime, 3) for prime in _primes(64)], np.uint32)
_START = np.array([_root_bits(prime, 2) for prime in _primes(8)], np.uint32)


@njit(_U32(_U32, types.int64), cache=True, inline="always")
def _rotated(x: Any, by: Any) -> Any:
    return np.uint32((x >> np.uint32(by)) | (x << np.uint32(32 - by)))


@njit(types.void(_U32[::1], _U64[::1], _U32[::1]), cache=True)
def _compress(state: Any, block: Any, w: Any) -> None:
    """Take one block, 64 bytes, into the state (FIPS 180-4, 6.2.2); w is room for 64 words."""
    for i in range(8):
        w[2 * i] = np.uint32(block[i] >> np.uint64(32))
        w[2 * i + 1] = np.uint32(block[i])
    for t in range(16, 64):
        x, y = w[t - 15], w[t - 2]
        s0 = _rotated(x, 7) ^ _rotated(x, 18) ^ np.uint32(x >> np.uint32(3))
        s1 = _rotated(y, 17) ^ _rotated(y, 19) ^ np.uint32(y >> np.uint32(10))
        w[t] = np.uint32(w[t - 16] + s0 + w[t - 7] + s1)
    a, b, c, d = state[0], state[1], state[2], state[3]
    e, f, g, h = state[4], state[5], state[6], state[7]
    for t in range(64):
        s1 = _rotated(e, 6) ^ _rotated(e, 11) ^ _rotated(e, 25)
        chosen = g ^ (e & (f ^ g))
        t1 = np.uint32(h + s1 + chosen + _K[t] + w[t])
        s0 = _rotated(a, 2) ^ _rotated(a, 13) ^ _rotated(a, 22)
        majority = (a & b) | (c & (a | b))
        h, g, f = g, f, e
        e = np.uint32(d + t1)
        d, c, b = c, b, a
        a = np.uint32(t1 + s0 + majority)
    state[0], state[1] = np.uint32(state[0] + a), np.uint32(state[1] + b)
    state[2], state[3] = np.uint32(state[2] + c), np.uint32(state[3] + d)
    state[4], state[5] = np.uint32(state[4] + e), np.uint32(state[5] + f)
    state[6], state[7] = np.uint32(state[6] + g), np.uint32(state[7] + h)


@njit(types.int64(_U32[::1], _U64), cache=True)
def _remainder(state: Any, buckets: Any) -> Any:
    """Return the digest, a number of 256 bits whose first word is the highest, modulo `buckets` < 2^32."""
    rest = np.uint64(0)
    for i in range(8):
        rest = ((rest << np.uint64(32)) | np.uint64(state[i])) % buckets
    return np.int64(rest)


@njit(types.int64(_U64[::1]), cache=True, inline="always")
def _slot(block: Any) -> Any:
    """Return where the table would hold the n-gram whose padded block begins with these 32 bytes."""
    h = block[0] ^ (block[1] * np.uint64(0x9E3779B97F4A7C15))
    h = (h + (block[2] ^ (block[3] * np.uint64(0xC4CEB9FE1A85EC53)))) * np.uint64(0xFF51AFD7ED558CCD)
    return np.int64(((h ^ (h >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - _SLOT_BITS))


@njit(types.int64(_BYTES, _BOUNDS, _BOUNDS, types.int64, types.int64, _U64, _U64[:, ::1], _U64[::1], _U32[::1],
                  _U32[::1]), cache=True)  # fmt: skip
def _bucket(
    data: Any, starts: Any, stops: Any, first: Any, last: Any, buckets: Any, table: Any, block: Any, state: Any, w: Any
) -> Any:
    """Return the bucket of the n-gram from word `first` to word `last`: from the table, or hashed and remembered."""
    for i in range(8):
        state[i] = _START[i]
    part, size = np.uint64(0), 0
    for position in range(first, last + 1):
        start = starts[position]
        for at in range(start - (position > first), stops[position]):
            byte = np.uint64(data[at]) if at >= start else np.uint64(32)
            part = (part << np.uint64(8)) | byte
            size += 1
            if size & 7 == 0:
                block[((size - 1) >> 3) & 7] = part
                if size & 63 == 0:
                    _compress(state, block, w)
    # the padding: a one bit, zeros, the length in bits
    at = (size >> 3) & 7
    block[at] = ((part << np.uint64(8)) | np.uint64(0x80)) << np.uint64(8 * (7 - (size & 7)))
    for i in range(at + 1, 8):
        block[i] = np.uint64(0)
    if at == 7:
        _compress(state, block, w)
        for i in range(7):
            block[i] = np.uint64(0)
    block[7] = np.uint64(8 * size)
    if size > _KEPT:
        _compress(state, block, w)
        return _remainder(state, buckets)
    entry = table[_slot(block)]  # padded, the first 32 bytes of the block are this n-gram and no other
    if entry[0] != block[0] or entry[1] != block[1] or entry[2] != block[2] or entry[3] != block[3]:
        _compress(state, block, w)
        for i in range(4):
            entry[i] = block[i]
        entry[4] = np.uint64(_remainder(state, buckets))
    return np.int64(entry[4])


_NEXT = types.Tuple((types.int64, types.int64))(
    _BYTES, types.int64, types.int64, types.uint8[::1], types.int64[::1], types.int64[::1], types.int64
)


@njit(_NEXT, cache=True)
def _next_words(data: Any, at: Any, stop: Any, classes: Any, starts: Any, stops: Any, filled: Any) -> Any:
    """Append the bounds of words until the arrays are full or the text ends; return (where to go on, how many)."""
    while at < stop:
        first = data[at]
        kind = classes[first] if first < 0x80 else classes[decode(data, at)]
        if kind == SPACE:
            at += width(first)
            continue
        starts[filled] = at
        while True:  # the code points of one word
            at += width(first)
            if at == stop:
                break
            first = data[at]
            if (classes[first] if first < 0x80 else classes[decode(data, at)]) != kind:
                break
        stops[filled] = at
        filled += 1
        if filled == len(starts):
            break
    return at, filled


@njit(types.int64(_BYTES, types.int64[::1], types.uint8[::1], types.int64, _U64[:, ::1], types.int64[::1]),
      cache=True)  # fmt: skip
def _count(data: Any, ends: Any, classes: Any, longest: Any, table: Any, counts: Any) -> Any:
    """Add every n-gram of every text to counts; return how many there were."""
    starts, stops = np.empty(_SPANS + longest, np.int64), np.empty(_SPANS + longest, np.int64)
    block, state, w = np.empty(8, np.uint64), np.empty(8, np.uint32), np.empty(64, np.uint32)
    buckets = np.uint64(len(counts))
    total = 0
    start = 0
    for document in range(len(ends)):
        stop = ends[document]
        at, kept = start, 0
        while at < stop:
            at, filled = _next_words(data, at, stop, classes, starts, stops, kept)
            for last in range(kept, filled):
                for first in range(last, max(last - longest, -1), -1):
                    counts[_bucket(data, starts, stops, first, last, buckets, table, block, state, w)] += 1
                    total += 1
            # the last words stay: the next chunk's n-grams begin in them
            carried = min(filled, longest - 1)
            for i in range(carried):
                starts[i], stops[i] = starts[filled - carried + i], stops[filled - carried + i]
            kept = carried
        start = stop
    return total


_WEIGHTS = types.Array(types.float64, 2, "C", readonly=True)


@njit(types.void(_BYTES, types.int64[::1], types.uint8[::1], types.int64, _U64[:, ::1], _WEIGHTS,
                 types.float64[:, ::1], types.int64[::1]), cache=True)  # fmt: skip
def _score(data: Any, ends: Any, classes: Any, longest: Any, table: Any, weights: Any, sums: Any, grams: Any) -> None:
    """Per text: Σ weights[bucket] for each column of weights, and the number of n-grams."""
    starts, stops = np.empty(_SPANS + longest, np.int64), np.empty(_SPANS + longest, np.int64)
    block, state, w = np.empty(8, np.uint64), np.empty(8, np.uint32), np.empty(64, np.uint32)
    buckets, columns = np.uint64(weights.shape[0]), weights.shape[1]
    start = 0
    for document in range(len(ends)):
        stop = ends[document]
        at, kept = start, 0
        while at < stop:
            at, filled = _next_words(data, at, stop, classes, starts, stops, kept)
            for last in range(kept, filled):
                for first in range(last, max(last - longest, -1), -1):
                    bucket = _bucket(data, starts, stops, first, last, buckets, table, block, state, w)
                    for column in range(columns):
                        sums[document, column] += weights[bucket, column]
                    grams[document] += 1
            carried = min(filled, longest - 1)
            for i in range(carried):
                starts[i], stops[i] = starts[filled - carried + i], stops[filled - carried + i]
            kept = carried
        start = stop


@lru_cache(maxsize=1)
def _table(buckets: int) -> np.ndarray[Any, np.dtype[np.uint64]]:  # noqa: ARG001  each number of buckets has its own
    """Return this process's remembered n-grams: 32 bytes of padded block, then the bucket. The GIL guards it."""
    return np.zeros((1 << _SLOT_BITS, 5), np.uint64)


def count_ngrams(texts: Sequence[str] | Sequence[bytes], longest: int, counts: Ints) -> int:
    """Add the uni- to `longest`-grams of the texts to counts, int64 (buckets,); return how many there were."""
    data, ends = lower_bytes(texts)
    return int(_count(data, ends, word_classes(), longest, _table(len(counts)), counts))


def score_ngrams(texts: Sequence[str] | Sequence[bytes], longest: int, weights: Floats) -> tuple[Floats, Ints, Ints]:
    """Sum the weight of every n-gram of every text.

    weights: float64 (buckets, columns). Returns sums float64 (n, columns), n-grams int64 (n,), and the words as the
    package recovers them from the n-grams, int64 (n,): a text without words has longest(longest - 1)/2 // longest.
    """
    data, ends = lower_bytes(texts)
    sums = np.zeros((len(ends), weights.shape[1]))
    grams = np.zeros(len(ends), np.int64)
    _score(data, ends, word_classes(), longest, _table(len(weights)), weights, sums, grams)
    return sums, grams, (grams + longest * (longest - 1) // 2) // longest
