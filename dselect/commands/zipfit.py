"""Score records by how much they help to compress the target (ZIP-FIT)."""
# Obbad et al. 2024, "ZIP-FIT: Embedding-free data selection via compression-based alignment": one minus the mean
# normalised compression distance of a text to the documents of the target (--score ncd, sizes as gzip.compress has
# them; of a text longer than deflate's window, which the published code sees the tail of, the mean over windows).
# Differs from the paper by default: the score is how much of a target document's compressed size is saved by knowing a
# window of the text, in standard deviations of what windows of the same length from the pool save. The paper's distance
# divides by the larger of the two sizes, and so ranks a pool by length.

from __future__ import annotations

import heapq
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from dselect import draws
from dselect.console import Run
from dselect.errors import DselectError, NotFitted, UsageError
from dselect.models import tables
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
    Targets,
    needs_either,
)
from dselect.pipeline import Kind, write_scored
from dselect.pool import Pool
from dselect.records.batch import Batch
from dselect.records.publishing import publish

WINDOW = 4096  # bytes of a text that are compared with the target at a time
TARGETS = 64  # documents of the target that a text is compared with
LONGEST = 16_384  # bytes of a target document that are compared: with a window it stays within deflate's reach
LENGTHS = (16, 64, 256, 1024, WINDOW)  # bytes at which it is measured what any text of the pool saves
MEASURED = 512  # texts of the pool that this is measured on
FEW = 20  # so many texts must reach a length
FLOOR = 1e-3  # a deviation is not less: a pool of equal texts has none

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Drawn = tuple[float, int, bytes]  # draw, tie, text


