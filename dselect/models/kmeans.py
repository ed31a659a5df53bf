"""Clusters of vectors: fitted by faiss, applied by a loop in fixed order, named by the words that mark their texts.

Lloyd 1982, as the library faiss has it (Johnson, Douze, Jégou 2019): centres begin at vectors drawn by the seed; a
cluster that has become empty takes half of a large one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dselect.errors import DselectError, NotFitted
from dselect.models import encoders, tables
from dselect.models.encoders import Encoder
from dselect.models.sentences import SentenceSettings
from dselect.models.tables import Arrays

WORDS = 3  # that name a cluster
PER_CLUSTER = 50  # texts that its words are looked for in
BEGINNING = 1000  # bytes of each
GRID_SAMPLE = 4096  # vectors that a silhouette is computed on

Rows = np.ndarray[Any, np.dtype[np.float32]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]

_WORD = re.compile(r"[^\W\d_]{3,24}")


class Clusters:
    """k-means: every vector belongs to the centre nearest to it.

    spherical: centres are scaled to length 1 after every step. `centres_`: float32 (k, d); `words_`: what marks each
    cluster's texts, k short lists, best first; `trained_on_`: how many vectors.
    """

    def __init__(self, spherical: bool = False) -> None:
        self.spherical = spherical
        self.centres_: Rows | None = None
        self.words_: list[list[str]] = []
        self.trained_on_ = 0

    @property
    def centres(self) -> Rows:
        """Return the centres; NotFitted if there are none."""
        if self.centres_ is None:
            raise NotFitted("these clusters have not been fitted")
        return self.centres_

    def __len__(self) -> int:
        return len(self.centres)

    def fit(self, vectors: Rows, clusters: int, seed: int, restarts: int = 1, iterations: int = 25) -> Clusters:
        """Learn from float32 (n, d) vectors, in the order of their records' identities.

        Of several restarts the one with the least inertia stays. Clusters that have no vector in the end are left out.
        The same for any number of CPUs: it runs in one thread. DselectError where there are fewer vectors than
        clusters.
        """
        import faiss
        from threadpoolctl import threadpool_limits

        if len(vectors) < clusters:
            raise DselectError(
                f"{len(vectors):,} records cannot make {clusters:,} clusters",
                way_out="fewer --clusters, or more records",
            )
        model = faiss.Kmeans(
            vectors.shape[1], clusters, niter=iterations, nredo=restarts, seed=seed % (1 << 31),
            spherical=self.spherical, min_points_per_centroid=1, max_points_per_centroid=len(vectors),
        )  # fmt: skip
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            with threadpool_limits(1):
                model.train(np.ascontiguousarray(vectors))
        finally:
            faiss.omp_set_num_threads(threads)
        self.centres_ = np.array(model.centroids, np.float32).reshape(clusters, vectors.shape[1])
        labels, _ = self.assign(vectors)
        self.centres_ = np.ascontiguousarray(self.centres_[np.bincount(labels, minlength=clusters) > 0])
        self.words_ = [[] for _ in self.centres_]
        self.trained_on_ = len(vectors)
        return self

    def assign(self, vectors: Rows) -> tuple[Ints, Floats]:
        """Return every vector's cluster and its distance from the centre: int64 (n,), float64 (n,)."""
        from dselect.kernels.vectors import nearest

        if vectors.shape[1] != self.centres.shape[1]:
            raise DselectError(
                f"vectors of {vectors.shape[1]} numbers, but the clusters are of {self.centres.shape[1]}",
                way_out="the encoder they were fitted with",
            )
        return nearest(vectors, self.centres)

    def silhouette(self, vectors: Rows) -> float:
        """Return the mean silhouette (Rousseeuw 1987) of these vectors, -1 to 1; -1 where all are in one cluster."""
        from sklearn.metrics import silhouette_score
        from threadpoolctl import threadpool_limits

        labels, _ = self.assign(vectors)
        if not 1 < len(np.unique(labels)) < len(labels):
            return -1.0
        with threadpool_limits(1):
            return float(silhouette_score(vectors, labels))

    def name(self, texts: Sequence[bytes], labels: Ints) -> Clusters:
        """Name every cluster by the words that mark some of its texts; labels: int64 (n,), the texts' clusters."""
        self.words_ = characteristic_words(texts, labels, len(self))
        return self

    def settings(self) -> dict[str, Any]:
        """Return what a model file says of them."""
        return {"spherical": self.spherical, "words": self.words_, "trained_on": self.trained_on_}

    def arrays(self) -> Arrays:
        """Return what a model file holds of them."""
        return {"centres": self.centres}

    @classmethod
    def from_file(cls, settings: Mapping[str, Any], arrays: Arrays, path: str) -> Clusters:
        """Return the clusters whose `settings` and `arrays` a file holds; DselectError if they are not sound."""
        try:
            centres, words = arrays["centres"], settings["words"]
            model = cls(settings["spherical"])
            model.trained_on_ = settings["trained_on"]
        except KeyError as error:
            raise DselectError(f"not a sound kmeans model: no {error}", where=path) from error
        sound = (
            isinstance(model.spherical, bool)
            and type(model.trained_on_) is int
            and centres.dtype == np.float32
            and centres.ndim == 2
            and min(centres.shape) > 0
            and (np.abs(centres) <= 1e6).all()
            and isinstance(words, list)
            and len(words) == len(centres)
            and all(isinstance(one, list) and all(isinstance(word, str) for word in one) for one in words)
        )
        if not sound:
            raise DselectError("not a sound kmeans model", where=path, way_out="fit it again with --save")
        model.centres_, model.words_ = np.ascontiguousarray(centres), words
        return model


