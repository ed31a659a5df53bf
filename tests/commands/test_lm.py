"""The byte language model against its definition in plain Python, and the program that fits it."""

import json
from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dselect.errors import DselectError
from dselect.kernels import byte_ngrams, byte_tries
from dselect.models.byte_lm import ByteLM, Tally
from tests.conftest import lines, long, make_pool, make_target, write_records

TEXTS = st.lists(st.binary(max_size=20) | st.text("ab", max_size=30).map(str.encode), max_size=12)
ORDERS = st.integers(1, 8)


class Oracle:
    """The definition: a dictionary of counts an order."""

    def __init__(self, texts, mu):
        self.mu, self.order = mu, len(mu)
        self.counts = Counter(
            text[i - k : i + 1] for text in texts for k in range(self.order) for i in range(k, len(text))
        )

        @cache
        def context(gram):
            return sum(self.counts[gram + bytes([c])] for c in range(256))

        self.context = context

    def probability(self, before, byte):
        p = 1 / 256
        for k in range(min(len(before), self.order - 1) + 1):
            context = before[len(before) - k :]
            p = (self.counts[context + bytes([byte])] + self.mu[k] * p) / (self.context(context) + self.mu[k])
        return p

    def bits(self, text):
        return -sum(np.log2(self.probability(text[:i], byte)) for i, byte in enumerate(text))


def fitted(texts, order, mu=None):
    model = ByteLM(order).fit(byte_ngrams.count(texts, order), [], mu)
    assert byte_tries.flaw(*model.trie_, order) is None
    return model


@given(TEXTS, TEXTS, ORDERS)
@settings(max_examples=60, deadline=None)
def test_the_probability_is_the_formula(texts, others, order):
    model = fitted(texts, order)
    oracle = Oracle(texts, model.mu_)
    scored = [*texts, *others]
    assert model.bits(scored).tolist() == pytest.approx([oracle.bits(text) for text in scored], rel=1e-9, abs=1e-9)


@given(TEXTS, st.binary(max_size=12) | st.text("ab", max_size=12).map(str.encode), ORDERS)
@settings(max_examples=40, deadline=None)
def test_the_probabilities_sum_to_one_after_any_context(texts, context, order):
    assert fitted(texts, order).probabilities(context).sum() == pytest.approx(1, abs=1e-9)


@given(TEXTS, TEXTS, ORDERS)
@settings(max_examples=60, deadline=None)
def test_counts_add_and_a_fitted_model_gives_them_back(one, other, order):
    both = byte_ngrams.add(byte_ngrams.count(one, order), byte_ngrams.count(other, order))
    again = fitted([*one, *other], order).starts()
    for found, wanted in zip(again, both, strict=True):
        assert found[0].tolist() == wanted[0].tolist()
        assert found[1].tolist() == wanted[1].tolist()


