"""What goes wrong is said in one line, and leaves nothing half done behind."""

import gzip
import os
import pickle
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard

from dselect.errors import DselectError
from dselect.records.decompression import chunks
from dselect.records.sources import discover
from tests.conftest import (
    DSELECT,
    children,
    lines,
    make_pool,
    make_target,
    read_bytes,
    read_records,
    wait_for,
    write_records,
)


def left_behind(folder):
    return sorted(path.name for path in folder.rglob(".*.tmp"))


BAD = {
    b'{"text": "a"': "not JSON",
    b"[1, 2]": "not a JSON object but a list",
    b'"text"': "not a JSON object but a string",
    b'{"id": 1}': 'no text in the field "text"',
    b'{"text": null}': 'the field "text" is null, not a text',
    b'{"text": 5}': "a number, not a text",
    b'{"text": "\xff"}': "not UTF-8",
    b'{"text": "a", "x": NaN}': "not JSON",
    b'{"text": "\\ud800"}': "not JSON",
    b'{"text": "a", "x": ' + b"[" * 2000 + b"]" * 2000 + b"}": "not JSON",
}


@pytest.mark.parametrize("line", BAD, ids=lambda line: str(line[:20]))
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_bad_line_stops_the_run_with_file_and_line(line, jobs, dselect, target, tmp_path):
    (tmp_path / "bad.jsonl").write_bytes(lines(make_pool(3)) + b"\n" + line + b"\n" + lines(make_pool(2)))
    failed = dselect("dsir", "bad.jsonl", "--target", target, "-o", "out.jsonl", "-j", jobs, status=1)
    assert failed.stderr.startswith("dselect: bad.jsonl:5: ")
    assert BAD[line] in failed.stderr
    assert failed.stderr.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()
    assert left_behind(tmp_path) == []


def test_bad_lines_may_be_set_aside_and_are_counted(dselect, target, tmp_path):
    good = lines(make_pool(10))
    (tmp_path / "bad.jsonl").write_bytes(good + b"\n".join(BAD) + b"\n\n \r\n" + good)
    run = dselect(
        *["dsir", "bad.jsonl", "--target", target, "-o", "out.jsonl", "--bad-lines", "skip"],
        *["--rejects", "rejects.jsonl", "--json-summary"],
    )
    assert run.summary["bad_lines"] == len(BAD)
    assert run.summary["blank_lines"] == 2
    assert run.summary["documents"] == len(read_records(tmp_path / "out.jsonl")) == 20
    assert (tmp_path / "rejects.jsonl").read_bytes() == b"\n".join(BAD) + b"\n"
    kept = dselect("dsir", "bad.jsonl", "--target", target, "--keep", 20, "--bad-lines", "skip").stdout
    assert kept == (tmp_path / "out.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("tolerance", "status"), [("skip:1", 1), ("skip:2", 0), ("skip:10%", 1), ("skip:20%", 0), ("many", 2)]
)
def test_a_tolerance_is_a_number_or_a_share_of_lines(tolerance, status, dselect, target, tmp_path):
    (tmp_path / "bad.jsonl").write_bytes(lines(make_pool(8)) + b"x\ny\n")
    dselect("dsir", "bad.jsonl", "--target", target, "-o", "out.jsonl", "--bad-lines", tolerance, status=status)
    assert (tmp_path / "out.jsonl").exists() == (status == 0)


