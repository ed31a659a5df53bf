"""Inputs that strangers made: what is a record comes through, the rest is said, and memory is bounded."""

import gzip
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard

from dselect.errors import DselectError
from dselect.records.decompression import chunks
from dselect.records.sources import discover
from tests.conftest import DSELECT, LONG, lines, long, make_pool, make_target, write_records
from tests.ways import RECORDS, furnish

STRANGE = {
    "nul": rb'{"text":"nul \u0000 and \u001f"}',
    "separators": '{"text":"line \u2028 paragraph \u2029 next \x85 end"}'.encode(),
    "crlf": b'{"text":"crlf"}\r',
    "text twice": b'{"text":"first","text":"second"}',
    "id twice": b'{"id":1,"text":"a","id":2}',
    "integer id": b'{"id":7,"text":"a"}',
    "huge id": b'{"id":123456789012345678901234567890,"text":"a"}',
    "null id": b'{"id":null,"text":"a"}',
    "list id": b'{"id":[1,{"a":2}],"text":"a"}',
    "no id": b'{"text":"a"}',
    "label": b'{"text":"__label__1 __label__positive </s> word"}',
    "right to left": '{"text":"عربى עברית \u202e reversed \u200f"}'.encode(),
    "combining": ('{"text":"' + "e\u0301\u0323" * 200 + '"}').encode(),
    "byte order mark inside": '{"text":"\ufeff inside"}'.encode(),
    "one long word": b'{"text":"' + b"a" * 300_000 + b'"}',
    "much white space": b'{"text":"' + rb"\n\t " * 20_000 + b'"}',
    "many columns": b'{"text":"a",' + b",".join(b'"c%d":%d' % (n, n) for n in range(5000)) + b"}",
    "nested": b'{"text":"a","x":' + b"[" * 1000 + b"]" * 1000 + b"}",
    "the field inside": b'{"text":"a","nested":{"dsir":1,"text":"b"},"DSIR":2}',
    "empty key": b'{"":"","text":"a"}',
    "key escaped": rb'{"te\u0078t":"a"}',
    "spaced": b' \t{ "text" : "a" , "n" : 1.50e+02 } \t',
    "pair": rb'{"text":"\ud83d\ude00"}',
    "the sign of failure": b'{"dselect_failed":true,"text":"a"}',
    "markup": b'{"text":"<script>alert(1)</script>[bold]x[/]\\u001b[31m"}',
    "empty": b'{"text":""}',
}
KEEPING = ["dsir", "zipfit", "contrast", "classify", "preselect", "kmeans", "qurating", "rules", "tokens", "loss"]

CASES = {"select all": ["--keep", "100%"], "decontaminate": ["--target", "target.jsonl"]}


def run_in(folder, *arguments):
    """Run the program in a folder; return what it wrote."""
    command = [*DSELECT, *arguments, "-q", "-j", "2"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith(b"dselect: warning: ") for line in done.stderr.splitlines())
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    furnish(folder)
    # some commands want numbers or a domain of every record
    strange = [line.replace(b"{", b'{"loss_a":1.5,"loss_b":2,"source":"law",', 1) for line in STRANGE.values()]
    (folder / "strange.jsonl").write_bytes(b"\n".join(strange))
    return folder


@pytest.mark.parametrize("name", [*KEEPING, *CASES] if LONG else ["dsir", "rules", "loss", "select all"])
def test_strange_records_come_through_byte_for_byte(name, place):
    options = RECORDS[name] if name in KEEPING else CASES[name]
    out = run_in(place, name.split()[0], "strange.jsonl", *options).split(b"\n")
    assert out.pop() == b""
    for line, before in zip(out, (place / "strange.jsonl").read_bytes().split(b"\n"), strict=True):
        brace = before.rindex(b"}")
        assert line.startswith(before[:brace])
        assert line.endswith(before[brace:])


