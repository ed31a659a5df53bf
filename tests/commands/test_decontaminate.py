"""Shared runs of words: against a plain implementation, and as a user runs it."""

import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dselect.kernels.overlap import find_runs, run_keys, run_table
from tests.conftest import lines, make_pool, write_records

QUESTION = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."
OTHER = "A robe takes two bolts of blue fiber and half that much white fiber; how many bolts in total?"
PAGE = f"The best of the web. «{QUESTION.upper().replace(' ', '  ')}» And so on, with words that nobody asked about."


def plain(text, sets, length):
    """Return words, words in a known run, and known runs of each set; a run of two sets is the first one's."""
    words = re.findall(r"\w+", text.lower())
    owner = {}
    for number, texts in enumerate(sets):
        for other in texts:
            found = re.findall(r"\w+", other.lower())
            for i in range(len(found) - length + 1):
                owner.setdefault(tuple(found[i : i + length]), number)
    covered, runs = set(), [0] * len(sets)
    for i in range(len(words) - length + 1):
        run = tuple(words[i : i + length])
        if run in owner:
            covered.update(range(i, i + length))
            runs[owner[run]] += 1
    return len(words), len(covered), runs


def check(texts, sets, length):
    table, owners = run_table([run_keys(found, length)[0] for found in sets])
    words, covered, runs = find_runs(texts, length, table, owners, len(sets))
    for i, text in enumerate(texts):
        assert (int(words[i]), int(covered[i]), runs[i].tolist()) == plain(text, sets, length)


few_words = st.lists(
    st.lists(st.sampled_from(["a", "B", "é.", "—", "ab", "\n"]), max_size=12).map(" ".join), max_size=4
)


@given(few_words, few_words, few_words, st.integers(1, 4))
def test_runs_are_those_a_plain_loop_finds(texts, first, second, length):
    check(texts, [first, second], length)


def test_runs_go_on_where_a_long_text_is_cut_into_chunks():
    noise = random.Random(0)
    words = [noise.choice("abcdefg") for _ in range(20_000)]
    check([" ".join(words)], [[" ".join(words[4000:4200]), " ".join(words[8180:8200])], [" ".join(words[-50:])]], 13)


def test_contaminated_records_are_told_and_dropped(dselect, tmp_path):
    write_records(tmp_path / "gsm8k.jsonl", [{"question": QUESTION}, {"question": "How many?"}])
    write_records(tmp_path / "other.jsonl", [{"question": OTHER}])
    records = [{"id": 1, "text": PAGE}, {"id": 2, "text": QUESTION}, {"id": 3, "text": OTHER + " " + QUESTION}]
    records += [{"id": 4, "text": ""}, {"id": 5, "text": " ".join(QUESTION.split()[:12])}, *make_pool(5)]
    sets = ["--target", "gsm8k.jsonl", "--target", "other.jsonl", "--target-text", "question", "--json-summary"]
    run = dselect("decontaminate", "-", *sets, stdin=lines(records))
    found = [(r["contamination"], r["contamination_source"]) for r in run.records]
    words = len(re.findall(r"\w+", PAGE))
    assert found[0] == (20 / words, "gsm8k")
    assert found[1:3] == [(1.0, "gsm8k"), (1.0, "gsm8k")]  # 8 runs of one set, 7 of the other
    assert found[3:] == [(0.0, "")] * 7
    assert run.summary["contaminated"] == 3
    assert run.summary["contaminated_by"] == {"gsm8k": 3, "other": 1}
    assert (run.summary["targets"], run.summary["targets_too_short"]) == (3, 1)
    clean = dselect("decontaminate", "-", *sets, "--drop-above", 0, stdin=lines(records))
    assert [r["id"] for r in clean.records] == [4, 5, *(r["id"] for r in make_pool(5))]
    assert clean.summary["kept"] == 7
    some = dselect("decontaminate", "-", *sets, "--drop-above", 20 / words, stdin=lines(records))
    assert [r["id"] for r in some.records][:2] == [1, 4]
    # the cost is one that select knows
    least = dselect("select", "--by=-contamination", "--keep", 8, stdin=run.stdout)
    assert "warn" not in least.stderr
    assert {2, 3}.isdisjoint(r["id"] for r in least.records)


def test_any_division_of_the_work_gives_the_same_bytes(dselect, target, tmp_path):
    records = make_pool(300)
    for shard in range(3):
        write_records(tmp_path / "in" / f"{shard}.jsonl.zst", records[shard * 100 : shard * 100 + 100])
    arguments = ["decontaminate", "in", "--target", target, "--words", 3]
    one = dselect(*arguments, "-j", 1).stdout
    assert one == dselect(*arguments, "-j", 2).stdout
    assert 0 < sum(json.loads(line)["contamination"] > 0 for line in one.splitlines()) < 300
    dselect(*arguments, "-o", "out/")
    assert "up to date" in dselect(*arguments, "-o", "out/").stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--target"),
        (["--target", "short.jsonl"], "short.jsonl: no text has 13 words"),
        (["--target", "short.jsonl", "--target", "sub/short.jsonl.zst"], "two evaluation sets are called short"),
        (["--target", "short.jsonl", "--target-text", "question"], 'short.jsonl:1: no text in the field "question"'),
        (["--target", "missing.jsonl"], "missing.jsonl: no such file"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(arguments, said, dselect, tmp_path):
    write_records(tmp_path / "short.jsonl", [{"text": "a b c"}])
    write_records(tmp_path / "sub" / "short.jsonl.zst", [{"text": "a b c"}])
    failed = dselect("decontaminate", "-", *arguments, stdin=b'{"text":"a"}\n', status=None)
    assert failed.status in (1, 2)
    assert said in failed.stderr.splitlines()[-1]