@pytest.mark.parametrize("compress", [zstandard.compress, gzip.compress], ids=["zst", "gz"])
def test_a_stream_cut_at_any_hundredth_stops_the_run(compress, dselect, target, tmp_path):
    whole = compress(lines(make_pool(500)))
    cut = tmp_path / ("cut.jsonl.zst" if compress is zstandard.compress else "cut.jsonl.gz")
    dselect("dsir", target, "--target", target, "--save", "model")
    for hundredth in range(100):
        cut.write_bytes(whole[: len(whole) * hundredth // 100])
        with pytest.raises(DselectError, match="truncated"):
            list(chunks(discover([str(cut)])[0]))
        if hundredth in (0, 1, 37, 99):  # as a user sees it
            failed = dselect("dsir", cut, "--model", "model", "-o", "out.jsonl", "--bad-lines", "skip", status=1)
            assert "truncated" in failed.stderr
            assert not (tmp_path / "out.jsonl").exists()


def test_what_a_stranger_wrote_is_only_ever_text(dselect, target, tmp_path):
    # workers get and give messages; a record that holds one must arrive as the bytes it is, in a slot or beside it
    order = pickle.dumps(Stranger())
    texts = [order.decode("latin-1") * times for times in (1, 40_000)] + ["\x80\x05N.", "\x00\x00\x00\x08"]
    records = [{"id": str(number), "text": text} for number, text in enumerate(texts * 3)]
    write_records(tmp_path / "pool.jsonl", records)
    scored = dselect("dsir", "pool.jsonl", "--target", target, "-j", 2).records
    assert [record["text"] for record in scored] == [record["text"] for record in records]
    assert not (tmp_path / "owned").exists()


class Stranger:
    def __reduce__(self):
        return os.system, ("touch owned",)


def test_a_failed_command_poisons_its_pipe_and_the_next_one_refuses_it(dselect, target, tmp_path):
    (tmp_path / "bad.jsonl").write_bytes(lines(make_pool(3)) + b"{")
    failed = dselect("dsir", "bad.jsonl", "--target", target, status=1)
    assert failed.stdout.endswith(b'{"dselect_failed": true')
    for skip in ([], ["--bad-lines", "skip"]):
        refused = dselect("select", "--keep", 2, *skip, "-o", "out.jsonl", stdin=failed.stdout, status=1)
        assert "before this one in the pipe failed" in refused.stderr
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("missing", ["pool", "target"])
def test_a_fit_that_fails_writes_nothing_to_a_pipe_that_no_records_go_to(missing, dselect, pool, target):
    names = {"pool": pool, "target": target, missing: "nowhere.jsonl"}
    assert dselect("dsir", names["pool"], "-t", names["target"], "--save", "m", status=1).stdout == b""
    kept = dselect("dsir", names["pool"], "-t", names["target"], "--save", "m", "--keep", 5, status=1)
    assert b"dselect_failed" in kept.stdout


def test_a_killed_upstream_leaves_no_output_file_downstream(target, tmp_path):
    write_records(tmp_path / "pool.jsonl", make_pool(200))
    os.mkfifo(tmp_path / "slow")
    first = subprocess.Popen(
        [*DSELECT, "dsir", "pool.jsonl", "slow", "--target", str(target)],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    second = subprocess.Popen(
        [*DSELECT, "select", "--by", "dsir", "--keep", "3", "-o", "out.jsonl"],
        cwd=tmp_path, stdin=first.stdout, stderr=subprocess.PIPE,
    )  # fmt: skip
    first.stdout.close()
    with open(tmp_path / "slow", "wb") as slow:
        slow.write(lines(make_pool(2)))
        slow.flush()
        time.sleep(1)
        first.send_signal(signal.SIGTERM)
        assert first.wait(30) == 143
    assert second.wait(30) == 1
    assert "failed" in second.stderr.read().decode()
    second.stderr.close()
    assert not (tmp_path / "out.jsonl").exists()


def piped(script, folder):
    """Run a line of bash with `dselect` in it; return the statuses of its pipe, and what it said."""
    script = f'dselect() {{ {shlex.join(DSELECT)} "$@"; }}; {script}; echo "${{PIPESTATUS[@]}}"'
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    return [int(number) for number in done.stdout.split("\n")[-2].split()], done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the sizes of pipes")
def test_a_pipe_that_ends_before_its_first_byte_is_refused_unless_its_writer_kept_nothing(pool, tmp_path):
    (tmp_path / "empty.jsonl").write_bytes(b"")
    take = "dselect select --keep 3 -o out.jsonl"
    nothing = "dselect select pool.jsonl.zst --by token_count --above 9e9"
    killed = f"{shlex.join(DSELECT)} select --keep 3 <(sleep 9) & sleep 3; kill -9 $!"
    for upstream in ("zstdcat nowhere.zst", "cat empty.jsonl", killed, f"{nothing}; {killed}"):
        statuses, said = piped(f"{{ {upstream}; }} | {take}", tmp_path)
        assert statuses[-1] == 1, said
        assert "<stdin>: nothing came through this pipe (what writes to it failed or found nothing" in said
        assert not (tmp_path / "out.jsonl").exists()
    for honest in (nothing, f"{nothing} | {nothing.replace('pool.jsonl.zst', '')} --missing drop", "echo"):
        statuses, said = piped(f"{honest} | {take}", tmp_path)
        assert set(statuses) == {0}, said
        assert (tmp_path / "out.jsonl").read_bytes() == b""
        (tmp_path / "out.jsonl").unlink()
    for empty in ("empty.jsonl", "- < empty.jsonl", "- < /dev/null"):
        assert piped(f"dselect select --keep 3 {empty}", tmp_path)[0] == [0]
    # through a pipe with a name, and into one
    statuses, said = piped(f"{nothing} -o >({take} -q)", tmp_path)
    assert statuses == [0], said
    wait_for((tmp_path / "out.jsonl").exists)
    assert piped(f"{take} <(false)", tmp_path)[0] == [1]


def test_standard_input_is_named_once(dselect, target):
    records = lines(make_pool(20))
    for arguments in ("dsir -t -", "dsir - -t -", "kmeans --clusters 2 --keep 2 --exclude -"):
        assert "<stdin>: this input is named twice" in dselect(*arguments.split(), stdin=records, status=1).stderr
    trained = ["classify", "--positive", "-", "--negative", target, "--save", "m.bin", "--buckets", 1000]
    assert "saved to m.bin" in dselect(*trained, stdin=records).stderr  # the pool is not read
    assert "named twice" in dselect("eval", "-", "--target", "-", stdin=b"x", status=2).stderr


def test_a_failure_in_the_midst_of_a_stream_is_not_a_bad_line(dselect, tmp_path):
    first, last = lines(make_pool(3)), lines(make_pool(2, seed=1))
    stream = first + b'\n{"dselect_failed": true' + last
    for skip in ([], ["--bad-lines", "skip"], ["--bad-lines", "skip:50%"]):
        refused = dselect("select", "--keep", 2, *skip, "-o", "out.jsonl", stdin=stream, status=1)
        assert "<stdin>:5: the dselect command before this one in the pipe failed" in refused.stderr
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to])
def test_links_in_the_place_of_temporary_files_are_not_followed(make, dselect, pool, tmp_path):
    victim = write_records(tmp_path / "victim.jsonl", make_pool(5))
    before = victim.read_bytes()
    for name, output in ((".out.jsonl.tmp", "out.jsonl"), (".out.journal", "out/")):
        make(tmp_path / name, victim)
        refused = dselect("select", pool, "--keep", 3, "-o", output, status=1).stderr
        assert f"{name}: a link, where dselect keeps a file of its own (remove it)" in refused
        assert victim.read_bytes() == before
        (tmp_path / name).unlink()
        dselect("select", pool, "--keep", 3, "-o", output)


def test_the_summary_is_not_the_result(pool, tmp_path):
    script = f"{shlex.join(DSELECT)} select pool.jsonl.zst --keep 3 -o out.jsonl 2> /dev/full"
    subprocess.run(script, shell=True, cwd=tmp_path, check=True)
    assert len(read_records(tmp_path / "out.jsonl")) == 3
    subprocess.run(script, shell=True, cwd=tmp_path, check=True)  # up to date


def test_standard_input_is_spent_once(target, pool, tmp_path):
    run = shlex.join([*DSELECT, "dsir", "--keep", "5", "--target"])
    for script in (f"ls pool.jsonl.zst | {run} - --files-from -", f"zstdcat {target} | {run} /dev/stdin"):
        done = subprocess.run(script, shell=True, cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 1
        assert b"this input is named twice" in done.stderr


def test_a_closed_pipe_is_a_quiet_success(target, tmp_path):
    write_records(tmp_path / "pool.jsonl", make_pool(20_000))
    script = (
        f"{sys.executable} -m dselect dsir pool.jsonl --target {target} -q | head -n 1 | wc -l; echo ${{PIPESTATUS[@]}}"
    )
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["1", "0 0 0"]
    assert done.stderr == ""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def endless(tmp_path, dselect, target):
    """Start a run with two workers over a pool that does not end: (process, its folder)."""
    dselect("dsir", target, "--target", target, "--save", "model")
    os.mkfifo(tmp_path / "pipe.jsonl")
    process = subprocess.Popen(
        # where the tests run in the background, signals may be switched off
        ["env", "--default-signal", *DSELECT, "dsir", "pipe.jsonl", "--model", "model", "-o", "out/", "-j", "2"],
        cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    feeder = subprocess.Popen([sys.executable, "-c", FEED, str(tmp_path / "pipe.jsonl")], stderr=subprocess.DEVNULL)
    wait_for(lambda: len(children(process.pid)) >= 4)  # fork server, resource tracker, two workers
    wait_for(lambda: left_behind(tmp_path))
    yield process, tmp_path
    process.kill()
    process.stderr.close()
    feeder.kill()
    feeder.wait()
    process.wait()


FEED = r"""
import sys
line = b'{"text": "' + b"garlic and onions " * 500 + b'"}\n'
with open(sys.argv[1], "wb", buffering=0) as pipe:
    while True:
        pipe.write(line * 20)
"""


def test_a_worker_that_dies_ends_the_run_with_a_clear_error(endless):
    process, folder = endless
    workers = children(process.pid)
    os.kill(max(workers), signal.SIGKILL)
    assert process.wait(30) == 1
    assert "a worker process died (killed by SIGKILL)" in process.stderr.read().decode()
    wait_for(lambda: not any(map(alive, workers)))
    assert left_behind(folder) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupt_leaves_no_process_and_no_partial_file(number, status, endless):
    process, folder = endless
    workers = children(process.pid)
    os.killpg(process.pid, number)  # as Ctrl-C does: the whole group
    assert process.wait(30) == status
    assert process.stderr.read().decode().count("\n") == 1
    wait_for(lambda: not any(map(alive, workers)))
    assert left_behind(folder) == []
    assert list(folder.glob("out/*")) == []


def test_what_nohup_switched_off_stays_off(tmp_path, target):
    os.mkfifo(tmp_path / "pipe.jsonl")
    process = subprocess.Popen(
        ["nohup", *DSELECT, "dsir", "pipe.jsonl", "-t", str(target), "-o", "out.jsonl", "-j", "2", "-q"],
        cwd=tmp_path, start_new_session=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    with open(tmp_path / "pipe.jsonl", "wb") as pipe:
        pipe.write(lines(make_pool(3)))
        pipe.flush()
        wait_for(lambda: left_behind(tmp_path))
        os.killpg(process.pid, signal.SIGHUP)
        pipe.write(lines(make_pool(4)))
    assert process.wait(30) == 0
    assert len(read_records(tmp_path / "out.jsonl")) == 7


def test_a_run_killed_outright_leaves_no_process_and_nothing_under_the_final_name(endless, dselect, target):
    process, folder = endless
    workers = children(process.pid)
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(alive, workers)))
    assert [path.name for path in (folder / "out").iterdir()] == [".pipe.jsonl.tmp"]
    dselect("dsir", write_records(folder / "new" / "pipe.jsonl", make_pool(3)), "--model", "model", "-o", "out/")
    assert [path.name for path in (folder / "out").iterdir()] == ["pipe.jsonl"]  # the stale one was used again


def test_a_temporary_folder_of_any_length_will_do(dselect, pool, target, tmp_path):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    scored = dselect("dsir", pool, "-t", target, "-j", 2, env={"TMPDIR": str(folder)}).stdout
    assert scored == dselect("dsir", pool, "-t", target, "-j", 1).stdout


def test_a_second_writer_of_one_output_is_refused(endless, dselect, target):
    _, folder = endless
    other = write_records(folder / "other" / "pipe.jsonl", make_pool(3))
    assert "another dselect is writing" in dselect("dsir", other, "--model", "model", "-o", "out/", status=1).stderr


def test_a_full_disk_is_said_and_leaves_nothing(dselect, target, tmp_path):
    write_records(tmp_path / "pool.jsonl", make_pool(5))
    failed = dselect("dsir", "pool.jsonl", "--target", target, "-o", "/dev/full", status=1)
    assert "No space left on device" in failed.stderr
    script = f"ulimit -f 40; trap '' XFSZ; {sys.executable} -m dselect select big.jsonl --keep 100% -o out.jsonl"
    write_records(tmp_path / "big.jsonl", make_pool(3000))
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert left_behind(tmp_path) == []
    assert not (tmp_path / "out.jsonl").exists()
    script = f"ulimit -f 40; trap '' XFSZ; {sys.executable} -m dselect dsir pool.jsonl -t {target} --save model"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "dselect: model: cannot write: File too large\n")
    assert left_behind(tmp_path) == []


def test_an_output_that_fails_leaves_the_old_one_as_it_was(dselect, target, tmp_path):
    old = write_records(tmp_path / "out.jsonl", [{"text": "old"}]).read_bytes()
    (tmp_path / "bad.jsonl").write_bytes(lines(make_pool(3)) + b"{")
    dselect("dsir", "bad.jsonl", "--target", target, "-o", "out.jsonl", status=1)
    assert (tmp_path / "out.jsonl").read_bytes() == old


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["dsir", "nowhere.jsonl", "--target", "target.jsonl.zst"], 1),
        (["dsir", "pool.jsonl.zst", "--target", "nowhere.jsonl"], 1),
        (["dsir", "pool.jsonl.zst", "--model", "target.jsonl.zst"], 1),
        (["dsir", "pool.jsonl.zst", "--model", "nowhere"], 1),
        (["dsir", "pool.jsonl.zst"], 2),
        (["dsir", "pool.jsonl.zst", "--target", "target.jsonl.zst", "--keep", "lots"], 2),
        (["dsir", "pool.jsonl.zst", "--target", "target.jsonl.zst", "--ngrams", "0"], 2),
        (["dsir", "pool.jsonl.zst", "--target", "target.jsonl.zst", "-o", "pool.jsonl.zst/x"], 1),
        (["select", "pool.jsonl.zst"], 2),
        (["select", "pool.jsonl.zst", "--by", "nothing", "--keep", "1"], 1),
        (["select", "pool.jsonl.zst", "--by", "text", "--keep", "1"], 1),
        (["select", "--nonsense"], 2),
        (["select", ".", "--keep", "1", "--files-from", "nowhere"], 1),
    ],
)
def test_every_mistake_is_one_line_with_its_exit_code(arguments, status, dselect, pool, target):
    failed = dselect(*arguments, status=status)
    assert failed.stderr.strip()
    if status == 1:
        assert failed.stderr.count("\n") == 1
        assert failed.stderr.startswith("dselect: ")


