"""Weights of clusters that follow what earlier picks have brought: iterative refinement, round by round.

Yu et al. 2024, "Diversify and Conquer": every round picks its part of the budget by the clusters' weights, trains on
it, and multiplies the weights by what each cluster has gained.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dselect import draws, mixing
from dselect.errors import DselectError
from dselect.fitting import held_out
from dselect.models.byte_lm import ByteLM, Tally
from dselect.pool import Pool
from dselect.records.batch import Batch

FLOOR = 0.1  # of an equal share, that every cluster keeps
ORDER = 5  # of the small language model
TEXTS, LONGEST = 64, 4096  # of a cluster's picks it learns so many a round, so many bytes of each
JUDGED = 1 << 16  # bytes of the target that it is judged on
_MOST = 1 << 26  # n-grams it holds

Keys = np.ndarray[Any, np.dtype[np.uint64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Round:
    """One round: the weights it picked by, and what each cluster gained; NaN where nothing is known of it.

    temperature: that the gains were divided by; None in the last round, which nothing follows.
    """

    weights: Sequence[float]
    gains: Sequence[float] = ()
    temperature: float | None = None


def after(weights: Sequence[float], gains: Sequence[float], temperature: float | None) -> Round:
    """Return a round that is done, with the temperature that is used after it.

    temperature: None for the standard deviation of the gains.
    """
    known = np.array([gain for gain in gains if not math.isnan(gain)])
    spread = float(known.std()) if temperature is None and len(known) else temperature
    return Round(list(weights), list(gains), spread or 1.0)


def following(done: Round, floor: float) -> list[float]:
    """Return the weights of the round that follows; a cluster of which nothing is known counts as if of mean gain."""
    assert done.temperature is not None
    known = [gain for gain in done.gains if not math.isnan(gain)]
    mean = math.fsum(known) / len(known) if known else 0.0
    gains = [mean if math.isnan(gain) else gain for gain in done.gains]
    return mixing.refined(done.weights, gains, done.temperature, floor)


def read_gains(path: str, clusters: int) -> list[float]:
    """Read a CSV of cluster and gain: float (clusters,), NaN for those it leaves out; DselectError if it is none."""
    gains = [math.nan] * clusters
    way_out = "a CSV with the columns cluster and gain"
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DselectError(f"cannot read these gains: {error}", where=path, way_out=way_out) from error
    if not rows or not {"cluster", "gain"} <= set(rows[0]):
        raise DselectError("no gains", where=path, way_out=way_out)
    for number, row in enumerate(rows, 2):
        try:
            cluster, gain = int(row["cluster"]), float(row["gain"])
        except (TypeError, ValueError) as error:
            raise DselectError("not a cluster and its gain", where=f"{path}:{number}", way_out=way_out) from error
        if not 0 <= cluster < clusters:
            raise DselectError(f"no cluster {cluster}; there are 0 to {clusters - 1}", where=f"{path}:{number}")
        if not math.isfinite(gain) or not math.isnan(gains[cluster]):
            what = "is given twice" if math.isfinite(gain) else "has no finite gain"
            raise DselectError(f"cluster {cluster} {what}", where=f"{path}:{number}")
        gains[cluster] = gain
    return gains


def log_of(rounds: Sequence[Round], words: Sequence[Sequence[str]]) -> bytes:
    """Return the rounds as CSV: round, cluster, words, weight, gain, temperature."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["round", "cluster", "words", "weight", "gain", "temperature"])
    for number, one in enumerate(rounds, 1):
        for cluster, weight in enumerate(one.weights):
            gain = one.gains[cluster] if one.gains else math.nan
            known = "" if math.isnan(gain) else repr(gain)
            temperature = "" if one.temperature is None else repr(one.temperature)
            writer.writerow([number, cluster, " ".join(words[cluster]), repr(weight), known, temperature])
    return text.getvalue().encode()


@dataclass(frozen=True)
class _Beginnings:
    """How some records' texts begin: the work of a pass. ties: uint64 (k,), ascending, of the records."""

    ties: Keys
    longest: int

    def __call__(self, batch: Batch) -> list[tuple[int, bytes]]:
        """Return the tie and the beginning of those in this block."""
        ties = batch.ties
        at = np.flatnonzero(np.isin(ties, self.ties)).tolist()
        return [(int(ties[i]), batch.utf8[i][: self.longest]) for i in at]


