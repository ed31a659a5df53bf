"""Statistics of texts that are counted, not learned: words and lines; `repetition` has those of what occurs again.

A word is a run of code points that are not white space, but for `dsir_statistics`; a line is what stands between line
feeds and holds a word; a paragraph is a run of lines without an empty one between them. Characters are code points that
are not white space. Equal words, lines, paragraphs and n-grams are told by 64-bit hashes. Everything takes time and
memory linear in the text, and a text without words has 0 for every statistic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numba import njit, types

from dselect.kernels.words import (
    BYTES,
    LETTER,
    OTHER,
    SPACE,
    Bytes,
    Ints,
    decode,
    letter_classes,
    lower_bytes,
    next_words,
    width,
    word_classes,
)

Columns = Mapping[str, np.ndarray[Any, Any]]  # (n,) each: int64 what is counted, float64 what is a share or a mean
Hashes = np.ndarray[Any, np.dtype[np.uint64]]

GOPHER_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # Rae et al. 2021, appendix A.1.1
C4_LINE_PHRASES = (  # Raffel et al. 2020, section 2.2: a line with one of them is removed
    b"javascript",
    b"terms of use",
    b"privacy policy",
    b"cookie policy",
    b"uses cookies",
    b"use of cookies",
    b"use cookies",
)
C4_LINE_WORDS = 5  # Raffel et al. 2020, section 2.2, and the code; the first version of the paper says 3
C4_WORD_LENGTH = 1000  # the code alone: a line with a longer word is removed

# Function words of English by their kinds: a list of our own, in place of the one DSIR takes from NLTK. Its last line
# is what DSIR's tokens leave of it's, don't, I'd, we'll, I'm, they're, we've.
FUNCTION_WORDS = """
a an the this that these those some any each every either neither both all few more most other such same
i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself
she her hers herself it its itself they them their theirs themselves who whom whose which what
be am is are was were been being have has had having do does did doing will would shall should can could may might must
in on at of to from by with without within for about against between among into through during before after above
below over under up down out off upon as than
and or but nor if because while until though although unless whether since so when where why how
not no only own very too just then there here once again further now also
s t d ll m re ve
""".split()  # noqa: SIM905  words read better in one string

NEWLINE, _HASH, _DOT, _CURLY, _STAR, _HYPHEN = map(ord, "\n#.{*-")
_ELLIPSIS, _EN_DASH, _BULLET, _TRIANGLE, _WHITE_BULLET, _SQUARE = 0x2026, 0x2013, 0x2022, 0x2023, 0x25E6, 0x25AA
_EXCLAMATION, _QUESTION, _QUOTE = map(ord, '!?"')
_APOSTROPHE, _PARENTHESIS, _BRACKET, _SINGLE_CLOSED, _DOUBLE_CLOSED = 0x27, 0x29, 0x5D, 0x2019, 0x201D

# columns of what a kernel counts
_WORDS, _CHARACTERS, _HASHES, _ELLIPSES, _LINES, _BULLETED, _TRAILING, _ALPHABETIC, _STOP = range(9)
_KEPT, _KEPT_CHARACTERS, _SENTENCES, _CURLIES = 2, 3, 4, 5

TEXTS = (BYTES, types.int64[::1], types.uint8[::1])
KEYS = types.uint64[::1]


def gopher_statistics(texts: Sequence[str]) -> Columns:
    """Return what Gopher's quality rules look at (Rae et al. 2021, appendix A.1.1)."""
    data, ends = joined(texts)
    found = np.zeros((len(ends), 9), np.int64)
    _gopher(data, ends, letter_classes(), _packed(GOPHER_STOP_WORDS), found)
    words, lines = found[:, _WORDS], found[:, _LINES]
    return {
        "word_count": words,
        "mean_word_length": share(found[:, _CHARACTERS], words),
        "hash_ratio": share(found[:, _HASHES], words),
        "ellipsis_ratio": share(found[:, _ELLIPSES], words),
        "bullet_lines": share(found[:, _BULLETED], lines),
        "ellipsis_lines": share(found[:, _TRAILING], lines),
        "alphabetic_words": share(found[:, _ALPHABETIC], words),
        "stop_words": found[:, _STOP],
    }


