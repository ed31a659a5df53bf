import csv
import json
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dselect import mixing, refinement
from dselect.commands import kmeans as command
from dselect.errors import DselectError
from dselect.models.kmeans import Clusters
from dselect.refinement import LossDrops, Round
from tests.commands.test_embed import batch_of
from tests.conftest import COOKING, DSELECT, lines, make_pool, make_target, read_bytes, read_records, write_records

ADDED = ("kmeans", "kmeans_cluster")


def bare(records):
    return [{name: value for name, value in record.items() if name not in ADDED} for record in records]


def sources(records):
    """Return, for each cluster, the kinds of text in it."""
    found = {}
    for record in records:
        found.setdefault(record["kmeans_cluster"], set()).add(record["source"])
    return found


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """Cluster the pool into three, once for all tests."""
    folder = tmp_path_factory.mktemp("clustered")
    write_records(folder / "pool.jsonl.zst", make_pool())
    command = ["kmeans", "pool.jsonl.zst", "--clusters", "3", "--restarts", "3"]
    output = ["--save", "c.kmeans", "-o", "clustered.jsonl.zst"]
    done = subprocess.run([*DSELECT, *command, *output], cwd=folder, capture_output=True, text=True, check=True)
    return folder, done.stderr


@pytest.fixture
def clustered(once, tmp_path):
    """Put the clustered pool and the model into the test's folder."""
    for name in ("c.kmeans", "clustered.jsonl.zst"):
        shutil.copy(once[0] / name, tmp_path / name)
    return tmp_path / "clustered.jsonl.zst"


def test_kinds_of_text_become_clusters_and_records_pass_as_they_are(once, clustered):
    records = read_records(clustered)
    assert bare(records) == make_pool()
    assert sorted(map(sorted, sources(records).values())) == [["code"], ["cooking"], ["law"]]
    assert all(type(r["kmeans_cluster"]) is int and -2 < r["kmeans"] <= 0 for r in records)
    table = once[1].split("\n")
    assert "words that mark it" in table[0]
    assert len([row for row in table if row.endswith(" 100")]) == 3
    assert any(set(row.split()[:3]) <= set(COOKING) for row in table[2:5])  # a person sees words
    assert "3 clusters, fitted on 300 of 300" in table[5]


def test_jobs_pipes_and_shards_change_nothing(dselect, pool, clustered, tmp_path):
    dselect("kmeans", pool, "--clusters", 3, "--restarts", 3, "-j", 3, "--save", "again", "-o", "again.jsonl.zst")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "c.kmeans").read_bytes()
    assert (tmp_path / "again.jsonl.zst").read_bytes() == clustered.read_bytes()
    piped = dselect("kmeans", "--clusters", 3, "--restarts", 3, stdin=read_bytes(pool)).stdout
    assert piped == read_bytes(clustered)
    records = make_pool()
    for shard in (0, 1, 2):
        write_records(tmp_path / "shards" / f"{shard}.jsonl", records[shard * 100 : shard * 100 + 100])
    names = [f"shards/{shard}.jsonl" for shard in (2, 0, 1)]
    shuffled = dselect("kmeans", *names, "--clusters", 3, "--restarts", 3).stdout
    assert sorted(shuffled.split(b"\n")) == sorted(piped.split(b"\n"))
    assert dselect("kmeans", pool, "--model", "c.kmeans").stdout == piped


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (["--keep", "10%"], []),
        (["--keep", "5kB", "--quota", "equal", "--order", "nearest"], ["--by", "kmeans"]),
        (["--keep", "31", "--order", "farthest"], ["--by=-kmeans"]),
        (["--keep", "31", "--by", "token_count", "--sample", "--scale", "none", "--temperature", "9"], []),
        (["--keep", "9", "--quota", "w.json", "--seed", "5", "--unique"], []),
    ],
    ids=["random", "nearest", "farthest", "kMQ", "weights"],
)
def test_keep_is_what_select_within_the_clusters_keeps(mine, theirs, dselect, pool, clustered, tmp_path):
    (tmp_path / "w.json").write_text('{"0": 3, "2": 1}')
    kept = dselect("kmeans", pool, "--model", "c.kmeans", *mine).stdout
    shared = [option for option in mine if option not in ("--order", "nearest", "farthest")]
    assert kept == dselect("select", clustered, "--within", "kmeans_cluster", *shared, *theirs).stdout
    assert kept
    if not theirs:  # where the fields are there already, as they are, nothing changes
        assert kept == dselect("kmeans", clustered, "--model", "c.kmeans", *mine).stdout


