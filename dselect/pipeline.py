"""Where input, fit, score, select and output meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import orjson

from dselect.choice import Choice, Kept, choose
from dselect.errors import DselectError
from dselect.pool import Pool
from dselect.records import splice
from dselect.records.batch import Batch
from dselect.records.sources import Source
from dselect.records.writing import FileSink, Finished, FolderSink, Opener, Sink, StdoutSink, open_output
from dselect.selection import combine
from dselect.sketch import BottomK, spearman

Kind = Literal["score", "cost", "label", "size"]  # size: an amount of the record, an integer
Floats = np.ndarray[Any, np.dtype[np.float64]]
Column = np.ndarray[Any, Any]  # float64, or int64 where every record has the field: written as integers
Drawn = tuple[Any, dict[str, Floats]]  # keys and columns for a BottomK
QUANTILES = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
TOKEN_FIELDS = ("token_count", "metadata.token_count")


class Scorer(Protocol):
    """A utility function: adds numbers to records. It must pickle, and score a text the same in any company."""

    @property
    def fields(self) -> Mapping[str, Kind]:
        """The fields it adds, and what each is."""

    def score(self, batch: Batch) -> Mapping[str, Column]:
        """Return each field's values: (n,) each. NaN: this record gets no field (`--min-words`)."""


@dataclass(frozen=True)
class Annotate:
    """Lines with the scorer's fields spliced in: the work of a scoring pass."""

    scorer: Scorer
    overwrite: bool

    def __call__(self, batch: Batch) -> tuple[bytes, Counter[str], Drawn]:
        """Return the new lines as one block, what is counted, and what the sample is drawn from."""
        values = _score(self.scorer, batch)
        block, without = add_fields(batch, values, self.overwrite)
        return block, _tally(self.scorer, values, without), _drawn(batch, self.scorer, values)


@dataclass(frozen=True)
class Attributes:
    """Attribute lines as dolma has them, one for every line of the input: the work of a pass that writes sidecars."""

    scorer: Scorer

    def __call__(self, batch: Batch) -> tuple[bytes, Counter[str], Drawn]:
        """Return what `Annotate` does, with attribute lines in place of records."""
        values = _score(self.scorer, batch)
        lines = [b'{"attributes":{}}'] * batch.block.lines  # of blank and bad lines too, or the count would not agree
        without = 0
        for position, (record, text) in enumerate(zip(batch.records, batch.texts, strict=True)):
            numbers = {name: column[position].item() for name, column in values.items()}
            spans = {name: [[0, len(text), number]] for name, number in numbers.items() if np.isfinite(number)}
            without += len(spans) < len(numbers)
            lines[batch.numbers[position] - batch.block.first_line] = orjson.dumps(
                {"id": record.get("id"), "attributes": spans}
            )
        return whole(lines), _tally(self.scorer, values, without), _drawn(batch, self.scorer, values)


def add_fields(batch: Batch, values: Mapping[str, Column], overwrite: bool) -> tuple[bytes, int]:
    """Return the batch's lines with these fields, as one block, and how many records got none: those with a NaN."""
    lines = free_of(batch, list(values), overwrite)
    scored = np.logical_and.reduce([np.isfinite(column) for column in values.values()])
    if scored.all():
        return splice.append_all(lines, splice.members(values)), 0
    at = np.flatnonzero(scored)
    new = splice.members({name: column[at] for name, column in values.items()})
    for position, member in zip(at.tolist(), new, strict=True):
        lines[position] = splice.append(lines[position], member)
    return whole(lines), len(scored) - len(at)


def whole(lines: Iterable[bytes]) -> bytes:
    """Return lines as one block, each with its newline."""
    return b"".join([line + b"\n" for line in lines])


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
    """The numbers a selection needs of every record: the work of a global step.

    Domains may be a label that the scorer gives. identities: whether to tell them even where no draw needs them.
    if_missing: the way out for a record that lacks a field.
    """

    scorer: Scorer
    choice: Choice
    overwrite: bool = False
    identities: bool = False
    if_missing: str = ""

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """Return columns by name: `tie` uint64, `size` uint32, one float64 column a score, and what else is asked."""
        values = _score(self.scorer, batch)
        free_of(batch, list(self.scorer.fields), self.overwrite)
        if self.choice.missing == "error":
            for name, column in values.items():
                if np.isnan(column).any():
                    refuse_missing(batch, name, int(np.isnan(column).argmax()), self.if_missing)
        found: dict[str, Any] = {"tie": batch.ties, "size": self._sizes(batch)}
        if self.identities or self.choice.sample or not values:
            found["identity"] = batch.identities
        if self.choice.within:
            found["domain"] = self._domains(batch, self.choice.within, values)
        if self.choice.unique:
            found["text"] = batch.text_hashes
        found.update({f"score {name}": column for name, column in values.items()})
        found["drawn"] = _drawn(batch, self.scorer, values)
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
            refuse_missing(batch, names[0], int(np.isnan(counts).argmax()), "--tokens FIELD names the token count")
        wrong = (counts < 0) | (counts >= 2**32) | (counts % 1 != 0)
        if wrong.any():
            at = int(wrong.argmax())
            raise DselectError(f"{counts[at]:g} is not a number of tokens", where=f":{batch.numbers[at]}")
        return counts

    def _domains(self, batch: Batch, name: str, values: Mapping[str, Column]) -> list[str | None]:
        if self.scorer.fields.get(name) == "label":
            return [str(value) for value in values[name].tolist()]
        labels = batch.labels(name)
        if self.choice.missing == "error" and None in labels:
            refuse_missing(batch, name, labels.index(None), self.if_missing)
        return labels