def c4_statistics(texts: Sequence[str]) -> Columns:
    """Return what C4's rules look at (Raffel et al. 2020, section 2.2): sentences are those of the lines C4 keeps."""
    data, ends = joined(texts)
    lowered = data.tobytes().lower()
    phrases = np.sort(np.concatenate([_places(lowered, phrase) for phrase in C4_LINE_PHRASES]))
    found = np.zeros((len(ends), 6), np.int64)
    _c4(data, ends, letter_classes(), phrases, found)
    lorem = np.searchsorted(_places(lowered, b"lorem ipsum"), ends)
    return {
        "sentences": found[:, _SENTENCES],
        "lorem_ipsum": np.diff(lorem, prepend=0),
        "curly_brackets": found[:, _CURLIES],
        "kept_lines": share(found[:, _KEPT], found[:, 1]),
        "kept_characters": share(found[:, _KEPT_CHARACTERS], found[:, 0]),
    }


def dsir_statistics(texts: Sequence[str]) -> Columns:
    r"""Return what DSIR's own filter looks at (Xie et al. 2023, experimental code), on the words of its featurizer.

    These are `\w+|[^\w\s]+` on the lower-cased text, not NLTK's. Stop words are our FUNCTION_WORDS and single ASCII
    punctuation marks.
    """
    data, ends = lower_bytes(texts)
    found = np.zeros((len(ends), 4), np.int64)
    _dsir(data, ends, word_classes(), *_known_words(), found)
    words = found[:, 0]
    return {
        "dsir_words": words,
        "dsir_top_word": share(found[:, 1], words),
        "dsir_other_than_stop_words": share(found[:, 2], words),
        "dsir_other_than_digits": share(found[:, 3], words),
    }


def joined(texts: Sequence[str]) -> tuple[Bytes, Ints]:
    """Return the texts as UTF-8, a line feed after each, and where each ends: uint8 (bytes,), int64 (n,)."""
    parts = [text.encode() + b"\n" for text in texts]
    ends = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))
    return np.frombuffer(b"".join(parts), np.uint8), ends


