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
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from dselect.console import size, table
from dselect.records.reading import chunks, discover

FOLDER = Path("build/demo")
MOST = 600_000  # characters of a domain: the demo stays quick
KEEP = "5%B"

Texts = Iterable[tuple[str, str]]  # (name, text)
Records = list[dict[str, Any]]


def files(module: str, pattern: str) -> Texts:
    """Yield the files beside a module and below, in a random order that is always the same."""
    root = Path(importlib.import_module(module).__file__ or "").parent
    paths = sorted(path for path in root.rglob(pattern) if "site-packages" not in path.relative_to(root).parts)
    random.Random(0).shuffle(paths)
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
    for name, code in files("numpy", "*.py"):
        nodes = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
        yield name, "\n\n".join(filter(None, map(ast.get_docstring, nodes)))


def licences() -> Texts:
    """Yield the licences of the installed packages, each text once."""
    seen = set()
    for path in (path for package in metadata.distributions() for path in package.files or ()):
        if re.match("licen[cs]e|copying|notice", path.name, re.IGNORECASE) and Path(path.locate()).is_file():
            text = Path(path.locate()).read_text("utf-8", errors="ignore")
            if text not in seen:
                yield path.as_posix(), text
            seen.add(text)


def descriptions() -> Texts:
    """Yield what the installed packages say about themselves."""
    return ((package.name, str(package.metadata.get_payload())) for package in metadata.distributions())


def characters() -> Texts:
    """Yield the names of Unicode's characters, 256 a text."""
    for block in range(0, 0x20000, 256):
        names = [unicodedata.name(chr(code), "") for code in range(block, block + 256)]
        yield f"{block:05x}", "\n".join(filter(None, names))


# The first of these that is there is the target: some distributions of Python leave parts out.
DOMAINS: dict[str, tuple[str, Callable[[], Texts]]] = {
    "reference": ("topics of the Python language reference, as help() shows them", reference),
    "licences": ("licences of packages", licences),
    "docstrings": ("docstrings of numpy", docstrings),
    "descriptions": ("descriptions of packages", descriptions),
    "code": ("Python code of the standard library", lambda: files("ast", "*.py")),
    "headers": ("C headers of numpy", lambda: files("numpy", "*.h")),
    "stubs": ("type stubs of numpy", lambda: files("numpy", "*.pyi")),
    "characters": ("names of Unicode characters", characters),
}


def lay_out() -> tuple[str, int]:
    """Write text/DOMAIN/…, target/… and test/…; return the target's domain and how many domains there are."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    wanted = ""
    for domain, (_, source) in DOMAINS.items():
        written = 0
        try:
            texts = [(name, text) for name, text in source() if text.strip()]
        except (ImportError, OSError, SyntaxError):
            continue
        wanted = wanted or (domain if len(texts) >= 20 else "")
        for number, (name, text) in enumerate(texts):
            held_out = {0: "target", 1: "test"}.get(number % 4) if domain == wanted else None
            path = FOLDER / (held_out or f"text/{domain}") / f"{name.replace('/', '.')}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
            written += len(text)
            if written > MOST:
                break
    found = len(list((FOLDER / "text").iterdir()))
    if not wanted or found < 3:
        sys.exit("demo: this Python installation holds too little text")
    return wanted, found


def dselect(*arguments: str) -> None:
    """Show a command and run it in the demo's folder."""
    print("$ dselect", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "dselect", *arguments], cwd=FOLDER, check=True)


def read(name: str) -> Records:
    """Return the records of a file."""
    return [orjson.loads(line) for line in b"".join(chunks(discover([str(FOLDER / name)])[0])).splitlines()]


def shares(records: Records) -> dict[str, float]:
    """Return each source's share of the bytes."""
    sizes: Counter[str] = Counter()
    for record in records:
        sizes[record["source"]] += len(record["text"].encode())
    return {source: count / sizes.total() for source, count in sizes.items()}


def bits_per_word(training: Records, test: Records, distinct: int) -> float:
    """Return the cross-entropy of a test text under the simplest language model: counts of single words, add one."""
    seen, wanted = count_words(training), count_words(test)
    total = seen.total() + distinct
    return sum(count * math.log2(total / (seen[word] + 1)) for word, count in wanted.items()) / wanted.total()


def count_words(records: Records) -> Counter[str]:
    """Return how often each word occurs."""
    return Counter(word for record in records for word in re.findall(r"\w+", record["text"].lower()))


def show_domains(wanted: str) -> None:
    """Print what the pool, the selection and a random selection consist of, and what that says."""
    pool, picked, drawn = (shares(read(f"{name}.jsonl.zst")) for name in ("pool", "picked", "random"))
    rows = [
        [f"{domain}: {DOMAINS[domain][0]}", *(f"{100 * found.get(domain, 0):.1f}%" for found in (pool, picked, drawn))]
        for domain in sorted(pool, key=lambda domain: -picked.get(domain, 0))
    ]
    print(table("", ["share of the bytes", "pool", "picked", "random"], rows))
    ...


def main() -> None:
    """Make the files, run the commands, show what came out."""
    wanted, domains = lay_out()
    what = DOMAINS[wanted][0]
    print(f"A pool of {domains} kinds of text that this Python installation holds, and a target: {what}.")
    print(f"A quarter of these is the target, a quarter is kept for the test below, half hides in the pool as {wanted}.\n")
    print(f"$ cd {FOLDER}")
    dselect("corpus", "text", "--split", "4000", "-o", "pool.jsonl.zst")
    dselect("corpus", "target", "--split", "4000", "-o", "target.jsonl.zst")
    dselect("dsir", "pool.jsonl.zst", "--target", "target.jsonl.zst", "--keep", KEEP, "-o", "picked.jsonl.zst")
    dselect("select", "pool.jsonl.zst", "--keep", KEEP, "--seed", "1", "-o", "random.jsonl.zst")
    dselect("dsir", "pool.jsonl.zst", "--target", "target.jsonl.zst", "-o", "scored.jsonl.zst")
    dselect("corpus", "test", "--split", "4000", "-o", "test.jsonl.zst")
    print()
    show_domains(wanted)
    test, picked, drawn = read("test.jsonl.zst"), read("picked.jsonl.zst"), read("random.jsonl.zst")
    distinct = len(count_words(read("pool.jsonl.zst") + test))
    print(bits_per_word(picked, test, distinct), bits_per_word(drawn, test, distinct))


if __name__ == "__main__":
    main()
