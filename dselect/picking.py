"""Choose among clusters: at once by a quota, or round by round by weights that follow what rounds have gained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dselect import mixing, refinement
from dselect.choice import Choice, Kept, read_weights
from dselect.pool import Pool
from dselect.ranking import By, Combine, rank_by
from dselect.refinement import LossDrops, Round
from dselect.selection import Budget

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Wish:
    """How to choose, beyond what all methods share."""

    choice: Choice
    by: Sequence[By]
    combine: Combine
    dedup: float | None = None
    exclude: Sequence[str] = ()
    gains: Sequence[str] = ()
    target: str | None = None
    rounds: int = 1
    temperature: float | None = None
    floor: float = refinement.FLOOR

    def __bool__(self) -> bool:
        return bool(self.choice) or self.dedup is not None

    @property
    def refines(self) -> bool:
        """Tell whether weights follow gains."""
        return bool(self.gains) or self.target is not None


@dataclass
class Pick:
    """Chooses records of clustered columns: once, or round by round."""

    wish: Wish
    labels: Ints  # (n,): every record's cluster
    count: int  # of clusters
    columns: dict[str, Any]
    pool: Pool
    open_to: Any  # bool (n,): which records may be picked
    rounds: Sequence[Round] = ()

    def once(self, quota: str | Mapping[str, float], budget: Budget | None) -> Kept:
        """Return what one round keeps."""
        choice = replace(self.wish.choice, quota=quota, keep=budget)
        return rank_by(self.wish.by, self.columns, choice, self.wish.combine, self.open_to)

    def weighted(self, weights: Sequence[float], budget: Budget | None) -> Kept:
        """Return what one round keeps by weights."""
        return self.once({str(cluster): weight for cluster, weight in enumerate(weights)}, budget)

    def all(self, seed: int, targets: Sequence[Pool]) -> Kept:
        """Return what all rounds keep; `rounds` says by which weights."""
        wish, count = self.wish, self.count
        quota, keep = wish.choice.quota, wish.choice.keep
        if not wish.refines:
            return self.once(quota, keep)
        assert keep is not None
        named = isinstance(quota, str) and quota not in ("equal", "proportional")
        weights = refinement.starting(read_weights(str(quota)) if named else "equal", count)
        done: list[Round] = []
        for path in wish.gains:
            done.append(refinement.after(weights, refinement.read_gains(path, count), wish.temperature))
            weights = refinement.following(done[-1], wish.floor)
        if wish.target is None:
            self.rounds = [*done, Round(weights)]
            return self.weighted(weights, keep)
        return self._refine(weights, LossDrops(refinement.read_target(targets, seed)), keep)

    def _refine(self, weights: list[float], learner: LossDrops, keep: Budget) -> Kept:
        """Pick in rounds, each its part of the budget, by weights that follow what the round before has gained."""
        wish, count = self.wish, self.count
        total = keep.resolve(int(self.columns["size"].sum(dtype=np.int64)))
        done: list[Round] = []
        parts: list[Kept] = []
        left = 0  # what a round could not spend goes to the next
        for number, amount in enumerate(mixing.budgets([1] * wish.rounds, total), 1):
            kept = self.weighted(weights, replace(keep, amount=amount + left, share=None))
            left += amount - kept.facts["achieved"]
            self.open_to[kept.positions] = False
            parts.append(kept)
            gains = learner.after(self.pool, self.columns["tie"][kept.positions], self.labels[kept.positions], count)
            done.append(refinement.after(weights, gains, wish.temperature))
            if number < wish.rounds:
                weights = refinement.following(done[-1], wish.floor)
        self.rounds = done
        facts = {**parts[-1].facts, "asked": total, "target_losses": learner.losses_}
        facts |= {name: sum(part.facts[name] for part in parts) for name in ("kept", "achieved")}
        positions = np.sort(np.concatenate([part.positions for part in parts]))
        return Kept(positions, parts[-1].cut, facts)
