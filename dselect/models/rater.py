"""A rater: the score of a text is linear in its n-grams of words, statistics of how it is written, and its vector.

Learnt from pairwise judgments (models.bradley_terry). A text is cut into windows of 512 words; its score is the mean of
theirs, weighted by their words (Wettig et al. 2024, section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from dselect.errors import DselectError, NotFitted
from dselect.kernels.sparse import Rows, add_standardized, beside, count_bags, scaled, score_bags
from dselect.kernels.statistics import dsir_statistics, gopher_statistics, repetition_statistics
from dselect.kernels.style import NAMES, style_statistics
from dselect.kernels.windows import windows
from dselect.kernels.words import unicode_version
from dselect.models import bradley_terry, tables

WINDOW = 512  # words
LONGEST = 2  # words of an n-gram
BUCKETS = 1 << 18
LEAST_WINDOWS = 2  # of what is judged must have an n-gram for it to have a weight
MOST = 4.0  # deviations from the mean that a statistic counts for
FLOOR = 1e-9  # a deviation is not less: what is constant says nothing

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

_GOPHER = ("hash_ratio", "ellipsis_ratio", "bullet_lines", "ellipsis_lines", "alphabetic_words", "stop_words")
_DSIR = ("dsir_top_word", "dsir_other_than_stop_words")
_REPETITION = ("duplicate_lines", "top_2_gram", "top_3_gram", "top_4_gram", "duplicate_5_grams", "duplicate_10_grams")
STATISTICS = (*NAMES, *_GOPHER, *_DSIR, *_REPETITION)


@dataclass(frozen=True)
class Settings:
    """How much the parts of a text weigh, 0 for nothing, and the penalty on the weights."""

    ngrams: float = 1.0
    statistics: float = 0.1
    ridge: float = 1e-4


@dataclass(frozen=True)
class Counted:
    """What is known of texts before anything is learnt: counts and statistics of their windows.

    owner: int64 (windows,), whose each is; share: float64 (windows,), what it counts for.
    """

    bags: Rows
    statistics: Floats
    owner: Ints
    share: Floats
    count: int

    @classmethod
    def of(cls, texts: Sequence[str]) -> Counted:
        """Count."""
        pieces, owner, share = cut(text.encode() for text in texts)
        return cls(count_bags(pieces, LONGEST, BUCKETS), statistics(pieces), owner, share, len(texts))

    def take(self, texts: Ints) -> Counted:
        """Return what is known of some of the texts."""
        place = np.full(self.count, -1, np.int64)
        place[texts] = np.arange(len(texts))
        at = np.flatnonzero(place[self.owner] >= 0)
        return Counted(self.bags.take(at), self.statistics[at], place[self.owner[at]], self.share[at], len(texts))


def cut(texts: Any) -> tuple[list[bytes], Ints, Floats]:
    """Return the windows of texts, whose each is, and what it counts for: its share of the text's words."""
    pieces: list[bytes] = []
    owner: list[int] = []
    share: list[float] = []
    for number, text in enumerate(texts):
        found, words = windows(text, WINDOW)
        pieces += found
        owner += [number] * len(found)
        share += [count / sum(words) for count in words] if len(found) > 1 else [1.0]
    return pieces, np.array(owner, np.int64), np.array(share, np.float64)


def statistics(pieces: Sequence[bytes]) -> Floats:
    """Return the statistics that STATISTICS names: float64 (n, 43)."""
    texts = [piece.decode() for piece in pieces]
    named = {**gopher_statistics(texts), **dsir_statistics(texts), **repetition_statistics(texts)}
    columns = [np.asarray(named[name], np.float64) for name in (*_GOPHER, *_DSIR, *_REPETITION)]
    return np.ascontiguousarray(np.concatenate([style_statistics(pieces), np.stack(columns, axis=1)], axis=1))


@dataclass(frozen=True)
class View:
    """How texts are seen: the idf of n-grams, the mean and deviation of statistics. Learnt without judgments."""

    idf: Floats
    mean: Floats
    deviation: Floats

    @classmethod
    def of(cls, counted: Counted) -> View:
        """Learn it: idf = 1 + ln((1 + windows) / (1 + windows with the n-gram)), 0 where fewer than two have it."""
        having = np.bincount(counted.bags.columns, minlength=BUCKETS)
        idf = np.where(having >= LEAST_WINDOWS, 1 + np.log((1 + len(counted.bags)) / (1 + having)), 0.0)
        mean = counted.statistics.mean(axis=0)
        return cls(idf, mean, np.maximum(counted.statistics.std(axis=0), FLOOR))

    def design(self, counted: Counted, settings: Settings) -> Design:
        """Return texts as this view has them, n-grams before statistics."""
        rows = scaled(counted.bags, self.idf)
        known = np.cumsum(self.idf > 0) - 1  # columns without those of n-grams that nobody has
        rows = replace(
            rows,
            columns=known[rows.columns].astype(np.int32),
            values=rows.values * settings.ngrams,
            width=int(known[-1]) + 1,
        )
        z = np.clip((counted.statistics - self.mean) / self.deviation, -MOST, MOST)
        return Design(beside(rows, z * settings.statistics), counted.owner, counted.share, counted.count)


