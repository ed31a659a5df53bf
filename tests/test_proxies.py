"""Proxies: the n-gram one equals a language model fitted to the same texts, and other seeds say the same."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dselect.errors import DselectError, UsageError
from dselect.kernels import byte_mixtures
from dselect.kernels.byte_ngrams import count
from dselect.mixtures.mixture import Field
from dselect.mixtures.portions import Held
from dselect.mixtures.proxies import CommandProxy, NgramProxy, TrainOn, smoothing
from dselect.models.byte_lm import ByteLM
from dselect.pool import Pool
from dselect.records.sources import discover
from dselect.selection import Budget
from tests.conftest import SHARED, make_pool, make_target, write_records

BYTES = Budget("all", "bytes", amount=0)
TARGETS = [[r["text"].encode() for r in make_target(12)], [r["text"].encode() for r in make_pool(9, seed=7)]]


def opened(path, seed=0, budget=30_000, order=5):
    pool = Pool(discover([str(path)]), rereads=True)
    held = Held(pool, Field("source"), BYTES, seed)
    return held, NgramProxy(pool, held, Field("source"), TARGETS, budget, order)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("proxy") / "pool.jsonl", make_pool(400))


def texts_of(held, records, domain, size):
    """Return the texts of a domain's first bytes, whole epochs first."""
    order = held.orders[domain].tolist()
    texts = [records[i]["text"].encode() for i in order]
    found = []
    while size > 0:
        text = texts[len(found) % len(texts)]
        found.append(text)
        size -= len(text)
    assert size == 0, "not a size at which a document ends"
    return found


@pytest.mark.parametrize("epochs", [0, 1])
def test_at_its_prefixes_the_proxy_is_a_language_model_fitted_to_those_texts(files, epochs):
    held, proxy = opened(files, budget=200_000)
    records = make_pool(400)
    draw = np.random.default_rng(epochs)
    sizes = [
        int(draw.choice(prefixes.sizes)) + epochs * total
        for prefixes, total in zip(proxy.prefixes, proxy.totals, strict=True)
    ]
    proxy.budget = sum(sizes)
    found = proxy.bits(np.array(sizes) / sum(sizes))
    texts = [text for k, size in enumerate(sizes) for text in texts_of(held, records, k, size)]
    model = ByteLM(5).fit(count(texts, 5), [], proxy.mu_)
    for target, bits in zip(TARGETS, found, strict=True):
        assert bits == pytest.approx(model.bits(target).sum() / sum(map(len, target)), rel=1e-9)


@given(
    st.lists(st.binary(max_size=30), min_size=1, max_size=4),
    st.lists(st.lists(st.binary(max_size=40), max_size=3), min_size=1, max_size=3),
    st.integers(1, 8),
)
@settings(max_examples=60)
def test_any_texts_give_what_the_language_model_gives(target, groups, order):
    by = byte_mixtures.automaton(target, order)
    texts = [text for group in groups for text in group]
    numbers = np.array([number for number, group in enumerate(groups) for _ in group], np.int64)
    hits, lasts = (byte_mixtures.grouped(one, len(groups)) for one in byte_mixtures.walk(by, texts, numbers, order))
    mu = np.linspace(1, 3, order)
    size = float(sum(map(len, texts)))
    p = byte_mixtures.probabilities(by, hits, lasts, np.ones(len(groups)), size, mu)
    nodes, often = byte_mixtures.uses(by, target, order)
    bits = float((-np.log2(p[nodes.astype(np.int64)]) * often).sum())
    assert bits == pytest.approx(ByteLM(order).fit(count(texts, order), [], mu).bits(target).sum(), rel=1e-9)


def test_prefixes_are_many_and_grow_by_the_same_factor(files):
    _, proxy = opened(files, budget=200_000)
    for prefixes, total in zip(proxy.prefixes, proxy.totals, strict=True):
        assert 32 <= len(prefixes.sizes) <= 64
        assert prefixes.sizes[-1] == total  # it holds less than the budget
        assert prefixes.shares(0.0, total).sum() == 0
        assert (prefixes.shares(float(total), total) == 1).all()
        half = prefixes.shares(1.5 * total, total)
        assert float((half * np.diff(prefixes.sizes, prepend=0)).sum()) == pytest.approx(1.5 * total)


def test_the_smoothing_is_that_of_a_model_of_the_pool(files):
    held, proxy = opened(files, budget=10**6)
    records = make_pool(400)
    order = np.lexsort((held.draws,)).tolist()
    assert proxy.mu_.tolist() == smoothing([records[i]["text"].encode() for i in order], 5).tolist()


