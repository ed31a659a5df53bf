"""Show what records hold: documents, bytes, the spread of every number, domain by domain."""
# Counts, sums and extremes are of every record; quantiles, medians and rank correlations of a uniform sample of 65,536,
# which is all of them where there are no more. So memory does not grow with the pool.

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np

from dselect.choice import no_such_field
from dselect.console import Run, number, size, sparkline, table
from dselect.errors import DselectError
from dselect.options import Option, PoolOptions, RunOptions
from dselect.pool import Pool
from dselect.records.batch import Batch
from dselect.reporting.survey import MOST_DOMAINS, numbers
from dselect.sketch import SAMPLE, BottomK, spearman

QUANTILES = {"1%": 0.01, "10%": 0.1, "median": 0.5, "90%": 0.9, "99%": 0.99}

Floats = np.ndarray[Any, np.dtype[np.float64]]
_NOWHERE: list[str | None] = [None]


@dataclass
class Numbers:
    """What is known exactly of one field: how many records have it, their sum, the least and the greatest value."""

    records: int = 0
    sum: float = 0.0
    least: float = np.inf
    greatest: float = -np.inf

    def add(self, other: Numbers) -> None:
        """Count the records of another part of the stream too."""
        self.records += other.records
        self.sum += other.sum
        self.least, self.greatest = min(self.least, other.least), max(self.greatest, other.greatest)

    @classmethod
    def of(cls, column: Floats) -> Numbers:
        """Return what is known of a column, NaN where a record lacks the field."""
        there = column[~np.isnan(column)]
        return cls(len(there), float(there.sum()), float(there.min()), float(there.max())) if len(there) else cls()


@dataclass
class Domain:
    """One domain: its documents, the numbers of their bytes of text and of every field."""

    documents: int = 0
    bytes: Numbers = field(default_factory=Numbers)
    fields: dict[str, Numbers] = field(default_factory=dict)

    def add(self, other: Domain) -> None:
        """Count the records of another part of the stream too."""
        self.documents += other.documents
        self.bytes.add(other.bytes)
        for name, more in other.fields.items():
            self.fields.setdefault(name, Numbers()).add(more)


@dataclass(frozen=True)
class Look:
    """What a block of records holds: the work of the pass."""

    names: Sequence[str]  # the fields to look at; none for every number at the top level of a record
    within: str | None

    def __call__(self, batch: Batch) -> tuple[dict[str | None, Domain], Any, dict[str, Floats], list[str | None]]:
        """Return the domains, and for the sample: keys, columns and the domain of every record."""
        columns = {name: batch.column(name) for name in self.names} if self.names else numbers(batch)
        length = batch.text_bytes.astype(np.float64)
        labels = batch.labels(self.within) if self.within else _NOWHERE * len(batch)
        places: dict[str | None, list[int]] = {}
        for position, label in enumerate(labels):
            places.setdefault(label, []).append(position)
        domains = {}
        for label, positions in places.items():
            fields = {name: Numbers.of(column[positions]) for name, column in columns.items()}
            domains[label] = Domain(len(positions), Numbers.of(length[positions]), fields)
        sampled = {"bytes": length, **{f"field {name}": column for name, column in columns.items()}}
        return domains, batch.sample_keys, sampled, labels


@dataclass
class Statistics:
    """What a pool holds."""

    domains: dict[str | None, Domain]
    sample: dict[str, Floats]  # `bytes`, `domain` (a place in labels), `field NAME`: NaN where a record lacks it
    labels: list[str | None]

    @classmethod
    def gather(cls, pool: Pool, names: Sequence[str], within: str | None) -> Statistics:
        """Pass over the pool once."""
        domains: dict[str | None, Domain] = {}
        places: dict[str | None, int] = {}
        sample = BottomK()
        for _, (found, keys, columns, labels) in pool.map(Look(names, within), "looking"):
            for label, domain in found.items():
                domains.setdefault(label, Domain()).add(domain)
            if len(domains) > MOST_DOMAINS:
                raise DselectError(
                    f'more than {MOST_DOMAINS:,} values of "{within}"', way_out="name a field with fewer: --within"
                )
            numbered = [float(places.setdefault(label, len(places))) for label in labels]
            sample.add(keys, {**columns, "domain": np.array(numbered)})
        if within and list(domains) == [None]:
            raise no_such_field(within, "--within")
        _, held = sample.result()
        return cls(domains, held, list(places))

    @property
    def total(self) -> Domain:
        """Return all domains together."""
        whole = Domain()
        for domain in self.domains.values():
            whole.add(domain)
        return whole

    def lengths(self) -> dict[str, Any]:
        """Return the spread of the bytes of text: records, min, quantiles, max, mean."""
        return _spread(self.total.bytes, self.sample.get("bytes", np.zeros(0)))

    def fields(self) -> dict[str, dict[str, Any]]:
        """Return the spread of each field, and its rank correlation with the bytes of text."""
        rows = {}
        for name, exact in sorted(self.total.fields.items()):
            column = self.sample[f"field {name}"]
            there = ~np.isnan(column)
            rows[name] = _spread(exact, column[there])
            rows[name]["rank_correlation_with_length"] = spearman(column[there], self.sample["bytes"][there])
        return rows

    def medians(self, label: str | None) -> dict[str, float]:
        """Return the medians of a domain, `bytes` and `field NAME`, as far as the sample holds any."""
        inside = self.sample["domain"] == self.labels.index(label)
        found = {}
        for name, column in self.sample.items():
            values = column[inside]
            values = values[~np.isnan(values)]
            if len(values) and name != "domain":
                found[name] = float(np.median(values))
        return found


