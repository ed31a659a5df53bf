"""Search the weights of domains for the mixture that serves a target best (CLIMB, RegMix)."""
# Diao et al. 2025, "Nemotron-CLIMB: Clustering-based iterative data mixture bootstrapping": try mixtures on a small
# proxy, fit a predictor to what they cost, try those that it likes, and so on. Liu et al. 2025, "RegMix": one round, of
# runs that were made elsewhere.
# Differs from both by default: the predictor is a Gaussian process, half of the candidates are near the best measured,
# the caps on repetition hold in every round, and a predicted mixture is the answer only if a run confirms it.

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from dselect import draws
from dselect.console import Run, say_portions, size, table
from dselect.embedding import KERNELS
from dselect.errors import DselectError, UsageError
from dselect.mixtures.climbing import Setting, climbed, trust
from dselect.mixtures.domains import Domains, Field, fit_domains
from dselect.mixtures.mixture import Mixture
from dselect.mixtures.portions import Held, portions, write_portions
from dselect.mixtures.proxies import CommandProxy, NgramProxy, TransformerProxy
from dselect.mixtures.runs import read_runs
from dselect.mixtures.trials import Proxy, Trials
from dselect.models.transformer import Size
from dselect.options import (
    EncoderOptions,
    Keep,
    MaxRepeats,
    Option,
    Order,
    OutputOptions,
    PoolOptions,
    RunOptions,
    Tokens,
)
from dselect.pipeline import is_folder
from dselect.pool import Counts, Pool
from dselect.records.batch import Batch
from dselect.records.publishing import publish
from dselect.search import PredictorName, WeightSearch
from dselect.selection import Budget

PROXY = 5_000_000  # bytes of a mixture that a proxy learns from, unless --keep asks for fewer
TARGET = 1_000_000  # bytes of a target that are predicted
MOST = 0.5  # of the pool, in one domain made of clusters
LITTLE = 0.005  # a weight that is not worth a line
BYTES = Budget("all", "bytes", amount=0)

Floats = np.ndarray[Any, np.dtype[np.float64]]
Drawn = tuple[float, int, bytes]  # draw, tie, text


@dataclass
class ProxyOptions:
    """What tells how good a mixture is."""

    proxy: Annotated[
        Literal["ngram", "transformer"],
        Option(help="What learns from a mixture: byte n-grams (ms), or a small transformer (minutes; extra neural)."),
    ] = "ngram"
    proxy_command: Annotated[
        str | None,
        Option(
            metavar="COMMAND", help="Run this instead: {mixture} is a JSON file; the last line printed is the loss."
        ),
    ] = None
    budget: Annotated[
        str | None,
        Option(metavar="SIZE", help="Bytes of a mixture to learn from. [default: as --keep, or 10%; at most 5MB]"),
    ] = None
    order: Order = 6
    size: Annotated[Size, Option(help="Of the transformer: 0.13, 0.9 or 26 million parameters.")] = "tiny"
    steps: Annotated[int, Option(help="Of the transformer: of 4,096 bytes each; of tiny, 512.", min=1)] = 1000
    timeout: Annotated[
        float | None, Option(metavar="SECONDS", help="Of --proxy-command: what takes longer has failed.", min=0.1)
    ] = None
    retries: Annotated[int, Option(help="Of --proxy-command: times that a failed run is tried again.", min=0)] = 1


@dataclass
class DomainOptions:
    """What is mixed."""

    within: Annotated[str | None, Option(metavar="FIELD", help="The field that names the domain of a record.")] = None
    clusters: Annotated[
        int | None,
        Option(metavar="N", help="In its place: cluster the texts, and merge the clusters to --domains.", min=2),
    ] = None
    domains: Annotated[int, Option(metavar="N", help="Of --clusters: how many are left.", min=2)] = 20
    prune_by: Annotated[
        str | None, Option(metavar="FIELD", help="Of --clusters: a number by whose mean clusters are dropped.")
    ] = None
    prune_below: Annotated[float | None, Option(metavar="X", help="Of --prune-by: what the mean must reach.")] = None

    def check(self) -> None:
        """Raise UsageError where the options contradict each other."""
        if (self.within is None) == (self.clusters is None):
            raise UsageError("climb needs domains", way_out="--within FIELD, or --clusters N")
        if (self.prune_by is None) != (self.prune_below is None):
            raise UsageError("--prune-by FIELD and --prune-below X go together")
        if self.prune_by and not self.clusters:
            raise UsageError("--prune-by drops clusters", way_out="--clusters N")

    def open(self, pool: Pool, encoder: EncoderOptions, run: RunOptions) -> Domains:
        """Return how domains are told, fitted to the pool if by clusters."""
        if self.within is not None:
            return Field(self.within)
        assert self.clusters is not None
        prune = (self.prune_by, self.prune_below) if self.prune_by and self.prune_below is not None else None
        return fit_domains(pool, encoder.open(pool, run), self.clusters, self.domains, run.seed, prune)


