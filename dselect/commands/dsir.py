"""Score records by importance weight towards a target (DSIR)."""
# Xie, Santurkar, Ma, Liang 2023, "Data Selection for Language Models via Importance Resampling" (NeurIPS).
# The log ratio of hashed n-gram frequencies, target over pool, of every n-gram of a text.
# Differs from the paper's code: a text's score is the mean per n-gram, shrunk towards the pool's mean (--length sum for
# theirs, which mostly measures length); the target is smoothed towards the pool (--smoothing 0 for theirs; --prior
# uniform for the Laplace smoothing of their later code, which prefers gibberish when the target is small); draws are
# seeded.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from dselect import draws
from dselect.choice import Choice, choose
from dselect.console import Run
from dselect.errors import DselectError, NotFitted, UsageError
from dselect.models import tables
from dselect.options import (
    ChoiceOptions,
    Length,
    Option,
    OutputOptions,
    Overwrite,
    PoolOptions,
    RunOptions,
    Targets,
)
from dselect.pipeline import Columns, Fields, Kind, annotate, gather, select_scored
from dselect.pool import Pool
from dselect.records.batch import Batch
from dselect.records.writing import TemporaryFile, write_all
from dselect.selection import Budget

FLOOR = 1e-8  # added to probabilities, as in the paper's code: an n-gram never seen costs a finite amount
SHRINK = 30  # n-grams of the pool's mean mixed into every text: a short one cannot win by luck

Counts = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]


