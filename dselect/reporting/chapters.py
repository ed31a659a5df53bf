"""The chapters of a report: what was surveyed or evaluated, as markup."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from dselect.console import number, sentence, size
from dselect.pipeline import QUANTILES
from dselect.pool import Counts
from dselect.reporting import figures
from dselect.reporting.evaluations import Cell, Comparison
from dselect.reporting.markup import Html, join, rows, tag
from dselect.reporting.survey import Example
from dselect.reporting.views import AROUND, LENGTH, Floats, Json, View
from dselect.sketch import SAMPLE, spearman

MOST_FIELDS = 6  # a figure each; of all beyond them `stats` tells
MOST_DOMAINS = 40
FIELDS_IN_FIGURES = 3  # of score against score: three pairs
SHOWN = 1200  # characters of an example

Show = Callable[[Any], Mapping[int, Example]]


def records(view: View, show: Show) -> Html:
    """Return the chapter of a pool or a selection; show fetches records by identity."""
    parts = [tag("h2", view.name), _tiles(view)]
    if view.note:
        parts.append(tag("p", view.note, class_="soft"))
    if view.pool.total.documents > SAMPLE:
        parts.append(
            tag(
                "p",
                f"Counts are of every record; figures and quantiles of a uniform sample of {SAMPLE:,}.",
                class_="soft",
            )
        )
    parts += _history(view.steps)
    if view.pool.total.documents:
        parts += [_numbers(view), _pairs(view), _domains(view), _repeats(view, show), _examples(view, show)]
    return tag("section", *parts)


def _tiles(view: View) -> Html:
    pool, chosen = view.pool.total, view.selection
    everything, kept, _ = view.sides(LENGTH)
    if chosen is None:
        told = [(f"{pool.documents:,}", "documents"), (size(pool.bytes), "of text")]
        told.append((_middle(everything), "the median document"))
    else:
        mine, of = chosen.total, f"documents kept of {pool.documents:,}"
        told = [(f"{mine.documents:,}", f"{of}, {_share(mine.documents, pool.documents)}")]
        told.append((size(mine.bytes), f"of text kept of {size(pool.bytes)}, {_share(mine.bytes, pool.bytes)}"))
        told.append((_middle(kept), f"the median document kept; {_middle(everything)} in the pool"))
    subject = chosen or view.pool
    told.append((f"{subject.texts.share_repeated:.1%}", "of them have a text that was there before"))
    if subject.checked:
        told.append((f"{sum(subject.contaminated.values()):,}", "share runs of words with an evaluation set"))
    else:
        told.append(("not known", "whether it holds evaluation sets: dselect decontaminate finds out"))
    tiles = [tag("div", tag("b", amount), tag("small", what), class_="tile") for amount, what in told]
    return tag("div", *tiles, class_="tiles")


def _middle(lengths: Floats) -> str:
    return size(float(np.median(lengths))) if len(lengths) else "-"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"


# -- how it was made


def _history(steps: Sequence[tuple[str, Json]]) -> list[Html]:
    if not steps:
        return [tag("p", "No manifest beside it says how it was made.", class_="soft")]
    told = [tag("li", *_step(name, manifest)) for name, manifest in steps]
    return [tag("h3", "How it was made, the last step first"), tag("ol", *told, class_="steps")]


def _step(name: str, manifest: Json) -> list[Html]:
    """Return a manifest in words; it may have been written by anyone, so it may say anything."""
    try:
        summary, settings = manifest["summary"], manifest["key"]["settings"]
        counts = Counts(summary["documents"], summary["bytes"], summary["blank_lines"], summary["bad_lines"])
        read = ", ".join(str(entry["path"]) for entry in manifest["inputs"][:3])
        more = len(manifest["inputs"]) - 3
        read += f" and {more:,} more" if more > 0 else ""
        files = [
            f"{option}: {found[0]['path']}" + (f" and {len(found) - 1:,} more" if found[1:] else "")
            for option, found in manifest["files"].items()
        ]
        did = sentence(counts, summary, float(summary["seconds"]))
        end = f"seed {settings.get('seed')}, dselect {manifest['key']['dselect']}, {manifest['finished']}"
        line = shlex.join(["dselect", *map(str, manifest["argv"][1:])])
        what = f"{manifest['key']['command']}{' read ' if read else ''}{read}"
    except (LookupError, TypeError, ValueError, AttributeError):
        return [tag("b", Path(name).name), tag("p", "The manifest beside it cannot be understood.")]
    words = f"{what}: {did}. {'; '.join([*files, end])}."
    return [tag("b", Path(name).name), tag("span", f": {words}"), Html("<br>"), tag("code", line)]


# -- numbers


def _numbers(view: View) -> Html:
    names = [*view.fields[:1], LENGTH, *view.fields[1:MOST_FIELDS]]
    cards = [tag("div", *_card(view, name), class_="card") for name in names]
    left = len(view.fields) - MOST_FIELDS
    more = (
        [tag("p", f"{left} more fields: --field NAME shows one, dselect stats all.", class_="soft")] if left > 0 else []
    )
    return tag("div", tag("h3", "What the numbers are like"), _key(view), tag("div", *cards, class_="cards"), *more)


def _key(view: View) -> Html:
    if view.selection is None:
        return tag("p", tag("span", "records", class_="key dropped"), class_="soft")
    kinds = [tag("span", "kept", class_="key kept"), tag("span", "dropped", class_="key dropped")]
    if view.cut is not None:
        kinds.append(tag("span", "the cut", class_="key cut"))
    return tag("p", *kinds, class_="soft")


def _card(view: View, name: str) -> list[Html]:
    everything, kept, dropped = view.sides(name)
    length = name == LENGTH
    first = bool(view.fields) and name == view.fields[0]
    cut = view.cut if first else None
    parts = [tag("h4", "bytes of text" if length else name)]
    if len(kept) + len(dropped):
        parts.append(tag("figure", figures.histogram(kept, dropped, view.pool.scale, cut, log=length)))
    columns = (
        {"records": everything} if view.selection is None else {"pool": everything, "kept": kept, "dropped": dropped}
    )
    parts.append(_quantiles(view, name, columns))
    if not length and len(everything):
        there = ~np.isnan(view.pool.column(name))
        lengths = view.pool.columns["bytes"][there]
        drawn = figures.scatter(
            np.maximum(lengths, 1), view.pool.column(name)[there], view.inside[there], ("bytes of text", name), log=True
        )
        told = _correlation(spearman(lengths, view.pool.column(name)[there]))
        parts.append(tag("figure", drawn, tag("figcaption", f"against length: rank correlation {told}")))
    elif not length and view.selection is not None:
        parts.append(tag("p", "The pool's records do not carry it: only what was kept is drawn.", class_="soft"))
    return parts


def _quantiles(view: View, name: str, columns: Mapping[str, Floats]) -> Html:
    told = []
    known = view.spread.get(name, {}).get("quantiles", {}) if name in view.spread else {}
    names = {0.0: "least", 0.5: "median", 1.0: "greatest"}
    for quantile in QUANTILES:
        cells = []
        for side, values in columns.items():
            if len(values):
                cells.append(number(float(np.quantile(values, quantile))))
            else:
                held = known.get(str(quantile)) if side == "pool" else None
                cells.append(number(held) if isinstance(held, float | int) else "-")
        told.append([names.get(quantile, f"{quantile:.0%}"), *cells])
    return rows(["quantile", *columns], told)


def _correlation(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _pairs(view: View) -> Html:
    names = [name for name in view.fields[:MOST_FIELDS] if len(view.sides(name)[0])]
    if len(names) < 2:
        return Html("")
    told, cards = [], []
    for one, other in itertools.combinations(names, 2):
        a, b = view.pool.column(one), view.pool.column(other)
        there = ~np.isnan(a) & ~np.isnan(b)
        cells = [_correlation(spearman(a[there], b[there]))]
        if view.selection is not None:
            inside = there & view.inside
            cells.append(_correlation(spearman(a[inside], b[inside])))
        told.append([f"{one}, {other}", *cells])
        if {one, other} <= set(names[:FIELDS_IN_FIGURES]) and there.any():
            drawn = figures.scatter(a[there], b[there], view.inside[there], (one, other), log=False)
            caption = tag("figcaption", f"{one} across, {other} up: rank correlation {cells[0]}")
            cards.append(tag("div", tag("figure", drawn, caption), class_="card"))
    header = (
        ["fields", "in the pool", "among the kept"] if view.selection is not None else ["fields", "rank correlation"]
    )
    cards.append(tag("div", tag("h4", "Rank correlations (Spearman)"), rows(header, told), class_="card"))
    return tag("div", tag("h3", "Score against score"), tag("div", *cards, class_="cards"))


# -- domains, repeats, examples


def _domains(view: View) -> Html:
    domains = view.pool.domains
    if set(domains) <= {None}:
        return tag(
            "p", f'No record has the field "{view.within}" that would name its domain (--within).', class_="soft"
        )
    taken = view.selection.domains if view.selection is not None else {}

    def rank(label: str | None) -> tuple[int, int, bool, str]:
        return -taken[label].bytes if label in taken else 0, -domains[label].bytes, label is None, label or ""

    ranked, most = sorted(domains, key=rank), max(held.bytes for held in domains.values())
    told = []
    for label in ranked[:MOST_DOMAINS]:
        held = domains[label]
        name = "(none)" if label is None else label
        line = [f"{held.documents:,}", size(held.bytes), _share(held.bytes, view.pool.total.bytes)]
        share = held.bytes / max(most, 1)
        inner = 0.0
        if view.selection is not None:
            mine = taken.get(label)
            kept = mine.bytes if mine else 0
            inner = kept / held.bytes if held.bytes else 0.0
            line = [
                f"{mine.documents if mine else 0:,} of {held.documents:,}",
                f"{inner:.1%}",
                _share(kept, view.selection.total.bytes),
            ]
        fill = Html(f'<span class="bar" style="width:{share:.2%}"><i style="width:{min(inner, 1):.2%}"></i></span>')
        told.append([tag("span", name, fill), *line])
    header = ["documents", "text", "of all text"]
    if view.selection is not None:
        header = ["kept", "of its text", "of the kept"]
    parts = [tag("h3", f"By {view.within}"), tag("div", rows(["", *header], told), class_="card narrow")]
    caption = "The bars are as long as the domain has bytes of text"
    caption += ", and filled as far as it was kept." if view.selection is not None else "."
    if len(ranked) > MOST_DOMAINS:
        caption += f" The {len(ranked) - MOST_DOMAINS:,} last domains are left out."
    return tag("div", *parts, tag("p", caption, class_="soft"))


def _repeats(view: View, show: Show) -> Html:
    parts = [tag("h3", "Repeated texts and contamination")]
    for survey, name in ((view.pool, "the pool"), (view.selection, "the selection")):
        if survey is None:
            continue
        texts = survey.texts
        name = name if view.selection is not None else "these records"
        found = f"In {name}, {texts.share_repeated:.2%} of the documents have a text that was there before"
        found += (
            "."
            if texts.whole
            else f": an estimate, from the {len(texts.hashes):,} distinct texts whose hashes are smallest."
        )
        dirty = sorted(survey.contaminated.items(), key=lambda one: (-one[1], one[0]))
        if survey.checked:
            found += f" {sum(count for _, count in dirty):,} share runs of words with an evaluation set"
            found += f" ({', '.join(f'{count:,} with {source}' for source, count in dirty[:12])})." if dirty else "."
        parts.append(tag("p", found))
    texts = view.pool.texts
    most = np.lexsort((texts.hashes, -texts.counts))[:AROUND]
    most = most[texts.counts[most] > 1]
    found_ = show(texts.owners[most])
    for at in most.tolist():
        example = found_.get(int(texts.owners[at]))
        if example:
            parts.append(_article(example, f"{int(texts.counts[at]):,} times", inside=False))
    return tag("div", *parts)


def _examples(view: View, show: Show) -> Html:
    chosen = view.examples()
    shown = [one.name for one in view.by] or view.fields[:1]
    scores = {name: view.pool.column(name) for name in shown}
    found = show(view.pool.keys[sorted({at for places in chosen.values() for at in places})])
    parts = []
    for heading, places in chosen.items():
        if places:
            parts.append(tag("h3", heading))
        for at in places:
            example = found.get(int(view.pool.keys[at]))
            if example:
                told = ", ".join(
                    f"{name} {values[at]:.4g}" for name, values in scores.items() if not np.isnan(values[at])
                )
                parts.append(_article(example, told, inside=bool(view.inside[at])))
    return tag("div", *parts)


def _article(example: Example, told: str, *, inside: bool) -> Html:
    name = example.id if isinstance(example.id, str) else orjson.dumps(example.id).decode()
    about = [tag("b", told)] if told else []
    about += [tag("span", part) for part in (example.domain, None if example.id is None else name[:300]) if part]
    about.append(tag("span", size(len(example.text.encode()))))
    if inside:
        about.append(tag("span", "kept", class_="kept"))
    text = example.text[:SHOWN]
    more = len(example.text) - len(text)
    shown = [tag("pre", text, dir="auto")]
    if more:
        shown.append(tag("small", f"… and {more:,} characters more"))
    return tag("article", tag("header", join(about, " · ")), *shown, class_="in" if inside else "out")


# -- evaluations


def evaluations(found: Comparison) -> Html:
    """Return the chapter that compares selections by what models trained on them make of held-out text."""
    intro = "Small language models were trained on each selection, and tested on held-out text of each target. "
    intro += "What it costs them in bits per byte, fewer is better, with 95 % intervals over the target's documents. "
    if found.baseline is not None:
        intro += f"Differences are to {found.baseline}, paired by document: below zero is better than it."
    cards = [tag("div", *_column(found, number), class_="card") for number in range(len(found.columns))]
    return tag("section", tag("h2", "Which selection helps"), tag("p", intro), tag("div", *cards, class_="cards"))


def _column(found: Comparison, number: int) -> list[Html]:
    cells = {name: found.cells[name, number] for name in found.selections if (name, number) in found.cells}
    order = sorted(cells, key=lambda name: (cells[name].bits_per_byte, name))
    drawn = [name for name in order if found.baseline is None or cells[name].difference is not None]
    about = found.columns[number]
    parts = [tag("h4", found.labels[number])]
    if drawn:
        middles = [_middle_of(cells[name]) for name in drawn]
        parts.append(
            tag(
                "figure",
                figures.whiskers(drawn, middles, [_bounds(cells[name]) for name in drawn], found.baseline or ""),
            )
        )
    told = []
    for name in order:
        cell = cells[name]
        apart = (
            ""
            if cell.difference is None
            else f"{cell.difference:+.3f} ({cell.difference_low:+.3f} … {cell.difference_high:+.3f})"
        )
        short = f" (trained on {size(cell.bytes)})" if cell.short else ""
        told.append([name + short, f"{cell.bits_per_byte:.3f}", apart])
    parts.append(rows(["selection", "bits/byte", "difference (95 %)"], told))
    judge = ", ".join(f"{name} {value}" for name, value in about.settings.items() if name != "budget")
    parts.append(tag("p", f"{len(about.texts):,} documents of the target; {judge}", class_="soft"))
    return parts


def _middle_of(cell: Cell) -> float:
    return cell.bits_per_byte if cell.difference is None else cell.difference


def _bounds(cell: Cell) -> tuple[float, float]:
    if cell.difference_low is None or cell.difference_high is None:
        return cell.low, cell.high
    return cell.difference_low, cell.difference_high
