"""Do the selections help? Select for real targets, train on each selection, test on the other half of each target.

`make evaluation DATA=FOLDER` runs this and writes the tables into docs/evaluation.md. The folder holds
pool/*.jsonl.zst, one file a domain; targets/NAME.jsonl.zst; and truth/target_domains.json, which says which domains are
of a target's kind. A selection that is as it was is not judged again: its report in build/evaluation is newer.
"""

from __future__ import annotations

import filecmp
import hashlib
import importlib.util
import itertools
import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import orjson
import zstandard

from dselect.engine import usable_cpus
from dselect.records.decompression import chunks
from dselect.records.sources import discover
from dselect.sketch import spearman

PAGE = Path(__file__).parent / "evaluation.md"
FOLDER = Path("build/evaluation")
TARGETS = ["humaneval", "gsm8k_test", "proofnet_valid", "pubmedqa"]
ENOUGH, BUDGET = 2_100_000, "2MB"  # selections hold a little more than is trained on, so that seeds differ

# A selection is one line: its name, and the command that makes it, without --keep and -o. POOL, FIT (to select by),
# DOMAINS, LOSSES and ABILITIES (see `ladder`), JUDGMENTS (which of two texts is easier to read, whatever the target)
# stand for files, {name} for a selection above.
SELECTIONS = {
    "random": "select POOL --seed 1",
    "dsir_paper": "dsir POOL --target FIT --length sum --smoothing 0",
    "dsir_sum": "dsir POOL --target FIT --length sum",
    "in_domain": "select DOMAINS --seed 1",
    "dsir": "dsir POOL --target FIT",
    "contrast": "contrast POOL --target FIT",
    # gzip is slow: with the default of 64 documents this page would take an hour
    "ncd": "zipfit POOL --target FIT --score ncd --target-sample 16",
    "zipfit_gzip": "zipfit POOL --target FIT --compressor gzip:6 --target-sample 16",
    "zipfit": "zipfit POOL --target FIT",
    "classify": "classify POOL --positive FIT",
    "climb": "climb POOL --within source --target FIT --max-repeats 1",
    "preselect": "preselect POOL --losses LOSSES --ability ABILITIES",
    "qurating": "qurating POOL --judgments JUDGMENTS --confidence 0 --sample",
}
# PreSelect needs models that are good at different things. These, of byte n-grams, stand in for real ones.
MODELS = {
    "code": ["code_python", "code_javascript"],
    "mathematics": ["math_tex", "math_lean", "math_word_problems"],
    "fiction": ["books_fiction", "kids_stories"],
    "science": ["science_plos", "medical_qa", "medical_abstracts"],
    "web": ["web_crawl", "web_forums_email", "reviews_movies"],
}
# These are judged too, to see whether the judges rank alike.
MORE = {
    "random_2": "select POOL --seed 2",
    "half_dsir": "select {random} {dsir} --seed 3",
}
# All targets together, where diversity should pay. CLUSTERED is the pool with dsir's score and 256 clusters (MODEL).
MIXED = {
    "random": "select POOL --seed 1",
    "kmeans": "kmeans CLUSTERED --model MODEL",
    "kmeans_equal": "kmeans CLUSTERED --model MODEL --quota equal",
    "kmq": "kmeans CLUSTERED --model MODEL --by dsir --sample",
    "refined": "kmeans CLUSTERED --model MODEL --gain lm:FIT",
    "dsir": "dsir POOL --target FIT",
    "dsir_within": "select CLUSTERED --by dsir --within kmeans_cluster",
    "contrast": "contrast POOL --target FIT",
    "random_2": "select POOL --seed 2",
}
SHARE = 100_000  # bytes of each target's half in the mixed one
JUDGES: dict[str, list[object]] = {
    "ngram": [],
    "transformer": ["--lm", "transformer", "--size", "tiny", "--steps", 1000, "--seeds", 1],
}


