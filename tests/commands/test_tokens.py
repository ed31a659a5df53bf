import json
import os
import re

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from dselect.commands.tokens import TokenCounter, _built, read_definition
from dselect.kernels.ngrams import count_words
from dselect.pipeline import add_fields
from dselect.records.batch import parse
from dselect.records.reading import Block
from tests.conftest import lines, make_pool, read_bytes, read_records, write_records

tokenizers = pytest.importorskip("tokenizers")


def definition(model, **parts):
    """Return a tokenizer.json."""
    fields = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return json.dumps({"version": "1.0", **fields, "added_tokens": [], "model": model, **parts})


def pool(count=300):
    return [{key: value for key, value in record.items() if key != "token_count"} for record in make_pool(count)]


def batch(texts):
    return parse(Block(0, 1, lines([{"text": text} for text in texts])), "text")


@pytest.fixture
def trained(tmp_path):
    """Train a byte-level BPE on the pool, with special tokens around a text, truncation and padding set."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator([record["text"] for record in pool()], trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    made.enable_truncation(16)
    made.enable_padding(length=16)
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def plain(path):
    """Return the library's own tokenizer, which neither cuts nor fills up."""
    made = tokenizers.Tokenizer.from_file(str(path))
    made.no_truncation()
    made.no_padding()
    return made


def test_counts_are_the_library_s_own_whatever_the_file_says_of_truncation_and_padding(dselect, trained):
    counted = dselect("tokens", "--tokenizer", trained, stdin=lines(pool())).records
    library = plain(trained)
    expected = [len(library.encode(record["text"], add_special_tokens=False).ids) for record in pool()]
    assert [record["token_count"] for record in counted] == expected
    assert max(expected) > 16
    special = dselect("tokens", "--tokenizer", trained, "--special", stdin=lines(pool())).records
    assert [record["token_count"] for record in special] == [count + 2 for count in expected]


def test_the_count_is_written_as_an_integer_and_the_line_is_left_as_it_was(dselect, trained):
    line = b'{ "text" : "caf\\u00e9", "n": 1.0e2 } \r\n'
    out = dselect("tokens", "--tokenizer", "bytes", stdin=line).stdout
    assert out == b'{ "text" : "caf\\u00e9", "n": 1.0e2 ,"token_count":5} \r\n'
    assert re.search(rb'"token_count":[1-9]\d*}', dselect("tokens", "--tokenizer", trained, stdin=line).stdout)


@pytest.mark.parametrize("jobs", [3])
def test_any_number_of_jobs_and_a_pipe_give_the_same_bytes(jobs, dselect, trained, tmp_path):
    records = [{"id": f"{copy} {record['id']}", "text": record["text"]} for copy in range(20) for record in pool()]
    write_records(tmp_path / "in.jsonl.zst", records)
    for name in (trained, "words", "bytes"):
        for number in (1, jobs):
            dselect("tokens", "in.jsonl.zst", "--tokenizer", name, "-j", number, "-o", f"{number}.jsonl.zst")
        one = (tmp_path / "1.jsonl.zst").read_bytes()
        assert (tmp_path / f"{jobs}.jsonl.zst").read_bytes() == one
        piped = dselect("tokens", "--tokenizer", name, "-j", jobs, stdin=lines(records)).stdout
        assert piped == read_bytes(tmp_path / "1.jsonl.zst")


def test_a_budget_of_tokens_can_be_spent_on_what_was_counted(dselect, trained, tmp_path):
    write_records(tmp_path / "pool.jsonl.zst", pool())
    counted = dselect("tokens", "pool.jsonl.zst", "--tokenizer", trained, "-o", "counted.jsonl.zst", "--json-summary")
    records = read_records(tmp_path / "counted.jsonl.zst")
    assert counted.summary["tokens"] == sum(record["token_count"] for record in records)
    kept = dselect("select", "counted.jsonl.zst", "--keep", "2ktok", "--json-summary")
    spent = sum(record["token_count"] for record in kept.records)
    assert kept.summary["achieved"] == spent
    assert 2000 - max(record["token_count"] for record in records) < spent <= 2000
    elsewhere = dselect("tokens", "counted.jsonl.zst", "--tokenizer", "words", "--as", "n_words").stdout
    kept = dselect("select", "--keep", "100tok", "--tokens", "n_words", stdin=elsewhere).records
    assert 0 < sum(record["n_words"] for record in kept) <= 100


