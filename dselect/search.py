"""Search the weights of domains for the mixture of the lowest loss: ask for mixtures to try, tell what they cost.

Pure functions on arrays, and one object that remembers. Weights are float64 (n, d), those asked for multiples of 1/5000
that sum to 1; `caps` float64 (d,), the most that each domain may have. Draws depend on the seed and on how many
mixtures were told, so that a search that is told the same again asks the same again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dselect.errors import DselectError
from dselect.models import predictors
from dselect.models.predictors import Floats, Predictor
from dselect.sketch import spearman

UNITS = 5000  # weights are multiples of 2e-4, as Nemotron-CLIMB rounds them
CANDIDATES = 100_000  # mixtures whose loss is predicted, half of them around the prior
BEST = 128  # of them the next are drawn from at least so many (CLIMB); the mean of so many is RegMix's answer
_STRENGTHS = np.exp(np.linspace(np.log(0.1), np.log(5.0), 15))
_ENOUGH = 100  # candidates for each mixture of the first round
_SURE = 2000  # of the best candidates, how sure their prediction is counts too
_NEAR = 16  # measured mixtures that others are drawn between and around
_CONCENTRATIONS = (np.log(5.0), np.log(500.0))

PredictorName = Literal["gp", "ridge", "lightgbm", "auto"]


class WeightSearch:
    """The search of Nemotron-CLIMB (Diao et al. 2025): each round is drawn from what the points so far say is best.

    Half of the candidates are around the prior, as published; half are between the best measured and around them, for
    in twenty domains draws from a prior hardly come near an optimum; and each domain alone is one.

    prior: float64 (d,), shares of the domains that the first draws are made around. `weights_`, `losses_`: what was
    told.
    """

    def __init__(
        self, prior: Floats, caps: Floats | None = None, predictor: PredictorName = "gp", seed: int = 0
    ) -> None:
        self.prior = prior / prior.sum()
        self.caps = np.ones(len(prior)) if caps is None else np.minimum(caps, 1.0)
        if self.caps.sum() < 1:
            raise DselectError("the caps leave no mixture: together they allow less than the whole")
        self.predictor, self.seed = predictor, seed
        self.weights_: Floats = np.zeros((0, len(prior)))
        self.losses_: Floats = np.zeros(0)

    def ask(self, count: int) -> Floats:
        """Return mixtures to try: around the prior at first, then of those that promise the lowest loss."""
        draw = self._draws("ask")
        if len(self.losses_) < 2:
            return first_draws(self.prior, self.caps, count, draw)
        found = self._candidates(draw)
        new = self._new(found[np.argsort(self.fitted().predict(found), kind="stable")], max(count**2, BEST))
        return new[np.sort(draw.permutation(len(new))[:count])]

    def _new(self, best_first: Floats, wanted: int) -> Floats:
        """Return the first so many that differ, once rounded, from each other and from those that were told."""
        seen = {row.tobytes() for row in rounded(self.weights_)}
        read = wanted
        while True:  # rounding all of them would take longer than predicting them
            read *= 4
            found = _different(rounded(best_first[:read]))
            found = found[[row.tobytes() not in seen for row in found]]
            if len(found) >= wanted or read >= len(best_first):
                return found[:wanted]

    def tell(self, tried: Floats, losses: Floats) -> None:
        """Learn what mixtures cost."""
        self.weights_ = np.concatenate([self.weights_, tried])
        self.losses_ = np.concatenate([self.losses_, losses])

    def fitted(self) -> Predictor:
        """Return a predictor fitted to all that was told."""
        name = self.predictor if self.predictor != "auto" else best_predictor(self.weights_, self.losses_)
        return predictors.PREDICTORS[name]().fit(self.weights_, self.losses_)

    def best_measured(self) -> Floats:
        """Return the mixture with the lowest loss of those told: float64 (d,)."""
        return np.asarray(self.weights_[int(self.losses_.argmin())])

    def best_predicted(self) -> Floats:
        """Return the mixture whose loss promises to be low even one deviation above what is expected: float64 (d,).

        Of the best candidates by expectation, and the mean of the 128 best of them, which is RegMix's answer.
        """
        found, fitted = self._candidates(self._draws("best")), self.fitted()
        best = found[np.argsort(fitted.predict(found), kind="stable")[:_SURE]]
        best = _different(rounded(np.concatenate([best[:BEST].mean(axis=0)[None], best])))
        return np.asarray(best[int((fitted.predict(best) + fitted.deviations(best)).argmin())])

    def _candidates(self, draw: np.random.Generator) -> Floats:
        wide = next_draws(self.prior, self.caps, CANDIDATES // 2, draw)
        best = self.weights_[np.argsort(self.losses_, kind="stable")[:_NEAR]]
        near = near_draws(0.95 * best + 0.05 * self.prior, self.caps, CANDIDATES // 2, draw)
        alone = within_caps((np.eye(len(self.prior)) + 1e-3 * self.prior) / (1 + 1e-3), self.caps)[self.prior > 0]
        return np.concatenate([wide, near, alone])

    def _draws(self, purpose: str) -> np.random.Generator:
        key = hashlib.blake2b(f"{self.seed}\0climb {purpose}\0{len(self.losses_)}".encode(), digest_size=16).digest()
        return np.random.Generator(np.random.PCG64(int.from_bytes(key, "little")))


@dataclass
class Trust:
    """How well a predictor ranks points that it was not fitted to."""

    rank_correlation: float | None  # Spearman, None of constant losses
    error: float  # root mean square, in the unit of the losses


def cross_validated(name: predictors.Name, weights: Floats, losses: Floats) -> Trust:
    """Predict every fifth point from the others, five times, and compare; of fewer points than five each alone."""
    folds = np.arange(len(losses)) % min(predictors.FOLDS, len(losses))
    expected = np.empty(len(losses))
    for fold in np.unique(folds):
        out = folds == fold
        expected[out] = predictors.PREDICTORS[name]().fit(weights[~out], losses[~out]).predict(weights[out])
    return Trust(spearman(expected, losses), float(np.sqrt(((expected - losses) ** 2).mean())))


def best_predictor(weights: Floats, losses: Floats) -> predictors.Name:
    """Return the predictor that ranks best in cross-validation; those that are not installed do not stand."""
    found: dict[predictors.Name, float] = {}
    for name in predictors.PREDICTORS:
        try:
            found[name] = cross_validated(name, weights, losses).rank_correlation or 0.0
        except DselectError:  # an extra that is not there
            continue
    return max(found, key=lambda name: found[name])


def first_draws(prior: Floats, caps: Floats, count: int, draw: np.random.Generator) -> Floats:
    """Return mixtures drawn around a prior as Nemotron-CLIMB does: float64 (count, d).

    From Dirichlet(strength · √prior, normalised), the strength one of 15 from 0.1 to 5; rounded, without duplicates, a
    random choice of a hundred times as many. What is above a cap goes to the others (in CLIMB such draws are rejected,
    and with them nearly all that give a small domain any weight).
    """
    around = np.sqrt(prior) / np.sqrt(prior).sum()
    strengths = _STRENGTHS[draw.integers(0, len(_STRENGTHS), _ENOUGH * count)]
    found = _different(rounded(within_caps(dirichlet(around * strengths[:, None], draw), caps)))
    if len(found) < count:
        raise DselectError(
            f"only {len(found)} different mixtures for a round of {count}", way_out="smaller --rounds, or more domains"
        )
    return found[np.sort(draw.permutation(len(found))[:count])]


def next_draws(prior: Floats, caps: Floats, count: int, draw: np.random.Generator) -> Floats:
    """Return `count` mixtures from Dirichlet(prior), whose parameters sum to 1: float64 (count, d)."""
    return within_caps(dirichlet(np.tile(prior, (count, 1)), draw), caps)


def near_draws(best: Floats, caps: Floats, count: int, draw: np.random.Generator) -> Floats:
    """Return `count` mixtures around points between two of the best each, from near to far: float64 (count, d)."""
    one, other = best[draw.integers(0, len(best), (2, count))]
    along = draw.random((count, 1))
    strengths = np.exp(draw.uniform(*_CONCENTRATIONS, (count, 1)))
    return within_caps(dirichlet(strengths * (along * one + (1 - along) * other), draw), caps)


def within_caps(weights: Floats, caps: Floats) -> Floats:
    """Return weights cut to the caps; what is cut goes to the other domains in proportion to their weights.

    Again and again, until none is above its cap; where the others have no weight, in proportion to the room they have.
    """
    found, full = weights.copy(), np.zeros(weights.shape, bool)
    rows = np.flatnonzero((found > caps).any(axis=1))
    while len(rows):
        full[rows] |= found[rows] >= caps
        fixed = np.where(full[rows], caps, 0.0)
        open_ = np.where(full[rows], 0.0, weights[rows])
        left, held = 1 - fixed.sum(axis=1), open_.sum(axis=1)
        found[rows] = fixed + open_ * (left / np.maximum(held, 1e-300))[:, None] * (held > 0)[:, None]
        rows = rows[(found[rows] > caps).any(axis=1)]
    missing = np.maximum(1 - found.sum(axis=1, keepdims=True), 0.0)
    room = np.maximum(caps - found, 0.0)
    return np.asarray(found + room * missing / np.maximum(room.sum(axis=1, keepdims=True), 1e-300))


def _different(weights: Floats) -> Floats:
    """Return every mixture once, in the order of their first appearance."""
    rows = np.ascontiguousarray(weights).view(np.dtype((np.void, weights.shape[1] * 8))).ravel()
    return weights[np.sort(np.unique(rows, return_index=True)[1])]


def dirichlet(alphas: Floats, draw: np.random.Generator) -> Floats:
    """Return one draw a row of parameters: float64 (n, d). By logarithms: tiny parameters give zeros, never NaN."""
    uniform = 1 - draw.random(alphas.shape)  # in (0, 1]
    logs = np.log(draw.standard_gamma(alphas + 1)) + np.log(uniform) / np.maximum(alphas, 1e-300)
    found = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(found / found.sum(axis=1, keepdims=True))


def rounded(weights: Floats) -> Floats:
    """Return weights as multiples of 1/5000 that sum to 1, by largest remainder; those below one become 0."""
    kept = np.where(weights < 1 / UNITS, 0.0, weights)
    exact = kept / kept.sum(axis=1, keepdims=True) * UNITS
    whole = np.floor(exact)
    missing = UNITS - whole.sum(axis=1)
    rank = np.argsort(np.argsort(whole - exact, axis=1, kind="stable"), axis=1, kind="stable")
    return np.asarray((whole + (rank < missing[:, None])) / UNITS)