def share(part: Ints, whole: Ints) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return part / whole, 0 where both are."""
    return np.asarray(part / np.maximum(whole, 1))


def _places(data: bytes, phrase: bytes) -> Ints:
    """Return where a phrase occurs: int64, ascending."""
    places, at = [], data.find(phrase)
    while at >= 0:
        places.append(at)
        at = data.find(phrase, at + len(phrase))
    return np.array(places, np.int64)


def _packed(words: Sequence[str]) -> Hashes:
    """Return short ASCII words as the kernel sees them: their letters in one integer."""
    return np.array([int.from_bytes(word.encode(), "big") for word in words], np.uint64)


@cache
def _known_words() -> tuple[Hashes, Bytes]:
    """Return a hash table of words: keys uint64 (1024,), and what each is, uint8 (1024,): 1 stop word, 2 digit."""
    keys, kinds = np.zeros(1024, np.uint64), np.zeros(1024, np.uint8)
    marks = [chr(c) for c in range(0x21, 0x7F) if not chr(c).isalnum()]
    data, ends = lower_bytes([f"{word}\n" for word in (*FUNCTION_WORDS, *marks, *"0123456789")])
    hashes = np.empty(len(ends) + 1, np.uint64)
    _, filled = next_words(data, 0, len(data), word_classes(), hashes, 0)
    for number, word in enumerate(hashes[:filled]):
        slot = slot_of(keys, np.uint64(len(keys) - 1), word)
        keys[slot] = word
        kinds[slot] = 2 if number >= filled - 10 else 1
    return keys, kinds


@njit(types.int64(KEYS, types.uint64, types.uint64), cache=True, nogil=True)
def slot_of(keys: Any, mask: Any, h: Any) -> Any:
    """Return where a hash is in an open table, or the free place where it belongs; 0 marks a free place."""
    at = h & mask
    while keys[at] != 0 and keys[at] != h:
        at = (at + np.uint64(1)) & mask
    return np.int64(at)


@njit(types.int64(types.int64), cache=True, nogil=True)
def capacity(count: Any) -> Any:
    """Return how large a table is for so many hashes: a power of two, at most half full."""
    size = 16
    while size < 2 * count:
        size *= 2
    return size


@njit(types.boolean(types.int64), cache=True, nogil=True, inline="always")
def _is_bullet(point: Any) -> Any:
    if point < 0x80:
        return point in (_STAR, _HYPHEN)
    return point in (_BULLET, _TRIANGLE, _WHITE_BULLET, _SQUARE, _EN_DASH)


@njit(types.int64(types.uint64, types.int64, KEYS), cache=True, nogil=True)
def _stop_word(packed: Any, length: Any, stop_words: Any) -> Any:
    """Return the bit of the stop word that these letters are, 0 if none: stop words have two to four."""
    if 2 <= length <= 4:
        for i in range(len(stop_words)):
            if packed == stop_words[i]:
                return 1 << i
    return 0


@njit(types.void(*TEXTS, KEYS, types.int64[:, ::1]), cache=True, nogil=True)
def _gopher(data: Any, ends: Any, classes: Any, stop_words: Any, found: Any) -> None:  # noqa: PLR0915  a state machine in one piece
    """Count per text: words, their characters, hash signs, ellipses, lines and what they begin and end with, …."""
    at = 0
    for document in range(len(ends)):
        words, characters, hashes, ellipses, alphabetic, stops = 0, 0, 0, 0, 0, 0
        lines, bulleted, trailing = 0, 0, 0
        empty, bullet, trails = True, False, False
        while at < ends[document]:
            first = data[at]
            if first == NEWLINE:
                if not empty:
                    lines += 1
                    bulleted += bullet
                    trailing += trails
                    empty = True
                at += 1
                continue
            kind = classes[first] if first < 0x80 else classes[decode(data, at)]
            if kind == SPACE:
                at += width(first)
                continue
            words += 1
            letter = False
            dots, length, packed = 0, 0, np.uint64(0)
            if empty:
                bullet = _is_bullet(np.int64(first) if first < 0x80 else decode(data, at))
                empty = False
            while True:  # the characters of one word; the line feed after every text ends the last
                trails = False
                if kind != OTHER:
                    letter |= kind == LETTER
                    # what lower-cases an ASCII letter makes no letter of a digit or an underscore
                    packed = packed << np.uint64(8) | np.uint64(first | 0x20)
                    length += 1 if first < 0x80 else 8
                    dots = 0
                else:
                    stops |= _stop_word(packed, length, stop_words)
                    length, packed = 0, np.uint64(0)
                    if first == _DOT:
                        dots += 1
                        trails = dots >= 3
                        ellipses += dots % 3 == 0
                    else:
                        dots = 0
                        hashes += first == _HASH
                        if first == 0xE2 and decode(data, at) == _ELLIPSIS:
                            ellipses += 1
                            trails = True
                characters += 1
                at += width(first)
                first = data[at]
                kind = classes[first] if first < 0x80 else classes[decode(data, at)]
                if kind == SPACE:
                    break
            stops |= _stop_word(packed, length, stop_words)
            alphabetic += letter
        row = found[document]
        row[_WORDS], row[_CHARACTERS], row[_HASHES], row[_ELLIPSES] = words, characters, hashes, ellipses
        row[_LINES], row[_BULLETED], row[_TRAILING], row[_ALPHABETIC] = lines, bulleted, trailing, alphabetic
        while stops:
            row[_STOP] += stops & 1
            stops >>= 1


@njit(types.void(*TEXTS, types.int64[::1], types.int64[:, ::1]), cache=True, nogil=True)
def _c4(data: Any, ends: Any, classes: Any, phrases: Any, found: Any) -> None:  # noqa: PLR0915  a state machine in one piece
    """Count per text: characters, lines, lines and characters and sentences C4 keeps, opening curly brackets.

    phrases: the places, ascending, of what removes a line.
    """
    at, phrase = 0, 0
    for document in range(len(ends)):
        row = found[document]
        words, characters, longest, sentences = 0, 0, 0, 0  # of a line
        mark, ended, trails = False, False, False  # of its last word
        while at < ends[document]:
            first = data[at]
            if first == NEWLINE:
                unwanted = False
                while phrase < len(phrases) and phrases[phrase] < at:
                    unwanted = True
                    phrase += 1
                if words:
                    row[0] += characters
                    row[1] += 1
                    if mark and not trails and words >= C4_LINE_WORDS and longest <= C4_WORD_LENGTH and not unwanted:
                        row[_KEPT] += 1
                        row[_KEPT_CHARACTERS] += characters
                        row[_SENTENCES] += sentences if ended else sentences + 1
                    words, characters, longest, sentences = 0, 0, 0, 0
                at += 1
                continue
            kind = classes[first] if first < 0x80 else classes[decode(data, at)]
            if kind == SPACE:
                at += width(first)
                continue
            words += 1
            length, dots = 0, 0
            mark, ended = False, False
            while kind != SPACE:  # the characters of one word
                length += 1
                if kind != OTHER:
                    mark, ended, dots = False, False, 0
                elif first == _DOT:
                    dots += 1
                    mark, ended = True, dots < 3
                else:
                    dots = 0
                    point = np.int64(first) if first < 0x80 else decode(data, at)
                    mark = point in (_EXCLAMATION, _QUESTION, _QUOTE)
                    if point in (_EXCLAMATION, _QUESTION):
                        ended = True
                    elif point not in (
                        _QUOTE, _APOSTROPHE, _PARENTHESIS, _BRACKET, _SINGLE_CLOSED, _DOUBLE_CLOSED
                    ):  # fmt: skip
                        ended = False
                    row[_CURLIES] += point == _CURLY
                at += width(first)
                first = data[at]
                kind = classes[first] if first < 0x80 else classes[decode(data, at)]
            trails = dots >= 3
            characters += length
            longest = max(longest, length)
            sentences += ended


@njit(types.void(*TEXTS, KEYS, types.uint8[::1], types.int64[:, ::1]), cache=True, nogil=True)
def _dsir(data: Any, ends: Any, classes: Any, known: Any, kinds: Any, found: Any) -> None:
    """Count per text: words, occurrences of the most frequent one, words that are no stop word, that are no digit."""
    known_mask = np.uint64(len(known) - 1)
    hashes = np.empty(64, np.uint64)
    keys, times = np.empty(128, np.uint64), np.empty(128, np.int64)
    start = 0
    for document in range(len(ends)):
        stop = ends[document]
        if stop - start >= len(hashes):
            hashes = np.empty(stop - start + 1, np.uint64)  # one more than there can be words: it is never full
        _, count = next_words(data, start, stop, classes, hashes, 0)
        size = capacity(count)
        if size > len(keys):
            keys, times = np.empty(size, np.uint64), np.empty(size, np.int64)
        keys[:size] = 0
        times[:size] = 0
        mask = np.uint64(size - 1)
        most, others, no_digits = 0, count, count
        for i in range(count):
            h = max(hashes[i], np.uint64(1))
            slot = slot_of(keys, mask, h)
            keys[slot] = h
            times[slot] += 1
            most = max(most, times[slot])
            slot = slot_of(known, known_mask, h)
            if known[slot]:
                others -= kinds[slot] == 1
                no_digits -= kinds[slot] == 2
        found[document, 0], found[document, 1], found[document, 2], found[document, 3] = count, most, others, no_digits
        start = stop
