"""Compare two selections: what both have, what only one has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from dselect import draws
from dselect.console import Run, size, table
from dselect.errors import DselectError, UsageError
from dselect.options import Argument, Option, RunOptions
from dselect.pool import Counts, Pool
from dselect.records.batch import Batch
from dselect.records.sources import discover

Keys = np.ndarray[Any, np.dtype[np.uint64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

MOST_DOMAINS = 100_000
SHOWN = 200  # characters of an example


@dataclass(frozen=True)
class Look:
    """What identifies the records of a block: the work of the first pass."""

    within: str | None

    def __call__(self, batch: Batch) -> tuple[Keys, Ints, list[str | None]]:
        """Return identities, bytes of text and domains."""
        return batch.identities, batch.text_bytes, batch.labels(self.within) if self.within else []


@dataclass(frozen=True)
class Show:
    """The records that were drawn as examples: the work of the second pass."""

    wanted: Keys  # ascending

    def __call__(self, batch: Batch) -> list[tuple[int, Any, str]]:
        """Return identity, id and text of each."""
        at = np.flatnonzero(np.isin(batch.identities, self.wanted)).tolist()
        return [(int(batch.identities[i]), batch.records[i].get("id"), batch.texts[i]) for i in at]


@dataclass
class Selection:
    """The distinct records of a selection, ascending by identity."""

    keys: Keys
    bytes: Ints
    domains: Ints  # a place in the labels both selections share; empty where none were asked for
    repeats: int

    @classmethod
    def read(cls, pool: Pool, within: str | None, labels: dict[str | None, int]) -> Selection:
        """Pass over the records once."""
        keys, lengths, domains = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for _, (found, sizes, named) in pool.map(Look(within), "reading"):
            keys.append(found)
            lengths.append(sizes)
            domains.append(np.array([labels.setdefault(label, len(labels)) for label in named], np.int64))
            if len(labels) > MOST_DOMAINS:
                raise DselectError(
                    f'more than {MOST_DOMAINS:,} values of "{within}"', way_out="name a field with fewer: --within"
                )
        joined = np.concatenate(keys)
        distinct, at = np.unique(joined, return_index=True)
        domain = np.concatenate(domains)
        repeats = len(joined) - len(distinct)
        return cls(distinct, np.concatenate(lengths)[at], domain[at] if within else domain, repeats)


@dataclass
class Part:
    """Records that both selections have, or only one."""

    documents: int
    bytes: int


def parts(first: Selection, second: Selection, domain: int | None = None) -> dict[str, Part]:
    """Return what is in `both`, in `first` alone and in `second` alone, in all or in one domain.

    A record is in the domain that the selection it is counted in says; for both, the first.
    """
    in_second = np.isin(first.keys, second.keys, assume_unique=True)
    in_first = np.isin(second.keys, first.keys, assume_unique=True)
    found = {}
    for name, selection, chosen in (
        ("both", first, in_second), ("first", first, ~in_second), ("second", second, ~in_first),
    ):  # fmt: skip
        inside = chosen if domain is None else chosen & (selection.domains == domain)
        found[name] = Part(int(inside.sum()), int(selection.bytes[inside].sum()))
    return found


def drawn(first: Selection, second: Selection, count: int, seed: int) -> Keys:
    """Return the identities of a seeded draw of records that only the first selection has."""
    only = first.keys[~np.isin(first.keys, second.keys, assume_unique=True)]
    return only[np.argsort(draws.uniform(seed, "diff examples", only), kind="stable")[:count]]


def command(
    first: Annotated[str, Argument(metavar="A", help="A selection: a file or folder.")],
    second: Annotated[str, Argument(metavar="B", help="Another.")],
    run: RunOptions,
    within: Annotated[str | None, Option(metavar="FIELD", help="A line for each domain that this field names.")] = None,
    examples: Annotated[int, Option(metavar="N", help="Show N records that only one has, of each.", min=0)] = 0,
    text: Annotated[str, Option(metavar="FIELD", help="The field that holds the text; dots reach inside.")] = "text",
    as_json: Annotated[bool, Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Compare two selections: documents and bytes that both have, and that only one has.

    Records are the same if their id and text are; scores and other fields do not matter. The tables are data and go
    to stdout.

    \b
    Example:
      dselect diff pool.jsonl.zst new.jsonl.zst --within source --examples 2
    """
    if first == second:
        raise UsageError("both selections are the same file", way_out="name two")
    with Run("diff", run) as talk:
        pools = [
            Pool(discover([name]), text, jobs=run.jobs, few_alone=not run.asked, progress=talk, rereads=examples > 0)
            for name in (first, second)
        ]
        labels: dict[str | None, int] = {}
        a, b = (Selection.read(pool, within, labels) for pool in pools)
        facts = {"a": first, "b": second, **_facts(a, b, None)}
        facts["repeats"] = {"a": a.repeats, "b": b.repeats}
        if within:
            facts["within"] = within
            rows = [{"domain": label, **_facts(a, b, place)} for label, place in labels.items()]
            facts["domains"] = sorted(rows, key=lambda row: (-_all_bytes(row), row["domain"] is None, row["domain"]))
        if examples:
            pairs = ((pools[0], a, b), (pools[1], b, a))
            shown = [_examples(pool, drawn(mine, other, examples, run.seed)) for pool, mine, other in pairs]
            facts["examples"] = dict(zip("ab", shown, strict=True))
    print(json.dumps(facts, ensure_ascii=False) if as_json else _as_tables(facts))
    counts = Counts()
    for pool in pools:
        counts.add(pool.counts)
    talk.report(counts, repeats=a.repeats + b.repeats)


