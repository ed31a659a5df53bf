"""Fit a language model of bytes to records."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dselect import draws
from dselect.errors import UsageError
from dselect.models.byte_lm import HELD_OUT, ByteLM, Tally
from dselect.pool import Pool
from dselect.records.batch import Batch
from dselect.sampling import Sample
from dselect.selection import Budget

if TYPE_CHECKING:
    from dselect.kernels.byte_ngrams import Starts

ENTRY = 64  # bytes of memory an n-gram takes at the most, while counts are merged and become a trie

Keys = np.ndarray[Any, np.dtype[np.uint64]]
Drawn = tuple[float, int, bytes]  # draw, tie, text


@dataclass(frozen=True)
class CountBytes:
    """N-gram counts of a block's texts, of all or of a seeded sample: the work of the fitting pass.

    hashes: whether to tell the texts it counted; known: uint64 (k,), hashes of texts to look for among all records.
    """

    order: int
    seed: int
    sample: Sample | None = None
    hashes: bool = False
    known: Keys | None = None

    def __call__(self, batch: Batch) -> tuple[Starts, list[Drawn], Counter[int], int]:
        """Return the counts, the texts that may be held out, how often each hash occurs, and how many are known."""
        from dselect.kernels.byte_ngrams import count

        at = range(len(batch)) if self.sample is None else self.sample.of(batch).tolist()
        texts = [batch.utf8[i] for i in at]
        draw, ties = draws.uniform(self.seed, "held-out", batch.identities), batch.ties
        drawn = [(float(draw[i]), int(ties[i]), text) for i, text in zip(at, texts, strict=True)]
        hashes = batch.text_hashes if self.hashes else np.zeros(0, np.uint64)
        found = 0 if self.known is None else int(np.isin(hashes, self.known).sum())
        return (
            count(texts, self.order),
            held_out(drawn),
            Counter(hashes[list(at)].tolist() if self.hashes else ()),
            found,
        )


def held_out(drawn: Sequence[Drawn]) -> list[Drawn]:
    """Return the texts with the lowest draws, as far as they fit into what is held out; longer and empty ones never."""
    kept, left = [], HELD_OUT
    for one in heapq.nsmallest(len(drawn), (one for one in drawn if 0 < len(one[2]) <= HELD_OUT)):
        if len(one[2]) > left:
            break
        kept.append(one)
        left -= len(one[2])
    return kept


@dataclass
class Fitted:
    """A model, and what is known of the texts it was fitted to."""

    model: ByteLM
    held_out: list[bytes] = field(default_factory=list)
    texts: Counter[int] = field(default_factory=Counter)  # hash of a text → how often it occurs
    known: int = 0  # records that hold a text that was looked for
    rare: int = 0  # n-grams that occur at most so often may be missing


def fit_byte_lm(
    pools: Sequence[Pool], work: CountBytes, memory: str, added: Sequence[ByteLM] = (), what: str = "fitting"
) -> Fitted:
    """Count the n-grams of the records and fit a model; the counts of models given in `added` join.

    memory: what the counts may take, as `4GB`; beyond, rare n-grams are forgotten.
    """
    allowed = Budget.parse(memory)
    if allowed.unit != "bytes" or allowed.amount is None:
        raise UsageError(f"--max-memory {memory} is no amount of bytes", way_out="--max-memory 4GB")
    tally = Tally(work.order, max(allowed.amount // ENTRY, 1))
    drawn: list[Drawn] = []
    texts: Counter[int] = Counter()
    for model in added:
        tally.add(model.starts())
    known = 0
    for pool in pools:
        for _, (starts, more, hashes, found) in pool.map(work, what):
            known += found
            tally.add(starts)
            drawn = held_out([*drawn, *more])
            texts += hashes
    held = [text for _, _, text in drawn]
    model = ByteLM(work.order).fit(tally.total(), held, _mean_mu(added))
    return Fitted(model, held, texts, known, tally.rare_)


def _mean_mu(models: Sequence[ByteLM]) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Return the geometric mean of the models' smoothing, weighted by the text each has seen; None of none."""
    if not models:
        return None
    weights = [float(trie.inner[0, 1]) for trie, _ in (model.fitted for model in models)]
    logs = np.stack([np.log(mu) for _, mu in (model.fitted for model in models)])
    return np.exp(np.average(logs, axis=0, weights=weights if sum(weights) else None))
