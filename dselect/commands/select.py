"""Keep the best records within a budget, by the numbers they carry."""
# A utility function gave the numbers (dsir, zipfit, …); this is the selection mechanism (Albalak et al. 2024). Several
# numbers are first made comparable, by rank or as z-scores, then added with weights: criteria on different scales must
# not be summed as they are (the largest variance would decide alone).

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from dselect import draws, selection
from dselect.choice import Choice, Kept, choose
from dselect.console import Run
from dselect.errors import UsageError
from dselect.options import ChoiceOptions, Option, OutputOptions, PoolOptions, RunOptions
from dselect.pipeline import Columns, Fields, gather, write_kept

Floats = np.ndarray[Any, np.dtype[np.float64]]

_BY = re.compile(r"(?P<minus>-?)(?P<name>.+?)(?::(?P<weight>\d+(?:\.\d+)?))?")
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
        if not found or (found["weight"] and float(found["weight"]) == 0):
            raise UsageError(f"cannot read --by {text!r}", way_out="--by dsir, --by dsir:2, --by=-loss_x")
        return cls(found["name"], -1 if found["minus"] else 1, float(found["weight"] or 1))


def rank_by(fields: Sequence[By], columns: dict[str, Any], choice: Choice, combine: Literal["rank", "zscore"]) -> Kept:
    """Return what the choice keeps when records rank by these fields; by a uniform draw when there are none."""
    count = len(columns["tie"])
    eligible = np.ones(count, bool)
    if not fields:
        scores = np.zeros(count) if choice.sample else draws.uniform(choice.seed, "select", columns["identity"])
        return choose(scores, columns, choice, eligible)
    oriented = []
    for by in fields:
        column = by.sign * columns.get(f"score {by.name}", np.zeros(0))
        absent = np.isnan(column)
        if choice.missing == "drop":
            eligible &= ~absent
        oriented.append(np.where(absent, -np.inf, column))
    if choice.within and choice.missing == "drop" and None in columns["labels"]:
        eligible &= columns["domain"] != columns["labels"].index(None)
    scores = oriented[0]
    if len(fields) > 1:
        scores = np.full(count, -np.inf)
        present = [column[eligible] for column in oriented]
        scores[eligible] = selection.combine(present, [by.weight for by in fields], combine)
    kept = choose(scores, columns, choice, eligible)
    kept.facts |= {"missing": int(count - eligible.sum()), "spread": columns["spread"]}
    if len(fields) == 1 and len(kept.positions):
        kept.facts["cut"] = float(fields[0].sign * scores[kept.positions].min())
    return kept


def command(
    pool: PoolOptions,
    output: OutputOptions,
    choice: ChoiceOptions,
    run: RunOptions,
    by: Annotated[
        list[str] | None,
        Option(
            metavar="[-]FIELD[:WEIGHT]", help="Rank by this number; minus where lower is better. Several are combined."
        ),
    ] = None,
    combine: Annotated[
        Literal["rank", "zscore"], Option(help="How several --by are made comparable before they are added.")
    ] = "rank",
    attributes: Annotated[
        list[str] | None, Option(metavar="DIR", help="Attribute files with further fields, one for each input.")
    ] = None,
    missing: Annotated[
        Literal["error", "drop", "lowest"],
        Option(help="What to do with a record that lacks a field of --by or --within."),
    ] = "error",
) -> None:
    """Keep the best records within a budget, by the numbers they carry; without --by, a uniform random sample.

    Kept lines are passed on byte for byte, in the order of the input. Equal scores are decided by the records'
    identity, so the order of the input never decides.

    \b
    Example:
      dselect select pool.jsonl.zst --by token_count --keep 10% -o picked.jsonl.zst
    """
    fields = [By.parse(text) for text in by or ()]
    chosen = choice.build(run.seed, missing)
    _check(fields, chosen)
    with Run("select", run) as talk:
        records = pool.open(run, talk, rereads=True, attributes=attributes)
        with output.open(records, run) as sink:
            columns = gather(records, Columns(Fields([field.name for field in fields]), chosen), "reading")
            kept = rank_by(fields, columns, chosen, combine)
            write_kept(records, kept, sink)
    talk.report(records.counts, **kept.facts)


def _check(fields: Sequence[By], choice: Choice) -> None:
    if not choice:
        raise UsageError("nothing says what to keep", way_out="--keep 10%, --above 0.5 or --unique")
    if choice.above is not None and not fields:
        raise UsageError("--above needs a field to compare", way_out="--by FIELD")
    names = [field.name for field in fields]
    if len(set(names)) < len(names):
        raise UsageError(f"--by {max(names, key=names.count)} is given twice")
    for field in fields:
        if _LABEL.fullmatch(field.name):
            raise UsageError(f"{field.name} is a label, not a score", way_out="--within shares a budget among labels")
        if _COST.match(field.name) and field.sign > 0:
            print(
                f"dselect: warning: {field.name} is a cost, lower is better: did you mean --by=-{field.name}?",
                file=sys.stderr,
            )
