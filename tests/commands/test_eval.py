"""Does the judge judge, is the budget kept, does the interval cover, is a leak seen."""

import csv
import importlib.util
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dselect.commands.eval import cut, overlap
from dselect.models.transformer import train_and_test
from dselect.reporting.evaluations import RESAMPLES, intervals
from tests.conftest import make_pool, make_target, write_records


@pytest.fixture
def selections(tmp_path):
    """Cooking, law, and cooking again under other ids; a target that is cooking."""
    cooking = [r for r in make_pool(300) if r["source"] == "cooking"]
    law = [r for r in make_pool(300) if r["source"] == "law"]
    write_records(tmp_path / "cooking.jsonl.zst", cooking)
    write_records(tmp_path / "law.jsonl.zst", law)
    write_records(tmp_path / "heldout.jsonl", make_target(40))
    return tmp_path


def test_training_on_the_target_s_kind_is_better_and_the_interval_says_so(selections, dselect):
    run = dselect(
        *["eval", "law.jsonl.zst", "cooking.jsonl.zst", "--target", "heldout.jsonl", "--baseline", "./law.jsonl.zst"],
        *["--json", "r.json", "--csv", "r.csv", "--within", "source", "--json-summary"],
    )
    found = json.loads((selections / "r.json").read_text("utf-8"))
    law, cooking = found["selections"]
    assert cooking["bits_per_byte"] + 1 < law["bits_per_byte"]
    assert law["difference"] is None
    assert cooking["low"] < cooking["difference"] < cooking["high"] < 0
    assert cooking["difference"] == pytest.approx(cooking["bits_per_byte"] - law["bits_per_byte"])
    assert cooking["shares"] == {"cooking": 1.0}
    assert len(cooking["by_seed"]) == 3
    rows = list(csv.DictReader((selections / "r.csv").read_text("utf-8").splitlines()))
    assert [row["selection"] for row in rows] == ["law", "cooking"]
    assert float(rows[1]["bits_per_byte"]) == cooking["bits_per_byte"]
    assert float(rows[1]["documents"]) == cooking["documents"]
    table = run.stdout.decode()
    assert f"{cooking['bits_per_byte']:.4f}" in table
    assert "cooking 100%" in table


def test_all_selections_train_on_the_same_number_of_bytes(selections, dselect):
    options = ["--target", "heldout.jsonl", "--json", "r.json"]
    dselect("eval", "law.jsonl.zst", "cooking.jsonl.zst", *options)
    found = json.loads((selections / "r.json").read_text("utf-8"))
    assert {row["bytes"] for row in found["selections"]} == {found["budget"]}
    dselect("eval", "law.jsonl.zst", "cooking.jsonl.zst", *options, "--budget", "5kB")
    found = json.loads((selections / "r.json").read_text("utf-8"))
    assert [row["bytes"] for row in found["selections"]] == [5000, 5000]
    assert [row["documents"] for row in found["selections"]] < [100, 100]


def test_reports_stand_for_selections_that_were_trained_on_elsewhere(selections, dselect):
    options = ["--target", "heldout.jsonl", "--budget", "5kB", "--seeds", "2"]
    both = dselect("eval", "law.jsonl.zst", "cooking.jsonl.zst", *options, "--baseline", "law.jsonl.zst").stdout
    dselect("eval", "law.jsonl.zst", *options, "--json", "law.json")
    assert dselect("eval", "law.json", "cooking.jsonl.zst", *options, "--baseline", "law.json").stdout == both
    for other, told in ((["--seeds", "3"], "with seeds [0, 1], not [0, 1, 2]"), (["-t", "law.jsonl.zst"], "target")):
        refused = dselect("eval", "law.json", *options, *other, status=1).stderr
        assert refused.startswith("dselect: law.json: this report was made ")
        assert told in refused
    (selections / "law.json").write_text("{}", "utf-8")
    assert "not a report" in dselect("eval", "law.json", *options, status=1).stderr


def test_a_selection_smaller_than_the_budget_is_refused_or_taken_as_it_is(selections, dselect):
    options = ["eval", "law.jsonl.zst", "--target", "heldout.jsonl", "--budget", "1MB"]
    refused = dselect(*options, status=1).stderr
    assert refused.startswith("dselect: law.jsonl.zst: the selection holds ")
    assert "--allow-short" in refused
    assert "law" in dselect(*options, "--allow-short").stdout.decode()
    assert "amount of bytes" in dselect(*options[:-1], "100", status=2).stderr


