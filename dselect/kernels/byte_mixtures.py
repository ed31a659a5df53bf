"""Counts of a target's own byte n-grams in other texts, and what any mixture of these counts makes of the target.

A walk along a text keeps to the longest n-gram of the target that ends at each byte (Aho and Corasick 1975) and counts
that one only. Each n-gram's suffix, without its first byte, is of the target too, so the counts of all n-grams are sums
along the suffixes. Counts add, and so do shares of them: no model needs to be trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types

from dselect.kernels import byte_tries
from dselect.kernels.byte_ngrams import Counted, Ints, Keys, count, joined, readonly, summed
from dselect.kernels.byte_tries import Floats, Trie, _child

_BYTES, _INTS, _FLOATS = (readonly(item) for item in (types.uint8, types.int64, types.float64))
_NODES, _KEYS = readonly(types.uint32), readonly(types.uint64)


class Automaton(NamedTuple):
    """The n-grams of a target, in order of (length, bytes); node 0 is the empty one.

    labels: uint8 (nodes,), the last byte. begins: int64 (nodes + 1,), where a node's children begin. parents, suffixes:
    int64 (nodes,), the n-gram without its last and without its first byte. depths: uint8 (nodes,), its length.
    """

    labels: Any
    begins: Ints
    parents: Ints
    suffixes: Ints
    depths: Any


@njit(types.void(_BYTES, _INTS, types.int64[::1], types.int64[::1], types.uint8[::1]), cache=True, nogil=True)
def _link(labels: Any, begins: Any, parents: Any, suffixes: Any, depths: Any) -> None:
    """Fill in what each node's parent, suffix and depth are; nodes stand in order of depth."""
    for node in range(len(labels)):
        for child in range(begins[node], begins[node + 1]):
            parents[child] = node
            depths[child] = depths[node] + 1
            if node > 0:
                short = suffixes[node]
                suffixes[child] = _child(labels, begins[short], begins[short + 1], labels[child])


@njit(
    types.int64(
        _BYTES, _INTS, _INTS, _BYTES, _INTS, _INTS, _BYTES, types.int64, types.uint64[::1], types.uint64[::1],
        types.int64[::1],
    ),
    cache=True, nogil=True,
)  # fmt: skip
def _walk(
    data: Any, ends: Any, groups: Any, labels: Any, begins: Any, suffixes: Any, depths: Any, order: Any,
    hits: Any, lasts: Any, filled: Any,
) -> Any:  # fmt: skip
    """Per byte the longest n-gram that ends there, and per text the longest context it ends with: group << 32 | node.

    Bytes that the target does not have are left out. Returns how many bytes are in; `filled[0]`: how many texts.
    """
    start = 0
    found = np.int64(0)
    for document in range(len(ends)):
        group = np.uint64(groups[document]) << np.uint64(32)
        node = np.int64(0)
        for at in range(start, ends[document]):
            byte = data[at]
            if depths[node] == order:
                node = suffixes[node]
            while True:
                child = _child(labels, begins[node], begins[node + 1], byte)
                if child >= 0:
                    node = child
                    hits[found] = group | np.uint64(node)
                    found += 1
                    break
                if node == 0:
                    break
                node = suffixes[node]
        if depths[node] == order:
            node = suffixes[node]
        if node > 0:
            lasts[filled[0]] = group | np.uint64(node)
            filled[0] += 1
        start = ends[document]
    return found


@njit(types.void(_INTS, _NODES, _NODES, _FLOATS, types.float64[::1]), cache=True, nogil=True)
def _mix(offsets: Any, nodes: Any, counts: Any, shares: Any, total: Any) -> None:
    """Add up each group's counts times its share."""
    for group in range(len(shares)):
        share = shares[group]
        if share > 0:
            for at in range(offsets[group], offsets[group + 1]):
                total[nodes[at]] += share * counts[at]


@njit(
    types.void(
        _INTS, _INTS, _BYTES, types.float64[::1], types.float64[::1], types.float64, _FLOATS, types.float64[::1]
    ),
    cache=True, nogil=True,
)  # fmt: skip
def _predict(parents: Any, suffixes: Any, depths: Any, total: Any, ends: Any, size: Any, mu: Any, p: Any) -> None:
    """Fill in the probability of every n-gram's last byte after the others, from counts of longest n-grams."""
    for node in range(len(parents) - 1, 0, -1):
        total[suffixes[node]] += total[node]
        ends[suffixes[node]] += ends[node]
    total[0], ends[0] = size, 0.0  # every byte follows the empty context
    p[0] = 1 / 256
    for node in range(1, len(parents)):
        parent = parents[node]
        weight = mu[depths[node] - 1]
        context = max(total[parent] - ends[parent], 0.0)
        p[node] = (total[node] + weight * p[suffixes[node]]) / (context + weight)


def automaton(texts: Sequence[bytes], order: int) -> Automaton:
    """Return the n-grams of these texts up to this length."""
    found: Trie = byte_tries.trie(count(texts, order))
    nodes = len(found.labels)
    begins = np.full(nodes + 1, nodes, np.int64)
    begins[: len(found.inner)] = found.inner[:, 0]
    parents, suffixes = np.zeros(nodes, np.int64), np.zeros(nodes, np.int64)
    depths = np.zeros(nodes, np.uint8)
    _link(found.labels, begins, parents, suffixes, depths)
    return Automaton(found.labels, begins, parents, suffixes, depths)


def walk(by: Automaton, texts: Sequence[bytes], groups: Ints, order: int) -> tuple[Counted, Counted]:
    """Return how often each n-gram of the automaton is the longest at a byte, and the longest context at a text's end.

    groups: int64 (n,), what each text is counted for. Both as ascending keys group << 32 | node with counts.
    """
    data, ends = joined(texts)
    hits, lasts = np.empty(len(data), np.uint64), np.empty(len(ends), np.uint64)
    filled = np.zeros(1, np.int64)
    found = _walk(data, ends, groups, by.labels, by.begins, by.suffixes, by.depths, order, hits, lasts, filled)
    return summed(np.sort(hits[:found])), summed(np.sort(lasts[: filled[0]]))


class Grouped(NamedTuple):
    """Counts by group: those of group g are at offsets[g] to offsets[g + 1]. int64 (groups + 1,), uint32, uint32."""

    offsets: Ints
    nodes: Any
    counts: Any


def grouped(counted: Counted, groups: int) -> Grouped:
    """Return what `walk` counted, added up, by group."""
    keys, counts = counted
    offsets = np.searchsorted(keys, np.arange(groups + 1, dtype=np.uint64) << np.uint64(32))
    nodes = (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    return Grouped(offsets.astype(np.int64), nodes, np.minimum(counts, 2**32 - 1).astype(np.uint32))


def probabilities(by: Automaton, hits: Grouped, lasts: Grouped, shares: Floats, size: float, mu: Floats) -> Floats:
    """Return the probability of the last byte of every n-gram after the others: float64 (nodes,).

    shares: float64 (groups,), how much of each group's counts the model has seen; size: its bytes; mu: float64
    (order,), as in `byte_tries.bits`.
    """
    total, ends, p = (np.zeros(len(by.labels)) for _ in range(3))
    _mix(*hits, shares, total)
    _mix(*lasts, shares, ends)
    _predict(by.parents, by.suffixes, by.depths, total, ends, size, mu, p)
    return p


def uses(by: Automaton, texts: Sequence[bytes], order: int) -> tuple[Keys, Ints]:
    """Return which n-grams predict the bytes of these texts, and how often each: the longest at each byte."""
    return walk(by, texts, np.zeros(len(texts), np.int64), order)[0]
