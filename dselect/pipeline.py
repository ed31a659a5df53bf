"""Where input, fit, score, select and output meet."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import orjson

from dselect import draws, mixing, selection
from dselect.errors import DselectError, UsageError
from dselect.pool import Pool
from dselect.records import splice
from dselect.records.batch import Batch
from dselect.records.reading import Source
from dselect.records.writing import FileSink, FolderSink, Sink, StdoutSink
from dselect.selection import Budget

Kind = Literal["score", "cost", "label"]
Floats = np.ndarray[Any, np.dtype[np.float64]]
TOKEN_FIELDS = ("token_count", "metadata.token_count")


class Scorer(Protocol):
    """A utility function: adds numbers to records. It must pickle, and score a text the same whatever stands beside it."""

    @property
    def fields(self) -> Mapping[str, Kind]:
        """The fields it adds, and what each is."""

    def score(self, batch: Batch) -> Mapping[str, Floats]:
        """Return each field's values: (n,) each. NaN: this record gets no field (`--min-words`)."""


@dataclass(frozen=True)
class Choice:
    """What to keep: the options of `select`, shared by every method."""

    keep: Budget | None = None
    above: float | None = None
    sample: bool = False
    temperature: float = 1.0
    scale: Literal["zscore", "none"] = "zscore"
    within: str | None = None
    quota: str = "proportional"
    unique: bool = False
    tokens: str | None = None
    missing: Literal["error", "drop", "lowest"] = "drop"
    seed: int = 0

    def __bool__(self) -> bool:
        return self.keep is not None or self.above is not None or self.unique

    def check(self) -> None:
        """Raise UsageError where options contradict each other."""
        if self.sample and self.keep is None:
            raise UsageError("--sample needs a budget", way_out="--keep 5000, 10%, 30MB, 2Mtok")
        if self.within and self.keep is None:
            raise UsageError("--within shares out a budget", way_out="--keep 5000, 10%, 30MB, 2Mtok")
        if self.quota != "proportional" and not self.within:
            raise UsageError("--quota needs the field that names the domain", way_out="--within source")
        if self.temperature < 0:
            raise UsageError("--temperature must not be negative")


@dataclass
class Kept:
    """What was kept, for the summary line."""

    positions: np.ndarray[Any, np.dtype[np.int64]]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Annotate:
    """Lines with the scorer's fields spliced in: the work of a scoring pass."""

    scorer: Scorer
    overwrite: bool

    def __call__(self, batch: Batch) -> tuple[bytes, int]:
        """Return the new lines as one block, and how many records got no field."""
        values = _score(self.scorer, batch)
        lines = _free_of(batch, list(values), self.overwrite)
        scored = np.logical_and.reduce([np.isfinite(column) for column in values.values()])
        if scored.all():
            lines = splice.append_all(lines, splice.members(values))
        else:
            at = np.flatnonzero(scored)
            new = splice.members({name: column[at] for name, column in values.items()})
            for position, member in zip(at.tolist(), new, strict=True):
                lines[position] = splice.append(lines[position], member)
        block = b"".join([line + b"\n" for line in lines])
        return block, int(len(scored) - scored.sum())


@dataclass(frozen=True)
class Fields:
    """Reads numbers that the records carry already: a scorer that writes nothing."""

    names: Sequence[str]

    @property
    def fields(self) -> Mapping[str, Kind]:
        """No new fields."""
        return {}

    def score(self, batch: Batch) -> Mapping[str, Floats]:
        """Return the named fields, NaN where a record lacks one."""
        return {name: batch.column(name) for name in self.names}


@dataclass(frozen=True)
class Columns:
    """The numbers a selection needs of every record: the work of a global step."""

    scorer: Scorer
    choice: Choice
    overwrite: bool = False

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """Return columns by name: `tie` uint64, `size` uint32, one float64 column a score, and what else is asked."""
        values = _score(self.scorer, batch)
        _free_of(batch, list(self.scorer.fields), self.overwrite)
        if self.choice.missing == "error":
            for name, column in values.items():
                if np.isnan(column).any():
                    _refuse_missing(batch, name, int(np.isnan(column).argmax()))
        found: dict[str, Any] = {"tie": batch.ties, "size": self._sizes(batch)}
        if self.choice.sample or not values:
            found["identity"] = batch.identities
        if self.choice.within:
            found["domain"] = self._domains(batch, self.choice.within)
        if self.choice.unique:
            found["text"] = batch.text_hashes
        found.update({f"score {name}": column for name, column in values.items()})
        return found

    def _sizes(self, batch: Batch) -> np.ndarray[Any, np.dtype[np.uint32]]:
        unit = self.choice.keep.unit if self.choice.keep else "documents"
        if unit == "documents":
            return np.ones(len(batch), np.uint32)
        if unit == "bytes":
            return batch.text_bytes.astype(np.uint32)
        return self._tokens(batch).astype(np.uint32)

    def _tokens(self, batch: Batch) -> Floats:
        names = [self.choice.tokens] if self.choice.tokens else list(TOKEN_FIELDS)
        counts = batch.column(names[0])
        for name in names[1:]:
            counts = np.where(np.isnan(counts), batch.column(name), counts)
        if np.isnan(counts).any():
            _refuse_missing(batch, names[0], int(np.isnan(counts).argmax()), "--tokens FIELD names the token count")
        wrong = (counts < 0) | (counts >= 2**32) | (counts % 1 != 0)
        if wrong.any():
            at = int(wrong.argmax())
            raise DselectError(f"{counts[at]:g} is not a number of tokens", where=f":{batch.numbers[at]}")
        return counts

    def _domains(self, batch: Batch, name: str) -> list[str | None]:
        labels: list[str | None] = []
        for position, value in enumerate(batch.values(name)):
            if value is None:
                if self.choice.missing == "error":
                    _refuse_missing(batch, name, position)
                labels.append(None)
            else:
                labels.append(value if isinstance(value, str) else orjson.dumps(value).decode())
        return labels


