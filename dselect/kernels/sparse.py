"""Bags of hashed n-grams of words: a sparse row for each text, products with rows, sums of weights over them.

Words and hashes are those of `kernels.ngrams`. A row's values are (1 + ln count) · idf of each n-gram that has an idf,
scaled to length 1 (Salton and Buckley 1988); rows add in the order of their buckets, whatever stands beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, types

from dselect.kernels.words import BYTES, Floats, Ints, chain, lower_bytes, next_words, word_classes

Counts = np.ndarray[Any, np.dtype[np.uint32]]

_TEXTS = (BYTES, types.int64[::1], types.uint8[::1], types.int64, types.int64)
_BAG = types.int64(
    BYTES, types.int64, types.int64, types.uint8[::1], types.int64, types.int64, types.uint64[::1], types.int64[::1]
)
_ROWS = (types.int64[::1], types.int32[::1], types.float64[::1])


TOGETHER = 512  # texts whose n-grams are counted at a time, which takes room for the most they can have


@dataclass(frozen=True)
class Rows:
    """Sparse rows: row i has the columns and values at starts[i] to starts[i + 1]."""

    starts: Ints
    columns: np.ndarray[Any, np.dtype[np.int32]]
    values: Floats
    width: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def times(self, weights: Floats) -> Floats:
        """Return every row's product with a vector: float64 (rows,)."""
        out = np.zeros(len(self))
        _times(self.starts, self.columns, self.values, weights, out)
        return out

    def transposed_times(self, weights: Floats) -> Floats:
        """Return the sum of the rows, each times its weight: float64 (width,)."""
        out = np.zeros(self.width)
        _transposed_times(self.starts, self.columns, self.values, weights, out)
        return out

    def take(self, positions: Ints) -> Rows:
        """Return some of the rows."""
        sizes = np.diff(self.starts)[positions]
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        at = np.arange(int(starts[-1])) + np.repeat(self.starts[positions] - starts[:-1], sizes)
        return Rows(starts, self.columns[at], self.values[at], self.width)


@njit(_BAG, cache=True, nogil=True)
def _bag(data: Any, start: Any, stop: Any, classes: Any, longest: Any, buckets: Any, hashes: Any, out: Any) -> Any:
    """Write the bucket of every n-gram of a text, in order; return how many there are. hashes: room for its words."""
    _, words = next_words(data, start, stop, classes, hashes, 0)
    filled = 0
    for last in range(words):
        h = np.uint64(0)
        for first in range(last, max(last - longest, -1), -1):
            h = chain(h, hashes[first])
            out[filled] = np.int64(((h & np.uint64(0xFFFFFFFF)) * np.uint64(buckets)) >> np.uint64(32))
            filled += 1
    out[:filled].sort()
    return filled


@njit(types.int64(types.int64[::1], types.int64, types.int64), cache=True, nogil=True, inline="always")
def _run(found: Any, at: Any, filled: Any) -> Any:
    """Return where the run of equal buckets ends that begins here."""
    end = at + 1
    while end < filled and found[end] == found[at]:
        end += 1
    return end


@njit(types.int64(*_TEXTS, types.int64[::1], types.int32[::1], types.int32[::1]), cache=True, nogil=True)
def _count(
    data: Any, ends: Any, classes: Any, longest: Any, buckets: Any, starts: Any, columns: Any, counts: Any
) -> Any:
    """Write the distinct buckets of every text and how often each occurs; return how many there are in all."""
    start, size = 0, 0
    for i in range(len(ends)):
        size = max(size, ends[i] - start + 1)
        start = ends[i]
    hashes, found = np.empty(size, np.uint64), np.empty(size * longest, np.int64)
    start, total = 0, 0
    for i in range(len(ends)):
        filled = _bag(data, start, ends[i], classes, longest, buckets, hashes, found)
        at = 0
        while at < filled:
            end = _run(found, at, filled)
            columns[total], counts[total] = found[at], end - at
            total += 1
            at = end
        starts[i + 1] = total
        start = ends[i]
    return total


@njit(
    types.void(*_TEXTS, types.float64[::1], types.float64[:, ::1], types.float64[:, ::1]),
    cache=True,
    nogil=True,
)
def _score(data: Any, ends: Any, classes: Any, longest: Any, buckets: Any, idf: Any, weights: Any, sums: Any) -> None:
    """Per text: its row's product with each column of weights."""
    start, size = 0, 0
    for i in range(len(ends)):
        size = max(size, ends[i] - start + 1)
        start = ends[i]
    hashes, found = np.empty(size, np.uint64), np.empty(size * longest, np.int64)
    columns = weights.shape[1]
    start = 0
    for i in range(len(ends)):
        filled = _bag(data, start, ends[i], classes, longest, buckets, hashes, found)
        squares, at = 0.0, 0
        while at < filled:
            end = _run(found, at, filled)
            bucket = found[at]
            if idf[bucket] > 0.0:
                value = (1.0 + math.log(end - at)) * idf[bucket]
                squares += value * value
                for column in range(columns):
                    sums[i, column] += value * weights[bucket, column]
            at = end
        if squares > 0.0:
            scale = math.sqrt(squares)
            for column in range(columns):
                sums[i, column] /= scale
        start = ends[i]


@njit(types.void(*_ROWS, types.float64[::1], types.float64[::1]), cache=True, nogil=True)
def _times(starts: Any, columns: Any, values: Any, weights: Any, out: Any) -> None:
    for i in range(len(out)):
        total = 0.0
        for at in range(starts[i], starts[i + 1]):
            total += values[at] * weights[columns[at]]
        out[i] = total


