"""Cluster records by their vectors, and share a budget among the clusters."""
# Yu, Chen, Ahmadian, Fadaee 2024, "Diversify and Conquer: Diversity-Centric Data Selection with Iterative Refinement":
# k-means, a budget shared among the clusters, quality inside them (kMQ), weights that follow what rounds have gained.
# Near duplicates: Abbas et al. 2023, "SemDeDup: Data-efficient learning at web-scale through semantic deduplication".
# Differs from the published code: quotas are exact, and what a cluster cannot use goes to others; a round spends its
# whole part of the budget; a cluster that nothing was picked from counts as if of mean gain; the default encoder is not
# a transformer.

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from dselect import refinement, selection
from dselect.choice import Choice
from dselect.console import Run, table
from dselect.embedding import KERNELS, Encoded, VectorSource, fit_clusters
from dselect.errors import DselectError, UsageError
from dselect.models import kmeans
from dselect.models.encoders import Encoder
from dselect.models.kmeans import Clusters
from dselect.near_duplicates import near_duplicates
from dselect.options import (
    As,
    ChoiceOptions,
    EncoderOptions,
    Model,
    Option,
    OutputOptions,
    Overwrite,
    PoolOptions,
    RunOptions,
    Save,
    Sidecar,
    needs_either,
)
from dselect.picking import Pick, Wish
from dselect.pipeline import Column, Columns, Kind, annotate, gather, write_kept
from dselect.pool import Pool
from dselect.ranking import By, Combine, check_fields, ranking
from dselect.records.batch import Batch
from dselect.records.publishing import publish
from dselect.records.vectors import StoredVectors
from dselect.records.writing import Sink
from dselect.refinement import Round

ROWS = 40  # of the table that is printed
_SAME = 1e-4  # a transformer gives a text about the same distance every time, the others exactly the same

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Order = Literal["random", "nearest", "farthest"]


@dataclass(frozen=True)
class KMeans:
    """The cluster of a record, and minus the Euclidean distance of its vector from the cluster's centre."""

    clusters: Clusters
    source: VectorSource
    name: str = "kmeans"

    @property
    def label(self) -> str:
        """Return the field that holds the cluster."""
        return f"{self.name}_cluster"

    @property
    def fields(self) -> Mapping[str, Kind]:
        """A label and a score."""
        return {self.label: "label", self.name: "score"}

    def score(self, batch: Batch) -> Mapping[str, Column]:
        """Return the cluster, int64 (n,), and the score, float64 (n,), 0 at the centre and less elsewhere."""
        labels, distances = self.clusters.assign(self.source.of(batch))
        return {self.label: labels, self.name: 0.0 - distances}


@dataclass(frozen=True)
class WithFields:
    """A scorer, and numbers that the records carry already.

    Records may have the scorer's own fields already, if with these values; or with others, if they are to be replaced.
    """

    scorer: KMeans
    names: Sequence[str]
    replaces: bool

    @property
    def fields(self) -> Mapping[str, Kind]:
        """Those of the scorer."""
        return self.scorer.fields

    def score(self, batch: Batch) -> Mapping[str, Column]:
        """Return the scorer's fields and those named."""
        found = self.scorer.score(batch)
        if not self.replaces:
            for name, column in found.items():
                self._compare(batch, name, column)
        return {**found, **{name: batch.column(name) for name in self.names}}

    def _compare(self, batch: Batch, name: str, column: Column) -> None:
        for number, record, value in zip(batch.numbers, batch.records, column.tolist(), strict=True):
            if name in record:
                there = record[name]
                same = isinstance(there, int | float) and math.isclose(there, value, abs_tol=_SAME)
                if not same:
                    raise DselectError(
                        f'the record has a field "{name}" already, of other clusters',
                        where=f":{number}",
                        way_out="--overwrite replaces it, --as NAME writes another",
                    )


@dataclass(frozen=True)
class _Identities:
    """The identities of a block: the work of reading earlier picks."""

    def __call__(self, batch: Batch) -> Any:
        """Return them."""
        return batch.identities


