"""Exact byte n-gram counts.

While counts are collected, every byte of a text is the start of one n-gram: of the longest order, or shorter where the
text ends. Sorted by the bytes themselves, these *starts* hold the counts of every shorter order too, as runs of equal
prefixes, so one sort counts all orders; and counts of two texts add.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit, types

LONGEST = 8  # bytes of an n-gram: they fill a 64-bit key

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Keys = np.ndarray[Any, np.dtype[np.uint64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Counted = tuple[Keys, Ints]  # n-grams of one length, ascending, as big-endian numbers; how often each occurs
Starts = list[Counted]  # by length, from 1: n-grams that begin somewhere and are cut at this length


def readonly(item: Any, dimensions: int = 1) -> Any:
    """Return the type of an array that a loop only reads: a view of bytes that nobody may write is one too."""
    return types.Array(item, dimensions, "C", readonly=True)


_BYTES, _KEYS, _INTS = (readonly(item) for item in (types.uint8, types.uint64, types.int64))
_OUT_KEYS, _OUT_INTS = types.uint64[::1], types.int64[::1]


@njit(
    types.int64(_BYTES, _INTS, types.int64, _OUT_KEYS, types.uint64[:, ::1], types.int64[::1]), cache=True, nogil=True
)
def _starts(data: Any, ends: Any, longest: Any, full: Any, ends_of: Any, short: Any) -> Any:
    """Fill in the full n-grams of all texts, and per length the last bytes of each text; return how many are full."""
    mask = ~np.uint64(0) >> np.uint64(64 - 8 * longest)
    filled = 0
    start = 0
    for document in range(len(ends)):
        stop = ends[document]
        key = np.uint64(0)
        for at in range(start, stop):
            key = ((key << np.uint64(8)) | np.uint64(data[at])) & mask
            if at - start >= longest - 1:
                full[filled] = key
                filled += 1
        for length in range(1, min(longest, stop - start + 1)):
            ends_of[length, short[length]] = key & (~np.uint64(0) >> np.uint64(64 - 8 * length))
            short[length] += 1
        start = stop
    return filled


@njit(types.int64(_KEYS, _INTS, types.int64, _OUT_KEYS, _OUT_INTS), cache=True, nogil=True)
def _runs(keys: Any, counts: Any, shift: Any, found: Any, sums: Any) -> Any:
    """Sum the counts of equal keys, which lie together, after a shift to the right; return how many differ."""
    last = -1
    for at in range(len(keys)):
        key = keys[at] >> np.uint64(shift)
        if last < 0 or found[last] != key:
            last += 1
            found[last] = key
            sums[last] = 0
        sums[last] += counts[at] if len(counts) else 1
    return last + 1


@njit(types.int64(_KEYS, _INTS, _KEYS, _INTS, _OUT_KEYS, _OUT_INTS), cache=True, nogil=True)
def _merge(keys: Any, counts: Any, more: Any, others: Any, found: Any, sums: Any) -> Any:
    """Merge two ascending lists, adding the counts of keys in both; return how many differ."""
    i, j, last = 0, 0, 0
    while i < len(keys) or j < len(more):
        if j == len(more) or (i < len(keys) and keys[i] < more[j]):
            found[last], sums[last] = keys[i], counts[i]
            i += 1
        elif i == len(keys) or more[j] < keys[i]:
            found[last], sums[last] = more[j], others[j]
            j += 1
        else:
            found[last], sums[last] = keys[i], counts[i] + others[j]
            i += 1
            j += 1
        last += 1
    return last


def joined(texts: Sequence[bytes]) -> tuple[Bytes, Ints]:
    """Return the texts end to end, and where each ends: uint8 (bytes,), int64 (n,)."""
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    return np.frombuffer(b"".join(texts), np.uint8), ends


def nothing(order: int) -> Starts:
    """Return the counts of no text."""
    return [(np.zeros(0, np.uint64), np.zeros(0, np.int64)) for _ in range(order)]


def count(texts: Sequence[bytes], order: int) -> Starts:
    """Return the n-grams that begin at each byte of the texts, of `order` bytes or up to the text's end."""
    data, ends = joined(texts)
    full = np.empty(len(data), np.uint64)
    ends_of = np.zeros((order, max(len(ends), 1)), np.uint64)
    short = np.zeros(order, np.int64)
    filled = _starts(data, ends, order, full, ends_of, short)
    by_length = [ends_of[length, : short[length]] for length in range(1, order)] + [full[:filled]]
    return [summed(np.sort(keys)) for keys in by_length]


def add(starts: Starts, more: Starts) -> Starts:
    """Return the counts of both."""
    return [added(*pair) for pair in zip(starts, more, strict=True)]


def times(starts: Starts, factor: int) -> Starts:
    """Return the counts of texts that occur so many times as often."""
    return [(keys, counts * factor) for keys, counts in starts]


def pruned(starts: Starts, most: int) -> Starts:
    """Return the counts without the n-grams that occur at most so often, of two bytes and more.

    Each occurrence is cut one byte shorter instead, so the counts of shorter n-grams stay exact, and a context's count
    stays the sum over what is kept after it.
    """
    kept = list(starts)
    needed = np.zeros(0, np.uint64)  # prefixes of longer n-grams that stay
    for length in range(len(starts), 1, -1):
        keys, counts = kept[length - 1]
        rare = (counts <= most) & ~np.isin(keys, needed, assume_unique=True)
        kept[length - 2] = added(kept[length - 2], summed(keys[rare], counts[rare], 8))
        kept[length - 1] = keys[~rare], counts[~rare]
        staying = np.union1d(keys[~rare], needed)
        needed = np.unique(staying >> np.uint64(8))
    return kept


def size(starts: Starts) -> int:
    """Return how many n-grams are held."""
    return sum(len(keys) for keys, _ in starts)


def summed(keys: Keys, counts: Ints | None = None, shift: int = 0) -> Counted:
    """Return ascending n-grams, cut short by `shift` bits, each once with the sum of its counts; ones without any."""
    found, sums = np.empty(len(keys), np.uint64), np.empty(len(keys), np.int64)
    ones = np.zeros(0, np.int64) if counts is None else counts
    filled = _runs(keys, ones, shift, found, sums)
    return found[:filled].copy(), sums[:filled].copy()


def added(one: Counted, other: Counted) -> Counted:
    """Return the counts of both."""
    if not len(other[0]):
        return one
    most = len(one[0]) + len(other[0])
    found, sums = np.empty(most, np.uint64), np.empty(most, np.int64)
    filled = _merge(*one, *other, found, sums)
    return found[:filled].copy(), sums[:filled].copy()
