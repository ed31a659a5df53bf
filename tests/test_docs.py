"""The documents are what the program does: help is generated, every example runs, every command has its page."""

import importlib.util
import os
import re
import subprocess
from pathlib import Path

import pytest

from dselect.cli import summaries
from tests.conftest import COOKING, LAW, make_pool, make_target, write_records

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
COMMANDS = list(summaries())
SKIPPED = 4  # examples marked `skip: reason`: what they need is not here
_FENCE = re.compile(r"```sh\n(.*?)```", re.DOTALL)

spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
generate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generate)


@pytest.fixture
def folder(tmp_path):
    """Lay out what every example may count on."""
    records = make_pool()
    write_records(tmp_path / "pool.jsonl.zst", records)
    for shard in range(3):
        write_records(tmp_path / "pool" / f"{shard:05d}.jsonl.zst", records[shard * 100 : shard * 100 + 100])
    write_records(tmp_path / "new.jsonl.zst", make_pool(60, seed=5))
    write_records(tmp_path / "target.jsonl.zst", make_target())
    write_records(tmp_path / "target2.jsonl.zst", make_target(10))
    for name, words in (("cooking", COOKING), ("law", LAW)):
        for number in range(3):
            path = tmp_path / "text" / name / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(" ".join(words * (number + 1)) + "\n", "utf-8")
    return tmp_path


@pytest.fixture
def run(folder, programs):
    """Run a script as the pages tell people to: bash, pipefail, stop at the first failure."""

    def run(script):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env={**os.environ, "PATH": programs},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"{script}\n{done.stderr}"

    return run


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_example_of_a_page_runs(page, run):
    for script in _FENCE.findall(page.read_text("utf-8")):
        if not re.match(r"(git clone|make|pip|cd) ", script):
            run(script)


def test_an_example_that_does_not_run_says_why():
    marks = [mark for page in PAGES for mark in re.findall(r"^```(sh\b.*)$", page.read_text("utf-8"), re.MULTILINE)]
    assert [mark for mark in marks if not re.fullmatch(r"sh( skip: .{10,})?", mark)] == []
    assert len([mark for mark in marks if mark != "sh"]) == SKIPPED


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_page_with_an_example_and_the_index_leads_to_it(command):
    page = DOCS / "commands" / f"{command}.md"
    assert page.is_file(), "an undocumented command"
    assert _FENCE.search(page.read_text("utf-8"))
    assert f"commands/{command}.md" in (DOCS / "index.md").read_text("utf-8")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_on_a_page_is_what_the_program_prints(command):
    page = (DOCS / "commands" / f"{command}.md").read_text("utf-8")
    assert f"<!-- help: {command} -->" in page
    assert generate.with_help(page) == page, "run `make docs`"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_in_every_help_runs(command, run):
    text = generate.help_text(command)
    assert "Example:" in text
    block = text.split("Example:")[1].split("\n\n")[0]
    run(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_between_pages_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        if "://" not in link:
            assert (page.parent / link).exists(), link
