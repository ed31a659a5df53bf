"""What dselect says on stderr: progress on a terminal, one summary line at the end. And tables, which are data."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dselect.pool import Counts
from dselect.records.manifest import Ledger

if TYPE_CHECKING:  # every command talks, few mix
    from dselect.mixtures.portions import Held, Portions


class Quietness(Protocol):
    """The options that say how much to say, and where the books are kept."""

    quiet: bool
    json_summary: bool
    ledger: Ledger


class Run:
    """One run of a command: shows its progress, reports what it did."""

    def __init__(self, command: str, options: Quietness) -> None:
        self.command, self.options = command, options
        self._began = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, what: str, total: int | None) -> None:
        """Show a bar for a pass over `total` bytes on disk, if stderr is a terminal."""
        self.stop()
        if self.options.quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rate]:.0f} MB/s  {task.fields[documents]:,} documents"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._pass_began = time.monotonic()
        self._task = self._bar.add_task(f"{self.command}: {what}", total=total, rate=0.0, documents=0)
        self._bar.start()

    def advance(self, done: int, documents: int, text_bytes: int) -> None:
        """Move the bar; the rate is of text."""
        if self._bar is not None:
            seconds = max(time.monotonic() - self._pass_began, 1e-3)
            self._bar.update(self._task, completed=done, documents=documents, rate=text_bytes / seconds / 1e6)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def report(self, counts: Counts, **facts: Any) -> None:
        """Write the manifest; print the summary line, or with --json-summary one JSON object."""
        self.stop()
        seconds = time.monotonic() - self._began
        summary = {
            "command": self.command,
            "documents": counts.documents,
            "bytes": counts.bytes,
            "blank_lines": counts.blank,
            "bad_lines": counts.bad,
            **facts,
            "shards_done_before": len(self.options.ledger.done),
            "seconds": round(seconds, 3),
        }
        self.options.ledger.finish(summary)
        if self.options.json_summary:
            _say(json.dumps(summary))
        elif not self.options.quiet:
            _say(f"dselect {self.command}: {sentence(counts, summary, seconds)}")


def say_up_to_date(command: str, options: Quietness, output: str, summary: Mapping[str, Any]) -> None:
    """Say that there was nothing to do; with --json-summary, what the run said that did it."""
    if options.json_summary:
        _say(json.dumps({**summary, "up_to_date": True}))
    elif not options.quiet:
        _say(f"dselect {command}: {output} is up to date (--force does it again)")


def _say(line: str) -> None:
    with suppress(OSError):  # a full disk behind stderr does not undo what was done
        print(line, file=sys.stderr)


def sentence(counts: Counts, facts: Mapping[str, Any], seconds: float) -> str:
    """Return what a run did, in words."""
    parts = [f"{counts.documents:,} documents, {size(counts.bytes)} of text, in {seconds:.1f} s"]
    if "trained_on" in facts:
        parts.append(f"{facts['clusters']:,} clusters, fitted on {facts['trained_on']:,} of {facts['trained_of']:,}")
    if "kept" in facts:
        kept = f"kept {facts['kept']:,} documents"
        if "asked" in facts:
            kept += f"; asked {amount(facts['asked'], facts['unit'])}, got {amount(facts['achieved'], facts['unit'])}"
        elif facts.get("unit", "documents") != "documents":
            kept += f", {amount(facts['achieved'], facts['unit'])}"
        parts.append(kept)
    if "cut" in facts:
        parts.append(f"worst score kept {facts['cut']:.6g}")
    for name, spread in (facts.get("spread") or {}).items():
        if spread["rank_correlation_with_length"] is not None:
            parts.append(f"rank correlation of {name} with length {spread['rank_correlation_with_length']:.2f}")
    if "passed" in facts:
        parts.append(f"{facts['passed']:,} pass")
        parts += [f"{count:,} fail {rule}" for rule, count in facts["failed"].items() if count]
    if "contaminated" in facts:
        by = [f"{count:,} by {name}" for name, count in facts["contaminated_by"].items() if count]
        parts.append(f"{facts['contaminated']:,} contaminated" + (f" ({', '.join(by)})" if by else ""))
    if facts.get("saved"):
        parts.append(f"saved to {facts['saved']}")
    for name, text in _COUNTED.items():
        if facts.get(name):
            parts.append(f"{facts[name]:,} {text}")
    return "; ".join(parts)


_COUNTED = {
    "without_score": "below --min-words, without a score",
    "missing": "without the field",
    "of_unknown_domains": "of domains that the cut does not know",
    "larger_than_budget": "larger than the whole budget",
    "empty_clusters": "clusters without a record left out",
    "excluded": "kept from being picked again",
    "near_duplicates": "near duplicates of a better record dropped",
    "dimension": "numbers a vector",
    "duplicates": "duplicates of a better record dropped",
    "compared_with": "documents of the target compared with",
    "target_documents": "documents in the target",
    "in_target": "identical to a text of the target, scored without it",
    "forgotten": "occurrences or fewer: such n-grams may be missing (--max-memory)",
    "binary_files": "binary files passed over",
    "shards_done_before": "shards were done before",
    "shards_deleted": "shards of inputs that are gone, or of another run, deleted",
    "broken_files": "files that cannot be read to their end",
    "bad_lines": "bad lines",
    "blank_lines": "blank lines",
    "duplicate_ids": "duplicate ids",
    "duplicate_texts": "duplicate texts",
    "empty_texts": "empty texts",
    "whitespace_texts": "texts of white space",
    "missing_ids": "records without an id",
    "tokens": "tokens",
    "repeats": "repeats of a record, counted once",
    "judgments": "judgments",
    "undecided": "pairs without votes that can be read",
    "refused": "prompts the endpoint refused",
    "answers_kept": "prompts were answered before",
    "unusable": "records that cannot be judged: no grade, no domain, no words, or the text of another",
    "targets_too_short": "texts of the targets too short to be found (--words)",
}


EPOCHS = 4  # of the same text are nearly as good as fresh text; more are not (Muennighoff et al. 2023)


def say_portions(held: Held, drawn: Portions, options: Quietness) -> dict[str, Any]:
    """Show what each domain was asked for and gave, warn of many repeats; return the same for the summary."""
    got, totals = drawn.got(held), held.totals
    sums = [sum(phase) for phase in zip(*got, strict=True)]
    epochs = [total and given / total for given, total in zip(sums, totals, strict=True)]
    titles = [f"phase {number}" for number in range(1, len(got) + 1)] if len(got) > 1 else ["asked → got"]
    rows = []
    for k, name in enumerate(held.names):
        if any(asked[k] for asked in drawn.asked):
            phases = [f"{asked[k]:,} → {given[k]:,}" for asked, given in zip(drawn.asked, got, strict=True)]
            documents = sum(int(count[held.orders[k]].sum()) for count in drawn.counts)
            rows.append([name, f"{totals[k]:,}", *phases, f"{documents:,}", f"{epochs[k]:.2f}"])
    if not options.quiet:
        header = ["domain", f"holds, {held.unit}", *titles, "documents", "epochs"]
        print(table("", header, rows), file=sys.stderr)
        if len(rows) < len(totals):
            print(f"({len(totals) - len(rows)} other domains have no weight)", file=sys.stderr)
        for name, many in zip(held.names, epochs, strict=True):
            if many > EPOCHS:
                print(
                    f"dselect: warning: {name}: {many:.1f} epochs; more than {EPOCHS} of the same text teach little",
                    file=sys.stderr,
                )
    return {
        "kept": sum(int(count.sum()) for count in drawn.counts),
        "achieved": sum(sums),
        "phases": [dict(zip(held.names, given, strict=True)) for given in got],
        "epochs": dict(zip(held.names, epochs, strict=True)),
    }


def amount(number: int, unit: str) -> str:
    """Return an amount with its unit, as a person reads it."""
    return size(number) if unit == "bytes" else f"{number:,} {unit}"


def size(number: float) -> str:
    """Return bytes in decimal units, as budgets are given."""
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= scale:
            return f"{number / scale:.2f} {unit}"
    return f"{number:.0f} bytes"


def number(value: float | None) -> str:
    """Return a number as a person reads it, four digits where it is small or huge."""
    if value is None:
        return "-"
    return (
        f"{value:,.0f}" if 1000 <= abs(value) < 1e15 or (value == int(value) and abs(value) < 1e15) else f"{value:.4g}"
    )


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned text: the first column to the left, numbers to the right.

    Cells may come from anyone's records: what could move a terminal's cursor is replaced, and long ones are cut.
    """
    cells = [[_shown(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [printable(title)] if title else []
    for row in cells:
        first = row[0].ljust(widths[0])
        lines.append("  ".join([first, *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip())
    if rows:
        lines.insert(len(lines) - len(rows), "-" * max(map(len, lines)))
    return "\n".join(lines)


def printable(text: str) -> str:
    """Return a text on one line, without what could move a terminal's cursor."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def sparkline(values: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    """Return a histogram one line high: 16 bars from the 1 % to the 99 % quantile, what lies beyond in the last ones.

    The least bar that holds anything is seen; blank is nothing. Values that are all the same are one bar in the middle.
    """
    if not len(values):
        return ""
    low, high = np.quantile(values, 0.01, method="lower"), np.quantile(values, 0.99, method="higher")
    width = high / 2 - low / 2  # half of it, which is a number however far apart they are
    places = np.full(len(values), _BARS // 2)
    if width > 0:
        places = ((np.clip(values, low, high) / 2 - low / 2) / width * _BARS).astype(int)
    counts = np.bincount(np.minimum(places, _BARS - 1), minlength=_BARS)
    heights = np.ceil(counts / counts.max() * (len(_BLOCKS) - 1)).astype(int)
    return "".join(_BLOCKS[height] for height in heights.tolist())


_BARS, _BLOCKS = 16, " ▁▂▃▄▅▆▇█"


def _shown(cell: str) -> str:
    cell = printable(cell[:200])
    return cell if len(cell) <= 60 else f"{cell[:59]}…"
