"""A rater learns from judgments what is the better text, and scores a text the same in any company."""

import json
import random

import numpy as np
import pytest

from dselect.cli import app
from dselect.commands.qurating import open_rater
from dselect.errors import DselectError
from dselect.judging.judgments import Comparisons, Judgment, Labels, read
from dselect.judging.rating import HeldOut, choose, folds_of, learn, split
from dselect.kernels.sparse import Rows, beside, commonness, count_bags, scaled, score_bags
from dselect.kernels.style import NAMES, style_statistics
from dselect.models.rater import STATISTICS, Counted, LinearRater, Settings, View, certainty, statistics
from tests.conftest import COOKING, LAW, make_pool, read_bytes, write_records

ODD = ["", " \n\t", "\u0000", "漢字。हिन्दी 🤖!", "a" * 5000, "İΣ. " * 700, 'x.y?z "Q" (it\'s) — no; 3.5\n\n- b…']


def judged(count=400, seed=1, criterion="taste", better="cooking"):
    """Of two texts of a pool the one of the better kind wins; of two of a kind, it is undecided."""
    random_ = random.Random(seed)
    records = make_pool(90, seed=7)
    found = []
    for _ in range(count):
        a, b = random_.sample(records, 2)
        p = 0.5 + 0.4 * ((b["source"] == better) - (a["source"] == better))
        found.append({"id_a": a["id"], "id_b": b["id"], "text_a": a["text"], "text_b": b["text"],
                      "criterion": criterion, "p_b": p, "votes": 10})  # fmt: skip
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Lay out a pool, judgments by one criterion and by two, and a rater fitted to the first."""
    folder = tmp_path_factory.mktemp("qurating")
    write_records(folder / "pool.jsonl.zst", [*make_pool(), *({"text": text} for text in ODD)])
    write_records(folder / "j.jsonl.zst", judged())
    write_records(folder / "two.jsonl", [*judged(200), *judged(200, 2, "law", "law")])
    found = read([str(folder / "j.jsonl.zst")])["taste"]
    (folder / "rater").write_bytes(learn({"taste": Comparisons.of(found)}, Labels(), 0.01, 0)[0].to_bytes())
    return folder


@pytest.fixture
def run(dselect, folder):
    """Run qurating in the test's folder on the shared files."""

    def command(*arguments, pool="pool.jsonl.zst", **how):
        named = [folder / a if isinstance(a, str) and (folder / a).is_file() else a for a in arguments]
        return dselect("qurating", *([] if pool is None else [folder / pool]), *named, **how)

    return command


def test_what_was_judged_better_is_rated_better_and_how_well_is_said(run):
    done = run("--judgments", "j.jsonl.zst", "--save", "m", "-o", "-")
    assert len(done.records) == 300 + len(ODD)
    assert all(abs(record["qurating"]) < 1e3 for record in done.records)
    by_source = {}
    for record in done.records[:300]:
        by_source.setdefault(record["source"], []).append(record["qurating"])
    assert min(by_source["cooking"]) > max(by_source["law"] + by_source["code"])
    assert "of unseen texts 1.000 right" in done.stderr
    assert "predicted  judged  pairs" in done.stderr


def test_jobs_pipes_shards_and_a_saved_rater_give_the_same_bytes(run, dselect, folder, tmp_path):
    ridge = ["--ridge", 0.01]  # what would be chosen needs not be, three times
    one = run("--judgments", "j.jsonl.zst", *ridge, "--save", "m1", "-o", "a.jsonl.zst", "-j", 1)
    assert "saved to m1" in one.stderr
    run("--judgments", "j.jsonl.zst", *ridge, "--save", "m2", "-j", 3)
    assert (tmp_path / "m1").read_bytes() == (tmp_path / "m2").read_bytes()
    whole = read_bytes(tmp_path / "a.jsonl.zst")
    pool = read_bytes(folder / "pool.jsonl.zst")
    assert dselect("qurating", "--model", "m1", "-j", 2, stdin=pool).stdout == whole
    half = pool.split(b"\n")[150:]
    again = dselect("qurating", "--model", "m1", stdin=b"\n".join(half)).stdout
    assert again == b"\n".join(whole.split(b"\n")[150:])
    # the order of the judgments does not matter
    write_records(tmp_path / "turned.jsonl", judged()[::-1])
    run("--judgments", "turned.jsonl", *ridge, "--save", "m3", "-q")
    assert (tmp_path / "m3").read_bytes() == (tmp_path / "m1").read_bytes()


