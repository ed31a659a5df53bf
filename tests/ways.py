"""How every command that writes records, and every fit, is called; and the files that this takes."""

import random
import subprocess
from itertools import pairwise

from tests.conftest import DSELECT, make_pool, make_target, write_records

# By name: a command's options. What they name, `furnish` writes.
RECORDS = {
    "dsir": ["-t", "target.jsonl"],
    "dsir kept": ["-t", "target.jsonl", "--keep", "10%"],
    "dsir sampled": ["-t", "target.jsonl", "--keep", "10%", "--sample", "--temperature", "2", "--within", "source"],
    "zipfit": ["-t", "target.jsonl"],
    "contrast": ["-t", "target.jsonl", "--order", "3"],
    "classify": ["--positive", "target.jsonl", "--buckets", "1000", "--dim", "8"],
    "preselect": ["--ability", "abilities.csv", "--strength-only"],
    "kmeans": ["--clusters", "4"],
    "kmeans kept": ["--clusters", "4", "--keep", "20%", "--quota", "equal", "--dedup", "0.99"],
    "qurating": ["--judgments", "judgments.jsonl"],
    "rules": [],
    "tokens": ["--tokenizer", "words", "--overwrite"],
    "loss": ["--model", "x=m.lm"],
    "select": ["--keep", "20%"],
    "select by": ["--by", "loss_a", "--by=-loss_b", "--keep", "9kB", "--unique"],
    "decontaminate": ["--target", "target.jsonl", "--words", "3", "--drop-above", "0.9"],
    "order": ["--by", "loss_a", "--folds", "3"],
    "judge": ["--pairs", "50", "--from-field", "loss_a"],
    "mix": ["--weights", "weights.json", "--within", "source", "--keep", "9kB"],
    "climb": ["--within", "source", "-t", "target.jsonl", "--rounds", "4,2", "--keep", "9kB", "--order", "2"],
}
# By command: its options, of which the last names the model.
FITS = {
    "dsir": ["-t", "target.jsonl", "--save"],
    "zipfit": ["-t", "target.jsonl", "--save"],
    "contrast": ["-t", "target.jsonl", "--order", "3", "--fit-on", "20%", "--save"],
    "classify": ["--positive", "target.jsonl", "--buckets", "1000", "--dim", "8", "--save"],
    "kmeans": ["--clusters", "4", "--save"],
    "lm": ["--order", "3", "-o"],
    "climb": [
        "--within",
        "source",
        "-t",
        "target.jsonl",
        "--rounds",
        "4,2",
        "--order",
        "2",
        "--budget",
        "9kB",
        "--save",
    ],
}
SHARDS = ["0.jsonl", "1.jsonl", "2.jsonl", "3.jsonl"]


def furnish(folder, repeat=1):
    """Write a pool, pool.jsonl.zst, the same as shards/, and what the ways name; repeat: how long the texts are."""
    chance = random.Random(7)
    records = [{**r, "loss_a": chance.random(), "loss_b": chance.random()} for r in make_pool(240)]
    for record in records:
        record["text"] = " ".join([record["text"]] * repeat)
    write_records(folder / "pool.jsonl.zst", records)
    for name, (first, last) in zip(SHARDS, [(0, 70), (70, 71), (71, 160), (160, 240)], strict=True):
        write_records(folder / "shards" / name, records[first:last])
    write_records(folder / "target.jsonl", make_target())
    (folder / "abilities.csv").write_text("model,score\na,1\nb,2\n")
    (folder / "weights.json").write_text('{"cooking": 2, "code": 1, "law": 0}')
    judged = [
        {"text_a": a["text"], "text_b": b["text"], "criterion": "cooking", "p_b": float(b["source"] == "cooking")}
        for a, b in pairwise(records)
        if "cooking" in (a["source"], b["source"])
    ]
    write_records(folder / "judgments.jsonl", judged)
    command = [*DSELECT, "lm", "target.jsonl", "--order", "2", "-o", "m.lm", "-q"]
    subprocess.run(command, cwd=folder, check=True)
