"""A uniform sample of a stream, of bounded size: the same for any order of the records and any division of the work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dselect.selection import ranks

PARTS = 256  # that wait to be joined
SAMPLE = 65_536  # quantiles are within half a percent of the stream's

Keys = np.ndarray[Any, np.dtype[np.uint64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]


class BottomK:
    """The records with the smallest keys, and columns of numbers about them (bottom-k sampling, Cohen 2007).

    A key is a hash of the record, so the smallest are a uniform sample; equal keys are decided by the columns. Samples
    merge: `add` what another one holds.
    """

    def __init__(self, size: int = SAMPLE) -> None:
        self.size = size
        self._parts: list[tuple[Keys, Mapping[str, Floats]]] = []
        self._held = 0
        self._largest = np.uint64(2**64 - 1)  # keys above cannot be among the smallest any more

    def add(self, keys: Keys, columns: Mapping[str, Floats]) -> None:
        """Offer records: uint64 (n,) keys and float64 (n,) columns; a column others have and these lack is NaN."""
        near = keys <= self._largest
        if not near.all():
            keys, columns = keys[near], {name: column[near] for name, column in columns.items()}
        if len(keys):
            self._parts.append((keys, columns))
            self._held += len(keys)
        if self._held > 4 * self.size:
            self._compact()
        elif len(self._parts) > PARTS:  # late in a stream few are near: what surrounds them would be most of it
            self._join()

    def part(self, column: str, value: float) -> BottomK:
        """Return the sample of those records alone that have this value in a column."""
        self._join()
        found = BottomK(self.size)
        for keys, columns in self._parts:
            at = columns[column] == value
            found.add(keys[at], {name: numbers[at] for name, numbers in columns.items()})
        return found

    def result(self) -> tuple[Keys, dict[str, Floats]]:
        """Return the keys of the sample, ascending, and its columns in the order of their names."""
        self._compact()
        keys, columns = self._parts[0] if self._parts else (np.zeros(0, np.uint64), {})
        return keys, dict(columns)

    def _join(self) -> None:
        """Make one part of all."""
        if len(self._parts) > 1:
            names = sorted({name for _, columns in self._parts for name in columns})
            joined = {
                name: np.concatenate([columns.get(name, np.full(len(keys), np.nan)) for keys, columns in self._parts])
                for name in names
            }
            self._parts = [(np.concatenate([keys for keys, _ in self._parts]), joined)]

    def _compact(self) -> None:
        """Keep no more than the sample, in order."""
        self._join()
        if not self._parts:
            return
        keys, columns = self._parts[0]
        near = np.arange(len(keys))
        if len(keys) > self.size:
            near = np.flatnonzero(keys <= np.partition(keys, self.size - 1)[self.size - 1])
        decide = [columns[name][near] for name in sorted(columns, reverse=True)]
        order = near[np.lexsort([*decide, keys[near]])][: self.size]
        self._parts = [(keys[order], {name: columns[name][order] for name in sorted(columns)})]
        self._held = len(order)
        if len(order) == self.size:
            self._largest = self._parts[0][0][-1]


def spearman(first: Floats, second: Floats) -> float | None:
    """Return the rank correlation of two columns, ties sharing their mean rank; None where either is constant."""
    if len(first) < 2:
        return None
    a, b = ranks(first) - 0.5, ranks(second) - 0.5
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale else None


class Distinct:
    """How often values occur, of the distinct ones with the smallest hashes (KMV; Bar-Yossef et al. 2002).

    Of those it holds the counts are exact, so what it says of them holds of a uniform sample of the distinct values; of
    all of them, where there are no more than it holds.
    """

    def __init__(self, size: int = SAMPLE) -> None:
        self.size = size
        self.hashes = np.zeros(0, np.uint64)  # ascending
        self.counts = np.zeros(0, np.int64)
        self.owners = np.zeros(0, np.uint64)  # the smallest identity of those that have the value
        self.whole = True  # whether it holds every value there was
        self._waiting: list[tuple[Keys, Keys]] = []
        self._held = 0

    def add(self, hashes: Keys, owners: Keys) -> None:
        """Count values, by their hashes: uint64 (n,) each. `settle` before anything is read."""
        if not self.whole:
            near = hashes <= self.hashes[-1]
            hashes, owners = hashes[near], owners[near]
        self._waiting.append((hashes, owners))
        self._held += len(hashes)
        if self._held > 2 * self.size or len(self._waiting) > PARTS:
            self.settle()

    def settle(self) -> Distinct:
        """Count what waits, keep no more than `size` values, return self."""
        hashes = np.concatenate([self.hashes, *(part for part, _ in self._waiting)])
        owners = np.concatenate([self.owners, *(part for _, part in self._waiting)])
        self._waiting, self._held = [], 0
        if len(hashes) > len(self.hashes):
            counts = np.concatenate([self.counts, np.ones(len(hashes) - len(self.counts), np.int64)])
            order = np.lexsort((owners, hashes))
            found, first = np.unique(hashes[order], return_index=True)
            self.whole &= len(found) <= self.size
            self.hashes = found[: self.size]
            self.counts = np.add.reduceat(counts[order], first)[: self.size]
            self.owners = owners[order][first][: self.size]
        return self

    @property
    def share_repeated(self) -> float:
        """Return which share of all occurrences has a value that was there before."""
        occurrences = int(self.counts.sum())
        return 1 - len(self.counts) / occurrences if occurrences else 0.0
