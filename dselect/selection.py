"""From scores to positions: which records a budget buys.

Pure functions on arrays, one entry a record: `scores` float64 (n,), higher is better, never NaN; `sizes` int (n,), in
the unit of the budget; `tie` uint64 (n,), the identity that decides between equal scores, so that the order of the
shards does not. Positions come back ascending, int64 (k,).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from dselect.errors import UsageError

Floats = np.ndarray[Any, np.dtype[np.float64]]
Sizes = np.ndarray[Any, np.dtype[Any]]
Positions = np.ndarray[Any, np.dtype[np.int64]]
Keys = np.ndarray[Any, np.dtype[np.uint64]]
Last = tuple[float, int] | None  # of a ranking: the score and the tie of the last that was kept

_PIECE = 1 << 18  # records looked at together

Unit = Literal["documents", "bytes", "tokens"]


@dataclass(frozen=True)
class Budget:
    """How much to keep: an amount of a unit, or a share of what the pool holds of it."""

    text: str
    unit: Unit
    amount: int | None = None
    share: Fraction | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `5000`, `10%`, `30MB`, `2Mtok`, `10%B` or `10%tok` (decimal k M G T); UsageError on anything else."""
        found = _BUDGET.fullmatch(text.strip())
        if not found:
            raise UsageError(
                f"cannot read the budget {text!r}",
                way_out="a number of documents 5000, a share 10%, bytes 30MB, tokens 2Mtok, or 10%B, 10%tok",
            )
        number = Fraction(found["number"])
        unit = _UNITS[found["unit"].lower()]
        if found["percent"]:
            if number > 100 or found["scale"]:
                wrong = "a share is at most 100%" if number > 100 else "a share has no k, M, G or T"
                raise UsageError(f"cannot keep {text}: {wrong}")
            return cls(text, unit, share=number / 100)
        number *= _SCALES[found["scale"].lower()]
        if number.denominator != 1:
            raise UsageError(f"the budget {text} is not a whole number of {unit}")
        return cls(text, unit, amount=int(number))

    def resolve(self, available: int) -> int:
        """Return the budget in its unit, given what the pool holds; shares round down."""
        if self.share is not None:
            return math.floor(self.share * available)
        assert self.amount is not None
        return self.amount


_BUDGET = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<percent>%?)(?P<scale>[kMGT]?)(?P<unit>B|tok|)", re.IGNORECASE)
_SCALES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS: dict[str, Unit] = {"": "documents", "b": "bytes", "tok": "tokens"}


def best_first(scores: Floats, tie: Keys) -> Positions:
    """Return all positions, best score first; equal scores by identity."""
    return np.lexsort((tie, -scores))


def above(scores: Floats, threshold: float) -> Positions:
    """Return the positions whose score is greater than the threshold."""
    return np.flatnonzero(scores > threshold)


def perturbed(scores: Floats, noise: Floats, temperature: float) -> Floats:
    """Return scores / temperature + noise: with Gumbel noise, their ranking is a draw without replacement.

    Gumbel top-k is Plackett-Luce sampling with probabilities softmax(scores / temperature) (Vieira 2014; Kool et al.
    2019). Temperature 0 is the ranking itself.
    """
    with np.errstate(over="ignore"):  # at a temperature near 0, ties of infinite scores
        return scores if temperature == 0 else scores / temperature + noise


def purchases(
    domains: Sizes, budgets: Sequence[int], scores: Floats, sizes: Sizes, *, tie: Keys
) -> list[tuple[int, Positions, Last]]:
    """Spend each domain's own budget on its best; what a domain cannot use buys the best of the rest, of any domain.

    domains: int (n,), indices into budgets. Returns (budget, positions, the last one bought, as `top` tells it) for
    each domain, then for what they left over.
    """
    by_domain = np.argsort(domains, kind="stable")
    ends = np.cumsum(np.bincount(domains, minlength=len(budgets)))
    bought = []
    kept = np.zeros(len(scores), bool)
    for domain, budget in enumerate(budgets):
        members = by_domain[ends[domain - 1] if domain else 0 : ends[domain]]
        at, last = top(scores[members], sizes[members], budget, tie=tie[members])
        bought.append((budget, members[at], last))
        kept[members[at]] = True
    del by_domain
    left = sum(budgets) - int(sizes[kept].sum(dtype=np.int64))
    if left > 0:
        rest = np.flatnonzero(~kept)
        at, last = top(scores[rest], sizes[rest], left, tie=tie[rest])
        bought.append((left, rest[at], last))
    else:
        bought.append((left, np.zeros(0, np.int64), None))
    return bought


def unique(texts: Keys, scores: Floats, *, tie: Keys) -> Positions:
    """Return the position of the best record of each text; `texts` holds a hash of each."""
    ranking = best_first(scores, tie)
    _, firsts = np.unique(texts[ranking], return_index=True)
    return np.sort(ranking[firsts])


def combine(columns: Sequence[Floats], weights: Sequence[float], how: Literal["rank", "zscore"]) -> Floats:
    """Return the weighted sum of the columns, each first made comparable: by rank in [0, 1], or as z-scores."""
    scale = ranks if how == "rank" else standardized
    total = np.zeros(len(columns[0]))
    for column, weight in zip(columns, weights, strict=True):
        total += weight * scale(column)
    return total