@given(st.lists(st.text(max_size=9).map(str.encode), max_size=9), st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_the_budget_is_cut_between_characters(texts, budget):
    kept = cut(texts, budget)
    whole = b"".join(texts)
    taken = b"".join(kept)
    assert whole.startswith(taken)
    taken.decode()
    assert min(budget, len(whole)) - 3 <= len(taken) <= budget


@pytest.mark.parametrize("jobs", [3])
def test_any_number_of_jobs_gives_the_same_table(jobs, selections, dselect):
    options = ["eval", "law.jsonl.zst", "cooking.jsonl.zst", "--target", "heldout.jsonl", "--budget", "9kB"]
    options += ["--baseline", "law.jsonl.zst"]
    assert dselect(*options, "-j", jobs).stdout == dselect(*options, "-j", 1, "--seed", 0).stdout
    assert dselect(*options, "-j", jobs).stdout != dselect(*options, "-j", jobs, "--seed", 5).stdout


def test_the_order_of_the_records_does_not_matter(selections, dselect):
    records = [r for r in make_pool(300) if r["source"] == "law"]
    random.Random(1).shuffle(records)
    write_records(selections / "other" / "law.jsonl", records)
    options = ["--target", "heldout.jsonl", "--budget", "9kB", "-q"]
    assert dselect("eval", "law.jsonl.zst", *options).stdout == dselect("eval", "other/law.jsonl", *options).stdout


def test_a_selection_that_holds_the_target_is_warned_of(selections, dselect):
    records = [r for r in make_pool(300) if r["source"] == "cooking"]
    write_records(selections / "leak.jsonl", records + make_target(20))
    run = dselect(
        "eval", "leak.jsonl", "cooking.jsonl.zst", "--target", "heldout.jsonl", "--json", "r.json", "--seed", 2
    )
    assert "warning: leak: " in run.stderr
    assert "warning: cooking" not in run.stderr
    leak, clean = json.loads((selections / "r.json").read_text("utf-8"))["selections"]
    assert leak["target_overlap"] > 0.3
    assert leak["target_documents_found"] >= 15
    assert clean["target_overlap"] < 0.01
    assert leak["bits_per_byte"] < clean["bits_per_byte"]


def test_overlap_is_of_distinct_runs_of_thirteen_words():
    words = [f"w{i}" for i in range(40)]
    target = " ".join(words[:20])  # 8 runs
    found = overlap([target.encode(), b"too short"], [" ".join(words[:14]).upper().encode(), b"", b"else"])
    assert (found.share, found.documents) == (2 / 8, 1)
    assert overlap([b"too short"], [b"too short"]).share == 0


def test_duplicates_are_told(selections, dselect):
    write_records(selections / "twice.jsonl", [{"text": "a b c d"}] * 3 + [{"text": "e f"}])
    dselect("eval", "twice.jsonl", "--target", "heldout.jsonl", "--json", "r.json")
    row = json.loads((selections / "r.json").read_text("utf-8"))["selections"][0]
    assert row["duplicates"] == 0.5
    assert row["median_bytes"] == 7


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    sizes = generator.integers(50, 500, 60)
    covered = 0
    for trial in range(100):
        differences = sizes * generator.normal(-0.1, 0.3, 60)
        ((low, high),) = intervals([differences], sizes, trial)
        assert low < high
        covered += low < -0.1 < high
    assert 85 <= covered <= 100
    assert RESAMPLES >= 1000


def test_equal_models_differ_by_nothing(selections, dselect):
    records = [r for r in make_pool(300) if r["source"] == "law"]
    write_records(selections / "same.jsonl", records)
    options = ["--target", "heldout.jsonl", "--baseline", "law.jsonl.zst", "--json", "r.json"]
    dselect("eval", "law.jsonl.zst", "same.jsonl", *options)
    row = json.loads((selections / "r.json").read_text("utf-8"))["selections"][1]
    assert (row["difference"], row["low"], row["high"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["law.jsonl.zst"], 2, "--target"),
        (["law.jsonl.zst", "--target", "heldout.jsonl", "--baseline", "x.jsonl"], 2, "x.jsonl"),
        (["nowhere.jsonl", "--target", "heldout.jsonl"], 1, "nowhere.jsonl"),
        (["law.jsonl.zst", "--target", "empty.jsonl"], 1, "no text"),
        (["empty.jsonl", "--target", "heldout.jsonl"], 1, "nothing to train on"),
    ],
)
def test_mistakes_are_one_line(arguments, status, said, selections, dselect):
    write_records(selections / "empty.jsonl", [])
    assert said in dselect("eval", *arguments, status=status).stderr


def test_a_small_transformer_judges_too(selections, dselect):
    pytest.importorskip("torch")
    options = ["--target", "heldout.jsonl", "--lm", "transformer", "--size", "tiny"]
    options += ["--steps", 2, "--seeds", 2, "--json", "r.json"]
    first = dselect("eval", "law.jsonl.zst", "cooking.jsonl.zst", *options)
    found = json.loads((selections / "r.json").read_text("utf-8"))
    assert (found["lm"], found["steps"], found["size"]) == ("transformer", 2, "tiny")
    assert len(set(found["selections"][0]["by_seed"])) == 2
    assert first.stdout == dselect("eval", "law.jsonl.zst", "cooking.jsonl.zst", *options).stdout


def test_a_transformer_learns_what_it_is_shown():
    pytest.importorskip("torch")
    targets = [record["text"].encode() for record in make_target(4)]
    kinds = {kind: [r["text"].encode() for r in make_pool(90) if r["source"] == kind] for kind in ("cooking", "law")}
    bits = {
        kind: train_and_test(texts, targets, 60, 0, "tiny").sum() / sum(map(len, targets))
        for kind, texts in kinds.items()
    }
    assert bits["cooking"] < min(bits["law"], 6)
    untrained = train_and_test(kinds["law"], [*targets, b""], 0, 0, "tiny")
    assert untrained[:4] / [len(text) for text in targets] == pytest.approx(np.full(4, np.log2(257)), abs=0.3)
    assert untrained[4] == 0


def test_the_transformer_says_what_it_needs(selections, dselect):
    if importlib.util.find_spec("torch"):
        pytest.skip("it is there")
    options = ["--target", "heldout.jsonl", "--lm", "transformer"]
    assert "dselect[neural]" in dselect("eval", "law.jsonl.zst", *options, status=1).stderr
    assert "dselect[neural]" in dselect("loss", "law.jsonl.zst", "--model", "a=hf:x", status=1).stderr
