"""Help must not wait for what only work needs. How long it takes is measured by `make bench`, not here."""

import subprocess
import sys

from dselect import __version__
from dselect.cli import summaries


def test_the_help_imports_no_command_and_nothing_heavy():
    code = (
        "import sys; sys.argv = ['dselect', '--help']\n"
        "from dselect.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted(m for m in sys.modules if m.startswith('dselect.commands.') or m in\n"
        "  ('numpy', 'numba', 'rich', 'orjson', 'zstandard', 'torch', 'sklearn')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_a_command_s_help_does_not_import_numba(dselect):
    code = (
        "import sys; sys.argv = ['dselect', 'dsir', '--help']\n"
        "from dselect.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('numba' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "False"


def test_the_table_lists_every_command_with_its_summary(dselect):
    table = dselect("--help").stdout.decode()
    for name, summary in summaries().items():
        assert summary.endswith(".")
        assert name in table
        assert summary.split()[0] in table


def test_every_summary_is_line_one_of_its_file_and_the_module_s_docstring():
    import importlib

    for name, summary in summaries().items():
        module = importlib.import_module(f"dselect.commands.{name.replace('-', '_')}")
        assert module.__doc__ == summary


def test_version_names_the_program_and_its_version(dselect):
    assert dselect("--version").stdout.decode() == f"dselect {__version__}\n"


def test_an_unknown_command_is_wrong_usage_and_the_near_one_is_named(dselect):
    assert "dsir" in dselect("dsirr", status=2).stderr


def test_completion_offers_the_commands(dselect):
    offered = dselect(env={"_DSELECT_COMPLETE": "complete_bash", "COMP_WORDS": "dselect ds", "COMP_CWORD": "1"})
    assert "dsir" in offered.stdout.decode()


def test_completion_offers_the_options_of_a_command(dselect):
    words = {"_DSELECT_COMPLETE": "complete_bash", "COMP_WORDS": "dselect dsir --ke", "COMP_CWORD": "2"}
    assert "--keep" in dselect(env=words).stdout.decode()