def test_a_count_that_is_there_already_is_refused_replaced_or_left(dselect):
    data = b'{"text":"a b","token_count":99,"x":1}\n'
    refused = dselect("tokens", "--tokenizer", "words", stdin=data, status=1).stderr
    assert "<stdin>:1:" in refused
    assert "--overwrite" in refused
    replaced = dselect("tokens", "--tokenizer", "words", "--overwrite", stdin=data).stdout
    assert replaced == b'{"text":"a b","x":1,"token_count":2}\n'
    other = dselect("tokens", "--tokenizer", "words", "--as", "n", stdin=data).stdout
    assert other == b'{"text":"a b","token_count":99,"x":1,"n":2}\n'


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_bytes_and_words_are_what_python_finds(texts):
    assert TokenCounter("bytes").score(batch(texts))["token_count"].tolist() == [len(t.encode()) for t in texts]
    expected = [len(re.findall(r"\w+|[^\w\s]+", t.lower())) for t in texts if t.isascii()]
    assert count_words([t for t in texts if t.isascii()]).tolist() == expected


def test_words_of_every_script_are_counted():
    found = TokenCounter("words").score(batch(["", " ", "Ça va? 漢字。", "a-b", "x" * 10_000, "a " * 10_000]))
    assert found["token_count"].tolist() == [0, 0, 5, 3, 1, 10_000]


def test_a_count_does_not_depend_on_the_company(trained):
    texts = [record["text"] for record in pool(200)]
    counter = TokenCounter(read_definition(str(trained)))
    together = counter.score(batch(texts))["token_count"].tolist()
    assert together == [int(counter.score(batch([text]))["token_count"][0]) for text in texts]


def test_an_empty_pool_an_empty_text_and_one_record(dselect, trained, tmp_path):
    (tmp_path / "empty.jsonl").write_bytes(b"")
    for name in (trained, "words", "bytes"):
        dselect("tokens", "empty.jsonl", "--tokenizer", name, "-o", "out.jsonl.zst")
        assert read_records(tmp_path / "out.jsonl.zst") == []
        assert dselect("tokens", "--tokenizer", name, stdin=b'{"text":""}\n').stdout == b'{"text":"","token_count":0}\n'