def _score(scorer: Scorer, batch: Batch) -> Mapping[str, Column]:
    return scorer.score(batch) if len(batch) else {name: np.zeros(0) for name in scorer.fields}


def _tally(scorer: Scorer, values: Mapping[str, Column], without: int) -> Counter[str]:
    """Count the records without a field, and those of every label."""
    found = Counter(without_score=without)
    for name in (name for name, kind in scorer.fields.items() if kind == "label"):
        labels, counts = np.unique(values[name], return_counts=True)
        for label, count in zip(labels.tolist(), counts.tolist(), strict=True):
            found[f"{name} {label}"] = count
    return found


def _drawn(batch: Batch, scorer: Scorer, values: Mapping[str, Floats]) -> Drawn:
    numbers = {name: column for name, column in values.items() if scorer.fields.get(name) != "label"}
    return batch.sample_keys, {
        "length": batch.text_bytes.astype(np.float64),
        **{f"score {name}": np.asarray(column, np.float64) for name, column in numbers.items()},
    }


def free_of(batch: Batch, names: Sequence[str], overwrite: bool) -> list[bytes]:
    """Return the lines without these members: there are none, or they are cut out, or they are refused."""
    lines = list(batch.lines)  # the batch's own stay as they were read: identities and samples are drawn by them
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


def refuse_missing(batch: Batch, name: str, position: int, way_out: str = "") -> None:
    """Raise DselectError: this record lacks a field that is needed."""
    has = ", ".join(list(batch.records[position])[:12])
    raise DselectError(
        f'no field "{name}" in the record; it has: {has}',
        where=f":{batch.numbers[position]}",
        way_out=way_out or "--missing drop or --missing lowest accepts such records",
    )


