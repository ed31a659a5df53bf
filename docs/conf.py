"""How the pages become a site: `make site` builds it with Sphinx, where a broken link is an error."""

from typing import Any

project = "dselect"
copyright = "the dselect authors, Apache-2.0"  # noqa: A001  Sphinx's name for it
extensions = ["myst_parser"]
exclude_patterns = ["examples"]
html_theme = "furo"
html_title = "dselect"
html_show_sourcelink = False
myst_heading_anchors = 3
suppress_warnings = ["misc.highlighting_failure"]  # `sh skip: …` and pipes that are cut by lines

# The order of the sidebar. It stands here, and not in index.md, which is read on other sites too.
CONTENTS = """
```{toctree}
:hidden:
concepts
choosing
recipes
sweeps
evaluation
interoperability
performance
scaling
formats
design
changelog
```
```{toctree}
:hidden:
:caption: Commands
:glob:
commands/*
```
"""


def setup(app: Any) -> None:
    """Give the first page the contents of the sidebar."""
    app.connect("source-read", _add_contents)


def _add_contents(_: Any, name: str, source: list[str]) -> None:
    if name == "index":
        source[0] += CONTENTS
