import gzip
import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import dselect.commands.check as module
from dselect.commands.check import KINDS, Column, duplicates, printable
from tests.conftest import DSELECT, lines, make_pool, read_bytes, write_records
from tests.test_faults import BAD

DEEP = b'{"text":"deep","id":' + b"[" * 300 + b"]" * 300 + b"}"


def report(dselect, *arguments, status=0, **options):
    return json.loads(dselect("check", *arguments, "--json", status=status, **options).stdout)


def test_a_sound_pool_is_said_to_be_sound(dselect, pool):
    run = dselect("check", pool, "--json-summary")
    assert b"Nothing is wrong." in run.stdout
    assert run.summary["documents"] == 300
    found = report(dselect, pool)
    texts = sum(len(record["text"]) for record in make_pool())
    assert found["total"]["documents"] == 300
    assert found["total"]["bytes"] == texts
    assert found["files"] == [{"file": str(pool), **found["total"], "complete": True}]
    assert found["failures"] == []
    assert found["bad_lines"] == {}


def test_every_bad_line_is_found_under_its_kind_and_none_stops_the_reading(dselect, tmp_path):
    (tmp_path / "bad.jsonl").write_bytes(lines(make_pool(2)) + b"\n" + b"\n".join(BAD) + b"\n" + DEEP + b"\n \n")
    found = report(dselect, "bad.jsonl", status=1)
    counts = {name: kind["count"] for name, kind in found["bad_lines"].items()}
    assert counts == {
        "not_utf8": 1, "not_json": 4, "not_an_object": 2, "no_text": 1, "text_is_no_string": 2, "id_too_deep": 1,
    }  # fmt: skip
    assert set(counts) == set(KINDS.values())
    assert found["total"]["bad_lines"] == len(BAD) + 1
    assert found["total"]["blank_lines"] == 2
    assert found["total"]["documents"] == 3
    first = found["bad_lines"]["not_json"]["examples"][0]
    assert (first["file"], first["line"]) == ("bad.jsonl", 4)
    assert first["reason"].startswith("not JSON: unexpected end of data")
    text = dselect("check", "bad.jsonl", status=1).stdout.decode()
    assert "    bad.jsonl:5: not a JSON object but a list\n" in text


def test_show_limits_the_examples_of_each_kind_but_not_the_counts(dselect, tmp_path):
    (tmp_path / "bad.jsonl").write_bytes(b"x\n" * 20 + lines([{"text": "a", "id": 1}] * 9))
    for show in (0, 2, 100):
        found = report(dselect, "bad.jsonl", "--show", show, status=1)
        bad, again = found["bad_lines"]["not_json"], found["duplicate_ids"]
        assert (bad["count"], len(bad["examples"])) == (20, min(show, 20))
        assert (again["count"], len(again["examples"])) == (8, min(show, 8))