def test_a_pool_cut_anywhere_leaves_no_output(dselect, tmp_path):
    whole = zstandard.compress(lines(pool()))
    for tenth in range(10):
        (tmp_path / "cut.jsonl.zst").write_bytes(whole[: len(whole) * tenth // 10])
        failed = dselect("tokens", "cut.jsonl.zst", "--tokenizer", "bytes", "-o", "out.jsonl", status=1)
        assert "truncated" in failed.stderr
        assert not (tmp_path / "out.jsonl").exists()


def test_a_tokenizer_cut_anywhere_is_said_to_be_none(dselect, trained, tmp_path):
    whole = trained.read_bytes()
    for tenth in range(10):
        (tmp_path / "cut.json").write_bytes(whole[: len(whole) * tenth // 10])
        failed = dselect("tokens", "--tokenizer", "cut.json", stdin=lines(pool(2)), status=1)
        assert failed.stderr.startswith("dselect: cut.json: not a tokenizer: ")
        assert failed.stderr.count("\n") == 1


BPE = {"type": "BPE", "unk_token": None, "vocab": {"a": 0}, "merges": []}
FOREIGN = {
    "nothing": b"",
    "a list": b"[]",
    "no model": b"{}",
    "another model": definition({"type": "Magic"}).encode(),
    "not UTF-8": b"\xff\xfe",
    "a merge of what is not there": definition({**BPE, "merges": [["a", "z"]]}).encode(),
    "a regular expression that is none": definition(
        BPE, pre_tokenizer={"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated", "invert": False}
    ).encode(),
    "a panic": definition(BPE, normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}).encode(),
    "depth": b'{"model":' + b"[" * 100_000,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_that_is_no_tokenizer_is_one_line(kind, dselect, tmp_path):
    (tmp_path / "t.json").write_bytes(FOREIGN[kind])
    env = {"RUST_BACKTRACE": "1"}
    failed = dselect("tokens", "--tokenizer", "t.json", "-o", "o.jsonl", stdin=lines(pool(2)), status=1, env=env)
    assert failed.stderr.startswith("dselect: t.json: not a tokenizer: ")
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["gpt2", "."])
def test_a_name_that_is_no_file_is_one_line_with_the_way_out(name, dselect):
    failed = dselect("tokens", "--tokenizer", name, stdin=lines(pool(2)), status=1)
    assert f"dselect: {name}: cannot read" in failed.stderr
    assert "bytes or words" in failed.stderr


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_text_that_the_tokenizer_refuses_is_named(jobs, dselect, tmp_path):
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}
    (tmp_path / "t.json").write_text(definition(model, pre_tokenizer={"type": "Whitespace"}))
    data = lines([{"text": "a a"}] * 100 + [{"text": "b"}])
    failed = dselect("tokens", "--tokenizer", "t.json", "-j", jobs, stdin=data, status=1).stderr
    assert failed.startswith("dselect: <stdin>:101: the tokenizer cannot encode this text: ")


def test_merges_are_not_skipped_at_random(tmp_path):
    model = {"type": "BPE", "dropout": 0.5, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
    (tmp_path / "t.json").write_text(definition(model))
    counter = TokenCounter(read_definition(str(tmp_path / "t.json")))
    assert counter.score(batch(["ab" * 50] * 20))["token_count"].tolist() == [50] * 20


def test_without_the_package_the_way_out_is_said_and_words_still_work(dselect, trained, tmp_path):
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "tokenizers.py").write_text("raise ImportError('no such package')\n")
    env = {"PYTHONPATH": str(tmp_path / "hide")}
    failed = dselect("tokens", "--tokenizer", trained, stdin=lines(pool(2)), status=1, env=env)
    assert "pip install 'dselect[tokens]'" in failed.stderr
    assert failed.stderr.count("\n") == 1
    dselect("tokens", "--tokenizer", "words", stdin=lines(pool(2)), env=env)


def test_the_library_is_told_to_use_one_thread(monkeypatch, trained):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    monkeypatch.setenv("RAYON_NUM_THREADS", "8")
    read_definition(str(trained))
    assert (os.environ["TOKENIZERS_PARALLELISM"], os.environ["RAYON_NUM_THREADS"]) == ("false", "1")


def test_a_defect_of_ours_is_not_taken_for_the_library_s(monkeypatch, trained):
    _built.cache_clear()
    monkeypatch.setattr(tokenizers.Tokenizer, "from_str", lambda _: 1 / 0, raising=True)
    with pytest.raises(ZeroDivisionError):
        read_definition(str(trained))


def test_a_float_column_is_still_written_as_floats():
    block, without = add_fields(batch(["a", "b"]), {"x": np.array([1.0, np.nan])}, overwrite=False)
    assert block == b'{"text": "a","x":1.0}\n{"text": "b"}\n'
    assert without == 1


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", ["recipes_zh", "kids_stories", "minified_js"])
def test_real_documents_are_counted_as_the_library_counts_them(name, special, dselect, shared):
    path = shared / "models" / "potion-base-4m-int8" / "tokenizer.json"
    source = shared / "pool" / f"{name}.jsonl.zst"
    options = ["--special"] if special else []
    counted = dselect("tokens", source, "--tokenizer", path, *options).records
    library = plain(path)
    assert len(counted) > 100
    for record in counted:
        assert record["token_count"] == len(library.encode(record["text"], add_special_tokens=special).ids)
