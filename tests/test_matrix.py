"""Every command that writes records, and every fit: the same bytes for any jobs, from a file, a pipe, or shards."""

import random
from itertools import pairwise

import pytest

from dselect.cli import summaries
from tests.conftest import long, make_pool, make_target, read_bytes, write_records

pytestmark = long

# What each command is run with; {} are files that `place` writes. Fits end in the option that names the model.
RECORDS = {
    "dsir": ["-t", "{target}"],
    "dsir kept": ["-t", "{target}", "--keep", "10%"],
    "dsir sampled": ["-t", "{target}", "--keep", "10%", "--sample", "--temperature", "2", "--within", "source"],
    "zipfit": ["-t", "{target}"],
    "contrast": ["-t", "{target}", "--order", "3"],
    "classify": ["--positive", "{target}", "--buckets", "1000", "--dim", "8"],
    "preselect": ["--ability", "{abilities}", "--strength-only"],
    "kmeans": ["--clusters", "4"],
    "kmeans kept": ["--clusters", "4", "--keep", "20%", "--quota", "equal", "--dedup", "0.99"],
    "qurating": ["--judgments", "{judgments}"],
    "rules": [],
    "tokens": ["--tokenizer", "words", "--overwrite"],
    "loss": ["--model", "x={model}"],
    "select": ["--keep", "20%"],
    "select by": ["--by", "loss_a", "--by=-loss_b", "--keep", "9kB", "--unique"],
    "decontaminate": ["--target", "{target}", "--words", "3", "--drop-above", "0.9"],
    "order": ["--by", "loss_a", "--folds", "3"],
    "judge": ["--pairs", "50", "--from-field", "loss_a"],
    "mix": ["--weights", "{weights}", "--within", "source", "--keep", "9kB"],
    "climb": ["--within", "source", "-t", "{target}", "--rounds", "4,2", "--keep", "9kB", "--order", "2"],
}
FITS = {
    "dsir": ["-t", "{target}", "--save"],
    "zipfit": ["-t", "{target}", "--save"],
    "contrast": ["-t", "{target}", "--order", "3", "--fit-on", "20%", "--save"],
    "classify": ["--positive", "{target}", "--buckets", "1000", "--dim", "8", "--save"],
    "kmeans": ["--clusters", "4", "--save"],
    "lm": ["--order", "3", "-o"],
    "climb": ["--within", "source", "-t", "{target}", "--rounds", "4,2", "--order", "2", "--budget", "9kB", "--save"],
}
OTHERS = {
    "check",
    "corpus",
    "diff",
    "embed",
    "eval",
    "merge",
    "report",
    "stats",
    "table",
}  # tables, folders, or no pool


def test_no_command_is_forgotten():
    assert {name.split()[0] for name in (*RECORDS, *FITS)} | OTHERS == set(summaries())


@pytest.fixture
def place(dselect, tmp_path):
    """Write the same pool as a file, as shards, and what the commands name."""
    chance = random.Random(7)
    records = [{**r, "loss_a": chance.random(), "loss_b": chance.random()} for r in make_pool(240)]
    write_records(tmp_path / "pool.jsonl.zst", records)
    for number, (first, last) in enumerate([(0, 70), (70, 71), (71, 160), (160, 240)]):
        write_records(tmp_path / "shards" / f"{number}.jsonl", records[first:last])
    write_records(tmp_path / "target.jsonl", make_target())
    (tmp_path / "abilities.csv").write_text("model,score\na,1\nb,2\n")
    (tmp_path / "weights.json").write_text('{"cooking": 2, "code": 1, "law": 0}')
    judged = [
        {"text_a": a["text"], "text_b": b["text"], "criterion": "cooking", "p_b": float(b["source"] == "cooking")}
        for a, b in pairwise(records)
        if "cooking" in (a["source"], b["source"])
    ]
    write_records(tmp_path / "judgments.jsonl", judged)
    dselect("lm", "target.jsonl", "--order", 2, "-o", "m.lm")
    return tmp_path


def arguments(given, place):
    named = {"target": "target.jsonl", "abilities": "abilities.csv", "judgments": "judgments.jsonl", "model": "m.lm"}
    return [word.format(weights="weights.json", **named) for word in given]


SHUFFLED = [f"shards/{number}.jsonl" for number in (2, 0, 3, 1)]


@pytest.mark.parametrize("name", RECORDS)
def test_records_are_the_same_however_the_work_is_divided(name, dselect, place):
    command = name.split()[0]
    options = arguments(RECORDS[name], place)
    one = dselect(command, "pool.jsonl.zst", *options, "-j", 1).stdout
    assert one
    for jobs in (2, 3):
        assert dselect(command, "pool.jsonl.zst", *options, "-j", jobs).stdout == one
    assert dselect(command, *options, stdin=read_bytes(place / "pool.jsonl.zst")).stdout == one
    assert dselect(command, "shards", *options, "-j", 2).stdout == one
    shuffled = dselect(command, *SHUFFLED, *options).stdout
    assert sorted(shuffled.split(b"\n")) == sorted(one.split(b"\n"))


@pytest.mark.parametrize("name", FITS)
def test_fits_are_the_same_however_the_work_is_divided_and_whatever_the_order(name, dselect, place):
    options = arguments(FITS[name], place)
    found = {}
    forms = {"file": ["pool.jsonl.zst"], "shards": ["shards"], "shuffled": SHUFFLED}
    for form, paths in forms.items():
        for jobs in (1, 3):
            dselect(name, *paths, *options, f"{form}{jobs}", "-j", jobs)
            found[form, jobs] = (place / f"{form}{jobs}").read_bytes()
    dselect(name, *options, "pipe", stdin=read_bytes(place / "pool.jsonl.zst"))
    found["pipe", 0] = (place / "pipe").read_bytes()
    assert len(set(found.values())) == 1, {form: hash(data) for form, data in found.items()}


def test_vectors_are_the_same_however_the_work_is_divided(dselect, place):
    found = set()
    for jobs in (1, 2, 3):
        dselect("embed", "shards", "-o", f"v{jobs}/", "-j", jobs)
        found.add(b"".join(p.read_bytes() for p in sorted((place / f"v{jobs}").iterdir()) if "manifest" not in p.name))
    assert len(found) == 1
