"""What records hold, in numbers that can be checked by eye."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dselect.console import sparkline
from dselect.sketch import BottomK, Distinct, spearman
from tests.conftest import lines, make_pool, write_records

RECORDS = [
    {"text": "é", "s": 1, "d": "a"},
    {"text": "bb", "s": 2.5, "d": "b"},
    {"text": "ccc", "s": 4, "d": "b", "other": -1},
    {"text": "", "d": None, "flag": True, "name": "x"},
]


def stats(dselect, records, *options):
    return json.loads(dselect("stats", "--json", *options, stdin=lines(records)).stdout)


def test_documents_bytes_and_the_spread_of_every_number(dselect):
    found = stats(dselect, RECORDS)
    assert (found["documents"], found["bytes"]) == (4, 7)
    assert list(found["fields"]) == ["other", "s"]
    s = found["fields"]["s"]
    assert (s["records"], s["min"], s["median"], s["max"], s["mean"]) == (3, 1, 2.5, 4, 2.5)
    assert s["90%"] == pytest.approx(3.7)
    assert found["text_bytes"]["max"] == 3
    assert found["fields"]["other"]["records"] == 1


def test_a_table_of_domains_the_largest_first(dselect):
    domains = stats(dselect, RECORDS, "--within", "d")["domains"]
    assert [(d["domain"], d["documents"], d["bytes"]) for d in domains] == [("b", 2, 5), ("a", 1, 2), (None, 1, 0)]
    assert domains[0]["medians"] == {"other": -1, "s": 3.25}
    table = dselect("stats", "--within", "d", stdin=lines(RECORDS)).stdout.decode()
    assert [line.split()[:3] for line in table.split("\n")[-4:-1]] == [
        ["b", "2", "50.0%"],
        ["a", "1", "25.0%"],
        ["(none)", "1", "25.0%"],
    ]


def test_a_field_may_lie_inside_and_may_be_the_only_one(dselect):
    records = [{"text": "a", "m": {"n": i}, "x": 1} for i in range(5)]
    found = stats(dselect, records, "--field", "m.n")
    assert list(found["fields"]) == ["m.n"]
    assert found["fields"]["m.n"]["mean"] == 2


def test_a_field_without_numbers_is_said(dselect):
    assert (
        'no record has a number in the field "y"'
        in dselect("stats", "--field", "y", stdin=lines(RECORDS), status=1).stderr
    )
    assert "<stdin>:4" in dselect("stats", "--field", "name", stdin=lines(RECORDS), status=1).stderr


def test_the_correlation_with_length_is_the_ranks(dselect):
    records = [{"text": "x" * n, "up": n**3, "down": -n, "same": 1} for n in (1, 5, 2, 9)]
    fields = stats(dselect, records)["fields"]
    wanted = {"up": pytest.approx(1), "down": pytest.approx(-1), "same": None}
    assert {name: row["rank_correlation_with_length"] for name, row in fields.items()} == wanted


def test_a_histogram_one_line_high(dselect):
    values = [1] * 60 + [2] * 30 + [17]
    table = dselect("stats", stdin=lines([{"text": "x" * 9, "s": value} for value in values])).stdout.decode()
    rows = {line.split()[0]: line for line in table.split("\n") if line}
    assert "  █▄             ▁  " in rows["s"]  # 60, 30, and at the other end 1
    assert "  " + " " * 8 + "█" in rows["(bytes"]  # all the same
    assert sparkline(np.zeros(0)) == ""
    assert sparkline(np.array([-1e308, 1e308])) == sparkline(np.array([1, 1 + 2e-16])) == "█              █"


def test_no_record_and_one(dselect):
    assert stats(dselect, [])["documents"] == 0
    assert stats(dselect, [], "--within", "d")["domains"] == []
    assert stats(dselect, [], "--field", "s")["fields"] == {}
    assert stats(dselect, [{"text": "a", "s": 3}])["fields"]["s"]["99%"] == 3
    assert "0 documents" in dselect("stats", stdin=b"").stdout.decode()


def test_fields_of_any_name_are_only_fields(dselect):
    record = {"text": "abc", "bytes": 7, "domain": 8, "(bytes of text)": 9, "field x": 1}
    found = stats(dselect, [record], "--within", "domain")
    assert {name: row["mean"] for name, row in found["fields"].items()} == {
        "bytes": 7, "domain": 8, "(bytes of text)": 9, "field x": 1,
    }  # fmt: skip
    assert found["text_bytes"]["mean"] == 3
    assert found["domains"][0]["medians"]["bytes"] == 7


def test_what_could_move_a_terminal_s_cursor_is_not_printed(dselect):
    table = dselect("stats", "--within", "d", stdin=lines([{"text": "a", "d": "\x1b[2Jhi\nthere" + "x" * 500}])).stdout
    assert b"\x1b" not in table
    assert max(map(len, table.decode().split("\n"))) < 300


def test_any_jobs_and_any_order_of_shards_give_the_same_table(dselect, tmp_path):
    records = make_pool()
    for shard in range(3):
        write_records(tmp_path / f"{shard}.jsonl", records[shard * 100 : shard * 100 + 100])
    names = ["0.jsonl", "1.jsonl", "2.jsonl"]
    first = dselect("stats", *names, "--within", "source", "-j", 1).stdout
    assert first == dselect("stats", *names, "--within", "source", "-j", 3).stdout
    assert first == dselect("stats", *names[::-1], "--within", "source").stdout


def test_too_many_domains_are_refused_before_memory_is_gone(dselect, tmp_path):
    path = tmp_path / "many.jsonl"
    path.write_bytes(b"".join(b'{"text":"","id":%d}\n' % i for i in range(100_002)))
    assert '"id"' in dselect("stats", path, "--within", "id", status=1).stderr


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(-5, 5)), max_size=60), st.randoms(), st.integers(1, 20))
def test_a_bottom_k_sample_is_the_same_however_the_stream_is_cut_and_ordered(pairs, random, size):
    def sample(pairs, cuts):
        found = BottomK(size)
        for start, end in zip([0, *cuts], [*cuts, len(pairs)], strict=True):
            part = pairs[start:end]
            keys = np.array([key for key, _ in part], np.uint64)
            found.add(keys, {"x": np.array([value for _, value in part], np.float64)})
        keys, columns = found.result()
        return list(zip(keys.tolist(), columns.get("x", np.zeros(0)).tolist(), strict=True))

    once = sample(pairs, [])
    assert once == sorted(pairs)[:size]
    shuffled = random.sample(pairs, len(pairs))
    assert once == sample(shuffled, sorted(random.choices(range(len(pairs) + 1), k=3)))


def test_length_is_the_same_wherever_scores_are_correlated_with_it(dselect, pool, target, tmp_path):
    records = make_pool(60)
    for number, record in enumerate(records):
        record["text"] = record["text"][: 5 + number] if number % 2 else "漢" * (20 + number)
    write_records(tmp_path / "p.jsonl", records)
    said = dselect("dsir", "p.jsonl", "-t", target, "-o", "s.jsonl", "--json-summary").summary["spread"]["dsir"]
    row = json.loads(dselect("stats", "s.jsonl", "--field", "dsir", "--json").stdout)["fields"]["dsir"]
    assert said["rank_correlation_with_length"] == pytest.approx(row["rank_correlation_with_length"])
    kept = dselect("select", "s.jsonl", "--by", "dsir", "--keep", 9, "--json-summary").summary
    assert kept["spread"]["dsir"]["rank_correlation_with_length"] == pytest.approx(said["rank_correlation_with_length"])


@pytest.mark.parametrize("kind", [BottomK, Distinct])
def test_a_sample_of_a_long_stream_takes_no_more_memory_than_of_a_short_one(kind):
    random = np.random.default_rng(0)
    found = kind(1000)
    tracemalloc.start()
    for _ in range(6000):  # late in it a batch has one record for the sample, or none
        keys = random.integers(2**63, size=200, dtype=np.uint64)
        found.add(keys, {"x": keys.astype(np.float64)} if kind is BottomK else keys)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6


def test_spearman_of_a_known_example():
    # ranks 1 2 3 4 5 against 2 1 4 3 5: 1 - 6·4 / (5·24) = 0.8
    assert spearman(np.array([10.0, 20, 30, 40, 50]), np.array([2.0, 1, 4, 3, 5])) == pytest.approx(0.8)
