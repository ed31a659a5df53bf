"""Vectors of texts from hashed words: TF-IDF, then a projection that a sample of the pool has decided (LSA).

Deerwester et al. 1990, "Indexing by latent semantic analysis"; the decomposition is randomised (Halko, Martinsson,
Tropp 2011).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from dselect.errors import DselectError, NotFitted
from dselect.models import tables
from dselect.models.tables import Arrays

KIND = "hashed"
BUCKETS = 1 << 18  # of the hash
FEATURES = 1 << 14  # buckets that count: those that most texts of the sample have
MOST = (1 << 16) - 1
DIMENSION, NGRAMS = 128, 1
_POWER, _MORE = 4, 10  # steps of the randomised decomposition, and directions that it drops in the end

Rows = np.ndarray[Any, np.dtype[np.float32]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Keys = np.ndarray[Any, np.dtype[np.uint32]]


class Bags(NamedTuple):
    """N-grams of texts, hashed: where each text's end, int64 (n,); buckets and how often each: uint32 (m,) each."""

    ends: Ints
    buckets: Keys
    counts: Keys

    @classmethod
    def of(cls, texts: Sequence[bytes], ngrams: int) -> Bags:
        """Return those of these texts."""
        from dselect.kernels.bags import bags

        return cls(*bags(texts, ngrams, BUCKETS))

    @classmethod
    def ordered(cls, parts: Sequence[Bags], order: Ints) -> Bags:
        """Return the texts of all parts as one, in this order of their positions."""
        sizes = np.concatenate([np.zeros(0, np.int64), *(np.diff(part.ends, prepend=0) for part in parts)])
        starts = np.cumsum(sizes) - sizes
        ends = np.cumsum(sizes[order])
        # each entry's place: its text's start, and how far it stands into the text
        at = np.repeat(starts[order] - (ends - sizes[order]), sizes[order]) + np.arange(sizes.sum())
        nothing = np.zeros(0, np.uint32)
        buckets, counts = (np.concatenate([nothing, *(part[i] for part in parts)]) for i in (1, 2))
        return cls(ends, buckets[at], counts[at])


