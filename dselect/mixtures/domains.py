"""Which domain a record is of: what a field says, or which of some merged clusters its text belongs to."""

from __future__ import annotations

import base64
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import zstandard

from dselect.embedding import Encoded, draw_vectors
from dselect.errors import DselectError
from dselect.models import kmeans
from dselect.models.encoders import Encoder
from dselect.models.kmeans import Clusters, characteristic_words
from dselect.models.sentences import SentenceSettings
from dselect.pipeline import refuse_missing
from dselect.pool import Pool
from dselect.records.batch import Batch

POINTS = 256  # records a cluster that clusters are fitted to
LONGEST = 1 << 30  # bytes of a cluster model in a file

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


class Domains(Protocol):
    """How the domain of a record is told. It must pickle."""

    def of(self, batch: Batch) -> list[str | None]:
        """Return the name of each record's domain; None where it is of none, and is left out."""

    def told(self) -> dict[str, Any]:
        """Return what a file of weights says about it, as JSON."""


@dataclass(frozen=True)
class Field:
    """A field of the records names their domain."""

    name: str

    def of(self, batch: Batch) -> list[str | None]:
        """Return what the field says; DselectError where a record lacks it."""
        labels = batch.labels(self.name)
        if None in labels:
            refuse_missing(batch, self.name, labels.index(None), "--within FIELD, one that every record has")
        return labels

    def told(self) -> dict[str, Any]:
        """Return the field's name."""
        return {"within": self.name}


@dataclass(frozen=True)
class Clustered:
    """Clusters of texts, merged into domains named by words. groups: the domain of each cluster, -1 of one pruned."""

    clusters: Clusters
    encoder: Encoder
    groups: Sequence[int]
    names: Sequence[str]

    def of(self, batch: Batch) -> list[str | None]:
        """Return the domain of the cluster whose centre is nearest."""
        if not len(batch):
            return []
        labels, _ = self.clusters.assign(Encoded(self.encoder).of(batch))
        groups = [self.groups[label] for label in labels.tolist()]
        return [self.names[group] if group >= 0 else None for group in groups]

    def told(self) -> dict[str, Any]:
        """Return the model itself: encoder, centres, and what became of them."""
        model = zstandard.compress(kmeans.to_bytes(self.clusters, self.encoder), 3)
        told = {"groups": list(self.groups), "names": list(self.names), "model": base64.b64encode(model).decode()}
        return {"clusters": told}

    @classmethod
    def read(cls, found: Mapping[str, Any], path: str) -> Clustered:
        """Return what `told` gave; DselectError if it is not that."""
        try:
            groups, names = list(found["groups"]), list(found["names"])
            model = zstandard.ZstdDecompressor().decompress(
                base64.b64decode(found["model"], validate=True), max_output_size=LONGEST
            )
            sound = all(type(group) is int and -1 <= group < len(names) for group in groups)
            sound = sound and all(isinstance(name, str) for name in names)
        except (KeyError, TypeError, ValueError, zstandard.ZstdError) as error:
            raise DselectError(f"not a sound mixture: {error}", where=path) from error
        with tempfile.TemporaryDirectory(prefix="dselect-") as folder:
            file = Path(folder) / "clusters"
            file.write_bytes(model)
            try:
                clusters, encoder = kmeans.load(str(file), SentenceSettings("auto", "float32", 32, 1))
            except DselectError as error:
                raise DselectError(f"its clusters: {error.what}", where=path, way_out=error.way_out) from error
        if not sound or encoder is None or len(groups) != len(clusters):
            raise DselectError("not a sound mixture: its clusters and domains do not agree", where=path)
        return cls(clusters, encoder, groups, names)


@dataclass(frozen=True)
class _Values:
    """The cluster of every record, and a number it carries: the work of the pass that prunes."""

    clusters: Clusters
    encoder: Encoder
    name: str

    def __call__(self, batch: Batch) -> tuple[Ints, Floats]:
        """Return clusters and numbers; DselectError where a record lacks it."""
        values = batch.column(self.name)
        if np.isnan(values).any():
            refuse_missing(batch, self.name, int(np.isnan(values).argmax()), "--prune-by names a number of all records")
        if not len(batch):
            return np.zeros(0, np.int64), values
        return self.clusters.assign(Encoded(self.encoder).of(batch))[0], values


def pruned(pool: Pool, clusters: Clusters, encoder: Encoder, name: str, below: float) -> Any:
    """Return which clusters stay: those whose records' mean of a number is not below; bool (k,)."""
    parts = [found for _, found in pool.map(_Values(clusters, encoder, name), "pruning")]
    labels = np.concatenate([np.zeros(0, np.int64), *(part[0] for part in parts)])
    values = np.concatenate([np.zeros(0), *(part[1] for part in parts)])
    order = np.argsort(labels, kind="stable")
    groups = np.split(values[order], np.cumsum(np.bincount(labels, minlength=len(clusters)))[:-1])
    # exactly rounded sums: the order of the records must not decide
    return np.array([bool(len(one)) and math.fsum(one) / len(one) >= below for one in groups])


def merged(centres: Any, domains: int) -> Ints:
    """Return the domain of each cluster, from 0: the centres joined by Ward's linkage until so many are left."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(centres) <= domains:
        return np.arange(len(centres))
    tree = linkage(np.asarray(centres, np.float64), "ward")
    return np.asarray(fcluster(tree, domains, "maxclust"), np.int64) - 1


def fit_domains(
    pool: Pool,
    encoder: Encoder,
    clusters: int,
    domains: int,
    seed: int,
    prune: tuple[str, float] | None = None,
) -> Clustered:
    """Cluster the pool, drop clusters by the mean of a number, and merge the others to domains with names.

    The largest domain, in a sample of the pool, comes first. prune: (field, what its mean must reach).
    """
    drawn = draw_vectors(pool, Encoded(encoder), POINTS * clusters, seed)
    if not drawn.of:
        raise DselectError("the pool has no records to make clusters of", where=pool.name)
    model = Clusters().fit(drawn.vectors, clusters, seed)
    labels, _ = model.assign(drawn.vectors)
    model.name(drawn.texts, labels)
    stays = np.ones(len(model), bool) if prune is None else pruned(pool, model, encoder, *prune)
    if stays.sum() < 2:
        raise DselectError(
            f"{int(stays.sum())} of {len(model)} clusters reach the mean asked for", way_out="a lower --prune-below"
        )
    groups = np.full(len(model), -1)
    groups[stays] = merged(model.centres[stays], domains)
    held = np.bincount(groups[labels][groups[labels] >= 0], minlength=groups.max() + 1)
    rank = np.argsort(np.argsort(-held, kind="stable"), kind="stable")
    groups[stays] = rank[groups[stays]]
    inside = groups[labels] >= 0
    texts = [text for text, there in zip(drawn.texts, inside.tolist(), strict=True) if there]
    words = characteristic_words(texts, groups[labels][inside], len(held))
    names = [f"{number:02d} {' '.join(some)}".strip() for number, some in enumerate(words, 1)]
    return Clustered(model, encoder, groups.tolist(), names)