def test_fields_of_other_clusters_are_refused_or_replaced(dselect, clustered, tmp_path):
    write_records(tmp_path / "old.jsonl", [{**read_records(clustered)[0], "kmeans_cluster": 77}])
    options = ["kmeans", "old.jsonl", "--model", "c.kmeans", "--keep", 1]
    assert 'old.jsonl:1: the record has a field "kmeans_cluster" already' in dselect(*options, status=1).stderr
    assert dselect(*options, "--overwrite").records == read_records(clustered)[:1]
    assert [r["kmeans_cluster"] for r in dselect(*options, "--as", "other").records] == [77]


def test_stored_vectors_stand_for_encoded_ones(dselect, pool, clustered, tmp_path):
    dselect("embed", pool, "-o", "v/")
    fit = ["--clusters", 3, "--restarts", 3, "--save", "s.kmeans"]
    stored = dselect("kmeans", pool, "--vectors", "v", *fit, "-o", "-")
    assert stored.stdout == read_bytes(clustered)
    assert dselect("kmeans", pool, "--vectors", "v", "--model", "s.kmeans", "-j", 2).stdout == stored.stdout
    assert "--vectors DIR" in dselect("kmeans", pool, "--model", "s.kmeans", status=2).stderr


def test_near_duplicates_of_a_cluster_leave_their_best(dselect, tmp_path, clustered):
    records = make_pool(60)
    twins = [{**record, "id": f"twin {i}", "token_count": 1000 - i} for i, record in enumerate(records[:20])]
    write_records(tmp_path / "twins.jsonl", [*records, *twins])
    run = dselect(
        "kmeans", "twins.jsonl", "--model", "c.kmeans", "--dedup", 0.999999, "--by", "token_count", "--json-summary"
    )
    kept = {record["id"] for record in run.records}
    assert run.summary["near_duplicates"] == 80 - len(kept) >= 20
    assert {twin["id"] for twin in twins} <= kept
    assert not kept & {record["id"] for record in records[:20]}
    again = dselect("kmeans", "twins.jsonl", "--model", "c.kmeans", "--dedup", 0.999999, "--keep", 30, "--json-summary")
    assert again.summary["kept"] == 30
    assert len({record["text"] for record in again.records}) == 30


def test_near_duplicates_are_those_of_semdedup():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(80, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    labels, order = random.integers(0, 3, 80), random.permutation(80)

    fixed = SimpleNamespace(spool_folder=None, map=lambda *_: [(0, vectors.tobytes())])
    source = SimpleNamespace(dimension=3)
    among = order[:70]  # ten may not be picked anyway
    found = command.near_duplicates(fixed, source, labels, among, 0.95)
    for cluster in range(3):
        members = [i for i in among.tolist() if labels[i] == cluster]
        cosines = vectors[members] @ vectors[members].T
        expected = (np.triu(cosines, 1) > 0.95).any(axis=0)  # their code: the largest above the diagonal
        assert found[members].tolist() == expected.tolist()
    assert not found[order[70:]].any()


def test_auto_takes_the_best_silhouette(dselect, pool):
    summary = dselect("kmeans", pool, "--clusters", "auto", "--json-summary").summary
    assert set(summary["silhouettes"]) == {"4", "8", "16"}
    best = max(summary["silhouettes"], key=lambda size: summary["silhouettes"][size])
    assert summary["clusters"] + summary["empty_clusters"] == int(best)


def test_every_cluster_with_a_share_is_covered_and_totals_are_exact(dselect, pool):
    for quota in ("equal", "proportional"):
        run = dselect("kmeans", pool, "--clusters", 20, "--keep", 45, "--quota", quota, "--json-summary")
        rows = run.summary["by_cluster"]
        assert sum(row["kept"] for row in rows) == run.summary["kept"] == 45
        due = {row["cluster"]: 45 / len(rows) if quota == "equal" else 45 * row["records"] / 300 for row in rows}
        full = [row for row in rows if row["kept"] == row["records"]]
        if not full:  # nothing was redistributed
            assert all(abs(row["kept"] - due[row["cluster"]]) < 1 for row in rows)
        assert all(row["kept"] for row in rows if due[row["cluster"]] >= 1)


def test_gains_move_the_budget_and_earlier_picks_are_not_made_again(dselect, clustered, tmp_path):
    options = ["kmeans", clustered, "--model", "c.kmeans", "--json-summary"]
    first = dselect(*options, "--keep", 30, "--quota", "equal", "-o", "one.jsonl").summary
    assert [row["kept"] for row in first["by_cluster"]] == [10, 10, 10]
    (tmp_path / "gains.csv").write_text("cluster,gain\n0,1.0\n1,0.0\n")  # of the third nothing is known
    run = dselect(
        *options, "--gains", "gains.csv", "--gain-temperature", 1, "--floor", 0, "--keep", 30, "--exclude", "one.jsonl",
        "--log", "log.csv", "-o", "two.jsonl",
    ).summary  # fmt: skip
    one, two = ({r["id"] for r in read_records(tmp_path / name)} for name in ("one.jsonl", "two.jsonl"))
    assert (len(two), len(one & two), run["excluded"]) == (30, 0, 30)
    weights = np.exp([1, 0, 0.5]) / np.exp([1, 0, 0.5]).sum()
    kept = {row["cluster"]: row["kept"] for row in run["by_cluster"]}
    assert [kept[cluster] for cluster in range(3)] == mixing.budgets(weights.tolist(), 30)
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["round"] for row in rows] == ["1"] * 3 + ["2"] * 3
    assert [row["gain"] for row in rows] == ["1.0", "0.0", "", "", "", ""]
    assert np.allclose([float(row["weight"]) for row in rows], [1 / 3] * 3 + weights.tolist())
    twice = dselect(*options, "--gains", "gains.csv", "--gains", "gains.csv", "--keep", 30, "-o", "three.jsonl").summary
    assert {row["cluster"]: row["kept"] for row in twice["by_cluster"]}[0] > kept[0]


