"""DSIR against its definition, on texts small enough to count by hand and on real ones."""

import json
import math
import random
import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from dselect.errors import DselectError
from dselect.importance import Dsir
from tests.conftest import COOKING, LAW, lines, make_pool, make_target, read_records, write_records

FLOOR, SHRINK = 1e-8, 30
BITS = 2**64 - 1


def ngrams(text, longest=2):
    words = re.findall(r"\w+|[^\w\s]+", text.lower())
    return [tuple(words[i : i + n]) for n in range(1, longest + 1) for i in range(len(words) - n + 1)]


def counts(records, longest=2):
    return Counter(gram for record in records for gram in ngrams(record["text"], longest))


@cache
def word_hash(word):
    """64-bit FNV-1a, then the finaliser of MurmurHash3."""
    h = 0xCBF29CE484222325
    for byte in word.encode():
        h = (h ^ byte) * 0x100000001B3 & BITS
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        h = (h ^ h >> 33) * factor & BITS
    return h ^ h >> 33


def bucket(gram, buckets):
    h = 0
    for word in reversed(gram):
        h = (h + word_hash(word)) * 0x9E3779B97F4A7C15 & BITS
        h ^= h >> 32
    return (h & 0xFFFFFFFF) * buckets >> 32


def expected(pool, target, *, length, smoothing, prior, buckets, longest=2):
    """Scores by the definition, in plain Python."""

    def count(records):
        return Counter(bucket(gram, buckets) for record in records for gram in ngrams(record["text"], longest))

    raw, wanted = count(pool), count(target)
    total, size = sum(raw.values()), sum(wanted.values())

    def ratio(b):
        p_pool = raw[b] / total
        if prior == "pool" and smoothing:
            p_pool = (raw[b] + 1) / (total + buckets)
            pseudo = smoothing * buckets * p_pool
        else:
            pseudo = smoothing
        p_target = (wanted[b] + pseudo) / (size + smoothing * buckets)
        return math.log(p_target + FLOOR) - math.log(p_pool + FLOOR)

    mean = sum(n / total * ratio(b) for b, n in raw.items())
    scores = []
    for record in pool:
        grams = ngrams(record["text"], longest)
        weight = math.fsum(ratio(bucket(gram, buckets)) for gram in grams)
        scores.append(weight if length == "sum" else (weight + SHRINK * mean) / (len(grams) + SHRINK))
    return scores


@pytest.mark.parametrize("length", ["mean", "sum"])
@pytest.mark.parametrize(("smoothing", "prior"), [(0, "pool"), (0.01, "uniform"), (1, "uniform"), (0.001, "pool")])
@pytest.mark.parametrize(("longest", "buckets"), [(1, 10_000), (2, 10_000), (2, 97), (3, 2**20)])
def test_the_score_is_the_papers_formula(length, smoothing, prior, longest, buckets, dselect, tmp_path):
    pool, target = make_pool(40), make_target(10)
    pool.append({"text": "Ünïcode, ΣΑΣ! don't—stop हिन्दी 漢字"})
    run = dselect(
        *["dsir", "--target", write_records(tmp_path / "t.jsonl", target), "--length", length, "--ngrams", longest],
        *["--smoothing", smoothing, "--prior", prior, "--buckets", buckets],
        stdin=lines(pool),
    )
    wanted = expected(pool, target, length=length, smoothing=smoothing, prior=prior, longest=longest, buckets=buckets)
    assert [record["dsir"] for record in run.records] == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_a_few_lucky_words_do_not_beat_long_texts_of_the_target_s_kind(dselect, target):
    lucky = [{"id": word, "text": word} for word in COOKING]
    kept = dselect("dsir", "--target", target, "--keep", 60, stdin=lines(make_pool() + lucky)).records
    assert all(record.get("source") == "cooking" for record in kept)


def test_the_default_score_does_not_measure_length_and_the_sum_does(dselect, pool, target):
    def correlation(*options):
        scored = dselect("dsir", pool, "--target", target, *options).records
        law = [record for record in scored if record["source"] == "law"]
        return np.corrcoef([r["dsir"] for r in law], [len(r["text"]) for r in law])[0, 1]

    assert correlation("--length", "sum") < -0.95
    scored = dselect("dsir", pool, "--target", target, "--keep", "30").records
    lengths = [len(record["text"]) for record in scored]
    everything = [len(record["text"]) for record in make_pool() if record["source"] == "cooking"]
    assert np.median(lengths) > 0.5 * np.median(everything)


def test_gibberish_does_not_profit_from_a_small_target(dselect, tmp_path):
    noise = random.Random(3)
    gibberish = [{"text": " ".join("".join(noise.choices("qxzjkw", k=5)) for _ in range(80))} for _ in range(50)]
    target = write_records(tmp_path / "small.jsonl", make_target(2))
    kept = dselect("dsir", "--target", target, "--keep", 90, stdin=lines(make_pool() + gibberish)).records
    assert all(record.get("source") == "cooking" for record in kept)


