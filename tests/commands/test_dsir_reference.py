"""`dsir --reference` against what the paper's package computed: `tests/vectors/dsir_reference.py` is the recipe."""

import hashlib
import json
import random
import re
from itertools import pairwise

import numpy as np
import pytest

from dselect.kernels import sha_ngrams
from tests.conftest import LAW, lines, make_pool, make_target, write_records
from tests.vectors import dsir_reference as vectors

GOLDEN = json.loads((vectors.HERE / "dsir_reference.json").read_text("ascii"))
REAL = vectors.HERE / "dsir_reference_real.json"


@pytest.fixture
def documents(tmp_path):
    """Write the texts of the vectors: a pool and two targets."""
    for number, texts in enumerate(vectors.targets()):
        write_records(tmp_path / f"t{number}.jsonl", [{"text": text} for text in texts])
    return write_records(tmp_path / "documents.jsonl", [{"text": text} for text in vectors.documents()])


def reference(pool, *targets):
    return ["dsir", pool, *(word for target in targets for word in ("-t", target)), "--reference"]


def case(golden):
    return f"{golden['ngrams']}-{golden['buckets']}-{'separate' if golden['separate'] else 'one'}"


@pytest.mark.parametrize("golden", GOLDEN, ids=case)
def test_the_weights_are_the_package_s(golden, dselect, documents):
    options = ["--ngrams", golden["ngrams"], "--buckets", golden["buckets"]]
    options += ["--separate"] if golden["separate"] else []
    fields = ["dsir_t0", "dsir_t1"] if golden["separate"] else ["dsir"]
    run = [*reference(documents, "t0.jsonl", "t1.jsonl"), *options]
    scored = dselect(*run, "--min-words", 0).records
    for field, weights in zip(fields, golden["weights"], strict=True):
        found = np.array([record[field] for record in scored])
        np.testing.assert_allclose(found, vectors.decoded(weights), rtol=1e-9, atol=0)
    summed = dselect(*run, "--json-summary")
    assert "".join(str(int(fields[0] in record)) for record in summed.records) == golden["long"]
    assert summed.summary["without_score"] == golden["long"].count("0") > 0
    assert [r for r in summed.records if fields[0] in r] == [r for r in scored if r in summed.records]


def test_on_thousands_of_real_documents_the_weights_are_the_package_s(dselect, shared, tmp_path):
    golden = json.loads(REAL.read_text("ascii"))
    pool, target = vectors.real(shared)
    (tmp_path / "real.jsonl").write_text("".join(pool), "utf-8")
    (tmp_path / "target.jsonl").write_text("".join(target), "utf-8")
    run = reference("real.jsonl", "target.jsonl")
    found = np.array([record["dsir"] for record in dselect(*run, "--min-words", 0).records])
    assert len(found) > 2000
    np.testing.assert_allclose(found, vectors.decoded(golden["weights"]), rtol=1e-9, atol=0)
    long = "".join(str(int("dsir" in record)) for record in dselect(*run, "--jobs", 2).records)
    assert long == golden["long"]


def test_the_buckets_are_those_of_the_package_s_own_tests():
    assert [found_bucket("alice"), found_bucket("alice went")] == [6720, 114]


def found_bucket(gram, buckets=10_000):
    """Return the bucket of an n-gram of as many words as it has: the one that the next shorter n-grams do not fill."""
    longest = gram.count(" ") + 1
    counts, shorter = np.zeros((2, buckets), np.int64)
    sha_ngrams.count_ngrams([gram], longest, counts)
    if longest > 1:
        sha_ngrams.count_ngrams([gram], longest - 1, shorter)
    (found,) = np.flatnonzero(counts - shorter)
    return int(found)


@pytest.mark.parametrize("buckets", [1, 2, 10_000, 65_536, 2**22 - 3])
def test_a_word_of_any_length_has_the_bucket_of_its_sha_256(buckets):
    random_ = random.Random(buckets)
    for length in [*range(1, 70), 118, 119, 120, 127, 128, 129, 5000]:
        word = "".join(random_.choices("abcdefghijklmnopqrstuvwxyz", k=length))
        assert found_bucket(word, buckets) == int(hashlib.sha256(word.encode()).hexdigest(), 16) % buckets


def test_a_digest_is_reduced_exactly_for_every_number_of_buckets():
    random_ = random.Random(0)
    for buckets in [1, 2, 3, 2**31, 2**32 - 1, 2**32 - 5, *(random_.randrange(1, 2**32) for _ in range(200))]:
        for digest in (0, 2**256 - 1, random_.getrandbits(256)):
            state = np.frombuffer(digest.to_bytes(32, "big"), ">u4").astype(np.uint32)
            assert sha_ngrams._remainder(state, np.uint64(buckets)) == digest % buckets