@dataclass(frozen=True)
class Target:
    """Text that a mixture is to serve, and how much it counts among others."""

    name: str
    weight: float
    texts: list[bytes]


def key_of(options: ProxyOptions, held: Held, targets: Sequence[Target], budget: int, seed: int) -> dict[str, Any]:
    """Return what must agree for a measurement to be of the same thing."""
    texts = sorted(text for target in targets for text in target.texts)
    if options.proxy_command is not None:
        proxy: dict[str, Any] = {"proxy": options.proxy_command}
    elif options.proxy == "transformer":
        proxy = {"proxy": "transformer", "steps": options.steps, "size": options.size}
    else:
        proxy = {"proxy": "ngram", "order": options.order}
    return {
        **proxy,
        "budget": budget,
        "seed": seed,
        "targets": [target.name for target in targets] or ["loss"],
        "texts": blake2b(b"\0".join(texts), digest_size=8).hexdigest(),
        "domains": dict(zip(held.names, held.totals, strict=True)),
    }


def open_proxy(
    options: ProxyOptions,
    pool: Pool,
    held: Held,
    domains: Domains,
    targets: Sequence[Target],
    budget: int,
    run: RunOptions,
) -> Proxy:
    """Return what measures mixtures."""
    texts = [target.texts for target in targets]
    if options.proxy_command is not None:
        jobs = run.jobs if run.asked else 1
        return CommandProxy(
            options.proxy_command, held.names, jobs, options.timeout, options.retries, pool.spool_folder
        )
    if options.proxy == "transformer":
        return TransformerProxy(pool, held, domains, texts, budget, options.steps, options.size, run.jobs)
    return NgramProxy(pool, held, domains, texts, budget, options.order)


@dataclass(frozen=True)
class Texts:
    """The texts of a target with their draws: the work of the pass over it."""

    seed: int

    def __call__(self, batch: Batch) -> list[Drawn]:
        """Return (draw, tie, text) of every record that has text."""
        draw = draws.uniform(self.seed, "climb target", batch.identities).tolist()
        return [one for one in zip(draw, batch.ties.tolist(), batch.utf8, strict=True) if one[2]]


def read_targets(named: Sequence[str], pool: PoolOptions, run: RunOptions) -> list[Target]:
    """Read FILE or WEIGHT=FILE each; of a long target, a seeded sample of its documents."""
    targets = []
    for value in named:
        given, _, path = value.partition("=") if "=" in value and not Path(value).exists() else ("1", "", value)
        try:
            weight = float(given)
        except ValueError:
            weight = -1.0
        if not 0 <= weight < float("inf"):
            raise UsageError(f"cannot read --target {value!r}", way_out="FILE, or WEIGHT=FILE")
        (opened,) = pool.open_targets([path])
        drawn = sorted(one for _, found in opened.map(Texts(run.seed), "target") for one in found)
        ends = np.cumsum([len(text) for _, _, text in drawn])
        texts = [text for _, _, text in drawn[: max(1, int(np.searchsorted(ends, TARGET, side="right")))]]
        if not texts:
            raise DselectError("the target has no text", where=path)
        targets.append(Target(Path(path).name, weight, texts))
    if len({target.name for target in targets}) < len(targets):
        raise UsageError("two targets of one name", way_out="rename one")
    if targets and not sum(target.weight for target in targets):
        raise UsageError("the weights of the targets are all 0")
    return targets


