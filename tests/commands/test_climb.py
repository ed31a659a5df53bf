"""Searching mixtures: the target's domain is found, what was measured is kept, and no prediction goes unconfirmed."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from dselect.commands.climb import DomainOptions
from dselect.errors import DselectError, UsageError
from dselect.mixtures.mixture import Mixture
from dselect.mixtures.runs import read_runs
from tests.conftest import CODE, COOKING, DSELECT, LAW, long, make_pool, read_bytes, write_records

SMALL = ["--rounds", "8,4", "--budget", "20kB"]
LOSS = "import json, sys; w = json.load(open(sys.argv[1]))['weights']; print({})"


@pytest.fixture
def command(tmp_path):
    """Return the words of a command that measures a mixture by a formula in w."""

    def write(formula):
        (tmp_path / "loss.py").write_text(LOSS.format(formula))
        return f"{sys.executable} {tmp_path}/loss.py {{mixture}}"

    return write


def read(path):
    return json.loads(path.read_text())


def test_the_domain_that_the_target_is_of_gets_the_most_and_the_pool_is_sampled_as_mix_does_it(
    dselect, pool, target, tmp_path
):
    options = ["climb", pool, "--within", "source", "--target", target, *SMALL, "--keep", "60", "--json-summary"]
    run = dselect(*options, "--save", "m.json", "-o", "picked.jsonl")
    mixture = read(tmp_path / "m.json")
    assert mixture["within"] == "source"
    assert sum(mixture["weights"].values()) == pytest.approx(1)
    assert max(mixture["weights"], key=mixture["weights"].get) == "cooking"
    facts = run.summary
    assert facts["answer"] < facts["proportional"]
    assert facts["tried"] == 1 + 8 + 4
    assert facts["answer"] == min(facts["best_measured"], facts["confirmation"])
    assert facts["confirmed"] == (facts["confirmation"] <= facts["best_measured"])
    assert "epochs" in run.stderr
    log = [json.loads(line) for line in (tmp_path / "m.json.log").read_bytes().splitlines()]
    assert len(log) in (1 + 13, 1 + 14)  # the search, and every mixture; the one confirmed may have been tried
    told = [entry["losses"]["target.jsonl.zst"] for entry in log[1:]]
    assert min(told) == facts["answer"]
    picked = (tmp_path / "picked.jsonl").read_bytes()
    assert picked == dselect("mix", pool, "--weights", "m.json", "--keep", "60").stdout
    assert picked.count(b"\n") == facts["kept"] == 60
    assert picked.count(b'"cooking"') > 30
    assert dselect(*options, "--save", "m.json", "-o", "picked.jsonl").summary["up_to_date"]


def test_the_same_answer_for_any_jobs_from_a_pipe_and_from_shards(dselect, pool, target, tmp_path):
    records = make_pool()
    for shard in range(3):
        write_records(tmp_path / "in" / f"{shard}.jsonl", records[shard::3])
    options = ["--within", "source", "--target", target, *SMALL]
    for name, inputs, stdin in (("a", ["-j", 1], read_bytes(pool)), ("b", ["in", "-j", 2], b"")):
        dselect("climb", *inputs, *options, "--save", f"{name}.json", stdin=stdin)
    assert read(tmp_path / "a.json") == read(tmp_path / "b.json")


def test_a_rerun_goes_on_from_the_log_and_more_rounds_use_it(dselect, pool, target, tmp_path):
    options = ["climb", pool, "--within", "source", "--target", target, "--save", "m.json"]
    dselect(*options, *SMALL)
    once, log = read(tmp_path / "m.json"), (tmp_path / "m.json.log").read_bytes()
    (tmp_path / "m.json").unlink()
    kept = log.splitlines(keepends=True)[:6]
    (tmp_path / "m.json.log").write_bytes(b"".join(kept) + b'{"weights": {"coo')  # killed while it wrote
    dselect(*options, *SMALL)
    again = read(tmp_path / "m.json")
    assert again.pop("tried_before") == 5
    assert once.pop("tried_before") == 0
    assert again == once
    assert sorted((tmp_path / "m.json.log").read_bytes().splitlines()) == sorted(log.splitlines())
    more = dselect(*options, "--rounds", "8,4,4", "--budget", "20kB", "--json-summary").summary
    assert more["tried_before"] == len(log.splitlines()) - 1
    assert more["answer"] <= once["answer"]
    other = dselect(*options, *SMALL, "--seed", 3, status=1)
    assert "this log is of another search: seed was 0, is 3" in other.stderr
    (tmp_path / "m.json.log").write_text("what\n")
    assert "not a log of climb" in dselect(*options, *SMALL, "--seed", 3, status=1).stderr


def test_several_targets_are_averaged_with_their_weights(dselect, pool, target, tmp_path):
    law = [record for record in make_pool(90, seed=4) if record["source"] == "law"]
    write_records(tmp_path / "law.jsonl", law)
    options = ["climb", pool, "--within", "source", *SMALL, "--json-summary", "--save"]
    dselect(*options, "m.json", "--target", target, "--target", "4=law.jsonl")
    found = read(tmp_path / "m.json")["weights"]
    assert found["law"] > found["cooking"] > found["code"]
    assert "cannot read --target" in dselect(*options, "x.json", "--target", f"x={target}", status=2).stderr


def test_a_command_measures_and_accuracies_are_maximised(dselect, pool, command, tmp_path):
    options = ["climb", pool, "--within", "source", "--rounds", "6,3", "--save", "m.json"]
    accuracy = command("0.5 - (w['law'] - 0.7) ** 2")
    dselect(*options, "--proxy-command", accuracy, "--maximise", "-j", 3)
    mixture = read(tmp_path / "m.json")
    assert mixture["answer"] == pytest.approx(0.5, abs=0.01)
    assert mixture["weights"]["law"] == pytest.approx(0.7, abs=0.1)
    assert mixture["proportional"] < mixture["answer"]


def test_a_prediction_that_its_run_does_not_confirm_is_not_the_answer(dselect, pool, command, tmp_path):
    """Losses without any pattern: whatever is predicted, the best measured one stays."""
    noise = command("1 + hash(tuple(w.values())) % 1000 / 1000")
    run = dselect(
        "climb", pool, "--within", "source", "--rounds", "9", "--save", "m.json", "--proxy-command", noise,
        "--json-summary", env={"PYTHONHASHSEED": "0"},
    )  # fmt: skip
    facts, log = run.summary, (tmp_path / "m.json.log").read_text().splitlines()[1:]
    best = min(map(json.loads, log), key=lambda entry: entry["losses"]["loss"])
    assert facts["answer"] == best["losses"]["loss"]
    weights = {name: weight for name, weight in read(tmp_path / "m.json")["weights"].items() if weight}
    assert weights == best["weights"]


def test_a_command_that_fails_leaves_what_was_measured(dselect, pool, command, tmp_path):
    options = ["climb", pool, "--within", "source", "--rounds", "9", "--save", "m.json", "--retries", 0]
    fails = command("1.0 if w['law'] < 0.5 else [][0]")
    failed = dselect(*options, "--proxy-command", fails, status=1)
    assert "exit status 1: IndexError" in failed.stderr
    assert not (tmp_path / "m.json").exists()
    measured = len((tmp_path / "m.json.log").read_bytes().splitlines()) - 1
    assert measured
    (tmp_path / "loss.py").write_text(LOSS.format("1.0 + w['law']"))
    dselect(*options, "--proxy-command", fails)
    assert read(tmp_path / "m.json")["tried_before"] == measured


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_search_that_is_interrupted_leaves_no_command_behind(pool, tmp_path):
    from tests.conftest import children

    sleeps = f"{sys.executable} -c 'import time; time.sleep(60)' {{mixture}}"
    process = subprocess.Popen(
        [*DSELECT, "climb", pool, "--within", "source", "--proxy-command", sleeps, "--save", "m.json"],
        cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip

    def sleepers():
        return [pid for pid in children(process.pid) if _words(pid).startswith(b"-c\0import time")]

    until = time.monotonic() + 60
    while not (found := sleepers()) and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    until = time.monotonic() + 10
    while any(_words(pid) for pid in found) and time.monotonic() < until:
        time.sleep(0.1)
    assert found
    assert not any(_words(pid) for pid in found)


def _words(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().partition(b"\0")[2]
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("options", "status", "told"),
    [
        (["--within", "source"], 2, "either --target FILE"),
        (["--target", "target.jsonl.zst", "--rounds", "8,x"], 2, "cannot read --rounds"),
        (["--within", "source", "--target", "target.jsonl.zst", "-o", "x.jsonl"], 2, "--keep BUDGET"),
        (["--within", "source", "--target", "target.jsonl.zst", "--keep", "9MB"], 1, "more than 4 times the pool"),
        (["--within", "source", "--target", "gone.jsonl"], 1, "gone.jsonl"),
        (["--within", "source", "--target", "target.jsonl.zst", "--keep", "9", "-o", "x/"], 2, "one sample"),
        (["--runs", "r.csv"], 2, "it needs no pool"),
    ],
)
def test_what_cannot_be_searched_is_said_in_one_line(options, status, told, dselect, pool, target):
    failed = dselect("climb", pool, *options, status=status)
    assert told in failed.stderr
    assert failed.stderr.count("\n") == 1


def test_a_pool_of_one_domain_has_nothing_to_mix(dselect, target, tmp_path):
    write_records(tmp_path / "one.jsonl", [{"text": "x y z", "source": "a"}] * 9)
    failed = dselect("climb", "one.jsonl", "--within", "source", "--target", target, status=1)
    assert "nothing to mix" in failed.stderr
    assert "--loss the column" in dselect("climb", "--runs", "one.jsonl", status=2).stderr


def test_domains_are_made_of_clusters_and_the_mixture_carries_them(dselect, pool, target, tmp_path):
    """Three kinds of text, twelve clusters, four domains: each of one kind, and mix can tell them."""
    options = ["--clusters", 12, "--domains", 4, "--target", target, *SMALL, "--keep", "12kB", "--json-summary"]
    run = dselect("climb", pool, *options, "--save", "m.json")
    mixture = read(tmp_path / "m.json")
    assert len(mixture["weights"]) == 4
    kinds = {word: kind for kind, words in (("cooking", COOKING), ("code", CODE), ("law", LAW)) for word in words}
    named = {name: {kinds[word] for word in name.split()[1:]} for name in mixture["weights"]}
    assert all(len(found) == 1 for found in named.values())
    heaviest = max(mixture["weights"], key=mixture["weights"].get)
    assert named[heaviest] == {"cooking"}
    mixed = dselect("mix", pool, "--weights", "m.json", "--keep", "12kB").stdout
    assert mixed == run.stdout
    for name, value in (("groups", [99] * 12), ("groups", []), ("names", [1]), ("model", "AAAA"), ("model", None)):
        broken = read(tmp_path / "m.json")
        broken["clusters"][name] = value
        (tmp_path / "b.json").write_text(json.dumps(broken))
        with pytest.raises(DselectError, match="not a sound mixture"):
            Mixture.read(str(tmp_path / "b.json"))


def test_clusters_below_a_mean_are_dropped_and_one_large_domain_is_refused(dselect, tmp_path):
    """Five kinds of text, of equal size: those whose number is low are in no domain, and are never taken."""
    draw = random.Random(5)
    kinds = [["".join(draw.choices("abcdefghijklmnop", k=5)) for _ in range(12)] for _ in range(5)]
    records = [{"text": " ".join(draw.choices(kinds[i % 5], k=40)), "q": i % 5} for i in range(150)]
    path = write_records(tmp_path / "scored.jsonl", records)
    write_records(tmp_path / "t.jsonl", [{"text": " ".join(draw.choices(kinds[4], k=40))} for _ in range(5)])
    options = ["climb", path, "--clusters", 12, "--target", "t.jsonl", *SMALL]
    found = dselect(*options, "--prune-by", "q", "--prune-below", 1.5, "--domains", 3, "--keep", "9kB").records
    assert found
    assert {record["q"] for record in found} <= {2, 3, 4}
    assert "% of the bytes (more --domains" in dselect(*options, "--domains", 2, status=1).stderr
    high = ["--prune-by", "q", "--prune-below", 9]
    assert "0 of " in dselect(*options, *high, status=1).stderr
    with pytest.raises(UsageError, match="go together"):
        DomainOptions(clusters=5, prune_by="q").check()
    with pytest.raises(UsageError, match="drops clusters"):
        DomainOptions(within="source", prune_by="q", prune_below=1.0).check()


def test_clusters_are_merged_as_scipy_does_it():
    import numpy as np
    from scipy.cluster.hierarchy import cut_tree, linkage

    from dselect.mixtures.domains import merged

    centres = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    ours, theirs = merged(centres, 7), cut_tree(linkage(centres, "ward"), 7).ravel()
    assert len(set(zip(ours.tolist(), theirs.tolist(), strict=True))) == 7
    assert merged(centres[:3], 7).tolist() == [0, 1, 2]


def table(path, header, rows):
    path.write_text("\n".join([",".join(header), *(",".join(map(str, row)) for row in rows)]) + "\n")


def made_runs(count=40):
    draw = random.Random(1)
    rows = []
    for number in range(count):
        a, b, c = *sorted([draw.random(), draw.random()]), 1
        weights = [a, b - a, c - b]
        loss = 2 + (weights[0] - 0.2) ** 2 + (weights[1] - 0.5) ** 2
        rows.append([number, *(round(weight, 3) for weight in weights), loss, -loss])
    return rows


def test_runs_made_elsewhere_give_a_mixture_that_is_said_to_be_unconfirmed(dselect, tmp_path):
    rows = made_runs()
    table(tmp_path / "one.csv", ["index", "web", "code", "law", "loss"], [row[:5] for row in rows])
    run = dselect("climb", "--runs", "one.csv", "--loss", "loss", "--save", "one.json")
    assert "no run has confirmed it" in run.stderr
    weights = read(tmp_path / "one.json")["weights"]
    assert weights["web"] == pytest.approx(0.2, abs=0.05)
    assert weights["code"] == pytest.approx(0.5, abs=0.05)
    # the same from two files, joined by their first column, of accuracies, with weights
    table(tmp_path / "w.csv", ["run", "web", "code", "law"], [row[:4] for row in rows])
    table(tmp_path / "l.csv", ["run", "accuracy", "other"], [[row[0], row[5], 1] for row in rows[::-1]])
    two = ["climb", "--runs", "w.csv", "--runs", "l.csv", "--save", "two.json", "--maximise", "--predictor", "ridge"]
    dselect(*two, "--loss", "3=accuracy", "--loss", "1=other")
    assert read(tmp_path / "two.json")["predictor"] == "ridge"
    assert read(tmp_path / "two.json")["best_measured"] == pytest.approx(max(row[5] for row in rows) * 0.75 + 0.25)


@pytest.mark.parametrize(
    ("text", "loss", "told"),
    [
        ("a,b,loss\n0.5,0.5,1\n1,0,2\n", "los", 'no column "los"'),
        ("a,b,loss\n0.5,0.5,1\n1,0.5,2\n", "loss", "the weights of run 3 sum to 1.5"),
        ("a,b,loss\n0.5,x,1\n1,0,2\n", "loss", "'x' is not a number"),
        ("a,b,loss\n0.5,0.5,nan\n1,0,2\n", "loss", "'nan' is not a number"),
        ("a,b,loss\n0.5,0.5\n1,0,2\n", "loss", "runs.csv:2: 2 cells, not 3"),
        ("run,a,loss\n1,1,1\n1,1,2\n", "loss", "the run 1 a second time"),
        ("a,b,loss\n0.5,0.5,1\n", "loss", "fewer than two runs"),
        ("", "loss", "not a table of runs"),
    ],
)
def test_tables_that_are_no_runs_are_told_where(text, loss, told, tmp_path):
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(DselectError, match="runs") as failed:
        read_runs([str(tmp_path / "runs.csv")], [loss])
    assert told in str(failed.value)


@long
def test_a_transformer_measures_the_same_in_any_number_of_processes(dselect, target, tmp_path):
    pytest.importorskip("torch")
    write_records(tmp_path / "p.jsonl", make_pool(120))
    options = ["climb", "p.jsonl", "--within", "source", "--target", target, "--proxy", "transformer", "--rounds", "4"]
    for jobs in (1, 2):
        dselect(*options, "--steps", 60, "--budget", "20kB", "--save", f"{jobs}.json", "-j", jobs)
    one, two = read(tmp_path / "1.json"), read(tmp_path / "2.json")
    assert one == two
    assert one["answer"] < one["proportional"]


def test_without_torch_a_transformer_is_said_to_need_it(dselect, pool, target, tmp_path):
    (tmp_path / "hide" / "torch").mkdir(parents=True)
    (tmp_path / "hide" / "torch" / "__init__.py").write_text("raise ImportError('no torch')")
    failed = dselect(
        "climb", pool, "--within", "source", "--target", target, "--proxy", "transformer",
        status=1, env={"PYTHONPATH": str(tmp_path / "hide")},
    )  # fmt: skip
    assert "a transformer needs torch (pip install 'dselect[neural]')" in failed.stderr
