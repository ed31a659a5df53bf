"""Pairs are drawn by the seed alone, cut as published, and say which text is the better."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dselect.errors import DselectError
from dselect.judging.judgments import LEAST, MOST, Comparisons, Judgment, draw_pairs, read
from dselect.kernels.windows import excerpt, spans, windows
from tests.conftest import lines, make_pool, read_records, write_records

WORD = re.compile(r"\w+|[^\w\s]+")


@given(st.text())
def test_words_stand_where_the_expression_finds_them(text):
    data = text.encode()
    assert [data[a:b].decode() for a, b in spans(data).tolist()] == WORD.findall(text)


@given(st.text("a, é\n", max_size=60), st.integers(1, 5))
def test_windows_are_the_text_in_pieces_of_so_many_words(text, words):
    found, counts = windows(text.encode(), words)
    assert b"".join(found).decode() == text
    assert counts == [len(WORD.findall(piece.decode())) for piece in found]
    assert all(count == words for count in counts[:-1])
    assert counts[-1] <= words


@given(st.integers(1, 30), st.floats(0, 1, exclude_max=True))
def test_an_excerpt_is_a_run_of_words_of_the_text(count, place):
    text = " ".join(f"w{i}" for i in range(count)).encode()
    cut = excerpt(text, 5, 8, place).split()
    assert len(cut) == (count if count <= 8 else 5)
    assert b" ".join(cut) in text


@given(st.lists(st.integers(0, 3), min_size=2, max_size=40), st.integers(1, 60))
def test_pairs_are_within_a_domain_and_none_comes_twice(domains, count):
    keys = np.arange(len(domains), dtype=np.uint64) * np.uint64(77777)
    found = draw_pairs(keys, keys, np.array(domains), count, 0).tolist()
    sizes = np.bincount(domains)
    assert len(found) == min(count, int((sizes * (sizes - 1) // 2).sum()))
    assert all(a != b and domains[a] == domains[b] for a, b in found)
    assert len({frozenset(pair) for pair in found}) == len(found)


def test_no_text_is_in_a_second_pair_before_all_have_been_in_one():
    keys = np.arange(100, dtype=np.uint64)
    found = draw_pairs(keys, keys, np.zeros(100, np.int64), 150, 7)
    assert sorted(found[:50].reshape(-1).tolist()) == list(range(100))
    assert np.bincount(found.reshape(-1)).max() <= 4  # a pair that came before is left out of a round


def graded(count=60):
    return [{**record, "grade": number % 7} for number, record in enumerate(make_pool(count))]


def test_the_higher_grade_is_the_better_and_equal_grades_are_undecided(dselect):
    records = graded()
    grade = {record["id"]: record["grade"] for record in records}
    text = {record["id"]: record["text"] for record in records}
    found = dselect("judge", "--pairs", 90, "--from-field", "grade", stdin=lines(records)).records
    assert len(found) == 90
    for one in found:
        a, b = grade[one["id_a"]], grade[one["id_b"]]
        assert one["p_b"] == (b > a) + (a == b) / 2
        assert (one["text_a"], one["text_b"]) == (text[one["id_a"]], text[one["id_b"]])
        assert one["criterion"] == "grade"
    assert {one["p_b"] for one in found} == {0, 0.5, 1}


def test_soft_labels_are_logistic_in_the_gap(dselect):
    options = ["--pairs", 20, "--from-field", "grade", "--soft", 2, "--criterion", "ease"]
    for one in dselect("judge", *options, stdin=lines(graded())).records:
        gap = int(one["id_b"].split("-")[1]) % 7 - int(one["id_a"].split("-")[1]) % 7
        assert one["p_b"] == pytest.approx(1 / (1 + np.exp(-gap / 2)))
        assert one["criterion"] == "ease"


def test_shards_in_any_order_jobs_and_pipes_give_the_same_bytes(dselect, tmp_path):
    records = graded(90)
    whole = dselect("judge", "--pairs", 200, "--from-field", "grade", stdin=lines(records)).stdout
    for shard in range(3):
        write_records(tmp_path / f"{shard}.jsonl", records[shard * 30 : shard * 30 + 30])
    for jobs, order in ((1, "201"), (2, "012")):
        names = [f"{shard}.jsonl" for shard in order]
        assert dselect("judge", *names, "--pairs", 200, "--from-field", "grade", "-j", jobs).stdout == whole
    other = dselect("judge", "--pairs", 9, "--from-field", "grade", "--seed", 1, stdin=lines(records)).stdout
    assert other not in whole


def test_long_texts_are_cut_to_excerpts_half_of_them_of_512_words(dselect):
    records = [{"id": i, "text": " ".join(f"{i}x{j}" for j in range(900)), "grade": i} for i in range(60)]
    found = dselect("judge", "--pairs", 300, "--from-field", "grade", stdin=lines(records)).records
    lengths = [[len(one[side].split()) for side in ("text_a", "text_b")] for one in found]
    assert all(a == b for a, b in lengths)
    assert all(LEAST <= a <= MOST for a, _ in lengths)
    assert 120 < sum(a == MOST for a, _ in lengths) < 185
    starts = [int(one["text_a"].split()[0].split("x")[1]) for one in found]
    assert min(starts) < 40
    assert max(starts) > 900 - MOST - 40


def test_what_cannot_be_judged_is_counted_and_pairs_stay_within_a_domain(dselect):
    records = [*graded(12), {"text": "no grade", "source": "law"}, {"text": " ", "grade": 1, "source": "law"}]
    records += [{"text": "no domain", "grade": 3}, dict(records[0], id="again")]
    options = ["--pairs", 9999, "--from-field", "grade", "--within", "source", "--json-summary"]
    run = dselect("judge", *options, stdin=lines(records))
    assert run.summary["unusable"] == 4
    assert run.summary["judgments"] == len(run.records) == 3 * (4 * 3 // 2)
    source = {record["text"]: record.get("source") for record in records}
    assert all(source[one["text_a"]] == source[one["text_b"]] for one in run.records)


def test_what_makes_no_pair_is_refused(dselect, pool):
    assert "no two records to compare" in dselect("judge", pool, "--from-field", "nothing", status=1).stderr
    assert "--from-field FIELD" in dselect("judge", pool, status=2).stderr


def test_both_layouts_are_read_and_sorted_by_criterion(tmp_path):
    published = {
        "texts": ["a", "b"],
        "educational_value_average": [[-100.0, 0.8], [0.2, -100.0]],
        "writing_style_average": [[-100.0, -100.0], [-100.0, -100.0]],
        "facts_and_trivia_average": [[-100, 0.25], [0.75, -100]],
        "educational_value_votes_a": [[0, 4], [3, 0]],
    }
    ours = {"text_a": "c", "text_b": "a", "criterion": "educational_value", "p_b": 1, "votes": 20}
    write_records(tmp_path / "j.jsonl.zst", [published, ours])
    found = read([str(tmp_path / "j.jsonl.zst")])
    assert list(found) == ["educational_value", "facts_and_trivia"]
    comparisons = Comparisons.of(found["educational_value"])
    assert comparisons.texts == ["a", "b", "c"]
    assert comparisons.pairs.tolist() == [[0, 1], [2, 0]]
    assert comparisons.p.tolist() == [0.8, 1.0]
    assert comparisons.confident(0.7).texts == ["a", "c"]
    assert comparisons.confident(0.6).p.tolist() == [0.8, 1.0]


def test_the_published_layout_is_read_from_parquet_too(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"texts": [["a", "b"]], "educational_value_average": [[[-100.0, 0.8], [0.2, -100.0]]]})
    pq.write_table(table, tmp_path / "j.parquet")
    assert read([str(tmp_path / "j.parquet")]) == {
        "educational_value": [Judgment("a", "b", 0.8, 1, "educational_value")]
    }


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"[]", "not a judgment"),
        (b"{", "not JSON"),
        (b'{"text_a":"x","p_b":1}', "text_a and text_b"),
        (b'{"text_a":"x","text_b":"y"}', "number from 0 to 1"),
        (b'{"text_a":"x","text_b":"y","p_b":1.5}', "number from 0 to 1"),
        (b'{"text_a":"x","text_b":"y","p_b":true}', "number from 0 to 1"),
        (b'{"text_a":"x","text_b":"y","p_b":1,"votes":"2"}', "votes"),
        (b'{"texts":["x"]}', "two texts"),
        (b'{"texts":["x","y"]}', "no CRITERION_average"),
        (b'{"texts":["x","y"],"e_average":[[1]]}', "no matrix of 2"),
    ],
)
def test_a_line_that_is_no_judgment_is_named(line, said, tmp_path):
    (tmp_path / "j.jsonl").write_bytes(b'{"text_a":"x","text_b":"y","p_b":1}\n' + line + b"\n")
    with pytest.raises(DselectError, match=said) as error:
        read([str(tmp_path / "j.jsonl")])
    assert "j.jsonl:2" in str(error.value)


def test_the_order_of_judgments_does_not_matter():
    judgments = [
        Judgment(a, b, p) for (a, b), p in zip(itertools.permutations("xyz", 2), (0.1, 1, 0, 0.5, 1, 1), strict=True)
    ]
    first, second = Comparisons.of(judgments), Comparisons.of(judgments[::-1])
    assert first.pairs.tolist() == second.pairs.tolist()
    assert first.p.tolist() == second.p.tolist()


def test_nothing_is_done_twice(dselect, pool, tmp_path):
    command = ["judge", pool, "--pairs", 20, "--from-field", "token_count", "-o", "j.jsonl.zst"]
    dselect(*command)
    assert "up to date" in dselect(*command).stderr
    assert len(read_records(tmp_path / "j.jsonl.zst")) == 20
