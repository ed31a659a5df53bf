"""Each domain's share of a budget."""

from __future__ import annotations

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
