"""Fit a small language model of bytes."""
# MacKay and Peto 1995, "A hierarchical Dirichlet language model": exact counts of byte n-grams, interpolated from the
# longest context down to the uniform distribution (dselect.models.byte_lm has the formula). Seconds instead of hours,
# no tokenizer, any language, and the counts of two fits add.

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from dselect.console import Run
from dselect.errors import DselectError, UsageError
from dselect.fitting import CountBytes, fit_byte_lm
from dselect.models.byte_lm import ByteLM
from dselect.options import MaxMemory, Option, Order, PoolOptions, RunOptions
from dselect.pool import Counts, Pool
from dselect.records.publishing import publish


def command(
    pool: PoolOptions,
    run: RunOptions,
    output: Annotated[str | None, Option("--output", "-o", metavar="FILE", help="Where the model goes.")] = None,
    order: Order = 6,
    add: Annotated[
        list[str] | None, Option(metavar="FILE", help="A fitted model whose counts join; give it again for more.")
    ] = None,
    max_memory: MaxMemory = "4GB",
) -> None:
    """Fit a language model of byte n-grams to records, for `loss`.

    Exact counts of up to eight bytes, interpolated; how much the shorter contexts weigh is fitted on held-out texts.

    \b
    Example:
      dselect lm target.jsonl.zst -o target.lm
    """
    if output is None or output == "-":
        raise UsageError("lm needs a file for the model", way_out="-o NAME.lm")
    with Run("lm", run) as talk:
        added = [_load(name, order) for name in add or ()]
        only_added = bool(added) and not pool.paths and not pool.files_from
        pools: list[Pool] = [] if only_added else [pool.open(run, talk, rereads=False)]
        run.ledger.open(
            [source for one in pools for source in one.sources],
            pools[0].facts if pools else lambda _: {},
            outputs=[Path(output)],
            folder=False,
            whole=True,
            resume=False,
        )
        fitted = fit_byte_lm(pools, CountBytes(order, run.seed), max_memory, added)
        publish(Path(output), fitted.model.to_bytes())
        run.ledger.wrote(Path(output), 0)
    counts = pools[0].counts if pools else Counts()
    talk.report(counts, saved=output, forgotten=fitted.rare, mu=fitted.model.fitted[1].tolist())


def _load(name: str, order: int) -> ByteLM:
    model = ByteLM.load(name)
    if model.order != order:
        raise DselectError(f"a model of order {model.order}", where=name, way_out=f"--order {model.order}")
    return model
