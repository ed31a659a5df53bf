"""A rater: the score of a text is linear in its n-grams of words, statistics of how it is written, and a vector.

Learnt from pairwise judgments (models.bradley_terry). A text is cut into windows of 512 words; its score is the mean of
theirs, weighted by their words (Wettig et al. 2024, section 3.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from dselect.errors import DselectError, NotFitted
from dselect.kernels.repetition import repetition_statistics
from dselect.kernels.sparse import (
    TOGETHER,
    Counts,
    Rows,
    add_standardized,
    beside,
    commonness,
    count_bags,
    scaled,
    score_bags,
)
from dselect.kernels.statistics import dsir_statistics, gopher_statistics
from dselect.kernels.style import NAMES, style_statistics
from dselect.kernels.windows import windows
from dselect.kernels.words import unicode_version
from dselect.models import bradley_terry, tables
from dselect.models.encoders import Encoder, from_file
from dselect.models.sentences import SentenceSettings

WINDOW = 512  # words
LONGEST = 2  # words of an n-gram
BUCKETS = 1 << 18
LEAST_WINDOWS = 2  # of what is judged must have an n-gram for it to have a weight
SHRINK = 30  # words of the mean judged text that stand beside every text: a short one cannot win by luck
MOST = 4.0  # deviations from the mean that a statistic counts for
FLOOR = 1e-9  # a deviation is not less: what is constant says nothing
LARGEST = 1e12  # number in a sound file: products of two are numbers still

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

# None of them is the length of a text or the variety of its words, which falls with length: what was judged is of one
# length as a rule, and what is scored is not.
_GOPHER = ("hash_ratio", "ellipsis_ratio", "bullet_lines", "ellipsis_lines", "alphabetic_words")
_DSIR = ("dsir_top_word", "dsir_other_than_stop_words")
_REPETITION = ("duplicate_lines", "top_2_gram", "top_3_gram", "top_4_gram", "duplicate_5_grams", "duplicate_10_grams")
STATISTICS = (*NAMES, *_GOPHER, *_DSIR, *_REPETITION)
STEPS = (0, 2, 8, 30)  # a word is rare if at most so many other windows have it
COMMONNESS = ("log windows with the word", "the same of distinct words", *(f"words in {n} windows" for n in STEPS))
DENSE = len(STATISTICS) + len(COMMONNESS)  # columns before those of vectors


@dataclass(frozen=True)
class Settings:
    """How much the parts of a text weigh, 0 for nothing, and the penalty on the weights."""

    ngrams: float = 1.0
    statistics: float = 0.1
    vectors: float = 0.0
    ridge: float = 1e-4

    def scales(self, width: int) -> Floats:
        """Return what dense columns are multiplied by, those of statistics and then of vectors: float64 (width,)."""
        return np.where(np.arange(width) < DENSE, self.statistics, self.vectors)


@dataclass(frozen=True)
class Counted:
    """What is known of texts before anything is learnt: n-grams and words of their windows, and dense columns.

    statistics: float64 (windows, 37); vectors: float64 (windows, d), d is 0 without an encoder.
    owner: int64 (windows,), whose each is; share: float64 (windows,), what it counts for; sizes: int64 (texts,), words.
    """

    bags: Rows
    words: Rows
    statistics: Floats
    vectors: Floats
    owner: Ints
    share: Floats
    sizes: Ints

    @classmethod
    def of(cls, texts: Sequence[str], encoder: Encoder | None = None) -> Counted:
        """Count, and encode."""
        pieces, owner, share, sizes = cut(text.encode() for text in texts)
        bags, words = count_bags(pieces, LONGEST, BUCKETS), count_bags(pieces, 1, BUCKETS)
        return cls(bags, words, statistics(pieces), _vectors(pieces, encoder), owner, share, sizes)

    def take(self, texts: Ints) -> Counted:
        """Return what is known of some of the texts."""
        place = np.full(len(self.sizes), -1, np.int64)
        place[texts] = np.arange(len(texts))
        at = np.flatnonzero(place[self.owner] >= 0)
        return Counted(
            self.bags.take(at), self.words.take(at), self.statistics[at], self.vectors[at],
            place[self.owner[at]], self.share[at], self.sizes[texts],
        )  # fmt: skip


def cut(texts: Iterable[bytes]) -> tuple[list[bytes], Ints, Floats, Ints]:
    """Return the windows of texts, whose each is, its share of the text's words, and how many words each text has."""
    pieces: list[bytes] = []
    owner: list[int] = []
    share: list[float] = []
    sizes: list[int] = []
    for number, text in enumerate(texts):
        found, words = windows(text, WINDOW)
        pieces += found
        owner += [number] * len(found)
        sizes.append(sum(words))
        share += [count / sizes[-1] for count in words] if len(found) > 1 else [1.0]
    return pieces, np.array(owner, np.int64), np.array(share, np.float64), np.array(sizes, np.int64)


