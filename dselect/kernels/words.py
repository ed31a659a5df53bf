"""Code points of UTF-8, their classes, and hashes of words: what every loop over text begins with.

A code point's class comes from a shipped table, so that words do not change with the Python that runs. A word's hash is
64-bit FNV-1a over its UTF-8 bytes, finished with a mixer; hashes are chained into those of longer things.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit, types

SPACE, WORD, OTHER, LETTER = 0, 1, 2, 3

FNV_START = np.uint64(0xCBF29CE484222325)
FNV_PRIME = np.uint64(0x100000001B3)
_CHAIN = np.uint64(0x9E3779B97F4A7C15)

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

# A read-only view is what frombuffer gives; saying so spares a second compilation.
BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_NEXT = types.Tuple((types.int64, types.int64))(
    BYTES, types.int64, types.int64, types.uint8[::1], types.uint64[::1], types.int64
)


@cache
def word_classes() -> Bytes:
    """Return the class of every code point: uint8 (0x110000,), SPACE, WORD or OTHER."""
    classes = letter_classes()
    return np.where(classes == LETTER, np.uint8(WORD), classes)


@cache
def letter_classes() -> Bytes:
    """Return the class of every code point, letters apart: uint8 (0x110000,), SPACE, WORD, OTHER or LETTER."""
    starts, classes = [], []
    for line in _table().splitlines()[1:]:
        start, kind = line.split()
        starts.append(int(start, 16))
        classes.append(int(kind))
    lengths = np.diff([*starts, 0x110000])
    return np.repeat(np.array(classes, np.uint8), lengths)


@cache
def unicode_version() -> str:
    """Return the Unicode version of the shipped table, for manifests and model files."""
    return _table().split(":")[0].removeprefix("# Unicode ")


def _table() -> str:
    return (Path(__file__).parent / "word_classes.txt").read_text("ascii")


def lower_bytes(texts: Sequence[str]) -> tuple[Bytes, Ints]:
    """Return the lower-cased texts end to end as UTF-8, and where each ends: uint8 (bytes,), int64 (n,)."""
    parts = [text.lower().encode() for text in texts]
    ends = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))
    return np.frombuffer(b"".join(parts), np.uint8), ends


@njit(types.uint64(types.uint64), cache=True, nogil=True, inline="always")
def mix(h: Any) -> Any:
    """Spread every bit of h over the result (the finaliser of MurmurHash3)."""
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(33))


@njit(types.uint64(types.uint64, types.uint64), cache=True, nogil=True, inline="always")
def chain(h: Any, word: Any) -> Any:
    """Add one more word to the hash of an n-gram; the word hashes are mixed already, so one multiplication does."""
    h = (h + word) * _CHAIN
    return h ^ (h >> np.uint64(32))


@njit(types.int64(types.uint8), cache=True, nogil=True, inline="always")
def width(first: Any) -> Any:
    """Return how many bytes the code point takes that begins with this byte."""
    return 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


@njit(types.int64(BYTES, types.int64), cache=True, nogil=True)
def decode(data: Any, at: Any) -> Any:
    """Return the code point of the multi-byte sequence that begins at this place."""
    first = np.int64(data[at])
    low = np.int64(data[at + 1]) & 0x3F
    if first < 0xE0:
        return (first & 0x1F) << 6 | low
    low = low << 6 | (np.int64(data[at + 2]) & 0x3F)
    if first < 0xF0:
        return (first & 0x0F) << 12 | low
    return (first & 0x07) << 18 | low << 6 | (np.int64(data[at + 3]) & 0x3F)


@njit(_NEXT, cache=True, nogil=True)
def next_words(data: Any, at: Any, stop: Any, classes: Any, hashes: Any, filled: Any) -> Any:
    """Append word hashes until the array is full or the text ends; return (where to go on, how many are filled)."""
    while at < stop:
        first = data[at]
        if first < 0x80:
            kind = classes[first]
            if kind == SPACE:
                at += 1
                continue
        else:
            kind = classes[decode(data, at)]
            if kind == SPACE:
                at += width(first)
                continue
        h = FNV_START
        while True:  # the code points of one word
            if first < 0x80:
                h = (h ^ np.uint64(first)) * FNV_PRIME
                at += 1
            else:
                for _ in range(width(first)):
                    h = (h ^ np.uint64(data[at])) * FNV_PRIME
                    at += 1
            if at == stop:
                break
            first = data[at]
            if first < 0x80:
                if classes[first] != kind:
                    break
            elif classes[decode(data, at)] != kind:
                break
        hashes[filled] = mix(h)
        filled += 1
        if filled == len(hashes):
            break
    return at, filled