def _examples(pool: Pool, wanted: Keys) -> list[dict[str, Any]]:
    if not len(wanted):
        return []
    found = {}
    for _, records in pool.map(Show(np.sort(wanted)), "examples"):
        found.update({key: {"id": id_, "text": text} for key, id_, text in records})
    return [found[key] for key in wanted.tolist()]


def _facts(a: Selection, b: Selection, domain: int | None) -> dict[str, Any]:
    found = parts(a, b, domain)
    facts: dict[str, Any] = {}
    for name, key in (("both", "both"), ("first", "only_a"), ("second", "only_b")):
        facts[key] = {"documents": found[name].documents, "bytes": found[name].bytes}
    for unit in ("documents", "bytes"):
        union = sum(facts[key][unit] for key in ("both", "only_a", "only_b"))
        facts[f"jaccard_{unit}"] = facts["both"][unit] / union if union else None
    return facts


def _all_bytes(facts: Mapping[str, Any]) -> int:
    return sum(facts[key]["bytes"] for key in ("both", "only_a", "only_b"))


def _as_tables(facts: Mapping[str, Any]) -> str:
    rows = []
    for key, name in (("both", "both"), ("only_a", f"only {facts['a']}"), ("only_b", f"only {facts['b']}")):
        part = facts[key]
        shares = []
        for own in ("only_a", "only_b"):
            whole = facts["both"]["documents"] + facts[own]["documents"]
            mine = key in ("both", own)
            shares.append(f"{part['documents'] / whole:.1%}" if whole and mine else "-")
        rows.append([name, f"{part['documents']:,}", size(part["bytes"]), *shares])
    shown = [table("", ["records", "documents", "text", "of A", "of B"], rows)]
    shown.append(f"overlap (Jaccard): {_share(facts, 'documents')} of documents, {_share(facts, 'bytes')} of bytes")
    if "domains" in facts:
        rows = [
            ["(none)" if row["domain"] is None else row["domain"], *_cells(row), _share(row, "bytes")]
            for row in facts["domains"]
        ]
        header = [facts["within"], "both", "only A", "only B", "both, text", "only A", "only B", "overlap"]
        shown += ["", table("", header, rows)]
    for key, name in (("a", facts["a"]), ("b", facts["b"])):
        found: Sequence[Mapping[str, Any]] = facts.get("examples", {}).get(key, ())
        if found:
            shown += ["", f"only in {name}, drawn at random:"]
            shown += [f"  {json.dumps(e['id'], ensure_ascii=False)}  {_line(e['text'])}" for e in found]
    return "\n".join(shown)


def _cells(row: Mapping[str, Any]) -> list[str]:
    keys = ("both", "only_a", "only_b")
    return [*(f"{row[key]['documents']:,}" for key in keys), *(size(row[key]["bytes"]) for key in keys)]


def _share(facts: Mapping[str, Any], unit: str) -> str:
    share = facts[f"jaccard_{unit}"]
    return "-" if share is None else f"{share:.1%}"


def _line(text: str) -> str:
    """Return the beginning of a text on one line, without what could move a terminal's cursor."""
    cut = " ".join(text[: 2 * SHOWN].split())
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut[:SHOWN])
    return shown if len(cut) <= SHOWN and len(text) <= 2 * SHOWN else f"{shown}…"
