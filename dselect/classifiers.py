"""Train fastText classifiers on records, and score records with them."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dselect import draws
from dselect.errors import DselectError, UsageError
from dselect.models.fasttext import FastText, Library, read, why_not
from dselect.pipeline import Kind
from dselect.pool import Pool
from dselect.records.batch import Batch, hashes_of
from dselect.records.publishing import TemporaryFile, publish, write_all
from dselect.sampling import Sample
from dselect.selection import ranks

KERNEL = "dselect.kernels.fasttext"  # which workers need
LEAST = 10  # records of a class that a classifier can be fitted and tried on
HELD_OUT = 0.1
POSITIVE, NEGATIVE = "__label__1", "__label__0"
# What fastText's reader would take for a label in the midst of a text; when it scores it leaves such tokens out.
_LABEL = re.compile(r"(?<![^ \n\r\t\v\f\0])__label__[^ \n\r\t\v\f\0]*")

Floats = np.ndarray[Any, np.dtype[np.float64]]


class Classifier:
    """The probability that a text is of a label, by a model of the fastText library."""

    def __init__(self, model: FastText | Library, name: str, min_words: int = 0) -> None:
        self.model, self.name, self.min_words = model, name, min_words

    @property
    def fields(self) -> Mapping[str, Kind]:
        """One score."""
        return {self.name: "score"}

    def score(self, batch: Batch) -> Mapping[str, Floats]:
        """Return the probability of every text: float64 (n,), in 0 … 1; NaN below `min_words`."""
        found = self.model.probabilities(batch.utf8)
        if self.min_words:
            from dselect.kernels.ngrams import count_words

            found[count_words(batch.utf8) < self.min_words] = np.nan
        return {self.name: found}


def open_model(path: str, label: str | None) -> tuple[FastText | Library, str | None]:
    """Return the model of a file, and why it is slow if it is; the label is the settings' beside it unless given."""
    layout = read(path)
    label = label or saved_label(path)
    if label is None or label not in layout.labels:
        what = f"no label {label!r} in this model" if label else "which label is the good one?"
        names = ", ".join(layout.labels[:12])
        raise UsageError(what, where=path, way_out=f"--label NAME; it has: {names}")
    if layout.loss == 3 and len(layout.labels) == 1:
        raise DselectError("a model of one label tells nothing", where=path)
    slow = why_not(layout)
    return (Library(layout, label) if slow else FastText(layout, label)), slow


def saved_label(path: str) -> str | None:
    """Return the label that the settings beside a model name; None where there are none."""
    beside = Path(f"{path}.json")
    try:
        found = json.loads(beside.read_bytes()) if beside.is_file() else {}
        if not isinstance(found, dict) or not isinstance(found.get("label", ""), str):
            raise ValueError("no settings of a classifier")
    except (OSError, ValueError) as error:
        raise DselectError(f"cannot read these settings: {error}", where=str(beside)) from error
    return found.get("label")


@dataclass(frozen=True)
class Texts:
    """The texts of a block, of all its records or of a seeded sample: the work of collecting what to train on."""

    sample: Sample | None = None

    def __call__(self, batch: Batch) -> list[str]:
        """Return the texts."""
        return batch.texts if self.sample is None else [batch.texts[i] for i in self.sample.of(batch).tolist()]


def collect(pools: Sequence[Pool], sample: Sample | None = None, what: str = "collecting") -> list[str]:
    """Return the texts of pools."""
    return [text for pool in pools for _, texts in pool.map(Texts(sample), what) for text in texts]


def line(text: str) -> str:
    """Return a text as one line of a training file: newlines are spaces, tokens like labels are left out."""
    return _LABEL.sub("", text).replace("\n", " ")


def _ordered(texts: Sequence[str], seed: int, most: int) -> list[str]:
    """Return at most so many texts, in an order that depends on the texts and the seed alone."""
    draw = draws.uniform(seed, "classify", hashes_of(text.encode() for text in texts))
    at = sorted(range(len(texts)), key=lambda i: (draw[i], texts[i]))
    return [texts[i] for i in at[:most]]


@dataclass(frozen=True)
class Recipe:
    """How the library trains; the names are ours, the numbers of the recipes published."""

    epochs: int = 5
    lr: float = 0.1
    ngrams: int = 2
    dim: int = 100
    buckets: int = 2_000_000
    min_count: int = 1
    one_vs_all: bool = False
    threads: int = 1


RECIPES = {"default": Recipe(), "dclm": Recipe(), "preselect": Recipe(epochs=3)}


