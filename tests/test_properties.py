"""What holds for any records: lines pass as they are, a field is all that is new, budgets are met, order is nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dselect import selection
from dselect.records import splice
from dselect.records.batch import parse
from dselect.records.reading import blocks
from dselect.records.sources import Source
from tests.conftest import LONG, lines

CHARACTERS = st.characters(exclude_categories=["Cs"])  # lone surrogates are no text, orjson says
TEXT = st.text(CHARACTERS, max_size=30)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(TEXT, inside, max_size=3),
    max_leaves=8,
)
RECORDS = st.dictionaries(TEXT, JSON, max_size=5).flatmap(lambda rest: TEXT.map(lambda text: {**rest, "text": text}))
SPACE = st.text(" \t\r", max_size=2)


@st.composite
def written(draw, records=RECORDS):
    """Return a record and one of the ways to write it: spaced or not, escaped or not, its text first or last."""
    record = draw(records)
    if draw(st.booleans()):
        record = {"text": record["text"], **record}
    dumped = json.dumps(
        record,
        ensure_ascii=draw(st.booleans()),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,", " : ")])),
    )
    return record, (draw(SPACE) + dumped + draw(SPACE)).encode()


@given(st.lists(written() | st.just((None, b"")) | st.just((None, b" \r"))), st.booleans(), st.integers(1, 40))
def test_lines_come_out_as_they_went_in_however_the_stream_is_cut(found, ends, piece):
    data = b"\n".join(line for _, line in found) + b"\n" * ends
    source = Source(Path("x"), "x", "x")
    seen, texts = [], []
    for block in blocks(0, source, (data[at : at + piece] for at in range(0, len(data), piece))):
        batch = parse(block, "text")
        assert not batch.bad
        seen.append(block.data)
        texts += zip(batch.lines, batch.texts, strict=True)
    assert b"".join(seen) == data
    assert texts == [(line, record["text"]) for record, line in found if record is not None]


@given(written(), st.floats(allow_nan=False, allow_infinity=False), TEXT)
def test_a_spliced_line_is_the_record_encoded_with_its_new_field(found, value, name):
    record, line = found
    record = {key: held for key, held in record.items() if key != name}
    bare = splice.without(line, {name})
    assert orjson.loads(bare) == record
    longer = splice.append(bare, orjson.dumps({name: value})[1:-1])
    assert orjson.loads(longer) == orjson.loads(orjson.dumps({**record, name: value}))
    assert splice.without(longer, {name}) == bare


SCORES = st.floats(allow_nan=False) | st.sampled_from([-1.0, -0.0, 0.0, 1.0, float("-inf")])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(SCORES, st.integers(0, 3), st.integers(0, 9)), max_size=40),
    st.integers(0, 120),
    st.integers(1, 9),
)
def test_the_cut_is_found_without_ranking_and_is_where_a_ranking_has_it(monkeypatch, found, budget, piece):
    monkeypatch.setattr(selection, "_PIECE", piece)
    scores = np.array([score for score, _, _ in found], float)
    tie = np.array([tie for _, tie, _ in found], np.uint64)
    sizes = np.array([size for _, _, size in found], np.uint32)
    kept, last = selection.top(scores, sizes, budget, tie=tie)
    ranked = selection.prefix(selection.best_first(scores, tie), sizes, budget)
    assert kept.tolist() == sorted(ranked.tolist())
    assert last == ((scores[ranked[-1]], tie[ranked[-1]]) if len(ranked) else None)


POOLS = st.lists(
    st.tuples(st.text("abé ", max_size=12), st.integers(-3, 3), st.sampled_from(["x", "y", "z"]), st.integers(0, 9)),
    max_size=25,
)
WAYS = st.sampled_from([["--by", "s"], ["--by=-s"], [], ["--by", "s", "--sample"], ["--by", "s", "--within", "d"]])


def run(warm, options, records):
    """Select, through the program; return the lines."""
    program = [sys.executable, "-S", str(Path(__file__).parent / "warm.py"), warm, "--"]
    with TemporaryDirectory() as folder:
        return subprocess.run(
            [*(program if warm else [sys.executable, "-m", "dselect"]), "select", *options, "-q", "-j", "1"],
            input=lines(records) or b"\n", capture_output=True, cwd=folder, env=dict(os.environ), check=True,
        ).stdout.splitlines()  # fmt: skip


@settings(max_examples=100 if LONG else 8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(POOLS, WAYS, st.integers(0, 30), st.sampled_from(["", "B", "tok", "%", "%B"]), st.randoms())
def test_a_budget_is_met_and_the_order_of_the_input_is_nothing(warm, pool, way, amount, unit, chance):
    records = [
        {"id": number, "text": text, "s": score, "d": domain, "token_count": tokens}
        for number, (text, score, domain, tokens) in enumerate(pool)
    ]
    sizes = {"B": [len(r["text"].encode()) for r in records], "tok": [r["token_count"] for r in records]}
    size = sizes.get(unit.strip("%"), [1] * len(records))
    budget = sum(size) * amount / 100 if "%" in unit else amount
    kept = run(warm, [*way, "--keep", f"{amount}{unit}"], records)
    numbers = [json.loads(line)["id"] for line in kept]
    assert numbers == sorted(set(numbers))
    assert kept == [lines([records[number]]).strip() for number in numbers]
    spent = sum(size[number] for number in numbers)
    assert spent <= budget
    left = [one for number, one in enumerate(size) if number not in numbers and 0 < one <= budget]
    if "--within" not in way:  # the next one of the ranking would have been too much
        assert not left or spent + max(left) > budget
    shuffled = chance.sample(records, len(records))
    assert sorted(run(warm, [*way, "--keep", f"{amount}{unit}"], shuffled)) == sorted(kept)
