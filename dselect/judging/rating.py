"""Raters learnt from judgments: settings chosen by cross-validation, and how they do on texts they have not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from dselect import draws
from dselect.errors import DselectError
from dselect.judging.judgments import Comparisons, Labels
from dselect.models import bradley_terry
from dselect.models.encoders import Encoder
from dselect.models.neural_rater import NeuralRater, Pairs, Tuning
from dselect.models.rater import Counted, LinearRater, Settings, View
from dselect.records.batch import hashes_of

FOLDS = 5
NEURAL_FOLDS = 10  # of which one is held out
FEW = 30  # judgments that must be held out for them to choose
MOST_TO_CHOOSE = 20_000  # judgments that settings are chosen by: a seeded sample of more
UNKNOWN = 1e-3  # the ridge where nothing tells
NEAR = 3e-3  # how far settings are tried: enough to tell them apart
RIDGES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
PARTS = (  # what a rater may look at, and in which proportion
    Settings(1.0, 0.1),
    Settings(1.0, 0.3),
    Settings(1.0, 0.03),
    Settings(0.0, 0.1),
    Settings(1.0, 0.0),
)
PARTS_WITH_VECTORS = (
    Settings(1.0, 0.1, 0.1),
    Settings(1.0, 0.1, 0.03),
    Settings(1.0, 0.03, 0.1),
    Settings(0.0, 0.1, 0.1),
    *PARTS,
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


def folds_of(comparisons: Comparisons, seed: int, folds: int = FOLDS) -> Ints:
    """Return the fold of every text: int64 (texts,), from 0, drawn by the text.

    Where the graph of comparisons falls into many parts, those that are compared with each other share a fold: so no
    judgment is lost between two.
    """
    parts = bradley_terry.components(len(comparisons.texts), comparisons.pairs)
    keys = hashes_of(text.encode() for text in comparisons.texts)
    if 2 * np.bincount(parts).max(initial=0) < len(keys):
        _, firsts = np.unique(parts, return_index=True)
        keys = keys[firsts][parts]
    return np.asarray((draws.uniform(seed, "rater fold", keys) * folds).astype(np.int64))


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
    ridges: Sequence[float] = RIDGES,
) -> tuple[Settings, HeldOut | None]:
    """Return the settings with the lowest cross-entropy on held-out judgments, and what they predict there.

    Without enough judgments to hold out: the first of `parts` with a ridge of UNKNOWN, and None.
    """
    sample = _sample(comparisons, seed)
    folds = list(split(counted, sample, folds_of(sample, seed)))
    if sum(len(fold.test_p) for fold in folds) < FEW:
        return replace(parts[0], ridge=ridges[0] if len(ridges) == 1 else UNKNOWN), None
    best: tuple[float, Settings, HeldOut] | None = None
    views = [View.of(fold.known) for fold in folds]
    for part in parts:
        designs = [
            (view.design(fold.known, part, own=True), view.design(fold.unseen, part, own=False))
            for view, fold in zip(views, folds, strict=True)
        ]
        weights: list[Floats | None] = [None] * len(folds)
        worse, lowest = 0, np.inf
        for ridge in ridges:  # from stiff to loose, each from the last one's weights, until it has got worse twice
            gaps = []
            for i, (fold, (known, unseen)) in enumerate(zip(folds, designs, strict=True)):
                weights[i] = learnt = bradley_terry.fit(known, fold.pairs, temper(fold.p), ridge, weights[i], NEAR)
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
    """How a rater was learnt by one criterion: from how many judgments, and with which settings."""

    criterion: str
    judgments: int
    used: int
    how: Mapping[str, float]
    held_out: HeldOut | None

    def facts(self) -> dict[str, Any]:
        """Return it for a summary."""
        found: dict[str, Any] = {"judgments": self.judgments, "used": self.used, "settings": dict(self.how)}
        held = self.held_out
        if held is not None:
            found |= {"held_out": len(held.p), "accuracy": held.accuracy, "cross_entropy": held.loss}
            found |= {"calibration_error": held.calibration_error, "calibration": held.calibration()}
        return found


def learn(
    judged: Mapping[str, Comparisons], labels: Labels, ridge: float | None, seed: int, encoder: Encoder | None = None
) -> tuple[LinearRater, list[Learnt]]:
    """Learn a linear rater by every criterion; return it, and how it went.

    ridge: the penalty, in place of the one that cross-validation would choose. encoder: of vectors, if any.
    """
    sure, texts = labels.sure(judged)
    counted = Counted.of(texts, encoder)
    parts = PARTS_WITH_VECTORS if encoder else PARTS
    ridges = RIDGES if ridge is None else (ridge,)
    how, chosen = [], []
    for name, one in sure.items():
        used, pairs = np.unique(one.pairs, return_inverse=True)
        own = Comparisons([texts[i] for i in used.tolist()], pairs.reshape(-1, 2), one.p)
        settings, held = choose(counted.take(used), own, seed, labels.temper, parts, ridges)
        chosen.append(settings)
        how.append(Learnt(name, len(judged[name].p), len(one.p), asdict(settings), held))
    rater = LinearRater(list(sure), encoder)
    pairs_of, p_of = [one.pairs for one in sure.values()], [labels.temper(one.p) for one in sure.values()]
    return rater.fit(counted, pairs_of, p_of, chosen), how


def tune(judged: Mapping[str, Comparisons], labels: Labels, path: str, how: Tuning) -> tuple[NeuralRater, list[Learnt]]:
    """Fine-tune a transformer on the judgments of all criteria together; return it, and how it did on held-out ones.

    A tenth of the texts is held out, and stays out: judgments between two of them are tried, those of one are not used.
    """
    sure, texts = labels.sure(judged)
    everything = Comparisons(
        texts, np.concatenate([one.pairs for one in sure.values()]), np.concatenate([one.p for one in sure.values()])
    )
    criteria = np.repeat(np.arange(len(sure)), [len(one.p) for one in sure.values()])
    outside = folds_of(everything, how.seed, NEURAL_FOLDS)[everything.pairs] == 0
    train, test = ~outside.any(axis=1), outside.all(axis=1)
    if not train.any():
        raise DselectError("too few judgments to fine-tune on", way_out="judge more pairs")
    rater = NeuralRater.of(path, list(sure), how.seed)
    rater.fit(texts, Pairs(everything.pairs[train], criteria[train], labels.temper(everything.p[train])), how)
    rater.centre([texts[i] for i in np.unique(everything.pairs[train]).tolist()])
    tried, pairs = np.unique(everything.pairs[test], return_inverse=True)
    pairs = pairs.reshape(-1, 2)
    scores = rater.rate([texts[i].encode() for i in tried.tolist()]) if len(tried) else np.zeros((0, len(sure)))
    found = []
    for number, name in enumerate(sure):
        at = criteria[test] == number
        gaps = scores[pairs[at, 1], number] - scores[pairs[at, 0], number]
        held = HeldOut(gaps, everything.p[test][at]) if at.any() else None
        used = int((criteria[train] == number).sum())
        facts = {"epochs": how.epochs, "rate": how.rate, "batch": how.batch}
        found.append(Learnt(name, len(judged[name].p), used, facts, held))
    return rater, found