class Hashed:
    """Unit vectors from hashed n-grams of words.

    With n texts in the sample, df of them with a feature, and c its count in a text, the text's weight of the feature
    is (1 + ln c) · (1 + ln((1 + n) / (1 + df))). The texts of the sample, as unit rows of such weights, are decomposed;
    a text's vector is its weights projected onto the first right singular vectors, scaled to length 1. Features are the
    16,384 hash buckets that most texts of the sample have. A text without any has the vector 0.

    `features_`: uint32 (features,), their buckets, ascending; `projection_`: float32 (features, dimension), idf
    included.
    """

    alone = False

    def __init__(self, dimension: int = DIMENSION, ngrams: int = NGRAMS, features: int = FEATURES) -> None:
        self.wanted, self.ngrams, self.features = dimension, ngrams, features
        self.features_: Keys | None = None
        self.projection_: Rows | None = None
        self._table: Any = None

    @property
    def dimension(self) -> int:
        """How many numbers a vector has: as many as were wanted, or fewer where the sample is too small for that."""
        return int(self._fitted[1].shape[1])

    @property
    def _fitted(self) -> tuple[Keys, Rows]:
        if self.features_ is None or self.projection_ is None:
            raise NotFitted("this encoder has not been fitted")
        return self.features_, self.projection_

    def fit(self, sample: Bags, seed: int) -> Hashed:
        """Learn from the n-grams of a sample, in the order of the texts' identities; DselectError if it has none."""
        from scipy.sparse import csr_matrix
        from threadpoolctl import threadpool_limits

        texts = len(sample.ends)
        frequencies = np.bincount(sample.buckets, minlength=BUCKETS)
        best = np.lexsort((np.arange(BUCKETS), -frequencies))[: self.features]
        features = np.sort(best[frequencies[best] > 0]).astype(np.uint32)
        if not len(features):
            raise DselectError("the sample to fit the encoder on has no words", way_out="see --fit-on and --text")
        idf = 1 + np.log((1 + texts) / (1 + frequencies[features]))
        column = np.full(BUCKETS, -1)
        column[features] = np.arange(len(features))
        columns = column[sample.buckets]
        there = columns >= 0
        rows = np.repeat(np.arange(texts), np.diff(sample.ends, prepend=0))[there]
        values = (1 + np.log(sample.counts[there])) * idf[columns[there]]
        lengths = np.sqrt(np.bincount(rows, values**2, minlength=texts))
        values = (values / lengths[rows]).astype(np.float32)
        matrix = csr_matrix((values, (rows, columns[there])), shape=(texts, len(features)))
        with threadpool_limits(1):  # a product split over threads is another sum
            directions = _directions(matrix, min(self.wanted, *matrix.shape), seed)
        self.features_ = features
        self.projection_ = np.ascontiguousarray((directions * idf[:, None]).astype(np.float32))
        self._table = None
        return self

    def encode(self, texts: Sequence[bytes]) -> Rows:
        """Return the vector of every text: float32 (n, dimension), unit rows; zeros of a text without features."""
        from dselect.kernels.bags import project

        features, projection = self._fitted
        if self._table is None:
            self._table = np.zeros(BUCKETS, np.uint16)
            self._table[features] = np.arange(1, len(features) + 1)
        return project(texts, self.ngrams, self._table, projection)

    def settings(self) -> dict[str, Any]:
        """Return what a model file says of it; the digest tells it from others."""
        from dselect.kernels.words import unicode_version

        found = blake2b(digest_size=8)
        for array in self._fitted:
            found.update(array.tobytes())
        return {
            "encoder": KIND, "ngrams": self.ngrams, "digest": found.hexdigest(), "unicode": unicode_version(),
        }  # fmt: skip

    def arrays(self) -> Arrays:
        """Return what a model file holds of it."""
        features, projection = self._fitted
        return {"features": features, "projection": projection}

    def to_bytes(self) -> bytes:
        """Return the fitted encoder as one safetensors file."""
        return tables.to_bytes("encoder", self.settings(), self.arrays())

    @classmethod
    def load(cls, path: str) -> Hashed:
        """Read an encoder that `to_bytes` wrote; DselectError if it is none."""
        settings, arrays = tables.load(path, "encoder")
        return cls.from_file(settings, arrays, path)

    @classmethod
    def from_file(cls, settings: Mapping[str, Any], arrays: Arrays, path: str) -> Hashed:
        """Return the encoder whose `settings` and `arrays` a file holds; DselectError if they are not sound."""
        try:
            features, projection, ngrams = arrays["features"], arrays["projection"], settings["ngrams"]
        except KeyError as error:
            raise DselectError(f"not a sound encoder: no {error}", where=path) from error
        sound = (
            type(ngrams) is int
            and 1 <= ngrams <= 64
            and features.dtype == np.uint32
            and features.ndim == 1
            and 0 < len(features) <= MOST
            and (features[1:] > features[:-1]).all()
            and int(features[-1]) < BUCKETS
            and projection.dtype == np.float32
            and projection.ndim == 2
            and len(projection) == len(features)
            and projection.shape[1] > 0
            and (np.abs(projection) <= 1e6).all()
        )
        if not sound:
            raise DselectError("not a sound encoder", where=path, way_out="fit it again with --save")
        model = cls(projection.shape[1], ngrams, len(features))
        model.features_, model.projection_ = features, np.ascontiguousarray(projection)
        return model


def _directions(matrix: Any, count: int, seed: int) -> Rows:
    """Return the first right singular vectors of a sparse matrix (n, m), as columns: float32 (m, count).

    Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1: an orthonormal basis of the range, found by subspace
    iteration from random vectors, and the decomposition within it.
    """
    random = np.random.default_rng(seed)
    columns = min(count + _MORE, *matrix.shape)
    basis = matrix @ random.standard_normal((matrix.shape[1], columns), np.float32)
    for _ in range(_POWER):
        across, _ = np.linalg.qr(matrix.T @ np.linalg.qr(basis)[0])
        basis = matrix @ across
    within = matrix.T @ np.linalg.qr(basis)[0]
    left, _, _ = np.linalg.svd(within, full_matrices=False)
    return np.asarray(left[:, :count])