class Dsir:
    """Importance weights by hashed n-grams (Xie et al. 2023, section 3).

    With p the bucket frequencies, δ_b = ln(p_target(b) + 1e-8) - ln(p_pool(b) + 1e-8). The published weight of a text
    is the sum of δ over its m n-grams; `length="mean"` gives (Σδ + 30 μ) / (m + 30), μ = Σ_b p_pool(b) δ_b the mean of
    the pool: nats per n-gram; a text without words gets μ.

    The target's T n-grams are smoothed by α B pseudo-counts, distributed evenly (Laplace) or as the pool is. In the
    latter case the pool's frequencies are add-one smoothed, so that a bucket seen in neither has δ = ln(αB / (T + αB)),
    never a bonus. Columns of `log_ratio_` are targets: float64 (buckets, targets).
    """

    def __init__(
        self,
        ngrams: int = 2,
        buckets: int = 10_000,
        smoothing: float = 1.0,
        prior: Literal["pool", "uniform"] = "pool",
        length: Literal["mean", "sum"] = "mean",
        min_words: int = 0,
        names: Sequence[str] = ("dsir",),
    ) -> None:
        self.ngrams, self.buckets, self.smoothing, self.prior = ngrams, buckets, smoothing, prior
        self.length, self.min_words, self.names = length, min_words, tuple(names)
        self.log_ratio_: Floats | None = None
        self.pool_mean_: Floats | None = None

    @property
    def fields(self) -> Mapping[str, Kind]:
        """One score a target."""
        return dict.fromkeys(self.names, "score")

    def fit(self, targets: Sequence[Counts], pool: Counts) -> Dsir:
        """Learn the log ratios from bucket counts, int64 (buckets,): one array a target, one for the pool."""
        frequencies = pool / max(int(pool.sum()), 1)
        if self.prior == "pool" and self.smoothing:
            p_pool = (pool + 1) / (int(pool.sum()) + self.buckets)
            pseudo = self.smoothing * self.buckets * p_pool
        else:
            p_pool = frequencies
            pseudo = np.full(self.buckets, self.smoothing)
        ratios = []
        for counts in targets:
            total = int(counts.sum())
            if not total:
                raise DselectError("the target has no words", way_out="see --text and --target")
            p_target = (counts + pseudo) / (total + self.smoothing * self.buckets)
            ratios.append(np.log(p_target + FLOOR) - np.log(p_pool + FLOOR))
        self.log_ratio_ = np.ascontiguousarray(np.stack(ratios, axis=1))
        self.pool_mean_ = np.array([float((frequencies * ratio).sum()) for ratio in ratios])
        return self

    def score(self, batch: Batch) -> Mapping[str, Floats]:
        """Return the score of every text towards each target: float64 (n,) a field; NaN below `min_words`."""
        from dselect.kernels.ngrams import score_ngrams

        if self.log_ratio_ is None or self.pool_mean_ is None:
            raise NotFitted("this dsir model has not been fitted")
        sums, grams, words = score_ngrams(batch.texts, self.ngrams, self.log_ratio_)
        if self.length == "mean":
            sums = (sums + SHRINK * self.pool_mean_) / (grams[:, None] + SHRINK)
        sums[words < self.min_words] = np.nan
        return {name: np.ascontiguousarray(sums[:, i]) for i, name in enumerate(self.names)}

    def to_bytes(self) -> bytes:
        """Return the fitted model as one safetensors file."""
        if self.log_ratio_ is None or self.pool_mean_ is None:
            raise NotFitted("this dsir model has not been fitted")
        from dselect.kernels.words import unicode_version

        settings = {
            "ngrams": self.ngrams,
            "length": self.length,
            "min_words": self.min_words,
            "names": list(self.names),
            "smoothing": self.smoothing,
            "prior": self.prior,
            "unicode": unicode_version(),
        }
        return tables.to_bytes("dsir", settings, {"log_ratio": self.log_ratio_, "pool_mean": self.pool_mean_})

    @classmethod
    def load(cls, path: str) -> Dsir:
        """Read a model that `to_bytes` wrote; DselectError if it is none."""
        settings, arrays = tables.load(path, "dsir")
        settings.pop("unicode", None)
        try:
            ratio, mean = arrays["log_ratio"], arrays["pool_mean"]
            model = cls(buckets=len(ratio), **settings)
            sound = (
                ratio.dtype == mean.dtype == np.float64
                and ratio.shape == (len(ratio), len(model.names))
                and mean.shape == (len(model.names),)
                and 0 < len(ratio) < 2**32
                and 1 <= model.ngrams <= 64
                and model.length in ("mean", "sum")
                and np.isfinite(ratio).all()
                and np.isfinite(mean).all()
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DselectError(f"not a sound dsir model: {error}", where=path) from error
        if not sound:
            raise DselectError("not a sound dsir model", where=path, way_out="fit it again with --save")
        model.log_ratio_, model.pool_mean_ = np.ascontiguousarray(ratio), mean
        return model


@dataclass(frozen=True)
class CountNgrams:
    """Bucket counts of a block, of all its records or of a seeded sample: the work of the fitting pass."""

    ngrams: int
    buckets: int
    sample: Sample | None = None

    def __call__(self, batch: Batch) -> tuple[Counts, Counts]:
        """Return the buckets that occur, int64 (k,), and how often."""
        from dselect.kernels.ngrams import count_ngrams

        texts = batch.texts
        if self.sample:
            texts = [texts[i] for i in self.sample.of(batch).tolist()]
        counts = np.zeros(self.buckets, np.int64)
        count_ngrams(texts, self.ngrams, counts)
        found = np.flatnonzero(counts)
        return found, counts[found]


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


def fit(
    model: Dsir,
    targets: Sequence[Pool],
    pool: Pool,
    fit_on: Budget | None,
    separate: bool,
    seed: int,
    tokens: str | None,
) -> Dsir:
    """Count the targets and the pool, or a sample of it, and fit the model."""
    counts = [_count(target, CountNgrams(model.ngrams, model.buckets), "target") for target in targets]
    for target, count in zip(targets, counts, strict=True):
        if not count.any():
            raise DselectError("the target has no words", where=target.sources[0].name)
    if not separate:
        counts = [np.sum(counts, axis=0)]
    work = CountNgrams(model.ngrams, model.buckets)
    if fit_on:
        sample = draw_sample(pool, fit_on, seed, tokens)
        if sample is None:
            raise DselectError(
                f"--fit-on {fit_on.text} holds no record of this pool", way_out="a larger sample, or all"
            )
        work = replace(work, sample=sample)
    return model.fit(counts, _count(pool, work, "fitting"))


def _count(pool: Pool, work: CountNgrams, what: str) -> Counts:
    counts = np.zeros(work.buckets, np.int64)
    for _, (buckets, occurrences) in pool.map(work, what):
        counts[buckets] += occurrences
    return counts


def command(
    pool: PoolOptions,
    output: OutputOptions,
    choice: ChoiceOptions,
    run: RunOptions,
    target: Targets = None,
    model: Annotated[
        str | None, Option(metavar="FILE", help="Score with a fitted model instead of fitting one.")
    ] = None,
    save: Annotated[
        str | None, Option(metavar="FILE", help="Save the fitted model. Without -o or --keep, fit and stop.")
    ] = None,
    separate: Annotated[
        bool, Option("--separate", help="One field a target, dsir_NAME, instead of one for all.")
    ] = False,
    fit_on: Annotated[
        str, Option(metavar="all|SIZE", help="What of the pool to fit on: a seeded sample of this size.")
    ] = "all",
    ngrams: Annotated[int, Option(help="Longest n-gram.", min=1, max=64)] = 2,
    buckets: Annotated[int, Option(help="Hash buckets.", min=1, max=2**32 - 1)] = 10_000,
    smoothing: Annotated[
        float, Option(help="Pseudo-counts added to the target, a bucket on average; 0 for the paper's.", min=0)
    ] = 1.0,
    prior: Annotated[
        Literal["pool", "uniform"],
        Option(help="How pseudo-counts are distributed: as the pool is, or evenly (Laplace)."),
    ] = "pool",
    length: Length = "mean",
    min_words: Annotated[int, Option(help="Shorter records get no score; --keep drops them.", min=0)] = 0,
    field: Annotated[str, Option("--as", metavar="NAME", help="Name of the field.")] = "dsir",
    overwrite: Overwrite = False,
) -> None:
    """Score records by how much more likely their words and word pairs are in the target than in the pool.

    Adds the field dsir (higher is better): the mean log ratio per n-gram, in nats. With --keep or --above, writes
    the chosen records instead of all.

    \b
    Example:
      dselect dsir pool.jsonl.zst --target target.jsonl.zst --keep 10% -o picked.jsonl.zst
    """
    if (model is None) == (not target):
        raise UsageError("dsir needs either --target FILE or --model FILE")
    chosen = choice.build(run.seed)
    if chosen and separate and len(target or ()) > 1:
        raise UsageError(
            "--keep with --separate does not say by which target",
            way_out="write the scores, then: dselect select --by dsir_A --by dsir_B",
        )
    names = [f"{field}_{Path(t).name.split('.')[0]}" for t in target or ()] if separate else [field]
    if len(set(names)) < len(names):
        raise UsageError(f"two targets would share the field {max(names, key=names.count)}")
    stops = bool(save and output.output is None and not chosen)
    with Run("dsir", run) as talk:
        twice = bool(chosen) or fit_on != "all" or (model is None and not stops)
        records = pool.open(run, talk, rereads=twice)
        with output.open(records, write=not stops) as sink:
            if model:
                dsir = Dsir.load(model)
                if field != "dsir" or len(dsir.names) == 1:
                    dsir.names = (field,) if len(dsir.names) == 1 else tuple(f"{field}_{n}" for n in dsir.names)
                dsir.min_words = max(dsir.min_words, min_words)
            else:
                dsir = Dsir(ngrams, buckets, smoothing, prior, length, min_words, names)
                fit_size = None if fit_on == "all" else Budget.parse(fit_on)
                targets = [pool.open_target(t) for t in target or ()]
                fit(dsir, targets, records, fit_size, separate, run.seed, choice.tokens)
                if save:
                    _save(dsir, Path(save))
            if stops:
                facts: dict[str, Any] = {}
            elif chosen:
                facts = select_scored(records, dsir, dsir.names[0], chosen, sink, overwrite).facts
            else:
                facts = {"without_score": annotate(records, dsir, sink, overwrite)}
    talk.report(records.counts, **facts, saved=save)


def _save(model: Dsir, path: Path) -> None:
    file = TemporaryFile(path)
    try:
        write_all(file.file, model.to_bytes())
        file.commit()
    finally:
        file.discard()
