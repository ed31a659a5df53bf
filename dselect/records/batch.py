"""Parse a block of lines into records; say which lines are none and why."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import orjson

from dselect.errors import DselectError
from dselect.records.reading import Block

Keys = np.ndarray[Any, np.dtype[np.uint64]]
_LOW = np.uint64(0xFFFFFF)
_ABSENT = object()
_NOT_FINITE = re.compile(rb"-?(NaN|Infinity)")


class BadLine(NamedTuple):
    """A line that is not a record: its number (from 1), what is wrong, its bytes."""

    number: int
    reason: str
    line: bytes


@dataclass
class Batch:
    """The records of one block, in order: parsed, and as the lines they came from."""

    lines: list[bytes]
    records: list[dict[str, Any]]
    texts: list[str]
    numbers: Sequence[int]
    bad: list[BadLine] = field(default_factory=list)
    blank: int = 0
    block: Block = field(default_factory=lambda: Block(0, 1, b""))

    def __len__(self) -> int:
        return len(self.lines)

    @cached_property
    def utf8(self) -> list[bytes]:
        """Return every text as UTF-8, encoded once for all who want it."""
        return [text.encode() for text in self.texts]

    @cached_property
    def identities(self) -> Keys:
        """Return blake2b-64 of (parsed id or nothing, NUL, text) of every record: uint64 (n,)."""
        digests = b"".join(
            hashlib.blake2b(b"%b\0%b" % (_id_bytes(record.get("id"), number), text), digest_size=8).digest()
            for record, text, number in zip(self.records, self.utf8, self.numbers, strict=True)
        )
        return np.frombuffer(digests, "<u8").astype(np.uint64)

    @property
    def ties(self) -> Keys:
        """Return what decides between equal scores: 40 bits of identity, then 24 of the line's checksum.

        The checksum orders records that share id and text but differ elsewhere, in the same 8 bytes.
        """
        return np.asarray((self.identities & ~_LOW) | (self._checksums & _LOW))

    @property
    def sample_keys(self) -> Keys:
        """Return a hash of every line, to draw a sample by: uint64 (n,), of 32 bits."""
        # a checksum is linear: near lines have near ones, until the multiplication spreads their low bits upwards
        return np.asarray((self._checksums * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32))

    @cached_property
    def _checksums(self) -> Keys:
        return np.fromiter(map(zlib.crc32, self.lines), np.uint64, len(self.lines))

    @property
    def text_hashes(self) -> Keys:
        """Return blake2b-64 of every text: uint64 (n,)."""
        return hashes_of(self.utf8)

    @cached_property
    def text_bytes(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the UTF-8 length of every text: int64 (n,)."""
        return np.fromiter(map(len, self.utf8), np.int64, len(self.texts))

    def values(self, name: str) -> list[Any]:
        """Return a field of every record, None where it is missing; dotted names reach inside, a literal key first.

        Sidecars add fields; DselectError where the record or another sidecar has the field too.
        """
        found = [lookup(record, name) for record in self.records]
        for rows in self._attributes:
            for position, row in enumerate(rows):
                if name in row:
                    if found[position] is not None:
                        raise DselectError(
                            f'the field "{name}" is in two places: two folders of attributes, or one and the record',
                            where=f":{self.numbers[position]}",
                            way_out="name one folder, or give one of them another name: --as NAME",
                        )
                    found[position] = self._value(row[name], position, name)
        return found

    @cached_property
    def _attributes(self) -> list[list[dict[str, Any]]]:
        """Return the attributes of every record, a list for each sidecar; DselectError if they are of another."""
        found = []
        for data in self.block.sidecars:
            lines, rows = data.split(b"\n"), []
            for number, record in zip(self.numbers, self.records, strict=True):
                try:
                    row = orjson.loads(lines[number - self.block.first_line])
                    attributes = row["attributes"]
                    other = record.get("id") is not None and row.get("id") != record["id"]
                except (ValueError, LookupError, TypeError, AttributeError) as error:
                    raise DselectError(
                        "this line of the attribute file holds no attributes", where=f":{number}"
                    ) from error
                if other:
                    raise DselectError(
                        f"the attributes are of another record, {row.get('id')!r}",
                        where=f":{number}",
                        way_out="make them again from these files",
                    )
                rows.append(attributes)
            found.append(rows)
        return found

    def _value(self, spans: Any, position: int, name: str) -> Any:
        if not (isinstance(spans, list) and len(spans) == 1 and isinstance(spans[0], list) and len(spans[0]) == 3):
            raise DselectError(
                f'the attribute "{name}" is not one span of the whole text', where=f":{self.numbers[position]}"
            )
        return spans[0][2]

    def labels(self, name: str) -> list[str | None]:
        """Return the label that a field gives every record: a string as it is, else as JSON; None where missing."""
        values = self.values(name)
        return [v if v is None or isinstance(v, str) else orjson.dumps(v).decode() for v in values]

    def column(self, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return a numeric field of every record, NaN where it is missing: float64 (n,); DselectError if no number."""
        values = self.values(name)
        try:
            if not any(isinstance(value, bool | str) for value in values):
                return np.array(values, np.float64)  # None becomes NaN
        except (TypeError, ValueError, OverflowError):
            pass
        number, wrong = next(
            (n, value) for n, value in zip(self.numbers, values, strict=True)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float))
        )  # fmt: skip
        raise DselectError(
            f'the field "{name}" is {_kind(wrong)}, not a number',
            where=f":{number}",
            way_out="write it without quotes" if _is_quoted(wrong) else "name a field that holds numbers",
        )


def hashes_of(texts: Iterable[bytes]) -> Keys:
    """Return blake2b-64 of every text: uint64 (n,)."""
    digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def parse(block: Block, text_field: str) -> Batch:
    """Parse every line of a block; lines that are not records end up in `.bad`, in order."""
    lines = block.data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    kept, records, texts, numbers = [], [], [], []
    bad: list[BadLine] = []
    blank = 0
    loads = orjson.loads
    number = block.first_line - 1
    for line in lines:
        number += 1
        try:
            record = loads(line)
            text = record[text_field]
            if text.__class__ is not str or record.__class__ is not dict:
                raise TypeError
        except (ValueError, TypeError, LookupError):
            if not line or line.isspace():
                blank += 1
                continue
            try:
                text = _text_of(line, text_field)
            except ValueError as error:
                bad.append(BadLine(number, str(error), line))
                continue
            record = loads(line)
        kept.append(line)
        records.append(record)
        texts.append(text)
        numbers.append(number)
    return Batch(kept, records, texts, numbers, bad, blank, block)


def lookup(record: dict[str, Any], name: str, absent: Any = None) -> Any:
    """Return a field by its literal key or else by dotted path; `absent` where there is none."""
    if name in record:
        return record[name]
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return absent
        value = value[part]
    return value


def _text_of(line: bytes, field_name: str) -> str:
    """Return the text of a line the short way did not take, or raise ValueError with what is wrong with it."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        try:
            line.decode()
        except UnicodeDecodeError as undecodable:
            raise ValueError(f"not UTF-8: byte {undecodable.start + 1} of the line") from error
        what = f"not JSON: {error.msg} at character {error.pos + 1}"
        if _NOT_FINITE.match(line, error.pos):
            what += "; JSON has no NaN and no infinity"
        raise ValueError(what) from error
    if not isinstance(record, dict):
        raise ValueError(f"not a JSON object but {_kind(record)}")
    text = lookup(record, field_name)
    if text is None:
        if lookup(record, field_name, _ABSENT) is None:
            raise ValueError(f'the field "{field_name}" is null, not a text')
        found = ", ".join(list(record)[:8]) or "nothing"
        raise ValueError(f'no text in the field "{field_name}"; the record has: {found}')
    if not isinstance(text, str):
        raise ValueError(f'the field "{field_name}" is {_kind(text)}, not a text')
    return text


def _is_quoted(value: object) -> bool:
    """Tell whether a value is a text that says a number."""
    try:
        return isinstance(value, str) and bool(float(value) < float("inf"))
    except ValueError:
        return False


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _id_bytes(value: object, number: int) -> bytes:
    if value is None:
        return b""
    if isinstance(value, str):
        return value.encode()
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:  # orjson reads deeper than it writes
        raise DselectError("the id is nested too deeply", where=f":{number}") from error
