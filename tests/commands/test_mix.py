"""Mixtures: each domain gives its share, repeats by whole epochs, and phases go on where the last one stopped."""

import json
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dselect.commands.mix import read_phases
from dselect.errors import DselectError
from dselect.mixing import budgets, capped, taken
from dselect.mixtures.mixture import Mixture
from tests.conftest import lines, make_pool, read_bytes, read_records, write_records

WEIGHTS = {"cooking": 0.5, "code": 0.3, "law": 0.2}


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.json"
    path.write_text(json.dumps(WEIGHTS))
    return path


def size(records, domain):
    return sum(len(record["text"].encode()) for record in records if record["source"] == domain)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 400)), min_size=1, max_size=6), st.integers(0, 900))
def test_no_domain_gets_more_than_its_most_and_the_rest_goes_to_the_others_in_proportion(domains, total):
    weights, most = [weight for weight, _ in domains], [most for _, most in domains]
    parts = capped(weights, total, most)
    assert all(0 <= part <= cap for part, cap in zip(parts, most, strict=True))
    possible = sum(cap for weight, cap in domains if weight)
    assert sum(parts) == min(total, possible)
    assert not any(part for part, weight in zip(parts, weights, strict=True) if not weight)
    below = [i for i, part in enumerate(parts) if weights[i] and part < most[i]]
    for i in below:
        for j in below:
            assert abs(Fraction(parts[i], weights[i]) - Fraction(parts[j], weights[j])) <= Fraction(
                1, min(weights[i], weights[j])
            )
    if all(budget <= cap for budget, cap in zip(budgets(weights, total), most, strict=True)):
        assert parts == budgets(weights, total)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=12),
    st.integers(0, 200),
    st.integers(1, 5),
)
def test_a_share_buys_whole_epochs_then_a_prefix(records, budget, most):
    sizes = np.array([one for one, _ in records], np.int64)
    before = np.array([min(many, most) for _, many in records], np.int64)
    counts = taken(sizes, before, budget, most)
    assert (counts >= 0).all()
    assert (before + counts <= most).all()
    assert int((counts * sizes).sum()) <= budget
    affordable = sizes <= budget
    assert not counts[~affordable].any()
    # one more of what comes next would not fit, or nothing may be taken again
    after = (before + counts)[affordable]
    if budget and len(after) and sizes[affordable].any() and after.min() < most:
        following = np.flatnonzero(affordable)[after == after.min()][0]
        assert not sizes[following] or int((counts * sizes).sum()) + sizes[following] > budget


def test_each_domain_gives_its_share_up_to_a_document(dselect, pool, weights):
    run = dselect("mix", pool, "--within", "source", "--weights", weights, "--keep", "20kB", "--json-summary")
    found = run.records
    for name, weight in WEIGHTS.items():
        assert 0 <= weight * 20_000 - size(found, name) < 900
    assert run.summary["asked"] == 20_000
    assert run.summary["achieved"] == sum(size(found, name) for name in WEIGHTS)
    assert len({record["id"] for record in found}) == len(found)
    in_order = [record["id"] for record in make_pool()]
    assert [record["id"] for record in found] == [one for one in in_order if one in {r["id"] for r in found}]


def test_a_small_domain_is_taken_again_epoch_by_epoch_and_then_others_take_over(dselect, tmp_path):
    records = [record for record in make_pool() if record["source"] != "law" or record["token_count"] < 20]
    path, scarce = write_records(tmp_path / "p.jsonl", records), size(records, "law")
    mixture = tmp_path / "w.json"
    mixture.write_text(json.dumps({"law": 1, "code": 1}))
    asked = int(2.5 * scarce)
    arguments = ["mix", path, "--within", "source", "--weights", mixture, "--keep", f"{2 * asked}B"]
    found = dselect(*arguments).records
    times = Counter(record["id"] for record in found if record["source"] == "law")
    assert set(times.values()) == {2, 3}
    first = [record["id"] for record in found][: len(times)]
    assert len(first) == len(set(first))  # copies come in later epochs
    assert abs(size(found, "code") - asked) < 900
    once = dselect(*arguments, "--max-repeats", 1).records
    assert size(once, "law") == scarce
    assert abs(size(once, "code") - (2 * asked - scarce)) < 900
    many = dselect(*arguments[:-1], f"{12 * scarce}B", "--max-repeats", 6)
    assert "warning: law: 5.9" in many.stderr or "warning: law: 6.0 epochs" in many.stderr


def test_phases_go_on_where_the_last_one_stopped(dselect, pool, weights, tmp_path):
    (tmp_path / "phases.json").write_text(
        json.dumps([{"share": 0.8}, {"share": 0.2, "upsample": {"law": 10}}, {"share": 0, "weights": {"code": 1}}])
    )
    arguments = ["mix", pool, "--within", "source", "--weights", weights, "--keep", "20kB"]
    dselect(*arguments, "--phases", "phases.json", "-o", "out.jsonl.zst")
    first, last, nothing = (read_records(tmp_path / f"out.{number}.jsonl.zst") for number in (1, 2, 3))
    assert not nothing
    assert not {record["id"] for record in first} & {record["id"] for record in last}
    for name, weight in WEIGHTS.items():
        assert 0 <= weight * 16_000 - size(first, name) < 900
    heavy = {"cooking": 0.5, "code": 0.3, "law": 2.0}
    for name, weight in heavy.items():
        assert 0 <= weight / 2.8 * 4_000 - size(last, name) < 900
    assert "up to date" in dselect(*arguments, "--phases", "phases.json", "-o", "out.jsonl.zst").stderr
    # a last phase of no size changes nothing
    (tmp_path / "whole.json").write_text('[{"share": 1}, {"share": 0, "upsample": {"law": 9}}]')
    dselect(*arguments, "--phases", "whole.json", "-o", "w.jsonl")
    assert (tmp_path / "w.1.jsonl").read_bytes() == dselect(*arguments).stdout
    assert (tmp_path / "w.2.jsonl").read_bytes() == b""


