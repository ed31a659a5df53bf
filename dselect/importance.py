"""Importance weights by hashed n-grams: the model of DSIR."""
# Xie, Santurkar, Ma, Liang 2023, "Data Selection for Language Models via Importance Resampling" (NeurIPS).

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from dselect.errors import DselectError, NotFitted
from dselect.models import tables
from dselect.pipeline import Kind
from dselect.records.batch import Batch

FLOOR = 1e-8  # added to probabilities, as in the paper's code: an n-gram never seen costs a finite amount
SHRINK = 30  # n-grams of the pool's mean mixed into every text: a short one cannot win by luck

NGRAMS, BUCKETS = 2, 10_000
MOST_SHARDS = 10**6
MOST = 1e6  # nats; a logarithm of a ratio beyond it is none, and sums of such would be no numbers

Counts = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]


class Dsir:
    """Importance weights by hashed n-grams (Xie et al. 2023, section 3).

    With p the bucket frequencies, δ_b = ln(p_target(b) + 1e-8) - ln(p_pool(b) + 1e-8). The published weight of a text
    is the sum of δ over its m n-grams; `length="mean"` gives (Σδ + 30 μ) / (m + 30), μ = Σ_b p_pool(b) δ_b the mean of
    the pool: nats per n-gram; a text without words gets μ.

    The target's T n-grams are smoothed by α B pseudo-counts, distributed evenly (Laplace) or as the pool is. In the
    latter case the pool's frequencies are add-one smoothed, so that a bucket seen in neither has δ = ln(αB / (T + αB)),
    never a bonus. Columns of `log_ratio_` are targets: float64 (buckets, targets). `counts_`, int64 (buckets,
    targets + 1), are what it was fitted to, the pool's in the last column: `merged` adds those of other parts. `held_`
    is how many documents of the pool and bytes of their texts that were; `shards_` which (I, N) of it, none of a whole
    pool; `dealt_` stands for the files that the shards were dealt from.

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
        fit_on: str = "all",
    ) -> None:
        self.ngrams, self.buckets, self.smoothing, self.prior = ngrams, buckets, smoothing, prior
        self.length, self.min_words, self.reference, self.fit_on = length, min_words, reference, fit_on
        self.targets, self.field = tuple(targets), "dsir"
        self.log_ratio_: Floats | None = None
        self.pool_mean_: Floats | None = None
        self.counts_: Counts | None = None
        self.held_ = (0, 0)
        self.shards_: list[tuple[int, int]] = []
        self.dealt_ = ""

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
        self.counts_ = np.ascontiguousarray(np.stack([*targets, pool], axis=1))
        return self

    def merged(self, other: Dsir) -> Dsir:
        """Return the model of both pools, as if it had been fitted to them at once.

        ValueError says why that cannot be: other settings, another target, a sample instead of all of a pool, or
        shards that are not of one division or are in both.
        """
        if self.counts_ is None or other.counts_ is None:
            raise NotFitted("this dsir model has not been fitted")
        if self.settings() != other.settings():
            raise ValueError("other settings than the first part's")
        if (self.counts_[:, :-1] != other.counts_[:, :-1]).any():
            raise ValueError("another target than the first part's")
        if self.fit_on != "all":
            raise ValueError(f"fitted on {self.fit_on}, a sample of its own part: samples do not add")
        if bool(self.shards_) != bool(other.shards_):
            raise ValueError("one is of a --shard and the other of a whole pool")
        if len({of for _, of in (*self.shards_, *other.shards_)}) > 1:
            raise ValueError(f"a shard of {other.shards_[0][1]}, where the first part is one of {self.shards_[0][1]}")
        if self.dealt_ != other.dealt_:
            raise ValueError("a shard of other files than the first part's: some came, went or changed")
        if both := set(self.shards_) & set(other.shards_):
            number, count = min(both)
            raise ValueError(f"--shard {number}/{count} is in another part already")
        model = copy.copy(self)
        model.held_ = (self.held_[0] + other.held_[0], self.held_[1] + other.held_[1])
        model.take_shards([*self.shards_, *other.shards_], self.dealt_)
        return model.fit(list(self.counts_.T[:-1]), self.counts_[:, -1] + other.counts_[:, -1])

    def take_shards(self, shards: Sequence[tuple[int, int]], dealt: str) -> None:
        """Say of which shards (I, N) of a pool the counts are, and of which files; all N are the whole pool."""
        whole = len(shards) == shards[0][1] if shards else True
        self.shards_, self.dealt_ = ([], "") if whole else (sorted(shards), dealt)

    @property
    def lacking(self) -> list[tuple[int, int]]:
        """Return the shards (I, N) that the model lacks of its pool."""
        count = self.shards_[0][1] if self.shards_ else 0
        return [(number, count) for number in range(1, count + 1) if (number, count) not in self.shards_]

    def settings(self) -> dict[str, Any]:
        """Return what a file says of the model beside its numbers."""
        from dselect.kernels.words import unicode_version

        names = ("ngrams", "length", "min_words", "smoothing", "prior", "reference", "fit_on")
        own = {name: getattr(self, name) for name in names}
        return {**own, "targets": list(self.targets), "unicode": unicode_version()}

    def score(self, batch: Batch) -> Mapping[str, Floats]:
        """Return the score of every text towards each target: float64 (n,) a field; NaN below `min_words`."""
        if self.log_ratio_ is None or self.pool_mean_ is None:
            raise NotFitted("this dsir model has not been fitted")
        sums, grams, words = kernel(self.reference).score_ngrams(batch.utf8, self.ngrams, self.log_ratio_)
        if self.length == "mean":
            sums = (sums + SHRINK * self.pool_mean_) / (grams[:, None] + SHRINK)
        sums[words < self.min_words] = np.nan
        return {name: np.ascontiguousarray(sums[:, i]) for i, name in enumerate(self.names)}

    def to_bytes(self) -> bytes:
        """Return the fitted model as one safetensors file."""
        if self.log_ratio_ is None:
            raise NotFitted("this dsir model has not been fitted")
        arrays = {"log_ratio": self.log_ratio_, "pool_mean": self.pool_mean_, "counts": self.counts_}
        about = {**self.settings(), "held": self.held_, "shards": self.shards_, "dealt": self.dealt_}
        return tables.to_bytes("dsir", about, {name: a for name, a in arrays.items() if a is not None})

    @classmethod
    def load(cls, path: str) -> Dsir:
        """Read a model that `to_bytes` wrote; DselectError if it is none."""
        settings, arrays = tables.load(path, "dsir")
        settings.pop("unicode", None)
        try:
            held, shards = settings.pop("held", [0, 0]), settings.pop("shards", [])
            dealt = settings.pop("dealt", "")
            ratio, mean, counts = arrays["log_ratio"], arrays["pool_mean"], arrays["counts"]
            model = cls(buckets=len(ratio), **settings)
            sound = (
                ratio.dtype == mean.dtype == np.float64
                and ratio.shape == (len(ratio), len(model.names))
                and mean.shape == (len(model.names),)
                and counts.dtype == np.int64
                and counts.shape == (len(ratio), len(model.names) + 1)
                and ((counts >= 0) & (counts < 2**53)).all()
                and isinstance(model.fit_on, str)
                and 0 < len(ratio) < 2**32
                and 1 <= model.ngrams <= 64
                and model.length in ("mean", "sum")
                and model.prior in ("pool", "uniform")
                and type(model.min_words) is int
                and type(model.smoothing) in (int, float)
                and 0 <= model.smoothing < np.inf
                and isinstance(model.reference, bool)
                and (np.abs(ratio) <= MOST).all()
                and (np.abs(mean) <= MOST).all()
                and len(held) == 2
                and all(type(number) is int and 0 <= number < 2**63 for number in held)
                and all(type(i) is type(of) is int and 1 <= i <= of < MOST_SHARDS for i, of in shards)
                and len({of for _, of in shards}) <= 1
                and isinstance(dealt, str)
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DselectError(f"not a sound dsir model: {error}", where=path) from error
        if not sound:
            raise DselectError("not a sound dsir model", where=path, way_out="fit it again with --save")
        model.log_ratio_, model.pool_mean_, model.counts_ = np.ascontiguousarray(ratio), mean, counts
        model.held_, model.shards_ = (held[0], held[1]), sorted({(i, of) for i, of in shards})
        model.dealt_ = dealt
        return model


def kernel(reference: bool) -> Any:
    """Return the module that hashes and counts n-grams: ours, or the one that does it as the paper's package."""
    if reference:
        from dselect.kernels import sha_ngrams

        return sha_ngrams
    from dselect.kernels import ngrams

    return ngrams
