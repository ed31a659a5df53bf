"""Does a rater learn from pairs what people judged? Readability, on texts that it has not seen, beside baselines.

`make rating DATA=FOLDER` runs this and writes the tables into docs/commands/qurating.md. The folder holds
truth/clear_readability.jsonl.zst, excerpts with ratings from teachers' pairwise judgments, and
truth/onestop_levels.jsonl.zst, articles at three levels of difficulty.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import zstandard

from dselect import draws
from dselect.console import table
from dselect.models.rater import statistics
from dselect.records.batch import hashes_of
from dselect.records.decompression import chunks
from dselect.records.sources import discover
from dselect.sketch import spearman

PAGE = Path(__file__).parent / "commands" / "qurating.md"
FOLDER = Path("build/rating")
FOLDS = 5

Records = list[dict[str, Any]]
Floats = np.ndarray[Any, np.dtype[np.float64]]


def dselect(*arguments: object) -> None:
    """Run a command."""
    print("dselect", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "dselect", *map(str, arguments)], check=True)


def read(path: Path) -> Records:
    """Return the records of a file."""
    return [orjson.loads(line) for line in b"".join(chunks(discover([str(path)])[0])).split(b"\n") if line]


def write(path: Path, records: Records) -> Path:
    """Write records."""
    path.write_bytes(zstandard.compress(b"".join(orjson.dumps(record) + b"\n" for record in records)))
    return path


def folds_of(names: Sequence[str]) -> Any:
    """Return the fold of every name: drawn by the name, so that records of one name stay together."""
    return (draws.uniform(0, "proof", hashes_of(name.encode() for name in names)) * FOLDS).astype(int)


def words(text: str) -> list[str]:
    """Return the words and marks of a text."""
    return re.findall(r"\w+|[^\w\s]+", text.lower())


def shortest(_: Records, test: Records, __: str) -> Floats:
    """Score by length alone, fewer words higher."""
    return np.array([-float(len(words(record["text"]))) for record in test])


def flesch_kincaid(_: Records, test: Records, __: str) -> Floats:
    """Score by the grade of Kincaid et al. 1975, lower higher: 0.39 words a sentence + 11.8 syllables a word."""
    found = statistics([record["text"].encode() for record in test])
    return -(0.39 * (np.exp(found[:, 7]) - 1) + 11.8 * found[:, 5])


def ridge_on_grades(train: Records, test: Records, grade: str) -> Floats:
    """Learn the grades themselves, not pairs: ridge regression on TF-IDF of words and word pairs, as scikit-learn."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    seen = TfidfVectorizer(tokenizer=words, token_pattern=None, lowercase=False, ngram_range=(1, 2), min_df=2,
                           sublinear_tf=True)  # fmt: skip
    model = Ridge(1.0).fit(seen.fit_transform([r["text"] for r in train]), [r[grade] for r in train])
    return np.asarray(model.predict(seen.transform([r["text"] for r in test])))


def qurating(
    pairs: int, judge: Sequence[object] = (), learn: Sequence[object] = ()
) -> Callable[[Records, Records, str], Floats]:
    """Return a rater that learns from so many pairs of the training records, with these options of both commands."""

    def rate(train: Records, test: Records, grade: str) -> Floats:
        known, unseen = write(FOLDER / "train.jsonl.zst", train), write(FOLDER / "test.jsonl.zst", test)
        judged, rated = FOLDER / "judgments.jsonl.zst", FOLDER / "rated.jsonl.zst"
        dselect("judge", known, "--pairs", pairs, "--from-field", grade, *judge, "-q", "-o", judged)
        dselect("qurating", unseen, "--judgments", judged, *learn, "-q", "--force", "-o", rated)
        return np.array([record["qurating"] for record in read(rated)])

    return rate


def right(scores: Floats, grades: Floats, groups: Sequence[str]) -> float:
    """Return how often the text of the higher grade scores higher, ties half: of all pairs of a group."""
    agrees = [
        np.sign((scores[a] - scores[b]) * (grades[a] - grades[b]))
        for a, b in itertools.combinations(range(len(scores)), 2)
        if groups[a] == groups[b] and grades[a] != grades[b]
    ]
    return float((1 + np.mean(agrees)) / 2)


def proof(records: Records, grade: str, name: str, group: str | None, ways: dict[str, Any]) -> str:
    """Return a table of how each way does on records held out: mean over folds, and the least and most.

    name: the field whose value decides the fold. group: a field; only records that agree in it are compared.
    """
    folds = folds_of([record[name] for record in records])
    rows = []
    for way, score in ways.items():
        found = []
        for fold in range(FOLDS):
            train = [record for record, at in zip(records, folds, strict=True) if at != fold]
            test = [record for record, at in zip(records, folds, strict=True) if at == fold]
            scores, grades = score(train, test, grade), np.array([float(record[grade]) for record in test])
            groups = [record[group] if group else "" for record in test]
            found.append((spearman(scores, grades) or 0.0, right(scores, grades, groups)))
        cells = [f"{np.mean(c):.3f} ({min(c):.3f} to {max(c):.3f})" for c in zip(*found, strict=True)]
        rows.append([way, *cells])
        print(rows[-1], flush=True)
    return table("", ["", "Spearman", "pairs in the right order"], rows)


def written(page: str, mark: str, text: str) -> str:
    """Return the page with a text in the fence below a mark."""
    before, found, after = page.partition(f"<!-- {mark} -->\n```text\n")
    if not found:
        raise SystemExit(f"{PAGE} has no place for {mark}")
    return before + found + text.rstrip() + after[after.index("\n```\n") :]


def main() -> None:
    """Write both tables into the page; a folder of sentence-transformers may be named as a further encoder."""
    data = Path(sys.argv[1])
    FOLDER.mkdir(parents=True, exist_ok=True)
    baselines = {"shortest first": shortest, "Flesch-Kincaid": flesch_kincaid, "ridge on the grades": ridge_on_grades}
    encoders = {"static vectors": f"static:{data / 'models' / 'potion-base-4m-int8'}"}
    encoders |= {"sentence-transformers": f"st:{sys.argv[2]}"} if len(sys.argv) > 2 else {}
    soft = ["--soft", 1], ["--confidence", 0]
    ways = baselines | {f"{n:,} pairs": qurating(n) for n in (2_000, 5_000, 20_000)}
    ways |= {"20,000 pairs, soft": qurating(20_000, *soft)}
    for name, spec in encoders.items():
        ways[f"the same, {name}"] = qurating(20_000, soft[0], [*soft[1], "--encoder", spec])
    clear = read(data / "truth" / "clear_readability.jsonl.zst")
    texts = proof(clear, "bt_easiness", "id", None, ways)
    PAGE.write_text(written(PAGE.read_text("utf-8"), "clear", texts), "utf-8")
    levels = read(data / "truth" / "onestop_levels.jsonl.zst")
    for record in levels:
        record["ease"] = -record.pop("rank")
    within = {"pairs of one article": qurating(1_000, ["--within", "article"])}
    within |= {"5,000 pairs of any": qurating(5_000)}
    texts = proof(levels, "ease", "article", "article", baselines | within)
    PAGE.write_text(written(PAGE.read_text("utf-8"), "onestop", texts), "utf-8")


if __name__ == "__main__":
    main()
