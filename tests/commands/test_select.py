"""Selecting: by which numbers, how much, of which domains."""

import json
from collections import Counter

import numpy as np
import pytest

from tests.conftest import lines, make_pool, read_records, write_records


def numbered(count=20, **fields):
    return [{"id": str(i), "text": f"text {i}", "score": float(i), **fields} for i in range(count)]


def ids(run):
    return [record["id"] for record in run.records]


def test_the_best_within_the_budget_come_out_in_input_order(dselect):
    records = [{"id": i, "text": t, "s": s} for i, (t, s) in enumerate([("a", 1), ("b", 3), ("c", 2), ("d", 0)])]
    assert ids(dselect("select", "--by", "s", "--keep", 2, stdin=lines(records))) == [1, 2]


def test_lines_come_out_byte_for_byte(dselect):
    odd = b'{ "score":1e0 , "text":"\\u00e9" }  \r\n{"text":"b","score":2}'
    assert dselect("select", "--by", "score", "--keep", "100%", stdin=odd).stdout == odd + b"\n"


def test_a_minus_ranks_the_lowest_first(dselect):
    assert ids(dselect("select", "--by=-score", "--keep", 2, stdin=lines(numbered()))) == ["0", "1"]


def test_several_fields_are_combined_by_rank_not_by_size(dselect):
    records = [
        {"id": "wide", "text": "a", "a": 1e9, "b": 0},
        {"id": "even", "text": "b", "a": 2, "b": 2},
        {"id": "low", "text": "c", "a": 1, "b": 1},
    ]
    assert ids(dselect("select", "--by", "a", "--by", "b", "--keep", 1, stdin=lines(records))) == ["even"]
    assert ids(dselect("select", "--by", "a:9", "--by", "b", "--keep", 1, stdin=lines(records))) == ["wide"]
    by_size = dselect("select", "--by", "a:9", "--by", "b", "--combine", "zscore", "--keep", 1, stdin=lines(records))
    assert ids(by_size) == ["wide"]


def test_a_combined_cost_counts_against_a_record(dselect):
    records = [{"id": str(i), "text": str(i), "a": i, "cost": i * i} for i in range(5)]
    run = dselect("select", "--by", "a", "--by=-cost:2", "--keep", 1, stdin=lines(records))
    assert ids(run) == ["0"]


@pytest.mark.parametrize("how", ["rank", "zscore"])
def test_the_order_of_the_input_never_decides(how, dselect):
    rng = np.random.default_rng(0)
    records = [{"id": str(i), "text": str(i), "a": rng.normal(), "b": int(rng.integers(3))} for i in range(200)]
    options = ["select", "--by", "a", "--by", "b:0.3", "--combine", how, "--keep", 50, "--sample"]
    first = ids(dselect(*options, stdin=lines(records)))
    assert sorted(first) == sorted(ids(dselect(*options, stdin=lines(records[::-1]))))


def test_ties_are_broken_by_identity_then_by_line(dselect):
    records = [{"id": str(i), "text": "same", "s": 1} for i in range(30)]
    records += [{"id": "0", "text": "same", "s": 1, "more": i} for i in range(30)]
    kept = dselect("select", "--by", "s", "--keep", 17, stdin=lines(records)).stdout
    again = dselect("select", "--by", "s", "--keep", 17, stdin=lines(records[::-1])).stdout
    assert sorted(kept.split(b"\n")) == sorted(again.split(b"\n"))


EDGES = [
    (count, keep, options)
    for count in (0, 1, 7)
    for keep in ("0", "1", "7", "100", "100%", "50%", "0B", "9B", "1GB")
    for number, options in enumerate([["--by", "s"], [], ["--by", "s", "--sample"], ["--by", "s", "--within", "d"]])
    if number == 0 or (count != 1 and keep in ("0", "50%", "9B", "1GB"))
]


