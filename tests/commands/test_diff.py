"""What two selections share."""

import pytest

from tests.conftest import lines, make_pool, write_records


@pytest.fixture
def two(tmp_path):
    records = make_pool(60)
    first, second = records[:40], records[30:]
    write_records(tmp_path / "a.jsonl.zst", [*first, first[3], first[3]])
    write_records(tmp_path / "b" / "0.jsonl", [{**record, "dsir": 1.5} for record in second[:7]])
    write_records(tmp_path / "b" / "1.jsonl", second[7:])
    return first, second


def test_overlap_is_of_records_whatever_fields_they_carry(two, dselect):
    first, second = two
    run = dselect("diff", "a.jsonl.zst", "b", "--within", "source", "--json", "--json-summary")
    (found,) = run.records

    def part(records):
        return {"documents": len(records), "bytes": sum(len(r["text"].encode()) for r in records)}

    both = [record for record in first if record in second]
    only_a = [record for record in first if record not in second]
    only_b = [record for record in second if record not in first]
    assert (found["both"], found["only_a"], found["only_b"]) == (part(both), part(only_a), part(only_b))
    assert found["jaccard_documents"] == 10 / 60
    assert found["repeats"] == {"a": 2, "b": 0}
    for row in found["domains"]:
        inside = [[r for r in part_ if r["source"] == row["domain"]] for part_ in (both, only_a, only_b)]
        assert [row["both"], row["only_a"], row["only_b"]] == [part(records) for records in inside]
    assert len(found["domains"]) == len({r["source"] for r in first + second})
    assert run.summary["repeats"] == 2


def test_examples_are_of_one_alone_and_drawn_by_the_seed(two, dselect):
    first, second = two
    arguments = ["diff", "a.jsonl.zst", "b", "--examples", 3, "--json"]
    (found,) = dselect(*arguments).records
    for examples, mine, other in ((found["examples"]["a"], first, second), (found["examples"]["b"], second, first)):
        ids = [example["id"] for example in examples]
        assert len(set(ids)) == 3
        assert set(ids) <= {r["id"] for r in mine} - {r["id"] for r in other}
        assert all(example["text"] == next(r["text"] for r in mine if r["id"] == example["id"]) for example in examples)
    assert dselect(*arguments, "-j", 2).records == [found]
    assert dselect(*arguments, "--seed", 1).records[0]["examples"] != found["examples"]
    shown = dselect("diff", "a.jsonl.zst", "b", "--examples", 3).stdout.decode()
    assert found["examples"]["a"][0]["id"] in shown


def test_edges(dselect, tmp_path):
    write_records(tmp_path / "a.jsonl", [{"text": "\x1b[31mred\x07 \u202etext\n" * 100, "id": "\x1b[2J"}])
    (tmp_path / "empty.jsonl").write_bytes(b"")
    shown = dselect(
        "diff", "a.jsonl", "-", "--examples", 1, "--within", "source", stdin=lines([{"text": "other"}])
    ).stdout
    assert b"\x1b" not in shown
    assert b"\x07" not in shown
    assert "\u202e" not in shown.decode()
    assert b"other" in shown
    (found,) = dselect("diff", "a.jsonl", "empty.jsonl", "--json", "--examples", 2).records
    assert found["only_a"]["documents"] == 1
    assert found["examples"]["b"] == []
    assert dselect("diff", "empty.jsonl", "-", "--json").records[0]["jaccard_bytes"] is None
    dselect("diff", "a.jsonl", "a.jsonl", status=2)
    assert "nope.jsonl: no such file" in dselect("diff", "a.jsonl", "nope.jsonl", status=1).stderr
