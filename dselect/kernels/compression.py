"""How many bytes a target takes once a compressor has seen a text: by zlib, exactly, or by a counter of matches.

Both look for repetitions as deflate does (RFC 1951): a match is 3 to 258 bytes long and begins at most 32 KiB back.
The counter codes nothing. It parses a target as zlib's level 6 does, lazily, with the text's matches from chains of
positions that share three bytes and the target's own matches found beforehand, and prices what it parsed by the
entropy of its literals, lengths and distances: what Huffman codes made for it would nearly take.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types

from dselect.kernels.words import BYTES, Bytes, Floats, Ints

GZIP = 18  # bytes of a gzip file around its deflate stream: the sizes are those of gzip.compress
REACH = 32_768  # deflate looks no further back, in bytes

_SHORTEST, _LONGEST = 3, 258  # bytes of a match
_NEAR = 4096  # a match of three bytes from further back costs more than its literals: zlib's TOO_FAR
_LAZY = 16  # a match shorter than this waits for a longer one a byte later, as at zlib's level 6
_DEPTH = 8  # positions of a chain that are tried: twice as many gain nothing that can be seen in a rank
_OWN_DEPTH = 128  # the same, where a target is compared with itself, once
_BITS = 14  # of the hash of three bytes: few of a window's other bytes share one
_SYMBOL, _TABLE = 2.0, 60.0  # bits that describe the Huffman codes: for each symbol in use, and for the whole

_U64 = np.uint64
_I16, _I32, _I64, _F64 = types.int16[::1], types.int32[::1], types.int64[::1], types.float64[::1]


def build() -> str:
    """Return what tells this zlib from others: its version, and a checksum of what it makes of a fixed text."""
    sample = bytes(i * i % 251 % 26 + 97 for i in range(4096))
    made = b"".join(zlib.compress(sample, level) for level in range(1, 10))
    return f"{zlib.ZLIB_RUNTIME_VERSION}/{zlib.crc32(made):08x}"


def compressed_size(data: bytes, level: int) -> int:
    """Return len(gzip.compress(data, level)), 1 <= level <= 9."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    return len(compressor.compress(data)) + len(compressor.flush()) + GZIP


def joint_sizes(text: bytes, targets: Sequence[bytes], level: int) -> tuple[int, Ints]:
    """Return len(gzip.compress(text)) and len(gzip.compress(text + target)) of every target: int64 (targets,).

    The text is compressed once: its compressor's state is copied for each target.
    """
    start = zlib.compressobj(level, zlib.DEFLATED, -15)
    before = len(start.compress(text)) + GZIP
    alone = before + len(start.copy().flush())
    sizes = np.empty(len(targets), np.int64)
    for number, target in enumerate(targets):
        compressor = start.copy()
        sizes[number] = before + len(compressor.compress(target)) + len(compressor.flush())
    return alone, sizes


def sizes_given(text: bytes, targets: Sequence[bytes], level: int) -> Ints:
    """Return the gzip size of every target where the compressor knows the text beforehand: int64 (targets,).

    The text is deflate's preset dictionary (RFC 1950): it lends its strings, not its letter frequencies. One state
    holds it, and is copied for each target.
    """
    start = zlib.compressobj(level, zlib.DEFLATED, -15, zdict=text) if text else zlib.compressobj(level, wbits=-15)
    sizes = np.empty(len(targets), np.int64)
    for number, target in enumerate(targets):
        compressor = start.copy()
        sizes[number] = GZIP + len(compressor.compress(target)) + len(compressor.flush())
    return sizes


class Parsed(NamedTuple):
    """Targets end to end, and at each of their bytes what repeats there of the target itself."""

    data: Bytes
    ends: Ints  # int64 (targets,)
    hashes: Any  # int16 (bytes,): of three bytes; -1 where a target has fewer left
    lengths: Any  # int32 (bytes,): of the longest match, 0 for none
    distances: Any  # int32 (bytes,)


