"""Raters learnt from judgments: settings chosen by cross-validation, and how they do on texts they have not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dselect import draws
from dselect.judgments import Comparisons
from dselect.models import bradley_terry
from dselect.models.rater import Counted, LinearRater, Settings, View
from dselect.records.batch import hashes_of

FOLDS = 5
FEW = 30  # judgments that must be held out for them to choose
MOST_TO_CHOOSE = 20_000  # judgments that settings are chosen by: a seeded sample of more
RIDGES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
PARTS = (  # what a rater may look at, and in which proportion
    Settings(1.0, 0.1),
    Settings(1.0, 0.3),
    Settings(1.0, 0.03),
    Settings(0.0, 0.1),
    Settings(1.0, 0.0),
)

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass
class HeldOut:
    """Predictions for judgments whose texts were not learnt from: gaps of scores, b above a, and labels."""

    gaps: Floats = field(default_factory=lambda: np.zeros(0))
    p: Floats = field(default_factory=lambda: np.zeros(0))

    @property
    def loss(self) -> float:
        """Return the mean cross-entropy, in nats."""
        return bradley_terry.cross_entropy(self.gaps, self.p)

    @property
    def accuracy(self) -> float | None:
        """Return how often the text is predicted that was preferred, ties half; None where all labels are 1/2."""
        decided = self.p != 0.5
        if not decided.any():
            return None
        agrees = np.sign(self.gaps[decided]) * np.sign(self.p[decided] - 0.5)
        return float((1 + agrees).mean() / 2)

    def calibration(self) -> list[tuple[float, float, int]]:
        """Return, for five bins of P(the predicted text is the better), its mean, the mean label, and how many."""
        turned = self.gaps < 0
        predicted = bradley_terry.logistic(np.abs(self.gaps))
        label = np.where(turned, 1 - self.p, self.p)
        bins = np.minimum(((predicted - 0.5) * 10).astype(int), 4)
        return [
            (float(predicted[at].mean()), float(label[at].mean()), int(at.sum()))
            for at in (bins == b for b in range(5))
            if at.any()
        ]

    @property
    def calibration_error(self) -> float:
        """Return the mean gap between the two, over the bins weighted by what is in them."""
        bins = self.calibration()
        return sum(abs(predicted - observed) * count for predicted, observed, count in bins) / max(len(self.p), 1)


def folds_of(comparisons: Comparisons, seed: int) -> Ints:
    """Return the fold of every text: int64 (texts,), 0 to 4, drawn by the text.

    Where the graph of comparisons falls into many parts, those that are compared with each other share a fold: so no
    judgment is lost between two.
    """
    parts = bradley_terry.components(len(comparisons.texts), comparisons.pairs)
    keys = hashes_of(text.encode() for text in comparisons.texts)
    if 2 * np.bincount(parts).max(initial=0) < len(keys):
        _, firsts = np.unique(parts, return_index=True)
        keys = keys[firsts][parts]
    return np.asarray((draws.uniform(seed, "rater fold", keys) * FOLDS).astype(np.int64))


@dataclass(frozen=True)
class Fold:
    """Texts and judgments to learn from, and judgments of other texts to try it on."""

    known: Counted
    pairs: Ints
    p: Floats
    unseen: Counted
    test_pairs: Ints
    test_p: Floats


def split(counted: Counted, comparisons: Comparisons, folds: Ints) -> Iterator[Fold]:
    """Yield the folds; a judgment of texts of two folds is in neither part of both."""
    sides = folds[comparisons.pairs]
    for number in range(FOLDS):
        test, train = (sides == number).all(axis=1), (sides != number).all(axis=1)
        if test.any() and train.any():
            known, pairs = np.unique(comparisons.pairs[train], return_inverse=True)
            unseen, test_pairs = np.unique(comparisons.pairs[test], return_inverse=True)
            yield Fold(
                counted.take(known), pairs.reshape(-1, 2), comparisons.p[train],
                counted.take(unseen), test_pairs.reshape(-1, 2), comparisons.p[test],
            )  # fmt: skip


def choose(
    counted: Counted,
    comparisons: Comparisons,
    seed: int,
    temper: Callable[[Floats], Floats] = lambda p: p,
    parts: Sequence[Settings] = PARTS,
) -> tuple[Settings, HeldOut | None]:
    """Return the settings with the lowest cross-entropy on held-out judgments, and what they predict there.

    Without enough judgments to hold out: the first of `parts` with a ridge of 1e-3, and None.
    """
    sample = _sample(comparisons, seed)
    folds = list(split(counted, sample, folds_of(sample, seed)))
    if sum(len(fold.test_p) for fold in folds) < FEW:
        return replace(parts[0], ridge=1e-3), None
    best: tuple[float, Settings, HeldOut] | None = None
    views = [View.of(fold.known) for fold in folds]
    for part in parts:
        designs = [
            (view.design(fold.known, part), view.design(fold.unseen, part))
            for view, fold in zip(views, folds, strict=True)
        ]
        weights: list[Floats | None] = [None] * len(folds)
        worse, lowest = 0, np.inf
        for ridge in RIDGES:  # from stiff to loose, each from the last one's weights, until it has got worse twice
            gaps = []
            for i, (fold, (known, unseen)) in enumerate(zip(folds, designs, strict=True)):
                weights[i] = learnt = bradley_terry.fit(known, fold.pairs, temper(fold.p), ridge, weights[i])
                scores = unseen.times(learnt)
                gaps.append(scores[fold.test_pairs[:, 1]] - scores[fold.test_pairs[:, 0]])
            held = HeldOut(np.concatenate(gaps), np.concatenate([fold.test_p for fold in folds]))
            if best is None or held.loss < best[0]:
                best = held.loss, replace(part, ridge=ridge), held
            worse = worse + 1 if held.loss >= lowest else 0
            lowest = min(lowest, held.loss)
            if worse == 2:
                break
    assert best is not None
    return best[1], best[2]


def _sample(comparisons: Comparisons, seed: int) -> Comparisons:
    """Return the judgments to choose by, all of them or those with the lowest draws."""
    if len(comparisons.p) <= MOST_TO_CHOOSE:
        return comparisons
    keys = hashes_of(text.encode() for text in comparisons.texts)
    both = keys[comparisons.pairs[:, 0]] * np.uint64(0x9E3779B97F4A7C15) ^ keys[comparisons.pairs[:, 1]]
    kept = np.sort(np.argsort(draws.uniform(seed, "rater", both), kind="stable")[:MOST_TO_CHOOSE])
    return replace(comparisons, pairs=comparisons.pairs[kept], p=comparisons.p[kept])


@dataclass(frozen=True)
class Learnt:
    """How a rater was learnt by one criterion."""

    criterion: str
    judgments: int
    used: int
    settings: Settings
    held_out: HeldOut | None

    def facts(self) -> dict[str, Any]:
        """Return it for a summary."""
        found: dict[str, Any] = {
            "judgments": self.judgments,
            "used": self.used,
            "ngrams": self.settings.ngrams,
            "statistics": self.settings.statistics,
            "ridge": self.settings.ridge,
        }
        held = self.held_out
        if held is not None:
            found |= {"held_out": len(held.p), "accuracy": held.accuracy, "cross_entropy": held.loss}
            found |= {"calibration_error": held.calibration_error, "calibration": held.calibration()}
        return found


def learn(
    judged: dict[str, Comparisons], confidence: float, temperature: float, ridge: float | None, seed: int
) -> tuple[LinearRater, list[Learnt]]:
    """Learn a rater by every criterion; return it, and how it went.

    confidence: judgments with |p - 1/2| < confidence / 2 are left out. temperature: what log-odds of labels are divided
    by. ridge: the penalty, in place of the one that cross-validation would choose.
    """
    kept = {name: one.confident(confidence) for name, one in judged.items()}
    texts = sorted({text for one in kept.values() for text in one.texts})
    place = {text: at for at, text in enumerate(texts)}
    counted = Counted.of(texts)
    how, pairs, labels = [], [], []

    def temper(p: Floats) -> Floats:
        return bradley_terry.tempered(p, temperature)

    for name, one in kept.items():
        at = np.array([place[text] for text in one.texts], np.int64)
        settings, held = choose(counted.take(at), one, seed, temper)
        if ridge is not None:
            settings = replace(settings, ridge=ridge)
        how.append(Learnt(name, len(judged[name].p), len(one.p), settings, held))
        pairs.append(at[one.pairs])
        labels.append(temper(one.p))
    rater = LinearRater(list(kept)).fit(counted, pairs, labels, [one.settings for one in how])
    return rater, how
