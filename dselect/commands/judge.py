"""Make pairwise judgments: which of two texts is the better."""
# Wettig et al. 2024, "QuRating: Selecting High-Quality Data for Training Language Models", section 3.1: pairs of
# excerpts, of 512 tokens or of 256 to 512. Differs: a token is a word here, as dsir counts them; no record is in a
# second pair before all have been in one.

from __future__ import annotations

from typing import Annotated

from dselect.console import Run
from dselect.errors import DselectError, UsageError
from dselect.judgments import Describe, draw, from_grades
from dselect.options import Option, OutputOptions, PoolOptions, RunOptions
from dselect.pipeline import is_folder, whole


def command(
    pool: PoolOptions,
    output: OutputOptions,
    run: RunOptions,
    pairs: Annotated[int, Option(metavar="N", help="How many pairs to judge.", min=1)] = 1000,
    from_field: Annotated[
        str | None, Option(metavar="FIELD", help="Judge by grades that the records carry: the higher is the better.")
    ] = None,
    soft: Annotated[
        float | None,
        Option(
            metavar="X", help="Of --from-field: p_b = logistic((b - a) / X) instead of 0, 1/2 or 1.", min=1e-9, max=1e9
        ),
    ] = None,
    within: Annotated[str | None, Option(metavar="FIELD", help="Pair only records that agree in this field.")] = None,
    criterion: Annotated[
        str | None, Option(metavar="NAME", help="What the judgments are called. [default: the name of the field]")
    ] = None,
) -> None:
    """Make pairwise judgments, for qurating to learn from.

    Writes a line for each pair: text_a, text_b, criterion, p_b (the probability that b is the better) and votes.

    \b
    Example:
      dselect judge pool.jsonl.zst --pairs 500 --from-field token_count -o judgments.jsonl.zst
    """
    if from_field is None:
        raise UsageError("nothing says how to judge", way_out="--from-field FIELD")
    if output.output and is_folder(output.output):
        raise UsageError("judge writes one file of judgments", way_out="-o FILE")
    with Run("judge", run) as talk:
        records = pool.open(run, talk, rereads=True)
        with output.open(records, run) as sink:
            drawn, unusable = draw(records, Describe(from_field, within), pairs, run.seed)
            if not drawn:
                raise DselectError(
                    f"no two records to compare: {unusable:,} lack the field, a text of their own, or a partner",
                    where=records.sources[0].name,
                    way_out="see --from-field and --within",
                )
            found = from_grades(drawn, criterion or from_field.split(".")[-1], soft)
            sink.write(0, whole(one.line() for one in found))
    talk.report(records.counts, judgments=len(found), asked_pairs=pairs, unusable=unusable)
