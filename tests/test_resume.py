"""A run that is done is not done again, a killed one goes on; what has changed is redone, and only that."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import zstandard

from tests.conftest import DSELECT, make_pool, make_target, read_records, write_records

SHARDS = [f"{shard}.jsonl.zst" for shard in range(4)]


@pytest.fixture
def shards(tmp_path):
    """Write the pool as four shards."""
    records = make_pool(400)
    for number, name in enumerate(SHARDS):
        write_records(tmp_path / "pool" / name, records[number * 100 : number * 100 + 100])
    return tmp_path / "pool"


@pytest.fixture
def model(dselect, shards, target):
    dselect("dsir", shards, "--target", target, "--save", "model")
    return "model"


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def up_to_date(run):
    return run.summary.get("up_to_date", False)


def test_a_finished_run_is_not_done_again_and_its_output_is_touched(dselect, pool, target, tmp_path):
    options = ["dsir", pool, "--target", target, "--keep", "10%", "-o", "picked.jsonl.zst", "--json-summary"]
    first = dselect(*options)
    old = (tmp_path / "picked.jsonl.zst").stat()
    second = dselect(*options)
    now = (tmp_path / "picked.jsonl.zst").stat()
    assert (up_to_date(first), up_to_date(second)) == (False, True)
    assert (now.st_ino, now.st_mtime_ns > old.st_mtime_ns) == (old.st_ino, True)
    assert second.summary["kept"] == first.summary["kept"] == 30
    assert up_to_date(dselect(*options))
    assert not up_to_date(dselect(*options, "--force"))


def test_jobs_talk_and_spelling_do_not_make_it_another_run(dselect, pool, target, tmp_path):
    dselect("dsir", pool, "--target", target, "-o", "out.jsonl")
    again = ["dsir", "./pool.jsonl.zst", "--target", "target.jsonl.zst", "-o", tmp_path / "out.jsonl"]
    assert up_to_date(dselect(*again, "-j", 2, "--json-summary", "--tmp", tmp_path))
    pool.touch()
    target.touch()
    assert up_to_date(dselect(*again, "--json-summary"))  # another time, the same bytes


@pytest.mark.parametrize("change", ["option", "seed", "pool", "target", "output", "code", "no manifest", "more saved"])
def test_what_decides_the_outcome_makes_it_another_run(change, dselect, pool, target, tmp_path):
    options = ["dsir", pool, "--target", target, "--fit-on", "50%", "-o", "out.jsonl", "--json-summary"]
    dselect(*options)
    manifest = tmp_path / "out.jsonl.manifest.json"
    if change == "option":
        options += ["--ngrams", 3]
    elif change == "seed":
        options += ["--seed", 1]
    elif change == "pool":
        write_records(pool, make_pool(300, seed=1))
    elif change == "target":
        write_records(target, make_target(31))
    elif change == "output":
        (tmp_path / "out.jsonl").write_bytes((tmp_path / "out.jsonl").read_bytes() + b"\n")
    elif change == "code":
        manifest.write_text(manifest.read_text().replace('"code": "', '"code": "f'))
    elif change == "no manifest":
        manifest.write_text('{"key": ')
    elif change == "more saved":
        options += ["--save", "model"]
    assert not up_to_date(dselect(*options))
    assert up_to_date(dselect(*options))


def test_a_changed_input_of_the_same_size_and_another_time_is_noticed(dselect, target, tmp_path):
    pool = write_records(tmp_path / "p.jsonl", [{"text": "garlic"}])
    options = ["dsir", pool, "--target", target, "-o", "out.jsonl", "--json-summary"]
    dselect(*options)
    pool.write_bytes(pool.read_bytes().replace(b"garlic", b"butter"))
    assert not up_to_date(dselect(*options))
    assert read_records(tmp_path / "out.jsonl")[0]["text"] == "butter"


def test_a_stream_is_never_up_to_date(dselect, pool, target):
    for _ in range(2):
        assert not up_to_date(dselect("select", "--keep", 3, "-o", "out.jsonl", "--json-summary", stdin=b'{"text":""}'))
    assert len(dselect("select", pool, "--keep", 3).records) == len(dselect("select", pool, "--keep", 3).records) == 3


def test_a_saved_model_has_a_manifest_of_its_own(dselect, pool, target, tmp_path):
    options = ["dsir", pool, "--target", target, "--save", "model", "--json-summary"]
    assert [up_to_date(dselect(*options)) for _ in range(2)] == [False, True]
    dselect(*options, "-o", "out.jsonl")
    assert up_to_date(dselect(*options, "-o", "out.jsonl"))
    (tmp_path / "model").unlink()
    assert not up_to_date(dselect(*options, "-o", "out.jsonl"))


def test_make_runs_a_rule_once(pool, target, tmp_path):
    (tmp_path / "Makefile").write_text(
        f"out.jsonl: pool.jsonl.zst target.jsonl.zst\n"
        f"\t{sys.executable} -m dselect dsir pool.jsonl.zst --target target.jsonl.zst -o $@ 2> said\n"
    )

    def make():
        done = subprocess.run(["make"], cwd=tmp_path, capture_output=True, text=True, check=True)
        return "up to date" in done.stdout

    assert [make(), make()] == [False, True]
    target.touch()
    assert not make()  # make thinks it must run; dselect sees that nothing has changed, and touches
    assert "is up to date" in (tmp_path / "said").read_text()
    assert make()


def test_of_a_folder_only_what_has_changed_is_scored_again(dselect, shards, model, tmp_path):
    options = ["dsir", shards, "--model", model, "-o", "out/", "--json-summary"]
    dselect(*options)
    assert up_to_date(dselect(*options))
    before = times(tmp_path / "out")
    write_records(shards / "1.jsonl.zst", make_pool(50, seed=7))
    write_records(shards / "9.jsonl.zst", make_pool(20, seed=9))
    (tmp_path / "out" / "2.jsonl.zst").unlink()
    run = dselect(*options)
    after = times(tmp_path / "out")
    assert {name for name in after if after[name] != before.get(name)} == {f"{n}.jsonl.zst" for n in (1, 2, 9)}
    assert run.summary["shards_done_before"] == 2
    assert run.summary["documents"] == 370
    assert up_to_date(dselect(*options))
    dselect("dsir", shards, "--model", model, "-o", "fresh/")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_fit_on_the_pool_depends_on_every_shard(dselect, shards, target, tmp_path):
    options = ["dsir", shards, "--target", target, "-o", "out/", "--json-summary"]
    dselect(*options)
    (tmp_path / "out" / "2.jsonl.zst").unlink()
    assert dselect(*options).summary["shards_done_before"] == 3
    write_records(shards / "9.jsonl.zst", make_pool(20, seed=9))
    assert dselect(*options).summary["shards_done_before"] == 0


def test_shards_that_only_the_old_manifest_lists_are_deleted_and_nothing_else(dselect, shards, model, tmp_path):
    options = ["dsir", shards, "--model", model, "-o", "out/"]
    dselect(*options)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    (shards / "0.jsonl.zst").unlink()
    (shards / "3.jsonl.zst").unlink()
    edited = tmp_path / "out" / "3.jsonl.zst"
    edited.write_bytes(edited.read_bytes() * 2)  # no longer what dselect wrote
    dselect(*options)
    assert sorted(times(tmp_path / "out")) == ["1.jsonl.zst", "2.jsonl.zst", "3.jsonl.zst", "notes.txt"]


def test_a_folder_that_dselect_did_not_write_is_refused(dselect, shards, model, tmp_path):
    (tmp_path / "out").mkdir()
    dselect("dsir", shards, "--model", model, "-o", "out")  # empty: fine
    shutil.move(tmp_path / "out", tmp_path / "other")
    assert "not empty" in dselect("dsir", shards, "--model", model, "-o", "other/", status=1).stderr


def test_a_stranger_s_manifest_cannot_delete_files_elsewhere(dselect, shards, model, tmp_path):
    dselect("dsir", shards, "--model", model, "-o", "out/")
    mine = tmp_path / "mine.txt"
    mine.write_text("precious")
    path = tmp_path / "out.manifest.json"
    manifest = json.loads(path.read_text())
    state = {"size": mine.stat().st_size, "mtime_ns": mine.stat().st_mtime_ns}
    manifest["outputs"] += [{"path": "mine.txt", **state}, {"path": "out/../mine.txt", **state}]
    path.write_text(json.dumps(manifest))
    (shards / "3.jsonl.zst").unlink()
    dselect("dsir", shards, "--model", model, "-o", "out/")
    assert mine.read_text() == "precious"


def test_a_limit_and_rejects_are_done_anew(dselect, shards, model, tmp_path):
    (shards / "1.jsonl.zst").unlink()
    (shards / "1.jsonl").write_bytes(b'bad\n{"text": "garlic"}\n')
    options = ["dsir", shards, "--model", model, "-o", "out/", "--json-summary", "--bad-lines", "skip"]
    dselect(*options, "--rejects", "bad")
    (tmp_path / "out" / "0.jsonl.zst").unlink()
    run = dselect(*options, "--rejects", "bad")
    assert (run.summary["shards_done_before"], run.summary["bad_lines"]) == (0, 1)
    assert (tmp_path / "bad").read_bytes() == b"bad\n"
    (tmp_path / "out" / "0.jsonl.zst").unlink()
    run = dselect(*options, "--limit", 150)
    assert (run.summary["shards_done_before"], run.summary["documents"]) == (0, 149)


def test_a_tolerated_bad_line_of_a_done_shard_still_counts(dselect, shards, model, tmp_path):
    (shards / "1.jsonl").write_bytes(b'bad\n{"text": "garlic"}\n')
    options = ["dsir", shards, "--model", model, "-o", "out/", "--json-summary", "--bad-lines", "skip:1"]
    dselect(*options)
    (tmp_path / "out" / "0.jsonl.zst").unlink()
    run = dselect(*options)
    assert (run.summary["shards_done_before"], run.summary["bad_lines"]) == (4, 1)


def test_the_manifest_says_what_was_read_and_done(dselect, shards, target, tmp_path):
    dselect("dsir", shards, "--target", target, "--keep", "50%B", "--seed", 3, "-o", "out.jsonl.zst")
    manifest = json.loads((tmp_path / "out.jsonl.zst.manifest.json").read_text())
    assert [entry["counts"]["documents"] for entry in manifest["inputs"]] == [100] * 4
    assert all(len(entry["blake2b"]) == 32 for entry in [*manifest["inputs"], *manifest["files"]["target"]])
    assert manifest["key"]["settings"]["seed"] == 3
    summary = manifest["summary"]
    assert summary["unit"] == "bytes"
    assert summary["achieved"] <= summary["asked"]
    assert summary["cut"] >= summary["spread"]["dsir"]["quantiles"]["0.0"]
    assert summary["spread"]["dsir"]["records"] == 400
    assert manifest["outputs"][0]["size"] == (tmp_path / "out.jsonl.zst").stat().st_size
    assert manifest["peak_memory_bytes"]["parent"] > 10e6


def test_a_corpus_is_made_again_when_a_file_has_changed(dselect, tmp_path):
    (tmp_path / "text").mkdir()
    for name in "ab":
        (tmp_path / "text" / name).write_text(name)
    options = ["corpus", "text", "-o", "out.jsonl", "--json-summary"]
    assert [up_to_date(dselect(*options)) for _ in range(2)] == [False, True]
    (tmp_path / "text" / "c").write_text("c")
    assert [up_to_date(dselect(*options)) for _ in range(2)] == [False, True]
    options = ["corpus", "text", "-o", "folder/", "--json-summary"]
    assert [up_to_date(dselect(*options)) for _ in range(2)] == [False, True]


def test_one_input_after_the_other_into_one_folder(dselect, shards, model, tmp_path):
    for name in SHARDS:
        dselect("dsir", shards / name, "--model", model, "-o", "out/")
    assert sorted(times(tmp_path / "out")) == SHARDS
    assert up_to_date(dselect("dsir", shards / SHARDS[1], "--model", model, "-o", "out/", "--json-summary"))
    assert up_to_date(dselect("dsir", shards, "--model", model, "-o", "out/", "--json-summary"))


def test_another_run_s_shards_are_neither_deleted_nor_mixed_with(dselect, shards, model, tmp_path):
    dselect("select", shards / SHARDS[0], "--keep", 3, "-o", "out/")
    refused = dselect("select", shards / SHARDS[1], "--keep", 3, "-o", "out/", status=1)
    assert "shards of another run, 0.jsonl.zst among them" in refused.stderr
    assert sorted(times(tmp_path / "out")) == [SHARDS[0]]
    forced = dselect("select", shards / SHARDS[1], "--keep", 3, "-o", "out/", "--force", "--json-summary")
    assert forced.summary["shards_deleted"] == 1
    assert sorted(times(tmp_path / "out")) == [SHARDS[1]]


def test_shards_that_a_killed_run_left_are_another_run_s_too(dselect, shards, model, tmp_path):
    dselect("dsir", shards / SHARDS[0], "--model", model, "-o", "out/")
    manifest = json.loads((tmp_path / "out.manifest.json").read_text())
    journal = [{key: manifest[key] for key in ("key", "files", "inputs")}, *manifest["inputs"]]
    (tmp_path / ".out.journal").write_text("".join(json.dumps(line) + "\n" for line in journal))
    (tmp_path / "out.manifest.json").unlink()  # as if it had been killed before this was written
    refused = dselect("select", shards / SHARDS[1], "--keep", 3, "-o", "out/", status=1)
    assert "shards of another run" in refused.stderr


def test_what_is_said_of_the_scores_is_of_all_shards_whenever_they_were_done(dselect, shards, model, tmp_path):
    options = ["dsir", shards, "--model", model, "--min-words", 30, "--json-summary"]
    whole = dselect(*options, "-o", "whole/").summary
    dselect("dsir", shards / SHARDS[0], shards / SHARDS[2], "--model", model, "--min-words", 30, "-o", "out/")
    later = dselect(*options, "-o", "out/").summary
    assert later["shards_done_before"] == 2
    for fact in ("without_score", "spread", "documents", "bytes"):
        assert later[fact] == whole[fact]
    assert whole["without_score"] > 0


def test_a_folder_that_has_lost_a_shard_is_no_pool(dselect, shards, model, tmp_path):
    score = ["dsir", shards, "--model", model, "-o", "out/"]
    dselect(*score)
    (tmp_path / "out" / SHARDS[1]).unlink()
    lost = dselect("select", "out", "--by", "dsir", "--keep", 3, status=1).stderr
    assert f"out/{SHARDS[1]}: 1 of the 4 files that dselect wrote into this folder are gone (run that again" in lost
    assert "gone" in dselect("stats", ".", status=1).stderr  # a folder above it
    (tmp_path / "link").symlink_to("out")
    assert "gone" in dselect("stats", "link", status=1).stderr
    dselect(*score)
    dselect("select", "out", "--by", "dsir", "--keep", 3)
    (tmp_path / "out" / SHARDS[1]).unlink()
    (tmp_path / "out.manifest.json").unlink()
    dselect("select", "out", "--by", "dsir", "--keep", 3)  # as it is meant


def test_a_folder_is_touched_for_make(dselect, shards, model, tmp_path):
    score = ["dsir", shards, "--model", model, "-o", "out/"]
    for _ in range(2):
        dselect(*score)
        assert (tmp_path / "out").stat().st_mtime_ns > time.time_ns() - 10**10
        os.utime(tmp_path / "out", (1, 1))


def test_a_folder_and_its_manifest_look_old_until_a_run_ends_well(dselect, shards, target, model, tmp_path):
    score = ["dsir", shards, "--model", model, "-o", "out/"]
    for _ in range(2):  # the first run, and one that finds the folder of an earlier one
        last = (shards / SHARDS[3]).read_bytes()
        (shards / SHARDS[3]).write_bytes(zstandard.compress(b"not JSON\n"))
        os.utime(shards / SHARDS[0])
        dselect(*score, status=1)
        names = ["out", *(["out.manifest.json"] if (tmp_path / "out.manifest.json").exists() else [])]
        assert [(tmp_path / name).stat().st_mtime for name in names] == [0.0] * len(names)
        (shards / SHARDS[3]).write_bytes(last)
        os.utime(shards / SHARDS[3], (1, 1))
        dselect(*score)
        assert (tmp_path / "out").stat().st_mtime > (shards / SHARDS[0]).stat().st_mtime
        assert (tmp_path / "out.manifest.json").stat().st_mtime > (shards / SHARDS[0]).stat().st_mtime
    assert len(names) == 2


def test_what_another_command_wrote_is_not_written_over(dselect, shards, model, tmp_path):
    dselect("dsir", shards, "--model", model, "-o", "out/")
    before = contents(tmp_path / "out")
    for output in ("out/", "out"):
        refused = dselect("select", shards, "--keep", 3, "-o", output, status=1).stderr
        assert "this folder holds 4 files that dselect dsir wrote (name another folder; --force" in refused
    assert contents(tmp_path / "out") == before
    dselect("dsir", shards, "--model", model, "--as", "other", "-o", "out/")  # the same command, asked for other things
    dselect("select", shards, "--keep", 3, "-o", "out/", "--force")
    assert sum(len(read_records(tmp_path / "out" / name)) for name in SHARDS) == 3


# -- killed


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Twelve shards that take a moment each, a model, and what an undisturbed run makes of them."""
    folder = tmp_path_factory.mktemp("large")
    for shard in range(12):
        records = make_pool(600, seed=shard)
        for record in records:
            record["text"] = " ".join([record["text"]] * 20)
        write_records(folder / "pool" / f"{shard:02d}.jsonl.zst", records)
    write_records(folder / "target.jsonl", make_target())
    for options in (["--save", "model"], ["-o", "scored/"]):
        subprocess.run([*DSELECT, "dsir", "pool", "--target", "target.jsonl", *options, "-q"], cwd=folder, check=True)
    return folder


def test_a_killed_run_goes_on_where_it_was(large, tmp_path):
    for link in ("pool", "model"):
        (tmp_path / link).symlink_to(large / link)
    arguments = [*DSELECT, "dsir", "pool", "--model", "model", "-o", "out/", "-j", "1"]
    process = subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.DEVNULL)
    while len(list((tmp_path / "out").glob("*.zst") if (tmp_path / "out").is_dir() else [])) < 3:
        time.sleep(0.005)
    process.kill()
    process.wait()
    before = times(tmp_path / "out")
    said = subprocess.run([*arguments, "--json-summary"], cwd=tmp_path, stderr=subprocess.PIPE, check=True).stderr
    summary = json.loads(said)
    assert summary["shards_done_before"] >= 2
    assert summary["documents"] == 7200
    after = times(tmp_path / "out")
    assert sum(after[name] == before.get(name) for name in after) == summary["shards_done_before"]
    assert contents(tmp_path / "out") == contents(large / "scored")