class ZipFit:
    """Alignment by compression (Obbad et al. 2024), of texts with a sample of target documents.

    With C(t) the gzip size of a target document and C(t|w) its size where the compressor knows the window w of a text,
    the gain of w is the mean over t of (C(t) - C(t|w)) / C(t). Windows are of 4,096 bytes, the last one ending where
    the text ends. A text's score is the mean over its windows of (gain - μ) / σ, where μ and σ are the mean and the
    standard deviation of the gain of the pool's texts cut to the same length. The empty text scores 0.

    `score="ncd"` is the paper's: 1 - mean over t of (C(xt) - min(C(x), C(t))) / max(C(x), C(t)), x the whole text, or,
    where it is longer than 32,768 bytes, a window of that length: the mean over windows.

    level: of gzip, 1 to 9; None counts matches instead of compressing. `lengths_`, int64 (k,), and `means_` and
    `deviations_`, float64 (k,), say what texts of the pool gain; k is 0 where the pool was too small to tell.
    """

    def __init__(
        self,
        score: Literal["gain", "ncd"] = "gain",
        level: int | None = None,
        min_words: int = 0,
        name: str = "zipfit",
    ) -> None:
        self.kind, self.level, self.min_words, self.name = score, level, min_words, name
        self.targets_: list[bytes] = []
        self.lengths_: Ints = np.zeros(0, np.int64)
        self.means_: Floats = np.zeros(0)
        self.deviations_: Floats = np.zeros(0)

    @property
    def fields(self) -> Mapping[str, Kind]:
        """One score."""
        return {self.name: "score"}

    def fit(self, targets: Sequence[bytes], texts: Sequence[bytes] = ()) -> ZipFit:
        """Take the documents to compare with, and texts of the pool that show what a length gains by itself."""
        self._compare_with(sorted(targets))
        lengths: list[int] = []
        means: list[float] = []
        deviations: list[float] = []
        for length in LENGTHS if self.kind == "gain" else ():
            cut = [_middle(text, length) for text in sorted(texts) if len(text) >= length]
            if len(cut) >= FEW:
                gains = self._gains(cut)
                lengths.append(length)
                means.append(float(gains.mean()))
                # a short text is of as many kinds as a long one: where fewer are seen to vary, it is by chance
                deviations.append(max([FLOOR, float(gains.std()), *deviations[-1:]]))
        self.lengths_, self.means_, self.deviations_ = (
            np.array(lengths, np.int64),
            np.array(means),
            np.array(deviations),
        )
        return self

    def _compare_with(self, targets: list[bytes]) -> None:
        from dselect.kernels import compression

        self.targets_ = targets
        if self.level is None:
            self._parsed = compression.parse(targets)
            self._alone = compression.counted_sizes([b""], self._parsed)[0]
        else:
            sizes = [compression.compressed_size(target, self.level) for target in targets]
            self._alone = np.array(sizes, np.float64)

    def _gains(self, windows: Sequence[bytes]) -> Floats:
        """Return the mean share of a target document that each window saves: float64 (n,)."""
        from dselect.kernels import compression

        if self.level is None:
            given = compression.counted_sizes(windows, self._parsed)
        else:
            given = np.empty((len(windows), len(self.targets_)))
            for row, window in zip(given, windows, strict=True):
                row[:] = compression.sizes_given(window, self.targets_, self.level)
        shares: Floats = (self._alone - given) / self._alone
        return np.array([float(row.mean()) for row in shares])

    def _standardized(self, gains: Floats, lengths: Ints) -> Floats:
        """Return gains in deviations from what windows of their lengths gain; lengths in between by their logarithm."""
        if not len(self.lengths_):
            return gains
        at, known = np.log(np.maximum(lengths, 1)), np.log(self.lengths_)
        shortest = np.minimum(lengths / self.lengths_[0], 1.0)  # from nothing to the first length, in proportion
        mean = np.interp(at, known, self.means_) * shortest
        return np.asarray((gains - mean) / np.interp(at, known, self.deviations_))

    def score(self, batch: Batch) -> Mapping[str, Floats]:
        """Return the score of every text: float64 (n,); NaN below `min_words`."""
        if not self.targets_:
            raise NotFitted("this zipfit model has not been fitted")
        texts = batch.utf8
        scores = self._similarities(texts) if self.kind == "ncd" else self._scores(texts)
        if self.min_words:
            from dselect.kernels.ngrams import count_words

            scores[count_words(batch.utf8) < self.min_words] = np.nan
        return {self.name: scores}

    def _scores(self, texts: Sequence[bytes]) -> Floats:
        scores = np.zeros(len(texts))
        for number, text in enumerate(texts):
            if text:
                windows = _windows(text)
                lengths = np.fromiter(map(len, windows), np.int64, len(windows))
                scores[number] = self._standardized(self._gains(windows), lengths).mean()
        return scores

    def _similarities(self, texts: Sequence[bytes]) -> Floats:
        """Return 1 - mean normalised compression distance of every text (Obbad et al. 2024, section 3)."""
        from dselect.kernels import compression

        assert self.level is not None
        scores = np.zeros(len(texts))
        for number, text in enumerate(texts):
            if text:
                found = []
                for window in _windows(text, compression.REACH):
                    alone, joint = compression.joint_sizes(window, self.targets_, self.level)
                    distances = (joint - np.minimum(alone, self._alone)) / np.maximum(alone, self._alone)
                    found.append(np.mean(1 - distances))
                scores[number] = np.mean(found)
        return scores

    def to_bytes(self) -> bytes:
        """Return the fitted model as one safetensors file."""
        if not self.targets_:
            raise NotFitted("this zipfit model has not been fitted")
        from dselect.kernels.compression import build

        settings = {"score": self.kind, "level": self.level, "min_words": self.min_words, "zlib": build()}
        arrays: tables.Arrays = {
            "targets": np.frombuffer(b"".join(self.targets_), np.uint8),
            "ends": np.cumsum(np.fromiter(map(len, self.targets_), np.int64, len(self.targets_))),
            "lengths": self.lengths_,
            "means": self.means_,
            "deviations": self.deviations_,
        }
        return tables.to_bytes("zipfit", settings, arrays)

    @classmethod
    def load(cls, path: str) -> ZipFit:
        """Read a model that `to_bytes` wrote; DselectError if it is none. Another zlib than this is warned of."""
        from dselect.kernels.compression import build

        settings, arrays = tables.load(path, "zipfit")
        try:
            data, ends = arrays["targets"], arrays["ends"]
            lengths, means, deviations = arrays["lengths"], arrays["means"], arrays["deviations"]
            model = cls(settings["score"], settings["level"], settings["min_words"])
            made_with = settings["zlib"]
        except (KeyError, TypeError) as error:
            raise DselectError(f"not a sound zipfit model: {error}", where=path) from error
        sizes = np.diff(ends, prepend=0) if ends.dtype == np.int64 and ends.ndim == 1 else np.zeros(0, np.int64)
        sound = (
            model.kind in ("gain", "ncd")
            and (model.level in range(1, 10) if model.level is not None else model.kind == "gain")
            and not isinstance(model.level, bool | float)
            and type(model.min_words) is int
            and isinstance(made_with, str)
            and data.dtype == np.uint8
            and data.ndim == 1
            and len(sizes) > 0
            and (sizes > 0).all()
            and int(ends[-1]) == len(data)
            and (model.kind == "ncd" or int(sizes.max()) <= LONGEST)
            and lengths.dtype == np.int64
            and means.dtype == deviations.dtype == np.float64
            and lengths.ndim == 1
            and lengths.shape == means.shape == deviations.shape
            and ((lengths > 0) & (lengths <= WINDOW)).all()
            and (np.diff(lengths) > 0).all()
            and (np.abs(means) <= 1e3).all()
            and ((deviations >= FLOOR) & (deviations <= 1e3)).all()
        )
        if not sound:
            raise DselectError("not a sound zipfit model", where=path, way_out="fit it again with --save")
        if model.level is not None and made_with != build():
            print(
                f"dselect: warning: {path}: fitted with zlib {_shown(made_with)}, this is {build()}: sizes may differ",
                file=sys.stderr,
            )
        whole = data.tobytes()
        model._compare_with([whole[end - size : end] for end, size in zip(ends.tolist(), sizes.tolist(), strict=True)])
        model.lengths_, model.means_, model.deviations_ = lengths, means, deviations
        return model


