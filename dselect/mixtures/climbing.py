"""The search itself: rounds of mixtures, each measured, and a run that confirms what is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dselect.mixtures.trials import Proxy, Trials
from dselect.search import WeightSearch, best_predictor, cross_validated, rounded

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass
class Setting:
    """A search: what measures, where that is noted, how much each target counts; sign: -1 of what is maximised."""

    search: WeightSearch
    proxy: Proxy
    trials: Trials
    shares: Floats
    sign: float

    def try_out(self, mixtures: Floats) -> Floats:
        """Measure mixtures, tell the search, return what they cost: float64 (n,)."""
        losses = self.losses(self.trials.measured(self.proxy, mixtures))
        self.search.tell(mixtures, losses)
        return losses

    def losses(self, measured: Floats) -> Floats:
        """Return one loss for what was measured on each target."""
        return np.asarray(self.sign * (measured @ self.shares))


@dataclass
class Found:
    """The answer: weights float64 (d,); mixtures worth seeing; what is known about them."""

    answer: Floats
    columns: dict[str, Floats]
    facts: dict[str, Any]


def climbed(setting: Setting, counts: Sequence[int], say: Any) -> Found:
    """Search in rounds of so many mixtures; the best predicted is the answer if it measures up to the best measured.

    The pool's own proportions are tried first: what the answer is compared with.
    """
    search, sign = setting.search, setting.sign
    proportional = rounded(search.prior[None])
    plain = float(setting.try_out(proportional)[0])
    for number, count in enumerate(counts, 1):
        losses = setting.try_out(search.ask(count))
        best = sign * float(search.losses_.min())
        lowest = sign * float(losses.min())
        say(f"round {number} of {len(counts)}: {count} mixtures, the best at {lowest:.4f}; of all {best:.4f}")
    others, measured = setting.trials.others(search.weights_)
    if len(others):
        search.tell(others, setting.losses(measured))
    facts = trust(search)
    fitted, predicted = search.fitted(), search.best_predicted()
    lowest, measured_best, tried = float(search.losses_.min()), search.best_measured(), len(search.losses_)
    expected, off = float(fitted.predict(predicted[None])[0]), float(fitted.deviations(predicted[None])[0])
    confirmation = float(setting.try_out(predicted[None])[0])
    confirmed = confirmation <= lowest
    answer = predicted if confirmed else measured_best
    return Found(
        answer,
        {"pool": search.prior, "best measured": measured_best, "best predicted": predicted, "answer": answer},
        {
            "tried": tried,
            "proportional": sign * plain,
            "best_measured": sign * lowest,
            "predicted": sign * expected,
            "deviation": off,
            "confirmation": sign * confirmation,
            "confirmed": confirmed,
            "answer": sign * min(lowest, confirmation),
            **facts,
        },
    )


def trust(search: WeightSearch) -> dict[str, Any]:
    """Return which predictor is fitted, and how well it ranks points that it has not seen."""
    name = search.predictor
    if name == "auto":
        name = best_predictor(search.weights_, search.losses_)
    checked = cross_validated(name, search.weights_, search.losses_)
    return {"predictor": name, "rank_correlation": checked.rank_correlation, "error": checked.error}
