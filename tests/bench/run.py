"""Measure dselect beside the floor and the reference implementations: one run, ratios, medians. `make bench` runs this.

    python tests/bench/run.py [--data DIR] [--official PYTHON] [--large GB] [--repeat N]

Every row is timed in turn, again and again, so that what else the machine does falls on all of them alike.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
import zstandard

from dselect.console import table
from dselect.records.decompression import chunks
from dselect.records.sources import discover

HERE = Path(__file__).parent
DSELECT = [sys.executable, "-m", "dselect"]
KERNELS = [sys.executable, str(HERE / "kernels.py")]
FLOOR = [sys.executable, str(HERE / "floor.py")]


@dataclass
class Measured:
    """What runs of one command took."""

    seconds: list[float] = field(default_factory=list)
    memory: int = 0  # bytes, proportional set size of all its processes, the largest seen
    said: list[str] = field(default_factory=list)  # what each run printed

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def proportional_memory(pid: int) -> int:
    """Return the proportional set size of a process and all below it, in bytes."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text("ascii").split():
                total += proportional_memory(int(child))
    except OSError:
        pass
    return total


def measure(command: list[str], into: Measured, folder: Path) -> None:
    """Run a command once, watching its memory."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            into.memory = max(into.memory, proportional_memory(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, error = process.communicate()
    done.set()
    watcher.join()
    into.seconds.append(time.perf_counter() - began)
    into.said.append(out)
    if process.returncode:
        sys.exit(f"{' '.join(command)}\n{error}")


def in_turn(commands: dict[str, list[str]], repeat: int, folder: Path) -> dict[str, Measured]:
    """Run every command in turn, `repeat` times over."""
    found = {name: Measured() for name in commands}
    for _ in range(repeat):
        for name, command in commands.items():
            measure(command, found[name], folder)
    return found


def grow(paths: list[Path], folder: Path, size: float) -> list[str]:
    """Write copies of the pool until its text is at least `size` bytes; ids differ from copy to copy."""
    folder.mkdir()
    held = copy = 0
    while held < size:
        for path in paths:
            source = discover([str(path)])[0]
            lines = b"".join(chunks(source)).splitlines()
            records = [orjson.loads(line) for line in lines]
            held += sum(len(record["text"].encode()) for record in records)
            data = b"".join(orjson.dumps({**r, "id": f"{copy}-{r.get('id')}"}) + b"\n" for r in records)
            (folder / f"{copy:03d}-{path.name}").write_bytes(zstandard.compress(data, 3))
            if held >= size:
                break
        copy += 1
    return [str(path) for path in sorted(folder.iterdir())]


def text_bytes(paths: list[str]) -> int:
    """Return the bytes of text in files."""
    return sum(
        len(orjson.loads(line)["text"].encode())
        for path in paths
        for line in b"".join(chunks(discover([path])[0])).splitlines()
    )


def plain(paths: list[str], target: Path) -> str:
    """Write records uncompressed into one file, as the official package wants them."""
    with target.open("wb") as out:
        for path in paths:
            for line in b"".join(chunks(discover([path])[0])).splitlines():
                out.write(line + b"\n")
    return str(target)


def find_data(given: str | None) -> tuple[list[Path], Path]:
    """Return the pool's files and a target: real corpora where there are any, else the demo's."""
    data = Path(given) if given else HERE.parents[2] / "shared" / "data"
    if (data / "pool").is_dir():
        return sorted((data / "pool").glob("*.jsonl.zst")), data / "targets" / "humaneval.jsonl.zst"
    demo = HERE.parents[1] / "build" / "demo"
    if not (demo / "pool.jsonl.zst").is_file():
        sys.exit("bench: no corpora here; `make demo` makes a small pool")
    return [demo / "pool.jsonl.zst"], demo / "target.jsonl.zst"


def main() -> None:
    """Measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder with pool/ and targets/")
    parser.add_argument("--official", help="a Python with data-selection and zip-fit installed")
    parser.add_argument("--large", type=float, default=1.0, help="size of the large pool in GB; the next is twice that")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--page", type=Path, help="a page that the table is written into too")
    options = parser.parse_args()
    if options.official:
        options.official = os.path.abspath(options.official)  # noqa: PTH100  not resolve(): a venv is known by its link
    paths, target = find_data(options.data)
    folder = Path(tempfile.mkdtemp(prefix="dselect-bench-", dir=os.environ.get("TMPDIR")))
    try:
        rows = bench(options, paths, target, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    how = (
        f"{os.cpu_count()} CPUs, {processor()}; medians of {options.repeat}, every command in turn; MB of text, decimal"
    )
    shown = f"{how}\n{table('', ['what', 'seconds', 'MB/s', 'peak MB', 'ratio', 'of'], rows)}"
    print(shown)
    if options.page:
        write_into(options.page, "bench", shown)


def write_into(page: Path, name: str, shown: str) -> None:
    """Write a table into the place that a page has for it."""
    before, mark, after = page.read_text("utf-8").partition(f"<!-- {name} -->\n```text\n")
    if not mark:
        sys.exit(f"{page} has no place for the table")
    after = f"\n{after}"  # the table may be empty yet
    page.write_text(before + mark + shown + after[after.index("\n```\n") :], "utf-8")


def processor() -> str:
    """Return what Linux calls the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


def bench(options: argparse.Namespace, paths: list[Path], target: Path, folder: Path) -> list[list[str]]:
    """Run everything and return the rows of the table."""
    rows: list[list[str]] = []

    def row(what: str, found: Measured, size: float, ratio: float | None = None, of: str = "") -> None:
        shown = "" if ratio is None else f"{ratio:.2f}"
        speed, memory = size / found.median / 1e6, found.memory / 1e6
        rows.append([what, f"{found.median:.2f}", f"{speed:.1f}", f"{memory:.0f}", shown, of])
        print(*rows[-1], sep="  ", file=sys.stderr, flush=True)

    small = [str(path) for path in paths]
    large = grow(paths, folder / "large", options.large * 1e9)
    size = text_bytes(large)
    (folder / "floor").mkdir()
    subprocess.run([*DSELECT, "dsir", *small, "-t", str(target), "--save", "model", "-q"], cwd=folder, check=True)
    score = [*DSELECT, "dsir", "large", "--model", "model", "-q", "--force"]
    subprocess.run([*score, "-o", "scored/"], cwd=folder, check=True)
    keep = [*DSELECT, "select", "scored", "--by", "dsir", "--keep", "10%", "-o", "kept.jsonl.zst", "-q", "--force"]
    found = in_turn(
        {
            "floor 2": [*FLOOR, "2", "floor", *large],
            "score 2": [*score, "-o", "scored/", "-j", "2"],
            "score 1": [*score, "-o", "scored/", "-j", "1"],
            "one file": [*score, "-o", "scored.jsonl.zst", "-j", "2"],
            "select": [*keep, "-j", "2"],
        },
        options.repeat,
        folder,
    )
    floor = found["floor 2"].median
    row("floor: decompress, parse, write; 2 jobs", found["floor 2"], size)
    row("dsir --model, to a folder, 2 jobs", found["score 2"], size, floor / found["score 2"].median, "floor")
    row("dsir --model, to one file, 2 jobs", found["one file"], size, floor / found["one file"].median, "floor")
    second = found["score 1"].median / found["score 2"].median
    row("dsir --model, 1 job", found["score 1"], size, second, "gained by the second job")
    row("select --keep 10%, 2 jobs", found["select"], size, floor / found["select"].median, "floor")

    twice = grow(paths, folder / "twice", 2 * options.large * 1e9)
    again = [*DSELECT, "dsir", "twice", "--model", "model", "-q", "-o", "scored2/", "-j", "2"]
    larger = in_turn({"score": again}, 1, folder)
    memory = larger["score"].memory / max(found["score 2"].memory, 1)
    row("dsir --model, a pool twice as large", larger["score"], text_bytes(twice), memory, "memory of the smaller")

    fit = [*DSELECT, "classify", *small, "--positive", str(target), "--save", "model.bin", "-q"]
    subprocess.run(fit, cwd=folder, check=True)
    classify = [*DSELECT, "classify", "large", "--model", "model.bin", "-q", "--force", "-o", "classified/", "-j", "2"]
    found = in_turn({"floor": [*FLOOR, "2", "floor", *large], "classify": classify}, options.repeat, folder)
    ratio = found["floor"].median / found["classify"].median
    row("classify --model, to a folder, 2 jobs", found["classify"], size, ratio, "floor")
    beside_fasttext(options, small, folder, row)
    beside_faiss(options, small, folder, row)
    language_model(options, small, folder, row)

    if options.official:
        beside_official(options, small, large, target, folder, row)
        beside_zipfit(options, small, target, folder, row)
    return rows


def language_model(options: argparse.Namespace, pool: list[str], folder: Path, row: Callable[..., None]) -> None:
    """Measure a fit of order 6 to some 10 MB of the pool, and the scoring of other 10 MB, one process each."""
    for name, seed in (("fit", "1"), ("new", "2")):
        draw = [*DSELECT, "select", *pool, "--keep", "10MB", "--seed", seed, "-q", "-o", f"{name}.jsonl.zst"]
        subprocess.run(draw, cwd=folder, check=True)
    fit = [*DSELECT, "lm", "fit.jsonl.zst", "--order", "6", "-o", "fit.lm", "-j", "1", "-q", "--force"]
    loss = [*DSELECT, "loss", "new.jsonl.zst", "--model", "fit.lm", "-o", "loss.jsonl", "-j", "1", "-q", "--force"]
    found = in_turn({"lm": fit, "loss": loss}, options.repeat, folder)
    row("lm, order 6, the whole run, 1 job", found["lm"], text_bytes([str(folder / "fit.jsonl.zst")]))
    row("loss, model of 10 MB, the whole run, 1 job", found["loss"], text_bytes([str(folder / "new.jsonl.zst")]))
    commands = {"loss": [*KERNELS, "loss", "fit.lm", "new.jsonl.zst"]}
    kenlm = options.official and not subprocess.run([options.official, "-c", "import kenlm"], check=False).returncode
    if kenlm:
        texts = [plain([str(folder / f"{name}.jsonl.zst")], folder / f"{name}.jsonl") for name in ("fit", "new")]
        commands["kenlm"] = [options.official, str(HERE / "official_kenlm.py"), *texts, "fit.arpa"]
    speeds = scoring_alone(commands, options.repeat, folder)
    row("loss, scoring alone, CPU time", *speeds["loss"])
    if kenlm:
        ours, theirs = (speeds[name][1] / speeds[name][0].median for name in ("loss", "kenlm"))
        row("KenLM, the same n-grams, bytes as words", *speeds["kenlm"], theirs / ours, "loss, scoring alone")


def scoring_alone(commands: dict[str, list[str]], repeat: int, folder: Path) -> dict[str, tuple[Measured, int]]:
    """Run commands that print bytes and seconds of CPU; return these seconds, and the bytes."""
    found = {}
    for name, runs in in_turn(commands, repeat, folder).items():
        amount, seconds = zip(*(map(float, said.split()) for said in runs.said), strict=True)
        found[name] = (Measured(list(seconds), runs.memory), int(amount[0]))
    return found


def beside_faiss(options: argparse.Namespace, pool: list[str], folder: Path, row: Callable[..., None]) -> None:
    """Measure the default encoder, and clustering beside faiss called directly, in one thread: processor time."""
    import faiss

    from dselect.models.hashed import Hashed
    from dselect.models.kmeans import Clusters

    subprocess.run([*DSELECT, "embed", *pool, "--save", "encoder", "-q"], cwd=folder, check=True)
    encoder = Hashed.load(str(folder / "encoder"))
    texts = [
        orjson.loads(line)["text"].encode()
        for name in pool
        for line in b"".join(chunks(discover([name])[0])).splitlines()
    ]
    blocks = [texts[first : first + 300] for first in range(0, len(texts), 300)]
    encoder.encode(blocks[0])
    faiss.omp_set_num_threads(1)
    encoding, mine, theirs = Measured(), Measured(), Measured()
    for _ in range(options.repeat):
        began = time.process_time()
        vectors = np.concatenate([encoder.encode(block) for block in blocks])
        encoding.seconds.append(time.process_time() - began)
        part = vectors[: 256 * 256]
        began = time.process_time()
        Clusters().fit(part, 256, 0).assign(vectors)
        mine.seconds.append(time.process_time() - began)
        began = time.process_time()
        limits = {"min_points_per_centroid": 1, "max_points_per_centroid": len(part)}
        library = faiss.Kmeans(vectors.shape[1], 256, niter=25, seed=0, **limits)
        library.train(part)
        library.index.search(vectors, 1)
        theirs.seconds.append(time.process_time() - began)
    size = sum(map(len, texts))
    row("hashed encoder, in process", encoding, size)
    row("256 clusters fitted and assigned, in process", mine, size, mine.median / theirs.median, "faiss, by time")


def beside_fasttext(options: argparse.Namespace, pool: list[str], folder: Path, row: Callable[..., None]) -> None:
    """Measure the library's own predict and ours on a part of the pool, in this process: processor time."""
    import fasttext

    from dselect.models.fasttext import FastText, read

    few = Path(sample(pool, folder / "few-fasttext.jsonl", 4e6))
    texts = [orjson.loads(line)["text"].replace("\n", " ") for line in few.read_bytes().splitlines()]
    encoded = [text.encode() for text in texts]
    library, ours = (
        fasttext.load_model(str(folder / "model.bin")),
        FastText(read(str(folder / "model.bin")), "__label__1"),
    )
    theirs, mine = Measured(), Measured()
    for _ in range(options.repeat):
        began = time.process_time()
        for text in texts:
            library.f.predict(text + "\n", 2, 0.0, "strict")
        theirs.seconds.append(time.process_time() - began)
        began = time.process_time()
        for first in range(0, len(texts), 200):
            ours.probabilities(encoded[first : first + 200])
        mine.seconds.append(time.process_time() - began)
    size = sum(map(len, encoded))
    row("fastText's predict, in process", theirs, size)
    row("classify's kernel, in process", mine, size, theirs.median / mine.median, "fastText's predict")


def beside_official(
    options: argparse.Namespace, pool: list[str], large: list[str], target: Path, folder: Path, row: Callable[..., None]
) -> None:
    """Measure the official package on a part of the pool, and dselect on the large one, one process each."""
    few = sample(pool, folder / "few.jsonl", 8e6)
    amount, size = text_bytes([few]), text_bytes(large)
    plain_target = plain([str(target)], folder / "target.jsonl")
    official, whole, alone = Measured(), Measured(), Measured()
    fitting, scoring = [], []
    run = [*DSELECT, "dsir", "-q", "--force", "-j", "1", "-o", "out.jsonl", "large"]
    for _ in range(options.repeat):
        shutil.rmtree(folder / "cache", ignore_errors=True)
        script = str(HERE / "official_dsir.py")
        measure([options.official, script, few, plain_target, "cache", "1"], official, folder)
        fit, weigh = map(float, official.said[-1].split())
        fitting.append(fit)
        scoring.append(weigh)
        measure([*run, "-t", str(target)], whole, folder)
        measure([*run, "--model", "model"], alone, folder)
    kernel, scored = scoring_alone({"": [*KERNELS, "dsir", "model", *pool]}, options.repeat, folder)[""]
    row("official DSIR, whole run, 1 process", official, amount)
    theirs = amount / statistics.median(scoring)
    row("dsir --model, the whole run, 1 job", alone, size, size / alone.median / theirs, "official scoring, by MB/s")
    row("dsir, scoring alone, CPU time", kernel, scored, scored / kernel.median / theirs, "official scoring, by MB/s")
    theirs = amount / (statistics.median(fitting) + statistics.median(scoring))
    row("dsir, fit on all and score, 1 job", whole, size, size / whole.median / theirs, "official whole run, by MB/s")


def beside_zipfit(
    options: argparse.Namespace, pool: list[str], target: Path, folder: Path, row: Callable[..., None]
) -> None:
    """Measure the official ZIP-FIT and dselect's on a part of the pool and 64 target documents, one process each."""
    few, documents = (
        sample(pool, folder / "few-zipfit.jsonl", 32e6),
        plain([str(target)], folder / "zipfit-target.jsonl"),
    )
    lines = Path(documents).read_bytes().splitlines(keepends=True)
    Path(documents).write_bytes(b"".join(lines[:64]))
    ways = {"--score ncd": ["--score", "ncd"], "--compressor gzip:6": ["--compressor", "gzip:6"], "fast": []}
    commands = {"official": [options.official, str(HERE / "official_zipfit.py"), few, documents]}
    run = [*DSELECT, "zipfit", few, "-q", "--force", "-j", "1", "-o", "out.jsonl", "--model"]
    for name, way in ways.items():
        fit = [*DSELECT, "zipfit", few, "-t", documents, *way, "-q", "--save", f"{name}.zipfit"]
        subprocess.run(fit, cwd=folder, check=True)
        commands[name] = [*run, f"{name}.zipfit"]
    found, amount = in_turn(commands, options.repeat, folder), text_bytes([few])
    official = found.pop("official")
    row("official ZIP-FIT at gzip 6, 1 process", official, amount)
    for name, ours in found.items():
        row(f"zipfit --model, {name}, 1 job", ours, amount, official.median / ours.median, "official, whole runs")
    fit = [*DSELECT, "zipfit", "-q", "--force", "-j", "1", "-o", "out.jsonl", few, "-t"]
    larger = in_turn({"pool": [*fit, documents, *pool], "target": [*fit, str(target)]}, 1, folder)
    for name, size in (("pool", text_bytes([few, *pool])), ("target", amount)):
        memory = larger[name].memory / max(found["fast"].memory, 1)
        row(f"zipfit, a larger {name}, 1 job", larger[name], size, memory, "memory of the smaller")


def sample(paths: list[str], target: Path, size: float) -> str:
    """Write every k-th record of a pool, about `size` bytes: the official package would take hours for all of it."""
    records = [line for path in paths for line in b"".join(chunks(discover([path])[0])).splitlines()]
    step = max(1, int(sum(map(len, records)) // size))
    target.write_bytes(b"\n".join(records[::step]) + b"\n")
    return str(target)


if __name__ == "__main__":
    main()
