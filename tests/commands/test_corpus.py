import json
import os
import random
import stat
import subprocess
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dselect.commands.corpus import split
from tests.conftest import DSELECT, read_bytes, read_records


@pytest.fixture
def text(tmp_path):
    """Two kinds of text and a file beside them."""
    write(tmp_path / "text" / "cooking" / "b.txt", "stir\n")
    write(tmp_path / "text" / "cooking" / "a.txt", "simmer\n")
    write(tmp_path / "text" / "law" / "old" / "deed.txt", "pursuant\n")
    write(tmp_path / "text" / "README", "read me\n")
    return tmp_path / "text"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def ids(outcome):
    return [record["id"] for record in outcome.records]


def sources(outcome):
    return [record["source"] for record in outcome.records]


def texts(outcome):
    return [record["text"] for record in outcome.records]


def test_every_file_becomes_a_record_in_the_order_of_names(dselect, text):
    assert dselect("corpus", "text").records == [
        {"id": "README", "text": "read me\n", "source": "text"},
        {"id": "cooking/a.txt", "text": "simmer\n", "source": "cooking"},
        {"id": "cooking/b.txt", "text": "stir\n", "source": "cooking"},
        {"id": "law/old/deed.txt", "text": "pursuant\n", "source": "law"},
    ]


def test_a_folder_is_named_in_any_spelling(dselect, text):
    expected = dselect("corpus", "text").stdout
    for spelling in ("./text/", text, "text/../text"):
        assert dselect("corpus", spelling).stdout == expected


def test_the_folder_one_stands_in_has_its_own_name_for_a_source(text):
    done = subprocess.run([*DSELECT, "corpus", "."], cwd=text / "cooking", capture_output=True, check=True)
    assert {json.loads(line)["source"] for line in done.stdout.splitlines()} == {"cooking"}


def test_several_folders_give_the_same_records_as_the_folder_they_are_in(dselect, text):
    whole = dselect("corpus", "text").records
    parts = dselect("corpus", "text/cooking", "text/law").records
    assert parts == whole[1:]


def test_a_file_keeps_the_path_it_was_named_by(dselect, text):
    outcome = dselect("corpus", "./text/law/old/deed.txt", "text/cooking/a.txt")
    assert ids(outcome) == ["text/law/old/deed.txt", "text/cooking/a.txt"]
    assert sources(outcome) == ["old", "cooking"]


def test_source_names_all(dselect, text):
    assert set(sources(dselect("corpus", "text", "--source", "mine"))) == {"mine"}


def test_folders_of_the_same_name_are_refused(dselect, tmp_path):
    for parent in ("a", "b"):
        write(tmp_path / parent / "text" / "x.txt", "x")
    outcome = dselect("corpus", "a/text", "b/text", status=1)
    assert "b/text: ids from here and from a/text could be the same" in outcome.stderr


def test_a_file_whose_path_begins_like_a_folder_is_refused(dselect, text, tmp_path):
    write(tmp_path / "other" / "text" / "README", "another")
    assert "could be the same" in dselect("corpus", "other/text", "text/README", status=1).stderr


def test_nothing_is_read_twice(dselect, text):
    assert "named twice" in dselect("corpus", "text", "./text", status=1).stderr
    assert "text/law: this lies in text, which is named too" in dselect("corpus", "text", "text/law", status=1).stderr


def test_include_and_exclude_match_the_path_or_the_name(dselect, text):
    def found(*options):
        return ids(dselect("corpus", "text", *options))

    assert found("--include", "*.txt") == ["cooking/a.txt", "cooking/b.txt", "law/old/deed.txt"]
    assert found("--include", "README", "--include", "law/*") == ["README", "law/old/deed.txt"]
    assert found("--exclude", "a.txt", "--exclude", "README") == ["cooking/b.txt", "law/old/deed.txt"]
    assert found("--include", "*.txt", "--exclude", "cooking/") == ["law/old/deed.txt"]


def test_what_the_globs_leave_out_is_counted_a_folder_once(dselect, text):
    outcome = dselect("corpus", "text", "--exclude", "cooking", "--exclude", "README", "--json-summary")
    assert outcome.summary["excluded"] == 2


def test_dot_files_and_dot_folders_are_passed_over_unless_they_are_named(dselect, text):
    write(text / ".hidden", "no")
    write(text / ".git" / "config", "no")
    outcome = dselect("corpus", "text", "--json-summary")
    assert len(outcome.records) == 4
    assert outcome.summary["hidden"] == 2
    assert ids(dselect("corpus", "text/.git")) == ["config"]
    assert ids(dselect("corpus", "text/.hidden")) == ["text/.hidden"]