def test_what_is_remembered_does_not_change_a_count():
    """More different n-grams than the table holds, and each met again after others took its place."""
    random_ = random.Random(1)
    texts = [" ".join(str(random_.randrange(10 ** random_.randrange(1, 8))) for _ in range(60_000)) for _ in range(2)]
    texts += texts[:1]
    expected = np.zeros(997, np.int64)
    for text in texts:
        words = re.findall(r"\w+|[^\w\s]+", text)
        for gram in [*words, *(f"{a} {b}" for a, b in pairwise(words))]:
            expected[int(hashlib.sha256(gram.encode()).hexdigest(), 16) % 997] += 1
    counts = np.zeros(997, np.int64)
    sha_ngrams.count_ngrams(texts[:1], 2, np.zeros(10, np.int64))  # another number of buckets in between
    assert sha_ngrams.count_ngrams(texts, 2, counts) == expected.sum()
    assert counts.tolist() == expected.tolist()


def test_the_bytes_do_not_depend_on_the_jobs(dselect, target, tmp_path):
    pool = write_records(tmp_path / "p.jsonl", make_pool(6000))
    run = reference(pool, target)
    assert dselect(*run, "-j", 1).stdout == dselect(*run, "-j", 3).stdout


def test_a_saved_model_remembers_that_it_is_the_reference_s(dselect, pool, target):
    direct = dselect(*reference(pool, target), "--save", "ref.dsir", "-o", "out.jsonl", "--json-summary")
    assert direct.summary["without_score"] > 0
    dselect("dsir", pool, "--model", "ref.dsir", "-o", "again.jsonl")
    dselect("dsir", pool, "--model", "ref.dsir", "--reference", "-o", "too.jsonl")
    folder = pool.parent
    assert (folder / "out.jsonl").read_bytes() == (folder / "again.jsonl").read_bytes()
    assert (folder / "out.jsonl").read_bytes() == (folder / "too.jsonl").read_bytes()


def test_another_model_is_not_taken_for_the_reference_s(dselect, pool, target):
    dselect("dsir", pool, "-t", target, "--save", "ours.dsir")
    refused = dselect("dsir", pool, "--model", "ours.dsir", "--reference", status=2)
    assert refused.stderr.startswith("dselect: ours.dsir: this model was fitted without --reference")


@pytest.mark.parametrize(
    "contradiction",
    [["--length", "mean"], ["--smoothing", "1"], ["--smoothing", "0.001"], ["--prior", "uniform"], ["--prior", "pool"]],
    ids=" ".join,
)
def test_what_the_package_does_not_do_is_refused(contradiction, dselect, pool, target):
    refused = dselect(*reference(pool, target), *contradiction, status=2)
    assert " ".join(contradiction) in refused.stderr


def test_saying_what_the_reference_does_anyway_changes_nothing(dselect, pool, target):
    run = reference(pool, target)
    same = dselect(*run, "--length", "sum", "--smoothing", 0, "--min-words", 100)
    assert same.stdout == dselect(*run).stdout
    assert sum("dsir" in record for record in dselect(*run, "--min-words", 50).records) > same.stdout.count(b'"dsir"')


def test_keep_and_fit_on_work_as_without_it(dselect, pool, target):
    run = [*reference(pool, target), "--min-words", 20, "--fit-on", "50%"]
    scored = [record for record in dselect(*run).records if "dsir" in record]
    best = sorted(scored, key=lambda record: -record["dsir"])[:25]
    kept = dselect(*run, "--keep", 25).records
    assert kept == [record for record in scored if record in best]


def test_the_published_resampling_draws_in_proportion_to_the_importance_weight(dselect, tmp_path):
    texts = {"a": "a a b c", "b": "b b c a", "c": "c c c b"}
    pool = [{"id": f"{name}{number}", "text": text} for number in range(2000) for name, text in texts.items()]
    write_records(tmp_path / "t.jsonl", [{"text": "a a a a a b b b c c"}])
    run = [*reference("-", "t.jsonl"), "--min-words", 0, "--ngrams", 1]
    weights = np.exp([record["dsir"] for record in dselect(*run, stdin=lines(pool)).records[:3]])
    assert weights.max() > 3 * weights.min()
    sample = ["--keep", 300, "--sample", "--scale", "none", "--temperature", 1]
    drawn = dselect(*run, *sample, stdin=lines(pool)).records
    share = np.array([sum(record["id"].startswith(name) for record in drawn) for name in texts]) / 300
    np.testing.assert_allclose(share, weights / weights.sum(), atol=0.08)


def test_several_targets_are_one_as_in_the_package(dselect, pool, target, tmp_path):
    law = write_records(tmp_path / "law.jsonl", [{"text": " ".join(LAW)}] * 9)
    both = write_records(tmp_path / "both.jsonl", [*make_target(), *[{"text": " ".join(LAW)}] * 9])
    assert dselect(*reference(pool, target, law)).stdout == dselect(*reference(pool, both)).stdout
