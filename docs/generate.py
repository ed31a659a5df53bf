"""Write each command's `--help` into its page, under the line `<!-- help: NAME -->`. `make docs` runs this."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGES = Path(__file__).parent
_HELP = re.compile(r"(<!-- help: (?P<command>[\w-]+) -->\n)```text\n.*?```\n", re.DOTALL)


def help_text(command: str) -> str:
    """Return what `dselect COMMAND --help` prints, 100 columns wide."""
    done = subprocess.run(
        [sys.executable, "-m", "dselect", command, "--help"],
        env={**os.environ, "COLUMNS": "100", "TERM": "dumb"},
        capture_output=True,
        check=True,
        text=True,
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().split("\n"))


def with_help(page: str) -> str:
    """Return a page with its help text as the program prints it now."""
    return _HELP.sub(lambda found: f"{found[1]}```text\n{help_text(found['command'])}\n```\n", page)


if __name__ == "__main__":
    for path in sorted(PAGES.glob("**/*.md")):
        before = path.read_text("utf-8")
        after = with_help(before)
        if after != before:
            path.write_text(after, "utf-8")
            print(f"wrote {path}")