def test_an_internal_error_shows_no_traceback_unless_asked(tmp_path):
    code = (
        "import sys, dselect.pool as p\n"
        "p.parse = lambda *_: 1 / 0\n"
        "from dselect.cli import main\n"
        "sys.argv = ['dselect', 'select', 'x.jsonl', '--keep', '1', '-j', '1']\n"
        "main()"
    )
    write_records(tmp_path / "x.jsonl", make_pool(1))
    for debug in ("", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "DSELECT_DEBUG": debug},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 70
        assert ("Traceback" in done.stderr) == bool(debug)
        assert "internal error: ZeroDivisionError" in done.stderr


def test_a_stream_is_read_once_and_kept_for_the_second_pass(dselect, target, tmp_path):
    (tmp_path / "spool").mkdir()
    pool = lines(make_pool(50))
    whole = dselect("dsir", "--target", target, "--tmp", tmp_path / "spool", stdin=zstandard.compress(pool)).stdout
    assert whole.count(b"\n") == 50
    assert list((tmp_path / "spool").iterdir()) == []
    assert "--tmp" in dselect("dsir", "--target", target, "--tmp", "nowhere", stdin=pool, status=1).stderr


def test_process_substitution_is_read_like_a_file(target, tmp_path, pool):
    script = f"{sys.executable} -m dselect dsir <(zstdcat {pool}) --target <(zstdcat {target}) --keep 5 -q"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, check=True)
    whole = subprocess.run(
        [*DSELECT, "dsir", pool, "--target", target, "--keep", "5", "-q"], capture_output=True, check=True
    )
    assert done.stdout == whole.stdout
    assert done.stdout.count(b"\n") == 5