@pytest.mark.parametrize("compress", [zstandard.compress, gzip.compress], ids=["zst", "gz"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_stream_cut_anywhere_is_a_finding_and_the_lines_before_it_and_the_other_files_count(
    compress, jobs, dselect, tmp_path
):
    suffix = "zst" if compress is zstandard.compress else "gz"
    # several frames, so that every cut but the first leaves some whole ones
    parts = [compress(lines(make_pool(100, seed=seed))) for seed in range(5)]
    whole = b"".join(parts)
    (tmp_path / "pool").mkdir()
    ends = [sum(map(len, parts[: i + 1])) for i in range(5)]
    for twentieth in range(20):
        at = len(whole) * twentieth // 20
        (tmp_path / "pool" / f"{twentieth:02}.jsonl.{suffix}").write_bytes(whole[:at])
    write_records(tmp_path / "pool" / "99.jsonl", make_pool(7, seed=99))
    found = report(dselect, "pool", "-j", jobs, status=1)
    assert len(found["failures"]) == 20
    assert found["bad_lines"] == {}
    for twentieth, file in enumerate(found["files"][:-1]):
        at = len(whole) * twentieth // 20
        full = sum(end <= at for end in ends)
        assert full * 100 <= file["documents"] <= full * 100 + 100
        assert not file["complete"]
        assert "truncated" in found["failures"][twentieth]
        assert found["failures"][twentieth].endswith(f"after {file['documents']:,} lines")
    assert found["files"][-1]["documents"] == 7
    assert found["files"][-1]["complete"]


def test_a_damaged_file_a_foreign_one_and_one_that_is_not_there_are_findings(dselect, tmp_path):
    folder = tmp_path / "pool"
    data = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(lines(make_pool(5000, seed=1))))
    data[len(data) // 2] ^= 255
    folder.mkdir()
    (folder / "a.jsonl.zst").write_bytes(data)
    (folder / "b.jsonl").write_bytes(b"PAR1....")
    (folder / "c.jsonl").symlink_to("nowhere")
    write_records(folder / "d.jsonl", make_pool(3))
    (tmp_path / "list").write_text(f"pool\nmissing.jsonl\n{'x' * 300}\n")
    found = report(dselect, "--files-from", "list", status=1)
    assert [file["complete"] for file in found["files"]] == [False, False, False, True]
    assert found["files"][0]["documents"] > 0
    assert found["files"][3]["documents"] == 3
    said = "\n".join(found["failures"])
    for what in ("missing.jsonl: no such file", "File name too long", "corrupt", "parquet", "c.jsonl: cannot read"):
        assert what in said


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_a_file_one_may_not_read_is_a_finding(dselect, tmp_path):
    write_records(tmp_path / "a.jsonl", make_pool(3)).chmod(0)
    assert "Permission denied" in report(dselect, "a.jsonl", status=1)["failures"][0]


def test_a_line_that_is_too_long_ends_its_file_only(tmp_path):
    code = (
        "import sys, dselect.records.reading as r\n"
        "r.LONGEST_LINE = 3 << 20\n"
        "from dselect.cli import main\n"
        "sys.argv = ['dselect', 'check', 'long.jsonl', 'b.jsonl', '-j', '1', '--json', '-q']\n"
        "main()"
    )
    (tmp_path / "long.jsonl").write_bytes(lines(make_pool(4)) + b'{"text":"' + b"a" * (4 << 20) + b'"}\n')
    write_records(tmp_path / "b.jsonl", make_pool(2))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert [file["documents"] for file in found["files"]] == [4, 2]
    assert "a line longer than 3 MiB" in found["failures"][0]


def test_the_poison_of_a_failed_upstream_is_a_finding(dselect):
    found = report(dselect, stdin=lines(make_pool(3)) + b'{"dselect_failed": true', status=1)
    assert "before this one in the pipe failed" in found["failures"][0]
    assert found["total"]["documents"] == 3
    assert found["bad_lines"] == {}


def test_ids_are_compared_as_parsed_and_texts_exactly(dselect, tmp_path):
    first = [{"id": 1, "text": "a"}, {"id": "1", "text": "A"}, {"text": "a "}, {"id": None, "text": "b"}]
    second = [{"id": 1, "text": "c"}, {"id": {"b": 1, "a": 2}, "text": "d"}]
    write_records(tmp_path / "1.jsonl", first)
    third = b'\n{"id": "\\u0031", "text": "\\u0061"}\n{"id": {"a":2,"b":1}, "text": "e"}\n'
    (tmp_path / "2.jsonl").write_bytes(lines(second) + third)
    found = report(dselect, "1.jsonl", "2.jsonl")
    assert found["duplicate_ids"] == {
        "count": 3,
        "examples": [
            {"first": "1.jsonl:1", "again": "2.jsonl:1"},
            {"first": "1.jsonl:2", "again": "2.jsonl:4"},
            {"first": "2.jsonl:2", "again": "2.jsonl:5"},
        ],
    }
    assert found["duplicate_texts"] == {"count": 1, "examples": [{"first": "1.jsonl:1", "again": "2.jsonl:4"}]}
    assert found["total"]["missing_ids"] == 2


@pytest.mark.parametrize(
    "records",
    [
        [{"id": 1, "text": "a"}, {"id": 1, "text": "b"}],
        [{"id": 1, "text": "a"}, {"id": 2, "text": "a"}],
        [{"id": 1, "text": ""}],
        [{"id": 1, "text": " \u3000\n"}],
        [{"text": "a"}],
    ],
    ids=["id", "text", "empty", "whitespace", "no id"],
)
def test_a_warning_fails_only_with_strict(records, dselect):
    text = dselect("check", stdin=lines(records), status=0).stdout
    assert b"Warnings\n" in text
    assert b"A run stops at" not in text
    dselect("check", "--strict", stdin=lines(records), status=1)


def test_strict_takes_no_offence_at_a_sound_pool(dselect, pool):
    dselect("check", pool, "--strict")


@pytest.mark.parametrize(
    ("tolerance", "status"), [("stop", 1), ("skip", 0), ("skip:1", 1), ("skip:2", 0), ("skip:1%", 1)]
)
def test_the_status_is_that_of_a_run_with_the_same_tolerance(tolerance, status, dselect, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(make_pool(8)) + b"x\ny\n")
    dselect("check", "a.jsonl", "--bad-lines", tolerance, status=status)
    dselect("select", "a.jsonl", "--keep", 1, "--bad-lines", tolerance, status=status)


def test_no_records_are_written_whatever_is_asked(dselect, pool):
    assert "check writes no records" in dselect("check", pool, "--rejects", "r.jsonl", status=2).stderr
    dselect("check", pool, "-o", "out.jsonl", status=2)


@pytest.mark.parametrize("jobs", [3])
def test_any_number_of_jobs_and_a_pipe_report_the_same(jobs, dselect, tmp_path):
    records = make_pool(6000, seed=2)
    data = lines(records) + b"oops\n" + lines(records[::7]) + b"\n" + lines([{"text": ""}])
    (tmp_path / "p.jsonl").write_bytes(data)
    again = len(records[::7])
    found = report(dselect, "p.jsonl", "-j", jobs, status=1)
    assert found["duplicate_ids"]["count"] == again
    assert found["duplicate_texts"]["examples"][1] == {"first": "p.jsonl:8", "again": "p.jsonl:6003"}
    assert found["bad_lines"]["not_json"]["examples"][0]["line"] == 6001
    piped = dselect("check", "-j", jobs, "--json", stdin=data, status=1).stdout
    one = dselect("check", "p.jsonl", "-j", 1, "--json", status=1).stdout
    assert (
        piped.replace(b"<stdin>", b"p.jsonl")
        == one
        == dselect("check", "p.jsonl", "-j", jobs, "--json", status=1).stdout
    )


def test_an_empty_pool_and_a_single_record(dselect, tmp_path):
    for records in ([], [{"id": 1, "text": "a"}]):
        write_records(tmp_path / "a.jsonl.zst", records)
        for options in ([], ["--strict"], ["-j", 1]):
            assert report(dselect, "a.jsonl.zst", *options)["total"]["documents"] == len(records)
        assert report(dselect, stdin=lines(records))["total"]["documents"] == len(records)


def test_limit_text_and_files_from_are_as_elsewhere(dselect, tmp_path, pool):
    (tmp_path / "a.jsonl").write_bytes(b'{"body":{"x":"one"}}\n{"body":{"x":"two"}}\nbad\n')
    (tmp_path / "list").write_text("a.jsonl\n")
    found = report(dselect, "--files-from", "list", "--text", "body.x", "--limit", 2)
    assert found["total"]["documents"] == 2
    assert report(dselect, pool, "--limit", 0)["total"]["documents"] == 0
    cut = pool.read_bytes()[:-20]
    (tmp_path / "cut.jsonl.zst").write_bytes(zstandard.compress(lines(make_pool(9))) + cut)
    assert report(dselect, "cut.jsonl.zst", "--limit", 9)["failures"] == []  # what lies beyond is not looked at


def test_what_names_and_fields_hold_does_not_reach_the_terminal(dselect, tmp_path):
    name = os.fsdecode(b"a\x1b[2J\xff.jsonl")
    (tmp_path / name).write_bytes(b'{"\\u001b[31m' + b"k" * 5000 + b'":1}\n')
    run = dselect("check", name, status=1)
    assert b"\x1b" not in run.stdout
    assert max(map(len, run.stdout.split(b"\n"))) < 600
    assert report(dselect, name, status=1)["files"][0]["file"] == "a\x1b[2J\\xff.jsonl"
    assert printable("é漢\t\u202e\n") == "é漢\\t\\u202e\\n"


def column(values):
    made = Column(np.uint64)
    half = len(values) // 2
    for part in (values[:half], values[half:half], values[half:]):
        made.extend(np.array(part, np.uint64))
    return made


hashes = st.one_of(st.integers(0, 12), st.sampled_from([2**60, 2**60 + 1, 15 << 60, 2**64 - 1, 2**63]))


@settings(max_examples=150, deadline=None)
@given(st.lists(hashes, max_size=60), st.integers(0, 8), st.integers(1, 20))
def test_duplicates_are_what_a_dictionary_finds_however_the_column_is_cut(values, show, piece):
    first, expected = {}, []
    for position, value in enumerate(values):
        if value and first.setdefault(value, position) != position:
            expected.append((first[value], position))
    before = module.PIECE
    module.PIECE = piece
    try:
        made = column(values)
        assert duplicates(made, show) == (len(expected), expected[:show])
        assert [made[i] for i in range(len(values))] == values
    finally:
        module.PIECE = before


def test_duplicates_of_many_hashes_are_counted_right():
    random_ = np.random.default_rng(0)
    values = random_.integers(1, 2**64, 700_000, np.uint64)
    values[600_000:] = values[random_.permutation(600_000)[:100_000]]
    made = Column(np.uint64)
    made.extend(values)
    count, pairs = duplicates(made, 3)
    assert count == 100_000
    assert [again for _, again in pairs] == [600_000, 600_001, 600_002]
    assert all(values[first] == values[again] for first, again in pairs)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([b"{}", b"", b'{"text":"a"}', b'{"text":1}', b"\xff", b"[", b'{"text":"","id":[]}'])))