def test_links_to_files_are_read_and_links_to_folders_are_not(dselect, text):
    (text / "again").symlink_to(text)
    (text / "link.txt").symlink_to(text / "README")
    outcome = dselect("corpus", "text", "--json-summary")
    assert ids(outcome) == ["README", "cooking/a.txt", "cooking/b.txt", "law/old/deed.txt", "link.txt"]
    assert outcome.summary["linked_folders"] == 1


def test_a_link_to_nothing_stops_the_run(dselect, text):
    (text / "gone.txt").symlink_to(text / "nowhere")
    assert "gone.txt: cannot read: No such file" in dselect("corpus", "text", status=1).stderr


def test_a_pipe_in_a_folder_is_passed_over_and_a_named_one_is_read(dselect, text, tmp_path):
    os.mkfifo(text / "pipe")
    assert dselect("corpus", "text", "--json-summary").summary["special_files"] == 1
    script = f"{' '.join(DSELECT)} corpus <(echo piped)"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, check=True)
    assert json.loads(done.stdout)["text"] == "piped\n"


def test_binary_files_are_passed_over_and_counted(dselect, text):
    write(text / "picture", b"\x89PNG\0\xff")
    write(text / "late", b"x" * 8191 + b"\0")
    outcome = dselect("corpus", "text", "--json-summary")
    assert len(outcome.records) == 4
    assert outcome.summary["binary_files"] == 2
    assert "2 binary files passed over" in dselect("corpus", "text").stderr


def test_a_nul_after_the_first_8_kib_is_text(dselect, text):
    write(text / "law" / "nul", b"x" * 8192 + b"\0")
    assert texts(dselect("corpus", "text/law"))[0] == "x" * 8192 + "\0"


def test_empty_and_blank_files_are_passed_over_and_counted(dselect, text):
    write(text / "empty", "")
    write(text / "blank", " \r\n\u00a0\n")
    write(text / "mark", "\ufeff")
    outcome = dselect("corpus", "text", "--json-summary")
    assert len(outcome.records) == 4
    assert outcome.summary["short_texts"] == 3
    assert len(dselect("corpus", "text", "--min-chars", 0).records) == 7


def test_min_chars_counts_characters_without_the_blanks_at_the_ends(dselect, tmp_path):
    write(tmp_path / "t" / "four", "  ëëëë\n\n")
    write(tmp_path / "t" / "five", "ëë ëë")
    assert ids(dselect("corpus", "t", "--min-chars", 5)) == ["five"]


def test_a_file_that_is_not_utf8_stops_the_run_and_leaves_no_output(dselect, text, tmp_path):
    write(text / "law" / "latin.txt", "\ufefflié".encode() + b"\xe9")
    outcome = dselect("corpus", "text", "-o", "pool.jsonl.zst", "--rejects", "bad.txt", status=1)
    assert "dselect: text/law/latin.txt: not UTF-8: byte 7 (--bad-files skip passes over such files)" in outcome.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_a_failed_run_ends_a_pipe_so_that_the_reader_refuses_it(dselect, text, target):
    write(text / "z.txt", b"\xe9")
    piped = dselect("corpus", "text", status=1).stdout
    assert "failed" in dselect("dsir", "--target", target, stdin=piped, status=1).stderr


def test_bad_files_are_skipped_counted_and_listed(dselect, text, tmp_path):
    write(text / "latin.txt", b"\xe9")
    write(text / "law" / "cut.txt", "é".encode()[:1])
    options = ("--bad-files", "skip", "--rejects", "bad.txt", "--json-summary")
    outcome = dselect("corpus", "text", *options)
    assert len(outcome.records) == 4
    assert outcome.summary["bad_files"] == 2
    assert (tmp_path / "bad.txt").read_text() == "text/latin.txt\ntext/law/cut.txt\n"


def test_text_is_kept_as_it_is_but_for_a_byte_order_mark(dselect, tmp_path):
    write(tmp_path / "t" / "x", '\ufeffone\r\n\ttwo "\u2028"\ufeff\n')
    assert texts(dselect("corpus", "t")) == ['one\r\n\ttwo "\u2028"\ufeff\n']


def test_a_name_that_is_not_utf8_is_escaped(dselect, text):
    write(text / "law" / os.fsdecode(b"caf\xe9.txt"), "coffee")
    assert ids(dselect("corpus", "text/law")) == ["caf\\xe9.txt", "old/deed.txt"]


def test_a_file_that_cannot_be_read_stops_the_run(dselect, text):
    os.mknod(text / "socket", stat.S_IFSOCK | 0o600)  # a name that even root cannot open
    assert "text/socket: cannot read: No such device" in dselect("corpus", "text/socket", status=1).stderr


