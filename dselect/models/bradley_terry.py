"""Ratings from pairwise judgments: P(b is better than a) = logistic(s_b - s_a) (Bradley and Terry 1952).

The ratings are linear in what is known of the texts, s = X w, or free, one number a text. Learnt by the mean binary
cross-entropy with soft labels (Wettig et al. 2024, eq. 1) plus ridge / 2 · |w|²: convex, so there is one answer.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

MOST_STEPS, MOST_INNER = 60, 200
CLOSE = 1e-7


class Design(Protocol):
    """What is known of each text: a matrix with a row for each."""

    @property
    def width(self) -> int:
        """Return how many weights there are."""

    def __len__(self) -> int: ...

    def times(self, weights: Floats) -> Floats:
        """Return X w: float64 (rows,)."""

    def transposed_times(self, weights: Floats) -> Floats:
        """Return Xᵀ r: float64 (width,)."""


class Free:
    """The identity: each text has a rating of its own."""

    def __init__(self, count: int) -> None:
        self.count = count

    @property
    def width(self) -> int:
        """Return how many texts there are."""
        return self.count

    def __len__(self) -> int:
        return self.count

    def times(self, weights: Floats) -> Floats:
        """Return the weights."""
        return weights

    def transposed_times(self, weights: Floats) -> Floats:
        """Return the weights."""
        return weights


def logistic(x: Floats) -> Floats:
    """Return 1 / (1 + exp(-x)), without overflow."""
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1.0 + small))


def cross_entropy(gaps: Floats, p: Floats) -> float:
    """Return the mean of -p ln σ(gap) - (1 - p) ln σ(-gap), in nats."""
    return float((np.logaddexp(0.0, gaps) - p * gaps).mean())


def tempered(p: Floats, temperature: float) -> Floats:
    """Return labels whose log-odds are divided by a temperature: below 1 sharper, above 1 softer; 0 and 1 stay."""
    inner = np.clip(p, 1e-12, 1 - 1e-12)
    return np.where((p == 0) | (p == 1), p, logistic(np.log(inner / (1 - inner)) / temperature))


def fit(
    design: Design, pairs: Ints, p: Floats, ridge: float, start: Floats | None = None, close: float = CLOSE
) -> Floats:
    """Return the weights that minimise the penalised mean cross-entropy: float64 (width,).

    pairs: int64 (n, 2), rows of a and b; p: float64 (n,), that b is better. close: how small the gradient must have
    become, as a share of what it is at w = 0. Newton's method, each step by conjugate
    gradients, halved until it helps. Sums are numpy's own, in a fixed order.
    """
    count = max(len(pairs), 1)
    first, second = pairs[:, 0], pairs[:, 1]
    weights = np.zeros(design.width) if start is None else start.copy()

    def gaps_of(vector: Floats) -> Floats:
        scores = design.times(vector)
        return np.asarray(scores[second] - scores[first])

    def back(values: Floats) -> Floats:
        rows = np.bincount(second, values, len(design)) - np.bincount(first, values, len(design))
        return design.transposed_times(rows / count)

    def loss(vector: Floats, gaps: Floats) -> float:
        return cross_entropy(gaps, p) + 0.5 * ridge * _dot(vector, vector)

    whole = max(_norm(back(0.5 - p)), 1e-300)
    gaps = gaps_of(weights)
    value = loss(weights, gaps)
    for _ in range(MOST_STEPS):
        predicted = logistic(gaps)
        gradient = back(predicted - p) + ridge * weights
        length = _norm(gradient)
        if length <= close * whole:
            break
        curvature = predicted * (1 - predicted)
        step = _solve(
            lambda vector, c=curvature: back(c * gaps_of(vector)) + ridge * vector,  # bound now
            -gradient,
            min(0.1, math.sqrt(length / whole)),
        )
        along, slope, size = gaps_of(step), _dot(gradient, step), 1.0
        while size > 1e-8:
            trial = weights + size * step
            after = loss(trial, gaps + size * along)
            if after <= value + 1e-4 * size * slope:
                break
            size /= 2
        else:
            break  # nothing left to win in floating point
        weights, gaps, value = trial, gaps + size * along, after
    return weights


def _solve(apply: Any, right: Floats, tolerance: float) -> Floats:
    """Return about A⁻¹ b by conjugate gradients (Hestenes and Stiefel 1952)."""
    found = np.zeros(len(right))
    residual, direction = right.copy(), right.copy()
    squared = _dot(residual, residual)
    enough = squared * tolerance * tolerance
    for _ in range(MOST_INNER):
        applied = apply(direction)
        curvature = _dot(direction, applied)
        if curvature <= 1e-300:
            return found if found.any() else right
        size = squared / curvature
        found += size * direction
        residual -= size * applied
        before, squared = squared, _dot(residual, residual)
        if squared <= enough:
            break
        direction = residual + squared / before * direction
    return found


def _dot(a: Floats, b: Floats) -> float:
    return float((a * b).sum())  # no BLAS, whose sums depend on its threads


def _norm(a: Floats) -> float:
    return math.sqrt(_dot(a, a))


def rate(count: int, pairs: Ints, p: Floats, ridge: float = 0.0) -> Floats:
    """Return the ratings of the judged texts themselves, of mean 0: float64 (count,).

    Without ridge they exist only where `groups` finds one group (Ford 1957).
    """
    ratings = fit(Free(count), pairs, p, ridge)
    return np.asarray(ratings - ratings.mean())


def components(count: int, pairs: Ints) -> Ints:
    """Return which texts are compared with each other, directly or through others: int64 (count,), from 0."""
    parent = list(range(count))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    for a, b in pairs.tolist():
        first, second = root(a), root(b)
        parent[max(first, second)] = min(first, second)
    _, found = np.unique([root(at) for at in range(count)], return_inverse=True)
    return np.asarray(found, np.int64).reshape(-1)


def groups(count: int, pairs: Ints, p: Floats) -> Ints:
    """Return the strongly connected groups of who was ever preferred to whom: int64 (count,), from 0.

    With more than one there are no finite ratings: a group that never lost to the others would rise for ever.
    """
    better: list[list[int]] = [[] for _ in range(count)]  # of each text, those that were preferred to it
    for (a, b), label in zip(pairs.tolist(), p.tolist(), strict=True):
        if label > 0:
            better[a].append(b)
        if label < 1:
            better[b].append(a)
    return _strong(better)


def _strong(after: list[list[int]]) -> Ints:
    """Return the strongly connected components of a graph (Tarjan 1972), without recursion."""
    count = len(after)
    index, low, found = [-1] * count, [0] * count, np.full(count, -1, np.int64)
    stack: list[int] = []
    number = group = 0
    for start in range(count):
        if index[start] >= 0:
            continue
        work = [(start, 0)]
        while work:
            at, edge = work.pop()
            if edge == 0:
                index[at] = low[at] = number
                number += 1
                stack.append(at)
            while edge < len(after[at]):
                other = after[at][edge]
                edge += 1
                if index[other] < 0:
                    work += [(at, edge), (other, 0)]
                    break
                if found[other] < 0:
                    low[at] = min(low[at], index[other])
            else:
                if low[at] == index[at]:
                    while found[at] < 0:
                        found[stack.pop()] = group
                    group += 1
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[at])
    return found
