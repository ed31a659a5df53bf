"""Put records in a sequence: by a number, folded, or shuffled."""
# Curriculum learning (Bengio et al. 2009) trains from low to high. DELT (Dai et al. 2025) folds that order: each fold
# goes from low to high over other records, so that no stage of training sees one kind only.

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from dselect import draws, ordering
from dselect.choice import no_such_field
from dselect.console import Run
from dselect.errors import UsageError
from dselect.options import Option, OutputOptions, PoolOptions, RunOptions
from dselect.pipeline import is_folder, refuse_missing, whole
from dselect.pool import Pool
from dselect.records.batch import Batch
from dselect.records.spool import Shelves
from dselect.records.writing import Sink

SHELF = 256 << 20  # bytes of lines that are put in order in memory at a time
MOST_SHELVES = 256  # files open at once
BLOCK = 1 << 20  # bytes of lines written at a time

Missing = Literal["error", "first", "last"]
Positions = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Keys:
    """What the sequence is made by: the work of the first pass."""

    name: str | None
    sign: int
    missing: Missing
    seed: int

    def __call__(self, batch: Batch) -> tuple[Any, Any, Any]:
        """Return for each record its key, float64, what decides between equal keys, uint64, and its bytes, uint32."""
        sizes = np.fromiter(map(len, batch.lines), np.uint32, len(batch)) + np.uint32(1)
        if self.name is None:
            return draws.uniform(self.seed, "order", batch.identities), batch.ties, sizes
        keys = batch.column(self.name)
        absent = np.isnan(keys)
        if absent.any() and self.missing == "error":
            refuse_missing(batch, self.name, int(absent.argmax()), "--missing first or last puts such records there")
        return np.where(absent, -np.inf if self.missing == "first" else np.inf, self.sign * keys), batch.ties, sizes


def sequence(pool: Pool, work: Keys, folds: int) -> tuple[Positions, Any]:
    """Pass over the pool once; return positions in the order wanted, int64 (n,), and the bytes of every line."""
    parts = [found for _, found in pool.map(work, "reading")]
    empty = (np.zeros(0), np.zeros(0, np.uint64), np.zeros(0, np.uint32))
    keys, tie, sizes = (np.concatenate(column) for column in zip(empty, *parts, strict=True))
    if work.name is not None and len(keys) and work.missing != "error" and np.isinf(keys).all():
        raise no_such_field(work.name, "--by")
    return ordering.folded(ordering.ascending(keys, tie), min(folds, max(len(keys), 1))), sizes


def write_in_order(pool: Pool, order: Positions, sizes: Any, sink: Sink, shelf_size: int = SHELF) -> None:
    """Write the records at these positions, in this order, with at most about `shelf_size` bytes of them in memory.

    They are read once more and put on shelves, temporary files that each hold what stands together in the end.
    """
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    ends = np.cumsum(sizes[order].astype(np.int64))
    total = int(ends[-1]) if len(ends) else 0
    count = min(max(1, -(-total // shelf_size)), MOST_SHELVES)
    # where each shelf but the last ends, by rank
    cuts = np.searchsorted(ends, [total * shelf // count for shelf in range(1, count)], side="right")
    shelves = Shelves(count, pool.spool_folder)
    seen = 0
    for _, lines in pool.lines("sorting"):
        places = np.searchsorted(cuts, ranks[seen : seen + len(lines)], side="right").tolist()  # the rank's shelf
        for line, place in zip(lines, places, strict=True):
            shelves.put(place, line)
        seen += len(lines)
    # a shelf holds the ranks from one cut to the next, in the order of the input
    bounds = [0, *cuts.tolist(), len(ranks)]
    for shelf in range(count):
        lines = shelves.take(shelf)
        positions = order[bounds[shelf] : bounds[shelf + 1]]
        at = np.argsort(np.argsort(positions)).tolist()
        held: list[bytes] = []
        waiting = 0
        for i in at:
            held.append(lines[i])
            waiting += len(lines[i])
            if waiting >= BLOCK:
                sink.write(0, whole(held))
                held, waiting = [], 0
        if held:
            sink.write(0, whole(held))


_BY = re.compile(r"(-?)(.+)", re.DOTALL)


def command(
    pool: PoolOptions,
    output: OutputOptions,
    run: RunOptions,
    by: Annotated[
        str | None,
        Option(metavar="FIELD", help="From the lowest to the highest number in this field; --by=-FIELD the reverse."),
    ] = None,
    folds: Annotated[
        int, Option(metavar="L", help="Go through the order L times, each time over every L-th record.", min=1)
    ] = 1,
    missing: Annotated[
        Missing | None,
        Option(help="Records without the field: stop, or put them before or after all others. [default: error]"),
    ] = None,
) -> None:
    """Put records in a sequence: from low to high by a number, folded, or without --by shuffled by the seed.

    Every record is written once, byte for byte; pools larger than memory are sorted in temporary files.

    \b
    Example:
      dselect order pool.jsonl.zst --by token_count --folds 3 -o curriculum.jsonl.zst
    """
    if by == "":
        raise UsageError("--by '' names no field")
    if by is None and missing is not None:
        raise UsageError("--missing is about the field of --by", way_out="--by FIELD")
    if by is None and folds > 1:
        raise UsageError("--folds needs an order to fold", way_out="--by FIELD")
    if output.output and is_folder(output.output):
        raise UsageError("order writes one sequence, not a file for each input", way_out="-o FILE")
    found = _BY.fullmatch(by) if by else None
    work = Keys(found[2] if found else None, -1 if found and found[1] else 1, missing or "error", run.seed)
    with Run("order", run) as talk:
        records = pool.open(run, talk, rereads=True)
        with output.open(records, run) as sink:
            order, sizes = sequence(records, work, folds)
            write_in_order(records, order, sizes, sink)
    talk.report(records.counts)
