"""Statistics against their definitions in plain Python, rules against values counted by eye."""

import json
import re
from collections import Counter
from math import inf

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dselect.commands.rules import RULES, Judge, Rule, choose_rules
from dselect.kernels import statistics
from dselect.kernels.repetition import repetition_statistics
from dselect.kernels.words import letter_classes, unicode_version
from tests.conftest import COOKING, lines, make_pool, read_records, write_records

BULLETS = "•‣◦▪\u2013*-"
SETS = ["gopher", "gopher-repetition", "c4", "dsir"]
EVERY_SET = [option for name in SETS for option in ("--rules", name)]


def share(part, whole):
    return part / whole if whole else 0.0


def full_lines(text):
    return [line for line in text.split("\n") if line.split()]


def gopher(text):
    """Rae et al. 2021, appendix A.1.1."""
    words, rows = text.split(), full_lines(text)
    runs = re.findall(r"\w+", text)
    return {
        "word_count": len(words),
        "mean_word_length": share(sum(map(len, words)), len(words)),
        "hash_ratio": share(text.count("#"), len(words)),
        "ellipsis_ratio": share(text.count("...") + text.count("…"), len(words)),
        "bullet_lines": share(sum(row.lstrip()[0] in BULLETS for row in rows), len(rows)),
        "ellipsis_lines": share(sum(row.rstrip().endswith(("...", "…")) for row in rows), len(rows)),
        "alphabetic_words": share(sum(any(map(str.isalpha, word)) for word in words), len(words)),
        "stop_words": len({run.lower() for run in runs if run.isascii()} & set(statistics.GOPHER_STOP_WORDS)),
    }


def paragraphs_of(text):
    paragraphs, lines_ = [], []
    for line in [*text.split("\n"), ""]:
        if line.split():
            lines_.append(tuple(line.split()))
        elif lines_:
            paragraphs.append(tuple(lines_))
            lines_ = []
    return paragraphs


def duplicates(things):
    seen, found = set(), []
    for thing in things:
        if thing in seen:
            found.append(thing)
        seen.add(thing)
    return found


def ngrams(words, n):
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def inside(words, n, starts):
    """Return the characters of the words that lie in an n-gram beginning at one of these places."""
    return sum(len(words[i]) for i in {start + k for start in starts for k in range(n)})


def top_gram(words, n):
    """Return the most frequent n-gram: of several the one with the most characters, then the first to get there."""
    times, best, key = Counter(), None, (1, 0)
    for gram in ngrams(words, n):
        times[gram] += 1
        now = (times[gram], sum(map(len, gram)))
        if now[0] > 1 and now > key:
            best, key = gram, now
    return best


def repetition(text):
    """Rae et al. 2021, table A1."""
    words = text.split()
    rows, paragraphs = [tuple(row.split()) for row in full_lines(text)], paragraphs_of(text)
    everything = sum(map(len, words))
    values = {
        "duplicate_lines": share(len(duplicates(rows)), len(rows)),
        "duplicate_line_characters": share(sum(len("".join(row)) for row in duplicates(rows)), everything),
        "duplicate_paragraphs": share(len(duplicates(paragraphs)), len(paragraphs)),
        "duplicate_paragraph_characters": share(
            sum(len("".join(row)) for paragraph in duplicates(paragraphs) for row in paragraph), everything
        ),
    }
    for n in (2, 3, 4):
        best = top_gram(words, n)
        starts = [i for i, gram in enumerate(ngrams(words, n)) if gram == best]
        values[f"top_{n}_gram"] = share(inside(words, n, starts), everything)
    for n in range(5, 11):
        seen, starts = set(), []
        for i, gram in enumerate(ngrams(words, n)):
            if gram in seen:
                starts.append(i)
            seen.add(gram)
        values[f"duplicate_{n}_grams"] = share(inside(words, n, starts), everything)
    return values


def c4(text):
    """Raffel et al. 2020, section 2.2."""
    kept, rows = [], full_lines(text)
    for row in rows:
        lowered = "".join(c.lower() if c.isascii() else c for c in row)
        words, last = row.split(), row.rstrip()
        unwanted = any(phrase.decode() in lowered for phrase in statistics.C4_LINE_PHRASES)
        good = last.endswith((".", "?", "!", '"')) and not last.endswith("...")
        if good and len(words) >= 5 and max(map(len, words)) <= 1000 and not unwanted:
            kept.append(words)
    ends = re.compile(r"""(?:(?<!\.)\.\.?|[!?])["')\]\u2019”]*$""")
    sentences = sum(sum(bool(ends.search(w)) for w in words) + (not ends.search(words[-1])) for words in kept)
    return {
        "sentences": sentences,
        "lorem_ipsum": len(re.findall("lorem ipsum", text, re.IGNORECASE | re.ASCII)),
        "curly_brackets": text.count("{"),
        "kept_lines": share(len(kept), len(rows)),
        "kept_characters": share(sum(len("".join(words)) for words in kept), len("".join(text.split()))),
    }


