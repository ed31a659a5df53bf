"""Tries of byte n-grams, and the probabilities that are read off them.

The n-grams of all orders stand in order of (length, bytes): node 0 is the empty context, then come the nodes of one
byte, of two, and so on. A node's children lie side by side, so a walk along a text costs one short search an order: the
context of k bytes ending here has as child the one of k + 1 bytes ending at the next byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types

from dselect.kernels.byte_ngrams import Bytes, Starts, added, joined, readonly, summed

Floats = np.ndarray[Any, np.dtype[np.float64]]


class Trie(NamedTuple):
    """The n-grams of all orders; arrays are read-only.

    labels: uint8 (nodes,), the last byte of each; of a node's children ascending. counts: uint32 or uint64 (nodes,),
    how often the n-gram occurs. inner: the same type, (nodes that may have children + 1, 2): where the children begin
    (they end where the next node's begin), and the sum of their counts.
    """

    labels: Bytes
    counts: np.ndarray[Any, Any]
    inner: np.ndarray[Any, Any]

    @property
    def nbytes(self) -> int:
        """Return the size in memory."""
        return self.labels.nbytes + self.counts.nbytes + self.inner.nbytes


_BYTES, _KEYS, _INTS, _FLOATS = (readonly(item) for item in (types.uint8, types.uint64, types.int64, types.float64))
_WIDTHS = (types.uint32, types.uint64)
_SEARCH = types.int64(_BYTES, types.int64, types.int64, types.uint8)
_HEADS = [types.void(_BYTES, readonly(width, 2), types.int64, width[::1]) for width in _WIDTHS]
_ROWS = [types.void(_BYTES, readonly(width), readonly(width, 2), width[:, ::1]) for width in _WIDTHS]
_BITS = [
    types.void(_BYTES, _INTS, _BYTES, readonly(width), readonly(width, 2), readonly(width), _FLOATS, types.float64[::1])
    for width in _WIDTHS
]
_OBSERVE = [
    types.void(
        _BYTES, _BYTES, readonly(width), readonly(width, 2), types.int64[::1],
        _BYTES, readonly(own), readonly(own, 2), types.int64[::1], types.int64, types.float64[:, :, ::1],
    )
    for width in _WIDTHS for own in _WIDTHS
]  # fmt: skip
_SOUND = [types.int64(_BYTES, readonly(width), readonly(width, 2), types.int64) for width in _WIDTHS]


@njit(types.void(_KEYS, _KEYS, _INTS, types.int64[:, ::1]), cache=True, nogil=True)
def _children(parents: Any, children: Any, counts: Any, inner: Any) -> None:
    """Per parent: where its children begin, and the sum of their counts. Every child has its parent."""
    at = 0
    for parent in range(len(parents)):
        inner[parent, 0] = at
        while at < len(children) and children[at] >> np.uint64(8) == parents[parent]:
            inner[parent, 1] += counts[at]
            at += 1


@njit(_SEARCH, cache=True, nogil=True, inline="always")
def _child(labels: Any, begin: Any, end: Any, byte: Any) -> Any:
    """Return the node with this label, or -1."""
    while end - begin > 8:
        middle = (begin + end) >> 1
        if labels[middle] <= byte:
            begin = middle
        else:
            end = middle
    for node in range(begin, end):
        if labels[node] == byte:
            return node
    return -1


@njit(_HEADS, cache=True, nogil=True)
def _heads(labels: Any, inner: Any, order: Any, heads: Any) -> None:
    """Fill in the nodes of two bytes, by their value, and after them those of one byte; 0 where there is none."""
    for one in range(np.int64(inner[0, 0]), np.int64(inner[1, 0])):
        heads[65536 + np.int64(labels[one])] = one
        if order > 1:
            for two in range(np.int64(inner[one, 0]), np.int64(inner[one + 1, 0])):
                heads[np.int64(labels[one]) << 8 | np.int64(labels[two])] = two


@njit(_ROWS, cache=True, nogil=True)
def _rows(labels: Any, counts: Any, inner: Any, rows: Any) -> None:
    """Fill in what `_bits` asks of a node that may have children."""
    for node in range(len(inner)):
        begin = np.int64(inner[node, 0])
        rows[node, 0], rows[node, 1] = inner[node, 0], inner[node, 1]
        if node < len(inner) - 1:
            rows[node, 2] = counts[node]
            if begin < np.int64(inner[node + 1, 0]):
                rows[node, 3] = labels[begin]


@njit(_BITS, cache=True, nogil=True)
def _bits(  # noqa: PLR0915  one loop: calls would cost more than they hide
    data: Any, ends: Any, labels: Any, counts: Any, rows: Any, heads: Any, mu: Any, bits: Any
) -> None:
    """Per text: -log2 of its probability.

    The probabilities are multiplied as long as float64 holds the product: one logarithm does for many bytes. What the
    next byte will ask of a node is read as soon as the node is known: the processor waits for memory once, not once an
    order; and it lies in one row, so that is one line of the cache. Indices are unsigned, which spares the check for
    negative ones.
    """
    order = len(mu)
    one = np.uint64(1)
    # of the node of the last 0, 1, … bytes: where its children begin and end, their sum, the first one's label
    begins, stops = np.zeros(order + 1, np.uint64), np.zeros(order + 1, np.uint64)
    sums, firsts = np.zeros(order + 1), np.zeros(order + 1, np.uint8)
    begins[0], stops[0], sums[0] = rows[0, 0], rows[1, 0], rows[0, 1]
    start = 0
    for document in range(len(ends)):
        known = 0  # how many of the last bytes have a node
        total, product = 0.0, 1.0
        before = np.uint64(0)
        for at in range(start, ends[document]):
            byte = data[at]
            p = 1 / 256
            reach, known = min(known, order - 1), 0
            begin, stop, context, first = begins[0], stops[0], sums[0], firsts[0]
            k = 0
            while k <= reach:
                child = np.uint64(0)
                if k == 0:
                    child = np.uint64(heads[np.uint64(65536) + np.uint64(byte)])
                elif k == 1:
                    child = np.uint64(heads[before << np.uint64(8) | np.uint64(byte)])
                elif begin < stop:
                    if first == byte:
                        child = begin
                    elif first < byte:
                        left = stop - begin
                        while left > one:
                            half = left >> one
                            begin = begin + half if labels[begin + half] <= byte else begin
                            left -= half
                        child = begin if labels[begin] == byte else child
                if child == 0:
                    break  # what the shorter context never saw, the longer one did not see either
                here = rows[child, 2] if k + 1 < order else counts[child]
                p = (np.float64(here) + mu[k] * p) * (1 / (context + mu[k]))
                k += 1
                known = k
                begin, stop, context, first = begins[k], stops[k], sums[k], firsts[k]
                if k < order:
                    begins[k], stops[k] = rows[child, 0], rows[child + one, 0]
                    sums[k], firsts[k] = rows[child, 1], np.uint8(rows[child, 3])
            while k <= reach:
                p = mu[k] * p * (1 / (context + mu[k]))
                k += 1
                context = sums[k]
            before = np.uint64(byte)
            product *= p
            if product < 1e-100:
                total -= np.log2(product)
                product = 1.0
        bits[document] = total - np.log2(product)
        start = ends[document]


@njit(_OBSERVE, cache=True, nogil=True)
def _observe(
    data: Any, labels: Any, counts: Any, inner: Any, places: Any,
    own_labels: Any, own_counts: Any, own_inner: Any, own_places: Any, times: Any, seen: Any,
) -> None:  # fmt: skip
    """Per byte and order: the counts of the n-gram and of its context, less `times` those of a second trie.

    `places`, `own_places` (order + 1,) hold the nodes of the last bytes, -1 where there is none: between calls, a text
    may go on.
    """
    order = seen.shape[1]
    for at in range(len(data)):
        byte = data[at]
        place, own = places[0], own_places[0]
        for k in range(order):
            after, own_after = places[k + 1], own_places[k + 1]
            here = context = np.int64(0)
            places[k + 1] = own_places[k + 1] = -1
            if place >= 0:
                child = _child(labels, np.int64(inner[place, 0]), np.int64(inner[place + 1, 0]), byte)
                context = np.int64(inner[place, 1])
                if child >= 0:
                    here = np.int64(counts[child])
                    places[k + 1] = child
            if own >= 0:
                child = _child(own_labels, np.int64(own_inner[own, 0]), np.int64(own_inner[own + 1, 0]), byte)
                context -= times * np.int64(own_inner[own, 1])
                if child >= 0:
                    here -= times * np.int64(own_counts[child])
                    own_places[k + 1] = child
            seen[at, k, 0] = max(here, 0)  # of a pruned model more may be taken than there is
            seen[at, k, 1] = max(context, here, 0)
            place, own = after, own_after


@njit(types.float64(types.float64[:, :, ::1], _FLOATS), cache=True, nogil=True)
def _interpolated(seen: Any, mu: Any) -> Any:
    total, product = 0.0, 1.0
    for at in range(seen.shape[0]):
        p = 1 / 256
        for k in range(seen.shape[1]):
            p = (seen[at, k, 0] + mu[k] * p) / (seen[at, k, 1] + mu[k])
        product *= p
        if product < 1e-100:
            total -= np.log2(product)
            product = 1.0
    return total - np.log2(product)


@njit(_SOUND, cache=True, nogil=True)
def _unsound(labels: Any, counts: Any, inner: Any, order: Any) -> Any:
    """Return 0 if the arrays are a trie of this depth, else a number that says what is wrong."""
    last = len(inner) - 1
    if inner[0, 0] != 1 or np.int64(inner[last, 0]) != len(labels) or inner[last, 1] != 0:
        return 1
    level_end, depth = 1, 0
    for node in range(last):
        if node == level_end:  # the first node of the next level: its children begin the one after
            depth += 1
            level_end = np.int64(inner[node, 0])
            if level_end <= node:
                return 2
        begin, end = np.int64(inner[node, 0]), np.int64(inner[node + 1, 0])
        if begin <= node or end < begin or end > len(labels):
            return 3
        total = np.int64(0)
        for child in range(begin, end):
            if counts[child] == 0 or (child > begin and labels[child] <= labels[child - 1]):
                return 4
            total += np.int64(counts[child])
        if total != np.int64(inner[node, 1]) or (node and total > np.int64(counts[node])):
            return 5
    # short texts may not reach the last level
    return 0 if last == level_end and (depth == order - 1 or (depth < order and last == len(labels))) else 6


def trie(starts: Starts) -> Trie:
    """Return the n-grams of all orders, for looking up."""
    levels = [starts[-1]]
    for cut in reversed(starts[:-1]):
        levels.append(added(cut, summed(*levels[-1], 8)))
    levels.append(summed(*levels[-1], 8) if len(levels[-1][0]) else (np.zeros(1, np.uint64), np.zeros(1, np.int64)))
    levels.reverse()  # the empty n-gram first
    parts, offset = [], 0
    for parents, children in pairwise(levels):
        inner = np.zeros((len(parents[0]), 2), np.int64)
        offset += len(parents[0])
        _children(parents[0], *children, inner)
        inner[:, 0] += offset
        parts.append(inner)
    nodes = offset + len(levels[-1][0])
    parts.append(np.array([[nodes, 0]]))
    most = max(nodes, int(levels[0][1][0]))
    width = np.uint32 if most < 2**32 else np.uint64
    labels = np.concatenate([keys.astype(np.uint8) for keys, _ in levels])  # the lowest byte is the last one
    counts = np.concatenate([counts.astype(width) for _, counts in levels])
    return _frozen(labels, counts, np.concatenate([part.astype(width) for part in parts]))


def starts_of(found: Trie, order: int) -> Starts:
    """Return the counts that `trie` was made from."""
    keys, first = np.zeros(1, np.uint64), 0
    starts = []
    for length in range(1, order + 1):
        begins = found.inner[first : first + len(keys) + 1, 0].astype(np.int64)
        children = np.repeat(keys << np.uint64(8), np.diff(begins)) | found.labels[begins[0] : begins[-1]]
        keys, first = children.astype(np.uint64), int(begins[0])
        counts = found.counts[first : first + len(keys)].astype(np.int64)
        if length < order:
            counts = counts - found.inner[first : first + len(keys), 1].astype(np.int64)
        starts.append((keys[counts > 0], counts[counts > 0]))
    return starts


class LookUp(NamedTuple):
    """What `bits` reads beside the trie; of its type.

    rows: (nodes that may have children + 1, 4): where a node's children begin, the sum of their counts, its own count,
    and the label of its first child. heads: (65 536 + 256,), the nodes of two bytes and of one, by their value: they
    are looked up most.
    """

    rows: np.ndarray[Any, Any]
    heads: np.ndarray[Any, Any]


def look_up(found: Trie, order: int) -> LookUp:
    """Prepare a trie for `bits`: 16 bytes a node that may have children, 32 where counts are wide."""
    rows, heads = np.zeros((len(found.inner), 4), found.counts.dtype), np.zeros(65536 + 256, found.counts.dtype)
    _rows(*found, rows)
    _heads(found.labels, found.inner, order, heads)
    return LookUp(rows, heads)


def bits(texts: Sequence[bytes], found: Trie, by: LookUp, mu: Floats) -> Floats:
    """Return -log2 of the probability of every text: float64 (n,), in bits.

    by: what `look_up` returned. mu: float64 (order,), the weight of the shorter context beside the counts of the
    longer one.
    """
    data, ends = joined(texts)
    result = np.zeros(len(ends))
    _bits(data, ends, found.labels, found.counts, *by, mu, result)
    return result


class Without:
    """Looks n-grams up in a trie as if it had not seen some of the texts it was made from.

    own: the trie of those texts; times: how often each is to be left out.
    """

    def __init__(self, found: Trie, own: Trie, times: int, order: int) -> None:
        self.found, self.own, self.times, self.order = found, own, times, order

    def seen(self, text: bytes) -> Floats:
        """Return the counts of the n-gram that ends at each byte, and of its context: float64 (bytes, order, 2)."""
        return next(self._pieces(text, max(len(text), 1)), np.zeros((0, self.order, 2)))

    def bits(self, text: bytes, mu: Floats, piece: int = 1 << 15) -> float:
        """Return -log2 of the probability of a text, in bits; memory does not grow with it."""
        return float(sum(interpolated(seen, mu) for seen in self._pieces(text, piece)))

    def _pieces(self, text: bytes, piece: int) -> Any:
        data = np.frombuffer(text, np.uint8)
        places, own_places = np.full((2, self.order + 1), -1, np.int64)
        places[0] = own_places[0] = 0
        for start in range(0, len(data), piece):
            part = data[start : start + piece]
            seen = np.zeros((len(part), self.order, 2))
            _observe(part, *self.found, places, *self.own, own_places, self.times, seen)
            yield seen


def interpolated(seen: Floats, mu: Floats) -> float:
    """Return -log2 of the probability of bytes whose counts were looked up, in bits. seen: (bytes, order, 2)."""
    return float(_interpolated(seen, mu))


def flaw(labels: Any, counts: Any, inner: Any, order: int) -> str | None:
    """Return what is wrong with arrays that should be a trie of this depth; None if they are sound."""
    if not (
        labels.dtype == np.uint8
        and counts.dtype == inner.dtype
        and counts.dtype in (np.uint32, np.uint64)
        and labels.ndim == counts.ndim == 1
        and inner.ndim == 2
        and inner.shape[1] == 2
        and 2 <= len(inner) <= len(labels) + 1 == len(counts) + 1
    ):
        return "its arrays have other types or shapes"
    return None if not _unsound(labels, counts, inner, order) else "its arrays contradict each other"


def _frozen(*arrays: Any) -> Trie:
    for array in arrays:
        array.setflags(write=False)
    return Trie(*arrays)
