"""What to keep: the options of a selection, applied to the columns of a pool."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dselect import draws, mixing, selection
from dselect.errors import DselectError, UsageError
from dselect.selection import Budget

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Choice:
    """What to keep: the options of `select`, shared by every method."""

    keep: Budget | None = None
    above: float | None = None
    sample: bool = False
    temperature: float = 1.0
    scale: Literal["zscore", "none"] = "zscore"
    within: str | None = None
    quota: str = "proportional"
    unique: bool = False
    tokens: str | None = None
    missing: Literal["error", "drop", "lowest"] = "drop"
    seed: int = 0

    def __bool__(self) -> bool:
        return self.keep is not None or self.above is not None or self.unique

    def check(self) -> None:
        """Raise UsageError where options contradict each other."""
        if self.sample and self.keep is None:
            raise UsageError("--sample needs a budget", way_out="--keep 5000, 10%, 30MB, 2Mtok")
        if self.within and self.keep is None:
            raise UsageError("--within shares out a budget", way_out="--keep 5000, 10%, 30MB, 2Mtok")
        if self.quota != "proportional" and not self.within:
            raise UsageError("--quota needs the field that names the domain", way_out="--within source")
        if self.temperature < 0:
            raise UsageError("--temperature must not be negative")


@dataclass
class Kept:
    """What was kept, for the summary line."""

    positions: np.ndarray[Any, np.dtype[np.int64]]
    facts: dict[str, Any] = field(default_factory=dict)


def choose(scores: Floats, columns: Mapping[str, Any], choice: Choice, eligible: Any = None) -> Kept:
    """Return what the choice keeps, of all records or of the eligible ones; positions ascending.

    scores: float64 (n,), higher is better; -inf ranks last. Shares of a budget are of everything in the columns.
    """
    sizes, tie = columns["size"], columns["tie"]
    at = np.arange(len(tie)) if eligible is None else np.flatnonzero(eligible)
    if choice.above is not None:
        at = at[selection.above(scores[at], choice.above)]
    facts: dict[str, Any] = {}
    if choice.unique:
        firsts = selection.unique(columns["text"][at], scores[at], tie=tie[at])
        facts["duplicates"] = len(at) - len(firsts)
        at = at[firsts]
    if choice.keep is not None:
        budget = choice.keep.resolve(int(sizes.sum(dtype=np.int64)))
        keys = scores[at]
        if choice.sample:
            scaled = selection.standardized(keys) if choice.scale == "zscore" else keys
            noise = draws.gumbel(choice.seed, "sample", columns["identity"][at])
            keys = selection.perturbed(scaled, noise, choice.temperature)
        if choice.within:
            order, budgets = _shares(columns, choice, budget)
            kept = selection.within(order[columns["domain"][at]], budgets, keys, sizes[at], tie=tie[at])
        else:
            kept = selection.top(keys, sizes[at], budget, tie=tie[at])
        too_large = int((sizes[at] > budget).sum()) if budget else 0
        at = at[kept]
        facts |= {
            "unit": choice.keep.unit,
            "asked": budget,
            "achieved": int(sizes[at].sum(dtype=np.int64)),
            "larger_than_budget": too_large,
        }
    return Kept(at, {"kept": len(at), **facts})


def _shares(columns: Mapping[str, Any], choice: Choice, budget: int) -> tuple[Any, list[int]]:
    """Return each label's place in name order, and the budgets in that order."""
    labels: list[str | None] = columns["labels"]
    names = sorted(range(len(labels)), key=lambda i: (labels[i] is None, labels[i] or ""))
    order = np.zeros(len(labels), np.int64)
    order[names] = np.arange(len(names))
    weights: list[int | float]
    if choice.quota == "equal":
        weights = [1] * len(names)
    elif choice.quota == "proportional":
        held = np.zeros(len(names), np.int64)
        np.add.at(held, order[columns["domain"]], columns["size"])
        weights = held.tolist()
    else:
        given = read_weights(choice.quota)
        weights = [given.get(labels[i] or "", 0) for i in names]
        unknown = sorted(set(given) - {label or "" for label in labels})
        if unknown:
            raise DselectError(
                f"no records of the domain {unknown[0]!r}; there are: {', '.join(str(labels[i]) for i in names[:12])}",
                where=choice.quota,
            )
    return order, mixing.budgets(weights, budget)


def read_weights(path: str) -> dict[str, float]:
    """Read a JSON object of domain weights, none negative, not all zero."""
    try:
        weights = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise DselectError(
            f"cannot read: {error.strerror}", where=path, way_out="--quota proportional, equal, or a JSON file"
        ) from error
    except ValueError as error:
        raise DselectError(f"not JSON: {error}", where=path) from error
    good = isinstance(weights, dict) and all(
        isinstance(w, int | float) and not isinstance(w, bool) and 0 <= w < float("inf") for w in weights.values()
    )
    if not good or not any(weights.values()):
        raise DselectError(
            "not an object of weights, none negative and not all zero", where=path, way_out='{"web": 0.7, "books": 0.3}'
        )
    return dict(weights)
