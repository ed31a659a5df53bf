"""Make pairwise judgments: which of two texts is the better."""
# Wettig et al. 2024, "QuRating: Selecting High-Quality Data for Training Language Models", section 3.1: pairs of
# excerpts, of 512 tokens or of 256 to 512; a language model votes with either text first.
# Differs: a token is a word here, as dsir counts them; no record is in a second pair before all have been in one; the
# prompts are our own.

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from dselect.console import Run
from dselect.errors import DselectError, UsageError
from dselect.judging.asking import (
    BYTES_A_TOKEN,
    Answers,
    Bias,
    Criterion,
    Votes,
    ask_all,
    criterion_of,
    judgment,
    questions,
    read_prompt,
)
from dselect.judging.endpoint import Endpoint, Refused, address_of
from dselect.judging.judgments import Describe, Judgment, Pair, draw, from_grades
from dselect.options import Option, OutputOptions, PoolOptions, RunOptions
from dselect.pipeline import is_folder, whole

VOTES = 20  # with either text first (Wettig et al. 2024, section 3.1)


def command(
    pool: PoolOptions,
    output: OutputOptions,
    run: RunOptions,
    pairs: Annotated[int, Option(metavar="N", help="How many pairs to judge.", min=1)] = 1000,
    within: Annotated[str | None, Option(metavar="FIELD", help="Pair only records that agree in this field.")] = None,
    from_field: Annotated[
        str | None, Option(metavar="FIELD", help="Judge by grades that the records carry: the higher is the better.")
    ] = None,
    soft: Annotated[
        float | None,
        Option(
            metavar="X", help="Of --from-field: p_b = logistic((b - a) / X) instead of 0, 1/2 or 1.", min=1e-9, max=1e9
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        Option(metavar="URL", help="Let a language model judge: an OpenAI-compatible address, as http://host:8000/v1."),
    ] = None,
    lm: Annotated[str | None, Option("--model", metavar="NAME", help="Of --endpoint: which model.")] = None,
    criterion: Annotated[
        list[str] | None,
        Option(
            metavar="NAME",
            help="Of --endpoint: writing_style, required_expertise, facts_and_trivia or educational_value, or how one "
            "begins; give it again for more. Else what the judgments are called.",
        ),
    ] = None,
    prompt: Annotated[
        str | None, Option(metavar="FILE", help="Of --endpoint: a question of your own, with {text_a} and {text_b}.")
    ] = None,
    votes: Annotated[int, Option(metavar="N", help="Answers to each prompt, with either text first.", min=1)] = VOTES,
    concurrency: Annotated[int, Option(metavar="N", help="Requests at a time.", min=1, max=1024)] = 8,
    rate: Annotated[
        float | None, Option(metavar="N", help="Requests a minute, at the most. [default: any]", min=0.01)
    ] = None,
    timeout: Annotated[float, Option(metavar="SECONDS", help="Until an answer must be complete.", min=0.1)] = 60,
    answer_tokens: Annotated[
        int, Option(metavar="N", help="An answer's longest; more for models that think aloud.", min=1)
    ] = 16,
    price: Annotated[
        str | None, Option(metavar="IN:OUT", help="Of a million tokens read and written, for the estimate.")
    ] = None,
    answers: Annotated[
        str | None,
        Option(metavar="FILE", help="Where answers are kept, and found again. [default: the output's name .answers]"),
    ] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Print the estimate and one prompt, and ask nothing.")] = False,
) -> None:
    """Make pairwise judgments, for qurating to learn from.

    Writes a line for each pair: text_a, text_b, criterion, p_b (the probability that b is the better) and votes.
    The key for an endpoint comes from the environment, $DSELECT_API_KEY or $OPENAI_API_KEY.

    \b
    Example:
      dselect judge pool.jsonl.zst --pairs 500 --from-field token_count -o judgments.jsonl.zst
    """
    if (from_field is None) == (endpoint is None):
        raise UsageError("judge needs either --from-field FIELD or --endpoint URL")
    if output.output and is_folder(output.output):
        raise UsageError("judge writes one file of judgments", way_out="-o FILE")
    if from_field is not None:
        if lm or prompt or answers or dry_run or rate or price or len(criterion or ()) > 1:
            raise UsageError("grades take no model: only --soft, --within and one --criterion go with --from-field")
        _from_grades(pool, output, run, pairs, Describe(from_field, within), criterion[0] if criterion else None, soft)
        return
    assert endpoint is not None
    if soft is not None:
        raise UsageError("--soft is for --from-field")
    if prompt and len(criterion or ()) > 1:
        raise UsageError("--prompt asks one question", way_out="one --criterion names it")
    address_of(endpoint)
    if not lm:
        raise UsageError("--endpoint needs the name of a model", way_out="--model NAME")
    prices = read_price(price) if price else None
    if prompt:
        criteria = [read_prompt(prompt, criterion[0] if criterion else None)]
    else:
        criteria = [criterion_of(name) for name in dict.fromkeys(criterion or ["educational_value"])]
    with Run("judge", run) as talk:
        records = pool.open(run, talk, rereads=True)
        if dry_run:
            drawn, _ = draw(records, Describe(within=within), pairs, run.seed)
            _refuse_none(drawn, 0, records.name)
            print(estimate(drawn, criteria, votes, prices))
            print(f"\n{next(questions(drawn, criteria)).prompt}")
            return
        with output.open(records, run) as sink:
            drawn, unusable = draw(records, Describe(within=within), pairs, run.seed)
            _refuse_none(drawn, unusable, records.name)
            if not run.quiet and not run.json_summary:
                print(f"dselect judge: {estimate(drawn, criteria, votes, prices)}", file=sys.stderr)
            asked = Endpoint(endpoint, lm, timeout=timeout, a_minute=rate, answer_tokens=answer_tokens)
            kept = Answers(_answers_file(answers, output.output))
            found, facts = _judged(drawn, criteria, votes, asked, kept, concurrency, run)
            sink.write(0, whole(one.line() for one in found))
    talk.report(records.counts, judgments=len(found), asked_pairs=pairs, unusable=unusable, **facts)


def _from_grades(
    pool: PoolOptions,
    output: OutputOptions,
    run: RunOptions,
    pairs: int,
    work: Describe,
    name: str | None,
    soft: float | None,
) -> None:
    """Write judgments by the grades that records carry."""
    assert work.grade is not None
    with Run("judge", run) as talk:
        records = pool.open(run, talk, rereads=True)
        with output.open(records, run) as sink:
            drawn, unusable = draw(records, work, pairs, run.seed)
            _refuse_none(drawn, unusable, records.name)
            found = from_grades(drawn, name or work.grade.split(".")[-1], soft)
            sink.write(0, whole(one.line() for one in found))
    talk.report(records.counts, judgments=len(found), asked_pairs=pairs, unusable=unusable)


def _refuse_none(drawn: Sequence[Pair], unusable: int, where: str) -> None:
    if not drawn:
        raise DselectError(
            f"no two records to compare: {unusable:,} lack the field, a text of their own, or a partner",
            where=where,
            way_out="see --from-field and --within",
        )


def read_price(text: str) -> tuple[float, float]:
    """Read the price of a million tokens read and written, as 0.5:1.5; UsageError where it cannot be."""
    try:
        read, written = map(float, text.split(":"))
        if not (0 <= read < 1e9 and 0 <= written < 1e9):
            raise ValueError
    except ValueError as error:
        raise UsageError(f"cannot read --price {text!r}", way_out="--price 0.5:1.5, of a million tokens") from error
    return read, written


def estimate(
    drawn: Sequence[Pair], criteria: Sequence[Criterion], votes: int, prices: tuple[float, float] | None
) -> str:
    """Say how many prompts there are, about how many tokens, and what they cost."""
    sizes = [len(question.prompt.encode()) for question in questions(drawn, criteria)]
    read, written = sum(sizes) / BYTES_A_TOKEN, len(sizes) * votes
    said = (
        f"{len(sizes):,} prompts of about {read / len(sizes):,.0f} tokens, {votes} votes each: about {read:,.0f} tokens"
    )
    said += f" read and {written:,} written, where votes share a prompt"
    if prices:
        said += f"; about {read * prices[0] / 1e6 + written * prices[1] / 1e6:,.2f} by --price"
    return said


def _answers_file(named: str | None, output: str | None) -> Path | None:
    """Return where answers are kept: beside the output, nowhere where that is a stream and nothing was named."""
    if named:
        return Path(named)
    return None if output in (None, "-") else Path(f"{output}.answers")


def _judged(
    drawn: Sequence[Pair],
    criteria: Sequence[Criterion],
    votes: int,
    endpoint: Endpoint,
    answers: Answers,
    concurrency: int,
    run: RunOptions,
) -> tuple[list[Judgment], dict[str, Any]]:
    """Ask what has not been answered; return the judgments, and how it went."""
    settings = {"model": endpoint.model, "votes": votes, "tokens": endpoint.answer_tokens}

    def ask(prompt: str) -> Votes:
        try:
            return Votes.of(endpoint.ask(prompt, votes))
        except Refused:
            return Votes(refused=True)

    def tell(done: int) -> None:
        if not run.quiet and sys.stderr.isatty():
            print(f"\rdselect judge: {done:,} prompts answered", end="", file=sys.stderr)

    missing = ((key, q.prompt) for q in questions(drawn, criteria) if answers.get(key := q.key(settings)) is None)
    try:
        asked = ask_all(missing, ask, answers, concurrency, tell)
    finally:
        endpoint.close()
        answers.close()
    found: list[Judgment] = []
    bias = {criterion.name: Bias() for criterion in criteria}
    every = iter(questions(drawn, criteria))
    for straight, turned in zip(every, every, strict=True):
        one_way, other_way = (answers.get(question.key(settings)) or Votes() for question in (straight, turned))
        name = criteria[straight.criterion].name
        one = judgment(drawn[straight.pair], name, one_way, other_way, votes, bias[name])
        found += [one] if one else []
    if not run.quiet and not run.json_summary:
        for name, one_bias in bias.items():
            print(f"dselect judge: {_said(name, one_bias)}", file=sys.stderr)
    facts = {name: one.facts() for name, one in bias.items()}
    total = {key: sum(one[key] for one in facts.values()) for key in ("undecided", "refused")}
    kept = 2 * len(drawn) * len(criteria) - asked
    return found, {
        "position_bias": facts,
        **total,
        "requests": endpoint.requests,
        "retries": endpoint.retries,
        "prompts_asked": asked,
        "answers_kept": kept,
    }


def _said(name: str, bias: Bias) -> str:
    """Say how much the votes depend on the place."""
    facts = bias.facts()
    if facts["first_share"] is None:
        return f"{name}: no pair has votes that can be read"
    count = len(bias.first)
    return (
        f"{name}: of {count:,} pairs the text shown first got {facts['first_share']:.1%} of the votes (both orders are "
        f"averaged); in {bias.flipped:,} another text won when they were turned; {bias.unreadable:,} votes unreadable"
    )
