"""Bags of hashed n-grams of words, and their projection onto a few dimensions.

Words, hashes and buckets are those of `ngrams`. Everything runs in the order of the text, without fastmath: the same
text gives the same bytes whatever it stands beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numba import njit, types

from dselect.kernels.ngrams import bucket_of
from dselect.kernels.words import BYTES, Ints, chain, keep_last, lower_bytes, next_words, word_classes

NO_FEATURE = 0  # in a table of features: this bucket is none
_CHUNK = 4096  # word hashes held at a time: memory does not grow with the document
_LARGEST = 4096  # a feature that occurs more often in a text counts as this many

Rows = np.ndarray[Any, np.dtype[np.float32]]
Features = np.ndarray[Any, np.dtype[np.uint16]]
Counts = np.ndarray[Any, np.dtype[np.uint32]]

_MATRIX = types.Array(types.float32, 2, "C", readonly=True)
_TABLE = types.Array(types.uint16, 1, "C", readonly=True)
_BAGS = types.int64(
    BYTES, types.int64[::1], types.uint8[::1], types.int64, types.uint32[::1],
    types.int64[::1], types.uint32[::1], types.uint32[::1],
)  # fmt: skip
_PROJECT = types.void(
    BYTES, types.int64[::1], types.uint8[::1], types.int64, _TABLE, _MATRIX, types.float32[::1], types.float32[:, ::1]
)


@njit(_BAGS, cache=True, nogil=True)
def _bags(data: Any, ends: Any, classes: Any, longest: Any, places: Any, bag_ends: Any, found: Any, counts: Any) -> Any:
    """Write every text's distinct buckets in order of appearance, and how often each occurs; return how many."""
    hashes = np.empty(_CHUNK + longest, np.uint64)
    buckets = np.uint64(len(places))
    filled_bags, start = 0, 0
    for document in range(len(ends)):
        stop = ends[document]
        first_of_bag = filled_bags
        at, kept = start, 0
        while at < stop:
            at, filled = next_words(data, at, stop, classes, hashes, kept)
            for last in range(kept, filled):
                h = np.uint64(0)
                for first in range(last, max(last - longest, -1), -1):
                    h = chain(h, hashes[first])
                    bucket = bucket_of(h, buckets)
                    place = np.int64(places[bucket])
                    if place >= first_of_bag and place < filled_bags and found[place] == bucket:
                        counts[place] += 1
                    else:
                        places[bucket] = filled_bags
                        found[filled_bags] = bucket
                        counts[filled_bags] = 1
                        filled_bags += 1
            kept = keep_last(hashes, filled, longest)
        bag_ends[document] = filled_bags
        start = stop
    return filled_bags


@njit(_PROJECT, cache=True, nogil=True)
def _project(
    data: Any, ends: Any, classes: Any, longest: Any, table: Any, projection: Any, weights: Any, rows: Any
) -> None:
    """Per text: Σ over its distinct features, in order of appearance, of weights[count] · projection[feature]."""
    hashes = np.empty(_CHUNK + longest, np.uint64)
    buckets = np.uint64(len(table))
    width = projection.shape[1]
    counts = np.zeros(projection.shape[0], np.int32)
    met = np.empty(projection.shape[0] + 1, np.int32)  # one more: the feature that turns out not to be new
    largest = len(weights) - 1
    start = 0
    for document in range(len(ends)):
        stop = ends[document]
        at, kept, distinct = start, 0, 0
        while at < stop:
            at, filled = next_words(data, at, stop, classes, hashes, kept)
            for last in range(kept, filled):
                h = np.uint64(0)
                for first in range(last, max(last - longest, -1), -1):
                    h = chain(h, hashes[first])
                    feature = np.int64(table[bucket_of(h, buckets)]) - 1
                    if feature >= 0:
                        # nothing branches on whether the feature is new: it is written down, and counted if it is
                        met[distinct] = feature
                        distinct += counts[feature] == 0
                        counts[feature] += 1
            kept = keep_last(hashes, filled, longest)
        row = rows[document]
        for k in range(distinct):
            feature = met[k]
            weight = weights[min(counts[feature], largest)]
            counts[feature] = 0
            for column in range(width):
                row[column] += weight * projection[feature, column]
        total = 0.0
        for column in range(width):
            total += np.float64(row[column]) * np.float64(row[column])
        if total > 0:
            scale = 1 / np.sqrt(total)  # of a model with tiny numbers it is beyond what float32 holds
            for column in range(width):
                row[column] = np.float32(np.float64(row[column]) * scale)
        start = stop


@cache
def _weights() -> Rows:
    """Return the weight of a feature by how often a text has it, 1 + ln(count): float32 (_LARGEST + 1,)."""
    return np.concatenate([[0], 1 + np.log(np.arange(1, _LARGEST + 1))]).astype(np.float32)


def bags(texts: Sequence[str] | Sequence[bytes], longest: int, buckets: int) -> tuple[Ints, Counts, Counts]:
    """Return the distinct buckets of every text's uni- to `longest`-grams: where each text's end, buckets, counts.

    int64 (n,), and uint32 (m,) twice: m distinct buckets in all, a text's in the order in which they appear in it.
    """
    data, ends = lower_bytes(texts)
    bag_ends = np.zeros(len(ends), np.int64)
    most = len(data) * longest  # a byte ends at most one word
    if most >= 2**32:
        raise ValueError("more text than is counted at a time")
    found, counts = np.empty(most, np.uint32), np.empty(most, np.uint32)
    used = _bags(data, ends, word_classes(), longest, np.zeros(buckets, np.uint32), bag_ends, found, counts)
    return bag_ends, found[:used].copy(), counts[:used].copy()


def project(texts: Sequence[str] | Sequence[bytes], longest: int, table: Features, projection: Rows) -> Rows:
    """Return the unit vector of every text: float32 (n, d); zeros of a text without features.

    table: uint16 (buckets,), each bucket's feature + 1, or NO_FEATURE. projection: float32 (features, d), rows that
    have their weights (idf) in them. A feature that a text has c times counts 1 + ln(c).
    """
    data, ends = lower_bytes(texts)
    rows = np.zeros((len(ends), projection.shape[1]), np.float32)
    _project(data, ends, word_classes(), longest, table, projection, _weights(), rows)
    return rows
