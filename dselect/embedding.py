"""Fit encoders and clusters to the pool, by the vectors of its records.

What `embed`, `kmeans` and others share: a `VectorSource` gives the vectors of a batch, encoded or stored; an encoder
and clusters are fitted to seeded samples, in the order of the records' identities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from dselect.errors import DselectError
from dselect.models.encoders import Encoder
from dselect.models.hashed import Bags, Hashed
from dselect.models.kmeans import BEGINNING, GRID_SAMPLE, Clusters, grid
from dselect.pool import Pool
from dselect.records.batch import Batch
from dselect.sampling import Sample, draw_sample, sample_to_fit_on
from dselect.selection import Budget

KERNELS = ["dselect.kernels.bags", "dselect.kernels.vectors"]  # which workers need

Rows = np.ndarray[Any, np.dtype[np.float32]]
Keys = np.ndarray[Any, np.dtype[np.uint64]]


class VectorSource(Protocol):
    """Where the vectors of records come from. It must pickle."""

    @property
    def dimension(self) -> int:
        """How many numbers a vector has."""

    def of(self, batch: Batch) -> Rows:
        """Return the vector of every record: float32 (n, dimension); DselectError where one has none."""


@dataclass(frozen=True)
class Encoded:
    """Vectors made here and now, of the records' texts."""

    encoder: Encoder

    @property
    def dimension(self) -> int:
        """How many numbers a vector has."""
        return self.encoder.dimension

    def of(self, batch: Batch) -> Rows:
        """Return the vector of every record: float32 (n, dimension)."""
        return self.encoder.encode(batch.utf8)


@dataclass(frozen=True)
class _CollectBags:
    """N-grams of a block's records, or of a sample of them: the work of an encoder's fitting pass."""

    ngrams: int
    sample: Sample | None

    def __call__(self, batch: Batch) -> tuple[Keys, Keys, Bags]:
        """Return identities, ties and n-grams."""
        at = list(range(len(batch))) if self.sample is None else self.sample.of(batch).tolist()
        return batch.identities[at], batch.ties[at], Bags.of([batch.utf8[i] for i in at], self.ngrams)


def fit_hashed(pool: Pool, encoder: Hashed, size: str, seed: int, tokens: str | None = None) -> Hashed:
    """Fit the encoder to what --fit-on asks for, `all` or a seeded sample; DselectError where that has no words."""
    work = _CollectBags(encoder.ngrams, sample_to_fit_on(pool, size, seed, tokens))
    parts = [found for _, found in pool.map(work, "fitting")]
    if not pool.counts.documents:
        raise DselectError("the pool has no records to fit an encoder on", where=pool.name)
    nothing = np.zeros(0, np.uint64)
    identities, ties = (np.concatenate([nothing, *(part[i] for part in parts)]) for i in (0, 1))
    return encoder.fit(Bags.ordered([part[2] for part in parts], np.lexsort((ties, identities))), seed)


class Drawn(NamedTuple):
    """Records of a seeded sample, in the order of their identities.

    Vectors float32 (n, d), how each text begins, and how many records the pool has.
    """

    vectors: Rows
    texts: list[bytes]
    of: int


@dataclass(frozen=True)
class _CollectVectors:
    """Vectors of a block's records that are in a sample: the work of the clusters' fitting pass."""

    source: VectorSource
    sample: Sample

    def __call__(self, batch: Batch) -> tuple[Keys, Keys, Rows, list[bytes]]:
        """Return identities, ties, vectors and how the texts begin."""
        at = self.sample.of(batch).tolist()
        few = Batch(
            [batch.lines[i] for i in at],
            [batch.records[i] for i in at],
            [batch.texts[i] for i in at],
            [batch.numbers[i] for i in at],
        )
        return batch.identities[at], batch.ties[at], self.source.of(few), [text[:BEGINNING] for text in few.utf8]


def draw_vectors(pool: Pool, source: VectorSource, most: int, seed: int) -> Drawn:
    """Draw at most so many records of the pool, and return their vectors; all of them where there are no more."""
    sample = draw_sample(pool, Budget(str(most), "documents", amount=most), seed, None)
    if sample is None:
        return Drawn(np.zeros((0, source.dimension), np.float32), [], 0)
    parts = [found for _, found in pool.map(_CollectVectors(source, sample), "vectors")]
    identities, ties = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    order = np.lexsort((ties, identities))
    texts = [text for part in parts for text in part[3]]
    vectors = np.concatenate([part[2] for part in parts])[order]
    return Drawn(vectors, [texts[i] for i in order.tolist()], pool.counts.documents)


def fit_clusters(
    pool: Pool,
    source: VectorSource,
    clusters: int | None,
    seed: int,
    *,
    spherical: bool = False,
    restarts: int = 1,
    iterations: int = 25,
    points: int = 256,
) -> tuple[Clusters, dict[str, Any]]:
    """Fit k-means to a sample of the pool's vectors and name the clusters; return them, and what is to be said.

    clusters: how many; None for the number with the best silhouette on a grid (`models.kmeans.grid`). points: records
    drawn per cluster, at most. DselectError where the pool has too few records.
    """
    most = points * (clusters or grid(1 << 62)[-1])
    drawn = draw_vectors(pool, source, most, seed)
    if not drawn.of:
        raise DselectError("the pool has no records to make clusters of", where=pool.name)
    facts: dict[str, Any] = {}
    if clusters is None:
        tried: dict[int, float] = {}
        for size in grid(len(drawn.vectors)):
            # identities are hashes: the first of them are a sample, whatever the vectors are
            model = Clusters(spherical).fit(drawn.vectors[: points * size], size, seed, 1, iterations)
            tried[size] = model.silhouette(drawn.vectors[:GRID_SAMPLE])
        clusters = max(tried, key=lambda size: (tried[size], -size))
        facts["silhouettes"] = {str(size): round(value, 6) for size, value in tried.items()}
    used = min(len(drawn.vectors), points * clusters)
    model = Clusters(spherical).fit(drawn.vectors[:used], clusters, seed, restarts, iterations)
    labels, _ = model.assign(drawn.vectors)
    model.name(drawn.texts, labels)
    facts |= {
        "clusters": len(model),
        "empty_clusters": clusters - len(model),
        "trained_on": used,
        "trained_of": drawn.of,
    }
    return model, facts