def _shown(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name[:40])


def _windows(text: bytes, length: int = WINDOW) -> list[bytes]:
    """Return the text in windows of so many bytes; the last one ends where the text ends, and may overlap."""
    starts = [*range(0, len(text) - length, length), max(len(text) - length, 0)]
    return [text[start : start + length] for start in starts]


def _middle(text: bytes, length: int) -> bytes:
    start = (len(text) - length) // 2
    return text[start : start + length]


@dataclass(frozen=True)
class Draw:
    """A seeded sample of a block's texts, none of them empty: the work of the fitting passes.

    longest: of a longer text, a piece of so many bytes, from a place that is drawn too, or its beginning.
    """

    purpose: str
    count: int
    seed: int
    longest: int | None = None
    anywhere: bool = False

    def __call__(self, batch: Batch) -> tuple[list[Drawn], int]:
        """Return the texts with the lowest draws, and how many there are that are not empty."""
        draw = draws.uniform(self.seed, self.purpose, batch.identities)
        places = draws.uniform(self.seed, f"{self.purpose} place", batch.identities)
        there = np.flatnonzero(batch.text_bytes > 0)
        lowest = there[np.argsort(draw[there], kind="stable")[: self.count]].tolist()
        ties = batch.ties
        drawn = []
        for at in lowest:
            text = batch.utf8[at]
            if self.longest is not None and len(text) > self.longest:
                start = int(places[at] * (len(text) - self.longest)) if self.anywhere else 0
                text = text[start : start + self.longest]
            drawn.append((float(draw[at]), int(ties[at]), text))
        return drawn, len(there)


def draw_texts(pools: Sequence[Pool], work: Draw, what: str) -> tuple[list[bytes], int]:
    """Draw a sample of the pools' texts; return it, and how many texts there are."""
    drawn: list[Drawn] = []
    total = 0
    for pool in pools:
        for _, (more, found) in pool.map(work, what):
            drawn = heapq.nsmallest(work.count, [*drawn, *more])
            total += found
    return [text for _, _, text in drawn], total


_COMPRESSOR = re.compile(r"fast|gzip(?::(\d+))?")


