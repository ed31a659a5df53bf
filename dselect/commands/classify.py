"""Score records by a fastText classifier: the probability of a label."""
# Joulin et al. 2017; as quality filter Li et al. 2024 (DCLM). One normalisation for training and scoring: newlines are
# spaces, and tokens that begin with __label__ are left out, as the library leaves them out when it scores.

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from dselect.classifiers import KERNEL, RECIPES, Classifier, collect, held_out, open_model, train
from dselect.console import Run
from dselect.errors import UsageError
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
from dselect.pipeline import write_scored
from dselect.sampling import draw_sample
from dselect.selection import Budget


def command(
    pool: PoolOptions,
    output: OutputOptions,
    choice: ChoiceOptions,
    run: RunOptions,
    training: TrainingOptions,
    positive: Annotated[
        list[str] | None, Option(metavar="FILE", help="Good records to train on; give it again for more.")
    ] = None,
    negative: Annotated[
        list[str] | None, Option(metavar="FILE", help="Bad ones. [default: as many, drawn from the pool]")
    ] = None,
    model: Model = None,
    label: Annotated[
        str | None, Option(metavar="NAME", help="Of --model: whose probability. [default: the saved settings']")
    ] = None,
    save: Save = None,
    recipe: Annotated[
        Literal["default", "dclm", "preselect"], Option(help="How to train: settings that go together.")
    ] = "default",
    min_words: MinWords = 0,
    field: As = "classify",
    overwrite: Overwrite = False,
    sidecar: Sidecar = None,
) -> None:
    """Score records by how likely a fastText classifier finds them good.

    Adds the field classify, a probability. Any supervised model of the library will do, .bin or .ftz.

    \b
    Example:
      dselect classify pool.jsonl.zst --positive target.jsonl.zst --buckets 50000 --keep 10% -o picked.jsonl.zst
    """
    if bool(positive) == (model is not None):
        raise needs_either("classify", "--positive FILE")
    if model and (negative or save or training or recipe != "default"):
        raise UsageError("--negative, --save, --seeds and how to train are not for --model, which is as it was trained")
    if label and not model:
        raise UsageError("--label is for --model", way_out="a model trained here knows its label")
    pool.check_new(field)
    chosen = choice.build(run.seed, sidecar=sidecar)
    stops = output.fits_only(save, sidecar, chosen)
    with Run("classify", run) as talk, tempfile.TemporaryDirectory(prefix="dselect-model-") as folder:
        alone = model is not None and not chosen
        unread = stops and bool(negative)
        again = bool(chosen) or (not model and not unread)
        records = pool.open(run, talk, rereads=again, kernels=[KERNEL])
        with output.open(records, run, write=not stops, alone=alone, sidecar=sidecar) as sink:
            facts: dict[str, Any] = {}
            if model:
                scorer, slow = open_model(model, label)
                if slow and not run.quiet:
                    print(f"dselect: warning: {model}: {slow} is scored by the library, slowly", file=sys.stderr)
            else:
                good = collect(pool.open_targets(positive or (), alone=unread), what="positives")
                if negative:
                    bad = collect(pool.open_targets(negative, alone=unread), what="negatives")
                else:
                    sample = draw_sample(records, Budget.parse(str(len(good))), run.seed, None)
                    known = set(good)
                    bad = [text for text in collect([records], sample, "negatives") if text not in known]
                settings = replace(RECIPES[recipe], **training.settings())
                place = Path(save or Path(folder) / "model.bin")
                scorer, how = train(good, bad, settings, run.seed, place, seeds=training.seeds)
                facts |= how
                if not run.quiet and not run.json_summary:
                    print(f"dselect classify: {held_out(how)}", file=sys.stderr)
            if not stops:
                named = Classifier(scorer, field, min_words)
                facts |= write_scored(records, named, field, chosen, sink, overwrite, sidecar=bool(sidecar))
    talk.report(records.counts, **facts, saved=save)