@cache
def _prices() -> tuple[Ints, Ints, Floats]:
    """Return deflate's symbols of match lengths and of distances, each + 512 · its extra bits; and n log2 n."""
    lengths = np.zeros(_LONGEST + 1, np.int64)
    for length in range(_SHORTEST, _LONGEST):
        beyond = length - _SHORTEST
        extra = max(beyond.bit_length() - 3, 0)
        lengths[length] = (257 + 4 * extra + (beyond >> extra)) + 512 * extra
    lengths[_LONGEST] = 285
    distances = np.zeros(REACH + 1, np.int64)
    for distance in range(1, REACH + 1):
        extra = max((distance - 1).bit_length() - 2, 0)
        distances[distance] = (2 * extra + ((distance - 1) >> extra)) + 512 * extra
    counts = np.arange(REACH + 2, dtype=np.float64)
    return lengths, distances, counts * np.log2(np.maximum(counts, 1))


@njit(types.int64(BYTES, types.int64), cache=True, nogil=True, inline="always")
def _hash(data: Any, at: Any) -> Any:
    three = np.uint64(data[at]) | (np.uint64(data[at + 1]) << np.uint64(8)) | (np.uint64(data[at + 2]) << np.uint64(16))
    return np.int64(((three * np.uint64(0x9E3779B1)) & np.uint64(0xFFFFFFFF)) >> np.uint64(32 - _BITS))


@njit(types.void(BYTES, _I64, _I16, _I32, _I32), cache=True, nogil=True)
def _parse(data: Any, ends: Any, hashes: Any, lengths: Any, distances: Any) -> None:
    """Find the longest match of every byte of every target with what comes before it in that target."""
    heads = np.empty(1 << _BITS, np.int64)
    start = 0
    for target in range(len(ends)):
        end = ends[target]
        heads[:] = -1
        before = np.empty(end - start, np.int64)
        for at in range(start, end):
            hashes[at], lengths[at] = -1, 0
            most = min(_LONGEST, end - at)
            if most < _SHORTEST:
                continue
            hashed = _hash(data, at)
            hashes[at] = hashed
            best, there, tries = _SHORTEST - 1, heads[hashed], _OWN_DEPTH
            while there >= 0 and tries > 0 and best < most and at - there <= REACH:
                if data[there + best] == data[at + best]:
                    length = 0
                    while length < most and data[there + length] == data[at + length]:
                        length += 1
                    if length > best and not (length == _SHORTEST and at - there > _NEAR):
                        best = length
                        lengths[at], distances[at] = length, at - there
                there = before[there - start]
                tries -= 1
            before[at - start] = heads[hashed]
            heads[hashed] = at
        start = end


@njit(types.void(BYTES, _I16, _I16), cache=True, nogil=True)
def _chain(window: Any, heads: Any, before: Any) -> None:
    """Chain the places of a text that share three bytes: the last one in heads, the one before in before."""
    heads[:] = -1
    for place in range(len(window) - 2):
        hashed = _hash(window, place)
        before[_U64(place)] = heads[hashed]
        heads[hashed] = place


@njit(types.float64(_I64, _I64, _F64), cache=True, nogil=True)
def _codes(symbols: Any, distances: Any, entropy: Any) -> Any:
    """Return the bits of symbols that occur so often, in codes of their own, and of the description of these codes."""
    bits, coded, matches = _TABLE, 0, 0
    for symbol in range(286):
        if symbols[symbol]:
            bits += _SYMBOL - entropy[symbols[symbol]]
            coded += symbols[symbol]
    for symbol in range(30):
        if distances[symbol]:
            bits += _SYMBOL - entropy[distances[symbol]]
            matches += distances[symbol]
    return bits + entropy[coded] + entropy[matches]


# the targets' arrays may lie in memory that processes share
_SHARED16, _SHARED32, _SHARED64 = (
    types.Array(t, 1, "C", readonly=True) for t in (types.int16, types.int32, types.int64)
)
_COUNT = types.void(
    BYTES, _I64, _I64, BYTES, _SHARED64, _SHARED16, _SHARED32, _SHARED32, _I64, _I64, _F64, types.float64[:, ::1]
)


