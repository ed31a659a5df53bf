"""A page that tells the truth of files, and in which nothing that a file holds can run."""

import json
import os
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dselect.reporting.markup import Html, escaped, join, tag
from dselect.reporting.survey import Survey
from dselect.sketch import BottomK, Distinct
from tests.conftest import DSELECT, long, make_pool, make_target, write_records

pytest.importorskip("matplotlib")

EVIL = "<script>document.title='ran'</script>"
TAGS = "html head meta title style body main section h1 h2 h3 h4 p div b small ol li br code span i figure figcaption"
TAGS += " table thead tbody tr th td article header pre svg g path defs use text tspan clippath rect"
WHOLE = re.compile(rb"^<!DOCTYPE html>\n.*</html>\n$", re.DOTALL)


class Reader(HTMLParser):
    """What a page is made of: its elements, their attributes, its text without the style."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags, self.attributes, self.text, self._style = set(), [], [], False
        self.feed(path.read_text("utf-8"))
        self.said = " ".join("".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        self._style = tag == "style"

    def handle_endtag(self, tag):
        self._style = False
        if tag in ("td", "th", "p", "b", "small", "li", "div"):
            self.text.append(" ")

    def handle_data(self, data):
        if not self._style:
            self.text.append(data)


def run(folder, *arguments):
    subprocess.run([*DSELECT, *map(str, arguments), "-q"], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make a scored pool, a selection from it, and its report."""
    folder = tmp_path_factory.mktemp("report")
    records = [{**record, "other": len(record["text"]) / 7} for record in make_pool()]
    write_records(folder / "pool.jsonl.zst", [*records, *records[2:17:3]])  # five of law twice
    write_records(folder / "target.jsonl", make_target())
    run(folder, "dsir", "pool.jsonl.zst", "--target", "target.jsonl", "-o", "scored.jsonl.zst")
    run(folder, "select", "scored.jsonl.zst", "--by", "dsir", "--keep", "40", "-o", "picked.jsonl.zst")
    run(folder, "report", "picked.jsonl.zst", "-o", "report.html", "-j", "1")
    return folder


def test_a_selection_is_shown_beside_the_pool_that_its_manifest_names(made):
    page = Reader(made / "report.html")
    for told in ("40 documents kept of 305, 13.1%", "40 of 100 ", "0 of 105 ", "the cut", "Last kept", "First dropped"):
        assert told in page.said, told
    assert "dselect select scored.jsonl.zst --by dsir --keep 40 -o picked.jsonl.zst -q" in page.said
    assert "dselect dsir pool.jsonl.zst --target target.jsonl -o scored.jsonl.zst -q" in page.said  # the step before
    assert "In the pool, 1.64% of the documents have a text that was there before" in page.said
    assert page.said.count("2 times") == 3
    assert "dsir, other" in page.said
    assert "Along the ranking, best first" in page.said
    assert "article" in page.tags


def test_the_examples_at_the_cut_are_the_records_at_the_cut(made, dselect):
    ranked = dselect("select", made / "scored.jsonl.zst", "--by", "dsir", "--keep", "43").records
    ranked = sorted(ranked, key=lambda record: -record["dsir"])
    kept, dropped = ranked[39], ranked[40]
    said = Reader(made / "report.html").said
    around = said[said.index("Last kept") : said.index("Along the ranking")]
    at = around.index("First dropped")
    assert f"dsir {kept['dsir']:.4g}" in around[:at]
    assert f"dsir {dropped['dsir']:.4g}" in around[at:]
    assert kept["text"].split()[0] in around[:at]


