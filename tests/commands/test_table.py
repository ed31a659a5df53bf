"""Evaluations side by side: what a cell says is what eval said, and what cannot be compared is refused."""

import csv
import json
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dselect.reporting.evaluations import RESAMPLES, Evaluation, compare, intervals
from tests.conftest import DSELECT, make_pool, make_target, write_records


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Two selections on two targets, a report each; and both at once, with a baseline."""
    folder = tmp_path_factory.mktemp("reports")
    for kind in ("cooking", "law"):
        write_records(folder / f"{kind}.jsonl", [r for r in make_pool(300) if r["source"] == kind])
    write_records(folder / "t.jsonl", make_target(20))
    write_records(folder / "u.jsonl", [r for r in make_pool(30, seed=5) if r["source"] == "law"])
    options = ["--order", "3", "--seeds", "2", "-q", "-j", "1"]
    for target in "tu":
        both = ["law.jsonl", "cooking.jsonl"] if target == "t" else ["law.jsonl"]
        commands = [([one], f"{target}-{one[:3]}.json") for one in both]
        if target == "t":
            commands += [(["law.jsonl", "cooking.jsonl", "--baseline", "law.jsonl"], "both.json")]
        for selections, report in commands:
            line = [*DSELECT, "eval", *selections, "--target", f"{target}.jsonl", "--budget", "5kB", *options]
            subprocess.run([*line, "--json", report], cwd=folder, check=True, capture_output=True)
    return folder


def test_a_cell_is_what_eval_found_whether_reports_are_apart_or_one(reports, dselect):
    apart = dselect("table", reports / "t-coo.json", reports / "t-law.json", "--baseline", "law", "--format", "csv")
    joint = dselect("table", reports / "both.json", "--format", "csv")
    assert apart.stdout == joint.stdout  # the baseline is the report's own
    law, cooking = csv.DictReader(joint.stdout.decode().splitlines())
    told = json.loads((reports / "both.json").read_text("utf-8"))["selections"][1]
    assert [law["selection"], cooking["selection"]] == ["law", "cooking"]
    assert float(cooking["difference"]) == told["difference"]
    assert (float(cooking["difference_low"]), float(cooking["difference_high"])) == (told["low"], told["high"])
    assert float(cooking["low"]) < float(cooking["bits_per_byte"]) < float(cooking["high"])
    assert (law["difference"], law["target"], law["budget"], law["order"]) == ("", "t", "5000", "3")


def test_text_and_markdown_have_a_column_a_target_and_a_dash_where_nothing_was_evaluated(reports, dselect):
    names = [reports / name for name in ("t-coo.json", "t-law.json", "u-law.json")]
    text = dselect("table", *names).stdout.decode().split("\n")
    assert text[1].split() == ["selection", "t", "5.00", "kB", "u", "5.00", "kB"]
    assert [line.split()[0] for line in text[3:5]] == ["law", "cooking"]  # cooking lacks a column
    assert text[4].endswith("-")
    markdown = dselect("table", *names, "--format", "markdown").stdout.decode().split("\n")
    assert markdown[2] == "| selection | t 5.00 kB | u 5.00 kB |"
    assert markdown[4].startswith("| law | ")
    assert markdown[5].startswith("| cooking | **")
    refused = dselect("table", *names, "--baseline", "cooking", status=1).stderr
    assert "no evaluation of the baseline cooking" in refused
    assert "there are: law" in refused


def test_names_from_reports_neither_move_the_cursor_nor_break_the_table(reports, dselect, tmp_path):
    report = json.loads((reports / "t-law.json").read_text("utf-8"))
    report["selections"][0]["selection"] = "a|b\x1b[2J\n<script>"
    (tmp_path / "odd.json").write_text(json.dumps(report), "utf-8")
    for form in ("text", "markdown"):
        shown = dselect("table", "odd.json", "--format", form).stdout
        assert b"\x1b" not in shown
        assert shown.count(b"\n") == {"text": 4, "markdown": 5}[form]
    assert "a\\|b" in shown.decode()


def test_a_selection_that_is_too_small_for_the_budget_is_warned_of(reports, dselect, tmp_path):
    report = json.loads((reports / "t-law.json").read_text("utf-8"))
    report["selections"][0]["bytes"] = 4000
    (tmp_path / "short.json").write_text(json.dumps(report), "utf-8")
    assert "law was trained on 4.00 kB" in dselect("table", "short.json").stderr


def test_what_cannot_be_read_or_compared_is_refused_in_one_line(reports, dselect, tmp_path):
    report = json.loads((reports / "t-law.json").read_text("utf-8"))
    broken = {
        "empty": {},
        "old": {key: value for key, value in report.items() if key != "text_bytes"},
        "sizes": {**report, "text_bytes": [1]},
        "name": {**report, "selections": [{**report["selections"][0], "selection": 3}]},
        "twice": {**report, "selections": [{**report["selections"][0], "bits": np.ones((2, 20)).tolist()}]},
    }
    for name, found in broken.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(found), "utf-8")
    for name in ("empty", "old", "sizes", "name"):
        assert f"dselect: {name}.json: " in dselect("table", f"{name}.json", status=1).stderr
    assert "evaluated twice" in dselect("table", reports / "t-law.json", "twice.json", status=1).stderr
    assert "no such file" in dselect("table", "nope.json", status=1).stderr
    dselect("table", status=2)


def evaluation(name, bits, order=3):
    report = {"selection": name, "bits_per_byte": float(np.mean(bits)), "by_seed": [], "bits": [list(bits)]}
    report |= {"documents": 1, "bytes": 10, "median_bytes": 1.0, "duplicates": 0.0, "target_overlap": 0.0}
    from dselect.reporting.evaluations import Row

    row = Row(**report, target_documents_found=0, shares={})
    sizes = np.full(len(bits), 10)
    texts = [str(i) for i in range(len(bits))]
    return Evaluation(name, {"budget": 10, "lm": "ngram", "order": order, "seeds": [0]}, "t", texts, sizes, None, [row])


@settings(max_examples=5, deadline=None)
@given(st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), min_size=2, max_size=30))
def test_differences_are_those_of_the_cells_and_lie_in_their_intervals(pairs):
    first, second = ([pair[i] for pair in pairs] for i in (0, 1))
    found = compare([evaluation("a", first), evaluation("b", second)], "a", 0)
    cell = found.cells["b", 0]
    assert cell.difference == pytest.approx((sum(second) - sum(first)) / (10 * len(pairs)))
    assert cell.difference_low <= cell.difference_high
    ((low, high),) = intervals([np.array(second) - np.array(first)], np.full(len(pairs), 10), 0)
    assert (cell.difference_low, cell.difference_high) == (low, high)
    assert found.best(0) == ("a" if sum(first) <= sum(second) else "b") or sum(first) == pytest.approx(sum(second))
    assert RESAMPLES >= 1000


def test_columns_that_differ_in_more_than_target_and_budget_say_in_what():
    found = compare([evaluation("a", [1, 2]), evaluation("a", [1, 3], order=5)], None, 0)
    assert found.labels == ["t 10 bytes, order 3", "t 10 bytes, order 5"]