def _spread(exact: Numbers, sampled: Floats) -> dict[str, Any]:
    row: dict[str, Any] = {"records": exact.records}
    if exact.records:
        row["min"] = exact.least
        if len(sampled):
            row |= {key: float(np.quantile(sampled, q)) for key, q in QUANTILES.items()}
        row |= {"max": exact.greatest, "mean": exact.sum / exact.records}
    return {key: value if np.isfinite(value) else None for key, value in row.items()}  # sums of huge numbers


def command(
    pool: PoolOptions,
    run: RunOptions,
    within: Annotated[str | None, Option(metavar="FIELD", help="A table of the domains that this field names.")] = None,
    field: Annotated[
        list[str] | None,
        Option(metavar="FIELD", help="Look at this field, and others given; without, at every number in a record."),
    ] = None,
    as_json: Annotated[bool, Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Show what records hold: documents, bytes of text, and how every number in them is spread.

    For each field: how many records have it, extremes, quantiles, mean, and its rank correlation with the length of the
    text: a score near 1 or -1 there measures little else. With --within, a line for each domain. The tables are data
    and go to stdout.

    \b
    Example:
      dselect stats pool.jsonl.zst --within source
    """
    with Run("stats", run) as talk:
        records = pool.open(run, talk, rereads=False)
        with np.errstate(over="ignore", invalid="ignore"):
            found = Statistics.gather(records, field or (), within)
        for name in field or ():
            if records.counts.documents and not found.total.fields[name].records:
                raise DselectError(f'no record has a number in the field "{name}"', way_out="see --field")
    with np.errstate(over="ignore", invalid="ignore"):
        shown = json.dumps(_as_json(found, within), ensure_ascii=False) if as_json else _as_tables(found, within)
    print(shown)
    talk.report(records.counts)


def _as_json(found: Statistics, within: str | None) -> dict[str, Any]:
    total = found.total
    facts = {
        "documents": total.documents,
        "bytes": int(total.bytes.sum),
        "text_bytes": found.lengths(),
        "fields": found.fields(),
    }
    if within:
        facts["within"] = within
        facts["domains"] = [_domain_as_json(found, label, domain) for label, domain in _largest_first(found)]
    return facts


def _domain_as_json(found: Statistics, label: str | None, domain: Domain) -> dict[str, Any]:
    medians = found.medians(label)
    return {
        "domain": label,
        "documents": domain.documents,
        "bytes": int(domain.bytes.sum),
        "median_bytes": medians.pop("bytes", None),
        "medians": {name.removeprefix("field "): value for name, value in medians.items()},
    }


def _as_tables(found: Statistics, within: str | None) -> str:
    total = found.total
    shown = [f"{total.documents:,} documents, {size(total.bytes.sum)} of text"]
    if total.documents > SAMPLE:
        shown.append(f"Quantiles, medians and rank correlations are of a uniform sample of {SAMPLE:,} records.")
    header = ["field", "records", "1 % to 99 %", "min", *QUANTILES, "max", "mean", "rank corr. with length"]
    keys = ["min", *QUANTILES, "max", "mean", "rank_correlation_with_length"]
    spreads = {"(bytes of text)": found.lengths(), **found.fields()}
    sampled = [found.sample.get("bytes", np.zeros(0)), *(found.sample[f"field {name}"] for name in list(spreads)[1:])]
    bars = [sparkline(column[~np.isnan(column)]) for column in sampled]
    rows = [
        [name, f"{row['records']:,}", bar, *(number(row.get(key)) for key in keys)]
        for (name, row), bar in zip(spreads.items(), bars, strict=True)
    ]
    shown += ["", table("", header, rows)]
    if within and total.documents:
        names = ["bytes", *(f"field {name}" for name in sorted(total.fields))]
        columns = [f"median {name.removeprefix('field ')}" for name in names]
        rows = []
        for label, domain in _largest_first(found):
            medians = found.medians(label)
            rows.append([
                "(none)" if label is None else label,
                f"{domain.documents:,}",
                f"{domain.documents / total.documents:.1%}",
                f"{domain.bytes.sum:,.0f}",
                f"{domain.bytes.sum / max(total.bytes.sum, 1):.1%}",
                *(number(medians.get(name)) for name in names),
            ])  # fmt: skip
        shown += ["", table("", [within, "documents", "share", "bytes", "share", *columns], rows)]
    return "\n".join(shown)


def _largest_first(found: Statistics) -> list[tuple[str | None, Domain]]:
    return sorted(found.domains.items(), key=lambda item: (-item[1].bytes.sum, item[0] is None, item[0] or ""))