@given(TEXTS, ORDERS, st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_pruning_forgets_rare_n_grams_and_nothing_else(texts, order, most):
    whole = Oracle(texts, np.ones(order))
    whole.counts = Counter({gram: n for gram, n in whole.counts.items() if n > most or len(gram) == 1})
    model = ByteLM(order).fit(byte_ngrams.pruned(byte_ngrams.count(texts, order), most), [], np.ones(order))
    assert byte_tries.flaw(*model.trie_, order) is None
    assert model.bits(texts).tolist() == pytest.approx([whole.bits(text) for text in texts], rel=1e-9, abs=1e-9)
    assert model.probabilities(b"ab").sum() == pytest.approx(1, abs=1e-9)


@given(st.lists(st.text("ab ", min_size=1, max_size=30).map(str.encode), min_size=1, max_size=9), ORDERS)
@settings(max_examples=40, deadline=None)
def test_a_text_left_out_costs_what_a_model_without_it_says(texts, order):
    mu = np.full(order, 2.0)
    times = texts.count(texts[0])
    others = [text for text in texts if text != texts[0]]
    assert fitted(texts, order, mu).bits_without(texts[0], times) == pytest.approx(
        Oracle(others, mu).bits(texts[0]), rel=1e-9, abs=1e-9
    )


def test_a_long_text_left_out_is_looked_up_in_pieces():
    text = bytes(np.random.default_rng(0).integers(97, 101, 5000).astype(np.uint8))
    model = fitted([text, text[:700]], 5)
    without = model._without([text], 1)
    assert without.bits(text, model.mu_, piece=64) == pytest.approx(without.bits(text, model.mu_), rel=1e-12)


def test_the_smoothing_is_better_on_held_out_text_than_where_the_search_began():
    texts = [record["text"].encode() for record in make_pool(200)]
    new = [record["text"].encode() for record in make_pool(100, seed=7)]
    starts = byte_ngrams.count(texts, 6)
    begun, climbed = ByteLM(6).fit(starts, []), ByteLM(6).fit(starts, texts[:60])
    assert climbed.bits(new).sum() < begun.bits(new).sum()


def test_a_tally_holds_few_n_grams_and_stays_a_model():
    texts = [record["text"].encode() for record in make_pool(200)]
    exact, small = Tally(6, 10**9), Tally(6, 3000)
    for i in range(0, 200, 10):
        for tally in (exact, small):
            tally.add(byte_ngrams.count(texts[i : i + 10], 6))
    wanted = byte_ngrams.count(texts, 6)
    assert all((a[0] == b[0]).all() and (a[1] == b[1]).all() for a, b in zip(exact.total(), wanted, strict=True))
    assert exact.rare_ == 0
    assert small.rare_ > 0
    assert byte_ngrams.size(small.total()) <= 3000
    pruned = ByteLM(6).fit(small.total(), [])
    assert pruned.trie_.inner[0, 1] == sum(map(len, texts))  # every byte is still counted at order 1
    assert pruned.probabilities(b"the te").sum() == pytest.approx(1, abs=1e-9)


def test_counts_beyond_32_bits_are_counted():
    starts = [
        (np.array([97, 98], np.uint64), np.array([2**33, 5])),
        (np.array([97 << 8 | 98], np.uint64), np.array([5])),
    ]
    model = ByteLM(2).fit(starts, [], np.ones(2))
    assert model.trie_.counts.dtype == np.uint64
    assert byte_tries.flaw(*model.trie_, 2) is None
    assert model.probabilities(b"")[97] == pytest.approx(1)
    assert model.probabilities(b"a")[98] == pytest.approx(5 / 6, rel=1e-6)


def test_the_program_fits_and_scores_in_bits_per_byte(dselect, tmp_path):
    texts = [r["text"] for r in make_target(20)]
    dselect("lm", "-", "--order", 3, "-o", "t.lm", stdin=lines({"text": t} for t in texts))
    scored = dselect("loss", "-", "--model", "cook=t.lm", stdin=lines([*make_pool(9), {"text": ""}, {"text": "é"}]))
    oracle = Oracle([t.encode() for t in texts], ByteLM.load(str(tmp_path / "t.lm")).mu_)
    for record in scored.records:
        text = record["text"].encode()
        assert record["loss_cook"] == pytest.approx(oracle.bits(text) / len(text) if text else 8.0, rel=1e-9)


@pytest.mark.parametrize("options", [[], pytest.param(["--max-memory", "300kB"], marks=long)])
def test_any_number_of_jobs_gives_the_same_model_and_scores(options, dselect, pool, tmp_path):
    for jobs in (1, 2, 3):
        dselect("lm", pool, "-o", f"{jobs}.lm", "-j", jobs, *options)
        dselect("loss", pool, "--model", f"m={jobs}.lm", "-o", f"{jobs}.jsonl.zst", "-j", jobs)
    for name in ("{}.lm", "{}.jsonl.zst"):
        first = (tmp_path / name.format(1)).read_bytes()
        assert all((tmp_path / name.format(jobs)).read_bytes() == first for jobs in (2, 3))


def test_shuffled_shards_give_the_same_model(dselect, tmp_path):
    records = make_pool()
    names = [write_records(tmp_path / f"{i}.jsonl", records[i * 100 : i * 100 + 100]) for i in range(3)]
    dselect("lm", *names, "-o", "a.lm")
    dselect("lm", *reversed(names), "-o", "b.lm")
    assert (tmp_path / "a.lm").read_bytes() == (tmp_path / "b.lm").read_bytes()


def test_what_was_forgotten_is_said(dselect, pool):
    assert "--max-memory" in dselect("lm", pool, "-o", "m.lm", "--max-memory", "300kB").stderr
    assert "--max-memory" not in dselect("lm", pool, "-o", "m.lm").stderr
    assert "no amount of bytes" in dselect("lm", pool, "-o", "m.lm", "--max-memory", "5%", status=2).stderr


def test_fits_of_shards_add_up_to_the_fit_of_all(dselect, tmp_path):
    records = make_pool()
    for i in range(2):
        write_records(tmp_path / f"{i}.jsonl", records[i * 150 : i * 150 + 150])
    dselect("lm", "0.jsonl", "1.jsonl", "-o", "all.lm")
    dselect("lm", "0.jsonl", "-o", "a.lm")
    dselect("lm", "1.jsonl", "--add", "a.lm", "-o", "joined.lm")
    dselect("lm", "1.jsonl", "-o", "b.lm")
    dselect("lm", "--add", "a.lm", "--add", "b.lm", "-o", "added.lm")
    whole = ByteLM.load(str(tmp_path / "all.lm"))
    for name in ("joined.lm", "added.lm"):
        other = ByteLM.load(str(tmp_path / name))
        assert all((a == b).all() for a, b in zip(other.trie_, whole.trie_, strict=True))
    assert "--order 6" in dselect("lm", "--add", "a.lm", "--order", 5, "-o", "c.lm", status=1).stderr


def test_nothing_and_next_to_nothing_can_be_fitted(dselect):
    for texts in ([], [""], ["a"], ["ab", ""]):
        dselect("lm", "-", "-o", "m.lm", stdin=lines({"text": t} for t in texts))
        scored = dselect("loss", "-", "--model", "m.lm", stdin=lines([{"text": "xyz"}, {"text": ""}])).records
        assert all(0 < record["loss_m"] < 20 for record in scored)
        if not any(texts):
            assert [record["loss_m"] for record in scored] == [8, 8]


def test_text_of_the_kind_costs_less(dselect, pool, target):
    dselect("lm", target, "-o", "cook.lm")
    scored = dselect("loss", pool, "--model", "cook.lm").records
    mean = {k: np.mean([r["loss_cook"] for r in scored if r["source"] == k]) for k in ("cooking", "law", "code")}
    assert mean["cooking"] + 2 < min(mean["law"], mean["code"])


def test_models_need_names_of_their_own_and_a_file(dselect, pool, target, tmp_path):
    dselect("lm", target, "-o", "a.lm")
    assert "loss_a" in dselect("loss", pool, "--model", "a.lm", "--model", "a=a.lm", status=2).stderr
    assert "needs a model" in dselect("loss", pool, status=2).stderr
    assert "needs a file" in dselect("lm", pool, status=2).stderr
    assert "no such model" in dselect("loss", pool, "--model", "nowhere.lm", status=1).stderr


def test_a_loss_that_is_there_already_is_refused_or_replaced(dselect, target):
    dselect("lm", target, "-o", "a.lm")
    line = b'{"text":"garlic","loss_a":1}\n'
    assert "--overwrite" in dselect("loss", "--model", "a.lm", stdin=line, status=1).stderr
    out = dselect("loss", "--model", "a.lm", "--overwrite", stdin=line).stdout
    assert out.startswith(b'{"text":"garlic","loss_a":')


def test_a_model_from_a_stranger_is_checked(dselect, pool, tmp_path):
    from safetensors.numpy import save

    dselect("lm", pool, "-o", "good", "--order", 3)
    good = (tmp_path / "good").read_bytes()
    model = ByteLM.load(str(tmp_path / "good"))
    arrays = {name: np.array(array) for name, array in model.arrays().items()}

    def file(settings=None, **changes):
        header = json.dumps({"model": "byte-lm", "order": 3, **(settings or {})})
        kept = {name: array for name, array in {**arrays, **changes}.items() if array is not None}
        return save(kept, metadata={"dselect": header})

    def changed(name, at, value):
        array = arrays[name].copy()
        array[at] = value
        return {name: array}

    nodes = len(arrays["labels"])
    strangers = {
        "cut short": good[:-9],
        "a pickle": b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.",
        "empty": b"",
        "another model": file({"model": "dsir"}),
        "an order too many": file({"order": 4}, mu=np.ones(4)),
        "an order of text": file({"order": "3"}),
        "no smoothing": file(mu=None),
        "no number": file(mu=np.array([1, np.nan, 1])),
        "zero": file(mu=np.zeros(3)),
        "other types": file(counts=arrays["counts"].astype(np.float64)),
        "other widths": file(counts=arrays["counts"].astype(np.uint64)),
        "too short": file(labels=arrays["labels"][:-1]),
        "children outside": file(**changed("inner", (5, 0), nodes + 7)),
        "children of its own": file(**changed("inner", (5, 0), 3)),
        "a sum that is none": file(**changed("inner", (5, 1), 1)),
        "a count of zero": file(**changed("counts", nodes - 1, 0)),
        "labels in no order": file(labels=arrays["labels"][::-1].copy()),
        "no nodes": file(labels=arrays["labels"][:0], counts=arrays["counts"][:0], inner=arrays["inner"][:0]),
    }
    for what, data in strangers.items():
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(DselectError) as refused:
            ByteLM.load(str(tmp_path / "bad"))
        assert refused.value.where == str(tmp_path / "bad"), what
        if what in ("a pickle", "children outside"):  # as a user sees it
            failed = dselect("loss", pool, "--model", "bad", status=1)
            assert failed.stderr.startswith("dselect: bad: "), what
            assert failed.stderr.count("\n") == 1, what
    (tmp_path / "bad").write_bytes(file())
    dselect("loss", pool, "--model", "bad")
    assert not (tmp_path / "owned").exists()