@njit(types.void(*_ROWS, types.float64[::1], types.float64[::1]), cache=True, nogil=True)
def _transposed_times(starts: Any, columns: Any, values: Any, weights: Any, out: Any) -> None:
    for i in range(len(weights)):
        for at in range(starts[i], starts[i + 1]):
            out[columns[at]] += values[at] * weights[i]


@njit(
    types.void(
        types.float64[:, ::1], types.float64[::1], types.float64[::1], types.float64, types.float64[:, ::1],
        types.float64[:, ::1],
    ),
    cache=True,
    nogil=True,
)  # fmt: skip
def _add_standardized(values: Any, mean: Any, deviation: Any, most: Any, weights: Any, sums: Any) -> None:
    for i in range(len(values)):
        for j in range(values.shape[1]):
            z = min(max((values[i, j] - mean[j]) / deviation[j], -most), most)
            for column in range(weights.shape[1]):
                sums[i, column] += z * weights[j, column]


def add_standardized(
    values: Floats, mean: Floats, deviation: Floats, most: float, weights: Floats, sums: Floats
) -> None:
    """Add to sums, float64 (n, columns), the product of every row of values, in deviations from the mean, and weights.

    Deviations beyond `most` count as `most`: what is unlike anything learnt from must not decide.
    """
    _add_standardized(values, mean, deviation, most, weights, sums)


def count_bags(texts: Sequence[bytes], longest: int, buckets: int) -> Rows:
    """Return how often each n-gram of one to `longest` words comes in every text: rows of counts, by hash bucket."""
    starts, parts, total = [np.zeros(1, np.int64)], [], 0
    for first in range(0, len(texts), TOGETHER):
        data, ends = lower_bytes(texts[first : first + TOGETHER])
        local = np.zeros(len(ends) + 1, np.int64)
        room = int(ends[-1]) * longest
        columns, counts = np.empty(room, np.int32), np.empty(room, np.int32)
        found = _count(data, ends, word_classes(), longest, buckets, local, columns, counts)
        starts.append(local[1:] + total)
        parts.append((columns[:found].copy(), counts[:found].astype(np.float64)))
        total += found
    empty = (np.zeros(0, np.int32), np.zeros(0))
    columns, values = (np.concatenate(column) for column in zip(empty, *parts, strict=True))
    return Rows(np.concatenate(starts), columns, values, buckets)


def score_bags(texts: Sequence[bytes], longest: int, idf: Floats, weights: Floats) -> Floats:
    """Return the product of every text's row with the weights: float64 (n, columns).

    idf: float64 (buckets,), 0 for n-grams that are passed over; weights: float64 (buckets, columns).
    """
    data, ends = lower_bytes(texts)
    sums = np.zeros((len(ends), weights.shape[1]))
    _score(data, ends, word_classes(), longest, len(idf), idf, weights, sums)
    return sums


@njit(
    types.void(*_ROWS, types.uint32[::1], types.int64, types.int64[::1], types.float64[:, ::1]), cache=True, nogil=True
)
def _commonness(starts: Any, columns: Any, values: Any, having: Any, own: Any, steps: Any, out: Any) -> None:
    for i in range(len(out)):
        total = 0.0
        for at in range(starts[i], starts[i + 1]):
            others = np.int64(having[columns[at]]) - own
            logarithm = math.log(others + 1.0)
            out[i, 0] += values[at] * logarithm
            out[i, 1] += logarithm
            for step in range(len(steps)):
                if others <= steps[step]:
                    out[i, 2 + step] += values[at]
            total += values[at]
        distinct = max(starts[i + 1] - starts[i], 1)
        total = max(total, 1.0)
        out[i, 0] /= total
        out[i, 1] /= distinct
        for step in range(len(steps)):
            out[i, 2 + step] /= total


def commonness(rows: Rows, having: Counts, steps: Sequence[int], *, own: bool) -> Floats:
    """Return how common the words of texts are, given how many windows have each: float64 (n, 2 + steps).

    rows: counts of words; having: uint32 (buckets,). The mean of ln(1 + windows), over words as they come and over
    distinct ones; the shares of words that at most so many windows have, for each of `steps`. own: the texts are among
    those windows, and do not count for themselves.
    """
    out = np.zeros((len(rows), 2 + len(steps)))
    _commonness(rows.starts, rows.columns, rows.values, having, int(own), np.array(steps, np.int64), out)
    return out


def beside(rows: Rows, dense: Floats) -> Rows:
    """Return rows with the columns of a dense array, float64 (rows, k), after their own."""
    count, width = dense.shape
    sizes = np.diff(rows.starts)
    starts = rows.starts + width * np.arange(count + 1)
    columns, values = np.empty(starts[-1], np.int32), np.empty(starts[-1])
    own = np.arange(len(rows.columns)) + np.repeat(width * np.arange(count), sizes)
    columns[own], values[own] = rows.columns, rows.values
    others = (starts[1:, None] - width + np.arange(width)).reshape(-1)
    columns[others], values[others] = np.tile(rows.width + np.arange(width), count), dense.reshape(-1)
    return Rows(starts, columns, values, rows.width + width)


def scaled(rows: Rows, idf: Floats) -> Rows:
    """Return rows of counts as rows of (1 + ln count) · idf, of length 1; entries without an idf are left out."""
    kept = idf[rows.columns] > 0
    values = (1 + np.log(rows.values[kept])) * idf[rows.columns[kept]]
    starts = np.concatenate([[0], np.cumsum(kept)])[rows.starts]
    owner = np.repeat(np.arange(len(rows)), np.diff(starts))
    lengths = np.sqrt(np.bincount(owner, values * values, len(rows)))
    return Rows(starts, rows.columns[kept], values / lengths[owner], rows.width)
