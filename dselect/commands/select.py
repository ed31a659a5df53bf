"""Keep the best records within a budget, by the numbers they carry."""
# A utility function gave the numbers (dsir, zipfit, …); this is the selection mechanism (Albalak et al. 2024). Several
# numbers are first made comparable, by rank or as z-scores, then added with weights: criteria on different scales must
# not be summed as they are (the largest variance would decide alone).

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from dselect.choice import Choice, Cut
from dselect.console import Run
from dselect.errors import DselectError, UsageError
from dselect.options import ChoiceOptions, Option, OutputOptions, PoolOptions, RunOptions
from dselect.pipeline import Columns, Fields, gather, write_kept
from dselect.pool import Pool
from dselect.ranking import By, check_fields, oriented, rank_by
from dselect.records.batch import Batch
from dselect.records.publishing import publish
from dselect.records.writing import Sink
from dselect.selection import Budget

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Rule:
    """A cut and all that is needed to apply it to a record alone."""

    by: By | None
    choice: Choice
    cut: Cut

    def __call__(self, batch: Batch) -> tuple[bytes, int, int, int]:
        """Return the lines kept, as one block, how many, their total size, and how many are of unknown domains."""
        wanted = "score this pool as the one that the cut was made of"
        columns = Columns(Fields([self.by.name] if self.by else []), self.choice, if_missing=wanted)(batch)
        columns["domain"] = columns.get("domain", [])
        kept = np.flatnonzero(self.cut.keeps(oriented(self.by, columns, self.choice), columns, self.choice))
        block = b"".join([batch.lines[i] + b"\n" for i in kept.tolist()])
        unknown = sum(label not in self.cut.domains for label in columns["domain"]) if self.cut.domains else 0
        return block, len(kept), int(columns["size"][kept].sum(dtype=np.int64)), unknown

    def to_bytes(self) -> bytes:
        """Return the rule as JSON."""
        choice = {name: getattr(self.choice, name) for name in _OF_CHOICE}
        unit = self.choice.keep.unit if self.choice.keep else None
        by = None if self.by is None else [self.by.name, self.by.sign]
        found = {"dselect": "cut", "by": by, "choice": choice, "unit": unit, "cut": self.cut.as_json()}
        return json.dumps(found, indent=1).encode() + b"\n"

    @classmethod
    def load(cls, path: str) -> Rule:
        """Read a rule that `to_bytes` wrote; DselectError if it is none."""
        try:
            found = json.loads(Path(path).read_bytes())
            if found["dselect"] != "cut":
                raise ValueError("another kind of file")
            if found["unit"] not in ("documents", "bytes", "tokens", None):
                raise ValueError("no unit")
            keep = Budget("", found["unit"], amount=0) if found["unit"] else None
            choice = Choice(keep=keep, **{name: found["choice"][name] for name in _OF_CHOICE})
            by = By(str(found["by"][0]), -1 if found["by"][1] < 0 else 1) if found["by"] else None
            return cls(by, choice, Cut.from_json(found["cut"]))
        except OSError as error:
            raise DselectError(f"cannot read: {error.strerror}", where=path) from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DselectError("this is no cut", where=path, way_out="dselect select --save makes one") from error


_OF_CHOICE = ("sample", "temperature", "scale", "within", "tokens", "missing", "seed")


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
        Literal["error", "drop", "lowest"] | None,
        Option(help="What to do with a record that lacks a field of --by or --within. [default: error]"),
    ] = None,
    save: Annotated[
        str | None, Option(metavar="FILE", help="Save where the cut was. Without -o, do that and stop.")
    ] = None,
    cut: Annotated[
        str | None, Option(metavar="FILE", help="Apply a saved cut, whatever else is in the pool: shard by shard.")
    ] = None,
) -> None:
    """Keep the best records within a budget, by the numbers they carry; without --by, a uniform random sample.

    Kept lines are passed on byte for byte, in the order of the input. Equal scores are decided by the records'
    identity, so the order of the input never decides.

    \b
    Example:
      dselect select pool.jsonl.zst --by token_count --keep 10% -o picked.jsonl.zst
    """
    fields = [By.parse(text) for text in by or ()]
    if len(fields) == 1 and choice.above is not None:
        choice.above *= fields[0].sign  # X is in the field's own numbers: with a minus, less than X is kept
    chosen = choice.build(run.seed, missing or "error")
    if cut:
        if fields or save or missing or run.seed or choice != ChoiceOptions() or combine != "rank":
            raise UsageError(
                "--cut says all: what to rank by, how much to keep, --missing, --seed and --tokens too",
                way_out="leave them out",
            )
    else:
        _check(fields, chosen, save)
        if missing and not (fields or chosen.within):
            raise UsageError("--missing is about the fields of --by and --within", way_out="--by FIELD")
        if attributes and not (fields or chosen.within or chosen.tokens):
            raise UsageError("--attributes gives fields that nothing asks for", way_out="--by FIELD")
        if chosen.tokens and (chosen.keep is None or chosen.keep.unit != "tokens"):
            raise UsageError("--tokens is about a budget in tokens", way_out="--keep 2Mtok")
    stops = bool(save and output.output is None)
    with Run("select", run) as talk:
        records = pool.open(run, talk, rereads=not cut and not stops, attributes=attributes)
        with output.open(records, run, write=not stops, alone=bool(cut)) as sink:
            if cut:
                facts = _apply(Rule.load(cut), records, sink)
            else:
                columns = gather(records, Columns(Fields([field.name for field in fields]), chosen), "reading")
                kept = rank_by(fields, columns, chosen, combine)
                facts = kept.facts
                if save:
                    publish(Path(save), Rule(fields[0] if fields else None, chosen, kept.cut).to_bytes())
                if not stops:
                    write_kept(records, kept, sink)
    talk.report(records.counts, **facts, saved=save)


def _apply(rule: Rule, pool: Pool, sink: Sink) -> dict[str, Any]:
    """Write the records of the pool that a cut keeps."""
    documents = size = unknown = 0
    for source, (block, count, amount, strange) in pool.map(rule, "selecting", rest=True):
        documents, size, unknown = documents + count, size + amount, unknown + strange
        sink.write(source, block)
    return {
        "kept": documents,
        "achieved": size,
        "of_unknown_domains": unknown,
        "unit": rule.choice.keep.unit if rule.choice.keep else "documents",
    }


def _check(fields: Sequence[By], choice: Choice, save: str | None) -> None:
    if save and (len(fields) > 1 or choice.unique):
        what = "--unique" if choice.unique else "several --by"
        raise UsageError(f"{what} cannot be decided for a record alone, as a cut must", way_out="write the records")
    if not choice:
        raise UsageError("nothing says what to keep", way_out="--keep 10%, --above 0.5 or --unique")
    if choice.above is not None and not fields:
        raise UsageError("--above needs a field to compare", way_out="--by FIELD")
    for warning in check_fields(fields):
        print(f"dselect: warning: {warning}", file=sys.stderr)
