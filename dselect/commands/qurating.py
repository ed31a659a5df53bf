"""Score records by a rater that is learnt from pairwise judgments (QuRating)."""
# Wettig et al. 2024, "QuRating: Selecting High-Quality Data for Training Language Models": a Bradley-Terry rater learnt
# by the cross-entropy of judged pairs, scores of windows of 512, sampling with a temperature.
# Differs from the paper: the default rater is linear in words, word pairs and statistics, and takes seconds on a CPU,
# not a language model of 1.3B parameters; the penalty is chosen by cross-validation, with no text on both sides;
# several criteria are z-scored before they are added (their code adds first).

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import numpy as np
import orjson

from dselect.console import Run
from dselect.errors import DselectError, UsageError
from dselect.judging.judgments import Comparisons, Judgment, Labels, read
from dselect.models import tables
from dselect.models.encoders import Encoder, from_spec
from dselect.models.sentences import SentenceSettings
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
    needs_either,
)
from dselect.pipeline import Kind, is_folder, whole, write_scored
from dselect.pool import Pool
from dselect.records.batch import Batch
from dselect.records.publishing import publish

if TYPE_CHECKING:
    from dselect.judging.rating import Learnt

CONFIDENCE = 0.5  # Wettig et al. 2024, section 3.2
KERNELS = [f"dselect.kernels.{name}" for name in ("sparse", "statistics", "style", "windows", "bags", "vectors")]

Floats = np.ndarray[Any, np.dtype[np.float64]]


class Rater(Protocol):
    """Ratings of texts by some criteria."""

    criteria: tuple[str, ...]

    @property
    def alone(self) -> bool:
        """Whether one process is enough for it."""

    def only(self, criteria: Sequence[str]) -> Rater:
        """Return the rater by some of its criteria alone."""

    def rate(self, texts: Sequence[bytes]) -> Floats:
        """Return every UTF-8 text's rating by each criterion: float64 (n, criteria)."""

    def to_bytes(self) -> bytes:
        """Return it as a file."""


@dataclass(frozen=True)
class Rated:
    """A rater's scores as fields: NAME by one criterion, NAME_CRITERION by several."""

    rater: Rater
    name: str = "qurating"
    min_words: int = 0

    @property
    def names(self) -> list[str]:
        """Return the field of each criterion."""
        return fields_of(self.name, self.rater.criteria)

    @property
    def fields(self) -> Mapping[str, Kind]:
        """One score a criterion."""
        return dict.fromkeys(self.names, "score")

    def score(self, batch: Batch) -> Mapping[str, Floats]:
        """Return the rating of every text, in log-odds: float64 (n,) a field; NaN below `min_words`."""
        rated = self.rater.rate(batch.utf8)
        if self.min_words:
            from dselect.kernels.ngrams import count_words

            rated[count_words(batch.utf8) < self.min_words] = np.nan
        return {name: np.ascontiguousarray(rated[:, i]) for i, name in enumerate(self.names)}


def open_encoder(spec: str, how: SentenceSettings) -> Encoder:
    """Return the encoder that is named; UsageError for `hashed`, which must have been fitted."""
    found = from_spec(spec, how)
    if found is None:
        raise UsageError(
            "hashed words are fitted to a pool", way_out="dselect embed POOL --save words.encoder, then --encoder FILE"
        )
    return found


def read_rater(rater: str | None, ridge: float | None, encoder: str | None, tuning: Mapping[str, Any]) -> str | None:
    """Return the path of the transformer that --rater names, None for a linear one; UsageError for what is neither."""
    kind, _, path = (rater or "linear").partition(":")
    if kind not in ("linear", "hf") or (kind == "hf") != bool(path):
        raise UsageError(f"cannot read --rater {rater!r}", way_out="linear, or hf:DIR")
    if path and (ridge is not None or encoder):
        raise UsageError("--ridge and --encoder are for a linear rater")
    if tuning and not path:
        raise UsageError("--epochs, --lr and --batch are for a transformer", way_out="--rater hf:DIR")
    return path or None