class LossDrops:
    """What each cluster's picks bring a small language model, in bits per byte of the target.

    The model, of byte n-grams up to 5, learns from the picks of all rounds so far. A cluster's gain is the target's
    loss by the counts without its picks of this round, minus its loss by all counts, a megabyte of picks learnt from: a
    cluster does not gain by its size. Of a cluster's picks 64 texts are learnt a round, 4,096 bytes of each, and the
    target is judged by 65,536 bytes of its texts.
    """

    def __init__(self, target: Sequence[bytes]) -> None:
        self.target = list(target)
        self._tally = Tally(ORDER, _MOST)
        self.losses_: list[float] = []  # of the target after each round, in bits per byte

    def after(self, pool: Pool, ties: Keys, labels: Ints, clusters: int) -> list[float]:
        """Learn a round's picks and return every cluster's gain, NaN of one without; the picks' ties and clusters."""
        from dselect.kernels import byte_ngrams

        wanted = np.sort(np.concatenate([_few(ties[labels == cluster]) for cluster in range(clusters)]))
        of = dict(zip(ties.tolist(), labels.tolist(), strict=True))
        found = sorted({pair for _, part in pool.map(_Beginnings(wanted, LONGEST), "learning") for pair in part})
        texts: list[list[bytes]] = [[] for _ in range(clusters)]
        for tie, text in found:
            texts[of[tie]].append(text)
            self._tally.add(byte_ngrams.count([text], ORDER))
        draw = draws.uniform(0, "held-out", np.array([tie for tie, _ in found], np.uint64))
        drawn = [(float(one), tie, text) for one, (tie, text) in zip(draw, found, strict=True)]
        model = ByteLM(ORDER).fit(self._tally.total(), [text for _, _, text in held_out(drawn)])
        size = sum(map(len, self.target))
        loss = math.fsum(model.bits(self.target)) / size
        self.losses_.append(loss)
        gains = []
        for own in texts:
            learnt = sum(map(len, own))
            if not learnt:
                gains.append(math.nan)
                continue
            without = math.fsum(model.bits_leaving_out(self.target, own)) / size
            gains.append((without - loss) / learnt * 1e6)
        return gains


def _few(ties: Keys) -> Keys:
    """Return the picks to learn from: ties begin with a hash, so the lowest are a sample."""
    return np.sort(ties)[:TEXTS]


@dataclass(frozen=True)
class Judged:
    """Texts of the target with their draws: the work of reading it."""

    seed: int

    def __call__(self, batch: Batch) -> list[tuple[float, int, bytes]]:
        """Return the draw, the tie and the beginning of every text that is not empty."""
        draw, ties = draws.uniform(self.seed, "gain target", batch.identities), batch.ties
        return [(float(draw[i]), int(ties[i]), text[:LONGEST]) for i, text in enumerate(batch.utf8) if text]


def read_target(pools: Sequence[Pool], seed: int) -> list[bytes]:
    """Draw the texts that gains are judged on; DselectError where the target has none."""
    drawn: list[tuple[float, int, bytes]] = []
    for pool in pools:
        for _, part in pool.map(Judged(seed), "target"):
            drawn = _within(sorted([*drawn, *part]))
    if not drawn:
        raise DselectError("the target has no text", where=pools[0].name)
    return [text for _, _, text in drawn]


def _within(drawn: Sequence[tuple[float, int, bytes]]) -> list[tuple[float, int, bytes]]:
    kept, size = [], 0
    for one in drawn:
        size += len(one[2])
        if size > JUDGED:
            break
        kept.append(one)
    return kept


def starting(quota: str | Mapping[str, float], clusters: int) -> list[float]:
    """Return the weights of the first round: equal ones, as in the paper, or those that a quota gives."""
    if isinstance(quota, str):
        return [1 / clusters] * clusters
    total = math.fsum(quota.values())
    return [quota.get(str(cluster), 0.0) / total for cluster in range(clusters)]