def dsir(text):
    """Xie et al. 2023, experimental code, on the words of DSIR's featurizer."""
    words = re.findall(r"\w+|[^\w\s]+", text.lower())
    stop = {*statistics.FUNCTION_WORDS, *"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"}
    return {
        "dsir_words": len(words),
        "dsir_top_word": share(max(Counter(words).values(), default=0), len(words)),
        "dsir_other_than_stop_words": share(sum(word not in stop for word in words), len(words)),
        "dsir_other_than_digits": share(sum(word not in set("0123456789") for word in words), len(words)),
    }


DEFINITIONS = {
    "gopher": (statistics.gopher_statistics, gopher),
    "gopher-repetition": (repetition_statistics, repetition),
    "c4": (statistics.c4_statistics, c4),
    "dsir": (statistics.dsir_statistics, dsir),
}
HOSTILE = {
    "empty": "",
    "one letter": "a" * 10_000_000,
    "only line feeds": "\n" * 5_000_000,
    "one word over and over": "a " * 1_000_000,
    "one line over and over": "use cookies.\n" * 200_000,
    "only dots": "." * 1_000_000,
    "only NUL": "\0" * 1_000_000,
}
pieces = st.sampled_from(
    [
        *[
            "the",
            "The",
            "a",
            "b",
            "with",
            "to-be",
            "...",
            "…",
            "….",
            "#",
            "•",
            "- ",
            "\u2013 ",
            "{",
            "x1",
            "7",
            "\u0661",
        ],
        *[
            "é",
            "漢字",
            " ",
            " ",
            "\n",
            "\n",
            "\n\n",
            "\t",
            "\u2003",
            "\r\n",
            ".",
            "!",
            '"',
            "?)",
            "”",
            "_",
            "İ",
            "Σ",
            "🤖",
        ],
        *[
            "JavaScript",
            "use cookies",
            "lorem Ipsum",
            "Privacy\npolicy",
            "one two three four five.",
            "a b c d e f g h ",
        ],
    ]
)
generated = st.lists(pieces, max_size=60).map("".join) | st.text(max_size=60)


@pytest.mark.parametrize("name", SETS)
@given(texts=st.lists(generated, max_size=4))
@example(texts=["java", "script is on, and we use", "cookies here."])
@settings(max_examples=300, deadline=None)
def test_every_statistic_is_its_definition_in_plain_python(name, texts):
    count, definition = DEFINITIONS[name]
    values = count(texts)
    for position, text in enumerate(texts):
        wanted = definition(text)
        assert {key: column[position] for key, column in values.items()} == pytest.approx(wanted, abs=1e-12), text


@pytest.mark.parametrize("name", SETS)
def test_real_documents_give_what_the_definitions_say(name, shared):
    import zstandard

    count, definition = DEFINITIONS[name]
    for file in ("web_crawl", "manpages_other_lang", "code_python", "recipes_zh"):
        data = (shared / "pool" / f"{file}.jsonl.zst").read_bytes()
        texts = [json.loads(line)["text"] for line in zstandard.decompress(data).split(b"\n")[:60]]
        values = count(texts)
        for position, text in enumerate(texts):
            wanted = definition(text)
            assert {key: column[position] for key, column in values.items()} == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_takes_linear_time_and_gives_finite_shares(name, kind):
    # a loop that took quadratic time would not come back
    for column in DEFINITIONS[name][0]([HOSTILE[kind], "and so on"]).values():
        assert np.isfinite(column).all()
        assert (column >= 0).all()


def test_a_batch_gives_what_its_texts_give_alone():
    texts = [record["text"] for record in make_pool(30)] + ["", "漢字 " * 500, "\n\n", "a b " * 3000]
    for count, _ in DEFINITIONS.values():
        together, alone = count(texts), [count([text]) for text in texts]
        for name, column in together.items():
            assert column.tolist() == [values[name][0] for values in alone]


