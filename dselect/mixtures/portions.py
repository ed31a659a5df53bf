"""A sample of the pool with given shares of its domains: what of each is taken, how often, and in which phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dselect import draws, mixing
from dselect.choice import Choice
from dselect.errors import DselectError
from dselect.mixtures.domains import Domains
from dselect.pipeline import Columns, Fields, gather, whole
from dselect.pool import Pool
from dselect.records.batch import Batch
from dselect.records.writing import Sink
from dselect.selection import Budget

Ints = np.ndarray[Any, np.dtype[np.int64]]
Counts = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class DomainColumns:
    """What is known of every record: its size, its domain, what its draws are made of. The work of the first pass."""

    columns: Columns
    domains: Domains

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """Return columns by name: `tie` and `identity` uint64, `size` uint32, `domain` a label each."""
        return {**self.columns(batch), "domain": self.domains.of(batch)}


class Held:
    """A pool by domains: `names`, sorted; of each, its records in their seeded order, and their sizes.

    24 bytes a record; 20 after the first pass.
    """

    def __init__(self, pool: Pool, domains: Domains, keep: Budget, seed: int, tokens: str | None = None) -> None:
        self.unit, self.seed = keep.unit, seed
        found = gather(pool, DomainColumns(Columns(Fields([]), Choice(keep=keep, tokens=tokens)), domains), "reading")
        labels: list[str | None] = found["labels"]
        self.names = sorted(label for label in labels if label is not None)
        place = np.array([len(self.names) if label is None else self.names.index(label) for label in labels], np.int64)
        domain = place[found["domain"]] if labels else np.zeros(0, np.int64)
        self.sizes = found["size"]
        self.draws = draws.uniform(seed, "mix", found["identity"])
        order = np.lexsort((found["tie"], self.draws, domain))
        ends = np.cumsum(np.bincount(domain, minlength=len(self.names)))
        self.orders: list[Ints] = np.split(order, ends)[: len(self.names)]  # those of no domain come last

    @property
    def totals(self) -> list[int]:
        """Return what each domain holds, in the unit of the sizes."""
        return [int(self.sizes[order].sum(dtype=np.int64)) for order in self.orders]

    def weights(self, given: Mapping[str, float], where: str | None) -> list[float]:
        """Return the weight of each domain; DselectError where one is named that holds nothing."""
        missing = [name for name, weight in given.items() if weight and name not in self.names]
        if missing:
            raise DselectError(
                f"no records of the domain {missing[0]!r}; there are: {', '.join(self.names[:12]) or 'none'}",
                where=where,
            )
        return [given.get(name, 0.0) for name in self.names]


@dataclass
class Portions:
    """What is taken: for each phase how often each record of the pool, and what was asked of each domain."""

    counts: list[Counts]  # uint8 (records,) a phase
    asked: list[list[int]]  # by phase and domain, in the unit of the sizes

    def got(self, held: Held) -> list[list[int]]:
        """Return what each domain gives, by phase."""
        return [
            [int((count[order] * held.sizes[order].astype(np.int64)).sum()) for order in held.orders]
            for count in self.counts
        ]


def portions(held: Held, phases: Sequence[tuple[int, Sequence[float]]], most: int) -> Portions:
    """Draw a sample of each domain: in phases of (budget, weights of the domains), none of which starts over.

    A phase goes on where the one before it stopped, so that no record is taken twice before all of its domain were
    taken once, and none more than `most` times in all.
    """
    totals = held.totals
    spent = [0] * len(totals)
    times = np.zeros(len(held.sizes), np.uint8)
    counts, asked = [], []
    for budget, weights in phases:
        shares = mixing.capped(
            weights, budget, [most * total - gone for total, gone in zip(totals, spent, strict=True)]
        )
        count = np.zeros(len(held.sizes), np.uint8)
        for k, (order, share) in enumerate(zip(held.orders, shares, strict=True)):
            sizes = held.sizes[order].astype(np.int64)
            count[order] = often = mixing.taken(sizes, times[order].astype(np.int64), share, most)
            spent[k] += int((often * sizes).sum())
        times += count
        counts.append(count)
        asked.append(shares)
    return Portions(counts, asked)


def write_portions(pool: Pool, counts: Sequence[Counts], sinks: Sequence[Sink]) -> None:
    """Write each phase's records to its sink, epoch by epoch, so that copies of a record are never side by side.

    One pass over the pool for each time that the most taken record is taken.
    """
    for turn in range(max((int(count.max()) for count in counts if len(count)), default=0) or 1):
        seen = 0
        for source, lines in pool.lines():
            for count, sink in zip(counts, sinks, strict=True):
                chosen = np.flatnonzero(count[seen : seen + len(lines)] > turn).tolist()
                if chosen:
                    sink.write(source, whole([lines[i] for i in chosen]))
            seen += len(lines)