def test_several_criteria_go_to_fields_of_their_own_and_add_as_z_scores(run, tmp_path):
    options = ["--ridge", 0.01, "--min-words", 1, "-o", "-", "--json-summary"]
    done = run("--judgments", "two.jsonl", "--save", "m", *options)
    assert set(done.summary["learnt"]) == {"law", "taste"}
    scored = done.records
    both = np.array([[r["qurating_law"], r["qurating_taste"]] for r in scored if "qurating_law" in r])
    assert len(both) < len(scored)
    z = ((both - both.mean(axis=0)) / both.std(axis=0)).sum(axis=1)
    kept = run("--model", tmp_path / "m", "--min-words", 1, "--keep", 20).records
    assert sorted(r["qurating_law"] for r in kept) == pytest.approx(sorted(both[np.argsort(-z)[:20], 0]))
    alone = run("--model", tmp_path / "m", "--criterion", "law", "--min-words", 1).records
    assert [r.get("qurating") for r in alone] == [r.get("qurating_law") for r in scored]
    assert "there are: 'law', 'taste'" in run("--model", tmp_path / "m", "--criterion", "x", status=2).stderr


def test_selection_samples_within_domains_as_everywhere(run):
    options = ["--model", "rater", "--keep", 60, "--min-words", 1]
    best = run(*options).records
    assert {record["source"] for record in best} == {"cooking"}
    spread = run(*options, "--within", "source", "--sample", "--temperature", 2).records
    counts = {source: sum(r.get("source") == source for r in spread) for source in ("cooking", "code", "law")}
    assert all(19 <= count <= 20 for count in counts.values())


