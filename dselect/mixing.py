"""Each domain's share of a budget, and what of a domain a share buys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]


def budgets(weights: Sequence[int | float], total: int) -> list[int]:
    """Divide a whole budget in proportion to the weights, by largest remainder; the parts sum to total.

    Exact rational arithmetic: no order of domains and no rounding of floats changes a share. Equal remainders go to
    the earlier domain. All weights zero: nothing for anyone.
    """
    exact = [Fraction(weight) for weight in weights]
    whole = sum(exact)
    if whole == 0:
        return [0] * len(exact)
    shares = [total * weight / whole for weight in exact]
    parts = [int(share) for share in shares]
    by_remainder = sorted(range(len(parts)), key=lambda i: (parts[i] - shares[i], i))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


def capped(weights: Sequence[int | float], total: int, most: Sequence[int]) -> list[int]:
    """Divide a budget in proportion to the weights, but no domain gets more than its most; others get the rest.

    What is over is divided among the others in proportion to their weights, again and again until none is above its
    most. The parts sum to the total, or to less where no domain with a weight can take more.
    """
    parts = [0] * len(weights)
    full: set[int] = set()
    while True:
        open_ = [0 if i in full else weight for i, weight in enumerate(weights)]
        shares = budgets(open_, total - sum(most[i] for i in full))
        over = {i for i, share in enumerate(shares) if share > most[i]}
        if not over:
            for i, share in enumerate(shares):
                parts[i] = most[i] if i in full else share
            return parts
        full |= over


def taken(sizes: Ints, before: Ints, budget: int, most: int) -> Ints:
    """Return how often each record of a domain is taken: int64 (n,), in the domain's seeded order as given.

    Those that were taken least `before`, int64 (n,), come first, in their order; so whole epochs, and then a prefix
    that fits. None is taken more than `most` times in all. A record larger than the budget is passed over.
    """
    counts = np.zeros(len(sizes), np.int64)
    affordable = np.flatnonzero(sizes <= budget)
    left, costly = budget, bool(sizes[affordable].any())  # what costs nothing is not taken more than once more
    while left > 0 and len(affordable):
        times = (before + counts)[affordable]
        level = int(times.min())
        if level >= most:
            break
        at = affordable[times == level]
        spent = np.cumsum(sizes[at], dtype=np.int64)
        bought = int(np.searchsorted(spent, left, side="right"))
        counts[at[:bought]] += 1
        left -= int(spent[bought - 1]) if bought else 0
        if bought < len(at) or not costly:  # the next would not fit
            break
    return counts


def refined(weights: Sequence[float], gains: Sequence[float], temperature: float, floor: float) -> list[float]:
    """Return w·softmax(gain / temperature), normalised, then drawn towards equal shares as far as the floor asks.

    Of k domains each keeps floor / k at least; weights sum to 1. The update of "Diversify and Conquer" (Yu et al. 2024)
    with a softmax in the place of w·gain / Σ gain, which neither stays positive nor sums to one.
    """
    best = max(gains)
    raised = [weight * math.exp((gain - best) / temperature) for weight, gain in zip(weights, gains, strict=True)]
    total = math.fsum(raised)
    if not total:  # all the weight was where the gain vanished
        return list(weights)
    return [floor / len(raised) + (1 - floor) * one / total for one in raised]
