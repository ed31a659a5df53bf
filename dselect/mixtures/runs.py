"""Runs that were made elsewhere: tables of mixtures and of what they cost."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dselect.errors import DselectError, UsageError

OFF = 0.02  # how far the weights of a run may be from the sum 1: RegMix's are rounded to three decimals

Floats = np.ndarray[Any, np.dtype[np.float64]]


def read_runs(paths: Sequence[str], losses: Sequence[str]) -> tuple[list[str], Floats, Floats]:
    """Read runs that were made elsewhere: (domains, weights (n, d), losses (n,)), the mean of the columns named.

    Of one file, all columns are weights but the losses, and the first one if it is not numbers that could be weights;
    of two, the second has the losses, and they are joined by their first columns. DselectError if rows do not sum to 1.
    """
    mixtures, told = _read_csv(paths[0]), _read_csv(paths[-1])
    shares = _parsed(losses, list(next(iter(told.values()), {})), paths[-1])
    joined = [key for key in mixtures if key in told]
    if len(joined) < 2:
        raise DselectError("fewer than two runs", where=paths[0], way_out="two files are joined by their first columns")
    names = [name for name in mixtures[joined[0]] if len(paths) == 2 or name not in shares]
    weights = np.array([[_number(mixtures[key][name], paths[0], name) for name in names] for key in joined])
    values = np.array([[_number(told[key][name], paths[-1], name) for name in shares] for key in joined])
    sums = weights.sum(axis=1)
    wrong = (np.abs(sums - 1) > OFF) | (weights < 0).any(axis=1)
    if wrong.any():
        at = int(wrong.argmax())
        raise DselectError(
            f"the weights of run {joined[at]} sum to {sums[at]:.4g}; taken as weights: {', '.join(names[:6])} …",
            where=paths[0],
            way_out="keep losses in a second file",
        )
    return names, weights / sums[:, None], values @ np.array(list(shares.values()))


def _read_csv(path: str) -> dict[str, dict[str, str]]:
    """Return the rows of a table by their first column, which goes; of a table without one, by their number."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            header, *rows = list(csv.reader(file))
    except FileNotFoundError as error:
        raise DselectError("no such file", where=path) from error
    except (OSError, ValueError, csv.Error) as error:
        raise DselectError(f"not a table of runs: {error}", where=path, way_out="CSV with a header") from error
    keyed = header[0].strip().lower() in ("", "index", "id", "run", "name", "mixture")
    found: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) != len(header):
            raise DselectError(f"{len(row)} cells, not {len(header)}", where=f"{path}:{number}")
        key = row[0] if keyed else str(number)
        if key in found:
            raise DselectError(f"the run {key} a second time", where=f"{path}:{number}")
        found[key] = dict(list(zip(header, row, strict=True))[keyed:])
    return found


def _parsed(named: Sequence[str], columns: Sequence[str], path: str) -> dict[str, float]:
    """Return the share of each column that NAME or WEIGHT=NAME names; they sum to 1."""
    found = {}
    for name in named:
        weight, _, rest = name.partition("=")
        given = 1.0
        if name not in columns and rest in columns:
            name, given = rest, _number(weight, "--loss", name)
        if name not in columns:
            raise DselectError(f'no column "{name}"; there are: {", ".join(columns[:20])}', where=path)
        found[name] = given
    total = sum(found.values())
    if total <= 0 or min(found.values()) < 0:
        raise UsageError("the weights of --loss must not be negative, and not all 0")
    return {name: weight / total for name, weight in found.items()}


def _number(cell: str, path: str, name: str) -> float:
    try:
        found = float(cell)
    except ValueError:
        found = float("nan")
    if not np.isfinite(found):
        raise DselectError(f"{name}: {cell!r} is not a number", where=path)
    return found