def command(
    pool: PoolOptions,
    output: OutputOptions,
    divided: DomainOptions,
    encoder: EncoderOptions,
    proxies: ProxyOptions,
    run: RunOptions,
    target: Annotated[
        list[str] | None,
        Option("--target", "-t", metavar="[W=]FILE", help="Records to serve; several are averaged, with weights W."),
    ] = None,
    rounds: Annotated[str, Option(metavar="N,N,…", help="Mixtures to try in each round.")] = "64,32,16",
    predictor: Annotated[
        PredictorName, Option(help="Of losses: a Gaussian process, ridge, LightGBM (an extra), or which ranks best.")
    ] = "gp",
    maximise: Annotated[bool, Option("--maximise", help="What is measured is no loss but an accuracy.")] = False,
    runs: Annotated[
        list[str] | None,
        Option(metavar="FILE", help="No search: runs made elsewhere, as CSV; a second file has the losses."),
    ] = None,
    loss: Annotated[
        list[str] | None,
        Option(metavar="[W=]COLUMN", help="Of --runs: what to minimise; several are averaged, with weights W."),
    ] = None,
    save: Annotated[str | None, Option(metavar="FILE", help="Where the mixture goes, as JSON.")] = None,
    log: Annotated[
        str | None, Option(metavar="LOG", help="Where each mixture tried is noted. [default: beside --save]")
    ] = None,
    keep: Keep = None,
    max_repeats: MaxRepeats = 4,
    tokens: Tokens = None,
) -> None:
    """Search the weights of domains for the mixture that serves a target best.

    Tries mixtures on a proxy, round after round; the answer is the best measured, or the best predicted if a run
    confirms it. With --keep, samples the pool by it, as mix does.

    \b
    Example:
      dselect climb pool.jsonl.zst --within source --target target.jsonl.zst --rounds 8,4 --save mixture.json
    """
    if runs:
        if pool.paths or target or divided.within or divided.clusters or keep:
            raise UsageError("--runs was measured elsewhere: it needs no pool, target, domains or --keep")
        _from_runs(run, runs, loss, predictor, save, -1.0 if maximise else 1.0)
        return
    counts = _rounds(rounds)
    budget = Budget.parse(keep) if keep else None
    if output.output and budget is None:
        raise UsageError("-o writes a sample of the pool", way_out="--keep BUDGET says how much")
    if output.output and is_folder(output.output):
        raise UsageError("climb writes one sample, not a file for each input", way_out="-o FILE")
    if (proxies.proxy_command is None) == (not target):
        raise UsageError("climb needs either --target FILE to serve or --proxy-command to measure with")
    divided.check()
    log = log or (f"{save}.log" if save else None)
    with Run("climb", run) as talk:
        records = pool.open(run, talk, rereads=True, kernels=KERNELS if divided.clusters else ())
        with output.open(records, run, write=budget is not None) as sink:
            domains = divided.open(records, encoder, run)
            held = Held(records, domains, BYTES, run.seed)
            if divided.clusters:
                _check_shares(held)
                if not run.quiet:
                    _show_domains(held)
            wanted = (
                held if budget is None or budget.unit == "bytes" else Held(records, domains, budget, run.seed, tokens)
            )
            spent = _spent(proxies.budget, budget, sum(held.totals))
            total = spent if budget is None else budget.resolve(sum(wanted.totals))
            targets = read_targets(target or [], pool, run)
            search = WeightSearch(_prior(held), _caps(wanted, total, max_repeats), predictor, run.seed)
            key = key_of(proxies, held, targets, spent, run.seed)
            with closing(Trials(Path(log) if log else None, key, held.names)) as trials:
                proxy = open_proxy(proxies, records, held, domains, targets, spent, run)
                shares = np.array([one.weight for one in targets] or [1.0])
                setting = Setting(search, proxy, trials, shares / shares.sum(), -1.0 if maximise else 1.0)
                found = climbed(setting, counts, _quiet if run.quiet else _say)
            facts: dict[str, Any] = {"proxy_budget": spent, "tried_before": trials.found, **found.facts}
            if save:
                weights = dict(zip(held.names, found.answer.tolist(), strict=True))
                publish(Path(save), Mixture(weights, domains, facts).to_bytes())
            if budget is not None:
                drawn = portions(wanted, [(total, found.answer.tolist())], max_repeats)
                write_portions(records, drawn.counts, [sink])
    if not run.quiet:
        show(held.names, found.columns)
        _say(_sentence(facts))
    if budget is not None:
        facts |= {"unit": budget.unit, "asked": total, **say_portions(wanted, drawn, run)}
    talk.report(records.counts, saved=save, **facts)


def _from_runs(
    run: RunOptions,
    runs: Sequence[str],
    loss: Sequence[str] | None,
    predictor: PredictorName,
    save: str | None,
    sign: float,
) -> None:
    """Fit a predictor to runs made elsewhere; the answer is what it says, since no run can confirm it."""
    if len(runs) > 2 or not loss:
        raise UsageError("--runs needs one or two files, and --loss the column to minimise")
    with Run("climb", run) as talk:
        run.ledger.call.records = False
        run.ledger.open([], lambda _: {}, outputs=[], folder=False, whole=True, resume=False)
        names, weights, losses = read_runs(runs, loss)
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
        if save:
            publish(Path(save), Mixture(dict(zip(names, best.tolist(), strict=True)), None, facts).to_bytes())
    if not run.quiet:
        show(names, {"mean of runs": search.prior, "best measured": search.best_measured(), "best predicted": best})
        _say(_sentence(facts))
    talk.report(Counts(), saved=save, **facts)


