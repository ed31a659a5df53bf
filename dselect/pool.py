"""The pool: records from any input, passed over once or several times, by all jobs.

Bad lines are dealt with here, on the first pass: they stop the run, or are set aside and counted.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from dselect.cluster import flat_map_on_ray
from dselect.engine import ordered_map
from dselect.errors import DselectError, UsageError
from dselect.records.batch import BadLine, Batch, parse
from dselect.records.decompression import chunks
from dselect.records.fingerprints import fresh_digest
from dselect.records.publishing import TemporaryFile, write_all
from dselect.records.reading import POISON, Block, blocks, read_ahead, readable, upstream_failed
from dselect.records.sidecars import paired
from dselect.records.sources import Source
from dselect.records.spool import Spool
from dselect.sketch import BottomK

Value = TypeVar("Value")

_FEW = 4  # blocks that are worked on while a worker would still be importing


class Progress(Protocol):
    """Who wants to know how far a pass is."""

    def start(self, what: str, total: int | None) -> None:
        """Begin a pass over `total` bytes on disk; None where the input is a stream."""

    def advance(self, done: int, documents: int, text_bytes: int) -> None:
        """Tell how many bytes on disk, documents and bytes of text of the pass are done."""

    def stop(self) -> None:
        """End the pass."""


@dataclass(frozen=True)
class Tolerance:
    """How many bad lines may be set aside: none, a number, a share of all lines, or any."""

    number: int | None = 0
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> Tolerance:
        """Read `stop`, `skip`, `skip:100` or `skip:0.1%`."""
        if text == "stop":
            return cls()
        if text == "skip":
            return cls(None)
        if found := re.fullmatch(r"skip:(\d+)", text):
            return cls(int(found[1]))
        if found := re.fullmatch(r"skip:(\d+(?:\.\d+)?)%", text):
            if float(found[1]) > 100:
                raise UsageError(f"--bad-lines {text}: a share is at most 100%")
            return cls(None, float(found[1]) / 100)
        raise UsageError(f"cannot read --bad-lines {text!r}", way_out="stop, skip, skip:100 or skip:0.1%")

    def allows(self, bad: int, lines: int) -> bool:
        """Tell whether a run may go on where this many of the lines are bad."""
        return (self.number is None or bad <= self.number) and (self.share is None or bad <= self.share * lines)


@dataclass
class Counts:
    """What a pool holds, known after the first pass."""

    documents: int = 0
    bytes: int = 0
    blank: int = 0
    bad: int = 0

    def add(self, other: Counts) -> None:
        """Count another part of the pool too."""
        self.documents += other.documents
        self.bytes += other.bytes
        self.blank += other.blank
        self.bad += other.bad


@dataclass(frozen=True)
class _Task(Generic[Value]):
    """What a worker does with a block."""

    work: Callable[[Batch], Value]
    text_field: str

    def __call__(self, block: Block) -> _Done[Value]:
        batch = parse(block, self.text_field)
        done: _Done[Value] = _Done(block.source, len(batch), int(batch.text_bytes.sum()), batch.blank, batch.bad)
        done.failure = block.failure
        try:
            done.value = self.work(batch)
        except DselectError as error:
            done.error = error
        return done


@dataclass
class _Done(Generic[Value]):
    source: int
    documents: int
    bytes: int
    blank: int
    bad: list[BadLine]
    value: Any = None
    error: DselectError | None = None
    failure: DselectError | None = None
    read: int = 0  # bytes on disk since the last block: known where another machine reads
    digest: str | None = None  # of a source that another machine has read to its end; no block comes with it


@dataclass(frozen=True)
class _Whole(Generic[Value]):
    """What a machine of a cluster does with a source: read it, and with each block what a worker does."""

    task: _Task[Value]

    def __call__(self, item: tuple[int, Source]) -> Iterator[_Done[Value]]:
        number, source = item
        pieces: list[int] = []
        digest = fresh_digest()
        end: _Done[Value] = _Done(number, 0, 0, 0, [])
        try:
            for block in blocks(number, source, chunks(source, pieces.append, digest)):
                done = self.task(block)
                done.read = sum(pieces)
                pieces.clear()
                yield done
            end.digest = digest.hexdigest()
        except DselectError as error:
            end.error = error
        end.read = sum(pieces)
        yield end


@dataclass
class Pool:
    """Records to choose from. `rereads` must be set before the first pass where there will be a second."""

    sources: Sequence[Source]
    text_field: str = "text"
    tolerance: Tolerance = field(default_factory=Tolerance)
    rejects: Path | None = None
    limit: int | None = None
    spool_folder: Path | None = None
    jobs: int = 1
    few_alone: bool = False  # a pool of few blocks is worked on in this process, whatever the number of jobs
    progress: Progress | None = None
    rereads: bool = False
    kernels: Sequence[str] = ()  # modules to import once for all workers
    attributes: Sequence[Path] = ()  # folders of attribute files, one for each source
    engine: str = "local"  # or "ray", or "ray:ADDRESS": the machines that do the work
    counts: Counts = field(default_factory=Counts)
    by_source: list[Counts] = field(default_factory=list)
    digests: dict[int, str] = field(default_factory=dict)  # of the bytes on disk, once a source has been read
    done: dict[int, Counts] = field(default_factory=dict)  # sources a pass may leave out, and what they hold
    tallies: dict[int, Counter[str]] = field(default_factory=dict)  # what a pass counts, by source
    sample: BottomK = field(default_factory=BottomK)  # of what it measures; `source` tells whose a record is
    _spools: dict[int, Spool] = field(default_factory=dict)
    _bad: dict[int, set[int]] = field(default_factory=dict)
    _passes: int = 0
    _read: int = 0

    @property
    def name(self) -> str:
        """Return what errors about the whole call it."""
        return self.sources[0].name if self.sources else "a shard of no files"

    def map(
        self, work: Callable[[Batch], Value], what: str = "reading", *, rest: bool = False
    ) -> Iterator[tuple[int, Value]]:
        """Yield (source, work(batch)) for every block of records, in order; `work` must pickle.

        rest: leave out the sources that are done. Raises DselectError at the first bad line beyond the tolerance, and
        where the input changed between passes.
        """
        first = self._passes == 0
        left_out = self.done if rest else {}
        by_source = [Counts() for _ in self.sources]
        for source, held in left_out.items():
            by_source[source] = held
        if first:
            self.by_source = by_source
        counts = Counts()
        for held in left_out.values():
            counts.add(held)
        rejects = TemporaryFile(self.rejects) if self.rejects and first else None
        results = self._results(work, what, left_out)
        try:
            for done in results:
                self._read += done.read
                if done.digest:
                    self.digests[done.source] = done.digest
                    continue
                more = Counts(done.documents, done.bytes, done.blank, len(done.bad))
                counts.add(more)
                by_source[done.source].add(more)
                if first:
                    for bad in done.bad:
                        self._set_aside(done.source, bad, counts.bad, rejects)
                if done.error:
                    raise _located(done.error, self.sources[done.source].name)
                self._tell(counts)
                yield done.source, done.value
            if first:
                self._check_share(counts)
                self.counts = counts
                if rejects:
                    rejects.commit()
            elif counts != self.counts:
                raise self._changed()
        finally:
            results.close()  # type: ignore[attr-defined]  # a generator: its workers end with it
            if rejects:
                rejects.discard()
            if self.progress:
                self.progress.stop()

    def survey(
        self, work: Callable[[Batch], Value], what: str = "checking"
    ) -> Iterator[tuple[int, Counts, Value, DselectError | None]]:
        """Yield (source, counts, work(batch), failure) for every block, in order, and stop at nothing wrong with it.

        Bad lines are in `Batch.bad`, for the work to tell. A failure says why a source could not be read on: it comes
        with an empty batch, after the lines before it.
        """
        results = self._here(work, self._blocks(what, (), readable))
        try:
            for done in results:
                if done.error:
                    raise _located(done.error, self.sources[done.source].name)
                found = Counts(done.documents, done.bytes, done.blank, len(done.bad))
                self.counts.add(found)
                self._tell(self.counts)
                yield done.source, found, done.value, done.failure
        finally:
            results.close()  # type: ignore[attr-defined]  # a generator: its workers end with it
            if self.progress:
                self.progress.stop()

    def lines(self, what: str = "writing") -> Iterator[tuple[int, list[bytes]]]:
        """Yield (source, lines) of the same records again, in order, but not of those done; only after a first pass."""
        counts = Counts()
        for held in self.done.values():
            counts.documents += held.documents
        try:
            for block in self._blocks(what, self.done):
                lines = block.data.split(b"\n")
                bad = self._bad.get(block.source)
                if bad:
                    numbered = enumerate(lines, block.first_line)
                    lines = [line for number, line in numbered if number not in bad]
                records = [line for line in lines if line and not line.isspace()]
                counts.documents += len(records)
                counts.bytes += len(block.data)
                self._tell(counts)
                yield block.source, records
            if counts.documents != self.counts.documents:
                raise self._changed()
        finally:
            if self.progress:
                self.progress.stop()

    def facts(self, number: int) -> dict[str, Any]:
        """Return what is known of a source: its counts, and a digest once all of its bytes have been read."""
        found: dict[str, Any] = {"counts": asdict(self.by_source[number])} if self.by_source else {}
        return found | ({"blake2b": self.digests[number]} if number in self.digests else {})

    def shard_facts(self, number: int) -> dict[str, Any]:
        """Return these facts and what a pass found in this source, for a later run that passes over it."""
        keys, columns = self.sample.part("source", number).result()
        sample = {"": _encoded(keys)} | {name: _encoded(column) for name, column in columns.items()}
        return {**self.facts(number), "tally": self.tallies.get(number, {}), "sample": sample}

    def take_over(self, number: int, facts: Mapping[str, Any]) -> None:
        """Leave a source out of the pass, and count what an earlier run found in it."""
        self.done[number] = Counts(**facts["counts"])
        self.tallies[number] = Counter(facts.get("tally"))
        sample = {name: np.frombuffer(base64.b64decode(data)) for name, data in facts.get("sample", {}).items()}
        if "source" in sample:
            sample["source"] = np.full(len(sample["source"]), float(number))
            self.sample.add(sample.pop("").view(np.uint64), sample)

    def total(self, name: str) -> int:
        """Return what a pass has counted in all sources."""
        return sum(tally[name] for tally in self.tallies.values())

    def _results(self, work: Callable[[Batch], Value], what: str, left_out: Collection[int]) -> Iterator[_Done[Value]]:
        if self.engine == "local":
            return self._here(work, self._blocks(what, left_out))
        wanted = self._begin(what, left_out)
        for number in wanted:
            if self.sources[number].size is None:
                raise UsageError(
                    "every machine of a cluster reads input files itself, and this is none",
                    where=self.sources[number].name,
                    way_out="name files, or --engine local",
                )
        items = ((number, self.sources[number]) for number in wanted)
        _, _, address = self.engine.partition(":")
        return flat_map_on_ray(_Whole(_Task(work, self.text_field)), items, address or None, self.jobs)

    def _here(self, work: Callable[[Batch], Value], found: Iterator[Block]) -> Iterator[_Done[Value]]:
        jobs = self.jobs
        if self.few_alone and jobs > 1:
            found, few = _ahead(found, _FEW)
            jobs = 1 if few else jobs
        return ordered_map(_Task(work, self.text_field), found, jobs, self.kernels)

    def _blocks(
        self, what: str, left_out: Collection[int], cut: Callable[..., Iterator[Block]] = blocks
    ) -> Iterator[Block]:
        wanted = self._begin(what, left_out)
        streams = (self._stream(number, cut) for number in wanted)
        found = read_ahead(streams, parallel=self.jobs) if self.jobs > 1 else chain.from_iterable(streams)
        return found if self.limit is None else _limited(found, self.limit)

    def _stream(self, number: int, cut: Callable[..., Iterator[Block]]) -> Iterator[Block]:
        source = self.sources[number]
        found = cut(number, source, self._chunks(number))
        return paired(found, source, self.attributes) if self.attributes else found

    def _begin(self, what: str, left_out: Collection[int]) -> list[int]:
        """Begin a pass, and return the sources that it is over."""
        self._passes += 1
        self._read = 0
        wanted = [number for number in range(len(self.sources)) if number not in left_out]
        if self.progress:
            sizes = [self.sources[number].size for number in wanted]
            total = None if None in sizes or self.limit is not None else sum(size or 0 for size in sizes)
            self.progress.start(what, total)
        return wanted

    def _chunks(self, number: int) -> Iterator[bytes]:
        source = self.sources[number]
        if number in self._spools:
            yield from self._spools[number].chunks()
        elif source.size is None and self.rereads:
            spool = Spool(self.spool_folder)
            yield from spool.tee(chunks(source))
            self._spools[number] = spool
        else:
            read = None if number in self.digests else fresh_digest()
            yield from chunks(source, self._consumed, read)
            if read:
                self.digests[number] = read.hexdigest()

    def _consumed(self, more: int) -> None:
        self._read += more  # several threads add here: a lost update only misleads the progress bar

    def _tell(self, counts: Counts) -> None:
        if self.progress:
            self.progress.advance(self._read, counts.documents, counts.bytes)

    def _set_aside(self, source: int, bad: BadLine, so_far: int, rejects: TemporaryFile | None) -> None:
        if bad.line.startswith(POISON):  # and what another command wrote after it
            raise upstream_failed(f"{self.sources[source].name}:{bad.number}")
        if self.tolerance.number is not None and so_far > self.tolerance.number:
            where = f"{self.sources[source].name}:{bad.number}"
            if self.tolerance.number == 0:
                raise DselectError(bad.reason, where=where, way_out="--bad-lines skip keeps going")
            raise DselectError(f"{bad.reason}; more than {self.tolerance.number} bad lines", where=where)
        self._bad.setdefault(source, set()).add(bad.number)
        if rejects:
            write_all(rejects.file, bad.line + b"\n")

    def _check_share(self, counts: Counts) -> None:
        share, lines = self.tolerance.share, counts.bad + counts.documents
        if share is not None and counts.bad > share * lines:
            raise DselectError(
                f"{counts.bad:,} of {lines:,} lines are bad, more than {share:.4%}",
                way_out="--rejects FILE collects them",
            )

    def _changed(self) -> DselectError:
        return DselectError("the input changed while it was being read", way_out="run again")


def _ahead(found: Iterator[Block], count: int) -> tuple[Iterator[Block], bool]:
    """Take blocks ahead; return all of them again, and whether there were fewer than `count`."""
    head: list[Block] = []
    try:
        for block in islice(found, count):
            head.append(block)  # noqa: PERF402  those before an error count
    except DselectError as error:  # the blocks before it still get their turn
        return chain(head, _failing(error)), True
    return chain(head, found), len(head) < count


def _failing(error: DselectError) -> Iterator[Block]:
    raise error
    yield


def _encoded(column: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(column.astype("<u8" if column.dtype == np.uint64 else "<f8").tobytes()).decode()


def _limited(found: Iterator[Block], limit: int) -> Iterator[Block]:
    for block in found if limit else ():
        if block.lines >= limit:
            lines = block.data.split(b"\n", limit)
            end = b"\n" if len(lines) > limit else b""  # or a blank last line would be none
            yield replace(block, data=b"\n".join(lines[:limit]) + end)
            return
        limit -= block.lines
        yield block


def _located(error: DselectError, name: str) -> DselectError:
    where = f"{name}{error.where}" if error.where and error.where.startswith(":") else error.where
    return type(error)(error.what, where=where or name, way_out=error.way_out)
