"""fastText's features of a text, summed over tables of scalars: what its library does, without its vectors.

A supervised model's logit is W · (mean of the rows of a text's features), so W · row is computed once a row, and a text
costs one addition a feature. The features are the library's own: words are cut at ASCII blanks and NUL (and at
newlines, which stand for spaces here); `</s>` ends a text; a token that the dictionary holds as a label, or does not
hold and that begins with `__label__`, is none; words out of the dictionary still enter n-grams; hashes are 32-bit
FNV-1a over sign-extended bytes; an n-gram's is h · 116049371 + h' in 64 bits, begun from the sign-extended word hash.

A word is known by 64 bits of another hash. The library compares strings: two words that agree in 64 bits would be one
word here, which chance does not bring about.
Where the time goes is memory: so each step is a loop of its own over some hundred words, in which nothing waits for
what the step before it looked up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from dselect.kernels.words import BYTES, Bytes, Floats, Ints

Array = np.ndarray[Any, Any]

PRIME = np.uint64(16777619)
START = np.uint64(2166136261)
LOW = np.uint64(0xFFFFFFFF)
CHAIN = np.uint64(116049371)
SPREAD = np.uint64(0x9E3779B97F4A7C15)
ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
ZERO, ONE = np.uint64(0), np.uint64(1)
END, LABEL = b"</s>", b"__label__"
CHUNK = 4096  # bytes of a text at a time
_BLANKS = np.isin(np.arange(256), [0, 9, 10, 11, 12, 13, 32])
_LABEL = np.frombuffer(LABEL, np.uint8)

_F32 = types.Array(types.float32, 2, "C", readonly=True)
_U64 = types.Array(types.uint64, 1, "C", readonly=True)
_SLOTS = types.Array(types.uint64, 2, "C", readonly=True)
_U32 = types.Array(types.uint32, 1, "C", readonly=True)


_END_HASH = np.uint64(0xD79C9359)  # of </s>, the library's and ours
_END_KEY = np.uint64(0x67B7E7280002802F)


@njit(types.uint64(types.uint64, types.uint8), cache=True, nogil=True, inline="always")
def _more(h: Any, byte: Any) -> Any:
    """Add a byte to a hash, of which only the lower 32 bits count."""
    return (h ^ np.uint64(np.int64(np.int8(byte)))) * PRIME


@njit(types.uint64(types.uint64, types.uint8), cache=True, nogil=True, inline="always")
def _more_key(key: Any, byte: Any) -> Any:
    return (key ^ np.uint64(byte)) * SPREAD


@njit(types.uint64(types.uint64), cache=True, nogil=True, inline="always")
def _signed(h: Any) -> Any:
    """Return the lower 32 bits of a hash as an int32, extended to 64 bits."""
    return np.uint64(np.int64(np.int32(h & LOW)))


def _build_high(_: Any, __: Any, ___: Any) -> Any:
    def build(_: Any, builder: Any, __: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), build


_high: Any = intrinsic(_build_high)  # the upper half of the product of two 64-bit numbers


@njit(types.uint64(types.uint64, types.uint64, types.uint64), cache=True, nogil=True, inline="always")
def remainder(number: Any, divisor: Any, reciprocal: Any) -> Any:
    """Return number % divisor, exactly, without dividing; reciprocal: (2**64 - 1) // divisor."""
    rest = number - _high(number, reciprocal) * divisor  # the quotient is right or too small by one
    return rest - divisor if rest >= divisor else rest


@njit(types.uint64(types.uint64, types.uint64, _SLOTS), cache=True, nogil=True, inline="always")
def _find(h: Any, key: Any, slots: Any) -> Any:
    """Return the slot of a word in the dictionary, or the empty one where it would stand."""
    mask = np.uint64(len(slots) - 1)
    at = h & LOW & mask
    while slots[at, 1] and slots[at, 0] != key:
        at = (at + ONE) & mask
    return at


