"""Alignment by compression: gzip's own sizes, the package's similarities, no reward for length, unsound files."""

import gzip
import json
import random
import zlib

import numpy as np
import pytest
from safetensors.numpy import save

from dselect.commands.zipfit import LENGTHS, LONGEST, WINDOW, ZipFit
from dselect.kernels import compression
from dselect.models import tables
from dselect.sketch import spearman
from tests.conftest import COOKING, lines, make_pool, make_target, write_records
from tests.vectors import zipfit_reference as reference

GOLDEN = json.loads(reference.PATH.read_text("ascii"))
POOL = [record["text"].encode() for record in make_pool(150)]
TARGET = [record["text"].encode() for record in make_target(8)]


def noise(seed, size):
    return random.Random(seed).randbytes(size).hex()[:size]


def measured(model, text):
    """Return the score of a text by its definition, one window and one target at a time."""
    starts = [*range(0, max(len(text) - WINDOW, 0), WINDOW), max(len(text) - WINDOW, 0)]
    found = []
    for window in (text[start : start + WINDOW] for start in starts):
        shares = []
        for target in model.targets_:
            alone = len(gzip.compress(target, 6))
            knowing = zlib.compressobj(6, zlib.DEFLATED, -15, zdict=window)
            shares.append((alone - len(knowing.compress(target) + knowing.flush()) - 18) / alone)
        at = np.log(len(window))
        mean, deviation = (np.interp(at, np.log(model.lengths_), y) for y in (model.means_, model.deviations_))
        found.append((np.mean(shares) - mean * min(1, len(window) / LENGTHS[0])) / deviation)
    return np.mean(found)


@pytest.mark.skipif(GOLDEN["zlib"] != zlib.ZLIB_RUNTIME_VERSION, reason="another zlib may compress to other sizes")
@pytest.mark.parametrize("level", reference.LEVELS)
def test_ncd_gives_the_package_s_similarities(level, dselect, tmp_path):
    """`python tests/vectors/zipfit_reference.py` made them, with zip-fit 1.0.9.

    It asks ZIPFIT("", "", k=10**6, compression_algorithm="gzip", compress_level=6) to
    rank_sequences_by_alignment(sources(), targets()); the texts are made in that file.
    """
    write_records(tmp_path / "t.jsonl", [{"text": text} for text in reference.targets()])
    pool = lines({"text": text} for text in reference.sources())
    run = dselect("zipfit", "-t", "t.jsonl", "--score", "ncd", "--compressor", f"gzip:{level}", stdin=pool)
    within = [len(text.encode()) <= compression.REACH for text in reference.sources()]
    found, theirs = np.array([record["zipfit"] for record in run.records]), np.array(GOLDEN["similarities"][str(level)])
    assert within.count(False) == 1
    np.testing.assert_allclose(found[within], theirs[within], rtol=0, atol=1e-12)


def test_ncd_of_a_text_beyond_deflate_s_reach_is_the_mean_of_its_windows():
    model = ZipFit("ncd", 6).fit(TARGET)
    text = noise(1, 45_000).encode()[:45_000]
    parts = [text[:32_768], text[-32_768:]]
    expected = []
    for part in parts:
        alone, known = len(gzip.compress(part, 6)), [len(gzip.compress(t, 6)) for t in sorted(TARGET)]
        joint = [len(gzip.compress(part + t, 6)) for t in sorted(TARGET)]
        expected.append(np.mean([1 - (j - min(alone, c)) / max(alone, c) for j, c in zip(joint, known, strict=True)]))
    assert model._similarities([text])[0] == pytest.approx(np.mean(expected), rel=1e-12)
    good = " ".join(random.Random(4).choices(COOKING, k=8000)).encode()[:32_768]
    bad = [noise(number, 32_768).encode()[:32_768] for number in range(3)]
    first, last = (model._similarities([b"".join(each)])[0] for each in ([good, *bad], [*bad, good]))
    assert first == pytest.approx(last)


@pytest.mark.parametrize("level", range(1, 10))
def test_sizes_are_those_of_gzip_at_every_level(level):
    texts = [b"", b"x", *POOL[:6], noise(1, 40_000).encode(), b" ".join(POOL)]
    for text in texts:
        alone, joint = compression.joint_sizes(text, TARGET, level)
        assert alone == len(gzip.compress(text, level)) == compression.compressed_size(text, level)
        assert joint.tolist() == [len(gzip.compress(text + target, level)) for target in TARGET]
    assert compression.sizes_given(b"", TARGET, level).tolist() == [len(gzip.compress(t, level)) for t in TARGET]