def test_talk_goes_to_stderr_and_quiet_means_quiet(dselect, pool, target):
    run = dselect("dsir", pool, "--target", target, "-q")
    assert run.stderr == ""
    assert all(line.startswith(b"{") for line in run.stdout.splitlines())
    assert dselect("dsir", pool, "--target", target, "-o", "out.jsonl").stdout == b""


def test_gzip_in_and_out(dselect, target, tmp_path):
    (tmp_path / "pool.jsonl.gz").write_bytes(gzip.compress(lines(make_pool(30))))
    dselect("dsir", "pool.jsonl.gz", "--target", target, "-o", "out.jsonl.gz")
    out = gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes())
    assert out == dselect("dsir", "pool.jsonl.gz", "--target", target).stdout


def test_limit_reads_the_first_lines_only(dselect, target, pool):
    whole = read_bytes(pool).split(b"\n")[:7]
    kept = dselect("select", pool, "--keep", "100%", "--limit", 7).stdout
    assert kept.split(b"\n")[:-1] == whole


def test_a_list_may_come_through_a_pipe_with_any_names(dselect, tmp_path):
    odd = os.fsdecode(b"b\xff.jsonl")
    write_records(tmp_path / "a\nb.jsonl", make_pool(3))
    write_records(tmp_path / odd, make_pool(4, seed=1))
    names = b"\0".join(map(os.fsencode, ("a\nb.jsonl", odd))) + b"\0"
    run = dselect("select", "--files-from", "-", "--keep", "100%", "-o", "out/", "--json-summary", stdin=names)
    assert run.summary["kept"] == 7
    again = dselect("select", "--files-from", "-", "--keep", "100%", "-o", "out/", stdin=names)
    assert "up to date" in again.stderr
    assert len(read_records(tmp_path / "out" / odd)) == 4
    (tmp_path / "none").write_bytes(b"\n")
    assert "none: this list names no input" in dselect("select", "--keep", 1, "--files-from", "none", status=1).stderr
    assert "cannot be an input too" in dselect("stats", "-", "--files-from", "-", stdin=b"x", status=2).stderr


