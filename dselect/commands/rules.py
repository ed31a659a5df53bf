"""Count simple statistics of documents, and tell which pass the published rules."""
# The rules are data: a statistic (kernels/statistics.py counts it), what it may be, and where that was published.
# Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher".
# Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (C4).
# Xie et al. 2023, "Data Selection for Language Models via Importance Resampling" (DSIR).
# Differs from C4: no text is edited. What C4 does to lines is a statistic here.

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import orjson

from dselect.console import Run
from dselect.errors import UsageError
from dselect.options import Option, OutputOptions, Overwrite, PoolOptions, RunOptions
from dselect.pipeline import free_of
from dselect.records import splice
from dselect.records.batch import Batch

INFINITY = float("inf")

_QUALITY = "Rae et al. 2021, appendix A.1.1"
_REPETITION = "Rae et al. 2021, table A1"
_C4 = "Raffel et al. 2020, section 2.2"
_C4_LINES = "lines as in Raffel et al. 2020, section 2.2; no bound published"
_DSIR = "Xie et al. 2023, experimental code"


@dataclass(frozen=True)
class Rule:
    """A statistic and what it may be: from `low` to `high`, or if `strict` between them."""

    set: str
    name: str
    low: float
    high: float
    source: str
    strict: bool = False

    @property
    def bounds(self) -> str:
        """Return what passes, as a person reads it."""
        sign = "<" if self.strict else "<="
        low = f"{self.low:.10g} {sign} " if self.low > -INFINITY else ""
        high = f" {sign} {self.high:.10g}" if self.high < INFINITY else ""
        return f"{low}x{high}" if low or high else "any"

    def fails(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return which values break the rule: bool (n,)."""
        if self.strict:
            return np.asarray((values <= self.low) | (values >= self.high))
        return np.asarray((values < self.low) | (values > self.high))


RULES = (
    Rule("gopher", "word_count", 50, 100_000, _QUALITY),
    Rule("gopher", "mean_word_length", 3, 10, _QUALITY),
    Rule("gopher", "hash_ratio", -INFINITY, 0.1, _QUALITY),
    Rule("gopher", "ellipsis_ratio", -INFINITY, 0.1, _QUALITY),
    Rule("gopher", "bullet_lines", -INFINITY, 0.9, _QUALITY),
    Rule("gopher", "ellipsis_lines", -INFINITY, 0.3, _QUALITY),
    Rule("gopher", "alphabetic_words", 0.8, INFINITY, _QUALITY),
    Rule("gopher", "stop_words", 2, INFINITY, _QUALITY),
    Rule("gopher-repetition", "duplicate_lines", -INFINITY, 0.3, _REPETITION),
    Rule("gopher-repetition", "duplicate_paragraphs", -INFINITY, 0.3, _REPETITION),
    Rule("gopher-repetition", "duplicate_line_characters", -INFINITY, 0.2, _REPETITION),
    Rule("gopher-repetition", "duplicate_paragraph_characters", -INFINITY, 0.2, _REPETITION),
    Rule("gopher-repetition", "top_2_gram", -INFINITY, 0.2, _REPETITION),
    Rule("gopher-repetition", "top_3_gram", -INFINITY, 0.18, _REPETITION),
    Rule("gopher-repetition", "top_4_gram", -INFINITY, 0.16, _REPETITION),
    Rule("gopher-repetition", "duplicate_5_grams", -INFINITY, 0.15, _REPETITION),
    Rule("gopher-repetition", "duplicate_6_grams", -INFINITY, 0.14, _REPETITION),
    Rule("gopher-repetition", "duplicate_7_grams", -INFINITY, 0.13, _REPETITION),
    Rule("gopher-repetition", "duplicate_8_grams", -INFINITY, 0.12, _REPETITION),
    Rule("gopher-repetition", "duplicate_9_grams", -INFINITY, 0.11, _REPETITION),
    Rule("gopher-repetition", "duplicate_10_grams", -INFINITY, 0.1, _REPETITION),
    # 3 is what the journal's paper and the code say; the first version of the paper says 5
    Rule("c4", "sentences", 3, INFINITY, _C4),
    Rule("c4", "lorem_ipsum", -INFINITY, 0, _C4),
    Rule("c4", "curly_brackets", -INFINITY, 0, _C4),
    Rule("c4", "kept_lines", -INFINITY, INFINITY, _C4_LINES),
    Rule("c4", "kept_characters", -INFINITY, INFINITY, _C4_LINES),
    Rule("dsir", "dsir_words", 40, 500, _DSIR, strict=True),
    Rule("dsir", "dsir_top_word", 0.02, 0.2, _DSIR, strict=True),
    Rule("dsir", "dsir_other_than_stop_words", 0.3, 0.7, _DSIR, strict=True),
    Rule("dsir", "dsir_other_than_digits", 0.8, INFINITY, _DSIR, strict=True),
)


SETS = tuple(dict.fromkeys(rule.set for rule in RULES))


def choose_rules(sets: Sequence[str], bounds: Sequence[str] = ()) -> list[Rule]:
    """Return the rules of these sets, in the order of RULES, with some bounds replaced.

    A bound reads NAME:LOW:HIGH, either side empty where there is none. Raises UsageError for a set that is none, and a
    bound that cannot be read or is of no chosen rule.
    """
    unknown = [name for name in sets if name not in SETS]
    if unknown:
        raise UsageError(f"no rules {unknown[0]!r}; there are: {', '.join(SETS)}")
    chosen = {rule.name: rule for rule in RULES if rule.set in sets}
    for text in bounds:
        name, *sides = text.split(":")
        try:
            low, high = (float(side or none) for side, none in zip(sides, ("-inf", "inf"), strict=True))
        except ValueError:
            low = high = float("nan")
        if not low <= high:
            raise UsageError(
                f"cannot read --bound {text!r}", way_out="--bound word_count:50:1000, --bound sentences:5:"
            )
        if name not in chosen:
            raise UsageError(f"--bound {text!r} is of none of the rules: {', '.join(chosen)}", way_out="see --rules")
        chosen[name] = replace(chosen[name], low=low, high=high)
    return list(chosen.values())


@dataclass(frozen=True)
class Judge:
    """Counts statistics and applies rules to them: the work of the one pass."""

    rules: Sequence[Rule]
    prefix: str = "rules"
    overwrite: bool = False
    keep_if_passes: bool = False

    def statistics(self, texts: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
        """Return the statistic of every rule, by the rule's name: (n,) each."""
        from dselect.kernels import repetition, statistics

        count = {
            "gopher": statistics.gopher_statistics,
            "gopher-repetition": repetition.repetition_statistics,
            "c4": statistics.c4_statistics,
            "dsir": statistics.dsir_statistics,
        }
        found: dict[str, np.ndarray[Any, Any]] = {}
        for name in dict.fromkeys(rule.set for rule in self.rules):
            found.update(count[name](texts))
        return {rule.name: found[rule.name] for rule in self.rules}

    def __call__(self, batch: Batch) -> tuple[bytes, int, np.ndarray[Any, np.dtype[np.int64]]]:
        """Return the lines with their new fields as one block, how many pass, and per rule how many fail."""
        values = self.statistics(batch.texts)
        fails = np.stack([rule.fails(values[rule.name]) for rule in self.rules])
        passes = ~fails.any(axis=0)
        columns = {f"{self.prefix}_{name}": column for name, column in values.items()}
        failed = f"{self.prefix}_failed"
        lines = free_of(batch, [*columns, failed], self.overwrite)
        key = b"," + orjson.dumps(failed) + b":"
        labels = self._labels(fails)
        new = [m + key + orjson.dumps(label) for m, label in zip(splice.members(columns), labels, strict=True)]
        if self.keep_if_passes:
            at = np.flatnonzero(passes).tolist()
            lines, new = [lines[i] for i in at], [new[i] for i in at]
        return splice.append_all(lines, new), int(passes.sum()), fails.sum(axis=1)

    def _labels(self, fails: np.ndarray[Any, Any]) -> list[str]:
        """Return the names of the rules that each record fails, joined by commas."""
        labels: list[list[str]] = [[] for _ in range(fails.shape[1])]
        for rule, column in zip(self.rules, fails, strict=True):
            for position in np.flatnonzero(column).tolist():
                labels[position].append(rule.name)
        return [",".join(label) for label in labels]


def listing(rules: Sequence[Rule]) -> str:
    """Return rules as a table: set, name, what passes, source."""
    rows = [("set", "rule", "passes", "source"), *((r.set, r.name, r.bounds, r.source) for r in rules)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def command(
    pool: PoolOptions,
    output: OutputOptions,
    run: RunOptions,
    rules: Annotated[
        list[str] | None,
        Option("--rules", metavar="SET", help=f"{', '.join(SETS)}; give it again for more. [default: gopher]"),
    ] = None,
    bound: Annotated[
        list[str] | None,
        Option(metavar="RULE:LOW:HIGH", help="What a statistic may be, in place of what was published; repeatable."),
    ] = None,
    keep_if_passes: Annotated[
        bool, Option("--keep-if-passes", help="Write only the records that pass every rule.")
    ] = False,
    show: Annotated[bool, Option("--list", help="Print the rules, what passes and the sources, and stop.")] = False,
    prefix: Annotated[str, Option("--as", metavar="NAME", help="What the names of the fields begin with.")] = "rules",
    overwrite: Overwrite = False,
) -> None:
    """Count simple statistics of documents, and tell which pass the published rules of Gopher, C4 or DSIR.

    Adds one field a rule, as rules_word_count, and rules_failed: the names of the rules that the record fails,
    joined by commas, empty if it passes.

    \b
    Example:
      dselect rules pool.jsonl.zst --keep-if-passes --bound word_count:20:1000 -o ruled.jsonl.zst
    """
    if show:
        print(listing(choose_rules(rules or SETS, bound or ())))
        return
    judge = Judge(choose_rules(rules or ["gopher"], bound or ()), prefix, overwrite, keep_if_passes)
    judge.statistics([])  # what is compiled on first use is compiled here, before there are workers
    with Run("rules", run) as talk:
        records = pool.open(run, talk, rereads=False)
        with output.open(records, run, alone=True) as sink:
            for source, (lines, passing, failing) in records.map(judge, "counting", rest=True):
                tally = records.tallies.setdefault(source, Counter())
                tally.update(dict(zip((rule.name for rule in judge.rules), failing.tolist(), strict=True)))
                tally["passed"] += passing
                sink.write(source, lines)
    passed = records.total("passed")
    kept = {"kept": passed} if keep_if_passes else {}
    talk.report(
        records.counts, **kept, passed=passed, failed={rule.name: records.total(rule.name) for rule in judge.rules}
    )