def test_the_exact_score_is_what_its_definition_says(dselect, tmp_path):
    write_records(tmp_path / "t.jsonl", make_target(8))
    long = " ".join(record["text"] for record in make_pool(40, seed=3))
    records = [*make_pool(60), {"text": long}, {"text": "garlic"}, {"text": "é"}, {"text": ""}]
    run = ["zipfit", "-t", "t.jsonl", "--compressor", "gzip:6", "--save", "m", "-o", "out.jsonl"]
    dselect(*run, stdin=lines(records))
    model = ZipFit.load(str(tmp_path / "m"))
    assert len(long) > 2 * WINDOW
    assert model.lengths_.tolist() == [16, 64, 256]  # few texts of this pool are longer
    scored = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    for record in [*scored[:3], *scored[-4:-1]]:
        assert record["zipfit"] == pytest.approx(measured(model, record["text"].encode()), rel=1e-9)
    assert scored[-1]["zipfit"] == 0


@pytest.mark.parametrize("level", [None, 6])
def test_a_long_text_is_scored_in_all_its_parts(level):
    model = ZipFit(level=level).fit(TARGET, POOL)
    good = " ".join(random.Random(4).choices(COOKING, k=800)).encode()[:WINDOW]
    bad = [noise(number, WINDOW).encode() for number in range(20)]
    first, last, none = (model._scores([b"".join(parts)])[0] for parts in ([good, *bad], [*bad, good], [*bad, bad[0]]))
    assert first == pytest.approx(last)
    assert first > none
    assert none < model._scores([good])[0] / 20 < first + 1


def test_what_is_counted_ranks_texts_as_gzip_does():
    real, counted = (ZipFit(level=level).fit(TARGET, POOL)._scores(POOL) for level in (6, None))
    assert spearman(real, counted) > 0.9
    sizes = compression.counted_sizes([*POOL, b""], compression.parse(TARGET))
    exact = np.array([compression.sizes_given(text, TARGET, 6) for text in [*POOL, b""]])
    assert (abs(sizes / exact - 1) < 0.2).all()
    itself = compression.counted_sizes(TARGET, compression.parse(TARGET))
    assert (itself.argmin(axis=0) == np.arange(len(TARGET))).all()


def test_what_is_counted_does_not_depend_on_the_company():
    parsed = compression.parse(TARGET)
    together = compression.counted_sizes(POOL, parsed)
    assert (together[7] == compression.counted_sizes([POOL[7]], parsed)[0]).all()
    alone = compression.counted_sizes(POOL, compression.parse(TARGET[3:4]))
    assert (together[:, 3] == alone[:, 0]).all()


@pytest.mark.parametrize("name", ["humaneval", "gsm8k_test", "proofnet_valid", "pubmedqa"])
def test_on_real_texts_what_is_counted_ranks_as_gzip_and_length_does_not(name, shared):
    from dselect.records.decompression import chunks
    from dselect.records.sources import discover

    def texts(path, step):
        found = b"".join(chunks(discover([str(path)])[0])).split(b"\n")[:-1:step]
        return [text for line in found if (text := json.loads(line)["text"].encode())]

    target = [text[:LONGEST] for text in texts(shared / "targets" / f"{name}.jsonl.zst", 20)][:12]
    pool = [text for path in sorted((shared / "pool").glob("*.zst")) for text in texts(path, 150)]
    cut = [text[:WINDOW] for text in pool]
    real, counted = (ZipFit(level=level).fit(target, cut)._scores(cut) for level in (6, None))
    assert spearman(real, counted) > 0.95
    sizes = np.array([float(len(text)) for text in pool])
    assert abs(spearman(ZipFit().fit(target, cut)._scores(pool), sizes)) < 0.35


def test_no_length_wins_by_itself_but_by_the_paper_s_distance(dselect, target):
    draw = random.Random(3)
    records = [{"text": " ".join(draw.choices(COOKING, k=draw.choice([8, 40, 200, 1000])))} for _ in range(200)]
    found = {}
    for score in ("gain", "ncd"):
        run = dselect("zipfit", "-t", target, "--score", score, "--json-summary", stdin=lines(records))
        found[score] = run.summary["spread"]["zipfit"]["rank_correlation_with_length"]
    assert abs(found["gain"]) < 0.3
    assert found["ncd"] < -0.5


def test_a_seeded_sample_of_the_target_is_compared_with_and_said(dselect, pool, tmp_path):
    for number, records in enumerate((make_target(90)[:50], make_target(90)[50:])):
        write_records(tmp_path / f"t{number}.jsonl", records)
    run = ["zipfit", pool, "-t", "t0.jsonl", "-t", "t1.jsonl", "--json-summary", "--save"]
    first = dselect(*run, "m0").summary
    assert (first["compared_with"], first["target_documents"]) == (64, 90)
    dselect("zipfit", pool, "-t", "t1.jsonl", "-t", "t0.jsonl", "--save", "m1")
    dselect(*run, "m2", "--seed", 1)
    dselect(*run, "m3", "--target-sample", 1000)
    models = [ZipFit.load(str(tmp_path / f"m{number}")).targets_ for number in range(4)]
    assert models[0] == models[1]
    assert models[0] != models[2]
    assert [len(model) for model in models] == [64, 64, 64, 90]
    assert sorted(models[3]) == models[3] == sorted(record["text"].encode() for record in make_target(90))
    said = dselect("zipfit", pool, "-t", "t0.jsonl", "--target-sample", 7, "--keep", 1).stderr
    assert "7 documents of the target compared with; 50 documents in the target" in said
    assert "rank correlation of zipfit with length" in said