def select(
    pool: Pool,
    scorer: KMeans,
    wish: Wish,
    sink: Sink,
    overwrite: bool,
    seed: int,
    earlier: Any,
    targets: Sequence[Pool],
) -> tuple[dict[str, Any], list[int], list[int], Sequence[Round]]:
    """Cluster the pool and write what the wish keeps, with the fields of the scorer.

    earlier: uint64 (k,), identities that are not to be kept. Returns what is to be said, the records of every cluster,
    those kept, and the rounds.
    """
    names = [by.name for by in wish.by if by.name not in scorer.fields]
    work = Columns(WithFields(scorer, names, overwrite), wish.choice, overwrite=True, identities=True)
    columns = gather(pool, work, "clustering")
    count = len(scorer.clusters)
    labels = np.asarray(columns.get(f"score {scorer.label}", np.zeros(0, np.int64)))
    pick = Pick(wish, labels, count, columns, pool, ~np.isin(columns["identity"], earlier))
    facts: dict[str, Any] = {"excluded": int((~pick.open_to).sum())} if len(earlier) else {}
    if wish.dedup is not None:
        scores, _ = ranking(wish.by, columns, wish.choice, wish.combine)
        best_first = selection.best_first(scores, columns["tie"])
        best_first = best_first[pick.open_to[best_first]]
        alike = near_duplicates(pool, scorer.source, labels, best_first, wish.dedup)
        facts["near_duplicates"] = int(alike.sum())
        pick.open_to &= ~alike
    kept = pick.all(seed, targets)
    facts |= {**kept.facts, "spread": columns["spread"]}
    values = {name: columns.get(f"score {name}", np.zeros(0)) for name in scorer.fields}
    write_kept(pool, kept, sink, values, overwrite=True)
    records, left = (np.bincount(found, minlength=count).tolist() for found in (labels, labels[kept.positions]))
    return facts, records, left, pick.rounds


def listed(scorer: KMeans, records: Sequence[int], kept: Sequence[int] | None) -> list[dict[str, Any]]:
    """Return what there is to say of every cluster, the largest first."""
    rows = []
    for cluster in sorted(range(len(records)), key=lambda cluster: (-records[cluster], cluster)):
        row = {"cluster": cluster, "words": " ".join(scorer.clusters.words_[cluster]), "records": records[cluster]}
        rows.append(row | ({} if kept is None else {"kept": kept[cluster]}))
    return rows


