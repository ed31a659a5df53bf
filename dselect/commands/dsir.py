"""Score records by importance weight towards a target (DSIR)."""
# Xie, Santurkar, Ma, Liang 2023, "Data Selection for Language Models via Importance Resampling" (NeurIPS).
# The log ratio of hashed n-gram frequencies, target over pool, of every n-gram of a text.
# Differs from the paper's code: a text's score is the mean per n-gram, shrunk towards the pool's mean (--length sum for
# theirs, which mostly measures length); the target is smoothed towards the pool (--smoothing 0 for theirs; --prior
# uniform for the Laplace smoothing of their later code, which prefers gibberish when the target is small); draws are
# seeded; n-grams are hashed with a faster function. --reference gives the numbers of their package data-selection
# 1.0.3.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from dselect.choice import Choice
from dselect.console import Run
from dselect.errors import DselectError, NotFitted, UsageError
from dselect.models import tables
from dselect.options import (
    As,
    ChoiceOptions,
    FitOn,
    Model,
    Option,
    OutputOptions,
    Overwrite,
    PoolOptions,
    RunOptions,
    Save,
    Sidecar,
    Targets,
)
from dselect.pipeline import Kind, write_scored
from dselect.pool import Pool
from dselect.records.batch import Batch
from dselect.records.writing import publish
from dselect.sampling import Sample, sample_to_fit_on

FLOOR = 1e-8  # added to probabilities, as in the paper's code: an n-gram never seen costs a finite amount
SHRINK = 30  # n-grams of the pool's mean mixed into every text: a short one cannot win by luck

NGRAMS, BUCKETS = 2, 10_000
DEFAULTS = {"smoothing": 1.0, "prior": "pool", "length": "mean", "min_words": 0}
REFERENCE = {"smoothing": 0.0, "prior": "pool", "length": "sum", "min_words": 100}  # data-selection 1.0.3

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

    `reference` hashes and counts words as the package data-selection 1.0.3 does; its log importance weights are those
    of `length="sum"` and `smoothing=0`.
    """

    def __init__(
        self,
        ngrams: int = NGRAMS,
        buckets: int = BUCKETS,
        smoothing: float = 1.0,
        prior: Literal["pool", "uniform"] = "pool",
        length: Literal["mean", "sum"] = "mean",
        min_words: int = 0,
        targets: Sequence[str] = ("",),
        reference: bool = False,
    ) -> None:
        self.ngrams, self.buckets, self.smoothing, self.prior = ngrams, buckets, smoothing, prior
        self.length, self.min_words, self.reference = length, min_words, reference
        self.targets, self.field = tuple(targets), "dsir"
        self.log_ratio_: Floats | None = None
        self.pool_mean_: Floats | None = None

    @property
    def fields(self) -> Mapping[str, Kind]:
        """One score a target."""
        return dict.fromkeys(self.names, "score")

    @property
    def names(self) -> list[str]:
        """Return the field of each target: `field`, or with named targets field_NAME."""
        return [f"{self.field}_{target}" if target else self.field for target in self.targets]

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
        if self.log_ratio_ is None or self.pool_mean_ is None:
            raise NotFitted("this dsir model has not been fitted")
        sums, grams, words = _kernel(self.reference).score_ngrams(batch.utf8, self.ngrams, self.log_ratio_)
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
            "targets": list(self.targets),
            "smoothing": self.smoothing,
            "prior": self.prior,
            "reference": self.reference,
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
                and isinstance(model.reference, bool)
                and np.isfinite(ratio).all()
                and np.isfinite(mean).all()
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DselectError(f"not a sound dsir model: {error}", where=path) from error
        if not sound:
            raise DselectError("not a sound dsir model", where=path, way_out="fit it again with --save")
        model.log_ratio_, model.pool_mean_ = np.ascontiguousarray(ratio), mean
        return model


def _kernel(reference: bool) -> Any:
    """Return the module that hashes and counts n-grams: ours, or the one that does it as the paper's package."""
    if reference:
        from dselect.kernels import sha_ngrams

        return sha_ngrams
    from dselect.kernels import ngrams

    return ngrams


@dataclass(frozen=True)
class CountNgrams:
    """Bucket counts of a block, of all its records or of a seeded sample: the work of the fitting pass."""

    ngrams: int
    buckets: int
    reference: bool
    sample: Sample | None = None

    def __call__(self, batch: Batch) -> tuple[Counts, Counts]:
        """Return the buckets that occur, int64 (k,), and how often."""
        texts = batch.utf8
        if self.sample:
            texts = [texts[i] for i in self.sample.of(batch).tolist()]
        counts = np.zeros(self.buckets, np.int64)
        _kernel(self.reference).count_ngrams(texts, self.ngrams, counts)
        found = np.flatnonzero(counts)
        return found, counts[found]


