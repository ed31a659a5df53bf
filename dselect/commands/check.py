"""Report what is wrong with a pool."""
# Reads everything, stops at nothing and writes no record. Duplicates are found by 64-bit hashes of ids and texts, kept
# in the order of the input and compared a sixteenth at a time: 20 bytes a record, and a little for the comparison.

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
import orjson

from dselect.console import Run, size, table
from dselect.errors import DselectError, UsageError
from dselect.options import Option, PoolOptions, RunOptions
from dselect.pool import Counts, Pool, Tolerance
from dselect.records.batch import BadLine, Batch
from dselect.records.sources import Source, discover

KINDS = {  # how the reason of a bad line begins, and the name of its kind
    "not UTF-8": "not_utf8",
    "not JSON:": "not_json",
    "not a JSON object": "not_an_object",
    "no text": "no_text",
    "the field": "text_is_no_string",
    "the id": "id_too_deep",
}
LONGEST_REASON = 300  # characters: a reason quotes the names of fields, which may be anything
PIECE = 1 << 18  # numbers in a piece of a column
PARTS = 16  # a column is compared in as many parts, by the first bits of its hashes

Keys = np.ndarray[Any, np.dtype[np.uint64]]
Pairs = list[tuple[int, int]]
_MOST = 2**32 - 1


@dataclass
class Tally:
    """What was counted in a file, or in all."""

    documents: int = 0
    bytes: int = 0
    blank_lines: int = 0
    bad_lines: int = 0
    empty_texts: int = 0
    whitespace_texts: int = 0
    missing_ids: int = 0

    def add(self, more: Tally) -> None:
        """Add what was counted elsewhere."""
        for name, number in asdict(more).items():
            setattr(self, name, getattr(self, name) + number)


@dataclass
class Kind:
    """Bad lines of one kind: how many, and the first of them as (file or nothing yet, line, reason)."""

    count: int = 0
    examples: list[tuple[str, int, str]] = field(default_factory=list)


@dataclass
class Findings:
    """What a block holds. A record's number of line uint32, hash of id (0: it has none) and of text uint64: (n,)."""

    tally: Tally
    bad: dict[str, Kind]
    lines: np.ndarray[Any, np.dtype[np.uint32]]
    ids: Keys
    texts: Keys


@dataclass(frozen=True)
class Inspect:
    """Looks a block over: the work of the pass. At most `show` examples a kind travel back."""

    show: int

    def __call__(self, batch: Batch) -> Findings:
        """Return what the block holds."""
        ids, too_deep = _id_hashes(batch)
        bad: dict[str, Kind] = {}
        for number, reason, _ in [*batch.bad, *too_deep]:
            kind = bad.setdefault(next(name for begins, name in KINDS.items() if reason.startswith(begins)), Kind())
            kind.count += 1
            if len(kind.examples) < self.show:
                kind.examples.append(("", number, reason[:LONGEST_REASON]))
        tally = Tally(
            bad_lines=len(too_deep),
            empty_texts=batch.texts.count(""),
            whitespace_texts=sum(map(str.isspace, batch.texts)),
            missing_ids=int((ids == 0).sum()) - len(too_deep),
        )
        lines = np.minimum(np.array(batch.numbers, np.int64), _MOST).astype(np.uint32)
        return Findings(tally, bad, lines, ids, np.maximum(batch.text_hashes, 1))


def _id_hashes(batch: Batch) -> tuple[Keys, list[BadLine]]:
    """Return blake2b-64 of every parsed id, 0 for none; and the records whose id no command can take."""
    hashes, too_deep = [], []
    for record, number in zip(batch.records, batch.numbers, strict=True):
        value = record.get("id")
        try:
            known = value is not None and orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        except TypeError:  # orjson reads deeper than it writes
            too_deep.append(BadLine(number, "the id is nested too deeply", b""))
            known = False
        digest = hashlib.blake2b(known, digest_size=8).digest() if known else bytes(8)
        hashes.append(max(int.from_bytes(digest, "little"), 1) if known else 0)
    return np.array(hashes, np.uint64), too_deep


class Column:
    """Numbers in order, in pieces of one size: it grows without ever being copied."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self.pieces: list[np.ndarray[Any, Any]] = []
        self._dtype, self._size = dtype, 0

    def extend(self, values: np.ndarray[Any, Any]) -> None:
        """Append numbers."""
        while len(values):
            free = -self._size % PIECE
            if not free:
                self.pieces.append(np.zeros(PIECE, self._dtype))  # zero beyond the end: nothing there to compare
                free = PIECE
            start = PIECE - free
            taken = values[:free]
            self.pieces[-1][start : start + len(taken)] = taken
            self._size += len(taken)
            values = values[free:]

    def __getitem__(self, position: int) -> int:
        return int(self.pieces[position // PIECE][position % PIECE])


def duplicates(hashes: Column, show: int) -> tuple[int, Pairs]:
    """Return how many hashes stand earlier in the column too, and the first such positions: (first, again); 0 is none.

    Extra memory: about 1 byte a hash, and a piece.
    """
    count, pairs = 0, list[tuple[int, int]]()
    for part in range(PARTS):
        repeats, repeated = _repeated(hashes, part)
        count += repeats
        for pair in _again(hashes, part, repeated):
            if len(pairs) == show and (not show or pair[1] > pairs[-1][1]):
                break  # what follows in this part stands later still
            pairs = sorted([*pairs, pair], key=lambda found: found[1])[:show]
    return count, pairs


def _part(piece: Keys, part: int) -> tuple[Any, Keys]:
    """Return the places, ascending, of a piece's hashes that belong to a part, and those hashes."""
    at = np.flatnonzero(piece >> np.uint64(60) == part)
    if not part:
        at = at[piece[at] != 0]
    return at, piece[at]