def statistics(pieces: Sequence[bytes]) -> Floats:
    """Return the statistics that STATISTICS names: float64 (n, 37)."""
    texts = [piece.decode() for piece in pieces]
    named = {**gopher_statistics(texts), **dsir_statistics(texts), **repetition_statistics(texts)}
    columns = [np.asarray(named[name], np.float64) for name in (*_GOPHER, *_DSIR, *_REPETITION)]
    return np.ascontiguousarray(np.concatenate([style_statistics(pieces), np.stack(columns, axis=1)], axis=1))


def _vectors(pieces: Sequence[bytes], encoder: Encoder | None) -> Floats:
    """Return the vectors of an encoder: float64 (n, d)."""
    return np.zeros((len(pieces), 0)) if encoder is None else encoder.encode(pieces).astype(np.float64)


@dataclass(frozen=True)
class View:
    """How texts are seen: learnt from texts without judgments.

    idf: float64 (buckets,) of n-grams; having: uint32 (buckets,), in how many windows each word is; mean and deviation:
    float64 (43 + d,), of dense columns: statistics, how common the words are, and vectors. centre: float64, the mean
    row of what it was learnt from, n-grams before dense columns; nothing where it was read from a file.
    """

    idf: Floats
    having: Counts
    mean: Floats
    deviation: Floats
    centre: Floats = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def of(cls, counted: Counted) -> View:
        """Learn it: idf = 1 + ln((1 + windows) / (1 + windows with the n-gram)), 0 where fewer than two have it."""
        having = np.bincount(counted.bags.columns, minlength=BUCKETS)
        idf = np.where(having >= LEAST_WINDOWS, 1 + np.log((1 + len(counted.bags)) / (1 + having)), 0.0)
        words = np.bincount(counted.words.columns, minlength=BUCKETS).astype(np.uint32)
        found = cls(idf, words, np.zeros(0), np.zeros(0))
        dense = found.dense(counted, own=True)
        found = replace(found, mean=dense.mean(axis=0), deviation=np.maximum(dense.std(axis=0), FLOOR))
        rows = found.rows(counted, Settings(1.0, 1.0, 1.0), own=True)
        return replace(found, centre=rows.transposed_times(np.full(len(rows), 1 / max(len(rows), 1))))

    def dense(self, counted: Counted, *, own: bool) -> Floats:
        """Return the dense columns of windows: float64 (windows, 43 + d). own: it was learnt from these."""
        common = commonness(counted.words, self.having, STEPS, own=own)
        return np.ascontiguousarray(np.concatenate([counted.statistics, common, counted.vectors], axis=1))

    def rows(self, counted: Counted, settings: Settings, *, own: bool) -> Rows:
        """Return windows as this view has them, n-grams before dense columns, weighted by the settings."""
        rows = scaled(counted.bags, self.idf)
        known = np.cumsum(self.idf > 0) - 1  # columns without those of n-grams that nobody has
        rows = replace(
            rows,
            columns=known[rows.columns].astype(np.int32),
            values=rows.values * settings.ngrams,
            width=int(known[-1]) + 1,
        )
        z = np.clip((self.dense(counted, own=own) - self.mean) / self.deviation, -MOST, MOST)
        return beside(rows, z * settings.scales(z.shape[1]))

    def design(self, counted: Counted, settings: Settings, *, own: bool) -> Design:
        """Return texts as this view has them. own: it was learnt from these."""
        rows = self.rows(counted, settings, own=own)
        width = len(self.mean)
        scales = np.concatenate([np.full(rows.width - width, settings.ngrams), settings.scales(width)])
        return Design(rows, self.centre * scales, counted.owner, counted.share, certainty(counted.sizes))


