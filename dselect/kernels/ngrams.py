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
from typing import Any

import numpy as np
from numba import njit, types

from dselect.kernels.words import BYTES, Floats, Ints, chain, keep_last, lower_bytes, next_words, word_classes

_CHUNK = 4096  # word hashes held at a time: memory does not grow with the document

_COUNT = types.int64(BYTES, types.int64[::1], types.uint8[::1], types.int64, types.int64[::1])
_SCORE = types.void(
    BYTES, types.int64[::1], types.uint8[::1], types.int64, types.Array(types.float64, 2, "C", readonly=True),
    types.float64[:, ::1], types.int64[::1], types.int64[::1],
)  # fmt: skip


@njit(types.int64(types.uint64, types.uint64), cache=True, nogil=True, inline="always")
def bucket_of(h: Any, buckets: Any) -> Any:
    """Scale the lower half of a hash to the number of buckets: as even as a remainder, and five times cheaper."""
    return np.int64(((h & np.uint64(0xFFFFFFFF)) * buckets) >> np.uint64(32))


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
            at, filled = next_words(data, at, stop, classes, hashes, kept)
            for last in range(kept, filled):
                h = np.uint64(0)
                for first in range(last, max(last - longest, -1), -1):
                    h = chain(h, hashes[first])
                    counts[bucket_of(h, buckets)] += 1
                    total += 1
            kept = keep_last(hashes, filled, longest)
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
        at, kept, total, seen = start, 0, 0.0, 0
        while at < stop:
            at, filled = next_words(data, at, stop, classes, hashes, kept)
            words[document] += filled - kept
            for last in range(kept, filled):
                h = np.uint64(0)
                for first in range(last, max(last - longest, -1), -1):
                    h = chain(h, hashes[first])
                    bucket = bucket_of(h, buckets)
                    if columns == 1:  # a sum in a register: twice as fast, and the same additions
                        total += weights[bucket, 0]
                    else:
                        for column in range(columns):
                            sums[document, column] += weights[bucket, column]
                    seen += 1
            kept = keep_last(hashes, filled, longest)
        grams[document] = seen
        if columns == 1:
            sums[document, 0] = total
        start = stop


def count_ngrams(texts: Sequence[str] | Sequence[bytes], longest: int, counts: Ints) -> int:
    """Add the uni- to `longest`-grams of the texts to counts, int64 (buckets,); return how many there were."""
    data, ends = lower_bytes(texts)
    return int(_count(data, ends, word_classes(), longest, counts))


def score_ngrams(texts: Sequence[str] | Sequence[bytes], longest: int, weights: Floats) -> tuple[Floats, Ints, Ints]:
    """Sum the weight of every n-gram of every text.

    weights: float64 (buckets, columns). Returns sums float64 (n, columns), n-grams int64 (n,), words int64 (n,).
    """
    data, ends = lower_bytes(texts)
    sums = np.zeros((len(ends), weights.shape[1]))
    grams, words = np.zeros(len(ends), np.int64), np.zeros(len(ends), np.int64)
    _score(data, ends, word_classes(), longest, weights, sums, grams, words)
    return sums, grams, words


def count_words(texts: Sequence[str] | Sequence[bytes]) -> Ints:
    """Return how many words each text has: int64 (n,)."""
    return score_ngrams(texts, 1, np.zeros((1, 0)))[2]