def _repeated(hashes: Column, part: int) -> tuple[int, Keys]:
    """Return how many hashes of a part were there before, and each that was, once, ascending."""
    total, once, more = 0, [np.zeros(0, np.uint64)], []
    for piece in hashes.pieces:
        values, counts = np.unique(_part(piece, part)[1], return_counts=True)
        total += int(counts.sum())
        once.append(values)
        more.append(values[counts > 1])
    distinct = np.concatenate(once)
    once.clear()
    distinct.sort()
    same = distinct[1:] == distinct[:-1]
    repeated = np.unique(np.concatenate([distinct[1:][same], *more]))
    return total - len(distinct) + int(same.sum()), repeated


def _again(hashes: Column, part: int, repeated: Keys) -> Iterator[tuple[int, int]]:
    """Yield (first, again) for every hash of a part that was there before, in order."""
    first = np.full(len(repeated), -1)
    for number, piece in enumerate(hashes.pieces if len(repeated) else ()):
        at, values = _part(piece, part)
        place = np.minimum(np.searchsorted(repeated, values), len(repeated) - 1)
        hit = repeated[place] == values
        at, place = at[hit] + number * PIECE, place[hit]
        new, earliest = np.unique(place, return_index=True)
        unseen = first[new] < 0
        first[new[unseen]] = at[earliest[unseen]]
        again = first[place] != at
        yield from zip(first[place[again]].tolist(), at[again].tolist(), strict=True)


class Report:
    """What was found in a pool."""

    def __init__(self, sources: Sequence[Source], show: int) -> None:
        self.names = [_encodable(source.name) for source in sources]
        self.files = [Tally() for _ in sources]
        self.total = Tally()
        self.failures: list[str] = []
        self.broken: set[int] = set()
        self.bad: dict[str, Kind] = {name: Kind() for name in KINDS.values()}
        self.ids: tuple[int, Pairs] = (0, [])
        self.texts: tuple[int, Pairs] = (0, [])
        self._show = show
        self._read = [0] * len(sources)  # lines, of each file
        self._lines = Column(np.uint32)

    def read(self, pool: Pool) -> None:
        """Pass over the pool and take in what it holds."""
        ids, texts = Column(np.uint64), Column(np.uint64)
        for source, counts, found, failure in pool.survey(Inspect(self._show)):
            self._add(source, counts, found)
            for column, new in ((self._lines, found.lines), (ids, found.ids), (texts, found.texts)):
                column.extend(new)
            if failure:
                self._fail(source, failure)
        self.ids, self.texts = duplicates(ids, self._show), duplicates(texts, self._show)

    def _add(self, source: int, counts: Counts, found: Findings) -> None:
        self._read[source] += counts.documents + counts.blank + counts.bad
        tally = found.tally
        tally.add(Tally(counts.documents, counts.bytes, counts.blank, counts.bad))
        self.files[source].add(tally)
        self.total.add(tally)
        for name, kind in found.bad.items():
            self.bad[name].count += kind.count
            missing = self._show - len(self.bad[name].examples)
            new = [(self.names[source], number, reason) for _, number, reason in kind.examples[:missing]]
            self.bad[name].examples += new

    def _fail(self, source: int, failure: DselectError) -> None:
        self.broken.add(source)
        self.failures.append(f"{_encodable(str(failure))}, after {self._read[source]:,} lines")

    @property
    def warnings(self) -> dict[str, int]:
        """What a run does not stop at, and yet may be wrong, by name."""
        return {
            "duplicate_ids": self.ids[0],
            "duplicate_texts": self.texts[0],
            "empty_texts": self.total.empty_texts,
            "whitespace_texts": self.total.whitespace_texts,
            "missing_ids": self.total.missing_ids,
        }

    def place(self, position: int) -> str:
        """Return file:line of the record at a position."""
        ends = np.cumsum([tally.documents for tally in self.files])
        return f"{self.names[int(np.searchsorted(ends, position, side='right'))]}:{self._lines[position]}"

    def pairs(self, found: Pairs) -> list[dict[str, str]]:
        """Return pairs of positions as pairs of file:line."""
        return [{"first": self.place(first), "again": self.place(again)} for first, again in found]

    def to_json(self) -> bytes:
        """Return everything as one JSON object."""
        files = [
            {"file": name, **asdict(tally), "complete": number not in self.broken}
            for number, (name, tally) in enumerate(zip(self.names, self.files, strict=True))
        ]
        bad = {
            name: {
                "count": kind.count,
                "examples": [{"file": file, "line": line, "reason": why} for file, line, why in kind.examples],
            }
            for name, kind in self.bad.items()
            if kind.count
        }
        return orjson.dumps(
            {
                "files": files,
                "total": asdict(self.total),
                "failures": self.failures,
                "bad_lines": bad,
                "duplicate_ids": {"count": self.ids[0], "examples": self.pairs(self.ids[1])},
                "duplicate_texts": {"count": self.texts[0], "examples": self.pairs(self.texts[1])},
            }
        )

    def to_text(self) -> str:
        """Return a table of the files, then what was found in them."""
        header = ["file", "documents", "text", "blank", "bad", "empty", "whitespace", "no id", "complete"]
        rows = [
            [printable(name), *_cells(tally), "no" if number in self.broken else "yes"]
            for number, (name, tally) in enumerate(zip(self.names, self.files, strict=True))
        ]
        if len(rows) > 1:
            rows.append(["total", *_cells(self.total), "no" if self.failures else "yes"])
        stops = _section("cannot be read", len(self.failures), "files", self.failures)
        for name, kind in self.bad.items():
            examples = [f"{file}:{line}: {reason}" for file, line, reason in kind.examples]
            stops += _section(name.replace("_", " "), kind.count, "lines", examples)
        warned = []
        for name, number in self.warnings.items():
            found = {"duplicate_ids": self.ids[1], "duplicate_texts": self.texts[1]}.get(name, [])
            again = [f"{pair['first']} again at {pair['again']}" for pair in self.pairs(found)]
            warned += _section(name.replace("_", " "), number, "records", again)
        parts = [table("", header, rows)]
        for title, lines in (("A run stops at", stops), ("Warnings", warned)):
            if lines:
                parts.append("\n".join([title, *map(printable, lines)]))
        return "\n\n".join(parts if parts[1:] else [*parts, "Nothing is wrong."])