def test_a_letter_is_what_python_says_in_the_version_of_the_table():
    import unicodedata

    if unicodedata.unidata_version != unicode_version():
        pytest.skip("this Python has other letters")
    assert (letter_classes() == 3).tolist() == [chr(point).isalpha() for point in range(0x110000)]


# One text a rule with a value that can be counted, on the bound; and one just beyond it.
WORDS_50 = "word " * 49 + "words"
BY_EYE = [
    ("word_count", WORDS_50, 50, "word " * 49, 49),
    ("word_count", "a " * 100_000, 100_000, "a " * 100_001, 100_001),
    ("mean_word_length", "ab abcd", 3, "ab abc", 2.5),
    ("mean_word_length", "abcdefghij", 10, "abcdefghijk", 11),
    ("hash_ratio", "# b c d e f g h i j", 0.1, "# b c d e f g h #", 2 / 9),
    ("ellipsis_ratio", "a... b c d e f g h i j", 0.1, "a… b... c d e f g h i j", 0.2),
    ("bullet_lines", "- a\n" * 9 + "b", 0.9, "• a\n\n" * 10, 1),
    ("ellipsis_lines", "a...\n" * 3 + "b\n" * 7, 0.3, "a…\n" * 4 + "b\n" * 6, 0.4),
    ("alphabetic_words", "a b c d 5", 0.8, "a b c 4 5", 0.6),
    ("stop_words", "The cat, the dog AND me", 2, "the other thee", 1),
    ("duplicate_lines", "a\n" * 4 + "b\nc\nd\ne\nf\ng", 0.3, "a\n" * 5 + "b\nc\nd\ne\nf", 0.4),
    ("duplicate_paragraphs", "a\n\n" * 4 + "b\n\nc\n\nd\n\ne\n\nf\n\ng", 0.3, "a\nb\n\na\nb", 0.5),
    ("duplicate_line_characters", "ab\nab\nabcdef", 0.2, "ab\nab\nabcde", 2 / 9),
    ("duplicate_paragraph_characters", "a\nb\n\na\nb\n\nabcdef", 0.2, "a\nb\n\na\nb\n\nabcde", 2 / 9),
    ("top_2_gram", "a b x a b " + "y" * 15, 0.2, "a b x a b " + "y" * 14, 4 / 19),
    ("top_3_gram", "a b c x a b c z a b c " + "y" * 39, 0.18, "a a a a", 1),
    ("top_4_gram", "a b c d x a b c d " + "y" * 41, 0.16, "a b c d a b c d", 1),
    ("duplicate_5_grams", "aa b c d e x aa b c d e " + "y" * 27, 0.15, "a b c d e x a b c d e", 5 / 11),
    ("duplicate_6_grams", "aa b c d e f " * 2 + "y" * 36, 0.14, "aa b c d e f " * 2 + "y" * 35, 7 / 49),
    ("duplicate_7_grams", "aaaaaaa b c d e f g " * 2 + "y" * 74, 0.13, "a a a a a a a a", 1 - 1 / 8),
    ("duplicate_8_grams", "aaaaa b c d e f g h " * 2 + "y" * 76, 0.12, "a b c d e f g h " * 2, 0.5),
    ("duplicate_9_grams", "aaa b c d e f g h i " * 2 + "y" * 78, 0.11, "a b c d e f g h i " * 2, 0.5),
    ("duplicate_10_grams", "a b c d e f g h i j " * 2 + "y" * 80, 0.1, "a b c d e f g h i j " * 2 + "y" * 79, 10 / 99),
    ("sentences", 'It is so. Is it? "It is so!"', 3, "It is so, is it so?", 1),
    ("lorem_ipsum", "Lorem dolor ipsum", 0, "Lorem Ipsum dolor", 1),
    ("curly_brackets", "a } b", 0, "a { b", 1),
    ("dsir_words", "word " * 41, 41, "word " * 40, 40),
    ("dsir_words", "word " * 499, 499, "word " * 500, 500),
    ("dsir_top_word", "a b c d e f", 1 / 6, "a b c d e", 0.2),
    ("dsir_top_word", " ".join(f"w{i}" for i in range(49)), 1 / 49, " ".join(f"w{i}" for i in range(50)), 0.02),
    ("dsir_other_than_stop_words", "the cat and , a dog", 1 / 3, "the of and , a to at cat dog mouse", 0.3),
    ("dsir_other_than_stop_words", "the cat dog", 2 / 3, "the of and cat dog mouse hen fox owl elk", 0.7),
    ("dsir_other_than_digits", "a b c d e 7", 5 / 6, "a b c 77 7", 0.8),
]