def test_the_page_needs_nothing_else_and_is_the_same_for_any_jobs(made):
    page = (made / "report.html").read_bytes()
    assert WHOLE.match(page)
    reader = Reader(made / "report.html")
    assert reader.tags <= set(TAGS.split())
    for name, value in reader.attributes:
        assert not name.startswith("on")
        if name in ("href", "src", "xlink:href"):
            assert value.startswith("#")
        assert name.startswith("xmlns") or "://" not in (value or ""), value
    assert b"url(" not in page.replace(b"url(#", b"")
    assert b"script" not in page.split(b"</head>")[1]
    assert b"default-src 'none'; style-src 'unsafe-inline'" in page
    run(made, "report", "picked.jsonl.zst", "-o", "again.html", "-j", "2")
    again = (made / "again.html").read_bytes()
    assert page == again
    assert len(page) < 2_000_000


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Script tags in every field of every kind of file, and a page of them all."""
    folder = tmp_path_factory.mktemp("hostile")
    breakouts = ["</pre>", "</style>", "</title>", "]]>", "-->", '"><svg onload=document.title="ran">', "$x$", "&lt;"]
    breakouts += ["<img src=x onerror=document.title='ran'>", "\x00\x1b[2J\u202e\u2028", "漢字 🤖", "x" * 3000]
    records = []
    for number in range(60):
        evil = breakouts[number % len(breakouts)] + EVIL + str(number)
        record = {
            "id": [evil] if number % 2 else evil,
            "text": evil * (1 + number % 3),
            "source": evil[:400],
            EVIL: number,
        }
        record |= {"contamination": 0.5, "contamination_source": evil, "$a_{b$": number % 7}
        records.append(record)
    write_records(folder / "pool.jsonl", [*records, records[0]])
    run(folder, "select", "pool.jsonl", "--by", EVIL, "--keep", "20", "-o", "picked.jsonl")
    path = folder / "picked.jsonl.manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    manifest["argv"] += [EVIL, breakouts[5]]
    manifest["key"]["dselect"] = manifest["finished"] = manifest["key"]["command"] = EVIL
    manifest["key"]["settings"]["seed"] = EVIL
    manifest["files"] = {EVIL: [{"path": EVIL, "name": EVIL}]}
    manifest["summary"] |= {"spread": {EVIL: {"rank_correlation_with_length": 1.0, "quantiles": {"0.5": EVIL}}}}
    manifest["summary"] |= {"contaminated": 1, "contaminated_by": {EVIL: 1}}
    path.write_text(json.dumps(manifest), "utf-8")
    write_records(folder / "t.jsonl", make_target(5))
    run(folder, *["eval", "picked.jsonl", "--target", "t.jsonl", "--order", 2, "--seeds", 1, "--json", "e.json"])
    report = json.loads((folder / "e.json").read_text("utf-8"))
    report |= {"target": [f"{EVIL}{breakouts[5]}"], "lm": EVIL}
    report["selections"] = [{**report["selections"][0], "selection": f"{name}{EVIL}"} for name in breakouts]
    (folder / "e.json").write_text(json.dumps(report), "utf-8")
    run(folder, "report", "picked.jsonl", "e.json", "-o", "report.html")
    return folder


def test_whatever_a_file_holds_is_text_on_the_page(hostile):
    reader = Reader(hostile / "report.html")
    assert reader.tags <= set(TAGS.split())
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert reader.said.count(EVIL) > 50
    assert f"dselect select pool.jsonl --by {shlex.quote(EVIL)}" in reader.said
    assert "漢字 🤖" in reader.said
    page = (hostile / "report.html").read_text("utf-8")
    assert "<script" not in page
    assert not set("\x00\x1b\u202e\u2028") & set(page)


@given(st.text(), st.text())
def test_markup_shows_any_text_and_is_none(first, second):
    made = tag("p", first, tag("b", second), class_=first)
    reader = HTMLParser()
    found, attributes = [], []
    reader.handle_data = found.append
    reader.handle_starttag = lambda name, attrs: attributes.append((name, dict(attrs)))
    reader.feed(made)
    reader.close()
    assert [name for name, _ in attributes] == ["p", "b"]
    shown = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in first + second)
    assert "".join(found) == shown
    assert isinstance(join([made, escaped(first)]), Html)


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def opened(page, width, tmp_path):
    """Return what a real browser makes of a page, as markup, once everything that could run has run."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    options += [f"--window-size={width},900", "--virtual-time-budget=3000", "--dump-dom", f"file://{page}"]
    done = subprocess.run([BROWSER, *options], capture_output=True, check=True, timeout=120)
    return done.stdout.decode()


