"""Do the selections help? Select for real targets, train on each selection, test on the other half of each target.

`make evaluation DATA=FOLDER` runs this and writes the tables into docs/evaluation.md. The folder holds
pool/*.jsonl.zst, one file a domain; targets/NAME.jsonl.zst; and truth/target_domains.json, which says which domains are
of a target's kind.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
from pathlib import Path

import orjson
import zstandard

from dselect.records.reading import chunks, discover

PAGE = Path(__file__).parent / "evaluation.md"
FOLDER = Path("build/evaluation")
TARGETS = ["humaneval", "gsm8k_test", "proofnet_valid", "pubmedqa"]
ENOUGH, BUDGET = 2_100_000, "2MB"  # selections hold a little more than is trained on, so that seeds differ


def dselect(*arguments: object) -> str:
    """Run a command, show it, return what it printed."""
    command = [str(argument) for argument in arguments]
    print("dselect", shlex.join(command), flush=True)
    done = subprocess.run([sys.executable, "-m", "dselect", *command], stdout=subprocess.PIPE, check=True, text=True)
    return done.stdout


def halves(target: Path, folder: Path) -> tuple[Path, Path]:
    """Write the half of a target to select by, and the half to test on; a text's hash decides."""
    lines = b"".join(chunks(discover([str(target)])[0])).split(b"\n")
    records = sorted((line for line in lines if line), key=lambda line: text_hash(orjson.loads(line)["text"]))
    paths = folder / "fit.jsonl.zst", folder / "heldout.jsonl.zst"
    for number, path in enumerate(paths):
        half = records[: len(records) // 2] if number == 0 else records[len(records) // 2 :]
        path.write_bytes(zstandard.compress(b"\n".join(half) + b"\n"))
    return paths


def text_hash(text: str) -> bytes:
    """Return a hash that orders texts by chance."""
    return hashlib.blake2b(text.encode()).digest()


def in_domain(data: Path, name: str) -> list[Path]:
    """Return the files of a target's own domains; with the near ones where they are smaller than the budget."""
    known = json.loads((data / "truth" / "target_domains.json").read_text("utf-8"))["targets"][name]
    domains = known["in_domain"] + (known["near"] if known["in_domain_bytes"] < ENOUGH else [])
    return [data / "pool" / f"{domain}.jsonl.zst" for domain in domains]


def evaluate(data: Path, name: str, judge: list[str]) -> str:
    """Select by half of a target in every way, and return the judge's table on the other half."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    fit, heldout = halves(data / "targets" / f"{name}.jsonl.zst", folder)
    keep = ["--keep", f"{ENOUGH}B", "-q", "-o"]
    made = {
        way: folder / f"{way}.jsonl.zst"
        for way in ("random", "dsir_paper", "dsir_sum", "in_domain", "dsir", "contrast", "ncd", "zipfit_gzip", "zipfit")
    }
    pool = data / "pool"
    dselect("select", pool, "--seed", 1, *keep, made["random"])
    dselect("dsir", pool, "--target", fit, "--length", "sum", "--smoothing", 0, *keep, made["dsir_paper"])
    dselect("dsir", pool, "--target", fit, "--length", "sum", *keep, made["dsir_sum"])
    dselect("select", *in_domain(data, name), "--seed", 1, *keep, made["in_domain"])
    dselect("dsir", pool, "--target", fit, *keep, made["dsir"])
    dselect("contrast", pool, "--target", fit, *keep, made["contrast"])
    few = ["--target-sample", 16]  # gzip is slow: with the default, 64, this page would take an hour
    dselect("zipfit", pool, "--target", fit, "--score", "ncd", *few, *keep, made["ncd"])
    dselect("zipfit", pool, "--target", fit, "--compressor", "gzip:6", *few, *keep, made["zipfit_gzip"])
    dselect("zipfit", pool, "--target", fit, *keep, made["zipfit"])
    compared = [*made.values(), "--target", heldout, "--budget", BUDGET, "--baseline", made["random"]]
    return dselect("eval", *compared, "--within", "source", "-q", *judge)


def main() -> None:
    """Write the tables of the targets into the page."""
    data, judge = Path(sys.argv[1]), sys.argv[2:]
    page = PAGE.read_text("utf-8")
    for name in TARGETS:
        found = evaluate(data, name, judge)
        print(found, flush=True)
        before, mark, after = page.partition(f"<!-- {' '.join([name, *judge])} -->\n```text\n")
        page = before + mark + found.rstrip() + after[after.index("\n```\n") :]
        PAGE.write_text(page, "utf-8")


if __name__ == "__main__":
    main()
