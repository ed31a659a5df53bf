"""Near duplicates within clusters of vectors."""
# Abbas et al. 2023, "SemDeDup: Data-efficient learning at web-scale through semantic deduplication".

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from dselect.embedding import VectorSource
from dselect.errors import DselectError
from dselect.pool import Pool
from dselect.records.batch import Batch

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class _Vectors:
    """Vectors of a block: the work of the pass for near duplicates."""

    source: VectorSource

    def __call__(self, batch: Batch) -> bytes:
        """Return the vectors, end to end."""
        return self.source.of(batch).tobytes()


def near_duplicates(pool: Pool, source: VectorSource, labels: Ints, best_first: Ints, threshold: float) -> Any:
    """Tell of every record whether its cosine with a better one of its cluster is above the threshold: bool (n,).

    SemDeDup (Abbas et al. 2023), which keeps what is farthest from the centre; here what ranks best. A record that is
    itself left out still speaks against others, as in their code. Vectors are kept in a temporary file, and in memory
    those of one cluster.
    """
    from dselect.kernels.vectors import alike

    dropped = np.zeros(len(labels), bool)
    with tempfile.TemporaryFile(dir=pool.spool_folder, prefix="dselect-") as file:
        try:
            for _, data in pool.map(_Vectors(source), "vectors"):
                file.write(data)
            file.flush()
        except OSError as error:
            raise DselectError(f"cannot keep vectors: {error.strerror}", way_out="--tmp DIR names a folder") from error
        if not len(labels):
            return dropped
        vectors = np.memmap(file, np.float32, "r", shape=(len(labels), source.dimension))
        by_cluster = best_first[np.argsort(labels[best_first], kind="stable")]
        ends = np.cumsum(np.bincount(labels[best_first]))
        for cluster, end in enumerate(ends.tolist()):
            members = by_cluster[ends[cluster - 1] if cluster else 0 : end]
            dropped[members] = alike(_unit(vectors[members]), threshold)
    return dropped


def _unit(vectors: Any) -> Any:
    lengths = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1))
    return (vectors / np.where(lengths, lengths, 1)[:, None]).astype(np.float32)