@pytest.mark.parametrize(("count", "keep", "options"), EDGES)
def test_edges_are_defined(count, keep, options, dselect):
    records = [{"id": str(i), "text": "xyz", "s": 1, "d": "ab"[i % 2]} for i in range(count)]
    run = dselect("select", *options, "--keep", keep, "--json-summary", stdin=lines(records))
    expected = {"0": 0, "1": 1, "7": 7, "100": 100, "100%": count, "50%": count // 2, "0B": 0, "9B": 3, "1GB": 99}[keep]
    assert len(run.records) == run.summary["kept"] == min(count, expected)


def test_a_budget_is_spent_in_tokens_or_bytes(dselect):
    records = [{"text": "é" * n, "metadata": {"token_count": n}, "s": -n} for n in (5, 1, 3, 2)]
    run = dselect("select", "--by", "s", "--keep", "6tok", "--json-summary", stdin=lines(records))
    assert [len(r["text"]) for r in run.records] == [1, 3, 2]
    assert (run.summary["asked"], run.summary["achieved"], run.summary["unit"]) == (6, 6, "tokens")
    run = dselect("select", "--by", "s", "--keep", "7B", "--json-summary", stdin=lines(records))
    assert run.summary["achieved"] == 6
    assert "no field" in dselect("select", "--by", "s", "--keep", "3tok", stdin=lines(numbered()), status=1).stderr


def test_a_token_count_may_have_any_name(dselect):
    records = [{"text": "a", "n": {"gpt": 3}}, {"text": "b", "n": {"gpt": 4}}]
    assert len(dselect("select", "--keep", "7tok", "--tokens", "n.gpt", stdin=lines(records)).records) == 2
    records[1]["n"]["gpt"] = 1.5
    failed = dselect("select", "--keep", "7tok", "--tokens", "n.gpt", stdin=lines(records), status=1)
    assert "<stdin>:2: 1.5 is not a number of tokens" in failed.stderr


def test_the_budget_is_never_exceeded_and_a_larger_record_is_passed_over(dselect):
    records = [{"id": str(n), "text": "x" * n, "s": n} for n in (50, 4, 3, 2)]
    run = dselect("select", "--by", "s", "--keep", "8B", "--json-summary", stdin=lines(records))
    assert ids(run) == ["4", "3"]
    assert run.summary["larger_than_budget"] == 1


@pytest.mark.parametrize("policy", ["error", "drop", "lowest"])
def test_a_record_without_the_field_is_an_error_dropped_or_last(policy, dselect):
    records = [*numbered(3), {"id": "none", "text": "x"}, {"id": "null", "text": "y", "score": None}]
    options = ["select", "--by", "score", "--keep", 4, "--missing", policy, "--json-summary"]
    run = dselect(*options, stdin=lines(records), status=1 if policy == "error" else 0)
    if policy == "error":
        assert '<stdin>:4: no field "score"' in run.stderr
    elif policy == "drop":
        assert ids(run) == ["0", "1", "2"]
        assert run.summary["missing"] == 2
    else:
        assert ids(run)[:3] == ["0", "1", "2"]
        assert len(run.records) == 4


def test_a_field_that_is_no_number_is_said_with_its_line(dselect):
    records = [*numbered(2), {"text": "x", "score": "high"}]
    assert (
        '<stdin>:3: the field "score" is a string, not a number (name a field that holds numbers)'
        in dselect("select", "--by", "score", "--keep", 1, stdin=lines(records), status=1).stderr
    )


def test_above_keeps_what_is_greater_and_a_budget_may_follow(dselect):
    data = lines(numbered())
    assert ids(dselect("select", "--by", "score", "--above", 17, stdin=data)) == ["18", "19"]
    assert ids(dselect("select", "--by", "score", "--above", 15, "--keep", 1, stdin=data)) == ["19"]
    assert ids(dselect("select", "--by=-score", "--above", 2, stdin=data)) == ["0", "1"]


def domains():
    sizes = {"web": 60, "books": 30, "code": 10}
    return [
        {"id": f"{name}{i}", "text": "word " * 4, "source": name, "score": i + (100 if name == "web" else 0)}
        for name, size in sizes.items()
        for i in range(size)
    ]


def shares(run):
    return dict(Counter(record["source"] for record in run.records))


def test_domains_share_a_budget_in_proportion(dselect):
    run = dselect("select", "--by", "score", "--keep", 20, "--within", "source", stdin=lines(domains()))
    assert shares(run) == {"web": 12, "books": 6, "code": 2}


def test_domains_share_equally_and_what_one_cannot_use_goes_to_the_best_of_the_rest(dselect):
    options = ["select", "--by", "score", "--keep", 45, "--within", "source", "--quota", "equal"]
    assert shares(dselect(*options, stdin=lines(domains()))) == {"web": 20, "books": 15, "code": 10}


def test_domains_share_by_given_weights(dselect, tmp_path):
    (tmp_path / "w.json").write_text(json.dumps({"books": 3, "code": 1}))
    options = ["select", "--by", "score", "--keep", 12, "--within", "source", "--quota", "w.json"]
    assert shares(dselect(*options, stdin=lines(domains()))) == {"books": 9, "code": 3}
    for wrong in ('{"books": -1}', '{"novels": 1}', "[1]", "{", '{"books": 0}'):
        (tmp_path / "w.json").write_text(wrong)
        assert dselect(*options, stdin=lines(domains()), status=1).stderr.startswith("dselect: w.json: ")


def test_a_domain_without_weight_gets_nothing_even_of_what_is_left(dselect, tmp_path):
    (tmp_path / "w.json").write_text(json.dumps({"books": 3, "code": 1, "web": 0}))
    options = ["select", "--by", "score", "--keep", 80, "--within", "source", "--quota", "w.json"]
    assert shares(dselect(*options, stdin=lines(domains()))) == {"books": 30, "code": 10}
    dselect(*options, "--save", "cut.json", stdin=lines(domains()))
    assert shares(dselect("select", "--cut", "cut.json", stdin=lines(domains()))) == {"books": 30, "code": 10}


def test_sampling_within_domains_keeps_their_shares(dselect):
    options = ["select", "--by", "score", "--keep", 20, "--within", "source", "--sample", "--temperature", 2]
    run = dselect(*options, stdin=lines(domains()))
    assert shares(run) == {"web": 12, "books": 6, "code": 2}
    assert run.stdout != dselect(*options, "--seed", 1, stdin=lines(domains())).stdout


def test_a_record_without_a_domain_is_an_error_or_dropped_or_one_of_its_own(dselect):
    records = [*domains(), {"id": "x", "text": "t", "score": 1}]
    options = ["select", "--by", "score", "--keep", "100%", "--within", "source"]
    assert "no field" in dselect(*options, stdin=lines(records), status=1).stderr
    assert len(dselect(*options, "--missing", "drop", stdin=lines(records)).records) == 100
    assert len(dselect(*options, "--missing", "lowest", stdin=lines(records)).records) == 101


def test_of_equal_texts_only_the_best_stays(dselect):
    records = [{"id": str(i), "text": f"text {i % 3}", "score": i} for i in range(9)]
    run = dselect("select", "--by", "score", "--unique", "--json-summary", stdin=lines(records))
    assert ids(run) == ["6", "7", "8"]
    assert run.summary["duplicates"] == 6
    assert ids(dselect("select", "--by", "score", "--unique", "--keep", 2, stdin=lines(records))) == ["7", "8"]


def test_without_by_the_sample_is_uniform_seeded_and_not_the_head(dselect):
    data = lines(numbered(400))
    first = ids(dselect("select", "--keep", 100, "--seed", 1, stdin=data))
    assert first == ids(dselect("select", "--keep", 100, "--seed", 1, "-j", 3, stdin=data))
    other = ids(dselect("select", "--keep", 100, "--seed", 2, stdin=data))
    assert 10 < len(set(first) & set(other)) < 45
    assert 120 < np.mean([int(i) for i in first]) < 280


def test_a_higher_score_is_likelier_to_be_sampled_and_temperature_flattens(dselect):
    def mean(temperature):
        options = ["select", "--by", "score", "--sample", "--keep", 200, "--temperature", temperature]
        return np.mean([r["score"] for r in dselect(*options, stdin=lines(numbered(1000))).records])

    assert mean(0) > mean(0.5) > mean(2) > 520


def test_scale_none_takes_scores_as_they_are(dselect):
    records = [{"id": str(i), "text": str(i), "score": i * 1e-9} for i in range(300)]
    options = ["select", "--by", "score", "--sample", "--keep", 100]
    uniform = [r["score"] for r in dselect(*options, "--scale", "none", stdin=lines(records)).records]
    scaled = [r["score"] for r in dselect(*options, stdin=lines(records)).records]
    assert np.mean(scaled) > np.mean(uniform) * 1.15


def test_one_output_per_shard_with_the_shard_s_share_of_the_kept(dselect, tmp_path):
    records = numbered(40)
    for shard in range(4):
        write_records(tmp_path / "scored" / f"{shard}.jsonl.zst", records[shard * 10 : shard * 10 + 10])
    dselect("select", "scored", "--by", "score", "--keep", 15, "-o", "picked/")
    found = [len(read_records(tmp_path / "picked" / f"{shard}.jsonl.zst")) for shard in range(4)]
    assert found == [0, 0, 5, 10]


def test_any_jobs_and_a_pipe_give_the_same_bytes(dselect, tmp_path):
    rng = np.random.default_rng(1)
    records = [{"id": i, "text": "w " * int(rng.integers(1, 3000)), "score": float(rng.normal())} for i in range(3000)]
    write_records(tmp_path / "p.jsonl.zst", records)
    options = ["--by", "score", "--keep", "60%B", "-o"]
    outputs = []
    for jobs in (1, 2, 3):
        dselect("select", "p.jsonl.zst", *options, f"{jobs}.jsonl.zst", "-j", jobs)
        outputs.append((tmp_path / f"{jobs}.jsonl.zst").read_bytes())
    dselect("select", *options, "pipe.jsonl.zst", stdin=lines(records))
    outputs.append((tmp_path / "pipe.jsonl.zst").read_bytes())
    assert len(set(outputs)) == 1


def test_labels_and_costs_are_told_from_scores(dselect):
    label = dselect("select", "--by", "kmeans_cluster", "--keep", 1, stdin=lines(numbered()), status=2)
    assert "--within" in label.stderr
    costs = [{"text": "a", "loss_small": 1.0}]
    assert "--by=-loss_small" in dselect("select", "--by", "loss_small", "--keep", 1, stdin=lines(costs)).stderr


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--sample", "--by", "score"],
        ["--within", "source", "--by", "score", "--above", "1"],
        ["--above", "1"],
        ["--by", "score", "--by", "score", "--keep", "1"],
        ["--by", "score:0", "--keep", "1"],
        ["--by", "", "--keep", "1"],
        ["--keep", "1", "--quota", "equal"],
        ["--keep", "-1"],
        ["--keep", "101%"],
        ["--keep", "1", "--temperature", "-1"],
        ["--keep", "1", "--bad-lines", "whatever"],
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(options, dselect):
    dselect("select", *options, stdin=lines(numbered()), status=2)


def test_a_field_from_two_places_is_refused(dselect, pool, target, tmp_path):
    dselect("dsir", pool, "--target", target, "--attributes", "a", "-o", "scored.jsonl.zst", status=2)
    dselect("dsir", pool, "--target", target, "--attributes", "a")
    dselect("dsir", pool, "--target", target, "--length", "sum", "--attributes", "b")
    both = ["select", pool, "--by", "dsir", "--keep", 3, "--attributes", "a", "--attributes", "b"]
    assert 'the field "dsir" is in two places' in dselect(*both, status=1).stderr
    dselect("dsir", pool, "--target", target, "-o", pool.with_name("s.jsonl.zst"))
    (tmp_path / "a" / "s.jsonl.zst").write_bytes((tmp_path / "a" / pool.name).read_bytes())
    refused = dselect("select", "s.jsonl.zst", "--by", "dsir", "--keep", 3, "--attributes", "a", status=1).stderr
    assert refused.startswith('dselect: s.jsonl.zst:1: the field "dsir" is in two places')


def test_a_cut_that_was_tampered_with_is_none_and_unknown_domains_are_counted(dselect, pool, tmp_path):
    dselect("select", pool, "--by", "token_count", "--keep", 30, "--within", "source", "--save", "cut")
    whole = json.loads((tmp_path / "cut").read_text())
    for place, wrong in ((2, -1), (2, 2**64), (1, "nan"), (0, -1)):
        cut = json.loads(json.dumps(whole))
        cut["cut"]["domains"][0][1][place] = wrong
        (tmp_path / "bad").write_text(json.dumps(cut))
        assert "bad: this is no cut" in dselect("select", pool, "--cut", "bad", status=1).stderr
    (tmp_path / "bad").write_text(json.dumps({**whole, "unit": "foo"}))
    assert "bad: this is no cut" in dselect("select", pool, "--cut", "bad", status=1).stderr
    other = [{**record, "source": "new" if record["source"] == "law" else record["source"]} for record in make_pool()]
    said = dselect("select", write_records(tmp_path / "n.jsonl", other), "--cut", "cut", "-o", "kept.jsonl").stderr
    assert "100 of domains that the cut does not know" in said
