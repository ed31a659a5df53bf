"""Lay out what a sweep starts from: a pool, and targets in two halves. `make sweep` runs this, and then the sweep.

Without a folder: the text that Python itself brings, as in demo.py. With one, as for evaluation.py: real text.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import demo
import evaluation

FOLDER = Path("build/sweep")
REAL_TARGETS = ("humaneval", "gsm8k_test")
TARGETS = 2


def lay_out_demo(folder: Path) -> None:
    """Write a pool file for each domain; of two domains, a quarter each to fit on and to test on."""
    found = {domain: texts for domain, (_, source) in demo.DOMAINS.items() if (texts := demo.some(source))}
    wanted = [domain for domain, texts in found.items() if len(texts) >= 20][:TARGETS]
    if len(wanted) < TARGETS or len(found) < 3:
        sys.exit("sweep: this Python installation holds too little text")
    shutil.rmtree(folder, ignore_errors=True)
    for domain, texts in found.items():
        for number, (name, text) in enumerate(texts):
            part = {0: "fit", 1: "heldout"}.get(number % 4, "pool") if domain in wanted else "pool"
            path = folder / "text" / part / domain / name.replace("/", ".").strip(".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    for path in sorted((folder / "text").glob("*/*")):
        made = folder / path.parent.name / f"{path.name}.jsonl.zst"
        evaluation.dselect("corpus", path, "--source", path.name, "--split", 2000, "-q", "-o", made)


def lay_out_real(data: Path, folder: Path) -> None:
    """Link the files of the pool; cut the targets into halves."""
    (folder / "pool").mkdir(parents=True, exist_ok=True)
    for path in sorted((data / "pool").glob("*.jsonl.zst")):
        link = folder / "pool" / path.name
        if not link.exists():
            link.symlink_to(path.resolve())
    for name in REAL_TARGETS:
        halves = folder / "halves" / name
        halves.mkdir(parents=True, exist_ok=True)
        for half in evaluation.halves(data / "targets" / f"{name}.jsonl.zst", halves):
            link = folder / half.name.removesuffix(".jsonl.zst") / f"{name}.jsonl.zst"
            link.parent.mkdir(exist_ok=True)
            if not link.exists():
                link.symlink_to(half.resolve())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        lay_out_real(Path(sys.argv[1]), FOLDER / "real")
    elif not (FOLDER / "demo" / "heldout").exists():
        lay_out_demo(FOLDER / "demo")