def _score(scorer: Scorer, batch: Batch) -> Mapping[str, Floats]:
    return scorer.score(batch) if len(batch) else {name: np.zeros(0) for name in scorer.fields}


def _free_of(batch: Batch, names: Sequence[str], overwrite: bool) -> list[bytes]:
    """Return the lines without these members: there are none, or they are cut out, or they are refused."""
    lines = batch.lines
    for position, record in enumerate(batch.records):
        if any(name in record for name in names):
            if not overwrite:
                name = next(name for name in names if name in record)
                raise DselectError(
                    f'the record has a field "{name}" already',
                    where=f":{batch.numbers[position]}",
                    way_out="--overwrite replaces it, --as NAME writes another",
                )
            lines[position] = splice.without(lines[position], names)
    return lines


def _refuse_missing(batch: Batch, name: str, position: int, way_out: str = "") -> None:
    has = ", ".join(list(batch.records[position])[:12])
    raise DselectError(
        f'no field "{name}" in the record; it has: {has}',
        where=f":{batch.numbers[position]}",
        way_out=way_out or "--missing drop or --missing lowest accepts such records",
    )


def gather(pool: Pool, columns: Columns, what: str = "scoring") -> dict[str, Any]:
    """Pass over the pool once and return its columns, joined: 20 bytes a record for one score and a budget."""
    parts: dict[str, list[Any]] = {}
    labels: dict[str | None, int] = {}
    for _, found in pool.map(columns, what):
        for name, part in found.items():
            if name == "domain":
                part = np.array([labels.setdefault(label, len(labels)) for label in part], np.int32)
            parts.setdefault(name, []).append(part)
    joined: dict[str, Any] = {}
    for name in list(parts):  # a column's pieces go before the next is joined
        joined[name] = np.concatenate(parts.pop(name))
    if not joined:  # an empty pool
        joined = {"tie": np.zeros(0, np.uint64), "size": np.zeros(0, np.uint32)}
        joined |= {"identity": np.zeros(0, np.uint64), "text": np.zeros(0, np.uint64)}
        joined |= {"domain": np.zeros(0, np.int32)}
    joined["labels"] = list(labels)
    return joined


def choose(scores: Floats, columns: Mapping[str, Any], choice: Choice, eligible: Any = None) -> Kept:
    """Return what the choice keeps, of all records or of the eligible ones; positions ascending.

    scores: float64 (n,), higher is better; -inf ranks last. Shares of a budget are of everything in the columns.
    """
    sizes, tie = columns["size"], columns["tie"]
    at = np.arange(len(tie)) if eligible is None else np.flatnonzero(eligible)
    if choice.above is not None:
        at = at[selection.above(scores[at], choice.above)]
    if choice.unique:
        at = at[selection.unique(columns["text"][at], scores[at], tie=tie[at])]
    facts: dict[str, Any] = {}
    if choice.keep is not None:
        budget = choice.keep.resolve(int(sizes.sum(dtype=np.int64)))
        keys = scores[at]
        if choice.sample:
            scaled = selection.standardized(keys) if choice.scale == "zscore" else keys
            noise = draws.gumbel(choice.seed, "sample", columns["identity"][at])
            keys = selection.perturbed(scaled, noise, choice.temperature)
        if choice.within:
            order, budgets = _shares(columns, choice, budget)
            kept = selection.within(order[columns["domain"][at]], budgets, keys, sizes[at], tie=tie[at])
        else:
            kept = selection.top(keys, sizes[at], budget, tie=tie[at])
        too_large = int((sizes[at] > budget).sum()) if budget else 0
        at = at[kept]
        facts = {
            "unit": choice.keep.unit,
            "asked": budget,
            "achieved": int(sizes[at].sum(dtype=np.int64)),
            "larger_than_budget": too_large,
        }
    return Kept(at, {"kept": len(at), **facts})


