"""Measure time and memory over pools of 1, 2, 5 and 10 GB of text, one run each. `make bench-large` runs this.

    python tests/bench/large.py [--data DIR] [--sizes 1,2,5,10] [--work DIR] [--ray PYTHON] [--page PAGE --plot FILE]

The pool is the shared one again and again, its texts cut into pieces of some 100 bytes, put together in another order
each time: no two documents are alike, while the words, the lengths and the mixture stay as they are.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import orjson
import zstandard
from run import DSELECT, Measured, find_data, measure, processor, write_into

from dselect.console import table
from dselect.records.decompression import chunks
from dselect.records.sources import discover

_PIECE = 100  # bytes of text, about


def vary(text: str, draw: random.Random) -> str:
    """Return the text with its pieces in another order; a piece ends with white space where there is any."""
    pieces, first = [], 0
    while first < len(text):
        last = text.find(" ", first + _PIECE) + 1 or len(text)
        pieces.append(text[first:last])
        first = last
    draw.shuffle(pieces)
    return "".join(pieces)


def copy(path: Path, number: int, target: Path) -> int:
    """Write one varied copy of a file of the pool and return the bytes of its text."""
    draw = random.Random(f"{number} {path.name}")
    lines, held = [], 0
    for line in b"".join(chunks(discover([str(path)])[0])).splitlines():
        record = orjson.loads(line)
        record["id"], record["text"] = f"{number}-{record.get('id')}", vary(record["text"], draw)
        held += len(record["text"].encode())
        lines.append(orjson.dumps(record))
    target.write_bytes(zstandard.compress(b"\n".join(lines) + b"\n", 3))
    return held


def pools(paths: list[Path], sizes: list[float], folder: Path) -> dict[float, tuple[str, int]]:
    """Make one folder of links for each size (GB), over files that they share: its name, and its bytes of text."""
    files = folder / "files"
    files.mkdir()
    made: list[tuple[Path, int]] = []
    number, held = 0, 0
    with ProcessPoolExecutor(os.cpu_count()) as workers:
        while held < max(sizes) * 1e9:
            targets = [files / f"{number:03d}-{path.name}" for path in paths]
            amounts = list(workers.map(copy, paths, [number] * len(paths), targets))
            made += zip(targets, amounts, strict=True)
            held += sum(amounts)
            number += 1
    found = {}
    for size in sizes:
        name, held = f"pool-{size:g}", 0
        (folder / name).mkdir()
        for path, amount in made:
            if held < size * 1e9:
                (folder / name / path.name).symlink_to(path)
                held += amount
        found[size] = (name, held)
    return found


def commands(pool: str, size: float, target: Path) -> dict[str, list[str]]:
    """Return what is measured on a pool: name to command line, in the order in which they must run."""
    return {
        "dsir": ["dsir", pool, "--model", "model.dsir", "-o", f"scored-{size:g}/"],
        "select": ["select", f"scored-{size:g}/", "--by", "dsir", "--keep", "10%", "-o", "kept.jsonl.zst"],
        "dsir --keep": ["dsir", pool, "--target", str(target), "--keep", "10%", "-o", "kept.jsonl.zst"],
        "classify": ["classify", pool, "--model", "model.bin", "-o", "classified/"],
        "zipfit": ["zipfit", pool, "--model", "model.zipfit", "-o", "fitting/"],
    }


def main() -> None:
    """Make the pools, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder with pool/ and targets/")
    parser.add_argument("--sizes", default="1,2,5,10", help="GB of text")
    parser.add_argument("--work", type=Path, help="where the pools are made, some 10 GB; deleted afterwards")
    parser.add_argument("--ray", help="a Python with dselect[ray] installed")
    parser.add_argument("--page", type=Path, help="a page that the table is written into too")
    parser.add_argument("--plot", type=Path, help="a file for the plot of memory")
    options = parser.parse_args()
    if options.ray:
        options.ray = os.path.abspath(options.ray)  # noqa: PTH100  not resolve(): a venv is known by its link
    paths, target = find_data(options.data)
    folder = Path(tempfile.mkdtemp(prefix="dselect-large-", dir=options.work))
    try:
        rows, memory = bench(options, paths, target.resolve(), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    how = f"{os.cpu_count()} CPUs, {processor()}; one run each; GB of text, decimal; 2 jobs but where said"
    shown = f"{how}\n{table('', ['command', 'pool, GB', 'seconds', 'MB/s', 'peak MB', ''], rows)}"
    print(shown)
    if options.plot:
        draw_memory(memory, options.plot)
    if options.page:
        write_into(options.page, "large", shown)


def bench(
    options: argparse.Namespace, paths: list[Path], target: Path, folder: Path
) -> tuple[list[list[str]], dict[str, dict[float, float]]]:
    """Run everything; return the rows of the table, and the peak memory in MB by command and size."""
    rows: list[list[str]] = []
    memory: dict[str, dict[float, float]] = {}

    def run(name: str, command: list[str], size: int, note: str = "") -> Measured:
        found = Measured()
        measure(command, found, folder)
        speed, peak = size / found.median / 1e6, found.memory / 1e6
        rows.append([name, f"{size / 1e9:.2f}", f"{found.median:.1f}", f"{speed:.1f}", f"{peak:.0f}", note])
        print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
        return found

    sizes = sorted(map(float, options.sizes.split(",")))
    made = pools(paths, sizes, folder)
    small, ending = [str(path) for path in paths], ["-q"]
    for fit in (
        ["dsir", "--target", str(target), "--save", "model.dsir"],
        ["classify", "--positive", str(target), "--save", "model.bin"],
        ["zipfit", "--target", str(target), "--save", "model.zipfit"],
    ):
        subprocess.run([*DSELECT, fit[0], *small, *fit[1:], *ending], cwd=folder, check=True)
    for size in sizes:
        pool, held = made[size]
        for name, command in commands(pool, size, target).items():
            two = run(name, [*DSELECT, *command, *ending, "--force", "-j", "2"], held)
            memory.setdefault(name, {})[held / 1e9] = two.memory / 1e6
            if size != sizes[0]:
                continue
            one = run(name, [*DSELECT, *command, *ending, "--force", "-j", "1"], held, "1 job")
            rows[-1][-1] += f"; the second gains {one.median / two.median:.2f}"
            if options.ray and name != "select":
                line = [options.ray, "-m", "dselect", *command, *ending, "--force", "--engine", "ray"]
                ray = run(name, line, held, "Ray, its start and all")
                rows[-1][-1] += f"; {ray.median / two.median:.2f} of the time without"
        shutil.rmtree(folder / f"scored-{size:g}")
    rows.sort(key=lambda row: list(memory).index(row[0]))
    return rows, memory


def draw_memory(memory: dict[str, dict[float, float]], target: Path) -> None:
    """Draw peak memory over the size of the pool, one line a command."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "dselect", "font.size": 11})
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, peaks in memory.items():
        axes.plot(list(peaks), list(peaks.values()), "o-", label=name)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("GB of text in the pool")
    axes.set_ylabel("peak memory of all processes, MB")
    axes.grid(color="#cccccc", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
