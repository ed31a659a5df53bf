"""Change a line of JSON without encoding the record again: append members, cut members out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import orjson

# One token of a JSON text that orjson has accepted already: a string, a bracket, a comma, a colon.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]:,]', re.DOTALL)

_BRACE = ord("}")
_VALUE_ENDS = frozenset(b'"0123456789]}el')  # the last byte of a string, number, list, object, true, false, null


def members(values: Mapping[str, np.ndarray[Any, Any]]) -> list[bytes]:
    """Return, for each record, the JSON members `"name":value,…` of its new fields: numbers shortest round-trip."""
    columns = []
    for name, column in values.items():
        key = orjson.dumps(name) + b":"
        numbers = orjson.dumps(column.tolist())[1:-1]
        columns.append([key + number for number in numbers.split(b",")] if numbers else [])
    if len(columns) == 1:
        return columns[0]
    return [b",".join(row) for row in zip(*columns, strict=True)]


def append(line: bytes, new: bytes) -> bytes:
    """Return the line with new members before its closing brace; what follows the brace stays where it is."""
    brace = line.rfind(b"}")
    head = line[:brace]
    # only an empty object ends in an opening brace here
    comma = b"" if head.rstrip().endswith(b"{") else b","
    return head + comma + new + line[brace:]


def append_all(lines: Iterable[bytes], new: Iterable[bytes]) -> bytes:
    """Append to many lines; return them as one block, each with its newline."""
    pieces: list[bytes] = []
    for line, member in zip(lines, new, strict=True):
        if line[-1] == _BRACE and line[-2] in _VALUE_ENDS:  # it simply ends in its brace, with members before it
            pieces += (line[:-1], b",", member, b"}\n")
        else:
            pieces += (append(line, member), b"\n")
    return b"".join(pieces)


def without(line: bytes, names: Collection[str]) -> bytes:
    """Return the line with every top-level member of these names cut out, and nothing else changed."""
    pieces: list[tuple[str, bytes]] = []
    depth, start, key = 0, 0, None
    for token in _TOKEN.finditer(line):
        mark = token.group()
        if mark in (b"{", b"["):
            depth += 1
            if depth == 1:
                start = token.end()
        elif depth == 1 and mark == b":":
            pass
        elif depth == 1 and mark in (b",", b"}"):
            if key is not None:
                pieces.append((key, line[start : token.start()]))
            if mark == b"}":
                kept = [piece for name, piece in pieces if name not in names]
                opening = line[: line.index(b"{") + 1]
                return opening + b",".join(kept) + line[token.start() :]
            start, key = token.end(), None
        elif mark in (b"}", b"]"):
            depth -= 1
        elif depth == 1 and key is None:
            key = orjson.loads(mark)
    return line
