"""What records rank by when some are kept: the numbers they carry, one or several, or a draw."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dselect import draws, selection
from dselect.choice import Choice, Kept, choose, no_such_field
from dselect.errors import UsageError

Floats = np.ndarray[Any, np.dtype[np.float64]]
Combine = Literal["rank", "zscore"]

_BY = re.compile(r"(?P<minus>-?)(?P<name>.+?)(?::(?P<weight>\d+(?:\.\d+)?))?")
_ODD = re.compile(r"-.*|.*:(-.*|inf|nan|\d.*)?")  # of a name: a weight that is none
_COST = re.compile(r"loss_|contamination")
_LABEL = re.compile(r".*_cluster")


@dataclass(frozen=True)
class By:
    """A field to rank by: its name, -1 where lower is better, its weight."""

    name: str
    sign: int = 1
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> By:
        """Read `dsir`, `dsir:2`, `-loss_x` or `-loss_x:0.5`."""
        found = _BY.fullmatch(text)
        if not found or (found["weight"] and float(found["weight"]) == 0) or _ODD.fullmatch(found["name"]):
            raise UsageError(
                f"cannot read --by {text!r}", way_out="--by dsir, --by dsir:2, --by=-loss_x; a weight is above 0"
            )
        return cls(found["name"], -1 if found["minus"] else 1, float(found["weight"] or 1))


def rank_by(fields: Sequence[By], columns: dict[str, Any], choice: Choice, combine: Combine, among: Any = None) -> Kept:
    """Return what the choice keeps when records rank by these fields; by a uniform draw when there are none.

    columns: as `pipeline.gather` returns them. among: bool (n,), the records that may be kept; all if None.
    """
    scores, eligible = ranking(fields, columns, choice, combine)
    if among is not None:
        eligible &= among
    kept = choose(scores, columns, choice, eligible)
    if not fields:
        return kept
    absent = [np.isnan(columns.get(f"score {by.name}", np.zeros(0))) for by in fields]
    kept.facts |= {"missing": int(np.logical_or.reduce(absent).sum()), "spread": columns["spread"]}
    lowest = scores[kept.positions].min() if len(kept.positions) else -np.inf
    if len(fields) == 1 and np.isfinite(lowest) and not choice.within:  # each domain has its own
        kept.facts["cut"] = float(fields[0].sign * lowest)
    return kept


def ranking(fields: Sequence[By], columns: Mapping[str, Any], choice: Choice, combine: Combine) -> tuple[Floats, Any]:
    """Return what records rank by, higher is better, and which have what it takes: float64 (n,), bool (n,)."""
    for by in fields:
        column = columns.get(f"score {by.name}", np.zeros(0))
        if len(column) and np.isnan(column).all():
            raise no_such_field(by.name, "--by")
    ranked = [oriented(by, columns, choice) for by in (fields or (None,))]
    eligible = np.logical_and.reduce([~np.isnan(column) for column in ranked])
    if fields and choice.within and choice.missing == "drop" and None in columns["labels"]:
        eligible &= columns["domain"] != columns["labels"].index(None)
    if len(fields) < 2:
        return ranked[0], eligible
    scores = np.full(len(columns["tie"]), -np.inf)
    scores[eligible] = selection.combine([c[eligible] for c in ranked], [by.weight for by in fields], combine)
    return scores, eligible


def oriented(by: By | None, columns: Mapping[str, Any], choice: Choice) -> Floats:
    """Return what records rank by, higher is better, NaN where a record lacks it: one field, or a uniform draw."""
    if by:
        column = columns.get(f"score {by.name}", np.zeros(0))
        column = column if by.sign > 0 else -column
        return np.where(np.isnan(column), -np.inf, column) if choice.missing == "lowest" else column
    if choice.sample:
        return np.zeros(len(columns["tie"]))
    return draws.uniform(choice.seed, "select", columns["identity"])


def check_fields(fields: Sequence[By]) -> list[str]:
    """Raise UsageError for fields that cannot be ranked by; return warnings of costs that would be taken for scores."""
    names = [field.name for field in fields]
    if len(set(names)) < len(names):
        raise UsageError(f"--by {max(names, key=names.count)} is given twice")
    for field in fields:
        if _LABEL.fullmatch(field.name):
            raise UsageError(f"{field.name} is a label, not a score", way_out="--within shares a budget among labels")
    return [
        f"{field.name} is a cost, lower is better: did you mean --by=-{field.name}?"
        for field in fields
        if _COST.match(field.name) and field.sign > 0
    ]
