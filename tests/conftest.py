"""The program as a user runs it, and small data that can be checked by eye."""

from __future__ import annotations

import json
import os
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
DSELECT = [sys.executable, "-m", "dselect"]
LONG = "DSELECT_LONG" in os.environ
long = pytest.mark.skipif(not LONG, reason="takes long: make test-all")


class Outcome:
    """What a run of the program left behind."""

    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        self.status, self.stdout, self.stderr = done.returncode, done.stdout, done.stderr.decode()

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.split(b"\n") if line]

    @property
    def summary(self) -> dict[str, Any]:
        """What --json-summary said."""
        return json.loads(self.stderr.strip().split("\n")[-1])


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    """Name the socket of a server that runs the program warm; None where every run starts cold."""
    if LONG:
        yield None
        return
    path = tmp_path_factory.mktemp("warm") / "s"
    server = subprocess.Popen([sys.executable, Path(__file__).parent / "warm.py", path], stdin=subprocess.DEVNULL)
    while not path.exists() and server.poll() is None:
        time.sleep(0.05)
    yield str(path)
    server.kill()
    server.wait()


@pytest.fixture(scope="session")
def programs(warm: str | None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what PATH must be for `dselect` to be this program, warm where it may be."""
    folders = [str(Path(sys.executable).parent), os.environ["PATH"]]
    if warm:
        program = tmp_path_factory.mktemp("bin") / "dselect"
        client = shlex.join([sys.executable, "-S", str(Path(__file__).parent / "warm.py"), warm, "--"])
        program.write_text(f'#!/bin/sh\nexec {client} "$@"\n', "utf-8")
        program.chmod(0o755)
        folders.insert(0, str(program.parent))
    return os.pathsep.join(folders)


@pytest.fixture
def dselect(tmp_path: Path, warm: str | None) -> Callable[..., Outcome]:
    """Run dselect in the test's folder; a status other than the expected one fails the test."""

    def run(
        *arguments: object, stdin: bytes = b"", status: int | None = 0, env: dict[str, str] | None = None
    ) -> Outcome:
        program = [sys.executable, "-S", str(Path(__file__).parent / "warm.py"), warm, "--"]
        done = subprocess.run(
            [*(program if warm and not env else DSELECT), *map(str, arguments)],
            # nothing stands for no input, as in cron; a pipe that brings nothing is an error
            **({"input": stdin} if stdin else {"stdin": subprocess.DEVNULL}),
            capture_output=True,
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            timeout=120,
            check=False,
        )
        outcome = Outcome(done)
        assert status is None or outcome.status == status, outcome.stderr
        assert "Traceback" not in outcome.stderr
        return outcome

    return run


def lines(records: Iterable[dict[str, Any]]) -> bytes:
    """Return records as JSON Lines."""
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    """Write records; compressed if the name says so."""
    data = lines(records)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zstandard.compress(data) if path.suffix == ".zst" else data)
    return path


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read records that dselect wrote: every frame, and no frame cut short."""
    return [json.loads(line) for line in read_bytes(path).split(b"\n") if line]


def read_bytes(path: Path) -> bytes:
    """Read a file that dselect wrote, decompressed."""
    data = path.read_bytes()
    if path.suffix != ".zst":
        return data
    found = []
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        found.append(frame.decompress(data))
        assert frame.eof, "a frame is cut short"
        data = frame.unused_data
    return b"".join(found)


def wait_for(condition, seconds=30):
    """Return what the condition gives once it gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def children(pid):
    """Return every process below this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found += [child, *children(child)]
    return found


COOKING = "stir the onions in butter and simmer the sauce with garlic salt pepper basil until the pasta is done".split()
CODE = "def return if else for in range print len self import class ( ) : = == + [ ] None True while".split()
LAW = "the tenant shall pay the landlord rent pursuant to section agreement liability court clause party hereby".split()


def make_pool(count: int = 300, seed: int = 0) -> list[dict[str, Any]]:
    """Three kinds of text, in turn; the lengths vary."""
    random_ = random.Random(seed)
    kinds = {"cooking": COOKING, "code": CODE, "law": LAW}
    records = []
    for number in range(count):
        source = list(kinds)[number % 3]
        words = random_.choices(kinds[source], k=random_.randint(5, 120))
        records.append({"id": f"{seed}-{number}", "text": " ".join(words), "source": source, "token_count": len(words)})
    return records


def make_target(count: int = 30) -> list[dict[str, Any]]:
    """Cooking that is not in the pool."""
    random_ = random.Random(99)
    return [{"id": f"t{i}", "text": " ".join(random_.choices(COOKING, k=40))} for i in range(count)]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Write a pool of 300 records, one file."""
    return write_records(tmp_path / "pool.jsonl.zst", make_pool())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Thirty cooking texts."""
    return write_records(tmp_path / "target.jsonl.zst", make_target())


@pytest.fixture
def shared() -> Path:
    """Find the folder of real corpora, or skip."""
    if not SHARED.is_dir():
        pytest.skip("no real corpora here")
    return SHARED
