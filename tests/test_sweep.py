"""The Makefile that researchers copy: done stays done, a change redoes what it reaches, a failure leaves no file."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import make_pool, make_target, write_records

MAKEFILE = Path(__file__).parents[1] / "docs" / "examples" / "sweep" / "Makefile"
# Writes down what it is called with; then does what HAPPENS says at an `eval`, or is dselect itself.
DSELECT = """#!/bin/bash
echo "$1" "$@" >> calls
if [ "$1 $HAPPENS" = "eval interrupt" ]; then kill -INT 0; sleep 9; fi
if [ "$1 $HAPPENS" = "eval failure" ]; then echo '{' > "${@: -1}"; exit 1; fi
exec {python} -m dselect "$@"
"""


@pytest.fixture
def sweep(tmp_path):
    """Lay out a tiny pool; return what runs make there and tells its status and the commands that it ran."""
    if not shutil.which("make"):
        pytest.skip("no make here")
    records = make_pool(90)
    for source in ("cooking", "code", "law"):
        write_records(tmp_path / "pool" / f"{source}.jsonl.zst", [r for r in records if r["source"] == source])
    write_records(tmp_path / "fit" / "t.jsonl.zst", make_target(10))
    write_records(tmp_path / "heldout" / "t.jsonl.zst", make_target(20)[10:])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "dselect").write_text(DSELECT.replace("{python}", sys.executable), "utf-8")
    (tmp_path / "bin" / "dselect").chmod(0o755)

    def run(*arguments, happens=""):
        (tmp_path / "calls").write_text("", "utf-8")
        variables = ["METHODS=random dsir", "BUDGETS=3kB", "options.eval=--allow-short --order 2 --seeds 1"]
        done = subprocess.run(
            ["make", "-f", MAKEFILE, *variables, *arguments, "table.md"],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "HAPPENS": happens},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            start_new_session=True,  # so that an interrupt is for all of it, as from a keyboard, and not for the test
            capture_output=True,
            check=False,
        )
        calls = [line.split() for line in (tmp_path / "calls").read_text("utf-8").splitlines()]
        return done.returncode, [(call[0], call[-1].split("/")[-1]) for call in calls]

    return run


def test_a_sweep_goes_on_where_it_was_stopped_and_redoes_what_a_change_reaches(sweep, tmp_path):
    status, calls = sweep(happens="interrupt")
    assert status in (2, -signal.SIGINT)
    assert calls[-1][0] == "eval"
    assert not list(tmp_path.glob("results/*/*/*.json"))
    done = {name for name, _ in calls} - {"eval"}
    status, calls = sweep("-k", happens="failure")
    assert status == 2
    assert ("eval", "dsir.json") in calls
    assert not [path for path in tmp_path.glob("results/*/*/*") if path.name.endswith(".json")]
    assert not (tmp_path / "table.md").exists()

    status, calls = sweep("-j2")
    assert status == 0
    assert not {name for name, _ in calls} & (done - {"select"})
    assert [name for name, _ in calls].count("eval") == 2
    table = (tmp_path / "table.md").read_text("utf-8")
    assert "| selection | t 3.00 kB |" in table
    assert "| dsir |" in table.replace("**", "")

    assert sweep() == (0, [])
    status, calls = sweep("options.dsir=--ngrams 1")
    assert status == 0
    assert [name for name, _ in calls] == ["dsir", "dsir", "select", "eval", "table"]
    assert "random.json" not in [what for _, what in calls]
    assert [what for name, what in calls if name == "eval"] == ["dsir.json"]

    (tmp_path / "pool" / "law.jsonl.zst").unlink()  # what is left is no newer
    status, calls = sweep("options.dsir=--ngrams 1")
    assert status == 0
    assert [name for name, _ in calls].count("eval") == 2
    assert sweep("options.dsir=--ngrams 1") == (0, [])
