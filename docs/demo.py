"""Show in a minute what dselect does, on text that every Python installation holds. `make demo` runs this."""

from __future__ import annotations

import ast
import importlib
import math
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from dselect.console import table
from dselect.records.decompression import chunks
from dselect.records.sources import discover

FOLDER = Path("build/demo")
MOST = 600_000  # characters of a domain: the demo stays quick
STANDARD_LIBRARY, NUMPY = Path(sysconfig.get_path("stdlib")), Path(np.__file__).parent

Texts = Iterable[tuple[str, str]]  # (name, text)
Records = list[dict[str, Any]]


def files(root: Path, pattern: str) -> Texts:
    """Yield the files below a folder, in a random order that is always the same."""
    paths = sorted(path for path in root.rglob(pattern) if "site-packages" not in path.relative_to(root).parts)
    random.Random(0).shuffle(paths)  # noqa: S311  an order, not a secret
    return ((path.relative_to(root).as_posix(), path.read_text("utf-8", errors="ignore")) for path in paths)


def reference() -> Texts:
    """Yield the topics of help(), each paragraph once: some topics repeat others."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    seen: set[str] = set()
    for name, text in sorted(topics.items(), key=lambda topic: -len(topic[1])):
        fresh = [paragraph for paragraph in text.split("\n\n") if paragraph not in seen]
        seen.update(fresh)
        if len(fresh) > 3:
            yield name, "\n\n".join(fresh)


def docstrings() -> Texts:
    """Yield what the modules of numpy say about themselves, their classes and functions."""
    for name, code in files(NUMPY, "*.py"):
        nodes = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
        yield name, "\n\n".join(filter(None, map(ast.get_docstring, nodes)))


def licences() -> Texts:
    """Yield the licences of the installed packages, each text once."""
    found = {}
    for path in (path for package in metadata.distributions() for path in package.files or ()):
        if re.match("licen[cs]e|copying|notice", path.name, re.IGNORECASE) and Path(path.locate()).is_file():
            found[Path(path.locate()).read_text("utf-8", errors="ignore")] = path.as_posix()
    return ((name, text) for text, name in found.items())


def descriptions() -> Texts:
    """Yield what the installed packages say about themselves."""
    return ((package.name, str(package.metadata.json.get("description", ""))) for package in metadata.distributions())


def characters() -> Texts:
    """Yield the names of Unicode's characters, 256 a text."""
    for block in range(0, 0x20000, 256):
        names = [unicodedata.name(chr(code), "") for code in range(block, block + 256)]
        yield f"{block:05x}", "\n".join(filter(None, names))


# The first of these with enough texts is the target: some distributions of Python leave parts out.
DOMAINS: dict[str, tuple[str, Callable[[], Texts]]] = {
    "reference": ("topics of the Python language reference, as help() shows them", reference),
    "licences": ("licences of packages", licences),
    "docstrings": ("docstrings of numpy", docstrings),
    "descriptions": ("descriptions of packages", descriptions),
    "code": ("Python code of the standard library", lambda: files(STANDARD_LIBRARY, "*.py")),
    "headers": ("C headers of numpy", lambda: files(NUMPY, "*.h")),
    "stubs": ("type stubs of numpy", lambda: files(NUMPY, "*.pyi")),
    "characters": ("names of Unicode characters", characters),
}


def some(source: Callable[[], Texts]) -> list[tuple[str, str]]:
    """Return the first texts of a source; none where this installation lacks it."""
    texts: list[tuple[str, str]] = []
    with suppress(ImportError, OSError, SyntaxError):
        for name, text in source():
            if sum(len(text) for _, text in texts) > MOST:
                break
            if text.strip():
                texts.append((name, text))
    return texts


