"""Merge models that were fitted to parts of a pool."""
# What a DSIR model learns of a pool are counts, and counts add: parts fitted on several machines (--shard) make the
# model that one machine would have fitted to all.

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from dselect.console import Run
from dselect.errors import DselectError, UsageError
from dselect.importance import Dsir
from dselect.options import Argument, Option, RunOptions
from dselect.pool import Counts
from dselect.records.publishing import publish


def command(
    run: RunOptions,
    parts: Annotated[
        list[str], Argument(metavar="FILE...", help="What dsir --save made of each part.", show_default=False)
    ],
    output: Annotated[str | None, Option("--output", "-o", metavar="FILE", help="Where the model goes.")] = None,
    partial: Annotated[bool, Option("--partial", help="Merge although parts of the pool are missing.")] = False,
) -> None:
    """Merge dsir models that were fitted to parts of a pool into the model of the whole pool.

    The same bytes as one fit to all parts. For language models there is `lm --add`; other methods fit on a sample.

    \b
    Example:
      dselect dsir pool/ --shard 1/2 --target target.jsonl.zst --save part-1.dsir
      dselect dsir pool/ --shard 2/2 --target target.jsonl.zst --save part-2.dsir
      dselect merge part-1.dsir part-2.dsir -o all.dsir
    """
    if output is None or output == "-":
        raise UsageError("merge needs a file for the model", way_out="-o NAME.dsir")
    with Run("merge", run) as talk:
        run.ledger.open([], lambda _: {}, outputs=[Path(output)], folder=False, whole=True, resume=False)
        merged = _merge(parts)
        if merged.lacking and not partial:
            number, count = merged.lacking[0]
            raise DselectError(
                f"{len(merged.lacking):,} of {count:,} parts are missing, --shard {number}/{count} among them",
                way_out="fit those too, or --partial",
            )
        publish(Path(output), merged.to_bytes())
        run.ledger.wrote(Path(output), 0)
    talk.report(Counts(*merged.held_), parts=len(parts), saved=output)


def _merge(names: Sequence[str]) -> Dsir:
    """Return the model of all parts; DselectError names the part that does not fit, or is there already."""
    merged: Dsir | None = None
    paths: set[Path] = set()
    seen: dict[bytes, str] = {}
    for name in names:
        if Path(name).resolve() in paths:
            raise DselectError("this part is named twice", where=name, way_out="each counts once")
        paths.add(Path(name).resolve())
        part = Dsir.load(name)
        same = seen.setdefault(part.to_bytes(), name)
        if same != name and part.held_[0]:  # shards of no files are all alike
            raise DselectError(f"the same part as {same}, under another name", where=name, way_out="each counts once")
        try:
            merged = part if merged is None else merged.merged(part)
        except ValueError as error:
            raise DselectError(str(error), where=name, way_out="fit all parts with the same options") from error
    assert merged is not None
    return merged
