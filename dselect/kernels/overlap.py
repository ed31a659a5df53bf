r"""Runs of n words that texts share, found by rolling hashes.

A word here is a match of `\w+` on the lower-cased text; punctuation and white space only part words, so that a copy is
found however it is set. The hash of a run is polynomial in the hashes of its words, modulo 2^64: two different runs
share one with a chance of about 2^-64, so they are not compared further.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numba import njit, types

from dselect.kernels.words import BYTES, OTHER, SPACE, Bytes, Ints, lower_bytes, mix, next_words, word_classes

Keys = np.ndarray[Any, np.dtype[np.uint64]]
Owners = np.ndarray[Any, np.dtype[np.int32]]

_CHUNK = 4096  # word hashes held at a time: memory does not grow with the document
_BASE = np.uint64(0x9E3779B97F4A7C15)

_KEYS = types.Array(types.uint64, 1, "C", readonly=True)
_RUNS = types.int64(BYTES, types.int64[::1], types.uint8[::1], types.int64, types.uint64[::1], types.int64[::1])
_FILL = types.void(types.uint64[::1], types.int32[::1], types.uint64[::1], types.int32[::1])
_FIND = types.void(
    types.uint64[::1], types.int64[::1], types.int64, _KEYS, types.Array(types.int32, 1, "C", readonly=True),
    types.int64[::1], types.int64[:, ::1],
)  # fmt: skip


@cache
def _classes() -> Bytes:
    classes = word_classes()
    return np.where(classes == OTHER, np.uint8(SPACE), classes)


@njit(types.uint64(types.int64), cache=True, nogil=True)
def _leaving(length: Any) -> Any:
    """Return what the hash of the word that leaves a run of this length has been multiplied by."""
    factor = np.uint64(1)
    for _ in range(length):
        factor *= _BASE
    return factor


@njit(types.uint64(types.uint64), cache=True, nogil=True, inline="always")
def _key(rolling: Any) -> Any:
    """Spread the hash of a run over all its bits; 0 marks what is empty in a table, so it is none."""
    return max(mix(rolling), np.uint64(1))


@njit(_RUNS, cache=True, nogil=True)
def _runs(data: Any, ends: Any, classes: Any, length: Any, keys: Any, words: Any) -> Any:
    """Write the key of every run of every text, and how many words each text has; return how many runs there are."""
    hashes = np.empty(_CHUNK + length, np.uint64)
    factor = _leaving(length)
    found, start = 0, 0
    for document in range(len(ends)):
        stop = ends[document]
        at, kept, count, rolling = start, 0, 0, np.uint64(0)
        while at < stop:
            at, filled = next_words(data, at, stop, classes, hashes, kept)
            for i in range(kept, filled):
                rolling = rolling * _BASE + hashes[i]
                count += 1
                if count > length:
                    rolling -= hashes[i - length] * factor
                if count >= length:
                    keys[found] = _key(rolling)
                    found += 1
            kept = min(filled, length)
            for i in range(kept):  # the words of the run that the next chunk goes on with
                hashes[i] = hashes[filled - kept + i]
        words[document] = count
        start = stop
    return found


@njit(_FILL, cache=True, nogil=True)
def _fill(keys: Any, owners: Any, table: Any, values: Any) -> None:
    """Put distinct keys into an open hash table of a size that is a power of two."""
    last = np.uint64(len(table) - 1)
    for i in range(len(keys)):
        slot = keys[i] & last
        while table[slot]:
            slot = (slot + np.uint64(1)) & last
        table[slot], values[slot] = keys[i], owners[i]


@njit(_FIND, cache=True, nogil=True)
def _find(keys: Any, words: Any, length: Any, table: Any, owners: Any, covered: Any, runs: Any) -> None:
    """Per text: how many of its words are in a known run, and how many runs of each owner it has."""
    last = np.uint64(len(table) - 1)
    at = 0
    for document in range(len(words)):
        end = 0  # of the last known run, in words
        for count in range(length, words[document] + 1):
            key = keys[at]
            at += 1
            slot = key & last
            while table[slot] and table[slot] != key:
                slot = (slot + np.uint64(1)) & last
            if table[slot]:
                runs[document, owners[slot]] += 1
                covered[document] += count - max(end, count - length)
                end = count


def run_keys(texts: Sequence[str] | Sequence[bytes], length: int, *, marks: bool = False) -> tuple[Keys, Ints]:
    """Return the keys of all runs of `length` words, uint64 (k,), and how many words each text has, int64 (n,).

    marks: a run of punctuation is a word too.
    """
    data, ends = lower_bytes(texts)
    keys, words = np.empty(len(data) + 1, np.uint64), np.zeros(len(ends), np.int64)
    found = _runs(data, ends, word_classes() if marks else _classes(), length, keys, words)
    return keys[:found].copy(), words


def run_table(keys: Sequence[Keys]) -> tuple[Keys, Owners]:
    """Return a table of the runs of several owners: uint64 and int32 (slots,); a run of two is the first one's."""
    joined = np.concatenate([np.zeros(0, np.uint64), *keys])
    owners = np.repeat(np.arange(len(keys), dtype=np.int32), [len(part) for part in keys])
    distinct, first = np.unique(joined, return_index=True)
    slots = 1 << max(4, int(2 * len(distinct)).bit_length())
    table, values = np.zeros(slots, np.uint64), np.zeros(slots, np.int32)
    _fill(distinct, owners[first], table, values)
    return table, values


def find_runs(
    texts: Sequence[str] | Sequence[bytes], length: int, table: Keys, owners: Owners, count: int
) -> tuple[Ints, Ints, Ints]:
    """Look for known runs in texts.

    Returns words (n,), words that are part of a known run (n,), and known runs of each owner (n, count): int64.
    """
    keys, words = run_keys(texts, length)
    covered, runs = np.zeros(len(words), np.int64), np.zeros((len(words), count), np.int64)
    _find(keys, words, length, table, owners, covered, runs)
    return words, covered, runs