def test_a_list_of_files_is_read_from_a_file(dselect, tmp_path):
    for name in ("a b.jsonl", "ü.jsonl"):
        write_records(tmp_path / name, make_pool(2, seed=len(name)))
    (tmp_path / "list").write_text("a b.jsonl\nü.jsonl\n", "utf-8")
    assert len(dselect("select", "--files-from", "list", "--keep", "100%").records) == 4
    assert make_target(1)[0]["id"] == "t0"


@pytest.mark.parametrize("jobs", [1, 2])
def test_links_to_nothing_names_too_long_and_ids_too_deep_are_errors_of_the_user(jobs, dselect, tmp_path):
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.jsonl").symlink_to("nowhere")
    (tmp_path / "deep.jsonl").write_bytes(b'{"text":"a"}\n{"text":"a","id":' + b"[" * 300 + b"]" * 300 + b"}\n")
    expected = {
        "pool": "pool/a.jsonl: cannot read: No such file or directory",
        "x" * 300: "File name too long",
        "deep.jsonl": "deep.jsonl:2: the id is nested too deeply",
    }
    for name, what in expected.items():
        failed = dselect("select", name, "--keep", 1, "-j", jobs, "-o", "out.jsonl", status=1)
        assert what in failed.stderr
        assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["dsir", "pool.jsonl.zst", "-t", "target.jsonl.zst", "--keep", "5", "-o", "target.jsonl.zst"],
        ["dsir", "pool.jsonl.zst", "-t", "target.jsonl.zst", "--save", "pool.jsonl.zst"],
        ["dsir", "pool.jsonl.zst", "-t", "target.jsonl.zst", "--save", "target.jsonl.zst"],
        ["dsir", "pool.jsonl.zst", "--model", "model", "-o", "model"],
        ["dsir", "pool.jsonl.zst", "-t", "target.jsonl.zst", "--save", "same", "-o", "same"],
        [
            "select",
            "pool.jsonl.zst",
            "--keep",
            "5",
            "--bad-lines",
            "skip",
            "--rejects",
            "pool.jsonl.zst",
            "-o",
            "x.jsonl",
        ],
        ["lm", "pool.jsonl.zst", "-o", "pool.jsonl.zst"],
        ["tokens", "pool.jsonl.zst", "--tokenizer", "words", "--overwrite", "-o", "link.jsonl.zst"],
    ],
)
def test_what_is_read_is_never_written(arguments, dselect, pool, target, tmp_path):
    dselect("dsir", pool, "-t", target, "--save", "model")
    (tmp_path / "link.jsonl.zst").symlink_to(pool)
    before = {path.name: path.read_bytes() for path in (pool, target, tmp_path / "model")}
    failed = dselect(*arguments, status=1)
    assert "one of the inputs" in failed.stderr or "named twice" in failed.stderr
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_a_run_to_standard_output_is_always_done(dselect, pool, target, tmp_path):
    for _ in range(2):
        assert len(dselect("dsir", pool, "-t", target, "--save", "m", "--keep", 9).records) == 9
        kept = dselect("select", pool, "--keep", 9, "--bad-lines", "skip", "--rejects", "r")
        assert len(kept.records) == 9