def dselect(*arguments: object) -> str:
    """Run a command, show it, return what it printed."""
    command = [str(argument) for argument in arguments]
    print("dselect", shlex.join(command), flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "dselect", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # torch's: there is a process for every CPU
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return done.stdout


def halves(target: Path, folder: Path) -> tuple[Path, Path]:
    """Write the half of a target to select by, and the half to test on; a text's hash decides."""
    lines = b"".join(chunks(discover([str(target)])[0])).split(b"\n")
    records = sorted((line for line in lines if line), key=lambda line: text_hash(orjson.loads(line)["text"]))
    paths = folder / "fit.jsonl.zst", folder / "heldout.jsonl.zst"
    for number, path in enumerate(paths):
        half = records[: len(records) // 2] if number == 0 else records[len(records) // 2 :]
        new = folder / f"new-{path.name}"
        new.write_bytes(zstandard.compress(b"\n".join(half) + b"\n"))
        replace_if_changed(path, new)
    return paths


def text_hash(text: str) -> bytes:
    """Return a hash that orders texts by chance."""
    return hashlib.blake2b(text.encode()).digest()


def replace_if_changed(path: Path, new: Path) -> None:
    """Put a file in the place of another; if they are equal the older one stays, with its date."""
    if path.exists() and filecmp.cmp(path, new, shallow=False):
        new.unlink()
    else:
        new.replace(path)


def in_domain(data: Path, name: str) -> list[Path]:
    """Return the files of a target's own domains; with the near ones where they are smaller than the budget."""
    known = json.loads((data / "truth" / "target_domains.json").read_text("utf-8"))["targets"][name]
    domains = known["in_domain"] + (known["near"] if known["in_domain_bytes"] < ENOUGH else [])
    return [data / "pool" / f"{domain}.jsonl.zst" for domain in domains]


def ladder(data: Path, fit: Path) -> tuple[Path, Path]:
    """Return the losses of a sample of the pool under each of MODELS, and their abilities: -loss on the target."""
    folder = FOLDER / "models"
    models: list[object] = []
    for name, domains in MODELS.items():
        files = [data / "pool" / f"{domain}.jsonl.zst" for domain in domains]
        dselect("lm", *files, "--order", 5, "-q", "-o", folder / f"{name}.lm")
        models += ["--model", f"{name}={folder / name}.lm"]
    dselect("select", data / "pool", "--keep", "10MB", "--seed", 8, "-q", "-o", folder / "sample.jsonl.zst")
    dselect("loss", folder / "sample.jsonl.zst", *models, "-q", "-o", folder / "losses.jsonl.zst")
    lines = dselect("loss", fit, *models, "-q", "-o", "-").split("\n")  # splitlines() would cut at U+2028 too
    records = [json.loads(line) for line in lines if line]
    sizes = [len(record["text"].encode()) for record in records]
    scores = {name: -np.average([record[f"loss_{name}"] for record in records], weights=sizes) for name in MODELS}
    abilities = fit.parent / "abilities.csv"
    abilities.write_text("model,score\n" + "".join(f"{name},{score}\n" for name, score in scores.items()), "utf-8")
    return folder / "losses.jsonl.zst", abilities


def judgments(data: Path) -> Path:
    """Return judgments which of two texts is easier to read, from grades that teachers' judgments gave."""
    path = FOLDER / "judgments.jsonl.zst"
    graded = data / "truth" / "clear_readability.jsonl.zst"
    dselect("judge", graded, "--pairs", 20_000, "--from-field", "bt_easiness", "--soft", 1, "-q", "-o", path)
    return path


def select(data: Path, name: str, fit: Path) -> dict[str, Path]:
    """Select by half of a target in every way; return the files."""
    losses, abilities = ladder(data, fit)
    files: dict[str, list[object]] = {"POOL": [data / "pool"], "FIT": [fit], "DOMAINS": [*in_domain(data, name)]}
    files |= {"LOSSES": [losses], "ABILITIES": [abilities], "JUDGMENTS": [judgments(data)]}
    return select_all(SELECTIONS | MORE, files, fit.parent)


def select_mixed(data: Path, fit: Path) -> dict[str, Path]:
    """Select by the halves of all targets together; return the files."""
    folder = fit.parent
    scored, clustered, model = folder / "scored.jsonl.zst", folder / "clustered.jsonl.zst", folder / "clusters"
    dselect("dsir", data / "pool", "--target", fit, "-q", "-o", scored)
    dselect("kmeans", scored, "--clusters", 256, "--save", model, "-q", "-o", clustered)
    files: dict[str, list[object]] = {"POOL": [data / "pool"], "FIT": [fit], "lm:FIT": [f"lm:{fit}"]}
    return select_all(MIXED, files | {"CLUSTERED": [clustered], "MODEL": [model]}, folder)


def select_all(ways: dict[str, str], files: dict[str, list[object]], folder: Path) -> dict[str, Path]:
    """Select in every way of a table; files: what its words in capitals stand for. Return the selections."""
    made = {}
    for way, line in ways.items():
        path, new = folder / f"{way}.jsonl.zst", folder / f"new-{way}.jsonl.zst"
        command = [word for part in line.split() for word in files.get(part, [part])]
        dselect(*command, "--keep", f"{ENOUGH}B", "--force", "-q", "-o", new)
        replace_if_changed(path, new)
        made[way] = path
        files[f"{{{way}}}"] = [path]
    return made


def judged(way: str, path: Path, heldout: Path, judge: str) -> Path:
    """Return the report of a judge on a selection, made unless it is newer than both files and of the same options."""
    report = path.parent / judge / f"{way}.json"
    report.parent.mkdir(exist_ok=True)
    options = ["--target", heldout, "--budget", BUDGET, "--jobs", 1, *JUDGES[judge]]
    if not report.exists() or report.stat().st_mtime < max(path.stat().st_mtime, heldout.stat().st_mtime):
        dselect("eval", path, *options, "--within", "source", "-q", "--json", report)
    return report


def agreement(reports: dict[str, list[Path]]) -> str:
    """Return how alike the judges rank the selections."""
    found = {
        judge: [json.loads(path.read_text("utf-8"))["selections"][0] for path in paths]
        for judge, paths in reports.items()
    }
    first, second = (np.array([row["bits_per_byte"] for row in rows]) for rows in found.values())
    pairs = list(itertools.combinations(range(len(first)), 2))
    kendall = np.mean([np.sign((first[i] - first[j]) * (second[i] - second[j])) for i, j in pairs])
    return f"{len(first)} selections: Spearman {spearman(first, second):+.2f}, Kendall {kendall:+.2f}"


def written(page: str, mark: str, text: str) -> str:
    """Return the page with a text in the fence below a mark."""
    before, found, after = page.partition(f"<!-- {mark} -->\n```text\n")
    if not found:
        raise SystemExit(f"{PAGE} has no place for {mark}")
    return before + found + text.rstrip() + after[after.index("\n```\n") :]


def evaluate(data: Path, name: str, judges: list[str]) -> None:
    """Write the tables of a target into the page."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    fit, heldout = halves(data / "targets" / f"{name}.jsonl.zst", folder)
    judge_all(name, select(data, name, fit), heldout, judges)


def evaluate_mixed(data: Path, judges: list[str]) -> None:
    """Write the tables of all targets together into the page: the same amount of each, of either half."""
    folder = FOLDER / "mixed"
    parts = []
    for name in TARGETS:
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
        parts.append(halves(data / "targets" / f"{name}.jsonl.zst", FOLDER / name))
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "fit.jsonl.zst", folder / "heldout.jsonl.zst"
    for path, files in zip(paths, zip(*parts, strict=True), strict=True):
        new = folder / f"new-{path.name}"
        budget = ["--keep", f"{SHARE}B", "--seed", 9, "-q"]
        new.write_bytes(zstandard.compress("".join(dselect("select", file, *budget) for file in files).encode()))
        replace_if_changed(path, new)
    judge_all("mixed", select_mixed(data, paths[0]), paths[1], judges)


def judge_all(name: str, made: dict[str, Path], heldout: Path, judges: list[str]) -> None:
    """Judge the selections of a target, and write the tables into the page."""
    reports: dict[str, list[Path]] = {}
    for judge in judges:
        with ThreadPoolExecutor(usable_cpus()) as workers:  # a process each
            work = [workers.submit(judged, way, path, heldout, judge) for way, path in made.items()]
        reports[judge] = [one.result() for one in work]
        options = ["--target", heldout, "--budget", BUDGET, *JUDGES[judge], "--baseline", reports[judge][0], "-q"]
        table = dselect("eval", *reports[judge], *options)
        print(table, flush=True)
        PAGE.write_text(written(PAGE.read_text("utf-8"), f"{name} {judge}", table), "utf-8")
    if len(reports) == 2:
        PAGE.write_text(written(PAGE.read_text("utf-8"), f"{name} agreement", agreement(reports)), "utf-8")


def main() -> None:
    """Evaluate on all targets with the judges that are asked for: ngram, transformer, or both where torch is there."""
    data, asked = Path(sys.argv[1]), sys.argv[2]
    both = importlib.util.find_spec("torch") is not None
    judges = [asked] if asked != "both" else [judge for judge in JUDGES if judge == "ngram" or both]
    for name in TARGETS:
        evaluate(data, name, judges)
    evaluate_mixed(data, judges)


if __name__ == "__main__":
    main()