def train(
    positive: Sequence[str], negative: Sequence[str], recipe: Recipe, seed: int, path: Path, *, seeds: int = 1
) -> tuple[FastText, dict[str, Any]]:
    """Train on balanced classes, a tenth held out, save to a path, and return the model and how it did there.

    seeds: so many models, the first of which is returned; the others tell how much chance there is in it.
    DselectError with fewer than ten texts of a class, or where the library gives up.
    """
    for texts, what in ((positive, "positive"), (negative, "negative")):
        if len(texts) < LEAST:
            raise DselectError(f"{len(texts)} {what} records are too few for a classifier", way_out=f"at least {LEAST}")
    most = min(len(positive), len(negative))
    classes = {POSITIVE: _ordered(positive, seed, most), NEGATIVE: _ordered(negative, seed, most)}
    held: dict[str, list[str]] = {}
    lines: list[str] = []
    for label, texts in classes.items():
        outside = draws.uniform(seed, "held-out", hashes_of(text.encode() for text in texts)) < HELD_OUT
        held[label] = [t for t, out in zip(texts, outside.tolist(), strict=True) if out]
        kept = [t for t, out in zip(texts, outside.tolist(), strict=True) if not out]
        lines += [f"{label} {line(text)}" for text in kept]
    facts: dict[str, Any] = {"positive": len(classes[POSITIVE]), "negative": len(classes[NEGATIVE])}
    facts["held_out"] = sum(map(len, held.values()))
    facts |= {"threads": recipe.threads} if recipe.threads > 1 else {}
    model = _run(_ordered(lines, seed, len(lines)), recipe, seed, path)
    if all(held.values()):
        scores = [_scores(model, held)]
        for other in range(seed + 1, seed + seeds):
            with tempfile.TemporaryDirectory(prefix="dselect-model-") as folder:
                again = _run(_ordered(lines, other, len(lines)), recipe, other, Path(folder) / "model.bin")
                scores.append(_scores(again, held))
        good, bad = scores[0]
        facts |= {"auc": auc(good, bad), "calibration_error": calibration_error(good, bad)}
        facts["calibration"] = calibration(good, bad)
        if seeds > 1:
            facts |= {"aucs": [auc(*pair) for pair in scores], "rank_agreement": rank_agreement(scores)}
    return model, facts


def _scores(model: FastText, held: Mapping[str, list[str]]) -> tuple[Floats, Floats]:
    good, bad = ([text.encode() for text in held[label]] for label in (POSITIVE, NEGATIVE))
    return model.probabilities(good), model.probabilities(bad)


def _run(lines: Sequence[str], recipe: Recipe, seed: int, path: Path) -> FastText:
    import fasttext

    with tempfile.TemporaryDirectory(prefix="dselect-train-") as folder:
        source, trained = Path(folder) / "train.txt", Path(folder) / "model.bin"
        source.write_bytes(b"".join(one.encode() + b"\n" for one in lines))
        try:
            model = fasttext.train_supervised(
                input=str(source), epoch=recipe.epochs, lr=recipe.lr, wordNgrams=recipe.ngrams, dim=recipe.dim,
                bucket=recipe.buckets, minCount=recipe.min_count, thread=recipe.threads, seed=seed, verbose=0,
                loss="ova" if recipe.one_vs_all else "softmax",
            )  # fmt: skip
        except (RuntimeError, ValueError) as error:
            raise DselectError(f"fastText cannot train on this: {error}", way_out="a lower --lr may help") from error
        if path.suffix == ".ftz":
            try:
                model.quantize(input=str(source))
            except ValueError as error:
                raise DselectError(f"too little to quantise: {error}", where=str(path), way_out="a .bin") from error
        model.save_model(str(trained))
        out = TemporaryFile(path)
        try:
            with trained.open("rb") as file:
                while chunk := file.read(1 << 24):
                    write_all(out.file, chunk)
            out.commit()
        finally:
            out.discard()
    settings = {"label": POSITIVE, "seed": seed, **recipe.__dict__}
    publish(Path(f"{path}.json"), json.dumps(settings, indent=1).encode() + b"\n")
    return FastText(read(str(path)), POSITIVE)


def auc(good: Floats, bad: Floats) -> float:
    """Return how often a positive scores above a negative, ties half (Mann and Whitney)."""
    count = len(good) + len(bad)
    order = ranks(np.concatenate([good, bad]))[: len(good)] * (count - 1)
    return float((order.sum() - len(good) * (len(good) - 1) / 2) / (len(good) * len(bad)))


def rank_agreement(scores: Sequence[tuple[Floats, Floats]]) -> float:
    """Return the mean of Spearman's correlations between every two models' scores of the same texts."""
    found = np.corrcoef([ranks(np.concatenate(pair)) for pair in scores])
    return float(found[np.triu_indices(len(scores), 1)].mean())


def calibration(good: Floats, bad: Floats) -> list[tuple[float, float, int]]:
    """Return, for ten bins of p, empty ones left out: the mean p, the share of positives, and how many are in it."""
    p = np.concatenate([good, bad])
    truth = np.concatenate([np.ones(len(good)), np.zeros(len(bad))])
    bins = np.minimum((p * 10).astype(int), 9)
    return [
        (float(p[at].mean()), float(truth[at].mean()), int(at.sum()))
        for at in (bins == b for b in range(10))
        if at.any()
    ]


def calibration_error(good: Floats, bad: Floats) -> float:
    """Return the mean gap between p and the share of positives, over ten bins weighted by what is in them."""
    bins = calibration(good, bad)
    return sum(abs(predicted - observed) * count for predicted, observed, count in bins) / (len(good) + len(bad))


def held_out(how: Mapping[str, Any]) -> str:
    """Say how a model did on held-out records: what `train` found, with the table of its calibration."""
    if "auc" not in how:
        return "no record of one class was held out: nothing is known about this model"
    said = (
        f"on {how['held_out']} held-out records AUC {how['auc']:.3f}, calibration error {how['calibration_error']:.3f}"
    )
    lines = [f"{said}; AUC does not predict what a selection is worth (dselect eval tells)"]
    if "aucs" in how:
        low, high = min(how["aucs"]), max(how["aucs"])
        lines.append(
            f"{len(how['aucs'])} seeds: AUC {low:.3f} to {high:.3f}, rank agreement {how['rank_agreement']:.3f}"
        )
    if "threads" in how:
        lines.append(f"trained by {how['threads']} threads: the next run gives another model")
    lines.append("  predicted  observed  records")
    lines += [f"  {predicted:9.3f}  {observed:8.3f}  {count:7}" for predicted, observed, count in how["calibration"]]
    return "\n".join(lines)