@long
@pytest.mark.skipif(BROWSER is None, reason="no browser here")
def test_nothing_runs_in_a_real_browser_and_nothing_is_cut_off(hostile, tmp_path):
    page = (hostile / "report.html").read_text("utf-8")
    open_ = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    control = tmp_path / "control.html"
    control.write_text(open_.replace("</main>", f"{EVIL}</main>"), "utf-8")
    assert "<title>ran</title>" in opened(control, 1280, tmp_path), "the test would not notice a script that runs"
    control.write_text(page.replace("</main>", f"{EVIL}</main>"), "utf-8")
    assert "<title>ran</title>" not in opened(control, 1280, tmp_path), "the policy forbids no script"
    # without the policy, escaping alone must do; a script of the test's own then measures the page, in a frame as wide
    # as a telephone too: a browser's window is never that narrow
    measure = """<script>parent.postMessage([innerWidth, document.title,
      document.documentElement.scrollWidth, [...document.querySelectorAll("main *")].filter(e => !e.closest("svg")
        && (e.scrollWidth > e.clientWidth + 1 && e.clientWidth || e.getBoundingClientRect().right > innerWidth))
        .map(e => e.tagName + " " + e.className)], "*")</script>"""
    (tmp_path / "plain.html").write_text(open_.replace("</main>", f"</main>{measure}"), "utf-8")
    for width in (1280, 400):
        frame = tmp_path / "frame.html"
        listen = "<script>onmessage = e => document.title = JSON.stringify(e.data)</script>"
        frame.write_text(f"{listen}<iframe src='plain.html' width={width} height=900 frameborder=0>", "utf-8")
        told = re.search(r"<title>(.*?)</title>", opened(frame, 1400, tmp_path))[1].replace("&amp;", "&")
        inner, title, across, cut = json.loads(told)
        assert (inner, title, cut) == (width, "Selection report", [])
        assert across <= width


def test_a_pool_that_a_method_chose_from_is_found_though_it_carries_no_scores(made, dselect, tmp_path):
    shutil.copy(made / "pool.jsonl.zst", tmp_path)
    shutil.copy(made / "target.jsonl", tmp_path)
    dselect("dsir", "pool.jsonl.zst", "--target", "target.jsonl", "--keep", "30", "-o", "direct.jsonl")
    os.utime(tmp_path / "pool.jsonl.zst")  # the same bytes at another time
    dselect("report", "direct.jsonl", "-o", "direct.html")
    said = Reader(tmp_path / "direct.html").said
    assert "30 documents kept of 305" in said
    assert "The pool's records do not carry it" in said


@long
def test_where_the_pool_has_changed_came_through_a_pipe_or_is_another_the_page_says_so(made, dselect, tmp_path):
    shutil.copy(made / "pool.jsonl.zst", tmp_path)
    shutil.copy(made / "target.jsonl", tmp_path)
    dselect("select", "pool.jsonl.zst", "--keep", "30", "-o", "direct.jsonl")
    with (tmp_path / "pool.jsonl.zst").open("ab") as pool:
        pool.write((tmp_path / "pool.jsonl.zst").read_bytes())
    dselect("report", "direct.jsonl", "-o", "gone.html")
    assert "pool.jsonl.zst is not as it was. --pool FILE names it." in Reader(tmp_path / "gone.html").said
    scored = dselect("dsir", made / "pool.jsonl.zst", "--target", "target.jsonl").stdout
    dselect("select", "--by", "dsir", "--keep", "9", "-o", "piped.jsonl", stdin=scored)
    dselect("report", "piped.jsonl", "-o", "piped.html", "--within", "nothing")
    said = Reader(tmp_path / "piped.html").said
    assert "it came through a pipe" in said
    assert 'No record has the field "nothing"' in said
    dselect("report", "piped.jsonl", "--pool", made / "scored.jsonl.zst", "-o", "named.html")
    assert "9 documents kept of 305" in Reader(tmp_path / "named.html").said
    write_records(tmp_path / "stranger.jsonl", [{"text": "elsewhere", "id": 1}])
    dselect("report", "stranger.jsonl", "--pool", made / "scored.jsonl.zst", "-o", "stranger.html")
    assert (
        "1 of its records, as far as the samples tell, are not in the pool" in Reader(tmp_path / "stranger.html").said
    )


def test_scores_in_attribute_files_and_shards_in_folders_are_found(made, dselect, tmp_path):
    for shard in range(2):
        write_records(tmp_path / "in" / f"{shard}.jsonl", make_pool()[shard * 150 : shard * 150 + 150])
    dselect("dsir", "in", "--target", made / "target.jsonl", "--attributes", "side")
    dselect("select", "in", "--attributes", "side", "--by", "dsir", "--keep", "30", "-o", "out/")
    dselect("report", "out", "-o", "out.html")
    said = Reader(tmp_path / "out.html").said
    assert "30 documents kept of 300" in said
    assert "Along the ranking" in said
    assert "against length: rank correlation" in said