@pytest.mark.parametrize("name", ["judge", "mix", "order", "climb", "kmeans kept", "dsir sampled"] if LONG else ["mix"])
def test_strange_records_may_be_judged_mixed_ordered_and_drawn(name, place):
    assert run_in(place, name.split()[0], "strange.jsonl", "pool.jsonl.zst", *RECORDS[name])


# -- damage


@pytest.mark.parametrize("suffix", ["zst", "gz"])
def test_any_flipped_bit_of_our_own_output_is_found(suffix, dselect, tmp_path):
    write_records(tmp_path / "pool.jsonl", make_pool(300))
    dselect("select", "pool.jsonl", "--keep", "100%", "-o", f"whole.jsonl.{suffix}")
    whole = (tmp_path / f"whole.jsonl.{suffix}").read_bytes()
    flipped = tmp_path / f"flipped.jsonl.{suffix}"
    unseen = []
    for hundredth in range(200):
        at = len(whole) * hundredth // 200
        flipped.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << hundredth % 8]) + whole[at + 1 :])
        with suppress(DselectError):
            assert b"".join(chunks(discover([str(flipped)])[0])) == (tmp_path / "pool.jsonl").read_bytes()
            unseen.append(at)
    assert len(unseen) <= 2, "in a header, where it changes nothing"
    failed = dselect("select", flipped, "--keep", 5, "--bad-lines", "skip", "-o", "out.jsonl", status=1)
    assert f"flipped.jsonl.{suffix}: corrupt" in failed.stderr


@pytest.mark.parametrize("compress", [zstandard.compress, gzip.compress], ids=["zst", "gz"])
@pytest.mark.parametrize("rest", [b"garbage", b"\x28\xb5\x2f", b"\n", b"{}"])
def test_what_follows_a_compressed_stream_and_is_none_is_refused(compress, rest, dselect, tmp_path):
    (tmp_path / "x.jsonl").write_bytes(compress(lines(make_pool(9))) + rest)
    failed = dselect("select", "x.jsonl", "--keep", 2, "--bad-lines", "skip", "-o", "out.jsonl", status=1)
    assert failed.stderr.startswith("dselect: x.jsonl: ")
    assert re.search("corrupt|truncated", failed.stderr)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.zst", "x.jsonl.gz", "x.txt", "x"])
@pytest.mark.parametrize("compress", [bytes, zstandard.compress, gzip.compress], ids=["plain", "zst", "gz"])
def test_a_file_is_what_it_holds_whatever_it_is_called(name, compress, dselect, tmp_path):
    (tmp_path / name).write_bytes(compress(lines(make_pool(9))))
    assert len(dselect("select", name, "--keep", "100%").records) == 9


# -- size


# by a process of its own: what starts a program lends it its own memory for a moment, and that would count
PEAK = """
import os, subprocess, sys
run = subprocess.Popen([sys.executable, "-m", "dselect", *sys.argv[1:], "-j", "1"], stdout=subprocess.DEVNULL)
_, ended, usage = os.wait4(run.pid, 0)
run.returncode = os.waitstatus_to_exitcode(ended)
print(usage.ru_maxrss)
sys.exit(run.returncode)
"""


def peak(arguments, folder, status=0):
    """Run without workers; return what it said on stderr, and the most memory it held, in MB."""
    command = [sys.executable, "-c", PEAK, *arguments]
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done.stderr, int(done.stdout) / 1000


@pytest.mark.parametrize("compress", [None, zstandard.compress, gzip.compress], ids=["plain", "zst", "gz"])
def test_a_line_of_500_mb_is_refused_and_not_held(compress, tmp_path):
    path = tmp_path / "long.jsonl"
    start = b'{"text":"first"}\n{"text":"'
    if compress is None:
        path.write_bytes(start)
        os.truncate(path, 500_000_000)
    else:
        path.write_bytes(compress(start) + 500 * compress(b" " * 1_000_000))
    said, held = peak(["select", "long.jsonl", "--keep", "1", "--bad-lines", "skip"], tmp_path, status=1)
    assert said.startswith("dselect: long.jsonl:2: a line longer than 256 MiB")
    assert held < 700


