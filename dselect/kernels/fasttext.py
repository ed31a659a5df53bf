"""fastText's features of a text, summed over tables of scalars: what its library does, without its vectors.

A supervised model's logit is W · (mean of the rows of a text's features), so W · row is computed once a row, and a text
costs one addition a feature. The features are the library's own: words are cut at ASCII blanks and NUL (and at
newlines, which stand for spaces here); `</s>` ends a text; a token that the dictionary holds as a label, or does not
hold and that begins with `__label__`, is none; words out of the dictionary still enter n-grams; hashes are 32-bit
FNV-1a over sign-extended bytes; an n-gram's is h · 116049371 + h' in 64 bits, begun from the sign-extended word hash.
Words are found by their hash and compared by their bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numba import njit, types

from dselect.kernels.words import BYTES, Bytes, Floats, Ints

Array = np.ndarray[Any, Any]

PRIME = np.uint64(16777619)
START = np.uint64(2166136261)
LOW = np.uint64(0xFFFFFFFF)
CHAIN = np.uint64(116049371)
ONE, FOUR = np.uint64(1), np.uint64(4)
END = b"</s>"
_END = np.frombuffer(END, np.uint8)
_BLANKS = np.isin(np.arange(256), [0, 9, 10, 11, 12, 13, 32])
LABEL = np.frombuffer(b"__label__", np.uint8)

_F32 = types.Array(types.float32, 2, "C", readonly=True)
_U64 = types.Array(types.uint64, 1, "C", readonly=True)
_U32 = types.Array(types.uint32, 1, "C", readonly=True)


def _hash(word: bytes) -> int:
    h = 2166136261
    for byte in word:
        h = ((h ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16777619) & 0xFFFFFFFF
    return h


_END_HASH = np.uint64(_hash(END))


@njit(types.uint64(types.uint64, types.uint8), cache=True, nogil=True, inline="always")
def _more(h: Any, byte: Any) -> Any:
    """Add a byte to a hash, of which only the lower 32 bits count."""
    return (h ^ np.uint64(np.int64(np.int8(byte)))) * PRIME


@njit(types.uint64(types.uint64), cache=True, nogil=True, inline="always")
def _signed(h: Any) -> Any:
    """Return the lower 32 bits of a hash as an int32, extended to 64 bits."""
    return np.uint64(np.int64(np.int32(h & LOW)))


@njit(types.boolean(types.uint8), cache=True, nogil=True, inline="always")
def _blank(byte: Any) -> Any:
    return _BLANKS[byte]


_FIND = types.int64(BYTES, types.int64, types.int64, types.uint64, _U64, BYTES, _U64)


@njit(_FIND, cache=True, nogil=True, inline="always")
def _find(data: Any, start: Any, stop: Any, h: Any, slots: Any, letters: Any, ends: Any) -> Any:
    """Return the slot of a word in the dictionary, or the empty one where it would stand."""
    mask = np.int64(len(slots) - 1)
    low = h & LOW
    at = np.int64(low) & mask
    while slots[at]:
        if slots[at] >> np.uint64(32) == low:
            number = np.int64((slots[at] & LOW) - ONE)
            begin = np.int64(ends[number - 1]) if number else 0
            length = stop - start
            if np.int64(ends[number]) - begin == length:
                same = True
                for i in range(length):
                    if letters[begin + i] != data[start + i]:
                        same = False
                        break
                if same:
                    return at
        at = (at + 1) & mask
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


@njit(types.void(BYTES, _U64, types.uint64[::1]), cache=True, nogil=True)
def _fill_slots(letters: Any, ends: Any, slots: Any) -> None:
    """Enter every word into the hash table: its hash, and its number plus one; of equal words the last counts."""
    begin = 0
    for number in range(len(ends)):
        end = np.int64(ends[number])
        h = START
        for i in range(begin, end):
            h = _more(h, letters[i])
        at = _find(letters, begin, end, h, slots, letters, ends)
        slots[at] = (h & LOW) << np.uint64(32) | np.uint64(number + 1)
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
    types.void(
        BYTES, types.int64[::1], _U64, BYTES, _U64, types.int64, _F32, _U32, _F32,
        types.int64, types.int64, types.int64, types.float64[:, ::1], types.int64[::1],
    ),
    cache=True,
    nogil=True,
)  # fmt: skip
def _sum(  # noqa: PLR0915  a state machine in one piece
    data: Any, stops: Any, slots: Any, letters: Any, ends: Any, words: Any, values: Any, counts: Any, buckets: Any,
    ngrams: Any, shortest: Any, longest: Any, sums: Any, features: Any,
) -> None:  # fmt: skip
    """Per text: the sum of its features' values, for each column, and how many features it has."""
    columns = sums.shape[1]
    modulus = np.uint64(max(buckets.shape[0], 1))
    kept = ngrams - 1  # n-grams that the next word may prolong
    begun = np.empty(max(kept, 1), np.uint64)
    start = 0
    for document in range(len(stops)):
        stop = stops[document]
        at = start
        held = 0
        found = 0
        going = True
        while going:
            while at < stop and _blank(data[at]):
                at += 1
            first = at
            h = START
            while at < stop and not _blank(data[at]):
                h = _more(h, data[at])
                at += 1
            length = at - first
            if length == 0:  # the text is over: fastText reads its newline as the word </s>
                h = _END_HASH
                slot = _find(_END, 0, 4, h, slots, letters, ends)
                going = False
            else:
                slot = _find(data, first, at, h, slots, letters, ends)
                if length == 4 and h & LOW == _END_HASH and data[first] == 60 and data[first + 1] == 47:
                    going = not (data[first + 2] == 115 and data[first + 3] == 62)
            if slots[slot]:
                number = np.int64((slots[slot] & LOW) - ONE)
                if number >= words:  # a label
                    continue
                for column in range(columns):
                    sums[document, column] += np.float64(values[number, column])
                found += np.int64(counts[number])
            elif going:
                if length >= 9 and data[first] == 95 and data[first + 1] == 95:
                    label = True
                    for i in range(9):
                        if data[first + i] != LABEL[i]:
                            label = False
                    if label:
                        continue
                if longest > 0:
                    found += _add_subwords(data, first, at, shortest, longest, buckets, sums, document)
            word = _signed(h)
            for i in range(held):
                begun[i] = begun[i] * CHAIN + word
                bucket = np.int64(begun[i] % modulus)
                if buckets[bucket, 0] == buckets[bucket, 0]:
                    for column in range(columns):
                        sums[document, column] += np.float64(buckets[bucket, column])
                    found += 1
            if held < kept:
                held += 1
            else:
                for i in range(1, held):
                    begun[i - 1] = begun[i]
            if held:
                begun[held - 1] = word
        features[document] = found
        start = stop


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
    """Return a hash table of a dictionary: uint64, a power of two, at most half full."""
    slots = np.zeros(1 << max(2 * len(ends), 4).bit_length(), np.uint64)
    _fill_slots(letters, ends, slots)
    return slots