@njit(types.int64(BYTES, types.int64, types.int64, types.uint64[::1], types.int64[::1]), cache=True, nogil=True)
def _read_words(data: Any, at: Any, words: Any, ends: Any, counts: Any) -> Any:
    """Read dictionary entries (bytes, NUL, int64 count, a kind) from a place; return where they end.

    -1 where the data end before that; -2 where one of the first `words` entries is a label, or a later one a word.
    """
    length = 0
    for number in range(len(ends)):
        start = at
        while at < len(data) and data[at]:
            at += 1
        length += at - start
        if at + 10 > len(data):
            return -1
        ends[number] = length
        count = np.uint64(0)
        for i in range(8):
            count |= np.uint64(data[at + 1 + i]) << np.uint64(8 * i)
        counts[number] = np.int64(count)
        if data[at + 9] != (0 if number < words else 1):
            return -2
        at += 10
    return at


@njit(types.void(BYTES, types.int64, _U64, types.uint8[::1]), cache=True, nogil=True)
def _copy_letters(data: Any, at: Any, ends: Any, letters: Any) -> None:
    begin = 0
    for number in range(len(ends)):
        for i in range(begin, np.int64(ends[number])):
            letters[i] = data[at]
            at += 1
        begin = np.int64(ends[number])
        at += 10


@njit(types.void(BYTES, _U64, types.uint64[:, ::1]), cache=True, nogil=True)
def _fill_slots(letters: Any, ends: Any, slots: Any) -> None:
    """Enter every word into the hash table: its hash, and its number plus one; of equal words the last counts.

    The frequent ones come first, and so stand where they are looked for first.
    """
    begin = 0
    for number in range(len(ends)):
        end = np.int64(ends[number])
        h, key = START, START
        for i in range(begin, end):
            h, key = _more(h, letters[i]), _more_key(key, letters[i])
        at = _find(h, key, slots)
        slots[at, 0] = key
        slots[at, 1] = np.uint64(number + 1)
        begin = end


@njit(types.void(_F32, types.float64[:, ::1], types.float32[:, ::1]), cache=True, nogil=True)
def _project(rows: Any, weights: Any, out: Any) -> None:
    for row in range(rows.shape[0]):
        for column in range(weights.shape[0]):
            total = 0.0
            for i in range(rows.shape[1]):
                total += weights[column, i] * np.float64(rows[row, i])
            out[row, column] = np.float32(total)


@njit(
    types.int64(
        BYTES, types.int64, types.int64, types.int64, types.int64, _F32, types.float64[:, ::1], types.int64
    ),
    cache=True,
    nogil=True,
)  # fmt: skip
def _add_subwords(
    data: Any, start: Any, stop: Any, shortest: Any, longest: Any, buckets: Any, sums: Any, row: Any
) -> Any:
    """Add the values of a word's character n-grams, < and > around it; return how many count."""
    length = stop - start + 2
    modulus = np.uint64(buckets.shape[0])
    found = 0
    for i in range(length):
        byte = np.uint8(60) if i == 0 else np.uint8(62) if i == length - 1 else data[start + i - 1]
        if byte & 0xC0 == 0x80:
            continue
        h = START
        j = i
        n = 1
        while j < length and n <= longest:
            byte = np.uint8(60) if j == 0 else np.uint8(62) if j == length - 1 else data[start + j - 1]
            h = _more(h, byte)
            j += 1
            while j < length - 1 and data[start + j - 1] & 0xC0 == 0x80:
                h = _more(h, data[start + j - 1])
                j += 1
            if n >= shortest and not (n == 1 and (i == 0 or j == length)):
                bucket = np.int64((h & LOW) % modulus)
                if buckets[bucket, 0] == buckets[bucket, 0]:
                    for column in range(buckets.shape[1]):
                        sums[row, column] += np.float64(buckets[bucket, column])
                    found += 1
            n += 1
    return found