def learn_rater(
    judged: Mapping[str, Comparisons],
    labels: Labels,
    neural: str | None,
    tuning: Mapping[str, Any],
    ridge: float | None,
    encoder: str | None,
    run: RunOptions,
) -> tuple[Rater, list[Learnt]]:
    """Learn a rater of the kind that is asked for; return it, and how it went."""
    from dselect.judging import rating

    if neural:
        from dselect.models.neural_rater import Tuning

        return rating.tune(judged, labels, neural, Tuning(seed=run.seed, threads=run.jobs, **tuning))
    vectors = None if encoder is None else open_encoder(encoder, SentenceSettings(threads=run.jobs))
    return rating.learn(judged, labels, ridge, run.seed, vectors)


def open_rater(path: str, jobs: int) -> Rater:
    """Read a rater of either kind; DselectError if the file holds none."""
    settings, arrays = tables.load(path, "qurating")
    if settings.get("rater") == "hf":
        from dselect.models.neural_rater import NeuralRater

        return NeuralRater.from_file(settings, arrays, path)
    from dselect.models.rater import LinearRater

    return LinearRater.from_file(settings, arrays, path, SentenceSettings(threads=jobs))


def _judged(names: Sequence[str], criterion: Sequence[str] | None, confidence: float) -> dict[str, Comparisons]:
    """Read the judgments to learn from, by criterion; DselectError where none of one is sure enough."""
    found = read(names)
    judged = {name: Comparisons.of(found[name]) for name in chosen_criteria(list(found), criterion, names[0])}
    for name, one in judged.items():
        if not (np.abs(one.p - 0.5) >= confidence / 2).any():
            raise DselectError(
                f"none of the judgments by {name!r} is sure enough to learn from",
                where=names[0],
                way_out="a lower --confidence",
            )
    return judged


def fields_of(name: str, criteria: Sequence[str]) -> list[str]:
    """Return the fields that ratings by these criteria go to."""
    return [name] if len(criteria) == 1 else [f"{name}_{criterion}" for criterion in criteria]


def chosen_criteria(found: Sequence[str], asked: Sequence[str] | None, where: str) -> list[str]:
    """Return the criteria that are asked for, or all; UsageError for one that is not there."""
    for name in asked or ():
        if name not in found:
            raise UsageError(
                f"no judgments by {name!r}", where=where, way_out=f"there are: {', '.join(map(repr, found))}"
            )
    return [name for name in found if not asked or name in asked]


def rate_judged(judged: Mapping[str, Sequence[Judgment]], field: str, ridge: float) -> tuple[list[bytes], int]:
    """Rate the judged texts themselves, each with a number of its own; return lines of records, and in how many groups.

    Without a ridge DselectError where there is no answer: texts that were never compared, or that never lost.
    """
    from dselect.models import bradley_terry

    records: dict[str, dict[str, Any]] = {}
    most = 0
    for name, criterion in zip(fields_of(field, list(judged)), judged, strict=True):
        ids = _ids(judged[criterion])
        found = Comparisons.of(judged[criterion])
        count = len(found.texts)
        parts = bradley_terry.components(count, found.pairs)
        most = max(most, int(parts.max()) + 1)
        if not ridge:
            _refuse_groups(found, parts, ids, "were never compared with each other, even through others")
            groups = bradley_terry.groups(count, found.pairs, found.p)
            _refuse_groups(found, groups, ids, "compare one way only: one side always won")
        ratings = bradley_terry.rate(count, found.pairs, found.p, ridge)
        times = np.bincount(found.pairs.reshape(-1), minlength=count)
        for text, rating, judgments in zip(found.texts, ratings.tolist(), times.tolist(), strict=True):
            identity = {} if ids[text] is None else {"id": ids[text]}
            record = records.setdefault(text, {**identity, "text": text})
            record |= {name: rating, name.replace(field, "judgments", 1): judgments}
    return [orjson.dumps(records[text]) for text in sorted(records)], most


def _ids(judgments: Sequence[Judgment]) -> dict[str, Any]:
    """Return an id of every text, None where it has none."""
    found: dict[str, Any] = {}
    for one in judgments:
        for text, identity in ((one.text_a, one.id_a), (one.text_b, one.id_b)):
            known = found.get(text)
            if known is None or (identity is not None and str(identity) < str(known)):
                found[text] = identity
    return found


