"""Attribute files: a line for every line, written beside the pool and read back as if the records had the fields."""

import gzip
import json

import pytest

from tests.conftest import lines, make_pool, read_bytes, write_records


@pytest.fixture
def shards(tmp_path):
    """Write two shards, one of them with a blank and a bad line in it."""
    records = make_pool(90)
    write_records(tmp_path / "pool" / "a" / "0.jsonl.zst", records[:50])
    data = lines(records[50:60]) + b"\nbad\n" + lines(records[60:]).rstrip(b"\n")
    (tmp_path / "pool" / "1.jsonl").write_bytes(data)
    return tmp_path / "pool"


@pytest.fixture
def sidecars(dselect, shards, target):
    dselect("dsir", shards, "--target", target, "--attributes", "attributes/dsir", "--bad-lines", "skip")
    return "attributes/dsir"


def test_every_line_has_its_line_of_attributes(dselect, shards, sidecars, target, tmp_path):
    scored = dselect("dsir", shards, "--target", target, "--bad-lines", "skip").records
    rows = [
        json.loads(line)
        for name in ("1.jsonl", "a/0.jsonl.zst")
        for line in read_bytes(tmp_path / sidecars / name).split(b"\n")[:-1]
    ]
    assert len(rows) == 92
    assert [row for row in rows if not row["attributes"]] == [{"attributes": {}}] * 2
    assert rows[10] == rows[11] == {"attributes": {}}
    found = [row for row in rows if row["attributes"]]
    assert [row["id"] for row in found] == [record["id"] for record in scored]
    assert [row["attributes"]["dsir"] for row in found] == [[[0, len(r["text"]), r["dsir"]]] for r in scored]


def test_select_reads_them_back(dselect, shards, sidecars, target):
    options = ["--keep", 20, "--bad-lines", "skip"]
    direct = dselect("dsir", shards, "--target", target, *options).records
    for record in direct:
        del record["dsir"]
    for jobs in (1, 2):
        kept = dselect("select", shards, "--attributes", sidecars, "--by", "dsir", *options, "-j", jobs)
        assert kept.records == direct


def test_several_sidecars_and_other_compression(dselect, shards, sidecars, target, tmp_path):
    options = ["--bad-lines", "skip"]
    dselect("dsir", shards, "--target", target, "--attributes", "more", "--as", "other", "--length", "sum", *options)
    path = tmp_path / "more" / "a" / "0.jsonl.zst"
    (tmp_path / "more" / "a" / "0.jsonl.gz").write_bytes(gzip.compress(read_bytes(path)))
    path.unlink()
    both = ["--attributes", sidecars, "--attributes", "more", "--by", "dsir", "--by", "other:0.5"]
    kept = dselect("select", shards, *both, "--keep", 5, *options)
    scored = dselect("dsir", shards, "--target", target, *options).stdout
    scored = dselect("dsir", "--target", target, "--as", "other", "--length", "sum", stdin=scored).stdout
    wanted = dselect("select", "--by", "dsir", "--by", "other:0.5", "--keep", 5, stdin=scored).records
    assert [r["id"] for r in kept.records] == [r["id"] for r in wanted]


@pytest.mark.parametrize("damage", ["missing", "short", "long", "another", "not JSON", "two spans", "truncated"])
def test_attributes_that_do_not_fit_are_refused(damage, dselect, shards, sidecars, tmp_path):
    path = tmp_path / sidecars / "1.jsonl"
    rows = path.read_bytes().split(b"\n")[:-1]
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        path.write_bytes(b"\n".join(rows[:-1]) + b"\n")
    elif damage == "long":
        path.write_bytes(b"\n".join([*rows, rows[0]]) + b"\n")
    elif damage == "another":
        path.write_bytes(b"\n".join([rows[1], rows[0], *rows[2:]]) + b"\n")
    elif damage == "not JSON":
        path.write_bytes(b"\n".join([b"{", *rows[1:]]) + b"\n")
    elif damage == "two spans":
        path.write_bytes(b"\n".join([rows[0].replace(b"[[0", b"[[0,1,2],[0"), *rows[1:]]) + b"\n")
    elif damage == "truncated":
        other = tmp_path / sidecars / "a" / "0.jsonl.zst"
        other.write_bytes(other.read_bytes()[:-9])
    options = ["--by", "dsir", "--keep", 5, "--bad-lines", "skip"]
    failed = dselect("select", shards, "--attributes", sidecars, *options, status=1)
    where = {
        "missing": "attributes/dsir/1.jsonl",
        "short": "attributes/dsir/1.jsonl",
        "long": "attributes/dsir/1.jsonl",
    }
    assert failed.stderr.startswith(f"dselect: {where.get(damage, '')}")
    assert failed.stderr.count("\n") == 1


def test_a_last_line_without_a_newline_is_a_line(dselect, shards, sidecars, tmp_path):
    path = tmp_path / sidecars / "1.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    options = ["--by", "dsir", "--keep", "100%", "--bad-lines", "skip"]
    assert len(dselect("select", shards, "--attributes", sidecars, *options).records) == 90


def test_a_score_is_not_kept_and_written_beside_at_once(dselect, shards, target):
    options = ["dsir", shards, "--target", target, "--attributes", "at"]
    assert "--attributes" in dselect(*options, "--keep", 3, status=2).stderr
    assert "--attributes" in dselect(*options, "-o", "out.jsonl", status=2).stderr


def test_large_files_are_paired_block_by_block(dselect, target, tmp_path):
    records = [{"id": i, "text": f"garlic {i} " * (1 + i % 50)} for i in range(12_000)]
    pool = write_records(tmp_path / "big.jsonl.zst", records)
    dselect("dsir", pool, "--target", target, "--attributes", "at", "-j", 2)
    kept = dselect("select", pool, "--attributes", "at", "--by", "dsir", "--keep", 500, "-j", 3).stdout
    scored = dselect("dsir", pool, "--target", target, "--keep", 500).records
    assert [json.loads(line)["id"] for line in kept.splitlines()] == [record["id"] for record in scored]
    limited = dselect("select", pool, "--attributes", "at", "--by", "dsir", "--keep", "100%", "--limit", 7000)
    assert len(limited.records) == 7000