def test_the_selection_is_nearer_to_the_target_than_a_random_one(dselect, pool, target, tmp_path):
    def divergence(records):
        wanted, found = counts(read_records(target)), counts(records)
        total, size = sum(wanted.values()), sum(found.values())
        return sum(
            n / total * math.log((n / total) / ((found[gram] + 0.1) / (size + 0.1 * len(wanted))))
            for gram, n in wanted.items()
        )

    chosen = dselect("dsir", pool, "--target", target, "--keep", "10%").records
    chance = dselect("select", pool, "--keep", "10%").records
    assert divergence(chosen) < divergence(chance)


def test_several_targets_are_one_target_unless_separate(dselect, pool, target, tmp_path):
    law = write_records(tmp_path / "law.jsonl", [{"text": " ".join(LAW)}] * 20)
    both = write_records(tmp_path / "both.jsonl", read_records(target) + read_records(law))
    assert dselect("dsir", pool, "-t", target, "-t", law).stdout == dselect("dsir", pool, "-t", both).stdout
    separate = dselect("dsir", pool, "-t", target, "-t", law, "--separate").records
    alone = dselect("dsir", pool, "-t", law).records
    assert [record["dsir_law"] for record in separate] == [record["dsir"] for record in alone]
    assert {"dsir_target", "dsir_law"} <= set(separate[0])
    best = max(separate, key=lambda record: record["dsir_law"])
    assert best["source"] == "law"
    refused = dselect("dsir", pool, "-t", target, "-t", law, "--separate", "--keep", 3, status=2)
    assert "dselect select --by" in refused.stderr


def test_a_separate_model_saves_every_target(dselect, pool, target, tmp_path):
    law = write_records(tmp_path / "law.jsonl", [{"text": " ".join(LAW)}] * 20)
    direct = dselect("dsir", pool, "-t", target, "-t", law, "--separate", "--save", "m", "-o", "x.jsonl")
    assert direct.stdout == b""
    assert dselect("dsir", pool, "--model", "m").stdout == (tmp_path / "x.jsonl").read_bytes()


def test_fit_on_a_sample_draws_over_the_whole_pool_not_from_its_head(dselect, target, tmp_path):
    records = sorted(make_pool(600), key=lambda record: record["source"])  # code first, law last
    shards = [write_records(tmp_path / f"{i}.jsonl", records[i * 200 : i * 200 + 200]) for i in range(3)]
    whole = [r["dsir"] for r in dselect("dsir", *shards, "-t", target).records]
    sample = [r["dsir"] for r in dselect("dsir", *shards, "-t", target, "--fit-on", "30%").records]
    assert np.corrcoef(whole, sample)[0, 1] > 0.99
    shuffled = dselect("dsir", *reversed(shards), "-t", target, "--fit-on", "30%", "-j", 3).records
    assert {r["id"]: r["dsir"] for r in shuffled} == dict(zip([r["id"] for r in records], sample, strict=True))
    other = [r["dsir"] for r in dselect("dsir", *shards, "-t", target, "--fit-on", "30%", "--seed", 1).records]
    assert other != sample


@pytest.mark.parametrize("size", ["300", "100%", "100%B", "1GB", "all"])
def test_fitting_on_a_sample_of_everything_is_fitting_on_all(size, dselect, pool, target):
    assert dselect("dsir", pool, "-t", target, "--fit-on", size).stdout == dselect("dsir", pool, "-t", target).stdout


def test_fit_on_nothing_is_said(dselect, pool, target):
    assert "holds no record" in dselect("dsir", pool, "-t", target, "--fit-on", "0", status=1).stderr