def test_the_same_bytes_for_any_jobs_and_from_a_pipe_and_shards_do_not_matter(dselect, pool, weights, tmp_path):
    arguments = ["--within", "source", "--weights", weights, "--keep", "30%B"]
    one = dselect("mix", pool, *arguments, "-j", 1).stdout
    assert one == dselect("mix", pool, *arguments, "-j", 3).stdout
    assert one == dselect("mix", *arguments, stdin=read_bytes(pool)).stdout
    records = make_pool()
    for shard in range(3):
        write_records(tmp_path / "in" / f"{shard}.jsonl", records[shard::3])
    assert sorted(one.splitlines()) == sorted(dselect("mix", "in", *arguments).stdout.splitlines())
    assert one != dselect("mix", pool, *arguments, "--seed", 1).stdout


def test_documents_and_tokens_are_units_too(dselect, pool, weights):
    found = dselect("mix", pool, "--within", "source", "--weights", weights, "--keep", 100).records
    assert Counter(record["source"] for record in found) == {"cooking": 50, "code": 30, "law": 20}
    tokens = dselect("mix", pool, "--within", "source", "--weights", weights, "--keep", "4ktok").records
    assert 0 <= 2000 - sum(r["token_count"] for r in tokens if r["source"] == "cooking") < 120


def test_a_mixture_names_its_field_and_select_takes_it_as_quota(dselect, pool, tmp_path):
    (tmp_path / "m.json").write_text(json.dumps({"weights": WEIGHTS, "within": "source", "loss": 1.5}))
    found = dselect("mix", pool, "--weights", "m.json", "--keep", 50).records
    assert Counter(record["source"] for record in found) == {"cooking": 25, "code": 15, "law": 10}
    quota = dselect("select", pool, "--within", "source", "--quota", "m.json", "--keep", 50).records
    assert Counter(record["source"] for record in quota) == {"cooking": 25, "code": 15, "law": 10}


@pytest.mark.parametrize(
    ("mixture", "options", "told"),
    [
        ('{"cooking": 1, "news": 1}', [], "no records of the domain 'news'"),
        (json.dumps(WEIGHTS), ["--within", "topic"], 'no field "topic"'),
        (json.dumps(WEIGHTS), ["--phases", "p.json", "-o", "o.jsonl"], "'news' to upsample"),
    ],
)
def test_what_cannot_be_mixed_is_said_in_one_line(mixture, options, told, dselect, pool, tmp_path):
    (tmp_path / "m.json").write_text(mixture)
    (tmp_path / "p.json").write_text('[{"share": 1, "upsample": {"news": 2}}]')
    failed = dselect("mix", pool, "--weights", "m.json", "--keep", 9, "--within", "source", *options, status=1)
    assert told in failed.stderr
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"cooking": 0}', "not all zero"),
        ('{"weights": {"cooking": 1}, "within": 3}', "its field is no name"),
        ('{"weights": {"cooking": -1}}', "not an object of weights"),
        ("[1]", "not an object of weights"),
        ("{", "not JSON"),
    ],
)
def test_a_file_that_holds_no_mixture_is_refused(text, told, tmp_path):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(DselectError, match=told):
        Mixture.read(str(tmp_path / "m.json"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[{"share": 1}, {"share": -1}]', "phase 2"),
        ('[{"share": 1, "weight": {}}]', "phase 1"),
        ('[{"share": 1, "weights": {"a": true}}]', "phase 1"),
        ('[{"share": 0}]', "all 0"),
        ("[]", "not a list of phases"),
        ("x", "not JSON"),
    ],
)
def test_a_file_that_holds_no_phases_is_refused(text, told, tmp_path):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(DselectError, match=told):
        read_phases(str(tmp_path / "p.json"))
    with pytest.raises(DselectError, match="cannot read"):
        read_phases(str(tmp_path / "gone.json"))


def test_wrong_usage_is_told_apart(dselect, pool, weights, tmp_path):
    (tmp_path / "p.json").write_text('[{"share": 1}]')
    assert "--within FIELD" in dselect("mix", pool, "--weights", weights, "--keep", 9, status=2).stderr
    options = ["--weights", weights, "--keep", 9, "--within", "source"]
    assert "not a file for each input" in dselect("mix", pool, *options, "-o", "out/", status=2).stderr
    assert "numbered files" in dselect("mix", pool, *options, "--phases", "p.json", status=2).stderr


def test_an_empty_pool_gives_nothing_and_a_large_record_is_passed_over(dselect, weights, tmp_path):
    records = [{"text": "x" * 5000, "source": "code"}, *make_pool(30)]
    options = ["--within", "source", "--weights", weights, "--keep", "3kB"]
    found = dselect("mix", *options, stdin=lines(records)).records
    assert found
    assert not any(len(record["text"]) == 5000 for record in found)
    assert "no records of the domain" in dselect("mix", *options, stdin=b"", status=1).stderr
