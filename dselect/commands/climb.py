"""Search the weights of domains for the mixture that serves a target best (CLIMB, RegMix)."""
# Diao et al. 2025, "Nemotron-CLIMB: Clustering-based iterative data mixture bootstrapping": try mixtures on a small
# proxy, fit a predictor to what they cost, try those that it likes, and so on. Liu et al. 2025, "RegMix": one round, of
# runs that were made elsewhere.
# Differs from both by default: the predictor is a Gaussian process, half of the candidates are near the best measured,
# the caps on repetition hold in every round, and a predicted mixture is the answer only if a run confirms it.

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from dselect.console import Run, table
from dselect.errors import DselectError, UsageError
from dselect.mixtures import Mixture
from dselect.options import Option, RunOptions
from dselect.pool import Counts
from dselect.records.writing import publish
from dselect.search import PredictorName, WeightSearch, best_predictor, cross_validated

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


def trust(search: WeightSearch) -> dict[str, Any]:
    """Return which predictor was fitted, and how well it ranks points that it has not seen."""
    name = search.predictor
    if name == "auto":
        name = best_predictor(search.weights_, search.losses_)
    checked = cross_validated(name, search.weights_, search.losses_)
    return {"predictor": name, "rank_correlation": checked.rank_correlation, "error": checked.error}


def show(names: Sequence[str], columns: Mapping[str, Floats], file: Any) -> None:
    """Print the weights of mixtures side by side, the last one's largest first."""
    last = list(columns.values())[-1]
    order = np.argsort(-last, kind="stable").tolist()
    rows = [[names[i], *(f"{column[i]:.2%}" for column in columns.values())] for i in order]
    print(table("", ["domain", *columns], rows), file=file)


def command(
    run: RunOptions,
    runs: Annotated[
        list[str] | None,
        Option(metavar="FILE", help="Runs made elsewhere: CSV of weights and losses, or two files, joined by index."),
    ] = None,
    loss: Annotated[
        list[str] | None,
        Option(metavar="[W=]COLUMN", help="Of --runs: what to minimise; several are averaged, with weights W."),
    ] = None,
    maximise: Annotated[bool, Option("--maximise", help="It is no loss but an accuracy.")] = False,
    predictor: Annotated[
        PredictorName, Option(help="Of losses: a Gaussian process, ridge, LightGBM, or which ranks best.")
    ] = "gp",
    save: Annotated[str | None, Option(metavar="FILE", help="Where the mixture goes, as JSON.")] = None,
) -> None:
    """Search the weights of domains for the mixture that serves a target best.

    \b
    Example:
      dselect climb --runs runs.csv --loss val_loss --save mixture.json
    """
    if not runs or not loss or len(runs) > 2:
        raise UsageError("--runs needs one or two files, and --loss the column to minimise")
    with Run("climb", run) as talk:
        run.ledger.call.records = False
        run.ledger.open([], lambda _: {}, outputs=[], folder=False, whole=True, resume=False)
        names, weights, losses = read_runs(runs, loss)
        sign = -1.0 if maximise else 1.0
        search = WeightSearch(weights.mean(axis=0), None, predictor, run.seed)
        search.tell(weights, sign * losses)
        best, fitted = search.best_predicted(), search.fitted()
        facts = {
            "tried": len(losses),
            "best_measured": sign * float(search.losses_.min()),
            "predicted": sign * float(fitted.predict(best[None])[0]),
            "deviation": float(fitted.deviations(best[None])[0]),
            "confirmed": False,
            **trust(search),
        }
        columns = {"mean of runs": search.prior, "best measured": search.best_measured(), "predicted": best}
    show(names, columns, sys.stdout)
    print(_told(facts), file=sys.stderr)
    if save:
        mixture = Mixture(dict(zip(names, best.tolist(), strict=True)), None, facts)
        publish(Path(save), mixture.to_bytes())
    talk.report(Counts(), saved=save, **facts)


def _told(facts: Mapping[str, Any]) -> str:
    ranks = facts["rank_correlation"]
    told = "" if ranks is None else f", rank correlation in cross-validation {ranks:.3f}"
    return (
        f"dselect climb: {facts['tried']} runs, the best at {facts['best_measured']:.4f}; predicted "
        f"{facts['predicted']:.4f} ± {facts['deviation']:.4f} ({facts['predictor']}{told}); no run has confirmed it"
    )


