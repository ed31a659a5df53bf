"""Find and drop records that share long runs of words with evaluation sets."""
# Brown et al. 2020, "Language Models are Few-Shot Learners", appendix C: a training document that shares a run of 13
# words with a benchmark is contaminated. Differs from theirs: what is reported is the share of the document's words
# that lie in such runs, a bound on it decides, and whole records are dropped, never cut.

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson

from dselect.console import Run
from dselect.errors import DselectError, UsageError
from dselect.options import As, Option, OutputOptions, Overwrite, PoolOptions, RunOptions, Targets
from dselect.pipeline import free_of
from dselect.pool import Pool
from dselect.records import splice
from dselect.records.batch import Batch

WORDS = 13


@dataclass(frozen=True)
class Overlap:
    """Tells how much of a text is in evaluation sets: the work of the one pass."""

    names: Sequence[str]  # of the evaluation sets
    length: int
    table: np.ndarray[Any, np.dtype[np.uint64]]
    owners: np.ndarray[Any, np.dtype[np.int32]]
    field: str = "contamination"
    drop_above: float | None = None
    overwrite: bool = False

    def __call__(self, batch: Batch) -> tuple[bytes, dict[str, int]]:
        """Return the lines with their new fields as one block, and what was found: records by evaluation set."""
        from dselect.kernels.overlap import find_runs

        words, covered, runs = find_runs(batch.utf8, self.length, self.table, self.owners, len(self.names))
        share = covered / np.maximum(words, 1)
        source = f"{self.field}_source"
        lines = free_of(batch, [self.field, source], self.overwrite)
        found = {f"by {name}": int((runs[:, i] > 0).sum()) for i, name in enumerate(self.names)}
        found["contaminated"] = int((covered > 0).sum())
        most = [self.names[i] if any_ else "" for i, any_ in zip(runs.argmax(1), covered > 0, strict=True)]
        key = b"," + orjson.dumps(source) + b":"
        new = [
            member + key + orjson.dumps(name)
            for member, name in zip(splice.members({self.field: share}), most, strict=True)
        ]
        if self.drop_above is not None:
            at = np.flatnonzero(share <= self.drop_above).tolist()
            lines, new = [lines[i] for i in at], [new[i] for i in at]
        found["kept"] = len(lines)
        return splice.append_all(lines, new), found


@dataclass(frozen=True)
class _Runs:
    """The runs of an evaluation set: the work of reading it."""

    length: int

    def __call__(self, batch: Batch) -> tuple[Any, int]:
        """Return the keys of the block's runs, and how many texts are too short for one."""
        from dselect.kernels.overlap import run_keys

        keys, words = run_keys(batch.utf8, self.length)
        return keys, int((words < self.length).sum())


def read_sets(pools: Sequence[Pool], length: int) -> tuple[list[Any], int, int]:
    """Return the keys of the runs of every evaluation set, how many texts there are, and how many have no run.

    Raises DselectError for a set without any run.
    """
    sets, texts, short = [], 0, 0
    for pool in pools:
        keys, without = zip(*(found for _, found in pool.map(_Runs(length), "evaluation set")), strict=True) or ((), ())
        if not sum(map(len, keys)):
            raise DselectError(
                f"no text has {length} words, so nothing of it can be found",
                where=pool.name,
                way_out="--words N with a smaller N, --target-text FIELD if the text is elsewhere",
            )
        sets.append(np.concatenate(keys))
        texts, short = texts + pool.counts.documents, short + sum(without)
    return sets, texts, short


def command(
    pool: PoolOptions,
    output: OutputOptions,
    run: RunOptions,
    target: Targets = None,
    target_text: Annotated[
        str | None, Option(metavar="FIELD", help="The field that holds the text of the targets. [default: as --text]")
    ] = None,
    words: Annotated[int, Option(metavar="N", help="Length of a run of words.", min=1, max=1000)] = WORDS,
    drop_above: Annotated[
        float | None,
        Option(metavar="X", help="Drop records with a greater share; 0 drops all that share a run.", min=0, max=1),
    ] = None,
    field: As = "contamination",
    overwrite: Overwrite = False,
) -> None:
    """Find records that share runs of 13 words with evaluation sets (--target, one or more), and drop them.

    Adds the cost contamination, the share of the record's words that lie in such runs (0 to 1), and
    contamination_source, the evaluation set it shares most with, empty if none. Drops nothing without --drop-above.

    \b
    Example:
      dselect decontaminate pool.jsonl.zst --target target.jsonl.zst --drop-above 0 -o clean.jsonl.zst
    """
    if not target:
        raise UsageError("decontaminate needs the evaluation sets", way_out="--target FILE, again for more")
    names = [Path(name).name.split(".")[0] for name in target]
    if len(set(names)) < len(names):
        raise UsageError(f"two evaluation sets are called {max(names, key=names.count)}", way_out="rename one")
    pool.check_new(field)
    with Run("decontaminate", run) as talk:
        records = pool.open(run, talk, rereads=False, kernels=["dselect.kernels.overlap"])
        with output.open(records, run, alone=True) as sink:
            sets, texts, short = read_sets(pool.open_targets(target, target_text), words)
            from dselect.kernels.overlap import run_table

            work = Overlap(names, words, *run_table(sets), field, drop_above, overwrite)
            for source, (lines, found) in records.map(work, "looking", rest=True):
                records.tallies.setdefault(source, Counter()).update(found)
                sink.write(source, lines)
    kept = {} if drop_above is None else {"kept": records.total("kept")}
    talk.report(
        records.counts,
        **kept,
        contaminated=records.total("contaminated"),
        contaminated_by={name: records.total(f"by {name}") for name in names},
        targets=texts,
        targets_too_short=short,
    )