def lay_out() -> str:
    """Write text/DOMAIN/…, target/… and test/…; return the domain that the target is of."""
    found = {domain: texts for domain, (_, source) in DOMAINS.items() if (texts := some(source))}
    wanted = next((domain for domain, texts in found.items() if len(texts) >= 20), "")
    if not wanted or len(found) < 3:
        sys.exit("demo: this Python installation holds too little text")
    shutil.rmtree(FOLDER, ignore_errors=True)
    for domain, texts in found.items():
        for number, (name, text) in enumerate(texts):
            held_out = {0: "target", 1: "test"}.get(number % 4) if domain == wanted else None
            path = FOLDER / (held_out or f"text/{domain}") / name.replace("/", ".").strip(".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    return wanted


def dselect(command: str) -> None:
    """Show a command, run it in the demo's folder, show what it says."""
    print("$ dselect", command)
    program = (sys.executable, "-m", "dselect", *command.split())
    done = subprocess.run(program, cwd=FOLDER, stderr=subprocess.PIPE, text=True, check=False)
    print(textwrap.fill(done.stderr, 98, initial_indent="  ", subsequent_indent="    "), flush=True)
    if done.returncode:
        sys.exit(done.returncode)


def read(name: str) -> Records:
    """Return the records of a file."""
    source = discover([str(FOLDER / f"{name}.jsonl.zst")])[0]
    return [orjson.loads(line) for line in b"".join(chunks(source)).splitlines()]


def shares(records: Records) -> dict[str, float]:
    """Return each source's share of the bytes."""
    sizes: Counter[str] = Counter()
    for record in records:
        sizes[record["source"]] += len(record["text"].encode())
    return {source: size / sizes.total() for source, size in sizes.items()}


def count_words(records: Records) -> Counter[str]:
    """Return how often each word occurs."""
    return Counter(word for record in records for word in re.findall(r"\w+", record["text"].lower()))


def bits_per_word(training: Counter[str], test: Counter[str], distinct: int) -> float:
    """Return the cross-entropy of a test text under the simplest language model: counts of single words, add one."""
    total = training.total() + distinct
    return sum(count * math.log2(total / (training[word] + 1)) for word, count in test.items()) / test.total()


def show_ranking(scored: Records, kept: int) -> None:
    """Print how the scores of the pool are spread, and texts from all along the ranking."""
    best_first = sorted(scored, key=lambda record: -record["dsir"])
    low, tenth, half, ninety, high = np.quantile([record["dsir"] for record in scored], [0, 0.1, 0.5, 0.9, 1])
    spread = f"min {low:.2f}, 10% {tenth:.2f}, median {half:.2f}, 90% {ninety:.2f}, max {high:.2f}"
    print(f"\nScores in the pool: {spread}; lowest picked {best_first[kept - 1]['dsir']:.2f}")
    places = {"best": 0, "second": 1, "last picked": kept - 1, "first left out": kept, "median": len(scored) // 2}
    for place, position in places.items():
        record = best_first[position]
        name = re.sub(r"(.{16}).+(.{17})", r"\1…\2", record["id"])
        print(f"  {place:14}  {record['dsir']:5.2f}  {name:34}  {' '.join(record['text'].split())[:38].rstrip()}")


def main() -> None:
    """Make the files, run the commands, show what came out."""
    wanted = lay_out()
    print("The pool is text of many kinds that this Python installation holds.")
    print(f"The target: {DOMAINS[wanted][0]}.")
    print("A quarter of them is given as the target, a quarter is kept for a test, half is in the pool.")
    print(f"\n$ cd {FOLDER}")
    for name in ("text -o pool", "target -o target", "test -o test"):
        dselect(f"corpus --split 2000 {name}.jsonl.zst")
    dselect("dsir pool.jsonl.zst --target target.jsonl.zst --keep 4%B -o picked.jsonl.zst")
    dselect("select pool.jsonl.zst --keep 4%B --seed 1 -o random.jsonl.zst")
    dselect("dsir pool.jsonl.zst --target target.jsonl.zst -o scored.jsonl.zst")
    pool, picked, chance, test = map(read, ("pool", "picked", "random", "test"))
    columns = [shares(records) for records in (pool, picked, chance)]
    domains = sorted(columns[0], key=lambda domain: -columns[1].get(domain, 0))
    rows = [[f"{d}: {DOMAINS[d][0]}", *(f"{column.get(d, 0):.1%}" for column in columns)] for d in domains]
    print("", table("", ["share of the bytes", "pool", "picked", "random"], rows), sep="\n")
    show_ranking(read("scored"), len(picked))
    before, after, drawn = (f"{column.get(wanted, 0):.1%}" for column in columns)
    print(f"\nThe target's kind is {before} of the pool, {after} of what dsir picked, {drawn} of a random draw.")
    words = count_words(test)
    distinct = len(count_words(pool) | words)
    good, plain = (bits_per_word(count_words(records), words, distinct) for records in (picked, chance))
    print("A test that does not use the score: a model of single words, fitted on what dsir picked, needs")
    print(f"{good:.2f} bits a word for the quarter that was kept; fitted on the random draw, {plain:.2f}.")
    print(f"The selection is {FOLDER}/picked.jsonl.zst.")


if __name__ == "__main__":
    main()