@pytest.mark.parametrize(("name", "good", "value", "bad", "beyond"), BY_EYE)
def test_a_rule_passes_on_its_bound_as_it_was_published_and_fails_beyond(name, good, value, bad, beyond):
    rule = next(rule for rule in RULES if rule.name == name)
    count, _ = DEFINITIONS[rule.set]
    values = count([good, bad])[name]
    assert values.tolist() == pytest.approx([value, beyond])
    assert rule.fails(values).tolist() == [False, True]


def test_the_bounds_are_those_of_the_papers():
    quality = {
        "word_count": (50, 100_000), "mean_word_length": (3, 10), "hash_ratio": (-inf, 0.1),
        "ellipsis_ratio": (-inf, 0.1), "bullet_lines": (-inf, 0.9), "ellipsis_lines": (-inf, 0.3),
        "alphabetic_words": (0.8, inf), "stop_words": (2, inf),
    }  # fmt: skip
    table = [0.3, 0.3, 0.2, 0.2, 0.2, 0.18, 0.16, 0.15, 0.14, 0.13, 0.12, 0.11, 0.1]
    assert {rule.name: (rule.low, rule.high) for rule in choose_rules(["gopher"])} == quality
    assert [rule.high for rule in choose_rules(["gopher-repetition"])] == table
    strict = {"dsir_words": (40, 500), "dsir_top_word": (0.02, 0.2), "dsir_other_than_stop_words": (0.3, 0.7)}
    found = {rule.name: (rule.low, rule.high) for rule in choose_rules(["dsir"]) if rule.strict}
    assert found == {**strict, "dsir_other_than_digits": (0.8, inf)}


def test_every_rule_but_the_statistics_without_a_bound_was_tried_on_its_bound():
    bounded = {rule.name for rule in RULES if (rule.low, rule.high) != (-inf, inf)}
    assert bounded == {name for name, *_ in BY_EYE}
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_what_c4_would_do_to_lines_is_a_statistic():
    kept = "This is a line that stays."
    removed = [
        "No end mark in this line", "Four words in it.", "It trails off and ends with dots...",
        "Please turn JavaScript on to see it.", "Read our Privacy Policy before you go on.",
        "Too long " + "x" * 1001 + " is it now.",
    ]  # fmt: skip
    values = statistics.c4_statistics(["\n".join([kept, *removed, "", kept])])
    assert values["kept_lines"] == pytest.approx([2 / 8])
    assert values["sentences"].tolist() == [2]
    characters = sum(len("".join(line.split())) for line in [kept, *removed, kept])
    assert values["kept_characters"] == pytest.approx([2 * len(kept.replace(" ", "")) / characters])


PROSE = "The onions have to be cut with a knife, and that takes the better part of an hour. " * 5


def test_records_get_their_statistics_and_the_rules_they_fail(dselect):
    run = dselect("rules", "--json-summary", stdin=lines([{"text": PROSE}, {"text": ""}, {"text": "# " * 60}]))
    good, empty, hashes = run.records
    assert good["rules_failed"] == ""
    assert good["rules_word_count"] == 90
    assert good["rules_stop_words"] == 8
    assert list(good) == ["text", *(f"rules_{r.name}" for r in choose_rules(["gopher"])), "rules_failed"]
    assert empty["rules_failed"] == "word_count,mean_word_length,alphabetic_words,stop_words"
    assert hashes["rules_failed"] == "mean_word_length,hash_ratio,alphabetic_words,stop_words"
    assert run.summary["passed"] == 1
    assert run.summary["failed"]["word_count"] == 1
    assert run.summary["failed"]["hash_ratio"] == 1
    assert run.summary["failed"]["bullet_lines"] == 0
    spoken = dselect("rules", stdin=lines([{"text": PROSE}, {"text": ""}])).stderr
    assert "1 pass; 1 fail word_count; 1 fail mean_word_length" in spoken


def test_repetition_is_found_and_every_set_can_be_asked_for_at_once(dselect):
    run = dselect("rules", *EVERY_SET, stdin=lines([{"text": PROSE}]))
    (record,) = run.records
    assert {f"rules_{rule.name}" for rule in RULES} < set(record)
    assert "duplicate_5_grams" in record["rules_failed"].split(",")