def test_another_seed_says_the_same_within_what_sampling_moves_a_model(files):
    """Between sampled models of one mixture lies as much as between proxies of other seeds, and no bias."""
    records = make_pool(400)
    by_domain = {}
    for record in records:
        by_domain.setdefault(record["source"], []).append(record["text"].encode())
    weights, budget = np.array([0.2, 0.5, 0.3]), 9_000
    proxies = [opened(files, seed, budget)[1] for seed in range(6)]
    said = np.array([proxy.bits(weights) for proxy in proxies])
    trained = []
    for seed in range(12):
        texts = []
        for name, weight in zip(sorted(by_domain), weights, strict=True):
            left = int(weight * budget)
            for at in np.random.default_rng(seed).permutation(len(by_domain[name])).tolist():
                texts.append(by_domain[name][at][:left])
                left -= len(texts[-1])
        model = ByteLM(5).fit(count(texts, 5), [], proxies[0].mu_)
        trained.append([model.bits(target).sum() / sum(map(len, target)) for target in TARGETS])
    noise = np.std(trained, axis=0, ddof=1)
    assert (np.abs(said.mean(axis=0) - np.mean(trained, axis=0)) < 3 * noise * (1 / 6 + 1 / 12) ** 0.5 + 0.02).all()
    assert (np.std(said, axis=0, ddof=1) < 3 * noise).all()


def test_jobs_and_shards_do_not_change_what_it_says(files, tmp_path):
    records = make_pool(400)
    for shard in range(3):
        write_records(tmp_path / "in" / f"{shard}.jsonl", records[shard::3])
    weights = np.array([0.3, 0.3, 0.4])
    said = opened(files)[1].bits(weights)
    assert said == opened(tmp_path / "in")[1].bits(weights)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real corpora here")
def test_real_text_at_a_prefix_too():
    import json

    import zstandard

    def read(name):
        data = zstandard.ZstdDecompressor().stream_reader((SHARED / name).read_bytes()).read()
        return [json.loads(line)["text"].encode() for line in data.split(b"\n") if line]

    target, texts = read("targets/humaneval.jsonl.zst")[:60], read("pool/kids_stories.jsonl.zst")
    by = byte_mixtures.automaton(target, 6)
    zeros = np.zeros(len(texts), np.int64)
    hits, lasts = (byte_mixtures.grouped(one, 1) for one in byte_mixtures.walk(by, texts, zeros, 6))
    mu = smoothing(texts, 6)
    p = byte_mixtures.probabilities(by, hits, lasts, np.ones(1), float(sum(map(len, texts))), mu)
    nodes, often = byte_mixtures.uses(by, target, 6)
    bits = float((-np.log2(p[nodes.astype(np.int64)]) * often).sum())
    assert bits == pytest.approx(ByteLM(6).fit(count(texts, 6), [], mu).bits(target).sum(), rel=1e-9)


def test_a_mixture_of_texts_repeats_a_short_domain_and_cuts_the_last_text():
    work = TrainOn([[b"ab", b"c"], [], [b"xyz"]], [[b"t"]], 10, 1, 0, "tiny")
    assert work.mixed(np.array([0.8, 0.0, 0.2])) == [b"ab", b"c", b"ab", b"c", b"ab", b"xy"]
    assert work.mixed(np.array([0.0, 1.0, 0.0])) == []


def commanded(script, **options):
    settings = {"jobs": 2, "timeout": None, "retries": 0, "folder": None, **options}
    return CommandProxy(f"{sys.executable} -c '{script}' {{mixture}}", ["a", "b"], *settings.values())


READ = 'import json, sys; w = json.load(open(sys.argv[1]))["weights"]; '


def test_a_command_gets_the_mixture_and_its_last_line_is_the_loss():
    mixtures = [np.array([0.25, 0.75]), np.array([0.5, 0.5]), np.array([1.0, 0.0])]
    proxy = commanded(READ + 'print("some talk"); print(w["a"] * 2); print()')
    assert sorted(proxy.measure(mixtures)) == [(0, [0.5]), (1, [1.0]), (2, [2.0])]


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ('import sys; sys.exit("disk full")', "exit status 1: disk full"),
        ('print("done")', "'done' as its last line"),
        ('print("nan")', "'nan' as its last line"),
        ("pass", "'' as its last line"),
        ("import time; print(1, flush=True); time.sleep(60)", "took longer than 0.5 seconds"),
        ("import os; os.kill(os.getpid(), 9)", "exit status -9"),
    ],
)
def test_a_command_that_fails_is_told_in_one_line(script, told):
    with pytest.raises(DselectError, match=told):
        list(commanded(script, timeout=0.5 if "time" in script else None).measure([np.array([0.5, 0.5])]))


def test_a_command_is_tried_again(tmp_path):
    script = f'import os; p = "{tmp_path}/x"; ok = os.path.exists(p); open(p, "w").close(); assert ok; print(3)'
    assert list(commanded(script, retries=1).measure([np.array([0.5, 0.5])])) == [(0, [3.0])]


def test_a_command_that_cannot_be_run_or_does_not_look_at_the_mixture_is_refused():
    with pytest.raises(UsageError, match="always measure the same"):
        CommandProxy("echo 1", ["a"], 1, None, 0, None)
    with pytest.raises(UsageError, match="cannot read"):
        CommandProxy("echo '{mixture}", ["a"], 1, None, 0, None)
    with pytest.raises(DselectError, match="cannot run /no/such"):
        list(CommandProxy("/no/such {mixture}", ["a"], 1, None, 0, None).measure([np.array([1.0])]))