def test_every_line_is_counted_once(found):
    from dselect.commands.check import Report
    from dselect.pool import Pool
    from dselect.records.sources import Source

    source = Source(None, "s", "s")
    pool = Pool([source])
    pool._chunks = lambda *_: iter([b"\n".join(found)])
    made = Report([source], 5)
    made.read(pool)
    total = made.total
    ended = len(b"\n".join(found).split(b"\n")) - (not found or not found[-1])
    assert total.documents + total.bad_lines + total.blank_lines == ended


def test_real_documents_have_no_exact_duplicates_and_copies_of_them_are_found(dselect, shared, tmp_path):
    paths = [shared / "pool" / f"{name}.jsonl.zst" for name in ("aphorisms", "recipes_zh", "web_es")]
    found = report(dselect, *paths)
    assert found["total"]["documents"] == 8867 + 247 + 510
    assert found["duplicate_texts"]["count"] == 0
    copied = random.Random(0).sample(read_bytes(paths[0]).splitlines(keepends=True), 50)
    (tmp_path / "copies.jsonl").write_bytes(b"".join(copied))
    assert report(dselect, *paths, "copies.jsonl")["duplicate_texts"]["count"] == 50


def test_a_closed_pipe_is_no_error(tmp_path):
    for number in range(3000):
        (tmp_path / f"{number}.jsonl").write_bytes(b"")
    script = f"{' '.join(DSELECT)} check . -q -j 1 | head -n 1 >/dev/null; echo ${{PIPESTATUS[@]}}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0"]
    assert done.stderr == ""
