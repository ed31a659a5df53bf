"""Train small language models on selections and test them on held-out text."""
# The question behind all methods: is a model that was trained on this selection better at the target than one trained
# on another? Every selection gives the same number of bytes, in a seeded order; the difference to a baseline comes with
# a paired bootstrap interval over the target's documents (Efron 1979; Koehn 2004 for the paired form).

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import orjson

from dselect import draws
from dselect.choice import Choice
from dselect.console import Run, amount, size, table
from dselect.engine import ordered_map
from dselect.errors import DselectError, UsageError
from dselect.models.byte_lm import HELD_OUT, ByteLM
from dselect.models.transformer import Size, device_here, train_and_test
from dselect.options import Argument, Option, Order, RunOptions, Targets
from dselect.pipeline import Columns, Fields, gather
from dselect.pool import Counts, Pool
from dselect.records.batch import Batch, lookup
from dselect.records.publishing import publish
from dselect.records.sources import discover
from dselect.reporting.evaluations import Row, compared, read_rows
from dselect.selection import Budget

GRAM = 13  # words of an n-gram that hardly two texts share by chance (as in the GPT-3 paper's overlap analysis)
LEAK = 0.01  # a share of the target's n-grams beyond this is warned of

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Keys = np.ndarray[Any, np.dtype[np.uint64]]
Judge = Callable[["Lesson"], Floats]


@dataclass(frozen=True)
class Lesson:
    """What one model is trained on: texts, in the order of their draws; and the seed of the model."""

    texts: list[bytes]
    seed: int


@dataclass
class Selection:
    """A selection: where it is, and what the choice of its training texts needs to know of every record."""

    name: str
    pool: Pool
    columns: Mapping[str, Any]

    @property
    def held(self) -> int:
        """Return the UTF-8 bytes of all its texts."""
        return int(self.columns["size"].sum(dtype=np.int64))

    def draw(self, budget: int, seed: int) -> Ints:
        """Return the positions whose texts make up the budget, as they were drawn; the last one may be too long."""
        draw = draws.uniform(seed, "eval", self.columns["identity"])
        order = np.lexsort((self.columns["tie"], draw))
        before = np.cumsum(self.columns["size"][order], dtype=np.int64) - self.columns["size"][order]
        return np.asarray(order[before < budget])

    def texts(self, positions: Ints) -> dict[int, bytes]:
        """Return the texts at these positions."""
        found: dict[int, bytes] = {}
        wanted, seen = np.unique(positions), 0
        for _, lines in self.pool.lines("reading"):
            first, end = np.searchsorted(wanted, [seen, seen + len(lines)])
            for at in wanted[first:end].tolist():
                found[at] = lookup(orjson.loads(lines[at - seen]), self.pool.text_field).encode()
            seen += len(lines)
        return found


def cut(texts: Sequence[bytes], budget: int) -> list[bytes]:
    """Return the texts up to this many bytes; the last one is cut before the character that would not fit whole."""
    kept, left = [], budget
    for text in texts:
        if len(text) > left:
            kept.append(text[:left].decode(errors="ignore").encode())
            break
        kept.append(text)
        left -= len(text)
    return kept


@dataclass(frozen=True)
class NgramJudge:
    """Trains a byte n-gram model, and tells what the target costs it."""

    targets: Sequence[bytes]
    order: int

    def __call__(self, lesson: Lesson) -> Floats:
        """Return -log2 of the probability of every target: float64 (n,), in bits."""
        from dselect.kernels.byte_ngrams import count

        held, left = [], HELD_OUT
        for text in lesson.texts:  # the draws have shuffled them: the first ones are a sample
            if 0 < len(text) <= left:
                held.append(text)
                left -= len(text)
        return ByteLM(self.order).fit(count(lesson.texts, self.order), held).bits(self.targets)


@dataclass(frozen=True)
class TransformerJudge:
    """Trains a small transformer, and tells what the target costs it."""

    targets: Sequence[bytes]
    steps: int
    size: Size

    def __call__(self, lesson: Lesson) -> Floats:
        """Return -log2 of the probability of every target: float64 (n,), in bits."""
        return train_and_test(lesson.texts, self.targets, self.steps, lesson.seed, self.size)


