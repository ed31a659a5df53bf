r"""Words of a text, hashes of their n-grams, sums over hash buckets.

A word is a match of `\w+|[^\w\s]+` on the lower-cased text, the tokens of DSIR's featurizer, for every script.
Lower-casing is the caller's (`str.lower`, whose Σ and İ need the whole text); here UTF-8 is decoded and each code point
looked up in a shipped table, so that the words do not change with the Python that runs.

A word's hash is 64-bit FNV-1a over its UTF-8 bytes, finished with a mixer; an n-gram's hash chains those of its words,
the last word first. The bucket is the lower half of that hash scaled to the number of buckets. Sums run in the order of
the text, without fastmath: the same text gives the same float64 whatever it stands beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit, types

SPACE, WORD, OTHER = 0, 1, 2
_CHUNK = 4096  # word hashes held at a time: memory does not grow with the document

_FNV_START = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_CHAIN = np.uint64(0x9E3779B97F4A7C15)

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


@cache
def word_classes() -> Bytes:
    """Return the class of every code point: uint8 (0x110000,), SPACE, WORD or OTHER."""
    starts, classes = [], []
    for line in _table().splitlines()[1:]:
        start, kind = line.split()
        starts.append(int(start, 16))
        classes.append(int(kind))
    lengths = np.diff([*starts, 0x110000])
    return np.repeat(np.array(classes, np.uint8), lengths)


@cache
def unicode_version() -> str:
    """Return the Unicode version of the shipped table, for manifests and model files."""
    return _table().split(":")[0].removeprefix("# Unicode ")


def _table() -> str:
    return (Path(__file__).parent / "word_classes.txt").read_text("ascii")


def lower_bytes(texts: Sequence[str]) -> tuple[Bytes, Ints]:
    """Return the lower-cased texts end to end as UTF-8, and where each ends: uint8 (bytes,), int64 (n,)."""
    parts = [text.lower().encode() for text in texts]
    ends = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))
    return np.frombuffer(b"".join(parts), np.uint8), ends


# A read-only view is what frombuffer gives; saying so spares a second compilation.
_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_MIX = types.uint64(types.uint64)
_NEXT = types.Tuple((types.int64, types.int64))(
    _BYTES, types.int64, types.int64, types.uint8[::1], types.uint64[::1], types.int64
)
_COUNT = types.int64(_BYTES, types.int64[::1], types.uint8[::1], types.int64, types.int64[::1])
_SCORE = types.void(
    _BYTES, types.int64[::1], types.uint8[::1], types.int64, types.float64[:, ::1],
    types.float64[:, ::1], types.int64[::1], types.int64[::1],
)  # fmt: skip


@njit(_MIX, cache=True, nogil=True, inline="always")
def _mix(h: Any) -> Any:
    """Spread every bit of h over the result (the finaliser of MurmurHash3)."""
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(33))


@njit(types.uint64(types.uint64, types.uint64), cache=True, nogil=True, inline="always")
def _chain(h: Any, word: Any) -> Any:
    """Add one more word to the hash of an n-gram; the word hashes are mixed already, so one multiplication does."""
    h = (h + word) * _CHAIN
    return h ^ (h >> np.uint64(32))


@njit(types.int64(types.uint64, types.uint64), cache=True, nogil=True, inline="always")
def _bucket(h: Any, buckets: Any) -> Any:
    """Scale the lower half of a hash to the number of buckets: as even as a remainder, and five times cheaper."""
    return np.int64(((h & np.uint64(0xFFFFFFFF)) * buckets) >> np.uint64(32))


@njit(types.int64(types.uint8), cache=True, nogil=True, inline="always")
def _width(first: Any) -> Any:
    """Return how many bytes the code point takes that begins with this byte."""
    return 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


@njit(types.int64(_BYTES, types.int64), cache=True, nogil=True)
def _decode(data: Any, at: Any) -> Any:
    """Return the code point of the multi-byte sequence that begins at this place."""
    first = np.int64(data[at])
    low = np.int64(data[at + 1]) & 0x3F
    if first < 0xE0:
        return (first & 0x1F) << 6 | low
    low = low << 6 | (np.int64(data[at + 2]) & 0x3F)
    if first < 0xF0:
        return (first & 0x0F) << 12 | low
    return (first & 0x07) << 18 | low << 6 | (np.int64(data[at + 3]) & 0x3F)


@njit(_NEXT, cache=True, nogil=True)
def _next_words(data: Any, at: Any, stop: Any, classes: Any, hashes: Any, filled: Any) -> Any:
    """Append word hashes until the array is full or the text ends; return (where to go on, how many are filled)."""
    while at < stop:
        first = data[at]
        if first < 0x80:
            kind = classes[first]
            if kind == SPACE:
                at += 1
                continue
        else:
            kind = classes[_decode(data, at)]
            if kind == SPACE:
                at += _width(first)
                continue
        h = _FNV_START
        while True:  # the code points of one word
            if first < 0x80:
                h = (h ^ np.uint64(first)) * _FNV_PRIME
                at += 1
            else:
                for _ in range(_width(first)):
                    h = (h ^ np.uint64(data[at])) * _FNV_PRIME
                    at += 1
            if at == stop:
                break
            first = data[at]
            if first < 0x80:
                if classes[first] != kind:
                    break
            elif classes[_decode(data, at)] != kind:
                break
        hashes[filled] = _mix(h)
        filled += 1
        if filled == len(hashes):
            break
    return at, filled


@njit(_COUNT, cache=True, nogil=True)
def _count(data: Any, ends: Any, classes: Any, longest: Any, counts: Any) -> Any:
    """Add every n-gram of every text to counts; return how many there were."""
    hashes = np.empty(_CHUNK + longest, np.uint64)
    buckets = np.uint64(len(counts))
    total = 0
    start = 0
    for document in range(len(ends)):
        stop = ends[document]
        at, kept = start, 0
        while at < stop:
            at, filled = _next_words(data, at, stop, classes, hashes, kept)
            for last in range(kept, filled):
                h = np.uint64(0)
                for first in range(last, max(last - longest, -1), -1):
                    h = _chain(h, hashes[first])
                    counts[_bucket(h, buckets)] += 1
                    total += 1
            # the last words stay: the next chunk's n-grams begin in them
            carried = min(filled, longest - 1)
            for i in range(carried):
                hashes[i] = hashes[filled - carried + i]
            kept = carried
        start = stop
    return total


@njit(_SCORE, cache=True, nogil=True)
def _score(data: Any, ends: Any, classes: Any, longest: Any, weights: Any, sums: Any, grams: Any, words: Any) -> None:
    """Per text: Σ weights[bucket] for each column of weights, the number of n-grams, the number of words."""
    hashes = np.empty(_CHUNK + longest, np.uint64)
    buckets = np.uint64(weights.shape[0])
    columns = weights.shape[1]
    start = 0
    for document in range(len(ends)):
        stop = ends[document]
        at, kept = start, 0
        while at < stop:
            at, filled = _next_words(data, at, stop, classes, hashes, kept)
            words[document] += filled - kept
            for last in range(kept, filled):
                h = np.uint64(0)
                for first in range(last, max(last - longest, -1), -1):
                    h = _chain(h, hashes[first])
                    bucket = _bucket(h, buckets)
                    for column in range(columns):
                        sums[document, column] += weights[bucket, column]
                    grams[document] += 1
            carried = min(filled, longest - 1)
            for i in range(carried):
                hashes[i] = hashes[filled - carried + i]
            kept = carried
        start = stop


def count_ngrams(texts: Sequence[str], longest: int, counts: Ints) -> int:
    """Add the uni- to `longest`-grams of the texts to counts, int64 (buckets,); return how many there were."""
    data, ends = lower_bytes(texts)
    return int(_count(data, ends, word_classes(), longest, counts))


def score_ngrams(texts: Sequence[str], longest: int, weights: Floats) -> tuple[Floats, Ints, Ints]:
    """Sum the weight of every n-gram of every text.

    weights: float64 (buckets, columns). Returns sums float64 (n, columns), n-grams int64 (n,), words int64 (n,).
    """
    data, ends = lower_bytes(texts)
    sums = np.zeros((len(ends), weights.shape[1]))
    grams, words = np.zeros(len(ends), np.int64), np.zeros(len(ends), np.int64)
    _score(data, ends, word_classes(), longest, weights, sums, grams, words)
    return sums, grams, words


def count_words(texts: Sequence[str]) -> Ints:
    """Return how many words each text has: int64 (n,)."""
    return score_ngrams(texts, 1, np.zeros((1, 0)))[2]


def word_hashes(text: str) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return the hash of each word of a text, in order: uint64 (words,)."""
    data, ends = lower_bytes([text])
    hashes = np.empty(int(ends[0]) + 1, np.uint64)
    _, filled = _next_words(data, 0, int(ends[0]), word_classes(), hashes, 0)
    return hashes[:filled]
