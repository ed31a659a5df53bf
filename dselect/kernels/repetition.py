"""What texts repeat: lines, paragraphs and n-grams of words that occurred before; words as in `statistics`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit, types

from dselect.kernels.statistics import KEYS, NEWLINE, TEXTS, Columns, capacity, joined, share, slot_of
from dselect.kernels.words import FNV_PRIME, FNV_START, SPACE, chain, decode, letter_classes, mix, width

# columns of what the kernel counts, after characters and lines
_LONGEST_TOP, _LONGEST_GRAM = 4, 10
_REPEATED, _REPEATED_CHARACTERS, _PARAGRAPHS, _REPEATED_PARAGRAPHS, _REPEATED_PARAGRAPH_CHARACTERS = 2, 3, 4, 5, 6
_GRAMS = 5  # the characters of n-grams are in column _GRAMS + n


def repetition_statistics(texts: Sequence[str]) -> Columns:
    """Return what Gopher's repetition rules look at (Rae et al. 2021, table A1): shares of lines and of characters.

    A duplicate is what occurred before; of overlapping n-grams every character counts once. The top n-gram is the most
    frequent one, of several the one with the most characters, then the one that got there first; if none occurs twice
    its share is 0.
    """
    data, ends = joined(texts)
    found = np.zeros((len(ends), _GRAMS + _LONGEST_GRAM + 1), np.int64)
    _repetition(data, ends, letter_classes(), found)
    characters = found[:, 0]
    return {
        "duplicate_lines": share(found[:, _REPEATED], found[:, 1]),
        "duplicate_line_characters": share(found[:, _REPEATED_CHARACTERS], characters),
        "duplicate_paragraphs": share(found[:, _REPEATED_PARAGRAPHS], found[:, _PARAGRAPHS]),
        "duplicate_paragraph_characters": share(found[:, _REPEATED_PARAGRAPH_CHARACTERS], characters),
        **{f"top_{n}_gram": share(found[:, _GRAMS + n], characters) for n in range(2, _LONGEST_TOP + 1)},
        **{
            f"duplicate_{n}_grams": share(found[:, _GRAMS + n], characters)
            for n in range(_LONGEST_TOP + 1, _LONGEST_GRAM + 1)
        },
    }


@njit(types.Tuple((types.int64, types.int64))(KEYS, types.int64[::1], types.int64, KEYS), cache=True, nogil=True)
def _duplicates(hashes: Any, characters: Any, count: Any, keys: Any) -> Any:
    """Return how many of the hashes occurred before, and their characters; `keys` is a table large enough."""
    size = capacity(count)
    keys[:size] = 0
    mask = np.uint64(size - 1)
    duplicates, inside = 0, 0
    for i in range(count):
        slot = slot_of(keys, mask, hashes[i])
        if keys[slot]:
            duplicates += 1
            inside += characters[i]
        keys[slot] = hashes[i]
    return duplicates, inside


@njit(types.int64(KEYS, types.int64, types.int64[::1], types.int64, KEYS), cache=True, nogil=True)
def _inside_duplicates(grams: Any, count: Any, before: Any, n: Any, keys: Any) -> Any:
    """Return the characters of all n-grams that occurred before. before: the characters before each word."""
    size = capacity(count)
    keys[:size] = 0
    mask = np.uint64(size - 1)
    inside, covered = 0, 0
    for i in range(count):
        slot = slot_of(keys, mask, grams[i])
        if keys[slot]:
            inside += before[i + n] - before[max(i, covered)]
            covered = i + n
        keys[slot] = grams[i]
    return inside


@njit(types.int64(KEYS, types.int64, types.int64[::1], types.int64, KEYS, types.int64[::1]), cache=True, nogil=True)
def _inside_top(grams: Any, count: Any, before: Any, n: Any, keys: Any, times: Any) -> Any:
    """Return the characters of all occurrences of the most frequent n-gram, 0 if none occurs twice."""
    size = capacity(count)
    keys[:size] = 0
    times[:size] = 0
    mask = np.uint64(size - 1)
    top, most, longest = np.uint64(0), 1, 0
    for i in range(count):
        slot = slot_of(keys, mask, grams[i])
        keys[slot] = grams[i]
        times[slot] += 1
        characters = before[i + n] - before[i]
        if times[slot] > most or (times[slot] == most > 1 and characters > longest):
            top, most, longest = grams[i], times[slot], characters
    inside, covered = 0, 0
    if most > 1:
        for i in range(count):
            if grams[i] == top:
                inside += before[i + n] - before[max(i, covered)]
                covered = i + n
    return inside


@njit(
    types.void(KEYS, types.int64, types.int64[::1], KEYS, types.int64[::1], KEYS, types.int64[::1]),
    cache=True,
    nogil=True,
)
def _ngrams(words: Any, count: Any, before: Any, keys: Any, times: Any, grams: Any, row: Any) -> None:
    """Count the characters inside repeated n-grams, for every n, into their columns; `grams` is room to work in."""
    for i in range(count):
        grams[i] = chain(np.uint64(0), words[i])
    for n in range(2, min(_LONGEST_GRAM, count) + 1):
        for i in range(count - n + 1):
            grams[i] = max(chain(grams[i], words[i + n - 1]), np.uint64(1))
        if n <= _LONGEST_TOP:
            row[_GRAMS + n] = _inside_top(grams, count - n + 1, before, n, keys, times)
        else:
            row[_GRAMS + n] = _inside_duplicates(grams, count - n + 1, before, n, keys)


@njit(types.void(*TEXTS, types.int64[:, ::1]), cache=True, nogil=True)
def _repetition(data: Any, ends: Any, classes: Any, found: Any) -> None:  # noqa: PLR0915  a state machine in one piece
    """Count per text: characters, lines, paragraphs, those that are duplicates, characters inside repeated n-grams."""
    room = 64  # words that fit
    words, lines, paragraphs = np.empty(room, np.uint64), np.empty(room, np.uint64), np.empty(room, np.uint64)
    before, in_line, in_paragraph = np.empty(room + 1, np.int64), np.empty(room, np.int64), np.empty(room, np.int64)
    keys, times = np.empty(capacity(room), np.uint64), np.empty(capacity(room), np.int64)
    at = 0
    for document in range(len(ends)):
        need = (ends[document] - at + 1) // 2  # a word is at least one byte and the white space after it
        if need > room:
            room = need
            words, lines, paragraphs = np.empty(room, np.uint64), np.empty(room, np.uint64), np.empty(room, np.uint64)
            before, in_line = np.empty(room + 1, np.int64), np.empty(room, np.int64)
            in_paragraph = np.empty(room, np.int64)
        count, line_count, paragraph_count, characters = 0, 0, 0, 0
        line, paragraph = np.uint64(0), np.uint64(0)
        line_words, paragraph_lines, line_start, paragraph_start = 0, 0, 0, 0
        while at < ends[document]:
            first = data[at]
            if first == NEWLINE:
                if line_words:
                    lines[line_count], in_line[line_count] = max(line, np.uint64(1)), characters - line_start
                    line_count += 1
                    paragraph = chain(paragraph, line)
                    paragraph_lines += 1
                at += 1
                if paragraph_lines and (not line_words or at == ends[document]):
                    paragraphs[paragraph_count] = max(paragraph, np.uint64(1))
                    in_paragraph[paragraph_count] = characters - paragraph_start
                    paragraph_count += 1
                    paragraph, paragraph_lines, paragraph_start = np.uint64(0), 0, characters
                line, line_words, line_start = np.uint64(0), 0, characters
                continue
            kind = classes[first] if first < 0x80 else classes[decode(data, at)]
            if kind == SPACE:
                at += width(first)
                continue
            before[count] = characters
            h = FNV_START
            while kind != SPACE:  # the characters of one word
                for _ in range(width(first)):
                    h = (h ^ np.uint64(data[at])) * FNV_PRIME
                    at += 1
                characters += 1
                first = data[at]
                kind = classes[first] if first < 0x80 else classes[decode(data, at)]
            words[count] = mix(h)
            line = chain(line, words[count])
            count += 1
            line_words += 1
        before[count] = characters
        size = capacity(count)
        if size > len(keys):
            keys, times = np.empty(size, np.uint64), np.empty(size, np.int64)
        row = found[document]
        row[0], row[1], row[_PARAGRAPHS] = characters, line_count, paragraph_count
        row[_REPEATED], row[_REPEATED_CHARACTERS] = _duplicates(lines, in_line, line_count, keys)
        row[_REPEATED_PARAGRAPHS], row[_REPEATED_PARAGRAPH_CHARACTERS] = _duplicates(
            paragraphs, in_paragraph, paragraph_count, keys
        )
        _ngrams(words, count, before, keys, times, lines, row)  # the lines are done with, and the array is long enough
