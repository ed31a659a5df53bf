"""What dselect says on stderr: progress on a terminal, one summary line at the end. And tables, which are data."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

from dselect.pool import Counts


class Quietness(Protocol):
    """The options that say how much to say."""

    quiet: bool
    json_summary: bool


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
        """Print the summary line, or with --json-summary one JSON object."""
        self.stop()
        seconds = time.monotonic() - self._began
        if self.options.json_summary:
            summary = {
                "command": self.command,
                "documents": counts.documents,
                "bytes": counts.bytes,
                "blank_lines": counts.blank,
                "bad_lines": counts.bad,
                **facts,
                "seconds": round(seconds, 3),
            }
            print(json.dumps(summary), file=sys.stderr)
        elif not self.options.quiet:
            print(f"dselect {self.command}: {_sentence(counts, facts, seconds)}", file=sys.stderr)


def _sentence(counts: Counts, facts: Mapping[str, Any], seconds: float) -> str:
    parts = [f"{counts.documents:,} documents, {size(counts.bytes)} of text, in {seconds:.1f} s"]
    if "kept" in facts:
        kept = f"kept {facts['kept']:,} documents"
        if "unit" in facts:
            kept += f"; asked {amount(facts['asked'], facts['unit'])}, got {amount(facts['achieved'], facts['unit'])}"
        parts.append(kept)
    if "cut" in facts:
        parts.append(f"lowest score kept {facts['cut']:.6g}")
    if "passed" in facts:
        parts.append(f"{facts['passed']:,} pass")
        parts += [f"{count:,} fail {rule}" for rule, count in facts["failed"].items() if count]
    if facts.get("saved"):
        parts.append(f"model saved to {facts['saved']}")
    for name, text in _COUNTED.items():
        if facts.get(name):
            parts.append(f"{facts[name]:,} {text}")
    if counts.bad:
        parts.append(f"{counts.bad:,} bad lines set aside")
    if counts.blank:
        parts.append(f"{counts.blank:,} blank lines dropped")
    return "; ".join(parts)


_COUNTED = {
    "without_score": "below --min-words, without a score",
    "missing": "without the field",
    "larger_than_budget": "larger than the whole budget",
    "duplicates": "duplicates of a better record dropped",
    "binary_files": "binary files passed over",
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


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned text: the first column to the left, numbers to the right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [title] if title else []
    for row in cells:
        first = row[0].ljust(widths[0])
        lines.append("  ".join([first, *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip())
    if rows:
        lines.insert(len(lines) - len(rows), "-" * max(map(len, lines)))
    return "\n".join(lines)
