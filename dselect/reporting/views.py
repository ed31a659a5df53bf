"""What a chapter tells of: a pool and its selection, their values side by side, and which records to show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dselect.ranking import By
from dselect.reporting.survey import Survey
from dselect.selection import combine

AROUND = 3  # examples at either side of the cut
LENGTH = "length"  # the bytes of the texts, as a field among the others

Floats = np.ndarray[Any, np.dtype[np.float64]]
Json = Mapping[str, Any]


@dataclass
class View:
    """Records to tell of: a pool, with or without what a selection took of it; or a selection whose pool is gone."""

    name: str
    pool: Survey
    selection: Survey | None
    fields: list[str]  # those that decided first
    by: list[By]  # those that decided
    combine: str  # how, if there are several: rank or zscore
    cut: float | None
    spread: Json  # of the pool's scores, as the selection's manifest tells it
    within: str
    steps: list[tuple[str, Json]]  # files and their manifests, the last one first
    note: str  # why there is no pool

    def __post_init__(self) -> None:
        none = np.zeros(len(self.pool.keys), bool)
        self.inside: Any = none if self.selection is None else self.pool.held_by(self.selection)

    def sides(self, name: str) -> tuple[Floats, Floats, Floats]:
        """Return a field's values: of all, of those kept, of those dropped. Where only the kept have it, of them."""
        lengths = self.pool.columns.get("bytes", np.zeros(0))
        column = lengths if name == LENGTH else self.pool.column(name)
        if self.selection is not None and np.isnan(column).all():
            own = self.selection.column(name)
            return np.zeros(0), own[~np.isnan(own)], np.zeros(0)
        there = ~np.isnan(column)
        return column[there], column[there & self.inside], column[there & ~self.inside]

    def examples(self) -> dict[str, list[int]]:
        """Return which records to show, as positions in the pool's sample, under their headings."""
        found: dict[str, list[int]] = {}
        if self.selection is not None and not self.by:  # chosen by chance, or by nothing that is known
            found["Some that were kept"] = np.flatnonzero(self.inside)[: 2 * AROUND].tolist()
            found["Some that were dropped"] = np.flatnonzero(~self.inside)[: 2 * AROUND].tolist()
            return found
        ranked = self._ranking()
        if not len(ranked):
            return {"Some records": list(range(min(2 * AROUND, len(self.pool.keys))))}
        if self.selection is not None:
            chosen = self.inside[ranked]
            found["Last kept"] = ranked[chosen][-AROUND:].tolist()
            found["First dropped"] = ranked[~chosen][:AROUND].tolist()
        places = [int(len(ranked) * (tenth + 0.5) / 10) for tenth in range(10)]
        along = "Along the ranking, best first" if self.by else f"From the highest {self.fields[0]} to the lowest"
        return found | {along: [int(ranked[place]) for place in dict.fromkeys(places)]}

    def _ranking(self) -> Any:
        """Return the positions that have what decided, best first."""
        by = self.by or [By(name) for name in self.fields[:1]]
        columns = [one.sign * self.pool.column(one.name) for one in by]
        there = ~np.isnan(columns).any(axis=0) if columns else np.zeros(len(self.pool.keys), bool)
        if not there.any():
            return np.zeros(0, np.int64)
        how: Literal["rank", "zscore"] = "zscore" if self.combine == "zscore" else "rank"
        chosen, weights = [column[there] for column in columns], [one.weight for one in by]
        score = chosen[0] if len(chosen) == 1 else combine(chosen, weights, how)
        return np.flatnonzero(there)[np.lexsort((self.pool.keys[there], -score))]