def shown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the clusters as a person reads them."""
    counts = [name for name in ("records", "kept") if name in rows[0]]
    cells = [
        [row["words"] or "(no words of its own)", str(row["cluster"]), *(f"{row[n]:,}" for n in counts)]
        for row in rows[:ROWS]
    ]
    text = table("", ["words that mark it", "cluster", *counts], cells)
    more = len(rows) - ROWS
    return text if more <= 0 else f"{text}\n… and {more:,} smaller clusters (the manifest and --json-summary list all)"


def command(
    pool: PoolOptions,
    output: OutputOptions,
    choice: ChoiceOptions,
    run: RunOptions,
    encoder: EncoderOptions,
    clusters: Annotated[
        str | None, Option(metavar="N|auto", help="How many; auto: the best silhouette of 4, 8, 16 … 1024.")
    ] = None,
    vectors: Annotated[
        str | None, Option(metavar="DIR", help="Vectors that embed stored, instead of making them.")
    ] = None,
    model: Model = None,
    save: Save = None,
    spherical: Annotated[bool, Option("--spherical", help="Scale the centres to length 1 after every step.")] = False,
    restarts: Annotated[int, Option(metavar="N", help="Fits, of which the best stays.", min=1)] = 1,
    iterations: Annotated[int, Option(metavar="N", help="Steps of a fit.", min=1)] = 25,
    points: Annotated[int, Option(metavar="N", help="Records per cluster to fit on, at most: a sample.", min=1)] = 256,
    order: Annotated[
        Order, Option(help="Which records of a cluster are kept: any, or those by the distance from its centre.")
    ] = "random",
    by: Annotated[
        list[str] | None,
        Option(metavar="[-]FIELD[:WEIGHT]", help="The best by this number, instead; with --sample in proportion: kMQ."),
    ] = None,
    combine: Annotated[Combine, Option(help="How several --by are made comparable before they are added.")] = "rank",
    dedup: Annotated[
        float | None,
        Option(metavar="COSINE", help="Drop records whose cosine with a better one is greater.", min=-1, max=1),
    ] = None,
    gains: Annotated[
        list[str] | None,
        Option(metavar="FILE", help="CSV of cluster and gain: what a round has brought; again for the next round."),
    ] = None,
    gain: Annotated[
        str | None, Option(metavar="lm:FILE", help="Measure gains on a target by a small language model, in --rounds.")
    ] = None,
    rounds: Annotated[int | None, Option(metavar="N", help="Of --gain: share the budget. [default: 3]", min=1)] = None,
    gain_temperature: Annotated[
        float | None,
        Option(metavar="T", help="Weights follow exp(gain / T). [default: the gains' standard deviation]", min=1e-9),
    ] = None,
    floor: Annotated[
        float, Option(metavar="X", help="Of an equal share, that every cluster keeps of the weight.", min=0, max=1)
    ] = refinement.FLOOR,
    log: Annotated[str | None, Option(metavar="FILE", help="Write every round's weights and gains, as CSV.")] = None,
    exclude: Annotated[
        list[str] | None, Option(metavar="FILE", help="Keep none of these records: what earlier rounds have picked.")
    ] = None,
    field: As = "kmeans",
    overwrite: Overwrite = False,
    sidecar: Sidecar = None,
) -> None:
    """Cluster records by what they are about, and share a budget among the clusters.

    Adds the label kmeans_cluster and the score kmeans, minus the distance from the cluster's centre. With --keep the
    clusters are the domains: --quota says how they share, --order or --by which records of a cluster are kept.

    \b
    Example:
      dselect kmeans pool.jsonl.zst --clusters 8 --keep 10% --quota equal -o picked.jsonl.zst
    """
    size = _check_fit(clusters, model, save, vectors, encoder)
    if model and (spherical, restarts, iterations, points) != (False, 1, 25, 256):
        raise UsageError(
            "--spherical, --restarts, --iterations and --points are for fitting: a model is as it was fitted"
        )
    for name in (field, f"{field}_cluster"):
        pool.check_new(name)
    shared = _choice(choice, run.seed, field, sidecar)
    ranked, target = _fields(field, order, by), _target(gain)
    wish = Wish(
        shared, ranked, combine, dedup, exclude or (), gains or (), target, rounds or 3, gain_temperature, floor
    )
    _check_wish(wish, rounds, log, sidecar)
    stops = output.fits_only(save, sidecar, shared) and not wish
    with Run("kmeans", run) as talk:
        records = pool.open(run, talk, rereads=bool(wish) or model is None, kernels=KERNELS)
        with output.open(records, run, write=not stops, alone=bool(model) and not wish, sidecar=sidecar) as sink:
            facts: dict[str, Any] = {}
            rows: list[dict[str, Any]] = []
            stored = StoredVectors(vectors) if vectors else None
            if model:
                fitted, own = kmeans.load(model, encoder.how(run))
                scorer = KMeans(fitted, _source(stored, own, model), field)
                records.jobs = 1 if own and own.alone and not stored else records.jobs
            else:
                own = None if stored else encoder.open(records, run)
                source = _source(stored, own, "")
                fitted, facts = fit_clusters(
                    records, source, size, run.seed,
                    spherical=spherical, restarts=restarts, iterations=iterations, points=points,
                )  # fmt: skip
                scorer = KMeans(fitted, source, field)
                if save:
                    publish(Path(save), kmeans.to_bytes(fitted, own))
            if wish:
                earlier = _identities(pool.open_targets(wish.exclude))
                targets = pool.open_targets([target]) if target else []
                more, counted, kept, done = select(records, scorer, wish, sink, overwrite, run.seed, earlier, targets)
                facts, rows = facts | more, listed(scorer, counted, kept)
                if log:
                    publish(Path(log), refinement.log_of(done, fitted.words_))
            elif not stops:
                facts |= annotate(records, scorer, sink, overwrite, sidecar=bool(sidecar))
                rows = listed(scorer, [records.total(f"{scorer.label} {c}") for c in range(len(fitted))], None)
    if rows and not run.quiet and not run.json_summary:
        print(shown(rows), file=sys.stderr)
    talk.report(records.counts, **facts, saved=save, by_cluster=rows)


def _source(stored: StoredVectors | None, encoder: Encoder | None, model: str) -> VectorSource:
    """Return where vectors come from."""
    if stored is not None:
        return stored
    if encoder is None:
        raise UsageError("this model was fitted to stored vectors", where=model, way_out="--vectors DIR")
    return Encoded(encoder)


def _check_fit(
    clusters: str | None, model: str | None, save: str | None, vectors: str | None, encoder: EncoderOptions
) -> int | None:
    """Return how many clusters are to be fitted, None for auto; UsageError where the options contradict each other."""
    if (clusters is None) == (model is None):
        raise needs_either("kmeans", "--clusters N")
    if model and save:
        raise UsageError("--save is for fitting: a model is as it was fitted", way_out="--clusters in place of --model")
    if (model or vectors) and not encoder.fitted_here:
        made = "the model" if model else "the vectors"
        raise UsageError(f"--encoder is for fitting: {made} came of an encoder already", way_out="leave it out")
    if clusters == "auto" or clusters is None:
        return None
    if not re.fullmatch(r"[1-9]\d{0,6}", clusters):
        raise UsageError(f"cannot read --clusters {clusters!r}", way_out="a number from 1, or auto")
    return int(clusters)


def _choice(options: ChoiceOptions, seed: int, field: str, sidecar: str | None) -> Choice:
    """Return the choice among the clusters as domains; UsageError where another domain is asked for."""
    label = f"{field}_cluster"
    if options.within not in (None, label):
        raise UsageError(
            "kmeans shares the budget among its clusters",
            way_out=f"write the clusters without --keep, then: dselect select --within {options.within}",
        )
    options.within = label if options.keep is not None else options.within
    return options.build(seed, "error", sidecar)


def _fields(field: str, order: Order, by: Sequence[str] | None) -> list[By]:
    """Return what records of a cluster rank by."""
    if by and order != "random":
        raise UsageError(
            f"--by and --order {order} both say what is kept of a cluster", way_out="leave one of them out"
        )
    if order != "random":
        return [By(field, 1 if order == "nearest" else -1)]
    fields = [By.parse(text) for text in by or ()]
    for warning in check_fields(fields):
        print(f"dselect: warning: {warning}", file=sys.stderr)
    return fields


def _target(gain: str | None) -> str | None:
    """Return the target that --gain names."""
    if gain is None:
        return None
    kind, _, path = gain.partition(":")
    if kind != "lm" or not path:
        raise UsageError(f"cannot read --gain {gain!r}", way_out="--gain lm:FILE: records to get better at")
    return path


def _check_wish(wish: Wish, rounds: int | None, log: str | None, sidecar: str | None) -> None:
    """Raise UsageError where options ask for what nothing else asks for."""
    if wish.gains and wish.target:
        raise UsageError("--gains are measured and --gain measures them", way_out="leave one of them out")
    if wish.refines and wish.choice.keep is None:
        raise UsageError("gains decide how a budget is shared", way_out="--keep 5000, 10%, 30MB, 2Mtok")
    if rounds and not wish.target:
        raise UsageError("--rounds is of --gain; with --gains, --keep is the budget of one round")
    if not wish.refines and (log or wish.temperature is not None or wish.floor != refinement.FLOOR):
        raise UsageError(
            "--log, --gain-temperature and --floor are of weights that follow gains", way_out="--gains FILE"
        )
    if wish.exclude and not wish:
        raise UsageError("nothing says what to keep", way_out="--keep 10%, or --dedup 0.95")
    if wish.choice.above is not None and not wish.by:
        raise UsageError("--above needs a number to compare", way_out="--by FIELD, --order nearest or farthest")
    if sidecar and wish:
        raise UsageError(
            "--attributes writes no records: none to keep", way_out="then: dselect select --attributes DIR"
        )


def _identities(pools: Sequence[Pool]) -> Any:
    """Return the identities of all records: uint64 (n,)."""
    parts = [found for pool in pools for _, found in pool.map(_Identities(), "earlier picks")]
    return np.concatenate([np.zeros(0, np.uint64), *parts])
