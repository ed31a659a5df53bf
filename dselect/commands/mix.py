"""Sample the pool by the weights of its domains, in one mixture or in phases."""
# What climb's weights are for: exact budgets a domain, repetition by whole epochs up to a cap (Muennighoff et al. 2023:
# up to four epochs are nearly as good as fresh text). Phases are those of Blakeney et al. 2024, "Does your data spark
# joy? Performance gains from domain upsampling at the end of training".

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dselect import mixing
from dselect.console import Run, say_portions
from dselect.errors import DselectError, UsageError
from dselect.mixtures.mixture import Mixture
from dselect.mixtures.portions import Held, portions, write_portions
from dselect.options import Keep, MaxRepeats, Option, OutputOptions, PoolOptions, RunOptions, Tokens
from dselect.pipeline import is_folder, open_sink
from dselect.pool import Pool
from dselect.records.writing import Sink
from dselect.selection import Budget


@dataclass(frozen=True)
class Phase:
    """A part of training: its share of the budget, and what its weights are; None: those of --weights."""

    share: float
    weights: Mapping[str, float] | None = None
    upsample: Mapping[str, float] | None = None

    def of(self, base: Mapping[str, float]) -> dict[str, float]:
        """Return the weights of its domains: its own or the base's, those upsampled times their factors."""
        found = dict(base if self.weights is None else self.weights)
        for name, factor in (self.upsample or {}).items():
            if name not in found:
                raise DselectError(f"the domain {name!r} to upsample has no weight; there are: {', '.join(found)}")
            found[name] *= factor
        return found


def read_phases(path: str) -> list[Phase]:
    """Read a JSON list of phases; DselectError if it is none."""
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise DselectError(f"cannot read: {error.strerror}", where=path) from error
    except ValueError as error:
        raise DselectError(f"not JSON: {error}", where=path) from error
    way_out = '[{"share": 0.85}, {"share": 0.15, "upsample": {"math": 5}}]'
    if not isinstance(found, list) or not found:
        raise DselectError("not a list of phases", where=path, way_out=way_out)
    phases = []
    for number, entry in enumerate(found, 1):
        good = (
            isinstance(entry, dict)
            and set(entry) <= {"share", "weights", "upsample"}
            and _amount(entry.get("share"))
            and all(_amounts(entry.get(name)) for name in ("weights", "upsample"))
        )
        if not good:
            raise DselectError(
                f"phase {number} is not a share, and weights or what to upsample", where=path, way_out=way_out
            )
        phases.append(Phase(**entry))
    if not sum(phase.share for phase in phases):
        raise DselectError("the shares of the phases are all 0", where=path, way_out=way_out)
    return phases


def _amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def _amounts(value: object) -> bool:
    return value is None or (isinstance(value, dict) and all(map(_amount, value.values())))


def command(
    pool: PoolOptions,
    output: OutputOptions,
    run: RunOptions,
    weights: Annotated[
        str | None, Option(metavar="FILE", help="The mixture: what climb --save wrote, or a JSON object of weights.")
    ] = None,
    keep: Keep = None,
    within: Annotated[
        str | None, Option(metavar="FIELD", help="The field that names the domain, if the mixture does not say.")
    ] = None,
    max_repeats: MaxRepeats = 4,
    phases: Annotated[
        str | None, Option(metavar="FILE", help="A JSON list of phases: shares of the budget, and their weights.")
    ] = None,
    tokens: Tokens = None,
) -> None:
    """Sample the pool by the weights of its domains.

    Each domain gives its share of the budget, drawn by the seed; one that holds less is taken again, up to
    --max-repeats times, and what it still cannot give comes from the others. With --phases, a numbered file each.

    \b
    Example:
      echo '{"cooking": 0.5, "code": 0.3, "law": 0.2}' > weights.json
      dselect mix pool.jsonl.zst --within source --weights weights.json --keep 30kB -o mixed.jsonl.zst
    """
    if weights is None or keep is None:
        raise UsageError("mix needs --weights FILE and --keep BUDGET")
    if output.output and is_folder(output.output):
        raise UsageError("mix writes one sample, not a file for each input", way_out="-o FILE")
    mixture, budget = Mixture.read(weights), Budget.parse(keep)
    domains = mixture.told_by(within)
    plan = read_phases(phases) if phases else [Phase(1.0)]
    with Run("mix", run) as talk:
        records = pool.open(run, talk, rereads=True)
        with ExitStack() as stack:
            if phases:
                sinks = [stack.enter_context(sink) for sink in _numbered(output.output, len(plan), records, run)]
            else:
                sinks = [stack.enter_context(output.open(records, run))]
            held = Held(records, domains, budget, run.seed, tokens)
            total = budget.resolve(sum(held.totals))
            shares = mixing.budgets([phase.share for phase in plan], total)
            given = [held.weights(phase.of(mixture.weights), phases or weights) for phase in plan]
            drawn = portions(held, list(zip(shares, given, strict=True)), max_repeats)
            write_portions(records, drawn.counts, sinks)
    facts = say_portions(held, drawn, run)
    talk.report(records.counts, unit=budget.unit, asked=total, **facts)


def _numbered(output: str | None, count: int, pool: Pool, run: RunOptions) -> list[Sink]:
    """Return an open output for every phase: NAME.1.jsonl.zst, NAME.2.jsonl.zst, … where NAME.jsonl.zst was given."""
    if output in (None, "-"):
        raise UsageError("--phases writes numbered files", way_out="-o NAME.jsonl.zst")
    path = Path(str(output))
    stem, dot, suffix = path.name.partition(".")
    files = [path.with_name(f"{stem}.{number}{dot}{suffix}") for number in range(1, count + 1)]
    run.ledger.open(pool.sources, pool.facts, outputs=files, folder=False, whole=True, resume=False)
    return [open_sink(str(file), pool.sources, pool.jobs, run.ledger.wrote, ()) for file in files]
