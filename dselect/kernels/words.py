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
_SIGMA, _DOTTED_I = "Σ".encode(), "İ".encode()
_CHAIN = np.uint64(0x9E3779B97F4A7C15)

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

# A read-only view is what frombuffer gives; saying so spares a second compilation.
BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_LOWER = types.int64(BYTES, types.int64[::1], types.boolean[::1], types.int32[::1], types.uint8[::1])
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


@cache
def _lower_cases() -> np.ndarray[Any, np.dtype[np.int32]]:
    """Return what to add to a code point for its lower case: int32 (0x110000,); pages of zeros are never touched."""
    found = np.zeros(0x110000, np.int32)
    for line in (Path(__file__).parent / "lower_cases.txt").read_text("ascii").splitlines()[1:]:
        first, last, step, delta = line.split()
        found[int(first, 16) : int(last, 16) + 1 : int(step)] = int(delta)
    return found


def lower_bytes(texts: Sequence[str] | Sequence[bytes]) -> tuple[Bytes, Ints]:
    """Return the lower-cased texts end to end as UTF-8, and where each ends: uint8 (bytes,), int64 (n,).

    The texts may be UTF-8 already.
    """
    # Python lower-cases ASCII at the speed of memory and the rest slowly; only it knows the two that need more than a
    # table: Σ has another form at the end of a word, İ becomes two code points.
    parts = [text if isinstance(text, bytes) else text.encode() for text in texts]
    done = [True] * len(parts)
    for i, part in enumerate(parts):
        if part.isascii():
            parts[i] = part.lower()
        elif _SIGMA in part or _DOTTED_I in part:
            parts[i] = part.decode().lower().encode()
        else:
            done[i] = False
    data = np.frombuffer(b"".join(parts), np.uint8)
    ends = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))
    if all(done):
        return data, ends
    room = np.empty(len(data) + len(data) // 2, np.uint8)  # two bytes become three in a few letters
    size = _lower(data, ends, np.array(done), _lower_cases(), room)
    return room[:size], ends


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


@njit(types.int64(types.uint64[::1], types.int64, types.int64), cache=True, nogil=True, inline="always")
def keep_last(hashes: Any, filled: Any, longest: Any) -> Any:
    """Move the last words to the front, where the n-grams of the next ones begin; return how many."""
    kept = min(filled, longest - 1)
    for i in range(kept):
        hashes[i] = hashes[filled - kept + i]
    return kept


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


@njit(types.int64(types.int64, types.uint8[::1], types.int64), cache=True, nogil=True)
def _encode(code: Any, out: Any, at: Any) -> Any:
    """Write a code point as UTF-8 and return where it ends."""
    if code < 0x80:
        out[at] = code
        return at + 1
    if code < 0x800:
        out[at] = 0xC0 | code >> 6
    else:
        if code < 0x10000:
            out[at] = 0xE0 | code >> 12
        else:
            out[at] = 0xF0 | code >> 18
            at += 1
            out[at] = 0x80 | (code >> 12 & 0x3F)
        at += 1
        out[at] = 0x80 | (code >> 6 & 0x3F)
    out[at + 1] = 0x80 | (code & 0x3F)
    return at + 2


@njit(_LOWER, cache=True, nogil=True)
def _lower(data: Any, ends: Any, done: Any, deltas: Any, out: Any) -> Any:
    """Write the texts with every code point in lower case, but those done as they are; move their ends to the new."""
    start, filled = 0, 0
    for document in range(len(ends)):
        stop = ends[document]
        if done[document]:
            out[filled : filled + stop - start] = data[start:stop]
            filled += stop - start
            start = stop
        while start < stop:
            first = data[start]
            if first < 0x80:
                out[filled] = first + 32 if 65 <= first <= 90 else first
                filled += 1
                start += 1
                continue
            code = decode(data, start)
            lower = code + deltas[code]
            if lower == code:
                for _ in range(width(first)):
                    out[filled] = data[start]
                    filled += 1
                    start += 1
            else:
                start += width(first)
                filled = _encode(lower, out, filled)
        ends[document] = filled
    return filled


@njit(_NEXT, cache=True, nogil=True)
def next_words(data: Any, at: Any, stop: Any, classes: Any, hashes: Any, filled: Any) -> Any:
    """Append word hashes until the array is full or the text ends; return (where to go on, how many are filled)."""
    begun = filled
    while at < stop and filled < len(hashes):
        # A byte ends at most one word, so this many fit and need no check. Nothing here branches on where a word ends,
        # which no processor can predict: a hash is stored at every byte, and counted where a word has ended.
        limit = min(stop, at + len(hashes) - filled)
        h, before = FNV_START, np.uint8(SPACE)
        while at < limit:
            first = data[at]
            kind = classes[first] if first < 0x80 else classes[decode(data, at)]
            hashes[filled] = h
            filled += (kind != before) & (before != SPACE)
            h = h if kind == before else FNV_START
            before = kind
            h = (h ^ np.uint64(first)) * FNV_PRIME
            at += 1
            if first >= 0x80:
                for _ in range(width(first) - 1):
                    h = (h ^ np.uint64(data[at])) * FNV_PRIME
                    at += 1
        if before == SPACE:
            continue
        while at < stop:  # the rest of a word that the limit cut
            first = data[at]
            if (classes[first] if first < 0x80 else classes[decode(data, at)]) != before:
                break
            for _ in range(width(first)):
                h = (h ^ np.uint64(data[at])) * FNV_PRIME
                at += 1
        hashes[filled] = h
        filled += 1
    for i in range(begun, filled):
        hashes[i] = mix(hashes[i])
    return at, filled