def test_keep_if_passes_writes_the_passing_lines_as_they_would_be_written_anyway(dselect, pool):
    options = ["--bound", "stop_words:1:", "--bound", "word_count:20:"]
    everything = dselect("rules", pool, *options)
    kept = dselect("rules", pool, *options, "--keep-if-passes", "--json-summary")
    passing = [line for line in everything.stdout.split(b"\n") if line.endswith(b'"rules_failed":""}')]
    assert kept.stdout == b"".join(line + b"\n" for line in passing)
    assert 0 < len(passing) < 300
    assert kept.summary["kept"] == kept.summary["passed"] == len(passing)


def test_lines_pass_byte_for_byte_but_for_the_new_fields(dselect, tmp_path):
    odd = b'{ "text" : "caf\\u00e9 \xc3\xa9", "n": 1.0e2, "z": [ ] }\r\n{"text":"b"}   \n'
    (tmp_path / "odd.jsonl").write_bytes(odd)
    out = dselect("rules", "odd.jsonl").stdout
    for before, after in zip(odd.split(b"\n")[:2], out.split(b"\n"), strict=False):
        brace = before.rindex(b"}")
        assert after.startswith(before[:brace] + b',"rules_word_count":')
        assert after.endswith(before[brace:])


@pytest.mark.parametrize("options", [[], ["--keep-if-passes", "--bound", "word_count:20:"]])
def test_any_number_of_jobs_and_any_shards_give_the_same_bytes(options, dselect, pool, tmp_path):
    records = make_pool()
    for shard in range(3):
        write_records(tmp_path / "shards" / f"{shard}.jsonl", records[shard * 100 : shard * 100 + 100])
    dselect("rules", pool, *EVERY_SET, "-o", "one.jsonl.zst", "-j", 1, *options)
    dselect("rules", pool, *EVERY_SET, "-o", "two.jsonl.zst", "-j", 2, *options)
    dselect("rules", "shards", *EVERY_SET, "-o", "shards.jsonl.zst", "-j", 2, *options)
    one = (tmp_path / "one.jsonl.zst").read_bytes()
    assert one == (tmp_path / "two.jsonl.zst").read_bytes()
    assert read_records(tmp_path / "one.jsonl.zst") == read_records(tmp_path / "shards.jsonl.zst")


def test_select_reads_the_fields(dselect, pool):
    ruled = dselect("rules", pool).stdout
    kept = dselect("select", "--by", "rules_word_count", "--keep", 5, stdin=ruled).records
    longest = sorted((len(record["text"].split()) for record in make_pool()), reverse=True)[:5]
    assert sorted((record["rules_word_count"] for record in kept), reverse=True) == longest
    shared_out = dselect("select", "--within", "rules_failed", "--quota", "equal", "--keep", 6, stdin=ruled).records
    assert len({record["rules_failed"] for record in shared_out}) > 1


def test_a_bound_replaces_what_was_published(dselect):
    stdin = lines([{"text": " ".join(COOKING * 2)}])
    options = ["--bound", "word_count:10:30", "--bound", "stop_words::0"]
    assert dselect("rules", *options, stdin=stdin).records[0]["rules_failed"] == "word_count,stop_words"
    assert Rule("s", "n", -inf, inf, "").fails(np.array([0.0, 1e300])).tolist() == [False, False]
    (rule,) = [rule for rule in choose_rules(["dsir"], ["dsir_words:10:20"]) if rule.name == "dsir_words"]
    assert rule.fails(np.array([10, 11, 20])).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bound", "word_count:50"], "cannot read --bound"),
        (["--bound", "word_count:5:4"], "cannot read --bound"),
        (["--bound", "word_count:a:b"], "cannot read --bound"),
        (["--bound", "word_count:nan:"], "cannot read --bound"),
        (["--bound", "sentences:3:"], "none of the rules: word_count"),
        (["--rules", "goffer"], "gopher, gopher-repetition, c4, dsir"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said, dselect, pool):
    assert said in dselect("rules", pool, *options, status=2).stderr


def test_fields_that_are_there_already_are_refused_replaced_or_named_otherwise(dselect):
    once = dselect("rules", stdin=lines([{"text": PROSE}])).stdout
    assert "--overwrite" in dselect("rules", stdin=once, status=1).stderr
    assert dselect("rules", "--overwrite", stdin=once).stdout == once
    assert "again_failed" in dselect("rules", "--as", "again", stdin=once).records[0]
    clash = dselect("rules", stdin=lines([{"text": "a", "rules_failed": 1}]), status=1).stderr
    assert '"rules_failed" already' in clash


