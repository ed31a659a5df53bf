"""What every command keeps to: what goes in comes out byte for byte, in order, the same for any division of the work.

A method is every command with --save and --model that is fitted to records, to a --target or to --positive and
--negative ones: it is tried here unasked.
"""

import importlib
import inspect
import json
import random

import pytest

from dselect.cli import summaries
from tests.conftest import COOKING, lines, make_pool, make_target, read_bytes, read_records, write_records


def parameters(command):
    module = importlib.import_module(f"dselect.commands.{command.replace('-', '_')}")
    return inspect.signature(module.command).parameters


METHODS = [
    name
    for name in summaries()
    if {"save", "model"} <= set(parameters(name)) and {"target", "positive"} & set(parameters(name))
]
method = pytest.mark.parametrize("method", METHODS)


def fitted_to(method, target, shape=dict):
    """Return the options that fit a method to a target, and to records that are none if it wants them, in a shape."""
    if "target" in parameters(method):
        return ["--target", target]
    other = target.with_name(f"not {target.name}")
    if not other.exists():
        write_records(other, [shape(record) for record in make_pool(90, seed=5) if record["source"] != "cooking"])
    return ["--positive", target, "--negative", other, "--buckets", 1000, "--dim", 8]


@method
def test_every_text_gets_a_finite_number_the_empty_one_too(method, dselect, target):
    records = [*make_pool(20), {"text": ""}, {"text": " \n\t"}, {"text": "\u0000"}, {"text": "漢字 हिन्दी 🤖"}]
    scored = dselect(method, "-", *fitted_to(method, target), stdin=lines(records)).records
    assert len(scored) == len(records)
    for record in scored:
        added = [value for name, value in record.items() if name.startswith(method)]
        assert added
        assert all(isinstance(value, float) and abs(value) < 1e9 for value in added)


@method
def test_any_number_of_jobs_gives_the_same_bytes(method, dselect, pool, target, tmp_path):
    for jobs in (1, 2, 3):
        dselect(method, pool, *fitted_to(method, target), "-o", f"{jobs}.jsonl.zst", "-j", jobs)
    one = (tmp_path / "1.jsonl.zst").read_bytes()
    assert one == (tmp_path / "2.jsonl.zst").read_bytes() == (tmp_path / "3.jsonl.zst").read_bytes()


@method
def test_file_and_pipe_give_the_same_bytes(method, dselect, pool, target):
    from_file = dselect(method, pool, *fitted_to(method, target), "--keep", "10%").stdout
    from_pipe = dselect(method, *fitted_to(method, target), "--keep", "10%", stdin=read_bytes(pool)).stdout
    assert from_file == from_pipe
    assert from_file.count(b"\n") == 30


@method
def test_shards_give_what_one_file_gives_and_their_order_does_not_matter(method, dselect, pool, target, tmp_path):
    records = make_pool()
    for shard in range(3):
        write_records(tmp_path / "shards" / f"{shard}.jsonl", records[shard * 100 : shard * 100 + 100])
    names = [tmp_path / "shards" / f"{shard}.jsonl" for shard in (2, 0, 1)]
    whole = dselect(method, pool, *fitted_to(method, target), "--keep", "20").stdout
    shards = dselect(method, *names, *fitted_to(method, target), "--keep", "20").stdout
    assert sorted(whole.split(b"\n")) == sorted(shards.split(b"\n"))


@method
def test_a_saved_model_scores_as_the_run_that_fitted_it(method, dselect, pool, target, tmp_path):
    fitted = dselect(method, pool, *fitted_to(method, target)).stdout
    saved = dselect(method, pool, *fitted_to(method, target), "--save", "model")
    assert saved.stdout == b""
    assert dselect(method, pool, "--model", "model").stdout == fitted
    first = (tmp_path / "model").read_bytes()
    dselect(method, pool, *fitted_to(method, target), "--save", "model", "-j", 2)
    assert (tmp_path / "model").read_bytes() == first


@method
def test_target_like_text_beats_noise(method, dselect, target):
    noise = random.Random(1)
    records = make_pool()
    for number in range(0, 60, 2):
        records.append({"id": f"good {number}", "text": " ".join(noise.choices(COOKING, k=60))})
        letters = "".join(noise.choices("abcdefghijklmnopqrstuvwxyz      ", k=300))
        records.append({"id": f"noise {number}", "text": letters})
    kept = dselect(method, *fitted_to(method, target), "--keep", "40", stdin=lines(records)).records
    assert not [record for record in kept if record["id"].startswith("noise")]


@method
def test_lines_pass_byte_for_byte_but_for_the_new_field(method, dselect, target, tmp_path):
    odd = (
        b'{ "text" : "caf\\u00e9 \xc3\xa9 \xe2\x80\xa8 line", "n": 1.0e2, "z": [ ] }\r\n'
        b'{"text":"b","nested":{"' + method.encode() + b'":1}}   \n'
        b'{"n":12345678901234567890123,"text":"c"}'
    )
    (tmp_path / "odd.jsonl").write_bytes(b"\xef\xbb\xbf" + odd)
    out = dselect(method, "odd.jsonl", *fitted_to(method, target)).stdout
    for before, after in zip(odd.split(b"\n"), out.split(b"\n"), strict=False):
        brace = before.rindex(b"}")
        assert after.startswith(before[:brace] + b',"' + method.encode() + b'":')
        assert after.endswith(before[brace:])
    assert out.endswith(b"\n")


