"""What `eval` found out about selections: its reports, read back and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from dselect import draws
from dselect.console import size
from dselect.errors import DselectError
from dselect.pool import Counts

RESAMPLES = 2000
_SHORT = 0.02
SETTINGS = ("budget", "lm", "order", "steps", "size", "device", "seeds")

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass
class Row:
    """What is found out about one selection."""

    selection: str
    bits_per_byte: float
    by_seed: list[float]
    bits: list[list[float]]  # of each target document, by seed
    documents: int
    bytes: int
    median_bytes: float
    duplicates: float
    target_overlap: float
    target_documents_found: int
    shares: dict[str, float]
    difference: float | None = None  # to the baseline, negative is better
    low: float | None = None
    high: float | None = None


def intervals(differences: Sequence[Floats], sizes: Ints, seed: int) -> list[tuple[float, float]]:
    """Return, of each array, the 95 % percentile interval of Σ differences / Σ sizes over resampled documents.

    differences: float64 (n,) each, bits of one model less those of another on each document: paired, so that hard
    documents do not count as noise. sizes: int64 (n,), their bytes. All are of the same resamples.
    """
    count = len(sizes)
    means = np.empty((len(differences), RESAMPLES))
    documents = np.arange(count, dtype=np.uint64)
    for number in range(RESAMPLES):
        drawn = (draws.uniform(seed, f"bootstrap {number}", documents) * count).astype(np.int64)
        total = max(int(sizes[drawn].sum()), 1)
        for which, column in enumerate(differences):
            means[which, number] = column[drawn].sum() / total
    return [(float(low), float(high)) for low, high in (np.quantile(row, [0.025, 0.975]) for row in means)]


def compared(rows: Sequence[Row], baseline: int, sizes: Ints, seed: int) -> list[Row]:
    """Return the rows with their differences to one of them; sizes: int64 (n,), the bytes of the target documents."""
    means = [np.mean(row.bits, axis=0) for row in rows]
    others = [number for number in range(len(rows)) if number != baseline]
    apart = [means[number] - means[baseline] for number in others]
    found = [replace(row, difference=None, low=None, high=None) for row in rows]
    for number, column, (low, high) in zip(others, apart, intervals(apart, sizes, seed), strict=True):
        found[number] = replace(found[number], difference=float(column.sum() / sizes.sum()), low=low, high=high)
    return found


@dataclass
class Evaluation:
    """A report of `eval --json`: the settings it was made with, the target's documents, a row for each selection."""

    path: str
    settings: dict[str, Any]  # budget, lm and its options, seeds
    target: str  # its name
    texts: list[str]  # a hash of each of its documents
    sizes: Ints  # their bytes
    baseline: str | None  # the name of the selection that the others were compared with
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def read(cls, path: str) -> Evaluation:
        """Return what a file holds; DselectError if it is no such report."""
        report, rows = _read(path)
        settings = {name: report[name] for name in SETTINGS if name in report}
        names = [_name(one) for one in report.get("target") or ()]
        if "text_bytes" not in report:
            raise DselectError(
                "made by an eval that did not keep the target's sizes", where=path, way_out="make it again"
            )
        sizes = np.asarray(report["text_bytes"], np.int64)
        baseline = report.get("baseline")
        found = cls(path, settings, "+".join(names), report["texts"], sizes, baseline and _name(baseline), rows)
        if sizes.shape != (len(found.texts),):
            raise DselectError("not a sound report: its sizes", where=path, way_out="make it again")
        return found


@dataclass(frozen=True)
class Cell:
    """One selection on one target: bits per byte with the 95 % interval; below a baseline, the difference with its."""

    bits_per_byte: float
    low: float
    high: float
    difference: float | None  # None: no baseline, or the baseline itself
    difference_low: float | None
    difference_high: float | None
    bytes: int  # trained on
    budget: int

    @property
    def short(self) -> bool:
        """Tell whether the selection was noticeably smaller than the budget."""
        return self.bytes < (1 - _SHORT) * self.budget


@dataclass
class Comparison:
    """Evaluations as a grid: a column for each target, budget and judge, a row for each selection's name."""

    columns: list[Evaluation]  # one of each, for what it was made with
    labels: list[str]  # of the columns, all different
    selections: list[str]  # the baseline first, then the best on average, those that lack a column last
    cells: dict[tuple[str, int], Cell]
    baseline: str | None

    @property
    def counts(self) -> Counts:
        """Return how many documents all targets have, and how much text."""
        return Counts(sum(len(one.texts) for one in self.columns), sum(int(one.sizes.sum()) for one in self.columns))

    def best(self, column: int) -> str:
        """Return the selection with the fewest bits per byte in a column."""
        here = {
            name: self.cells[name, column].bits_per_byte for name in self.selections if (name, column) in self.cells
        }
        return min(here, key=lambda name: (here[name], name))