def test_what_a_few_kilobytes_become_is_read_piece_by_piece(tmp_path):
    line = b'{"text":"' + b" " * 65_000 + b'"}\n'
    bomb = zstandard.compress(line * 8000, 19)  # 520 MB
    assert len(bomb) < 100_000
    (tmp_path / "bomb.jsonl.zst").write_bytes(bomb)
    said, held = peak(["select", "bomb.jsonl.zst", "--keep", "3"], tmp_path)
    assert "kept 3" in said
    assert held < 400
    (tmp_path / "blank.jsonl.zst").write_bytes(zstandard.compress(b"\n" * 500_000_000))
    said, held = peak(["select", "blank.jsonl.zst", "--keep", "3", "--limit", "1000"], tmp_path)
    assert "1,000 blank lines" in said
    assert held < 400


@long
def test_millions_of_tiny_lines_take_twenty_bytes_each(tmp_path):
    write_records(tmp_path / "target.jsonl", make_target())
    for number in (1, 3):
        lines_ = (b'{"id":%d,"text":"a","s":%d}\n' % (i, i * 7919 % 1_000_003) for i in range(number * 1_000_000))
        (tmp_path / f"{number}.jsonl").write_bytes(b"".join(lines_))
    for command, most in ("select --by s --keep 10%", 30), ("select --keep 10%", 55), ("dsir -t target.jsonl", 5):
        held = {}
        for number in (1, 3):
            name, *options = command.split()
            said, held[number] = peak([name, f"{number}.jsonl", *options], tmp_path)
            assert f"{number},000,000 documents" in said
        assert (held[3] - held[1]) / 2 < most, "bytes a record"


# -- places


def test_a_folder_that_cannot_be_written_is_said(dselect, pool, target):
    for options in (["-o", "/proc/x.jsonl"], ["-o", "/sys/x/y.jsonl"], ["-o", "/proc/x/"], ["--save", "/proc/model"]):
        failed = dselect("dsir", pool, "-t", target, *options, status=1)
        assert re.fullmatch(r"dselect: /(proc|sys)/\S+: cannot write: .*\n", failed.stderr)


def test_no_home_no_cache_and_a_program_that_cannot_be_written(dselect, pool, target, tmp_path):
    here = dselect("dsir", pool, "-t", target, "--keep", 9).stdout
    nowhere = {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "/proc/nowhere", "PYTHONDONTWRITEBYTECODE": "1"}
    assert dselect("dsir", pool, "-t", target, "--keep", 9, env=nowhere).stdout == here
    tree = tmp_path / "image" / "dselect"  # as a read-only image has it: numba's cache can go nowhere
    package = Path(sys.modules["dselect"].__path__[0])
    (tree / "kernels").mkdir(parents=True)
    for path in package.iterdir():
        if path.name not in ("kernels", "__pycache__"):
            (tree / path.name).symlink_to(path)
    for path in (package / "kernels").glob("[!_]*.*"):
        (tree / "kernels" / path.name).symlink_to(path)
    (tree / "kernels" / "__init__.py").symlink_to(package / "kernels" / "__init__.py")
    (tree / "kernels" / "__pycache__").symlink_to("/proc/nowhere")
    done = subprocess.run(
        [*DSELECT, "dsir", str(pool), "-t", str(target), "--keep", "9", "-q", "-j", "2"],
        cwd=tmp_path / "image", env={**os.environ, **nowhere}, capture_output=True, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (here, b"")


def test_nothing_needs_a_network(place):
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespaces here")
    for name in RECORDS if LONG else ["kmeans kept"]:
        command = [*DSELECT, name.split()[0], "pool.jsonl.zst", *RECORDS[name], "-q", "-j", "2"]
        alone = subprocess.run(["unshare", "-rn", *command], cwd=place, capture_output=True, check=True)
        assert alone.stdout == run_in(place, name.split()[0], "pool.jsonl.zst", *RECORDS[name])