def _refuse_groups(found: Comparisons, groups: Any, ids: Mapping[str, Any], why: str) -> None:
    """Raise DselectError where texts fall into groups, naming the largest ones by a text of theirs."""
    sizes = np.bincount(groups)
    if len(sizes) < 2:
        return
    named = []
    for group in np.argsort(-sizes, kind="stable")[:3].tolist():
        text = found.texts[int(np.argmax(groups == group))]
        shown = " ".join((text if ids[text] is None else str(ids[text])).split())[:40]
        named.append(f"{sizes[group]} with {shown!r}")
    more = f", and {len(sizes) - 3} more" if len(sizes) > 3 else ""
    raise DselectError(
        f"the judged texts fall into {len(sizes)} groups that {why}: {', '.join(named)}{more}",
        way_out="--ridge 0.001 rates them all the same, each group around one mean; or judge more pairs",
    )


def command(
    pool: PoolOptions,
    output: OutputOptions,
    choice: ChoiceOptions,
    run: RunOptions,
    judgments: Annotated[
        list[str] | None,
        Option(metavar="FILE", help="Judgments to learn from, of `dselect judge` or as QuRating publishes them."),
    ] = None,
    model: Model = None,
    save: Save = None,
    criterion: Annotated[
        list[str] | None, Option(metavar="NAME", help="Only by this criterion; give it again for more. [default: all]")
    ] = None,
    confidence: Annotated[
        float | None,
        Option(metavar="C", help="Learn from judgments with |p_b - 1/2| >= C/2 only. [default: 0.5]", min=0, max=1),
    ] = None,
    label_temperature: Annotated[
        float | None,
        Option(metavar="T", help="Divide the log-odds of judgments by this. [default: 1]", min=0.01, max=100),
    ] = None,
    ridge: Annotated[
        float | None,
        Option(metavar="X", help="Penalty on weights. [default: chosen by cross-validation; of --plain-bt 0]", min=0),
    ] = None,
    rater: Annotated[
        str | None,
        Option(
            metavar="linear|hf:DIR",
            help="Words and statistics, or a transformer to fine-tune, which needs dselect[neural]. [default: linear]",
        ),
    ] = None,
    epochs: Annotated[
        int | None, Option(metavar="N", help="Of hf: passes over the judgments. [default: 2]", min=1)
    ] = None,
    lr: Annotated[float | None, Option(metavar="X", help="Of hf: learning rate. [default: 5e-5]", min=0.0)] = None,
    batch: Annotated[int | None, Option(metavar="N", help="Of hf: judgments a step. [default: 32]", min=1)] = None,
    encoder: Annotated[
        str | None,
        Option(
            metavar="static:DIR|st:DIR|FILE",
            help="Learn from vectors too: of tokens, of sentence-transformers, or by a file that embed saved.",
        ),
    ] = None,
    plain_bt: Annotated[
        bool, Option("--plain-bt", help="Rate the judged texts themselves, each by a number of its own; no pool.")
    ] = False,
    min_words: MinWords = 0,
    field: As = "qurating",
    overwrite: Overwrite = False,
    sidecar: Sidecar = None,
) -> None:
    """Score records by a rater that is learnt from judgments which of two texts is the better.

    Adds the field qurating, log-odds: a text is judged better than another with probability logistic(difference). With
    several criteria qurating_NAME each; --keep then ranks by the sum of their z-scores.

    \b
    Example:
      dselect judge pool.jsonl.zst --pairs 500 --from-field token_count -o judgments.jsonl.zst
      dselect qurating pool.jsonl.zst --judgments judgments.jsonl.zst --sample --keep 10% -o picked.jsonl.zst
    """
    if (model is None) == (not judgments):
        raise needs_either("qurating", "--judgments FILE")
    for_fitting = {"save": save, "confidence": confidence, "label-temperature": label_temperature, "ridge": ridge}
    for_fitting |= {"encoder": encoder, "rater": rater, "epochs": epochs, "lr": lr, "batch": batch}
    if model and (given := [name for name, value in for_fitting.items() if value is not None]):
        raise UsageError(f"--{given[0]} is for fitting: a model is as it was fitted", way_out="--judgments")
    pool.check_new(field)
    chosen = choice.build(run.seed, sidecar=sidecar)
    if plain_bt:
        for_raters = (model, save, encoder, rater, epochs, lr, batch, confidence, label_temperature, sidecar)
        if chosen or any(value is not None for value in for_raters):
            raise UsageError("--plain-bt takes judgments, --criterion and --ridge, and writes all it rates")
        _rate_judged(pool, output, run, judgments or [], criterion, ridge or 0.0, field)
        return
    tuning = {
        name: value for name, value in {"epochs": epochs, "rate": lr, "batch": batch}.items() if value is not None
    }
    labels = Labels(_or(confidence, CONFIDENCE), _or(label_temperature, 1.0))
    neural = read_rater(rater, ridge, encoder, tuning)
    stops = output.fits_only(save, sidecar, chosen)
    with Run("qurating", run) as talk:
        records = pool.open(run, talk, rereads=bool(chosen), kernels=KERNELS)
        alone = model is not None and not chosen
        with output.open(records, run, write=not stops, alone=alone, sidecar=sidecar) as sink:
            facts: dict[str, Any] = {}
            if model:
                fitted = open_rater(model, run.jobs)
                fitted = fitted.only(chosen_criteria(fitted.criteria, criterion, model))
            else:
                judged = _judged(judgments or [], criterion, labels.confidence)
                fitted, learnt = learn_rater(judged, labels, neural, tuning, ridge, encoder, run)
                facts["learnt"] = {one.criterion: one.facts() for one in learnt}
                if save:
                    publish(Path(save), fitted.to_bytes())
                if not run.quiet and not run.json_summary:
                    for one in learnt:
                        print(f"dselect qurating: {_said(one.criterion, one.facts())}", file=sys.stderr)
            if fitted.alone:
                records.jobs = 1
            if not stops:
                scorer = Rated(fitted, field, min_words)
                facts |= write_scored(records, scorer, scorer.names, chosen, sink, overwrite, sidecar=bool(sidecar))
    talk.report(records.counts, **facts, saved=save)


