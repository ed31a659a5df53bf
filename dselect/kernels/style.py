"""Statistics of how a text is written: words, sentences, punctuation. Counted, not learned; none is of its length.

A word is a run of letters, digits and underscores; a sentence ends at a mark (. ! ? … 。 ！ ？) that no word follows at
once. Syllables are runs of a, e, i, o, u, y, at least one a word: a fair count for English, a number of some kind for
other languages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit, types

from dselect.kernels.words import (
    BYTES,
    OTHER,
    SPACE,
    Floats,
    decode,
    letter_classes,
    width,
)

# columns of what is counted
(_WORDS, _LETTERS, _SQUARES, _LONG, _LONGER, _SHORT, _SYLLABLES, _COMPLEX, _SENTENCES, _SENTENCE_SQUARES,
 _LONGEST, _CAPITALS, _COMMAS, _QUOTES, _COLONS, _BRACKETS, _QUESTIONS, _EXCLAMATIONS, _APOSTROPHES, _DASHES, _LINES,
 _DIGITS, _UPPER, _SYMBOLS, _FOREIGN, _POINTS) = range(26)  # fmt: skip

NAMES = (
    "mean word length", "deviation of word lengths", "words of 7 letters or more", "words of 10 letters or more",
    "words of 3 letters or fewer", "syllables a word", "words of 3 syllables or more", "log words a sentence",
    "deviation of sentence lengths", "log longest sentence", "capitals inside sentences", "commas", "quotation marks",
    "colons and semicolons", "brackets", "question marks", "exclamation marks", "apostrophes", "dashes",
    "log words a line", "digits", "upper case", "other symbols", "beyond ASCII",
)  # fmt: skip

_COMMA, _DOT, _NEWLINE = map(ord, ",.\n")
_VOWELS = np.zeros(128, np.bool_)
_VOWELS[[ord(c) for c in "aeiouyAEIOUY"]] = True
_ENDS = np.array([ord(c) for c in "!?…。！？"], np.int64)  # noqa: RUF001  sentences of Chinese and Japanese too
_GROUPS = {
    _COMMAS: ",、，",  # noqa: RUF001
    _QUOTES: '"“”«»„',
    _COLONS: ":;",
    _BRACKETS: "()[]",
    _QUESTIONS: "?？",  # noqa: RUF001
    _EXCLAMATIONS: "!！",  # noqa: RUF001
    _APOSTROPHES: "'’",  # noqa: RUF001
    _DASHES: "-–—",  # noqa: RUF001
}
_MARKS = np.array([ord(c) for marks in _GROUPS.values() for c in marks], np.int64)
_COLUMNS = np.array([column for column, marks in _GROUPS.items() for _ in marks], np.int64)

_COUNT = types.void(BYTES, types.int64[::1], types.uint8[::1], types.int64[:, ::1])


@njit(types.int64(types.int64), cache=True, nogil=True)
def _column(point: Any) -> Any:
    """Return where a mark is counted, with the symbols if nowhere else."""
    for i in range(len(_MARKS)):
        if _MARKS[i] == point:
            return _COLUMNS[i]
    return _SYMBOLS


@njit(types.boolean(types.int64), cache=True, nogil=True)
def _ends_sentence(point: Any) -> Any:
    found = point == _DOT
    for i in range(len(_ENDS)):
        found |= _ENDS[i] == point
    return found


@njit(_COUNT, cache=True, nogil=True)
def _count(data: Any, ends: Any, classes: Any, found: Any) -> None:  # noqa: PLR0915  a state machine in one piece
    """Count what a text is made of; after every text stands a line feed."""
    at = 0
    for document in range(len(ends)):
        row = found[document]
        last = ends[document] - 1
        inside = 0  # words of the sentence
        while at < last:
            first = data[at]
            point = np.int64(first) if first < 0x80 else decode(data, at)
            kind = classes[point]
            if kind == SPACE:
                row[_LINES] += point == _NEWLINE
                row[_POINTS] += 1
                at += width(first)
                continue
            if kind == OTHER:
                row[_POINTS] += 1
                row[_FOREIGN] += point >= 0x80
                at += width(first)
                row[_column(point)] += point != _DOT
                if inside and _ends_sentence(point):
                    after = data[at]
                    follows = classes[after] if after < 0x80 else classes[decode(data, at)]
                    if follows in (SPACE, OTHER):
                        row[_SENTENCES] += 1
                        row[_SENTENCE_SQUARES] += inside * inside
                        row[_LONGEST] = max(row[_LONGEST], inside)
                        inside = 0
                continue
            length, syllables, vowel = 0, 0, False
            row[_CAPITALS] += inside > 0 and 65 <= first <= 90
            while kind not in (SPACE, OTHER):  # the letters of one word
                if point < 0x80:
                    row[_UPPER] += 65 <= point <= 90
                    row[_DIGITS] += 48 <= point <= 57
                    syllables += _VOWELS[point] and not vowel
                    vowel = _VOWELS[point]
                else:
                    row[_FOREIGN] += 1
                    vowel = False
                length += 1
                at += width(first)
                first = data[at]
                point = np.int64(first) if first < 0x80 else decode(data, at)
                kind = classes[point]
            inside += 1
            row[_WORDS] += 1
            row[_LETTERS] += length
            row[_POINTS] += length
            row[_SQUARES] += length * length
            row[_LONG] += length >= 7
            row[_LONGER] += length >= 10
            row[_SHORT] += length <= 3
            row[_SYLLABLES] += max(syllables, 1)
            row[_COMPLEX] += syllables >= 3
        if inside:
            row[_SENTENCES] += 1
            row[_SENTENCE_SQUARES] += inside * inside
            row[_LONGEST] = max(row[_LONGEST], inside)
        at = ends[document]


@njit(types.float64(types.int64, types.int64, types.int64), cache=True, nogil=True)
def _deviation(total: Any, squares: Any, count: Any) -> Any:
    mean = total / count
    return math.sqrt(max(squares / count - mean * mean, 0.0))


@njit(types.void(types.int64[:, ::1], types.float64[:, ::1]), cache=True, nogil=True)
def _derive(counts: Any, found: Any) -> None:
    """Turn counts into shares, means and logarithms, one text after the other."""
    for i in range(len(counts)):
        row, out = counts[i], found[i]
        words, sentences, points = max(row[_WORDS], 1), max(row[_SENTENCES], 1), max(row[_POINTS], 1)
        out[0] = row[_LETTERS] / words
        out[1] = _deviation(row[_LETTERS], row[_SQUARES], words)
        out[2], out[3], out[4] = row[_LONG] / words, row[_LONGER] / words, row[_SHORT] / words
        out[5], out[6] = row[_SYLLABLES] / words, row[_COMPLEX] / words
        out[7] = math.log(words / sentences + 1.0)
        out[8] = math.log(_deviation(row[_WORDS], row[_SENTENCE_SQUARES], sentences) + 1.0)
        out[9] = math.log(row[_LONGEST] + 1.0)
        out[10] = row[_CAPITALS] / words
        for j in range(_COMMAS, _DASHES + 1):
            out[11 + j - _COMMAS] = row[j] / words
        out[19] = math.log(words / (row[_LINES] + 1.0) + 1.0)
        out[20], out[21] = row[_DIGITS] / points, row[_UPPER] / points
        out[22], out[23] = row[_SYMBOLS] / points, row[_FOREIGN] / points


def style_statistics(texts: Sequence[bytes]) -> Floats:
    """Return the statistics that NAMES names, of every UTF-8 text: float64 (n, 24)."""
    data = np.frombuffer(b"".join([text + b"\n" for text in texts]), np.uint8)
    ends = np.cumsum(np.fromiter((len(text) + 1 for text in texts), np.int64, len(texts)))
    counts = np.zeros((len(texts), 26), np.int64)
    _count(data, ends, letter_classes(), counts)
    found = np.empty((len(texts), len(NAMES)))
    _derive(counts, found)
    return found