def _check_shares(held: Held) -> None:
    """Raise DselectError where one domain holds more than half of the pool: merging may chain clusters together."""
    largest = int(np.argmax(held.totals))
    share = held.totals[largest] / max(sum(held.totals), 1)
    if share > MOST:
        raise DselectError(
            f"the domain {held.names[largest]!r} holds {share:.0%} of the bytes",
            way_out="more --domains, or other --clusters",
        )


def _show_domains(held: Held) -> None:
    """Print what the domains are."""
    totals, whole = held.totals, max(sum(held.totals), 1)
    rows = [
        [name, f"{len(order):,}", size(total), f"{total / whole:.1%}"]
        for name, order, total in zip(held.names, held.orders, totals, strict=True)
    ]
    print(table("", ["domain, by words that mark it", "documents", "text", "share"], rows), file=sys.stderr)


def _rounds(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise UsageError(f"cannot read --rounds {text!r}", way_out="--rounds 64,32,16")
    return counts


def _spent(asked: str | None, keep: Budget | None, held: int) -> int:
    """Return the bytes of a mixture that a proxy learns from."""
    if asked is not None:
        budget = Budget.parse(asked)
        if budget.unit != "bytes":
            raise UsageError(f"--budget {asked} is no amount of bytes", way_out="--budget 2MB")
        spent = budget.resolve(held)
    else:
        in_bytes = keep is not None and keep.unit == "bytes"
        spent = min(PROXY, keep.resolve(held) if keep is not None and in_bytes else held // 10)
    if spent < 1:
        raise DselectError("a mixture of nothing teaches nothing", way_out="a larger --budget or pool")
    return spent


def _prior(held: Held) -> Floats:
    totals = np.array(held.totals, np.float64)
    if (totals > 0).sum() < 2:
        raise DselectError("the pool has fewer than two domains: nothing to mix", way_out="--within FIELD")
    return np.asarray(totals / totals.sum())


def _caps(held: Held, total: int, most: int) -> Floats:
    """Return the largest weight of each domain that asks for no more than so many times what it holds."""
    caps = np.minimum(np.array(held.totals) * most / max(total, 1), 1.0)
    if caps.sum() < 1:
        raise DselectError(
            f"the budget is more than {most} times the pool", way_out="a smaller --keep, or a larger --max-repeats"
        )
    return np.asarray(caps)


def show(names: Sequence[str], columns: Mapping[str, Floats]) -> None:
    """Print mixtures side by side, the last one's largest weight first; the first column is what they started from."""
    mixtures = list(columns.values())
    order = np.argsort(-mixtures[-1], kind="stable").tolist()
    shown = [i for i in order if any(one[i] >= LITTLE for one in mixtures[1:])]
    rows = [[names[i], *(f"{one[i]:.1%}" for one in mixtures)] for i in shown]
    print(table("", ["domain", *columns], rows), file=sys.stderr)
    if len(shown) < len(names):
        print(f"({len(names) - len(shown)} other domains are below {LITTLE:.1%} in all)", file=sys.stderr)


def _say(text: str) -> None:
    print(f"dselect climb: {text}", file=sys.stderr, flush=True)


def _quiet(text: str) -> None:
    pass


def _sentence(facts: Mapping[str, Any]) -> str:
    ranks = facts["rank_correlation"]
    told = f"{facts['predictor']}, off by {facts['error']:.4f}"
    if ranks is not None:
        told += f" and rank correlation {ranks:.3f}"
    parts = [
        f"{facts['tried']} mixtures, the best measured {facts['best_measured']:.4f}",
        f"the best predicted {facts['predicted']:.4f} ± {facts['deviation']:.4f} ({told} in cross-validation)",
    ]
    if "confirmation" not in facts:
        return "; ".join([*parts, "no run has confirmed it"])
    margin = facts["confirmation"] - facts["predicted"]
    parts += [
        f"its run measured {facts['confirmation']:.4f} ({margin:+.4f}): "
        + ("it is the answer" if facts["confirmed"] else "the answer is the best measured"),
        f"the pool's own proportions {facts['proportional']:.4f}",
    ]
    return "; ".join(parts)
