"""Merge models that were fitted to parts of a pool."""
# What a DSIR model learns of a pool are counts, and counts add: parts fitted on several machines (--shard) make the
# model that one machine would have fitted to all.

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from dselect.console import Run
from dselect.errors import DselectError, UsageError
from dselect.importance import Dsir
from dselect.options import Argument, Option, RunOptions
from dselect.pool import Counts
from dselect.records.writing import publish


def command(
    run: RunOptions,
    parts: Annotated[
        list[str], Argument(metavar="FILE...", help="What dsir --save made of each part.", show_default=False)
    ],
    output: Annotated[str | None, Option("--output", "-o", metavar="FILE", help="Where the model goes.")] = None,
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
        merged = Dsir.load(parts[0])
        seen = {Path(parts[0]).resolve()}
        for name in parts[1:]:
            if Path(name).resolve() in seen:
                raise DselectError("this part is named twice", where=name, way_out="each counts once")
            seen.add(Path(name).resolve())
            try:
                merged = merged.merged(Dsir.load(name))
            except ValueError as error:
                raise DselectError(str(error), where=name, way_out="fit all parts with the same options") from error
        publish(Path(output), merged.to_bytes())
        run.ledger.wrote(Path(output), 0)
    talk.report(Counts(), parts=len(parts), saved=output)
