"""Predictive strength against its definition and its null law; what cannot be learnt from is refused."""

import itertools
import math
import random

import numpy as np
import pytest

from dselect.models.strength import chance_of_one, strength
from tests.conftest import make_pool, read_records, write_records


def test_over_all_orders_of_six_models_the_counts_are_those_of_inversions():
    orders = np.array(list(itertools.permutations(range(6))), float)
    counts = np.round(strength(orders, np.arange(6.0)) * 15).astype(int)
    assert np.bincount(counts).tolist() == [1, 5, 14, 29, 49, 71, 90, 101, 101, 90, 71, 49, 29, 14, 5, 1]
    assert chance_of_one(np.arange(6.0)) == 1 / math.factorial(6)


def test_strength_is_kendall_s_tau_turned_round_and_only_order_counts():
    losses, abilities = np.random.default_rng(0).random((50, 5)), np.array([3.0, 1, 4, 9, 5])
    found = strength(losses, abilities)
    for row, s in zip(losses, found, strict=True):
        pairs = itertools.combinations(range(5), 2)
        tau = sum(np.sign(row[i] - row[j]) * np.sign(abilities[i] - abilities[j]) for i, j in pairs) / 10
        assert s == pytest.approx((1 - tau) / 2)
    assert strength(np.exp(losses), abilities**3).tolist() == found.tolist()


def test_models_of_equal_ability_are_not_compared_and_equal_losses_count_for_nothing():
    abilities = np.array([1.0, 1.0, 2.0])
    assert strength(np.array([[5.0, 9, 1], [5, 5, 5], [5, 1, 3]]), abilities).tolist() == [1.0, 0.0, 0.5]
    assert chance_of_one(abilities) == pytest.approx(2 / 6)


@pytest.fixture
def losses(tmp_path):
    """Cooking ranks three models as their abilities do; the rest at random."""
    random_ = random.Random(1)
    records = []
    for record in make_pool():
        values = [3.0, 2.0, 1.0] if record["source"] == "cooking" else random_.sample([1.0, 2.0, 3.0], 3)
        records.append({**record, **dict(zip(("loss_a", "loss_b", "loss_c"), values, strict=True))})
    (tmp_path / "able.csv").write_text("model,score\na,10\nb,20\nc,30\n")
    return write_records(tmp_path / "losses.jsonl", records)


def test_it_learns_what_predicts(dselect, losses, pool, tmp_path):
    added = dselect("preselect", losses, "--ability", "able.csv", "--strength-only").records
    assert {r["predictive_strength"] for r in added if r["source"] == "cooking"} == {1.0}
    options = ["--losses", losses, "--ability", "able.csv", "--buckets", 5000, "--save", "m.bin"]
    run = dselect("preselect", pool, *options, "--keep", 50, "--json-summary")
    assert {record["source"] for record in run.records} == {"cooking"}
    assert run.summary["strength_one_by_chance"] == 50
    assert run.summary["strength_one"] >= 100
    again = dselect("preselect", pool, "--model", "m.bin", "--keep", 50)
    assert again.stdout == run.stdout
    trained = ["--seeds", 2, "--epochs", 1, "--dim", 8, "--min-words", 30]
    other = dselect("preselect", pool, *options[:-2], *trained, "-o", "scored.jsonl").stderr
    assert "2 seeds: AUC" in other
    for record in read_records(tmp_path / "scored.jsonl"):
        assert ("preselect" in record) == (record["token_count"] >= 30)
    refused = dselect("preselect", pool, "--model", "m.bin", "--epochs", 2, status=2).stderr
    assert "not for --model, which is as it was trained" in refused
    (tmp_path / "m.bin.json").unlink()
    foreign = dselect("preselect", pool, "--model", "m.bin", status=1).stderr
    assert "m.bin: no settings beside it: not a model that preselect saved (dselect classify --model FILE" in foreign


@pytest.mark.parametrize(
    ("abilities", "said"),
    [
        ("a,1\n", "1 models give no pair"),
        ("a,1\nb,1\nc,1\n", "all abilities are equal"),
        ("a,1\nb,2\n", "losses.jsonl:1: no ability is given for c"),
        ("a,1\nb,x\n", "able.csv:2: not a model and its score"),
        ("a,1\nb,2\nc,3\nd,4\n", 'no field "loss_d"'),
    ],
)
def test_abilities_that_tell_nothing_are_refused(abilities, said, dselect, losses, tmp_path):
    (tmp_path / "able.csv").write_text(abilities)
    failed = dselect("preselect", losses, "--ability", "able.csv", "--strength-only", status=1).stderr
    assert said in failed
    assert failed.count("\n") == 1


def test_three_positives_are_refused(dselect, tmp_path, pool):
    records = [{"text": f"t {i}", "loss_a": 2.0, "loss_b": 1.0 if i < 3 else 3.0} for i in range(40)]
    (tmp_path / "able.csv").write_text("a,1\nb,2\n")
    path = write_records(tmp_path / "l.jsonl", records)
    failed = dselect("preselect", pool, "--losses", path, "--ability", "able.csv", status=1).stderr
    assert "3 of 40 records have S = 1" in failed