def ranks(scores: Floats) -> Floats:
    """Return each score's rank, 0 for the lowest to 1 for the highest; equal scores share their mean rank."""
    if len(scores) < 2:
        return np.zeros(len(scores))
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    after = np.cumsum(counts)
    mean_rank = (after - counts + after - 1) / 2
    return np.asarray(mean_rank[inverse] / (len(scores) - 1))


def standardized(scores: Floats) -> Floats:
    """Return (score - mean) / population standard deviation; a constant column becomes zeros.

    Scores of -inf (records without the field) stay -inf and do not count.
    """
    return Moments.of(scores).standardize(scores)


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of a column divided by its largest absolute value, lest the squares overflow."""

    largest: float
    mean: float
    deviation: float

    @classmethod
    def of(cls, scores: Floats) -> Moments:
        """Return those of the finite scores, by exactly rounded sums.

        The order of the records must not move the last bit, or shuffled shards would sample other documents.
        """
        finite = scores[np.isfinite(scores)]
        if not len(finite) or finite.min() == finite.max():
            return cls(1.0, 0.0, 0.0)
        largest = float(np.abs(finite).max())
        finite = finite / largest
        mean = math.fsum(finite) / len(finite)
        return cls(largest, mean, math.sqrt(math.fsum((finite - mean) ** 2) / len(finite)))

    def standardize(self, scores: Floats) -> Floats:
        """Return the z-scores of a column; zeros where the deviation is zero."""
        if self.deviation == 0:
            return np.where(np.isfinite(scores), 0.0, scores)
        return np.asarray((scores / self.largest - self.mean) / self.deviation)


def top(scores: Floats, sizes: Sizes, budget: int, *, tie: Keys) -> tuple[Positions, Last]:
    """Return `prefix(best_first(scores, tie), sizes, budget)`, ascending, and the (score, tie) of its last.

    Many are not ranked: the score at which the budget ends is found 16 bits at a time, from sums of sizes, so that no
    memory is needed beside the columns and what is kept.
    """
    if len(scores) <= _PIECE or budget <= 0:
        ranked = prefix(best_first(scores, tie), sizes, budget)
        return np.sort(ranked), (float(scores[ranked[-1]]), int(tie[ranked[-1]])) if len(ranked) else None
    pieces = [slice(start, start + _PIECE) for start in range(0, len(scores), _PIECE)]
    left, known = budget, np.uint64(0)
    equal = np.zeros(0, np.int64)
    for shift in (48, 32, 16, 0):
        sums = np.zeros(1 << 16)
        for piece in pieces:
            bits = _ordered(scores[piece])
            there = sizes[piece] <= budget
            if shift < 48:
                there &= bits >> np.uint64(shift + 16) == known
            digits = (bits[there] >> np.uint64(shift)) & np.uint64(0xFFFF)
            # sums of bytes or tokens are exact up to 2^53
            sums += np.bincount(digits.astype(np.int64), sizes[piece][there], 1 << 16)
        spent = np.cumsum(sums[::-1])
        over = int(np.searchsorted(spent, left, side="right"))  # the first digit, from the highest, that is too much
        if over == len(spent):  # all of it can be bought, which only the first round can find
            known = np.uint64(0)
            break
        left -= int(spent[over - 1]) if over else 0
        known = (known << np.uint64(16)) | np.uint64(len(spent) - 1 - over)
    if known:
        equal = _where(pieces, lambda piece: (_ordered(scores[piece]) == known) & (sizes[piece] <= budget))
        equal = _spend(equal[np.argsort(tie[equal], kind="stable")], sizes, left)
    higher = _where(pieces, lambda piece: (_ordered(scores[piece]) > known) & (sizes[piece] <= budget))
    kept = np.sort(np.concatenate([higher, equal]))
    if not len(kept):
        return kept, None
    lowest = scores[kept].min()
    return kept, (float(lowest), int(tie[kept[scores[kept] == lowest]].max()))


def _ordered(scores: Floats) -> Keys:
    """Return integers that are ordered as the scores are, above 0; -0.0 equals 0.0."""
    bits = (scores + 0.0).view(np.uint64)
    return np.where(bits >> np.uint64(63), ~bits, bits | np.uint64(1 << 63))


def _where(pieces: Sequence[slice], holds: Callable[[slice], Any]) -> Positions:
    return np.concatenate([np.flatnonzero(holds(piece)) + piece.start for piece in pieces])


def prefix(ranking: Positions, sizes: Sizes, budget: int) -> Positions:
    """Return the longest prefix of a ranking that fits, best first, records larger than the budget left out."""
    if budget <= 0:
        return ranking[:0]  # not even texts of size 0
    return _spend(ranking[sizes[ranking] <= budget], sizes, budget)


def _spend(ranking: Positions, sizes: Sizes, budget: int) -> Positions:
    spent = np.cumsum(sizes[ranking], dtype=np.int64)
    return ranking[: np.searchsorted(spent, budget, side="right")]