@njit(_COUNT, cache=True, nogil=True)
def _count(
    data: Any, starts: Any, stops: Any, target: Any, ends: Any, hashes: Any, own: Any, own_distances: Any,
    length_symbols: Any, distance_symbols: Any, entropy: Any, sizes: Any,
) -> None:  # fmt: skip
    """Parse every target after every text, data[start:stop], and write its size in bytes.

    The search stands in the loop, as in zlib's deflate_slow: calls would count references to every array. Places are
    unsigned where they index: a signed one is tested for counting from the end.
    """
    heads, before = np.empty(1 << _BITS, np.int16), np.empty(REACH, np.int16)
    symbols, distances = np.zeros(286, np.int64), np.zeros(30, np.int64)
    for text in range(len(starts)):
        window, size = data[starts[text] : stops[text]], stops[text] - starts[text]
        _chain(window, heads, before)
        at = 0
        for number in range(len(ends)):
            start, end = at, ends[number]
            symbols[:], distances[:] = 0, 0
            symbols[256] = 1  # the end of the block
            extra, fixed = 0, 7
            # the match a byte before, which a longer one here would replace; whether that byte is still to be coded
            held, held_distance, waiting = 0, 0, False
            while at < end:
                best, distance = max(held, _SHORTEST - 1), 0
                if held < _LAZY:
                    if own[_U64(at)] > best:
                        best, distance = np.int64(own[_U64(at)]), np.int64(own_distances[_U64(at)])
                    hashed = hashes[_U64(at)]
                    there = np.int64(heads[_U64(hashed)]) if hashed >= 0 else -1
                    tries = _DEPTH
                    while there >= 0 and tries > 0:
                        most = min(_LONGEST, end - at, size - there)
                        if best < most and window[_U64(there + best)] == target[_U64(at + best)]:
                            length = 0
                            while length < most and window[_U64(there + length)] == target[_U64(at + length)]:
                                length += 1
                            away = size - there + at - start
                            if length > best and (length > _SHORTEST or away <= _NEAR):
                                best, distance = length, away
                        there = np.int64(before[_U64(there)])
                        tries -= 1
                if held and not distance:
                    symbol = length_symbols[_U64(held)]
                    symbols[_U64(symbol & 511)] += 1
                    fixed += 12 if symbol & 511 < 280 else 13
                    extra += symbol >> 9
                    symbol = distance_symbols[_U64(held_distance)]
                    distances[_U64(symbol & 511)] += 1
                    extra += symbol >> 9
                    at += held - 1
                    held, waiting = 0, False
                    continue
                if waiting:
                    symbols[target[_U64(at - 1)]] += 1
                    fixed += 8 if target[_U64(at - 1)] < 144 else 9
                held, held_distance, waiting = (best if distance else 0), distance, True
                at += 1
            if waiting:
                symbols[target[end - 1]] += 1
                fixed += 8 if target[end - 1] < 144 else 9
            sizes[text, number] = GZIP + (min(_codes(symbols, distances, entropy), float(fixed)) + extra) / 8


def parse(targets: Sequence[bytes]) -> Parsed:
    """Return the targets as `counted_sizes` wants them, each at most 32,767 bytes long."""
    data = np.frombuffer(b"".join(targets), np.uint8)
    ends = np.cumsum(np.fromiter(map(len, targets), np.int64, len(targets)))
    hashes, lengths = np.full(len(data), -1, np.int16), np.zeros(len(data), np.int32)
    distances = np.zeros(len(data), np.int32)
    _parse(data, ends, hashes, lengths, distances)
    return Parsed(data, ends, hashes, lengths, distances)


def counted_sizes(texts: Sequence[bytes], targets: Parsed) -> Floats:
    """Return nearly what `sizes_given` returns at level 6, without compressing: float64 (texts, targets), in bytes.

    Texts are at most 32,767 bytes long.
    """
    stops = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    starts = np.concatenate([np.zeros(1, np.int64), stops])[:-1].astype(np.int64)
    sizes = np.zeros((len(texts), len(targets.ends)))
    _count(np.frombuffer(b"".join(texts), np.uint8), starts, stops, *targets, *_prices(), sizes)
    return sizes