@njit(
    types.void(BYTES, _U64, types.int64, types.int64, types.int64, _F32, types.float64[:, ::1], types.uint32[::1]),
    cache=True,
    nogil=True,
)
def _whole_words(
    letters: Any, ends: Any, words: Any, shortest: Any, longest: Any, buckets: Any, values: Any, features: Any
) -> None:
    """Add to every word's own value those of its character n-grams."""
    begin = 0
    for number in range(words):
        end = np.int64(ends[number])
        ended = end - begin == 4 and letters[begin] == 60 and letters[begin + 1] == 47
        if not (ended and letters[begin + 2] == 115 and letters[begin + 3] == 62):
            features[number] += np.uint32(
                _add_subwords(letters, begin, end, shortest, longest, buckets, values, number)
            )
        begin = end


@njit(
    types.uint64(BYTES, types.uint64, types.uint64, types.uint64[::1], types.uint64[::1], types.uint64),
    cache=True,
    nogil=True,
)
def _cut(data: Any, at: Any, stop: Any, hashes: Any, keys: Any, filled: Any) -> Any:
    """Append the hashes and keys of the words up to a place, which is a blank or the end; return how many are filled.

    Nothing branches on where a word ends, which no processor can predict: a hash is stored at every byte, and counted
    where a word has ended. Unsigned places spare the look for negative ones.
    """
    h, key, inside = START, START, ZERO
    for i in range(at, stop):
        blank = np.uint64(_BLANKS[data[i]])
        hashes[filled] = h
        keys[filled] = key
        filled += blank & inside
        inside = blank ^ ONE
        h = START if blank else _more(h, data[i])
        key = START if blank else _more_key(key, data[i])
    hashes[filled] = h
    keys[filled] = key
    return filled + inside


@njit(types.UniTuple(types.int64, 2)(BYTES, types.int64, types.int64), cache=True, nogil=True)
def _next_word(data: Any, at: Any, stop: Any) -> Any:
    """Return where the next word begins and ends."""
    while at < stop and _BLANKS[data[at]]:
        at += 1
    first = at
    while at < stop and not _BLANKS[data[at]]:
        at += 1
    return first, at


@njit(types.boolean(BYTES, types.int64, types.int64), cache=True, nogil=True)
def _like_a_label(data: Any, start: Any, end: Any) -> Any:
    return end - start >= len(_LABEL) and (data[start : start + len(_LABEL)] == _LABEL).all()


@njit(
    types.uint64(
        types.uint64[::1], types.uint64, types.uint64, types.int64, types.uint64[::1],
        types.int64, types.int64, types.uint32[::1], types.uint64,
    ),
    cache=True,
    nogil=True,
)  # fmt: skip
def _add_ngrams(
    hashes: Any, held: Any, filled: Any, ngrams: Any, chains: Any, words: Any, buckets: Any, rows: Any, used: Any
) -> Any:
    """Append the rows of the n-grams that end behind the words held over; return how many rows are used."""
    divisor, before = np.uint64(buckets), np.uint64(words)
    reciprocal = ALL // divisor
    for i in range(filled):
        chains[i] = _signed(hashes[i])
    for gap in range(ONE, min(np.uint64(ngrams), filled)):
        for i in range(filled - gap):
            chains[i] = chains[i] * CHAIN + _signed(hashes[i + gap])
        for i in range(held - min(gap, held), filled - gap):
            rows[used] = before + remainder(chains[i], divisor, reciprocal)
            used += ONE
    return used


@njit(types.uint64(_F32, types.uint32[::1], types.uint64), cache=True, nogil=True)
def _drop_pruned(values: Any, rows: Any, filled: Any) -> Any:
    """Leave out the rows whose values are NaN; return how many are left."""
    left = ZERO
    for i in range(filled):
        rows[left] = rows[i]
        left += np.uint64(not np.isnan(values[rows[i], ZERO]))
    return left


@njit(types.void(_F32, types.uint32[::1], types.uint64, types.float64[::1]), cache=True, nogil=True)
def _gather(values: Any, rows: Any, filled: Any, sums: Any) -> None:
    """Add some rows to sums, the even and the odd ones apart, so that an addition need not wait for the last."""
    for column in range(np.uint64(values.shape[1])):
        even, odd = 0.0, 0.0
        for i in range(ZERO, filled & ~ONE, np.uint64(2)):
            even += np.float64(values[rows[i], column])
            odd += np.float64(values[rows[i + ONE], column])
        if filled & ONE:
            even += np.float64(values[rows[filled - ONE], column])
        sums[column] += even + odd


