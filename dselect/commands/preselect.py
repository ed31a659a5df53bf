"""Score records by a classifier of what predicts the abilities of models (PreSelect)."""
# Shum et al. 2025, "Predictive Data Selection: The Data That Predicts Is the Data That Teaches". Texts whose abler
# models have the lower loss in every pair are positives, the lowest are negatives; fastText tells them apart.
# Differs from the published code: equal abilities are left out of Z, so S = 1 stays in reach; newlines are treated
# alike in training and scoring.

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from dselect.classifiers import KERNEL, LEAST, RECIPES, Classifier, held_out, open_model, saved_label, train
from dselect.console import Run
from dselect.errors import DselectError, UsageError
from dselect.models.fasttext import FastText, Library
from dselect.models.strength import chance_of_one, never_ordered, read_abilities, strength
from dselect.options import (
    As,
    ChoiceOptions,
    MinWords,
    Model,
    Option,
    OutputOptions,
    Overwrite,
    PoolOptions,
    RunOptions,
    Save,
    Sidecar,
    TrainingOptions,
    needs_either,
)
from dselect.pipeline import Kind, write_scored
from dselect.pool import Pool
from dselect.records.batch import Batch

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Strength:
    """The predictive strength of records that carry `loss_MODEL` for every model of a list."""

    abilities: Mapping[str, float]
    name: str = "predictive_strength"

    @property
    def fields(self) -> Mapping[str, Kind]:
        """One score."""
        return {self.name: "score"}

    def losses(self, batch: Batch) -> Floats:
        """Return the losses: float64 (n, models); DselectError where one is missing, or a model has no ability."""
        columns = [batch.column(f"loss_{model}") for model in self.abilities]
        for model, column in zip(self.abilities, columns, strict=True):
            if np.isnan(column).any():
                at = int(np.isnan(column).argmax())
                raise DselectError(f'no field "loss_{model}" in the record', where=f":{batch.numbers[at]}")
        for number, record in zip(batch.numbers, batch.records, strict=True):
            for name in record:
                if name.startswith("loss_") and name[5:] not in self.abilities:
                    raise DselectError(
                        f"no ability is given for {name[5:]}", where=f":{number}", way_out="add it to --ability"
                    )
        return np.stack(columns, axis=1)

    def score(self, batch: Batch) -> Mapping[str, Floats]:
        """Return S: float64 (n,), 0 … 1."""
        return {self.name: strength(self.losses(batch), np.array(list(self.abilities.values())))}


@dataclass(frozen=True)
class Collect:
    """Losses, draws and texts of a block: the work of the fitting pass."""

    scorer: Strength

    def __call__(self, batch: Batch) -> tuple[Floats, Any, list[str]]:
        """Return losses, ties and texts."""
        return self.scorer.losses(batch), batch.ties, batch.texts


def extremes(pools: list[Pool], abilities: Mapping[str, float]) -> tuple[list[str], list[str], dict[str, Any]]:
    """Return the texts with S = 1, as many with the lowest S, and how many S = 1 were expected by chance."""
    parts = [found for pool in pools for _, found in pool.map(Collect(Strength(abilities)), "losses")]
    if not parts:
        raise DselectError("no records with losses", way_out="dselect loss makes them")
    losses, ties = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    texts = [text for part in parts for text in part[2]]
    able = np.array(list(abilities.values()))
    found = strength(losses, able)
    best = np.flatnonzero(found == 1)
    facts = {"strength_one": len(best), "strength_one_by_chance": round(len(found) * chance_of_one(able), 3)}
    if len(best) < LEAST:
        pair = never_ordered(losses, able)
        names = list(abilities)
        why = f"; {names[pair[1]]} is never better than {names[pair[0]]}" if pair else ""
        raise DselectError(
            f"{len(best)} of {len(found)} records have S = 1, too few to learn from{why}",
            way_out=f"at least {LEAST}: more records, or other models",
        )
    order = np.lexsort((ties, found))
    worst = [i for i in order[: len(best)].tolist() if found[i] < 1]
    return [texts[i] for i in best.tolist()], [texts[i] for i in worst], facts