@dataclass
class Overlap:
    """The runs of words of the target that turn up in training texts."""

    share: float  # of the target's distinct runs
    documents: int  # of the target with at least one


def overlap(targets: Sequence[bytes], texts: Sequence[bytes]) -> Overlap:
    """Look for the target's runs of 13 words in the texts, marks being words. Targets of fewer words have none."""
    from dselect.kernels.overlap import run_keys

    keys, words = run_keys(targets, GRAM, marks=True)
    wanted = np.unique(keys)
    leaked = wanted[np.isin(wanted, run_keys(texts, GRAM, marks=True)[0])]
    owners = np.repeat(np.arange(len(targets)), np.maximum(words - GRAM + 1, 0))
    documents = len(np.unique(owners[np.isin(keys, leaked)]))
    return Overlap(len(leaked) / len(wanted) if len(wanted) else 0.0, documents)


def describe(selection: Selection, positions: Ints, texts: Sequence[bytes], targets: Sequence[bytes]) -> dict[str, Any]:
    """Return what may explain a result: how many texts, how long, from where, how many twice, how near the target."""
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    found = overlap(targets, texts)
    shares: dict[str, float] = {}
    if "domain" in selection.columns and len(positions):
        held: dict[str, int] = {}
        for at, text in zip(positions.tolist(), texts, strict=False):
            label = selection.columns["labels"][selection.columns["domain"][at]]
            held[str(label)] = held.get(str(label), 0) + len(text)
        total = max(sum(held.values()), 1)
        shares = {label: part / total for label, part in sorted(held.items(), key=lambda one: (-one[1], one[0]))}
    return {
        "documents": len(texts),
        "bytes": int(sizes.sum()),
        "median_bytes": float(np.median(sizes)) if len(texts) else 0.0,
        "duplicates": 1 - len(set(texts)) / len(texts) if texts else 0.0,
        "target_overlap": found.share,
        "target_documents_found": found.documents,
        "shares": shares,
    }


def train(
    selections: Sequence[Selection],
    targets: Sequence[bytes],
    judge: Judge,
    budget: int,
    seeds: Sequence[int],
    jobs: int,
) -> list[Row]:
    """Train one model a selection and seed, and return what each selection's cost the target."""
    lessons, described = [], []
    for selection in selections:
        drawn = [selection.draw(budget, seed) for seed in seeds]
        found = selection.texts(np.concatenate(drawn))
        taught = [cut([found[at] for at in positions.tolist()], budget) for positions in drawn]
        lessons += [Lesson(texts, seed) for texts, seed in zip(taught, seeds, strict=True)]
        described.append(describe(selection, drawn[0], taught[0], targets))
    told = list(ordered_map(judge, lessons, jobs))
    total = sum(map(len, targets))
    rows = []
    for number, selection in enumerate(selections):
        bits = np.stack(told[number * len(seeds) : (number + 1) * len(seeds)])
        by_seed = (bits.sum(axis=1) / total).tolist()
        mean = float(bits.mean(axis=0).sum() / total)
        rows.append(Row(selection.name, mean, by_seed, bits.tolist(), **described[number]))
    return rows