def certainty(sizes: Ints) -> Floats:
    """Return what the ratings of texts of so many words are multiplied by: float64 (n,), n / (n + 30)."""
    return np.asarray(sizes / (sizes + SHRINK))


@dataclass(frozen=True)
class Design:
    """Texts as means of the rows of their windows, less the mean row of all, the more certain the longer they are."""

    rows: Rows
    centre: Floats
    owner: Ints
    share: Floats
    certainty: Floats

    @property
    def width(self) -> int:
        """Return how many weights there are."""
        return self.rows.width

    def __len__(self) -> int:
        return len(self.certainty)

    def times(self, weights: Floats) -> Floats:
        """Return every text's score: float64 (texts,)."""
        scores = np.bincount(self.owner, self.share * self.rows.times(weights), len(self))
        return np.asarray(self.certainty * (scores - (self.centre * weights).sum()))

    def transposed_times(self, weights: Floats) -> Floats:
        """Return the sum of the texts' rows, each times its weight."""
        sure = self.certainty * weights
        return np.asarray(self.rows.transposed_times(self.share * sure[self.owner]) - self.centre * sure.sum())


class LinearRater:
    """Ratings of texts by one or several criteria, in log-odds; what is like the mean judged text has 0.

    encoder: what makes vectors of windows; None for none. `ngrams_`, float64 (buckets, criteria), and `dense_`, float64
    (43 + d, criteria), are weights; `offsets_`, (criteria,), is what is subtracted.
    """

    def __init__(self, criteria: Sequence[str], encoder: Encoder | None = None) -> None:
        self.criteria, self.encoder = tuple(criteria), encoder
        self.settings_: tuple[Settings, ...] = ()
        self.view_: View | None = None

    def fit(
        self, counted: Counted, pairs: Sequence[Ints], p: Sequence[Floats], settings: Sequence[Settings]
    ) -> LinearRater:
        """Learn from judgments of these texts: for each criterion pairs, labels and settings."""
        view = View.of(counted)
        known = np.flatnonzero(view.idf > 0)
        count = len(self.criteria)
        width = len(view.mean)
        self.ngrams_, self.dense_ = np.zeros((BUCKETS, count)), np.zeros((width, count))
        self.offsets_ = np.zeros(count)
        for i, (one, label, how) in enumerate(zip(pairs, p, settings, strict=True)):
            design = view.design(counted, how, own=True)
            weights = bradley_terry.fit(design, one, label, how.ridge)
            self.ngrams_[known, i] = weights[: len(known)] * how.ngrams
            self.dense_[:, i] = weights[len(known) :] * how.scales(width)
            self.offsets_[i] = float((design.centre * weights).sum())
        self.view_, self.settings_ = view, tuple(settings)
        return self

    def only(self, criteria: Sequence[str]) -> LinearRater:
        """Return the rater by some of its criteria alone; KeyError for one it does not have."""
        at = [{name: i for i, name in enumerate(self.criteria)}[name] for name in criteria]
        found = LinearRater(criteria, self.encoder)
        found.view_, found.settings_ = self.view_, tuple(self.settings_[i] for i in at)
        found.ngrams_, found.dense_ = self.ngrams_[:, at].copy(), self.dense_[:, at].copy()
        found.offsets_ = self.offsets_[at]
        return found

    def rate(self, texts: Sequence[bytes]) -> Floats:
        """Return the rating of every UTF-8 text by each criterion: float64 (n, criteria)."""
        if self.view_ is None:
            raise NotFitted("this rater has not been fitted")
        view = self.view_
        pieces, owner, share, sizes = cut(texts)
        sums = np.zeros((len(pieces), len(self.criteria)))
        for start in range(0, len(pieces), TOGETHER):
            few = pieces[start : start + TOGETHER]
            sums[start : start + TOGETHER] = score_bags(few, LONGEST, view.idf, self.ngrams_)
            common = commonness(count_bags(few, 1, BUCKETS), view.having, STEPS, own=False)
            dense = np.ascontiguousarray(np.concatenate([statistics(few), common, _vectors(few, self.encoder)], axis=1))
            add_standardized(dense, view.mean, view.deviation, MOST, self.dense_, sums[start : start + TOGETHER])
        columns = [np.bincount(owner, share * column, len(texts)) for column in sums.T]
        rated = (np.stack(columns, axis=1) - self.offsets_) * certainty(sizes)[:, None]
        return np.asarray(rated + 0.0)  # no -0.0

    def to_bytes(self) -> bytes:
        """Return the fitted rater as one safetensors file."""
        if self.view_ is None:
            raise NotFitted("this rater has not been fitted")
        settings = {
            "rater": "linear",
            "criteria": list(self.criteria),
            "settings": [asdict(one) for one in self.settings_],
            "encoder": self.encoder and self.encoder.settings(),
            "unicode": unicode_version(),
        }
        arrays: dict[str, np.ndarray[Any, Any]] = {
            "idf": self.view_.idf,
            "having": self.view_.having,
            "mean": self.view_.mean,
            "deviation": self.view_.deviation,
            "ngrams": self.ngrams_,
            "dense": self.dense_,
            "offsets": self.offsets_,
        }
        if self.encoder:
            arrays |= {f"{_ENCODER}{name}": array for name, array in self.encoder.arrays().items()}
        return tables.to_bytes("qurating", settings, arrays)

    @property
    def alone(self) -> bool:
        """Tell whether one process is enough for it."""
        return bool(self.encoder and self.encoder.alone)

    @classmethod
    def from_file(
        cls, settings: Mapping[str, Any], arrays: tables.Arrays, path: str, how: SentenceSettings
    ) -> LinearRater:
        """Return the rater that a file holds, its encoder computing as `how` says; DselectError if it is not sound."""
        own = {name.removeprefix(_ENCODER): array for name, array in arrays.items() if name.startswith(_ENCODER)}
        try:
            found = {name: np.ascontiguousarray(arrays[name]) for name in _SHAPES}
            criteria = settings["criteria"]
            sound = isinstance(criteria, list) and all(isinstance(name, str) for name in criteria) and bool(criteria)
            encoder = from_file(settings["encoder"], own, path, how) if settings["encoder"] else None
            width = DENSE + (encoder.dimension if encoder else 0)
            sizes = {"buckets": BUCKETS, "dense": width, "criteria": len(criteria)}
            for name, shape in _SHAPES.items():
                kind = np.uint32 if name == "having" else np.float64
                sound &= found[name].dtype == kind and found[name].shape == tuple(sizes[side] for side in shape)
                sound &= bool((np.abs(found[name]) <= LARGEST).all())
            rater = cls(criteria, encoder)
            rater.settings_ = tuple(Settings(**one) for one in settings["settings"])
        except (KeyError, TypeError, AttributeError) as error:
            raise DselectError(f"not a sound qurating model: {error}", where=path) from error
        if not sound or (found["deviation"] < FLOOR).any() or (found["idf"] < 0).any():
            raise DselectError("not a sound qurating model", where=path, way_out="fit it again with --save")
        rater.view_ = View(found["idf"], found["having"], found["mean"], found["deviation"])
        rater.ngrams_, rater.dense_, rater.offsets_ = found["ngrams"], found["dense"], found["offsets"]
        return rater


_ENCODER = "encoder "  # what the names of its arrays begin with
_SHAPES = {
    "idf": ("buckets",),
    "having": ("buckets",),
    "mean": ("dense",),
    "deviation": ("dense",),
    "ngrams": ("buckets", "criteria"),
    "dense": ("dense", "criteria"),
    "offsets": ("criteria",),
}