def level_of(compressor: str | None, score: str) -> int | None:
    """Return the level of gzip that --compressor names, None for fast; UsageError where it names none."""
    if compressor is None:
        return 6 if score == "ncd" else None
    found = _COMPRESSOR.fullmatch(compressor)
    if not found or (found[1] and int(found[1]) > 9):
        raise UsageError(f"cannot read --compressor {compressor!r}", way_out="fast, or gzip:1 to gzip:9")
    if compressor == "fast":
        if score == "ncd":
            raise UsageError("--score ncd is of gzip's own sizes", way_out="--compressor gzip:6")
        return None
    level = int(found[1] or 6)
    if level == 0:
        raise UsageError(
            "gzip level 0 stores without compressing: its sizes say how long texts are, not what is in them",
            way_out="gzip:1 to gzip:9",
        )
    return level


def command(
    pool: PoolOptions,
    output: OutputOptions,
    choice: ChoiceOptions,
    run: RunOptions,
    target: Targets = None,
    model: Model = None,
    save: Save = None,
    score: Annotated[
        Literal["gain", "ncd"] | None,
        Option(help="What a text saves of the target, or the paper's 1 - NCD, a measure of length. [default: gain]"),
    ] = None,
    compressor: Annotated[
        str | None,
        Option(metavar="fast|gzip:N", help="Count matches, or compress at this level. [default: fast; of ncd gzip:6]"),
    ] = None,
    target_sample: Annotated[
        int | None,
        Option(metavar="N", min=1, help="Target documents to compare with: a seeded sample. [default: 64]"),
    ] = None,
    min_words: MinWords = 0,
    field: As = "zipfit",
    overwrite: Overwrite = False,
    sidecar: Sidecar = None,
) -> None:
    """Score records by how much of the target's compressed size is saved by knowing them.

    Adds the field zipfit (higher is better): the saving in standard deviations from what the pool's texts of the same
    length save. With --keep or --above, writes the chosen records instead of all.

    \b
    Example:
      dselect zipfit pool.jsonl.zst --target target.jsonl.zst --keep 10% -o picked.jsonl.zst
    """
    if (model is None) == (not target):
        raise needs_either("zipfit", "--target FILE")
    if model:
        fitted = {"score": score, "compressor": compressor, "target-sample": target_sample, "save": save}
        if for_fitting := [name for name, value in fitted.items() if value is not None]:
            raise UsageError(
                f"--{for_fitting[0]} is for fitting: a model is as it was fitted",
                way_out="--target in place of --model",
            )
    pool.check_new(field)
    chosen = choice.build(run.seed, sidecar=sidecar)
    kind = score or "gain"
    level = level_of(compressor, kind)
    stops = output.fits_only(save, sidecar, chosen)
    with Run("zipfit", run) as talk:
        records = pool.open(run, talk, rereads=bool(chosen) or (model is None and not stops))
        alone = model is not None and not chosen
        with output.open(records, run, write=not stops, alone=alone, sidecar=sidecar) as sink:
            facts: dict[str, Any] = {}
            if model:
                zipfit = ZipFit.load(model)
                zipfit.name, zipfit.min_words = field, max(zipfit.min_words, min_words)
            else:
                zipfit = ZipFit(kind, level, min_words, field)
                sample = Draw("zipfit target", target_sample or TARGETS, run.seed, LONGEST if kind == "gain" else None)
                facts = fit(zipfit, pool.open_targets(target or ()), records, sample)
                if save:
                    publish(Path(save), zipfit.to_bytes())
            if not stops:
                if zipfit.level is not None:
                    records.few_alone = False  # gzip takes so long that workers pay from the first block
                facts |= write_scored(records, zipfit, field, chosen, sink, overwrite, sidecar=bool(sidecar))
    talk.report(records.counts, **facts, saved=save)


def fit(zipfit: ZipFit, targets: Sequence[Pool], pool: Pool, sample: Draw) -> dict[str, Any]:
    """Draw the documents to compare with and the texts of the pool to measure lengths on; return what was drawn."""
    documents, total = draw_texts(targets, sample, "target")
    if not documents:
        raise DselectError("the target has no text", where=targets[0].name)
    measured = Draw("zipfit length", MEASURED, sample.seed, WINDOW, anywhere=True)
    texts, _ = draw_texts([pool], measured, "fitting")
    zipfit.fit(documents, texts)
    return {"compared_with": len(documents), "target_documents": total}