def project(rows: Array, weights: Floats) -> Array:
    """Return each row's product with each of some vectors: float32 (n, k); summed in float64, in order.

    rows: float32 (n, d); weights: float64 (k, d).
    """
    out = np.empty((len(rows), len(weights)), np.float32)
    _project(rows, weights, out)
    return out


def with_subwords(table: Mapping[str, Array], shortest: int, longest: int) -> tuple[Array, Array]:
    """Return the values of whole words, their character n-grams counted in, and how many features each has."""
    values, features = table["words"].astype(np.float64), table["features"].copy()
    number = len(values)
    _whole_words(table["letters"], table["ends"], number, shortest, longest, table["buckets"], values, features)
    return values.astype(np.float32), features


def sum_features(texts: Sequence[str], table: Mapping[str, Array], ngrams: int, shortest: int, longest: int) -> Any:
    """Sum the values of every text's features: float64 (n, columns), and how many there are, int64 (n,).

    table: `slots`, `letters`, `ends` of a dictionary, float32 values of `words` and `buckets` (NaN: a feature that was
    pruned), uint32 `features` of each word. Longest n-gram of words; shortest and longest of characters.
    """
    parts = [text.encode() for text in texts]
    stops = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))
    data = np.frombuffer(b"".join(parts), np.uint8)
    words, buckets = table["words"], table["buckets"]
    sums, features = np.zeros((len(parts), words.shape[1])), np.zeros(len(parts), np.int64)
    _sum(
        data, stops, table["slots"], table["letters"], table["ends"], len(words), words, table["features"], buckets,
        ngrams, shortest, longest, sums, features,
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