@pytest.mark.parametrize("budget", ["20", "10%B", "500tok", "3kB"])
def test_kept_records_are_the_best_scored_within_the_budget(budget, dselect, pool, target):
    scored = dselect("dsir", pool, "-t", target).records
    kept = dselect("dsir", pool, "-t", target, "--keep", budget).records
    size = {"20": lambda _: 1, "500tok": lambda r: r["token_count"]}.get(budget, lambda r: len(r["text"].encode()))
    limit = {"20": 20, "10%B": sum(map(size, scored)) // 10, "500tok": 500, "3kB": 3000}[budget]
    left, wanted = limit, []
    for record in sorted(scored, key=lambda r: -r["dsir"]):
        if size(record) > left:
            break
        left -= size(record)
        wanted.append(record["id"])
    assert sorted(r["id"] for r in kept) == sorted(wanted)
    assert kept == [r for r in scored if r["id"] in set(wanted)]


def test_above_keeps_what_is_greater(dselect, pool, target):
    kept = dselect("dsir", pool, "-t", target, "--above", 0.2).records
    assert kept == [r for r in dselect("dsir", pool, "-t", target).records if r["dsir"] > 0.2]
    assert 0 < len(kept) < 300


def test_sampling_follows_the_score_and_the_seed(dselect, pool, target):
    options = ["dsir", pool, "-t", target, "--keep", 60, "--sample", "--temperature", 0.5]
    first = dselect(*options, "--seed", 1).stdout
    assert first == dselect(*options, "--seed", 1, "-j", 3).stdout
    assert first != dselect(*options, "--seed", 2).stdout
    share = first.count(b'"cooking"') / 60
    assert share > 0.6
    assert dselect(*options, "--temperature", 0).stdout == dselect("dsir", pool, "-t", target, "--keep", 60).stdout


def test_the_field_may_have_another_name(dselect, pool, target):
    assert "likeness" in dselect("dsir", pool, "-t", target, "--as", "likeness").records[0]


def test_a_target_without_words_is_refused(dselect, pool, tmp_path):
    empty = write_records(tmp_path / "e.jsonl", [{"text": " "}])
    assert "e.jsonl: the target has no words" in dselect("dsir", pool, "-t", empty, status=1).stderr


def test_a_model_from_a_stranger_is_checked(dselect, pool, target, tmp_path):
    from safetensors.numpy import save

    dselect("dsir", pool, "-t", target, "--save", "good")
    good = (tmp_path / "good").read_bytes()
    settings = {"model": "dsir", "ngrams": 2, "length": "mean", "min_words": 0, "targets": [""], "smoothing": 1}
    ratio, mean = np.zeros((8, 1)), np.zeros(1)

    def model(arrays, **changes):
        return save(arrays, metadata={"dselect": json.dumps({**settings, **changes})})

    fine = {"log_ratio": ratio, "pool_mean": mean, "counts": np.zeros((8, 2), np.int64)}
    strangers = {
        "cut short": good[: len(good) // 2],
        "a pickle": b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.",
        "empty": b"",
        "another model": model(fine, model="zipfit"),
        "no arrays": model({"x": mean}),
        "too few columns": model({**fine, "log_ratio": np.zeros((8, 2))}),
        "not numbers": model({**fine, "log_ratio": np.full((8, 1), np.nan)}),
        "numbers whose sums are none": model({**fine, "log_ratio": np.full((8, 1), -1.6e308)}),
        "other types": model({**fine, "log_ratio": ratio.astype(np.float32)}),
        "counts below zero": model({**fine, "counts": np.full((8, 2), -1)}),
        "no counts": model({"log_ratio": ratio, "pool_mean": mean}),
        "n-grams of a million": model(fine, ngrams=10**6),
        "odd settings": model(fine, surprise=1),
        "a word for a number": model(fine, min_words="few"),
    }
    for what, data in strangers.items():
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(DselectError) as refused:
            Dsir.load(str(tmp_path / "bad"))
        assert refused.value.where == str(tmp_path / "bad"), what
    assert dselect("dsir", pool, "--model", "bad", status=1).stderr.startswith("dselect: bad: ")
    (tmp_path / "bad").write_bytes(model(fine))
    dselect("dsir", pool, "--model", "bad")
    assert not (tmp_path / "owned").exists()


REAL = [
    ("humaneval", "code_python", 0.7),
    ("gsm8k_test", "math_word_problems", 0.97),
    ("lambada_openai", "books_fiction", 0.9),
]


@pytest.mark.parametrize(("name", "domain", "share"), REAL)
def test_on_real_text_the_selection_is_of_the_target_s_kind(name, domain, share, dselect, shared):
    kept = dselect("dsir", shared / "pool", "-t", shared / "targets" / f"{name}.jsonl.zst", "--keep", "1500kB").records
    sizes = Counter()
    for record in kept:
        sizes[record["source"]] += len(record["text"].encode())
    assert sizes[domain] / sizes.total() > share


@pytest.mark.parametrize(
    "options",
    [["--length", "sum"], ["--ngrams", 3], ["--fit-on", 10], ["--separate"], ["--smoothing", 0], ["--save", "other"]],
)
def test_a_model_is_as_it_was_fitted(options, dselect, pool, target):
    dselect("dsir", pool, "-t", target, "--save", "m")
    assert "is for fitting" in dselect("dsir", pool, "--model", "m", *options, status=2).stderr


def test_the_field_s_name_is_not_the_model_s(dselect, pool, target, tmp_path):
    law = write_records(tmp_path / "law.jsonl", [{"text": " ".join(LAW)}] * 20)
    dselect("dsir", pool, "-t", target, "-t", law, "--separate", "--as", "x", "--save", "m")
    assert {"y_target", "y_law"} <= set(dselect("dsir", pool, "--model", "m", "--as", "y").records[0])
    assert "several targets" in dselect("dsir", pool, "--model", "m", "--keep", 3, status=2).stderr
    for wrong in ("", "text"):
        dselect("dsir", pool, "-t", target, "--as", wrong, "--overwrite", status=2)


def test_a_target_is_not_counted_twice(dselect, pool, target):
    assert "named twice" in dselect("dsir", pool, "-t", target, "-t", target, status=1).stderr
