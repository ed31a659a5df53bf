"""Each domain's share of a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


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