def test_the_list_shows_every_rule_with_what_passes_and_its_source(dselect):
    table = dselect("rules", "--list").stdout.decode()
    for rule in RULES:
        assert re.search(rf"^{rule.set} +{rule.name} +.*{re.escape(rule.source)}$", table, re.MULTILINE)
    assert re.search(r"^dsir +dsir_words +40 < x < 500 ", table, re.MULTILINE)
    some = dselect("rules", "--list", "--rules", "c4", "--bound", "kept_lines:0.5:").stdout.decode()
    assert "word_count" not in some
    assert re.search(r"^c4 +kept_lines +0.5 <= x ", some, re.MULTILINE)


def test_an_empty_pool_gives_an_empty_output(dselect, tmp_path):
    (tmp_path / "empty.jsonl").write_bytes(b"")
    run = dselect("rules", "empty.jsonl", "--keep-if-passes", "--json-summary")
    assert run.stdout == b""
    assert run.summary["kept"] == 0


def test_the_function_words_are_lower_case_and_each_is_named_once():
    words = statistics.FUNCTION_WORDS
    assert len(set(words)) == len(words)
    assert all(word == word.lower() and word.isalpha() for word in words)


def test_a_judge_travels_to_workers():
    import pickle

    judge = Judge(choose_rules(["c4"]))
    assert pickle.loads(pickle.dumps(judge)) == judge


SENTENCE = (
    "The tenant shall have to pay the rent of {} rooms to the landlord with the fees that may be due in month {}."
)
VARIED = [SENTENCE.format(i, 3 * i + 1) for i in range(9)]
LONGER = " ".join(f"{word}{i}" for i in range(6) for word in COOKING)
GOLDEN_TEXTS = {
    "varied": "\n".join(VARIED) + "\n" + " and ".join(COOKING) + " that be",
    "short": VARIED[0],
    "long words": ("antidisestablishmentarianism and that " * 60).strip(),
    "short words": "a of b to c I d he e we f it " * 10,
    "hashes": f"# {VARIED[0]}" + " # that" * 60,
    "ellipses": " ".join(f"{word}... and that" for word in COOKING * 3),
    "bullets": "\n".join(f"- {line}" for line in VARIED),
    "trailing": "\n".join(f"{line[:-1]}..." for line in VARIED),
    "no letters": "the and " + "123 4567 89 " * 40,
    "no stop words": "stir onions butter simmer sauce garlic salt pepper basil pasta " * 8,
    "one line again and again": "\n".join([VARIED[0]] * 5 + VARIED),
    "one phrase again and again": " ".join(f"salt and pepper {word}{i}" for i, word in enumerate(COOKING * 2)),
    "a long passage twice": f"{LONGER} {LONGER}",
    "nothing twice": LONGER,
}
# What datatrove 0.10.1 (with spacy 3.8.18) says of them: the first rule each of its two filters fails, by our name.
GOLDEN = {
    "varied": (None, "top_4_gram"),
    "short": ("word_count", "top_4_gram"),
    "long words": ("mean_word_length", "top_2_gram"),
    "short words": ("mean_word_length", "top_3_gram"),
    "hashes": ("hash_ratio", "top_2_gram"),
    "ellipses": ("ellipsis_ratio", "top_2_gram"),
    "bullets": ("bullet_lines", "top_4_gram"),
    "trailing": ("ellipsis_lines", "top_4_gram"),
    "no letters": ("alphabetic_words", "top_2_gram"),
    "no stop words": ("stop_words", "top_3_gram"),
    "one line again and again": (None, "duplicate_lines"),
    "one phrase again and again": ("stop_words", "top_2_gram"),
    "a long passage twice": ("stop_words", "duplicate_5_grams"),
    "nothing twice": ("stop_words", None),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_texts_get_the_verdict_of_datatrove(name):
    """Say what the reference says.

    Made by `pip install datatrove spacy`, then for each text `GopherQualityFilter().filter(Document(text=text, id=""))`
    and the same with GopherRepetitionFilter; the reasons they return, as our names of the rules.
    """
    for rules, reason in zip(("gopher", "gopher-repetition"), GOLDEN[name], strict=True):
        judge = Judge(choose_rules([rules]))
        values = judge.statistics([GOLDEN_TEXTS[name]])
        failed = [rule.name for rule in judge.rules if rule.fails(values[rule.name])[0]]
        if name == "short" and rules == "gopher-repetition":
            assert failed == []  # theirs: one that occurs once
        elif reason is None:
            assert failed == []
        else:
            assert reason in failed