@njit(
    types.void(
        BYTES, types.int64[::1], _SLOTS, _F32, _U32, _F32, types.boolean, types.boolean,
        types.int64, types.int64, types.int64, types.float64[:, ::1], types.int64[::1],
    ),
    cache=True,
    nogil=True,
)  # fmt: skip
def _sum(  # the library's rules, one after the other
    data: Any, stops: Any, slots: Any, values: Any, counts: Any, buckets: Any, careful: Any, pruned: Any,
    ngrams: Any, shortest: Any, longest: Any, sums: Any, features: Any,
) -> None:  # fmt: skip
    """Per text: the sum of its features' values, for each column, and how many features it has."""
    words = len(counts)
    kept = ngrams - 1  # words whose n-grams the next chunk may prolong
    hashes = np.empty(kept + CHUNK, np.uint64)
    keys, chains = np.empty_like(hashes), np.empty_like(hashes)
    rows = np.empty(len(hashes) * ngrams, np.uint32)
    begin = 0
    for document in range(len(stops)):
        stop = stops[document]
        at, held, found, going = begin, 0, 0, True
        while going:
            limit = min(stop, at + CHUNK)
            while limit < stop and not _BLANKS[data[limit]]:
                limit += 1
            cut = _cut(data, np.uint64(at), np.uint64(limit), hashes, keys, np.uint64(held))
            if limit == stop:  # the text is over: fastText reads its newline as the word </s>
                hashes[cut], keys[cut] = _END_HASH, _END_KEY
                cut += ONE
            filled, used, first, end = np.uint64(held), ZERO, at, at
            for i in range(np.uint64(held), cut):
                number = np.int64(slots[_find(hashes[i], keys[i], slots), ONE]) - 1
                if careful:
                    first, end = _next_word(data, end, limit)
                if number >= words:  # a label
                    continue
                rows[used] = number
                used += np.uint64(number >= 0)
                if careful and keys[i] != _END_KEY:
                    if number >= 0:
                        found += np.int64(counts[number]) - 1
                    else:
                        if _like_a_label(data, first, end):
                            continue
                        if longest > 0:
                            found += _add_subwords(data, first, end, shortest, longest, buckets, sums, document)
                hashes[filled] = hashes[i]
                filled += ONE
                if keys[i] == _END_KEY:
                    going = False
                    break
            if ngrams > 1:
                used = _add_ngrams(hashes, np.uint64(held), filled, ngrams, chains, words, len(buckets), rows, used)
            if pruned:
                used = _drop_pruned(values, rows, used)
            _gather(values, rows, used, sums[document])
            found += np.int64(used)
            held = min(kept, np.int64(filled))
            for i in range(held):
                hashes[i] = hashes[np.int64(filled) - held + i]
            at = limit
        features[document] = found
        begin = stop


@njit(types.void(types.float64[:, ::1], types.int64[::1], types.int64, types.float64[::1]), cache=True, nogil=True)
def _softmax(sums: Any, features: Any, label: Any, out: Any) -> None:
    """One column is the logit of a label over the only other one; several are every label's own."""
    columns = sums.shape[1]
    for i in range(len(out)):
        number = np.float64(max(features[i], 1))
        if columns == 1:
            p = 1.0 / (1.0 + np.exp(-sums[i, 0] / number))
        else:
            highest = sums[i, 0]
            for column in range(1, columns):
                highest = max(highest, sums[i, column])
            total = 0.0
            for column in range(columns):
                total += np.exp((sums[i, column] - highest) / number)
            p = np.exp((sums[i, label] - highest) / number) / total
        out[i] = min(p + 1e-5, 1.0)