def command(
    paths: Annotated[
        list[str],
        Argument(
            metavar="SELECTION...", help="Selections to compare: files or folders; or the --json reports of others."
        ),
    ],
    run: RunOptions,
    target: Targets = None,
    budget: Annotated[
        str | None,
        Option(metavar="SIZE", help="Bytes of text to train on. [default: what the smallest selection holds]"),
    ] = None,
    allow_short: Annotated[
        bool, Option("--allow-short", help="Train on all of a selection that is smaller than the budget.")
    ] = False,
    baseline: Annotated[
        str | None, Option(metavar="SELECTION", help="Which of the selections the others are compared with.")
    ] = None,
    seeds: Annotated[int, Option(help="Models a selection: their mean is told.", min=1)] = 3,
    lm: Annotated[
        Literal["ngram", "transformer"],
        Option(help="What is trained: byte n-grams (seconds), or a small transformer (minutes; extra neural)."),
    ] = "ngram",
    lm_size: Annotated[
        Size | None,
        Option(
            "--size", help="Of the transformer: 0.13, 0.9 or 26 million parameters. [default: small; base with CUDA]"
        ),
    ] = None,
    steps: Annotated[int, Option(help="Of the transformer: of 4,096 bytes each; of tiny, 512.", min=1)] = 2000,
    order: Order = 6,
    within: Annotated[str | None, Option(metavar="FIELD", help="Tell the shares of the domains it names.")] = None,
    text: Annotated[str, Option(metavar="FIELD", help="The field that holds the text; dots reach inside.")] = "text",
    json_file: Annotated[Path | None, Option("--json", metavar="FILE", help="Write everything as JSON.")] = None,
    csv_file: Annotated[Path | None, Option("--csv", metavar="FILE", help="Write the table as CSV.")] = None,
) -> None:
    """Train small language models on selections, and tell what each makes of held-out target text, in bits per byte.

    All selections give the same number of bytes. The interval (95 %) is of the difference to the baseline, over the
    target's documents: negative is better.

    \b
    Example:
      dselect select pool.jsonl.zst --keep 20kB -o random.jsonl.zst
      dselect dsir pool.jsonl.zst --target target.jsonl.zst --keep 20kB -o dsir.jsonl.zst
      dselect eval random.jsonl.zst dsir.jsonl.zst --target target2.jsonl.zst --baseline random.jsonl.zst
    """
    if not target:
        raise UsageError("eval needs text to test on", way_out="--target FILE, not the text that was selected by")
    if [*paths, *target].count("-") > 1:
        raise UsageError("standard input is named twice", way_out="name files")
    reports = [path for path in paths if path.endswith(".json")]
    taught = [path for path in paths if path not in reports]
    with Run("eval", run) as talk:
        selections = {
            path: _open(name, path, text, within, run) for name, path in zip(_names(taught), taught, strict=True)
        }
        targets = [one for name in target for one in _texts(Pool(discover([name]), text_field=text)) if one]
        if not targets:
            raise DselectError("the target has no text", where=target[0])
        spent = _budget(budget, list(selections.values()), allow_short, reports)
        if lm == "ngram":
            shape: dict[str, Any] = {"order": order}
        else:
            device = device_here()
            shape = {"steps": steps, "device": device, "size": lm_size or ("base" if device == "cuda" else "small")}
        numbers = [run.seed + number for number in range(seeds)]
        settings = {"budget": spent, "lm": lm, **shape, "seeds": numbers, "texts": [_hash(one) for one in targets]}
        told = {path: read_rows(path, settings) for path in reports}
        at = _place(baseline, paths, told)
        judge: Judge = NgramJudge(targets, order) if lm == "ngram" else TransformerJudge(targets, steps, shape["size"])
        jobs = run.jobs if lm == "ngram" else 1  # torch has threads of its own
        trained = train(list(selections.values()), targets, judge, spent, numbers, jobs)
        told |= {path: [row] for path, row in zip(selections, trained, strict=True)}
        rows = [row for path in paths for row in told[path]]
        if at is not None:
            rows = compared(rows, at, np.fromiter(map(len, targets), np.int64, len(targets)), run.seed)
    print(_table(rows, spent))
    for row in rows:
        if row.target_overlap > LEAK:
            print(
                f"dselect: warning: {row.selection}: {row.target_overlap:.1%} of the target's runs of {GRAM} words, in "
                f"{row.target_documents_found} of {len(targets)} documents, are in what was trained on",
                file=sys.stderr,
            )
    if json_file:
        names = {"target": target, "baseline": baseline, "target_documents": len(targets)}
        sizes = {"text_bytes": [len(one) for one in targets]}
        report = {**settings, **names, **sizes, "selections": [vars(row) for row in rows]}
        publish(json_file, json.dumps(report, indent=2).encode() + b"\n")
    if csv_file:
        publish(csv_file, _csv(rows))
    read = [selection.pool.counts for selection in selections.values()]
    counts = Counts(sum(one.documents for one in read), sum(one.bytes for one in read))
    talk.report(counts, budget=spent)