def fit(
    model: Dsir,
    targets: Sequence[Pool],
    pool: Pool,
    sample: Sample | None,
    separate: bool,
) -> Dsir:
    """Count the targets and the pool, or a sample of it, and fit the model."""
    work = CountNgrams(model.ngrams, model.buckets, model.reference)
    counts = [_count(target, work, "target") for target in targets]
    for target, count in zip(targets, counts, strict=True):
        if not count.any():
            raise DselectError("the target has no words", where=target.sources[0].name)
    if not separate:
        counts = [np.sum(counts, axis=0)]
    return model.fit(counts, _count(pool, replace(work, sample=sample), "fitting"))


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
    model: Model = None,
    save: Save = None,
    separate: Annotated[
        bool, Option("--separate", help="One field a target, dsir_NAME, instead of one for all.")
    ] = False,
    fit_on: FitOn = "all",
    ngrams: Annotated[int, Option(metavar="N", help="Longest n-gram.", min=1, max=64)] = NGRAMS,
    buckets: Annotated[int, Option(metavar="N", help="Hash buckets.", min=1, max=2**32 - 1)] = BUCKETS,
    smoothing: Annotated[
        float | None,
        Option(
            metavar="X",
            help="Pseudo-counts added to the target, a bucket on average; 0 for the paper's. [default: 1]",
            min=0,
            max=1e9,
        ),
    ] = None,
    prior: Annotated[
        Literal["pool", "uniform"] | None,
        Option(help="How pseudo-counts are distributed: as the pool is, or evenly (Laplace). [default: pool]"),
    ] = None,
    length: Annotated[
        Literal["mean", "sum"] | None,
        Option(help="Mean per n-gram, or the paper's sum, which mostly measures length. [default: mean]"),
    ] = None,
    min_words: Annotated[
        int | None, Option(metavar="N", help="Shorter records get no score; --keep drops them. [default: 0]", min=0)
    ] = None,
    reference: Annotated[
        bool,
        Option(
            "--reference",
            help="The official package's numbers: its hashes, --length sum, --smoothing 0, --min-words 100.",
        ),
    ] = False,
    field: As = "dsir",
    overwrite: Overwrite = False,
    sidecar: Sidecar = None,
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
    if model:
        fitted = {"smoothing": smoothing, "prior": prior, "length": length, "separate": separate or None, "save": save}
        fitted |= {"ngrams": None if ngrams == NGRAMS else ngrams, "buckets": None if buckets == BUCKETS else buckets}
        fitted["fit-on"] = None if fit_on == "all" else fit_on
        if for_fitting := [name for name, value in fitted.items() if value is not None]:
            raise UsageError(
                f"--{for_fitting[0]} is for fitting: a model is as it was fitted",
                way_out="--target in place of --model",
            )
    if reference:
        _check_reference(smoothing, prior, length)
    pool.check_new(field)
    chosen = choice.build(run.seed, sidecar=sidecar)
    named = [Path(t).name.split(".")[0] for t in target or ()] if separate else [""]
    if len(set(named)) < len(named):
        raise UsageError(f"two targets would share the field {field}_{max(named, key=named.count)}")
    _check_one(named, chosen)
    stops = output.fits_only(save, sidecar, chosen)
    with Run("dsir", run) as talk:
        twice = bool(chosen) or fit_on != "all" or (model is None and not stops)
        kernel = "dselect.kernels.sha_ngrams" if reference else "dselect.kernels.ngrams"
        records = pool.open(run, talk, rereads=twice, kernels=[kernel])
        alone = model is not None and not chosen
        with output.open(records, run, write=not stops, alone=alone, sidecar=sidecar) as sink:
            if model:
                dsir = Dsir.load(model)
                if reference and not dsir.reference:
                    raise UsageError("this model was fitted without --reference", where=model)
                _check_one(dsir.targets, chosen)
                dsir.min_words = max(dsir.min_words, min_words or 0)
            else:
                given = {"smoothing": smoothing, "prior": prior, "length": length, "min_words": min_words}
                settings: dict[str, Any] = dict(REFERENCE if reference else DEFAULTS)
                settings |= {name: value for name, value in given.items() if value is not None}
                dsir = Dsir(ngrams, buckets, targets=named, reference=reference, **settings)
                targets = pool.open_targets(target or ())
                sample = sample_to_fit_on(records, fit_on, run.seed, choice.tokens)
                fit(dsir, targets, records, sample, separate)
                if save:
                    publish(Path(save), dsir.to_bytes())
            dsir.field = field
            facts: dict[str, Any] = {}
            if not stops:
                facts = write_scored(records, dsir, dsir.names[0], chosen, sink, overwrite, sidecar=bool(sidecar))
    talk.report(records.counts, **facts, saved=save)


def _check_one(targets: Sequence[str], choice: Choice) -> None:
    if choice and len(targets) > 1:
        raise UsageError(
            "--keep does not say by which of several targets",
            way_out="write the scores, then: dselect select --by dsir_A --by dsir_B",
        )


def _check_reference(smoothing: float | None, prior: str | None, length: str | None) -> None:
    """Raise UsageError where an option asks for what the package does not do."""
    if smoothing:
        wrong = f"--smoothing {smoothing:g}"
    elif prior is not None:
        wrong = f"--prior {prior}"
    elif length == "mean":
        wrong = "--length mean"
    else:
        return
    raise UsageError(
        f"--reference does not go with {wrong}: the package sums over n-grams and does not smooth",
        way_out="leave one of them out",
    )