class _Growing:
    """A column that grows in place: many small arrays, and all of them joined, would be twice the memory."""

    def __init__(self, kind: np.dtype[Any]) -> None:
        self._held, self._size = np.empty(1 << 12, kind), 0

    def append(self, part: Column) -> None:
        """Take more numbers; those of a larger type make all of that type."""
        if part.dtype != self._held.dtype:
            self._held = self._held.astype(np.result_type(self._held, part))
        end = self._size + len(part)
        if end > len(self._held):
            self._held.resize(end + end // 8, refcheck=False)  # nobody else has seen it
        self._held[self._size : end] = part
        self._size = end

    def whole(self) -> Column:
        """Return all numbers; nothing may be appended any more."""
        self._held.resize(self._size, refcheck=False)
        return self._held


def gather(pool: Pool, columns: Callable[[Batch], dict[str, Any]], what: str = "scoring") -> dict[str, Any]:
    """Pass over the pool once and return its columns, joined: 20 bytes a record for one score and a budget.

    Beside them `labels`, the names of the domains, and `spread`, how the scores are distributed.
    """
    growing: dict[str, _Growing] = {}
    labels: dict[str | None, int] = {}
    sample = BottomK()
    for _, found in pool.map(columns, what):
        sample.add(*found.pop("drawn"))
        for name, part in found.items():
            if name == "domain":
                part = np.array([labels.setdefault(label, len(labels)) for label in part], np.int32)
            growing.setdefault(name, _Growing(part.dtype)).append(part)
    joined: dict[str, Any] = {name: column.whole() for name, column in growing.items()}
    if not joined:  # an empty pool
        joined = {"tie": np.zeros(0, np.uint64), "size": np.zeros(0, np.uint32)}
        joined |= {"identity": np.zeros(0, np.uint64), "text": np.zeros(0, np.uint64)}
        joined |= {"domain": np.zeros(0, np.int32)}
    joined["labels"] = list(labels)
    joined["spread"] = spread(sample)
    return joined


def open_sink(
    output: str,
    sources: Sequence[Source],
    jobs: int,
    finished: Finished,
    done: Collection[int],
    opener: Opener = open_output,
) -> Sink:
    """Return where records go: `-` is standard output; a trailing slash or an existing folder, one file per source.

    opener: of the files in a folder.
    """
    if output == "-":
        return StdoutSink()
    if is_folder(output):
        return FolderSink(Path(output), sources, jobs, finished, done, opener)
    return FileSink(Path(output), jobs, finished, sources)


def output_files(output: str, sources: Sequence[Source]) -> list[Path]:
    """Return the files that records go to; none where they go to standard output."""
    if output == "-":
        return []
    path = Path(output)
    return [path / source.relative for source in sources] if is_folder(output) else [path]


def is_folder(output: str) -> bool:
    """Tell whether an output gets one file per source."""
    return output.endswith("/") or Path(output).is_dir()


def annotate(pool: Pool, scorer: Scorer, sink: Sink, overwrite: bool, *, sidecar: bool = False) -> dict[str, Any]:
    """Write every record with the scorer's fields, or with `sidecar` attribute lines in place of the records.

    Return how many records got no field, and the spread of the scores. `pool.total("FIELD VALUE")` tells how many
    records got each value of a label.
    """
    work = Attributes(scorer) if sidecar else Annotate(scorer, overwrite)
    for source, (data, counted, (keys, columns)) in pool.map(work, "scoring", rest=True):
        pool.tallies.setdefault(source, Counter()).update(counted)
        pool.sample.add(keys, {**columns, "source": np.full(len(keys), float(source))})
        sink.write(source, data)
    return {"without_score": pool.total("without_score"), "spread": spread(pool.sample)}


def spread(sample: BottomK) -> dict[str, Any]:
    """Return, for each field of a sample, quantiles and the rank correlation with the length of the text in bytes."""
    _, columns = sample.result()
    length = columns.pop("length", np.zeros(0))
    columns.pop("source", None)
    found = {}
    for name, column in columns.items():
        there = ~np.isnan(column)
        if there.any():
            quantiles = np.quantile(column[there], list(QUANTILES)).tolist()
            found[name.removeprefix("score ")] = {
                "records": int(there.sum()),
                "quantiles": dict(zip(map(str, QUANTILES), quantiles, strict=True)),
                "rank_correlation_with_length": spearman(column[there], length[there]),
            }
    return found


def write_kept(
    pool: Pool, kept: Kept, sink: Sink, values: Mapping[str, Floats] | None = None, overwrite: bool = False
) -> None:
    """Write the records at the kept positions, in input order; with `values`, each column's numbers spliced in."""
    # where each source's records begin: those of shards that an earlier run has written have positions too
    begins = np.cumsum([0, *(counts.documents for counts in pool.by_source)])
    names = list(values or {})
    last, seen = -1, 0
    for source, lines in pool.lines():
        if source != last:
            last, seen = source, int(begins[source])
        start, end = np.searchsorted(kept.positions, [seen, seen + len(lines)])
        if start < end:
            at = kept.positions[start:end]
            chosen = [lines[i] for i in (at - seen).tolist()]
            if overwrite and names:
                chosen = [splice.without(line, names) for line in chosen]
            new = splice.members({name: column[at] for name, column in values.items()}) if values else []
            sink.write(source, splice.append_all(chosen, new) if values else whole(chosen))
        seen += len(lines)


def select_scored(
    pool: Pool, scorer: Scorer, by: str | Sequence[str], choice: Choice, sink: Sink, overwrite: bool
) -> Kept:
    """Score the pool, keep what the choice says by the scorer's fields, write those records with all fields.

    by: the field that ranks, or several, whose z-scores are added.
    """
    columns = gather(pool, Columns(scorer, choice, overwrite))
    values = {name: columns.get(f"score {name}", np.zeros(0)) for name in scorer.fields}
    names = [by] if isinstance(by, str) else by
    scores = values[names[0]]
    eligible = ~np.isnan(scores)
    if len(names) > 1:
        added = [values[name][eligible] for name in names]
        scores = np.full(len(eligible), np.nan)
        scores[eligible] = combine(added, [1.0] * len(names), "zscore")
    kept = choose(scores, columns, choice, eligible)
    kept.facts["without_score"] = int((~eligible).sum())
    kept.facts["spread"] = columns["spread"]
    if len(kept.positions) and not choice.within:  # each domain has its own
        kept.facts["cut"] = float(scores[kept.positions].min())
    write_kept(pool, kept, sink, values, overwrite)
    return kept


def write_scored(
    pool: Pool, scorer: Scorer, by: str | Sequence[str], choice: Choice, sink: Sink, overwrite: bool, *, sidecar: bool
) -> dict[str, Any]:
    """Write what the choice keeps by the scorer's fields, or without a choice every record, and say how it went.

    sidecar: without a choice, attribute lines in place of the records.
    """
    if choice:
        return select_scored(pool, scorer, by, choice, sink, overwrite).facts
    return annotate(pool, scorer, sink, overwrite, sidecar=sidecar)