def test_records_alone_an_empty_pool_and_what_cannot_be_shown(made, dselect, tmp_path):
    dselect("report", made / "scored.jsonl.zst", made / "picked.jsonl.zst", "-o", "both.html")
    assert (tmp_path / "both.html").read_text("utf-8").count("<h2>") == 1  # the pool is shown with its selection
    dselect("select", made / "scored.jsonl.zst", "--keep", "9", "--seed", "1", "-o", "chance.jsonl")
    dselect("report", "chance.jsonl", "-o", "chance.html")
    assert "Some that were dropped" in Reader(tmp_path / "chance.html").said
    dselect("report", made / "scored.jsonl.zst", "-o", "alone.html", "--field", "dsir")
    said = Reader(tmp_path / "alone.html").said
    assert "305 documents" in said
    assert "kept" not in said
    dselect("report", "-", "-o", "empty.html")
    assert "0 documents" in Reader(tmp_path / "empty.html").said
    odd = [[1e308, 1, 0, 1e-320], [-1e308, 1 + 2e-16, 0, 0], [0, 1, 0, 1]]
    write_records(tmp_path / "odd.jsonl", [{"text": "x", **dict(zip("abcd", row, strict=True))} for row in odd])
    dselect("report", "odd.jsonl", "-o", "numbers.html")
    write_records(tmp_path / "one.jsonl", [{"text": "", "s": 1}])
    dselect("report", "one.jsonl", "-o", "one.html")
    (tmp_path / "one.jsonl.manifest.json").write_text('{"summary": {"kept": 1}, "inputs": 3, "key": []}', "utf-8")
    dselect("report", "one.jsonl", "-o", "odd.html")
    assert "cannot be understood" in Reader(tmp_path / "odd.html").said
    assert "one of the inputs" in dselect("report", "one.jsonl", "-o", "one.jsonl", status=1).stderr
    assert 'the field "nope"' in dselect("report", "one.jsonl", "--field", "nope", "-o", "x.html", status=1).stderr
    assert "nothing to show" in dselect("report", "one.jsonl.manifest.json", "-o", "x.html", status=2).stderr
    (tmp_path / "fake" / "matplotlib").mkdir(parents=True)
    (tmp_path / "fake" / "matplotlib" / "__init__.py").write_text("raise ImportError\n", "utf-8")
    without = dselect("report", "one.jsonl", "-o", "x.html", env={"PYTHONPATH": str(tmp_path / "fake")}, status=1)
    assert "pip install 'dselect[report]'" in without.stderr
    assert not (tmp_path / "x.html").exists()


def test_evaluations_are_compared_with_the_baseline(hostile, dselect, tmp_path):
    report = json.loads((hostile / "e.json").read_text("utf-8"))
    row = report["selections"][0]
    better = {**row, "selection": "better", "bits": (np.array(row["bits"]) - 9).tolist()}
    better["bits_per_byte"] = row["bits_per_byte"] - 9 * len(row["bits"][0]) / sum(report["text_bytes"])
    report |= {"target": ["t.jsonl"], "lm": "ngram", "selections": [{**row, "selection": "random"}, better]}
    (tmp_path / "e.json").write_text(json.dumps(report), "utf-8")
    dselect("report", "e.json", "--baseline", "random", "-o", "e.html")
    reader = Reader(tmp_path / "e.html")
    assert "Differences are to random" in reader.said
    assert f"{better['bits_per_byte'] - row['bits_per_byte']:+.3f}" in reader.said
    assert reader.said.index("better", reader.said.index("bits/byte")) < reader.said.rindex("random")


@given(st.lists(st.integers(0, 60), max_size=200), st.integers(1, 20), st.randoms())
def test_distinct_counts_exactly_the_smallest_hashes_however_the_stream_is_cut(values, size, random):
    found = Distinct(size)
    at = 0
    while at < len(values):
        step = random.randint(1, 30)
        part = np.array(values[at : at + step], np.uint64)
        found.add(part, part + np.uint64(7))
        at += step
    found.settle()
    wanted = {value: values.count(value) for value in sorted(set(values))[:size]}
    assert dict(zip(found.hashes.tolist(), found.counts.tolist(), strict=True)) == wanted
    assert found.owners.tolist() == [value + 7 for value in wanted]
    assert found.whole == (len(set(values)) <= size)


@given(st.sets(st.integers(0, 2**64 - 1), max_size=80), st.randoms(), st.integers(1, 30))
def test_a_selection_s_sample_tells_which_of_the_pool_s_sample_it_holds(pool, random, size):
    chosen = {key for key in pool if random.random() < 0.3}

    def survey(keys):
        sample, found = BottomK(size), Survey()
        sample.add(np.array(sorted(keys), np.uint64), {"bytes": np.zeros(len(keys))})
        found.total.documents = len(keys)
        found.keys, found.columns = sample.result()
        return found

    whole, part = survey(pool), survey(chosen)
    assert whole.held_by(part).tolist() == [key in chosen for key in whole.keys.tolist()]
    assert whole.strangers(part) == 0