@njit(types.void(types.float64[:, ::1], types.int64[::1], types.float64[::1]), cache=True, nogil=True)
def _sigmoid(sums: Any, features: Any, out: Any) -> None:
    """Return the library's sigmoid: a table of 512 steps over -8 … 8, the lower end of each step."""
    for i in range(len(out)):
        z = sums[i, 0] / np.float64(max(features[i], 1))
        if z < -8.0:
            p = 0.0
        elif z > 8.0:
            p = 1.0
        else:
            step = np.float64(np.int64(np.float32(np.float32(z) + np.float32(8.0)) * np.float32(32.0)))
            p = 1.0 / (1.0 + np.exp(8.0 - step / 32.0))
        out[i] = min(p + 1e-5, 1.0)


def read_words(data: Bytes, at: int, entries: int, words: int) -> tuple[Bytes, Array, Ints, int]:
    """Read a dictionary of so many entries, words first: uint8 letters, uint64 ends, int64 counts, and where it ends.

    Nothing beyond the data is touched. ValueError where it ends early, or an entry is of the wrong kind.
    """
    ends, counts = np.empty(entries, np.uint64), np.empty(entries, np.int64)
    after = int(_read_words(data, at, words, ends, counts))
    if after < 0:
        raise ValueError("its dictionary ends early" if after == -1 else "words and labels are mixed in its dictionary")
    letters = np.empty(int(ends[-1]) if entries else 0, np.uint8)
    _copy_letters(data, at, ends, letters)
    return letters, ends, counts, after


def slots_of(letters: Bytes, ends: Array) -> Array:
    """Return a hash table of a dictionary: uint64 (a power of two, 2), hashes and numbers from 1, at most half full."""
    slots = np.zeros((1 << max(2 * len(ends), 4).bit_length(), 2), np.uint64)
    _fill_slots(letters, ends, slots)
    return slots


def project(rows: Array, weights: Floats) -> Array:
    """Return each row's product with each of some vectors: float32 (n, k); summed in float64, in order.

    rows: float32 (n, d); weights: float64 (k, d).
    """
    out = np.empty((len(rows), len(weights)), np.float32)
    _project(rows, weights, out)
    return out


def with_subwords(
    letters: Bytes, ends: Array, words: int, buckets: Array, values: Array, shortest: int, longest: int
) -> tuple[Array, Array]:
    """Return the values of whole words, their character n-grams counted in, and how many features each has."""
    sums, features = values.astype(np.float64), np.ones(words, np.uint32)
    _whole_words(letters, ends, words, shortest, longest, buckets, sums, features)
    return sums.astype(np.float32), features


def sum_features(texts: Sequence[bytes], table: Mapping[str, Array], ngrams: int, shortest: int, longest: int) -> Any:
    """Sum the values of the features of every text, in UTF-8: float64 (n, columns), and how many there are, int64 (n,).

    table: `slots` of a dictionary, float32 `values` of its words and of the buckets behind them, uint32
    `features` of each word; where there is a `pruned`, a value NaN is that of a feature that was pruned. Longest n-gram
    of words; shortest and longest of characters.
    """
    stops = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    joined = b"".join(texts)
    values, counts = table["values"], table["features"]
    sums, features = np.zeros((len(texts), values.shape[1])), np.zeros(len(texts), np.int64)
    _sum(
        np.frombuffer(joined, np.uint8), stops, table["slots"], values, counts, values[len(counts) :],
        longest > 0 or LABEL in joined, "pruned" in table, ngrams, shortest, longest, sums, features,
    )  # fmt: skip
    return sums, features


def softmax(sums: Floats, features: Ints, label: int) -> Floats:
    """Return the probability of a label as the library gives it, but never above 1: float64 (n,)."""
    out = np.empty(len(sums))
    _softmax(sums, features, label, out)
    return out


def sigmoid(sums: Floats, features: Ints) -> Floats:
    """Return the probability of one label against all, as the library gives it, but never above 1: float64 (n,)."""
    out = np.empty(len(sums))
    _sigmoid(sums, features, out)
    return out
