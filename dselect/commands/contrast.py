"""Score records by how much likelier a model of the target finds them than a model of the pool."""
# Moore and Lewis 2010, "Intelligent selection of language model training data" (ACL): the cross-entropy of a text under
# a model of the pool minus that under a model of the target. MiniPLM (Gu et al. 2024) takes the same difference of two
# neural models' losses: --plus and --minus, of fields that `loss` wrote.
# Differs from the paper: byte n-grams instead of words; the model of the target has the pool's counts too; texts that
# are in the target, or in the sample of the pool that was fitted, are scored by models that have not seen them; short
# texts are drawn towards the pool's mean.

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from dselect.console import Run
from dselect.errors import DselectError, NotFitted, UsageError
from dselect.fitting import CountBytes, Fitted, fit_byte_lm
from dselect.models import tables
from dselect.models.byte_lm import ByteLM
from dselect.options import (
    As,
    ChoiceOptions,
    FitOn,
    MaxMemory,
    MinWords,
    Model,
    Option,
    Order,
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
from dselect.records.publishing import publish
from dselect.sampling import sample_to_fit_on

WEIGHT = 0.1  # of the target's bytes beside the pool's; 0.03 does about as well, 1 fails: docs/evaluation.md
SHRINK = 100  # bytes of the pool's mean mixed into every text: a short one cannot win by luck

Floats = np.ndarray[Any, np.dtype[np.float64]]
Keys = np.ndarray[Any, np.dtype[np.uint64]]


@dataclass(frozen=True)
class Seen:
    """A language model, and the texts it was fitted to: it scores them as if it had not seen them.

    hashes: uint64 (k,), ascending; times: int64 (k,), how often each text occurs.
    """

    model: ByteLM
    hashes: Keys
    times: np.ndarray[Any, np.dtype[np.int64]]

    @classmethod
    def of(cls, fitted: Fitted) -> Seen:
        """Keep the hashes of the texts that a model was fitted to."""
        hashes = sorted(fitted.texts)
        times = [fitted.texts[key] for key in hashes]
        return cls(fitted.model, np.array(hashes, np.uint64), np.array(times, np.int64))

    def bits(self, texts: Sequence[bytes], hashes: Keys) -> Floats:
        """Return -log2 of the probability of every text: float64 (n,); hashes: uint64 (n,)."""
        bits = self.model.bits(texts)
        at = np.minimum(np.searchsorted(self.hashes, hashes), max(len(self.hashes) - 1, 0))
        known = self.hashes[at] == hashes if len(self.hashes) else np.zeros(len(hashes), bool)
        for i in np.flatnonzero(known).tolist():
            bits[i] = self.model.bits_without(texts[i], int(self.times[at[i]]))
        return bits

    def arrays(self, prefix: str) -> dict[str, Any]:
        """Return what a file holds, under names that begin with the prefix."""
        arrays = {**self.model.arrays(), "hashes": self.hashes, "times": self.times.astype(np.uint64)}
        return {prefix + name: array for name, array in arrays.items()}

    @classmethod
    def load(cls, path: str, prefix: str, arrays: Mapping[str, Any]) -> Seen:
        """Read what `arrays` returned from a file; DselectError if it is not sound."""
        model = ByteLM.load(path, "contrast", prefix)
        hashes, times = arrays.get(f"{prefix}hashes"), arrays.get(f"{prefix}times")
        if (
            hashes is None
            or times is None
            or not hashes.dtype == times.dtype == np.uint64
            or hashes.ndim != 1
            or hashes.shape != times.shape
            or (hashes[1:] <= hashes[:-1]).any()
            or ((times < 1) | (times >= 2**32)).any()
        ):
            raise DselectError("not a sound contrast model: its list of texts", where=path)
        return cls(model, hashes, times.astype(np.int64))


def joined(target: Fitted, pool: Fitted) -> Fitted:
    """Return a model of the pool's texts and the target's; the latter count so often that they make up a tenth of it.

    With the pool's smoothing: after contexts that the target does not hold, it says what the model of the pool says.
    """
    from dselect.kernels import byte_ngrams

    held_target, held_pool = (int(one.model.fitted[0].inner[0, 1]) for one in (target, pool))
    ratio = WEIGHT * held_pool / max(held_target, 1)
    of_target, of_pool = max(round(ratio), 1), max(round(1 / ratio), 1) if ratio else 1
    starts = byte_ngrams.add(
        byte_ngrams.times(pool.model.starts(), of_pool), byte_ngrams.times(target.model.starts(), of_target)
    )
    model = ByteLM(target.model.order).fit(starts, [], pool.model.fitted[1] * of_pool)
    texts = Counter({key: of_target * count for key, count in target.texts.items()})
    texts.update({key: of_pool * count for key, count in pool.texts.items()})
    return Fitted(model, texts=texts)


class Contrast:
    """Cross-entropy difference (Moore and Lewis 2010, section 2), per byte.

    With d = log2 p_target(text) - log2 p_pool(text), in bits, and n the text's bytes: (d + 100 μ) / (n + 100), μ the
    pool's mean of d per byte. The empty text gets μ.
    """

    def __init__(self, min_words: int = 0, name: str = "contrast") -> None:
        self.min_words, self.name = min_words, name
        self.target_: Seen | None = None
        self.pool_: Seen | None = None
        self.pool_mean_ = 0.0

    @property
    def fields(self) -> Mapping[str, Kind]:
        """One score."""
        return {self.name: "score"}

    def fit(self, target: Fitted, pool: Fitted) -> Contrast:
        """Take a model of the target and one of the pool; the texts held out from the latter give the pool's mean."""
        self.target_, self.pool_ = Seen.of(joined(target, pool)), Seen.of(pool)
        texts = pool.held_out
        if texts:
            digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
            differences = self._differences(texts, np.frombuffer(digests, "<u8").astype(np.uint64))
            self.pool_mean_ = math.fsum(differences) / sum(map(len, texts))
        return self

    def _differences(self, texts: Sequence[bytes], hashes: Keys) -> Floats:
        if self.target_ is None or self.pool_ is None:
            raise NotFitted("this contrast model has not been fitted")
        return self.pool_.bits(texts, hashes) - self.target_.bits(texts, hashes)

    def score(self, batch: Batch) -> Mapping[str, Floats]:
        """Return the score of every text: float64 (n,); NaN below `min_words`."""
        texts = batch.utf8
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        scores = (self._differences(texts, batch.text_hashes) + SHRINK * self.pool_mean_) / (sizes + SHRINK)
        if self.min_words:
            from dselect.kernels.ngrams import count_words

            scores[count_words(texts) < self.min_words] = np.nan
        return {self.name: scores}

    def to_bytes(self) -> bytes:
        """Return the fitted model as one safetensors file."""
        if self.target_ is None or self.pool_ is None:
            raise NotFitted("this contrast model has not been fitted")
        settings = {"order": self.target_.model.order, "min_words": self.min_words, "pool_mean": self.pool_mean_}
        return tables.to_bytes("contrast", settings, {**self.target_.arrays("target."), **self.pool_.arrays("pool.")})

    @classmethod
    def load(cls, path: str) -> Contrast:
        """Map a model that `to_bytes` wrote into memory; DselectError if it is none."""
        settings, arrays = tables.load_mapped(path, "contrast")
        try:
            least, mean = settings["min_words"], settings["pool_mean"]
        except KeyError as error:
            raise DselectError(f"not a sound contrast model: no {error}", where=path) from error
        if not isinstance(least, int) or not isinstance(mean, float) or not abs(mean) < 1e6:
            raise DselectError("not a sound contrast model: its settings", where=path)
        model = cls(least)
        model.pool_mean_ = mean
        model.target_ = Seen.load(path, "target.", arrays)
        model.pool_ = Seen.load(path, "pool.", arrays)
        return model


@dataclass(frozen=True)
class Difference:
    """The difference of two numbers that the records carry: MiniPLM's, of two models' losses."""

    plus: str
    minus: str
    name: str = "contrast"

    @property
    def fields(self) -> Mapping[str, Kind]:
        """One score."""
        return {self.name: "score"}

    def score(self, batch: Batch) -> Mapping[str, Floats]:
        """Return plus - minus: float64 (n,); DselectError if a record lacks one of them."""
        plus, minus = (batch.column(name) for name in (self.plus, self.minus))
        for name, column in ((self.plus, plus), (self.minus, minus)):
            if np.isnan(column).any():
                at = int(np.isnan(column).argmax())
                has = ", ".join(list(batch.records[at])[:12])
                raise DselectError(
                    f'no field "{name}" in the record; it has: {has}',
                    where=f":{batch.numbers[at]}",
                    way_out="dselect loss writes such fields",
                )
        return {self.name: plus - minus}


def command(
    pool: PoolOptions,
    output: OutputOptions,
    choice: ChoiceOptions,
    run: RunOptions,
    target: Targets = None,
    model: Model = None,
    save: Save = None,
    plus: Annotated[
        str | None, Option(metavar="FIELD", help="Subtract numbers that the records carry: from this one, loss_a, …")
    ] = None,
    minus: Annotated[str | None, Option(metavar="FIELD", help="… that one, loss_b.")] = None,
    fit_on: FitOn = "10MB",
    order: Order = 6,
    max_memory: MaxMemory = "4GB",
    min_words: MinWords = 0,
    field: As = "contrast",
    overwrite: Overwrite = False,
    sidecar: Sidecar = None,
) -> None:
    """Score records by how much likelier a model of the target finds them than a model of the pool.

    Adds the field contrast (higher is better): the difference in bits per byte. With --keep or --above, writes the
    chosen records instead of all.

    \b
    Example:
      dselect contrast pool.jsonl.zst --target target.jsonl.zst --keep 10% -o picked.jsonl.zst
    """
    if bool(target) + (model is not None) + (plus is not None or minus is not None) != 1:
        raise UsageError("contrast needs one of --target FILE, --model FILE, or --plus FIELD with --minus FIELD")
    if (plus is None) != (minus is None):
        raise UsageError("--plus and --minus go together")
    chosen = choice.build(run.seed, sidecar=sidecar)
    if save and not target:
        raise UsageError("--save is for fitting: there is nothing new to save", way_out="--target FILE")
    pool.check_new(field)
    stops = output.fits_only(save, sidecar, chosen)
    with Run("contrast", run) as talk:
        records = pool.open(run, talk, rereads=bool(chosen) or (bool(target) and not (stops and fit_on == "all")))
        alone = not target and not chosen
        with output.open(records, run, write=not stops, alone=alone, sidecar=sidecar) as sink:
            facts: dict[str, Any] = {}
            scorer: Contrast | Difference
            if plus is not None and minus is not None:
                scorer = Difference(plus, minus, field)
            elif model is not None:
                scorer = Contrast.load(model)
                scorer.name, scorer.min_words = field, max(scorer.min_words, min_words)
            else:
                targets = pool.open_targets(target or ())
                work = CountBytes(
                    order, run.seed, sample_to_fit_on(records, fit_on, run.seed, choice.tokens), hashes=True
                )
                scorer = Contrast(min_words, field)
                facts["in_target"] = fit(scorer, targets, records, work, max_memory)
                if save:
                    publish(Path(save), scorer.to_bytes())
            if not stops:
                facts |= write_scored(records, scorer, scorer.name, chosen, sink, overwrite, sidecar=bool(sidecar))
    talk.report(records.counts, **facts, saved=save)


def fit(scorer: Contrast, targets: Sequence[Pool], pool: Pool, work: CountBytes, memory: str) -> int:
    """Fit the two models; return how many records of the pool hold a text of the target."""
    of_target = fit_byte_lm(targets, replace(work, sample=None), memory, what="target")
    for target in targets:
        if not target.counts.bytes:
            raise DselectError("the target has no text", where=target.name)
    known = np.array(sorted(of_target.texts), np.uint64)
    of_pool = fit_byte_lm([pool], replace(work, known=known), memory)
    scorer.fit(of_target, of_pool)
    return of_pool.known
