"""Loops over rows of vectors, in fixed order: a row gives the same numbers whatever it stands beside."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

Rows = np.ndarray[Any, np.dtype[np.float32]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]

_ROWS = types.Array(types.float32, 2, "C", readonly=True)
_NEAREST = types.void(_ROWS, _ROWS, types.float32[::1], types.int64[::1], types.float64[::1])
_ALIKE = types.void(_ROWS, types.float32, types.boolean[::1])
_MEANS = types.void(_ROWS, types.uint32[::1], types.int64[::1], types.float32[:, ::1])


@njit(_NEAREST, cache=True, nogil=True)
def _nearest(rows: Any, columns: Any, halves: Any, labels: Any, distances: Any) -> None:
    """Per row: the centre with the least |c|²/2 - x·c, the first of several, and the distance to it."""
    width, centres = columns.shape
    products = np.empty(centres, np.float32)
    even = width - width % 4
    for row in range(len(rows)):
        # centre by centre in the inner loop: the processor takes many at once, and no sum is reordered
        for c in range(centres):
            products[c] = 0
        for j in range(0, even, 4):
            a, b, d, e = rows[row, j], rows[row, j + 1], rows[row, j + 2], rows[row, j + 3]
            for c in range(centres):
                products[c] += a * columns[j, c] + b * columns[j + 1, c] + d * columns[j + 2, c] + e * columns[j + 3, c]
        for j in range(even, width):
            a = rows[row, j]
            for c in range(centres):
                products[c] += a * columns[j, c]
        best = 0
        least = halves[0] - products[0]
        for c in range(1, centres):
            value = halves[c] - products[c]
            if value < least:
                least = value
                best = c
        total = 0.0
        for j in range(width):
            difference = np.float64(rows[row, j]) - np.float64(columns[j, best])
            total += difference * difference
        labels[row] = best
        distances[row] = np.sqrt(total)


@njit(_ALIKE, cache=True, nogil=True)
def _alike(columns: Any, threshold: Any, found: Any) -> None:
    """Per vector, a column here: whether one before it has a product with it above the threshold."""
    width, count = columns.shape
    products = np.empty(count, np.float32)
    for one in range(1, count):
        for other in range(one):
            products[other] = 0
        for j in range(width):
            a = columns[j, one]
            for other in range(one):
                products[other] += a * columns[j, other]
        for other in range(one):
            if products[other] > threshold:
                found[one] = True
                break


@njit(_MEANS, cache=True, nogil=True)
def _means(table: Any, tokens: Any, ends: Any, rows: Any) -> None:
    """Per run of tokens: the sum of their rows of the table, scaled to length 1."""
    width = table.shape[1]
    start = 0
    for number in range(len(ends)):
        row = rows[number]
        for at in range(start, ends[number]):
            token = tokens[at]
            for j in range(width):
                row[j] += table[token, j]
        total = 0.0
        for j in range(width):
            total += np.float64(row[j]) * np.float64(row[j])
        if total > 0:
            scale = np.float32(1 / np.sqrt(total))
            for j in range(width):
                row[j] *= scale
        start = ends[number]


def nearest(rows: Rows, centres: Rows) -> tuple[Ints, Floats]:
    """Return for every row the centre nearest to it, the first of several, and the Euclidean distance.

    rows: float32 (n, d); centres: float32 (k, d), k > 0. Returns int64 (n,), float64 (n,).
    """
    labels, distances = np.zeros(len(rows), np.int64), np.zeros(len(rows))
    halves = (np.square(centres, dtype=np.float64).sum(axis=1) / 2).astype(np.float32)
    _nearest(np.ascontiguousarray(rows), np.ascontiguousarray(centres.T), halves, labels, distances)
    return labels, distances


def alike(rows: Rows, threshold: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Tell of every unit row whether its cosine with one before it is above the threshold: bool (n,)."""
    found = np.zeros(len(rows), np.bool_)
    _alike(np.ascontiguousarray(rows.T), np.float32(threshold), found)
    return found


def mean_rows(table: Rows, tokens: np.ndarray[Any, np.dtype[np.uint32]], ends: Ints) -> Rows:
    """Return the unit mean of each run of tokens' rows: float32 (n, d); zeros of an empty run.

    table: float32 (tokens, d); tokens: uint32 (m,), all of them rows of the table; ends: int64 (n,), of the runs.
    """
    rows = np.zeros((len(ends), table.shape[1]), np.float32)
    _means(table, tokens, ends, rows)
    return rows