def _rate_judged(
    pool: PoolOptions,
    output: OutputOptions,
    run: RunOptions,
    names: list[str],
    criterion: list[str] | None,
    ridge: float,
    field: str,
) -> None:
    """Write the judged texts and their ratings."""
    if pool.paths or pool.files_from:
        raise UsageError("--plain-bt rates what was judged, and takes no pool", way_out="leave the pool out")
    if output.output and is_folder(output.output):
        raise UsageError("--plain-bt writes one file", way_out="-o FILE")
    with Run("qurating", run) as talk:
        records = Pool([])
        with output.open(records, run) as sink:
            found = read(names)
            judged = {name: found[name] for name in chosen_criteria(list(found), criterion, names[0])}
            lines, groups = rate_judged(judged, field, ridge)
            sink.write(0, whole(lines))
    talk.report(records.counts, rated=len(lines), groups=groups)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _said(criterion: str, how: Mapping[str, Any]) -> str:
    """Say how a rater did on judgments of texts it had not seen, with the table of its calibration."""
    by = f"by {criterion!r}, " if criterion else ""
    begun = f"{by}{how['used']:,} of {how['judgments']:,} judgments"
    if "held_out" not in how:
        return f"{begun}; too few to hold any out: nothing is known about this rater"
    weights = ", ".join(f"{name} {value:g}" for name, value in how["settings"].items() if value or name == "ridge")
    right = "" if how["accuracy"] is None else f"{how['accuracy']:.3f} right, "
    error = f"cross-entropy {how['cross_entropy']:.3f}, calibration error {how['calibration_error']:.3f}"
    lines = [f"{begun}; {weights}; of {how['held_out']:,} of unseen texts {right}{error}", "  predicted  judged  pairs"]
    lines += [f"  {predicted:9.3f}  {observed:6.3f}  {count:5}" for predicted, observed, count in how["calibration"]]
    return "\n".join(lines)
