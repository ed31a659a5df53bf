"""What a pool is like, and what a selection took of it: one pass each, in flat memory.

Samples are drawn by the records' identities, so that a selection's sample tells which records of the pool's sample it
holds: nothing of the size of either is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dselect.errors import DselectError
from dselect.pool import Pool
from dselect.records.batch import Batch
from dselect.sketch import BottomK, Distinct

MOST_DOMAINS = 100_000
CONTAMINATION = "contamination"

Floats = np.ndarray[Any, np.dtype[np.float64]]
Keys = np.ndarray[Any, np.dtype[np.uint64]]


def numbers(batch: Batch) -> dict[str, Floats]:
    """Return every top-level field that holds numbers in these records: float64 (n,), NaN where a record holds none."""
    found: dict[str, Floats] = {}
    for position, record in enumerate(batch.records):
        for name, value in record.items():
            if value.__class__ is float or value.__class__ is int:
                if name not in found:
                    found[name] = np.full(len(batch), np.nan)
                found[name][position] = value
    return found


@dataclass
class Amount:
    """Records and their bytes of text."""

    documents: int = 0
    bytes: int = 0

    def add(self, other: Amount) -> None:
        """Count others too."""
        self.documents += other.documents
        self.bytes += other.bytes


@dataclass(frozen=True)
class Look:
    """What a block of records holds: the work of the pass."""

    names: Sequence[str]  # the fields to look at; none for every number at the top level of a record
    within: str

    def __call__(self, batch: Batch) -> tuple[Keys, Keys, dict[str, Floats], list[str | None], list[str | None]]:
        """Return identities, hashes of the texts, numbers, domains, and where contamination came from."""
        columns = {name: batch.column(name) for name in self.names} if self.names else numbers(batch)
        sampled = {"bytes": batch.text_bytes.astype(np.float64)}
        sampled |= {f"field {name}": column for name, column in columns.items()}
        dirty = batch.labels(f"{CONTAMINATION}_source")
        return batch.identities, batch.text_hashes, sampled, batch.labels(self.within), dirty


@dataclass
class Survey:
    """What was seen of a pool: exact amounts, a uniform sample of up to 65,536 records, how often texts repeat."""

    total: Amount = field(default_factory=Amount)
    domains: dict[str | None, Amount] = field(default_factory=dict)
    contaminated: dict[str, int] = field(default_factory=dict)  # records, by the evaluation set
    checked: int = 0  # records that say whether they are contaminated
    keys: Keys = field(default_factory=lambda: np.zeros(0, np.uint64))  # of the sample: identities, ascending
    columns: dict[str, Floats] = field(default_factory=dict)  # of the sample: `bytes`, `field NAME`
    texts: Distinct = field(default_factory=Distinct)

    @classmethod
    def of(cls, pool: Pool, names: Sequence[str], within: str) -> Survey:
        """Pass over a pool once; DselectError where `within` has too many values to be a domain."""
        found, sample = cls(), BottomK()
        for _, (identities, hashes, columns, labels, dirty) in pool.map(Look(names, within), "looking"):
            sizes = columns["bytes"].astype(np.int64).tolist()
            for label, size in zip(labels, sizes, strict=True):
                found.domains.setdefault(label, Amount()).add(Amount(1, size))
            if len(found.domains) > MOST_DOMAINS:
                raise DselectError(
                    f'more than {MOST_DOMAINS:,} values of "{within}"', way_out="name a field with fewer: --within"
                )
            for name in dirty:
                if name is not None:
                    found.checked += 1
                    if name:
                        found.contaminated[name] = found.contaminated.get(name, 0) + 1
            found.total.add(Amount(len(sizes), sum(sizes)))
            found.texts.add(hashes, identities)
            sample.add(identities, columns)
        found.keys, found.columns = sample.result()
        found.texts.settle()
        return found

    @property
    def scale(self) -> float:
        """Return how many records one of the sample stands for."""
        return self.total.documents / len(self.keys) if len(self.keys) else 0.0

    def names(self) -> list[str]:
        """Return the fields that hold numbers."""
        return [name.removeprefix("field ") for name in self.columns if name.startswith("field ")]

    def column(self, name: str) -> Floats:
        """Return a field of the sample, NaN where a record lacks it."""
        return self.columns.get(f"field {name}", np.full(len(self.keys), np.nan))

    def held_by(self, selection: Survey) -> Any:
        """Return which records of the sample a selection from this pool holds: bool (n,)."""
        return np.isin(self.keys, selection.keys)

    def strangers(self, selection: Survey) -> int:
        """Return how many records of a selection's sample are not in this pool, as far as the samples reach."""
        near = selection.keys
        if len(self.keys) and self.total.documents > len(self.keys):
            near = near[near < self.keys[-1]]
        return int((~np.isin(near, self.keys)).sum())


@dataclass(frozen=True)
class Show:
    """Records to show: the work of a second pass."""

    wanted: Keys  # identities, ascending
    within: str

    def __call__(self, batch: Batch) -> list[tuple[int, Example]]:
        """Return those of a block, with their identities."""
        at = np.flatnonzero(np.isin(batch.identities, self.wanted)).tolist()
        labels = batch.labels(self.within) if at else []
        return [(int(batch.identities[i]), Example(batch.records[i].get("id"), labels[i], batch.texts[i])) for i in at]


@dataclass
class Example:
    """A record as it is shown."""

    id: Any
    domain: str | None
    text: str


def fetch(pool: Pool, wanted: Keys, within: str) -> Mapping[int, Example]:
    """Return the records of these identities, by identity: a second pass, none where nothing is wanted."""
    if not len(wanted):
        return {}
    return dict(one for _, found in pool.map(Show(np.unique(wanted), within), "examples") for one in found)
