r"""Where the words of a text stand, to cut it into pieces of so many words.

A word is what it is in `kernels.ngrams`, a match of `\w+|[^\w\s]+`; upper and lower case are of one class, so nothing
needs to be lower-cased here.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit, types

from dselect.kernels.words import BYTES, SPACE, Ints, decode, width, word_classes

_SPANS = types.int64(BYTES, types.uint8[::1], types.int64[:, ::1])


@njit(_SPANS, cache=True, nogil=True)
def _spans(data: Any, classes: Any, found: Any) -> Any:
    """Write where each word begins and ends; return how many there are."""
    at, count, before = 0, 0, np.uint8(SPACE)
    while at < len(data):
        first = data[at]
        kind = classes[first] if first < 0x80 else classes[decode(data, at)]
        if kind != before:
            if before != SPACE:
                found[count, 1] = at
                count += 1
            found[count, 0] = at
        before = kind
        at += width(first)
    if before != SPACE:
        found[count, 1] = at
        count += 1
    return count


def spans(text: bytes) -> Ints:
    """Return where each word of a UTF-8 text begins and ends: int64 (words, 2), in bytes."""
    found = np.empty((len(text) + 1, 2), np.int64)
    return found[: _spans(np.frombuffer(text, np.uint8), word_classes(), found)]


def windows(text: bytes, words: int) -> tuple[list[bytes], list[int]]:
    """Return a text in pieces of so many words, the last one shorter, and how many each has; never no piece.

    Together they are the text: what stands between two windows belongs to the first.
    """
    found = spans(text)[:, 0]
    starts = [0, *found[words::words].tolist(), len(text)]
    counts = [words] * (len(starts) - 2)
    return [text[start:stop] for start, stop in pairwise(starts)], [*counts, len(found) - sum(counts)]


def excerpt(text: bytes, words: int, most: int, place: float) -> bytes:
    """Return a text of at most `most` words as it is; of a longer one, `words` of its words.

    place: in 0 … 1, where among the places it can begin at that leave room for `most` words.
    """
    if len(text) <= most:
        return text
    found = spans(text)
    if len(found) <= most:
        return text
    start = int(place * (len(found) - most + 1))
    return text[found[start, 0] : found[start + words - 1, 1]]
