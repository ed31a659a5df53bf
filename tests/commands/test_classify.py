"""fastText's numbers without its vectors; files that its own reader would crash on; training that repeats."""

import os
import random
import re
import subprocess
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dselect.classifiers import Recipe, auc, calibration, calibration_error, line, rank_agreement, train
from dselect.errors import DselectError
from dselect.kernels.fasttext import remainder
from dselect.models.fasttext import FastText, Library, read, why_not
from tests.conftest import CODE, COOKING, DSELECT, LAW, lines, make_pool, read_records, write_records

ODD = ["", " ", "\n", "stir", "__label__a", "x __label__b stir", "stir </s> tenant", "</s>", "__label_", "x__label__a",
       "\0 stir\0the\tpan\x0b\x0cto\re", "漢字 हिन्दी 🤖", "é" * 300, "stir \x85\u2028the", "stir the pan " * 400,
       "é" * 4095 + " stir" * 900, "the pan " * 600 + "</s> stir", "stir __label__q __label__a the " * 99]  # fmt: skip
KINDS = {
    "words": {"labels": 2},
    "pairs": {"labels": 2, "wordNgrams": 2},
    "triples of three": {"labels": 3, "wordNgrams": 3},
    "subwords": {"labels": 2, "wordNgrams": 2, "minn": 2, "maxn": 4, "minCount": 2},
    "one against all": {"labels": 3, "wordNgrams": 2, "loss": "ova"},
    "negative sampling": {"labels": 3, "loss": "ns"},
    "hierarchical": {"labels": 3, "loss": "hs"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def trained(folder):
    """Train tiny models with the library itself."""
    import fasttext

    random_ = random.Random(3)
    for name, options in KINDS.items():
        settings = {"dim": 8, "bucket": 997, "epoch": 8, "lr": 0.5, "thread": 1, "verbose": 0, **options}
        labels = settings.pop("labels")
        with (folder / "train.txt").open("w") as file:
            for number in range(150):
                kind = (COOKING, LAW, CODE)[number % labels]
                file.write(f"__label__{'abc'[number % labels]} {' '.join(random_.choices(kind, k=30))}\n")
        model = fasttext.train_supervised(input=str(folder / "train.txt"), **settings)
        model.save_model(str(folder / f"{name}.bin"))
        if name == "subwords":
            model.quantize(input=str(folder / "train.txt"), cutoff=500, qnorm=True)
            model.save_model(str(folder / "pruned.ftz"))
    return folder


@pytest.mark.parametrize("name", [*(f"{name}.bin" for name in KINDS), "pruned.ftz"])
def test_probabilities_are_the_library_s(name, trained):
    import fasttext

    path = str(trained / name)
    layout, library = read(path), fasttext.load_model(path)
    texts = [*ODD, *(record["text"] for record in make_pool(60))]
    for label in layout.labels:
        model = (Library if why_not(layout) else FastText)(layout, label)
        encoded = [text.encode() for text in texts]
        ours = model.probabilities(encoded)
        assert ((ours >= 0) & (ours <= 1)).all()
        for text, p in zip(texts, ours.tolist(), strict=True):
            theirs = {
                b: a for a, b in library.f.predict(text.replace("\n", " ") + "\n", len(layout.labels), 0.0, "strict")
            }
            if theirs:
                assert p == pytest.approx(theirs.get(label, 0.0), abs=2e-5), text
        one_by_one = np.concatenate([model.probabilities([text]) for text in encoded])
        assert one_by_one.tolist() == ours.tolist()


@pytest.mark.parametrize("name", ["triples of three.bin", "pruned.ftz"])
def test_a_damaged_file_is_refused_before_the_library_sees_it(name, trained, tmp_path):
    data, bad = (trained / name).read_bytes(), tmp_path / "bad"
    for length in [*range(min(len(data), 1500)), *range(1500, len(data), 997), len(data) - 1]:
        bad.write_bytes(data[:length])
        with pytest.raises(DselectError, match="bad"):
            read(str(bad))
    bad.write_bytes(data + b"x")
    with pytest.raises(DselectError, match="follow"):
        read(str(bad))
    for at in range(8, 84, 4):  # every number of the header, made absurd
        for number in (-1, 2**31 - 1):
            bad.write_bytes(data[:at] + number.to_bytes(4, "little", signed=True) + data[at + 4 :])
            with suppress(DselectError):  # else a setting that scoring does not read
                assert len(read(str(bad)).labels) > 1


def test_the_command_scores_with_any_model_and_says_what_it_lacks(dselect, trained, tmp_path):
    pool = write_records(tmp_path / "p.jsonl", [*make_pool(30), {"text": ""}])
    model = trained / "pairs.bin"
    options = ["--model", model, "--label", "__label__a", "--min-words", 1]
    run = dselect("classify", pool, *options, "-j", 1)
    assert ["classify" in record for record in run.records] == [True] * 30 + [False]
    assert dselect("classify", pool, *options, "-j", 2).stdout == run.stdout
    assert "it has: __label__" in dselect("classify", pool, "--model", model, status=2).stderr
    slow = dselect("classify", pool, "--model", trained / "hierarchical.bin", "--label", "__label__a")
    assert "hierarchical softmax is scored by the library" in slow.stderr
    assert all(0 <= record["classify"] <= 1 for record in slow.records)
    assert "not a fastText model" in dselect("classify", pool, "--model", pool, "--label", "a", status=1).stderr


def test_training_repeats_and_the_saved_model_scores_as_the_run_that_made_it(dselect, pool, target, tmp_path):
    options = ["--positive", target, "--buckets", 5000]
    first = dselect("classify", pool, *options, "--save", "m.bin", "-o", "-")
    assert "AUC" in first.stderr
    assert dselect("classify", pool, "--model", "m.bin").stdout == first.stdout
    best = sorted(first.records, key=lambda record: -record["classify"])[:50]
    assert {record["source"] for record in best} == {"cooking"}
    saved = (tmp_path / "m.bin").read_bytes()
    again = dselect("classify", pool, *options, "--save", "n.bin", "-j", 2, "--seeds", 2).stderr
    assert "2 seeds: AUC" in again
    assert re.search(r"predicted  observed  records\n( +[01]\.\d{3} +[01]\.\d{3} +\d+\n)+", again)
    assert (tmp_path / "n.bin").read_bytes() == saved
    assert "by 2 threads: the next run" in dselect("classify", pool, *options, "--threads", 2, "--keep", 1).stderr
    few = write_records(tmp_path / "few.jsonl", make_pool(3))
    assert "3 positive records are too few" in dselect("classify", pool, "--positive", few, status=1).stderr


def test_settings_beside_a_model_decide_whether_its_scores_are_up_to_date(dselect, trained, pool, tmp_path):
    (tmp_path / "m.bin").write_bytes((trained / "pairs.bin").read_bytes())
    found = []
    for label in ("__label__a", "__label__a", "__label__b"):
        (tmp_path / "m.bin.json").write_text(f'{{"label": "{label}"}}')
        run = dselect("classify", pool, "--model", "m.bin", "-o", "out.jsonl")
        found.append(("up to date" in run.stderr, read_records(tmp_path / "out.jsonl")[0]["classify"]))
    assert [known for known, _ in found] == [False, True, False]
    assert found[2][1] == pytest.approx(1 - found[0][1], abs=1e-4)


def test_a_table_leaves_no_file_when_its_run_is_killed(trained, tmp_path):
    command = [*DSELECT, "classify", "-", "--model", trained / "pairs.bin", "--label", "__label__a", "-j", "2", "-q"]
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as run:
        run.stdin.write(lines(make_pool(40)) * 400)  # blocks for both workers, which have the table by then
        run.stdin.flush()
        assert run.stdout.readline()
        run.kill()
    assert not [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()]


@given(st.integers(0, 2**64 - 1), st.one_of(st.integers(1, 2**31), st.sampled_from([1, 2, 2_000_000, 2**31 - 1])))
def test_a_remainder_is_exact_without_a_division(number, divisor):
    for near in (number, number // divisor * divisor, max(number // divisor * divisor - 1, 0), 2**64 - 1):
        found = remainder(np.uint64(near), np.uint64(divisor), np.uint64((2**64 - 1) // divisor))
        assert int(found) == near % divisor


def test_text_that_looks_like_a_label_is_left_out_of_training():
    assert line("a __label__1 b\n__label__2c x__label__") == "a  b  x__label__"


def test_a_quantised_model_is_saved_as_it_scores_and_too_small_a_one_refused(tmp_path):
    texts = [record["text"] for record in make_pool(200)]
    recipe = Recipe(epochs=1, dim=4, buckets=1000, one_vs_all=True)
    path = tmp_path / "m.ftz"
    model, _ = train(texts[:100], texts[100:], recipe, 0, path)
    layout = read(str(path))
    assert (layout.dim, layout.inputs.width, layout.loss) == (4, 2, 4)
    encoded = [text.encode() for text in texts]
    assert FastText(layout, "__label__1").probabilities(encoded).tolist() == model.probabilities(encoded).tolist()
    with pytest.raises(DselectError, match="too little to quantise"):
        train(texts[:100], texts[100:], replace(recipe, buckets=1), 0, tmp_path / "n.ftz")
    assert not (tmp_path / "n.ftz").exists()


def test_seeds_that_agree_have_rank_agreement_one_and_calibration_counts_every_record():
    good, bad = np.array([0.95, 0.55, 0.57]), np.array([0.52, 0.1])
    assert rank_agreement([(good, bad), (good**2, bad**2)]) == pytest.approx(1)
    assert rank_agreement([(good, bad), (-good, -bad)]) == pytest.approx(-1)
    assert calibration(good, bad) == [
        (0.1, 0.0, 1), (pytest.approx(0.5466666), pytest.approx(2 / 3), 3), (0.95, 1.0, 1)
    ]  # fmt: skip
    assert calibration_error(good, bad) == pytest.approx((0.1 + 0.36 + 0.05) / 5)


def test_auc_is_the_share_of_pairs_in_order():
    assert auc(np.array([0.9, 0.5]), np.array([0.5, 0.1])) == pytest.approx(0.875)