def to_bytes(clusters: Clusters, encoder: Encoder | None) -> bytes:
    """Return clusters and the encoder of their vectors as one safetensors file; without one where they were stored."""
    settings: dict[str, Any] = {"clusters": clusters.settings()}
    arrays = {f"clusters.{name}": array for name, array in clusters.arrays().items()}
    if encoder:
        settings["encoder"] = encoder.settings()
        arrays |= {f"encoder.{name}": array for name, array in encoder.arrays().items()}
    return tables.to_bytes("kmeans", settings, arrays)


def load(path: str, how: SentenceSettings) -> tuple[Clusters, Encoder | None]:
    """Read what `to_bytes` wrote; DselectError if it is not that. how: to compute, where the encoder is a transformer.

    The encoder is None where the clusters were fitted to stored vectors.
    """
    settings, arrays = tables.load(path, "kmeans")

    def part(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        own = settings.get(name)
        if not isinstance(own, dict):
            raise DselectError(f"not a sound kmeans model: no {name}", where=path)
        begin = f"{name}."
        return own, {key.removeprefix(begin): value for key, value in arrays.items() if key.startswith(begin)}

    clusters = Clusters.from_file(*part("clusters"), path)
    encoder = encoders.from_file(*part("encoder"), path, how) if "encoder" in settings else None
    if encoder and encoder.dimension != clusters.centres.shape[1]:
        raise DselectError("not a sound kmeans model: its encoder is another", where=path)
    return clusters, encoder


def grid(records: int) -> list[int]:
    """Return the numbers of clusters that `auto` tries: powers of two from 4, with ten records a cluster or more."""
    sizes = [2**power for power in range(2, 11)]
    return [size for size in sizes if 10 * size <= records] or [min(2, records)]


def characteristic_words(texts: Sequence[bytes], labels: Ints, clusters: int, count: int = WORDS) -> list[list[str]]:
    """Return, for each cluster, the words that tell its texts from the others', best first.

    With p the share of the cluster's texts that have a word, q that of all texts: those with the largest p·ln(p/q),
    the word's part in the divergence of the two. Words are of three letters or more. The first 50 texts of a cluster
    are looked at, 1,000 bytes of each.
    """
    within: list[Counter[str]] = [Counter() for _ in range(clusters)]
    sizes = [0] * clusters
    for text, label in zip(texts, labels.tolist(), strict=True):
        if sizes[label] < PER_CLUSTER:
            sizes[label] += 1
            within[label].update(set(_WORD.findall(text[:BEGINNING].decode(errors="ignore").lower())))
    # every cluster counts alike, however many of its texts were looked at
    overall: dict[str, float] = {}
    for words, size in zip(within, sizes, strict=True):
        for word, found in words.items():
            overall[word] = overall.get(word, 0.0) + found / size
    named = [size for size in sizes if size]
    result = []
    for words, size in zip(within, sizes, strict=True):
        gains = {
            w: n / size * np.log(n / size / (overall[w] / len(named))) for w, n in words.items() if n > 1 or size < 4
        }
        result.append(sorted(gains, key=lambda word: (-gains[word], word))[:count])
    return result