def _shares(columns: Mapping[str, Any], choice: Choice, budget: int) -> tuple[Any, list[int]]:
    """Return each label's place in name order, and the budgets in that order."""
    labels: list[str | None] = columns["labels"]
    names = sorted(range(len(labels)), key=lambda i: (labels[i] is None, labels[i] or ""))
    order = np.zeros(len(labels), np.int64)
    order[names] = np.arange(len(names))
    weights: list[int | float]
    if choice.quota == "equal":
        weights = [1] * len(names)
    elif choice.quota == "proportional":
        held = np.zeros(len(names), np.int64)
        np.add.at(held, order[columns["domain"]], columns["size"])
        weights = held.tolist()
    else:
        given = read_weights(choice.quota)
        weights = [given.get(labels[i] or "", 0) for i in names]
        unknown = sorted(set(given) - {label or "" for label in labels})
        if unknown:
            raise DselectError(
                f"no records of the domain {unknown[0]!r}; there are: {', '.join(str(labels[i]) for i in names[:12])}",
                where=choice.quota,
            )
    return order, mixing.budgets(weights, budget)


def read_weights(path: str) -> dict[str, float]:
    """Read a JSON object of domain weights, none negative, not all zero."""
    try:
        weights = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise DselectError(
            f"cannot read: {error.strerror}", where=path, way_out="--quota proportional, equal, or a JSON file"
        ) from error
    except ValueError as error:
        raise DselectError(f"not JSON: {error}", where=path) from error
    good = isinstance(weights, dict) and all(
        isinstance(w, int | float) and not isinstance(w, bool) and 0 <= w < float("inf") for w in weights.values()
    )
    if not good or not any(weights.values()):
        raise DselectError(
            "not an object of weights, none negative and not all zero", where=path, way_out='{"web": 0.7, "books": 0.3}'
        )
    return dict(weights)


def open_sink(output: str, sources: Sequence[Source], jobs: int) -> Sink:
    """Return where records go: `-` is standard output; a trailing slash or an existing folder, one file per source."""
    if output == "-":
        return StdoutSink()
    path = Path(output)
    folder = output.endswith("/") or path.is_dir()
    targets = [path / source.relative for source in sources] if folder else [path]
    inputs = {source.path.resolve() for source in sources if source.path}
    for target in targets:
        if target.is_file() and target.resolve() in inputs:
            raise DselectError("this output is one of the inputs", where=str(target))
    if folder:
        return FolderSink(path, sources, jobs)
    return FileSink(path, jobs)


def annotate(pool: Pool, scorer: Scorer, sink: Sink, overwrite: bool) -> int:
    """Write every record with the scorer's fields; return how many got none."""
    without = 0
    for source, (data, skipped) in pool.map(Annotate(scorer, overwrite), "scoring"):
        without += skipped
        sink.write(source, data)
    return without


def write_kept(
    pool: Pool, kept: Kept, sink: Sink, values: Mapping[str, Floats] | None = None, overwrite: bool = False
) -> None:
    """Write the records at the kept positions, in input order; with `values`, each column's numbers spliced in."""
    edit: Callable[[list[bytes], Any], list[bytes]] = lambda lines, _: lines  # noqa: E731
    if values:
        names = list(values)

        def edit(lines: list[bytes], at: Any) -> list[bytes]:
            if overwrite:
                lines = [splice.without(line, names) for line in lines]
            return splice.append_all(lines, splice.members({n: c[at] for n, c in values.items()}))

    seen, done = 0, 0
    positions = kept.positions
    for source, lines in pool.lines():
        end = int(np.searchsorted(positions, seen + len(lines)))
        at = positions[done:end]
        chosen = edit([lines[i] for i in (at - seen).tolist()], at)
        if chosen:
            sink.write(source, b"".join([line + b"\n" for line in chosen]))
        seen, done = seen + len(lines), end


def select_scored(
    pool: Pool, scorer: Scorer, field_name: str, choice: Choice, sink: Sink, overwrite: bool
) -> Kept:
    """Score the pool, keep what the choice says by one of the scorer's fields, write those records with their fields."""
    columns = gather(pool, Columns(scorer, choice, overwrite))
    values = {name: columns.get(f"score {name}", np.zeros(0)) for name in scorer.fields}
    scores = values[field_name]
    eligible = ~np.isnan(scores)
    kept = choose(np.where(eligible, scores, -np.inf), columns, choice, eligible)
    kept.facts["without_score"] = int((~eligible).sum())
    if len(kept.positions):
        kept.facts["cut"] = float(scores[kept.positions].min())
    write_kept(pool, kept, sink, values, overwrite)
    return kept