def test_rounds_spend_the_whole_budget_and_follow_what_helps_the_target(dselect, clustered, target, tmp_path):
    run = dselect(
        "kmeans", clustered, "--model", "c.kmeans", "--keep", 61, "--gain", f"lm:{target}", "--rounds", 3,
        "--log", "log.csv", "--json-summary", "-o", "picked.jsonl",
    ).summary  # fmt: skip
    picked = read_records(tmp_path / "picked.jsonl")
    assert len(picked) == len({record["id"] for record in picked}) == run["kept"] == run["asked"] == 61
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["round"] for row in rows] == ["1"] * 3 + ["2"] * 3 + ["3"] * 3
    kinds = {record["kmeans_cluster"]: record["source"] for record in picked}
    cooking = next(cluster for cluster, kind in kinds.items() if kind == "cooking")
    weights = [float(row["weight"]) for row in rows if int(row["cluster"]) == cooking]
    assert weights[0] < weights[1] < weights[2]
    assert run["target_losses"] == sorted(run["target_losses"], reverse=True)
    counts = [sum(record["source"] == kind for record in picked) for kind in ("cooking", "code", "law")]
    assert counts[0] > 30


PAIRS = st.lists(st.tuples(st.floats(0.01, 1), st.floats(-50, 50)), min_size=1, max_size=9)


@given(PAIRS, st.floats(0.01, 9), st.floats(0, 1))
def test_refined_weights_are_shares_and_none_is_below_the_floor(pairs, temperature, floor):
    total = sum(weight for weight, _ in pairs)
    weights, gains = [w / total for w, _ in pairs], [gain for _, gain in pairs]
    found = mixing.refined(weights, gains, temperature, floor)
    assert sum(found) == pytest.approx(1)
    assert min(found) >= floor / len(pairs) - 1e-12
    plain = np.array(weights) * np.exp((np.array(gains) - max(gains)) / temperature)
    assert np.allclose(found, floor / len(pairs) + (1 - floor) * plain / plain.sum())


def test_unknown_gains_count_as_the_mean_and_equal_ones_move_nothing():
    nan = float("nan")
    done = refinement.after([0.25] * 4, [1.0, 3.0, nan, nan], None)
    assert done.temperature == 1.0  # the standard deviation
    after = refinement.following(done, 0.0)
    assert after[2] == after[3]
    assert after[1] / after[2] == pytest.approx(np.e)
    for gains in ([2.0] * 4, [nan] * 4):
        weights = [0.1, 0.2, 0.3, 0.4]
        assert refinement.following(refinement.after(weights, gains, None), 0.0) == pytest.approx(weights)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no gains"),
        ("a,b\n1,2\n", "no gains"),
        ("cluster,gain\n3,1\n", "gains.csv:2: no cluster 3; there are 0 to 2"),
        ("cluster,gain\n0,1\n0,2\n", "gains.csv:3: cluster 0 is given twice"),
        ("cluster,gain\n0,inf\n", "no finite gain"),
        ("cluster,gain\n0,x\n", "not a cluster and its gain"),
    ],
)
def test_gains_that_cannot_be_are_refused(text, said, tmp_path):
    (tmp_path / "gains.csv").write_text(text)
    with pytest.raises(DselectError) as error:
        refinement.read_gains(str(tmp_path / "gains.csv"), 3)
    assert said in str(error.value)