@method
def test_a_field_that_is_there_already_is_refused_or_replaced(method, dselect, target, tmp_path):
    line = b'{"text":"garlic","%s":[1,{"a":"}"}],"k":"\\"%s\\":1"}\n' % (method.encode(), method.encode())
    (tmp_path / "old.jsonl").write_bytes(line)
    refused = dselect(method, "old.jsonl", *fitted_to(method, target), status=1).stderr
    assert "old.jsonl:1:" in refused
    assert "--overwrite" in refused
    for options in ([], ["--keep", "1"]):
        out = dselect(method, "old.jsonl", *fitted_to(method, target), "--overwrite", *options).stdout
        assert out.startswith(b'{"text":"garlic","k":"\\"%s\\":1","%s":' % (method.encode(), method.encode()))


@method
def test_an_empty_pool_gives_an_empty_valid_output(method, dselect, target, tmp_path):
    (tmp_path / "empty.jsonl").write_bytes(b"")
    for options in ([], ["--keep", "10%"], ["--keep", "0"]):
        dselect(method, "empty.jsonl", *fitted_to(method, target), "-o", "out.jsonl.zst", *options)
        assert read_records(tmp_path / "out.jsonl.zst") == []


@method
@pytest.mark.parametrize("keep", ["0", "9999", "0.3%"])
def test_budgets_at_their_edges_keep_as_many_as_there_are(method, keep, dselect, pool, target):
    expected = {"0": 0, "9999": 300, "0.3%": 0}[keep]
    run = dselect(method, pool, *fitted_to(method, target), "--keep", keep, "--json-summary")
    assert len(run.records) == run.summary["kept"] == expected


@method
def test_one_output_per_input_in_a_folder(method, dselect, pool, target, tmp_path):
    records = make_pool()
    write_records(tmp_path / "in" / "a" / "x.jsonl.zst", records[:10])
    write_records(tmp_path / "in" / "b" / "x.jsonl", records[10:30])
    write_records(tmp_path / "in" / "empty.jsonl", [])
    dselect(method, "in", *fitted_to(method, target), "-o", "out/")
    found = {
        str(path.relative_to(tmp_path / "out")): len(read_records(path))
        for path in (tmp_path / "out").rglob("*.jsonl*")
    }
    assert found == {"a/x.jsonl.zst": 10, "b/x.jsonl": 20, "empty.jsonl": 0}
    clash = dselect(
        method,
        "in/a/x.jsonl.zst",
        "in/b/x.jsonl",
        tmp_path / "in/a/../a/x.jsonl.zst",
        *fitted_to(method, target),
        status=1,
    )
    assert "twice" in clash.stderr


@method
def test_two_inputs_of_one_name_do_not_overwrite_each_other(method, dselect, target, tmp_path):
    for folder in "ab":
        write_records(tmp_path / folder / "x.jsonl", make_pool(5))
    clash = dselect(method, "a/x.jsonl", "b/x.jsonl", *fitted_to(method, target), "-o", "out/", status=1)
    assert "a/x.jsonl and b/x.jsonl" in clash.stderr


@method
def test_an_output_is_never_one_of_the_inputs(method, dselect, pool, target):
    before = pool.read_bytes()
    assert "one of the inputs" in dselect(method, pool, *fitted_to(method, target), "-o", pool, status=1).stderr
    assert pool.read_bytes() == before


@method
def test_records_below_min_words_pass_without_the_field_and_keep_drops_them(method, dselect, target):
    records = [{"text": "garlic"}, {"text": "garlic salt pepper basil"}]
    options = [*fitted_to(method, target), "--min-words", 3, "--json-summary"]
    run = dselect(method, *options, stdin=lines(records))
    assert [method in record for record in run.records] == [False, True]
    assert run.summary["without_score"] == 1
    kept = dselect(method, *options, "--keep", 2, stdin=lines(records))
    assert [record["text"] for record in kept.records] == ["garlic salt pepper basil"]


@method
def test_text_may_be_elsewhere_in_the_record(method, dselect, tmp_path):
    def elsewhere(record):
        return {"body": {"content": record["text"]}, "body.x": 1}

    inside = write_records(tmp_path / "inside.jsonl", map(elsewhere, make_target(15)))
    plain = write_records(tmp_path / "plain.jsonl", make_target(15))
    scored = dselect(
        method,
        *fitted_to(method, inside, elsewhere),
        "--text",
        "body.content",
        stdin=lines(map(elsewhere, make_pool(9))),
    ).records
    direct = dselect(method, *fitted_to(method, plain), stdin=lines(make_pool(9))).records
    assert [record[method] for record in scored] == [record[method] for record in direct]


@pytest.mark.parametrize("method", ["dsir"])  # what writes is the same for all
def test_frames_hold_four_mebibytes_of_lines_and_each_stands_alone(method, dselect, target, tmp_path):
    import zstandard

    records = [{"id": str(i), "text": " ".join(random.Random(i).choices(COOKING, k=2000))} for i in range(800)]
    write_records(tmp_path / "big.jsonl", records)
    for jobs in (1, 2):
        dselect(method, "big.jsonl", *fitted_to(method, target), "-o", f"big{jobs}.jsonl.zst", "-j", jobs)
    data = (tmp_path / "big1.jsonl.zst").read_bytes()
    assert data == (tmp_path / "big2.jsonl.zst").read_bytes()
    sizes = []
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        text = frame.decompress(data)
        assert text.endswith(b"\n")
        assert all(json.loads(line) for line in text.split(b"\n") if line)
        sizes.append(len(text))
        data = frame.unused_data
    assert len(sizes) > 2
    assert all(4 << 20 <= size < (4 << 20) + 20_000 for size in sizes[:-1])