@dataclass(frozen=True)
class Design:
    """Texts as means of the rows of their windows."""

    rows: Rows
    owner: Ints
    share: Floats
    count: int

    @property
    def width(self) -> int:
        """Return how many weights there are."""
        return self.rows.width

    def __len__(self) -> int:
        return self.count

    def times(self, weights: Floats) -> Floats:
        """Return every text's score: float64 (texts,)."""
        return np.asarray(np.bincount(self.owner, self.share * self.rows.times(weights), self.count), np.float64)

    def transposed_times(self, weights: Floats) -> Floats:
        """Return the sum of the texts' rows, each times its weight."""
        return self.rows.transposed_times(self.share * weights[self.owner])


class LinearRater:
    """Ratings of texts by one or several criteria, in units of log-odds; the mean judged text has 0.

    weights: float64 (buckets, criteria) of n-grams, (statistics, criteria) of statistics; offsets: (criteria,).
    """

    def __init__(self, criteria: Sequence[str]) -> None:
        self.criteria = tuple(criteria)
        self.settings_: tuple[Settings, ...] = ()
        self.view_: View | None = None

    def fit(
        self, counted: Counted, pairs: Sequence[Ints], p: Sequence[Floats], settings: Sequence[Settings]
    ) -> LinearRater:
        """Learn from judgments of these texts: for each criterion pairs, labels and settings."""
        view = View.of(counted)
        known = np.flatnonzero(view.idf > 0)
        count = len(self.criteria)
        self.ngrams_, self.statistics_ = np.zeros((BUCKETS, count)), np.zeros((len(STATISTICS), count))
        self.offsets_ = np.zeros(count)
        for i, (one, label, how) in enumerate(zip(pairs, p, settings, strict=True)):
            design = view.design(counted, how)
            weights = bradley_terry.fit(design, one, label, how.ridge)
            self.ngrams_[known, i] = weights[: len(known)] * how.ngrams
            self.statistics_[:, i] = weights[len(known) :] * how.statistics
            self.offsets_[i] = float(design.times(weights)[np.unique(one)].mean())
        self.view_, self.settings_ = view, tuple(settings)
        return self

    def only(self, criteria: Sequence[str]) -> LinearRater:
        """Return the rater by some of its criteria alone; KeyError for one it does not have."""
        at = [{name: i for i, name in enumerate(self.criteria)}[name] for name in criteria]
        found = LinearRater(criteria)
        found.view_, found.settings_ = self.view_, tuple(self.settings_[i] for i in at)
        found.ngrams_, found.statistics_ = self.ngrams_[:, at].copy(), self.statistics_[:, at].copy()
        found.offsets_ = self.offsets_[at]
        return found

    def rate(self, texts: Sequence[bytes]) -> Floats:
        """Return the rating of every UTF-8 text by each criterion: float64 (n, criteria)."""
        if self.view_ is None:
            raise NotFitted("this rater has not been fitted")
        pieces, owner, share = cut(texts)
        sums = score_bags(pieces, LONGEST, self.view_.idf, self.ngrams_)
        view = self.view_
        add_standardized(statistics(pieces), view.mean, view.deviation, MOST, self.statistics_, sums)
        columns = [
            np.bincount(owner, share * sums[:, i], len(texts)) - self.offsets_[i] for i in range(len(self.criteria))
        ]
        return np.stack(columns, axis=1)

    def to_bytes(self) -> bytes:
        """Return the fitted rater as one safetensors file."""
        if self.view_ is None:
            raise NotFitted("this rater has not been fitted")
        settings = {
            "criteria": list(self.criteria),
            "settings": [asdict(one) for one in self.settings_],
            "unicode": unicode_version(),
        }
        arrays: tables.Arrays = {
            "idf": self.view_.idf,
            "mean": self.view_.mean,
            "deviation": self.view_.deviation,
            "ngrams": self.ngrams_,
            "statistics": self.statistics_,
            "offsets": self.offsets_,
        }
        return tables.to_bytes("qurating", settings, arrays)

    @classmethod
    def load(cls, path: str) -> LinearRater:
        """Read a rater that `to_bytes` wrote; DselectError if it is none."""
        settings, arrays = tables.load(path, "qurating")
        try:
            found = {name: np.ascontiguousarray(arrays[name]) for name in _SHAPES}
            criteria = settings["criteria"]
            sound = isinstance(criteria, list) and all(isinstance(name, str) for name in criteria) and bool(criteria)
            sizes = {"buckets": BUCKETS, "statistics": len(STATISTICS), "criteria": len(criteria)}
            for name, shape in _SHAPES.items():
                sound &= found[name].dtype == np.float64 and found[name].shape == tuple(sizes[side] for side in shape)
                sound &= bool(np.isfinite(found[name]).all())
            rater = cls(criteria)
            rater.settings_ = tuple(Settings(**one) for one in settings["settings"])
        except (KeyError, TypeError) as error:
            raise DselectError(f"not a sound qurating model: {error}", where=path) from error
        if not sound or (found["deviation"] <= 0).any() or (found["idf"] < 0).any():
            raise DselectError("not a sound qurating model", where=path, way_out="fit it again with --save")
        rater.view_ = View(found["idf"], found["mean"], found["deviation"])
        rater.ngrams_, rater.statistics_, rater.offsets_ = found["ngrams"], found["statistics"], found["offsets"]
        return rater


_SHAPES = {
    "idf": ("buckets",),
    "mean": ("statistics",),
    "deviation": ("statistics",),
    "ngrams": ("buckets", "criteria"),
    "statistics": ("statistics", "criteria"),
    "offsets": ("criteria",),
}