def test_a_stream_that_was_cut_within_a_line_is_refused_even_where_bad_lines_may_be_skipped(dselect):
    cut = lines(make_pool(3))[:-20] + b'\n{"dselect_failed": true'
    refused = dselect("select", "--keep", 2, "--bad-lines", "skip", stdin=cut, status=1)
    assert "before this one in the pipe failed" in refused.stderr


@pytest.mark.parametrize("options", [["--nope"], ["--ngrams", "0"], ["--keep", "5x"]])
def test_wrong_usage_upstream_fails_the_whole_pipe(options, dselect, pool, target, tmp_path):
    failed = dselect("dsir", pool, "-t", target, *options, status=2)
    dselect("select", "--keep", "10%", "-o", "out.jsonl", stdin=failed.stdout, status=1)
    assert not (tmp_path / "out.jsonl").exists()


def test_devices_and_substituted_pipes_get_no_manifest(dselect, pool, tmp_path):
    dselect("select", pool, "--keep", 3, "-o", "/dev/null")
    assert not Path("/dev/null.manifest.json").exists()
    script = f"{sys.executable} -m dselect select {pool} --keep 3 -q -o >(cat > got); sleep 0.5"
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True)
    assert len(read_records(tmp_path / "got")) == 3
    assert dselect("select", pool, "--keep", 3, "-o", "/dev/stdout").records == read_records(tmp_path / "got")


def test_a_folder_is_read_through_links_but_never_in_a_circle(dselect, tmp_path):
    write_records(tmp_path / "far" / "b.jsonl", make_pool(3))
    write_records(tmp_path / "in" / "a.jsonl", make_pool(4, seed=1))
    (tmp_path / "in" / "more").symlink_to(tmp_path / "far")
    (tmp_path / "in" / "circle").symlink_to(tmp_path / "in")
    assert len(dselect("select", "in", "--keep", "100%").records) == 7
    (tmp_path / "in" / "c.jsonl").symlink_to("nowhere")
    assert "c.jsonl: cannot read" in dselect("select", "in", "--keep", 1, status=1).stderr


def test_a_pipe_in_a_folder_is_refused_and_not_waited_for(dselect, tmp_path):
    write_records(tmp_path / "in" / "a.jsonl", make_pool(4))
    os.mkfifo(tmp_path / "in" / "b.jsonl")
    assert "not a regular file" in dselect("select", "in", "--keep", 1, status=1).stderr


@pytest.mark.parametrize("data", [b"\0" * 5000, b"plain text\n" * 9])
def test_what_is_named_compressed_and_is_not_is_damage_not_bad_lines(data, dselect, tmp_path):
    (tmp_path / "a.jsonl.zst").write_bytes(data)
    assert "corrupt" in dselect("select", "a.jsonl.zst", "--keep", 1, "--bad-lines", "skip", status=1).stderr