def compare(evaluations: Sequence[Evaluation], baseline: str | None, seed: int) -> Comparison:
    """Return all evaluations in one grid; intervals are of the target's documents, of differences paired.

    baseline: the name of a selection that every column has; None for the one that all reports name, if they do.
    DselectError where the same was evaluated twice, or a column lacks the baseline.
    """
    groups: dict[Any, list[Evaluation]] = {}
    for one in evaluations:
        groups.setdefault(orjson.dumps([one.settings, one.texts]), []).append(one)
    ordered = sorted(groups.values(), key=lambda group: (group[0].target, int(group[0].settings["budget"])))
    columns = [group[0] for group in ordered]
    named = {one.baseline for one in evaluations}
    if baseline is None and len(named) == 1:
        baseline = next(iter(named))
    cells: dict[tuple[str, int], Cell] = {}
    for number, group in enumerate(ordered):
        cells |= {(name, number): cell for name, cell in _cells(group, baseline, seed).items()}
    names = list(dict.fromkeys(row.selection for one in evaluations for row in one.rows))

    def rank(name: str) -> tuple[bool, int, float]:
        held = [cells[name, number].bits_per_byte for number in range(len(columns)) if (name, number) in cells]
        return name != baseline, -len(held), sum(held)

    return Comparison(columns, _labels(columns), sorted(names, key=rank), cells, baseline)


def _cells(group: Sequence[Evaluation], baseline: str | None, seed: int) -> dict[str, Cell]:
    rows: dict[str, tuple[Row, str]] = {}
    for one in group:
        for row in one.rows:
            if row.selection in rows and rows[row.selection][0].bits != row.bits:
                raise DselectError(
                    f"{row.selection} was evaluated twice, also in {rows[row.selection][1]}, with other results",
                    where=one.path,
                    way_out="name one of them",
                )
            rows.setdefault(row.selection, (row, one.path))
    if baseline is not None and baseline not in rows:
        raise DselectError(
            f"no evaluation of the baseline {baseline} with these settings; there are: {', '.join(list(rows)[:12])}",
            where=group[0].path,
            way_out="dselect eval it too, or another --baseline",
        )
    sizes, budget = group[0].sizes, int(group[0].settings["budget"])
    bits = {name: np.mean(row.bits, axis=0) for name, (row, _) in rows.items()}
    apart = {name: own - bits[baseline] for name, own in bits.items()} if baseline is not None else {}
    apart.pop(baseline or "", None)
    bounds = intervals([*bits.values(), *apart.values()], sizes, seed)
    own, paired = dict(zip(bits, bounds, strict=False)), dict(zip(apart, bounds[len(bits) :], strict=True))
    found = {}
    for name, (row, _) in rows.items():
        low, high = paired.get(name, (None, None))
        difference = float(apart[name].sum() / sizes.sum()) if name in apart else None
        found[name] = Cell(row.bits_per_byte, *own[name], difference, low, high, row.bytes, budget)
    return found


def _labels(columns: Sequence[Evaluation]) -> list[str]:
    """Return names of the columns: target, budget, and of the other settings those that are not the same for all."""
    varying = [
        name
        for name in SETTINGS
        if name != "budget" and len({orjson.dumps(one.settings.get(name)) for one in columns}) > 1
    ]
    labels = []
    for one in columns:
        others = [f"{name} {one.settings[name]}" for name in varying if name in one.settings]
        labels.append(", ".join([f"{one.target} {size(int(one.settings['budget']))}", *others]))
    if len(set(labels)) < len(labels):  # targets of one name
        labels = [f"{label} ({one.path})" for label, one in zip(labels, columns, strict=True)]
    return labels


def _name(path: str) -> str:
    return Path(path).name.split(".")[0]


def _read(path: str) -> tuple[dict[str, Any], list[Row]]:
    try:
        report = orjson.loads(Path(path).read_bytes())
        rows = [Row(**entry) for entry in report["selections"]]
        shapes = {np.asarray(row.bits, np.float64).shape for row in rows}
        expected = (len(report["seeds"]), len(report["texts"]))
        if not all(isinstance(row.selection, str) and np.isfinite(row.bits_per_byte) for row in rows):
            raise ValueError
    except FileNotFoundError as error:
        raise DselectError("no such file", where=path) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DselectError("not a report of dselect eval --json", where=path, way_out="make it again") from error
    if shapes - {expected}:
        raise DselectError("not a sound report: its losses", where=path, way_out="make it again")
    return report, rows


def read_rows(path: str, settings: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a report; DselectError if it is none, or was made with other settings."""
    report, rows = _read(path)
    for name, value in settings.items():
        if name not in report:
            raise DselectError("not a report of dselect eval --json", where=path, way_out="make it again")
        if report[name] != value:
            told = "on other target texts" if name == "texts" else f"with {name} {report[name]}, not {value}"
            raise DselectError(f"this report was made {told}", where=path, way_out="the same options for all")
    return rows