def _saved(path: str) -> FastText | Library:
    """Open a model that was trained here; DselectError for one from elsewhere, whose labels mean something else."""
    if saved_label(path) is None:
        raise DselectError(
            "no settings beside it: not a model that preselect saved",
            where=path,
            way_out="dselect classify --model FILE --label NAME --as preselect scores by any model",
        )
    return open_model(path, None)[0]


def command(
    pool: PoolOptions,
    output: OutputOptions,
    choice: ChoiceOptions,
    run: RunOptions,
    training: TrainingOptions,
    losses: Annotated[
        list[str] | None, Option(metavar="FILE", help="Records with text and loss_MODEL fields to learn from.")
    ] = None,
    ability: Annotated[
        str | None, Option(metavar="FILE", help="CSV of model and score: how able each model is; higher is better.")
    ] = None,
    strength_only: Annotated[
        bool, Option("--strength-only", help="Add predictive_strength to records that carry losses, and train nothing.")
    ] = False,
    model: Model = None,
    save: Save = None,
    min_words: MinWords = 0,
    field: As = "preselect",
    overwrite: Overwrite = False,
    sidecar: Sidecar = None,
) -> None:
    """Score records by how likely they are of the kind whose losses rank models as their abilities do.

    Adds the field preselect, a probability; with --strength-only, predictive_strength.

    \b
    Example:
      dselect lm target.jsonl.zst --order 2 -o weak.lm
      dselect lm pool.jsonl.zst --order 5 -o able.lm
      dselect loss pool.jsonl.zst --model weak=weak.lm --model able=able.lm -o losses.jsonl.zst
      printf 'model,score\\nweak,1\\nable,2\\n' > abilities.csv
      dselect preselect losses.jsonl.zst --ability abilities.csv --strength-only -o strength.jsonl.zst
    """
    if (model is None) == (ability is None):
        raise needs_either("preselect", "--ability FILE")
    if strength_only and (losses or save or model or training or min_words):
        raise UsageError("--strength-only trains nothing", way_out="leave out all that is about a model")
    if ability and not strength_only and not losses:
        raise UsageError("nothing to learn from", way_out="--losses FILE, or --strength-only")
    if model and (losses or save or training):
        raise UsageError("--losses, --save and how to train are not for --model, which is as it was trained")
    if strength_only and field == "preselect":
        field = "predictive_strength"
    pool.check_new(field)
    chosen = choice.build(run.seed, sidecar=sidecar)
    stops = output.fits_only(save, sidecar, chosen)
    with Run("preselect", run) as talk, tempfile.TemporaryDirectory(prefix="dselect-model-") as folder:
        records = pool.open(run, talk, rereads=bool(chosen), kernels=[] if strength_only else [KERNEL])
        alone = not losses and not chosen
        with output.open(records, run, write=not stops, alone=alone, sidecar=sidecar) as sink:
            facts: dict[str, Any] = {}
            scorer: Classifier | Strength
            if model:
                scorer = Classifier(_saved(model), field, min_words)
            elif strength_only:
                scorer = Strength(read_abilities(ability or ""), field)
            else:
                good, bad, facts = extremes(pool.open_targets(losses or (), alone=stops), read_abilities(ability or ""))
                recipe, place = replace(RECIPES["preselect"], **training.settings()), Path(folder) / "model.bin"
                found, how = train(good, bad, recipe, run.seed, Path(save or place), seeds=training.seeds)
                scorer, facts = Classifier(found, field, min_words), facts | how
                if not run.quiet and not run.json_summary:
                    print(
                        f"dselect preselect: {facts['strength_one']} records with S = 1, where noise would give "
                        f"{facts['strength_one_by_chance']:g}; {held_out(how)}",
                        file=sys.stderr,
                    )
            if not stops:
                facts |= write_scored(records, scorer, field, chosen, sink, overwrite, sidecar=bool(sidecar))
    talk.report(records.counts, **facts, saved=save)