def test_tables_and_help_on_a_full_disk_fail_in_one_line(pool):
    for arguments in (["stats", str(pool)], ["--help"]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([*DSELECT, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr


def test_names_that_are_odd_or_too_long(dselect, tmp_path):
    odd = tmp_path / os.fsdecode(b"p\xff.jsonl")
    odd.write_bytes(lines(make_pool(3)))
    dselect("select", odd, "--keep", 2, "-o", "out.jsonl")
    assert len(read_records(tmp_path / "out.jsonl")) == 2
    assert "File name too long" in dselect("select", "x" * 300, "--keep", 2, status=1).stderr


def test_an_output_that_is_a_link_is_written_through(dselect, pool, tmp_path):
    (tmp_path / "real.jsonl").write_text("old")
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    dselect("select", pool, "--keep", 2, "-o", "link.jsonl")
    assert (tmp_path / "link.jsonl").is_symlink()
    assert len(read_records(tmp_path / "real.jsonl")) == 2


def test_a_format_that_cannot_be_written_is_refused(dselect, pool):
    assert "cannot write this format" in dselect("select", pool, "--keep", 2, "-o", "x.jsonl.bz2", status=1).stderr


def test_an_input_that_is_standard_output_too_is_refused(pool, tmp_path):
    records = tmp_path / "ap.jsonl"
    records.write_bytes(read_bytes(pool))
    before = records.read_bytes()
    with records.open("ab") as appended:
        done = subprocess.run(
            [*DSELECT, "rules", "ap.jsonl"],
            cwd=tmp_path,
            stdout=appended,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr == b"dselect: ap.jsonl: this input is standard output too (-o another file)\n"
    assert records.read_bytes() == before


@pytest.mark.parametrize(
    ("closed", "arguments", "status"),
    [
        (">&-", "select pool.jsonl.zst --keep 3 -o kept", 0),
        ("2>&-", "select pool.jsonl.zst --keep 3 -o kept", 0),
        ("<&-", "select pool.jsonl.zst --keep 3 -o kept", 0),
        (">&-", "select pool.jsonl.zst --keep 3", 1),
        ("<&-", "select --keep 3 -o kept", 1),
    ],
)
def test_closed_streams_are_missed_only_where_they_are_needed(closed, arguments, status, pool, tmp_path):
    command = f"{shlex.join(DSELECT)} {arguments} {closed}"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, check=False, timeout=60)
    assert done.returncode == status, done.stderr
    assert b"internal" not in done.stderr
    assert (tmp_path / "kept").exists() == (status == 0)


def test_a_shard_of_no_files_is_an_empty_pool_and_a_folder_half_written_is_none(dselect, pool, target, tmp_path):
    dselect("dsir", "pool.jsonl.zst", "-t", target, "--save", "m")
    dselect("dsir", "pool.jsonl.zst", "--model", "m", "--shard", "2/2", "-o", "two/")
    dselect("dsir", "pool.jsonl.zst", "--model", "m", "--shard", "1/2", "-o", "one/")
    kept = dselect("select", "one", "two", "--by", "dsir", "--keep", 5, "--json-summary")
    assert kept.summary["kept"] == 5
    assert "0 documents" in dselect("stats", "two").stderr
    refused = dselect("kmeans", "pool.jsonl.zst", "--shard", "2/2", "--clusters", 2, "--save", "k", status=1).stderr
    assert "no records to fit an encoder on" in refused
    (tmp_path / ".one.journal").write_text("")  # what a killed run leaves
    refused = dselect("select", "one", "--by", "dsir", "--keep", 5, status=1).stderr
    assert refused == "dselect: one: what writes this folder has not finished (run that again)\n"


def test_an_output_that_the_next_run_would_read_is_refused(dselect, target, tmp_path):
    write_records(tmp_path / "pool" / "a.jsonl", make_pool(9))
    write_records(tmp_path / "pool" / "b" / "b.jsonl", make_pool(9, seed=1))
    for output in ("pool/out.jsonl.zst", "pool/out/", "pool/new/out.jsonl", "pool/b/../c.jsonl"):
        refused = dselect("dsir", "pool", "-t", target, "-o", output, status=1).stderr
        assert "the next run would read this output, since it lies in pool (write it elsewhere" in refused
    assert "since it lies in ." in dselect("select", ".", "--keep", 3, "-o", "out.jsonl", status=1).stderr
    dselect("dsir", "pool", "-t", target, "--save", "pool/model", "-o", "out.jsonl")  # a model is not read
    dselect("select", "pool/a.jsonl", "--keep", 3, "-o", "pool/c.jsonl")  # nor is the folder of a file


def test_what_is_written_to_the_end_of_a_file_fails_without_a_trace_there(pool, tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"mine\n")
    for wrong in ("--nope", "--ngrams 0"):
        script = f"{shlex.join(DSELECT)} dsir pool.jsonl.zst {wrong} >> x.jsonl"
        assert subprocess.run(script, shell=True, cwd=tmp_path, check=False, stderr=subprocess.PIPE).returncode == 2
        assert (tmp_path / "x.jsonl").read_bytes() == b"mine\n"


def test_runs_that_write_nothing_to_standard_output_may_have_it_anywhere(pool, tmp_path):
    write_records(tmp_path / "x.jsonl", make_pool(9))
    script = f"{shlex.join(DSELECT)} select x.jsonl --keep 3 -o kept.jsonl >> x.jsonl"
    subprocess.run(script, shell=True, cwd=tmp_path, check=True)
    assert len(read_records(tmp_path / "kept.jsonl")) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("dsir pool.jsonl.zst -t {target} -o ", "--output has no name (is a variable of the shell not set?)"),
        ("dsir pool.jsonl.zst -t ", "--target has no name"),
        ("select  --keep 3", "an input has no name"),
        ("select pool.jsonl.zst --keep 3 --jobs 1000000000", "less than or equal to 1024"),
        ("select pool.jsonl.zst --keep 3 --bad-lines skip:200%", "a share is at most 100%"),
        ("select pool.jsonl.zst --by token_count --above nan", "--above nan"),
        ("select pool.jsonl.zst --by token_count --keep 3 --temperature 2", "are for --sample"),
        ("dsir pool.jsonl.zst -t {target} --model m", "not both"),
        ("select pool.jsonl.zst --attributes . --keep 3", "fields that nothing asks for"),
        ("select pool.jsonl.zst --keep 3 --missing drop", "--missing is about the fields"),
        ("select pool.jsonl.zst --keep 3 --tokens nosuch", "--tokens is about a budget in tokens"),
        ("select pool.jsonl.zst --keep 3 --rejects r", "--bad-lines skip"),
        ("select pool.jsonl.zst --keep 3 --by token_count:inf", "cannot read --by"),
        ("select pool.jsonl.zst --keep 3 --by token_count:-1", "cannot read --by"),
        ("select pool.jsonl.zst --keep 3 --by=--token_count", "cannot read --by"),
        ("select pool.jsonl.zst --by token_count --sample --keep 3 --temperature 1e-309", "too small"),
        ("order pool.jsonl.zst --missing first", "--missing is about the field"),
        ("dsir pool.jsonl.zst", "--target FILE fits, --model FILE uses what was fitted"),
    ],
)
def test_options_that_would_be_passed_over_in_silence_are_wrong_usage(arguments, said, dselect, pool, target):
    assert said in dselect(*arguments.format(target=target).split(" "), status=2).stderr


@pytest.mark.parametrize("missing", ["drop", "lowest"])
def test_a_field_that_no_record_has_is_an_error_whatever_is_missing(missing, dselect, pool):
    for options in (["--by", "tokencount"], ["--by", "token_count", "--within", "sauce"]):
        refused = dselect("select", pool, *options, "--keep", 3, "--missing", missing, status=1).stderr
        assert f'no record has the field "{options[-1]}"' in refused
    assert "no record has" in dselect("stats", pool, "--within", "sauce", status=1).stderr
    assert "no record has" in dselect("order", pool, "--by", "tokencount", "--missing", "first", status=1).stderr


def test_a_name_that_leaves_no_room_for_its_manifest_is_refused_before_the_work(dselect, pool, tmp_path):
    name = "x" * 231 + ".jsonl"
    refused = dselect("select", pool, "--keep", 3, "-o", name, status=1).stderr
    assert "this name is too long" in refused
    assert "236 bytes are the most" in refused
    assert sorted(path.name for path in tmp_path.iterdir()) == [pool.name]
    dselect("select", pool, "--keep", 3, "-o", "x" * 230 + ".jsonl")
    for root in (
        ["select", pool, "--keep", 3, "-o", "/"],
        ["select", pool, "--keep", 3, "--by", "token_count", "--save", "/"],
    ):
        assert "/: no place for an output" in dselect(*root, status=1).stderr


def test_a_summary_says_each_count_once(dselect, tmp_path):
    (tmp_path / "p.jsonl").write_bytes(lines(make_pool(5)) + b"x\n\n")
    said = dselect("select", "p.jsonl", "--by=-token_count", "--keep", 3, "--bad-lines", "skip").stderr
    assert (said.count("1 bad line"), said.count("1 blank line")) == (1, 1)
    assert "worst score kept" in said


def test_what_is_null_or_quoted_is_called_that(dselect, tmp_path):
    (tmp_path / "p.jsonl").write_bytes(b'{"text":null}\n')
    said = dselect("select", "p.jsonl", "--keep", 3, status=1).stderr
    assert 'p.jsonl:1: the field "text" is null, not a text' in said
    (tmp_path / "p.jsonl").write_bytes(b'{"text":"a","s":"3"}\n')
    said = dselect("select", "p.jsonl", "--by", "s", "--keep", 3, status=1).stderr
    assert 'p.jsonl:1: the field "s" is a string, not a number (write it without quotes)' in said


def test_a_limit_of_nothing_is_nothing(dselect, pool):
    assert dselect("select", pool, "--keep", "100%", "--limit", 0).stdout == b""
    assert "blank" not in dselect("stats", pool, "--limit", 0).stderr