def test_the_log_holds_every_round():
    log = refinement.log_of([Round([0.5, 0.5], [1.0, float("nan")], 2.0), Round([0.7, 0.3])], [["a", "b"], []])
    assert log.decode().split() == [
        *("round,cluster,words,weight,gain,temperature", "1,0,a", "b,0.5,1.0,2.0", "1,1,,0.5,,2.0"),
        *("2,0,a", "b,0.7,,", "2,1,,0.3,,"),
    ]


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ([], 2, "needs --clusters or --model, and not both"),
        (["--clusters", "many"], 2, "a number from 1, or auto"),
        (["--clusters", "301"], 1, "300 records cannot make 301 clusters"),
        (["--clusters", "3", "--keep", "9", "--within", "source"], 2, "dselect select --within source"),
        (["--clusters", "3", "--keep", "9", "--by", "kmeans_cluster"], 2, "is a label"),
        (["--clusters", "3", "--keep", "9", "--by", "nothing"], 1, 'no field "nothing"'),
        (["--clusters", "3", "--keep", "9", "--by", "token_count", "--order", "nearest"], 2, "leave one of them out"),
        (["--clusters", "3", "--gains", "pool.jsonl.zst"], 2, "--keep"),
        (["--clusters", "3", "--keep", "9", "--rounds", "2"], 2, "--rounds is of --gain"),
        (["--clusters", "3", "--keep", "9", "--gain", "x"], 2, "--gain lm:FILE"),
        (["--clusters", "3", "--keep", "9", "--log", "x"], 2, "--gains FILE"),
        (["--clusters", "3", "--exclude", "pool.jsonl.zst"], 2, "--keep 10%"),
        (["--clusters", "3", "--above", "0.5"], 2, "--order nearest"),
        (["--clusters", "3", "--vectors", "v", "--encoder", "static:m"], 2, "leave it out"),
        (["--clusters", "3", "--vectors", "v"], 1, "no vectors in this folder"),
        (["--model", "pool.jsonl.zst"], 1, "not a readable model"),
        (["--model", "x", "--spherical"], 2, "for fitting"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(options, status, said, dselect, pool):
    failed = dselect("kmeans", "pool.jsonl.zst", *options, status=status).stderr
    assert said in failed
    assert failed.strip().count("\n") == 0


def test_an_empty_pool_makes_no_clusters_but_a_model_clusters_it(dselect, clustered, tmp_path):
    (tmp_path / "empty.jsonl").write_bytes(b"")
    assert "no records to fit an encoder on" in dselect("kmeans", "empty.jsonl", "--clusters", 3, status=1).stderr
    for options in ([], ["--keep", "10%"], ["--dedup", "0.9"]):
        assert dselect("kmeans", "empty.jsonl", "--model", "c.kmeans", *options).stdout == b""


def test_odd_texts_get_a_cluster_and_a_finite_score(dselect, clustered):
    records = [{"text": ""}, {"text": " \n\t"}, {"text": "\0"}, {"text": "漢字 हिन्दी 🤖"}, {"text": "garlic " * 9999}]
    for record in dselect("kmeans", "--model", "c.kmeans", stdin=lines(records)).records:
        assert record["kmeans_cluster"] in (0, 1, 2)
        assert -2 < record["kmeans"] <= 0


def test_a_folder_of_shards_is_clustered_one_by_one_and_its_table_counts_all(dselect, clustered, tmp_path):
    for name in ("a", "b"):
        write_records(tmp_path / "in" / f"{name}.jsonl", make_pool(30, seed=ord(name)))
    options = ["kmeans", "in", "--model", "c.kmeans", "-o", "out/", "--json-summary"]
    assert sum(row["records"] for row in dselect(*options).summary["by_cluster"]) == 60
    write_records(tmp_path / "in" / "b.jsonl", make_pool(9, seed=3))
    again = dselect(*options).summary
    assert again["shards_done_before"] == 1
    assert sum(row["records"] for row in again["by_cluster"]) == 39
    dselect("kmeans", "in", "--model", "c.kmeans", "--attributes", "attributes")
    row = json.loads((tmp_path / "attributes" / "a.jsonl").read_text().split("\n")[0])
    assert set(row["attributes"]) == set(ADDED)


def test_loss_drops_favour_what_resembles_the_target():
    batch = batch_of(make_pool(60))
    pool = SimpleNamespace(map=lambda work, _: [(0, work(batch))])
    learner = LossDrops([record["text"].encode() for record in make_target(5)])
    labels = np.arange(60) % 3  # cooking, code, law
    gains = learner.after(pool, batch.ties, labels, 4)
    assert gains[0] > max(gains[1], gains[2])
    assert np.isnan(gains[3])


def test_a_model_of_another_dimension_is_refused(dselect, pool, clustered, tmp_path):
    dselect("embed", pool, "-o", "v/", "--dimension", 5)
    assert "vectors of 5 numbers" in dselect("kmeans", pool, "--vectors", "v", "--model", "c.kmeans", status=1).stderr
    assert len(Clusters().fit(np.eye(3, dtype=np.float32), 3, 0)) == 3
