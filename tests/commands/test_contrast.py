"""Cross-entropy difference against its definition, and what a target must not do: score itself."""

import json

import numpy as np
import pytest

from dselect.commands.contrast import SHRINK, WEIGHT, Contrast
from dselect.errors import DselectError
from dselect.models.byte_lm import ByteLM
from tests.commands.test_lm import Oracle
from tests.conftest import LAW, lines, long, make_pool, make_target, read_records, write_records


def encoded(records):
    return [record["text"].encode() for record in records]


@pytest.mark.parametrize("fit_on", ["all", "10MB", "100%"])
def test_the_score_is_the_difference_of_losses_with_texts_left_out_of_their_model(fit_on, dselect, tmp_path):
    pool, target = make_pool(15), make_target(6)
    pool += [pool[3], {"text": "é"}, {"text": ""}, target[0]]
    target += [target[0], target[1]]
    write_records(tmp_path / "t.jsonl", target)
    options = ["--order", 3, "--fit-on", fit_on, "--save", "m", "-o", "out.jsonl"]
    dselect("contrast", "-", "-t", "t.jsonl", *options, stdin=lines(pool))
    model = Contrast.load(str(tmp_path / "m"))
    ratio = WEIGHT * sum(map(len, encoded(pool))) / sum(map(len, encoded(target)))
    joined = pool * max(round(1 / ratio), 1) + target * max(round(ratio), 1)
    for record in read_records(tmp_path / "out.jsonl"):
        text = record["text"].encode()
        bits = [
            Oracle([other for other in encoded(seen) if other != text], fitted.model.mu_).bits(text)
            for seen, fitted in ((pool, model.pool_), (joined, model.target_))
        ]
        wanted = (bits[0] - bits[1] + SHRINK * model.pool_mean_) / (len(text) + SHRINK)
        assert record["contrast"] == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_the_pool_s_mean_is_that_of_its_texts(dselect, pool, target, tmp_path):
    dselect("contrast", pool, "-t", target, "--save", "m")
    model = Contrast.load(str(tmp_path / "m"))
    scored = dselect("contrast", pool, "--model", "m").records
    sizes = np.array([len(record["text"]) for record in scored])
    differences = np.array([r["contrast"] for r in scored]) * (sizes + SHRINK) - SHRINK * model.pool_mean_
    assert model.pool_mean_ == pytest.approx(differences.sum() / sizes.sum(), rel=1e-9)
    assert dselect("contrast", "--model", "m", stdin=b'{"text":""}').records[0]["contrast"] == model.pool_mean_


def test_a_text_of_the_target_gains_nothing_by_being_there(dselect, tmp_path):
    pool, target = make_pool(60), make_target(20)
    law = {"id": "law", "text": " ".join(LAW * 4)}
    for number, records in enumerate((target, [*target, law, law])):
        write_records(tmp_path / f"{number}.jsonl", records)
    run = dselect("contrast", "-t", "1.jsonl", "--json-summary", stdin=lines([*pool, law, target[0]]))
    assert run.summary["in_target"] == 2
    scores = {record["id"]: record["contrast"] for record in run.records}
    kinds = {record["id"]: record.get("source") for record in run.records}
    cooking = [scores[i] for i, kind in kinds.items() if kind == "cooking"]
    assert scores["law"] < min(cooking)
    assert np.mean(cooking) - 1 < scores["t0"] < np.mean(cooking) + 1
    said = dselect("contrast", "-t", "1.jsonl", stdin=lines([law])).stderr
    assert "1 identical to a text of the target" in said


def test_the_fit_is_on_a_seeded_sample(dselect, pool, target):
    def scores(*options):
        return [r["contrast"] for r in dselect("contrast", pool, "-t", target, *options).records]

    whole, sample = scores(), scores("--fit-on", "30%")
    assert whole == scores("--fit-on", "all")
    assert sample != whole
    assert np.corrcoef(whole, sample)[0, 1] > 0.8  # of a pool of a few kB
    assert scores("--fit-on", "30%", "--seed", 3) != sample
    assert "holds no record" in dselect("contrast", pool, "-t", target, "--fit-on", "0", status=1).stderr


def test_several_targets_are_one(dselect, pool, target, tmp_path):
    law = write_records(tmp_path / "law.jsonl", [{"text": " ".join(LAW * (i + 1))} for i in range(9)])
    both = write_records(tmp_path / "both.jsonl", read_records(target) + read_records(law))
    assert dselect("contrast", pool, "-t", target, "-t", law).stdout == dselect("contrast", pool, "-t", both).stdout