def test_what_does_not_exist_and_what_holds_nothing_is_an_error(dselect, text, tmp_path):
    (tmp_path / "bare").mkdir()
    assert "dselect: nowhere: cannot read: No such file" in dselect("corpus", "nowhere", status=1).stderr
    assert "dselect: bare: no files to read in this folder" in dselect("corpus", "bare", status=1).stderr
    assert "no files to read" in dselect("corpus", "text", "--include", "*.md", status=1).stderr
    dselect("corpus", status=2)


def test_outputs_hold_the_same_records(dselect, text, tmp_path):
    expected = dselect("corpus", "text").stdout
    for name in ("pool.jsonl", "pool.jsonl.zst"):
        dselect("corpus", "text", "-o", name)
        assert read_bytes(tmp_path / name) == expected
    dselect("corpus", "text", "-o", "pool/")
    assert read_bytes(tmp_path / "pool" / "00000.jsonl.zst") == expected


def test_an_output_is_never_its_own_input(dselect, text):
    dselect("corpus", "text", "-o", "text/pool.jsonl")
    outcome = dselect("corpus", "text", "-o", "text/pool.jsonl", status=1)
    assert "text/pool.jsonl: this output is one of the inputs (--exclude leaves it out)" in outcome.stderr
    dselect("corpus", "text", "-o", "text/pool.jsonl", "--exclude", "pool.jsonl")
    assert len(read_records(text / "pool.jsonl")) == 4
    with (text / "pool.jsonl").open("wb") as file:
        done = subprocess.run([*DSELECT, "corpus", "text"], cwd=text.parent, stdout=file, stderr=-1, check=False)
    assert done.returncode == 1


def test_the_summary_says_documents_and_bytes_of_text(dselect, text):
    write(text / "z", "\ufeffäöü\r\n")
    summary = dselect("corpus", "text", "--json-summary").summary
    assert (summary["documents"], summary["bytes"]) == (5, len("read me\nsimmer\nstir\npursuant\näöü\r\n".encode()))


def test_long_texts_are_cut_at_blank_lines_and_their_pieces_numbered(dselect, tmp_path):
    write(tmp_path / "t" / "long", "one two\nthree\n\nfour five\nsix\n\nseven\n")
    write(tmp_path / "t" / "short", "one\n\ntwo\n")
    outcome = dselect("corpus", "t", "--split", 20)
    assert ids(outcome) == ["long#0", "long#1", "long#2", "short"]
    assert texts(outcome) == ["one two\nthree\n\n", "four five\nsix\n\n", "seven\n", "one\n\ntwo\n"]


def test_without_a_blank_line_a_text_is_cut_at_a_line_end_then_at_white_space_then_anywhere():
    assert list(split("one two\nthree four\nfive", 12)) == ["one two\n", "three four\n", "five"]
    assert list(split("one two three four", 8)) == ["one two ", "three ", "four"]
    assert list(split("onetwothreefour", 4)) == ["onet", "woth", "reef", "our"]
    assert list(split("one two\r\n\r\nthree four\r\n", 14)) == ["one two\r\n\r\n", "three four\r\n"]


@given(st.text(alphabet="ab \r\n\té", max_size=200), st.integers(1, 40))
def test_pieces_joined_are_the_text_and_only_the_last_is_short(text, most):
    pieces = list(split(text, most))
    assert "".join(pieces) == text
    assert all((most + 1) // 2 <= len(piece) <= most for piece in pieces[:-1])
    assert len(pieces[-1]) <= most


def test_blank_pieces_are_counted_and_the_numbers_of_the_others_stay(dselect, tmp_path):
    write(tmp_path / "t" / "x", "aaaa\n\n\n\n\n\n\n\n\n\n\nbbbb")
    outcome = dselect("corpus", "t", "--split", 5, "--json-summary")
    assert ids(outcome) == ["x#0", "x#3"]
    assert outcome.summary["short_texts"] == 2


@settings(deadline=None)
@given(st.sampled_from(["\n", "x", " ", "\r\n", "\n \t"]))
def test_cutting_takes_time_in_proportion_to_the_text(pattern):
    began = time.monotonic()
    assert sum(1 for _ in split(pattern * 300_000, 10_000)) >= 30
    assert time.monotonic() - began < 2


def test_the_records_are_a_pool_for_dsir(dselect, tmp_path, target):
    random_ = random.Random(0)
    for number in range(60):
        kind, words = ("cooking", "onion sauce") if number % 2 else ("law", "tenant clause")
        write(tmp_path / "text" / kind / f"{number}.txt", " ".join(random_.choices(words.split(), k=40)))
    dselect("corpus", "text", "-o", "made.jsonl.zst")
    kept = dselect("dsir", "made.jsonl.zst", "--target", target, "--keep", "50%")
    assert set(sources(kept)) == {"cooking"}
