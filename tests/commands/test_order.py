"""Sequences of records: always a permutation, the same for any division of the work, also on many shelves."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dselect import ordering
from dselect.commands.order import Keys, sequence, write_in_order
from dselect.pool import Pool
from dselect.records.sources import discover
from tests.conftest import lines, make_pool, read_bytes, write_records


@pytest.fixture
def scored():
    noise = random.Random(3)
    return [{**record, "q": noise.choice([0, 1.5, -2, noise.random()])} for record in make_pool(200)]


def test_from_low_to_high_and_back(scored, dselect):
    up = dselect("order", "--by", "q", stdin=lines(scored)).records
    assert [r["q"] for r in up] == sorted(r["q"] for r in scored)
    assert sorted(r["id"] for r in up) == sorted(r["id"] for r in scored)
    down = dselect("order", "--by=-q", stdin=lines(scored)).records
    assert [r["q"] for r in down] == sorted((r["q"] for r in scored), reverse=True)


def test_folds_are_every_lth_of_the_order(scored, dselect):
    up = dselect("order", "--by", "q", stdin=lines(scored)).records
    folded = dselect("order", "--by", "q", "--folds", 3, stdin=lines(scored)).records
    assert folded == up[::3] + up[1::3] + up[2::3]
    assert dselect("order", "--by", "q", "--folds", 1000, stdin=lines(scored)).records == up


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 50))
def test_folding_is_a_permutation_whose_folds_ascend(keys, folds):
    tie = np.arange(len(keys), dtype=np.uint64)
    order = ordering.folded(ordering.ascending(np.array(keys, float), tie), folds)
    assert sorted(order.tolist()) == list(range(len(keys)))
    start = 0
    for fold in range(folds):
        size = len(range(fold, len(keys), folds))
        part = [(keys[i], i) for i in order[start : start + size].tolist()]
        assert part == sorted(part)
        start += size


def test_shuffles_follow_the_seed_and_not_the_order_of_the_input(scored, dselect, tmp_path):
    once = dselect("order", stdin=lines(scored)).stdout
    assert once == dselect("order", stdin=lines(scored[::-1])).stdout
    assert once != lines(scored)
    assert once != dselect("order", "--seed", 1, stdin=lines(scored)).stdout
    for shard in range(4):
        write_records(tmp_path / "in" / f"{shard}.jsonl.zst", scored[shard::4])
    assert once == dselect("order", "in", "-j", 2).stdout
    dselect("order", "in", "-o", "out.jsonl.zst")
    assert read_bytes(tmp_path / "out.jsonl.zst") == once
    assert "up to date" in dselect("order", "in", "-o", "out.jsonl.zst").stderr


@pytest.mark.parametrize("size", [1, 500, 5_000, 10**9])
def test_any_number_of_shelves_gives_the_same_lines(size, scored, tmp_path):
    path = write_records(tmp_path / "pool.jsonl", [*scored, scored[0]])
    written = []

    class Sink:
        def write(self, _, data):
            written.append(data)

    pool = Pool(discover([str(path)]), rereads=True)
    order, sizes = sequence(pool, Keys("q", 1, "error", 0), 1)
    write_in_order(pool, order, sizes, Sink(), size)
    every = path.read_bytes().splitlines(keepends=True)
    assert b"".join(written) == b"".join(every[i] for i in order.tolist())


def test_records_without_the_field_are_refused_or_put_at_an_end(scored, dselect):
    data = lines([{"text": "none", "id": "none"}, *scored[:5]])
    failed = dselect("order", "--by", "q", stdin=data, status=1).stderr
    assert '<stdin>:1: no field "q"' in failed
    assert "--missing first or last" in failed
    assert dselect("order", "--by", "q", "--missing", "first", stdin=data).records[0]["id"] == "none"
    for by in ("q", "-q"):
        assert dselect("order", f"--by={by}", "--missing", "last", stdin=data).records[-1]["id"] == "none"


def test_edges(dselect, tmp_path):
    assert dselect("order", stdin=b"").stdout == b""
    odd = b'{"text":"b","q":2}  \r\n\n{ "q":1,"text":"a"}'
    assert dselect("order", "--by", "q", stdin=odd).stdout == b'{ "q":1,"text":"a"}\n{"text":"b","q":2}  \r\n'
    assert "-o FILE" in dselect("order", "-", "-o", "folder/", stdin=odd, status=2).stderr
    assert "--by" in dselect("order", "-", "--folds", 2, stdin=odd, status=2).stderr
    assert not list(tmp_path.iterdir())


def test_more_folds_than_records_are_as_many_as_there_are_records(dselect, pool):
    once = dselect("order", pool, "--by", "token_count").stdout
    assert dselect("order", pool, "--by", "token_count", "--folds", 10**18).stdout == once