@pytest.mark.parametrize(
    ("options", "said", "status"),
    [
        ([], "needs --judgments or --model, and not both", 2),
        (["--judgments", "j.jsonl.zst", "--confidence", "0.9"], "lower --confidence", 1),
        (["--judgments", "j.jsonl.zst", "--criterion", "x"], "there are: 'taste'", 2),
        (["--model", "j.jsonl.zst"], "not a readable model", 1),
        (["--model", "j.jsonl.zst", "--ridge", "1"], "--ridge is for fitting", 2),
        (["--judgments", "pool.jsonl.zst"], "pool.jsonl.zst:1: no judgment", 1),
        (["--judgments", "j.jsonl.zst", "--plain-bt"], "takes no pool", 2),
        (["--judgments", "j.jsonl.zst", "--rater", "svm"], "linear, or hf:DIR", 2),
        (["--judgments", "j.jsonl.zst", "--epochs", "3"], "are for a transformer", 2),
        (["--judgments", "j.jsonl.zst", "--rater", "hf:x", "--ridge", "1"], "are for a linear rater", 2),
        (["--judgments", "j.jsonl.zst", "--plain-bt", "--keep", "3"], "writes all it rates", 2),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(options, said, status, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(DselectError) as refused:
        app(args=["qurating", "pool.jsonl.zst", *options, "-o", "never.jsonl"], prog_name="dselect")
    assert said in str(refused.value)
    assert refused.value.exit_code == status
    assert not (folder / "never.jsonl").exists()


def test_a_damaged_rater_is_refused(folder, tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(folder / "rater", framework="numpy") as file:
        header, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, change in (
        ("deviation", lambda a: a * 0),
        ("ngrams", lambda a: a[:9].copy()),
        ("offsets", lambda a: a * np.nan),
        ("dense", lambda a: a + 1e300),
    ):
        save_file({**arrays, name: change(arrays[name])}, tmp_path / "bad", metadata=header)
        with pytest.raises(DselectError, match="not a sound qurating model"):
            open_rater(str(tmp_path / "bad"), 1)
    (tmp_path / "short").write_bytes((folder / "rater").read_bytes()[:5000])
    with pytest.raises(DselectError, match="not a readable model"):
        open_rater(str(tmp_path / "short"), 1)


def test_plain_bt_rates_the_judged_texts(dselect, tmp_path):
    write_records(
        tmp_path / "j.jsonl",
        [
            {"id_a": 1, "id_b": 2, "text_a": "x", "text_b": "y", "p_b": 0.8},
            {"id_b": 3, "text_a": "y", "text_b": "z", "p_b": 0.5},
        ],
    )
    found = dselect("qurating", "--judgments", "j.jsonl", "--plain-bt", "-o", "-").records
    assert [(r.get("id"), r["text"], r["judgments"]) for r in found] == [(1, "x", 1), (2, "y", 2), (3, "z", 1)]
    gap = np.log(4)
    assert [r["qurating"] for r in found] == pytest.approx([-2 * gap / 3, gap / 3, gap / 3], abs=1e-5)


def test_plain_bt_refuses_groups_without_an_answer_and_names_them(dselect, tmp_path):
    pairs = [{"id_a": "k1", "text_a": "x", "text_b": "y", "p_b": 0.8}, {"text_a": "u", "text_b": "v", "p_b": 0.8},
             {"text_a": "v", "text_b": "w", "p_b": 0.8}]  # fmt: skip
    write_records(tmp_path / "apart.jsonl", pairs)
    failed = dselect("qurating", "--judgments", "apart.jsonl", "--plain-bt", "-o", "-", status=1).stderr
    assert "2 groups that were never compared" in failed
    assert "3 with 'u', 2 with 'k1'" in failed
    write_records(tmp_path / "won.jsonl", [pairs[1], dict(pairs[2], p_b=1)])
    failed = dselect("qurating", "--judgments", "won.jsonl", "--plain-bt", status=1).stderr
    assert "2 groups that compare one way only: one side always won: 2 with 'u', 1 with 'w'" in failed
    rated = dselect("qurating", "--judgments", "apart.jsonl", "--plain-bt", "--ridge", 0.01, "--json-summary")
    assert rated.summary["groups"] == 2
    assert len(rated.records) == 5


def test_no_text_is_learnt_from_and_tried_on():
    comparisons = Comparisons.of([Judgment(j["text_a"], j["text_b"], j["p_b"]) for j in judged(600)])
    counted = Counted.of(comparisons.texts)
    folds = folds_of(comparisons, 0)
    total = 0
    for fold in split(counted, comparisons, folds):
        assert len(fold.known.sizes) + len(fold.unseen.sizes) <= len(comparisons.texts)
        total += len(fold.test_p)
    sides = folds[comparisons.pairs]
    assert total == int((sides[:, 0] == sides[:, 1]).sum())
    # where only texts of a kind are compared, a kind stays together
    apart = [Judgment(f"{i}", f"{i}b", 1.0) for i in range(50)]
    folds = folds_of(Comparisons.of(apart), 0)
    pairs = Comparisons.of(apart).pairs
    assert (folds[pairs[:, 0]] == folds[pairs[:, 1]]).all()
    assert len(set(folds.tolist())) == 5


def test_noise_is_held_out_at_a_coin_s_cross_entropy():
    random_ = random.Random(4)
    texts = [" ".join(random_.choices([*COOKING, *LAW], k=60)) for _ in range(120)]
    noise = [Judgment(*random_.sample(texts, 2), p_b=float(random_.random() < 0.5)) for _ in range(800)]
    comparisons = Comparisons.of(noise)
    settings, held = choose(Counted.of(comparisons.texts), comparisons, 0)
    assert settings.ridge >= 1e-2
    assert held.loss == pytest.approx(np.log(2), abs=0.02)
    few = Comparisons.of(noise[:20])
    assert choose(Counted.of(few.texts), few, 0)[1] is None


def test_calibration_is_of_the_predicted_winner():
    held = HeldOut(np.array([0.1, -0.1, 4.0, -4.0]), np.array([0.5, 0.5, 1.0, 0.0]))
    assert held.accuracy == 1.0
    (low, half, two), (high, one, also_two) = held.calibration()
    assert (half, two, one, also_two) == (0.5, 2, 1.0, 2)
    assert low == pytest.approx(0.525, abs=1e-3)
    assert held.calibration_error == pytest.approx((low - 0.5 + 1 - high) / 2)
    assert HeldOut(np.array([1.0]), np.array([0.5])).accuracy is None


def test_a_row_s_product_is_the_score_and_alone_as_in_company():
    texts = [text.encode() for text in [*ODD, *(r["text"] for r in make_pool(20))]]
    counts = count_bags(texts, 2, 64)
    assert counts.values[: counts.starts[1]].sum() == 0
    words = [len(t.decode().split()) for t in texts[-20:]]
    totals = [counts.values[a:b].sum() for a, b in zip(counts.starts[-21:], counts.starts[-20:], strict=False)]
    assert totals == [2 * n - 1 for n in words]
    random_ = np.random.default_rng(0)
    idf, weights = random_.random(64) * (random_.random(64) < 0.8), random_.normal(size=(64, 2))
    found = score_bags(texts, 2, idf, weights)
    rows = scaled(counts, idf)
    for column in range(2):
        assert rows.times(weights[:, column].copy()) == pytest.approx(found[:, column], abs=1e-12)
    assert np.concatenate([score_bags([text], 2, idf, weights) for text in texts]).tolist() == found.tolist()
    norms = [np.square(rows.values[a:b]).sum() for a, b in zip(rows.starts, rows.starts[1:], strict=False) if b > a]
    assert norms == pytest.approx(np.ones(len(norms)))


def test_sparse_products_are_dense_ones():
    random_ = np.random.default_rng(1)
    dense = random_.normal(size=(7, 5)) * (random_.random((7, 5)) < 0.5)
    row, column = np.nonzero(dense)
    rows = Rows(np.searchsorted(row, np.arange(8)), column.astype(np.int32), dense[row, column], 5)
    wide = beside(rows, np.arange(14.0).reshape(7, 2))
    full = np.hstack([dense, np.arange(14.0).reshape(7, 2)])
    right, left = random_.normal(size=7), random_.normal(size=7)
    assert wide.times(right) == pytest.approx(full @ right)
    assert wide.transposed_times(left) == pytest.approx(full.T @ left)
    assert wide.take(np.array([4, 1])).times(right) == pytest.approx(full[[4, 1]] @ right)


def test_a_long_text_is_the_mean_of_its_windows_by_their_words():
    a, b = " ".join(COOKING * 40), " ".join(LAW * 4)  # 720 and 68 words
    words = f"{a} {b}".split()
    pieces = [" ".join(words[:512]), " ".join(words[512:])]
    texts = [r["text"] for r in make_pool(30)]
    pairs = np.array([[i, i + 1] for i in range(0, 30, 2)])
    rater = LinearRater(["x"]).fit(Counted.of(texts), [pairs], [np.ones(15)], [Settings()])
    sizes = np.array([512, len(words) - 512])
    plain = rater.rate([piece.encode() for piece in pieces])[:, 0] / certainty(sizes)
    expected = np.average(plain, weights=sizes) * certainty(sizes.sum())
    assert rater.rate([" ".join(words).encode()])[0, 0] == pytest.approx(expected, abs=1e-9)
    assert rater.rate([b"", b" \n"]).tolist() == [[0.0], [0.0]]


def test_a_design_s_products_are_those_of_rows_less_their_mean_times_what_is_sure():
    counted = Counted.of([r["text"] for r in make_pool(12)] + ["a " * 700])
    view, settings = View.of(counted), Settings(0.5, 0.2)
    design = view.design(counted, settings, own=True)
    rows = np.stack([design.rows.times(unit) for unit in np.eye(design.width)], axis=1)
    assert rows.mean(axis=0) == pytest.approx(design.centre, abs=1e-12)
    full = np.stack([(design.share * (design.owner == i)) @ rows for i in range(13)]) - design.centre
    full *= (counted.sizes / (counted.sizes + 30))[:, None]
    random_ = np.random.default_rng(0)
    right, left = random_.normal(size=design.width), random_.normal(size=13)
    assert design.times(right) == pytest.approx(full @ right)
    assert design.transposed_times(left) == pytest.approx(full.T @ left)


def test_statistics_are_what_their_names_say():
    text = 'The cat sat. It was on a Mat, wasn\'t it? Extraordinarily!\n("So" it goes; 42)'
    found = dict(zip(NAMES, style_statistics([text.encode()])[0].tolist(), strict=True))
    words = "The cat sat It was on a Mat wasn t it Extraordinarily So it goes 42".split()
    assert found["mean word length"] == pytest.approx(np.mean([len(w) for w in words]))
    assert found["deviation of word lengths"] == pytest.approx(np.std([len(w) for w in words]))
    assert found["log words a sentence"] == pytest.approx(np.log(1 + 16 / 4))
    assert found["log longest sentence"] == pytest.approx(np.log(1 + 8))
    assert found["words of 10 letters or more"] == 1 / 16
    assert found["capitals inside sentences"] == 1 / 16
    assert found["syllables a word"] == pytest.approx(
        (1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 6 + 1 + 1 + 1 + 1) / 16
    )
    for name, count in (("commas", 1), ("question marks", 1), ("exclamation marks", 1), ("brackets", 2),
                        ("quotation marks", 2), ("apostrophes", 1), ("colons and semicolons", 1)):  # fmt: skip
        assert found[name] == pytest.approx(count / 16), name
    assert found["digits"] == pytest.approx(2 / len(text))


def test_how_common_words_are_is_counted_without_the_text_itself():
    texts = [b"Garlic and salt", b"garlic garlic", b"salt, rare"]
    rows = count_bags(texts, 1, 1 << 18)
    having = np.bincount(rows.columns, minlength=1 << 18).astype(np.uint32)
    own = commonness(rows, having, (0, 1), own=True)
    assert own[1].tolist() == pytest.approx([np.log(2), np.log(2), 0, 1])
    assert own[0].tolist() == pytest.approx([2 * np.log(2) / 3, 2 * np.log(2) / 3, 1 / 3, 1])
    seen = commonness(count_bags([b"garlic pan pan", b""], 1, 1 << 18), having, (0, 1), own=False)
    assert seen[0].tolist() == pytest.approx([np.log(3) / 3, np.log(3) / 2, 2 / 3, 2 / 3])
    assert seen[1].tolist() == [0, 0, 0, 0]


def test_statistics_are_finite_and_the_same_alone_as_in_company():
    texts = [text.encode() for text in [*ODD, *(r["text"] for r in make_pool(10))]]
    found = statistics(texts)
    assert found.shape == (len(texts), len(STATISTICS))
    assert np.isfinite(found).all()
    assert np.concatenate([statistics([text]) for text in texts]).tolist() == found.tolist()


def test_a_summary_and_a_manifest_say_how_it_was_learnt(run, tmp_path):
    run("--judgments", "j.jsonl.zst", "--save", "m", "--ridge", 0.01, "-q")
    summary = json.loads((tmp_path / "m.manifest.json").read_text())["summary"]["learnt"]["taste"]
    assert summary["settings"]["ridge"] == 0.01
    assert summary["judgments"] == 400
    assert summary["used"] < 400
    assert summary["accuracy"] == 1.0


def test_a_field_that_is_there_is_refused_or_replaced(dselect, folder):
    old = b'{"text":"garlic","qurating":1}\n'
    command = ["qurating", "--model", folder / "rater"]
    assert "--overwrite" in dselect(*command, stdin=old, status=1).stderr
    assert dselect(*command, "--overwrite", stdin=old).stdout.startswith(b'{"text":"garlic","qurating":')


def test_vectors_of_an_encoder_are_learnt_from_and_kept_with_the_rater(run, dselect, folder, tmp_path):
    dselect("embed", folder / "pool.jsonl.zst", "--save", "words.encoder", "--dimension", 4, "-q")
    options = ["--encoder", "words.encoder", "--ridge", 0.01, "--save", "m", "-o", "-", "--json-summary"]
    done = run("--judgments", "j.jsonl.zst", *options)
    settings = done.summary["learnt"]["taste"]["settings"]
    assert set(settings) == {"ngrams", "statistics", "vectors", "ridge"}
    (tmp_path / "words.encoder").unlink()
    assert run("--model", tmp_path / "m", "-j", 2).stdout == done.stdout
    assert "--encoder FILE" in run("--judgments", "j.jsonl.zst", "--encoder", "hashed", status=2).stderr
