"""Collect evaluations into one table: selections by targets and budgets, with intervals."""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import asdict
from typing import Annotated, Literal

from dselect.console import Run, printable, size, table
from dselect.errors import DselectError
from dselect.options import Argument, Option, RunOptions
from dselect.reporting.evaluations import Cell, Comparison, Evaluation, compare


def command(
    reports: Annotated[list[str], Argument(metavar="REPORT...", help="What dselect eval --json wrote.")],
    run: RunOptions,
    baseline: Annotated[
        str | None,
        Option(metavar="NAME", help="The selection whose results the others' differ from. [default: the reports' own]"),
    ] = None,
    form: Annotated[
        Literal["text", "markdown", "csv"],
        Option("--format", help="Aligned text, a Markdown table, or CSV with every number."),
    ] = "text",
) -> None:
    """Collect evaluations into one table: a row for each selection, a column for each target and budget.

    A cell is the difference to the baseline in bits per byte of target text, with its 95 % interval: negative is
    better. Without a baseline, bits per byte with theirs. The table is data and goes to stdout.

    \b
    Example:
      dselect select pool.jsonl.zst --keep 20kB -o random.jsonl.zst
      dselect dsir pool.jsonl.zst --target target.jsonl.zst --keep 20kB -o dsir.jsonl.zst
      dselect eval random.jsonl.zst dsir.jsonl.zst --target target2.jsonl.zst --budget 15kB --json r.json
      dselect table r.json --baseline random
    """
    with Run("table", run) as talk:
        found = compare([Evaluation.read(path) for path in reports], baseline, run.seed)
        if not found.selections:
            raise DselectError("no selection in it", where=reports[0])
    print({"text": _as_text, "markdown": _as_markdown, "csv": _as_csv}[form](found))
    for (name, column), cell in sorted(found.cells.items()):
        if cell.short and not run.quiet:
            print(
                f"dselect: warning: {name} was trained on {size(cell.bytes)}, less than the budget: "
                f"{found.labels[column]}",
                file=sys.stderr,
            )
    talk.report(found.counts, reports=len(reports))


def _title(found: Comparison) -> str:
    if found.baseline is None:
        return "bits per byte of held-out target text, 95 % interval; fewer is better"
    return f"bits per byte of held-out target text, difference to {found.baseline}, 95 % interval; negative is better"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    if cell.difference is None:
        return f"{cell.bits_per_byte:.3f} ({cell.low:.3f} … {cell.high:.3f})"
    return f"{cell.difference:+.3f} ({cell.difference_low:+.3f} … {cell.difference_high:+.3f})"


def _as_text(found: Comparison) -> str:
    columns = range(len(found.columns))
    rows = [[name, *(_cell(found.cells.get((name, number))) for number in columns)] for name in found.selections]
    return table(_title(found), ["selection", *found.labels], rows)


def _as_markdown(found: Comparison) -> str:
    columns = range(len(found.columns))
    best = [found.best(number) for number in columns]
    lines = [["selection", *found.labels], ["---", *("---:" for _ in columns)]]
    for name in found.selections:
        cells = [_cell(found.cells.get((name, number))) for number in columns]
        cells = [f"**{cell}**" if name == best[number] else cell for number, cell in enumerate(cells)]
        lines.append([name, *cells])
    shown = ["| " + " | ".join(map(_plain, line)) + " |" for line in lines]
    return "\n".join([f"{printable(_title(found))}; **the best of a column**", "", *shown])


def _plain(cell: str) -> str:
    """Return a cell that a Markdown table holds as it is: names may come from anywhere."""
    return printable(cell).replace("|", "\\|")


def _as_csv(found: Comparison) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    settings = list(dict.fromkeys(name for one in found.columns for name in one.settings if name != "budget"))
    names = [name for name in Cell.__dataclass_fields__ if name != "budget"]
    writer.writerow(["selection", "target", "budget", *settings, *names])
    for name in found.selections:
        for number, one in enumerate(found.columns):
            if (name, number) in found.cells:
                cell = asdict(found.cells[name, number])
                about = [one.target, cell["budget"], *(one.settings.get(setting, "") for setting in settings)]
                writer.writerow([name, *about, *("" if cell[key] is None else cell[key] for key in names)])
    return out.getvalue().rstrip("\n")
