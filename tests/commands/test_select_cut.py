"""One cut for all shards: what it keeps of each is what one run over all of them keeps."""

import json

import numpy as np
import pytest

from tests.conftest import lines, read_records, write_records

WAYS = {
    "the best": ["--by", "score", "--keep", "10%"],
    "bytes": ["--by", "score", "--keep", "3kB"],
    "tokens": ["--by", "score", "--keep", "7%tok"],
    "lowest": ["--by=-score", "--keep", "50"],
    "ties": ["--by", "grade", "--keep", "77"],
    "above": ["--by", "score", "--above", "1.2"],
    "above and keep": ["--by", "score", "--above", "0.5", "--keep", "30"],
    "sample": ["--by", "score", "--sample", "--temperature", "2", "--keep", "60", "--seed", "3"],
    "sample as it is": ["--by", "score", "--sample", "--scale", "none", "--keep", "60"],
    "uniform": ["--keep", "60", "--seed", "5"],
    "uniform within": ["--keep", "60", "--within", "source", "--quota", "equal"],
    "within": ["--by", "score", "--keep", "20%B", "--within", "source"],
    "within equal": ["--by", "score", "--keep", "200", "--within", "source", "--quota", "equal"],
    "sample within": ["--by", "score", "--keep", "90", "--within", "source", "--sample"],
    "nothing": ["--by", "score", "--keep", "0"],
    "all": ["--by", "score", "--keep", "100%"],
    "missing lowest": ["--by", "rare", "--keep", "70%", "--missing", "lowest"],
    "missing dropped": ["--by", "rare", "--keep", "90%", "--missing", "drop"],
    "missing domain": ["--by", "score", "--keep", "90%", "--missing", "drop", "--within", "rare"],
}


@pytest.fixture(scope="module")
def records():
    rng = np.random.default_rng(0)
    found = []
    for number in range(400):
        size = int(rng.integers(1, 60))
        record = {"id": number, "text": "x" * size, "source": "abc"[number % 7 % 3], "token_count": size // 3}
        record |= {"score": float(rng.normal()), "grade": int(rng.integers(3))}
        if number % 5 == 0:
            record["rare"] = int(rng.integers(9))
        found.append(record)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_a_cut_applied_shard_by_shard_keeps_what_one_run_keeps(way, records, dselect, tmp_path):
    for shard in range(4):
        write_records(tmp_path / "scored" / f"{shard}.jsonl.zst", records[shard * 100 : shard * 100 + 100])
    saved = dselect("select", "scored", *WAYS[way], "--save", "cut.json")
    assert saved.stdout == b""
    one = dselect("select", "scored", *WAYS[way], "--json-summary")
    parts = [dselect("select", f"scored/{shard}.jsonl.zst", "--cut", "cut.json").stdout for shard in range(4)]
    assert b"".join(parts) == one.stdout
    jobs = ["-j", 2] if way == "the best" else []  # starting workers takes longest
    whole = dselect("select", "scored", "--cut", "cut.json", "-o", "kept/", "--json-summary", *jobs)
    assert whole.summary["kept"] == one.summary["kept"]
    assert [len(read_records(tmp_path / "kept" / f"{n}.jsonl.zst")) for n in range(4)] == [
        p.count(b"\n") for p in parts
    ]


def test_a_cut_applies_to_a_stream(records, dselect, tmp_path):
    options = ["select", "--by", "score", "--keep", 20, "--save", "cut.json"]
    written = dselect(*options, "-o", "kept.jsonl", stdin=lines(records))
    assert written.stdout == b""
    kept = dselect("select", "--cut", "cut.json", stdin=lines(records)).stdout
    assert kept == (tmp_path / "kept.jsonl").read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        ["--by", "score", "--by", "grade", "--keep", "5", "--save", "c"],
        ["--by", "score", "--unique", "--save", "c"],
        ["--cut", "c", "--keep", "5"],
        ["--cut", "c", "--by", "score"],
        ["--cut", "c", "--save", "d"],
    ],
)
def test_what_no_record_alone_can_decide_is_wrong_usage(options, records, dselect):
    dselect("select", *options, stdin=lines(records), status=2)


def test_a_cut_from_a_stranger_is_checked(records, dselect, tmp_path):
    dselect("select", "--by", "score", "--keep", 5, "--save", "good", stdin=lines(records))
    good = json.loads((tmp_path / "good").read_text())
    strangers = [
        "",
        "[]",
        "{}",
        json.dumps(good)[:-30],
        json.dumps({**good, "cut": {}}),
        json.dumps({**good, "choice": 3}),
    ]
    strangers.append(json.dumps({**good, "cut": {**good["cut"], "rest": ["a"]}}))
    for text in strangers:
        (tmp_path / "bad").write_text(text)
        failed = dselect("select", "--cut", "bad", stdin=lines(records), status=1)
        assert failed.stderr.startswith("dselect: bad: this is no cut"), text
    assert "nowhere" in dselect("select", "--cut", "nowhere", stdin=lines(records), status=1).stderr