def _place(baseline: str | None, paths: Sequence[str], reports: Mapping[str, Sequence[Row]]) -> int | None:
    """Return which row of the table the baseline is: an argument that gives one row."""
    if baseline is None:
        return None
    first = 0
    for path in paths:
        rows = len(reports.get(path, "1"))
        if Path(path).resolve() == Path(baseline).resolve():
            if rows != 1:
                raise UsageError(f"the baseline {baseline} holds {rows} selections", way_out="one a report")
            return first
        first += rows
    raise UsageError(f"the baseline {baseline} is none of the selections", way_out="name it among them too")


def _names(paths: Sequence[str]) -> list[str]:
    """Return what the table calls the selections: the names of the files, if they differ."""
    short = [Path(path).name.split(".")[0] for path in paths]
    return short if len(set(short)) == len(short) else list(paths)


def _open(name: str, path: str, text: str, within: str | None, run: RunOptions) -> Selection:
    pool = Pool(discover([path]), text_field=text, jobs=run.jobs, rereads=True)
    choice = Choice(keep=Budget("all", "bytes", amount=0), within=within, seed=run.seed)
    columns = gather(pool, Columns(Fields([]), choice))
    return Selection(name, pool, columns)


def _texts(pool: Pool) -> list[bytes]:
    return [one.encode() for _, batch in pool.map(_all) for one in batch]


def _all(batch: Batch) -> list[str]:
    return batch.texts


def _hash(text: bytes) -> str:
    return blake2b(text, digest_size=8).hexdigest()


def _budget(asked: str | None, selections: Sequence[Selection], allow_short: bool, reports: Sequence[str]) -> int:
    """Return the bytes to train on; DselectError where a selection holds fewer."""
    if asked is None and reports:
        raise UsageError("reports need the budget that they were made with", way_out="--budget 2MB")
    if asked is None:
        spent = min(selection.held for selection in selections)
    else:
        budget = Budget.parse(asked)
        if budget.unit != "bytes" or budget.amount is None:
            raise UsageError(f"--budget {asked} is no amount of bytes", way_out="--budget 2MB")
        spent = budget.amount
    if not selections:
        return spent
    smallest = min(selections, key=lambda selection: selection.held)
    if smallest.held < spent and not allow_short:
        raise DselectError(
            f"the selection holds {amount(smallest.held, 'bytes')}, less than the budget of {amount(spent, 'bytes')}",
            where=smallest.pool.name,
            way_out=f"--budget {smallest.held}B, no --budget for what the smallest holds, or --allow-short",
        )
    if not spent:
        raise DselectError("nothing to train on", where=smallest.pool.name)
    return spent


def _table(rows: Sequence[Row], budget: int) -> str:
    header = ["selection", "bits/byte", "difference", "95 % interval", "documents", "text"]
    header += ["median", "twice", "of target", "from"]
    cells = []
    for row in rows:
        compared = ["", ""]
        if row.difference is not None:
            compared = [f"{row.difference:+.4f}", f"{row.low:+.4f} … {row.high:+.4f}"]
        most = ", ".join(f"{label} {share:.0%}" for label, share in list(row.shares.items())[:3])
        explained = [f"{row.documents:,}", size(row.bytes), size(row.median_bytes)]
        explained += [f"{row.duplicates:.1%}", f"{row.target_overlap:.2%}", most]
        cells.append([row.selection, f"{row.bits_per_byte:.4f}", *compared, *explained])
    return table(f"held-out target text, after training on {size(budget)}", header, cells)


def _csv(rows: Sequence[Row]) -> bytes:
    names = [name for name in vars(rows[0]) if name not in ("by_seed", "bits", "shares")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([["" if vars(row)[name] is None else vars(row)[name] for name in names] for row in rows])
    return out.getvalue().encode()
