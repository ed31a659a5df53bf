"""What to keep: the options of a selection, applied to the columns of a pool."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
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
    quota: str | Mapping[str, float] = "proportional"  # a word, a file of weights, or weights by domain
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
        if 0 < self.temperature < 1e-100:
            raise UsageError(f"--temperature {self.temperature:g} is too small to divide by", way_out="0 is the best")
        if not self.sample and (self.temperature != 1 or self.scale != "zscore"):
            raise UsageError("--temperature and --scale are for --sample", way_out="--sample --keep 10%")
        if self.above is not None and np.isnan(self.above):
            raise UsageError("--above nan: no score is greater than that")


@dataclass(frozen=True)
class Line:
    """Where a ranking was cut: the budget and the last record it bought, as (key, tie); None if it bought nothing."""

    budget: int
    last: tuple[float, int] | None

    def keeps(self, keys: Floats, tie: Any, sizes: Any) -> Any:
        """Return which records rank at or before the cut and are not larger than the budget: bool (n,)."""
        if self.last is None:
            return np.zeros(len(keys), bool)
        key, last = self.last
        return ((keys > key) | ((keys == key) & (tie <= np.uint64(last)))) & (sizes <= self.budget)


@dataclass
class Cut:
    """What decides about a record when the rest of the pool is out of sight: what one run found, for every shard."""

    above: float | None = None
    moments: selection.Moments | None = None
    lines: list[Line] = field(default_factory=list)  # the last one is for records of any domain
    domains: dict[str | None, Line] = field(default_factory=dict)
    closed: frozenset[str | None] = frozenset()  # domains that were given no weight

    def keys(self, scores: Floats, choice: Choice, identities: Any) -> Floats:
        """Return what records are ranked by: their scores, or with --sample these and noise."""
        if not choice.sample:
            return scores
        scaled = self.moments.standardize(scores) if self.moments else scores
        return selection.perturbed(scaled, draws.gumbel(choice.seed, "sample", identities), choice.temperature)

    def keeps(self, scores: Floats, columns: Mapping[str, Any], choice: Choice) -> Any:
        """Return which records it keeps, NaN scores never: bool (n,)."""
        sizes, tie = columns["size"], columns["tie"]
        there = ~np.isnan(scores)
        if self.closed:
            there &= np.array([label not in self.closed for label in columns["domain"]], bool)
        if self.above is not None:
            there &= scores > self.above
        if not self.lines:
            return there
        keys = self.keys(scores, choice, columns.get("identity", tie))
        kept = self.lines[-1].keeps(keys, tie, sizes)
        if choice.within and choice.missing == "drop":
            there &= np.array([label is not None for label in columns["domain"]], bool)
        if self.domains:
            places = {label: place for place, label in enumerate(self.domains)}
            labels = np.array([places.get(label, -1) for label in columns["domain"]], np.int64)
            for number, line in enumerate(self.domains.values()):
                inside = labels == number
                kept[inside] |= line.keeps(keys[inside], tie[inside], sizes[inside])
        return kept & there

    def as_json(self) -> dict[str, Any]:
        """Return the cut as JSON holds it; keys of -inf as strings."""
        return {
            "above": self.above,
            "moments": None if self.moments is None else asdict(self.moments),
            "rest": _line_as_json(self.lines[-1]) if self.lines else None,
            "domains": [[name, _line_as_json(line)] for name, line in self.domains.items()],
            "closed": sorted(self.closed, key=str),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Cut:
        """Return what `as_json` gave; KeyError, TypeError or ValueError if it is not that."""
        domains = {name: _line_from_json(line) for name, line in found["domains"]}
        rest = [] if found["rest"] is None else [_line_from_json(found["rest"])]
        moments = None if found["moments"] is None else selection.Moments(**found["moments"])
        above = None if found["above"] is None else float(found["above"])
        return cls(above, moments, [*domains.values(), *rest], domains, frozenset(found["closed"]))


def _line_as_json(line: Line) -> list[Any]:
    return [line.budget] if line.last is None else [line.budget, repr(line.last[0]), line.last[1]]


def _line_from_json(found: Any) -> Line:
    budget, *last = found
    if budget < 0 or (last and (np.isnan(float(last[0])) or not 0 <= last[1] < 2**64)):
        raise ValueError("no place in a ranking")
    return Line(int(budget), (float(last[0]), int(last[1])) if last else None)


@dataclass
class Kept:
    """What was kept, where the cut was, and what the summary line says."""

    positions: np.ndarray[Any, np.dtype[np.int64]]
    cut: Cut
    facts: dict[str, Any] = field(default_factory=dict)


def choose(scores: Floats, columns: Mapping[str, Any], choice: Choice, eligible: Any = None) -> Kept:
    """Return what the choice keeps, of all records or of the eligible ones; positions ascending.

    scores: float64 (n,), higher is better; -inf ranks last; anything for those not eligible. Shares of a budget are of
    everything in the columns.
    """
    sizes, tie = columns["size"], columns["tie"]
    # a slice where it can be all of them: what it takes is a view, and positions are 8 bytes a record
    at: Any = slice(None) if eligible is None or eligible.all() else np.flatnonzero(eligible)
    if choice.above is not None:
        at = _among(at, selection.above(scores[at], choice.above))
    facts: dict[str, Any] = {}
    if choice.unique:
        firsts = selection.unique(columns["text"][at], scores[at], tie=tie[at])
        facts["duplicates"] = len(tie[at]) - len(firsts)
        at = _among(at, firsts)
    cut = Cut(choice.above)
    if choice.keep is not None:
        budget = choice.keep.resolve(int(sizes.sum(dtype=np.int64)))
        if choice.sample:
            cut.moments = selection.Moments.of(scores[at]) if choice.scale == "zscore" else None
        keys = cut.keys(scores[at], choice, columns.get("identity", tie)[at])
        if choice.within:
            order, budgets, closed = _shares(columns, choice, budget)
            open_ = np.flatnonzero(~closed[order[columns["domain"][at]]])
            at, keys = _among(at, open_), keys[open_]
            bought = selection.purchases(order[columns["domain"][at]], budgets, keys, sizes[at], tie=tie[at])
            cut.lines = [Line(amount, last) for amount, _, last in bought]
            names = [columns["labels"][i] for i in np.argsort(order).tolist()]
            kept = np.sort(np.concatenate([kept for _, kept, _ in bought]))
        else:
            kept, last = selection.top(keys, sizes[at], budget, tie=tie[at])
            cut.lines.append(Line(budget, last))
            names, closed = [], np.zeros(0, bool)
        cut.domains = dict(zip(names, cut.lines, strict=False))
        cut.closed = frozenset(name for name, shut in zip(names, closed, strict=True) if shut)
        too_large = int((sizes[at] > budget).sum()) if budget else 0
        at = _among(at, kept)
        facts |= {
            "unit": choice.keep.unit,
            "asked": budget,
            "achieved": int(sizes[at].sum(dtype=np.int64)),
            "larger_than_budget": too_large,
        }
    positions = np.arange(len(tie))[at] if isinstance(at, slice) else at
    return Kept(positions, cut, {"kept": len(positions), **facts})


def _among(at: Any, chosen: Any) -> Any:
    """Return the positions of those chosen among others."""
    return chosen if isinstance(at, slice) else at[chosen]


def _shares(columns: Mapping[str, Any], choice: Choice, budget: int) -> tuple[Any, list[int], Any]:
    """Return each label's place in name order; in that order, the budgets, and which domains were given no weight."""
    labels: list[str | None] = columns["labels"]
    if labels == [None]:
        raise no_such_field(str(choice.within), "--within")
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
        given = choice.quota if isinstance(choice.quota, Mapping) else read_weights(choice.quota)
        weights = [given.get(labels[i] or "", 0) for i in names]
        unknown = sorted(set(given) - {label or "" for label in labels})
        if unknown and isinstance(choice.quota, str):
            there = ", ".join(str(labels[i]) for i in names[:12]) or "none"
            raise DselectError(f"no records of the domain {unknown[0]!r}; there are: {there}", where=choice.quota)
    closed = np.array([choice.quota not in ("equal", "proportional") and not weight for weight in weights], bool)
    return order, mixing.budgets(weights, budget), closed


def no_such_field(name: str, option: str) -> DselectError:
    """Return the error for a field that no record of a pool has: a slip, whatever --missing says."""
    return DselectError(
        f'{option}: no record has the field "{name}"', way_out="dselect stats shows fields that are there"
    )


def read_weights(path: str) -> dict[str, float]:
    """Read a JSON object of domain weights, none negative, not all zero; or a mixture, which has it as `weights`."""
    try:
        weights = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise DselectError(
            f"cannot read: {error.strerror}", where=path, way_out='a JSON file of weights: {"web": 0.7, "books": 0.3}'
        ) from error
    except ValueError as error:
        raise DselectError(f"not JSON: {error}", where=path) from error
    if isinstance(weights, dict) and isinstance(weights.get("weights"), dict):
        weights = weights["weights"]
    good = isinstance(weights, dict) and all(
        isinstance(w, int | float) and not isinstance(w, bool) and 0 <= w < float("inf") for w in weights.values()
    )
    if not good or not any(weights.values()):
        raise DselectError(
            "not an object of weights, none negative and not all zero", where=path, way_out='{"web": 0.7, "books": 0.3}'
        )
    return dict(weights)