def test_what_cannot_be_measured_is_refused_with_the_reason(dselect, pool, target, tmp_path):
    zero = dselect("zipfit", pool, "-t", target, "--compressor", "gzip:0", status=2).stderr
    assert "gzip level 0 stores without compressing" in zero
    for options, message in (
        (["-t", target, "--compressor", "gzip:10"], "gzip:1 to gzip:9"),
        (["-t", target, "--compressor", "lz4"], "'lz4'"),
        (["-t", target, "--score", "ncd", "--compressor", "fast"], "--compressor gzip:6"),
        (["--model", "m", "--score", "ncd"], "--score is for fitting"),
        (["--model", "m", "-t", target], "needs --target or --model, and not both"),
        ([], "needs --target or --model, and not both"),
    ):
        assert message in dselect("zipfit", pool, *options, status=2).stderr
    write_records(tmp_path / "empty.jsonl", [{"text": ""}])
    assert "no text" in dselect("zipfit", pool, "-t", "empty.jsonl", status=1).stderr


def test_a_model_of_another_zlib_warns_and_an_unsound_one_is_refused(dselect, pool, tmp_path):
    model = ZipFit(level=6).fit(TARGET, POOL)
    (tmp_path / "good").write_bytes(model.to_bytes())
    assert dselect("zipfit", pool, "--model", "good", "-q").stderr == ""
    settings, arrays = tables.load(str(tmp_path / "good"), "zipfit")

    def file(changed=None, **changes):
        kept = {name: array for name, array in {**arrays, **changes}.items() if array is not None}
        return save(kept, metadata={"dselect": json.dumps({"model": "zipfit", **settings, **(changed or {})})})

    (tmp_path / "old").write_bytes(file({"zlib": "1.3.1.zlib-ng/\x1b[31m"}))
    warned = dselect("zipfit", pool, "--model", "old", "-q").stderr
    assert "old: fitted with zlib 1.3.1.zlib-ng/?[31m, this is" in warned
    counted = ZipFit().fit(TARGET, POOL).to_bytes()
    (tmp_path / "counted").write_bytes(counted.replace(compression.build().encode(), b"x" * len(compression.build())))
    assert dselect("zipfit", pool, "--model", "counted", "-q").stderr == ""  # nothing of it depends on zlib
    ends = arrays["ends"]
    strangers = {
        "no safetensors": b"x",
        "another model": tables.to_bytes("dsir", {}, {"x": ends}),
        "no targets": file(targets=None),
        "another score": file({"score": "mean"}),
        "level 0": file({"level": 0}),
        "level true": file({"level": True}),
        "a level in words": file({"level": "6"}),
        "ncd without gzip": file({"score": "ncd", "level": None}),
        "a build of no name": file({"zlib": None}),
        "words": file({"min_words": "3"}),
        "ends beyond": file(ends=ends + 1),
        "an empty target": file(ends=np.concatenate([ends[:1], ends])),
        "ends back": file(ends=ends[::-1].copy()),
        "ends of another type": file(ends=ends.astype(np.float64)),
        "no documents": file(ends=ends[:0], targets=arrays["targets"][:0]),
        "a long target": file(targets=np.zeros(LONGEST + 1, np.uint8), ends=np.array([LONGEST + 1])),
        "lengths in no order": file(lengths=arrays["lengths"][::-1].copy()),
        "a length of nothing": file(lengths=arrays["lengths"] * 0),
        "fewer means": file(means=arrays["means"][1:]),
        "means that are none": file(means=arrays["means"] * np.nan),
        "no deviation": file(deviations=arrays["deviations"] * 0),
    }
    for what, data in strangers.items():
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(Exception, match="bad: ") as refused:
            ZipFit.load(str(tmp_path / "bad"))
        assert type(refused.value).__name__ == "DselectError", what
    failed = dselect("zipfit", pool, "--model", "bad", status=1)
    assert failed.stderr.startswith("dselect: bad: ")
    assert failed.stderr.count("\n") == 1


def test_on_real_text_the_selection_is_of_the_target_s_kind(dselect, shared):
    domains = ("code_python", "code_javascript", "kids_stories", "recipes", "speeches")
    pool = [shared / "pool" / f"{domain}.jsonl.zst" for domain in domains]
    kept = dselect("zipfit", *pool, "-t", shared / "targets" / "humaneval.jsonl.zst", "--keep", "1MB").records
    sizes = {True: 0, False: 0}
    for record in kept:
        sizes[record["source"] == "code_python"] += len(record["text"].encode())
    assert sizes[True] / sum(sizes.values()) > 0.8
