"""HTML that is safe by construction: whatever is not markup already is escaped when it goes in."""

from __future__ import annotations

import html
from collections.abc import Iterable

_KEPT_AS_IT_IS = "\n\t"


class Html(str):
    """Markup: only `tag`, `join` and the makers of figures return it."""

    __slots__ = ()


def escaped(text: str) -> Html:
    """Return a text as markup that shows it: what is special escaped, what cannot be shown replaced.

    Control characters go, those too that turn the direction of writing around; so does half a surrogate pair.
    """
    shown = "".join(c if c.isprintable() or c in _KEPT_AS_IT_IS else "\N{REPLACEMENT CHARACTER}" for c in text)
    return Html(html.escape(shown))


def tag(name: str, *children: str, **attributes: str) -> Html:
    """Return an element; children that are no Html are escaped, and so are attributes (`class_` is `class`)."""
    told = "".join(f' {key.rstrip("_")}="{escaped(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{told}>{join(children)}</{name}>")


def join(parts: Iterable[str], between: str = "") -> Html:
    """Return parts as one piece of markup."""
    return Html(escaped(between).join(part if isinstance(part, Html) else escaped(part) for part in parts))


def rows(header: Iterable[str], body: Iterable[Iterable[str]]) -> Html:
    """Return a table: the first column holds names, the others numbers."""
    head = tag("tr", *(tag("th", cell, scope="col") for cell in header))
    lines = []
    for line in body:
        name, *cells = line
        lines.append(tag("tr", tag("th", name, scope="row"), *(tag("td", cell) for cell in cells)))
    return tag("table", tag("thead", head), tag("tbody", *lines))


def page(title: str, *body: Html) -> str:
    """Return a whole page that needs nothing else: style inside, no script allowed, nothing fetched."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    head = [
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        tag("title", title),
        Html(f"<style>{_STYLE}</style>"),
    ]
    main = tag("main", *body)
    return f'<!DOCTYPE html>\n<html lang="en">\n{tag("head", *head)}\n{tag("body", main)}\n</html>\n'


_STYLE = """
:root { --paper: #fcfcfb; --card: #fff; --ink: #1c2024; --soft: #60666c; --line: #dfe2e5;
  --kept: #0b6bcb; --dropped: #a3abb3; --cut: #c4320a; --mark: #eef4fb }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --card: #1c2024; --ink: #e8eaed; --soft: #9aa2aa;
  --line: #343a40; --kept: #5aa9f8; --dropped: #69727a; --cut: #ff8a5c; --mark: #1f2c3a } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 3rem 0 .75rem; padding-top: 1rem; border-top: 2px solid var(--line) }
h3 { font-size: 1.05rem; margin: 2rem 0 .6rem }
h4 { font-size: .95rem; margin: 0 0 .5rem }
h1, h2, h3, h4, p, li, th, td, figcaption { overflow-wrap: anywhere }
p { max-width: 48rem; margin: .5rem 0 }
.soft { color: var(--soft) }
small, figcaption { font-size: .85rem; color: var(--soft) }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .6rem; margin: 1rem 0 }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .8rem }
.tile b { display: block; font-size: 1.2rem; line-height: 1.3; font-variant-numeric: tabular-nums }
h1 + p + section h2 { border: 0; margin-top: 1rem; padding-top: 0 }
.cards { columns: 26rem; column-gap: 1rem }
.cards > .card { break-inside: avoid; margin-bottom: 1rem }
.narrow { max-width: 52rem }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: 1rem; min-width: 0 }
figure { margin: 0 }
svg { display: block; width: 100%; height: auto; max-width: 30rem; stroke-linejoin: round }
table { border-collapse: collapse; width: 100%; table-layout: fixed; font-size: .875rem;
  font-variant-numeric: tabular-nums }
th, td { padding: .2rem .4rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top }
th { font-weight: 400; color: var(--soft) }
th[scope=row] { text-align: left; color: var(--ink) }
th[scope=col]:first-child { width: 36% }
th[scope=col]:first-child { text-align: left }
tr.best th, tr.best td { font-weight: 600 }
.bar { display: block; height: .55rem; margin: .45rem 0 0; background: var(--dropped); border-radius: .2rem;
  overflow: hidden; min-width: 2px }
.bar i { display: block; height: 100%; background: var(--kept) }
ol.steps { padding-left: 1.2rem; max-width: 52rem }
ol.steps li { margin: .6rem 0 }
code { font: .82rem/1.5 ui-monospace, monospace; background: var(--mark); border-radius: .25rem; padding: .1rem .3rem;
  overflow-wrap: anywhere; white-space: pre-wrap }
.key { white-space: nowrap }
.key::before { content: ""; display: inline-block; width: .7rem; height: .7rem; border-radius: .15rem;
  background: currentColor; margin: 0 .3rem 0 .6rem; vertical-align: -.05rem }
.kept { color: var(--kept) } .dropped { color: var(--dropped) } .cut { color: var(--cut) }
article { background: var(--card); border: 1px solid var(--line); border-left: .3rem solid var(--dropped);
  border-radius: .5rem; padding: .7rem .9rem; margin: .7rem 0 }
article.in { border-left-color: var(--kept) }
article header { font-size: .85rem; color: var(--soft); overflow-wrap: anywhere }
article header b { color: var(--ink) }
article pre { margin: .4rem 0 0; font: .85rem/1.5 ui-monospace, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; unicode-bidi: plaintext }
"""
