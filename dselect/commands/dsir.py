"""Score records by importance weight towards a target (DSIR)."""
# Xie, Santurkar, Ma, Liang 2023, "Data Selection for Language Models via Importance Resampling" (NeurIPS).
# The log ratio of hashed n-gram frequencies, target over pool, of every n-gram of a text.
# Differs from the paper's code: a text's score is the mean per n-gram, shrunk towards the pool's mean (--length sum for
# theirs, which mostly measures length); the target is smoothed towards the pool (--smoothing 0 for theirs; --prior
# uniform for the Laplace smoothing of their later code, which prefers gibberish when the target is small); draws are
# seeded; n-grams are hashed with a faster function. --reference gives the numbers of their package data-selection
# 1.0.3.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from dselect.choice import Choice
from dselect.console import Run
from dselect.errors import DselectError, UsageError
from dselect.importance import BUCKETS, NGRAMS, Counts, Dsir, kernel
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
    needs_either,
)
from dselect.pipeline import write_scored
from dselect.pool import Pool
from dselect.records.batch import Batch
from dselect.records.publishing import publish
from dselect.sampling import Sample, sample_to_fit_on

DEFAULTS = {"smoothing": 1.0, "prior": "pool", "length": "mean", "min_words": 0}
REFERENCE = {"smoothing": 0.0, "prior": "pool", "length": "sum", "min_words": 100}  # data-selection 1.0.3


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
        kernel(self.reference).count_ngrams(texts, self.ngrams, counts)
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
            raise DselectError("the target has no words", where=target.name)
    if not separate:
        counts = [np.sum(counts, axis=0)]
    model.fit(counts, _count(pool, replace(work, sample=sample), "fitting"))
    model.held_ = (pool.counts.documents, pool.counts.bytes)
    return model


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
        raise needs_either("dsir", "--target FILE")
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
                dsir = Dsir(ngrams, buckets, targets=named, reference=reference, fit_on=fit_on, **settings)
                targets = pool.open_targets(target or ())
                sample = sample_to_fit_on(records, fit_on, run.seed, choice.tokens)
                fit(dsir, targets, records, sample, separate)
                dsir.take_shards([pool.part()], pool.dealt() if pool.shard else "")
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
