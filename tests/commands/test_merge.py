"""Parts of a pool make what the whole pool makes: shards, models merged, one cut for all."""

import re

import pytest

from dselect.errors import UsageError
from dselect.options import PoolOptions
from tests.conftest import make_pool, read_records, write_records


@pytest.fixture
def shards(tmp_path):
    """Write seven shards of different sizes, one of them empty."""
    records = make_pool()
    for number, (first, last) in enumerate(
        [(0, 50), (50, 51), (51, 120), (120, 120), (120, 200), (200, 260), (260, 300)]
    ):
        write_records(tmp_path / "pool" / f"{number}.jsonl.zst", records[first:last])
    return tmp_path / "pool"


def test_models_of_parts_merge_into_the_model_of_the_whole(dselect, shards, target, tmp_path):
    fit = ["dsir", shards, "--target", target, "--save"]
    dselect(*fit, "all.dsir")
    parts = [f"part-{number}.dsir" for number in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        dselect(*fit, part, "--shard", f"{number}/3")
    dselect("merge", *parts, "-o", "merged.dsir")
    assert (tmp_path / "merged.dsir").read_bytes() == (tmp_path / "all.dsir").read_bytes()
    dselect("merge", *reversed(parts), "-o", "again.dsir")
    assert (tmp_path / "again.dsir").read_bytes() == (tmp_path / "all.dsir").read_bytes()
    assert "up to date" in dselect("merge", *parts, "-o", "merged.dsir").stderr


def test_what_shards_score_and_one_cut_keeps_is_what_one_run_keeps(dselect, shards, target, tmp_path):
    dselect("dsir", shards, "--target", target, "--save", "m", "-o", "whole/")
    for number in (1, 2, 3):
        dselect("dsir", shards, "--model", "m", "--shard", f"{number}/3", "-o", f"scored-{number}/")
    scored = [tmp_path / f"scored-{number}" for number in (1, 2, 3)]
    names = {path.name: path.read_bytes() for folder in scored for path in folder.glob("*.zst")}
    assert names == {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*.zst")}
    assert sorted(len(list(folder.glob("*.zst"))) for folder in scored) == [2, 2, 3]
    whole = dselect("select", "whole", "--by", "dsir", "--keep", "20%").stdout
    dselect("select", *scored, "--by", "dsir", "--keep", "20%", "--save", "cut.json")
    kept = b"".join(dselect("select", "whole", "--cut", "cut.json", "--shard", f"{n}/3").stdout for n in (1, 2, 3))
    assert sorted(kept.split(b"\n")) == sorted(whole.split(b"\n"))


def test_one_cut_from_attributes_of_shards_put_together(dselect, shards, target, tmp_path):
    dselect("dsir", shards, "--target", target, "--save", "m")
    (tmp_path / "side").mkdir()
    for number in (1, 2):
        dselect("dsir", shards, "--model", "m", "--shard", f"{number}/2", "--attributes", f"side-{number}")
        for path in (tmp_path / f"side-{number}").iterdir():
            (tmp_path / "side" / path.name).hardlink_to(path)
    whole = dselect("select", shards, "--attributes", "side", "--by", "dsir", "--keep", "20%").stdout
    dselect("select", shards, "--attributes", "side", "--by", "dsir", "--keep", "20%", "--save", "cut.json")
    apply = ["select", shards, "--attributes", "side", "--cut", "cut.json", "--shard"]
    kept = dselect(*apply, "1/2").stdout + dselect(*apply, "2/2").stdout
    assert sorted(kept.split(b"\n")) == sorted(whole.split(b"\n"))
    assert len(whole.splitlines()) == 60


def test_more_shards_than_files_give_empty_outputs_and_a_fit_that_adds_nothing(dselect, shards, target, tmp_path):
    dselect("dsir", shards, "--target", target, "--save", "all")
    for number in range(1, 10):
        dselect("dsir", shards, "--target", target, "--save", f"part-{number}", "--shard", f"{number}/9")
    merged = dselect("merge", *(f"part-{number}" for number in range(1, 10)), "-o", "merged", "--json-summary")
    assert merged.summary["documents"] == 300
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "all").read_bytes()
    dselect("dsir", shards, "--model", "all", "--shard", "9/9", "-o", "none.jsonl.zst")
    assert read_records(tmp_path / "none.jsonl.zst") == []


def test_every_file_is_in_one_shard_and_what_is_no_shard_is_refused(dselect, shards):
    def part(shard):
        return [source.name for source in PoolOptions([str(shards)], shard=shard).sources()]

    whole = part(None)
    for parts in range(1, 10):
        found = [part(f"{number}/{parts}") for number in range(1, parts + 1)]
        assert sorted(name for names in found for name in names) == whole
        assert max(map(len, found)) - min(map(len, found)) <= 1
    for wrong in ("0/3", "4/3", "1", "1/0", "-1/3", "a/b", "1/3/3", ""):
        with pytest.raises(UsageError, match="cannot read --shard"):
            part(wrong)
    assert "I/N from 1/N to N/N" in dselect("stats", shards, "--shard", "0/3", status=2).stderr


def test_parts_that_do_not_add_are_refused_with_the_reason(dselect, shards, target, tmp_path):
    fit = ["dsir", shards, "--save"]
    other = write_records(tmp_path / "other.jsonl", make_pool(9))
    dselect(*fit, "a", "--target", target)
    for name, options, reason in (
        ("b", ["--target", other], "another target"),
        ("c", ["--target", target, "--ngrams", 3], "other settings"),
        ("d", ["--target", target, "--fit-on", "100"], "other settings"),
    ):
        dselect(*fit, name, *options)
        refused = dselect("merge", "a", name, "-o", "out", status=1).stderr
        assert re.match(rf"dselect: {name}: {reason}", refused)
        assert not (tmp_path / "out").exists()
    more = write_records(tmp_path / "more.jsonl", make_pool(30, seed=5))
    dselect("dsir", more, "--target", target, "--fit-on", "100", "--save", "e")
    assert "samples do not add" in dselect("merge", "d", "e", "-o", "out", status=1).stderr
    assert "named twice" in dselect("merge", "a", "./a", "-o", "out", status=1).stderr
    assert "standard input is none" in dselect("stats", "-", "--shard", "1/2", status=2).stderr
    assert "is one of the inputs" in dselect("merge", "a", "a", "-o", "a", status=1).stderr


def test_a_shard_that_is_missing_or_there_twice_is_noticed(dselect, shards, target, tmp_path):
    fit = ["dsir", shards, "--target", target, "--save"]
    for name, shard in (("one", "1/3"), ("two", "2/3"), ("three", "3/3"), ("half", "1/2")):
        dselect(*fit, name, "--shard", shard)
    dselect(*fit, "all")
    (tmp_path / "copy").write_bytes((tmp_path / "all").read_bytes())
    for parts, said in (
        (["one", "three"], "1 of 3 parts are missing, --shard 2/3 among them (fit those too, or --partial)"),
        (["one", "half"], "half: a shard of 2, where the first part is one of 3"),
        (["all", "one"], "one: one is of a --shard and the other of a whole pool"),
        (["all", "copy"], "copy: the same part as all, under another name"),
        (["some", "one", "two"], "one: --shard 1/3 is in another part already"),
    ):
        if parts[0] == "some":
            dselect("merge", "one", "three", "--partial", "-o", "some")
        assert said in dselect("merge", *parts, "-o", "wrong", status=1).stderr
    assert not (tmp_path / "wrong").exists()
    write_records(shards / "00.jsonl", make_pool(5, seed=3))  # a file comes between two fits
    dselect(*fit, "late", "--shard", "2/3")
    said = dselect("merge", "one", "late", "three", "-o", "wrong", status=1).stderr
    assert "late: a shard of other files than the first part's" in said
    dselect("merge", "some", "two", "-o", "merged")
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "all").read_bytes()