def test_the_difference_of_fields_is_that_and_keeps_its_order(dselect, pool, target, tmp_path):
    law = write_records(tmp_path / "law.jsonl", [{"text": " ".join(LAW)}] * 9)
    dselect("lm", target, "-o", "cook.lm")
    dselect("lm", law, "-o", "law.lm")
    dselect("loss", pool, "--model", "cook.lm", "--model", "law.lm", "-o", "l.jsonl.zst")
    fields = ["--plus", "loss_law", "--minus", "loss_cook"]
    scored = dselect("contrast", "l.jsonl.zst", *fields).records
    assert all(r["contrast"] == r["loss_law"] - r["loss_cook"] for r in scored)
    kept = dselect("contrast", "l.jsonl.zst", *fields, "--keep", 30).records
    assert {r["id"] for r in kept} == {r["id"] for r in sorted(scored, key=lambda r: -r["contrast"])[:30]}
    missing = dselect("contrast", "l.jsonl.zst", "--plus", "loss_no", "--minus", "loss_cook", status=1).stderr
    assert 'l.jsonl.zst:1: no field "loss_no"' in missing


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--plus", "a"],
        ["--minus", "a"],
        ["-t", "target.jsonl.zst", "--model", "m"],
        ["-t", "target.jsonl.zst", "--plus", "a", "--minus", "b"],
        ["--plus", "a", "--minus", "b", "--save", "m"],
    ],
)
def test_options_that_contradict_each_other_are_wrong_usage(options, dselect, pool, target):
    assert dselect("contrast", pool, *options, status=2).stderr.count("\n") == 1


def test_a_target_without_text_is_refused(dselect, pool, tmp_path):
    empty = write_records(tmp_path / "e.jsonl", [{"text": ""}])
    assert "e.jsonl: the target has no text" in dselect("contrast", pool, "-t", empty, status=1).stderr


def test_a_model_from_a_stranger_is_checked(dselect, pool, target, tmp_path):
    from safetensors.numpy import save

    dselect("contrast", pool, "-t", target, "--save", "good", "--order", 2)
    model = Contrast.load(str(tmp_path / "good"))
    arrays = {k: np.array(v) for part, seen in (("target.", model.target_), ("pool.", model.pool_))
              for k, v in seen.arrays(part).items()}  # fmt: skip

    def file(settings=None, **changes):
        header = {"model": "contrast", "order": 2, "min_words": 0, "pool_mean": 0.5, **(settings or {})}
        kept = {name: array for name, array in {**arrays, **changes}.items() if array is not None}
        return save(kept, metadata={"dselect": json.dumps(header)})

    hashes = arrays["pool.hashes"]
    strangers = {
        "a language model": ByteLM(2).fit(model.target_.model.starts(), []).to_bytes(),
        "no mean": file({"pool_mean": None}),
        "an endless mean": file({"pool_mean": 1e300}),
        "another order": file({"order": 3}),
        "no hashes": file(**{"pool.hashes": None}),
        "hashes in no order": file(**{"pool.hashes": hashes[::-1].copy()}),
        "fewer times": file(**{"pool.times": arrays["pool.times"][1:]}),
        "no trie": file(**{"target.inner": None}),
        "times of another type": file(**{"target.times": arrays["target.times"].astype(np.float64)}),
    }
    for what, data in strangers.items():
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(DselectError) as refused:
            Contrast.load(str(tmp_path / "bad"))
        assert refused.value.where == str(tmp_path / "bad"), what
    failed = dselect("contrast", pool, "--model", "bad", status=1)
    assert failed.stderr.startswith("dselect: bad: ")
    assert failed.stderr.count("\n") == 1
    (tmp_path / "bad").write_bytes(file())
    dselect("contrast", pool, "--model", "bad", "-j", 2)


@long
@pytest.mark.parametrize(("name", "domain", "share"), [("humaneval", "code_python", 0.8)])
def test_on_real_text_the_selection_is_of_the_target_s_kind(name, domain, share, dselect, shared):
    pool = [shared / "pool" / f"{d}.jsonl.zst" for d in (domain, "code_javascript", "web_crawl", "aphorisms")]
    kept = dselect("contrast", *pool, "-t", shared / "targets" / f"{name}.jsonl.zst", "--keep", "1500kB").records
    sizes = {True: 0, False: 0}
    for record in kept:
        sizes[record["source"] == domain] += len(record["text"].encode())
    assert sizes[True] / sum(sizes.values()) > share
