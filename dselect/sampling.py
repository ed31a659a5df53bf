"""A seeded sample of the pool to fit on, told by the records' draws and never by their place in the stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dselect import draws
from dselect.choice import Choice, choose
from dselect.errors import DselectError
from dselect.pipeline import Columns, Fields, gather
from dselect.pool import Pool
from dselect.records.batch import Batch
from dselect.selection import Budget


@dataclass(frozen=True)
class Sample:
    """The records of a seeded sample, told by their draws: those at or before the last one that fitted the budget."""

    columns: Columns
    budget: int
    last: tuple[float, int]

    def of(self, batch: Batch) -> Any:
        """Return the positions of the batch's records that are in the sample."""
        found = self.columns(batch)
        draw = draws.uniform(self.columns.choice.seed, "fit-on", found["identity"])
        score, tie = self.last
        before = (draw > score) | ((draw == score) & (found["tie"] <= np.uint64(tie)))
        return np.flatnonzero(before & (found["size"] <= self.budget))


def draw_sample(pool: Pool, size: Budget, seed: int, tokens: str | None) -> Sample | None:
    """Pass over the pool once and draw a sample of this size; None if the pool holds nothing."""
    columns = Columns(Fields([]), Choice(keep=size, tokens=tokens, seed=seed))
    found = gather(pool, columns, "sampling")
    draw = draws.uniform(seed, "fit-on", found["identity"])
    kept = choose(draw, found, columns.choice)
    if not len(kept.positions):
        return None
    at = kept.positions
    last = at[np.lexsort((found["tie"][at], -draw[at]))[-1]]
    return Sample(columns, kept.facts["asked"], (float(draw[last]), int(found["tie"][last])))


def sample_to_fit_on(pool: Pool, size: str, seed: int, tokens: str | None) -> Sample | None:
    """Draw what --fit-on asks for; None for `all`. DselectError if a sample of this size holds none of the records."""
    if size == "all":
        return None
    sample = draw_sample(pool, Budget.parse(size), seed, tokens)
    if sample is None and pool.counts.documents:
        raise DselectError(f"--fit-on {size} holds no record of this pool", way_out="a larger sample, or all")
    return sample