def _cells(tally: Tally) -> list[str]:
    counts = asdict(tally)
    counts["bytes"] = size(tally.bytes)
    return [value if isinstance(value, str) else f"{value:,}" for value in counts.values()]


def _section(what: str, count: int, of: str, examples: Sequence[str]) -> list[str]:
    return [f"  {what}: {count:,} {of}", *(f"    {example}" for example in examples)] if count else []


def printable(line: str) -> str:
    """Return a line as a terminal may show it: what a name or a field holds must not move the cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _encodable(name: str) -> str:
    """Return a file's name as JSON can hold it: bytes that are not UTF-8 as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def find(names: Sequence[str]) -> tuple[list[Source], list[DselectError]]:
    """Return the inputs that the names stand for, and what is wrong with the names that stand for none."""
    good, failures = [], []
    for name in names:
        try:
            discover([name])
        except DselectError as failure:
            failures.append(failure)
        else:
            good.append(name)
    return discover(good), failures


def command(
    pool: PoolOptions,
    run: RunOptions,
    show: Annotated[int, Option(metavar="N", min=0, help="Examples to show of each kind of finding.")] = 5,
    strict: Annotated[
        bool, Option("--strict", help="Fail at duplicates, missing ids and texts without words too.")
    ] = False,
    as_json: Annotated[bool, Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Report what is wrong with a pool: bad lines, broken files, duplicates, empty texts.

    Reads all of it and writes no records. The exit status is 1 if another command would stop at this pool, with
    the same --bad-lines; duplicates, missing ids and empty texts are warnings, unless --strict.

    \b
    Example:
      dselect check pool.jsonl.zst
    """
    if pool.rejects:
        raise UsageError("check writes no records", way_out="dselect select --keep 100% --rejects FILE sets them aside")
    if pool.engine != "local":
        raise UsageError("check reads files that may be broken, one after the other", way_out="--engine local")
    tolerance = Tolerance.parse(pool.bad_lines)
    with Run("check", run) as talk:
        sources, absent = find(pool.names())
        sources = pool.share(sources)
        records = Pool(
            sources, text_field=pool.text, limit=pool.limit, jobs=run.jobs, few_alone=not run.asked, progress=talk
        )
        report = Report(sources, show)
        report.failures += [_encodable(str(failure)) for failure in absent]
        report.read(records)
    print(report.to_json().decode() if as_json else report.to_text(), flush=True)
    total, failed = report.total, len(report.failures)
    talk.report(
        Counts(total.documents, total.bytes),
        bad_lines=total.bad_lines,
        blank_lines=total.blank_lines,
        broken_files=failed,
        **report.warnings,
    )
    bad = not tolerance.allows(total.bad_lines, total.bad_lines + total.documents)
    if failed or bad or (strict and any(report.warnings.values())):
        raise SystemExit(1)
