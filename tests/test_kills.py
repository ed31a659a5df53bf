"""Killed outright at any moment: no half file under a final name, no process left, and the next run mends it all."""

import json
import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import DSELECT, LONG, children, wait_for, write_records
from tests.ways import FITS, RECORDS, furnish

KILLS = 3 if LONG else 1  # of each way
REPEAT = 60 if LONG else 30
# What is written goes into out/, all of it.
WAYS = {
    **{name: [name.split()[0], "shards", *options, "-o", "out/x.jsonl.zst"] for name, options in RECORDS.items()},
    **{f"{name} fit": [name, "shards", *options, "out/model"] for name, options in FITS.items()},
    "dsir folder": ["dsir", "shards", *RECORDS["dsir"], "-o", "out/"],
    "dsir kept folder": ["dsir", "shards", *RECORDS["dsir kept"], "-o", "out/"],
    "dsir attributes": ["dsir", "shards", *RECORDS["dsir"], "--attributes", "out/"],
    "dsir parquet": ["dsir", "shards", *RECORDS["dsir"], "-o", "out/x.parquet"],
    "dsir gzip": ["dsir", "shards", *RECORDS["dsir"], "-o", "out/x.jsonl.gz"],
    "rules folder": ["rules", "shards", "-o", "out/"],
    "select cut": ["select", "shards", *RECORDS["select"], "--save", "out/cut.json"],
    "select rejects": ["select", "shards", "--keep", "9", "--bad-lines", "skip", "--rejects", "out/r", "-o", "out/x"],
    "embed": ["embed", "shards", "-o", "out/"],
    "embed fit": ["embed", "shards", "--save", "out/encoder"],
    "lm merged": ["lm", "shards", "--order", "2", "--add", "m.lm", "-o", "out/x.lm"],
    "merge": ["merge", "part-1", "part-2", "-o", "out/all"],
    "corpus": ["corpus", "files", "-o", "out/x.jsonl.zst"],
    "report": ["report", "pool.jsonl.zst", "-o", "out/x.html"],
    "eval": ["eval", "pool.jsonl.zst", "-t", "target.jsonl", "--order", "2", "--json", "out/j", "--csv", "out/c"],
}  # fmt: skip
OFTEN = ["dsir folder", "dsir kept folder", "kmeans fit", "embed"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    furnish(folder, REPEAT)
    for number in range(200):
        path = folder / "files" / f"{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("one file of text\n" * 1000)
    for part in (["part"], ["part-1", "--shard", "1/2"], ["part-2", "--shard", "2/2"]):
        fit = [*DSELECT, "dsir", "shards", "-t", "target.jsonl", "-q", "--save"]
        subprocess.run([*fit, *part], cwd=folder, check=True)
    return folder


def lend(place, folder):
    """Make a folder that has the place's files."""
    folder.mkdir()
    for path in place.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def outputs(folder):
    """Return what stands under final names; manifests and logs, which tell the time, need only be whole."""
    found = {}
    for path in (folder / "out").rglob("[!.]*"):
        if path.name.endswith(".manifest.json"):
            json.loads(path.read_bytes())
        elif path.is_file() and not path.name.endswith(".log"):
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def in_session(leader):
    """Return the processes of a session, those that have ended but were not waited for left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            fields = path.read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(path.parent.name))
    return found


def run_and_kill(arguments, folder, after, chance):
    """Start a run, kill one of its processes after a while, the first or another; return the exit status."""
    process = subprocess.Popen(
        [*DSELECT, *arguments, "-q", "-j", "2"],
        cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.kill(chance.choice([process.pid] * 2 + children(process.pid)), signal.SIGKILL)
    status = process.wait(60)
    wait_for(lambda: not in_session(process.pid))
    return status


@pytest.mark.parametrize("name", WAYS if LONG else OFTEN)
def test_a_killed_run_leaves_nothing_half_done_and_the_next_one_ends_as_if_nothing_had_been(name, place, tmp_path):
    chance = random.Random(name)
    clean, broken = lend(place, tmp_path / "clean"), lend(place, tmp_path / "broken")
    arguments = WAYS[name]
    began = time.monotonic()
    subprocess.run([*DSELECT, *arguments, "-q"], cwd=clean, check=True, stdout=subprocess.DEVNULL)
    took = time.monotonic() - began
    wanted = outputs(clean)
    assert wanted
    for _ in range(KILLS):
        status = run_and_kill(arguments, broken, chance.uniform(0.2, took), chance)
        assert status in (0, 1, -signal.SIGKILL)
        found = outputs(broken)
        assert found == {path: wanted.get(path) for path in found}
    subprocess.run([*DSELECT, *arguments, "-q"], cwd=broken, check=True, stdout=subprocess.DEVNULL)
    assert outputs(broken) == wanted
    assert [path.name for path in broken.rglob(".*")] == []


@pytest.mark.parametrize("number", range(20 if LONG else 1))
def test_a_stream_whose_writer_was_killed_is_refused(number, place, dselect, tmp_path):
    chance = random.Random(number)
    write_records(
        tmp_path / "slow.jsonl", [{"text": "garlic and onions " * chance.randint(1, 90)} for _ in range(9000)]
    )
    os.mkfifo(tmp_path / "pipe")
    waiting = os.open(tmp_path / "pipe", os.O_RDWR)  # never ends
    process = subprocess.Popen(
        [*DSELECT, "dsir", "slow.jsonl", "pipe", "--model", str(place / "part"), "-q", "-j", str(1 + number % 2)],
        cwd=tmp_path, stdout=subprocess.PIPE,
    )  # fmt: skip
    data = process.stdout.read(chance.randint(1, 100_000))
    process.kill()
    data += process.stdout.read()
    os.close(waiting)
    process.stdout.close()
    process.wait()
    for skip in ([], ["--bad-lines", "skip"]):
        refused = dselect("select", "--keep", "50%", *skip, "-o", "out.jsonl", stdin=data, status=1)
        assert "<stdin>:" in refused.stderr
        assert "the stream ends in the middle of a record" in refused.stderr
    assert not (tmp_path / "out.jsonl").exists()
